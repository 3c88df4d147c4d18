//! What the user reads when something is wrong, and when nothing is although it might be.
//!
//! Each message is one line what, one line why and one line what to type; exit code 1 for a
//! failed run, 2 for a wrong command line. The expected texts lie in `testdata/golden/messages`
//! and `testdata/golden/help`; `BLESS=1` rewrites them, read the difference. What differs from
//! machine to machine stands there under a name in capitals.
//!
//! Most cases fail before anything is recorded. The others need root, BPF and the fixtures, as the
//! kernel tests do.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "kernel/bpf_ids.rs"]
#[allow(dead_code, reason = "the kernel tests use the rest")]
mod bpf_ids;
#[path = "kernel/fixture.rs"]
#[allow(dead_code, reason = "the kernel tests use the rest")]
mod fixture;
#[path = "common/fixture_path.rs"]
mod fixture_path;
#[path = "common/golden_file.rs"]
mod golden_file;
#[path = "kernel/program.rs"]
#[allow(dead_code, reason = "the kernel tests use the rest")]
mod program;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use tempfile::TempDir;

use fixture::Fixture;
use program::{BINARY, Finished, PATIENCE, Running, wait_until};

/// The largest pid that parses; the kernel gives out smaller ones only.
const NO_PID: &str = "4194304";
/// A user without any right.
const NOBODY: &str = "65534";
/// What Go's runtime wrote of a program's heap.
const GO_HEAP: &[u8] = include_bytes!("../../testdata/golden/go-heap.pb.gz");
/// What the advice grants to the binary.
const CAPABILITIES: &str = "+bpf,+perfmon,+sys_ptrace,+checkpoint_restore,+syslog";

/// When a message comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    /// Before anything is recorded: it is all there is on stderr.
    Before,
    /// After the summary of the run.
    After,
}

/// A run that fails.
struct Case<'a> {
    name: &'a str,
    arguments: Vec<&'a str>,
    when: When,
    /// What differs from run to run, and what stands for it.
    names: Vec<(&'a str, &'a str)>,
}

impl<'a> Case<'a> {
    fn new(name: &'a str, arguments: &[&'a str]) -> Self {
        Self {
            name,
            arguments: arguments.to_vec(),
            when: When::Before,
            names: Vec::new(),
        }
    }

    fn after_recording(mut self) -> Self {
        self.when = When::After;
        self
    }

    /// Has `name` stand for `text` in the golden file.
    fn with(mut self, text: &'a str, name: &'a str) -> Self {
        self.names.push((text, name));
        self
    }

    /// Runs the binary and compares.
    #[track_caller]
    fn check(self) {
        self.check_through(&mut Command::new(BINARY));
    }

    /// Runs a command that ends in the path of the binary, and compares.
    #[track_caller]
    fn check_through(self, command: &mut Command) {
        // Advice may name the folder for temporary files.
        let command = command.args(&self.arguments).env("TMPDIR", "/tmp");
        self.compare(&Running::start(command).finish());
    }

    #[track_caller]
    fn compare(self, finished: &Finished) {
        let Finished {
            code,
            stdout,
            stderr,
        } = finished;
        let name = self.name;
        assert_eq!(
            String::from_utf8_lossy(stdout),
            "",
            "{name} prints to stdout"
        );
        let code = code.unwrap_or_else(|| panic!("{name} was killed:\n{stderr}"));
        assert!(
            code == 1 || code == 2,
            "{name} exits with {code}:\n{stderr}"
        );
        let lines: Vec<&str> = stderr
            .lines()
            .skip_while(|line| self.when == When::After && !line.starts_with("error: "))
            .collect();
        let starts = ["error: ", "  why: ", "  try: "];
        assert_eq!(lines.len(), starts.len(), "{name} says:\n{stderr}");
        for (line, start) in lines.iter().zip(starts) {
            let text = line.strip_prefix(start);
            assert!(
                text.is_some_and(|text| !text.trim().is_empty()),
                "{name} says:\n{stderr}"
            );
        }
        let command = ["ebpfprof"]
            .into_iter()
            .chain(self.arguments.iter().copied());
        let command: Vec<&str> = command.collect();
        let mut text = format!(
            "$ {}\nexit code {code}\n{}\n",
            command.join(" "),
            lines.join("\n")
        );
        for (found, name) in &self.names {
            text = replace_word(&text, found, name);
        }
        golden_file::check(&format!("messages/{name}.txt"), &text);
    }
}

/// The text with another word in place of this one, wherever it is not part of a longer one.
fn replace_word(text: &str, word: &str, other: &str) -> String {
    let mut replaced = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(word) {
        let joins = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
        let is_part = joins(before.chars().next_back()) || joins(after.chars().next());
        replaced.push_str(before);
        replaced.push_str(if is_part { word } else { other });
        rest = after;
    }
    replaced + rest
}

/// A folder that anyone may look into.
fn open_folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    set_mode(folder.path(), 0o755);
    folder
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A copy of the binary that every user can reach.
fn shared_binary(folder: &TempDir) -> PathBuf {
    let copy = folder.path().join("ebpfprof");
    fs::copy(BINARY, &copy).unwrap();
    set_mode(&copy, 0o755);
    copy
}

/// A command that does something to a mount namespace of its own, and then runs the binary.
fn in_mount_namespace(preparation: &str) -> Command {
    let mut command = Command::new("unshare");
    let script = format!("{preparation} && exec \"$0\" \"$@\"");
    command.args(["-m", "sh", "-c", &script, BINARY]);
    command
}

/// Runs a command with a short recording of this target, which must succeed.
#[track_caller]
fn check_records(command: &mut Command, target: &[&str]) {
    command.args(["-F", "499", "-o", "-", "--format", "folded"]);
    let finished = Running::start(command.args(target)).finish();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let stacks = String::from_utf8(finished.stdout).unwrap();
    assert!(
        stacks.contains(";main;run;alpha "),
        "{stacks}\n{}",
        finished.stderr
    );
    assert!(
        finished.stderr.contains(" + lost 0 (ring full 0,"),
        "{}",
        finished.stderr
    );
}

#[test]
fn targets_that_are_not_there() {
    Case::new("no_such_pid", &["--pid", NO_PID]).check();
    Case::new("doctor_no_such_pid", &["doctor", "--pid", NO_PID]).check();
    Case::new("no_such_tid", &["--tid", NO_PID]).check();
    Case::new("no_such_container", &["--container", "0123456789abcdef"])
        .with(&cgroup_mounts(), "MOUNTS")
        .check();
    Case::new("no_such_cgroup", &["--cgroup", "/no/such/group"])
        .with(&cgroup_mounts(), "MOUNTS")
        .check();
    let mut child = Command::new("true").spawn().unwrap();
    let pid = child.id().to_string();
    wait_until("the child is a zombie", PATIENCE, || {
        fs::read_to_string(format!("/proc/{pid}/stat"))
            .unwrap()
            .contains(") Z ")
    });
    Case::new("zombie", &["--pid", &pid])
        .with(&pid, "PID")
        .check();
    child.wait().unwrap();
}

/// The list of cgroup trees as the messages have it.
fn cgroup_mounts() -> String {
    let message =
        Running::start(Command::new(BINARY).args(["--cgroup", "/no/such/group"])).finish();
    let list = message.stderr.split("no such directory in ").nth(1);
    let list = list.and_then(|rest| rest.lines().next());
    list.unwrap_or("no cgroup tree is mounted").to_owned()
}

#[test]
fn targets_that_cannot_be_sampled() {
    let fixture = Fixture::start("threads");
    let pid = fixture.pid_text();
    let tid = fixture.thread_named("worker-0").to_string();
    Case::new("pid_of_a_thread", &["--pid", &tid])
        .with(&tid, "TID")
        .with(&pid, "PID")
        .check();
    Case::new("kernel_thread", &["--pid", "2"]).check();
    Case::new("pid_is_text", &["--pid", "nginx"]).check();
    Case::new("comm_too_long", &["--comm", "a-name-of-twenty-one-b"]).check();
    Case::new("container_impossible", &["--container", "a/b"]).check();
}

#[test]
fn frequencies_that_cannot_be() {
    Case::new("frequency_zero", &["-F", "0"]).check();
    Case::new("frequency_negative", &["-F", "-1"]).check();
    Case::new("frequency_text", &["--frequency", "fast"]).check();
    Case::new("frequency_fraction", &["-F", "0.5"]).check();
    // The kernel lowers its limit when sampling takes too long, so it is read off the message.
    let too_fast = ["-F", "4000000000"];
    let message = Running::start(Command::new(BINARY).args(too_fast)).finish();
    let limit = message
        .stderr
        .split("limit is ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next());
    let limit: u32 = limit.unwrap().parse().unwrap();
    Case::new("frequency_above_the_limit", &too_fast)
        .with(&limit.to_string(), "LIMIT")
        .check();
}

#[test]
fn times_that_cannot_be() {
    Case::new("seconds_zero", &["-s", "0"]).check();
    Case::new("seconds_negative", &["-s", "-5"]).check();
    Case::new("seconds_text", &["--seconds", "long"]).check();
}

#[test]
fn options_that_do_not_fit() {
    Case::new("no_command", &["--"]).check();
    let twice = ["-s", "1", "-o", "x.svg", "-o", "./x.svg"];
    Case::new("two_outputs_alike", &twice).check();
    Case::new("no_kernel_no_user", &["--no-kernel", "--no-user"]).check();
    Case::new("all_and_pid", &["--all", "--pid", "1"]).check();
    Case::new("command_and_pid", &["--pid", "1", "--", "true"]).check();
    Case::new("unknown_option", &["--flamegraph"]).check();
    Case::new("unknown_word", &["record"]).check();
    Case::new("unknown_event", &["-e", "cycles"]).check();
    Case::new("unknown_label", &["--labels", "pid,user"]).check();
    Case::new("unknown_format", &["--format", "png"]).check();
    Case::new("value_missing", &["--pid"]).check();
    let mut command = Command::new(BINARY);
    command.env_remove("DEBUGINFOD_URLS");
    Case::new("no_debuginfod_server", &["--debuginfod"]).check_through(&mut command);
    Case::new("debuginfod_server_is_a_file", &["--debuginfod=/srv/debug"]).check();
}

#[test]
fn outputs_that_cannot_be() {
    Case::new("unknown_extension", &["-o", "cpu.unknown"]).check();
    Case::new(
        "extension_against_format",
        &["-o", "cpu.svg", "--format", "folded"],
    )
    .check();
    let twice = ["-o", "-", "-o", "-", "--format", "folded"];
    Case::new("two_on_stdout", &twice).check();
}

#[test]
fn outputs_that_cannot_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| text(&folder.path().join(name)).to_owned();
    let check = |name: &str, output: &str| {
        Case::new(name, &["-s", "1", "-o", output])
            .with(text(folder.path()), "FOLDER")
            .check();
    };
    fs::write(place("cpu.pb.gz"), "old").unwrap();
    check("output_exists", &place("cpu.pb.gz"));
    assert_eq!(fs::read(place("cpu.pb.gz")).unwrap(), b"old");
    check("output_in_a_missing_folder", &place("none/cpu.pb.gz"));
    fs::create_dir(place("folder.svg")).unwrap();
    check("output_is_a_folder", &place("folder.svg"));
    check("output_below_a_file", &place("cpu.pb.gz/cpu.pb.gz"));
    check("output_in_proc", "/proc/cpu.pb.gz");
    assert_eq!(
        fs::read_dir(folder.path()).unwrap().count(),
        2,
        "nothing new is there"
    );
}

#[test]
fn an_output_that_exists_is_replaced_on_request() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("cpu.folded");
    fs::write(&output, "old").unwrap();
    let fixture = Fixture::start("shares");
    let mut command = Command::new(BINARY);
    let arguments = [
        "-F",
        "499",
        "-s",
        "0.5",
        "--force",
        "--pid",
        &fixture.pid_text(),
        "-o",
    ];
    let finished = Running::start(command.args(arguments).arg(&output)).finish();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let written = fs::read_to_string(&output).unwrap();
    assert!(written.contains(";main;run;alpha "), "{written}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn profiles_that_cannot_be_converted() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| text(&folder.path().join(name)).to_owned();
    let check = |name: &str, arguments: &[&str]| {
        let arguments = [&["convert"], arguments].concat();
        Case::new(name, &arguments)
            .with(text(folder.path()), "FOLDER")
            .check();
    };
    let out = place("out.svg");
    let write = |name: &str, content: &[u8]| {
        fs::write(place(name), content).unwrap();
        place(name)
    };
    check("convert_no_output", &["cpu.pb.gz"]);
    check("convert_missing_input", &[&place("none.pb.gz"), &out]);
    check(
        "convert_folder",
        &["--from", "pprof", text(folder.path()), &out],
    );
    let unknown = write("heap", b"plain");
    check("convert_unknown_input", &[&unknown, &out]);
    let graph = write("cpu.svg", b"<svg/>");
    check("convert_unreadable_format", &[&graph, &out]);
    check("convert_unreadable_from", &["--from", "svg", "-", &out]);
    let empty = write("empty.pb.gz", b"");
    check("convert_empty", &[&empty, &out]);
    let cut = write("cut.pb.gz", &GO_HEAP[..200]);
    check("convert_cut_off", &[&cut, &out]);
    let twice = write("twice.pb.gz", &[GO_HEAP, GO_HEAP].concat());
    check("convert_concatenated", &[&twice, &out]);
    let page = write("page.pb.gz", b"404 page not found\n");
    check("convert_no_pprof", &[&page, &out]);
    let debug = write("debug.pb.gz", b"heap profile: 1: 2 [3: 4] @ heap/5\n");
    check("convert_debug_text", &[&debug, &out]);
    let heap = write("heap.pb.gz", GO_HEAP);
    check(
        "convert_no_such_value",
        &["--sample-index", "cpu", &heap, &out],
    );
    let lines = write("lines.folded", b"a;b 1\na;b;c\n");
    check("convert_no_count", &[&lines, &out]);
    check(
        "convert_folded_value",
        &["--sample-index", "1", &lines, &out],
    );
    let parts = write("parts.folded", b"a;b 1.5\n");
    check("convert_fraction", &[&parts, &out]);
    check("convert_unknown_output", &[&heap, &place("out.png")]);
    check("convert_over_itself", &[&heap, &heap]);
    assert_eq!(fs::read(&heap).unwrap(), GO_HEAP);
    assert!(
        !Path::new(&out).exists(),
        "what cannot be read leaves no file"
    );
}

#[test]
fn a_profile_is_converted_from_pipe_to_pipe() {
    let script = "printf 'a;b 1\\r\\na;b 2\\n' | \"$0\" convert --from folded - - | \
                  \"$0\" convert - - --format folded";
    let finished = Running::start(Command::new("sh").args(["-c", script, BINARY])).finish();
    let told = (finished.code, finished.stderr.as_str());
    assert_eq!(told, (Some(0), ""));
    assert_eq!(finished.stdout, b"a;b 3\n");
}

#[test]
fn a_file_that_was_converted_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| text(&folder.path().join(name)).to_owned();
    // The name tells nothing, and the first bytes do.
    let (heap, out) = (place("heap"), place("heap.txt"));
    fs::write(&heap, GO_HEAP).unwrap();
    fs::write(&out, "old").unwrap();
    let mut command = Command::new(BINARY);
    let arguments = ["convert", "--force", "--sample-index", "alloc_objects"];
    let finished = Running::start(command.args(arguments).args([&heap, &out])).finish();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let bytes = fs::read(&out).unwrap();
    golden_file::check("go-heap.alloc_objects.txt", str::from_utf8(&bytes).unwrap());
    let expected = format!("wrote {out} ({} bytes)\n  less -S {out}\n", bytes.len());
    assert_eq!(finished.stderr, expected);
}

#[test]
fn profiles_that_cannot_be_explained() {
    let folder = tempfile::tempdir().unwrap();
    let check = |name: &str, path: &Path| {
        Case::new(name, &["explain", text(path)])
            .with(text(folder.path()), "FOLDER")
            .check();
    };
    let place = |name: &str| folder.path().join(name);
    check("explain_nothing", &place("none.pb.gz"));
    check("explain_a_folder", folder.path());
    fs::write(place("text.pb.gz"), "main;run 7\n").unwrap();
    check("explain_no_profile", &place("text.pb.gz"));
    let mut whole = Vec::new();
    let profile = ebpfprof::profile::Profile::cpu(1);
    ebpfprof::export::write(ebpfprof::export::Format::Pprof, &profile, &mut whole).unwrap();
    fs::write(place("half.pb.gz"), &whole[..whole.len() / 2]).unwrap();
    check("explain_half_a_profile", &place("half.pb.gz"));
    Case::new("explain_without_a_file", &["explain"]).check();
}

#[test]
fn a_profile_that_tells_no_reasons_is_explained_as_far_as_it_goes() {
    use ebpfprof::profile::{FrameKind, Mapping, MappingKind, Profile};
    let mut profile = Profile::cpu(10_000_000);
    let path = profile.string("/usr/lib/libfoo.so.1");
    let build_id = profile.string("12ab");
    let mapping = profile.mapping(Mapping {
        kind: MappingKind::Object,
        start: 0x1000,
        limit: 0x2000,
        file_offset: 0,
        path,
        build_id,
    });
    let inside = profile.location(FrameKind::User, Some(mapping), 0x1010);
    let nowhere = profile.location(FrameKind::User, None, 0x10);
    profile.add(&[inside, nowhere], &[], 3);
    profile.add(&[inside, inside], &[], 1);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cpu.pb.gz");
    let mut bytes = Vec::new();
    ebpfprof::export::write(ebpfprof::export::Format::Pprof, &profile, &mut bytes).unwrap();
    fs::write(&file, bytes).unwrap();
    let finished = Running::start(Command::new(BINARY).arg("explain").arg(&file)).finish();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let stdout = String::from_utf8(finished.stdout).unwrap();
    let told = format!("{stdout}--\n{}", finished.stderr);
    golden_file::check("messages/explain_untold.txt", &told);
}

#[test]
fn commands_that_cannot_be_started() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| text(&folder.path().join(name)).to_owned();
    fs::write(place("plain"), "text").unwrap();
    fs::write(place("script"), "#!/no/such/interpreter\n").unwrap();
    set_mode(&folder.path().join("script"), 0o755);
    let check = |name: &str, program: &str| {
        let output = place("cpu.pb.gz");
        Case::new(name, &["-o", &output, "--", program, "argument"])
            .with(text(folder.path()), "FOLDER")
            .check();
        assert!(!Path::new(&output).exists());
    };
    check("command_not_found", "no-such-program-anywhere");
    check("command_path_not_found", &place("none"));
    check("command_not_executable", &place("plain"));
    check("command_is_a_folder", text(folder.path()));
    check("command_without_interpreter", &place("script"));
}

#[test]
fn a_command_that_ends_before_the_first_tick_gives_no_samples() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("cpu.pb.gz");
    let arguments = ["-F", "1", "-o", text(&output), "--", "true"];
    let mut finished = Running::start(Command::new(BINARY).args(arguments)).finish();
    // How long it took is another number each time.
    let time = finished
        .stderr
        .split("ended after ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next());
    let time = format!("after {} s", time.unwrap_or_default());
    finished.stderr = finished.stderr.replace(&time, "after TIME s");
    Case::new("target_ended_at_once", &arguments)
        .after_recording()
        .with(text(folder.path()), "FOLDER")
        .compare(&finished);
}

#[test]
fn without_rights_it_says_which_and_how_to_grant_them() {
    let folder = open_folder();
    let binary = shared_binary(&folder);
    let paranoid = fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").unwrap();
    let paranoid = format!("perf_event_paranoid is {}", paranoid.trim());
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"])
        .arg(&binary);
    Case::new("not_root", &["--pid", "1", "-s", "1"])
        .with(&paranoid, "perf_event_paranoid is NUMBER")
        .with(text(&binary), "PROGRAM")
        .check_through(&mut command);
}

/// The binary as another user, with the capabilities that the advice names and no other.
fn with_capabilities(binary: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"])
        .args(["--inh-caps", CAPABILITIES, "--ambient-caps", CAPABILITIES])
        .arg(binary);
    command
}

#[test]
fn the_capabilities_of_the_advice_are_enough() {
    let folder = open_folder();
    let binary = shared_binary(&folder);
    let fixture = Fixture::start("shares");
    let target = ["-s", "0.5", "--pid", &fixture.pid_text()];
    check_records(&mut with_capabilities(&binary), &target);
}

#[test]
fn a_folder_that_takes_no_file_is_refused() {
    let folder = open_folder();
    let binary = shared_binary(&folder);
    let place = folder.path().join("closed");
    fs::create_dir(&place).unwrap();
    set_mode(&place, 0o555);
    let fixture = Fixture::start("idle");
    let output = place.join("cpu.pb.gz");
    let pid = fixture.pid_text();
    Case::new(
        "output_folder_not_writable",
        &["-s", "1", "--pid", &pid, "-o", text(&output)],
    )
    .with(text(folder.path()), "FOLDER")
    .with(&pid, "PID")
    .check_through(&mut with_capabilities(&binary));
}

#[test]
fn a_reader_that_has_gone_is_noticed() {
    let fixture = Fixture::start("shares");
    let pid = fixture.pid_text();
    let arguments = ["-s", "0.3", "-o", "-", "--format", "folded", "--pid", &pid];
    let mut child = Command::new(BINARY)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    let finished = Finished {
        code: ended.status.code(),
        stdout: ended.stdout,
        stderr: String::from_utf8(ended.stderr).unwrap(),
    };
    Case::new("closed_pipe", &arguments)
        .after_recording()
        .with(&pid, "PID")
        .compare(&finished);
}

#[test]
fn a_full_disk_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = Fixture::start("shares");
    let pid = fixture.pid_text();
    let output = folder.path().join("cpu.svg");
    // Afterwards it lists what is in the folder; stdout must stay empty.
    let script = "mount -t tmpfs -o size=8k none \"$FOLDER\" && \"$0\" \"$@\"; \
                  code=$?; ls -A \"$FOLDER\"; exit $code";
    let arguments = ["-s", "0.3", "--pid", &pid, "-o", text(&output)];
    let mut command = Command::new("unshare");
    command
        .args(["-m", "sh", "-c", script, BINARY])
        .args(arguments);
    let finished = Running::start(command.env("FOLDER", folder.path())).finish();
    let bytes = finished.stderr.split("no room left after ").nth(1);
    let bytes = bytes
        .and_then(|rest| rest.split(' ').next())
        .unwrap_or_default();
    let bytes = format!("after {bytes} bytes");
    Case::new("disk_full", &arguments)
        .after_recording()
        .with(text(folder.path()), "FOLDER")
        .with(&pid, "PID")
        .with(&bytes, "after NUMBER bytes")
        .compare(&finished);
    assert!(!output.exists());
}

#[test]
fn a_pid_namespace_is_named() {
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc", BINARY]);
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("cpu.pb.gz");
    let arguments = ["-s", "1", "--pid", "1", "-o", text(&output)];
    Case::new("pid_namespace", &arguments)
        .with(text(folder.path()), "FOLDER")
        .check_through(&mut command);
    assert!(!output.exists());
}

#[test]
fn a_kernel_without_btf_is_named() {
    let mut command = in_mount_namespace("mount -t tmpfs none /sys/kernel/btf");
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("cpu.pb.gz");
    Case::new("no_btf", &["-s", "1", "-o", text(&output)])
        .with(text(folder.path()), "FOLDER")
        .check_through(&mut command);
    assert!(!output.exists());
}

#[test]
fn it_works_without_tracefs() {
    let unmount = "for point in $(awk '$3 == \"tracefs\" || $3 == \"debugfs\" { print $2 }' \
                   /proc/mounts); do umount -l \"$point\"; done; \
                   ! grep -E ' (tracefs|debugfs) ' /proc/mounts";
    let shares = fixture::path("shares");
    // With its children followed, which takes a tracepoint.
    check_records(
        &mut in_mount_namespace(unmount),
        &["--", text(&shares), "0.5"],
    );
}

#[test]
fn it_works_without_locked_memory() {
    let fixture = Fixture::start("shares");
    let mut command = Command::new("setpriv");
    command.args([
        "--bounding-set",
        "-sys_resource",
        "--inh-caps",
        "-sys_resource",
    ]);
    command.args(["prlimit", "--memlock=0:0", BINARY]);
    check_records(&mut command, &["-s", "0.5", "--pid", &fixture.pid_text()]);
}

#[track_caller]
fn check_help(name: &str, arguments: &[&str]) {
    let mut command = Command::new(BINARY);
    command.args(arguments).env("COLUMNS", "100");
    let finished = Running::start(&mut command).finish();
    assert_eq!((finished.code, finished.stderr.as_str()), (Some(0), ""));
    let help = String::from_utf8(finished.stdout).unwrap();
    let longest = help.lines().map(|line| line.chars().count()).max();
    assert!(longest <= Some(100), "{help}");
    golden_file::check(&format!("help/{name}.txt"), &help);
}

#[test]
fn help_is_as_it_was() {
    check_help("short", &["-h"]);
    check_help("long", &["--help"]);
    check_help("convert", &["convert", "--help"]);
    check_help("doctor", &["doctor", "--help"]);
    check_help("selftest", &["selftest", "--help"]);
    check_help("serve", &["serve", "--help"]);
    check_help("explain", &["explain", "--help"]);
    check_help("unwind", &["unwind", "--help"]);
}

#[test]
fn the_version_is_the_packages() {
    let finished = Running::start(Command::new(BINARY).arg("--version")).finish();
    let version = format!("ebpfprof {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(
        (finished.code, finished.stdout),
        (Some(0), version.into_bytes())
    );
}
