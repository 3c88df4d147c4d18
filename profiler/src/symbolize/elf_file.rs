//! The sections of an ELF file that tell names and lines.
//!
//! In: a file, which may be an object, a debug file of one, or a package of split debug information.
//! Out: where its sections are. Every number is the file's claim, and is checked when it is used.

use std::{collections::BTreeMap, fs::File, io, rc::Rc};

use gimli::SectionId;
use object::{
    LittleEndian as Little,
    elf::{self, FileHeader64, SectionHeader64},
    read::{
        ReadCache,
        elf::{FileHeader, NoteIterator, SectionHeader},
    },
};
use thiserror::Error;

use super::store::{Limit, Packing, Place, Store, StoreError};
use crate::object::file::{MOST_SEGMENTS, Notes};

/// Why a file tells nothing.
#[derive(Debug, Error)]
pub(super) enum ElfError {
    #[error("it is not a 64-bit ELF file: {0}")]
    NotElf(object::read::Error),
    #[error("it is not for x86-64")]
    OtherMachine,
}

/// A table of symbols, and its names.
#[derive(Clone, Copy, Debug)]
pub(super) struct SymbolTable {
    pub(super) symbols: Place,
    pub(super) names: Place,
}

/// An ELF file.
#[derive(Debug)]
pub(super) struct ElfFile {
    pub(super) file: Rc<File>,
    pub(super) build_id: Option<Vec<u8>>,
    /// `.symtab`
    pub(super) symbols: Option<SymbolTable>,
    /// `.dynsym`
    pub(super) dynamic_symbols: Option<SymbolTable>,
    /// `.gnu_debugdata`: a compressed ELF file with more symbols.
    pub(super) debugdata: Option<Place>,
    /// `.gnu_debuglink`: the name of a debug file.
    pub(super) debuglink: Option<Place>,
    /// `.gnu_debugaltlink`: the file that several debug files share.
    pub(super) debugaltlink: Option<Place>,
    debug: BTreeMap<SectionId, Place>,
    split: BTreeMap<SectionId, Place>,
}

/// Whether a section belongs to the program, or to what was split off it (`.dwo`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Whole,
    Split,
}

/// Sections of debug information that are read.
const DEBUG: [SectionId; 12] = [
    SectionId::DebugAbbrev,
    SectionId::DebugAddr,
    SectionId::DebugAranges,
    SectionId::DebugCuIndex,
    SectionId::DebugInfo,
    SectionId::DebugLine,
    SectionId::DebugLineStr,
    SectionId::DebugRanges,
    SectionId::DebugRngLists,
    SectionId::DebugStr,
    SectionId::DebugStrOffsets,
    SectionId::DebugTypes,
];

impl ElfFile {
    pub(super) fn read(file: File) -> Result<Self, ElfError> {
        let file = Rc::new(file);
        let cache = ReadCache::new(&*file);
        let header = FileHeader64::<Little>::parse(&cache).map_err(ElfError::NotElf)?;
        if !header.is_little_endian() || header.e_machine(Little) != elf::EM_X86_64 {
            return Err(ElfError::OtherMachine);
        }
        let mut found = Self {
            file: Rc::clone(&file),
            build_id: None,
            symbols: None,
            dynamic_symbols: None,
            debugdata: None,
            debuglink: None,
            debugaltlink: None,
            debug: BTreeMap::new(),
            split: BTreeMap::new(),
        };
        let mut notes = Notes::default();
        let segments = header.program_headers(Little, &cache).unwrap_or_default();
        for segment in segments.iter().take(MOST_SEGMENTS) {
            notes.read(segment, Little, &cache);
        }
        found.build_id = notes.build_id;
        // A file without section headers has names in no other place.
        let sections = header.section_headers(Little, &cache).unwrap_or_default();
        let sections = &sections[..sections.len().min(usize::from(u16::MAX))];
        if let Ok(strings) = header.section_strings(Little, &cache, sections) {
            for section in sections {
                let name = section.name(Little, strings).unwrap_or_default();
                found.note(name, section, sections);
                // What several debug files share has no segments.
                if found.build_id.is_none()
                    && let Ok(Some(notes)) = section.notes(Little, &cache)
                {
                    found.build_id = build_id(notes);
                }
            }
        }
        Ok(found)
    }

    fn note(
        &mut self,
        name: &[u8],
        section: &SectionHeader64<Little>,
        sections: &[SectionHeader64<Little>],
    ) {
        // What a debug file does not have it says it has, without bytes.
        if section.sh_type(Little) == elf::SHT_NOBITS || section.sh_size(Little) == 0 {
            return;
        }
        let place = place_of(section, name);
        let table = || {
            let names = sections.get(section.sh_link(Little) as usize)?;
            (names.sh_type(Little) == elf::SHT_STRTAB).then(|| SymbolTable {
                symbols: place,
                names: place_of(names, b""),
            })
        };
        match section.sh_type(Little) {
            elf::SHT_SYMTAB => self.symbols = self.symbols.or_else(table),
            elf::SHT_DYNSYM => self.dynamic_symbols = self.dynamic_symbols.or_else(table),
            _ => {}
        }
        let slot = match name {
            b".gnu_debugdata" => &mut self.debugdata,
            b".gnu_debuglink" => &mut self.debuglink,
            b".gnu_debugaltlink" => &mut self.debugaltlink,
            _ => {
                if let Some((part, id)) = debug_section(name) {
                    let sections = match part {
                        Part::Whole => &mut self.debug,
                        Part::Split => &mut self.split,
                    };
                    sections.entry(id).or_insert(place);
                }
                return;
            }
        };
        slot.get_or_insert(place);
    }

    /// Whether it has debug information.
    pub(super) fn has_debug(&self, part: Part) -> bool {
        let sections = match part {
            Part::Whole => &self.debug,
            Part::Split => &self.split,
        };
        sections.contains_key(&SectionId::DebugInfo)
            && sections.contains_key(&SectionId::DebugAbbrev)
    }

    /// A section of debug information; empty if there is none.
    pub(super) fn section(
        &self,
        part: Part,
        id: SectionId,
        limit: Limit,
    ) -> Result<Store, StoreError> {
        let sections = match part {
            Part::Whole => &self.debug,
            Part::Split => &self.split,
        };
        match sections.get(&id) {
            Some(place) => Store::open(&self.file, *place, limit),
            None => Ok(Store::default()),
        }
    }

    /// The bytes of a small section.
    pub(super) fn small(&self, place: Place) -> io::Result<Vec<u8>> {
        const MOST_BYTES: u64 = 16 << 20;
        let limit = Limit { bytes: MOST_BYTES };
        let store = Store::open(&self.file, place, limit).map_err(io::Error::other)?;
        let bytes = store.window(0, place.bytes).map_err(io::Error::other)?;
        Ok(bytes.into_owned())
    }
}

/// The GNU build id among some notes.
fn build_id(mut notes: NoteIterator<'_, FileHeader64<Little>>) -> Option<Vec<u8>> {
    while let Ok(Some(note)) = notes.next() {
        if note.name() == elf::ELF_NOTE_GNU && note.n_type(Little) == elf::NT_GNU_BUILD_ID {
            return Some(note.desc().to_vec());
        }
    }
    None
}

fn place_of(section: &SectionHeader64<Little>, name: &[u8]) -> Place {
    let packing = if section.sh_flags(Little).0 & elf::SHF_COMPRESSED.0 != 0 {
        Packing::Elf
    } else if name.starts_with(b".zdebug_") {
        Packing::Gnu
    } else {
        Packing::None
    };
    Place {
        file_offset: section.sh_offset(Little),
        bytes: section.sh_size(Little),
        packing,
    }
}

/// Which section of debug information has this name.
fn debug_section(name: &[u8]) -> Option<(Part, SectionId)> {
    let name = std::str::from_utf8(name).ok()?;
    let plain = match name.strip_prefix(".zdebug_") {
        Some(rest) => format!(".debug_{rest}"),
        None => name.to_owned(),
    };
    DEBUG.into_iter().find_map(|id| {
        if plain == id.name() {
            Some((Part::Whole, id))
        } else if id.dwo_name() == Some(plain.as_str()) {
            Some((Part::Split, id))
        } else {
            None
        }
    })
}
