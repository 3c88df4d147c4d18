//! Targets: from what the user named to what the kernel side filters by.
//!
//! In: a [`TargetSpec`] from the command line, or a command to start ([`command`]). Out:
//! [`Targets`]: the keys of the target set, the processes known now, and those whose end ends the
//! run. It loads nothing into the kernel and prints nothing.

pub mod command;
pub mod wait;

mod cgroup;
mod container;
mod error;
mod identity;
mod ids;
mod label;
mod membership;
mod procfs;
mod resolve;

use std::{ffi::OsStr, path::PathBuf};

use profiler_common::config::{TargetKey, TargetKind};

pub use cgroup::cgroup_pids;
pub(crate) use cgroup::{
    Mount as CgroupMount, Version as CgroupVersion, mounts as cgroup_mounts,
    unescape as unescape_mount,
};
pub use error::TargetError;
pub use identity::{Identity, identity};
pub use ids::{ParseIdError, Pid, Tid};
pub use membership::Memberships;
pub(crate) use procfs::{Procfs, Stat};
pub use procfs::{descendants, is_initial_pid_namespace, process_of, start_time};

/// Whether the children of targets are targets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Follow {
    /// They are: those that live now and those to come.
    Yes,
    /// They are not, unless named.
    #[default]
    No,
}

/// Whether user stacks are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserStacks {
    /// They are, so a target needs user code.
    Yes,
    /// Kernel stacks are enough.
    No,
}

/// What to profile, as the command line says it. Nothing named: the whole host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TargetSpec {
    /// Processes.
    pub pids: Vec<Pid>,
    /// Threads.
    pub tids: Vec<Tid>,
    /// Names of threads. A process whose first thread has the name counts with all its threads.
    pub comms: Vec<String>,
    /// Cgroups: directories, or paths from the root of the tree.
    pub cgroups: Vec<PathBuf>,
    /// Containers: IDs, the start of IDs, or names of LXC and systemd containers.
    pub containers: Vec<String>,
    /// Whether children of the processes count.
    pub follow: Follow,
}

impl TargetSpec {
    /// Whether nothing is named.
    #[must_use]
    pub fn is_whole_host(&self) -> bool {
        self.pids.is_empty()
            && self.tids.is_empty()
            && self.comms.is_empty()
            && self.cgroups.is_empty()
            && self.containers.is_empty()
    }
}

/// What the kernel side filters by, and what the user side wants to know of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Targets {
    /// The keys of the target set, each once; empty for the whole host.
    pub keys: Vec<TargetKey>,
    /// The [`TargetKind`] bits to filter by; 0 for the whole host. A bit may be set though no key
    /// of the kind is there yet: the processes of a listed cgroup may come later.
    pub filters: u32,
    /// Bit `n`: look for cgroups at level `n` of the tree.
    pub cgroup_levels: u32,
    /// Every process known now that is a target or has a thread that is one, sorted. Empty for the
    /// whole host, whose processes are met as they run.
    pub pids: Vec<Pid>,
    /// The processes whose end ends the run: those named by pid or tid, in the order named.
    pub exit_with: Vec<Pid>,
    /// A short name of it all for a file name: letters, digits and `-_.+` alone.
    pub label: String,
    /// The process whose executable stands for all of them: the only one, or the first of several
    /// that run the same file.
    pub main: Option<Pid>,
    /// Cgroups that the kernel side cannot filter by: to read again with [`cgroup_pids`], about once
    /// a second.
    pub listed_cgroups: Vec<PathBuf>,
    /// What the user should know, one sentence each, in the style of errors.
    pub notes: Vec<String>,
}

/// What samples of a cgroup of version 2 are told by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupFilter {
    /// The kernel tells the program which cgroups a task is in.
    Kernel,
    /// It does not: the cgroup's processes are targets, as with version 1.
    Processes,
}

/// Finds out what `spec` means on this host, now.
///
/// # Errors
/// When a target is not there or cannot be one.
pub fn resolve(
    spec: &TargetSpec,
    user_stacks: UserStacks,
    cgroups: CgroupFilter,
) -> Result<Targets, TargetError> {
    // The maps of `/proc/PID` would be another process's than the one sampled.
    if user_stacks == UserStacks::Yes && !is_initial_pid_namespace() {
        return Err(TargetError::PidNamespace {
            what: "user stacks",
        });
    }
    resolve::resolve_in(&Procfs::system(), spec, user_stacks, cgroups)
}

impl Targets {
    /// A command that is about to start, under the name of its program.
    ///
    /// # Errors
    /// When our pids are not those of the kernel side.
    pub fn of_command(pid: Pid, program: &OsStr) -> Result<Self, TargetError> {
        if !is_initial_pid_namespace() {
            return Err(TargetError::PidNamespace { what: "a command" });
        }
        let name = label::last_component(program.as_ref());
        Ok(Self {
            keys: vec![TargetKey::id(TargetKind::Pid, u64::from(pid.0))],
            filters: TargetKind::Pid as u32,
            pids: vec![pid],
            exit_with: vec![pid],
            label: label::file_safe(&format!("{name}-{pid}")),
            main: Some(pid),
            ..Self::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_labelled_with_its_program() {
        let targets = Targets::of_command(Pid(77), OsStr::new("/usr/bin/my server")).unwrap();
        assert_eq!(targets.label, "my_server-77");
        assert_eq!(targets.keys, [TargetKey::id(TargetKind::Pid, 77)]);
        assert_eq!((targets.main, targets.filters), (Some(Pid(77)), 1));
    }

    #[test]
    fn a_spec_that_names_nothing_is_the_whole_host() {
        let spec = TargetSpec::default();
        let targets = resolve(&spec, UserStacks::Yes, CgroupFilter::Kernel).unwrap();
        assert_eq!(targets.filters, 0);
        assert_eq!(targets.label, "host");
        assert!(targets.keys.is_empty() && targets.exit_with.is_empty());
    }
}
