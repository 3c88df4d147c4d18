//! The on-CPU probe: one sample for each tick that falls on a target.

use aya_ebpf::programs::PerfEventContext;
use profiler_common::{counters::Counter, wire::PROBE_CPU};

use crate::{
    maps::{count, count_for},
    targets::captures_of_current,
    task::RegisterSource,
    walk::{self, Walk},
};

/// A tick, walked with `bpf_loop`.
#[inline(always)]
pub fn sample_with_loop(ctx: &PerfEventContext) {
    if let Some(walk) = begin(ctx, RegisterSource::Helper) {
        if walk.wants_user_frames() {
            walk::by_loop::run();
        }
        walk.emit();
    }
}

/// A tick, walked with a bounded loop and tail calls.
#[inline(always)]
pub fn sample_with_tail_calls(ctx: &PerfEventContext) {
    if let Some(walk) = begin(ctx, RegisterSource::TaskStack) {
        if walk.wants_user_frames() {
            walk::tail::hand_over(ctx, walk);
        } else {
            walk.emit();
        }
    }
}

/// Counts the tick and, if it is due, fills the head of a walk and its kernel frames.
#[inline(always)]
fn begin(ctx: &PerfEventContext, source: RegisterSource) -> Option<&'static mut Walk> {
    let captures = captures_of_current();
    if captures == 0 {
        count(Counter::Elsewhere);
        return None;
    }
    count(Counter::Due);
    count_for(captures);
    let Some(walk) = walk::scratch() else {
        count(Counter::LostNoScratch);
        return None;
    };
    walk.begin(PROBE_CPU, captures);
    walk.kernel_stack(ctx);
    walk.user_registers(ctx, source);
    Some(walk)
}
