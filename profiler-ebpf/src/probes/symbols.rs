//! Has the kernel print the symbols of its addresses, for the user side to read.

use aya_ebpf::{EbpfContext, helpers::generated::bpf_snprintf, programs::RawTracePointContext};
use profiler_common::symbols::{ADDRESSES_AT_ONCE, TEXT_BYTES};

use crate::maps::SYMBOLS;

/// A line for each address. `%ps` is the name of a symbol without an offset.
/// Source: `Documentation/core-api/printk-formats.rst`, section "Symbols/Function Pointers".
static FORMAT: [u8; 4 * ADDRESSES_AT_ONCE + 1] =
    *b"%ps\n%ps\n%ps\n%ps\n%ps\n%ps\n%ps\n%ps\n%ps\n%ps\n%ps\n%ps\n\0";

/// Prints the symbols of the addresses that the program's arguments are.
#[inline(always)]
pub fn print(ctx: &RawTracePointContext) {
    let Some(printed) = SYMBOLS.get_ptr_mut(0) else {
        return; // Entry 0 is always there.
    };
    // SAFETY: the context of a raw tracepoint is its arguments, and the user side gives this many.
    let mut addresses = unsafe { *ctx.as_ptr().cast::<[u64; ADDRESSES_AT_ONCE]>() };
    // SAFETY: the entry lives as long as the program, and one run at a time uses it.
    let printed = unsafe { &mut *printed };
    // SAFETY: the text and the addresses are as long as said, and the format ends in a NUL.
    printed.length = unsafe {
        bpf_snprintf(
            printed.text.as_mut_ptr().cast(),
            TEXT_BYTES as u32,
            FORMAT.as_ptr().cast(),
            addresses.as_mut_ptr(),
            size_of_val(&addresses) as u32,
        )
    };
}
