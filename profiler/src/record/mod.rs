//! One recording: the loop that owns all state, from the targets to a named profile.
//!
//! In: a [`Request`]. Out: an [`Outcome`]. It prints nothing and knows no format; what it wants to
//! say while it runs goes to a [`Watch`].

mod account;
mod capture;
mod collect;
mod governor;
mod labels;
pub mod live;
mod sampling;
mod session;
mod timeline;
mod unnamed;
mod usage;
mod waiting;
mod watched;

use std::{
    ffi::OsString,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use thiserror::Error;

pub use account::{Account, Cost};
pub use governor::{BpfTime, Budget, Lowered};
pub use labels::LabelSettings;
pub(crate) use usage::raise_descriptor_limit;

use crate::{
    bpf::{self, BpfError, Flavour, Stacks},
    bug,
    debuginfod::Debuginfod,
    error::Explain,
    profile::{LabelKey, Profile},
    symbolize,
    target::{
        self, CgroupFilter, Pid, TargetError, TargetSpec, Targets, UserStacks,
        command::{ChildStdout, Command, CommandError, Prepared, Running},
    },
    unnamed::Gaps,
};
use session::Session;

/// What to record.
#[derive(Clone, Debug)]
pub struct Request {
    /// Processes, threads, names, cgroups; nothing for the whole host.
    pub spec: TargetSpec,
    /// A command to start, instead of a target that is there.
    pub command: Option<StartCommand>,
    /// Samples per second and CPU.
    pub frequency_hz: u32,
    /// What it may cost before the frequency is lowered; `None` for whatever it costs.
    pub budget: Option<Budget>,
    /// How long; `None` until stopped or the target's end.
    pub duration: Option<Duration>,
    /// Whether kernel stacks are taken.
    pub kernel_stacks: Stacks,
    /// Whether user stacks are taken.
    pub user_stacks: Stacks,
    /// How symbols are looked up.
    pub symbols: symbolize::Settings,
    /// Labels to write; `None` for the default: none for one process, else comm and pid.
    pub labels: Option<Vec<LabelKey>>,
    /// Whether the time of each sample is kept.
    pub times: Times,
    /// Which addresses the executable's code has in the profile.
    pub addresses: Addresses,
    /// The walker; `None` for the best.
    pub flavour: Option<Flavour>,
    /// Most kernel memory in mapping and unwind tables, in bytes.
    pub table_bytes: usize,
    /// Where debug information is fetched from; `None` for nowhere.
    pub debuginfod: Option<Debuginfod>,
    /// What becomes of the rights of the thread that records.
    pub rights: Rights,
}

/// What becomes of the rights of the thread that records. Its process may need them for more than
/// one recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// They stay.
    Kept,
    /// Each goes when the recording needs it no more. A command has them: it is made before.
    GivenUp,
}

/// Whether a profile gets a timeline, for formats that show one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Times {
    /// The time and thread of each sample.
    Kept,
    /// How often each stack was seen.
    LeftOut,
}

/// Which addresses the code of the main executable has in a profile. That of libraries has runtime
/// addresses in any case: their ELF addresses would collide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// Where it lay, with the mapping as it stands in `/proc/PID/maps`.
    Runtime,
    /// Where it was linked to lie. Readers that do not know executables that are loaded anywhere
    /// find the code by these.
    Elf,
}

/// The table memory of a run that asks for none, in bytes.
pub const DEFAULT_TABLE_BYTES: usize = 64 << 20;

/// A command and where its standard output goes.
#[derive(Clone, Debug)]
pub struct StartCommand {
    /// Program and arguments.
    pub argv: Vec<OsString>,
    /// Our own standard output may be wanted for a profile.
    pub stdout: ChildStdout,
}

/// Ends a recording from outside: by a signal handler or another thread.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// The flag behind it, for a signal handler to set.
    #[must_use]
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }

    /// Whether somebody asked for the end.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// The end that was asked for has come: what is asked from now on is the end of what follows.
    fn heed(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// How far a recording is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Time since the clocks started.
    pub elapsed: Duration,
    /// Samples so far.
    pub kept: u64,
    /// Samples lost so far.
    pub lost: u64,
}

/// Sees a recording on its way.
pub trait Watch {
    /// The clocks run. Whoever waits for the start may go on.
    fn started(&mut self) {}
    /// The rings were emptied once more.
    fn progress(&mut self, _progress: Progress) {}
    /// The sampling is over; names are next.
    fn sampled(&mut self) {}
    /// So many files with debug information are on their way, and are waited for.
    fn fetching(&mut self, _left: usize) {}
    /// Nothing is waited for any more.
    fn fetched(&mut self) {}
}

/// A watch that looks away.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unwatched;

impl Watch for Unwatched {}

/// Why a recording ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The time asked for is over.
    TimeIsOver,
    /// Stopped from outside.
    Stopped,
    /// The targets, or the command, have ended.
    TargetEnded,
    /// We panicked: what was recorded until then is there.
    Bug,
}

/// What a recording gave.
#[derive(Debug)]
pub struct Outcome {
    /// The profile, named.
    pub profile: Profile,
    /// A short name of the targets.
    pub label: String,
    /// Where every tick went.
    pub account: Account,
    /// What it cost.
    pub cost: Cost,
    /// Each lowering of the frequency to keep to the budget, in the order of time.
    pub lowered: Vec<Lowered>,
    /// Why it ended.
    pub end: End,
    /// The command, if one was started and still runs.
    pub running: Option<Running>,
    /// What the user should know, one sentence each.
    pub notes: Vec<String>,
    /// Frames without a name or a line, and why.
    pub gaps: Gaps,
    /// Objects with samples that have no debug information, and a build id by which others may have it.
    pub bare_objects: usize,
}

/// Why a recording failed.
#[derive(Debug, Error)]
pub enum RecordError {
    /// The target is not there or cannot be one.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The command could not be started.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The kernel side could not be set up or kept up.
    #[error(transparent)]
    Bpf(#[from] BpfError),
    /// A process that is there may not be looked at.
    #[error("cannot read the mappings of process {pid}")]
    Maps {
        /// The process.
        pid: Pid,
        /// The system's words.
        #[source]
        source: io::Error,
    },
    /// Waiting for the target failed.
    #[error("cannot wait for the target")]
    Wait(#[source] io::Error),
}

impl Explain for RecordError {
    fn why(&self) -> String {
        match self {
            Self::Target(error) => error.why(),
            Self::Command(error) => error.why(),
            Self::Bpf(error) => error.why(),
            Self::Maps { source, .. } | Self::Wait(source) => source.to_string(),
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::Target(error) => error.advice(),
            Self::Command(error) => error.advice(),
            Self::Bpf(error) => error.advice(),
            Self::Maps { pid, .. } => format!(
                "ebpfprof --pid {pid} --no-user, for its kernel stacks; root or CAP_SYS_PTRACE reads other processes, unless they are protected even from those"
            ),
            Self::Wait(_) => "ulimit -n 65536, then the same command again".to_owned(),
        }
    }

    fn is_misuse(&self) -> bool {
        match self {
            Self::Target(error) => error.is_misuse(),
            Self::Command(error) => error.is_misuse(),
            Self::Bpf(_) | Self::Maps { .. } | Self::Wait(_) => false,
        }
    }
}

/// A recording that is ready to start: its targets are found, its command waits.
pub struct Ready {
    request: Request,
    targets: Targets,
    prepared: Option<Prepared>,
    started_ns: u64,
}

/// Finds the targets, or starts the command up to the point where it would run.
///
/// # Errors
/// When a target is not there, or the command cannot be started.
pub fn prepare(request: Request) -> Result<Ready, RecordError> {
    let started_ns = bpf::now_ns();
    let (targets, prepared) = match &request.command {
        Some(command) => {
            let prepared = Command::prepare(&command.argv, command.stdout)?;
            let program = command.argv.first().cloned().unwrap_or_default();
            (
                Targets::of_command(prepared.pid(), &program)?,
                Some(prepared),
            )
        }
        None => {
            let user = if request.user_stacks == Stacks::Taken {
                UserStacks::Yes
            } else {
                UserStacks::No
            };
            let spec = &request.spec;
            let cgroups = if spec.cgroups.is_empty() && spec.containers.is_empty() {
                CgroupFilter::Kernel
            } else {
                bpf::cgroup_filter()
            };
            (target::resolve(spec, user, cgroups)?, None)
        }
    };
    Ok(Ready {
        request,
        targets,
        prepared,
        started_ns,
    })
}

impl Ready {
    /// A short name of the targets, for a file name.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.targets.label
    }

    /// Records.
    ///
    /// # Errors
    /// When the kernel refuses something, or the target may not be looked at.
    pub fn record(self, stop: &Stop, watch: &mut dyn Watch) -> Result<Outcome, RecordError> {
        let mut session = Session::set_up(self)?;
        session.start(watch)?;
        let end = bug::contain(|| session.run(stop, watch)).unwrap_or(End::Bug);
        watch.sampled();
        session.finish(end, stop, watch)
    }
}

/// The period of a frequency.
fn period_ns(frequency_hz: u32) -> u64 {
    1_000_000_000 / u64::from(frequency_hz.max(1))
}
