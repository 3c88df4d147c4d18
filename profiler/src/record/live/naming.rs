//! Names profiles while the sampler goes on: a thread for each, and few at a time.

use std::{
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use super::{
    Reply,
    recorder::{self, Remembered, Segment},
};
use crate::{
    bpf::{Counts, KernelSymbols},
    bug,
    captures::{CaptureError, Captured, Recent, State, Target},
    privilege,
    record::{
        Cost, End,
        collect::{Finished, Gathered},
        session::{add_host_mapping, symbol_notes},
        usage::{self, Usage},
    },
    symbolize,
    target::CgroupFilter,
};

/// Profiles that are named at one time: each may take the memory that symbols may have.
const MOST_AT_ONCE: usize = 2;

/// Times of naming that are kept for whoever asks for them.
const MOST_NOTED: usize = 1024;

/// What is known of a capture when its sampling is over.
pub(super) struct Sampled {
    pub(super) gathered: Gathered,
    pub(super) printed: Option<KernelSymbols>,
    pub(super) counts: Counts,
    pub(super) label: String,
    pub(super) notes: Vec<String>,
    pub(super) end: End,
    pub(super) elapsed: Duration,
    pub(super) cpu: Duration,
    pub(super) bpf: Option<Duration>,
    pub(super) kernel_bytes: u64,
    pub(super) first_sample: Option<Duration>,
    pub(super) frequencies_hz: (u32, u32),
    /// How long naming may take.
    pub(super) patience: Duration,
    pub(super) reply: Reply,
}

/// The threads that name.
#[derive(Clone)]
pub(super) struct Namers {
    symbols: symbolize::Settings,
    state: Arc<Mutex<State>>,
    turns: Arc<Turns>,
}

/// Has some go on at one time, and the others wait.
#[derive(Default)]
struct Turns {
    busy: Mutex<usize>,
    free: Condvar,
}

impl Turns {
    fn wait(&self) -> Turn<'_> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        while *busy >= MOST_AT_ONCE {
            busy = self.free.wait(busy).unwrap_or_else(PoisonError::into_inner);
        }
        *busy += 1;
        Turn(self)
    }
}

struct Turn<'a>(&'a Turns);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut busy = self.0.busy.lock().unwrap_or_else(PoisonError::into_inner);
        *busy -= 1;
        self.0.free.notify_one();
    }
}

impl Namers {
    pub(super) fn new(symbols: symbolize::Settings, state: Arc<Mutex<State>>) -> Self {
        Self {
            symbols,
            state,
            turns: Arc::default(),
        }
    }

    /// Names a profile, and answers with it.
    pub(super) fn name(&self, sampled: Sampled) {
        let namers = self.clone();
        let thread = thread::Builder::new().name("namer".to_owned());
        let spawned = thread.spawn(move || {
            privilege::keep_only(privilege::NAMING);
            let deadline = Instant::now() + sampled.patience;
            let turn = namers.turns.wait();
            if sampled.reply.is_closed() {
                return;
            }
            let began = Instant::now();
            let (reply, captured) = named(sampled, namers.symbols, deadline);
            drop(turn);
            let mut state = namers.state.lock().unwrap_or_else(PoisonError::into_inner);
            note(&mut state.naming, began.elapsed());
            state.finished += 1;
            drop(state);
            // Nobody may wait any more.
            reply.send(captured);
        });
        if let Err(error) = spawned {
            log::warn!("cannot start a thread to name a profile: {error}");
        }
    }
}

impl Namers {
    /// Answers from what the flight recorder has.
    pub(super) fn remember(&self, question: Question) {
        let namers = self.clone();
        let thread = thread::Builder::new().name("namer".to_owned());
        let spawned = thread.spawn(move || {
            privilege::keep_only(privilege::NAMING);
            let turn = namers.turns.wait();
            if question.reply.is_closed() {
                return;
            }
            let deadline = Instant::now() + question.recent.patience;
            let symbols = symbolize::Settings {
                deadline: Some(deadline),
                ..namers.symbols
            };
            let began = Instant::now();
            let answered = bug::contain(|| answered(&question, symbols));
            drop(turn);
            let mut state = namers.state.lock().unwrap_or_else(PoisonError::into_inner);
            note(&mut state.naming, began.elapsed());
            drop(state);
            let reply = question.reply;
            reply.send(answered.unwrap_or(Err(CaptureError::Ended)));
        });
        if let Err(error) = spawned {
            log::warn!("cannot start a thread to name a profile: {error}");
        }
    }
}

/// Notes how long naming took, while somebody asks for that.
fn note(naming: &mut Vec<Duration>, took: Duration) {
    if naming.len() < MOST_NOTED {
        naming.push(took);
    }
}

/// What somebody wants of the flight recorder, and what there is.
pub(super) struct Question {
    pub(super) recent: Recent,
    pub(super) segments: Vec<Arc<Segment>>,
    pub(super) frequency_hz: u32,
    pub(super) has_bpf_time: bool,
    pub(super) kernel_bytes: u64,
    pub(super) reply: Reply,
}

fn answered(question: &Question, symbols: symbolize::Settings) -> Result<Captured, CaptureError> {
    let Question {
        recent, segments, ..
    } = question;
    let before = Usage::now();
    // What has ended since is found by its labels alone.
    let resolved = super::resolve(&recent.target.spec(), CgroupFilter::Processes);
    let (pids, label) = match resolved {
        Ok(targets) => (targets.pids, targets.label),
        Err(_) => (Vec::new(), "gone".to_owned()),
    };
    let pids = pids.into_iter().collect();
    let Remembered {
        profile,
        account,
        gaps,
        counts,
    } = recorder::remembered(segments, recent, &pids, symbols);
    if account.kept == 0 && pids.is_empty() && recent.target != Target::Host {
        super::resolve(&recent.target.spec(), CgroupFilter::Processes)?;
    }
    let elapsed = match (segments.first(), segments.last()) {
        (Some(first), Some(last)) => last.ended.duration_since(first.began),
        _ => Duration::ZERO,
    };
    let cost = Cost {
        elapsed,
        cpu: counts.run_time,
        bpf: question.has_bpf_time.then_some(counts.run_time),
        samples: account.due,
        resident_bytes: usage::peak_resident_bytes(),
        kernel_bytes: question.kernel_bytes,
        first_sample: None,
        afterwards: Usage::now().cpu.saturating_sub(before.cpu),
    };
    let whole = format!(
        "what the flight recorder has of the last {:.1} s, in parts of some seconds",
        elapsed.as_secs_f64()
    );
    Ok(Captured {
        profile,
        label,
        account,
        cost,
        frequencies_hz: (question.frequency_hz, question.frequency_hz),
        end: End::TimeIsOver,
        notes: vec![whole],
        gaps,
    })
}

fn named(
    sampled: Sampled,
    symbols: symbolize::Settings,
    deadline: Instant,
) -> (Reply, Result<Captured, CaptureError>) {
    let Sampled {
        gathered,
        printed,
        counts,
        label,
        mut notes,
        end,
        reply,
        ..
    } = sampled;
    let before = Usage::now();
    let symbols = symbolize::Settings {
        deadline: Some(deadline),
        ..symbols
    };
    let Some(finished) = bug::contain(|| gathered.name(symbols, printed.as_ref())) else {
        return (reply, Err(CaptureError::Ended));
    };
    let Finished {
        mut profile,
        mut account,
        symbolized,
        gaps,
    } = finished;
    notes.extend(symbol_notes(&symbolized));
    account.count(&counts);
    if let Some(flaw) = account.flaw() {
        log::error!("the account of a capture does not add up: {flaw}");
        notes.push(format!(
            "the account does not add up: {flaw}; report it as a bug"
        ));
    }
    profile.duration_ns = u64::try_from(counts.sampled.as_nanos()).unwrap_or(u64::MAX);
    add_host_mapping(&mut profile);
    let cost = Cost {
        elapsed: sampled.elapsed,
        cpu: sampled.cpu,
        bpf: sampled.bpf,
        samples: account.due,
        resident_bytes: usage::peak_resident_bytes(),
        kernel_bytes: sampled.kernel_bytes,
        first_sample: sampled.first_sample,
        afterwards: Usage::now().cpu.saturating_sub(before.cpu),
    };
    let captured = Captured {
        profile,
        label,
        account,
        cost,
        frequencies_hz: sampled.frequencies_hz,
        end,
        notes,
        gaps,
    };
    (reply, Ok(captured))
}
