//! One recording by the binary, with the checks that hold for every one.

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

use tempfile::TempDir;

use crate::{
    folded::Folded,
    host::Pace,
    pprof::Pprof,
    program::{Finished, Running, binary},
    receipt::Receipt,
};

/// How far the ticks may be from what the time and the frequency say.
const TICK_TOLERANCE: f64 = 0.02;

/// A recording to be made.
#[derive(Debug)]
pub(crate) struct Recording {
    folder: TempDir,
    pace: Pace,
    command: Command,
}

/// A recording that was made, with its account in order.
#[derive(Debug)]
pub(crate) struct Recorded {
    pub(crate) receipt: Receipt,
    pub(crate) folded: Folded,
    pub(crate) pprof: Pprof,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
    pub(crate) folder: TempDir,
}

impl Recording {
    /// A recording with a frequency and a length; `None` for as long as it takes. A slow host has
    /// another [`Pace`].
    pub(crate) fn new(hertz: u32, seconds: Option<f64>) -> Self {
        Self::through(Command::new(binary()), hertz, seconds)
    }

    /// A recording by a command that ends in the binary's path.
    pub(crate) fn through(mut command: Command, hertz: u32, seconds: Option<f64>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let pace = Pace::of(hertz, seconds);
        command
            .args(["-F", &pace.hertz.to_string()])
            .arg("-o")
            .arg(folder.path().join("cpu.folded"))
            .arg("-o")
            .arg(folder.path().join("cpu.pb.gz"));
        if let Some(seconds) = pace.seconds {
            command.args(["-s", &seconds.to_string()]);
        }
        Self {
            folder,
            pace,
            command,
        }
    }

    pub(crate) fn args(mut self, arguments: &[&str]) -> Self {
        self.command.args(arguments);
        self
    }

    /// Lets any user write its files.
    pub(crate) fn open_to_all(self) -> Self {
        fs::set_permissions(self.folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        self
    }

    /// Starts it; [`Recording::take`] reads what it made.
    #[track_caller]
    pub(crate) fn start(&mut self) -> Running {
        Running::start(&mut self.command)
    }

    /// Makes it.
    #[track_caller]
    pub(crate) fn record(mut self) -> Recorded {
        let finished = self.start().finish();
        self.take(finished)
    }

    /// Reads what it made, and checks its account.
    #[track_caller]
    pub(crate) fn take(self, finished: Finished) -> Recorded {
        let Finished {
            code,
            stdout,
            stderr,
        } = finished;
        assert_eq!(code, Some(0), "the recording failed:\n{stderr}");
        let receipt = Receipt::find(&stderr).unwrap_or_else(|flaw| panic!("{flaw}\n{stderr}"));
        let file = |name: &str| fs::read(self.folder.path().join(name)).unwrap();
        let folded = Folded::parse(&String::from_utf8(file("cpu.folded")).unwrap());
        let pprof = Pprof::parse(&file("cpu.pb.gz"));
        receipt.check_sums();
        assert_eq!(receipt.lost, 0, "{receipt:?}");
        assert_eq!(
            folded.total(),
            receipt.kept,
            "the folded file holds what was kept"
        );
        assert_eq!(
            pprof.total(),
            receipt.kept,
            "the pprof file holds what was kept"
        );
        check_ticks(receipt.ticks, self.pace, &pprof);
        Recorded {
            receipt,
            folded,
            pprof,
            stdout,
            stderr,
            folder: self.folder,
        }
    }
}

/// One recording of some seconds.
#[track_caller]
pub(crate) fn record(hertz: u32, seconds: f64, arguments: &[&str]) -> Recorded {
    Recording::new(hertz, Some(seconds))
        .args(arguments)
        .record()
}

/// Fails unless there were as many ticks as CPUs, frequency and time say. A run may be a little
/// longer than asked for, and ends early with its target.
#[track_caller]
#[expect(
    clippy::cast_precision_loss,
    reason = "counts of ticks are far below 2^52"
)]
fn check_ticks(ticks: u64, pace: Pace, pprof: &Pprof) {
    let rate = f64::from(cpus() * pace.hertz);
    let (ticks, seconds) = (ticks as f64, pprof.seconds());
    // A tick that is due at the very end, on each CPU; and the profiler may lose its CPU for a while
    // between the stops of two clocks.
    let slack = f64::from(cpus()) + TICK_TOLERANCE * rate * seconds + 0.1 * f64::from(pace.hertz);
    assert!(
        (ticks - rate * seconds).abs() <= slack,
        "{ticks} ticks in {seconds} s instead of {}",
        rate * seconds
    );
    if let Some(asked) = pace.seconds {
        let most = asked + pace.late_seconds;
        assert!(seconds <= most, "{seconds} s instead of {asked} s");
    }
}

/// CPUs that are online.
pub(crate) fn cpus() -> u32 {
    let text = fs::read_to_string("/sys/devices/system/cpu/online").unwrap();
    let count = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        last.parse::<u32>().unwrap() - first.parse::<u32>().unwrap() + 1
    };
    text.trim().split(',').map(count).sum()
}
