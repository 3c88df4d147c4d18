//! The process table against events and samples in orders that happen.

use super::*;
use crate::{bpf::Comm, target::Tid};
use profiler_common::frame::{Frame, Position};

const PID: Pid = Pid(4_000_000);
const CHILD: Pid = Pid(4_000_001);

/// A table of one process that exists on no host, so that nothing is read from `/proc`.
struct Table {
    processes: Processes,
    objects: Objects,
}

impl Table {
    fn new() -> Self {
        let mut table = Self {
            processes: Processes::new(Scope::All),
            objects: Objects::default(),
        };
        table.apply(
            1,
            Change::Exec {
                pid: PID,
                comm: "x".into(),
            },
        );
        table
    }

    fn apply(&mut self, time_ns: u64, change: Change) {
        self.processes
            .apply(&ProcessEvent { time_ns, change }, &mut self.objects);
    }

    fn map(&mut self, time_ns: u64, pid: Pid, start: u64, path: &str) {
        let inode = path.bytes().map(u64::from).sum();
        let file = (!path.is_empty()).then_some(FileNumber {
            major: 99,
            minor: 99,
            inode,
        });
        let row = MapRow {
            start,
            end: start + 0x1000,
            file_offset: 0,
            file,
            path: path.into(),
        };
        self.apply(time_ns, Change::Map { pid, row });
    }

    /// Where a frame of a sample lies: the object's path and the address.
    fn place(&mut self, sample: &Sample) -> (Option<String>, u64) {
        let stack = self
            .processes
            .user_stack(sample, sample.time_ns, &mut self.objects);
        match stack.places[0] {
            UserPlace::Object(id, address) => (Some(self.objects.get(id).path.clone()), address.0),
            UserPlace::Jit(address) => (Some("jit".into()), address),
            UserPlace::Unknown(address) => (None, address),
        }
    }

    /// As if the kernel side had this process's table under this generation.
    fn publish(&mut self, pid: Pid, generation: u32) {
        let process = self.processes.processes.get_mut(&pid).unwrap();
        process.generation = Some(generation);
        let snapshot = Snapshot {
            pid,
            space: process.space.clone(),
            stale_from_ns: None,
        };
        self.processes.snapshots.insert(generation, snapshot);
    }
}

fn sample(pid: Pid, time_ns: u64, generation: u32, place: Place) -> Sample {
    Sample {
        pid,
        tid: Tid(pid.0),
        cpu: 0,
        generation,
        time_ns,
        cgroup_id: 0,
        captures: 1,
        comm: Comm::default(),
        kernel: vec![],
        unwalked: None,
        user: vec![Frame {
            place,
            position: Position::Exact,
            source: Source::Exact,
        }],
        kernel_stop: StopReason::Absent,
        user_stop: StopReason::Root,
    }
}

fn at(pid: Pid, time_ns: u64, address: u64) -> Sample {
    sample(pid, time_ns, 0, Place::Address(address))
}

#[test]
fn an_address_belongs_to_the_object_mapped_there_at_that_time() {
    let mut table = Table::new();
    assert_eq!(table.place(&at(PID, 2, 0x5010)), (None, 0x5010));
    table.map(3, PID, 0x5000, "/lib/a.so");
    assert_eq!(
        table.place(&at(PID, 4, 0x5010)),
        (Some("/lib/a.so".into()), 0x10)
    );
    table.map(5, PID, 0x5000, "/lib/b.so");
    assert_eq!(
        table.place(&at(PID, 6, 0x5010)),
        (Some("/lib/b.so".into()), 0x10)
    );
    table.map(7, PID, 0x9000, "");
    assert_eq!(
        table.place(&at(PID, 8, 0x9010)),
        (Some("jit".into()), 0x9010)
    );
}

#[test]
fn a_return_address_at_the_end_of_a_mapping_belongs_to_the_call_before_it() {
    let mut table = Table::new();
    table.map(2, PID, 0x5000, "/lib/a.so");
    let mut sample = at(PID, 3, 0x6000);
    assert_eq!(table.place(&sample), (None, 0x6000));
    sample.user[0].position = Position::ReturnAddress;
    assert_eq!(table.place(&sample), (Some("/lib/a.so".into()), 0xfff));
}

#[test]
fn a_child_has_its_parents_mappings_until_it_runs_another_program() {
    let mut table = Table::new();
    table.map(2, PID, 0x5000, "/bin/sh");
    table.apply(
        3,
        Change::Fork {
            pid: CHILD,
            parent: PID,
        },
    );
    assert_eq!(
        table.place(&at(CHILD, 4, 0x5010)).0.as_deref(),
        Some("/bin/sh")
    );
    table.apply(
        5,
        Change::Exec {
            pid: CHILD,
            comm: "ls".into(),
        },
    );
    table.map(6, CHILD, 0x5000, "/bin/ls");
    assert_eq!(
        table.place(&at(CHILD, 7, 0x5010)).0.as_deref(),
        Some("/bin/ls")
    );
    assert_eq!(
        table.place(&at(PID, 8, 0x5010)).0.as_deref(),
        Some("/bin/sh")
    );
}

#[test]
fn a_sample_of_a_process_that_has_ended_still_has_its_place() {
    let mut table = Table::new();
    table.map(2, PID, 0x5000, "/bin/sh");
    table.apply(
        3,
        Change::Exit {
            pid: PID,
            tid: Tid(PID.0),
        },
    );
    assert_eq!(
        table.place(&at(PID, 3, 0x5010)).0.as_deref(),
        Some("/bin/sh")
    );
}

#[test]
fn a_frame_translated_with_an_outdated_table_is_translated_anew() {
    let mut table = Table::new();
    table.map(2, PID, 0x5000, "/bin/sh");
    table.publish(PID, 7);
    let shell = table.processes.processes[&PID]
        .space
        .find(0x5000)
        .and_then(|mapping| mapping.object)
        .unwrap();
    let place = Place::Object {
        object: shell.get(),
        elf_address: 0x10,
    };
    let before = sample(PID, 4, 7, place);
    table.apply(
        5,
        Change::Exec {
            pid: PID,
            comm: "ls".into(),
        },
    );
    table.map(6, PID, 0x5000, "/bin/ls");
    let after = sample(PID, 8, 7, place);
    assert_eq!(table.place(&before).0.as_deref(), Some("/bin/sh"));
    assert_eq!(table.place(&after), (Some("/bin/ls".into()), 0x10));
}

#[test]
fn an_object_that_does_not_exist_is_unknown() {
    let mut table = Table::new();
    let place = Place::Object {
        object: 12_345,
        elf_address: 0x10,
    };
    assert_eq!(table.place(&sample(PID, 4, 1, place)), (None, 0x10));
}

#[test]
fn a_pid_that_lives_again_has_nothing_of_its_former_life() {
    let mut table = Table::new();
    table.map(2, PID, 0x5000, "/bin/sh");
    table.map(2, CHILD, 0x5000, "/bin/old");
    table.publish(CHILD, 3);
    table.apply(
        3,
        Change::Exit {
            pid: CHILD,
            tid: Tid(CHILD.0),
        },
    );
    table.apply(
        4,
        Change::Fork {
            pid: CHILD,
            parent: PID,
        },
    );
    assert_eq!(
        table.place(&at(CHILD, 5, 0x5010)).0.as_deref(),
        Some("/bin/sh")
    );
    assert_eq!(table.processes.snapshots[&3].stale_from_ns, Some(4));
}

#[test]
fn a_process_that_outlives_its_first_thread_is_forgotten_when_it_ends() {
    let mut table = Table::new();
    let exit = Change::Exit {
        pid: PID,
        tid: Tid(PID.0),
    };
    let gone = |table: &mut Table, seconds: u64, threads: usize| {
        table.processes.gone(seconds * 1_000_000_000, |_| threads)
    };
    table.apply(3, exit);
    assert_eq!(gone(&mut table, 4, 2), []);
    for seconds in [10, 20] {
        assert_eq!(gone(&mut table, seconds, 2), []);
        assert_eq!(table.processes.processes[&PID].ended_ns, None);
    }
    // Its samples may still be on their way.
    assert_eq!(gone(&mut table, 21, 1), []);
    assert_eq!(gone(&mut table, 25, 1), []);
    assert_eq!(gone(&mut table, 27, 1), [PID]);
    assert_eq!(gone(&mut table, 30, 1), []);
}

#[test]
fn another_program_ends_what_was_known_of_the_first_thread() {
    let mut table = Table::new();
    let exit = Change::Exit {
        pid: PID,
        tid: Tid(PID.0),
    };
    let comm = || "y".into();
    table.apply(3, exit);
    assert_eq!(table.processes.gone(10_000_000_000, |_| 2), []);
    table.apply(
        4,
        Change::Exec {
            pid: PID,
            comm: comm(),
        },
    );
    assert_eq!(table.processes.gone(20_000_000_000, |_| 1), []);
    assert_eq!(table.processes.gone(30_000_000_000, |_| 1), []);
    assert!(table.processes.processes.contains_key(&PID));
}

#[test]
fn processes_out_of_scope_are_not_kept() {
    let mut table = Table::new();
    table.processes = Processes::new(Scope::Only(HashSet::from([PID]), Follow::Yes));
    table.apply(
        2,
        Change::Exec {
            pid: Pid(4_000_009),
            comm: "other".into(),
        },
    );
    assert!(!table.processes.processes.contains_key(&Pid(4_000_009)));
    table.apply(
        3,
        Change::Exec {
            pid: PID,
            comm: "x".into(),
        },
    );
    table.apply(
        4,
        Change::Fork {
            pid: CHILD,
            parent: PID,
        },
    );
    assert!(table.processes.processes.contains_key(&CHILD));
}

#[test]
fn registers_that_an_exec_left_behind_are_the_old_programs() {
    let mut table = Table::new();
    table.map(2, PID, 0x5000, "/bin/sh");
    table.apply(
        3,
        Change::Exec {
            pid: PID,
            comm: "ls".into(),
        },
    );
    assert_eq!(
        table.place(&at(PID, 4, 0x5010)).0.as_deref(),
        Some("/bin/sh")
    );
    // Its callers are nobody's any more.
    let mut called = at(PID, 4, 0x5010);
    called.user.push(Frame {
        position: Position::ReturnAddress,
        ..called.user[0]
    });
    let stack = table.processes.user_stack(&called, 4, &mut table.objects);
    assert_eq!(
        (stack.places.len(), stack.stop),
        (1, StopReason::StaleMapping)
    );
    table.map(5, PID, 0x5000, "/bin/ls");
    assert_eq!(
        table.place(&at(PID, 6, 0x5010)).0.as_deref(),
        Some("/bin/ls")
    );
}
