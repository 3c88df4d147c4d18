//! Where tables lie in chunk memory: a first-fit allocator of words.
//!
//! What fits a chunk lies in one; what does not takes whole chunks that follow each other, and
//! gives back what it does not need of the last.
//!
//! A freed range rests for a while before it is used again: a program of the kernel side that has
//! just read the old entry may still be searching there. Programs run for microseconds.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use profiler_common::limits::CHUNK_WORDS;

/// Words of a chunk.
const CHUNK: u32 = CHUNK_WORDS as u32;

/// How long a freed range rests.
const REST: Duration = Duration::from_secs(1);

/// A range of words, in one chunk or from the start of one over the next ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// Number of the chunk.
    pub(super) chunk: u32,
    /// First word in it.
    pub(super) word: u32,
    /// Words.
    pub(super) words: u32,
}

impl Extent {
    /// The number of the last chunk that it has a word in.
    pub(super) fn last_chunk(self) -> u32 {
        self.chunk + (self.word + self.words).saturating_sub(1) / CHUNK
    }
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

    /// A range of `words` words, or `None` when [`Self::missing`] chunks are needed first.
    pub(super) fn allocate(&mut self, words: u32, now: Instant) -> Option<Extent> {
        self.wake(now);
        if words > CHUNK {
            return self.allocate_run(words);
        }
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

    fn allocate_run(&mut self, words: u32) -> Option<Extent> {
        let needed = words.div_ceil(CHUNK);
        let first = (0..=self.chunks.checked_sub(needed)?)
            .find(|first| (*first..first + needed).all(|chunk| self.is_free(chunk)))?;
        for chunk in first..first + needed {
            self.free.remove(&(chunk, 0));
        }
        let left = needed * CHUNK - words;
        if left > 0 {
            self.free.insert((first + needed - 1, CHUNK - left), left);
        }
        Some(Extent {
            chunk: first,
            word: 0,
            words,
        })
    }

    fn is_free(&self, chunk: u32) -> bool {
        self.free.get(&(chunk, 0)) == Some(&CHUNK)
    }

    /// How many chunks must be added before `words` words can surely be had.
    pub(super) fn missing(&self, words: u32) -> u32 {
        let free_at_end = (0..self.chunks)
            .rev()
            .take_while(|chunk| self.is_free(*chunk))
            .count();
        let free_at_end = u32::try_from(free_at_end).expect("as many chunks as a u32 counts");
        words.div_ceil(CHUNK).saturating_sub(free_at_end)
    }

    /// Words that are free, or rest.
    pub(super) fn free_words(&self) -> usize {
        let resting = self.resting.iter().map(|(_, extent)| extent.words);
        let words = self.free.values().copied().chain(resting);
        words.map(|words| words as usize).sum()
    }

    /// Adds the next chunk, all of it free.
    pub(super) fn add_chunk(&mut self) {
        self.free.insert((self.chunks, 0), CHUNK);
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
            self.take_back(extent);
        }
    }

    /// Frees a range at once: nobody has read in it.
    pub(super) fn take_back(&mut self, extent: Extent) {
        let Extent {
            mut chunk,
            mut word,
            mut words,
        } = extent;
        while words > 0 {
            let here = words.min(CHUNK - word);
            self.insert(Extent {
                chunk,
                word,
                words: here,
            });
            (chunk, word, words) = (chunk + 1, 0, words - here);
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
        assert_eq!(arena.allocate(CHUNK, start), None);
        let unread = arena.allocate(20, start).unwrap();
        arena.take_back(unread);
        assert_eq!(arena.allocate(20, start), Some(unread));
        arena.release(unread, start);
        let later = start + REST;
        assert_eq!(
            arena.allocate(CHUNK, later),
            Some(Extent {
                chunk: 0,
                word: 0,
                words: CHUNK
            })
        );
    }

    #[test]
    fn what_does_not_fit_a_chunk_takes_chunks_that_follow_each_other() {
        let start = Instant::now();
        let mut arena = Arena::default();
        arena.add_chunk();
        let small = arena.allocate(10, start).unwrap();
        let words = 2 * CHUNK + 100;
        assert_eq!(arena.allocate(words, start), None);
        assert_eq!(arena.missing(words), 3);
        (0..3).for_each(|_| arena.add_chunk());
        let run = arena.allocate(words, start).unwrap();
        assert_eq!((run.chunk, run.word, run.words), (1, 0, words));
        assert_eq!((small.last_chunk(), run.last_chunk()), (0, 3));
        let first = arena.allocate(CHUNK - 10, start).unwrap();
        assert_eq!((first.chunk, first.word), (0, 10));
        let rest = arena.allocate(CHUNK - 100, start).unwrap();
        assert_eq!((rest.chunk, rest.word), (3, 100));
        arena.release(run, start);
        arena.release(first, start);
        arena.release(rest, start);
        arena.release(small, start);
        let later = start + REST;
        let all = arena.allocate(4 * CHUNK, later).unwrap();
        assert_eq!((all.chunk, all.word), (0, 0));
        assert_eq!(arena.free_words(), 0);
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
