//! Forgets processes that have ended, once nothing of theirs is still on its way.

use std::collections::HashSet;

use super::{Processes, Scope};
use crate::{bpf::Tables, target::Pid};

/// How long what is known of an ended process is kept: events and samples of different CPUs arrive
/// within one poll of each other.
const AFTERLIFE_NS: u64 = 5_000_000_000;
/// How often those are looked for: in a storm of forks there are tens of thousands.
const SWEEP_NS: u64 = 500_000_000;

impl Processes {
    /// Forgets processes that ended a while ago, and tables that nobody can have used since, if it did
    /// not do so just now.
    pub(super) fn sweep(&mut self, now_ns: u64, tables: &mut Tables) -> Vec<Pid> {
        if now_ns < self.last_sweep_ns + SWEEP_NS {
            return Vec::new();
        }
        self.last_sweep_ns = now_ns;
        let gone = self.gone(now_ns, threads);
        for pid in &gone {
            tables.withdraw(*pid);
            self.processes.remove(pid);
            if let Scope::Only(pids, _) = &mut self.scope {
                pids.remove(pid);
            }
        }
        let in_use: HashSet<u32> = self
            .processes
            .values()
            .filter_map(|process| process.generation)
            .collect();
        self.snapshots.retain(|generation, snapshot| {
            in_use.contains(generation)
                || !snapshot
                    .stale_from_ns
                    .is_some_and(|since_ns| is_old(since_ns, now_ns))
        });
        for (generation, snapshot) in &mut self.snapshots {
            if !in_use.contains(generation) {
                snapshot.stale_from_ns.get_or_insert(now_ns);
            }
        }
        gone
    }

    /// Forgets every process, and takes their tables out of the kernel.
    pub fn forget_all(&mut self, tables: &mut Tables) {
        for pid in self.processes.keys() {
            tables.withdraw(*pid);
        }
        *self = Self {
            events_lost: self.events_lost,
            ..Self::new(self.scope.clone())
        };
    }

    /// Processes that ended a while ago. Where the first thread ended before the others nothing tells
    /// when those do: such a process is looked at each time.
    pub(super) fn gone(&mut self, now_ns: u64, threads: impl Fn(Pid) -> usize) -> Vec<Pid> {
        let (mut waiting, mut gone) = (Vec::new(), Vec::new());
        for pid in self.retired.drain(..) {
            let Some(process) = self.processes.get_mut(&pid) else {
                continue;
            };
            match process.ended_ns {
                Some(ended_ns) if !is_old(ended_ns, now_ns) => waiting.push(pid),
                None if !process.is_outlived => {} // The pid lives again.
                _ if threads(pid) > 1 => {
                    process.ended_ns = None;
                    process.is_outlived = true;
                    self.wanting.insert(pid);
                    waiting.push(pid);
                }
                None => {
                    process.ended_ns = Some(now_ns);
                    waiting.push(pid);
                }
                Some(_) => gone.push(pid),
            }
        }
        self.retired = waiting;
        gone
    }
}

/// Whether this is so long ago that no sample from before is still on its way.
const fn is_old(time_ns: u64, now_ns: u64) -> bool {
    time_ns + AFTERLIFE_NS < now_ns
}

/// The threads of a process, with a first one that has ended.
fn threads(pid: Pid) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count)
}
