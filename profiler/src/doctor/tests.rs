//! Hosts that are not there: a good one, and what may be wrong with one. Each is a folder with the
//! files of a host, and what its kernel would answer.

use std::{collections::HashMap, fs, io, os::unix::fs::symlink, time::Duration};

use tempfile::TempDir;

use super::*;
use crate::bpf::Trial;

/// CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE, CAP_SYSLOG and CAP_CHECKPOINT_RESTORE.
const NEEDED: u64 = 1 << 39 | 1 << 38 | 1 << 19 | 1 << 34 | 1 << 40;
const PERFMON: u64 = 1 << 38;
const CHECKPOINT_RESTORE: u64 = 1 << 40;

/// Files of a host that lacks nothing, apart from our status.
const GOOD: [(&str, &str); 14] = [
    ("proc/sys/kernel/osrelease", "6.12.9-generic\n"),
    ("proc/sys/kernel/perf_event_paranoid", "2\n"),
    ("proc/sys/kernel/perf_event_max_sample_rate", "100000\n"),
    ("proc/sys/kernel/perf_event_mlock_kb", "516\n"),
    ("proc/sys/kernel/kptr_restrict", "1\n"),
    ("proc/sys/net/core/bpf_jit_enable", "1\n"),
    (
        "proc/kallsyms",
        "0000000000000000 A fixed\nffffffff81000000 T _text\n",
    ),
    (
        "proc/meminfo",
        "MemTotal: 4096000 kB\nMemAvailable: 2048000 kB\n",
    ),
    (
        "proc/self/limits",
        "Max locked memory         8388608              8388608              bytes     \n\
         Max open files            1024                 524288               files     \n",
    ),
    ("proc/self/cgroup", "0::/user.slice/shell\n"),
    (
        "proc/self/mountinfo",
        "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
    ),
    ("sys/devices/system/cpu/online", "0-3\n"),
    ("sys/kernel/btf/vmlinux", "types"),
    ("sys/kernel/tracing/events/enable", "0\n"),
];

/// A kernel that answers as it is told, and otherwise that all works.
#[derive(Default)]
struct ToldKernel {
    answers: HashMap<Feature, Answer>,
    trial: Option<fn() -> BpfError>,
    interruption: Option<Duration>,
}

impl Kernel for ToldKernel {
    fn ask(&self, feature: Feature) -> Answer {
        self.answers.get(&feature).copied().unwrap_or(Answer::Works)
    }

    fn interruption(&self) -> Option<Duration> {
        self.interruption
    }

    fn try_all(&self) -> Result<Trial, BpfError> {
        match self.trial {
            Some(error) => Err(error()),
            None => Ok(Trial {
                flavour: Flavour::Loop,
                verified_instructions: 20_000,
                ticks: 4,
            }),
        }
    }
}

/// A host to be made.
struct Made {
    folder: TempDir,
    kernel: ToldKernel,
}

impl Made {
    fn good() -> Self {
        let made = Self {
            folder: tempfile::tempdir().unwrap(),
            kernel: ToldKernel::default(),
        };
        let namespaces = [("pid", 0xefff_fffc_u64), ("user", 0xefff_fffd)];
        fs::create_dir_all(made.folder.path().join("proc/self/ns")).unwrap();
        let made = namespaces
            .into_iter()
            .fold(made, |made, (kind, number)| made.in_namespace(kind, number));
        let made = GOOD
            .into_iter()
            .fold(made, |made, (path, text)| made.with(path, text));
        made.allowed(NEEDED)
    }

    fn with(self, path: &str, text: &str) -> Self {
        let path = self.folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn without(self, path: &str) -> Self {
        let path = self.folder.path().join(path);
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap();
        } else {
            fs::remove_file(path).unwrap();
        }
        self
    }

    fn in_namespace(self, kind: &str, number: u64) -> Self {
        let link = self.folder.path().join("proc/self/ns").join(kind);
        let _ = fs::remove_file(&link);
        symlink(format!("{kind}:[{number}]"), link).unwrap();
        self
    }

    fn allowed(self, capabilities: u64) -> Self {
        self.status(capabilities, 0)
    }

    fn status(self, capabilities: u64, seccomp: u32) -> Self {
        let text =
            format!("Name:\tx\nNSpid:\t7\nCapEff:\t{capabilities:016x}\nSeccomp:\t{seccomp}\n");
        self.with("proc/self/status", &text)
    }

    fn answering(mut self, feature: Feature, answer: Answer) -> Self {
        self.kernel.answers.insert(feature, answer);
        self
    }

    fn examine(&self) -> Vec<Finding> {
        examine(&Host::at(self.folder.path(), &self.kernel))
    }

    /// Fails unless a check finds this, with these parts of its words, its effect and its fix.
    #[track_caller]
    fn check(&self, name: &str, state: State, words: [&str; 3]) {
        let findings = self.examine();
        let found = findings.iter().find(|finding| finding.check == name);
        let found = found.unwrap_or_else(|| panic!("no {name} in {findings:#?}"));
        assert_eq!(found.state, state, "{found:#?}");
        let said = [
            &found.what,
            found.effect.as_deref().unwrap_or_default(),
            found.fix.as_deref().unwrap_or_default(),
        ];
        for (said, words) in said.iter().zip(words) {
            assert!(said.contains(words), "no {words:?} in {found:#?}");
        }
        assert_eq!(found.effect.is_some(), state != State::Ok, "{found:#?}");
        assert_eq!(found.fix.is_some(), state != State::Ok, "{found:#?}");
    }

    /// The checks that are not well.
    fn others_than_ok(&self) -> Vec<&'static str> {
        let findings = self.examine();
        let other = findings.iter().filter(|found| found.state != State::Ok);
        other.map(|finding| finding.check).collect()
    }
}

const REFUSED: Answer = Answer::Refuses(libc::EPERM);

#[test]
fn a_good_host_is_all_ok() {
    let findings = Made::good().examine();
    assert_eq!(verdict(findings.iter()), State::Ok, "{findings:#?}");
    let said = |finding: &Finding| finding.effect.is_none() && finding.fix.is_none();
    assert!(findings.iter().all(said), "{findings:#?}");
    let mut names: Vec<&str> = findings.iter().map(|finding| finding.check).collect();
    assert_eq!(names.last(), Some(&"trial"));
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), findings.len(), "each check has its own name");
}

#[test]
fn paranoid_4_takes_the_clocks_from_those_without_the_capability() {
    let host = Made::good()
        .with("proc/sys/kernel/perf_event_paranoid", "4\n")
        .allowed(NEEDED & !PERFMON)
        .answering(Feature::Program, REFUSED)
        .answering(Feature::Clock, Answer::Refuses(libc::EACCES));
    let words = [
        "perf_event_paranoid is 4",
        "no sample",
        "sudo setcap cap_bpf,",
    ];
    host.check("perf-events", State::Broken, words);
    let words = [
        "CAP_PERFMON is not there",
        "no clock",
        "sudo setcap cap_bpf,",
    ];
    host.check("capabilities", State::Broken, words);
}

#[test]
fn paranoid_4_does_not_matter_with_the_capability() {
    let host = Made::good().with("proc/sys/kernel/perf_event_paranoid", "4\n");
    assert_eq!(host.others_than_ok(), Vec::<&str>::new());
    let host = host.answering(Feature::Clock, Answer::Refuses(libc::EACCES));
    let words = [
        "perf_event_paranoid is 4",
        "no sample",
        "sudo sysctl kernel.perf_event_paranoid=2",
    ];
    host.check("perf-events", State::Broken, words);
    assert_eq!(host.others_than_ok(), ["perf-events"]);
}

#[test]
fn kptr_restrict_2_takes_what_the_kernel_does_not_print() {
    let hidden = "0000000000000000 T _text\n0000000000000000 T _etext\n";
    let host = Made::good()
        .with("proc/sys/kernel/kptr_restrict", "2\n")
        .with("proc/kallsyms", hidden);
    let fix = "sudo sysctl kernel.kptr_restrict=1";
    let words = [
        "kptr_restrict is 2",
        "have names, as the kernel prints them",
        fix,
    ];
    host.check("kernel-names", State::Limited, words);
    assert_eq!(host.others_than_ok(), ["kernel-names"]);
    let old = host.answering(Feature::Print, Answer::Lacks);
    let words = ["kptr_restrict is 2", "kernel frames have no names", fix];
    old.check("kernel-names", State::Limited, words);
    let without = old.allowed(NEEDED & !(1 << 34));
    let fix = "sudo sysctl kernel.kptr_restrict=0 kernel.perf_event_paranoid=1";
    without.check("kernel-names", State::Limited, ["", "no names", fix]);
    let listed = Made::good().answering(Feature::Print, Answer::Lacks);
    listed.check("kernel-names", State::Ok, ["/proc/kallsyms", "", ""]);
}

#[test]
fn tracefs_is_not_needed() {
    let host = Made::good().without("sys/kernel/tracing");
    host.check(
        "tracefs",
        State::Ok,
        ["not mounted, and not needed", "", ""],
    );
    assert_eq!(host.others_than_ok(), Vec::<&str>::new());
}

#[test]
fn without_btf_nothing_is_recorded() {
    let host = Made::good()
        .without("sys/kernel/btf/vmlinux")
        .answering(Feature::Types, Answer::Lacks);
    let words = ["vmlinux is not there", "nothing", "CONFIG_DEBUG_INFO_BTF=y"];
    host.check("btf", State::Broken, words);
    assert_eq!(host.others_than_ok(), ["btf"]);
    let strange = Made::good().answering(Feature::Types, Answer::Lacks);
    strange.check(
        "btf",
        State::Broken,
        ["lacks fields", "nothing", "uname -r"],
    );
}

#[test]
fn missing_capabilities_are_named() {
    let host = Made::good()
        .allowed(0)
        .answering(Feature::Program, REFUSED)
        .answering(Feature::Ring, REFUSED)
        .answering(Feature::Clock, REFUSED);
    let words = [
        "CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE is not there",
        "no program can be loaded; no clock",
        "sudo setcap",
    ];
    host.check("capabilities", State::Broken, words);
    for check in ["bpf", "ring-buffer", "perf-events"] {
        host.check(
            check,
            State::Broken,
            ["refused: Operation not permitted", "", "sudo setcap"],
        );
    }
    let findings = host.examine();
    assert!(
        findings.iter().all(|finding| finding.check != "trial"),
        "{findings:#?}"
    );
    let files = Made::good().allowed(NEEDED & !CHECKPOINT_RESTORE);
    let words = [
        "CAP_CHECKPOINT_RESTORE",
        "deleted or replaced",
        "sudo setcap",
    ];
    files.check("capabilities", State::Limited, words);
}

#[test]
fn root_without_capabilities_is_in_a_container() {
    let status = "Uid:\t0\t0\t0\t0\nNSpid:\t7\nCapEff:\t00000000a80425fb\nSeccomp:\t2\n";
    let host = Made::good()
        .with("proc/self/status", status)
        .answering(Feature::Program, REFUSED);
    let words = ["CAP_BPF", "no program", "docker run --privileged"];
    host.check("capabilities", State::Broken, words);
    host.check("bpf", State::Broken, ["", "", "docker run --privileged"]);
}

/// A limit of locked memory, in bytes, soft and hard.
fn locked(soft: &str, hard: &str) -> String {
    format!("Max locked memory         {soft}                {hard}                bytes     \n")
}

#[test]
fn locked_memory_counts_before_linux_5_11() {
    let old = || Made::good().with("proc/sys/kernel/osrelease", "5.10.0-28-amd64\n");
    let fix = "sudo prlimit --memlock=unlimited --pid $$";
    let tiny = old().with("proc/self/limits", &locked("65536", "65536"));
    tiny.check("locked-memory", State::Broken, ["64 KiB", "no ring", fix]);
    let refused = tiny.answering(Feature::Ring, REFUSED);
    refused.check(
        "ring-buffer",
        State::Broken,
        ["not permitted", "nothing", fix],
    );
    let small = old().with("proc/self/limits", &locked("67108864", "67108864"));
    small.check(
        "locked-memory",
        State::Limited,
        ["65536 KiB", "tables", fix],
    );
    let raised = old()
        .allowed(NEEDED | 1 << 24)
        .with("proc/self/limits", &locked("65536", "65536"));
    raised.check("locked-memory", State::Ok, ["raises", "", ""]);
    let soft = old().with("proc/self/limits", &locked("65536", "unlimited"));
    soft.check("locked-memory", State::Ok, ["raises", "", ""]);
    let new = Made::good().with("proc/self/limits", &locked("65536", "65536"));
    new.check("locked-memory", State::Ok, ["does not matter", "", ""]);
}

#[test]
fn a_nested_pid_namespace_is_refused() {
    let host = Made::good().in_namespace("pid", 4_026_532_201);
    let words = ["one of its own", "--no-user", "--pid=host"];
    host.check("pid-namespace", State::Broken, words);
    assert_eq!(host.others_than_ok(), ["pid-namespace"]);
}

#[test]
fn memory_max_too_small_is_found_above_us() {
    let file = "sys/fs/cgroup/user.slice/memory.max";
    let with = |bytes: u64| {
        Made::good()
            .with("sys/fs/cgroup/user.slice/shell/memory.max", "max\n")
            .with(
                "sys/fs/cgroup/user.slice/memory.stat",
                "anon 1048576\nfile 9\n",
            )
            .with(file, &format!("{bytes}\n"))
    };
    let fix = format!("sudo tee /{file}");
    let words = ["40 MiB, of which 39 MiB are free", "may kill it", &fix];
    with(40 << 20).check("memory", State::Broken, words);
    let words = ["100 MiB, of which 99 MiB", "room for one process", &fix];
    with(100 << 20).check("memory", State::Limited, words);
    with(200 << 20).check("memory", State::Ok, ["199 MiB are free", "", ""]);
}

#[test]
fn memory_of_version_1_and_of_the_host_counts_too() {
    let mounts = "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
    let host = |limit: &str| {
        Made::good()
            .with("proc/self/cgroup", "4:memory:/box\n1:cpu:/\n")
            .with("proc/self/mountinfo", mounts)
            .with("sys/fs/cgroup/memory/box/memory.limit_in_bytes", limit)
    };
    let words = ["20 MiB", "may kill it", "memory/box/memory.limit_in_bytes"];
    host("20971520\n").check("memory", State::Broken, words);
    host("9223372036854771712\n").check("memory", State::Ok, ["2000 MiB are available", "", ""]);
    let full = Made::good().with("proc/meminfo", "MemAvailable:   51200 kB\n");
    full.check(
        "memory",
        State::Broken,
        ["50 MiB are available", "may kill it", ""],
    );
}

#[test]
fn lockdown_takes_the_reads_only_for_confidentiality() {
    let file = "sys/kernel/security/lockdown";
    let host = Made::good().with(file, "none [integrity] confidentiality\n");
    host.check("lockdown", State::Ok, ["integrity", "", ""]);
    let host = host
        .with(file, "none integrity [confidentiality]\n")
        .answering(Feature::ReadKernel, Answer::Lacks);
    let words = ["confidentiality", "refuses", "lockdown=integrity"];
    host.check("lockdown", State::Broken, words);
    host.check(
        "kernel-reads",
        State::Broken,
        ["bpf_probe_read_kernel", "", "lockdown"],
    );
}

#[test]
fn a_filter_is_named_where_nothing_else_refuses() {
    let filtered = |capabilities| {
        Made::good()
            .status(capabilities, 2)
            .answering(Feature::Program, REFUSED)
            .answering(Feature::Clock, REFUSED)
    };
    let words = [
        "bpf() and perf_event_open()",
        "nothing",
        "seccomp=unconfined",
    ];
    filtered(NEEDED).check("seccomp", State::Broken, words);
    filtered(NEEDED).check("bpf", State::Broken, ["", "", "seccomp=unconfined"]);
    filtered(0).check("seccomp", State::Ok, ["capabilities", "", ""]);
    Made::good()
        .status(NEEDED, 2)
        .check("seccomp", State::Ok, ["pass", "", ""]);
}

#[test]
fn capabilities_of_a_user_namespace_count_for_nothing() {
    let host = Made::good()
        .in_namespace("user", 4_026_532_300)
        .answering(Feature::Program, REFUSED);
    let words = ["rootless", "nothing", "on the host"];
    host.check("user-namespace", State::Broken, words);
    host.check("bpf", State::Broken, ["refused", "", "on the host"]);
}

#[test]
fn what_a_tick_takes_is_told_as_a_part_of_a_cpu() {
    let mut slow = Made::good();
    slow.kernel.interruption = Some(Duration::from_micros(20));
    let words = [
        "takes 20.0 µs by itself: 0.20 % of each busy CPU at 99 Hz, 2.0 % at 999 Hz",
        "",
        "",
    ];
    slow.check("interruption", State::Ok, words);
    Made::good().check("interruption", State::Ok, ["cannot be told", "", ""]);
}

#[test]
fn limits_of_the_host_have_their_setting() {
    let rate = Made::good().with("proc/sys/kernel/perf_event_max_sample_rate", "50\n");
    let words = [
        "50 Hz",
        "-F 50",
        "sysctl kernel.perf_event_max_sample_rate=",
    ];
    rate.check("sample-rate", State::Limited, words);
    let interpreted = Made::good().with("proc/sys/net/core/bpf_jit_enable", "0\n");
    let words = ["interpreted", "as long", "sysctl net.core.bpf_jit_enable=1"];
    interpreted.check("bpf-jit", State::Limited, words);
    let hard = Made::good().with("proc/sys/net/core/bpf_jit_harden", "2\n");
    hard.check(
        "bpf-jit",
        State::Limited,
        ["hardened", "longer", "bpf_jit_harden=1"],
    );
    let unseen = Made::good().without("proc/sys/net/core/bpf_jit_enable");
    unseen.check("bpf-jit", State::Ok, ["not seen", "", ""]);
    let files = |hard: &str| format!("Max open files            64          {hard}   files     \n");
    let few = Made::good().with("proc/self/limits", &files("1024"));
    few.check(
        "open-files",
        State::Limited,
        ["1024", "no names", "prlimit --nofile"],
    );
    let fewest = Made::good().with("proc/self/limits", &files("64"));
    fewest.check(
        "open-files",
        State::Broken,
        ["64", "clock", "prlimit --nofile"],
    );
}

#[test]
fn memory_of_perf_events_binds_those_who_may_not_lock_it() {
    let setting = "proc/sys/kernel/perf_event_mlock_kb";
    let tight = || Made::good().with("proc/self/limits", &locked("65536", "65536"));
    tight().check("event-memory", State::Ok, ["516 KiB", "", ""]);
    let small = tight().with(setting, "128\n");
    small.check(
        "event-memory",
        State::Limited,
        ["128", "unknown", "perf_event_mlock_kb=516"],
    );
    let tiny = tight().with(setting, "4\n");
    tiny.check(
        "event-memory",
        State::Broken,
        ["4 KiB", "followed", "perf_event_mlock_kb=516"],
    );
    let locker = tiny.allowed(NEEDED | 1 << 14);
    locker.check("event-memory", State::Ok, ["does not bind", "", ""]);
}

#[test]
fn cgroups_of_version_1_are_listed_and_none_are_not_found() {
    let mounts = "proc/self/mountinfo";
    let old = "35 31 0:32 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n";
    let host = Made::good().with(mounts, old);
    host.check(
        "cgroups",
        State::Limited,
        ["version 1", "once a second", "unified"],
    );
    let host = host.with(mounts, "22 27 0:21 / /proc rw - proc proc rw\n");
    host.check(
        "cgroups",
        State::Limited,
        ["none", "find nothing", "mount -t cgroup2"],
    );
}

#[test]
fn what_no_check_foresees_shows_in_the_trial() {
    let mut host = Made::good();
    host.kernel.trial = Some(|| BpfError::Event {
        cpu: 3,
        source: io::Error::from_raw_os_error(libc::ENOMEM),
    });
    let words = [
        "perf event on CPU 3: Cannot allocate memory",
        "nothing",
        "doctor --json",
    ];
    host.check("trial", State::Broken, words);
    assert_eq!(host.others_than_ok(), ["trial"]);
}

#[test]
fn a_host_without_proc_says_so() {
    let host = Made::good().without("proc");
    host.check(
        "proc-sys",
        State::Broken,
        ["/proc", "nothing", "mount -t proc"],
    );
    let host = Made::good().without("sys/devices");
    host.check(
        "proc-sys",
        State::Broken,
        ["/sys", "nothing", "mount -t sysfs"],
    );
    let old = Made::good().with("proc/sys/kernel/osrelease", "5.4.0-1\n");
    old.check("kernel", State::Limited, ["5.4.0-1", "older", "5.10"]);
}
