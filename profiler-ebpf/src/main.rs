//! The kernel side: entry points of a few lines each. What they do is in [`probes`] and
//! [`walk`]; what they decide is in `profiler-common`.

#![no_std]
#![no_main]
#![deny(unsafe_op_in_unsafe_fn)]
#![warn(
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block
)]

mod maps;
mod probes;
mod targets;
mod task;
mod walk;

use aya_ebpf::{
    macros::{perf_event, raw_tracepoint},
    programs::{PerfEventContext, RawTracePointContext},
};

/// On-CPU sampling, flavour for kernels with `bpf_loop` (5.17 and later).
#[perf_event]
pub fn cpu_loop(ctx: PerfEventContext) -> u32 {
    probes::cpu::sample_with_loop(&ctx);
    0
}

/// On-CPU sampling, flavour for older kernels: a bounded loop, continued by tail calls.
#[perf_event]
pub fn cpu_tail(ctx: PerfEventContext) -> u32 {
    probes::cpu::sample_with_tail_calls(&ctx);
    0
}

/// Goes on with the walk that [`cpu_tail`] began. Entry 0 of `CONTINUATIONS`.
#[perf_event]
pub fn cpu_tail_next(ctx: PerfEventContext) -> u32 {
    walk::tail::proceed(&ctx);
    0
}

/// Makes the children of targets targets, before they run. `sched_process_fork`.
#[raw_tracepoint(tracepoint = "sched_process_fork")]
pub fn follow_fork(ctx: RawTracePointContext) -> i32 {
    probes::lifecycle::forked(&ctx);
    0
}

/// Forgets where a process's code lay once it runs another program. `sched_process_exec`.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub fn forget_exec(_ctx: RawTracePointContext) -> i32 {
    probes::lifecycle::executed();
    0
}

/// Forgets where a process's code lay once the place is given to something else. `vm_unmapped_area`.
#[raw_tracepoint(tracepoint = "vm_unmapped_area")]
pub fn forget_reused(ctx: RawTracePointContext) -> i32 {
    probes::lifecycle::placed(&ctx);
    0
}

/// Prints the symbols of the kernel addresses that it is given. Attached to nothing: the user side
/// runs it.
#[raw_tracepoint]
pub fn print_symbols(ctx: RawTracePointContext) -> i32 {
    probes::symbols::print(&ctx);
    0
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    // No panicking path is left in the object: the verifier would refuse this loop.
    loop {}
}

/// `bpf_get_stack` and the tracing helpers are open to GPL-compatible programs alone, and the
/// kernel knows the dual licence by this name.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
