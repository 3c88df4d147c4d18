//! Table memory: the chunks that the kernel side reads, made by need and within a budget.

use std::{
    os::fd::AsFd,
    time::{Duration, Instant},
};

use aya::maps::MapData;
use profiler_common::{
    limits::{CHUNK_WORDS, MAX_CHUNKS},
    mapping::Chunk,
    unwind::Chunks,
};

use super::{
    BpfError,
    chunks::{Arena, Extent},
    feeder::Feeder,
    perf::SharedMemory,
};

/// Bytes of a chunk.
pub(super) const CHUNK_BYTES: usize = CHUNK_WORDS * 4;
/// Source: `BPF_MAP_TYPE_ARRAY` and `BPF_F_MMAPABLE` in `include/uapi/linux/bpf.h`.
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_F_MMAPABLE: u32 = 1024;

/// All chunks there are.
pub(super) struct TableMemory {
    feeder: Feeder,
    memory: Vec<(MapData, SharedMemory)>,
    arena: Arena,
    budget_bytes: usize,
}

impl TableMemory {
    /// In the map of chunks, which is empty.
    pub(super) fn new(chunks: MapData, budget_bytes: usize) -> Self {
        Self {
            feeder: Feeder::new(chunks),
            memory: Vec::new(),
            arena: Arena::default(),
            budget_bytes,
        }
    }

    /// Room for `words` words, or `None` when the budget has none. `reserve_bytes` of it stay free.
    pub(super) fn allocate(
        &mut self,
        words: usize,
        reserve_bytes: usize,
    ) -> Result<Option<Extent>, BpfError> {
        let Ok(words) = u32::try_from(words) else {
            return Ok(None);
        };
        if self.used_bytes() + words as usize * 4 + reserve_bytes > self.budget_bytes {
            return Ok(None);
        }
        let now = Instant::now();
        if let Some(extent) = self.arena.allocate(words, now) {
            return Ok(Some(extent));
        }
        let missing = self.arena.missing(words) as usize;
        let chunks = self.arena.chunks() as usize + missing;
        // The chunk that the budget ends in may be used in part.
        if chunks > MAX_CHUNKS || chunks > self.budget_bytes.div_ceil(CHUNK_BYTES) {
            return Ok(None);
        }
        for _ in 0..missing {
            self.add_chunk()?;
        }
        Ok(self.arena.allocate(words, now))
    }

    /// Gives room back. Nothing that is published points there any more.
    pub(super) fn release(&mut self, extent: Extent) {
        self.arena.release(extent, Instant::now());
    }

    /// Takes room back that was never published.
    pub(super) fn take_back(&mut self, extent: Extent) {
        self.arena.take_back(extent);
    }

    /// Whether the kernel side sees all of a range.
    pub(super) fn is_visible(&self, extent: Extent) -> bool {
        extent.last_chunk() < self.feeder.there()
    }

    /// Whether the kernel side will soon see more.
    pub(super) fn is_growing(&self) -> bool {
        self.feeder.is_busy()
    }

    /// Waits until the kernel side sees all chunks, for so long at most.
    pub(super) fn wait(&self, patience: Duration) {
        self.feeder.wait(patience);
    }

    /// Writes words into a range, from its start.
    pub(super) fn write(&mut self, extent: Extent, words: &[u32]) {
        assert!(
            words.len() <= extent.words as usize,
            "no more than there is room for"
        );
        let (mut chunk, mut word, mut rest) = (extent.chunk as usize, extent.word as usize, words);
        while !rest.is_empty() {
            let (here, others) = rest.split_at(rest.len().min(CHUNK_WORDS - word));
            self.memory[chunk].1.write_words(word, here);
            (chunk, word, rest) = (chunk + 1, 0, others);
        }
    }

    /// Kernel memory in chunks, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.memory.len() * CHUNK_BYTES
    }

    /// Bytes that hold tables.
    fn used_bytes(&self) -> usize {
        self.bytes() - self.arena.free_words() * 4
    }

    fn add_chunk(&mut self) -> Result<(), BpfError> {
        let bytes = u32::try_from(CHUNK_BYTES).expect("256 KiB");
        let map = aya_obj::Map::new_from_params(BPF_MAP_TYPE_ARRAY, 4, bytes, 1, BPF_F_MMAPABLE);
        let map =
            MapData::create(map, "chunk", None).map_err(|error| BpfError::map("CHUNKS", error))?;
        let memory =
            SharedMemory::map(map.fd().as_fd(), CHUNK_BYTES).map_err(BpfError::TableMemory)?;
        self.feeder
            .push(map.fd().as_fd())
            .map_err(BpfError::TableMemory)?;
        self.memory.push((map, memory));
        self.arena.add_chunk();
        Ok(())
    }
}

impl Chunks for TableMemory {
    fn chunk(&self, number: u32) -> Option<&Chunk> {
        self.memory
            .get(number as usize)
            .map(|(_, memory)| memory.as_chunk())
    }
}
