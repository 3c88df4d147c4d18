//! Tables in the kernel side's memory: mapping tables by process, unwind tables by object.

use std::collections::HashMap;

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

/// What became of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// The kernel side translates with it; samples carry this generation.
    Generation(u32),
    /// There was no room for it.
    NoRoom,
}

/// The tables of all processes and objects.
pub struct Tables {
    memory: TableMemory,
    reserve_bytes: usize,
    processes: maps::HashMap<MapData, u32, ProcessEntry>,
    published: HashMap<Pid, Extent>,
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

    /// Writes a mapping table and has the kernel side use it from now on. The entries are sorted by
    /// start and do not overlap. A refusal by the kernel is no error: without a table samples
    /// leave unwalked.
    pub fn publish(&mut self, pid: Pid, entries: &[MappingEntry]) -> Published {
        match self.try_publish(pid, entries) {
            Ok(Some(generation)) => Published::Generation(generation),
            Ok(None) => {
                self.withdraw(pid);
                Published::NoRoom
            }
            Err(error) => {
                log::debug!("no table for process {pid}: {error}");
                self.withdraw(pid);
                Published::NoRoom
            }
        }
    }

    fn try_publish(&mut self, pid: Pid, entries: &[MappingEntry]) -> Result<Option<u32>, BpfError> {
        if entries.is_empty() || entries.len() > MAX_MAPPINGS {
            return Ok(None);
        }
        let words: Vec<u32> = entries.iter().flat_map(MappingEntry::to_words).collect();
        let count = u32::try_from(entries.len()).expect("at most what a chunk holds");
        debug_assert_eq!(words.len(), entries.len() * ENTRY_WORDS);
        let Some(extent) = self.memory.allocate(words.len(), 0)? else {
            return Ok(None);
        };
        self.memory.write(extent, &words);
        let generation = self.last_generation + 1;
        let entry = ProcessEntry {
            chunk: extent.chunk,
            word: extent.word,
            count,
            generation,
        };
        if let Err(error) = self.processes.insert(pid.0, entry, 0) {
            self.memory.release(extent);
            return Err(BpfError::map("PROCESSES", error));
        }
        self.last_generation = generation;
        if let Some(old) = self.published.insert(pid, extent) {
            self.memory.release(old);
        }
        Ok(Some(generation))
    }

    /// Has the kernel side forget a process.
    pub fn withdraw(&mut self, pid: Pid) {
        let Some(extent) = self.published.remove(&pid) else {
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

    /// Writes an object's unwind table and has the kernel side use it from now on.
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
