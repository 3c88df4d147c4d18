//! The sections of one file's debug information, and what is read of them at an offset.

use std::borrow::Cow;

use gimli::{
    Abbreviations, DebugAbbrev, DebugAbbrevOffset, DebugInfo, DebugInfoOffset, Encoding,
    EndianSlice, Format, LittleEndian, SectionId, UnitType,
};

use super::DwarfError;
use crate::symbolize::{
    elf_file::{ElfFile, Part},
    store::{Limit, Store, StoreError},
};

/// How we read bytes.
pub(super) type Slice<'a> = EndianSlice<'a, LittleEndian>;

/// Bytes of a table of abbreviations that are read first. Most are shorter.
const ABBREVIATION_BYTES: u64 = 8 << 10;
/// Bytes of the longest header of a unit.
const HEADER_BYTES: u64 = 64;
/// The longest table of abbreviations, in bytes.
const MOST_ABBREVIATION_BYTES: u64 = 4 << 20;

/// Where a unit is in `.debug_info`, and what its header says.
#[derive(Clone, Copy, Debug)]
pub(super) struct UnitHead {
    /// Offset of the header in the section.
    pub(super) offset: u64,
    /// Bytes of the unit, with its header.
    pub(super) bytes: u64,
    /// Bytes of the header.
    pub(super) header_bytes: u64,
    pub(super) encoding: Encoding,
    pub(super) abbreviations: u64,
    pub(super) kind: UnitType<usize>,
}

impl UnitHead {
    pub(super) fn end(&self) -> u64 {
        self.offset.saturating_add(self.bytes)
    }
}

/// Which file sections are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Of {
    /// The one with the object's debug information.
    Main,
    /// The one that several debug files share.
    Shared,
    /// The package of what was split off.
    Package,
    /// A file that was split off; each that is opened has another number.
    Split(u64),
}

/// The sections of one file.
#[derive(Debug)]
pub(super) struct Sections {
    pub(super) of: Of,
    pub(super) abbrev: Store,
    pub(super) addr: Store,
    pub(super) aranges: Store,
    pub(super) info: Store,
    pub(super) line: Store,
    pub(super) line_str: Store,
    pub(super) ranges: Store,
    pub(super) rnglists: Store,
    pub(super) str: Store,
    pub(super) str_offsets: Store,
    pub(super) cu_index: Store,
}

impl Sections {
    /// Opens those of a file. Compressed ones are decompressed here.
    pub(super) fn open(elf: &ElfFile, of: Of, limit: Limit) -> Result<Self, StoreError> {
        let part = match of {
            Of::Main | Of::Shared => Part::Whole,
            Of::Package | Of::Split(_) => Part::Split,
        };
        let section = |id| elf.section(part, id, limit);
        Ok(Self {
            of,
            abbrev: section(SectionId::DebugAbbrev)?,
            addr: section(SectionId::DebugAddr)?,
            aranges: section(SectionId::DebugAranges)?,
            info: section(SectionId::DebugInfo)?,
            line: section(SectionId::DebugLine)?,
            line_str: section(SectionId::DebugLineStr)?,
            ranges: section(SectionId::DebugRanges)?,
            rnglists: section(SectionId::DebugRngLists)?,
            str: section(SectionId::DebugStr)?,
            str_offsets: section(SectionId::DebugStrOffsets)?,
            cu_index: elf.section(Part::Whole, SectionId::DebugCuIndex, limit)?,
        })
    }

    /// The header of the unit at an offset of `.debug_info`.
    pub(super) fn unit_head(&self, offset: u64) -> Result<UnitHead, DwarfError> {
        let length = self.info.bytes::<12>(offset).ok_or(DwarfError::CutOff)?;
        let short = u64::from(u32::from_le_bytes(std::array::from_fn(|i| length[i])));
        let (length, length_bytes) = if short == 0xffff_ffff {
            (
                u64::from_le_bytes(std::array::from_fn(|i| length[4 + i])),
                12,
            )
        } else {
            (short, 4)
        };
        let bytes = length.checked_add(length_bytes).ok_or(DwarfError::CutOff)?;
        if bytes > self.info.len().saturating_sub(offset) {
            return Err(DwarfError::CutOff);
        }
        // The parser wants all of the unit, and reads its header alone.
        let mut header = [0; HEADER_BYTES as usize];
        let known = bytes.min(HEADER_BYTES);
        let window = self.info.window(offset, known)?;
        header[..window.len()].copy_from_slice(&window);
        let claimed = HEADER_BYTES - length_bytes;
        if length_bytes == 12 {
            header[4..12].copy_from_slice(&claimed.to_le_bytes());
        } else {
            header[..4].copy_from_slice(&(claimed as u32).to_le_bytes());
        }
        let parsed =
            DebugInfo::new(&header, LittleEndian).header_from_offset(DebugInfoOffset(0))?;
        let header_bytes = parsed.size_of_header() as u64;
        if header_bytes > bytes {
            return Err(DwarfError::CutOff);
        }
        Ok(UnitHead {
            offset,
            bytes,
            header_bytes,
            encoding: parsed.encoding(),
            abbreviations: parsed.debug_abbrev_offset().0 as u64,
            kind: parsed.type_(),
        })
    }

    /// The table of abbreviations at an offset.
    pub(super) fn abbreviations(&self, offset: u64) -> Result<Abbreviations, DwarfError> {
        let mut bytes = ABBREVIATION_BYTES;
        loop {
            let window = self.abbrev.window(offset, bytes)?;
            let parsed =
                DebugAbbrev::new(&window, LittleEndian).abbreviations(DebugAbbrevOffset(0));
            let is_all = window.len() as u64 + offset >= self.abbrev.len();
            match parsed {
                Err(_) if !is_all && bytes < MOST_ABBREVIATION_BYTES => bytes *= 8,
                parsed => return Ok(parsed?),
            }
        }
    }

    /// An entry of `.debug_addr`.
    pub(super) fn address(&self, base: u64, index: usize, encoding: Encoding) -> Option<u64> {
        let width = encoding.address_size;
        let into = (index as u64).checked_mul(u64::from(width))?;
        self.addr.number(base.checked_add(into)?, width)
    }

    /// The text that an entry of `.debug_str_offsets` leads to.
    pub(super) fn indexed_text(&self, base: u64, index: usize, format: Format) -> Option<String> {
        let width = format.word_size();
        let into = (index as u64).checked_mul(u64::from(width))?;
        let offset = self.str_offsets.number(base.checked_add(into)?, width)?;
        self.str.text(offset)
    }

    /// The bytes of a unit's entries from one of them on.
    pub(super) fn entries(
        &self,
        head: &UnitHead,
        from: u64,
        most: u64,
    ) -> Result<Cow<'_, [u8]>, DwarfError> {
        let start = head.offset.checked_add(from).ok_or(DwarfError::CutOff)?;
        let bytes = head.end().saturating_sub(start).min(most);
        Ok(self.info.window(start, bytes)?)
    }
}
