//! Code made at run time has the names that its runtime tells, each at its own time.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use crate::{
    fixture::{self, Fixture},
    folded::{Folded, Stack},
    recording::{Recorded, Recording},
    turn,
};

const HERTZ: u32 = 499;

/// Up to the middle, and from there on.
const FIRST: [&str; 4] = ["main", "run", "call_first", "first_[j]"];
const SECOND: [&str; 4] = ["main", "run", "call_second", "second_[j]"];
const OF_CHILD: [&str; 4] = ["main", "child_run", "call_first", "first_[j]"];

/// Records a command from its start to its end.
#[track_caller]
fn record_command(command: &[&str]) -> Recorded {
    let arguments = [&["--labels", "comm,pid", "--"], command].concat();
    Recording::new(HERTZ, None).args(&arguments).record()
}

fn is_of_parent(stack: &Stack) -> bool {
    stack.calls(&["main", "run"])
}

/// The share of the stacks with some call that are this chain.
fn share(folded: &Folded, among: impl Fn(&Stack) -> bool, chain: &[&str]) -> f64 {
    let all = folded.count(|stack| among(stack) && !stack.in_kernel());
    let those = folded.count(|stack| among(stack) && stack.calls(chain));
    crate::folded::percent(those, all)
}

/// Fails unless both halves have their own names, and never the other's. At the moment of the change
/// a map does not tell: then there is no name.
#[track_caller]
fn check_halves(folded: &Folded) {
    for (caller, name) in [("call_first", "second_[j]"), ("call_second", "first_[j]")] {
        assert_eq!(
            folded.count(|stack| stack.calls(&[caller, name])),
            0,
            "{}",
            folded.text()
        );
    }
    for (caller, chain) in [("call_first", FIRST), ("call_second", SECOND)] {
        let named = share(
            folded,
            |stack| is_of_parent(stack) && stack.has(caller),
            &chain,
        );
        // What runs in the caller itself is little; of a map's 2 seconds 0.1 may be in doubt.
        assert!(named > 85.0, "{caller}: {named:.1} %:\n{}", folded.text());
    }
}

fn named_fixture() -> String {
    fixture::path("jit_named").to_string_lossy().into_owned()
}

#[test]
fn code_that_takes_the_place_of_other_code_has_its_own_name() {
    let _turn = turn();
    let program = named_fixture();
    for kind in ["map", "dump"] {
        let recorded = record_command(&[&program, kind, "4"]);
        check_halves(&recorded.folded);
    }
}

#[test]
fn a_child_keeps_the_code_of_its_parent() {
    let _turn = turn();
    let program = named_fixture();
    for kind in ["map", "dump"] {
        let Recorded { folded, .. } = record_command(&[&program, kind, "4", "fork"]);
        check_halves(&folded);
        let of_child = |stack: &Stack| stack.comm == "jit-child" && stack.has("call_first");
        let named = share(&folded, of_child, &OF_CHILD);
        assert!(named > 90.0, "{kind}: {named:.1} %:\n{}", folded.text());
    }
}

#[test]
fn a_map_is_found_in_the_namespaces_of_its_process() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    fs::copy(fixture::path("jit_named"), folder.path().join("jit_named")).unwrap();
    for kind in ["map", "dump"] {
        let script = format!(
            "mount --bind '{}' /tmp && exec unshare -p -f --mount-proc /tmp/jit_named {kind} 4",
            folder.path().display()
        );
        let recorded = record_command(&["unshare", "-m", "sh", "-c", &script]);
        check_halves(&recorded.folded);
    }
}

#[test]
fn a_container_whose_program_is_deleted_is_named_with_the_code_it_makes() {
    let _turn = turn();
    for kind in ["map", "dump"] {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("jit_named");
        fs::copy(fixture::path("jit_named"), &program).unwrap();
        let script = format!(
            "mount --bind '{}' /tmp && unshare -p -f --mount-proc -n -u -i -C /tmp/jit_named {kind} 4 & sleep 1; rm /tmp/jit_named; wait",
            folder.path().display(),
        );
        let recorded = record_command(&["unshare", "-m", "sh", "-c", &script]);
        assert!(!program.exists());
        check_halves(&recorded.folded);
        let of_container = |stack: &Stack| stack.has("call_first") || stack.has("call_second");
        // At the moment of the change a map does not tell, which `check_halves` bounds.
        let is_nameless = |frame: &String| {
            frame.starts_with('[') && !frame.starts_with("[cut: ") && frame != "[jit]_[j]"
        };
        let nameless = |stack: &Stack| of_container(stack) && stack.frames.iter().any(is_nameless);
        let folded = &recorded.folded;
        assert!(folded.count(of_container) > 500, "{}", folded.text());
        assert_eq!(folded.count(nameless), 0, "{}", folded.text());
    }
}

#[test]
fn a_map_that_is_a_link_names_nothing() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let elsewhere = folder.path().join("elsewhere.map");
    fs::copy(fixture::path("jit_named"), folder.path().join("jit_named")).unwrap();
    fs::write(&elsewhere, "").unwrap();
    let script = format!(
        "mount --bind '{}' /tmp && ln -s elsewhere.map /tmp/perf-1.map && exec unshare -p -f --mount-proc /tmp/jit_named map 2",
        folder.path().display()
    );
    let Recorded { folded, .. } = record_command(&["unshare", "-m", "sh", "-c", &script]);
    assert!(fs::read(&elsewhere).is_ok_and(|text| !text.is_empty()));
    let unnamed = folded.count(|stack| stack.has("[jit]_[j]"));
    let named = folded.count(|stack| stack.has("first_[j]") || stack.has("second_[j]"));
    assert!(named == 0 && unnamed > 100, "{}", folded.text());
}

/// A program in a file of its own.
fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    path
}

/// Fails unless most stacks of a thread with code made at run time have a function, and hardly any
/// has such code without a name.
#[track_caller]
fn check_most(recorded: &Recorded, comm: &str, has: impl Fn(&str) -> bool) {
    let folded = &recorded.folded;
    let is_made = |frame: &String| frame.ends_with("_[j]");
    let of_thread = |stack: &Stack| stack.comm == comm && stack.frames.iter().any(is_made);
    let all = folded.count(of_thread);
    let named = |stack: &Stack| of_thread(stack) && stack.frames.iter().any(|frame| has(frame));
    let unnamed = |stack: &Stack| of_thread(stack) && stack.has("[jit]_[j]");
    let named = crate::folded::percent(folded.count(named), all);
    let unnamed = crate::folded::percent(folded.count(unnamed), all);
    let text = folded.text();
    assert!(all > 100 && named > 80.0, "{named:.1} % of {all}:\n{text}");
    assert!(unnamed < 5.0, "{unnamed:.1} % of {all}:\n{text}");
}

/// Spins in functions that stay functions: they are too large to be inlined.
const JAVASCRIPT: &str = "\
function spin(rounds) {
    let sum = 0;
    for (let i = 0; i < rounds; i++) { sum = (sum * 31 + i) % 1000003; }
    return sum;
}
function run() {
    let sum = 0;
    const end = Date.now() + Number(process.argv[2]);
    while (Date.now() < end) { sum += spin(200000); }
}
console.log('ready');
run();
";

/// Fails unless the functions of [`JAVASCRIPT`] have names, and their file and line.
#[track_caller]
fn check_node(recorded: &Recorded, script: &Path) {
    check_most(recorded, "node", |frame| {
        matches!(frame, "spin_[j]" | "run_[j]")
    });
    let file = script.to_string_lossy().into_owned();
    let mut sources = recorded.pprof.sources_of("run");
    sources.extend(recorded.pprof.sources_of("spin"));
    assert!(!sources.is_empty());
    let is_right = |source: &(String, i64)| source.0 == file && matches!(source.1, 1 | 6);
    assert!(sources.iter().all(is_right), "{sources:?}");
}

#[test]
fn functions_of_node_have_names_files_and_lines() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let script = write(folder.path(), "spin.js", JAVASCRIPT);
    let mut node = Command::new("node");
    node.args(["--perf-basic-prof", "--interpreted-frames-native-stack"])
        .arg(&script)
        .arg("60000")
        // It writes a log there.
        .current_dir(folder.path());
    let node = Fixture::of_command(&mut node);
    let pid = node.pid_text();
    let recorded = Recording::new(HERTZ, Some(2.0)).args(&["--pid", &pid]);
    let recorded = recorded.record();
    let _ = fs::remove_file(format!("/tmp/perf-{pid}.map"));
    check_node(&recorded, &script);
}

#[test]
fn a_jitdump_that_is_written_at_the_end_still_names() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let script = write(folder.path(), "spin.js", JAVASCRIPT);
    // V8 writes whole megabytes at a time, and the rest when it ends; into the folder it runs in.
    let command = format!(
        "cd '{}' && exec node --perf-prof --interpreted-frames-native-stack spin.js 3000",
        folder.path().display()
    );
    let recorded = record_command(&["sh", "-c", &command]);
    check_node(&recorded, &script);
}

const JAVA: &str = "\
public class Hot {
    static int spin(int rounds) {
        int sum = 0;
        for (int i = 0; i < rounds; i++) { sum = (sum * 31 + i) % 1000003; }
        return sum;
    }
    public static void main(String[] arguments) {
        System.out.println(\"ready\");
        int sum = 0;
        for (;;) { sum += spin(200000); }
    }
}
";

#[test]
fn methods_of_java_have_names_when_the_map_comes_late() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let source = write(folder.path(), "Hot.java", JAVA);
    let mut java = Command::new("java");
    java.arg("-XX:+PreserveFramePointer").arg(&source);
    let java = Fixture::of_command(&mut java);
    let pid = java.pid_text();
    let mut recording = Recording::new(HERTZ, Some(4.0)).args(&["--pid", &pid]);
    let mut running = recording.start();
    running.wait_until_sampling();
    thread::sleep(Duration::from_secs(1));
    let told = Command::new("jcmd")
        .args([&pid, "Compiler.perfmap"])
        .output();
    let told = told.unwrap();
    assert!(told.status.success(), "{told:?}");
    let recorded = recording.take(running.finish());
    let _ = fs::remove_file(format!("/tmp/perf-{pid}.map"));
    check_most(&recorded, "java", |frame| frame.starts_with("Hot."));
}
