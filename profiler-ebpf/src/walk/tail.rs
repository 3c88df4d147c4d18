//! The walk by a bounded loop and tail calls, for kernels without `bpf_loop`.

use aya_ebpf::programs::PerfEventContext;
use profiler_common::{limits::FRAMES_PER_PROGRAM, stop::StopReason};

use super::scratch;
use crate::maps::CONTINUATIONS;

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
    // SAFETY: on success it does not return; the walk lives in the map.
    unsafe { CONTINUATIONS.tail_call(ctx, 0) };
    walk.stop(StopReason::TailCallRefused);
    walk.emit();
}
