//! Programs in containers, and programs whose files or processes are gone before they are looked
//! up: every frame has its name, and its object the path that the program knows.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    fixture::{self, Fixture},
    program::wait_until,
    recording::{Recorded, Recording, record},
    turn,
};

/// Fails unless every frame is named, the known ones are there, and they lie in `path`.
#[track_caller]
fn check_named(recorded: &Recorded, calls: &[&str], path: &str) {
    let folded = &recorded.folded;
    let share = folded.percent(|stack| stack.calls(calls));
    assert!(
        share >= 40.0,
        "{share:.1} % call {calls:?}:\n{}",
        folded.text()
    );
    let is_nameless = |frame: &String| frame.starts_with('[') && !frame.starts_with("[cut: ");
    let nameless = folded.count(|stack| stack.frames.iter().any(is_nameless));
    assert_eq!(nameless, 0, "some frame has no name:\n{}", folded.text());
    assert_eq!(recorded.receipt.unnamed, 0, "{}", folded.text());
    let leaf = calls.last().expect("there is a call");
    let samples = recorded.pprof.samples().into_iter();
    // Where a call was inlined, functions and paths do not pair.
    for sample in samples.filter(|sample| sample.functions.len() == sample.paths.len()) {
        // Functions that are inlined nowhere: a location has one, so they pair with paths.
        let pairs = sample.functions.iter().zip(&sample.paths);
        for (function, its_path) in pairs.filter(|(function, _)| function == leaf) {
            assert_eq!(its_path, path, "the path of {function}");
        }
    }
}

/// The calls of `shares` that take most of its time.
const SHARES: [&str; 2] = ["main", "run"];

#[track_caller]
fn record_one(fixture: &Fixture) -> Recorded {
    record(499, 1.0, &["--pid", &fixture.pid_text()])
}

/// A folder with what `shares` needs to run with the folder as its root, and no more.
struct Root {
    folder: TempDir,
}

impl Root {
    #[track_caller]
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self) -> &str {
        self.folder.path().to_str().unwrap()
    }
}

/// Mounts an empty file system at `$1`, copies the program `$2` and its libraries to it, and runs
/// what the rest of the script is with `$1` as the folder.
const FURNISH: &str = "set -e; mount -t tmpfs none \"$1\"; mkdir -p \"$1/app\" \"$1/proc\" \"$1/old\"; cp \"$2\" \"$1/app/server\"; \
    for library in $(ldd \"$2\" | grep -o '/[^ ]*'); do mkdir -p \"$1$(dirname $library)\"; cp -L $library \"$1$library\"; done; ";

#[track_caller]
fn start_furnished(root: &Root, namespaces: &[&str], rest: &str) -> Fixture {
    let script = format!("{FURNISH}{rest}");
    let mut command = Command::new("unshare");
    command.args(namespaces);
    command.args(["sh", "-c", &script, "sh", root.path()]);
    command.arg(fixture::path("bare/shares"));
    Fixture::of_command(&mut command)
}

#[test]
fn a_program_with_another_root_is_named() {
    let _turn = turn();
    let root = Root::new();
    let fixture = start_furnished(&root, &["-m"], "exec chroot \"$1\" /app/server inf");
    // The kernel tells paths from the root of the mount namespace, and the program's own is below.
    let path = format!("{}/app/server", root.path());
    assert!(!Path::new(&path).exists());
    check_named(&record_one(&fixture), &SHARES, &path);
}

#[test]
fn a_program_whose_old_root_is_gone_is_named() {
    let _turn = turn();
    let root = Root::new();
    let rest = "cd \"$1\"; pivot_root . old; exec /app/server inf";
    let fixture = start_furnished(&root, &["-m"], rest);
    assert!(!Path::new("/app/server").exists());
    check_named(&record_one(&fixture), &SHARES, "/app/server");
}

#[test]
fn a_program_on_an_overlay_is_named() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    // As container engines stack an image's layers: the file lies in the lower one.
    let script = "set -e; mount -t tmpfs none \"$1\"; cd \"$1\"; mkdir lower upper work merged; cp \"$2\" lower/server; \
        mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work merged; exec \"$1/merged/server\" inf";
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script, "sh"]);
    command.arg(folder.path()).arg(fixture::path("bare/shares"));
    let fixture = Fixture::of_command(&mut command);
    let path = folder.path().join("merged/server");
    assert!(!path.exists());
    check_named(&record_one(&fixture), &SHARES, path.to_str().unwrap());
}

/// The one child of a process, as this namespace numbers it.
#[track_caller]
fn child_of(pid: u32) -> u32 {
    let list = format!("/proc/{pid}/task/{pid}/children");
    let mut child = None;
    wait_until("it has a child", Duration::from_secs(10), || {
        let children = fs::read_to_string(&list).unwrap_or_default();
        child = children.split_whitespace().next().map(str::to_owned);
        child.is_some()
    });
    child.and_then(|pid| pid.parse().ok()).expect("waited for")
}

#[test]
fn a_program_in_other_namespaces_is_named_by_our_pid() {
    let _turn = turn();
    let program = fixture::path("bare/shares");
    for namespaces in [
        &["-p", "-f", "--mount-proc"][..],
        &["-n"],
        &["-m", "-p", "-n", "-u", "-i", "-C", "-f", "--mount-proc"],
    ] {
        let mut command = Command::new("unshare");
        command.args(namespaces).arg(&program).arg("inf");
        let fixture = Fixture::of_command(&mut command);
        let pid = match namespaces.contains(&"-f") {
            true => child_of(fixture.pid()),
            false => fixture.pid(),
        };
        let labels = ["--labels", "pid"];
        let recorded = record(
            499,
            1.0,
            &[&["--pid", &pid.to_string()], &labels[..]].concat(),
        );
        check_named(&recorded, &SHARES, program.to_str().unwrap());
        assert_eq!(
            recorded.pprof.label_numbers("pid"),
            [i64::from(pid)].into(),
            "{namespaces:?}"
        );
        // Its death is its namespace's; that of `unshare` would leave it behind.
        let id = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        rustix::process::kill_process(id, rustix::process::Signal::KILL).unwrap();
    }
}

/// A copy of a fixture in a folder of its own.
#[track_caller]
fn copy(folder: &TempDir, program: &str, name: &str) -> PathBuf {
    let copy = folder.path().join(name);
    fs::copy(fixture::path(program), &copy).unwrap();
    copy
}

#[test]
fn a_program_deleted_while_it_is_recorded_is_named() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let program = copy(&folder, "bare/shares", "server");
    let fixture = Fixture::of_command(Command::new(&program).arg("inf"));
    let mut recording = Recording::new(499, Some(1.5)).args(&["--pid", &fixture.pid_text()]);
    let mut running = recording.start();
    running.wait_until_sampling();
    fs::remove_file(&program).unwrap();
    let recorded = recording.take(running.finish());
    check_named(&recorded, &SHARES, program.to_str().unwrap());
}

#[test]
fn a_program_replaced_while_it_is_recorded_is_named_by_what_runs() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let program = copy(&folder, "bare/shares", "server");
    let fixture = Fixture::of_command(Command::new(&program).arg("inf"));
    let mut recording = Recording::new(499, Some(1.5)).args(&["--pid", &fixture.pid_text()]);
    let mut running = recording.start();
    running.wait_until_sampling();
    fs::rename(copy(&folder, "bare/threads", "newer"), &program).unwrap();
    let recorded = recording.take(running.finish());
    check_named(&recorded, &SHARES, program.to_str().unwrap());
}

#[test]
fn a_program_that_lies_in_memory_alone_is_named() {
    let _turn = turn();
    // Runs a file that has no name, as loaders that leave no trace on a disk do.
    let script = "import os, sys\n\
        fd = os.memfd_create('server', 0)\n\
        os.write(fd, open(sys.argv[1], 'rb').read())\n\
        os.execve(fd, ['server', 'inf'], os.environ)\n";
    let mut command = Command::new("python3");
    command
        .args(["-c", script])
        .arg(fixture::path("bare/shares-static"));
    let fixture = Fixture::of_command(&mut command);
    check_named(&record_one(&fixture), &SHARES, "/memfd:server");
}

#[test]
fn a_library_that_is_deleted_is_named() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let program = copy(&folder, "bare/plt", "server");
    let library = copy(&folder, "bare/libtiny.so", "libtiny.so");
    let fixture = Fixture::of_command(Command::new(&program).arg("inf"));
    fs::remove_file(&library).unwrap();
    fs::remove_file(&program).unwrap();
    let recorded = record_one(&fixture);
    let folded = &recorded.folded;
    assert_eq!(recorded.receipt.unnamed, 0, "{}", folded.text());
    let in_library = |path: &String| path == library.to_str().unwrap();
    let samples = recorded.pprof.samples();
    let share = samples.iter().filter(|s| s.paths.iter().any(in_library));
    assert!(share.count() > 0, "no sample in it:\n{}", folded.text());
}

#[test]
fn a_process_that_ends_before_the_run_does_is_named() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let program = copy(&folder, "bare/shares", "server");
    let mut recording = Recording::new(499, Some(3.0)).args(&["--labels", "pid,comm"]);
    let mut running = recording.start();
    running.wait_until_sampling();
    let fixture = Fixture::of_command(Command::new(&program).arg("0.5"));
    let pid = fixture.pid();
    wait_until("it has ended", Duration::from_secs(10), || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.is_empty() || stat.contains(") Z ")
    });
    drop(fixture);
    fs::remove_file(&program).unwrap();
    let recorded = recording.take(running.finish());
    check_everything_of(&recorded, "server", program.to_str().unwrap());
}

#[test]
fn many_processes_that_live_shortly_are_named() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let program = copy(&folder, "bare/shares", "server");
    let script = format!(
        "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do '{}' 0.05; done >/dev/null; rm '{}'",
        program.display(),
        program.display()
    );
    let recording = Recording::new(997, None).args(&["--labels", "pid,comm", "--"]);
    let recorded = recording.args(&["sh", "-c", &script]).record();
    check_everything_of(&recorded, "server", program.to_str().unwrap());
    let samples = recorded.pprof.samples();
    let works = samples.iter().filter(|sample| sample.has("run"));
    let pids: std::collections::BTreeSet<i64> = works.map(|s| s.numbers["pid"]).collect();
    assert_eq!(pids.len(), 20, "{}", recorded.folded.text());
}

/// Fails unless all code of the program is named, and `run` lies in `path`. The distribution's libraries
/// have assembly that no symbol covers, which one in hundreds of samples of a start meets.
#[track_caller]
fn check_everything_of(recorded: &Recorded, comm: &str, path: &str) {
    let folded = &recorded.folded;
    let is_nameless = |frame: &String| frame.starts_with('[') && !frame.starts_with("[cut: ");
    let is_own = |frame: &String| is_nameless(frame) && !frame.contains(".so");
    let among = |is: &dyn Fn(&String) -> bool| {
        folded.count(|stack| stack.comm == comm && stack.frames.iter().any(is))
    };
    let (nameless, own) = (among(&is_nameless), among(&is_own));
    assert_eq!(own, 0, "some frame has no name:\n{}", folded.text());
    let all = folded.count(|stack| stack.comm == comm);
    assert!(nameless * 100 <= all, "{nameless}:\n{}", folded.text());
    let works = folded.count(|stack| stack.comm == comm && stack.calls(&SHARES));
    assert!(works > 5, "{works} samples:\n{}", folded.text());
    let samples = recorded.pprof.samples().into_iter();
    // Where a call was inlined, functions and paths do not pair.
    for sample in samples.filter(|sample| sample.functions.len() == sample.paths.len()) {
        let pairs = sample.functions.iter().zip(&sample.paths);
        for (_, its_path) in pairs.filter(|(function, _)| *function == "run") {
            assert_eq!(its_path, path);
        }
    }
}

#[test]
fn a_program_that_we_may_run_and_not_read_is_named() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let program = copy(&folder, "bare/shares", "server");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o111)).unwrap();
    let fixture = Fixture::of_command(Command::new(&program).arg("inf"));
    check_named(&record_one(&fixture), &SHARES, program.to_str().unwrap());
}
