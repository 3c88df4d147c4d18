//! What the Go runtime's assembly does to stacks and does not describe.
//!
//! In: an ELF file that the Go linker wrote, and where its code is. Out: rules for some of its
//! functions that count more than the description.
//!
//! - Nobody calls `asyncPreempt`: a signal handler of the runtime pushes where the goroutine was, and
//!   lets it go on there. So what it returns to follows no call, and may be anywhere in a function.
//!   Source: `genAMD64` in Go's `src/runtime/mkpreempt.go`, `pushCall` in
//!   `src/runtime/signal_amd64.go`.
//! - Threads begin in `mstart`, called by `clone` or, with cgo, by C code. It makes no frame, and rbp
//!   still has what it had in whoever made the thread: a step by it would lead to another thread's
//!   stack. Source: `src/runtime/asm_amd64.s`, `src/runtime/sys_linux_amd64.s`.
//! - `rt0_go` begins the program, and goroutines return to `goexit`.
//!
//! Programs are stripped of their symbols, so `asyncPreempt` is known by its code, which saves the
//! flags right after it has made its frame (since Go 1.14), and the others by the table of functions
//! that the runtime itself needs (since Go 1.16).

use std::{fs::File, ops::Range};

use memchr::memmem;
use object::{
    LittleEndian as Little, U32, U64,
    elf::FileHeader64,
    read::{ReadCache, ReadRef, elf::FileHeader},
};
use profiler_common::unwind::{Base, Cfa, Rule, SavedFp};

use super::{
    section::{CodeRange, code_at, first_code, place_of},
    unpack::Packing,
};

/// `push %rbp; mov %rsp,%rbp; pushf; sub $n,%rsp`, but for the last instruction's number.
const START: [u8; 6] = [0x55, 0x48, 0x89, 0xe5, 0x9c, 0x48];
/// The two ways to go on: a number of one byte, or of four.
const SUBTRACTS: [[u8; 2]; 2] = [[0x83, 0xec], [0x81, 0xec]];
/// `popf; pop %rbp; ret`.
const END: [u8; 3] = [0x9d, 0x5d, 0xc3];
/// Bytes of the first instruction, and of the first two.
const PUSH_BYTES: u64 = 1;
const FRAMED_BYTES: u64 = 4;
/// The longest function that is read, in bytes: in Go 1.27 `asyncPreempt` has 1,286.
const MOST_BYTES: usize = 4 << 10;
/// Code read at a time, in bytes.
const BLOCK: u64 = 1 << 20;
/// Most code looked through, in bytes. The runtime lies near the start.
const MOST_CODE_BYTES: u64 = 256 << 20;
/// `call *%r12`: how `clone` calls a thread's first function.
const CALL_FIRST: [u8; 3] = [0x41, 0xff, 0xd4];
/// `mov $0,%ebp`, with which `mstart` begins since Go 1.27 or before.
const CLEAR_RBP: [u8; 5] = [0xbd, 0, 0, 0, 0];

/// The table of functions, in programs that are at a fixed address and in others.
const TABLES: [&[u8]; 2] = [b".gopclntab", b".data.rel.ro.gopclntab"];

/// The functions that are looked for in it, the one known by its code first.
const NAMES: [&[u8]; 5] = [
    b"runtime.asyncPreempt",
    b"runtime.rt0_go",
    b"runtime.goexit",
    b"runtime.mstart",
    b"runtime.clone",
];

type Rules = Vec<(Range<u64>, Rule)>;

/// The rules, by ELF addresses, sorted and disjoint.
pub(super) fn find(file: &File, code: &[CodeRange]) -> Rules {
    let preempt = first_code(code, MOST_CODE_BYTES).find_map(|range| find_preempt(file, &range));
    let Some(preempt) = preempt else {
        return Rules::new();
    };
    let mut rules = preempt_rules(&preempt);
    let table = read_table(file);
    let functions = table.as_deref().and_then(Functions::parse);
    let functions = functions
        .map(|functions| functions.find(&NAMES))
        .unwrap_or_default();
    let [known, rt0_go, goexit, mstart, clone] = functions;
    // The table tells offsets from where the runtime has its code, which need not be a section's start.
    if let Some(base) = known.and_then(|known| preempt.start.checked_sub(known.start)) {
        let read = |function: Option<Range<u64>>| {
            let Range { start, end } = function?;
            read_function(file, code, base.checked_add(start)?..base.checked_add(end)?)
        };
        for function in [rt0_go, goexit] {
            rules.extend(read(function).map(|(range, _)| (range, Rule::End)));
        }
        rules.extend(read(mstart).and_then(mstart_rule));
        rules.extend(read(clone).and_then(clone_rule));
    }
    rules.sort_unstable_by_key(|(range, _)| range.start);
    rules.dedup_by(|later, earlier| later.0.start < earlier.0.end);
    rules
}

/// The section of the table of functions. A file without section headers has none.
fn read_table(file: &File) -> Option<Vec<u8>> {
    let cache = ReadCache::new(file);
    let header = FileHeader64::<Little>::parse(&cache).ok()?;
    let sections = header.sections(Little, &cache).ok()?;
    let (_, table) = TABLES
        .iter()
        .find_map(|name| sections.section_by_name(Little, name))?;
    place_of(table, Packing::None)?.read(file).ok()
}

/// The return address is one word, then two, above the stack pointer, and two above the frame pointer
/// until that is popped.
fn preempt_rules(function: &Range<u64>) -> Rules {
    let Range { start, end } = *function;
    let (pushed, framed, last) = (start + PUSH_BYTES, start + FRAMED_BYTES, end - 1);
    let unframed = Rule::Injected(Base::StackPointer, 8, SavedFp::Same);
    let saved = SavedFp::AtCfa(-16);
    vec![
        (start..pushed, unframed),
        (
            pushed..framed,
            Rule::Injected(Base::StackPointer, 16, saved),
        ),
        (framed..last, Rule::Injected(Base::FramePointer, 16, saved)),
        (last..end, unframed),
    ]
}

/// Assembly since Go 1.17: a call and a return. It was a function with a frame before.
fn mstart_rule((range, code): (Range<u64>, Vec<u8>)) -> Option<(Range<u64>, Rule)> {
    let calls = code.strip_prefix(&CLEAR_RBP).unwrap_or(&code);
    let is_it = calls.first() == Some(&0xe8) && calls.get(5) == Some(&0xc3);
    let rule = Rule::Frame(Cfa::StackPointer(8), SavedFp::Same);
    is_it.then_some((range, rule))
}

/// The new thread's part: where its first function would return to.
fn clone_rule((range, code): (Range<u64>, Vec<u8>)) -> Option<(Range<u64>, Rule)> {
    let call = range.start + memmem::find(&code, &CALL_FIRST)? as u64;
    Some((call..call + CALL_FIRST.len() as u64, Rule::End))
}

fn find_preempt(file: &File, range: &CodeRange) -> Option<Range<u64>> {
    let mut at = range.start;
    while at < range.end {
        let block = range.read(file, at..at + BLOCK + MOST_BYTES as u64)?;
        let found = memmem::find_iter(&block, &START).find_map(|start| {
            let function = &block[start..block.len().min(start + MOST_BYTES)];
            let length = preempt_length(function)?;
            Some(at + start as u64..at + (start + length) as u64)
        });
        if found.is_some() {
            return found;
        }
        at += BLOCK;
    }
    None
}

/// The length of the function that begins these bytes, if it is `asyncPreempt`.
fn preempt_length(code: &[u8]) -> Option<usize> {
    let subtracts = code.get(START.len()..START.len() + 2)?;
    let is_start = SUBTRACTS.iter().any(|bytes| bytes == subtracts);
    let end = memmem::find(code, &END).filter(|_| is_start)?;
    Some(end + END.len())
}

/// A function and its code, if it is not longer than any that we look for.
fn read_function(
    file: &File,
    code: &[CodeRange],
    function: Range<u64>,
) -> Option<(Range<u64>, Vec<u8>)> {
    let range = code_at(code, function.start).filter(|range| function.end <= range.end)?;
    if function.end.checked_sub(function.start)? > MOST_BYTES as u64 {
        return None;
    }
    let bytes = range.read(file, function.clone())?;
    Some((function, bytes))
}

/// The table of functions. Source: `pcHeader`, `functab` and `_func` in Go's `src/runtime/symtab.go`
/// and `src/runtime/runtime2.go`.
struct Functions<'a> {
    bytes: &'a [u8],
    count: u64,
    names: u64,
    table: u64,
    width: Width,
}

/// Bytes of the table's numbers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Width {
    /// Addresses.
    Eight = 8,
    /// Offsets.
    Four = 4,
}

/// The first words of tables: Go 1.16, 1.18, 1.20.
const MAGICS: [(u32, Width); 3] = [
    (0xffff_fffa, Width::Eight),
    (0xffff_fff0, Width::Four),
    (0xffff_fff1, Width::Four),
];

impl<'a> Functions<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let magic = number(bytes, 0, Width::Four)?;
        let is_it = |(known, _): &&(u32, Width)| u64::from(*known) == magic;
        let (_, width) = *MAGICS.iter().find(is_it)?;
        // Behind the numbers of functions and files, newer tables tell where the code is.
        let (names_at, table_at) = match width {
            Width::Eight => (3, 7),
            Width::Four => (4, 8),
        };
        let word = |place: u64| number(bytes, 8 * place, Width::Eight);
        Some(Self {
            bytes,
            count: word(1)?,
            names: word(names_at)?,
            table: word(table_at)?,
            width,
        })
    }

    /// Where functions' code is, from where the first one's is.
    fn find<const N: usize>(&self, names: &[&[u8]; N]) -> [Option<Range<u64>>; N] {
        let mut found = [const { None }; N];
        for place in 0..self.count {
            let Some(name) = self.name(place) else { break };
            let is_it =
                |wanted: &&[u8]| name.strip_prefix(*wanted).and_then(<[u8]>::first) == Some(&0);
            if let Some(which) = names.iter().position(is_it) {
                found[which] = self
                    .start(place)
                    .zip(self.start(place + 1))
                    .map(|(a, b)| a..b);
            }
        }
        found
    }

    /// What begins with a function's name and a NUL. `None` past the end of the table.
    fn name(&self, place: u64) -> Option<&'a [u8]> {
        let width = self.width as u64;
        let entry = self.number(place.checked_mul(2)?.checked_add(1)?)?;
        let name_at = self.table.checked_add(entry)?.checked_add(width)?;
        let name = number(self.bytes, name_at, Width::Four)?;
        self.bytes
            .get(usize::try_from(self.names.checked_add(name)?).ok()?..)
    }

    fn start(&self, place: u64) -> Option<u64> {
        self.number(place.checked_mul(2)?)
    }

    /// A number of the table, which has two for each function: where its code begins, and where the
    /// table has more of it.
    fn number(&self, place: u64) -> Option<u64> {
        let into = place.checked_mul(self.width as u64)?;
        number(self.bytes, self.table.checked_add(into)?, self.width)
    }
}

fn number(bytes: &[u8], at: u64, width: Width) -> Option<u64> {
    match width {
        Width::Eight => bytes
            .read_at::<U64<Little>>(at)
            .ok()
            .map(|word| word.get(Little)),
        Width::Four => bytes
            .read_at::<U32<Little>>(at)
            .ok()
            .map(|word| word.get(Little).into()),
    }
}
