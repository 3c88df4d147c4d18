//! Where a Go program has its table of functions, its data and its relocations.
//!
//! In: an ELF file with section headers. Out: parts of it. The table has a section of its own, but
//! for position-independent programs that a C linker put together (cgo, before Go 1.26): there it lies
//! in `.data.rel.ro`, and is found by how it begins.
//!
//! Source: `dodata` in Go's `src/cmd/link/internal/ld/data.go`; System V ABI, chapters 4 and 5.

use std::fs::File;

use object::{
    LittleEndian as Little,
    elf::{self, FileHeader64, SectionHeader64},
    read::{
        ReadCache,
        elf::{FileHeader, ProgramHeader, SectionHeader},
    },
};

use super::{file::MOST_SEGMENTS, parts::Part};

/// The table of functions, in programs that are at a fixed address and in others.
const TABLES: [&[u8]; 2] = [b".gopclntab", b".data.rel.ro.gopclntab"];
/// Where C linkers put the latter.
const CONSTANTS: &[u8] = b".data.rel.ro";
/// A section that the Go linker alone makes, since Go 1.13 or before.
const GO_DATA: &[u8] = b".noptrdata";
/// Where the runtime's description of the program is: since Go 1.26, before, and in doubt.
const DATA: [&[u8]; 3] = [b".go.module", GO_DATA, b".data"];
/// Most loaded segments and most sections of relocations. Linkers write less than ten.
const MOST_LOADED: usize = 64;
const MOST_RELOCATIONS: usize = 8;

/// A part of a file that has an ELF address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) address: u64,
    pub(crate) part: Part,
}

impl Placed {
    /// What is left of it from an address on.
    pub(crate) fn from(self, address: u64) -> Option<Self> {
        let part = self.part.from(address.checked_sub(self.address)?)?;
        (part.bytes > 0).then_some(Self { address, part })
    }
}

/// The parts of a Go program that tell of its functions.
#[derive(Debug, Default)]
pub(crate) struct GoSections {
    /// The table of functions, or what holds it.
    pub(super) table: Option<Table>,
    /// Where the runtime's description of the program may be, the likeliest first.
    pub(crate) data: Vec<Placed>,
    /// Sections of `Elf64_Rela`.
    pub(crate) relocations: Vec<Part>,
    loaded: Vec<Placed>,
}

/// Where the table of functions is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Table {
    /// It begins here.
    At(Placed),
    /// It begins somewhere in here.
    In(Placed),
}

impl GoSections {
    /// Reads the headers of a file. `None` where it is no x86-64 ELF file, or has no sections.
    pub(super) fn read(file: &File) -> Option<Self> {
        let file_bytes = file.metadata().ok()?.len();
        let cache = ReadCache::new(file);
        let header = FileHeader64::<Little>::parse(&cache).ok()?;
        if !header.is_little_endian() || header.e_machine(Little) != elf::EM_X86_64 {
            return None;
        }
        let sections = header.section_headers(Little, &cache).ok()?;
        // More than this many are numbered in another way, which no linker does for a program.
        let sections = &sections[..sections.len().min(usize::from(u16::MAX))];
        let strings = header.section_strings(Little, &cache, sections).ok()?;
        let mut named = Self::default();
        let (mut data, mut constants) = ([None; DATA.len()], None);
        for section in sections {
            let name = section.name(Little, strings).unwrap_or_default();
            let Some(placed) = placed(section, file_bytes) else {
                continue;
            };
            if TABLES.contains(&name) {
                named.table.get_or_insert(Table::At(placed));
            } else if name == CONSTANTS {
                constants = constants.or(Some(Table::In(placed)));
            } else if let Some(which) = DATA.iter().position(|wanted| *wanted == name) {
                data[which].get_or_insert(placed);
            }
            if section.sh_type(Little) == elf::SHT_RELA
                && named.relocations.len() < MOST_RELOCATIONS
            {
                named.relocations.push(placed.part);
            }
        }
        // Other programs have constants too, but only Go's have that.
        let is_go = data[DATA.iter().position(|name| *name == GO_DATA)?].is_some();
        named.table = named.table.or(constants.filter(|_| is_go));
        named.data = data.into_iter().flatten().collect();
        let segments = header.program_headers(Little, &cache).ok()?;
        let segments = segments.iter().take(MOST_SEGMENTS);
        let loaded = segments.filter(|segment| segment.p_type(Little) == elf::PT_LOAD);
        let placed = loaded.map(|segment| Placed {
            address: segment.p_vaddr(Little),
            part: clipped(
                segment.p_offset(Little),
                segment.p_filesz(Little),
                file_bytes,
            ),
        });
        named.loaded = placed.take(MOST_LOADED).collect();
        Some(named)
    }

    /// What the file has from an address on, to the end of its segment.
    pub(crate) fn at(&self, address: u64) -> Option<Part> {
        let mut loaded = self.loaded.iter();
        loaded.find_map(|segment| Some(segment.from(address)?.part))
    }
}

/// A section that is loaded and that the file has bytes of.
fn placed(section: &SectionHeader64<Little>, file_bytes: u64) -> Option<Placed> {
    let is_there = section.sh_flags(Little).0 & elf::SHF_ALLOC.0 != 0
        && section.sh_type(Little) != elf::SHT_NOBITS;
    is_there.then(|| Placed {
        address: section.sh_addr(Little),
        part: clipped(
            section.sh_offset(Little),
            section.sh_size(Little),
            file_bytes,
        ),
    })
}

/// A part, as far as the file has it.
fn clipped(offset: u64, bytes: u64, file_bytes: u64) -> Part {
    Part {
        offset,
        bytes: bytes.min(file_bytes.saturating_sub(offset)),
    }
}
