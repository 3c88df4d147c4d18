//! One program, stopped at some instructions: our stacks against gdb's and framehop's.

use std::collections::BTreeSet;

use ebpfprof::{
    replay::{Library, Replay, Thread},
    unwind::Walked,
};
use profiler_common::stop::StopReason;

use crate::{
    framehop,
    gdb::{Frame, Stop, Stops},
    kept,
};

/// How our stacks compare with gdb's.
#[derive(Clone, Copy)]
pub(crate) enum Gdb {
    /// All are complete and have gdb's frames.
    Same,
    /// Those that are not complete end for this reason, at or before gdb's last frame. There is one.
    Cut(StopReason, &'static str),
    /// All are complete, and gdb is wrong about one.
    Errs(&'static str),
}

/// How our stacks compare with framehop's.
#[derive(Clone, Copy)]
pub(crate) enum Framehop {
    /// They have the same frames.
    Same,
    /// At least one is another.
    Errs(&'static str),
}

/// What is expected of a program.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    pub(crate) gdb: Gdb,
    pub(crate) framehop: Framehop,
    /// Functions that follow each other in a stack, innermost first, perhaps with others between.
    pub(crate) functions: &'static [&'static str],
    /// Part of the path of an object that an innermost frame lies in.
    pub(crate) reaches: &'static str,
    /// A stop to keep in a small file, and the name of that.
    pub(crate) keep: Option<(usize, &'static str)>,
}

impl Case {
    /// All agree.
    pub(crate) const SAME: Self = Self {
        gdb: Gdb::Same,
        framehop: Framehop::Same,
        functions: &[],
        reaches: "",
        keep: None,
    };

    /// All agree, and a stack has these functions.
    pub(crate) const fn with(functions: &'static [&'static str]) -> Self {
        Self {
            functions,
            ..Self::SAME
        }
    }

    /// Compares all stacks of all stops.
    #[track_caller]
    pub(crate) fn check(&self, stops: &Stops) {
        let (mut library, mut objects) = (Library::default(), framehop::Objects::default());
        let mut seen = Seen::default();
        for (number, stop) in stops.stops.iter().enumerate() {
            let replay = Replay::open(&stop.core, &mut library).unwrap();
            assert_eq!(replay.threads().len(), stop.stacks.len());
            let unwinder = objects.unwinder(&replay);
            for thread in replay.threads() {
                let gdb = stack_of(stop, thread);
                let ours = replay.walk(thread);
                self.compare(&ours, gdb);
                let others = framehop::walk(&unwinder, &replay, thread);
                seen.note(&ours, gdb, &others);
                if let Framehop::Same = self.framehop {
                    assert_eq!(pcs(&ours), others, "framehop; gdb has {gdb:x?}");
                }
                seen.holds_functions |= is_subsequence(self.functions, gdb);
                let [.., pc] = thread.registers;
                let code = replay
                    .code()
                    .iter()
                    .find(|code| (code.start..code.end).contains(&pc));
                seen.reached.extend(code.map(|code| code.path.clone()));
            }
            if let Some((kept_stop, name)) = self.keep
                && kept_stop == number
            {
                let [thread, ..] = replay.threads() else {
                    panic!("no thread");
                };
                kept::bless(name, &replay, thread, stack_of(stop, thread));
            }
        }
        self.check_all(&seen);
    }

    #[track_caller]
    fn compare(&self, ours: &Walked, gdb: &[Frame]) {
        let (frames, expected) = (pcs(ours), pcs_of(gdb));
        let is_complete = ours.stop.is_complete();
        let agrees = match self.gdb {
            Gdb::Same => is_complete && frames == expected,
            Gdb::Cut(_, _) if is_complete => frames == expected,
            Gdb::Cut(stop, _) => ours.stop == stop && expected.starts_with(&frames),
            Gdb::Errs(_) => is_complete,
        };
        assert!(agrees, "ours {ours:x?}\ngdb {gdb:x?}");
    }

    #[track_caller]
    fn check_all(&self, seen: &Seen) {
        match self.gdb {
            Gdb::Same => {}
            Gdb::Cut(_, why) => assert!(seen.cut > 0, "no stack is cut any more: {why}"),
            Gdb::Errs(why) => assert!(seen.gdb_differs > 0, "gdb errs no more: {why}"),
        }
        if let Framehop::Errs(why) = self.framehop {
            assert!(seen.framehop_differs > 0, "framehop errs no more: {why}");
        }
        let functions = self.functions;
        assert!(
            seen.holds_functions,
            "no stack has {functions:?}; the last is {:x?}",
            seen.last
        );
        let reached = seen.reached.iter().any(|path| path.contains(self.reaches));
        assert!(
            reached,
            "{:?} is not among {:?}",
            self.reaches, seen.reached
        );
    }
}

/// Every stack of all stops, as we have it and as gdb has it.
#[track_caller]
pub(crate) fn walks(stops: &Stops) -> Vec<(Walked, Vec<Frame>)> {
    let mut library = Library::default();
    let mut walks = Vec::new();
    for stop in &stops.stops {
        let replay = Replay::open(&stop.core, &mut library).unwrap();
        for thread in replay.threads() {
            walks.push((replay.walk(thread), stack_of(stop, thread).to_vec()));
        }
    }
    walks
}

/// What came up in all stacks.
#[derive(Default)]
struct Seen {
    cut: usize,
    gdb_differs: usize,
    framehop_differs: usize,
    holds_functions: bool,
    /// gdb's last stack.
    last: Vec<Frame>,
    /// Paths of the objects that innermost frames lie in.
    reached: BTreeSet<String>,
}

impl Seen {
    fn note(&mut self, ours: &Walked, gdb: &[Frame], framehop: &[u64]) {
        let frames = pcs(ours);
        self.cut += usize::from(!ours.stop.is_complete());
        self.gdb_differs += usize::from(frames != pcs_of(gdb));
        self.framehop_differs += usize::from(frames != framehop);
        self.last = gdb.to_vec();
    }
}

#[track_caller]
fn stack_of<'a>(stop: &'a Stop, thread: &Thread) -> &'a [Frame] {
    let stack = stop.stacks.iter().find(|(tid, _)| *tid == thread.tid);
    let (_, frames) = stack.expect("gdb has the thread");
    frames
}

fn pcs(walked: &Walked) -> Vec<u64> {
    walked.frames.iter().map(|frame| frame.pc).collect()
}

fn pcs_of(stack: &[Frame]) -> Vec<u64> {
    stack.iter().map(|frame| frame.pc).collect()
}

fn is_subsequence(functions: &[&str], stack: &[Frame]) -> bool {
    let mut rest = stack.iter();
    functions
        .iter()
        .all(|name| rest.any(|frame| frame.name == *name))
}
