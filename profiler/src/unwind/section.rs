//! Where an ELF file keeps its call frame information, and where its code.
//!
//! In: a file. Out: [`Sections`], with the call frame information in memory and nothing else of the
//! file. Every size is the file's claim and is bounded before anything is allocated.

use std::{fs::File, io, iter, ops::Range, os::unix::fs::FileExt, path::Path};

use gimli::{BaseAddresses, EhFrameHdr, LittleEndian, Pointer};
use object::{
    LittleEndian as Little,
    elf::{self, FileHeader64, ProgramHeader64, SectionHeader64},
    read::{
        ReadCache,
        elf::{FileHeader, ProgramHeader, SectionHeader},
    },
};

use super::{
    CompileError, go_frames,
    unpack::{Packing, unpack},
};
use crate::object::{
    debug_file::{self, Places, SplitOff},
    file::{MOST_SEGMENTS, Notes, in_memory},
};

/// The longest section read, in bytes. A browser of 200 MB of text has 15 MB.
pub const MOST_FRAME_BYTES: u64 = 64 << 20;
/// No ELF address of code is at or above this: an index counts buckets of 256 bytes in 32 bits.
const MOST_ADDRESS: u64 = 1 << 40;
/// Bytes of the head of an ELF file, which are the first in it. Source: System V ABI, chapter 4.
const HEAD_BYTES: u64 = 64;
/// Bytes of `.eh_frame_hdr` that tell where `.eh_frame` is.
/// Source: Linux Standard Base, section 10.6.2.
const HDR_BYTES: u64 = 32;

type Header = FileHeader64<Little>;

/// The forms of call frame information.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FrameFormat {
    /// `.eh_frame`: Linux Standard Base, section 10.6.1.
    EhFrame,
    /// `.debug_frame`: DWARF 5, section 6.4.1.
    DebugFrame,
}

impl FrameFormat {
    /// The name of the section.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::EhFrame => ".eh_frame",
            Self::DebugFrame => ".debug_frame",
        }
    }
}

/// A range of code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeRange {
    /// First ELF address.
    pub start: u64,
    /// ELF address after the last.
    pub end: u64,
    /// Offset of the first in the file.
    pub file_offset: u64,
}

impl CodeRange {
    /// The bytes of some of its addresses.
    pub(super) fn read(&self, file: &File, addresses: Range<u64>) -> Option<Vec<u8>> {
        let bytes = addresses.end.min(self.end).checked_sub(addresses.start)?;
        let mut code = vec![0; usize::try_from(bytes).ok()?];
        let into = addresses.start.checked_sub(self.start)?;
        file.read_exact_at(&mut code, self.file_offset.saturating_add(into))
            .ok()?;
        Some(code)
    }
}

/// The range that holds an address, of ranges that are sorted.
pub(super) fn code_at(code: &[CodeRange], address: u64) -> Option<&CodeRange> {
    let after = code.partition_point(|range| range.start <= address);
    let range = code[..after].last()?;
    (address < range.end).then_some(range)
}

/// So many bytes of code, the first.
pub(super) fn first_code(code: &[CodeRange], most_bytes: u64) -> impl Iterator<Item = CodeRange> {
    let mut left = most_bytes;
    code.iter().map(move |range| {
        let end = range.end.min(range.start.saturating_add(left));
        left -= end - range.start;
        CodeRange { end, ..*range }
    })
}

/// What the compiler needs of a file.
#[derive(Clone, Debug)]
pub struct Sections {
    /// How `frames` is to be read.
    pub format: FrameFormat,
    /// The call frame information.
    pub frames: Vec<u8>,
    /// `.debug_frame`, for what an `.eh_frame` in `frames` has no rules for; empty if there is none.
    pub debug_frames: Vec<u8>,
    /// What pointers may be relative to.
    pub bases: BaseAddresses,
    /// The code, sorted and disjoint.
    pub code: Vec<CodeRange>,
    /// Where a process begins in it; 0 if nowhere.
    pub entry: u64,
    /// Whether the Go toolchain made it, whose `.debug_frame` does not tell about frame pointers.
    pub is_go: bool,
}

impl Sections {
    /// Finds the call frame information in a file.
    ///
    /// # Errors
    /// When it is no x86-64 ELF file, has none, or cannot be read.
    pub fn of_file(file: &File) -> Result<Self, CompileError> {
        Self::of_head(&Head::read(file)?, file)
    }

    /// Finds the call frame information of an object: in its file, else in what was split off.
    /// `path` is where the file is.
    ///
    /// # Errors
    /// When it is no x86-64 ELF file, has none, or cannot be read.
    pub fn of_object(file: &File, path: Option<&Path>) -> Result<Self, CompileError> {
        Self::found_below(Path::new(debug_file::DEBUG_FOLDER), file, path)
    }

    /// The same, with the folder where debug files are.
    pub(super) fn found_below(
        folder: &Path,
        file: &File,
        path: Option<&Path>,
    ) -> Result<Self, CompileError> {
        let head = Head::read(file)?;
        match Self::of_head(&head, file) {
            Err(CompileError::NoFrames) => {
                let split = SplitOff {
                    build_id: head.build_id.clone(),
                    link: head.named.debuglink.and_then(|link| link.read(file).ok()),
                };
                let places = Places {
                    folder,
                    root: None,
                    object: path,
                };
                let inside = || head.inside(file);
                iter::once_with(inside)
                    .flatten()
                    .chain(debug_file::candidates(&split, places))
                    .find_map(|debug| Self::of_debug_file(&head, &debug))
                    .ok_or(CompileError::NoFrames)
            }
            made => made,
        }
    }

    /// The code of an object, of which nothing is described.
    pub(super) fn without_frames(file: &File) -> Result<Self, CompileError> {
        let head = Head::read(file)?;
        Ok(Self::new(&head, FrameFormat::EhFrame, Vec::new()))
    }

    fn of_head(head: &Head, file: &File) -> Result<Self, CompileError> {
        if head.code.is_empty() {
            return Err(CompileError::NoCode);
        }
        let debug = head.named.debug_frame;
        // Go's linker makes its section of a table that stripping leaves.
        let of_go_table = || head.is_go.then(|| go_frames::debug_frame(file))?;
        let Some(place) = head.named.eh_frame.or(head.eh_frame_by_segment) else {
            let frames = match debug {
                Some(place) => place.read(file)?,
                None => of_go_table().ok_or(CompileError::NoFrames)?,
            };
            return Ok(Self::new(head, FrameFormat::DebugFrame, frames));
        };
        let mut made = Self::new(head, FrameFormat::EhFrame, place.read(file)?);
        made.bases = made.bases.set_eh_frame(place.address);
        // What it would add is missed if it is broken, but nothing else is.
        let debug_frames = match debug {
            Some(place) => place.read(file).ok(),
            None => of_go_table(),
        };
        made.debug_frames = debug_frames.unwrap_or_default();
        Ok(made)
    }

    /// The sections with what a debug file has. Its other headers are those of the object, and tell
    /// where things are in that one.
    fn of_debug_file(head: &Head, debug: &File) -> Option<Self> {
        let place = Head::read(debug).ok()?.named.debug_frame?;
        let frames = place.read(debug).ok()?;
        Some(Self::new(head, FrameFormat::DebugFrame, frames))
    }

    fn new(head: &Head, format: FrameFormat, frames: Vec<u8>) -> Self {
        let text = head.named.text;
        let bases = BaseAddresses::default();
        Self {
            format,
            frames,
            debug_frames: Vec::new(),
            bases: text.map_or(bases.clone(), |text| bases.set_text(text.address)),
            code: head.code.clone(),
            entry: head.entry,
            is_go: head.is_go,
        }
    }
}

/// What the headers and notes of a file say.
#[derive(Debug, Default)]
pub(super) struct Head {
    pub(super) named: NamedSections,
    pub(super) build_id: Option<Vec<u8>>,
    eh_frame_by_segment: Option<Place>,
    code: Vec<CodeRange>,
    entry: u64,
    is_go: bool,
}

impl Head {
    /// The file in `.gnu_debugdata`, in memory. Source: GDB's manual, "MiniDebugInfo".
    fn inside(&self, file: &File) -> Option<File> {
        let image = self.named.debugdata?.read(file).ok()?;
        in_memory("debugdata", &image).ok()
    }

    pub(super) fn read(file: &File) -> Result<Self, CompileError> {
        let cache = ReadCache::new(file);
        let header = Header::parse(&cache).map_err(CompileError::NotElf)?;
        let is_little = header.is_little_endian();
        if !is_little || header.e_machine(Little) != elf::EM_X86_64 {
            return Err(CompileError::OtherMachine);
        }
        let segments = header
            .program_headers(Little, &cache)
            .map_err(CompileError::NotElf)?;
        let segments = &segments[..segments.len().min(MOST_SEGMENTS)];
        // A file stripped of its section headers is read by its segments.
        let named = NamedSections::read(header, &cache).unwrap_or_default();
        let in_segments = disjoint(segments.iter().filter_map(code_of_segment).collect());
        let in_sections = disjoint(named.code.clone());
        let head = Self {
            // Segments hold other things too where the linker does not keep code apart.
            code: match in_sections.is_empty() || in_segments.is_empty() {
                true => in_segments,
                false => in_sections,
            },
            eh_frame_by_segment: by_header(segments, file),
            entry: header.e_entry(Little),
            named,
            ..Self::default()
        };
        let mut notes = Notes::default();
        for segment in segments {
            notes.read(segment, Little, &cache);
        }
        Ok(Self {
            build_id: notes.build_id,
            is_go: notes.is_go,
            ..head
        })
    }
}

/// Where a section is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    address: u64,
    file_offset: u64,
    bytes: u64,
    packing: Packing,
}

impl Place {
    /// Reads the section, and decompresses it.
    pub(super) fn read(&self, file: &File) -> Result<Vec<u8>, CompileError> {
        let file_bytes = file.metadata().map_err(CompileError::Read)?.len();
        let end = self.file_offset.saturating_add(self.bytes);
        if self.bytes > MOST_FRAME_BYTES {
            return Err(CompileError::TooLong(self.bytes));
        }
        if end > file_bytes {
            return Err(CompileError::Read(io::ErrorKind::UnexpectedEof.into()));
        }
        let mut bytes = vec![0; self.bytes as usize];
        file.read_exact_at(&mut bytes, self.file_offset)
            .map_err(CompileError::Read)?;
        unpack(self.packing, bytes)
    }
}

/// The sections we look for by name.
#[derive(Debug, Default)]
pub(super) struct NamedSections {
    eh_frame: Option<Place>,
    debug_frame: Option<Place>,
    text: Option<Place>,
    /// A compressed ELF file with what was split off and is small.
    pub(super) debugdata: Option<Place>,
    /// The name of a file with what was split off.
    pub(super) debuglink: Option<Place>,
    code: Vec<CodeRange>,
}

impl NamedSections {
    fn read(header: &Header, cache: &ReadCache<&File>) -> Option<Self> {
        let sections = header.section_headers(Little, cache).ok()?;
        // More than this many are numbered in another way, which no linker does for a program.
        let sections = &sections[..sections.len().min(usize::from(u16::MAX))];
        let strings = header.section_strings(Little, cache, sections).ok()?;
        let mut named = Self::default();
        for section in sections {
            named.code.extend(code_of_section(section));
            let Ok(name) = section.name(Little, strings) else {
                continue;
            };
            let is_compressed = section.sh_flags(Little).0 & elf::SHF_COMPRESSED.0 != 0;
            let (slot, packing) = match (name, is_compressed) {
                (b".eh_frame", false) => (&mut named.eh_frame, Packing::None),
                (b".debug_frame", false) => (&mut named.debug_frame, Packing::None),
                (b".debug_frame", true) => (&mut named.debug_frame, Packing::Elf),
                (b".zdebug_frame", false) => (&mut named.debug_frame, Packing::Gnu),
                (b".text", false) => (&mut named.text, Packing::None),
                (b".gnu_debugdata", false) => (&mut named.debugdata, Packing::Xz),
                (b".gnu_debuglink", false) => (&mut named.debuglink, Packing::None),
                _ => continue,
            };
            if slot.is_none() && section.sh_type(Little) != elf::SHT_NOBITS {
                *slot = place_of(section, packing);
            }
        }
        Some(named)
    }
}

pub(super) fn place_of(section: &SectionHeader64<Little>, packing: Packing) -> Option<Place> {
    let bytes = section.sh_size(Little);
    (bytes > 0).then(|| Place {
        address: section.sh_addr(Little),
        file_offset: section.sh_offset(Little),
        bytes,
        packing,
    })
}

fn code_of_section(section: &SectionHeader64<Little>) -> Option<CodeRange> {
    let wanted = elf::SHF_ALLOC.0 | elf::SHF_EXECINSTR.0;
    let is_code =
        section.sh_flags(Little).0 & wanted == wanted && section.sh_type(Little) != elf::SHT_NOBITS;
    is_code.then(|| CodeRange {
        start: section.sh_addr(Little),
        end: section
            .sh_addr(Little)
            .saturating_add(section.sh_size(Little)),
        file_offset: section.sh_offset(Little),
    })
}

/// The code of a segment that holds some: without the head of the file, which is never run.
fn code_of_segment(segment: &ProgramHeader64<Little>) -> Option<CodeRange> {
    let is_code =
        segment.p_type(Little) == elf::PT_LOAD && segment.p_flags(Little).0 & elf::PF_X.0 != 0;
    // What the linker dropped is described at address 0, where the head of a shared object is.
    let start = segment.p_vaddr(Little);
    let head_bytes = HEAD_BYTES.saturating_sub(segment.p_offset(Little));
    is_code.then(|| CodeRange {
        start: start.saturating_add(head_bytes),
        end: start.saturating_add(segment.p_filesz(Little)),
        file_offset: segment.p_offset(Little).saturating_add(head_bytes),
    })
}

/// The ranges by address, without those that begin in another one.
fn disjoint(mut ranges: Vec<CodeRange>) -> Vec<CodeRange> {
    ranges.sort_unstable_by_key(|range| range.start);
    let mut end = 0;
    ranges.retain(|range| {
        let is_apart = range.start >= end && range.start < range.end && range.end <= MOST_ADDRESS;
        if is_apart {
            end = range.end;
        }
        is_apart
    });
    ranges
}

/// `.eh_frame` as `PT_GNU_EH_FRAME` has it: from where the header points to the end of its segment.
/// It ends in a zero word before that.
fn by_header(segments: &[ProgramHeader64<Little>], file: &File) -> Option<Place> {
    let header = segments
        .iter()
        .find(|segment| segment.p_type(Little) == elf::PT_GNU_EH_FRAME)?;
    let address = header.p_vaddr(Little);
    let place = Place {
        address,
        file_offset: header.p_offset(Little),
        bytes: header.p_filesz(Little).min(HDR_BYTES),
        packing: Packing::None,
    };
    let bytes = place.read(file).ok()?;
    let bases = BaseAddresses::default().set_eh_frame_hdr(address);
    let parsed = EhFrameHdr::new(&bytes, LittleEndian)
        .parse(&bases, 8)
        .ok()?;
    let Pointer::Direct(start) = parsed.eh_frame_ptr() else {
        return None;
    };
    segments
        .iter()
        .filter(|segment| segment.p_type(Little) == elf::PT_LOAD)
        .find_map(|segment| {
            let into = start.checked_sub(segment.p_vaddr(Little))?;
            let bytes = segment.p_filesz(Little).checked_sub(into)?;
            (bytes > 0).then(|| Place {
                address: start,
                file_offset: segment.p_offset(Little).saturating_add(into),
                bytes: bytes.min(MOST_FRAME_BYTES),
                packing: Packing::None,
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_leads_to_where_the_section_is() {
        let file = File::open("/proc/self/exe").unwrap();
        let cache = ReadCache::new(&file);
        let header = Header::parse(&cache).unwrap();
        let segments = header.program_headers(Little, &cache).unwrap();
        let by_header = by_header(segments, &file).unwrap();
        let by_name = NamedSections::read(header, &cache)
            .and_then(|named| named.eh_frame)
            .unwrap();
        assert_eq!(
            (by_header.address, by_header.file_offset),
            (by_name.address, by_name.file_offset)
        );
        assert!(by_header.bytes >= by_name.bytes);
    }

    #[test]
    fn a_file_that_is_no_elf_is_refused() {
        let refused = Sections::of_file(&File::open("/proc/self/cmdline").unwrap());
        assert!(matches!(refused, Err(CompileError::NotElf(_))));
    }
}
