//! The fuzz targets: each parser of bytes that others write, as a function that any bytes may be
//! given to.
//!
//! libFuzzer runs them (`fuzz_targets/`), and the test `profiler/tests/fuzz_smoke` runs them on the
//! corpus and on mutations of it. A target panics when what was read cannot be right; what memory
//! and time it may take is [`TARGETS`]'s to say and the test's to check.

use std::{
    fs::File,
    io::{self, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
};

use ebpfprof::{
    bpf::Sample,
    export::{self, Format},
    import,
    jit::{Appeared, Clock, CodeMap, Found, Jitdump, Late, Named, PerfMap},
    object::{ElfAddr, Objects},
    process::{FileNumber, MapRow, parse_maps},
    profile::Profile,
    symbolize::go::{GoFrame, GoTable},
    target::Pid,
    unwind::{CodeRange, FrameFormat, Lookup, MOST_FRAME_BYTES, Sections, Table},
};
use profiler_common::{
    frame::Frame,
    limits::{MAX_KERNEL_FRAMES, MAX_USER_FRAMES},
    step::{Depth, Registers, UserMemory},
    unwind::{OtherRegisters, Rule, caller_by_rule},
};

/// One target.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name, which is that of its folder in `corpus/`.
    pub name: &'static str,
    /// Runs it.
    pub run: fn(&[u8]),
    /// Bytes that one byte of input may cost at one time.
    pub bytes_per_byte: usize,
    /// Bytes that any input may cost at one time, on top.
    pub fixed_bytes: usize,
}

/// What readers of files may cost beside what is in the file: headers, buffers, words.
const SLACK_BYTES: usize = 64 << 10;
/// Code that a table must not exceed to be searched here: its index has a word for each 256 bytes,
/// is built in a vector that grows by doubling, and copied into chunks of 256 KiB.
const MOST_SEARCHED: u32 = 16 << 20;
const SEARCH_BYTES: usize = 2 << 20;
/// A common entry of 13 bytes is kept in a map, which grows by doubling.
const TABLE_BYTES_PER_BYTE: usize = 32;

/// A compressed section may be this much longer than what it takes in the file.
const UNPACKED_BYTES_PER_BYTE: usize = 64;

/// An entry of a perf map has six bytes at least, and takes some hundred in a tree.
const CODE_BYTES_PER_BYTE: usize = 32;
/// Some thousand replaced entries are kept, and a line of up to 64 KiB or lines of up to a megabyte.
const PAST_BYTES: usize = 4 << 20;

/// What is kept of one function's sequences of steps, three at a time: a step of two bytes is 16, in a
/// vector that grows by doubling.
const STEP_BYTES_PER_BYTE: usize = 3 * 24;
/// Blocks of a file that are kept.
const BLOCK_BYTES: usize = 1 << 20;

/// A place of nine bytes is some words in a table and in its index, which grow by doubling; a sample
/// with labels of its own has a table of its own. What is written of them is there at the same time.
const PROFILE_BYTES_PER_BYTE: usize = 160;
/// Unpacked bytes that any input may have.
const PROFILE_BYTES: usize = 32 << 10;

/// Every target, with its bounds.
pub const TARGETS: [Target; 11] = [
    Target {
        name: "object_head",
        run: object_head,
        bytes_per_byte: 4,
        fixed_bytes: SLACK_BYTES,
    },
    Target {
        name: "unwind_file",
        run: unwind_file,
        bytes_per_byte: TABLE_BYTES_PER_BYTE * UNPACKED_BYTES_PER_BYTE,
        fixed_bytes: SEARCH_BYTES,
    },
    Target {
        name: "unwind_sections",
        run: unwind_sections,
        bytes_per_byte: TABLE_BYTES_PER_BYTE,
        fixed_bytes: SEARCH_BYTES,
    },
    Target {
        name: "go_table",
        run: go_table,
        bytes_per_byte: STEP_BYTES_PER_BYTE,
        fixed_bytes: BLOCK_BYTES + SLACK_BYTES,
    },
    Target {
        name: "proc_maps",
        run: proc_maps,
        bytes_per_byte: 24,
        fixed_bytes: SLACK_BYTES,
    },
    Target {
        name: "ring_record",
        run: ring_record,
        bytes_per_byte: 4,
        fixed_bytes: SLACK_BYTES,
    },
    Target {
        name: "rule_word",
        run: rule_word,
        bytes_per_byte: 0,
        fixed_bytes: SLACK_BYTES,
    },
    Target {
        name: "pprof_file",
        run: pprof_file,
        bytes_per_byte: PROFILE_BYTES_PER_BYTE,
        fixed_bytes: PROFILE_BYTES * PROFILE_BYTES_PER_BYTE + SLACK_BYTES,
    },
    Target {
        name: "folded_text",
        run: folded_text,
        bytes_per_byte: PROFILE_BYTES_PER_BYTE,
        fixed_bytes: PROFILE_BYTES * PROFILE_BYTES_PER_BYTE + SLACK_BYTES,
    },
    Target {
        name: "perf_map",
        run: perf_map,
        bytes_per_byte: CODE_BYTES_PER_BYTE,
        fixed_bytes: PAST_BYTES,
    },
    Target {
        name: "jitdump",
        run: jitdump,
        bytes_per_byte: CODE_BYTES_PER_BYTE,
        fixed_bytes: PAST_BYTES,
    },
];

/// A file in memory with these bytes.
fn memory_file(data: &[u8]) -> io::Result<File> {
    let memory: OwnedFd = rustix::fs::memfd_create("fuzz", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = File::from(memory);
    file.write_all(data)?;
    Ok(file)
}

/// The head of an ELF file: segments, build id, language; and addresses turned into each other.
pub fn object_head(data: &[u8]) {
    let file = memory_file(data).expect("there is memory for a file");
    let meta = file.metadata().expect("the file is open");
    let row = MapRow {
        start: 0x7000_0000_0000,
        end: 0x7000_1000_0000,
        file_offset: 0,
        file: Some(FileNumber {
            major: rustix::fs::major(meta.dev()),
            minor: rustix::fs::minor(meta.dev()),
            inode: meta.ino(),
        }),
        path: format!("/proc/self/fd/{}", file.as_raw_fd()),
    };
    let mut objects = Objects::default();
    let id = objects
        .of_mapping(Pid(std::process::id()), &row)
        .expect("a mapping of a file has an object");
    let object = objects.get(id);
    assert!(object.file.is_some(), "the file was not opened");
    let ends = object.segments.iter().map(|segment| {
        let end = segment.file_offset.saturating_add(segment.file_bytes);
        [segment.file_offset, end.wrapping_sub(1)]
    });
    for offset in ends.flatten().chain([0, 0xfff, u64::MAX]) {
        if let Some(bias) = object.bias(row.start, offset) {
            assert_eq!(bias.to_runtime(bias.to_elf(row.start)), row.start);
        }
    }
    let starts: Vec<u64> = object
        .segments
        .iter()
        .map(|segment| segment.address)
        .collect();
    for start in starts.into_iter().chain([0, u64::MAX]) {
        objects.follows_call(id, ElfAddr(start.wrapping_add(7)));
    }
}

/// The call frame information of a file, found and compiled.
pub fn unwind_file(data: &[u8]) {
    let file = memory_file(data).expect("there is memory for a file");
    if let Ok(sections) = Sections::of_file(&file) {
        for frames in [&sections.frames, &sections.debug_frames] {
            assert!(frames.len() as u64 <= MOST_FRAME_BYTES);
        }
    }
    if let Ok(table) = Table::of_file(&file) {
        check_table(&table);
    }
}

/// Call frame information of both forms, compiled.
pub fn unwind_sections(data: &[u8]) {
    for format in [FrameFormat::EhFrame, FrameFormat::DebugFrame] {
        let sections = Sections {
            format,
            frames: data.to_vec(),
            // The one section again, for what the other does not tell.
            debug_frames: match format {
                FrameFormat::EhFrame => data.to_vec(),
                FrameFormat::DebugFrame => Vec::new(),
            },
            entry: 0,
            is_go: data.len() % 2 == 1,
            bases: gimli_bases(),
            code: vec![
                CodeRange {
                    start: 0x1000,
                    end: 0x4000,
                    file_offset: 0x1000,
                },
                CodeRange {
                    start: 0x10_0000,
                    end: 1 << 38,
                    file_offset: 0x4000,
                },
            ],
        };
        check_table(&Table::of_sections(&sections));
    }
}

/// The section lies at address 0.
fn gimli_bases() -> gimli::BaseAddresses {
    gimli::BaseAddresses::default()
        .set_eh_frame(0)
        .set_text(0x1000)
}

/// A table is sorted and disjoint, its counts add up, and what is searched is what was compiled.
fn check_table(table: &Table) {
    let rows = table.rows();
    for pair in rows.windows(2) {
        assert!(pair[0].offset < pair[1].offset && pair[0].rule != pair[1].rule);
    }
    assert!(
        rows.iter()
            .all(|row| usize::from(row.rule) < table.rules().len())
    );
    let coverage = table.coverage();
    assert_eq!(coverage.rules.len(), table.rules().len());
    assert!(coverage.covered().bytes <= coverage.code_bytes);
    for rule in table.rules() {
        assert_eq!(Rule::decode(rule.encode()), Ok(*rule));
    }
    if rows.last().is_none_or(|row| row.offset > MOST_SEARCHED) {
        return;
    }
    let lookup = Lookup::new(table);
    for (start, end, rule) in table.ranges() {
        // A bucket with more rows than the index can count has no rules.
        for found in [lookup.rule(start), lookup.rule(end - 1)] {
            assert!(found == rule || found == Rule::NoInformation);
        }
    }
    // Outside of it there is none; address 0 may well be inside. An address that no object has must
    // not be taken for one of the table's.
    let end = rows.last().map_or(0, |row| u64::from(row.offset));
    let before = table.base().checked_sub(1);
    let outside = [table.base() + end, table.base() | 1 << 40, u64::MAX];
    for address in outside.into_iter().chain(before) {
        assert_eq!(
            lookup.rule(address),
            Rule::NoInformation,
            "at {address:#x}, the table is from {:#x} on for {end:#x}",
            table.base()
        );
    }
}

/// A Go program's table of functions, searched and read for addresses all over the seeds' code.
pub fn go_table(data: &[u8]) {
    /// The longest chain of calls inlined into each other, and the function.
    const MOST_FRAMES: usize = 201;
    /// The longest name, were each byte of it no UTF-8.
    const MOST_NAME_BYTES: usize = 3 * (4 << 10);
    let file = memory_file(data).expect("there is memory for a file");
    let Some(table) = GoTable::read(&file) else {
        return;
    };
    let starts = [0, 0x40_0000];
    let code = starts.map(|start| (start + 0x80..start + 0x400).step_by(4));
    let ends = [u64::MAX / 2, u64::MAX];
    let addresses: Vec<u64> = code.into_iter().flatten().chain(ends).collect();
    let resolved = table.resolve(&addresses);
    assert_eq!(resolved.len(), addresses.len());
    for frames in resolved.iter().flatten() {
        assert!(!frames.is_empty() && frames.len() <= MOST_FRAMES);
        for GoFrame { name, file, .. } in frames {
            assert!(name.len() <= MOST_NAME_BYTES && file.len() <= MOST_NAME_BYTES);
        }
    }
}

/// The text of `/proc/PID/maps`.
pub fn proc_maps(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let rows: Vec<MapRow> = parse_maps(&text).collect();
    assert!(rows.len() <= text.lines().count());
    for row in rows {
        assert!(row.file.is_none_or(|file| file.inode != 0));
        assert!(row.path.len() <= text.len());
    }
}

/// A record of the sample ring.
pub fn ring_record(data: &[u8]) {
    let Some(sample) = Sample::of_record(data) else {
        return;
    };
    assert!(sample.kernel.len() <= MAX_KERNEL_FRAMES && sample.user.len() <= MAX_USER_FRAMES);
    for frame in &sample.user {
        assert_eq!(Frame::decode(frame.encode()), Ok(*frame));
    }
    assert!(sample.comm.text().len() <= 3 * sample.comm.0.len());
}

/// A word of an unwind rule, and one step by it on registers and memory that are the rest of the
/// bytes.
pub fn rule_word(data: &[u8]) {
    let word = |number: usize| {
        let bytes = data.get(number * 8..number * 8 + 8)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    };
    let words = data.len() / 8;
    for number in 0..words {
        let Some(Ok(rule)) = word(number).map(Rule::decode) else {
            continue;
        };
        assert_eq!(Rule::decode(rule.encode()), Ok(rule));
        let register = |distance: usize| word((number + distance) % words).unwrap_or(0);
        let callee = Registers {
            pc: register(1),
            sp: register(2),
            fp: register(3),
        };
        let rest = Rest(data);
        for depth in [Depth::Innermost, Depth::Caller] {
            let first = caller_by_rule(rule, callee, depth, &rest, &rest);
            assert_eq!(first, caller_by_rule(rule, callee, depth, &rest, &rest));
        }
    }
}

/// Registers and memory made of some bytes: an address is an offset into them, again and again; one
/// page in eight is absent.
struct Rest<'a>(&'a [u8]);

impl UserMemory for Rest<'_> {
    fn read<const N: usize>(&self, address: u64) -> Option<[u8; N]> {
        if (address >> 12) % 8 == 7 {
            return None;
        }
        let at = (address % self.0.len() as u64) as usize;
        Some(std::array::from_fn(|byte| {
            self.0[(at + byte) % self.0.len()]
        }))
    }
}

impl OtherRegisters for Rest<'_> {
    fn read(&self, number: u8) -> Option<u64> {
        let bytes = self.0.get(usize::from(number)..)?.first_chunk()?;
        Some(u64::from_le_bytes(*bytes))
    }
}

/// A profile in this format, if it is one, unpacked at most as long as it is or as any may be.
fn profile_of(format: Format, mut data: &[u8]) -> Option<Profile> {
    let settings = import::Settings {
        sample_index: None,
        most_bytes: data.len().max(PROFILE_BYTES) as u64,
    };
    import::read(format, &settings, &mut data).ok()
}

fn written(format: Format, profile: &Profile) -> Vec<u8> {
    let mut bytes = Vec::new();
    export::write(format, profile, &mut bytes).expect("a vector takes everything");
    bytes
}

/// A pprof file, and what is written of it.
pub fn pprof_file(data: &[u8]) {
    let Some(profile) = profile_of(Format::Pprof, data) else {
        return;
    };
    let total = profile.total();
    let bytes = written(Format::Pprof, &profile);
    drop(profile);
    let settings = import::Settings::default();
    let again = import::read(Format::Pprof, &settings, &mut &bytes[..]);
    assert_eq!(again.expect("ours can be read").total(), total);
}

/// Folded stacks, and what is written of them.
pub fn folded_text(data: &[u8]) {
    let Some(profile) = profile_of(Format::Folded, data) else {
        return;
    };
    let total = profile.total();
    let text = written(Format::Folded, &profile);
    drop(profile);
    let settings = import::Settings::default();
    let again = import::read(Format::Folded, &settings, &mut &text[..]).expect("ours can be read");
    assert_eq!(again.total(), total);
    assert_eq!(written(Format::Folded, &again), text);
}

/// A perf map, whole and in two pieces, and what is shown of its names.
pub fn perf_map(data: &[u8]) {
    let read = |pieces: [&[u8]; 2]| {
        let (mut map, mut code) = (PerfMap::default(), CodeMap::default());
        for (number, piece) in pieces.into_iter().enumerate() {
            map.feed(piece, Appeared::at(10 * number as u64), &mut code);
        }
        (map.garbage(), code)
    };
    let (garbage, code) = read([data, &[]]);
    drop(code);
    let (same, code) = read(data.split_at(data.len() / 2).into());
    assert_eq!(garbage, same);
    look_at_all(code);
}

/// A jitdump, in two pieces, the second of which is passed over as far as it may be.
pub fn jitdump(data: &[u8]) {
    let (mut dump, mut code) = (Jitdump::new(Clock::default()), CodeMap::default());
    let (first, rest) = data.split_at(data.len() / 2);
    dump.feed(first, Appeared::between(0, 1 << 40), &mut code);
    let skip = usize::try_from(dump.skip()).map_or(rest.len(), |skip| skip.min(rest.len()));
    dump.passed(skip as u64);
    dump.feed(&rest[skip..], Appeared::between(0, u64::MAX), &mut code);
    look_at_all(code);
}

/// The longest name that is kept, in bytes; as text three times as long.
const MOST_NAME_BYTES: usize = 4096;

/// Asks for code at many addresses and times, until there is none.
fn look_at_all(mut code: CodeMap) {
    while !code.is_empty() {
        for shift in 0..64 {
            for time_ns in [0, 5, 10, 1 << 40, u64::MAX] {
                let Found::Code(found) = code.find(1 << shift, time_ns, Late::Counts) else {
                    continue;
                };
                let name = Named::of(found.name);
                assert!(!name.function.is_empty());
                let lines = found.lines.and_then(|lines| lines.find(1));
                assert!(lines.is_none_or(|(file, _)| file.len() <= 3 * MOST_NAME_BYTES));
            }
        }
        code.shed();
    }
    assert_eq!(code.bytes(), 0);
}
