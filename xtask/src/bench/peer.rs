//! The profilers that are compared, and what each one's output says.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    path::Path,
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::{
    child::{Bpf, Spent, run},
    receipt::Receipt,
    target::Workload,
};
use crate::process::{find, output};

/// A profiler.
pub(super) struct Peer {
    /// What a user types, short.
    pub(super) name: &'static str,
    /// The program.
    pub(super) program: &'static str,
    /// What prints its version.
    version: &'static [&'static str],
    profile: fn(&Job<'_>) -> Result<Outcome>,
}

/// What is to be profiled, and how.
pub(super) struct Job<'a> {
    /// The build of ebpfprof that is measured.
    pub(super) ebpfprof: &'a Path,
    /// What is profiled.
    pub(super) workload: Workload,
    /// Its processes.
    pub(super) pids: &'a [u32],
    /// Samples per second and CPU.
    pub(super) frequency: u32,
    /// How long.
    pub(super) seconds: u32,
    /// For what is written.
    pub(super) folder: &'a Path,
}

/// What came of it.
pub(super) struct Outcome {
    /// What it cost.
    pub(super) spent: Spent,
    /// Samples of the targets, and those of them whose stack reaches `main`.
    pub(super) stacks: Stacks,
    /// Of ebpfprof alone.
    pub(super) receipt: Option<Receipt>,
}

/// Counts of samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stacks {
    pub(super) all: u64,
    pub(super) to_main: u64,
}

/// All of them, ours first.
pub(super) const PEERS: [Peer; 5] = [
    Peer {
        name: "ebpfprof",
        program: "ebpfprof",
        version: &[],
        profile: ebpfprof,
    },
    Peer {
        name: "perf record --call-graph dwarf + perf script",
        program: "perf",
        version: &["perf", "--version"],
        profile: |job| perf(job, &["--call-graph", "dwarf"]),
    },
    Peer {
        name: "perf record -g + perf script",
        program: "perf",
        version: &["perf", "--version"],
        profile: |job| perf(job, &["-g"]),
    },
    Peer {
        name: "bcc profile -f",
        program: "profile-bpfcc",
        version: &["dpkg-query", "--show", "bpfcc-tools"],
        profile: bcc,
    },
    Peer {
        name: "profile-bee --dwarf (whole host)",
        program: "pbee",
        version: &["pbee", "--version"],
        profile: bee,
    },
];

impl Peer {
    /// Whether it can be run here.
    pub(super) fn is_installed(&self) -> bool {
        self.version.is_empty() || find(self.program).is_some()
    }

    /// Name and version.
    pub(super) fn version(&self) -> Option<String> {
        let (program, arguments) = self.version.split_first()?;
        let text = output(Command::new(program).args(arguments)).ok()?;
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        Some(words.join(" "))
    }

    /// Profiles with it.
    pub(super) fn profile(&self, job: &Job<'_>) -> Result<Outcome> {
        let outcome = (self.profile)(job)?;
        if outcome.stacks.all == 0 {
            bail!("not one sample of the target");
        }
        Ok(outcome)
    }
}

impl Job<'_> {
    fn pid_list(&self) -> String {
        let pids: Vec<String> = self.pids.iter().map(u32::to_string).collect();
        pids.join(",")
    }
}

/// Runs ebpfprof with some targets; its profile goes into `stacks.folded`.
pub(super) fn run_ebpfprof(job: &Job<'_>, targets: &[&str]) -> Result<(Spent, Receipt)> {
    let [out, err, folded] = ["out", "err", "stacks.folded"].map(|name| job.folder.join(name));
    let mut command = Command::new(job.ebpfprof);
    command
        .args(targets)
        .args(["--seconds", &job.seconds.to_string()])
        .args(["--frequency", &job.frequency.to_string(), "--force", "-o"])
        .arg(&folded);
    let mut spent = run(&mut command, Bpf::Ignored, [&out, &err])?;
    let text = fs::read_to_string(&err)?;
    let receipt = Receipt::of(&text);
    let seconds = receipt
        .bpf_seconds()
        .context("its receipt has no BPF time")?;
    spent.bpf = std::time::Duration::from_secs_f64(seconds);
    Ok((spent, receipt))
}

fn ebpfprof(job: &Job<'_>) -> Result<Outcome> {
    let (spent, receipt) = run_ebpfprof(job, &["--pid", &job.pid_list()])?;
    Ok(Outcome {
        spent,
        stacks: folded_stacks(&job.folder.join("stacks.folded"), |_| true)?,
        receipt: Some(receipt),
    })
}

fn perf(job: &Job<'_>, call_graph: &[&str]) -> Result<Outcome> {
    let [data, out, err, script] =
        ["perf.data", "out", "err", "script"].map(|name| job.folder.join(name));
    let mut record = Command::new("perf");
    record
        .args([
            "record",
            "-e",
            "cpu-clock",
            "-F",
            &job.frequency.to_string(),
        ])
        .args(call_graph)
        .args(["-p", &job.pid_list(), "-o"])
        .arg(&data)
        .args(["--", "sleep", &job.seconds.to_string()]);
    let recorded = run(&mut record, Bpf::Ignored, [&out, &err])?;
    let mut show = Command::new("perf");
    show.args(["script", "-i"]).arg(&data);
    let shown = run(&mut show, Bpf::Ignored, [&script, &err])?;
    let file = File::open(&script)?;
    fs::remove_file(&data)?;
    Ok(Outcome {
        spent: recorded.and(shown),
        stacks: scripted_stacks(BufReader::new(file))?,
        receipt: None,
    })
}

fn bcc(job: &Job<'_>) -> Result<Outcome> {
    let [folded, err] = ["stacks.folded", "err"].map(|name| job.folder.join(name));
    let mut command = Command::new("profile-bpfcc");
    command
        .args(["-f", "-F", &job.frequency.to_string()])
        .args(["-p", &job.pid_list(), &job.seconds.to_string()]);
    Ok(Outcome {
        spent: run(&mut command, Bpf::Watched, [&folded, &err])?,
        stacks: folded_stacks(&folded, |_| true)?,
        receipt: None,
    })
}

fn bee(job: &Job<'_>) -> Result<Outcome> {
    let [folded, out, err] = ["stacks.folded", "out", "err"].map(|name| job.folder.join(name));
    let mut command = Command::new("pbee");
    // It takes one process or all; without the process's name its stacks begin at the outermost frame.
    command
        .args(["--dwarf", "true", "--group-by-process"])
        .args(["--frequency", &job.frequency.to_string()])
        .args(["--time", &(job.seconds * 1000).to_string(), "-o"])
        .arg(&folded);
    Ok(Outcome {
        spent: run(&mut command, Bpf::Watched, [&out, &err])?,
        stacks: folded_stacks(&folded, |root| root.starts_with(job.workload.comm()))?,
        receipt: None,
    })
}

/// Counts folded stacks whose root frame is wanted.
fn folded_stacks(path: &Path, is_wanted: impl Fn(&str) -> bool) -> Result<Stacks> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut stacks = Stacks::default();
    for line in String::from_utf8_lossy(&bytes).lines() {
        let Some((frames, count)) = line.rsplit_once(' ') else {
            continue;
        };
        let mut frames = frames.split(';');
        let Ok(count) = count.parse::<u64>() else {
            continue;
        };
        let Some(root) = frames.next().filter(|root| is_wanted(root)) else {
            continue;
        };
        stacks.all += count;
        if root == "main" || frames.any(|frame| frame == "main") {
            stacks.to_main += count;
        }
    }
    Ok(stacks)
}

/// Counts the stacks that `perf script` shows: a head, a line for each frame, an empty line.
fn scripted_stacks(lines: impl BufRead) -> Result<Stacks> {
    let mut stacks = Stacks::default();
    let mut reaches_main = false;
    for line in lines.split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        if line.trim().is_empty() {
            stacks.to_main += u64::from(std::mem::take(&mut reaches_main));
        } else if line.starts_with(|first: char| !first.is_whitespace()) {
            stacks.all += 1;
        } else {
            let symbol = line.split_ascii_whitespace().nth(1).unwrap_or_default();
            let name = symbol.split('+').next();
            reaches_main |= name == Some("main");
        }
    }
    stacks.to_main += u64::from(reaches_main);
    Ok(stacks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacks_of_a_script_end_in_an_empty_line() {
        let script = "\
frames  123  1.5:   10101010 cpu-clock:
\t    55d0 bottom+0x3e (/tmp/frames)
\t    55d1 main+0x1a (/tmp/frames)

frames  123  1.6:   10101010 cpu-clock:
\t    55d0 bottom+0x3e (/tmp/frames)
\t    55d0 __libc_start_call_main+0x7a (/usr/lib/libc.so.6)

";
        let stacks = scripted_stacks(script.as_bytes()).unwrap();
        assert_eq!(stacks, Stacks { all: 2, to_main: 1 });
    }

    #[test]
    fn folded_stacks_count_by_their_weight() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stacks");
        fs::write(
            &path,
            "frames;main;bottom 3\nframes;bottom 2\nsh;main 9\nwords\n",
        )
        .unwrap();
        let stacks = folded_stacks(&path, |root| root == "frames").unwrap();
        assert_eq!(stacks, Stacks { all: 5, to_main: 3 });
        let stacks = folded_stacks(&path, |_| true).unwrap();
        assert_eq!((stacks.all, stacks.to_main), (14, 12));
    }
}
