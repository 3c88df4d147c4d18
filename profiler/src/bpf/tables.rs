//! Mapping tables in the kernel side's memory: written into chunks, then published by process.

use std::{collections::HashMap, os::fd::AsFd, time::Instant};

use aya::maps::{self, ArrayOfMaps, MapData};
use profiler_common::{
    limits::{CHUNK_WORDS, MAX_CHUNKS, MAX_MAPPINGS},
    mapping::{ENTRY_WORDS, MappingEntry, ProcessEntry},
};

use super::{
    BpfError,
    chunks::{Arena, Extent},
    perf::SharedMemory,
};
use crate::target::Pid;

/// Table memory in all, in bytes. Processes beyond it have their frames translated on the user
/// side, which costs time there and no frame.
const BUDGET_BYTES: usize = 64 << 20;
const CHUNK_BYTES: usize = CHUNK_WORDS * 4;
/// Source: `BPF_MAP_TYPE_ARRAY` and `BPF_F_MMAPABLE` in `include/uapi/linux/bpf.h`.
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_F_MMAPABLE: u32 = 1024;

/// What became of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// The kernel side translates with it; samples carry this generation.
    Generation(u32),
    /// There was no room for it.
    NoRoom,
}

/// The tables of all processes.
pub struct MappingTables {
    chunks: ArrayOfMaps<MapData, MapData>,
    processes: maps::HashMap<MapData, u32, ProcessEntry>,
    memory: Vec<(MapData, SharedMemory)>,
    arena: Arena,
    published: HashMap<Pid, Extent>,
    last_generation: u32,
}

impl MappingTables {
    pub(super) fn new(
        chunks: ArrayOfMaps<MapData, MapData>,
        processes: maps::HashMap<MapData, u32, ProcessEntry>,
    ) -> Self {
        Self {
            chunks,
            processes,
            memory: Vec::new(),
            arena: Arena::default(),
            published: HashMap::new(),
            last_generation: 0,
        }
    }

    /// Writes a table and has the kernel side use it from now on. The entries are sorted by start
    /// and do not overlap. A refusal by the kernel is no error: without a table frames are
    /// translated on the user side.
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
        let Some(extent) = self.allocate(words.len())? else {
            return Ok(None);
        };
        self.memory[extent.chunk as usize]
            .1
            .write_words(extent.word as usize, &words);
        let generation = self.last_generation + 1;
        let entry = ProcessEntry {
            chunk: extent.chunk,
            word: extent.word,
            count,
            generation,
        };
        if let Err(error) = self.processes.insert(pid.0, entry, 0) {
            self.arena.release(extent, Instant::now());
            return Err(BpfError::map("PROCESSES", error));
        }
        self.last_generation = generation;
        if let Some(old) = self.published.insert(pid, extent) {
            self.arena.release(old, Instant::now());
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
            _ => self.arena.release(extent, Instant::now()),
        }
    }

    /// Kernel memory in tables, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.memory.len() * CHUNK_BYTES
    }

    fn allocate(&mut self, words: usize) -> Result<Option<Extent>, BpfError> {
        let words = u32::try_from(words).expect("at most a chunk");
        let now = Instant::now();
        if let Some(extent) = self.arena.allocate(words, now) {
            return Ok(Some(extent));
        }
        let chunks = self.arena.chunks() as usize;
        if chunks >= MAX_CHUNKS || (chunks + 1) * CHUNK_BYTES > BUDGET_BYTES {
            return Ok(None);
        }
        self.add_chunk()?;
        Ok(self.arena.allocate(words, now))
    }

    fn add_chunk(&mut self) -> Result<(), BpfError> {
        let bytes = u32::try_from(CHUNK_BYTES).expect("256 KiB");
        let map = aya_obj::Map::new_from_params(BPF_MAP_TYPE_ARRAY, 4, bytes, 1, BPF_F_MMAPABLE);
        let map =
            MapData::create(map, "chunk", None).map_err(|error| BpfError::map("CHUNKS", error))?;
        let memory =
            SharedMemory::map(map.fd().as_fd(), CHUNK_BYTES).map_err(BpfError::TableMemory)?;
        self.chunks
            .set(self.arena.chunks(), &map, 0)
            .map_err(|error| BpfError::map("CHUNKS", error))?;
        self.memory.push((map, memory));
        self.arena.add_chunk();
        Ok(())
    }
}
