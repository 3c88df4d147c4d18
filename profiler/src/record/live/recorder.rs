//! The flight recorder: what happened on the host in the last minutes, sampled at a low frequency.
//!
//! In: captures of the whole host, a few seconds each. Out: the samples of a target in some of the
//! last of them. They are named when somebody asks, and once; the oldest give way to new ones.

use std::{
    collections::{BTreeSet, VecDeque},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::Reply;
use crate::{
    bpf::{Counts, KernelSymbols},
    bug,
    captures::{Program, Recent, Target, Wanted},
    profile::{LabelKey, LabelValue, Profile, Sample},
    record::{
        Account, Times,
        collect::{Gathered, Named},
        session::add_host_mapping,
    },
    symbolize,
    target::Pid,
    unnamed::Gaps,
};

/// Captures that the whole span is made of, and the shortest that there are.
const SEGMENTS: u32 = 60;
const SHORTEST: Duration = Duration::from_secs(1);
/// Memory for what is remembered, in bytes: a large host may remember less than it is asked to.
const MOST_BYTES: usize = 128 << 20;

/// Characters of a container's id that tell it from others: what engines show.
const CONTAINER_CHARS: usize = 12;

/// What samples are labelled with, to be told apart later.
const LABELS: [LabelKey; 6] = [
    LabelKey::Comm,
    LabelKey::Pid,
    LabelKey::Tid,
    LabelKey::Cpu,
    LabelKey::Cgroup,
    LabelKey::Container,
];

/// How far back the recorder remembers, and how closely it looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecorderSettings {
    /// How far back.
    pub span: Duration,
    /// Samples per second and CPU.
    pub frequency_hz: u32,
}

/// A few seconds of the host.
pub(super) struct Segment {
    pub(super) began: Instant,
    pub(super) ended: Instant,
    counts: Counts,
    bytes: usize,
    stage: Mutex<Stage>,
}

enum Stage {
    Raw(Box<(Gathered, Option<KernelSymbols>)>),
    Named(Arc<Named>),
    /// A bug of ours made it unreadable.
    Lost,
}

impl Segment {
    pub(super) fn new(
        [began, ended]: [Instant; 2],
        counts: Counts,
        gathered: Gathered,
        printed: Option<KernelSymbols>,
    ) -> Self {
        Self {
            began,
            ended,
            counts,
            bytes: gathered.bytes(),
            stage: Mutex::new(Stage::Raw(Box::new((gathered, printed)))),
        }
    }

    fn named(&self, symbols: symbolize::Settings) -> Option<Arc<Named>> {
        let mut stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        let named = match std::mem::replace(&mut *stage, Stage::Lost) {
            Stage::Raw(raw) => {
                let (gathered, printed) = *raw;
                bug::contain(|| Arc::new(gathered.name_to_keep(symbols, printed.as_ref())))
            }
            Stage::Named(named) => Some(named),
            Stage::Lost => None,
        };
        if let Some(named) = &named {
            *stage = Stage::Named(Arc::clone(named));
        }
        named
    }
}

/// What is remembered, and who waits for some of it.
pub(super) struct Recorder {
    settings: RecorderSettings,
    segments: VecDeque<Arc<Segment>>,
    pub(super) asked: Vec<(Recent, Reply)>,
}

impl Recorder {
    pub(super) fn new(settings: RecorderSettings) -> Self {
        Self {
            settings,
            segments: VecDeque::new(),
            asked: Vec::new(),
        }
    }

    /// The capture that becomes the next part of what is remembered.
    pub(super) fn wanted(&self) -> Wanted {
        Wanted {
            target: Target::Host,
            frequency_hz: self.settings.frequency_hz,
            duration: (self.settings.span / SEGMENTS).max(SHORTEST),
            patience: Duration::ZERO,
            labels: Some(LABELS.to_vec()),
            times: Times::LeftOut,
            program: Program::Any,
        }
    }

    /// Remembers a part, and forgets those that are too old or too much.
    pub(super) fn push(&mut self, segment: Segment) {
        self.segments.push_back(Arc::new(segment));
        let is_old = |segment: &Segment| segment.ended.elapsed() > self.settings.span;
        while self.segments.front().is_some_and(|first| is_old(first)) {
            self.segments.pop_front();
        }
        let mut bytes: usize = self.segments.iter().map(|segment| segment.bytes).sum();
        while bytes > MOST_BYTES && self.segments.len() > 1 {
            bytes -= self.segments.pop_front().map_or(0, |first| first.bytes);
        }
    }

    /// Those that reach into the last so many seconds, the oldest first.
    pub(super) fn last(&self, last: Duration) -> Vec<Arc<Segment>> {
        let reaches = |segment: &&Arc<Segment>| segment.ended.elapsed() < last;
        self.segments.iter().filter(reaches).cloned().collect()
    }
}

/// What the recorder has of a target.
pub(super) struct Remembered {
    pub(super) profile: Profile,
    pub(super) account: Account,
    pub(super) gaps: Gaps,
    pub(super) counts: Counts,
}

/// The samples of a target in these parts, named. `pids` are processes that are it now.
pub(super) fn remembered(
    segments: &[Arc<Segment>],
    recent: &Recent,
    pids: &BTreeSet<Pid>,
    symbols: symbolize::Settings,
) -> Remembered {
    let shown = recent.target.labels(recent.labels.as_deref());
    let mut all: Option<Profile> = None;
    let (mut account, mut gaps) = (Account::default(), Gaps::default());
    let mut counts = Counts::default();
    for segment in segments {
        let Some(named) = segment.named(symbols) else {
            continue;
        };
        let is_wanted = |sample: &Sample<'_>| is_of(&recent.target, pids, &named.profile, sample);
        let (mut part, told, missing) = named.part(&shown, is_wanted);
        part.duration_ns = u64::try_from(segment.counts.sampled.as_nanos()).unwrap_or(u64::MAX);
        account.kept += told.kept;
        account.complete += told.complete;
        account.frames += told.frames;
        account.unnamed += told.unnamed;
        for (reason, count) in told.cut {
            *account.cut.entry(reason).or_insert(0) += count;
        }
        gaps.merge(missing);
        counts.add(&segment.counts);
        match &mut all {
            Some(all) => all.merge(&part),
            None => all = Some(part),
        }
    }
    let mut profile = all.unwrap_or_else(|| Profile::cpu(0));
    add_host_mapping(&mut profile);
    account.count(&counts);
    // Whose the lost ones were nobody knows: they count as the target's.
    account.due = account.kept + account.lost();
    account.elsewhere = (counts.due + counts.elsewhere).saturating_sub(account.due);
    Remembered {
        profile,
        account,
        gaps,
        counts,
    }
}

/// Whether a sample is a target's, by its labels.
fn is_of(target: &Target, pids: &BTreeSet<Pid>, profile: &Profile, sample: &Sample<'_>) -> bool {
    let label = |wanted: LabelKey| {
        let mut labels = sample.labels.iter();
        labels.find_map(|(key, value)| (*key == wanted).then_some(*value))
    };
    let text = |key| match label(key) {
        Some(LabelValue::Text(id)) => profile.text(id),
        _ => "",
    };
    let pid = match label(LabelKey::Pid) {
        Some(LabelValue::Number(number, _)) => u32::try_from(number).ok().map(Pid),
        _ => None,
    };
    let is_one_of = |pids: &BTreeSet<Pid>| pid.is_some_and(|pid| pids.contains(&pid));
    match target {
        Target::Host => true,
        Target::Process(wanted) => pid == Some(*wanted),
        Target::Comm(name) => text(LabelKey::Comm) == name || is_one_of(pids),
        Target::Cgroup(path) => {
            let own = Path::new(text(LabelKey::Cgroup));
            let from_root = Path::new("/").join(path);
            own.starts_with(from_root) || is_one_of(pids)
        }
        Target::Container(id) => {
            let own = text(LabelKey::Container);
            let is_it = own == id || (id.len() >= CONTAINER_CHARS && own.starts_with(id.as_str()));
            is_it || is_one_of(pids)
        }
    }
}
