//! The mapping table of a process: its executable mappings, sorted by address, as words of a chunk.
//!
//! The user side writes a table into a chunk and then publishes a [`ProcessEntry`] that points at
//! it; the kernel side searches it for each frame. A table is never changed in place: a new one is
//! written beside it and the entry swapped.

use crate::limits::CHUNK_WORDS;

/// Table memory: one chunk.
pub type Chunk = [u32; CHUNK_WORDS];

/// Words of one [`MappingEntry`] in a chunk.
pub const ENTRY_WORDS: usize = 8;

/// Steps of the search: enough for the most entries a chunk holds.
const SEARCH_STEPS: u32 = 13;

const _: () = assert!((1 << SEARCH_STEPS) > crate::limits::MAX_MAPPINGS);

/// [`MappingEntry::flags`]: the code may switch stacks without a call (Go), so a caller's frame
/// may lie below its callee's.
pub const SWITCHES_STACKS: u32 = 1;

/// The value of the map `PROCESSES`, by process id.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessEntry {
    /// Number of the chunk that holds the table.
    pub chunk: u32,
    /// First word of the table in the chunk. The table does not cross the chunk's end.
    pub word: u32,
    /// Entries in the table.
    pub count: u32,
    /// The table's number, never used twice in a run; 0 while the table is watched over, and no stack
    /// is walked by it.
    pub generation: u32,
}

const _: () = assert!(size_of::<ProcessEntry>() == 4 * 4, "no hidden padding");

// SAFETY: `repr(C)`, no hidden padding (asserted above), and every bit pattern is a valid value.
#[cfg(feature = "user")]
unsafe impl aya::Pod for ProcessEntry {}

/// One executable mapping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MappingEntry {
    /// First address.
    pub start: u64,
    /// Address after the last.
    pub end: u64,
    /// Runtime address minus ELF address.
    pub bias: u64,
    /// The object's place in the map `TABLES`, which tells where its unwind table is;
    /// [`NO_SLOT`](crate::unwind::NO_SLOT) for memory without an object.
    pub slot: u32,
    /// The user side's number for the object; 0 for memory without one (JIT code).
    pub object: u32,
    /// [`SWITCHES_STACKS`].
    pub flags: u32,
}

const OBJECT_MASK: u32 = crate::frame::MAX_OBJECT_ID;
const FLAGS_SHIFT: u32 = 22;

impl MappingEntry {
    /// The entry as words of a chunk.
    #[must_use]
    pub const fn to_words(&self) -> [u32; ENTRY_WORDS] {
        [
            self.start as u32,
            (self.start >> 32) as u32,
            self.end as u32,
            (self.end >> 32) as u32,
            self.bias as u32,
            (self.bias >> 32) as u32,
            self.slot,
            (self.object & OBJECT_MASK) | (self.flags << FLAGS_SHIFT),
        ]
    }

    #[inline(always)]
    fn read(chunk: &Chunk, first: u32) -> Self {
        let word = |i: u32| chunk[(first.wrapping_add(i) as usize) & (CHUNK_WORDS - 1)];
        let double = |i: u32| u64::from(word(i)) | (u64::from(word(i + 1)) << 32);
        let last = word(7);
        Self {
            start: double(0),
            end: double(2),
            bias: double(4),
            slot: word(6),
            object: last & OBJECT_MASK,
            flags: last >> FLAGS_SHIFT,
        }
    }

    /// Whether `pc` lies in the mapping.
    #[inline(always)]
    #[must_use]
    pub const fn contains(&self, pc: u64) -> bool {
        pc >= self.start && pc < self.end
    }
}

/// All ones when `value` is negative, else 0.
// Verifier: opaque to LLVM, which would turn a plain shift and mask back into a branch; each branch
// in the search doubles the paths that the verifier walks.
#[inline(always)]
pub(crate) fn sign_mask(value: i64) -> i64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut value = value;
        // SAFETY: one register shift; touches neither memory nor stack nor flags.
        unsafe { core::arch::asm!("{0} s>>= 63", inout(reg) value, options(pure, nomem, nostack)) };
        value
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        value >> 63
    }
}

/// The steps of a binary search that can lead to one of so many entries, as bits. Steps without their
/// bit go nowhere, so a search touches no memory but that of its entries: a short table is far more
/// common than a long one, and each line that is not in a cache costs more than all the arithmetic.
#[inline(always)]
pub(crate) const fn below_next_power_of_two(count: u32) -> i64 {
    let mut bits = count;
    bits |= bits >> 1;
    bits |= bits >> 2;
    bits |= bits >> 4;
    bits |= bits >> 8;
    (bits & 0xffff) as i64
}

/// Finds the mapping that `pc` lies in.
#[inline(always)]
#[must_use]
pub fn find(chunk: &Chunk, table: &ProcessEntry, pc: u64) -> Option<MappingEntry> {
    let entry = last_from(chunk, table, pc)?;
    if entry.contains(pc) {
        Some(entry)
    } else {
        None
    }
}

/// Whether an object's mapping lies in a range of addresses, or in a part of it; also if more than one
/// mapping does, of whatever kind.
#[inline(always)]
#[must_use]
pub fn may_hold_object(chunk: &Chunk, table: &ProcessEntry, start: u64, end: u64) -> bool {
    match last_from(chunk, table, end.wrapping_sub(1)) {
        Some(last) if last.end > start => {
            let before = last_from(chunk, table, last.start.wrapping_sub(1));
            last.object != 0 || before.is_some_and(|before| before.end > start)
        }
        _ => false,
    }
}

/// The last mapping that starts at or before an address.
///
/// A branch-free binary search. Addresses of user space fit 63 bits, so their differences have a
/// sign.
#[inline(always)]
fn last_from(chunk: &Chunk, table: &ProcessEntry, pc: u64) -> Option<MappingEntry> {
    let count = i64::from(table.count);
    let reach = below_next_power_of_two(table.count);
    let mut found: i64 = -1;
    let mut step: i64 = 1 << (SEARCH_STEPS - 1);
    let mut round = 0;
    while round < SEARCH_STEPS {
        let probe = found + (step & reach);
        let at = (probe & !sign_mask(probe)) as u32;
        let word = table.word.wrapping_add(at.wrapping_mul(ENTRY_WORDS as u32));
        let low = chunk[(word as usize) & (CHUNK_WORDS - 1)];
        let high = chunk[(word.wrapping_add(1) as usize) & (CHUNK_WORDS - 1)];
        let start = u64::from(low) | (u64::from(high) << 32);
        let beyond = sign_mask((count - 1 - probe) | (pc.wrapping_sub(start) as i64));
        found += step & reach & !beyond;
        step >>= 1;
        round += 1;
    }
    if found < 0 {
        return None;
    }
    let first = table
        .word
        .wrapping_add((found as u32).wrapping_mul(ENTRY_WORDS as u32));
    Some(MappingEntry::read(chunk, first))
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;
    use std::{boxed::Box, vec, vec::Vec};

    fn chunk_with(word: u32, entries: &[MappingEntry]) -> Box<Chunk> {
        let mut chunk: Box<Chunk> = vec![0xdead_beef_u32; CHUNK_WORDS]
            .into_boxed_slice()
            .try_into()
            .unwrap();
        for (i, entry) in entries.iter().enumerate() {
            let at = word as usize + i * ENTRY_WORDS;
            chunk[at..at + ENTRY_WORDS].copy_from_slice(&entry.to_words());
        }
        chunk
    }

    proptest! {
        #[test]
        fn the_search_finds_what_a_scan_finds(
            gaps in prop::collection::vec((0u64..64, 1u64..64), 0..300),
            word in 0u32..1000,
            probes in prop::collection::vec(0u64..40_000, 1..50),
        ) {
            let mut at = 0x1000;
            let entries: Vec<MappingEntry> = gaps.iter().enumerate().map(|(i, (gap, len))| {
                let start = at + gap;
                at = start + len;
                // Each third is code made at run time.
                let object = if i % 3 == 0 { 0 } else { i as u32 };
                MappingEntry { start, end: at, bias: start, slot: 2 * i as u32, object, flags: (i & 1) as u32 }
            }).collect();
            let chunk = chunk_with(word, &entries);
            let table = ProcessEntry { chunk: 0, word, count: entries.len() as u32, generation: 1 };
            for pc in probes {
                let scan = entries.iter().find(|entry| entry.contains(pc)).copied();
                prop_assert_eq!(find(&chunk, &table, pc), scan);
                let end = pc + 40;
                let held: Vec<_> = entries.iter().filter(|entry| entry.start < end && entry.end > pc).collect();
                let may = held.len() > 1 || held.iter().any(|entry| entry.object != 0);
                prop_assert_eq!(may_hold_object(&chunk, &table, pc, end), may);
            }
        }
    }

    #[test]
    fn the_largest_table_is_searched_to_its_last_entry() {
        let entries: Vec<MappingEntry> = (0..crate::limits::MAX_MAPPINGS as u64)
            .map(|i| MappingEntry {
                start: i * 2,
                end: i * 2 + 1,
                object: 7,
                ..Default::default()
            })
            .collect();
        let chunk = chunk_with(0, &entries);
        let table = ProcessEntry {
            chunk: 0,
            word: 0,
            count: entries.len() as u32,
            generation: 1,
        };
        for entry in &entries {
            assert_eq!(find(&chunk, &table, entry.start), Some(*entry));
            assert_eq!(find(&chunk, &table, entry.end), None);
        }
    }
}
