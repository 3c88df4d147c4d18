//! What is mounted and set: file systems, cgroups, the compiler of BPF, counters.

use super::{Finding, Host};
use crate::target::{CgroupVersion, cgroup_mounts};

/// Whether what we read is there.
pub(super) fn procfs(host: &Host<'_>) -> Finding {
    const CHECK: &str = "proc-sys";
    const EFFECT: &str = "neither processes nor CPUs can be found: nothing can be recorded";
    if !host.exists("/proc/self/status") {
        return Finding::broken(CHECK, "/proc is not mounted")
            .so(EFFECT, "sudo mount -t proc proc /proc");
    }
    if !host.exists("/sys/devices/system/cpu/online") {
        return Finding::broken(CHECK, "/sys is not mounted")
            .so(EFFECT, "sudo mount -t sysfs sysfs /sys");
    }
    Finding::ok(CHECK, "/proc and /sys are mounted")
}

/// Whether BPF programs are compiled. Source: `Documentation/admin-guide/sysctl/net.rst`.
pub(super) fn jit(host: &Host<'_>) -> Finding {
    const CHECK: &str = "bpf-jit";
    let setting = "/proc/sys/net/core/bpf_jit_enable";
    match host.number(setting) {
        Some(0) => Finding::limited(CHECK, "programs are interpreted").so(
            "each sample takes several times as long",
            "sudo sysctl net.core.bpf_jit_enable=1",
        ),
        None if host.exists(setting) => Finding::ok(CHECK, "root alone sees whether it is on"),
        None => Finding::ok(CHECK, "it is not seen from here"),
        Some(_) if host.number("/proc/sys/net/core/bpf_jit_harden") == Some(2) => {
            Finding::limited(CHECK, "programs are compiled, and hardened for root too").so(
                "each sample takes somewhat longer",
                "sudo sysctl net.core.bpf_jit_harden=1",
            )
        }
        Some(_) => Finding::ok(CHECK, "programs are compiled"),
    }
}

/// Whether there are counters in the CPU. The clock needs none.
pub(super) fn pmu(host: &Host<'_>) -> Finding {
    const CHECK: &str = "pmu";
    let kinds = ["cpu", "cpu_core", "cpu_atom"];
    let is_there = |kind: &&str| host.exists(&format!("/sys/bus/event_source/devices/{kind}"));
    if kinds.iter().any(is_there) {
        Finding::ok(CHECK, "there is one, and the clock needs none")
    } else {
        Finding::ok(
            CHECK,
            "there is none, as in most virtual machines, and the clock needs none",
        )
    }
}

/// Whether tracefs is mounted. Raw tracepoints and perf events need none.
pub(super) fn tracefs(host: &Host<'_>) -> Finding {
    const CHECK: &str = "tracefs";
    let places = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];
    if places
        .iter()
        .any(|place| host.exists(&format!("{place}/events")))
    {
        Finding::ok(CHECK, "mounted, and not needed")
    } else {
        Finding::ok(CHECK, "not mounted, and not needed")
    }
}

/// Which cgroups there are.
pub(super) fn cgroups(host: &Host<'_>) -> Finding {
    const CHECK: &str = "cgroups";
    let mounts = host.text("/proc/self/mountinfo").unwrap_or_default();
    let mounts = cgroup_mounts(mounts.as_bytes());
    let has = |version| mounts.iter().any(|mount| mount.version == version);
    match (has(CgroupVersion::V2), has(CgroupVersion::V1)) {
        (true, false) => Finding::ok(CHECK, "version 2"),
        (true, true) => Finding::ok(CHECK, "versions 1 and 2"),
        (false, true) => Finding::limited(CHECK, "version 1 alone").so(
            "--cgroup and --container list processes once a second: what lives shorter is missed",
            "boot with systemd.unified_cgroup_hierarchy=1 on the kernel's command line",
        ),
        (false, false) => Finding::limited(CHECK, "none is mounted").so(
            "--cgroup and --container find nothing, and samples have no cgroup labels",
            "sudo mount -t cgroup2 none /sys/fs/cgroup",
        ),
    }
}
