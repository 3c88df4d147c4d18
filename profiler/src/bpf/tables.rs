//! Tables in the kernel side's memory: mapping tables by process, unwind tables by object.

use std::{collections::HashMap, time::Duration};

use aya::maps::{self, MapData};
use profiler_common::{
    limits::MAX_MAPPINGS,
    mapping::{ENTRY_WORDS, MappingEntry, ProcessEntry},
    walk::Knowledge,
};

use super::{
    BpfError,
    chunks::Extent,
    memory::TableMemory,
    unwind_tables::{Slot, Stored, UnwindTables},
};
use crate::{target::Pid, unwind::Table};

/// The part of the budget that is kept for mapping tables: one in this many bytes.
const MAPPINGS_PART: usize = 8;

/// Source: `BPF_ANY` and `BPF_EXIST` in `include/uapi/linux/bpf.h`.
const BPF_ANY: u64 = 0;
const BPF_EXIST: u64 = 2;

/// The tables of all processes and objects.
pub struct Tables {
    memory: TableMemory,
    reserve_bytes: usize,
    processes: maps::HashMap<MapData, u32, ProcessEntry>,
    published: HashMap<Pid, (Extent, ProcessEntry)>,
    last_generation: u32,
    unwind: UnwindTables,
}

impl Tables {
    pub(super) fn new(
        memory: TableMemory,
        budget_bytes: usize,
        processes: maps::HashMap<MapData, u32, ProcessEntry>,
        unwind: UnwindTables,
    ) -> Self {
        Self {
            memory,
            reserve_bytes: budget_bytes / MAPPINGS_PART,
            processes,
            published: HashMap::new(),
            last_generation: 0,
            unwind,
        }
    }

    /// Writes a mapping table and has the kernel side watch over it: it takes the table out when the
    /// process runs another program, or maps something over what the table has. Nothing is walked
    /// by it yet. The entries are sorted by start and do not overlap.
    ///
    /// Gives the time from which it is watched over, in nanoseconds of `CLOCK_MONOTONIC`. A refusal
    /// is no error: without a table samples leave unwalked.
    pub fn arm(&mut self, pid: Pid, entries: &[MappingEntry]) -> Option<u64> {
        match self.write(pid, entries, 0, BPF_ANY) {
            Ok(Some(())) => return Some(super::now_ns()),
            Ok(None) => {}
            Err(error) => log::debug!("no table for process {pid}: {error}"),
        }
        self.withdraw(pid);
        None
    }

    /// Writes a mapping table that has all that the one in use has, and more, and has the kernel side
    /// walk by it from now on. Samples carry the generation. `None` if there is no table in use any
    /// more, or no room.
    pub fn extend(&mut self, pid: Pid, entries: &[MappingEntry]) -> Option<u32> {
        let generation = self.last_generation + 1;
        match self.write(pid, entries, generation, BPF_EXIST) {
            Ok(written) => written?,
            Err(error) => {
                log::debug!("process {pid} keeps its table: {error}");
                return None;
            }
        }
        self.last_generation = generation;
        Some(generation)
    }

    fn write(
        &mut self,
        pid: Pid,
        entries: &[MappingEntry],
        generation: u32,
        flags: u64,
    ) -> Result<Option<()>, BpfError> {
        if entries.is_empty() || entries.len() > MAX_MAPPINGS {
            return Ok(None);
        }
        let words: Vec<u32> = entries.iter().flat_map(MappingEntry::to_words).collect();
        let count = u32::try_from(entries.len()).expect("at most what a chunk holds");
        debug_assert_eq!(words.len(), entries.len() * ENTRY_WORDS);
        let Some(extent) = self.memory.allocate(words.len(), 0)? else {
            return Ok(None);
        };
        // What watches over the table reads it.
        if !self.memory.is_visible(extent) {
            self.memory.take_back(extent);
            return Ok(None);
        }
        self.memory.write(extent, &words);
        let entry = ProcessEntry {
            chunk: extent.chunk,
            word: extent.word,
            count,
            generation,
        };
        if let Err(error) = self.processes.insert(pid.0, entry, flags) {
            self.memory.release(extent);
            return Err(BpfError::map("PROCESSES", error));
        }
        if let Some((old, _)) = self.published.insert(pid, (extent, entry)) {
            self.memory.release(old);
        }
        Ok(Some(()))
    }

    /// Has the kernel side walk by a table that it watches over. Samples carry the generation. `None`
    /// if it has taken the table out.
    pub fn use_armed(&mut self, pid: Pid) -> Option<u32> {
        let (_, entry) = self.published.get(&pid)?;
        let generation = self.last_generation + 1;
        let entry = ProcessEntry {
            generation,
            ..*entry
        };
        self.processes.insert(pid.0, entry, BPF_EXIST).ok()?;
        self.last_generation = generation;
        Some(generation)
    }

    /// Has the kernel side forget a process.
    pub fn withdraw(&mut self, pid: Pid) {
        let Some((extent, _)) = self.published.remove(&pid) else {
            return;
        };
        match self.processes.remove(&pid.0) {
            // Its table may be in use for as long as the entry is there: then it is never freed.
            Err(error) if !matches!(error, maps::MapError::KeyNotFound) => {
                log::debug!("process {pid} keeps its table: {error}");
            }
            _ => self.memory.release(extent),
        }
    }

    /// A slot for an object's unwind table, which is not there yet; `None` when all are taken.
    pub fn open_slot(&mut self) -> Option<Slot> {
        self.unwind.open_slot()
    }

    /// Says that an object has no unwind table and gets none.
    pub fn mark_absent(&mut self, slot: Slot) {
        self.unwind.mark_absent(slot);
    }

    /// Says that an object's file cannot be read.
    pub fn mark_unreadable(&mut self, slot: Slot) {
        self.unwind.mark_unreadable(slot);
    }

    /// Writes an object's unwind table and has the kernel side use it as soon as it sees the memory.
    pub fn store(&mut self, slot: Slot, table: &Table) -> Stored {
        match self
            .unwind
            .store(&mut self.memory, slot, table, self.reserve_bytes)
        {
            Ok(stored) => stored,
            Err(error) => {
                log::debug!("no room for an unwind table: {error}");
                Stored::NoRoom
            }
        }
    }

    /// Whether there is memory that the kernel side does not see yet: a table that found no room now may
    /// find it soon.
    #[must_use]
    pub fn is_growing(&self) -> bool {
        self.memory.is_growing()
    }

    /// Has the kernel side use the unwind tables whose memory it sees by now. Waits for the others for so
    /// long at most.
    pub fn settle(&mut self, patience: Duration) {
        self.memory.wait(patience);
        self.unwind.publish(&self.memory);
    }

    /// Says that the memory has no room for an object's table.
    pub fn mark_refused(&mut self, slot: Slot) {
        self.unwind.mark_refused(slot);
    }

    /// Takes a table away: its object waits for one again. Tells how many bytes that frees.
    pub fn evict(&mut self, slot: Slot) -> usize {
        self.unwind.evict(&mut self.memory, slot)
    }

    /// Takes a table away for good: nobody maps its object any more.
    pub fn close_slot(&mut self, slot: Slot) {
        self.unwind.close_slot(&mut self.memory, slot);
    }

    /// What a resident table says of an ELF address.
    #[must_use]
    pub fn look_up(&self, slot: Slot, elf_address: u64) -> Knowledge {
        self.unwind.look_up(&self.memory, slot, elf_address)
    }

    /// Kernel memory in tables, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.memory.bytes() + self.unwind.bytes()
    }
}
