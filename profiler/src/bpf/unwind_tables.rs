//! Unwind tables in the kernel side's memory: rows and index in chunks, rules in one array for all,
//! and for each object a slot that tells where its table is.

use std::{
    collections::{HashMap, VecDeque},
    os::fd::AsFd,
    time::{Duration, Instant},
};

use aya::maps::MapData;
use profiler_common::{
    limits::{CHUNK_WORDS, MAX_TABLES, PAGE_BYTES},
    unwind::{
        IndexWord, MAX_RULES, NO_INFORMATION, NO_SLOT, Rule, TABLE_ABSENT, TABLE_ENTRY_WORDS,
        TABLE_PENDING, TABLE_REFUSED, TABLE_RESIDENT, TABLE_UNREADABLE, TablePlace, find_rule,
    },
    walk::Knowledge,
};

use super::{BpfError, chunks::Extent, memory::TableMemory, perf::SharedMemory};
use crate::unwind::{Layout, Table};

/// How long a slot rests before another object gets it: mapping tables and samples may still name it.
const REST: Duration = Duration::from_secs(10);
/// The word of a [`TableEntry`](profiler_common::unwind::TableEntry) that holds its state.
const STATE_WORD: usize = 4;

/// An object's number among unwind tables, never [`NO_SLOT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot(u32);

impl Slot {
    /// The number, as mapping entries have it.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }

    fn first_word(self) -> usize {
        self.0 as usize * TABLE_ENTRY_WORDS
    }
}

/// What became of an unwind table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// The kernel side walks by it.
    Resident,
    /// The budget has no room for it now.
    NoRoom,
}

/// Rows and index of one table, and how they are found.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Room {
    place: TablePlace,
    rows: Extent,
    index: Extent,
}

/// The unwind tables of all objects.
pub(super) struct UnwindTables {
    _maps: [MapData; 2],
    entries: SharedMemory,
    rules: SharedMemory,
    rule_words: Vec<u64>,
    rule_numbers: HashMap<u64, u16>,
    /// The table of each slot, while it is there.
    slots: Vec<Option<Room>>,
    resting: VecDeque<(Instant, Slot)>,
    /// Tables in memory that the kernel side did not see when they were written, and where they lie.
    unpublished: Vec<(Slot, Room)>,
}

impl UnwindTables {
    pub(super) fn new(tables: MapData, rules: MapData) -> Result<Self, BpfError> {
        let map = |map: &MapData, bytes: usize| {
            SharedMemory::map(map.fd().as_fd(), bytes.next_multiple_of(PAGE_BYTES))
                .map_err(BpfError::TableMemory)
        };
        let entries = map(&tables, MAX_TABLES * TABLE_ENTRY_WORDS * 4)?;
        let rule_memory = map(&rules, MAX_RULES * 8)?;
        // The stacks of objects that find no slot are cut.
        entries.publish_word(STATE_WORD, TABLE_REFUSED);
        let no_information = Rule::NoInformation.encode();
        Ok(Self {
            _maps: [tables, rules],
            entries,
            rules: rule_memory,
            rule_words: vec![no_information],
            rule_numbers: HashMap::from([(no_information, NO_INFORMATION)]),
            slots: vec![None],
            resting: VecDeque::new(),
            unpublished: Vec::new(),
        })
    }

    pub(super) fn open_slot(&mut self) -> Option<Slot> {
        let rested = |since: &Instant| since.elapsed() >= REST;
        let slot = if self.resting.front().is_some_and(|(since, _)| rested(since)) {
            self.resting.pop_front().map(|(_, slot)| slot)?
        } else if self.slots.len() < MAX_TABLES {
            self.slots.push(None);
            Slot(u32::try_from(self.slots.len() - 1).ok()?)
        } else {
            return None;
        };
        self.set_state(slot, TABLE_PENDING);
        Some(slot)
    }

    pub(super) fn mark_absent(&mut self, slot: Slot) {
        self.set_state(slot, TABLE_ABSENT);
    }

    pub(super) fn mark_unreadable(&mut self, slot: Slot) {
        self.set_state(slot, TABLE_UNREADABLE);
    }

    pub(super) fn mark_refused(&mut self, slot: Slot) {
        self.set_state(slot, TABLE_REFUSED);
    }

    pub(super) fn store(
        &mut self,
        memory: &mut TableMemory,
        slot: Slot,
        table: &Table,
        reserve_bytes: usize,
    ) -> Result<Stored, BpfError> {
        let layout = self.lay_out(table);
        let Some(rows) = memory.allocate(layout.rows.len(), reserve_bytes)? else {
            return Ok(Stored::NoRoom);
        };
        let Some(index) = memory.allocate(layout.index.len(), reserve_bytes)? else {
            memory.release(rows);
            return Ok(Stored::NoRoom);
        };
        memory.write(rows, &layout.rows);
        // The rows were laid out from word 0 on.
        let moved = IndexWord::new(rows.word, 0).0;
        let words: Vec<u32> = layout.index.iter().map(|word| word + moved).collect();
        memory.write(index, &words);
        let place = TablePlace {
            first_bucket: layout.first_bucket,
            bucket_count: index.words,
            index_word: index.chunk * CHUNK_WORDS as u32 + index.word,
            row_chunk: rows.chunk,
        };
        self.take_room(memory, slot);
        let words = [
            place.first_bucket,
            place.bucket_count,
            place.index_word,
            place.row_chunk,
        ];
        self.entries.write_words(slot.first_word(), &words);
        let room = Room { place, rows, index };
        self.slots[slot.0 as usize] = Some(room);
        self.unpublished.push((slot, room));
        self.publish(memory);
        Ok(Stored::Resident)
    }

    /// Has the kernel side use the tables whose memory it sees by now.
    pub(super) fn publish(&mut self, memory: &TableMemory) {
        let (ready, waiting) = std::mem::take(&mut self.unpublished)
            .into_iter()
            .partition(|(_, room)| memory.is_visible(room.rows) && memory.is_visible(room.index));
        self.unpublished = waiting;
        let ready: Vec<(Slot, Room)> = ready;
        for (slot, room) in ready {
            // It may have made room for another meanwhile.
            if self.slots[slot.0 as usize] == Some(room) {
                self.set_state(slot, TABLE_RESIDENT);
            }
        }
    }

    /// Lays a table out with the numbers that its rules have among all, which are written first.
    fn lay_out(&mut self, table: &Table) -> Layout {
        let rules = table.rules();
        Layout::of(table, 0, |local| {
            self.rule_number(rules[usize::from(local)].encode())
        })
    }

    /// The number of a rule; `None` when there are too many.
    fn rule_number(&mut self, word: u64) -> Option<u16> {
        if let Some(number) = self.rule_numbers.get(&word) {
            return Some(*number);
        }
        let at = self.rule_words.len();
        let number = u16::try_from(at).ok()?;
        let halves = [word as u32, (word >> 32) as u32];
        self.rules.write_words(at * 2, &halves);
        self.rule_words.push(word);
        self.rule_numbers.insert(word, number);
        Some(number)
    }

    pub(super) fn evict(&mut self, memory: &mut TableMemory, slot: Slot) -> usize {
        self.set_state(slot, TABLE_PENDING);
        self.take_room(memory, slot)
    }

    pub(super) fn close_slot(&mut self, memory: &mut TableMemory, slot: Slot) {
        self.set_state(slot, TABLE_ABSENT);
        self.take_room(memory, slot);
        self.resting.push_back((Instant::now(), slot));
    }

    /// Gives back the memory of a table that is not resident any more; tells how many bytes.
    fn take_room(&mut self, memory: &mut TableMemory, slot: Slot) -> usize {
        let Some(room) = self.slots[slot.0 as usize].take() else {
            return 0;
        };
        memory.release(room.rows);
        memory.release(room.index);
        (room.rows.words + room.index.words) as usize * 4
    }

    fn set_state(&self, slot: Slot, state: u32) {
        debug_assert_ne!(slot.0, NO_SLOT);
        self.entries
            .publish_word(slot.first_word() + STATE_WORD, state);
    }

    pub(super) fn look_up(&self, memory: &TableMemory, slot: Slot, elf_address: u64) -> Knowledge {
        let Some(room) = &self.slots[slot.0 as usize] else {
            return Knowledge::NoRow;
        };
        let found = find_rule(memory, &room.place, elf_address);
        match self.rule_words.get(usize::from(found.rule)) {
            Some(word) if found.rule != NO_INFORMATION => Knowledge::Rule(found.word(*word)),
            _ => Knowledge::NoRow,
        }
    }

    /// Kernel memory in rules and slots, in bytes.
    pub(super) fn bytes(&self) -> usize {
        MAX_RULES * 8 + MAX_TABLES * TABLE_ENTRY_WORDS * 4
    }
}
