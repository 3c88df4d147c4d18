//! This very process as a target that tells of code it made.

use std::{
    fs,
    io::Write,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::*;
use crate::{object::Objects, process::Scope, target::Tid};

const SECOND: u64 = 1_000_000_000;

/// This very process as the target: it writes its own map.
struct Target {
    jit: Jit,
    processes: Processes,
    objects: Objects,
    pid: Pid,
    path: PathBuf,
    /// The map has the pid in its name, and tests are threads of one process.
    _turn: MutexGuard<'static, ()>,
}

static TURN: Mutex<()> = Mutex::new(());

impl Target {
    fn new(most_bytes: usize) -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let pid = Pid(std::process::id());
        let path = PathBuf::from(format!("/tmp/perf-{pid}.map"));
        let _ = fs::remove_file(&path);
        Self {
            jit: Jit::new(most_bytes),
            processes: Processes::new(Scope::All),
            objects: Objects::default(),
            pid,
            path,
            _turn: turn,
        }
    }

    fn place(&mut self, address: u64, time_ns: u64) -> Place {
        self.jit
            .place(self.pid, address, time_ns, || "target".to_owned())
    }

    fn append(&self, line: &str) {
        let file = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.path);
        writeln!(file.unwrap(), "{line}").unwrap();
    }

    /// Looks at that time, a second after the last write.
    fn read(&mut self, ns: u64) {
        let time = std::time::SystemTime::now() + Duration::from_secs(1);
        let now = Now { ns, time };
        self.jit.read(now, &self.processes, &self.objects);
    }

    fn event(&mut self, time_ns: u64, change: Change) {
        self.jit.apply(&ProcessEvent { time_ns, change });
    }

    fn finish(mut self, ns: u64) -> Finished {
        let time = std::time::SystemTime::now() + Duration::from_secs(1);
        let now = Now { ns, time };
        let jit = std::mem::take(&mut self.jit);
        jit.finish(now, &self.processes, &self.objects, LAST_PATIENCE)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn name(finished: &Finished, place: Place) -> &str {
    let name = finished.names[place.index()].as_ref();
    name.map_or("-", |name| name.function.as_str())
}

fn reasons(finished: &Finished) -> Vec<(JitReason, u64)> {
    let reports = finished.reports.iter();
    reports
        .map(|report| (report.reason, report.frames))
        .collect()
}

#[test]
fn replaced_code_has_its_own_name_at_its_own_time() {
    let mut target = Target::new(DEFAULT_BYTES);
    target.append("1000 100 first");
    target.jit.expect(target.pid);
    target.read(10 * SECOND);
    let first = target.place(0x1010, 9_500_000_000);
    target.append("1000 100 second");
    // It was in the file a second before.
    target.read(20 * SECOND);
    let second = target.place(0x1010, 19_500_000_000);
    let between = target.place(0x1010, 15 * SECOND);
    assert_ne!(first, second);
    assert_eq!(second, target.place(0x1010, 19_600_000_000));
    let finished = target.finish(30 * SECOND);
    assert_eq!(name(&finished, first), "first");
    assert_eq!(name(&finished, second), "second");
    assert_eq!(name(&finished, between), "-");
    assert_eq!(reasons(&finished), [(JitReason::Replaced, 1)]);
}

#[test]
fn a_map_that_comes_late_names_what_was_sampled_before() {
    let mut target = Target::new(DEFAULT_BYTES);
    let [named, unnamed] = [0x1010, 0x5000].map(|address| target.place(address, SECOND));
    target.read(2 * SECOND);
    target.append("0x1000 0x100 int Foo.bar(int)");
    let finished = target.finish(9 * SECOND);
    assert_eq!(name(&finished, named), "Foo.bar(int)");
    assert_eq!(name(&finished, unnamed), "-");
    assert_eq!(reasons(&finished), [(JitReason::NotInMap, 1)]);
}

#[test]
fn a_process_without_a_map_says_so() {
    let mut target = Target::new(DEFAULT_BYTES);
    for _ in 0..3 {
        target.place(0x1010, SECOND);
    }
    let finished = target.finish(2 * SECOND);
    assert_eq!(reasons(&finished), [(JitReason::NoMap, 3)]);
    assert_eq!(finished.reports[0].comm, "target");
}

#[test]
fn a_map_that_is_refused_says_why() {
    let mut target = Target::new(DEFAULT_BYTES);
    std::os::unix::fs::symlink("/etc/passwd", &target.path).unwrap();
    target.place(0x1010, SECOND);
    let finished = target.finish(2 * SECOND);
    let refused = JitReason::Refused(Refusal::SymbolicLink);
    assert_eq!(reasons(&finished), [(refused, 1)]);
}

#[test]
fn a_fifo_at_the_path_of_a_map_is_not_waited_for() {
    let mut target = Target::new(DEFAULT_BYTES);
    let kind = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &target.path,
        kind,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    target.place(0x1010, SECOND);
    let finished = target.finish(2 * SECOND);
    let refused = JitReason::Refused(Refusal::NotAFile);
    assert_eq!(reasons(&finished), [(refused, 1)]);
}

#[test]
fn a_process_that_is_gone_before_it_was_looked_at_says_so() {
    let mut target = Target::new(DEFAULT_BYTES);
    target.pid = Pid(u32::MAX >> 2);
    target.place(0x1010, SECOND);
    let finished = target.finish(2 * SECOND);
    assert_eq!(reasons(&finished), [(JitReason::Gone, 1)]);
}

#[test]
fn a_child_has_its_parents_code_up_to_the_fork() {
    let mut target = Target::new(DEFAULT_BYTES);
    target.append("1000 100 before");
    target.jit.expect(target.pid);
    target.read(10 * SECOND);
    let (parent, child) = (target.pid, Pid(u32::MAX >> 2));
    let fork = Change::Fork { pid: child, parent };
    target.event(10 * SECOND, fork);
    target.append("1000 100 after\n2000 100 new");
    target.read(20 * SECOND);
    let parents = target.place(0x1010, 19_500_000_000);
    target.pid = child;
    let [old, new] = [0x1010, 0x2010].map(|address| target.place(address, 19_500_000_000));
    target.pid = parent;
    let finished = target.finish(30 * SECOND);
    assert_eq!(name(&finished, parents), "after");
    assert_eq!(name(&finished, old), "before");
    assert_eq!(name(&finished, new), "-");
}

#[test]
fn another_program_has_no_code_from_before() {
    let mut target = Target::new(DEFAULT_BYTES);
    target.append("1000 100 before");
    target.jit.expect(target.pid);
    target.read(10 * SECOND);
    let before = target.place(0x1010, 9_500_000_000);
    let exec = Change::Exec {
        pid: target.pid,
        comm: "other".to_owned(),
    };
    target.event(11 * SECOND, exec);
    let after = target.place(0x1010, 12 * SECOND);
    target.read(13 * SECOND);
    target.append("2000 100 own");
    target.read(20 * SECOND);
    let own = target.place(0x2010, 19_500_000_000);
    let finished = target.finish(30 * SECOND);
    assert_eq!(name(&finished, before), "before");
    assert_eq!(name(&finished, after), "-");
    assert_eq!(name(&finished, own), "own");
}

#[test]
fn a_pid_that_is_given_to_another_process_starts_anew() {
    let mut target = Target::new(DEFAULT_BYTES);
    target.append("1000 100 before");
    target.jit.expect(target.pid);
    target.read(10 * SECOND);
    let before = target.place(0x1010, 9_500_000_000);
    let exit = Change::Exit {
        pid: target.pid,
        tid: Tid(target.pid.0),
    };
    target.event(11 * SECOND, exit);
    target.jit.forget(&[target.pid]);
    fs::remove_file(&target.path).unwrap();
    let after = target.place(0x1010, 12 * SECOND);
    let finished = target.finish(30 * SECOND);
    assert_eq!(name(&finished, before), "before");
    assert_eq!(name(&finished, after), "-");
}

#[test]
fn a_map_beyond_the_memory_keeps_its_newest_part_and_the_names_it_gave() {
    let mut target = Target::new(1 << 20);
    target.append("1000 100 first");
    target.jit.expect(target.pid);
    target.read(10 * SECOND);
    let first = target.place(0x1010, 9_500_000_000);
    let lines: Vec<String> = (0..50_000)
        .map(|number| format!("{:x} 10 f{number}", 0x10_0000 + number * 16))
        .collect();
    target.append(&lines.join("\n"));
    target.read(20 * SECOND);
    let bytes: usize = target
        .jit
        .processes
        .values()
        .map(|it| it.borrow().bytes())
        .sum();
    assert!(bytes <= 1 << 20, "{bytes}");
    let last = target.place(0x10_0000 + 49_999 * 16, 19_500_000_000);
    let gone = target.place(0x10_0000, 19_500_000_000);
    let finished = target.finish(30 * SECOND);
    assert_eq!(name(&finished, first), "first");
    assert_eq!(name(&finished, last), "f49999");
    assert_eq!(name(&finished, gone), "-");
    assert_eq!(reasons(&finished), [(JitReason::LeftOut, 1)]);
}

#[test]
fn a_map_that_was_replaced_by_another_file_is_read_anew() {
    let mut target = Target::new(DEFAULT_BYTES);
    target.append("1000 100 before\n3000 100 dropped");
    target.jit.expect(target.pid);
    target.read(10 * SECOND);
    fs::remove_file(&target.path).unwrap();
    target.append("2000 100 after");
    target.read(20 * SECOND);
    let [after, dropped] = [0x2010, 0x3010].map(|address| target.place(address, 19_500_000_000));
    let finished = target.finish(30 * SECOND);
    assert_eq!(name(&finished, after), "after");
    assert_eq!(name(&finished, dropped), "-");
}
