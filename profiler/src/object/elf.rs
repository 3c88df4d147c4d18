//! What the head of an ELF file tells: its segments, its build id, its language.
//!
//! Only the program headers and notes are read: a few kilobytes of any file.

use std::{fs::File, io};

use object::{
    Endianness,
    elf::{self, FileHeader64},
    read::{
        ReadCache, ReadRef,
        elf::{FileHeader, ProgramHeader, SectionHeader},
    },
};

use super::file::{MOST_NOTE_BYTES, MOST_SEGMENTS, Notes};

/// A page. Source: the x86-64 ABI; mappings start at multiples of it.
const PAGE: u64 = 4096;

/// A loaded segment of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Offset in the file, in bytes.
    pub file_offset: u64,
    /// Bytes in the file.
    pub file_bytes: u64,
    /// ELF address.
    pub address: u64,
    /// Whether it holds code.
    pub is_code: bool,
}

/// What the head of a file tells.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) segments: Vec<Segment>,
    pub(super) build_id: Option<String>,
    pub(super) is_go: bool,
}

/// Reads the head of a file.
pub(super) fn read(file: &File) -> io::Result<Facts> {
    let cache = ReadCache::new(file);
    read_facts(&cache).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

fn read_facts<'a, R: ReadRef<'a>>(data: R) -> object::read::Result<Facts> {
    let header = FileHeader64::<Endianness>::parse(data)?;
    let endian = header.endian()?;
    let (mut facts, mut notes) = (Facts::default(), Notes::default());
    for program in header
        .program_headers(endian, data)?
        .iter()
        .take(MOST_SEGMENTS)
    {
        if program.p_type(endian) == elf::PT_LOAD {
            facts.segments.push(Segment {
                file_offset: program.p_offset(endian),
                file_bytes: program.p_filesz(endian),
                address: program.p_vaddr(endian),
                is_code: program.p_flags(endian).0 & elf::PF_X.0 != 0,
            });
        }
        notes.read(program, endian, data);
    }
    Ok(Facts {
        build_id: notes.build_id.as_deref().map(hex),
        is_go: notes.is_go,
        ..facts
    })
}

/// Whether all of a file's sections are in it, and it has this build id. What several debug files share
/// has it in a section, as it has no segments.
pub(super) fn is_whole(file: &File, build_id: &str) -> bool {
    let cache = ReadCache::new(file);
    let bytes = file.metadata().map_or(0, |meta| meta.len());
    whole_build_id(&cache, bytes).is_ok_and(|found| found.as_deref() == Some(build_id))
}

fn whole_build_id<'a, R: ReadRef<'a>>(data: R, bytes: u64) -> object::read::Result<Option<String>> {
    let header = FileHeader64::<Endianness>::parse(data)?;
    let endian = header.endian()?;
    let mut notes = Notes::default();
    for program in header
        .program_headers(endian, data)?
        .iter()
        .take(MOST_SEGMENTS)
    {
        notes.read(program, endian, data);
    }
    let sections = header.section_headers(endian, data)?;
    let is_inside = |section: &&elf::SectionHeader64<Endianness>| {
        let end = section
            .sh_offset(endian)
            .checked_add(section.sh_size(endian));
        section.sh_type(endian) == elf::SHT_NOBITS || end.is_some_and(|end| end <= bytes)
    };
    if sections.is_empty() || !sections.iter().all(|section| is_inside(&section)) {
        return Ok(None);
    }
    for section in sections {
        if notes.build_id.is_none() && section.sh_size(endian) <= MOST_NOTE_BYTES {
            notes.take(section.notes(endian, data)?, endian);
        }
    }
    Ok(notes.build_id.as_deref().map(hex))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The ELF address of what lies at a file offset. Mappings are of whole pages, so a segment's
/// first page may begin before it; code segments win over others that share the page.
pub(super) fn address_of(segments: &[Segment], file_offset: u64) -> Option<u64> {
    let covers = |segment: &&Segment| {
        let first_page = segment.file_offset & !(PAGE - 1);
        file_offset >= first_page
            && file_offset < segment.file_offset.saturating_add(segment.file_bytes)
    };
    let segment = segments
        .iter()
        .filter(covers)
        .max_by_key(|segment| segment.is_code)?;
    Some(
        segment
            .address
            .wrapping_add(file_offset.wrapping_sub(segment.file_offset)),
    )
}

/// The file offset of an ELF address, if the file holds it.
pub(super) fn offset_of(segments: &[Segment], address: u64) -> Option<u64> {
    segments.iter().find_map(|segment| {
        let into = address.checked_sub(segment.address)?;
        (into < segment.file_bytes).then(|| segment.file_offset.wrapping_add(into))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_file_has_code_and_its_addresses_follow_the_segments() {
        let facts = read(&File::open("/proc/self/exe").unwrap()).unwrap();
        let code = facts
            .segments
            .iter()
            .find(|segment| segment.is_code)
            .unwrap();
        assert_eq!(
            address_of(&facts.segments, code.file_offset),
            Some(code.address)
        );
        assert_eq!(address_of(&facts.segments, u64::MAX), None);
        assert!(!facts.is_go);
    }

    #[test]
    fn an_unaligned_segment_covers_the_page_it_starts_in() {
        // As rust-lld lays out text.
        let text = Segment {
            file_offset: 0x130b0,
            file_bytes: 0x5000,
            address: 0x140b0,
            is_code: true,
        };
        let data = Segment {
            file_offset: 0,
            file_bytes: 0x130b0,
            address: 0,
            is_code: false,
        };
        assert_eq!(address_of(&[data, text], 0x13000), Some(0x14000));
        assert_eq!(address_of(&[data, text], 0x1000), Some(0x1000));
    }

    #[test]
    fn a_file_that_is_no_elf_is_an_error() {
        let text: &[u8] = b"#!/bin/sh\n";
        assert!(read_facts(text).is_err());
        assert!(read_facts(&[0x7f, b'E', b'L', b'F', 2, 1, 1][..]).is_err());
    }
}
