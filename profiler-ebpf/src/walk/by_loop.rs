//! The walk by `bpf_loop`: the verifier reads one step, whatever the depth.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;
use profiler_common::limits::MAX_USER_FRAMES;

use super::scratch;

const GO_ON: i64 = 0;
const END: i64 = 1;

/// Walks this CPU's user stack to its end.
#[inline(always)]
pub fn run() {
    let mut nothing = 0_u64;
    let callback = one_step as *mut c_void;
    // One round more than frames: the last finds the stack too deep.
    let rounds = MAX_USER_FRAMES as u32 + 1;
    // SAFETY: the callback has the signature that `bpf_loop` wants, and uses no context.
    let _ = unsafe { bpf_loop(rounds, callback, (&raw mut nothing).cast(), 0) };
}

/// Verifier: a callback is a function of its own, which needs BTF; everything it calls is inlined.
extern "C" fn one_step(_round: u64, _context: *mut c_void) -> i64 {
    let Some(walk) = scratch() else { return END };
    if walk.step() { GO_ON } else { END }
}
