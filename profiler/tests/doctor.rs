//! `ebpfprof doctor` on the running host, and on what can be taken away from it: capabilities,
//! namespaces, files, memory. What cannot be taken away here is in the module's own tests.
//!
//! These tests need root, BPF and the fixtures, as the kernel tests do.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "kernel/bpf_ids.rs"]
#[allow(dead_code, reason = "the kernel tests use the rest")]
mod bpf_ids;
#[path = "kernel/cgroups.rs"]
#[allow(dead_code, reason = "the kernel tests use the rest")]
mod cgroups;
#[path = "kernel/fixture.rs"]
#[allow(dead_code, reason = "the kernel tests use the rest")]
mod fixture;
#[path = "common/fixture_path.rs"]
mod fixture_path;
#[path = "kernel/program.rs"]
#[allow(dead_code, reason = "the kernel tests use the rest")]
mod program;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde_json::Value;

use cgroups::{TestCgroup, mount_point};
use fixture::Fixture;
use program::{BINARY, Running};

const KPTR_RESTRICT: &str = "/proc/sys/kernel/kptr_restrict";

/// Keeps the tests apart: one of them changes a setting of the host.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the doctor said.
struct Said {
    code: Option<i32>,
    report: Value,
}

impl Said {
    /// Runs a command that ends in the path of the binary.
    #[track_caller]
    fn by(command: &mut Command, arguments: &[&str]) -> Self {
        let finished = Running::start(command.args(["doctor", "--json"]).args(arguments)).finish();
        let text = String::from_utf8(finished.stdout).unwrap();
        let report = serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{error}: {text}\n{}", finished.stderr));
        Self {
            code: finished.code,
            report,
        }
    }

    fn finding(&self, check: &str) -> Option<&Value> {
        find(&self.report["findings"], check)
    }

    /// Fails unless a check found this state, with these words of what is so and of its fix.
    #[track_caller]
    fn check(&self, name: &str, state: &str, [what, fix]: [&str; 2]) {
        let found = self.finding(name).unwrap_or(&Value::Null);
        assert_state(found, state, [what, fix]);
    }

    #[track_caller]
    fn check_verdict(&self, verdict: &str, code: i32) {
        let said = self.report["verdict"].as_str();
        assert_eq!(
            (said, self.code),
            (Some(verdict), Some(code)),
            "{:#}",
            self.report
        );
    }
}

fn find<'a>(findings: &'a Value, check: &str) -> Option<&'a Value> {
    let all = findings.as_array().unwrap();
    all.iter().find(|finding| finding["check"] == check)
}

#[track_caller]
fn assert_state(found: &Value, state: &str, [what, fix]: [&str; 2]) {
    let has = |key: &str, words: &str| found[key].as_str().unwrap_or_default().contains(words);
    let is_so = found["state"] == state && has("what", what) && has("fix", fix);
    assert!(is_so, "not {state} with {what:?} and {fix:?}: {found:#}");
}

/// The binary behind a script that prepares a mount namespace of its own.
fn in_mount_namespace(preparation: &str) -> Command {
    let mut command = Command::new("unshare");
    let script = format!("{preparation} && exec \"$0\" \"$@\"");
    command.args(["-m", "sh", "-c", &script, BINARY]);
    command
}

#[test]
fn root_on_this_host_can_profile_and_every_program_reads_it() {
    let _turn = turn();
    let said = Said::by(&mut Command::new(BINARY), &[]);
    assert_eq!(said.code, Some(0), "{:#}", said.report);
    let keys = ["check", "state", "what", "effect", "fix"];
    for finding in said.report["findings"].as_array().unwrap() {
        let object = finding.as_object().unwrap();
        assert!(
            keys.iter().all(|key| object.contains_key(*key)),
            "{finding}"
        );
        if finding["state"] != "ok" {
            println!("on this host: {finding:#}");
        }
    }
    said.check("interruption", "ok", ["a tick takes ", ""]);
    said.check("trial", "ok", ["clocks tick", ""]);
}

#[test]
fn another_user_is_told_which_capabilities_are_missing() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let binary = folder.path().join("ebpfprof");
    fs::copy(BINARY, &binary).unwrap();
    for path in [folder.path(), &binary] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", "1000", "--regid", "1000", "--clear-groups"])
        .arg(&binary);
    let said = Said::by(&mut command, &[]);
    said.check_verdict("broken", 1);
    let words = ["CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE", "sudo setcap "];
    said.check("capabilities", "broken", words);
    said.check("bpf", "broken", ["Operation not permitted", "sudo setcap "]);
    said.check("btf", "ok", ["", ""]);
    assert!(said.finding("trial").is_none());
}

#[test]
fn a_nested_pid_namespace_is_broken() {
    let _turn = turn();
    let mut command = Command::new("unshare");
    command.args(["-pf", "--mount-proc", BINARY]);
    let said = Said::by(&mut command, &[]);
    said.check_verdict("broken", 1);
    said.check("pid-namespace", "broken", ["one of its own", "--pid=host"]);
    said.check("perf-events", "ok", ["", ""]);
}

#[test]
fn a_kernel_without_btf_is_broken() {
    let _turn = turn();
    let mut command = in_mount_namespace("mount -t tmpfs none /sys/kernel/btf");
    let said = Said::by(&mut command, &[]);
    said.check_verdict("broken", 1);
    said.check("btf", "broken", ["is not there", "CONFIG_DEBUG_INFO_BTF=y"]);
}

#[test]
fn no_tracefs_is_no_trouble() {
    let _turn = turn();
    let unmount = "for point in $(awk '$3 == \"tracefs\" || $3 == \"debugfs\" { print $2 }' \
                   /proc/mounts); do umount -l \"$point\"; done";
    let said = Said::by(&mut in_mount_namespace(unmount), &[]);
    assert_eq!(said.code, Some(0), "{:#}", said.report);
    said.check("tracefs", "ok", ["not mounted, and not needed", ""]);
}

#[test]
fn without_locked_memory_a_new_kernel_records() {
    let _turn = turn();
    let mut command = Command::new("setpriv");
    command
        .args([
            "--bounding-set",
            "-sys_resource",
            "--inh-caps",
            "-sys_resource",
        ])
        .args(["prlimit", "--memlock=0:0", BINARY]);
    let said = Said::by(&mut command, &[]);
    let state = said.finding("locked-memory").unwrap()["state"].clone();
    println!("locked-memory is {state}");
    // Before Linux 5.11 that is what is broken.
    assert_eq!(
        said.code,
        Some(i32::from(state == "broken")),
        "{:#}",
        said.report
    );
}

/// The setting as it was, put back at the end.
struct Setting {
    path: &'static str,
    before: String,
}

impl Setting {
    /// `None` where it cannot be changed.
    fn change(path: &'static str, value: &str) -> Option<Self> {
        let before = fs::read_to_string(path).ok()?;
        fs::write(path, value).ok()?;
        Some(Self { path, before })
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        fs::write(self.path, &self.before).unwrap();
    }
}

#[test]
fn kptr_restrict_2_hides_where_the_kernel_lies() {
    let _turn = turn();
    let Some(changed) = Setting::change(KPTR_RESTRICT, "2") else {
        println!("skipped: {KPTR_RESTRICT} cannot be written");
        return;
    };
    let said = Said::by(&mut Command::new(BINARY), &[]);
    drop(changed);
    assert_eq!(said.code, Some(0), "{:#}", said.report);
    let words = ["kptr_restrict is 2", "sysctl kernel.kptr_restrict=1"];
    said.check("kernel-names", "limited", words);
}

/// Whether a memory tree of version 1 is at this place.
fn limits_memory(point: &Path) -> bool {
    point.join("memory.limit_in_bytes").exists() || point.join("memory.stat").exists()
}

#[test]
fn too_little_memory_in_the_cgroup_is_broken() {
    let _turn = turn();
    let Some(tree) = mount_point("cgroup", limits_memory) else {
        println!("skipped: no memory cgroups of version 1");
        return;
    };
    let cgroup = TestCgroup::make_below(&tree, &format!("ebpfprof-doctor-{}", std::process::id()));
    let limit = tree.join(cgroup.path()).join("memory.limit_in_bytes");
    fs::write(&limit, (50 << 20).to_string()).unwrap();
    let mut command = Command::new("sh");
    let script = "echo $$ > \"$CGROUP/inner/cgroup.procs\" && exec \"$0\" \"$@\"";
    command
        .args(["-c", script, BINARY])
        .env("CGROUP", cgroup.path());
    let said = Said::by(&mut command, &[]);
    said.check_verdict("broken", 1);
    let fix = format!("sudo tee {}", limit.display());
    said.check("memory", "broken", ["may have 50 MiB", &fix]);
}

#[test]
fn a_process_is_known_by_its_objects() {
    let _turn = turn();
    let fixture = Fixture::start("shares");
    let said = Said::by(&mut Command::new(BINARY), &["--pid", &fixture.pid_text()]);
    assert_eq!(said.code, Some(0), "{:#}", said.report);
    let process = &said.report["processes"][0];
    assert_eq!(process["comm"], "shares");
    let objects = process["objects"].as_array().unwrap();
    let is_program = |object: &&Value| object["path"].as_str().unwrap().ends_with("/shares");
    let program = objects.iter().find(is_program).unwrap();
    assert_eq!(program["names"], "symbols", "{program:#}");
    let none = find(&process["findings"], "jit").unwrap();
    assert_state(none, "ok", ["no code made at run time", ""]);
}

/// What is found of the code that a fixture made.
fn jit_of(fixture: &Fixture) -> Value {
    let said = Said::by(&mut Command::new(BINARY), &["--pid", &fixture.pid_text()]);
    let findings = &said.report["processes"][0]["findings"];
    find(findings, "jit").unwrap().clone()
}

#[test]
fn code_made_at_run_time_has_names_or_the_way_to_them() {
    let _turn = turn();
    let untold = Fixture::start("jit_like");
    untold.wait_for_line("code ");
    let words = ["code made at run time and no perf map", "/tmp/perf-"];
    assert_state(&jit_of(&untold), "limited", words);
    let told = Fixture::start_with("jit_named", &["map", "60"]);
    let found = jit_of(&told);
    // It removes its map itself only if it comes to its end.
    fs::remove_file(format!("/tmp/perf-{}.map", told.pid())).unwrap();
    assert_state(&found, "ok", ["named by a perf map", ""]);
}
