//! Where the code lies that one process made, and what it was at which time.
//!
//! In: entries in the order in which the process told them; a later one takes the place of what it
//! overlaps, from the time at which it appeared. Out: the name for an address at a time. Memory is
//! counted; when there is too much, the newest half stays.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
    rc::Rc,
};

use super::lines::Lines;

/// The longest name kept, in bytes. What is longer is cut there.
pub(super) const MOST_NAME_BYTES: usize = 4096;
/// Most replaced entries kept of a process: of those that samples on their way may still mean.
const MOST_PAST: usize = 4096;
/// What an entry takes, in bytes, with its share of a tree's nodes that are two thirds full.
const ENTRY_BYTES: usize = 112;
/// What a replaced entry takes, in bytes.
const PAST_BYTES: usize = size_of::<Past>();
/// Names that nobody has any more are let go when they are at least this many bytes, and half of all.
const MOST_DEAD_BYTES: usize = 1 << 20;

/// When something came to be, in nanoseconds of `CLOCK_MONOTONIC`: after the one time, and by the
/// other. Both are equal where the time is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appeared {
    /// It was not there yet.
    pub after_ns: u64,
    /// It was there.
    pub by_ns: u64,
}

impl Appeared {
    /// At exactly this time.
    #[must_use]
    pub fn at(ns: u64) -> Self {
        Self {
            after_ns: ns,
            by_ns: ns,
        }
    }

    /// After the one time, by the other.
    #[must_use]
    pub fn between(after_ns: u64, by_ns: u64) -> Self {
        Self {
            after_ns: after_ns.min(by_ns),
            by_ns,
        }
    }
}

/// A piece of code.
#[derive(Clone, Copy, Debug)]
pub struct Code<'a> {
    /// As it was written.
    pub name: &'a [u8],
    /// Its first address.
    pub origin: u64,
    /// Lines, if there are any, by offset.
    pub lines: Option<&'a Lines>,
    /// Tells entries apart.
    pub order: u64,
}

/// What is known of an address at a time.
#[derive(Clone, Copy, Debug)]
pub enum Found<'a> {
    /// It was this code.
    Code(Code<'a>),
    /// Nothing.
    Nothing,
    /// One piece of code took the place of another at about that time.
    Unsure,
}

/// Whether an entry that surely appeared after a time may tell what was there at that time, if
/// nothing else was told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Late {
    /// It may: some runtimes write late, or when they are asked.
    Counts,
    /// The address may have had another use then.
    No,
}

#[derive(Clone, Debug)]
struct Entry {
    end: u64,
    /// Where its code begins, also when that part was replaced.
    origin: u64,
    appeared: Appeared,
    /// Later ones have higher numbers.
    order: u64,
    lines: Option<Rc<Lines>>,
    /// `None` where code was that has moved away.
    name: Option<NameId>,
}

/// Part of an entry that another took the place of.
#[derive(Clone, Debug)]
struct Past {
    start: u64,
    entry: Entry,
    until: Appeared,
}

/// What is known of the code of one process.
#[derive(Debug, Default)]
pub struct CodeMap {
    entries: BTreeMap<u64, Entry>,
    /// The newest last.
    past: VecDeque<Past>,
    names: Names,
    dead_bytes: usize,
    line_bytes: usize,
    next_order: u64,
    left_out: u64,
    newest_ns: u64,
    /// What is not known of a time before this one may be forgotten.
    forgotten_ns: u64,
}

impl CodeMap {
    /// Notes code at these addresses. Nothing happens if there are none.
    pub fn insert(
        &mut self,
        at: Range<u64>,
        name: &[u8],
        appeared: Appeared,
        lines: Option<Lines>,
    ) {
        let Range { start, end } = at;
        if start >= end {
            return;
        }
        let name = &name[..name.len().min(MOST_NAME_BYTES)];
        self.next_order += 1;
        self.newest_ns = self.newest_ns.max(appeared.by_ns);
        if self.is_taken(start, end) {
            if lines.is_none() && self.is_told_again(start, end, name) {
                return;
            }
            self.clear(start, end, appeared);
        }
        self.line_bytes += lines.as_ref().map_or(0, Lines::bytes);
        let entry = Entry {
            end,
            origin: start,
            appeared,
            order: self.next_order,
            lines: lines.map(Rc::new),
            name: Some(self.names.add(name)),
        };
        self.entries.insert(start, entry);
    }

    /// Notes that code lies elsewhere now. Nothing happens if it is not known.
    pub fn shift(&mut self, from: u64, to: u64, bytes: u64, appeared: Appeared) {
        let Some(old) = self.entries.get(&from) else {
            return;
        };
        let (Some(name), lines) = (old.name, old.lines.clone()) else {
            return;
        };
        let [Some(old_end), Some(end)] = [from, to].map(|start| start.checked_add(bytes)) else {
            return;
        };
        if bytes == 0 {
            return;
        }
        self.next_order += 1;
        self.clear(from, old_end, appeared);
        let gone = Entry {
            end: old_end,
            origin: from,
            appeared,
            order: self.next_order,
            lines: None,
            name: None,
        };
        self.entries.insert(from, gone);
        self.clear(to, end, appeared);
        let entry = Entry {
            end,
            origin: to,
            appeared,
            order: self.next_order,
            lines,
            name: Some(name),
        };
        self.entries.insert(to, entry);
    }

    /// The number that the next entry will exceed: what is noted from now on is newer.
    #[must_use]
    pub fn mark(&self) -> u64 {
        self.next_order
    }

    /// What was noted up to `mark` is no longer so, unless it was told again.
    pub fn end_before(&mut self, mark: u64, appeared: Appeared) {
        let old = |(start, entry): (&u64, &Entry)| (entry.order <= mark).then_some(*start);
        let starts: Vec<u64> = self.entries.iter().filter_map(old).collect();
        for start in starts {
            if let Some(entry) = self.entries.remove(&start) {
                self.retire(start, entry, appeared);
            }
        }
    }

    /// The code at an address at a time.
    #[must_use]
    pub fn find(&self, address: u64, time_ns: u64, late: Late) -> Found<'_> {
        let mut next = self.entry_at(address);
        if let Some(entry) = next.filter(|entry| entry.appeared.by_ns <= time_ns) {
            return self.found(entry);
        }
        for past in self.past.iter().rev() {
            if address < past.start || past.entry.end <= address {
                continue;
            }
            if past.until.by_ns <= time_ns {
                break; // What was here then is not what `next` took the place of.
            }
            if past.until.after_ns < time_ns {
                // Between the two: only if both are the same can it be told.
                let same = next.is_some_and(|next| self.name(next) == self.name(&past.entry));
                return match same {
                    true => self.found(&past.entry),
                    false => Found::Unsure,
                };
            }
            if past.entry.appeared.by_ns <= time_ns {
                return self.found(&past.entry);
            }
            next = Some(&past.entry);
        }
        match next {
            // Something else may have been there, and is forgotten.
            Some(_) if time_ns < self.forgotten_ns => Found::Unsure,
            Some(entry) if late == Late::Counts || entry.appeared.after_ns < time_ns => {
                self.found(entry)
            }
            _ => Found::Nothing,
        }
    }

    /// What all this takes, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.entries.len() * ENTRY_BYTES
            + self.past.len() * PAST_BYTES
            + self.names.bytes
            + self.line_bytes
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Entries that were let go for want of memory.
    #[must_use]
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Lets names go that nobody has any more, once they are many.
    pub fn tidy(&mut self) {
        if self.dead_bytes > MOST_DEAD_BYTES && self.dead_bytes > self.names.bytes / 2 {
            self.rebuild();
        }
    }

    /// Halves the memory: the older half of the entries is let go, and all that was replaced.
    pub fn shed(&mut self) {
        let mut orders: Vec<u64> = self.entries.values().map(|entry| entry.order).collect();
        if orders.is_empty() {
            self.past.clear();
            return self.rebuild();
        }
        self.forgotten_ns = self.newest_ns;
        let middle = orders.len() / 2;
        let newest_gone = *orders.select_nth_unstable(middle).1;
        let before = self.entries.len();
        self.past.clear();
        self.entries.retain(|_, entry| entry.order > newest_gone);
        self.left_out += (before - self.entries.len()) as u64;
        self.rebuild();
    }

    fn rebuild(&mut self) {
        let old = std::mem::take(&mut self.names);
        self.dead_bytes = 0;
        self.line_bytes = 0;
        let past = self.past.iter_mut().map(|past| &mut past.entry);
        for entry in self.entries.values_mut().chain(past) {
            let names = &mut self.names;
            entry.name = entry.name.map(|name| names.add(old.get(name)));
            let share = |lines: &Rc<Lines>| lines.bytes() / Rc::strong_count(lines);
            self.line_bytes += entry.lines.as_ref().map_or(0, share);
        }
    }

    fn entry_at(&self, address: u64) -> Option<&Entry> {
        let (_, entry) = self.entries.range(..=address).next_back()?;
        (address < entry.end).then_some(entry)
    }

    fn name(&self, entry: &Entry) -> Option<&[u8]> {
        entry.name.map(|name| self.names.get(name))
    }

    fn found<'a>(&'a self, entry: &'a Entry) -> Found<'a> {
        self.name(entry).map_or(Found::Nothing, |name| {
            Found::Code(Code {
                name,
                origin: entry.origin,
                lines: entry.lines.as_deref(),
                order: entry.order,
            })
        })
    }

    /// Whether just this is known. A map that is written anew tells most of it again.
    fn is_told_again(&mut self, start: u64, end: u64, name: &[u8]) -> bool {
        let Some(entry) = self.entries.get_mut(&start) else {
            return false;
        };
        let is_it = entry.end == end
            && entry.lines.is_none()
            && entry
                .name
                .is_some_and(|known| self.names.get(known) == name);
        if is_it {
            entry.order = self.next_order;
        }
        is_it
    }

    fn is_taken(&self, start: u64, end: u64) -> bool {
        let before = self.entries.range(..end).next_back();
        before.is_some_and(|(_, entry)| entry.end > start)
    }

    /// Makes room.
    fn clear(&mut self, start: u64, end: u64, appeared: Appeared) {
        while let Some((first, last)) = self
            .entries
            .range(..end)
            .next_back()
            .map(|(first, entry)| (*first, entry.end))
            .filter(|(_, last)| *last > start)
        {
            let Some(mut entry) = self.entries.remove(&first) else {
                break;
            };
            if last > end {
                self.entries.insert(end, entry.clone());
            }
            if first < start {
                let before = Entry {
                    end: start,
                    ..entry.clone()
                };
                self.entries.insert(first, before);
            }
            entry.end = last.min(end);
            self.retire(first.max(start), entry, appeared);
        }
    }

    fn retire(&mut self, start: u64, entry: Entry, until: Appeared) {
        self.dead_bytes += entry.name.map_or(0, |name| self.names.get(name).len());
        if self.past.len() == MOST_PAST
            && let Some(oldest) = self.past.pop_front()
        {
            self.forgotten_ns = self.forgotten_ns.max(oldest.until.by_ns);
        }
        self.past.push_back(Past {
            start,
            entry,
            until,
        });
    }
}

/// A name in [`Names`]: number of its part in the upper half, offset in the lower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct NameId(u32);

/// Size of a part of [`Names`], which is what an offset can tell.
const PART_BYTES: usize = 1 << 16;

/// Names one after the other, each with its length before it, in parts that never grow beyond their
/// size.
#[derive(Debug, Default)]
struct Names {
    parts: Vec<Vec<u8>>,
    bytes: usize,
    last: Option<NameId>,
}

impl Names {
    fn add(&mut self, name: &[u8]) -> NameId {
        // Stubs come in runs of one name.
        if let Some(last) = self.last.filter(|last| self.get(*last) == name) {
            return last;
        }
        let length = u16::try_from(name.len()).expect("names are cut at MOST_NAME_BYTES");
        let bytes = 2 + name.len();
        if self
            .parts
            .last()
            .is_none_or(|part| part.len() + bytes > PART_BYTES)
        {
            self.parts.push(Vec::new());
        }
        let number = self.parts.len() - 1;
        let part = &mut self.parts[number];
        let id = u32::try_from(number << 16 | part.len()).expect("a budget is below 4 GiB");
        part.extend_from_slice(&length.to_le_bytes());
        part.extend_from_slice(name);
        self.bytes += bytes;
        self.last = Some(NameId(id));
        NameId(id)
    }

    fn get(&self, id: NameId) -> &[u8] {
        let part = &self.parts[(id.0 >> 16) as usize];
        let at = (id.0 & 0xffff) as usize;
        let length = usize::from(u16::from_le_bytes([part[at], part[at + 1]]));
        &part[at + 2..at + 2 + length]
    }
}

const _: () = assert!(MOST_NAME_BYTES + 2 < PART_BYTES, "a part holds any name");

#[cfg(test)]
mod tests;
