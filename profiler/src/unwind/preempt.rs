//! Where the Go runtime makes a goroutine give way.
//!
//! In: an ELF file that the Go linker wrote, and where its code is. Out: the rules of the one function
//! that nobody calls: a signal handler of the runtime pushes where the goroutine was, and lets it go
//! on in `asyncPreempt`. So what that function returns to follows no call, and may be anywhere in a
//! function. Programs are stripped of their symbols, so it is known by its code: it saves the flags
//! right after it has made its frame. Source: `genAMD64` in Go's `src/runtime/mkpreempt.go`, the same
//! since Go 1.14, and `pushCall` in `src/runtime/signal_amd64.go`.

use std::{fs::File, ops::Range, os::unix::fs::FileExt};

use memchr::memmem;
use profiler_common::unwind::{Base, Rule, SavedFp};

use super::section::CodeRange;

/// `push %rbp; mov %rsp,%rbp; pushf; sub $n,%rsp`, but for the last instruction's number.
const START: [u8; 6] = [0x55, 0x48, 0x89, 0xe5, 0x9c, 0x48];
/// The two ways to go on: a number of one byte, or of four.
const SUBTRACTS: [[u8; 2]; 2] = [[0x83, 0xec], [0x81, 0xec]];
/// `popf; pop %rbp; ret`.
const END: [u8; 3] = [0x9d, 0x5d, 0xc3];
/// Bytes of the first two instructions.
const PUSH_BYTES: u64 = 1;
const FRAMED_BYTES: u64 = 4;
/// The longest function that is taken for it, in bytes: in Go 1.27 it has 1,286.
const MOST_BYTES: usize = 4 << 10;
/// Code read at a time, in bytes.
const BLOCK: u64 = 1 << 20;
/// Most code looked through, in bytes. The runtime lies near the start.
const MOST_CODE_BYTES: u64 = 256 << 20;

/// The rules of the function, by ELF addresses; none if it is not there.
pub(super) fn find(file: &File, code: &[CodeRange]) -> Vec<(Range<u64>, Rule)> {
    let mut left = MOST_CODE_BYTES;
    let function = code.iter().find_map(|range| {
        let end = range.end.min(range.start.saturating_add(left));
        left -= end - range.start;
        find_in(file, &CodeRange { end, ..*range })
    });
    function.map(rules).unwrap_or_default()
}

/// The rules along the function: the return address is one word, then two, above the stack pointer,
/// and two above the frame pointer until that is popped.
fn rules(function: Range<u64>) -> Vec<(Range<u64>, Rule)> {
    let Range { start, end } = function;
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

fn find_in(file: &File, range: &CodeRange) -> Option<Range<u64>> {
    let mut block = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let to = range.end.min(at + BLOCK + MOST_BYTES as u64);
        block.resize((to - at) as usize, 0);
        let offset = range.file_offset.saturating_add(at - range.start);
        file.read_exact_at(&mut block, offset).ok()?;
        if let Some(found) = memmem::find_iter(&block, &START).find_map(|start| {
            let function = &block[start..block.len().min(start + MOST_BYTES)];
            let length = length_of(function)?;
            Some(at + start as u64..at + (start + length) as u64)
        }) {
            return Some(found);
        }
        at += BLOCK;
    }
    None
}

/// The length of the function that begins these bytes, if it is the one.
fn length_of(code: &[u8]) -> Option<usize> {
    let subtracts = code.get(START.len()..START.len() + 2)?;
    let is_start = SUBTRACTS.iter().any(|bytes| bytes == subtracts);
    let end = memmem::find(code, &END).filter(|_| is_start)?;
    Some(end + END.len())
}
