//! The walk by a bounded loop and tail calls, for kernels without `bpf_loop`.

use aya_ebpf::programs::PerfEventContext;
use profiler_common::{limits::FRAMES_PER_PROGRAM, stop::StopReason};

use super::{Walk, scratch};
use crate::maps::CONTINUATIONS;

/// Hands the walk to the next program.
// Verifier: the program that fills the head walks no frame itself, as the verifier would read each
// frame's step anew for each way through the head.
#[inline(always)]
pub fn hand_over(ctx: &PerfEventContext, walk: &mut Walk) {
    // SAFETY: on success it does not return; the walk lives in the map.
    unsafe { CONTINUATIONS.tail_call(ctx, 0) };
    walk.stop(StopReason::TailCallRefused);
    walk.emit();
}

/// Walks some frames, then hands over to the next program, or sends the record.
#[inline(always)]
pub fn proceed(ctx: &PerfEventContext) {
    let Some(walk) = scratch() else { return };
    let mut round = 0;
    while round < FRAMES_PER_PROGRAM {
        if !walk.step() {
            walk.emit();
            return;
        }
        round += 1;
    }
    hand_over(ctx, walk);
}
