//! The functions that an address lies in: one that has code of its own, and the calls that were
//! inlined into it.

use std::{collections::HashMap, ops::Range};

use gimli::{
    AttributeSpecification, AttributeValue, EntriesRaw, LittleEndian, UnitOffset, constants as dw,
};

use super::{
    Debug, DwarfError,
    lines::number,
    sections::{Of, Sections, Slice},
    unit::{High, Unit, Value, is_linkage_name},
};

/// Most entries that lead to each other until one has a name.
const MOST_LINKS: usize = 16;
/// Most calls inlined into each other.
const MOST_INLINED: usize = 256;
/// Most functions whose names are kept.
const MOST_KEPT: usize = 1 << 16;

/// A function with code, or a call inlined into one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    /// Offset of its entry in the unit.
    pub(super) offset: u64,
    /// Where the call is, of one that is inlined.
    pub(super) call: Option<super::lines::Row>,
}

/// What the entry of a function and those it refers to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Described {
    pub(super) linkage_name: Option<String>,
    pub(super) name: Option<String>,
    /// Where it is declared.
    pub(super) file: Option<String>,
    pub(super) line: u32,
}

/// What is kept of functions that were described before.
pub(super) type KeptFunctions = HashMap<(Of, u64), Described>;

/// An entry on the way from the root to where the walk is.
struct Open {
    depth: isize,
    offset: u64,
}

impl Debug<'_> {
    /// The functions of some addresses, which are sorted: the outermost first.
    pub(super) fn functions(
        &self,
        sections: &Sections,
        unit: &Unit,
        addresses: &[u64],
    ) -> Result<Vec<Vec<Link>>, DwarfError> {
        let mut chains: Vec<Vec<Link>> = vec![Vec::new(); addresses.len()];
        let bytes = sections.entries(&unit.head, unit.head.header_bytes, u64::MAX)?;
        let slice = Slice::new(&bytes, LittleEndian);
        let start = UnitOffset(unit.head.header_bytes as usize);
        let encoding = unit.head.encoding;
        let mut entries = EntriesRaw::new(slice, encoding, &unit.abbreviations, start);
        let mut open: Vec<Open> = Vec::new();
        while !entries.is_empty() {
            let (offset, depth) = (entries.next_offset().0 as u64, entries.next_depth());
            let Some(abbreviation) = entries.read_abbreviation()? else {
                // Units are padded with zeros.
                if entries.next_depth() <= 0 {
                    break;
                }
                continue;
            };
            while open.last().is_some_and(|last| last.depth >= depth) {
                open.pop();
            }
            let is_function = abbreviation.tag() == dw::DW_TAG_subprogram;
            let is_call = abbreviation.tag() == dw::DW_TAG_inlined_subroutine && !open.is_empty();
            if !is_function && !is_call {
                entries.skip_attributes(abbreviation.attributes())?;
                continue;
            }
            let told = Told::read(sections, unit, &mut entries, abbreviation.attributes())?;
            let link = Link {
                offset,
                call: is_call.then_some(told.call),
            };
            let mut is_met = false;
            for range in told.ranges(sections, unit) {
                if range.start < self.code_start {
                    continue;
                }
                let first = addresses.partition_point(|a| *a < range.start);
                let end = addresses.partition_point(|a| *a < range.end);
                for chain in &mut chains[first..end] {
                    let is_inside = match chain.last() {
                        None => is_function,
                        Some(last) => open.iter().any(|open| open.offset == last.offset),
                    };
                    if is_inside && chain.len() < MOST_INLINED {
                        // A function within another one has code of its own.
                        if is_function {
                            chain.clear();
                        }
                        chain.push(link);
                        is_met = true;
                    }
                }
            }
            if is_met && abbreviation.has_children() {
                open.push(Open { depth, offset });
            }
        }
        Ok(chains)
    }

    /// What a function's entry says, and those that it leads to.
    pub(super) fn describe(&self, sections: &Sections, unit: &Unit, at: u64) -> Described {
        let key = (sections.of, unit.head.offset.saturating_add(at));
        if let Some(known) = self.kept_functions.borrow().get(&key) {
            return known.clone();
        }
        let described = self.follow(sections, unit, at, MOST_LINKS);
        let mut kept = self.kept_functions.borrow_mut();
        if kept.len() >= MOST_KEPT {
            kept.clear();
        }
        kept.insert(key, described.clone());
        described
    }

    fn follow(&self, sections: &Sections, unit: &Unit, at: u64, links_left: usize) -> Described {
        let Ok((mut described, declared_in, origin)) = self.read_entry(sections, unit, at) else {
            return Described::default();
        };
        if let Some(file) = declared_in {
            let lines = match sections.of {
                Of::Main | Of::Shared => sections,
                Of::Package | Of::Split(_) => &self.sections,
            };
            let files = self.files(lines, unit);
            let path = usize::try_from(file).ok().and_then(|file| files.get(file));
            described.file = path.filter(|path| !path.is_empty()).cloned();
        }
        let is_enough = described.linkage_name.is_some() && described.line != 0;
        let (Some(origin), false) = (origin, is_enough || links_left == 0) else {
            return described;
        };
        let before = match origin {
            Origin::Here(at) => self.follow(sections, unit, at, links_left - 1),
            Origin::Elsewhere(of, offset) => self.follow_to(of, offset, links_left - 1),
        };
        described.linkage_name = described.linkage_name.or(before.linkage_name);
        described.name = described.name.or(before.name);
        if described.line == 0 {
            described.line = before.line;
            described.file = before.file;
        }
        described
    }

    /// Follows a reference into another unit, or another file.
    fn follow_to(&self, of: Of, offset: u64, links_left: usize) -> Described {
        let sections = match of {
            Of::Main => Some(&self.sections),
            Of::Shared => self.shared.as_ref(),
            // A split-off part has one unit only.
            Of::Package | Of::Split(_) => None,
        };
        let unit = sections.and_then(|sections| self.unit_at(sections, offset));
        match (sections, unit) {
            (Some(sections), Some(unit)) => {
                let at = offset - unit.head.offset;
                self.follow(sections, &unit, at, links_left)
            }
            _ => Described::default(),
        }
    }

    /// What one entry says: the function, the number of the file that it is declared in, and the
    /// entry that it leads to.
    fn read_entry(
        &self,
        sections: &Sections,
        unit: &Unit,
        at: u64,
    ) -> Result<(Described, Option<u64>, Option<Origin>), DwarfError> {
        let (mut described, mut file, mut origin) = (Described::default(), None, None);
        let mut unit = unit.clone();
        let abbreviations = std::rc::Rc::clone(&unit.abbreviations);
        unit.with_entry(sections, &abbreviations, at, |unit, attributes| {
            for attribute in attributes {
                let value = attribute.value();
                match attribute.name() {
                    name if is_linkage_name(name) => {
                        described.linkage_name = unit.text(sections, self.shared.as_ref(), value);
                    }
                    dw::DW_AT_name => {
                        described.name = unit.text(sections, self.shared.as_ref(), value);
                    }
                    dw::DW_AT_decl_line => {
                        described.line = attribute.udata_value().map_or(0, number);
                    }
                    dw::DW_AT_decl_file => {
                        if let AttributeValue::FileIndex(index) = value {
                            file = Some(index);
                        }
                    }
                    dw::DW_AT_abstract_origin => origin = Origin::of(value),
                    // The abstract instance leads on to it.
                    dw::DW_AT_specification => origin = origin.or(Origin::of(value)),
                    _ => {}
                }
            }
        })?;
        Ok((described, file, origin))
    }
}

/// An entry that another one leads to.
#[derive(Clone, Copy, Debug)]
enum Origin {
    /// In the same unit, at an offset from its start.
    Here(u64),
    /// In some unit of a file, at an offset from the section's start.
    Elsewhere(Of, u64),
}

impl Origin {
    fn of(value: Value<'_>) -> Option<Self> {
        match value {
            AttributeValue::UnitRef(offset) => Some(Self::Here(offset.0 as u64)),
            AttributeValue::DebugInfoRef(offset) => {
                Some(Self::Elsewhere(Of::Main, offset.0 as u64))
            }
            AttributeValue::DebugInfoRefSup(offset) => {
                Some(Self::Elsewhere(Of::Shared, offset.0 as u64))
            }
            _ => None,
        }
    }
}

/// What an entry tells of where its code is, and where it was called.
#[derive(Debug, Default)]
struct Told {
    low: Option<u64>,
    high: Option<High>,
    ranges: Option<u64>,
    call: super::lines::Row,
}

impl Told {
    fn read(
        sections: &Sections,
        unit: &Unit,
        entries: &mut EntriesRaw<'_, Slice<'_>>,
        specs: &[AttributeSpecification],
    ) -> Result<Self, DwarfError> {
        let mut told = Self::default();
        for spec in specs {
            let attribute = entries.read_attribute(*spec)?;
            match attribute.name() {
                dw::DW_AT_low_pc => told.low = unit.address(sections, attribute.value()),
                dw::DW_AT_high_pc => told.high = unit.high(sections, attribute.value()),
                dw::DW_AT_ranges => {
                    told.ranges = unit.ranges_offset(sections, attribute.value());
                }
                dw::DW_AT_call_file => {
                    if let AttributeValue::FileIndex(index) = attribute.value() {
                        told.call.file = index;
                    }
                }
                dw::DW_AT_call_line => {
                    told.call.line = attribute.udata_value().map_or(0, number);
                }
                dw::DW_AT_call_column => {
                    told.call.column = attribute.udata_value().map_or(0, number);
                }
                _ => {}
            }
        }
        Ok(told)
    }

    fn ranges(&self, sections: &Sections, unit: &Unit) -> Vec<Range<u64>> {
        unit.pcs(sections, self.low, self.high, self.ranges)
    }
}
