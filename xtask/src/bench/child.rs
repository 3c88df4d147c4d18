//! Runs a program to its end and says what that cost: CPU time of it and of all its children, and of
//! the BPF programs that it loaded.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    mem::MaybeUninit,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::process::{output, words};

/// A program that takes longer is ended.
const MOST_TIME: Duration = Duration::from_secs(600);
/// How often we look whether it has ended.
const POLL: Duration = Duration::from_millis(50);
/// How often the run time of BPF programs is read.
const BPF_POLL: Duration = Duration::from_millis(500);

/// Makes the kernel count the run time of BPF programs.
const BPF_STATISTICS: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// What a run cost.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Spent {
    /// User and system time of the program and of its children that have ended.
    pub(super) cpu: Duration,
    /// Run time of the BPF programs that came to be meanwhile, up to [`BPF_POLL`] before the end.
    pub(super) bpf: Duration,
    /// From start to end.
    pub(super) wall: Duration,
    /// Largest resident memory of the program or of one of its children, in bytes.
    pub(super) resident_bytes: u64,
}

impl Spent {
    /// This and another run, one after the other.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            cpu: self.cpu + other.cpu,
            bpf: self.bpf + other.bpf,
            wall: self.wall + other.wall,
            resident_bytes: self.resident_bytes.max(other.resident_bytes),
        }
    }
}

/// Whether the run time of BPF programs is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bpf {
    /// It is.
    Watched,
    /// There are no such programs, or the program itself tells.
    Ignored,
}

/// Runs a command, its output into two files. An error has the reason that is on stderr.
pub(super) fn run(command: &mut Command, bpf: Bpf, [out, err]: [&Path; 2]) -> Result<Spent> {
    let create = |path: &Path| {
        File::create(path).with_context(|| format!("cannot create {}", path.display()))
    };
    command
        .stdin(Stdio::null())
        .stdout(create(out)?)
        .stderr(create(err)?);
    let mut watch = match bpf {
        Bpf::Watched => Some(BpfWatch::start()?),
        Bpf::Ignored => None,
    };
    let started = Instant::now();
    let child = command
        .spawn()
        .with_context(|| format!("cannot run {}", words(command)))?;
    let pid = i32::try_from(child.id()).context("a process id is an i32")?;
    let mut is_late = false;
    let (status, usage) = loop {
        if let Some(ended) = ended(pid)? {
            break ended;
        }
        if let Some(watch) = &mut watch {
            watch.poll()?;
        }
        if !is_late && started.elapsed() > MOST_TIME {
            is_late = true;
            let pid = rustix::process::Pid::from_child(&child);
            rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
        }
        thread::sleep(POLL);
    };
    if is_late {
        bail!("did not end within {} s", MOST_TIME.as_secs());
    }
    if !status.success() {
        bail!("{status}: {}", reason(err));
    }
    Ok(Spent {
        cpu: duration(usage.ru_utime) + duration(usage.ru_stime),
        bpf: watch.map_or(Duration::ZERO, |watch| watch.total()),
        wall: started.elapsed(),
        resident_bytes: u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024,
    })
}

/// How a child of ours ended and what it used, once it has.
fn ended(pid: i32) -> Result<Option<(ExitStatus, libc::rusage)>> {
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: both pointers are to memory of ours of the right type, which the kernel writes.
    let waited = unsafe { libc::wait4(pid, &mut status, libc::WNOHANG, usage.as_mut_ptr()) };
    if waited < 0 {
        return Err(std::io::Error::last_os_error()).context("cannot wait for a child");
    }
    // SAFETY: it is plain numbers, and was zeroed before the kernel wrote it.
    let usage = unsafe { usage.assume_init() };
    Ok((waited == pid).then(|| (ExitStatus::from_raw(status), usage)))
}

fn duration(time: libc::timeval) -> Duration {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let micros = u64::try_from(time.tv_usec).unwrap_or(0);
    Duration::from_secs(seconds) + Duration::from_micros(micros)
}

/// The line of a program's stderr that has the reason: the first that says so, else the last.
pub(crate) fn reason(path: &Path) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let says_so = |line: &&str| line.starts_with("Error: ") || line.starts_with("error: ");
    let line = lines.clone().find(says_so).or_else(|| lines.next_back());
    line.unwrap_or("it said nothing").to_owned()
}

/// Reads the run time of the BPF programs that come to be.
struct BpfWatch {
    before: BTreeSet<u64>,
    nanoseconds: BTreeMap<u64, u64>,
    next: Instant,
    /// What the setting was, to be put back.
    setting: String,
}

impl BpfWatch {
    fn start() -> Result<Self> {
        let setting = std::fs::read_to_string(BPF_STATISTICS)
            .with_context(|| format!("cannot read {BPF_STATISTICS}"))?;
        std::fs::write(BPF_STATISTICS, "1")
            .with_context(|| format!("cannot write {BPF_STATISTICS}"))?;
        Ok(Self {
            before: run_times()?.into_keys().collect(),
            nanoseconds: BTreeMap::new(),
            next: Instant::now(),
            setting,
        })
    }

    fn poll(&mut self) -> Result<()> {
        if Instant::now() < self.next {
            return Ok(());
        }
        self.next = Instant::now() + BPF_POLL;
        let new = run_times()?.into_iter();
        let new = new.filter(|(id, _)| !self.before.contains(id));
        self.nanoseconds.extend(new);
        Ok(())
    }

    fn total(&self) -> Duration {
        Duration::from_nanos(self.nanoseconds.values().sum())
    }
}

impl Drop for BpfWatch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::write(BPF_STATISTICS, self.setting.trim()) {
            eprintln!("cannot put {BPF_STATISTICS} back: {error}");
        }
    }
}

/// The run time of each BPF program by its id, in nanoseconds.
fn run_times() -> Result<BTreeMap<u64, u64>> {
    Ok(parse_run_times(&output(
        Command::new("bpftool").args(["prog", "show"]),
    )?))
}

fn parse_run_times(text: &str) -> BTreeMap<u64, u64> {
    let programs = text.lines().filter_map(|line| {
        let mut parts = line.split_ascii_whitespace();
        let id = parts.next()?.strip_suffix(':')?.parse().ok()?;
        parts.find(|word| *word == "run_time_ns")?;
        Some((id, parts.next()?.parse().ok()?))
    });
    programs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_costs_cpu_time_of_the_program_and_of_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let [out, err] = ["out", "err"].map(|name| folder.path().join(name));
        let mut shell = Command::new("sh");
        let work = "sh -c 'i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo done'";
        let spent = run(shell.args(["-c", work]), Bpf::Ignored, [&out, &err]).unwrap();
        assert!(spent.cpu >= Duration::from_millis(10), "{spent:?}");
        assert!(spent.resident_bytes > 100_000, "{spent:?}");
        assert_eq!(std::fs::read_to_string(&out).unwrap(), "done\n");
        let mut failing = Command::new("sh");
        failing.args(["-c", "echo first >&2; echo the reason >&2; exit 3"]);
        let error = run(&mut failing, Bpf::Ignored, [&out, &err]).unwrap_err();
        assert_eq!(error.to_string(), "exit status: 3: the reason");
        let mut failing = Command::new("sh");
        failing.args(["-c", "echo Error: why >&2; echo backtrace >&2; exit 1"]);
        let error = run(&mut failing, Bpf::Ignored, [&out, &err]).unwrap_err();
        assert_eq!(error.to_string(), "exit status: 1: Error: why");
    }

    #[test]
    fn run_times_are_read_by_id() {
        let text = "\
3: tracing  name a  tag 41f5  gpl
12: perf_event  name b  tag 7d6f  gpl run_time_ns 140983 run_cnt 162
\tloaded_at 2026-01-01T00:00:00+0000  uid 0
";
        assert_eq!(parse_run_times(text), BTreeMap::from([(12, 140_983)]));
    }
}
