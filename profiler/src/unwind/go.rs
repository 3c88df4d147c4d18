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
//! - `mcall` leaves its goroutine for the scheduler, on another stack, and never comes back: another
//!   thread may already run the goroutine, and change what its stack holds. Go's own traces end there
//!   too. Source: `src/runtime/asm_amd64.s`.
//! - `rt0_go` begins the program, and goroutines return to `goexit`.
//!
//! Programs are stripped of their symbols, so `asyncPreempt` is known by its code, which saves the
//! flags right after it has made its frame (since Go 1.14), and the others by the table of functions
//! that the runtime itself needs (since Go 1.16).

use std::{fs::File, ops::Range};

use memchr::memmem;
use profiler_common::unwind::{Base, Cfa, Rule, SavedFp};

use super::section::{CodeRange, code_at, first_code};
use crate::object::go_functions::GoFunctions;

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
/// `mov n(%r14),%rsp`, but for the number: how `mcall` comes to the other stack since Go 1.17, which
/// has the goroutine in r14.
const SWITCH: [u8; 3] = [0x49, 0x8b, 0x66];
/// `mov $0,%ebp`, with which `mstart` begins since Go 1.27 or before.
const CLEAR_RBP: [u8; 5] = [0xbd, 0, 0, 0, 0];

/// The functions that are looked for in the table, the one known by its code first.
const NAMES: [&[u8]; 6] = [
    b"runtime.asyncPreempt",
    b"runtime.rt0_go",
    b"runtime.goexit",
    b"runtime.mstart",
    b"runtime.clone",
    b"runtime.mcall",
];

type Rules = Vec<(Range<u64>, Rule)>;

/// The rules, by ELF addresses, sorted and disjoint.
pub(super) fn find(file: &File, code: &[CodeRange]) -> Rules {
    let preempt = first_code(code, MOST_CODE_BYTES).find_map(|range| find_preempt(file, &range));
    let Some(preempt) = preempt else {
        return Rules::new();
    };
    let mut rules = preempt_rules(&preempt);
    let functions = GoFunctions::read(file).map(|functions| functions.find(&NAMES));
    let [known, rt0_go, goexit, mstart, clone, mcall] = functions.unwrap_or_default();
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
        rules.extend(read(mcall).and_then(mcall_rule));
    }
    rules.sort_unstable_by_key(|(range, _)| range.start);
    rules.dedup_by(|later, earlier| later.0.start < earlier.0.end);
    rules
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

/// What runs on the other stack.
fn mcall_rule((range, code): (Range<u64>, Vec<u8>)) -> Option<(Range<u64>, Rule)> {
    let switched = memmem::find(&code, &SWITCH)? + SWITCH.len() + 1;
    let switched = range.start + switched as u64;
    (switched < range.end).then_some((switched..range.end, Rule::End))
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
