//! Labels, as pprof shows them, filters by them and groups by them.

use std::path::{Path, PathBuf};

use crate::{
    cgroups::{TestCgroup, mount_point},
    fixture::Fixture,
    pprof::PprofSample,
    reader::{Reader, spoken},
    recording::record,
    subject, turn,
};

const EVERY_LABEL: &str = "pid,tid,comm,cpu,cgroup,container,thread";

/// As engines name the cgroup of a container.
const CONTAINER: &str = "5e1f0c7d9a3b48265e1f0c7d9a3b48265e1f0c7d9a3b48265e1f0c7d9a3b4826";

#[test]
fn labels_are_shown_and_filtered_and_grouped_by() {
    let recorded = {
        let _turn = turn();
        let fixture = Fixture::start("threads");
        fixture.thread_named("worker-3");
        let pid = fixture.pid_text();
        record(499, 1.5, &["--pid", &pid, "--labels", EVERY_LABEL])
    };
    let file = subject::file(&recorded);
    let samples = recorded.pprof.samples();
    let of = |function: &str| samples.iter().find(|sample| sample.has(function)).unwrap();
    let PprofSample { texts, numbers, .. } = of("spin_2");
    let other_thread = &of("spin_1").texts["thread"];
    assert_eq!(texts["comm"], "worker-2");
    let (tid, pid) = (numbers["tid"], numbers["pid"]);
    assert_eq!(texts["thread"], format!("worker-2 {tid}"));
    assert!(texts["cgroup"].starts_with('/'), "{texts:?}");
    // A 0 stays: CPU 0 is a CPU.
    let has_cpu = |sample: &PprofSample| sample.numbers.contains_key("cpu");
    assert!(samples.iter().all(has_cpu));
    for reader in Reader::all() {
        let tags = reader.show(&["-tags"], &[&file]);
        for key in ["pid", "tid", "comm", "cpu", "cgroup", "thread"] {
            let is_key = |line: &str| line.trim_start().starts_with(&format!("{key}: Total "));
            assert!(tags.lines().any(is_key), "no {key}:\n{tags}");
        }
        // Numbers are filtered by as numbers, texts by regular expression.
        for (focus, function, other) in [
            (format!("tid={tid}"), "spin_2", "spin_1"),
            (format!("thread={other_thread}"), "spin_1", "spin_2"),
            ("comm=worker-0".to_owned(), "spin_0", "spin_3"),
        ] {
            let top = focused(&reader, &focus, &file);
            assert!(
                top.contains(function) && !top.contains(other),
                "{focus}:\n{top}"
            );
        }
        let all = focused(&reader, &format!("pid={pid}"), &file);
        assert!((0..4).all(|n| all.contains(&format!("spin_{n}"))), "{all}");
        check_roots(&reader, &file, tid);
    }
}

/// What `-top` shows of the samples with a label. That a number is taken for a range of numbers is
/// what labels that are numbers are for; pprof says so whenever it does.
#[track_caller]
fn focused(reader: &Reader, focus: &str, file: &Path) -> String {
    let argument = format!("-tagfocus={focus}");
    let finished = reader.read(&["-top", &argument], &[file]);
    let (_, value) = focus.split_once('=').unwrap();
    let note = format!("tagfocus:Interpreted '{value}' as range, not regexp");
    let said = spoken(&finished.stderr);
    let is_number = value.parse::<u32>().is_ok();
    let expected: &[&str] = if is_number { &[&note] } else { &[] };
    assert!(finished.code == Some(0) && said == expected, "{said:?}");
    String::from_utf8(finished.stdout).unwrap()
}

/// Labels become the outermost frames.
#[track_caller]
fn check_roots(reader: &Reader, file: &Path, tid: i64) {
    let tree = reader.show(&["-traces", "-tagroot=comm,thread"], &[file]);
    let root = format!("worker-2 {tid}");
    let lines: Vec<&str> = tree.lines().map(str::trim).collect();
    let is_root = |pair: &[&str]| pair[0] == root && pair[1] == "worker-2";
    assert!(lines.windows(2).any(is_root), "{tree}");
}

#[test]
fn one_process_has_no_labels_and_many_have_two() {
    let (one, many) = {
        let _turn = turn();
        let [first, second] = ["shares", "threads"].map(Fixture::start);
        let pids = format!("{},{}", first.pid(), second.pid());
        let one = record(499, 0.7, &["--pid", &first.pid_text()]);
        (one, record(499, 0.7, &["--pid", &pids]))
    };
    for reader in Reader::all() {
        let none = reader.show(&["-tags"], &[&subject::file(&one)]);
        assert_eq!(none.trim(), "", "{none}");
        let tags = reader.show(&["-tags"], &[&subject::file(&many)]);
        let keys = tags.lines().filter(|line| line.contains(": Total "));
        let keys: Vec<&str> = keys
            .filter_map(|line| line.trim().split(':').next())
            .collect();
        assert_eq!(keys, ["comm", "pid"], "{tags}");
    }
}

/// A tree in which any process may be put into a cgroup.
fn trees() -> impl Iterator<Item = PathBuf> {
    let v2 = mount_point("cgroup2", |_| true);
    let v1 = mount_point("cgroup", |point| point.ends_with("memory"));
    v2.into_iter().chain(v1)
}

#[test]
fn a_container_is_told_by_the_cgroup_in_both_versions() {
    let mut checked = 0;
    for tree in trees() {
        let recorded = {
            let _turn = turn();
            let fixture = Fixture::start("shares");
            let mut cgroup = TestCgroup::make_below(&tree, &format!("docker-{CONTAINER}.scope"));
            cgroup.take_in(&fixture);
            let pid = fixture.pid_text();
            let recorded = record(499, 0.7, &["--pid", &pid, "--labels", "container,cgroup"]);
            drop(fixture);
            recorded
        };
        for sample in recorded.pprof.samples() {
            let container = sample.texts.get("container").map(String::as_str);
            assert_eq!(container, Some(CONTAINER), "{}: {sample:?}", tree.display());
        }
        for reader in Reader::all() {
            let tags = reader.show(&["-tags"], &[&subject::file(&recorded)]);
            assert!(tags.contains(CONTAINER), "{tags}");
        }
        checked += 1;
    }
    assert!(checked > 0, "no cgroup tree is mounted");
}
