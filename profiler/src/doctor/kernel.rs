//! What the kernel has, and what it grants.

use super::{Finding, Host, rights};
use crate::{
    bpf::{Answer, Feature},
    privilege::{self, Capability},
};

/// The oldest kernel that we test on.
const OLDEST: (u32, u32) = (5, 10);
/// Lines of `/proc/kallsyms` in which some address is not 0, if any is: variables of CPUs come first.
const FIRST_SYMBOLS: usize = 5_000;

/// How old it is.
pub(super) fn version(host: &Host<'_>) -> Finding {
    const CHECK: &str = "kernel";
    let release = host.text("/proc/sys/kernel/osrelease");
    let what = match &release {
        Some(release) => format!("Linux {release}"),
        None => "Linux of an unknown version".to_owned(),
    };
    match host.version() {
        Some(version) if version < OLDEST => Finding::limited(CHECK, what).so(
            "it is older than any kernel that ebpfprof is tested on",
            "boot Linux 5.10 or later",
        ),
        _ => Finding::ok(CHECK, what),
    }
}

/// Whether it hides its memory from everybody. Source: `kernel_lockdown(7)`.
pub(super) fn lockdown(host: &Host<'_>) -> Finding {
    const CHECK: &str = "lockdown";
    let text = host.text("/sys/kernel/security/lockdown");
    let Some(text) = text else {
        return Finding::ok(CHECK, "none");
    };
    let chosen = text
        .split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'));
    let chosen = chosen.map_or("none", |(chosen, _)| chosen);
    if chosen != "confidentiality" {
        return Finding::ok(CHECK, format!("{chosen}, which leaves BPF its reads"));
    }
    Finding::broken(
        CHECK,
        "confidentiality: BPF programs may not read the kernel's memory",
    )
    .so(
        "the kernel refuses the programs that walk stacks",
        "boot with lockdown=integrity on the kernel's command line",
    )
}

/// Its type information.
pub(super) fn types(host: &Host<'_>) -> Finding {
    const CHECK: &str = "btf";
    const FILE: &str = "/sys/kernel/btf/vmlinux";
    const EFFECT: &str =
        "nothing can be recorded: where the kernel keeps what the programs read is not known";
    match host.ask(Feature::Types) {
        Answer::Works => Finding::ok(CHECK, format!("{FILE} has the fields that are read")),
        Answer::Lacks if host.exists(FILE) => {
            Finding::broken(CHECK, format!("{FILE} lacks fields that are read")).so(
                EFFECT,
                "report it with the output of: uname -r; ebpfprof --version",
            )
        }
        Answer::Lacks => Finding::broken(CHECK, format!("{FILE} is not there")).so(
            EFFECT,
            "boot a kernel built with CONFIG_DEBUG_INFO_BTF=y (every distribution's since 2021 is)",
        ),
        refused => Finding::broken(CHECK, format!("{FILE} cannot be read: {refused}"))
            .so(EFFECT, "sudo chmod a+r /sys/kernel/btf/vmlinux"),
    }
}

/// Whether a program may be loaded.
pub(super) fn programs(host: &Host<'_>) -> Finding {
    const CHECK: &str = "bpf";
    match host.ask(Feature::Program) {
        Answer::Works => Finding::ok(CHECK, "a program loads"),
        Answer::Lacks => Finding::broken(CHECK, "the kernel has no BPF programs for perf events")
            .so(
                "nothing can be recorded",
                "boot a kernel built with CONFIG_BPF_SYSCALL=y and CONFIG_BPF_EVENTS=y",
            ),
        Answer::Refuses(errno) => Finding::broken(
            CHECK,
            format!("a program is refused: {}", Answer::Refuses(errno)),
        )
        .so("nothing can be recorded", rights::mend_refusal(host, errno)),
    }
}

/// Whether samples can leave the kernel.
pub(super) fn ring(host: &Host<'_>) -> Finding {
    const CHECK: &str = "ring-buffer";
    match host.ask(Feature::Ring) {
        Answer::Works => Finding::ok(CHECK, "one can be made"),
        Answer::Lacks => Finding::broken(CHECK, "the kernel has none").so(
            "samples cannot leave the kernel: nothing can be recorded",
            "boot Linux 5.8 or later",
        ),
        Answer::Refuses(errno) => {
            Finding::broken(CHECK, format!("one is refused: {}", Answer::Refuses(errno))).so(
                "samples cannot leave the kernel: nothing can be recorded",
                rights::mend_refusal(host, errno),
            )
        }
    }
}

/// Whether programs may read the kernel's memory.
pub(super) fn kernel_reads(host: &Host<'_>) -> Finding {
    const CHECK: &str = "kernel-reads";
    match host.ask(Feature::ReadKernel) {
        Answer::Works => Finding::ok(CHECK, "programs may read the kernel's memory"),
        answer => Finding::broken(CHECK, format!("bpf_probe_read_kernel: {answer}")).so(
            "nothing can be recorded: a task's registers are in the kernel's memory",
            "boot with lockdown=integrity on the kernel's command line (Linux 5.5 or later)",
        ),
    }
}

/// How user stacks are walked. Both ways give the same stacks.
pub(super) fn walker(host: &Host<'_>) -> Finding {
    let what = match host.ask(Feature::Loop) {
        Answer::Works => "bpf_loop",
        _ => "tail calls, as the kernel has no bpf_loop (5.17): the stacks are the same",
    };
    Finding::ok("walker", what)
}

/// Whether it tells its names.
pub(super) fn names(host: &Host<'_>) -> Finding {
    const CHECK: &str = "kernel-names";
    let prints = host.ask(Feature::Print) == Answer::Works;
    let lists = lists_addresses(host);
    match (prints, lists) {
        (true, true) => {
            return Finding::ok(
                CHECK,
                "the kernel prints them, and lists where its code lies",
            );
        }
        (false, true) => return Finding::ok(CHECK, "the kernel lists them in /proc/kallsyms"),
        _ => {}
    }
    let restrict = host.number("/proc/sys/kernel/kptr_restrict");
    let what = match restrict {
        Some(value) => {
            format!("the kernel lists no addresses (kernel.kptr_restrict is {value})")
        }
        None => "the kernel lists no addresses".to_owned(),
    };
    let effect = if prints {
        "kernel frames have names, as the kernel prints them, and no mapping"
    } else {
        "kernel frames have no names"
    };
    let may_see = host.capabilities().has(Capability::Syslog);
    let fix = match restrict {
        Some(0 | 1) if may_see => "boot a kernel built with CONFIG_KALLSYMS=y".to_owned(),
        Some(0 | 1) => privilege::grant(),
        _ if may_see => "sudo sysctl kernel.kptr_restrict=1".to_owned(),
        _ => "sudo sysctl kernel.kptr_restrict=0 kernel.perf_event_paranoid=1".to_owned(),
    };
    Finding::limited(CHECK, what).so(effect, fix)
}

/// Whether `/proc/kallsyms` has addresses. It has zeros where the kernel hides them.
fn lists_addresses(host: &Host<'_>) -> bool {
    let mut lines = host.lines("/proc/kallsyms").take(FIRST_SYMBOLS);
    lines.any(|line| {
        let address = line.split(' ').next().unwrap_or_default();
        u64::from_str_radix(address, 16).is_ok_and(|address| address != 0)
    })
}
