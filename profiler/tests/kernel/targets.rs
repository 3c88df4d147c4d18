//! What is sampled, and what is not: names, threads, cgroups, the whole host.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use crate::{
    cgroups::{TestCgroup, mount_point},
    fixture::{self, Fixture},
    pprof::PprofSample,
    recording::{Recorded, record},
    turn,
};

const HERTZ: u32 = 499;

/// Fails unless there are samples of these processes and of no other.
#[track_caller]
fn check_pids(recorded: &Recorded, fixtures: &[&Fixture]) {
    let expected: BTreeSet<i64> = fixtures
        .iter()
        .map(|fixture| i64::from(fixture.pid()))
        .collect();
    assert_eq!(
        recorded.pprof.label_numbers("pid"),
        expected,
        "{}",
        recorded.stderr
    );
    let labelled = |sample: &PprofSample| sample.numbers.contains_key("pid");
    assert!(recorded.pprof.samples().iter().all(labelled));
}

#[test]
fn several_pids_are_sampled_together() {
    let _turn = turn();
    let [one, two, other] = ["shares", "threads", "shares"].map(Fixture::start);
    let pids = format!("{},{}", one.pid(), two.pid());
    let recorded = record(HERTZ, 1.5, &["--pid", &pids, "--labels", "pid"]);
    check_pids(&recorded, &[&one, &two]);
    for sample in recorded.pprof.samples() {
        let spins = (0..4).any(|number| sample.has(&format!("spin_{number}")));
        let is_two = sample.numbers["pid"] == i64::from(two.pid());
        assert!(!spins || is_two, "{sample:?}");
        assert!(!(sample.has("alpha") && is_two), "{sample:?}");
    }
    drop(other);
}

#[test]
fn a_name_means_processes_and_threads() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    // A name that nobody else on this machine has.
    let name = format!("kt-{}", std::process::id());
    let copy = folder.path().join(&name);
    fs::copy(fixture::path("threads"), &copy).unwrap();
    let named = Fixture::of_command(Command::new(&copy).arg("inf"));
    for thread in ["worker-0", "worker-3"] {
        named.thread_named(thread);
    }
    let other = Fixture::start("shares");
    // A process of that name, with its threads, which have other names.
    let recorded = record(HERTZ, 1.5, &["--comm", &name, "--labels", "pid,comm"]);
    check_pids(&recorded, &[&named]);
    let comms: BTreeSet<&str> = recorded
        .folded
        .0
        .iter()
        .map(|stack| stack.comm.as_str())
        .collect();
    assert!(
        comms.contains("worker-0") && comms.contains("worker-3"),
        "{comms:?}"
    );
    drop(other);
}

#[test]
fn a_process_that_takes_a_name_later_is_sampled() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let name = format!("kt-late-{}", std::process::id());
    let copy = folder.path().join(&name);
    fs::copy(fixture::path("shares"), &copy).unwrap();
    let script = format!(
        "while [ ! -e '{0}/go' ]; do sleep 0.05; done; exec '{1}' inf",
        folder.path().display(),
        copy.display()
    );
    let mut recording = crate::recording::Recording::new(HERTZ, Some(3.0))
        .args(&["--comm", &name, "--labels", "pid,comm"]);
    let mut running = recording.start();
    running.wait_until_sampling();
    fs::write(folder.path().join("go"), "").unwrap();
    let late = Fixture::of_command(Command::new("sh").args(["-c", &script]));
    let recorded = recording.take(running.finish());
    check_pids(&recorded, &[&late]);
    let share = recorded
        .folded
        .percent(|stack| stack.calls(&["main", "run"]));
    assert!(share > 90.0, "{share:.1} %:\n{}", recorded.folded.text());
}

#[test]
fn one_thread_is_sampled_alone() {
    let _turn = turn();
    let fixture = Fixture::start("threads");
    let tid = fixture.thread_named("worker-2");
    let recorded = record(
        HERTZ,
        1.5,
        &["--tid", &tid.to_string(), "--labels", "pid,tid"],
    );
    check_pids(&recorded, &[&fixture]);
    assert_eq!(
        recorded.pprof.label_numbers("tid"),
        BTreeSet::from([i64::from(tid)])
    );
    let share = recorded
        .folded
        .percent(|stack| stack.calls(&["thread_body_2", "spin_2"]));
    assert!(share >= 97.0, "{share:.1} %:\n{}", recorded.folded.text());
}

#[track_caller]
fn check_cgroup(tree: &Path) {
    let [inside, outside] = ["shares", "threads"].map(Fixture::start);
    let mut cgroup = TestCgroup::make(tree);
    cgroup.take_in(&inside);
    // By its directory, and by its path as the kernel tells it; with what is below it.
    for path in [cgroup.path().to_owned(), cgroup.path_in_tree()] {
        let recorded = record(HERTZ, 1.0, &["--cgroup", &path, "--labels", "pid,cgroup"]);
        check_pids(&recorded, &[&inside]);
        let share = recorded
            .folded
            .percent(|stack| stack.calls(&["main", "run"]));
        assert!(share > 95.0, "{share:.1} %:\n{}", recorded.folded.text());
    }
    drop(inside);
    drop(outside);
}

#[test]
fn a_cgroup_of_version_2_is_sampled_with_all_below_it() {
    let _turn = turn();
    match mount_point("cgroup2", |_| true) {
        Some(tree) => check_cgroup(&tree),
        None => eprintln!("skipped: no cgroup v2 tree is mounted"),
    }
}

#[test]
fn a_cgroup_of_version_1_is_sampled_with_all_below_it() {
    let _turn = turn();
    // A controller that lets any process in.
    match mount_point("cgroup", |point| point.ends_with("cpuacct")) {
        Some(tree) => check_cgroup(&tree),
        None => eprintln!("skipped: no cgroup v1 tree of cpuacct is mounted"),
    }
}

#[test]
fn the_whole_host_is_everyone() {
    let _turn = turn();
    let [one, two] = ["shares", "syscalls"].map(Fixture::start);
    for arguments in [&["--all", "--labels", "pid"][..], &["--labels", "pid"]] {
        let recorded = record(HERTZ, 1.5, arguments);
        let pids = recorded.pprof.label_numbers("pid");
        assert!(!pids.contains(&0), "the idle task is nobody's work");
        for fixture in [&one, &two] {
            let of_fixture =
                |sample: &PprofSample| sample.numbers["pid"] == i64::from(fixture.pid());
            let samples = recorded.pprof.samples();
            let chosen = samples.iter().filter(|sample| of_fixture(sample));
            let count: u64 = chosen.map(|sample| sample.count).sum();
            assert!(count > 50, "{count} samples of {}", fixture.pid());
        }
        for sample in recorded.pprof.samples() {
            let of_one = sample.numbers["pid"] == i64::from(one.pid());
            assert!(!(of_one && sample.has("read_loop")), "{sample:?}");
        }
    }
}

#[test]
fn the_account_of_the_whole_host_is_exact() {
    let _turn = turn();
    let fixture = Fixture::start("threads");
    let recorded = record(99, 2.0, &[]);
    assert!(recorded.receipt.kept > 100, "{:?}", recorded.receipt);
    assert!(recorded.pprof.main_path().starts_with("system-wide on "));
    let threads = recorded
        .folded
        .count(|stack| stack.comm.starts_with("worker-"));
    assert!(threads > 50, "{}", recorded.folded.text());
    drop(fixture);
}

#[test]
fn a_kernel_thread_can_be_sampled_without_user_stacks() {
    let _turn = turn();
    let fixture = Fixture::start("syscalls");
    // It hardly ever runs, so the profile may be empty; the account is not.
    let recorded = record(HERTZ, 0.5, &["--pid", "2", "--no-user", "--labels", "pid"]);
    let pids = recorded.pprof.label_numbers("pid");
    assert!(pids.iter().all(|pid| *pid == 2), "{pids:?}");
    drop(fixture);
}
