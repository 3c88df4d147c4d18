//! Which objects have their unwind table in the kernel side's memory.
//!
//! In: objects that processes map, and those that stacks pass through. Out: for each object a slot,
//! and in time the table behind it. A table is compiled when a stack first needs it, or before the
//! first sample for the processes that a run is of; it is shared by all processes that map the
//! object, and the one that was not needed for longest makes room when the memory is full.

mod worker;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use foldhash::{HashMap, HashSet};
use profiler_common::{limits::MAX_TABLES, stop::StopReason, walk::Knowledge};

use crate::{
    bpf::{Slot, Stored, Tables},
    object::{ElfAddr, ObjectId, Objects},
};
use worker::{Done, Job, Workers};

/// A table that a stack needed this recently does not make room for another.
const KEEP_NS: u64 = 10_000_000_000;
/// A table that found no room is tried again after this time.
const RETRY_NS: u64 = 2_000_000_000;

/// How far an object's table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No stack has needed it.
    Unneeded,
    /// It is being compiled.
    UnderWay,
    /// The kernel side walks by it.
    Resident,
    /// The memory had no room for it at this time.
    Refused { at_ns: u64 },
    /// The object has none.
    Absent,
    /// The object's file cannot be read.
    Unreadable,
}

#[derive(Debug)]
struct Entry {
    slot: Slot,
    state: State,
    used_ns: u64,
}

/// The tables of a run's objects.
pub struct Residency {
    entries: HashMap<ObjectId, Entry>,
    workers: Workers,
    installed: u64,
    now_ns: u64,
}

/// What to expect of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prospect {
    /// It is being made: a stack that lacks it may wait.
    ToCome,
    /// It is there, or will not be.
    None,
}

impl Residency {
    /// No table yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            entries: HashMap::default(),
            workers: Workers::new(),
            installed: 0,
            now_ns: 0,
        }
    }

    /// The slot of an object, for mapping entries. `None` when there are too many objects.
    pub fn slot(&mut self, object: ObjectId, tables: &mut Tables) -> Option<Slot> {
        if let Some(entry) = self.entries.get(&object) {
            return Some(entry.slot);
        }
        let slot = tables.open_slot()?;
        let entry = Entry {
            slot,
            state: State::Unneeded,
            used_ns: self.now_ns,
        };
        self.entries.insert(object, entry);
        Some(slot)
    }

    /// Has an object's table made, if it is not made or under way. Tells whether it is to come.
    pub fn request(
        &mut self,
        object: ObjectId,
        tables: &mut Tables,
        objects: &Objects,
    ) -> Prospect {
        if self.slot(object, tables).is_none() {
            return Prospect::None;
        }
        let Some(entry) = self.entries.get_mut(&object) else {
            return Prospect::None;
        };
        entry.used_ns = self.now_ns;
        let is_wanted = match entry.state {
            State::Unneeded => true,
            State::Refused { at_ns } => at_ns + RETRY_NS < self.now_ns,
            State::UnderWay => return Prospect::ToCome,
            State::Resident | State::Absent | State::Unreadable => false,
        };
        if !is_wanted {
            return Prospect::None;
        }
        match job(object, objects) {
            Some(job) => {
                entry.state = State::UnderWay;
                self.workers.submit(job);
                Prospect::ToCome
            }
            None => {
                entry.state = State::Unreadable;
                tables.mark_unreadable(entry.slot);
                Prospect::None
            }
        }
    }

    /// Takes over what is compiled, until nothing is under way or `patience` ends.
    pub fn wait(&mut self, patience: Duration, tables: &mut Tables) {
        let deadline = Instant::now() + patience;
        while let Some(done) = self
            .workers
            .next(deadline.saturating_duration_since(Instant::now()))
        {
            self.install(&done, tables);
        }
        tables.settle(deadline.saturating_duration_since(Instant::now()));
    }

    /// Takes over the next that is compiled. `None` if none is under way, or none came in time.
    pub fn wait_for_one(&mut self, patience: Duration, tables: &mut Tables) -> Option<()> {
        let done = self.workers.next(patience)?;
        self.install(&done, tables);
        Some(())
    }

    /// How many tables were taken over so far, or turned out not to be.
    #[must_use]
    pub fn installed(&self) -> u64 {
        self.installed
    }

    /// Takes over what is compiled by now.
    pub fn collect(&mut self, now_ns: u64, tables: &mut Tables) {
        self.now_ns = now_ns;
        self.wait(Duration::ZERO, tables);
    }

    fn install(&mut self, done: &Done, tables: &mut Tables) {
        self.installed += 1;
        let Some(slot) = self.entries.get(&done.object).map(|entry| entry.slot) else {
            return; // Nobody maps the object any more.
        };
        let state = match &done.table {
            Ok(table) => self.store(slot, table, tables),
            Err(error) => {
                log::debug!("object {}: no unwind table: {error}", done.object.get());
                if error.describes_nothing() {
                    tables.mark_absent(slot);
                    State::Absent
                } else {
                    tables.mark_unreadable(slot);
                    State::Unreadable
                }
            }
        };
        if let Some(entry) = self.entries.get_mut(&done.object) {
            entry.state = state;
        }
    }

    /// Stores a table, in the place of others if need be.
    fn store(&mut self, slot: Slot, table: &crate::unwind::Table, tables: &mut Tables) -> State {
        match tables.store(slot, table) {
            Stored::Resident => State::Resident,
            Stored::NoRoom => {
                // Evicted memory rests for a while, so this table gets its room the next time.
                self.evict_oldest(table.rows().len() * 8, tables);
                tables.mark_refused(slot);
                State::Refused { at_ns: self.now_ns }
            }
        }
    }

    /// Makes room of some bytes, if tables that no stack needs lately have as much.
    fn evict_oldest(&mut self, bytes: usize, tables: &mut Tables) {
        let now_ns = self.now_ns;
        let mut idle: Vec<&mut Entry> = self
            .entries
            .values_mut()
            .filter(|entry| entry.state == State::Resident && entry.used_ns + KEEP_NS < now_ns)
            .collect();
        idle.sort_by_key(|entry| entry.used_ns);
        let mut freed = 0;
        for entry in idle {
            if freed >= bytes {
                break;
            }
            freed += tables.evict(entry.slot);
            entry.state = State::Unneeded;
        }
    }

    /// A stack passes through this object.
    pub fn mark_used(&mut self, object: ObjectId) {
        if let Some(entry) = self.entries.get_mut(&object) {
            entry.used_ns = self.now_ns;
        }
    }

    /// What is known of an object's code.
    ///
    /// # Errors
    /// Why a walk cannot go on: [`StopReason::NoTableYet`] if waiting helps.
    pub fn look_up(
        &self,
        object: ObjectId,
        address: ElfAddr,
        tables: &Tables,
    ) -> Result<Knowledge, StopReason> {
        let Some(entry) = self.entries.get(&object) else {
            return Err(StopReason::NoTableYet);
        };
        match entry.state {
            State::Resident => Ok(tables.look_up(entry.slot, address.0)),
            State::Unneeded | State::UnderWay => Err(StopReason::NoTableYet),
            State::Refused { .. } => Err(StopReason::TableMemoryFull),
            State::Absent => Ok(Knowledge::NoTable),
            State::Unreadable => Err(StopReason::ObjectUnreadable),
        }
    }

    /// Lets go of the slots of objects that no process maps.
    pub fn forget_all_but(&mut self, mapped: &HashSet<ObjectId>, tables: &mut Tables) {
        self.entries.retain(|object, entry| {
            let keeps = mapped.contains(object) || entry.state == State::UnderWay;
            if !keeps {
                tables.close_slot(entry.slot);
            }
            keeps
        });
    }

    /// Whether slots run out: those of objects that nobody maps should be let go.
    #[must_use]
    pub fn is_crowded(&self) -> bool {
        self.entries.len() > MAX_TABLES / 2
    }
}

impl Default for Residency {
    fn default() -> Self {
        Self::new()
    }
}

/// What is needed to compile an object's table; `None` when its file is not there.
fn job(id: ObjectId, objects: &Objects) -> Option<Job> {
    let object = objects.find(id)?;
    let file = object.unchanged_file()?.try_clone().ok()?;
    Some(Job {
        object: id,
        file,
        path: PathBuf::from(&object.path),
    })
}
