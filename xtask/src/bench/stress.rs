//! stress-ng: kinds of load, and how much of it was done.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result};

use super::child::{Bpf, run};
use crate::process::output;

/// The program.
const STRESS: &str = "stress-ng";

/// A kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stressor {
    /// stress-ng's name of it, and of the option that starts it.
    pub(super) name: &'static str,
    /// What it does, for a reader.
    pub(super) what: &'static str,
    /// What else it is started with.
    options: &'static [&'static str],
}

/// All of them: each keeps the kernel busy with something that a recording watches.
pub(super) const STRESSORS: [Stressor; 4] = [
    Stressor {
        name: "fork",
        what: "processes made and ended",
        options: &[],
    },
    Stressor {
        name: "switch",
        what: "switches between two processes, by a pipe",
        options: &["--switch-method", "pipe"],
    },
    Stressor {
        name: "pthread",
        what: "threads made and ended",
        options: &[],
    },
    Stressor {
        name: "mmap",
        what: "4 MiB mapped, touched and unmapped in pieces",
        // Its usual 256 MiB take a second each: too few to compare.
        options: &["--mmap-bytes", "4m"],
    },
];

/// Name and version.
pub(super) fn version() -> Result<String> {
    let text = output(Command::new(STRESS).arg("--version"))?;
    let (words, _) = text.split_once(" (").unwrap_or((&text, ""));
    Ok(words.replace(',', ""))
}

impl Stressor {
    /// Runs it with so many workers; its operations per second of real time.
    pub(super) fn run(&self, workers: usize, seconds: u32, folder: &Path) -> Result<f64> {
        let [out, err] = ["stress.out", "stress.err"].map(|name| folder.join(name));
        let mut command = Command::new(STRESS);
        command
            .args([&format!("--{}", self.name), &workers.to_string()])
            .args(self.options)
            // Each run does the same.
            .args(["--no-rand-seed", "--metrics", "--timeout"])
            .arg(format!("{seconds}s"))
            .arg("--temp-path")
            .arg(folder)
            .current_dir(folder);
        run(&mut command, Bpf::Ignored, [&out, &err])?;
        let text = fs::read_to_string(&err).context("cannot read what stress-ng said")?;
        operations_per_second(&text, self.name)
            .with_context(|| format!("stress-ng has no metrics of {}: {text}", self.name))
    }
}

/// Operations per second of real time in the table that `--metrics` prints.
fn operations_per_second(text: &str, name: &str) -> Option<f64> {
    let cells = text.lines().find_map(|line| cells_of(line, name))?;
    // Operations, real, user and system time, and those per second of real time.
    cells.get(4).copied().filter(|figure| *figure > 0.0)
}

/// The numbers of a stressor's line in that table. Other lines have words among them.
fn cells_of(line: &str, name: &str) -> Option<Vec<f64>> {
    let (_, rest) = line.split_once("metrc: ")?;
    let mut words = rest.split_ascii_whitespace();
    let _pid = words.next()?;
    if words.next()? != name {
        return None;
    }
    words.map(|word| word.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = "\
stress-ng: info:  [81] setting to a 5 second run per stressor
stress-ng: info:  [81] dispatching hogs: 2 switch
stress-ng: metrc: [81] stressor       bogo ops real time  usr time  sys time   bogo ops/s     bogo ops/s CPU used per       RSS Max
stress-ng: metrc: [81]                           (secs)    (secs)    (secs)   (real time) (usr+sys time) instance (%)          (KB)
stress-ng: metrc: [81] switch           912384      3.00      0.61      4.20    304128.00      189684.82        80.17          1920
stress-ng: metrc: [81] miscellaneous metrics:
stress-ng: metrc: [81] switch              2473.71 nanosecs per context switch (pipe method) (geometic mean of 2 instances)
stress-ng: info:  [81] successful run completed in 3.01s
";

    #[test]
    fn operations_are_counted_by_real_time() {
        let figure = operations_per_second(METRICS, "switch");
        assert_eq!(figure, Some(304_128.0));
    }

    #[test]
    fn what_was_not_run_or_did_nothing_has_no_figure() {
        assert_eq!(operations_per_second(METRICS, "fork"), None);
        assert_eq!(operations_per_second("", "fork"), None);
        let nothing = METRICS.replace("304128.00", "0.00");
        assert_eq!(operations_per_second(&nothing, "switch"), None);
        let only_words = METRICS.replace("912384", "none");
        assert_eq!(operations_per_second(&only_words, "switch"), None);
    }
}
