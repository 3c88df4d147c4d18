//! A file system that does not answer costs the names of what is on it, and nothing else.

use std::{
    fs,
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use ebpfprof::{
    export::read_back,
    jit::{JitReason, Refusal},
    object::{Unopened, opener},
    unnamed::{Gaps, Reason},
};
use rustix::process::Signal;

use crate::{
    fixture::{self, Fixture},
    folded::{Stack, percent},
    fuse::Fuse,
    program::BINARY,
    recording::{Recorded, Recording},
    turn,
};

const HERTZ: u32 = 499;
/// How much longer than its samples a recording may take, on a busy host: it starts, waits once or
/// a few times for half a second, and writes.
const SLACK: Duration = Duration::from_secs(20);
/// How long the end may take once it was asked for.
const END: Duration = Duration::from_secs(10);
const WORDS: &str = "does not answer";

const SHARES: [&[&str]; 3] = [
    &["main", "run", "alpha"],
    &["main", "run", "beta", "gamma"],
    &["main", "run", "delta"],
];

/// A file system with this program on it.
#[track_caller]
fn with_program(name: &str) -> Fuse {
    let bytes = fs::read(fixture::path(name)).unwrap();
    Fuse::mount(&[("server", bytes)])
}

/// That program, at work.
#[track_caller]
fn start(fuse: &Fuse) -> Fixture {
    let program = fuse.cached("server");
    let fixture = Fixture::of_command(Command::new(program).arg("inf"));
    fixture.wait_until_busy();
    fixture
}

/// The reasons why frames have no name.
#[track_caller]
fn reasons(recorded: &Recorded) -> Vec<Reason> {
    let file = fs::File::open(recorded.folder.path().join("cpu.pb.gz")).unwrap();
    let comments = read_back(file).unwrap().comments;
    let gaps = Gaps::of_comments(comments.iter().map(String::as_str)).unwrap();
    gaps.unnamed.entries.iter().map(|it| it.cause).collect()
}

/// Percent of the stacks of threads of this name that are complete and go through the fixture.
#[track_caller]
fn percent_known(recorded: &Recorded, comm: &str) -> f64 {
    let folded = &recorded.folded;
    let is_its = |stack: &Stack| stack.comm == comm;
    let is_known = |stack: &Stack| stack.has("_start") && stack.calls(&["main", "run"]);
    let all = folded.count(is_its);
    assert!(all > 100, "{}", folded.text());
    percent(folded.count(|stack| is_its(stack) && is_known(stack)), all)
}

#[test]
fn a_program_on_a_file_system_that_hangs_is_recorded_in_time_without_its_names() {
    let _turn = turn();
    let fuse = with_program("bare/shares-static");
    let fixture = start(&fuse);
    fuse.hang();
    let began = Instant::now();
    let recording = Recording::new(HERTZ, Some(2.0));
    let recorded = recording.args(&["--pid", &fixture.pid_text()]).record();
    assert!(began.elapsed() < SLACK, "{:?}", began.elapsed());
    assert!(fuse.unanswered() > 0, "it was not asked");
    let note = format!("the file system at {} {WORDS}", fuse.path().display());
    assert!(recorded.stderr.contains(&note), "{}", recorded.stderr);
    let silent = Reason::Unopened(Unopened::Silent);
    assert!(reasons(&recorded).contains(&silent), "{}", recorded.stderr);
    assert!(!recorded.folded.text().contains("alpha"));
}

#[test]
fn the_whole_host_is_recorded_while_a_file_system_hangs() {
    let _turn = turn();
    let fuse = with_program("bare/shares-static");
    let hung = start(&fuse);
    let other = Fixture::start("shares");
    fuse.hang();
    let began = Instant::now();
    let recorded = Recording::new(HERTZ, Some(6.0)).record();
    assert!(began.elapsed() < SLACK, "{:?}", began.elapsed());
    assert!(recorded.stderr.contains(WORDS), "{}", recorded.stderr);
    let known = percent_known(&recorded, "shares");
    // What arrives in the tenth of a second in which the file system is waited for may be cut.
    assert!(known > 90.0, "{known:.1} %:\n{}", recorded.folded.text());
    drop((hung, other));
}

#[test]
fn many_file_systems_that_hang_cost_a_few_deadlines() {
    const MOST_ASKED: usize = 4;
    let _turn = turn();
    let hung: Vec<(Fuse, Fixture)> = (0..MOST_ASKED + 2)
        .map(|_| {
            let fuse = with_program("bare/shares-static");
            let fixture = start(&fuse);
            (fuse, fixture)
        })
        .collect();
    let other = Fixture::start("shares");
    hung.iter().for_each(|(fuse, _)| fuse.hang());
    let pids = hung.iter().map(|(_, fixture)| fixture.pid_text());
    let pids: Vec<String> = pids.chain([other.pid_text()]).collect();
    let began = Instant::now();
    let recording = Recording::new(HERTZ, Some(3.0)).args(&["--pid", &pids.join(",")]);
    let recorded = recording.record();
    assert!(began.elapsed() < SLACK, "{:?}", began.elapsed());
    let notes = recorded.stderr.matches(WORDS).count();
    assert_eq!(notes, MOST_ASKED, "{}", recorded.stderr);
    // What has no server is opened as ever.
    let known = percent_known(&recorded, "shares");
    assert!(known > 97.0, "{known:.1} %:\n{}", recorded.folded.text());
    let named = recorded
        .folded
        .count(|stack| stack.comm == "server" && stack.has("alpha"));
    assert_eq!(named, 0, "{}", recorded.folded.text());
}

#[test]
fn nobody_is_served_who_could_gain_rights_by_it() {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    // Else it would be served rightly, and nothing be shown.
    assert!(
        status.contains("NoNewPrivs:\t0"),
        "run it where rights can be gained"
    );
    let (_ours, theirs) = UnixStream::pair().unwrap();
    let mut command = Command::new(BINARY);
    let command = command.arg(opener::VERB).stdout(Stdio::null());
    let status = command.stdin(OwnedFd::from(theirs)).status().unwrap();
    assert_eq!(status.code(), Some(1));
}

#[test]
fn a_signal_ends_a_recording_at_once_while_a_file_system_hangs() {
    let _turn = turn();
    let fuse = with_program("bare/shares-static");
    let fixture = start(&fuse);
    fuse.hang();
    let mut recording = Recording::new(HERTZ, None).args(&["--pid", &fixture.pid_text()]);
    let running = recording.start();
    // It waits for the file system now.
    fuse.wait_until_asked();
    let asked = Instant::now();
    running.signal(Signal::INT);
    let recorded = recording.take(running.finish());
    assert!(asked.elapsed() < END, "{:?}", asked.elapsed());
    assert!(recorded.stderr.contains(WORDS), "{}", recorded.stderr);
}

#[test]
fn a_program_has_its_names_if_its_file_system_hangs_later() {
    let _turn = turn();
    let fuse = with_program("bare/shares-static");
    let fixture = start(&fuse);
    let mut recording = Recording::new(HERTZ, Some(3.0)).args(&["--pid", &fixture.pid_text()]);
    let mut running = recording.start();
    running.wait_until_sampling();
    fuse.hang();
    let began = Instant::now();
    let recorded = recording.take(running.finish());
    assert!(began.elapsed() < SLACK, "{:?}", began.elapsed());
    let folded = &recorded.folded;
    let known = folded.percent(|stack| SHARES.iter().any(|chain| stack.calls(chain)));
    assert!(known > 90.0, "{known:.1} %:\n{}", folded.text());
    assert_eq!(recorded.receipt.unnamed, 0, "{}", recorded.stderr);
}

#[test]
fn a_link_from_a_perf_map_into_what_hangs_is_not_followed() {
    let _turn = turn();
    let fuse = Fuse::mount(&[("perf.map", b"1000 10 ghost\n".to_vec())]);
    let fixture = Fixture::start("jit_like");
    let map = format!("/tmp/perf-{}.map", fixture.pid());
    std::os::unix::fs::symlink(fuse.path().join("perf.map"), &map).unwrap();
    fuse.hang();
    let recording = Recording::new(HERTZ, Some(2.0));
    let recorded = recording.args(&["--pid", &fixture.pid_text()]).record();
    fs::remove_file(&map).unwrap();
    let refused = |reason: &Reason| {
        matches!(
            reason,
            Reason::Made(_, JitReason::Refused(Refusal::SymbolicLink))
        )
    };
    let reasons = reasons(&recorded);
    assert!(reasons.iter().any(refused), "{reasons:?}");
    assert_eq!(fuse.unanswered(), 0);
}

#[test]
fn a_perf_map_in_a_folder_that_hangs_costs_its_names() {
    let _turn = turn();
    let fuse = Fuse::mount(&[("none", Vec::new())]);
    let mut command = Command::new("unshare");
    command.arg("-m").arg(fixture::path("jit_like")).arg("inf");
    let fixture = Fixture::of_command(&mut command);
    // Only the process has it there.
    let mut bind = Command::new("nsenter");
    bind.args(["-m", "-t", &fixture.pid_text(), "mount", "--bind"])
        .arg(fuse.path())
        .arg("/tmp");
    assert!(bind.status().unwrap().success(), "{bind:?}");
    fixture.wait_until_busy();
    fuse.hang();
    let began = Instant::now();
    let recording = Recording::new(HERTZ, Some(2.0));
    let recorded = recording.args(&["--pid", &fixture.pid_text()]).record();
    assert!(began.elapsed() < SLACK, "{:?}", began.elapsed());
    assert!(fuse.unanswered() > 0, "it was not asked");
    let silent =
        |reason: &Reason| matches!(reason, Reason::Made(_, JitReason::Refused(Refusal::Silent)));
    let reasons = reasons(&recorded);
    assert!(
        reasons.iter().any(silent),
        "{reasons:?}\n{}",
        recorded.stderr
    );
    let own = recorded.folded.percent(|stack| stack.has("main"));
    assert!(own > 90.0, "{own:.1} %:\n{}", recorded.folded.text());
}
