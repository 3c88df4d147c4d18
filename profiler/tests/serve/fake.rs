//! Captures that are made up, and rules to try.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use ebpfprof::{
    captures::{CaptureError, Captured, Captures, Pending, Recent, State, Target, Wanted},
    profile::{
        FrameKind, Function, LabelKey, LabelValue, Line, Mapping, MappingKind, Profile, StringId,
    },
    record::{Account, Cost, End},
    server::policy::{Limits, Policy, Refusal, Who},
    unnamed::Gaps,
};

/// What becomes of a capture.
#[derive(Clone, Copy)]
pub(crate) enum Course {
    /// It is there at once.
    Done,
    /// Its target ended meanwhile.
    Ended,
    /// It never comes.
    Waits,
    /// It fails.
    Fails(fn() -> CaptureError),
    /// It panics.
    Panics,
}

/// Makes up captures.
pub(crate) struct Fake {
    pub(crate) course: Course,
    pub(crate) wanted: Mutex<Vec<Wanted>>,
    pub(crate) recent: Mutex<Vec<Recent>>,
    /// Captures that are waited for.
    pub(crate) waiting: Arc<AtomicUsize>,
}

impl Default for Fake {
    fn default() -> Self {
        Self::of(Course::Done)
    }
}

impl Fake {
    pub(crate) fn of(course: Course) -> Self {
        Self {
            course,
            wanted: Mutex::default(),
            recent: Mutex::default(),
            waiting: Arc::default(),
        }
    }

    /// The one capture that was wanted.
    #[track_caller]
    pub(crate) fn only(&self) -> Wanted {
        let wanted = self.wanted.lock().unwrap();
        assert_eq!(wanted.len(), 1);
        wanted[0].clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.wanted.lock().unwrap().len() + self.recent.lock().unwrap().len()
    }

    fn run(&self) -> Pending<Captured> {
        let (course, waiting) = (self.course, Waiting::begin(&self.waiting));
        Box::pin(async move {
            let _waiting = waiting;
            match course {
                Course::Done => Ok(captured(End::TimeIsOver)),
                Course::Ended => Ok(captured(End::TargetEnded)),
                Course::Waits => std::future::pending().await,
                Course::Fails(error) => Err(error()),
                Course::Panics => panic!("a panic that a test wants"),
            }
        })
    }
}

impl Captures for Fake {
    fn capture(&self, wanted: Wanted) -> Pending<Captured> {
        self.wanted.lock().unwrap().push(wanted);
        self.run()
    }

    fn recent(&self, recent: Recent) -> Pending<Captured> {
        self.recent.lock().unwrap().push(recent);
        self.run()
    }

    fn state(&self) -> State {
        State::default()
    }
}

/// Counts as one until it is dropped.
struct Waiting(Arc<AtomicUsize>);

impl Waiting {
    fn begin(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(count))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn captured(end: End) -> Captured {
    let account = Account {
        ticks: 100,
        due: 43,
        elsewhere: 57,
        kept: 42,
        ring_full: 1,
        complete: 42,
        frames: 84,
        ..Account::default()
    };
    Captured {
        profile: profile(),
        label: "server-77".to_owned(),
        account,
        cost: Cost {
            elapsed: Duration::from_secs(1),
            ..Cost::default()
        },
        frequencies_hz: (99, 99),
        end,
        notes: vec!["said once".to_owned()],
        gaps: Gaps::default(),
    }
}

/// 42 samples in two functions of a program.
fn profile() -> Profile {
    let mut profile = Profile::cpu(10_101_010);
    (profile.time_ns, profile.duration_ns) = (1_700_000_000_000_000_000, 1_000_000_000);
    let path = profile.string("/usr/bin/server");
    let mapping = profile.mapping(Mapping {
        kind: MappingKind::Main,
        start: 0x40_0000,
        limit: 0x41_0000,
        file_offset: 0,
        path,
        build_id: StringId::EMPTY,
    });
    let mut place = |name: &str, address| {
        let id = profile.location(FrameKind::User, Some(mapping), address);
        let function = Function {
            name: profile.string(name),
            system_name: StringId::EMPTY,
            file: StringId::EMPTY,
            start_line: 0,
        };
        let function = profile.function(function);
        let (line, column) = (7, 0);
        let line = Line {
            function,
            line,
            column,
        };
        profile.set_lines(id, vec![line]);
        id
    };
    let (main, work) = (place("main", 0x40_1000), place("work", 0x40_2000));
    let comm = LabelValue::Text(profile.string("server"));
    profile.add(&[work, main], &[(LabelKey::Comm, comm)], 40);
    profile.add(&[main], &[(LabelKey::Comm, comm)], 2);
    profile
}

/// Rules: how much of anything, and what of nothing.
#[derive(Default)]
pub(crate) struct Rules {
    pub(crate) limits: Limits,
    /// Kinds that nobody may have.
    pub(crate) denied: Vec<&'static str>,
    /// The one target of which anything may be had; `None` for all.
    pub(crate) only: Option<Target>,
}

impl Policy for Rules {
    fn may(&self, who: &Who, target: &Target, kind: &str) -> Result<(), Refusal> {
        let is_denied = self.denied.contains(&kind);
        if is_denied || self.only.as_ref().is_some_and(|only| only != target) {
            return Err(Refusal(format!("{who} may not have {kind}\nof this")));
        }
        Ok(())
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn shown_cmdline(&self, mut arguments: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        for argument in &mut arguments {
            if argument.starts_with(b"--password=") {
                *argument = b"--password=\xe2\x80\xa6".to_vec();
            }
        }
        arguments
    }
}
