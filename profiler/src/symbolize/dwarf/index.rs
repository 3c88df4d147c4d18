//! Which unit an address belongs to.
//!
//! `.debug_aranges` tells without reading the units; those that it leaves out are asked themselves.

use std::{collections::BTreeMap, ops::Range};

use gimli::{DebugAranges, LittleEndian, UnitType};

use super::{Debug, DwarfError};

/// Units by their offset, with the numbers of the addresses that lie in each.
pub(super) type ByUnit = BTreeMap<u64, Vec<usize>>;

impl Debug<'_> {
    /// Sorts addresses, which are in ascending order, by units.
    pub(super) fn units_of(&self, addresses: &[u64]) -> Result<ByUnit, DwarfError> {
        let mut sorting = Sorting {
            addresses,
            code_start: self.code_start,
            is_taken: vec![false; addresses.len()],
            units: ByUnit::new(),
        };
        let listed = self.list_units(&mut sorting)?;
        if sorting.is_taken.iter().all(|taken| *taken) {
            return Ok(sorting.units);
        }
        let mut offset = 0;
        while offset < self.sections.info.len() {
            let Ok(head) = self.sections.unit_head(offset) else {
                break;
            };
            offset = head.end();
            let has_code = matches!(
                head.kind,
                UnitType::Compilation | UnitType::Skeleton(_) | UnitType::SplitCompilation(_)
            );
            if !has_code || listed.binary_search(&head.offset).is_ok() {
                continue;
            }
            // One unit that is broken says nothing of the others.
            let Ok(unit) = self.unit(head) else { continue };
            for range in &unit.ranges {
                sorting.take(head.offset, range);
            }
        }
        Ok(sorting.units)
    }

    /// Takes what `.debug_aranges` tells, and gives the units that it tells of.
    fn list_units(&self, sorting: &mut Sorting<'_>) -> Result<Vec<u64>, DwarfError> {
        let section = &self.sections.aranges;
        let mut listed = Vec::new();
        let Ok(window) = section.window(0, section.len()) else {
            return Ok(listed);
        };
        let ranges = DebugAranges::new(&window, LittleEndian);
        let mut headers = ranges.headers();
        while let Ok(Some(header)) = headers.next() {
            let unit = header.debug_info_offset().0 as u64;
            let mut entries = header.entries();
            let mut has_ranges = false;
            while let Ok(Some(entry)) = entries.next() {
                let end = entry.address().saturating_add(entry.length());
                has_ranges |= sorting.take(unit, &(entry.address()..end));
            }
            if has_ranges {
                listed.push(unit);
            }
        }
        listed.sort_unstable();
        Ok(listed)
    }
}

struct Sorting<'a> {
    addresses: &'a [u64],
    code_start: u64,
    is_taken: Vec<bool>,
    units: ByUnit,
}

impl Sorting<'_> {
    /// Gives a unit the addresses in a range that no other has. Tells whether the range is one:
    /// linkers put those of code that they left out to where no code is.
    fn take(&mut self, unit: u64, range: &Range<u64>) -> bool {
        if range.start < self.code_start || range.is_empty() {
            return false;
        }
        let first = self.addresses.partition_point(|a| *a < range.start);
        let end = self.addresses.partition_point(|a| *a < range.end);
        for i in first..end {
            if !std::mem::replace(&mut self.is_taken[i], true) {
                self.units.entry(unit).or_default().push(i);
            }
        }
        true
    }
}
