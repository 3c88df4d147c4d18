//! Follows the children of targets from the moment they exist.

use aya_ebpf::{helpers::bpf_get_current_pid_tgid, programs::RawTracePointContext};
use aya_log_ebpf::debug;
use profiler_common::{
    config::{TargetKey, TargetKind},
    counters::Counter,
};

use crate::{
    maps::{CONFIG, TARGETS, count},
    task::read_task_u32,
};

/// `sched_process_fork(parent, child)`, run by the parent before the child first runs.
/// Source of the arguments: `include/trace/events/sched.h`.
#[inline(always)]
pub fn follow(ctx: &RawTracePointContext) {
    let parent = (bpf_get_current_pid_tgid() >> 32) as u32;
    if TARGETS
        .get_ptr(TargetKey::id(TargetKind::Pid, u64::from(parent)))
        .is_none()
    {
        return;
    }
    let child_task: *const u8 = ctx.arg(1);
    let Some(child) = read_task_u32(child_task, CONFIG.load().task_tgid_offset) else {
        count(Counter::FollowFull);
        return;
    };
    if child == parent {
        return; // A thread of the target.
    }
    if TARGETS
        .insert(TargetKey::id(TargetKind::Pid, u64::from(child)), 1, 0)
        .is_err()
    {
        count(Counter::FollowFull);
    }
    debug!(ctx, "following {} from {}", child, parent);
}
