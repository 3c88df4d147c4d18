//! Whether the current task is one that this run samples.

use aya_ebpf::helpers::{
    bpf_get_current_comm, bpf_get_current_pid_tgid, generated::bpf_get_current_ancestor_cgroup_id,
};
use profiler_common::{
    config::{TargetKey, TargetKind},
    limits::MAX_CGROUP_LEVELS,
};

use crate::maps::{CONFIG, TARGETS};

/// Any one match is enough. Without filters every task but the idle task is a target.
#[inline(always)]
pub fn current_is_target() -> bool {
    let config = CONFIG.load();
    let ids = bpf_get_current_pid_tgid();
    let (pid, tid) = ((ids >> 32) as u32, ids as u32);
    if tid == 0 {
        return false;
    }
    let filters = config.filters;
    if filters == 0 {
        return true;
    }
    if filters & TargetKind::Pid as u32 != 0
        && listed(TargetKey::id(TargetKind::Pid, u64::from(pid)))
    {
        return true;
    }
    if filters & TargetKind::Tid as u32 != 0
        && listed(TargetKey::id(TargetKind::Tid, u64::from(tid)))
    {
        return true;
    }
    if filters & TargetKind::Comm as u32 != 0
        && let Ok(comm) = bpf_get_current_comm()
        && listed(TargetKey::comm(comm))
    {
        return true;
    }
    filters & TargetKind::Cgroup as u32 != 0 && in_listed_cgroup(config.cgroup_levels)
}

#[inline(always)]
fn in_listed_cgroup(levels: u32) -> bool {
    let mut level = 0;
    while level < MAX_CGROUP_LEVELS {
        if levels & (1 << level) != 0 {
            // SAFETY: takes a number and gives a number.
            let id = unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) };
            if id != 0 && listed(TargetKey::id(TargetKind::Cgroup, id)) {
                return true;
            }
        }
        level += 1;
    }
    false
}

#[inline(always)]
fn listed(key: TargetKey) -> bool {
    TARGETS.get_ptr(key).is_some()
}
