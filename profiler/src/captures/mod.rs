//! Captures: any number of readers of one sampler, for as long as we run.
//!
//! In: what somebody wants captured, from any thread. Out: its profile, named, with an account of its
//! own. The sampler runs at the highest frequency that is asked for while somebody asks, and stands
//! still while nobody does. It knows neither HTTP nor formats.

use std::{future::Future, path::PathBuf, pin::Pin, time::Duration};

use crate::{
    profile::{LabelKey, Profile},
    record::{Account, Cost, End, RecordError, Times},
    target::{Pid, TargetSpec},
    unnamed::Gaps,
};

/// Whose samples are wanted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// Everybody's.
    Host,
    /// A process's.
    Process(Pid),
    /// Those of threads with this name, and of processes whose first thread has it.
    Comm(String),
    /// A cgroup's and its descendants': a directory, or a path from the root of the tree.
    Cgroup(PathBuf),
    /// A container's: its id, or the start of it.
    Container(String),
}

impl Target {
    /// The target as the command line would say it. A cgroup's path is looked for in the cgroup trees
    /// alone: elsewhere it may lead to one now and to another in a moment.
    #[must_use]
    pub fn spec(&self) -> TargetSpec {
        let mut spec = TargetSpec::default();
        match self {
            Self::Host => {}
            Self::Process(pid) => spec.pids.push(*pid),
            Self::Comm(name) => spec.comms.push(name.clone()),
            Self::Cgroup(path) => {
                let below = path.strip_prefix("/").unwrap_or(path);
                spec.cgroups.push(below.to_owned());
            }
            Self::Container(id) => spec.containers.push(id.clone()),
        }
        spec
    }
}

impl Target {
    /// The labels that are asked for; by default those that tell processes apart, if there may be
    /// several.
    pub(crate) fn labels(&self, asked: Option<&[LabelKey]>) -> Vec<LabelKey> {
        match (asked, self) {
            (Some(asked), _) => asked.to_vec(),
            (None, Self::Process(_)) => Vec::new(),
            (None, _) => vec![LabelKey::Comm, LabelKey::Pid],
        }
    }
}

/// A capture that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Whose samples.
    pub target: Target,
    /// Samples per second and CPU, at least: others may ask for more.
    pub frequency_hz: u32,
    /// How long to sample from now on.
    pub duration: Duration,
    /// How long names and lines may take afterwards. Names come first.
    pub patience: Duration,
    /// Labels to write; `None` for the default: none for one process, else comm and pid.
    pub labels: Option<Vec<LabelKey>>,
    /// Whether the time of each sample is kept.
    pub times: Times,
    /// Whether the target is one process until it runs another program, which may be nobody's business.
    pub program: Program,
}

/// Which programs of a process are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// Any that it runs.
    Any,
    /// The one that it runs when the capture begins. The capture ends with it.
    First,
}

/// Samples of the recent past that are asked for, from the flight recorder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recent {
    /// Whose samples.
    pub target: Target,
    /// How far back.
    pub last: Duration,
    /// How long names and lines may take.
    pub patience: Duration,
    /// Labels to write; `None` for the default.
    pub labels: Option<Vec<LabelKey>>,
}

/// What a capture gave.
#[derive(Debug)]
pub struct Captured {
    /// The profile, named. Its comments are the caller's to write.
    pub profile: Profile,
    /// A short name of the target, for a file name.
    pub label: String,
    /// Where every tick went.
    pub account: Account,
    /// What it cost. The sampler's part is that of all captures at the time.
    pub cost: Cost,
    /// The frequency that it was sampled at: the first and, if others changed it, the last.
    pub frequencies_hz: (u32, u32),
    /// Why it ended.
    pub end: End,
    /// What the user should know, one sentence each.
    pub notes: Vec<String>,
    /// Frames without a name or a line, and why.
    pub gaps: Gaps,
}

/// Why there is no capture.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The target is not there, or the kernel refuses something.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// As many run as can at one time.
    #[error("{most} captures run already")]
    TooMany {
        /// How many can.
        most: usize,
    },
    /// There is no flight recorder.
    #[error("the flight recorder is off")]
    NoRecorder,
    /// The sampler has ended.
    #[error("the sampler has ended")]
    Ended,
}

/// What the sampler did since it was started.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// Captures that run.
    pub running: usize,
    /// Captures that were answered.
    pub finished: u64,
    /// Captures that ended because nobody waited for them any more.
    pub abandoned: u64,
    /// Samples that were due on the targets of some capture.
    pub due: u64,
    /// Samples that arrived.
    pub kept: u64,
    /// Lost samples by cause, in the receipt's words.
    pub lost: Vec<(&'static str, u64)>,
    /// Cut stacks by reason, in the receipt's words.
    pub cut: Vec<(&'static str, u64)>,
    /// The frequency of the clocks, in Hz; 0 while they stand still.
    pub frequency_hz: u32,
    /// CPU time in the kernel's programs, where it is told.
    pub bpf: Option<Duration>,
    /// Kernel memory in rings and tables, in bytes.
    pub kernel_bytes: u64,
    /// How long naming took, a capture each: in which second of a histogram is the caller's business.
    pub naming: Vec<Duration>,
}

/// An answer on its way. Dropping it ends the capture at once.
pub type Pending<T> = Pin<Box<dyn Future<Output = Result<T, CaptureError>> + Send>>;

/// Whoever captures: the sampler, or what stands for it in a test.
pub trait Captures: Send + Sync + 'static {
    /// Captures from now on.
    fn capture(&self, wanted: Wanted) -> Pending<Captured>;

    /// What just happened, by the flight recorder.
    fn recent(&self, recent: Recent) -> Pending<Captured>;

    /// What was done so far. Durations of naming are handed out once.
    fn state(&self) -> State;
}
