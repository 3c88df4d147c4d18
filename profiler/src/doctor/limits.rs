//! What the host and the shell limit: how often, how many, how much of it locked.

use super::{Finding, Host};
use crate::{
    bpf::{self, ProcessStream},
    privilege::Capability,
};

/// The frequency of a recording that asks for none, in Hz.
const USUAL_HZ: i64 = 99;
/// Files that a recording of a host with many programs has open, besides those of its CPUs.
const MANY_FILES: u64 = 1024;
/// Files that any recording has open, besides those of its CPUs.
const FEW_FILES: u64 = 64;
/// Files for each CPU: its clock, and the stream of its process events.
const FILES_OF_CPU: u64 = 2;
/// The first kernel that accounts the memory of BPF to cgroups, and not to a limit of locked memory.
const NO_LOCKED_MEMORY: (u32, u32) = (5, 11);
/// Memory of rings, scratch and rules, which any recording takes in the kernel, in bytes.
const FEW_LOCKED_BYTES: u64 = 16 << 20;
/// The same with the most that tables take, in bytes.
const MANY_LOCKED_BYTES: u64 = 96 << 20;

/// How often the kernel samples at most.
pub(super) fn sample_rate(host: &Host<'_>) -> Finding {
    const CHECK: &str = "sample-rate";
    match host.number("/proc/sys/kernel/perf_event_max_sample_rate") {
        Some(limit) if limit < USUAL_HZ => Finding::limited(CHECK, format!("at most {limit} Hz"))
            .so(
                format!("the usual {USUAL_HZ} Hz are refused; ebpfprof -F {limit} records"),
                "sudo sysctl kernel.perf_event_max_sample_rate=100000",
            ),
        Some(limit) => Finding::ok(CHECK, format!("up to {limit} Hz")),
        None => Finding::ok(CHECK, "the kernel tells no limit"),
    }
}

/// What a tick takes by itself. There is nothing to mend; whoever picks a frequency should know it.
pub(super) fn interruption(host: &Host<'_>) -> Finding {
    const CHECK: &str = "interruption";
    let Some(each) = host.interruption() else {
        return Finding::ok(CHECK, "what a tick takes by itself cannot be told here");
    };
    let percent = |hertz: u16| 100.0 * each.as_secs_f64() * f64::from(hertz);
    let [usual, dense] = [99, 999].map(percent);
    let us = each.as_secs_f64() * 1e6;
    Finding::ok(
        CHECK,
        format!(
            "a tick takes {us:.1} µs by itself: {usual:.2} % of each busy CPU at 99 Hz, {dense:.1} % at 999 Hz"
        ),
    )
}

/// How many files may be open. Our own limit is raised up to the hard one.
pub(super) fn open_files(host: &Host<'_>) -> Finding {
    const CHECK: &str = "open-files";
    const FIX: &str = "sudo prlimit --nofile=65536 --pid $$";
    let hard = host.limit("Max open files").and_then(|limit| limit.hard);
    let Some(hard) = hard else {
        return Finding::ok(CHECK, "no limit");
    };
    let of_cpus = FILES_OF_CPU * cpu_count(host);
    let what = format!("at most {hard}");
    if hard < FEW_FILES + of_cpus {
        Finding::broken(CHECK, what).so("not every CPU can have a clock", FIX)
    } else if hard < MANY_FILES + of_cpus {
        Finding::limited(CHECK, what).so(
            "of a host with many programs some cannot be opened: their frames have no names",
            FIX,
        )
    } else {
        Finding::ok(CHECK, what)
    }
}

/// How much memory may be locked, which once limited the memory of BPF.
pub(super) fn locked_memory(host: &Host<'_>) -> Finding {
    const CHECK: &str = "locked-memory";
    const FIX: &str = "ulimit -l unlimited, as root: sudo prlimit --memlock=unlimited --pid $$";
    if host
        .version()
        .is_some_and(|version| version >= NO_LOCKED_MEMORY)
    {
        return Finding::ok(CHECK, "the limit does not matter since Linux 5.11");
    }
    let limit = host.limit("Max locked memory");
    let soft = limit.and_then(|limit| limit.soft);
    // The limit is raised where it may be.
    let may_raise = host.capabilities().has(Capability::SysResource)
        || limit.is_none_or(|limit| limit.hard.is_none());
    let Some(soft) = soft.filter(|_| !may_raise) else {
        return Finding::ok(CHECK, "no limit, or one that ebpfprof raises");
    };
    let what = format!(
        "at most {} KiB, and no CAP_SYS_RESOURCE to raise it",
        soft >> 10
    );
    if soft < FEW_LOCKED_BYTES {
        let effect = "before Linux 5.11 the memory of BPF counts: no ring can be made";
        Finding::broken(CHECK, what).so(effect, FIX)
    } else if soft < MANY_LOCKED_BYTES {
        let effect = "before Linux 5.11 the memory of BPF counts: a recording of many programs ends when its tables have no room";
        Finding::limited(CHECK, what).so(effect, FIX)
    } else {
        Finding::ok(CHECK, what)
    }
}

/// How much memory perf events may have. Source: `perf_mmap` in `kernel/events/core.c`: each CPU adds
/// what the setting says, what is beyond counts as locked memory.
pub(super) fn event_memory(host: &Host<'_>) -> Finding {
    const CHECK: &str = "event-memory";
    let setting = host.number("/proc/sys/kernel/perf_event_mlock_kb");
    let Some(kibibytes) = setting.and_then(|number| u64::try_from(number).ok()) else {
        return Finding::ok(CHECK, "the kernel tells no limit");
    };
    let what = format!("{kibibytes} KiB for each CPU");
    let is_free = host.capabilities().has(Capability::IpcLock)
        || host.number("/proc/sys/kernel/perf_event_paranoid") == Some(-1);
    let locked = host.limit("Max locked memory").and_then(|limit| limit.soft);
    let (Some(locked), false) = (locked, is_free) else {
        return Finding::ok(CHECK, format!("{what}, which does not bind us"));
    };
    let room = kibibytes.saturating_add((locked >> 10) / cpu_count(host));
    let fix = format!(
        "sudo sysctl kernel.perf_event_mlock_kb={}",
        ProcessStream::RING_KIB
    );
    if room < ProcessStream::SMALL_RING_KIB {
        Finding::broken(CHECK, what).so("what happens to processes cannot be followed", fix)
    } else if room < ProcessStream::RING_KIB {
        let effect =
            "when many processes start at once, some of their frames lie in unknown memory";
        Finding::limited(CHECK, what).so(effect, fix)
    } else {
        Finding::ok(CHECK, what)
    }
}

/// CPUs that are online, one at least.
fn cpu_count(host: &Host<'_>) -> u64 {
    let online = host.text("/sys/devices/system/cpu/online");
    let online = online.and_then(|text| bpf::parse_cpus(&text));
    online.map_or(1, |cpus| cpus.len().max(1) as u64)
}
