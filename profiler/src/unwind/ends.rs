//! Where stacks begin in a C library that does not describe its code.
//!
//! In: an ELF file and where its code is. Out: the calls that lead to a program's `main` and to the
//! first function of a thread, whose callers are outermost frames.
//!
//! musl calls them as `exit(main(…))` and `pthread_exit(start(…))`: a call by pointer, a move of
//! what it returns, a call of what never returns. Source: `libc_start_main_stage2` in musl's
//! `src/env/__libc_start_main.c`, `start` and `start_c11` in its `src/thread/pthread_create.c`.
//!
//! A program may well do the same somewhere in the middle, so the code must be the C library's: of
//! an object that exports both `exit` and `__libc_start_main`, or of a static program in one of
//! those functions by its symbols. A static program without symbols has no such calls.

use std::fs::File;

use object::{
    LittleEndian as Little,
    elf::{self, FileHeader64},
    read::{
        ReadCache,
        elf::{FileHeader, SectionHeader, SectionTable},
    },
};
use profiler_common::code::{CALL_BYTES, follows_indirect_call};

use super::{
    section::{CodeRange, first_code, place_of},
    unpack::Packing,
};

/// Functions that never return, called with what the outermost function returned.
const NEVER_RETURN: [&[u8]; 3] = [b"exit", b"pthread_exit", b"__pthread_exit"];
/// What the C library exports and nobody else does.
const STARTS_PROGRAM: &[u8] = b"__libc_start_main";
/// The functions of it that call `main` or a thread's first function. The first two are one where
/// the compiler made them so, and in older versions.
const OUTERMOST: [&[u8]; 4] = [
    b"libc_start_main_stage2",
    STARTS_PROGRAM,
    b"start",
    b"start_c11",
];
/// Most addresses of functions that never return. A C library has two, under three names.
const MOST_NEVER_RETURN: usize = 8;
/// Most functions that may hold the calls. A C library has four, and a program may name others so.
const MOST_OUTERMOST: usize = 16;
/// Most symbols of a table that is read: far more than a C library or a program with one in it has.
pub(super) const MOST_SYMBOLS: usize = 1 << 20;
/// Bytes of an `Elf64_Sym`.
const SYMBOL_BYTES: usize = 24;
/// Most code looked through, in bytes.
const MOST_CODE_BYTES: u64 = 64 << 20;
/// Code read at a time, in bytes.
const BLOCK: u64 = 64 << 10;
/// Bytes of a direct call.
const DIRECT_CALL_BYTES: usize = 5;
/// Bytes before a direct call that are looked at: the call by pointer and the move.
const BYTES_BEFORE: u64 = CALL_BYTES as u64 + 3;
/// The ways to hand on what a function returned as the first argument:
/// `mov %rax,%rdi`, `movslq %eax,%rdi`, `mov %eax,%edi`. One may be the end of another.
const MOVES: [&[u8]; 5] = [
    &[0x48, 0x89, 0xc7],
    &[0x48, 0x8b, 0xf8],
    &[0x48, 0x63, 0xf8],
    &[0x89, 0xc7],
    &[0x8b, 0xf8],
];

/// The addresses of the last bytes of the calls that lead to `main` or to a thread's first function:
/// a return address is looked up there, and nothing else is.
pub(super) fn find(file: &File, code: &[CodeRange]) -> Vec<u64> {
    let mut found = Vec::new();
    let Some(library) = Library::read(file) else {
        return found;
    };
    for range in first_code(code, MOST_CODE_BYTES) {
        library.scan(file, &range, &mut found);
    }
    found.sort_unstable();
    found
}

/// What symbols say of a C library.
#[derive(Debug, Default)]
struct Library {
    /// The addresses of functions that never return.
    never_return: Vec<u64>,
    /// Where calls may be; anywhere if that is not known.
    outermost: Option<Vec<(u64, u64)>>,
}

impl Library {
    /// `None` for what is none, or has none in it, or has more of these functions than any has: each
    /// direct call is compared with all of them.
    fn read(file: &File) -> Option<Self> {
        let cache = ReadCache::new(file);
        let header = FileHeader64::<Little>::parse(&cache).ok()?;
        let sections = header.sections(Little, &cache).ok()?;
        if let Some(exported) = Symbols::read(file, &sections, elf::SHT_DYNSYM) {
            let mut library = Self::default();
            let (mut starts_program, mut imports) = (false, false);
            for symbol in exported.iter() {
                library.add(&symbol)?;
                starts_program |= symbol.is_function() && symbol.name == STARTS_PROGRAM;
                imports |= !symbol.is_defined() && !symbol.name.is_empty();
            }
            if starts_program && !library.never_return.is_empty() {
                return Some(library);
            }
            if imports {
                return None;
            }
        }
        let symbols = Symbols::read(file, &sections, elf::SHT_SYMTAB)?;
        let mut library = Self::default();
        let mut outermost = Vec::new();
        for symbol in symbols.iter() {
            library.add(&symbol)?;
            if symbol.is_function() && OUTERMOST.contains(&symbol.name) {
                outermost.push((symbol.value, symbol.value.saturating_add(symbol.size)));
            }
            if outermost.len() > MOST_OUTERMOST {
                return None;
            }
        }
        library.outermost = Some(outermost);
        (!library.never_return.is_empty()).then_some(library)
    }

    /// Notes a function that never returns. `None` if there are too many.
    fn add(&mut self, symbol: &Symbol<'_>) -> Option<()> {
        let is_it =
            symbol.is_function() && symbol.is_global() && NEVER_RETURN.contains(&symbol.name);
        if is_it && !self.never_return.contains(&symbol.value) {
            self.never_return.push(symbol.value);
        }
        (self.never_return.len() <= MOST_NEVER_RETURN).then_some(())
    }

    /// Looks for the calls in a range of code.
    fn scan(&self, file: &File, range: &CodeRange, found: &mut Vec<u64>) {
        let mut at = range.start;
        while at < range.end {
            let next = range.end.min(at + BLOCK);
            let from = range.start.max(at.saturating_sub(BYTES_BEFORE));
            let Some(block) = range.read(file, from..next + DIRECT_CALL_BYTES as u64 - 1) else {
                return;
            };
            let calls = (at - from) as usize..(next - from) as usize;
            let calls = calls.filter(|call| block[*call] == 0xe8);
            found.extend(calls.filter_map(|call| self.end(&block, from, call)));
            at = next;
        }
    }

    /// The last byte of the call by pointer, if the direct call in a block, which begins at an
    /// address, is one that we look for.
    fn end(&self, block: &[u8], start: u64, call: usize) -> Option<u64> {
        let instruction = block.get(call..call + DIRECT_CALL_BYTES)?;
        let [_, distance @ ..] = instruction.first_chunk::<DIRECT_CALL_BYTES>()?;
        let after = start + (call + DIRECT_CALL_BYTES) as u64;
        let target = after.wrapping_add_signed(i64::from(i32::from_le_bytes(*distance)));
        if !self.never_return.contains(&target) {
            return None;
        }
        let before = &block[..call];
        let before = MOVES.iter().find_map(|moves| before.strip_suffix(*moves))?;
        let by_pointer = before.last_chunk::<CALL_BYTES>()?;
        // If a direct call could end there too, it is not known which it is.
        let is_known = follows_indirect_call(by_pointer) && by_pointer[3] != 0xe8;
        let end = start + before.len() as u64 - 1;
        let is_inside = |ranges: &Vec<(u64, u64)>| {
            let mut ranges = ranges.iter();
            ranges.any(|(first, after)| (*first..*after).contains(&end))
        };
        (is_known && self.outermost.as_ref().is_none_or(is_inside)).then_some(end)
    }
}

/// A symbol table with its names, in memory.
struct Symbols {
    symbols: Vec<u8>,
    names: Vec<u8>,
}

struct Symbol<'a> {
    name: &'a [u8],
    info: u8,
    section: u16,
    value: u64,
    size: u64,
}

impl Symbol<'_> {
    fn is_defined(&self) -> bool {
        self.section != 0
    }

    fn is_function(&self) -> bool {
        self.is_defined() && self.info & 0xf == elf::STT_FUNC.0
    }

    fn is_global(&self) -> bool {
        self.info >> 4 != elf::STB_LOCAL.0
    }
}

impl Symbols {
    /// Reads the first table of a kind, unless it is too long.
    fn read<'a>(
        file: &File,
        sections: &SectionTable<'a, FileHeader64<Little>, &'a ReadCache<&File>>,
        kind: elf::SectionType,
    ) -> Option<Self> {
        let symbols = sections
            .iter()
            .find(|section| section.sh_type(Little) == kind)?;
        if symbols.sh_size(Little) > (MOST_SYMBOLS * SYMBOL_BYTES) as u64 {
            return None;
        }
        let names = sections.section(symbols.link(Little)).ok()?;
        let read = |section| place_of(section, Packing::None)?.read(file).ok();
        Some(Self {
            symbols: read(symbols)?,
            names: read(names)?,
        })
    }

    fn iter(&self) -> impl Iterator<Item = Symbol<'_>> {
        let (symbols, _) = self.symbols.as_chunks::<SYMBOL_BYTES>();
        symbols.iter().map(|bytes| {
            let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
            let head = word(0);
            // A name that is longer than any that we look for is none of them.
            let names = self.names.get(head as u32 as usize..).unwrap_or_default();
            let names = &names[..names.len().min(LONGEST_NAME)];
            let end = names.iter().position(|byte| *byte == 0);
            Symbol {
                name: &names[..end.unwrap_or(names.len())],
                info: (head >> 32) as u8,
                section: (head >> 48) as u16,
                value: word(8),
                size: word(16),
            }
        })
    }
}

/// Bytes of a name that are looked at.
const LONGEST_NAME: usize = 32;
