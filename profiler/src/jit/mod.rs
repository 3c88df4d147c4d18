//! Names of code that processes make at run time.
//!
//! In: frames in executable memory that no file backs, each with its process and time; what happens
//! to processes; the perf maps and jitdumps that runtimes write. Out: for each frame a [`Place`],
//! and in the end its name, or why there is none.
//!
//! A name is that of what was there when the sample was taken: code is moved and replaced, and what
//! a runtime tells late still counts. Where two pieces of code come into question, there is none.
//! Everything read here belongs to the targets and is taken for hostile: files are opened with care,
//! read in pieces, and kept in bounded memory.

mod code;
mod find;
mod jitdump;
mod lines;
mod names;
mod perf_map;
mod process;
mod runtime;
mod tail;

use std::{
    cell::RefCell,
    rc::{Rc, Weak},
    sync::Arc,
    time::{Duration, Instant},
};

use foldhash::HashMap;

pub use code::{Appeared, Code, CodeMap, Found, Late};
pub use find::{Refusal, Told, told};
pub use jitdump::{Clock, Jitdump};
pub use lines::Lines;
pub use names::Named;
pub use perf_map::PerfMap;
pub use runtime::Runtime;
pub use tail::Now;

use crate::{
    object::Objects,
    process::{Change, ProcessEvent, Processes},
    target::Pid,
};
use process::{Birth, Process};

/// How often the file of a process is looked at.
const LOOK_NS: u64 = 100_000_000;
/// What is read of all files between two looks at the rings, in bytes: some hundredths of a second.
const MOST_READ_BYTES: u64 = 4 << 20;
/// How long the end may read what was written meanwhile.
pub const LAST_PATIENCE: Duration = Duration::from_secs(3);
/// Memory for entries and names of all processes, unless told.
pub const DEFAULT_BYTES: usize = 64 << 20;
/// What names can be told apart in.
const MOST_BYTES: usize = 2 << 30;
/// The smallest that is shed of.
const FEWEST_BYTES: usize = 1 << 16;
/// Most processes whose birth is remembered, in case that their code turns out to be their parent's.
const MOST_BIRTHS: usize = 1 << 16;
/// How many parents are asked for the code of a process.
const MOST_PARENTS: u32 = 16;

/// A frame's code at one time, by number: frames of one place have one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place(u32);

impl Place {
    /// Its position in [`Finished::names`].
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> u32 {
        self.0
    }
}

/// Why frames of a process have no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum JitReason {
    /// The process wrote no map.
    NoMap,
    /// It ended before its map was looked for.
    Gone,
    /// There is a map, and it was not read.
    Refused(Refusal),
    /// There is a map, and it says nothing of the address.
    NotInMap,
    /// One piece of code took the place of another at about the time of the sample.
    Replaced,
    /// The map is larger than the memory for it, or than the time: its newest part was kept.
    LeftOut,
}

/// Frames of one process without a name, for one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JitReport {
    /// The process.
    pub pid: Pid,
    /// The name of the first of its threads that had such a frame.
    pub comm: String,
    /// What made the code.
    pub runtime: Runtime,
    /// Why they have no name.
    pub reason: JitReason,
    /// How many: a sample has as many as lie on its stack.
    pub frames: u64,
}

/// Whose code a place is, and why it has no name if it has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// The process.
    pub pid: Pid,
    /// The name of the first of its threads that had a frame in such code.
    pub comm: Arc<str>,
    /// What made the code.
    pub runtime: Runtime,
    /// Why it has no name. Means nothing where there is one.
    pub reason: JitReason,
}

/// What there is in the end.
#[derive(Debug, Default)]
pub struct Finished {
    /// The name of each [`Place`], where it has one.
    pub names: Vec<Option<Named>>,
    /// Whose code each [`Place`] is.
    pub made: Vec<Made>,
    /// Frames without a name, the most first.
    pub reports: Vec<JitReport>,
}

type Shared = Rc<RefCell<Process>>;

/// The code that processes made.
#[derive(Debug)]
pub struct Jit {
    processes: HashMap<Pid, Shared>,
    /// Those that are closed: some are kept by their children.
    closed: Vec<Weak<RefCell<Process>>>,
    births: HashMap<Pid, Birth>,
    book: Book,
    most_bytes: usize,
    /// Whether the rest is being read, and files that were not there were asked for once more.
    asked_again: bool,
}

/// The places so far, and what is known of those that are done.
#[derive(Debug, Default)]
struct Book {
    names: Vec<Option<Named>>,
    made: Vec<Made>,
    reports: HashMap<(Pid, String, Runtime, JitReason), u64>,
}

impl Book {
    fn new_place(&mut self, name: Option<Named>, made: Made) -> Place {
        let number = u32::try_from(self.names.len()).expect("fewer than 2^32 places fit in memory");
        self.names.push(name);
        self.made.push(made);
        Place(number)
    }
}

impl Default for Jit {
    fn default() -> Self {
        Self::new(DEFAULT_BYTES)
    }
}

impl Jit {
    /// Nothing known yet. `most_bytes` bounds the memory for entries and names of all processes.
    #[must_use]
    pub fn new(most_bytes: usize) -> Self {
        Self {
            processes: HashMap::default(),
            closed: Vec::new(),
            births: HashMap::default(),
            book: Book::default(),
            most_bytes: most_bytes.min(MOST_BYTES),
            asked_again: false,
        }
    }

    /// The place of a frame. The address is the one to look up, so a return address less one; `comm`
    /// is the name of its thread.
    pub fn place(
        &mut self,
        pid: Pid,
        address: u64,
        time_ns: u64,
        comm: impl FnOnce() -> String,
    ) -> Place {
        let process = self.process(pid, MOST_PARENTS);
        let mut process = process.borrow_mut();
        process.place(address, time_ns, comm, &mut self.book)
    }

    /// A process may turn out to have frames in code that it made: its files are looked for while
    /// it is there.
    pub fn expect(&mut self, pid: Pid) {
        self.process(pid, MOST_PARENTS);
    }

    /// Takes into account what happened to processes.
    pub fn apply(&mut self, event: &ProcessEvent) {
        let at_ns = event.time_ns;
        match &event.change {
            Change::Fork { pid, parent } if pid != parent => {
                self.close(*pid);
                let parent = *parent;
                if self.births.len() < MOST_BIRTHS {
                    self.births.insert(*pid, Birth::Fork { parent, at_ns });
                }
            }
            Change::Exec { pid, .. } => {
                let left = self.close(*pid);
                if left.is_some() || self.births.len() < MOST_BIRTHS {
                    self.births.insert(*pid, Birth::Exec { at_ns, left });
                }
            }
            Change::Exit { pid, tid } if pid.0 == tid.0 && !self.processes.contains_key(pid) => {
                self.births.remove(pid);
            }
            _ => {}
        }
    }

    /// Reads what runtimes wrote since the last time, if that was a while ago.
    pub fn read(&mut self, now: Now, processes: &Processes, objects: &Objects) {
        let mut left = MOST_READ_BYTES;
        for (pid, process) in &self.processes {
            let mut process = process.borrow_mut();
            if process.looked_ns + LOOK_NS > now.ns {
                continue;
            }
            process.looked_ns = now.ns;
            process.look(now, processes.space(*pid), objects);
            if left > 0 {
                left = left.saturating_sub(process.read(left));
            }
            process.settle(&mut self.book);
        }
        self.shed();
    }

    /// Processes that ended a while ago: their pids may be given to others.
    pub fn forget(&mut self, pids: &[Pid]) {
        for pid in pids {
            self.close(*pid);
            self.births.remove(pid);
        }
    }

    /// Reads a piece of the rest: of what was written until it was called first. False when there is
    /// nothing left.
    pub fn read_rest(&mut self, now: Now, processes: &Processes, objects: &Objects) -> bool {
        let mut left = MOST_READ_BYTES;
        for process in self.processes.values() {
            left = left.saturating_sub(process.borrow_mut().read(left));
            if left == 0 {
                break;
            }
        }
        self.shed();
        if left < MOST_READ_BYTES || self.asked_again {
            return left < MOST_READ_BYTES;
        }
        self.asked_again = true;
        for (pid, process) in &self.processes {
            let mut process = process.borrow_mut();
            process.ask_again();
            process.look(now, processes.space(*pid), objects);
        }
        true
    }

    /// Reads the rest if it takes no longer than this, and names what can be named.
    #[must_use]
    pub fn finish(
        mut self,
        now: Now,
        processes: &Processes,
        objects: &Objects,
        patience: Duration,
    ) -> Finished {
        let deadline = Instant::now() + patience;
        while self.read_rest(now, processes, objects) && Instant::now() < deadline {}
        for pid in self.processes.keys().copied().collect::<Vec<Pid>>() {
            self.close(pid);
        }
        let mut reports: Vec<JitReport> = self
            .book
            .reports
            .into_iter()
            .map(|((pid, comm, runtime, reason), frames)| JitReport {
                pid,
                comm,
                runtime,
                reason,
                frames,
            })
            .collect();
        reports.sort_by(|a, b| (b.frames, a.pid, a.reason).cmp(&(a.frames, b.pid, b.reason)));
        for report in &reports {
            log::debug!("code made at run time without a name: {report:?}");
        }
        Finished {
            names: self.book.names,
            made: self.book.made,
            reports,
        }
    }

    /// What is known of a process, which has just made itself known if it is nothing.
    fn process(&mut self, pid: Pid, parents: u32) -> Shared {
        if let Some(process) = self.processes.get(&pid) {
            return Rc::clone(process);
        }
        let birth = self.births.remove(&pid);
        let birth = birth.or_else(|| Birth::before_us(pid));
        let parent = match birth {
            Some(Birth::Fork { parent, at_ns }) if parents > 0 => {
                Some((self.process(parent, parents - 1), at_ns))
            }
            _ => None,
        };
        let process = Rc::new(RefCell::new(Process::new(pid, birth, parent)));
        self.processes.insert(pid, Rc::clone(&process));
        process
    }

    /// Names the frames of a process as far as possible, and forgets it; its children may still ask
    /// it. Tells how far its map was read.
    fn close(&mut self, pid: Pid) -> Option<tail::Left> {
        let shared = self.processes.remove(&pid)?;
        let left = {
            let mut process = shared.borrow_mut();
            process.close(&mut self.book);
            process.left()
        };
        self.closed.retain(|process| process.strong_count() > 0);
        self.closed.push(Rc::downgrade(&shared));
        left
    }

    /// Lets the oldest go of the process that has the most, until all is small enough.
    fn shed(&mut self) {
        let bytes = |process: &Shared| process.borrow().bytes();
        loop {
            let closed = self.closed.iter().filter_map(Weak::upgrade);
            let every: Vec<Shared> = self.processes.values().cloned().chain(closed).collect();
            let all: usize = every.iter().map(bytes).sum();
            let most = every.iter().max_by_key(|process| bytes(process));
            let Some(most) = most.filter(|process| bytes(process) > FEWEST_BYTES) else {
                return;
            };
            if all <= self.most_bytes {
                return;
            }
            most.borrow_mut().shed();
        }
    }
}

#[cfg(test)]
mod tests;
