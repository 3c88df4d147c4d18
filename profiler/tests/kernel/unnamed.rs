//! Frames without a name: each has a reason, which travels in the file and is told by `ebpfprof
//! explain`.

use std::{
    fs::{self, File},
    process::Command,
};

use ebpfprof::{
    export::read_back,
    jit::{JitReason, Runtime},
    object::Unopened,
    target::Pid,
    unnamed::{Gaps, Place, Reason, Unnamed},
};

use crate::{
    fixture::{self, Fixture},
    program::{BINARY, Finished, Running},
    recording::{Recorded, Recording, record},
    turn,
};

/// The tables of a profile, whose sums are those of its receipt.
#[track_caller]
fn gaps(recorded: &Recorded) -> Gaps {
    let file = File::open(recorded.folder.path().join("cpu.pb.gz")).unwrap();
    let file = read_back(file).unwrap();
    let gaps = Gaps::of_comments(file.comments.iter().map(String::as_str)).unwrap();
    let receipt = &recorded.receipt;
    let comments = gaps.unnamed.comments().join("\n");
    assert_eq!(gaps.unnamed.frames(), receipt.unnamed, "{comments}");
    assert_eq!(gaps.unnamed.of_frames, receipt.frames);
    // What a reader without our comments would count.
    let nameless: u64 = file.nameless.iter().map(|it| it.frames).sum();
    assert_eq!(nameless, receipt.unnamed, "{comments}");
    assert_eq!(file.samples, receipt.kept);
    gaps
}

/// What `explain` says of a profile, with these options.
#[track_caller]
fn explain(recorded: &Recorded, options: &[&str]) -> String {
    let mut command = Command::new(BINARY);
    command.arg("explain").args(options);
    let Finished {
        code,
        stdout,
        stderr,
    } = Running::start(command.arg(recorded.folder.path().join("cpu.pb.gz"))).finish();
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    String::from_utf8(stdout).unwrap()
}

/// The one entry with a reason of this kind.
#[track_caller]
fn heaviest(gaps: &Gaps, is_it: impl Fn(&Unnamed) -> bool) -> Unnamed {
    let comments = gaps.unnamed.comments().join("\n");
    let entry = gaps.unnamed.entries.iter().find(|entry| is_it(entry));
    let entry = entry.unwrap_or_else(|| panic!("it is not among these:\n{comments}"));
    assert!(2 * entry.frames > gaps.unnamed.frames(), "{comments}");
    entry.clone()
}

#[test]
fn a_stripped_program_is_told_as_such() {
    let _turn = turn();
    let fixture = Fixture::start("bare/shares-stripped");
    let recorded = record(499, 1.0, &["--pid", &fixture.pid_text()]);
    let path = fixture::path("bare/shares-stripped");
    let path = path.to_str().unwrap();
    let entry = heaviest(&gaps(&recorded), |entry| {
        matches!(entry.cause, Reason::Stripped(..))
    });
    assert_eq!(entry.place, Place::object(path));
    let build_id = entry.build_id.unwrap();
    let note = format!("note: {} frames have no name", recorded.receipt.unnamed);
    assert!(recorded.stderr.contains(&note), "{}", recorded.stderr);
    let told = explain(&recorded, &[]);
    let told_build_id = format!("(build id {build_id})");
    for words in [path, "why: stripped", &told_build_id, "--debuginfod="] {
        assert!(told.contains(words), "{words} in:\n{told}");
    }
    let told: serde_json::Value = serde_json::from_str(&explain(&recorded, &["--json"])).unwrap();
    assert_eq!(told["told"], true);
    assert_eq!(told["unnamed"][0]["place"], path);
    assert_eq!(told["unnamed"][0]["mended"], false);
    assert_eq!(told["unnamed_frames"], recorded.receipt.unnamed);
}

#[test]
fn what_was_mended_since_is_told() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("server");
    let whole = fixture::path("bare/shares");
    let mut strip = Command::new("strip");
    let strip = strip.arg("-o").arg(&program).arg(&whole);
    assert!(strip.status().unwrap().success());
    let fixture = Fixture::of_command(Command::new(&program).arg("inf"));
    let recorded = record(499, 1.0, &["--pid", &fixture.pid_text()]);
    let again = "try: record again: what was missing is there now";
    let told = explain(&recorded, &[]);
    assert!(told.contains("why: stripped"), "{told}");
    assert!(!told.contains(again), "{told}");
    // The same build, with its symbols.
    fs::remove_file(&program).unwrap();
    fs::copy(&whole, &program).unwrap();
    let told = explain(&recorded, &[]);
    assert!(told.contains(again), "{told}");
}

#[test]
fn java_without_a_map_is_told_what_to_type() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("Spin.java");
    let code = "public class Spin { public static void main(String[] a) { System.out.println(\"ready\"); \
        int sum = 0; for (;;) { for (int i = 0; i < 100000; i++) { sum = (sum * 31 + i) % 1000003; } if (sum < 0) { return; } } } }";
    fs::write(&source, code).unwrap();
    let mut java = Command::new("java");
    let java = Fixture::of_command(java.args(["-XX:+PreserveFramePointer"]).arg(&source));
    let pid = java.pid();
    let recorded = record(199, 2.0, &["--pid", &java.pid_text()]);
    let reason = Reason::Made(Runtime::Java, JitReason::NoMap);
    let gaps = gaps(&recorded);
    let made = gaps.unnamed.entries.iter();
    let made = made
        .filter(|entry| entry.cause == reason)
        .collect::<Vec<_>>();
    let [entry] = made[..] else {
        panic!("{:?}", gaps.unnamed.comments());
    };
    assert!(matches!(&entry.place, Place::Process(told, _) if *told == Pid(pid)));
    let told = explain(&recorded, &[]);
    let advice = format!("try: jcmd {pid} Compiler.perfmap");
    assert!(told.contains(&advice), "{told}");
}

#[test]
fn a_file_that_was_gone_is_told_as_such() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("server");
    fs::copy(fixture::path("bare/plt"), &program).unwrap();
    let library = folder.path().join("libtiny.so");
    fs::copy(fixture::path("bare/libtiny.so"), &library).unwrap();
    let fixture = Fixture::of_command(Command::new(&program).arg("inf"));
    // Another file has the path, and without the right to open what is mapped that is all there is.
    fs::remove_file(&library).unwrap();
    fs::copy(fixture::path("bare/libone.so"), &library).unwrap();
    let mut drop = Command::new("setpriv");
    let rights = "-checkpoint_restore,-sys_admin";
    drop.args(["--bounding-set", rights, "--inh-caps", rights])
        .arg(BINARY);
    let recording = Recording::through(drop, 499, Some(1.0));
    let recorded = recording.args(&["--pid", &fixture.pid_text()]).record();
    let entry = heaviest(&gaps(&recorded), |entry| {
        matches!(entry.cause, Reason::Unopened(_))
    });
    let reasons = [Unopened::NoPermission, Unopened::Replaced].map(Reason::Unopened);
    assert!(reasons.contains(&entry.cause), "{entry:?}");
    assert_eq!(entry.place, Place::object(library.to_str().unwrap()));
}

#[test]
fn a_file_that_was_written_over_is_told_as_such() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("server");
    fs::copy(fixture::path("bare/plt"), &program).unwrap();
    let library = folder.path().join("libtiny.so");
    fs::copy(fixture::path("bare/libtiny.so"), &library).unwrap();
    let fixture = Fixture::of_command(Command::new(&program).arg("inf"));
    let mut recording = Recording::new(499, Some(2.0)).args(&["--pid", &fixture.pid_text()]);
    let mut running = recording.start();
    running.wait_until_sampling();
    // The kernel lets nobody write to a program that runs, but to a library.
    let now = std::time::SystemTime::now();
    File::options()
        .append(true)
        .open(&library)
        .unwrap()
        .set_modified(now)
        .unwrap();
    let recorded = recording.take(running.finish());
    let gaps = gaps(&recorded);
    let entries = gaps.unnamed.entries.iter();
    let places: Vec<String> = entries
        .filter(|entry| entry.cause == Reason::WrittenOver)
        .map(|entry| entry.place.to_string())
        .collect();
    assert_eq!(
        places,
        [library.to_str().unwrap()],
        "{:?}",
        gaps.unnamed.comments()
    );
}

#[test]
fn a_profile_where_everything_has_a_name_says_so() {
    let _turn = turn();
    let fixture = Fixture::start("bare/shares");
    let recorded = record(499, 1.0, &["--pid", &fixture.pid_text()]);
    assert_eq!(recorded.receipt.unnamed, 0, "{}", recorded.folded.text());
    assert!(!recorded.stderr.contains("no name"), "{}", recorded.stderr);
    let gaps = gaps(&recorded);
    assert!(gaps.unnamed.entries.is_empty());
    let told = explain(&recorded, &[]);
    assert!(told.starts_with("every frame has a name"), "{told}");
    let without = record(
        499,
        1.0,
        &["--pid", &fixture.pid_text(), "--no-inlines", "--no-kernel"],
    );
    let told = explain(&without, &[]);
    assert!(told.contains("why: --no-inlines was given"), "{told}");
}

/// Maps a file of a few instructions, and runs them: until a counter is 0.
const NO_ELF: &str = "\
import ctypes, sys
code = bytes.fromhex('4889f9' '48ffc9' '75fb' 'c3')
open(sys.argv[1], 'wb').write(code + bytes(4096 - len(code)))
file = open(sys.argv[1], 'rb')
mmap = ctypes.CDLL(None).mmap
mmap.restype = ctypes.c_void_p
mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
run = ctypes.CFUNCTYPE(None, ctypes.c_ulong)(mmap(None, 4096, 5, 2, file.fileno(), 0))
print('ready', flush=True)
while True: run(100000000)
";

#[test]
fn a_file_that_is_no_elf_file_is_told_as_such() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("code.image");
    let mut python = Command::new("python3");
    let fixture = Fixture::of_command(python.args(["-c", NO_ELF]).arg(&file));
    let recorded = record(499, 1.0, &["--pid", &fixture.pid_text()]);
    let entry = heaviest(&gaps(&recorded), |entry| entry.cause == Reason::NotElf);
    assert_eq!(entry.place, Place::object(file.to_str().unwrap()));
}

#[test]
fn every_frame_of_the_whole_host_has_a_name_or_a_reason() {
    let _turn = turn();
    let recorded = record(199, 1.0, &[]);
    let gaps = gaps(&recorded);
    let told = explain(&recorded, &[]);
    assert_eq!(gaps.unnamed.more_places, 0, "{told}");
    for entry in &gaps.unnamed.entries {
        assert!(told.contains(&entry.cause.to_string()), "{entry}\n{told}");
    }
}
