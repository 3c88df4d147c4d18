//! How recordings end: by time, with their target, by a signal, by the worst signal of all.

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::{
    bpf_ids::{exists, held_by},
    fixture::Fixture,
    host::walkers,
    program::{PATIENCE, Running, binary, wait_until},
    recording::{Recording, record},
    turn,
};

#[test]
fn the_end_of_the_target_ends_the_recording() {
    let _turn = turn();
    // Long enough for the recording to be under way before it ends.
    let fixture = Fixture::start_with("shares", &["5"]);
    let start = Instant::now();
    let recording = Recording::new(499, Some(60.0)).args(&["--pid", &fixture.pid_text()]);
    let recorded = recording.record();
    assert!(start.elapsed() < Duration::from_secs(30));
    assert!(recorded.receipt.kept > 100, "{:?}", recorded.receipt);
    assert!(
        recorded.pprof.seconds() < 5.5,
        "{} s",
        recorded.pprof.seconds()
    );
}

#[test]
fn a_signal_ends_the_recording_and_it_is_written() {
    let _turn = turn();
    let fixture = Fixture::start("shares");
    for signal in [Signal::INT, Signal::TERM] {
        let mut recording = Recording::new(997, Some(300.0)).args(&["--pid", &fixture.pid_text()]);
        let mut running = recording.start();
        running.wait_until_sampling();
        let asked = Instant::now();
        running.signal(signal);
        let recorded = recording.take(running.finish());
        assert!(asked.elapsed() < Duration::from_secs(30), "{signal:?}");
        assert!(recorded.receipt.kept > 20, "{:?}", recorded.receipt);
    }
}

#[test]
fn a_signal_ends_the_command_too() {
    let _turn = turn();
    let program = crate::fixture::path("shares");
    let mut recording = Recording::new(997, None).args(&["--", program.to_str().unwrap(), "inf"]);
    let mut running = recording.start();
    running.wait_until_sampling();
    running.signal(Signal::INT);
    let recorded = recording.take(running.finish());
    // The fixture wrote its first lines to our pipe, which is closed: nobody holds it any more.
    let text = String::from_utf8(recorded.stdout).unwrap();
    let pid = text
        .lines()
        .find_map(|line| line.strip_prefix("pid "))
        .unwrap();
    let comm = fs::read_to_string(format!("/proc/{pid}/comm"));
    assert!(comm.is_err(), "the command still runs: {comm:?}");
}

#[test]
fn a_fraction_of_a_second_is_kept_to() {
    let _turn = turn();
    let fixture = Fixture::start("shares");
    let recorded = record(997, 0.3, &["--pid", &fixture.pid_text()]);
    let seconds = recorded.pprof.seconds();
    assert!((0.29..0.6).contains(&seconds), "{seconds} s");
}

#[test]
fn a_profile_is_written_in_every_format_at_once() {
    let _turn = turn();
    let fixture = Fixture::start("shares");
    let folder = tempfile::tempdir().unwrap();
    let picture = folder.path().join("cpu.svg");
    let recorded = Recording::new(499, Some(1.0))
        .args(&[
            "--pid",
            &fixture.pid_text(),
            "-o",
            picture.to_str().unwrap(),
        ])
        .record();
    let picture = fs::read_to_string(picture).unwrap();
    assert!(picture.contains("<svg") && picture.trim_end().ends_with("</svg>"));
    let total = format!("{} samples", recorded.receipt.kept);
    assert!(
        picture.contains("alpha") && picture.contains(&total),
        "{total}"
    );
    let names: Vec<_> = fs::read_dir(recorded.folder.path())
        .unwrap()
        .flatten()
        .collect();
    assert_eq!(names.len(), 2, "no temporary file is left: {names:?}");
}

/// Kills a recording with these arguments in its midst.
#[track_caller]
fn check_killed(fixture: &Fixture, more: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(binary());
    command.args(["-F", "997", "--pid", &fixture.pid_text(), "-o"]);
    command.arg(folder.path().join("cpu.pb.gz")).args(more);
    let mut running = Running::start(&mut command);
    running.wait_until_sampling();
    let held = held_by(running.pid());
    for kind in ["prog", "map"] {
        assert!(
            held.iter().any(|id| id.kind == kind && exists(id)),
            "{held:?}"
        );
    }
    running.signal(Signal::KILL);
    assert_eq!(running.finish().code, None);
    wait_until(
        "the kernel has let go of it",
        Duration::from_secs(30),
        || !held.iter().any(exists),
    );
    assert_eq!(
        fs::read_dir(folder.path()).unwrap().count(),
        0,
        "a file is left"
    );
}

#[test]
fn nothing_is_left_behind_when_it_is_killed() {
    let _turn = turn();
    check_killed(&Fixture::start("shares"), &[]);
}

#[test]
fn nothing_is_left_behind_however_it_follows_and_walks() {
    let _turn = turn();
    let fixture = Fixture::start("shares");
    check_killed(&fixture, &["--follow"]);
    for walker in walkers() {
        check_killed(&fixture, &["--walker", walker]);
    }
}

#[test]
fn a_killed_recording_leaves_its_command_alone() {
    let _turn = turn();
    let program = crate::fixture::path("shares");
    let folder = tempfile::tempdir().unwrap();
    let marker = folder.path().join("ended");
    let script = format!(
        "'{}' 2 >&2; touch '{}'",
        program.display(),
        marker.display()
    );
    let mut command = Command::new(binary());
    command
        .args(["-F", "997", "-o"])
        .arg(folder.path().join("cpu.pb.gz"));
    command.args(["--", "sh", "-c", &script]);
    let mut running = Running::start(&mut command);
    running.wait_until_sampling();
    running.signal(Signal::KILL);
    assert_eq!(running.finish().code, None);
    wait_until("the command has ended by itself", PATIENCE, || {
        marker.exists()
    });
}

#[test]
fn a_target_that_does_nothing_gives_an_empty_profile() {
    let _turn = turn();
    let fixture = Fixture::start("idle");
    for seconds in [0.05, 0.5] {
        let recorded = record(99, seconds, &["--pid", &fixture.pid_text()]);
        assert_eq!(recorded.receipt.kept, 0, "{:?}", recorded.receipt);
        assert_eq!(recorded.folded.total(), 0);
        let main = recorded.pprof.main_path();
        assert!(
            main.ends_with("/idle"),
            "it is known what was profiled: {main}"
        );
        let note = "note: no samples: the targets used no CPU in ";
        assert!(recorded.stderr.contains(note), "{}", recorded.stderr);
    }
}

#[test]
fn a_very_short_recording_has_an_exact_account() {
    let _turn = turn();
    let fixture = Fixture::start("threads");
    for hertz in [99, 4999] {
        let recorded = record(hertz, 0.05, &["--pid", &fixture.pid_text(), "--strict"]);
        assert!(
            recorded.pprof.seconds() < 0.5,
            "{} s",
            recorded.pprof.seconds()
        );
    }
}
