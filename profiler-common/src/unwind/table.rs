//! The table of one object in chunks: rows, their index, and the search in them.

use super::rule::NO_INFORMATION;
use crate::{
    limits::CHUNK_WORDS,
    mapping::{Chunk, below_next_power_of_two, sign_mask},
};

/// Bytes of text that one [`IndexWord`] stands for.
pub const BUCKET_BYTES: u64 = 256;

/// Most rows that start in one bucket. Most seen in 1,667 objects: 87.
pub const MAX_BUCKET_ROWS: u32 = (1 << SEARCH_STEPS) - 1;

/// Most rows of one object.
pub const MAX_ROWS: u32 = 1 << 25;

/// Steps of the search in a bucket.
const SEARCH_STEPS: u32 = 7;

const _: () = assert!((MAX_ROWS as u64) << SEARCH_STEPS == 1 << 32);
const _: () = assert!(1 << (BUCKET_BYTES.trailing_zeros()) == BUCKET_BYTES);
const _: () = assert!(MAX_BUCKET_ROWS as usize + 1 < CHUNK_WORDS);

/// One row: from its address to the next row's, the rule. Bits 0 to 7 hold the low byte of the
/// address, bits 16 to 31 the rule's number. Bits 8 to 14 tell how many bytes on the code moves its
/// stack pointer by a word, 0 if it does not; bit 15 is set if it pops the word.
///
/// A row with such a [`Fold`] is two in one: most rows of optimized code differ from the one before
/// by a register that was pushed or popped. Both parts lie in one bucket.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row(pub u32);

/// The second half of a row: from some bytes on, the CFA is a word further from the stack pointer, or
/// nearer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fold {
    /// Bytes from the row's address, 1 to [`MOST_FOLD_BYTES`].
    pub after: u8,
    /// What happens there.
    pub moves: Moves,
}

/// What the code does with its stack pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moves {
    /// It pushes a word.
    Pushes,
    /// It pops a word.
    Pops,
}

/// Most bytes between the two halves of a row.
pub const MOST_FOLD_BYTES: u8 = 127;

const POPS: u32 = 1 << 15;

impl Row {
    /// The row of a rule from an address on.
    #[must_use]
    pub const fn new(address: u64, rule: u16) -> Self {
        Self((address as u8) as u32 | (rule as u32) << 16)
    }

    /// The row with a second half. Its rule is [`Cfa::StackPointer`].
    #[must_use]
    pub const fn folded(self, fold: Fold) -> Self {
        let pops = match fold.moves {
            Moves::Pushes => 0,
            Moves::Pops => POPS,
        };
        Self(self.0 | ((fold.after & MOST_FOLD_BYTES) as u32) << 8 | pops)
    }

    /// The number of its rule.
    #[inline(always)]
    #[must_use]
    pub const fn rule(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// The low byte of its address.
    #[inline(always)]
    #[must_use]
    pub const fn low_byte(self) -> u8 {
        self.0 as u8
    }

    /// Bytes to its second half; 0 without one.
    #[inline(always)]
    const fn fold_after(self) -> u32 {
        (self.0 >> 8) & MOST_FOLD_BYTES as u32
    }

    /// What the second half adds to the offset of the CFA, in bytes, as the high half of a word.
    #[inline(always)]
    const fn fold_step(self) -> u64 {
        // 8 or -8, by bit 15.
        let pops = (self.0 & POPS) as i64 >> 15;
        ((8 - 16 * pops) as u64) << 32
    }
}

/// Where the rows of one bucket are. Bits 7 to 31 hold the number of the row that is in force
/// where the bucket starts, bits 0 to 6 how many more rows follow it in the bucket. All of them lie
/// in one chunk.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexWord(pub u32);

impl IndexWord {
    /// The word for `count` rows behind row `row`, which is below [`MAX_ROWS`].
    #[must_use]
    pub const fn new(row: u32, count: u32) -> Self {
        Self(row << SEARCH_STEPS | (count & MAX_BUCKET_ROWS))
    }

    /// The number of the row in force at the bucket's start.
    #[inline(always)]
    #[must_use]
    pub const fn row(self) -> u32 {
        self.0 >> SEARCH_STEPS
    }

    /// Rows that start in the bucket.
    #[inline(always)]
    #[must_use]
    pub const fn count(self) -> u32 {
        self.0 & MAX_BUCKET_ROWS
    }
}

/// Reads table memory.
pub trait Chunks {
    /// The chunk of this number.
    fn chunk(&self, number: u32) -> Option<&Chunk>;
}

/// Where an object's table is.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TablePlace {
    /// The first address of the table, divided by [`BUCKET_BYTES`].
    pub first_bucket: u32,
    /// Buckets in the index.
    pub bucket_count: u32,
    /// First word of the index, counted over all chunks.
    pub index_word: u32,
    /// First chunk of the rows; the others follow it.
    pub row_chunk: u32,
}

/// [`TableEntry::state`]: the object has no call frame information.
pub const TABLE_ABSENT: u32 = 0;
/// [`TableEntry::state`]: the table is not there yet. Who needs it should say so.
pub const TABLE_PENDING: u32 = 1;
/// [`TableEntry::state`]: the place is that of the table.
pub const TABLE_RESIDENT: u32 = 2;
/// [`TableEntry::state`]: the table memory has no room for it.
pub const TABLE_REFUSED: u32 = 3;
/// [`TableEntry::state`]: the object's file could not be read.
pub const TABLE_UNREADABLE: u32 = 4;

/// The place in the map `TABLES` of memory without an object, and of objects that found no other.
pub const NO_SLOT: u32 = 0;

/// A value of the map `TABLES`: where an object's table is, if it is anywhere.
///
/// The user side writes the place before it says [`TABLE_RESIDENT`], and says something else well
/// before it uses the place for another table.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableEntry {
    /// Where the table is.
    pub place: TablePlace,
    /// One of the `TABLE_` states.
    pub state: u32,
    /// Always zero.
    pub _pad: u32,
}

/// Words of a [`TableEntry`].
pub const TABLE_ENTRY_WORDS: usize = 6;

const _: () = assert!(
    size_of::<TableEntry>() == TABLE_ENTRY_WORDS * 4,
    "no hidden padding"
);

// SAFETY: `repr(C)`, no hidden padding (asserted above), and every bit pattern is a valid value.
#[cfg(feature = "user")]
unsafe impl aya::Pod for TableEntry {}

/// What a table says of an address: a rule's number, and how much further the CFA is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The rule's number; [`NO_INFORMATION`] where nothing is known.
    pub rule: u16,
    /// What is added to the rule's word.
    step: u64,
}

impl Found {
    /// Nothing is known of the address.
    pub const NOTHING: Self = Self {
        rule: NO_INFORMATION,
        step: 0,
    };

    /// The word of the rule in force, given the word of the rule with this number.
    #[inline(always)]
    #[must_use]
    pub const fn word(self, rule: u64) -> u64 {
        rule.wrapping_add(self.step)
    }
}

/// Finds the rule for an ELF address; [`Found::NOTHING`] outside of the table.
///
/// A branch-free binary search for the last row of the bucket that starts at or before it.
#[inline(always)]
#[must_use]
pub fn find_rule(chunks: &impl Chunks, place: &TablePlace, address: u64) -> Found {
    // Verifier: compared as a whole, so that no address beyond 2^40 folds into the table.
    let bucket = (address / BUCKET_BYTES).wrapping_sub(u64::from(place.first_bucket));
    if bucket >= u64::from(place.bucket_count) {
        return Found::NOTHING;
    }
    let at = place.index_word.wrapping_add(bucket as u32);
    let Some(index) = chunks.chunk(at / CHUNK_WORDS as u32) else {
        return Found::NOTHING;
    };
    let index = IndexWord(index[at as usize & (CHUNK_WORDS - 1)]);
    let number = place
        .row_chunk
        .wrapping_add(index.row() / CHUNK_WORDS as u32);
    let Some(rows) = chunks.chunk(number) else {
        return Found::NOTHING;
    };
    let row = |i: i64| Row(rows[(index.row().wrapping_add(i as u32)) as usize & (CHUNK_WORDS - 1)]);
    let (count, low) = (i64::from(index.count()), (address % BUCKET_BYTES) as i64);
    let reach = below_next_power_of_two(index.count());
    let mut found: i64 = 0;
    let mut step: i64 = 1 << (SEARCH_STEPS - 1);
    let mut round = 0;
    while round < SEARCH_STEPS {
        let probe = found + (step & reach);
        let beyond = sign_mask((count - probe) | (low - i64::from(row(probe).low_byte())));
        found += step & reach & !beyond;
        step >>= 1;
        round += 1;
    }
    let row = row(found);
    // The row in force where the bucket starts has its second half before that.
    let is_carried = sign_mask(found - 1);
    let after = i64::from(row.fold_after());
    let into = low - i64::from(row.low_byte());
    let reached = is_carried | !sign_mask(into - after);
    // Without a second half `after` is 0.
    let applies = reached & sign_mask(-after);
    Found {
        rule: row.rule(),
        step: row.fold_step() & applies as u64,
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;
    use std::{boxed::Box, vec, vec::Vec};

    fn any_fold() -> impl Strategy<Value = Option<Fold>> {
        let moves = prop_oneof![Just(Moves::Pushes), Just(Moves::Pops)];
        let fold = (1..=MOST_FOLD_BYTES, moves).prop_map(|(after, moves)| Fold { after, moves });
        prop::option::of(fold)
    }

    fn row(low: u8, (rule, fold): (u16, Option<Fold>)) -> Row {
        let row = Row::new(u64::from(low), rule);
        fold.map_or(row, |fold| row.folded(fold))
    }

    /// What is found some bytes into a row, of a rule whose word is its number and bit 40.
    fn word_after((rule, fold): (u16, Option<Fold>), bytes: u8) -> u64 {
        let word = u64::from(rule) | 1 << 40;
        match fold {
            Some(fold) if bytes >= fold.after => match fold.moves {
                Moves::Pushes => word + (8 << 32),
                Moves::Pops => word - (8 << 32),
            },
            _ => word,
        }
    }

    struct Held(Vec<Box<Chunk>>);

    impl Chunks for Held {
        fn chunk(&self, number: u32) -> Option<&Chunk> {
            self.0.get(number as usize).map(AsRef::as_ref)
        }
    }

    fn chunk() -> Box<Chunk> {
        vec![0xdead_beef_u32; CHUNK_WORDS]
            .into_boxed_slice()
            .try_into()
            .unwrap()
    }

    proptest! {
        #[test]
        fn the_search_finds_what_a_scan_finds(
            carried in (0u16..9, any_fold()),
            rows in prop::collection::btree_map(any::<u8>(), (1u16..=u16::MAX, any_fold()), 0..=127),
            first in 0u32..1000,
        ) {
            let mut held = Held(vec![chunk(), chunk(), chunk()]);
            // Index in chunk 0, bucket 5 of an object that begins at bucket 3; rows from chunk 1.
            let place = TablePlace { first_bucket: 3, bucket_count: 4, index_word: 77, row_chunk: 1 };
            let at = CHUNK_WORDS as u32 + first;
            held.0[0][77 + 2] = IndexWord::new(at, rows.len() as u32).0;
            held.0[2][first as usize] = row(0x80, carried).0;
            for (i, (low, rule)) in rows.iter().enumerate() {
                held.0[2][first as usize + 1 + i] = row(*low, *rule).0;
            }
            for low in 0..=255u8 {
                let expected = match rows.range(..=low).next_back() {
                    None => word_after(carried, u8::MAX),
                    Some((start, rule)) => word_after(*rule, low - start),
                };
                let found = find_rule(&held, &place, 5 * 256 + u64::from(low));
                prop_assert_eq!(found.word(u64::from(found.rule) | 1 << 40), expected);
            }
        }
    }

    #[test]
    fn addresses_outside_of_the_table_have_no_rule() {
        let held = Held(Vec::new());
        let place = TablePlace {
            first_bucket: 3,
            bucket_count: 4,
            ..TablePlace::default()
        };
        for address in [0, 2 * 256, 7 * 256, 1 << 40, u64::MAX, 4 * 256] {
            assert_eq!(find_rule(&held, &place, address), Found::NOTHING);
        }
    }
}
