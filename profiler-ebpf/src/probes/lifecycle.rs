//! Keeps up with processes from the moment they change: children of targets are targets before they
//! run, and no stack is walked with the mappings of a program that is gone.

use aya_ebpf::{helpers::bpf_get_current_pid_tgid, programs::RawTracePointContext};
use aya_log_ebpf::debug;
use profiler_common::{
    config::{CaptureBits, TargetKey, TargetKind},
    counters::Counter,
    mapping::may_hold_object,
};

use crate::{
    maps::{CONFIG, PROCESSES, SCOPE, TARGETS, chunk, count},
    task::{read_kernel_u32, read_kernel_u64},
};

/// `sched_process_fork(parent, child)`, run by the parent before the child first runs.
/// Source of the arguments: `include/trace/events/sched.h`.
#[inline(always)]
pub fn forked(ctx: &RawTracePointContext) {
    let parent = (bpf_get_current_pid_tgid() >> 32) as u32;
    let child_task: *const u8 = ctx.arg(1);
    let child = read_kernel_u32(child_task, CONFIG.load().task_tgid_offset);
    if child == Some(parent) {
        return; // A thread.
    }
    if let Some(child) = child {
        // The pid may have been another's.
        forget(child);
    }
    let captures = followers_of(parent);
    if captures == 0 {
        return;
    }
    let followed = match child {
        Some(child) => {
            let key = TargetKey::id(TargetKind::Pid, u64::from(child));
            TARGETS.insert(key, captures, 0).is_ok()
        }
        None => false,
    };
    if !followed {
        count(Counter::FollowFull);
    }
    debug!(ctx, "following {} from {}", child.unwrap_or(0), parent);
}

/// The captures that a process is a target of, and that follow its children.
#[inline(always)]
fn followers_of(pid: u32) -> CaptureBits {
    let Some(scope) = SCOPE.get(0) else {
        return 0;
    };
    match TARGETS.get_ptr(TargetKey::id(TargetKind::Pid, u64::from(pid))) {
        // SAFETY: the value is one word, which the user side swaps whole; it is copied at once.
        Some(captures) => unsafe { *captures & scope.following },
        None => 0,
    }
}

/// `sched_process_exec`, run by the task that executes another program.
#[inline(always)]
pub fn executed() {
    forget((bpf_get_current_pid_tgid() >> 32) as u32);
}

/// `vm_unmapped_area(address, info)`, run when the kernel has chosen where to map something. Where
/// code lay that is mapped no more (after `dlclose`), other code may lie from now on. Code made at run
/// time comes and goes in the same places, and is walked by no rules of its own: its table stays.
/// Source of the arguments: `include/trace/events/mmap.h`.
#[inline(always)]
pub fn placed(ctx: &RawTracePointContext) {
    let length_offset = CONFIG.load().area_length_offset;
    if length_offset == 0 {
        return;
    }
    let pid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let Some(table) = PROCESSES.get_ptr(pid) else {
        return;
    };
    // SAFETY: the entry is four words that the user side swaps whole; it is copied at once.
    let table = unsafe { *table };
    let start: u64 = ctx.arg(0);
    let info: *const u8 = ctx.arg(1);
    let length = read_kernel_u64(info, length_offset).unwrap_or(0);
    if let Some(chunk) = chunk(table.chunk)
        && may_hold_object(chunk, &table, start, start.wrapping_add(length))
    {
        forget(pid);
    }
}

#[inline(always)]
fn forget(pid: u32) {
    // That there was none is fine.
    let _ = PROCESSES.remove(pid);
}
