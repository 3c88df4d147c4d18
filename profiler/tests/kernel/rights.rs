//! What the program may do: enough without root, named where something is missing, and less and
//! less as a recording goes on.

use std::{
    collections::BTreeSet,
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use ebpfprof::privilege::{Capabilities, Capability};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::{
    fixture::{self, Fixture},
    folded::Stack,
    program::{BINARY, Finished, PATIENCE, wait_until},
    recording::{Recorded, Recording},
    turn,
};

/// Who records, and whom.
const RECORDER: &str = "65534";
const RECORDED: &str = "12345";

/// What recording takes.
const FOUR: [&str; 4] = ["bpf", "perfmon", "sys_ptrace", "checkpoint_restore"];

/// What no recording needs once it has started, as samples of what root has beside it.
const NEVER: [Capability; 3] = [
    Capability::SysAdmin,
    Capability::SysResource,
    Capability::Kill,
];

/// A command that becomes this user, with these capabilities and no others, and runs what follows.
fn become_user(user: &str, capabilities: &[&str]) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", user, "--regid", user, "--clear-groups"]);
    if !capabilities.is_empty() {
        let added: Vec<String> = capabilities.iter().map(|name| format!("+{name}")).collect();
        let added = added.join(",");
        command.args(["--inh-caps", &added, "--ambient-caps", &added]);
    }
    // A program executed by this user, and not by one who has just ceased to be root.
    command.args(["sh", "-c", "exec \"$0\" \"$@\""]);
    command
}

/// The binary, where every user can reach it.
struct Shared {
    _folder: TempDir,
    path: PathBuf,
}

impl Shared {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ebpfprof");
        fs::copy(BINARY, &path).unwrap();
        open_to_all(folder.path());
        Self {
            _folder: folder,
            path,
        }
    }

    /// A recording by another user with these capabilities.
    fn recording(&self, capabilities: &[&str], fixture: &Fixture) -> Recording {
        let mut command = become_user(RECORDER, capabilities);
        command.arg(&self.path);
        Recording::through(command, 499, Some(1.0))
            .open_to_all()
            .args(&["--pid", &fixture.pid_text()])
    }
}

fn open_to_all(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A program that another user runs.
fn of_another_user(program: &Path) -> Fixture {
    Fixture::of_command(become_user(RECORDED, &[]).arg(program).arg("inf"))
}

/// Fails unless stacks are whole and all of their frames have names.
#[track_caller]
fn check_whole(recorded: &Recorded) {
    let (receipt, stderr) = (&recorded.receipt, &recorded.stderr);
    assert!(receipt.kept > 25, "{stderr}");
    assert_eq!(receipt.unnamed, 0, "{stderr}{}", recorded.folded.text());
    // A thread may be caught before it has a stack of its own.
    assert!(receipt.cut <= receipt.kept / 1000 + 1, "{stderr}");
}

#[test]
fn four_capabilities_record_the_process_of_another_user() {
    let _turn = turn();
    let binary = Shared::new();
    let fixture = of_another_user(&fixture::path("syscalls"));
    let recorded = binary.recording(&FOUR, &fixture).record();
    check_whole(&recorded);
    let folded = &recorded.folded;
    assert!(folded.percent(Stack::in_kernel) > 50.0, "{}", folded.text());
    folded.check_percent("main", 100.0, 1.0, |stack| stack.calls(&["main", "serve"]));
    // The kernel prints its names for CAP_PERFMON. Where they lie it tells by other rights.
    let hides = "note: the kernel hides where its code lies, so its frames have names and no mapping; try: CAP_SYSLOG";
    assert!(recorded.stderr.contains(hides), "{}", recorded.stderr);
    let with_five = [&FOUR[..], &["syslog"]].concat();
    let recorded = binary.recording(&with_five, &fixture).record();
    check_whole(&recorded);
    assert!(!recorded.stderr.contains("note: "), "{}", recorded.stderr);
}

#[test]
fn the_vdso_is_known_to_a_file_that_has_the_capabilities() {
    let _turn = turn();
    let binary = Shared::new();
    let mut grant = Command::new("setcap");
    let grant = grant.arg("cap_bpf,cap_perfmon,cap_sys_ptrace,cap_checkpoint_restore+ep");
    assert!(grant.arg(&binary.path).status().unwrap().success());
    let fixture = of_another_user(&fixture::path("bare/vdso"));
    check_whole(&binary.recording(&[], &fixture).record());
}

#[test]
fn a_capability_that_is_missing_is_named() {
    let _turn = turn();
    let binary = Shared::new();
    let fixture = of_another_user(&fixture::path("bare/shares"));
    for (missing, told) in [
        ("bpf", "CAP_BPF"),
        ("perfmon", "CAP_PERFMON"),
        ("sys_ptrace", "CAP_SYS_PTRACE"),
    ] {
        let others: Vec<&str> = FOUR.into_iter().filter(|name| *name != missing).collect();
        let Finished { code, stderr, .. } = binary.recording(&others, &fixture).start().finish();
        let error = format!("error: cannot profile without {told}\n");
        assert!(stderr.starts_with(&error), "{stderr}");
        assert_eq!((code, stderr.matches("error").count()), (Some(1), 1));
    }
    // This one is for libraries that have no path any more.
    let others = &FOUR[..3];
    let recorded = binary.recording(others, &fixture).record();
    check_whole(&recorded);
    assert!(!recorded.stderr.contains("RESTORE"), "{}", recorded.stderr);
}

/// A program in a folder of its own, with its library, that another user runs and that are deleted.
fn of_deleted_files() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    open_to_all(folder.path());
    for name in ["plt", "libtiny.so"] {
        let path = fixture::path(&format!("bare/{name}"));
        fs::copy(path, folder.path().join(name)).unwrap();
    }
    of_another_user(&folder.path().join("plt"))
}

#[test]
fn what_a_deleted_library_takes_is_named() {
    let _turn = turn();
    let binary = Shared::new();
    let fixture = of_deleted_files();
    let with = |added: &[&str], missing: &str| {
        let names = FOUR.iter().chain(added).copied();
        let names: Vec<&str> = names.filter(|name| *name != missing).collect();
        binary.recording(&names, &fixture).record()
    };
    // The executable is found all the same.
    let note = "note: the files of 1 programs or libraries may not be opened without";
    for (added, missing, needed) in [
        (&[][..], "", "CAP_DAC_READ_SEARCH,"),
        (
            &[],
            "checkpoint_restore",
            "CAP_CHECKPOINT_RESTORE and CAP_DAC_READ_SEARCH,",
        ),
        (
            &["dac_read_search"],
            "checkpoint_restore",
            "CAP_CHECKPOINT_RESTORE,",
        ),
    ] {
        let Recorded { stderr, folded, .. } = with(added, missing);
        assert!(stderr.contains(&format!("{note} {needed}")), "{stderr}");
        assert!(folded.count(|stack| stack.has("main")) > 0, "{stderr}");
    }
    let recorded = with(&["dac_read_search"], "");
    check_whole(&recorded);
    assert!(!recorded.stderr.contains(note), "{}", recorded.stderr);
}

/// The status of each thread of a process, by its name.
fn statuses(pid: u32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("status")).ok())
        .collect()
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let mut fields = status.lines().filter_map(|line| line.split_once(":\t"));
    fields.find(|(field, _)| *field == name).unwrap().1
}

/// Fails unless no thread of a process has, or can have again, one of these.
#[track_caller]
fn check_given_up(pid: u32, capabilities: &[Capability]) {
    let statuses = statuses(pid);
    assert!(!statuses.is_empty());
    for status in statuses {
        let permitted = format!("CapEff:\t{}", field(&status, "CapPrm"));
        let permitted = Capabilities::effective(&permitted);
        let left: BTreeSet<&str> = capabilities
            .iter()
            .filter(|capability| permitted.has(**capability))
            .map(|capability| capability.name())
            .collect();
        assert!(left.is_empty(), "{left:?} is left:\n{status}");
        assert_eq!(field(&status, "NoNewPrivs"), "1", "{status}");
    }
}

fn has(pid: u32, capability: Capability) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    Capabilities::effective(&status).has(capability)
}

fn may_load(pid: u32) -> bool {
    has(pid, Capability::Bpf)
}

#[test]
fn root_gives_up_what_it_does_not_need() {
    let _turn = turn();
    // It takes a connection and never answers: names are waited for.
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let server_flag = format!("--debuginfod=http://{}", server.local_addr().unwrap());
    let cache = tempfile::tempdir().unwrap();
    let mut command = Command::new(BINARY);
    command.env("DEBUGINFOD_CACHE_PATH", cache.path());
    let fixture = of_another_user(&fixture::path("bare/shares-stripped"));
    let mut recording = Recording::through(command, 499, Some(2.0));
    recording = recording.args(&["--pid", &fixture.pid_text(), &server_flag]);
    let running = recording.start();
    let pid = running.pid();
    let is_root = |pid| has(pid, Capability::SysAdmin);
    wait_until("the programs are attached", PATIENCE, || !is_root(pid));
    assert!(may_load(pid), "CPUs that come online get no clocks");
    check_given_up(pid, &NEVER);
    wait_until("the programs are gone", PATIENCE, || !may_load(pid));
    let later = [Capability::Bpf, Capability::Perfmon, Capability::IpcLock];
    check_given_up(pid, &[&NEVER[..], &later].concat());
    running.signal(Signal::INT);
    let recorded = recording.take(running.finish());
    assert_eq!(recorded.receipt.complete, recorded.receipt.kept);
}

#[test]
fn a_command_keeps_what_its_caller_may() {
    let _turn = turn();
    let program = fixture::path("bare/shares");
    let script = "grep -E '^(Cap|NoNewPrivs)' /proc/self/status; exec \"$0\" 1 >&2";
    let recording = Recording::new(499, None);
    let recorded = recording
        .args(&["--", "sh", "-c", script, program.to_str().unwrap()])
        .record();
    let stdout = String::from_utf8(recorded.stdout).unwrap();
    let own = fs::read_to_string("/proc/thread-self/status").unwrap();
    for name in ["CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs"] {
        assert_eq!(field(&stdout, name), field(&own, name), "{stdout}");
    }
}

#[test]
fn the_service_has_what_recording_takes_and_no_more() {
    let unit = include_str!("../../../contrib/ebpfprof@.service");
    let set = |name: &str| -> Vec<&str> {
        let value = unit.lines().find_map(|line| line.strip_prefix(name));
        value.unwrap().split(' ').collect()
    };
    let four = FOUR.map(|name| format!("CAP_{}", name.to_uppercase()));
    assert_eq!(set("AmbientCapabilities="), four);
    assert_eq!(set("CapabilityBoundingSet="), four);
}
