//! What this process may do, and who else has a say in it: namespaces and filters.

use super::{Finding, Host, State, limits};
use crate::{
    bpf::{Answer, Feature},
    privilege::{self, Capability},
};

/// Inode number of the first pid namespace. Source: `PROC_PID_INIT_INO` in
/// `include/linux/proc_ns.h`.
const FIRST_PID_NAMESPACE: u64 = 0xefff_fffc;
/// Inode number of the first user namespace. Source: `PROC_USER_INIT_INO`, as above.
const FIRST_USER_NAMESPACE: u64 = 0xefff_fffd;
/// `Seccomp` in a status file where a filter is. Source: `proc_pid_status(5)`.
const FILTERED: &str = "2";
/// From this on some distributions' kernels refuse perf events to all but CAP_SYS_ADMIN.
const MOST_PARANOID: i64 = 3;

/// How to start a container that may profile its host.
const CONTAINER: &str = "docker run --privileged --pid=host, or --security-opt seccomp=unconfined with --cap-add for BPF, PERFMON, SYS_PTRACE, CHECKPOINT_RESTORE and SYSLOG";

/// What this process may do at all.
pub(super) fn capabilities(host: &Host<'_>) -> Finding {
    const CHECK: &str = "capabilities";
    let capabilities = host.capabilities();
    let missing = privilege::missing(capabilities);
    if !missing.is_empty() {
        let effect: Vec<&str> = [
            (Capability::Bpf, "no program can be loaded"),
            (
                Capability::Perfmon,
                "no clock can be opened and no memory read",
            ),
            (Capability::SysPtrace, "other processes cannot be looked at"),
        ]
        .into_iter()
        .filter(|(capability, _)| missing.contains(&capability.name()))
        .map(|(_, effect)| effect)
        .collect();
        return Finding::broken(CHECK, format!("{} is not there", missing.join(", ")))
            .so(effect.join("; "), grant(host));
    }
    if !capabilities.allows(Capability::CheckpointRestore) {
        let what = format!("{} is not there", Capability::CheckpointRestore.name());
        return Finding::limited(CHECK, what).so(
            "programs and libraries that were deleted or replaced while they ran have no names, and stacks through them are cut",
            grant(host),
        );
    }
    Finding::ok(CHECK, "all that profiling takes")
}

/// Whether the capabilities count on this host.
pub(super) fn user_namespace(host: &Host<'_>) -> Finding {
    const CHECK: &str = "user-namespace";
    match host.namespace("user") {
        Some(FIRST_USER_NAMESPACE) => Finding::ok(CHECK, "the host's"),
        None => Finding::ok(CHECK, "there are none on this kernel"),
        Some(_) if host.ask(Feature::Program) == Answer::Works => {
            Finding::ok(CHECK, "one of its own, which may load BPF programs")
        }
        Some(_) => Finding::broken(CHECK, "one of its own, as in a rootless container").so(
            "the kernel takes no account of capabilities in it: nothing can be recorded",
            "run it as root on the host: sudo ebpfprof",
        ),
    }
}

/// Whether the pids here are those that the programs see.
pub(super) fn pid_namespace(host: &Host<'_>) -> Finding {
    const CHECK: &str = "pid-namespace";
    match host.namespace("pid") {
        Some(FIRST_PID_NAMESPACE) | None => return Finding::ok(CHECK, "the host's"),
        Some(_) => {}
    }
    let levels = host
        .status("NSpid")
        .map(|pids| pids.split_whitespace().count());
    let what = match levels {
        Some(levels) if levels > 1 => format!("nested, {levels} levels of it visible"),
        _ => "one of its own, as in a container".to_owned(),
    };
    Finding::broken(CHECK, what).so(
        "the programs see the host's pids: user stacks, --pid and commands are refused, and only ebpfprof --no-user records",
        "run it on the host, or in a container started with --pid=host",
    )
}

/// Whether a filter takes away the system calls.
pub(super) fn seccomp(host: &Host<'_>) -> Finding {
    const CHECK: &str = "seccomp";
    if host.status("Seccomp") != Some(FILTERED) {
        return Finding::ok(CHECK, "no filter");
    }
    let calls = [
        (Feature::Program, "bpf()"),
        (Feature::Clock, "perf_event_open()"),
    ];
    let refused: Vec<&str> = calls
        .into_iter()
        .filter(|(feature, _)| matches!(host.ask(*feature), Answer::Refuses(errno) if is_of_filter(errno)))
        .map(|(_, call)| call)
        .collect();
    if refused.is_empty() {
        return Finding::ok(
            CHECK,
            "a filter, which lets bpf() and perf_event_open() pass",
        );
    }
    if !may_profile(host) {
        return Finding::ok(
            CHECK,
            "a filter; what it refuses shows with the capabilities",
        );
    }
    Finding::broken(
        CHECK,
        format!("a filter that refuses {}", refused.join(" and ")),
    )
    .so("nothing can be recorded", CONTAINER)
}

/// Whether nothing but a filter can refuse.
fn may_profile(host: &Host<'_>) -> bool {
    privilege::missing(host.capabilities()).is_empty()
        && matches!(host.namespace("user"), None | Some(FIRST_USER_NAMESPACE))
}

fn is_of_filter(errno: i32) -> bool {
    matches!(errno, libc::EPERM | libc::EACCES | libc::ENOSYS)
}

/// Whether clocks can be opened.
pub(super) fn clocks(host: &Host<'_>) -> Finding {
    const CHECK: &str = "perf-events";
    let paranoid = host.number("/proc/sys/kernel/perf_event_paranoid");
    let setting = paranoid.map_or_else(String::new, |value| {
        format!(" (kernel.perf_event_paranoid is {value})")
    });
    match host.ask(Feature::Clock) {
        Answer::Works => Finding::ok(CHECK, format!("every CPU has a clock{setting}")),
        Answer::Lacks => Finding::broken(CHECK, "the CPUs that are online are not known").so(
            "no clock can be opened: nothing can be recorded",
            "sudo mount -t sysfs sysfs /sys",
        ),
        Answer::Refuses(errno) => {
            let what = format!("a clock is refused: {}{setting}", Answer::Refuses(errno));
            let is_set_so = paranoid.is_some_and(|value| value >= MOST_PARANOID);
            let fix = match errno {
                libc::EMFILE | libc::ENFILE => "ulimit -n 65536".to_owned(),
                libc::ENOSYS if host.status("Seccomp") != Some(FILTERED) => {
                    "boot a kernel built with CONFIG_PERF_EVENTS=y".to_owned()
                }
                _ if may_profile(host) && is_set_so => {
                    "sudo sysctl kernel.perf_event_paranoid=2".to_owned()
                }
                errno => mend_refusal(host, errno),
            };
            Finding::broken(CHECK, what).so("no sample is taken", fix)
        }
    }
}

/// What gives this process the capabilities. Root that lacks some is in a container: no file can
/// grant what that leaves out.
fn grant(host: &Host<'_>) -> String {
    let uids = host.status("Uid").unwrap_or_default();
    match uids.split_ascii_whitespace().nth(1) {
        Some("0") => CONTAINER.to_owned(),
        _ => privilege::grant(),
    }
}

/// What mends a refusal, by what is likeliest behind it.
pub(super) fn mend_refusal(host: &Host<'_>, errno: i32) -> String {
    let is_filtered = host.status("Seccomp") == Some(FILTERED);
    let locked = limits::locked_memory(host);
    if locked.state == State::Broken
        && let Some(fix) = locked.fix
    {
        fix
    } else if !privilege::missing(host.capabilities()).is_empty() {
        grant(host)
    } else if !may_profile(host) {
        "run it as root on the host: sudo ebpfprof".to_owned()
    } else if is_filtered && is_of_filter(errno) {
        CONTAINER.to_owned()
    } else if errno == libc::ENOSYS {
        "boot a kernel built with CONFIG_BPF_SYSCALL=y".to_owned()
    } else {
        "run it as root on the host: sudo ebpfprof".to_owned()
    }
}
