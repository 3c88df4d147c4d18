//! Tables of hand-made ELF files: compressed sections, debug files, the vDSO.

use std::{fs, io::Write, os::unix::fs::FileExt, path::Path};

use profiler_common::unwind::{Cfa, SavedFp};
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use tempfile::TempDir;

use super::*;

mod told;

/// Where the code of the files is, and how long.
const CODE: u64 = 0x40_1000;
const CODE_BYTES: u64 = 0x100;
const HEADER_BYTES: u64 = 64;
const PROGRAM_BYTES: u64 = 56;
const PROGRAMS: u64 = 2;

const SHF_ALLOC_EXEC: u64 = 6;
const SHF_COMPRESSED: u64 = 1 << 11;
const PROGBITS: u32 = 1;
const SYMBOLS: u32 = 2;
const STRINGS: u32 = 3;
const DYNAMIC_SYMBOLS: u32 = 11;
const NOBITS: u32 = 8;

const BUILD_ID: [u8; 20] = [0xab; 20];

/// A 64-bit ELF file with `.text` and other sections.
struct Elf {
    note: Vec<u8>,
    sections: Vec<(&'static str, u32, u64, Vec<u8>)>,
}

impl Elf {
    /// A program, with its code.
    fn program() -> Self {
        Self {
            note: Vec::new(),
            sections: vec![(
                ".text",
                PROGBITS,
                SHF_ALLOC_EXEC,
                vec![0x90; CODE_BYTES as usize],
            )],
        }
    }

    /// A debug file: the code is elsewhere.
    fn debug_file() -> Self {
        Self {
            note: Vec::new(),
            sections: vec![(".text", NOBITS, SHF_ALLOC_EXEC, Vec::new())],
        }
    }

    fn with(mut self, name: &'static str, flags: u64, bytes: Vec<u8>) -> Self {
        self.sections.push((name, PROGBITS, flags, bytes));
        self
    }

    fn with_note(mut self, name: &[u8; 4], kind: u32, description: &[u8]) -> Self {
        self.note = [name.len() as u32, description.len() as u32, kind]
            .into_iter()
            .flat_map(u32::to_le_bytes)
            .chain(name.iter().copied())
            .chain(description.iter().copied())
            .collect();
        self
    }

    fn with_build_id(self) -> Self {
        self.with_note(b"GNU\0", 3, &BUILD_ID)
    }

    fn bytes(mut self) -> Vec<u8> {
        self.sections.insert(0, ("", 0, 0, Vec::new()));
        self.sections.push((".shstrtab", STRINGS, 0, Vec::new()));
        let mut names = Vec::new();
        let mut name_offsets = Vec::new();
        for (name, ..) in &self.sections {
            name_offsets.push(names.len() as u32);
            names.extend(name.as_bytes());
            names.push(0);
        }
        let count = self.sections.len();
        self.sections[count - 1].3 = names;
        let mut body = self.note.clone();
        let first = HEADER_BYTES + PROGRAMS * PROGRAM_BYTES;
        let mut headers = Vec::new();
        let mut code_offset = first;
        let sections = self.sections.iter().zip(name_offsets);
        for (number, ((name, kind, flags, bytes), at)) in (0..).zip(sections) {
            let has_names = [SYMBOLS, DYNAMIC_SYMBOLS].contains(kind);
            // The names of symbols come next.
            let link = if has_names { number + 1 } else { 0u64 };
            let offset = first + body.len() as u64;
            let is_code = *name == ".text";
            if is_code {
                code_offset = offset;
            }
            body.extend(bytes);
            let size = if is_code {
                CODE_BYTES
            } else {
                bytes.len() as u64
            };
            let address = if is_code { CODE } else { 0 };
            headers.extend(at.to_le_bytes());
            headers.extend(kind.to_le_bytes());
            headers.extend(words(&[*flags, address, offset, size, link, 1, 0]));
        }
        let table = first + body.len() as u64;
        // ELF, 64 bits, little-endian; a program for x86-64.
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(16, 0);
        file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
        file.extend(words(&[CODE, HEADER_BYTES, table]));
        let shorts = [
            0,
            0,
            64,
            56,
            PROGRAMS as u16,
            64,
            count as u16,
            count as u16 - 1,
        ];
        file.extend(shorts.into_iter().flat_map(u16::to_le_bytes));
        let code = [code_offset, CODE, CODE, CODE_BYTES, CODE_BYTES, 0x1000];
        file.extend(words(&[1 | 5 << 32]).into_iter().chain(words(&code)));
        let notes = self.note.len() as u64;
        file.extend(words(&[4 | 4 << 32, first, 0, 0, notes, notes, 4]));
        file.extend(body);
        file.extend(headers);
        file
    }

    fn file(self) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&self.bytes()).unwrap();
        file
    }
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().copied().flat_map(u64::to_le_bytes).collect()
}

/// A `.debug_frame` for the first bytes of the code, with a CFA this many bytes above rsp.
fn debug_frame(code_bytes: u64, cfa: u8) -> Vec<u8> {
    debug_frame_of(&[(CODE, code_bytes)], cfa)
}

/// A `.debug_frame` for functions, by their addresses and lengths.
fn debug_frame_of(functions: &[(u64, u64)], cfa: u8) -> Vec<u8> {
    let mut shared = u32::MAX.to_le_bytes().to_vec();
    // Version 1, no augmentation, factors 1 and -8, register 16; CFA rsp and offset, RA at CFA-8.
    shared.extend([1, 0, 1, 0x78, 16, 0x0c, 7, cfa, 0x90, 1, 0, 0]);
    let functions = functions.iter().map(|(start, bytes)| {
        let mut function = 0u32.to_le_bytes().to_vec();
        function.extend(words(&[*start, *bytes]));
        function
    });
    let entries = std::iter::once(shared).chain(functions).map(|entry| {
        let length = (entry.len() as u32).to_le_bytes();
        [&length[..], &entry[..]].concat()
    });
    entries.collect::<Vec<_>>().concat()
}

fn rule(cfa: i32) -> Rule {
    Rule::Frame(Cfa::StackPointer(cfa), SavedFp::Same)
}

#[track_caller]
fn check(table: &Table, cfa: i32) {
    assert_eq!(table.ranges().next(), Some((CODE, CODE + 0x80, rule(cfa))));
}

fn elf_header(kind: u32, size: u64) -> Vec<u8> {
    words(&[u64::from(kind), size, 1])
}

/// A zlib stream that holds its bytes as they are, in one block.
/// Source: RFC 1950 and RFC 1951, section 3.2.4.
fn zlib(bytes: &[u8]) -> Vec<u8> {
    let length = bytes.len() as u16;
    let sums = bytes.iter().fold((1, 0), |(one, two), byte| {
        let one = (one + u32::from(*byte)) % 65_521;
        (one, (two + one) % 65_521)
    });
    let mut stream = vec![0x78, 1, 1];
    stream.extend(length.to_le_bytes());
    stream.extend((!length).to_le_bytes());
    stream.extend(bytes);
    stream.extend((sums.1 << 16 | sums.0).to_be_bytes());
    stream
}

fn by_zlib(bytes: &[u8]) -> Vec<u8> {
    [elf_header(1, bytes.len() as u64), zlib(bytes)].concat()
}

fn by_zstd(bytes: &[u8]) -> Vec<u8> {
    let stream = compress_to_vec(bytes, CompressionLevel::Fastest);
    [elf_header(2, bytes.len() as u64), stream].concat()
}

fn gnu(bytes: &[u8]) -> Vec<u8> {
    let size = (bytes.len() as u64).to_be_bytes();
    [b"ZLIB", &size[..], &zlib(bytes)].concat()
}

fn crc(bytes: &[u8]) -> [u8; 4] {
    crc32fast::hash(bytes).to_le_bytes()
}

/// An xz stream that holds its bytes as they are, in one block of one chunk.
/// Source: "The .xz File Format", version 1.2.1.
fn xz(bytes: &[u8]) -> Vec<u8> {
    let with_crc = |bytes: &[u8]| [bytes, &crc(bytes)].concat();
    // No integrity check.
    let flags = [0, 0];
    let mut stream = b"\xfd7zXZ\0".to_vec();
    stream.extend(with_crc(&flags));
    // A header of 12 bytes, one filter: LZMA2 with a dictionary of 4 KiB.
    let header = with_crc(&[2, 0, 0x21, 1, 0, 0, 0, 0]);
    let mut block = header;
    // An uncompressed chunk that resets the dictionary.
    block.push(1);
    block.extend((bytes.len() as u16 - 1).to_be_bytes());
    block.extend(bytes);
    block.push(0);
    let unpadded = block.len();
    block.resize(unpadded.next_multiple_of(4), 0);
    stream.extend(block);
    let mut index = vec![0, 1];
    index.extend(leb128(unpadded));
    index.extend(leb128(bytes.len()));
    index.resize(index.len().next_multiple_of(4), 0);
    let index = with_crc(&index);
    let index_words = (index.len() / 4 - 1) as u32;
    stream.extend(&index);
    let footer = [&index_words.to_le_bytes()[..], &flags].concat();
    stream.extend(crc(&footer));
    stream.extend(footer);
    stream.extend(b"YZ");
    stream
}

fn leb128(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value > 0x7f {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

#[test]
fn a_debug_frame_is_read_however_it_is_compressed() {
    let frames = debug_frame(0x80, 24);
    let program = Elf::program;
    let cases = [
        program().with(".debug_frame", 0, frames.clone()),
        program().with(".debug_frame", SHF_COMPRESSED, by_zlib(&frames)),
        program().with(".debug_frame", SHF_COMPRESSED, by_zstd(&frames)),
        program().with(".zdebug_frame", 0, gnu(&frames)),
    ];
    for case in cases {
        check(&Table::of_file(&case.file()).unwrap(), 24);
    }
}

#[test]
fn a_section_that_lies_about_its_size_or_kind_is_refused() {
    let refused = |bytes| {
        let file = Elf::program().with(".debug_frame", SHF_COMPRESSED, bytes);
        Table::of_file(&file.file()).unwrap_err()
    };
    let stream = zlib(&[0; 1000]);
    let with = |kind, size| [elf_header(kind, size), stream.clone()].concat();
    for (kind, size) in [(1, 1001), (2, 1000), (3, 1000)] {
        let error = refused(with(kind, size));
        assert!(matches!(error, CompileError::Compressed), "{error:?}");
    }
    assert!(matches!(refused(vec![1; 23]), CompileError::Compressed));
    let huge = refused(with(1, MOST_FRAME_BYTES + 1));
    assert!(matches!(huge, CompileError::TooLong(_)), "{huge:?}");
}

#[test]
fn compressed_sections_with_flipped_bits_end_in_a_table_or_an_error() {
    let frames = debug_frame(0x80, 24).repeat(20);
    let packed = [by_zlib(&frames), by_zstd(&frames), xz(&frames)];
    let mut seen = [0; 2];
    for (round, at) in (0..3).flat_map(|kind| (0..packed[kind].len()).map(move |at| (kind, at))) {
        for bit in 0..8 {
            let mut bytes = packed[round].clone();
            bytes[at] ^= 1 << bit;
            let program = match round {
                2 => Elf::program().with(".gnu_debugdata", 0, bytes),
                _ => Elf::program().with(".debug_frame", SHF_COMPRESSED, bytes),
            };
            let made = Table::of_object(&program.file(), None);
            seen[usize::from(made.is_ok())] += 1;
        }
    }
    assert!(seen[0] > 0 && seen[1] > 0, "{seen:?}");
}

#[test]
fn what_the_object_has_itself_comes_before_what_was_split_off() {
    let image = Elf::debug_file().with(".debug_frame", 0, debug_frame(0x80, 40));
    let program = || Elf::program().with(".gnu_debugdata", 0, xz(&image_bytes(&image)));
    check(&Table::of_object(&program().file(), None).unwrap(), 40);
    let own = program().with(".debug_frame", 0, debug_frame(0x80, 24));
    check(&Table::of_object(&own.file(), None).unwrap(), 24);
    let alone = Table::of_file(&program().file());
    assert!(matches!(alone, Err(CompileError::NoFrames)));
}

fn image_bytes(elf: &Elf) -> Vec<u8> {
    let copy = Elf {
        note: elf.note.clone(),
        sections: elf.sections.clone(),
    };
    copy.bytes()
}

#[test]
fn an_xz_stream_that_makes_too_much_is_refused() {
    let mut packed = xz(&[0; 1000]);
    // The chunk again and again, without a new dictionary.
    let chunk: Vec<u8> = [&[2, 0xff, 0xff][..], &[0; 65_536]].concat();
    let at = 24 + 3 + 1000;
    packed.splice(at..at, chunk.repeat(1 + (MOST_FRAME_BYTES >> 16) as usize));
    let made = unpack::unpack(unpack::Packing::Xz, packed);
    assert!(matches!(made, Err(CompileError::TooLong(_))));
    let made = unpack::unpack(unpack::Packing::Xz, xz(&[7; 1000])).unwrap();
    assert_eq!(made, [7; 1000]);
}

/// Writes a debug file into a folder, and finds it for a program.
#[track_caller]
fn check_found(program: Elf, debug: &[u8], place: &str, expected: Option<i32>) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join(place);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, debug).unwrap();
    let object = folder.path().join("program");
    let file = program.file();
    let made = Sections::found_below(folder.path(), &file, Some(&object));
    let table = made.map(|sections| Table::of_sections(&sections));
    match expected {
        Some(cfa) => check(&table.unwrap(), cfa),
        None => assert!(matches!(table, Err(CompileError::NoFrames))),
    }
}

fn link(name: &str, debug: &[u8]) -> Vec<u8> {
    let mut section = name.as_bytes().to_vec();
    section.resize((name.len() + 1).next_multiple_of(4), 0);
    section.extend(crc(debug));
    section
}

#[test]
fn a_debug_file_is_found_by_build_id() {
    let place = format!(".build-id/ab/{}.debug", "ab".repeat(19));
    let debug = Elf::debug_file().with(".debug_frame", 0, debug_frame(0x80, 48));
    let unmarked = image_bytes(&debug);
    let marked = debug.with_build_id().bytes();
    let program = || Elf::program().with_build_id();
    check_found(program(), &marked, &place, Some(48));
    // It must have the build id itself, and nothing is looked for without one.
    check_found(program(), &unmarked, &place, None);
    check_found(Elf::program(), &marked, &place, None);
}

/// The file without section headers: its one segment of code is all of it, from address 0 on.
fn stripped_of_headers(elf: Elf) -> File {
    let mut bytes = elf.bytes();
    // `e_shoff`, then the segment's offset, addresses and length in the file.
    bytes[40..48].fill(0);
    bytes[72..96].fill(0);
    let length = words(&[bytes.len() as u64]);
    bytes[96..104].copy_from_slice(&length);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    file
}

#[test]
fn what_the_linker_dropped_is_not_described_though_a_segment_begins_at_address_0() {
    let folder = TempDir::new().unwrap();
    let place = format!(".build-id/ab/{}.debug", "ab".repeat(19));
    let path = folder.path().join(place);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let frames = debug_frame_of(&[(0, 0x100), (0x80, 0x20)], 24);
    let debug = Elf::debug_file()
        .with(".debug_frame", 0, frames)
        .with_build_id();
    fs::write(&path, debug.bytes()).unwrap();
    let object = stripped_of_headers(Elf::program().with_build_id());
    let sections = Sections::found_below(folder.path(), &object, None).unwrap();
    let table = Table::of_sections(&sections);
    let ranges: Vec<(u64, u64, Rule)> = table.ranges().collect();
    assert_eq!(
        ranges,
        [(0, 0x80, Rule::NoInformation), (0x80, 0xa0, rule(24))]
    );
}

#[test]
fn a_debug_file_is_found_by_the_link_to_it() {
    let debug = Elf::debug_file().with(".debug_frame", 0, debug_frame(0x80, 56));
    let unmarked = image_bytes(&debug);
    let marked = debug.with_build_id().bytes();
    let program =
        |debug: &[u8]| Elf::program().with(".gnu_debuglink", 0, link("program.debug", debug));
    for place in ["program.debug", ".debug/program.debug"] {
        check_found(program(&unmarked), &unmarked, place, Some(56));
        // A file with another checksum is another one, unless the build ids agree.
        check_found(program(&marked), &unmarked, place, None);
        check_found(program(&unmarked).with_build_id(), &marked, place, Some(56));
        check_found(program(&unmarked).with_build_id(), &unmarked, place, None);
    }
    let outside = Elf::program().with(".gnu_debuglink", 0, link("x/../program.debug", &unmarked));
    check_found(outside, &unmarked, "program.debug", None);
}

#[test]
fn go_is_known_by_its_note() {
    let program = || Elf::program().with(".debug_frame", 0, debug_frame(0x80, 16));
    let go = program().with_note(b"Go\0\0", 4, b"id");
    assert!(Sections::of_file(&go.file()).unwrap().is_go);
    assert!(!Sections::of_file(&program().file()).unwrap().is_go);
}

#[test]
fn the_vdso_describes_all_of_its_functions() {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let row = crate::process::parse_maps(&maps)
        .find(|row| row.path == "[vdso]")
        .unwrap();
    let memory = File::open("/proc/self/mem").unwrap();
    let mut image = vec![0; (row.end - row.start) as usize];
    memory.read_exact_at(&mut image, row.start).unwrap();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&image).unwrap();
    let table = Table::of_object(&file, Some(Path::new("[vdso]"))).unwrap();
    let coverage = table.coverage();
    assert!(coverage.functions > 4, "{coverage:?}");
    // Between functions lies padding, and nothing is lost.
    assert!(
        coverage.covered().bytes * 10 > coverage.code_bytes * 8,
        "{coverage:?}"
    );
    assert!(
        Cause::ALL
            .iter()
            .all(|cause| coverage.inexpressible(*cause).rows == 0)
    );
}

/// Where the function that never returns is, in bytes into the code.
const NEVER_RETURNS: u64 = 0xf0;

/// A call by pointer, a move of what it returned, and a call of what never returns; before it a
/// number of bytes that do nothing.
fn ending(padding: usize, by_pointer: &[u8], moves: &[u8]) -> Vec<u8> {
    let mut code = vec![0x90; padding];
    code.extend(by_pointer);
    code.extend(moves);
    code.push(0xe8);
    let after = code.len() as u32 + 4;
    code.extend((NEVER_RETURNS as u32).wrapping_sub(after).to_le_bytes());
    code.resize(CODE_BYTES as usize, 0x90);
    code
}

const BY_RBX: [u8; 2] = [0xff, 0xd3];
const INT_ON: [u8; 2] = [0x89, 0xc7];

/// Functions, by where they are in the code; `None` is one that is elsewhere.
type Functions<'a> = &'a [(&'a str, Option<(u64, u64)>)];

/// Global functions.
fn symbols(functions: Functions<'_>) -> [Vec<u8>; 2] {
    let (mut symbols, mut names) = (vec![0; 24], vec![0]);
    for (name, place) in functions {
        symbols.extend((names.len() as u32).to_le_bytes());
        let section = u16::from(place.is_some());
        symbols.extend([0x12, 0]);
        symbols.extend(section.to_le_bytes());
        let (start, bytes) = place.map_or((0, 0), |(start, bytes)| (CODE + start, bytes));
        symbols.extend(words(&[start, bytes]));
        names.extend(name.as_bytes());
        names.push(0);
    }
    [symbols, names]
}

impl Elf {
    fn with_code(mut self, code: Vec<u8>) -> Self {
        self.sections[0].3 = code;
        self
    }

    fn with_symbols(mut self, kind: u32, functions: Functions<'_>) -> Self {
        let [symbols, names] = symbols(functions);
        self.sections.push((".symbols", kind, 0, symbols));
        self.sections.push((".names", STRINGS, 0, names));
        self
    }

    /// A C library that exports these.
    fn library(code: Vec<u8>) -> Self {
        Self::program().with_code(code).with_symbols(
            DYNAMIC_SYMBOLS,
            &[
                ("exit", Some((NEVER_RETURNS, 8))),
                ("__libc_start_main", Some((0x80, 8))),
            ],
        )
    }
}

/// Where the outermost frames of a file are, in bytes into the code.
#[track_caller]
fn check_ends(elf: &Elf, expected: &[u64]) {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&image_bytes(elf)).unwrap();
    let found: Vec<u64> = match Table::of_file(&file) {
        Ok(table) => table
            .ranges()
            .filter(|(.., rule)| *rule == Rule::End)
            .map(|(start, end, _)| {
                assert_eq!(end - start, 1);
                start - CODE
            })
            .collect(),
        Err(error) => {
            assert!(matches!(error, CompileError::NoFrames), "{error}");
            Vec::new()
        }
    };
    assert_eq!(found, expected);
}

#[test]
fn the_call_of_main_in_a_c_library_is_where_stacks_begin() {
    let calls: [&[u8]; 5] = [
        &BY_RBX,
        &[0x41, 0xff, 0xd7],
        &[0xff, 0x13],
        &[0xff, 0x54, 0x24, 0x08],
        &[0xff, 0x15, 1, 2, 3, 0],
    ];
    let moves: [&[u8]; 4] = [
        &INT_ON,
        &[0x48, 0x89, 0xc7],
        &[0x48, 0x63, 0xf8],
        &[0x48, 0x8b, 0xf8],
    ];
    for (call, moves) in calls
        .iter()
        .flat_map(|call| moves.iter().map(move |moves| (call, moves)))
    {
        let end = (16 + call.len() - 1) as u64;
        check_ends(&Elf::library(ending(16, call, moves)), &[end]);
    }
}

#[test]
fn other_calls_are_not_where_stacks_begin() {
    let library = |by_pointer: &[u8], moves: &[u8]| Elf::library(ending(16, by_pointer, moves));
    // A direct call before the move, another move, and no move at all.
    check_ends(&library(&[0xe8, 1, 0, 0, 0], &INT_ON), &[]);
    check_ends(&library(&BY_RBX, &[0x89, 0xef]), &[]);
    check_ends(&library(&BY_RBX, &[]), &[]);
    // At the very start of the code nothing is before it that could be looked at.
    check_ends(&Elf::library(ending(0, &[], &INT_ON)), &[]);
    // What is called is not what never returns.
    let mut elsewhere = ending(16, &BY_RBX, &INT_ON);
    elsewhere[21] ^= 4;
    check_ends(&Elf::library(elsewhere), &[]);
}

#[test]
fn programs_may_exit_with_what_a_pointer_returned_wherever_they_like() {
    let code = || ending(16, &BY_RBX, &INT_ON);
    let exit = ("exit", Some((NEVER_RETURNS, 8)));
    let with = |kind, functions: Functions<'_>| {
        let program = Elf::program().with_code(code());
        program.with_symbols(kind, functions)
    };
    // It is no C library: it exports one name alone, or imports the other.
    check_ends(&with(DYNAMIC_SYMBOLS, &[exit]), &[]);
    let imported = [exit, ("__libc_start_main", None)];
    check_ends(&with(DYNAMIC_SYMBOLS, &imported), &[]);
    // A static one begins in functions of certain names alone.
    let within = |name, bytes| with(SYMBOLS, &[exit, (name, Some((0, bytes)))]);
    check_ends(&within("libc_start_main_stage2", 0x40), &[17]);
    check_ends(&within("start", 0x40), &[17]);
    check_ends(&within("start", 0x10), &[]);
    check_ends(&within("run", 0x40), &[]);
    // Without symbols nothing is known.
    check_ends(&Elf::program().with_code(code()), &[]);
}

#[test]
fn what_is_described_is_not_looked_for_in_the_code() {
    let described = |bytes| {
        Elf::library(ending(16, &BY_RBX, &INT_ON)).with(".debug_frame", 0, debug_frame(bytes, 24))
    };
    check_ends(&described(0x80), &[]);
    // Beside it, both count.
    let beside = described(0x10);
    check_ends(&beside, &[17]);
    let table = Table::of_file(&beside.file()).unwrap();
    assert_eq!(table.ranges().next(), Some((CODE, CODE + 0x10, rule(24))));
    let lookup = Lookup::new(&table);
    for (address, expected) in [
        (CODE + 15, rule(24)),
        (CODE + 16, Rule::NoInformation),
        (CODE + 17, Rule::End),
        (CODE + 18, Rule::NoInformation),
    ] {
        assert_eq!(lookup.rule(address), expected, "{address:#x}");
    }
}

#[test]
fn tables_of_symbols_that_are_broken_have_no_names() {
    for (at, value) in [(24, u32::MAX), (32, u32::MAX), (28, 0), (40, u32::MAX)] {
        let mut library = Elf::library(ending(16, &BY_RBX, &INT_ON));
        let symbols = &mut library.sections[1].3;
        symbols[at..at + 4].copy_from_slice(&value.to_le_bytes());
        check_ends(&library, if at == 40 { &[17] } else { &[] });
    }
}

#[test]
fn an_object_with_more_such_functions_than_a_c_library_has_is_none() {
    let code = || ending(16, &BY_RBX, &INT_ON);
    let of = |kind, functions: Functions<'_>| {
        let program = Elf::program().with_code(code());
        program.with_symbols(kind, functions)
    };
    // The last one is the one that is called.
    let exits = |count| {
        let first = NEVER_RETURNS + 1 - count;
        (first..first + count).map(|at| ("exit", Some((at, 1))))
    };
    let main = ("__libc_start_main", Some((0, 0x40)));
    for (kind, name_count) in [(DYNAMIC_SYMBOLS, 1), (SYMBOLS, 1), (SYMBOLS, 16)] {
        let named = vec![main; name_count];
        let with = |count| of(kind, &exits(count).chain(named.clone()).collect::<Vec<_>>());
        check_ends(&with(8), &[17]);
        check_ends(&with(9), &[]);
    }
    let named = |count| {
        let starts = vec![("start", Some((0, 0x40))); count];
        of(SYMBOLS, &exits(1).chain(starts).collect::<Vec<_>>())
    };
    check_ends(&named(16), &[17]);
    check_ends(&named(17), &[]);
}

#[test]
fn a_table_of_too_many_symbols_is_not_read() {
    let with = |count: usize| {
        let mut library = Elf::library(ending(16, &BY_RBX, &INT_ON));
        library.sections[1].3.resize(24 * count, 0);
        library
    };
    check_ends(&with(ends::MOST_SYMBOLS), &[17]);
    check_ends(&with(ends::MOST_SYMBOLS + 1), &[]);
}
