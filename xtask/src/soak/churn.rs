//! Programs that come and go: fixtures that fork, execute, load libraries, make code and threads, each
//! started again when it has ended.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{bench::target::Running, workspace::Workspace};

/// A fixture, and how it is called. Each ends by itself after some seconds; no two after the same, so
/// that they do not end together.
struct Kind {
    program: &'static str,
    arguments: &'static [&'static str],
}

const KINDS: [Kind; 7] = [
    Kind {
        program: "bare/storm",
        arguments: &["7"],
    },
    Kind {
        program: "bare/spawn",
        arguments: &["11", "spawn"],
    },
    Kind {
        program: "bare/plugins",
        arguments: &["5"],
    },
    Kind {
        program: "forker",
        arguments: &["9"],
    },
    Kind {
        program: "jit_like",
        arguments: &["3"],
    },
    Kind {
        program: "go-http",
        arguments: &["-load", "2", "-seconds", "8"],
    },
    Kind {
        program: "threads",
        arguments: &["4"],
    },
];

/// The fixtures on their way; ended when this is dropped.
pub(super) struct Churn {
    folder: PathBuf,
    running: Vec<Running>,
    /// Processes of the host that came to be before.
    before: u64,
}

impl Churn {
    /// Starts one of each kind.
    pub(super) fn start(workspace: &Workspace) -> Result<Self> {
        let folder = workspace.target("fixtures")?;
        let before = processes_made()?;
        let started = KINDS.iter().map(|kind| kind.start(&folder));
        Ok(Self {
            running: started.collect::<Result<_>>()?,
            folder,
            before,
        })
    }

    /// Starts again what has ended.
    pub(super) fn tend(&mut self) -> Result<()> {
        for (kind, running) in KINDS.iter().zip(&mut self.running) {
            match running.ended()? {
                None => {}
                Some(status) if status.success() => *running = kind.start(&self.folder)?,
                Some(status) => bail!("the fixture {} failed: {status}", kind.program),
            }
        }
        Ok(())
    }

    /// How many processes came to be since the start, on the whole host.
    pub(super) fn made(&self) -> Result<u64> {
        Ok(processes_made()?.saturating_sub(self.before))
    }
}

impl Kind {
    fn start(&self, folder: &Path) -> Result<Running> {
        Running::start(Command::new(folder.join(self.program)).args(self.arguments))
    }
}

/// The names of the fixtures, for a report.
pub(super) fn names() -> String {
    let names: Vec<&str> = KINDS
        .iter()
        .filter_map(|kind| kind.program.split('/').next_back())
        .collect();
    names.join(", ")
}

/// Processes and threads that came to be since the host started.
fn processes_made() -> Result<u64> {
    let stat = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    let count = stat
        .lines()
        .find_map(|line| line.strip_prefix("processes "));
    count
        .and_then(|count| count.trim().parse().ok())
        .context("/proc/stat does not tell how many processes there were")
}
