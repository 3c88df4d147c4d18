//! Where a process begins, in code that nothing describes.
//!
//! In: an ELF file, its entry point, where its code is. Out: the code from there on that runs before
//! anything is called that returns to somewhere else: its frames are outermost ones.
//!
//! What a compiler makes of C says so itself (glibc's `_start` in programs). This code does not:
//! that of glibc's dynamic linker, in older versions (`RTLD_START` in `sysdeps/x86_64/dl-machine.h`),
//! and of programs with musl (`arch/x86_64/crt_arch.h`).

use std::{fs::File, ops::Range};

use memchr::memmem;

use super::section::{CodeRange, code_at};

/// `mov %rsp,%rdi; call`: glibc's dynamic linker.
const GLIBC_START: [u8; 4] = [0x48, 0x89, 0xe7, 0xe8];
/// Its end: `jmp *%r12`, to the program's entry point.
const GLIBC_END: [u8; 3] = [0x41, 0xff, 0xe4];
/// `xor %rbp,%rbp; mov %rsp,%rdi; lea rel32(%rip),%rsi`, but for the number.
const MUSL_START: [u8; 9] = [0x48, 0x31, 0xed, 0x48, 0x89, 0xe7, 0x48, 0x8d, 0x35];
/// What follows that number: `and $-16,%rsp; call`. The call's own number is 4 bytes.
const MUSL_CALL: [u8; 5] = [0x48, 0x83, 0xe4, 0xf0, 0xe8];
/// Bytes of a relative address.
const NUMBER_BYTES: usize = 4;
/// The longest code that is taken for the start, in bytes: glibc's has 61.
const MOST_BYTES: u64 = 128;

/// The code that a process begins in, by ELF addresses.
pub(super) fn find(file: &File, entry: u64, code: &[CodeRange]) -> Option<Range<u64>> {
    let bytes = code_at(code, entry)?.read(file, entry..entry + MOST_BYTES)?;
    let length = length_of(&bytes)?;
    Some(entry..entry + length as u64)
}

fn length_of(code: &[u8]) -> Option<usize> {
    if code.starts_with(&GLIBC_START) {
        return Some(memmem::find(code, &GLIBC_END)? + GLIBC_END.len());
    }
    let call = code.strip_prefix(&MUSL_START)?.get(NUMBER_BYTES..)?;
    let length = MUSL_START.len() + NUMBER_BYTES + MUSL_CALL.len() + NUMBER_BYTES;
    (call.starts_with(&MUSL_CALL) && length <= code.len()).then_some(length)
}
