//! The target set on its way: processes that become targets while the run goes on, and those that
//! are no longer.

use std::{collections::HashSet, path::PathBuf};

use profiler_common::config::{TargetKey, TargetKind};

use super::RecordError;

use crate::{
    bpf::{CaptureNumber, Sampler},
    process::{Change, ProcessEvent},
    target::{self, Follow, Pid, TargetSpec},
};

/// What is a target for which reason.
pub(super) struct Watched {
    capture: CaptureNumber,
    spec: TargetSpec,
    /// Processes whose main thread has a name asked for.
    named: HashSet<Pid>,
    /// Cgroups of version 1, and the processes that were in them.
    cgroups: Vec<PathBuf>,
    in_cgroups: HashSet<Pid>,
    refused: u64,
}

impl Watched {
    /// Starts with the targets there are.
    pub(super) fn new(
        capture: CaptureNumber,
        spec: TargetSpec,
        cgroups: Vec<PathBuf>,
        pids: &[Pid],
    ) -> Self {
        let has_name = |pid: &&Pid| main_name(**pid).is_some_and(|name| spec.comms.contains(&name));
        let named = pids.iter().filter(has_name).copied().collect();
        Self {
            capture,
            spec,
            named,
            cgroups,
            in_cgroups: HashSet::new(),
            refused: 0,
        }
    }

    /// Processes that could not become targets: the target set was full.
    pub(super) fn refused(&self) -> u64 {
        self.refused
    }

    /// Takes an event into account.
    pub(super) fn apply(&mut self, event: &ProcessEvent, sampler: &mut Sampler) {
        match &event.change {
            Change::Exec { pid, comm } if self.spec.comms.contains(comm) => {
                self.named.insert(*pid);
                self.try_add(*pid, sampler);
            }
            Change::Exec { pid, .. } => {
                let stays = self.spec.follow == Follow::Yes || self.spec.pids.contains(pid);
                if self.named.remove(pid) && !stays {
                    sampler.remove_target(self.capture, key(*pid));
                }
            }
            Change::Fork { pid, parent } if pid != parent && self.named.contains(parent) => {
                self.named.insert(*pid);
                self.try_add(*pid, sampler);
            }
            _ => {}
        }
    }

    /// Processes that are gone: their pids may be given to others.
    pub(super) fn forget(&mut self, pids: &[Pid]) {
        for pid in pids {
            self.named.remove(pid);
            self.in_cgroups.remove(pid);
        }
    }

    /// Reads the cgroups of version 1 again, which the kernel side cannot filter by.
    pub(super) fn read_cgroups(&mut self, sampler: &mut Sampler) {
        if self.cgroups.is_empty() {
            return;
        }
        // A cgroup that is gone has no processes.
        let listed = self
            .cgroups
            .iter()
            .flat_map(|directory| target::cgroup_pids(directory).unwrap_or_default());
        let now: HashSet<Pid> = listed.collect();
        let before = std::mem::replace(&mut self.in_cgroups, now.clone());
        for pid in now.difference(&before) {
            self.try_add(*pid, sampler);
        }
        for pid in before.difference(&now) {
            if !self.spec.pids.contains(pid) && !self.named.contains(pid) {
                sampler.remove_target(self.capture, key(*pid));
            }
        }
    }

    /// Makes a process a target.
    pub(super) fn add(&self, pid: Pid, sampler: &mut Sampler) -> Result<(), RecordError> {
        Ok(sampler.add_target(self.capture, key(pid))?)
    }

    fn try_add(&mut self, pid: Pid, sampler: &mut Sampler) {
        if let Err(error) = self.add(pid, sampler) {
            log::debug!("process {pid} cannot become a target: {error}");
            self.refused += 1;
        }
    }
}

/// The key of a process in the target set.
pub(super) fn key(pid: Pid) -> TargetKey {
    TargetKey::id(TargetKind::Pid, u64::from(pid.0))
}

/// The name of a process's main thread.
fn main_name(pid: Pid) -> Option<String> {
    let name = std::fs::read(format!("/proc/{pid}/comm")).ok()?;
    Some(
        String::from_utf8_lossy(&name)
            .trim_end_matches('\n')
            .to_owned(),
    )
}
