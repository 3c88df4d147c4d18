//! One unit: what its root says, and how the values of its attributes are read.

use std::{ops::Range, rc::Rc};

use gimli::{
    Abbreviations, Attribute, AttributeValue, DebugRanges, DebugRngLists, DwAt, EntriesRaw,
    LittleEndian, RangeLists, RangeListsOffset, RawRngListEntry, UnitOffset, UnitType,
    constants as dw,
};

use super::{
    DwarfError,
    sections::{Sections, Slice, UnitHead},
};

/// Bytes of an entry that are read at first. Few have more.
const ENTRY_BYTES: u64 = 1 << 10;
/// Bytes of a list of ranges that are read at first.
const RANGE_BYTES: u64 = 4 << 10;
/// The longest list of ranges, in bytes.
const MOST_RANGE_BYTES: u64 = 4 << 20;

/// A value of an attribute.
pub(super) type Value<'a> = AttributeValue<Slice<'a>>;

/// Where what a unit shares with others begins, in each section.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bases {
    pub(super) addr: u64,
    pub(super) str_offsets: u64,
    pub(super) rnglists: u64,
    /// `.debug_ranges` of the split DWARF before version 5.
    pub(super) ranges: u64,
}

/// A unit that is not read yet but for its root.
#[derive(Clone, Debug)]
pub(super) struct Unit {
    pub(super) head: UnitHead,
    pub(super) abbreviations: Rc<Abbreviations>,
    pub(super) bases: Bases,
    pub(super) low_pc: u64,
    /// Ranges of code, empty if the root does not tell them.
    pub(super) ranges: Vec<Range<u64>>,
    pub(super) line_offset: Option<u64>,
    pub(super) folder: String,
    pub(super) name: String,
    /// What the split-off part is known by: its number and its file.
    pub(super) split: Option<(u64, String)>,
}

/// What is read of an entry: attributes that do not refer to the bytes they were in.
#[derive(Debug, Default)]
pub(super) struct Root {
    low_pc: Option<u64>,
    high: Option<High>,
    ranges: Option<u64>,
    split_name: Option<String>,
    split_id: Option<u64>,
}

/// What `DW_AT_high_pc` says.
#[derive(Clone, Copy, Debug)]
pub(super) enum High {
    Address(u64),
    Length(u64),
}

impl Unit {
    /// Reads a unit's root.
    pub(super) fn read(
        sections: &Sections,
        head: UnitHead,
        abbreviations: Rc<Abbreviations>,
        bases: Bases,
    ) -> Result<Self, DwarfError> {
        let mut unit = Self {
            head,
            abbreviations,
            bases,
            low_pc: 0,
            ranges: Vec::new(),
            line_offset: None,
            folder: String::new(),
            name: String::new(),
            split: None,
        };
        let table = Rc::clone(&unit.abbreviations);
        unit.with_entry(sections, &table, head.header_bytes, |unit, attributes| {
            unit.take_root(sections, attributes);
        })?;
        Ok(unit)
    }

    /// Reads the entry at an offset of the unit, and hands its attributes over.
    pub(super) fn with_entry<T>(
        &mut self,
        sections: &Sections,
        abbreviations: &Abbreviations,
        offset: u64,
        read: impl FnOnce(&mut Self, &[Attribute<Slice<'_>>]) -> T,
    ) -> Result<T, DwarfError> {
        let mut bytes = ENTRY_BYTES;
        loop {
            let window = sections.entries(&self.head, offset, bytes)?;
            let is_all = self.head.bytes.saturating_sub(offset) <= bytes;
            match attributes(&window, &self.head, abbreviations) {
                Err(_) if !is_all => bytes *= 16,
                Err(error) => return Err(error),
                Ok(attributes) => return Ok(read(self, &attributes)),
            }
        }
    }

    fn take_root(&mut self, sections: &Sections, attributes: &[Attribute<Slice<'_>>]) {
        // Ranges of what was split off are relative to it, those of the root are not.
        let mut ranges_base = self.bases.ranges;
        // What others are relative to comes first.
        for attribute in attributes {
            match (attribute.name(), attribute.value()) {
                (dw::DW_AT_str_offsets_base, AttributeValue::DebugStrOffsetsBase(base)) => {
                    self.bases.str_offsets = base.0 as u64;
                }
                (
                    dw::DW_AT_addr_base | dw::DW_AT_GNU_addr_base,
                    AttributeValue::DebugAddrBase(base),
                ) => self.bases.addr = base.0 as u64,
                (dw::DW_AT_rnglists_base, AttributeValue::DebugRngListsBase(base)) => {
                    self.bases.rnglists = base.0 as u64;
                }
                (dw::DW_AT_GNU_ranges_base, AttributeValue::DebugRngListsBase(base)) => {
                    ranges_base = base.0 as u64;
                }
                _ => {}
            }
        }
        let mut root = Root::default();
        for attribute in attributes {
            let value = attribute.value();
            match attribute.name() {
                dw::DW_AT_low_pc => root.low_pc = self.address(sections, value),
                dw::DW_AT_high_pc => root.high = self.high(sections, value),
                dw::DW_AT_ranges => root.ranges = self.ranges_offset(sections, value),
                dw::DW_AT_stmt_list => {
                    if let AttributeValue::DebugLineRef(offset) = value {
                        self.line_offset = Some(offset.0 as u64);
                    }
                }
                dw::DW_AT_comp_dir => {
                    self.folder = self.text(sections, None, value).unwrap_or_default();
                }
                dw::DW_AT_name => self.name = self.text(sections, None, value).unwrap_or_default(),
                dw::DW_AT_dwo_name | dw::DW_AT_GNU_dwo_name => {
                    root.split_name = self.text(sections, None, value);
                }
                dw::DW_AT_GNU_dwo_id => {
                    if let AttributeValue::DwoId(id) = value {
                        root.split_id = Some(id.0);
                    }
                }
                _ => {}
            }
        }
        if let UnitType::Skeleton(id) = self.head.kind {
            root.split_id = Some(id.0);
        }
        self.split = root.split_id.zip(root.split_name);
        self.low_pc = root.low_pc.unwrap_or(0);
        self.ranges = self.pcs(sections, root.low_pc, root.high, root.ranges);
        self.bases.ranges = ranges_base;
    }

    /// The ranges of code that an entry's attributes tell.
    pub(super) fn pcs(
        &self,
        sections: &Sections,
        low: Option<u64>,
        high: Option<High>,
        ranges: Option<u64>,
    ) -> Vec<Range<u64>> {
        if let Some(offset) = ranges {
            return self.range_list(sections, offset).unwrap_or_default();
        }
        let end = low.zip(high).and_then(|(low, high)| match high {
            High::Address(end) => Some(end),
            High::Length(bytes) => low.checked_add(bytes),
        });
        let range = low.zip(end).filter(|(start, end)| start < end);
        range.into_iter().map(|(start, end)| start..end).collect()
    }

    pub(super) fn high(&self, sections: &Sections, value: Value<'_>) -> Option<High> {
        match value {
            AttributeValue::Udata(bytes) => Some(High::Length(bytes)),
            value => self.address(sections, value).map(High::Address),
        }
    }

    pub(super) fn address(&self, sections: &Sections, value: Value<'_>) -> Option<u64> {
        match value {
            AttributeValue::Addr(address) => Some(address),
            AttributeValue::DebugAddrIndex(index) => {
                sections.address(self.bases.addr, index.0, self.head.encoding)
            }
            _ => None,
        }
    }

    /// Where a list of ranges is.
    pub(super) fn ranges_offset(&self, sections: &Sections, value: Value<'_>) -> Option<u64> {
        match value {
            AttributeValue::RangeListsRef(offset) => {
                (offset.0 as u64).checked_add(self.bases.ranges)
            }
            AttributeValue::DebugRngListsIndex(index) => {
                let width = self.head.encoding.format.word_size();
                let into = (index.0 as u64).checked_mul(u64::from(width))?;
                let at = self.bases.rnglists.checked_add(into)?;
                let offset = sections.rnglists.number(at, width)?;
                offset.checked_add(self.bases.rnglists)
            }
            _ => None,
        }
    }

    /// A text, wherever it is. `shared` is the file that several debug files share.
    pub(super) fn text(
        &self,
        sections: &Sections,
        shared: Option<&Sections>,
        value: Value<'_>,
    ) -> Option<String> {
        match value {
            AttributeValue::String(text) => {
                Some(String::from_utf8_lossy(text.slice()).into_owned())
            }
            AttributeValue::DebugStrRef(offset) => sections.str.text(offset.0 as u64),
            AttributeValue::DebugStrRefSup(offset) => shared?.str.text(offset.0 as u64),
            AttributeValue::DebugLineStrRef(offset) => sections.line_str.text(offset.0 as u64),
            AttributeValue::DebugStrOffsetsIndex(index) => {
                let format = self.head.encoding.format;
                sections.indexed_text(self.bases.str_offsets, index.0, format)
            }
            _ => None,
        }
    }

    /// A list of ranges. Source: DWARF 5, section 2.17.3.
    fn range_list(&self, sections: &Sections, offset: u64) -> Option<Vec<Range<u64>>> {
        let is_old = self.head.encoding.version <= 4;
        let store = if is_old {
            &sections.ranges
        } else {
            &sections.rnglists
        };
        let mut bytes = RANGE_BYTES;
        loop {
            let window = store.window(offset, bytes).ok()?;
            let is_all = offset.saturating_add(bytes) >= store.len();
            let parsed = self.parse_ranges(sections, &window);
            if parsed.is_some() || is_all || bytes >= MOST_RANGE_BYTES {
                return parsed;
            }
            bytes *= 16;
        }
    }

    fn parse_ranges(&self, sections: &Sections, window: &[u8]) -> Option<Vec<Range<u64>>> {
        let lists = RangeLists::new(
            DebugRanges::new(window, LittleEndian),
            DebugRngLists::new(window, LittleEndian),
        );
        let encoding = self.head.encoding;
        let mut entries = lists.raw_ranges(RangeListsOffset(0), encoding).ok()?;
        let at = |index: usize| sections.address(self.bases.addr, index, encoding);
        let (mut base, mut ranges) = (self.low_pc, Vec::new());
        while let Some(entry) = entries.next().ok()? {
            let range = match entry {
                RawRngListEntry::BaseAddress { addr } => {
                    base = addr;
                    continue;
                }
                RawRngListEntry::BaseAddressx { addr } => {
                    base = at(addr.0)?;
                    continue;
                }
                RawRngListEntry::AddressOrOffsetPair { begin, end }
                | RawRngListEntry::OffsetPair { begin, end } => {
                    base.wrapping_add(begin)..base.wrapping_add(end)
                }
                RawRngListEntry::StartxEndx { begin, end } => at(begin.0)?..at(end.0)?,
                RawRngListEntry::StartxLength { begin, length } => {
                    let start = at(begin.0)?;
                    start..start.wrapping_add(length)
                }
                RawRngListEntry::StartEnd { begin, end } => begin..end,
                RawRngListEntry::StartLength { begin, length } => begin..begin.wrapping_add(length),
            };
            if range.start < range.end {
                ranges.push(range);
            }
        }
        Some(ranges)
    }
}

/// The attributes of the entry that some bytes begin with.
fn attributes<'a>(
    window: &'a [u8],
    head: &UnitHead,
    abbreviations: &Abbreviations,
) -> Result<Vec<Attribute<Slice<'a>>>, DwarfError> {
    let slice = Slice::new(window, LittleEndian);
    let mut entries = EntriesRaw::new(slice, head.encoding, abbreviations, UnitOffset(0));
    let mut attributes = Vec::new();
    if let Some(abbreviation) = entries.read_abbreviation()? {
        entries.read_attributes(abbreviation.attributes(), &mut attributes)?;
    }
    Ok(attributes)
}

/// Whether an attribute is a name.
pub(super) fn is_linkage_name(name: DwAt) -> bool {
    matches!(name, dw::DW_AT_linkage_name | dw::DW_AT_MIPS_linkage_name)
}
