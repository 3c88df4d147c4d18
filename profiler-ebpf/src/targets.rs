//! Which captures the current task is sampled for.

use aya_ebpf::helpers::{
    bpf_get_current_comm, bpf_get_current_pid_tgid, generated::bpf_get_current_ancestor_cgroup_id,
};
use profiler_common::{
    config::{CaptureBits, Scope, TargetKey, TargetKind},
    limits::MAX_CGROUP_LEVELS,
};

use crate::maps::{CONFIG, SCOPE, TARGETS};

/// The captures that the current task is a target of, by any of its names. The idle task is of none.
#[inline(always)]
pub fn captures_of_current() -> CaptureBits {
    let ids = bpf_get_current_pid_tgid();
    let (pid, tid) = ((ids >> 32) as u32, ids as u32);
    let Some(scope) = SCOPE.get(0) else {
        return 0;
    };
    if tid == 0 {
        return 0;
    }
    let filters = scope.filters;
    let mut captures = scope.everybody;
    if filters & TargetKind::Pid as u32 != 0 {
        captures |= listed(TargetKey::id(TargetKind::Pid, u64::from(pid)));
    }
    if filters & TargetKind::Tid as u32 != 0 {
        captures |= listed(TargetKey::id(TargetKind::Tid, u64::from(tid)));
    }
    if filters & TargetKind::Comm as u32 != 0
        && let Ok(comm) = bpf_get_current_comm()
    {
        captures |= listed(TargetKey::comm(comm));
    }
    if CONFIG.load().tells_cgroups != 0 && filters & TargetKind::Cgroup as u32 != 0 {
        captures |= of_cgroups(scope);
    }
    captures
}

#[inline(always)]
fn of_cgroups(scope: &Scope) -> CaptureBits {
    let mut captures = 0;
    let mut level = 0;
    while level < MAX_CGROUP_LEVELS {
        if scope.cgroup_levels & (1 << level) != 0 {
            // SAFETY: takes a number and gives a number.
            let id = unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) };
            if id != 0 {
                captures |= listed(TargetKey::id(TargetKind::Cgroup, id));
            }
        }
        level += 1;
    }
    captures
}

#[inline(always)]
fn listed(key: TargetKey) -> CaptureBits {
    match TARGETS.get_ptr(key) {
        // SAFETY: the value is one word, which the user side swaps whole; it is copied at once.
        Some(captures) => unsafe { *captures },
        None => 0,
    }
}
