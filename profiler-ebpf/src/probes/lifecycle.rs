//! Keeps up with processes from the moment they change: children of targets are targets before they
//! run, and no stack is walked with the mappings of a program that is gone.

use aya_ebpf::{helpers::bpf_get_current_pid_tgid, programs::RawTracePointContext};
use aya_log_ebpf::debug;
use profiler_common::{
    config::{TargetKey, TargetKind},
    counters::Counter,
};

use crate::{
    maps::{CONFIG, PROCESSES, TARGETS, count},
    task::read_task_u32,
};

/// `sched_process_fork(parent, child)`, run by the parent before the child first runs.
/// Source of the arguments: `include/trace/events/sched.h`.
#[inline(always)]
pub fn forked(ctx: &RawTracePointContext) {
    let parent = (bpf_get_current_pid_tgid() >> 32) as u32;
    let child_task: *const u8 = ctx.arg(1);
    let child = read_task_u32(child_task, CONFIG.load().task_tgid_offset);
    if child == Some(parent) {
        return; // A thread.
    }
    if let Some(child) = child {
        // The pid may have been another's.
        forget(child);
    }
    let is_target = TARGETS
        .get_ptr(TargetKey::id(TargetKind::Pid, u64::from(parent)))
        .is_some();
    if !is_target || CONFIG.load().follow_children == 0 {
        return;
    }
    let followed = match child {
        Some(child) => {
            let key = TargetKey::id(TargetKind::Pid, u64::from(child));
            TARGETS.insert(key, 1, 0).is_ok()
        }
        None => false,
    };
    if !followed {
        count(Counter::FollowFull);
    }
    debug!(ctx, "following {} from {}", child.unwrap_or(0), parent);
}

/// `sched_process_exec`, run by the task that executes another program.
#[inline(always)]
pub fn executed() {
    forget((bpf_get_current_pid_tgid() >> 32) as u32);
}

#[inline(always)]
fn forget(pid: u32) {
    // That there was none is fine.
    let _ = PROCESSES.remove(pid);
}
