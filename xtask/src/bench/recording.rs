//! An ebpfprof that records the whole host while something else is going on.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{
    child::reason,
    receipt::{Account, Receipt},
    target::Running,
};
use crate::vitals::{Vitals, clock_runs};

/// Samples per second and CPU: enough of them for trouble to show.
pub(crate) const FREQUENCY: u32 = 999;
/// Ticks after which a recording is surely under way.
const SOME_TICKS: u64 = 200;
/// The longest that it may take to get there, and to name and write what it has in the end.
const PATIENCE: Duration = Duration::from_mins(5);
/// How often we look.
const POLL: Duration = Duration::from_millis(20);

/// A recording on its way; ended when this is dropped.
pub(crate) struct Recording {
    running: Running,
    stderr: PathBuf,
}

/// What it said in the end.
#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    /// How it ended.
    pub(crate) status: ExitStatus,
    /// The line of its stderr that has the reason, if it failed.
    pub(crate) reason: String,
    /// Where every tick went.
    pub(crate) account: Account,
    /// What it cost.
    pub(crate) receipt: Receipt,
}

impl Recorded {
    /// Why the run is no success.
    pub(crate) fn flaw(&self) -> Option<String> {
        self.account.flaw().or_else(|| {
            let is_failure = !self.status.success();
            is_failure.then(|| format!("{}: {}", self.status, self.reason))
        })
    }
}

impl Recording {
    /// Starts one of the whole host and waits until its clocks tick. It ends by itself after that
    /// many seconds; `options` are what else the command line has.
    pub(crate) fn start(
        ebpfprof: &Path,
        seconds: u32,
        options: &[&str],
        folder: &Path,
    ) -> Result<Self> {
        let stderr = folder.join("recording.err");
        let heard =
            File::create(&stderr).with_context(|| format!("cannot create {}", stderr.display()))?;
        let mut command = Command::new(ebpfprof);
        command
            .args(["--all", "--force", "--frequency", &FREQUENCY.to_string()])
            .args(["--seconds", &seconds.to_string()])
            .args(options)
            .current_dir(folder)
            .stdout(heard.try_clone()?)
            .stderr(heard);
        let mut recording = Self {
            running: Running::start_heard(&mut command)?,
            stderr,
        };
        let started = Instant::now();
        while clock_runs(recording.running.pid()) < SOME_TICKS {
            if let Some(status) = recording.ended()? {
                bail!("{status}: {}", reason(&recording.stderr));
            }
            if started.elapsed() > PATIENCE {
                bail!("its clocks did not tick within {} s", PATIENCE.as_secs());
            }
            thread::sleep(POLL);
        }
        Ok(recording)
    }

    /// What it has of the host now.
    pub(crate) fn vitals(&self) -> Result<Vitals> {
        Vitals::of(self.running.pid())
    }

    /// How it ended, once it has.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.running.ended()
    }

    /// Has it end now. Fails if it has ended before.
    pub(crate) fn stop(mut self) -> Result<Recorded> {
        if let Some(status) = self.ended()? {
            bail!(
                "the recording ended before the load: {status}: {}",
                reason(&self.stderr)
            );
        }
        self.running.interrupt()?;
        self.finish()
    }

    /// Waits until it has written its profile.
    pub(crate) fn finish(mut self) -> Result<Recorded> {
        let started = Instant::now();
        let status = loop {
            if let Some(status) = self.ended()? {
                break status;
            }
            if started.elapsed() > PATIENCE {
                bail!("the recording did not end within {} s", PATIENCE.as_secs());
            }
            thread::sleep(POLL);
        };
        let text = fs::read_to_string(&self.stderr)
            .with_context(|| format!("cannot read {}", self.stderr.display()))?;
        let account = Account::of(&text)
            .with_context(|| format!("no receipt: {status}: {}", reason(&self.stderr)))?;
        Ok(Recorded {
            status,
            reason: reason(&self.stderr),
            account,
            receipt: Receipt::of(&text),
        })
    }
}
