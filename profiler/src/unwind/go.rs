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

use std::{fs::File, ops::Range, os::unix::fs::FileExt};

use memchr::memmem;
use object::{
    LittleEndian as Little,
    elf::FileHeader64,
    read::{ReadCache, elf::FileHeader},
};
use profiler_common::unwind::{Base, Cfa, Rule, SavedFp};

use super::{
    section::{CodeRange, place_of},
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

type Rules = Vec<(Range<u64>, Rule)>;

/// The rules, by ELF addresses, sorted and disjoint.
pub(super) fn find(file: &File, code: &[CodeRange]) -> Rules {
    let mut left = MOST_CODE_BYTES;
    let preempt = code.iter().find_map(|range| {
        let end = range.end.min(range.start.saturating_add(left));
        left -= end - range.start;
        find_preempt(file, &CodeRange { end, ..*range })
    });
    let Some(preempt) = preempt else {
        return Rules::new();
    };
    let mut rules = preempt_rules(&preempt);
    let table = read_table(file);
    let functions = table.as_deref().and_then(Functions::parse);
    // The table tells offsets from where the runtime has its code, which need not be a section's start.
    let placed = functions.and_then(|functions| {
        let base = preempt
            .start
            .checked_sub(functions.range(b"runtime.asyncPreempt")?.start)?;
        Some((functions, base))
    });
    if let Some((functions, base)) = placed {
        let named = |name| {
            let Range { start, end } = functions.range(name)?;
            read_function(file, code, base.checked_add(start)?..base.checked_add(end)?)
        };
        rules.extend(named(b"runtime.rt0_go").map(|(range, _)| (range, Rule::End)));
        rules.extend(named(b"runtime.goexit").map(|(range, _)| (range, Rule::End)));
        rules.extend(named(b"runtime.mstart").and_then(mstart_rule));
        rules.extend(named(b"runtime.clone").and_then(clone_rule));
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
    let mut block = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let to = range.end.min(at + BLOCK + MOST_BYTES as u64);
        block.resize((to - at) as usize, 0);
        let offset = range.file_offset.saturating_add(at - range.start);
        file.read_exact_at(&mut block, offset).ok()?;
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
    let holds = |range: &&CodeRange| range.start <= function.start && function.end <= range.end;
    let range = code.iter().find(holds)?;
    let length = usize::try_from(function.end.checked_sub(function.start)?).ok()?;
    if length > MOST_BYTES {
        return None;
    }
    let mut bytes = vec![0; length];
    let offset = range
        .file_offset
        .saturating_add(function.start - range.start);
    file.read_exact_at(&mut bytes, offset).ok()?;
    Some((function, bytes))
}

/// The table of functions. Source: `pcHeader`, `functab` and `_func` in Go's `src/runtime/symtab.go`
/// and `src/runtime/runtime2.go`.
struct Functions<'a> {
    bytes: &'a [u8],
    count: usize,
    names: usize,
    table: usize,
    form: Form,
}

/// How wide the table's numbers are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Go 1.16 and 1.17: addresses of 8 bytes.
    Wide,
    /// Since Go 1.18: offsets of 4 bytes.
    Narrow,
}

/// The first words of tables: Go 1.16, 1.18, 1.20.
const MAGICS: [(u32, Form); 3] = [
    (0xffff_fffa, Form::Wide),
    (0xffff_fff0, Form::Narrow),
    (0xffff_fff1, Form::Narrow),
];

impl<'a> Functions<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let magic = u32::from_le_bytes(*bytes.first_chunk()?);
        let (_, form) = MAGICS.iter().find(|(known, _)| *known == magic)?;
        // Behind the numbers of functions and files, newer tables tell where the code is.
        let (names_at, table_at) = match form {
            Form::Wide => (3, 7),
            Form::Narrow => (4, 8),
        };
        let word = |number: usize| {
            let word = bytes.get(8 * number..)?.first_chunk()?;
            usize::try_from(u64::from_le_bytes(*word)).ok()
        };
        Some(Self {
            bytes,
            count: word(1)?,
            names: word(names_at)?,
            table: word(table_at)?,
            form: *form,
        })
    }

    /// Where a function's code is, from where the first one's is.
    fn range(&self, name: &[u8]) -> Option<Range<u64>> {
        (0..self.count)
            .map_while(|number| Some((number, self.name(number, name.len())?)))
            .find(|(_, other)| other.strip_prefix(name) == Some(&[0]))
            .and_then(|(number, _)| Some(self.start(number)?..self.start(number + 1)?))
    }

    /// As many bytes of a function's name, and one more. `None` past the end of the table.
    fn name(&self, number: usize, length: usize) -> Option<&'a [u8]> {
        let (_, entry) = self.row(number)?;
        let function = self.table.checked_add(entry)?;
        let name_at = match self.form {
            Form::Wide => 8,
            Form::Narrow => 4,
        };
        let name = u32_at(self.bytes, function.checked_add(name_at)?)? as usize;
        let start = self.names.checked_add(name)?;
        let names = self.bytes.get(start..)?;
        Some(&names[..names.len().min(length + 1)])
    }

    fn start(&self, number: usize) -> Option<u64> {
        self.row(number).map(|(start, _)| start)
    }

    /// Where a function's code begins, and where the table has more of it.
    fn row(&self, number: usize) -> Option<(u64, usize)> {
        let half = match self.form {
            Form::Wide => 8,
            Form::Narrow => 4,
        };
        let at = self.table.checked_add(number.checked_mul(2 * half)?)?;
        // The last row is where the code ends, and has no more.
        let entry = self.number(at.checked_add(half)?).unwrap_or(0);
        Some((self.number(at)?, usize::try_from(entry).ok()?))
    }

    fn number(&self, at: usize) -> Option<u64> {
        match self.form {
            Form::Wide => {
                let word = self.bytes.get(at..)?.first_chunk()?;
                Some(u64::from_le_bytes(*word))
            }
            Form::Narrow => u32_at(self.bytes, at).map(u64::from),
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_le_bytes(*word))
}
