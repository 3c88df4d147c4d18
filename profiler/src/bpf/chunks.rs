//! Where tables lie in chunk memory: a first-fit allocator of words.
//!
//! A freed range rests for a while before it is used again: a program of the kernel side that has
//! just read the old entry may still be searching there. Programs run for microseconds.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use profiler_common::limits::CHUNK_WORDS;

/// How long a freed range rests.
const REST: Duration = Duration::from_secs(1);

/// A range of words in one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// Number of the chunk.
    pub(super) chunk: u32,
    /// First word in it.
    pub(super) word: u32,
    /// Words.
    pub(super) words: u32,
}

/// Free and resting ranges of the chunks there are.
#[derive(Debug, Default)]
pub(super) struct Arena {
    chunks: u32,
    free: BTreeMap<(u32, u32), u32>,
    resting: VecDeque<(Instant, Extent)>,
}

impl Arena {
    /// Chunks in the arena.
    pub(super) fn chunks(&self) -> u32 {
        self.chunks
    }

    /// A range of `words` words, or `None` when a new chunk is needed first.
    pub(super) fn allocate(&mut self, words: u32, now: Instant) -> Option<Extent> {
        self.wake(now);
        let (at, length) = self
            .free
            .iter()
            .find(|(_, length)| **length >= words)
            .map(|(at, length)| (*at, *length))?;
        self.free.remove(&at);
        let (chunk, word) = at;
        if length > words {
            self.free.insert((chunk, word + words), length - words);
        }
        Some(Extent { chunk, word, words })
    }

    /// Adds the next chunk, all of it free.
    pub(super) fn add_chunk(&mut self) {
        let words = u32::try_from(CHUNK_WORDS).expect("a chunk of 65,536 words");
        self.free.insert((self.chunks, 0), words);
        self.chunks += 1;
    }

    /// Gives a range back.
    pub(super) fn release(&mut self, extent: Extent, now: Instant) {
        self.resting.push_back((now, extent));
    }

    fn wake(&mut self, now: Instant) {
        while let Some((since, extent)) = self.resting.front().copied()
            && now.duration_since(since) >= REST
        {
            self.resting.pop_front();
            self.insert(extent);
        }
    }

    /// Frees a range, joined with its free neighbours.
    fn insert(&mut self, extent: Extent) {
        let Extent {
            chunk,
            mut word,
            mut words,
        } = extent;
        if let Some(after) = self.free.remove(&(chunk, word + words)) {
            words += after;
        }
        let before = self
            .free
            .range(..(chunk, word))
            .next_back()
            .map(|(at, length)| (*at, *length));
        if let Some(((before_chunk, before_word), length)) = before
            && before_chunk == chunk
            && before_word + length == word
        {
            self.free.remove(&(chunk, before_word));
            word = before_word;
            words += length;
        }
        self.free.insert((chunk, word), words);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_freed_range_rests_and_then_joins_its_neighbours() {
        let start = Instant::now();
        let mut arena = Arena::default();
        assert_eq!(arena.allocate(10, start), None);
        arena.add_chunk();
        let all: Vec<Extent> = (0..3)
            .map(|_| arena.allocate(20_000, start).unwrap())
            .collect();
        for extent in [all[0], all[2], all[1]] {
            arena.release(extent, start);
        }
        assert_eq!(arena.allocate(CHUNK_WORDS as u32, start), None);
        let later = start + REST;
        assert_eq!(
            arena.allocate(CHUNK_WORDS as u32, later),
            Some(Extent {
                chunk: 0,
                word: 0,
                words: CHUNK_WORDS as u32
            })
        );
    }

    #[test]
    fn ranges_never_overlap() {
        let start = Instant::now();
        let mut arena = Arena::default();
        let mut held: Vec<Extent> = Vec::new();
        for round in 0_u32..2000 {
            let now = start + Duration::from_millis(u64::from(round) * 50);
            let words = 1 + (round * 7919) % 3000;
            let extent = arena.allocate(words, now).or_else(|| {
                arena.add_chunk();
                arena.allocate(words, now)
            });
            held.push(extent.unwrap());
            if round % 3 != 0 {
                let extent = held.swap_remove((round as usize * 31) % held.len());
                arena.release(extent, now);
            }
        }
        held.sort_by_key(|extent| (extent.chunk, extent.word));
        for pair in held.windows(2) {
            assert!(pair[0].chunk != pair[1].chunk || pair[0].word + pair[0].words <= pair[1].word);
        }
    }
}
