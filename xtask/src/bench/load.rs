//! `cargo xtask bench load`: what a recording of the whole host takes from a load that keeps the
//! kernel busy, and what it loses under it. Prints the report and writes its section of
//! `docs/reliability.md`.
//!
//! Runs without and with a recording take turns in one session, so that what else goes on here is in
//! both. A third kind of run tells what the clocks take by themselves: perf has the same ones, and
//! notes an address at each tick.

use std::{
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use super::{
    host,
    receipt::{Account, Receipt},
    recording::{FREQUENCY, Recorded, Recording},
    report::{Markdown, figure, geometric_mean, mebibytes, median, range, spread},
    stress::{self, STRESSORS, Stressor},
    target::Running,
};
use crate::{
    packages,
    process::is_root,
    section::{Report, Section},
    vitals::Vitals,
    workspace::Workspace,
};

/// What it writes.
const SECTION: Section = Section {
    document: "docs/reliability.md",
    command: "cargo xtask bench load --write",
};
/// A recording that nobody stops ends so long after its load should have, in seconds.
const SLACK: u32 = 60;
/// How long perf may take to start its clocks.
const CLOCKS_START: Duration = Duration::from_secs(1);

/// How much to run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The build to measure; without it a release build.
    pub(crate) binary: Option<PathBuf>,
    /// How long each run is.
    pub(crate) seconds: u32,
    /// How often each kind of load runs without, and how often with a recording.
    pub(crate) rounds: u32,
}

/// A run with a recording.
struct Observed {
    /// Operations of the load, per second of real time.
    operations: f64,
    /// When the load began, and when it ended.
    vitals: [Vitals; 2],
    recorded: Recorded,
}

/// All runs of one kind of load.
struct Series {
    stressor: Stressor,
    /// Operations per second of real time.
    without: Vec<f64>,
    /// With the clocks alone.
    clocks: Vec<f64>,
    with: Vec<Observed>,
}

/// What all runs need.
struct Bench {
    ebpfprof: PathBuf,
    folder: tempfile::TempDir,
    workers: usize,
    seconds: u32,
}

/// Runs the bench.
pub(crate) fn run(workspace: &Workspace, plan: Plan, report: Report) -> Result<()> {
    if !is_root() {
        bail!("profilers need root: sudo -E cargo xtask bench load");
    }
    packages::ensure_for_load()?;
    let bench = Bench {
        ebpfprof: super::build(workspace, plan.binary)?,
        folder: tempfile::tempdir().context("cannot make a temporary folder")?,
        workers: host::cpus()?,
        seconds: plan.seconds,
    };
    let head = bench.head(plan.rounds)?;
    let all = STRESSORS
        .iter()
        .map(|stressor| bench.series(*stressor, plan.rounds))
        .collect::<Result<Vec<Series>>>()?;
    let text = format!("{head}\n\n{}\n{}", speed(&all), receipts(&all));
    println!("{text}");
    let flaws: Vec<String> = all.iter().flat_map(Series::flaws).collect();
    if !flaws.is_empty() {
        bail!("not every run is a success:\n{}", flaws.join("\n"));
    }
    match report {
        Report::Printed => Ok(()),
        Report::Written => SECTION.write(workspace, text.trim_end()),
    }
}

impl Bench {
    /// What was measured, and how.
    fn head(&self, rounds: u32) -> Result<String> {
        let lines = [
            format!("- {}", host::machine()?),
            format!("- {}", host::version(&self.ebpfprof)?),
            format!(
                "- {}, {} workers of one kind at a time, {rounds} runs of {} s without, with the clocks alone and with a recording each, in turns",
                stress::version()?,
                self.workers,
                self.seconds
            ),
            format!("- {}", host::load()),
        ];
        Ok(lines.join("\n"))
    }

    /// Runs one kind of load so often in each way: without, clocks, with; with, clocks, without.
    fn series(&self, stressor: Stressor, rounds: u32) -> Result<Series> {
        let mut series = Series {
            stressor,
            without: Vec::new(),
            clocks: Vec::new(),
            with: Vec::new(),
        };
        for round in 0..rounds {
            eprintln!("load: {}, round {} of {rounds}", stressor.name, round + 1);
            if round % 2 == 0 {
                series.without.push(self.alone(stressor)?);
                series.clocks.push(self.beside_clocks(stressor)?);
                series.with.push(self.observed(stressor)?);
            } else {
                series.with.push(self.observed(stressor)?);
                series.clocks.push(self.beside_clocks(stressor)?);
                series.without.push(self.alone(stressor)?);
            }
        }
        Ok(series)
    }

    fn alone(&self, stressor: Stressor) -> Result<f64> {
        stressor.run(self.workers, self.seconds, self.folder())
    }

    fn beside_clocks(&self, stressor: Stressor) -> Result<f64> {
        let period_ns = 1_000_000_000 / FREQUENCY;
        let mut perf = Command::new("perf");
        perf.args(["record", "--quiet", "--event", "cpu-clock", "--all-cpus"])
            .args(["--count", &period_ns.to_string()])
            .args(["--output", "/dev/null"])
            .current_dir(self.folder());
        let mut clocks = Running::start_heard(&mut perf)?;
        thread::sleep(CLOCKS_START);
        let operations = self.alone(stressor)?;
        if let Some(status) = clocks.ended()? {
            bail!("perf ended before the load: {status}");
        }
        clocks.interrupt()?;
        while clocks.ended()?.is_none() {
            thread::sleep(Duration::from_millis(20));
        }
        Ok(operations)
    }

    fn observed(&self, stressor: Stressor) -> Result<Observed> {
        let longest = self.seconds + SLACK;
        let options = ["-o", "load.pb.gz"];
        let recording = Recording::start(&self.ebpfprof, longest, &options, self.folder())?;
        let before = recording.vitals()?;
        let operations = self.alone(stressor)?;
        let after = recording.vitals()?;
        Ok(Observed {
            operations,
            vitals: [before, after],
            recorded: recording.stop()?,
        })
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Series {
    /// What is wrong with its runs.
    fn flaws(&self) -> Vec<String> {
        let flaws = self.with.iter().filter_map(|run| run.recorded.flaw());
        let name = self.stressor.name;
        flaws.map(|flaw| format!("{name}: {flaw}")).collect()
    }

    fn operations(&self) -> Vec<f64> {
        self.with.iter().map(|run| run.operations).collect()
    }

    /// What is left of the load, by the medians.
    fn ratio(&self) -> Option<f64> {
        Some(median(&self.operations())? / median(&self.without)?)
    }

    /// What the clocks alone leave of it.
    fn ratio_of_clocks(&self) -> Option<f64> {
        Some(median(&self.clocks)? / median(&self.without)?)
    }

    /// What a recording leaves of what the clocks leave.
    fn ratio_to_clocks(&self) -> Option<f64> {
        Some(median(&self.operations())? / median(&self.clocks)?)
    }

    /// What is left of it in each round. Its two runs follow each other.
    fn ratios(&self) -> Vec<f64> {
        let pairs = self.operations().into_iter().zip(&self.without);
        pairs.map(|(with, without)| with / without).collect()
    }

    /// The account of all runs.
    fn account(&self) -> Account {
        let accounts = self.with.iter().map(|run| &run.recorded.account);
        accounts.fold(Account::default(), Account::and)
    }

    /// A figure of each run.
    fn figures(&self, of: impl Fn(&Observed) -> Option<f64>) -> Vec<f64> {
        self.with.iter().filter_map(of).collect()
    }
}

/// How fast each load was.
fn speed(all: &[Series]) -> String {
    let mut table = Markdown::with_columns(&[
        "load",
        "operations a second without",
        "with a recording",
        "what is left",
        "in each round",
        "what clocks alone leave",
        "of that a recording leaves",
    ]);
    for series in all {
        table.push(vec![
            format!("{}: {}", series.stressor.name, series.stressor.what),
            spread(&series.without, 0),
            spread(&series.operations(), 0),
            figure(series.ratio(), 3),
            range(&series.ratios(), 3),
            figure(series.ratio_of_clocks(), 3),
            figure(series.ratio_to_clocks(), 3),
        ]);
    }
    let mean = |of: fn(&Series) -> Option<f64>| {
        let ratios: Vec<f64> = all.iter().filter_map(of).collect();
        figure(geometric_mean(&ratios), 3)
    };
    let [left, clocks, of_that] = [
        mean(Series::ratio),
        mean(Series::ratio_of_clocks),
        mean(Series::ratio_to_clocks),
    ];
    format!(
        "{table}\nAs geometric means: a recording leaves {left} of the load, the clocks alone leave {clocks}, and a recording leaves {of_that} of that.\n"
    )
}

/// What the recordings said.
fn receipts(all: &[Series]) -> Markdown {
    let mut table = Markdown::with_columns(&[
        "load",
        "ticks",
        "due",
        "missed",
        "lost",
        "lost by cause",
        "account",
        "complete stacks",
        "cut by reason",
        "MiB when it began",
        "MiB when it ended",
        "% of one CPU",
        "BPF µs a sample",
    ]);
    for series in all {
        let account = series.account();
        let exact = account.flaw().unwrap_or_else(|| "exact".to_owned());
        let receipt = |of: fn(&Receipt) -> Option<f64>| {
            spread(&series.figures(|run| of(&run.recorded.receipt)), 1)
        };
        let memory = |of: fn(&[Vitals; 2]) -> Vitals| {
            spread(
                &series.figures(|run| Some(mebibytes(of(&run.vitals).resident_bytes))),
                1,
            )
        };
        table.push(vec![
            series.stressor.name.to_owned(),
            account.ticks.to_string(),
            account.due.to_string(),
            account.missed.to_string(),
            account.lost.to_string(),
            account.losses(),
            exact,
            receipt(Receipt::complete_percent) + " %",
            account.cuts(),
            memory(|[before, _]| *before),
            memory(|[_, after]| *after),
            receipt(|receipt| receipt.percent),
            receipt(|receipt| receipt.bpf_us),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_told_by_the_medians_and_round_by_round() {
        let observed = |operations| Observed {
            operations,
            vitals: [Vitals::default(); 2],
            recorded: Recorded {
                status: std::process::ExitStatus::default(),
                reason: String::new(),
                account: Account::default(),
                receipt: Receipt::default(),
            },
        };
        let series = Series {
            stressor: STRESSORS[0],
            without: vec![100.0, 200.0, 400.0],
            clocks: vec![190.0, 380.0, 95.0],
            with: [90.0, 190.0, 300.0].map(observed).into(),
        };
        assert_eq!(series.ratio(), Some(0.95));
        assert_eq!(range(&series.ratios(), 2), "0.75..0.95");
        assert!(series.flaws().is_empty());
        let text = speed(&[series]);
        assert!(text.contains("200 (100..400)"), "{text}");
        let means = "leaves 0.950 of the load, the clocks alone leave 0.950, and a recording leaves 1.000 of that";
        assert!(text.contains(means), "{text}");
    }
}
