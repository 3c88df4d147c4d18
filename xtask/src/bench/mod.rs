//! `cargo xtask bench`: what profiling costs, side by side with other profilers, on this host and in
//! one run. Prints the report and writes it to `docs/overhead.md`.
//!
//! CPU time is user and system time of all processes of a profiler to their very end, and the run
//! time of its BPF programs. What the kernel does for a profiler outside of both (perf's copies of
//! the stack) is nobody's time and is in no figure.

pub(crate) mod child;
pub(crate) mod host;
pub(crate) mod load;
mod peer;
mod perf_data;
pub(crate) mod receipt;
pub(crate) mod recording;
pub(crate) mod report;
mod stress;
pub(crate) mod symbols;
mod tables;
pub(crate) mod target;

use std::{env, fs, path::PathBuf, thread, time::Duration};

use anyhow::{Context, Result, bail};

use self::{
    peer::{Job, Outcome, PEERS, run_ebpfprof},
    receipt::Receipt,
    report::{Markdown, figure, mebibytes},
    target::{Running, Workload},
};
use crate::{
    process::{cargo, is_root, run as run_command},
    workspace::Workspace,
};

/// Where the report is kept, below the top folder.
const REPORT: &str = "docs/overhead.md";

/// Targets and frequencies that are compared; a quick run has the first only.
const CASES: [(Workload, u32); 5] = [
    (SHALLOW, 99),
    (SHALLOW, 999),
    (DEEP, 99),
    (Workload::Python, 99),
    (Workload::Python, 999),
];
const SHALLOW: Workload = Workload::Frames(20);
const DEEP: Workload = Workload::Frames(400);
/// The frequency at which time a frame is measured: enough samples for two digits.
const FREQUENCY_PER_FRAME: u32 = 999;
/// Processes of the host that is profiled as a whole.
const CROWD: usize = 300;
/// Until programs of the crowd have read what they need.
const CROWD_SETTLES: Duration = Duration::from_secs(10);
/// Frames that two stacks must differ by, on average, to tell the time of one.
const FEWEST_FRAMES: f64 = 10.0;

/// How much to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Everything.
    Whole,
    /// One case of each kind, and no report is written.
    Quick,
}

/// What all measurements need.
struct Bench<'a> {
    workspace: &'a Workspace,
    ebpfprof: PathBuf,
    frames: PathBuf,
    folder: tempfile::TempDir,
    seconds: u32,
    cpus: usize,
    extent: Extent,
}

/// Runs the bench.
pub(crate) fn run(workspace: &Workspace, seconds: u32, extent: Extent) -> Result<()> {
    if !is_root() {
        bail!("profilers need root: sudo -E cargo xtask bench");
    }
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let bench = Bench {
        workspace,
        ebpfprof: release_build(workspace)?,
        frames: target::compile(workspace, folder.path())?,
        folder,
        seconds,
        cpus: host::cpus()?,
        extent,
    };
    let sections = [
        ("What was measured", host(&bench)?),
        ("CPU time, by profiler", bench.compare()?),
        ("Time in the kernel", bench.in_the_kernel()?.to_string()),
        ("Memory and start", bench.memory()?),
        ("Unwind tables", tables::measure(workspace)?.to_string()),
    ];
    let mut report = HEAD.to_owned();
    for (title, text) in sections {
        report += &format!("\n## {title}\n\n{}\n", text.trim_end());
    }
    println!("{report}");
    if extent == Extent::Whole {
        let path = workspace.root().join(REPORT);
        fs::write(&path, report).with_context(|| format!("cannot write {}", path.display()))?;
        println!("wrote {REPORT}");
    }
    Ok(())
}

/// What the report begins with.
const HEAD: &str = "\
# What profiling costs

Made by `sudo -E cargo xtask bench`, in one run on one host; figures of other hosts differ.

CPU time is user and system time of all processes of a profiler, from their start to their end, and
the run time of its BPF programs. What the kernel does for a profiler outside of both, such as perf's
copies of the stack, is in no figure. The targets are a C program at `-O2 -fomit-frame-pointer`, with
stacks of so many frames below `main`, and CPython; one process for each CPU, all of them busy.
\"To main\" is the share of the target's samples whose stack reaches `main`: a stack that does not is
cut (CPython's `main` has no name). On an idle host a target gives as many samples as seconds times
Hz times CPUs.
";

/// The build that was named, or a release build of this tree.
pub(crate) fn build(workspace: &Workspace, named: Option<PathBuf>) -> Result<PathBuf> {
    match named {
        Some(path) => {
            fs::canonicalize(&path).with_context(|| format!("cannot find {}", path.display()))
        }
        None => release_build(workspace),
    }
}

fn release_build(workspace: &Workspace) -> Result<PathBuf> {
    let mut build = cargo();
    build
        .args(["build", "--release", "--locked", "-p", "ebpfprof"])
        .current_dir(workspace.root());
    run_command(&mut build)?;
    let target = env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = target.unwrap_or_else(|| workspace.root().join("target"));
    Ok(workspace.root().join(target).join("release/ebpfprof"))
}

/// The host and the versions.
fn host(bench: &Bench<'_>) -> Result<String> {
    let mut lines = vec![
        format!("- {}", host::machine()?),
        format!(
            "- {}, {} s a run",
            host::version(&bench.ebpfprof)?,
            bench.seconds
        ),
        format!(
            "- {}; what they take, the target does not get",
            host::load()
        ),
    ];
    let mut versions: Vec<String> = PEERS.iter().filter_map(peer::Peer::version).collect();
    versions.dedup();
    lines.extend(versions.iter().map(|version| format!("- {version}")));
    Ok(lines.join("\n"))
}

impl Bench<'_> {
    fn cases(&self) -> &'static [(Workload, u32)] {
        match self.extent {
            Extent::Whole => &CASES,
            Extent::Quick => &CASES[..1],
        }
    }

    fn job<'a>(&'a self, workload: Workload, pids: &'a [u32], frequency: u32) -> Job<'a> {
        Job {
            ebpfprof: &self.ebpfprof,
            workload,
            pids,
            frequency,
            seconds: self.seconds,
            folder: self.folder.path(),
        }
    }

    fn start(&self, workload: Workload, processes: usize) -> Result<Vec<Running>> {
        target::start(self.workspace, &self.frames, workload, processes)
    }

    /// Every profiler on the same targets.
    fn compare(&self) -> Result<String> {
        let mut table = Markdown::with_columns(&[
            "profiler",
            "target",
            "Hz",
            "CPU s",
            "of it BPF s",
            "times ours",
            "samples",
            "CPU µs a sample",
            "to main",
            "MiB",
        ]);
        let mut failures = String::new();
        for (workload, frequency) in self.cases() {
            if !workload.is_installed() {
                failures += &format!("- {}: not installed\n", workload.name());
                continue;
            }
            let targets = self.start(*workload, self.cpus)?;
            let pids: Vec<u32> = targets.iter().map(Running::pid).collect();
            let mut ours = None;
            for peer in &PEERS {
                eprintln!(
                    "bench: {} at {frequency} Hz, {}",
                    peer.name,
                    workload.name()
                );
                let head = [peer.name.to_owned(), workload.name(), frequency.to_string()];
                let outcome = match peer.is_installed() {
                    true => peer.profile(&self.job(*workload, &pids, *frequency)),
                    false => Err(anyhow::anyhow!("not installed")),
                };
                let cells = match &outcome {
                    Ok(outcome) => {
                        let ours = *ours.get_or_insert(cpu_seconds(outcome));
                        costs(outcome, ours, *workload)
                    }
                    Err(error) => {
                        let [name, target, frequency] = &head;
                        failures += &format!("- {name}, {target}, {frequency} Hz: {error:#}\n");
                        vec!["failed".to_owned()]
                    }
                };
                table.push(head.into_iter().chain(cells).collect());
            }
        }
        Ok(match failures.is_empty() {
            true => table.to_string(),
            false => format!("{table}\nWhy there are no figures:\n\n{failures}"),
        })
    }

    /// BPF time for a sample and for a frame.
    fn in_the_kernel(&self) -> Result<Markdown> {
        let mut table = Markdown::with_columns(&[
            "target",
            "samples",
            "frames a stack",
            "complete",
            "BPF µs a sample",
            "BPF ns a frame",
        ]);
        let mut shallow: Option<Receipt> = None;
        for workload in [SHALLOW, DEEP] {
            eprintln!("bench: BPF time at {}", workload.name());
            let targets = self.start(workload, self.cpus)?;
            let pids: Vec<u32> = targets.iter().map(Running::pid).collect();
            let outcome = PEERS[0].profile(&self.job(workload, &pids, FREQUENCY_PER_FRAME))?;
            let receipt = outcome.receipt.context("ebpfprof writes a receipt")?;
            let per_frame = shallow.as_ref().and_then(|other| frame_ns(other, &receipt));
            table.push(vec![
                workload.name(),
                figure(receipt.kept, 0),
                figure(receipt.frames_per_stack(), 1),
                figure(receipt.complete_percent(), 1) + "%",
                figure(receipt.bpf_us, 1),
                figure(per_frame, 0),
            ]);
            shallow.get_or_insert(receipt);
        }
        Ok(table)
    }

    /// Memory and the first sample, for one process and for a host full of them.
    fn memory(&self) -> Result<String> {
        let mut table = Markdown::with_columns(&[
            "targets",
            "samples",
            "complete",
            "MiB resident",
            "MiB rings and tables",
            "ms to first sample",
            "% of one CPU",
        ]);
        let mut push = |name: String, receipt: &Receipt| {
            table.push(vec![
                name,
                figure(receipt.kept, 0),
                figure(receipt.complete_percent(), 1) + "%",
                figure(receipt.resident_mib, 0),
                figure(receipt.tables_mib, 1),
                figure(receipt.first_sample_ms, 0),
                figure(receipt.percent, 2),
            ]);
        };
        eprintln!("bench: memory for one process");
        let one = self.start(SHALLOW, 1)?;
        let pids: Vec<u32> = one.iter().map(Running::pid).collect();
        let pid = pids[0].to_string();
        let (_, receipt) = run_ebpfprof(&self.job(SHALLOW, &pids, 99), &["--pid", &pid])?;
        push("one process".to_owned(), &receipt);
        drop(one);
        eprintln!("bench: memory for {CROWD} processes");
        let mut crowd = target::start_crowd(&self.frames, CROWD)?;
        thread::sleep(CROWD_SETTLES);
        let (_, receipt) = run_ebpfprof(&self.job(SHALLOW, &[], 99), &["--all"])?;
        let alive = target::alive(&mut crowd);
        push(format!("whole host, {alive} processes more"), &receipt);
        Ok(format!(
            "{table}\nThe processes are of {}; each wakes up some times a second.",
            crowd.programs.join(", ")
        ))
    }
}

/// The cells of what a profiler cost; `ours` is our CPU time in the same case.
fn costs(outcome: &Outcome, ours: f64, workload: Workload) -> Vec<String> {
    let Outcome { spent, stacks, .. } = outcome;
    let cpu = cpu_seconds(outcome);
    let to_main = workload
        .has_main()
        .then(|| 100.0 * stacks.to_main as f64 / stacks.all.max(1) as f64);
    vec![
        format!("{cpu:.3}"),
        format!("{:.3}", spent.bpf.as_secs_f64()),
        format!("{:.1}", cpu / ours),
        stacks.all.to_string(),
        format!("{:.0}", 1e6 * cpu / stacks.all.max(1) as f64),
        to_main.map_or_else(|| "–".to_owned(), |percent| format!("{percent:.1}%")),
        format!("{:.0}", mebibytes(spent.resident_bytes)),
    ]
}

fn cpu_seconds(outcome: &Outcome) -> f64 {
    (outcome.spent.cpu + outcome.spent.bpf).as_secs_f64()
}

/// BPF time for one frame, in nanoseconds, if the two stacks differ by enough of them.
fn frame_ns(shallow: &Receipt, deep: &Receipt) -> Option<f64> {
    let frames = deep.frames_per_stack()? - shallow.frames_per_stack()?;
    let time_us = deep.bpf_us? - shallow.bpf_us?;
    (frames >= FEWEST_FRAMES).then(|| 1e3 * time_us / frames)
}
