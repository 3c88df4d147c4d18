//! Why a target cannot be profiled, and what to type instead.

use std::{io, path::PathBuf};

use profiler_common::limits::{COMM_BYTES, MAX_CGROUP_LEVELS, MAX_TARGETS};

use super::{
    container::{MIN_ID_PREFIX, SHORT_ID_CHARS},
    ids::{Pid, Tid},
};
use crate::error::Explain;

/// A target that is not there, or that cannot be one.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// No process has the pid.
    #[error("no process has pid {pid}")]
    NoSuchProcess {
        /// What was named.
        pid: Pid,
    },
    /// The process or thread has ended, but its parent has not asked for its exit status yet.
    #[error("{option} {id} ({comm}) has ended")]
    Zombie {
        /// `pid` or `tid`.
        option: &'static str,
        /// What was named.
        id: u32,
        /// Its name.
        comm: String,
    },
    /// A thread's id was given as a pid.
    #[error("{tid} is a thread of pid {pid} ({comm}), not a process")]
    ThreadAsProcess {
        /// What was named.
        tid: Tid,
        /// The process it belongs to.
        pid: Pid,
        /// The process's name.
        comm: String,
    },
    /// A kernel thread, where user stacks were asked for.
    #[error("{option} {id} ({comm}) is a kernel thread")]
    KernelThread {
        /// `pid` or `tid`.
        option: &'static str,
        /// What was named.
        id: u32,
        /// Its name.
        comm: String,
    },
    /// No thread has the tid.
    #[error("no thread has tid {tid}")]
    NoSuchThread {
        /// What was named.
        tid: Tid,
    },
    /// No thread can have this name.
    #[error("no thread can be named '{name}'")]
    ImpossibleComm {
        /// What was named.
        name: String,
    },
    /// No cgroup is at the path.
    #[error("no cgroup '{}'", path.display())]
    NoSuchCgroup {
        /// What was named.
        path: PathBuf,
        /// Where cgroup trees are mounted.
        mounts: Vec<PathBuf>,
    },
    /// The cgroup lies deeper than the kernel side looks.
    #[error("cgroup '{}' lies too deep", path.display())]
    CgroupTooDeep {
        /// The cgroup's directory.
        path: PathBuf,
        /// Its level; the root is 0.
        level: usize,
    },
    /// The container's name can be none.
    #[error("'{id}' is no container ID")]
    ImpossibleContainer {
        /// What was named.
        id: String,
    },
    /// No cgroup belongs to such a container.
    #[error("no running container '{id}'")]
    NoSuchContainer {
        /// What was named.
        id: String,
        /// Where cgroup trees are mounted.
        mounts: Vec<PathBuf>,
    },
    /// Several containers have an ID that starts so.
    #[error("'{id}' is the start of {} container IDs", candidates.len())]
    AmbiguousContainer {
        /// What was named.
        id: String,
        /// The containers' IDs, whole and sorted.
        candidates: Vec<String>,
    },
    /// The target would be filtered by pids, and ours are not those of the kernel side.
    #[error("cannot profile {what} in a pid namespace")]
    PidNamespace {
        /// What was asked for, in the words of the command line.
        what: &'static str,
    },
    /// More targets than the target set holds.
    #[error("{count} targets are too many")]
    TooMany {
        /// How many there are.
        count: usize,
    },
    /// A file that says where the target is could not be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Most mounts that an error lists.
const LISTED_MOUNTS: usize = 3;
/// Most container IDs that an error lists.
const LISTED_CANDIDATES: usize = 5;

impl Explain for TargetError {
    fn why(&self) -> String {
        match self {
            Self::NoSuchProcess { pid } => format!("/proc/{pid} does not exist"),
            Self::Zombie { .. } => {
                "it is a zombie: only its exit status is left, for its parent to read".to_owned()
            }
            Self::ThreadAsProcess { tid, pid, .. } => {
                format!("/proc/{tid}/status says that its process (Tgid) is {pid}")
            }
            Self::KernelThread { .. } => {
                "it has no user code, and user stacks were asked for".to_owned()
            }
            Self::NoSuchThread { tid } => format!("/proc/{tid} does not exist"),
            Self::ImpossibleComm { name } if name.is_empty() => "the name is empty".to_owned(),
            Self::ImpossibleComm { name } if name.contains('\0') => {
                "a name holds no NUL byte".to_owned()
            }
            Self::ImpossibleComm { name } => format!(
                "the kernel keeps {} bytes of a name; this one has {}",
                COMM_BYTES - 1,
                name.len()
            ),
            Self::NoSuchCgroup { mounts, .. } => searched("no such directory in", mounts),
            Self::CgroupTooDeep { level, .. } => format!(
                "it is at level {level} of the tree; cgroups are filtered by down to level {}",
                MAX_CGROUP_LEVELS - 1
            ),
            Self::ImpossibleContainer { .. } => {
                "IDs and names of containers hold letters, digits and '-_.:' alone".to_owned()
            }
            Self::NoSuchContainer { id, .. } if id.len() < MIN_ID_PREFIX => {
                format!(
                    "no container has this name, and an ID is known by {MIN_ID_PREFIX} digits or more"
                )
            }
            Self::NoSuchContainer { mounts, .. } => {
                searched("no directory is named after it in", mounts)
            }
            Self::AmbiguousContainer { candidates, .. } => {
                let chars = distinct_chars(candidates);
                let mut list: Vec<String> = candidates
                    .iter()
                    .take(LISTED_CANDIDATES)
                    .map(|id| id.chars().take(chars).collect())
                    .collect();
                if candidates.len() > LISTED_CANDIDATES {
                    list.push("…".to_owned());
                }
                list.join(", ")
            }
            Self::PidNamespace { .. } => "ebpfprof runs in a pid namespace of its own, as in a \
                container, and the kernel side sees the pids of the host"
                .to_owned(),
            Self::TooMany { .. } => format!("at most {MAX_TARGETS} can be filtered by"),
            Self::Unreadable { source, .. } => source.to_string(),
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::NoSuchProcess { .. } | Self::Zombie { .. } => {
                "look for it with `pgrep -a NAME`, or start it with `ebpfprof -- CMD`".to_owned()
            }
            Self::ThreadAsProcess { tid, pid, .. } => {
                format!("--tid {tid} for this thread, or --pid {pid} for all of its process")
            }
            Self::KernelThread { option, id, .. } => format!("--{option} {id} --no-user"),
            Self::NoSuchThread { .. } => "list the threads of a process with `ps -T -p PID`".into(),
            Self::ImpossibleComm { name } => shorter_comm(name),
            Self::NoSuchCgroup { .. } => {
                "take the path from /proc/PID/cgroup or from `systemd-cgls`".to_owned()
            }
            Self::CgroupTooDeep { .. } => "name a cgroup above it".to_owned(),
            Self::ImpossibleContainer { .. } | Self::NoSuchContainer { .. } => {
                "take the ID from `docker ps --no-trunc`, `podman ps --no-trunc` or `crictl ps \
                 --no-trunc`"
                    .to_owned()
            }
            Self::AmbiguousContainer { .. } => "give more digits of the ID".to_owned(),
            Self::PidNamespace { .. } => {
                "run it on the host, or in a container started with --pid=host; ebpfprof --no-user, for the host's kernel stacks, works here".to_owned()
            }
            Self::TooMany { .. } => {
                "name a cgroup v2 that holds them, or profile the whole host".to_owned()
            }
            Self::Unreadable { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                "mount procfs: `mount -t proc proc /proc`".to_owned()
            }
            Self::Unreadable { .. } => "run as root".to_owned(),
        }
    }

    fn is_misuse(&self) -> bool {
        match self {
            Self::ThreadAsProcess { .. }
            | Self::KernelThread { .. }
            | Self::ImpossibleComm { .. }
            | Self::ImpossibleContainer { .. }
            | Self::AmbiguousContainer { .. }
            | Self::CgroupTooDeep { .. }
            | Self::TooMany { .. } => true,
            Self::NoSuchProcess { .. }
            | Self::Zombie { .. }
            | Self::NoSuchThread { .. }
            | Self::NoSuchCgroup { .. }
            | Self::NoSuchContainer { .. }
            | Self::PidNamespace { .. }
            | Self::Unreadable { .. } => false,
        }
    }
}

fn searched(what: &str, mounts: &[PathBuf]) -> String {
    if mounts.is_empty() {
        return "no cgroup tree is mounted".to_owned();
    }
    let mut list: Vec<String> = mounts
        .iter()
        .take(LISTED_MOUNTS)
        .map(|mount| mount.display().to_string())
        .collect();
    if mounts.len() > LISTED_MOUNTS {
        list.push("…".to_owned());
    }
    format!("{what} {}", list.join(", "))
}

/// How many characters tell these sorted IDs apart.
fn distinct_chars(sorted: &[String]) -> usize {
    let alike = sorted.windows(2).map(|pair| {
        let both = pair[0].chars().zip(pair[1].chars());
        both.take_while(|(a, b)| a == b).count()
    });
    alike.max().map_or(0, |count| count + 1).max(SHORT_ID_CHARS)
}

fn shorter_comm(name: &str) -> String {
    let end = name.floor_char_boundary(COMM_BYTES - 1);
    match name.get(..end) {
        Some(kept) if !kept.is_empty() && !kept.contains('\0') => format!("--comm '{kept}'"),
        _ => "take the name from `ps -eo pid,comm`".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(error: &TargetError, what: &str, why: &str, advice: &str) {
        assert_eq!(error.to_string(), what);
        assert_eq!(error.why(), why);
        assert_eq!(error.advice(), advice);
    }

    #[test]
    fn a_kernel_thread_is_refused_with_the_option_that_allows_it() {
        let error = TargetError::KernelThread {
            option: "pid",
            id: 2,
            comm: "kthreadd".into(),
        };
        check(
            &error,
            "pid 2 (kthreadd) is a kernel thread",
            "it has no user code, and user stacks were asked for",
            "--pid 2 --no-user",
        );
        assert!(error.is_misuse());
    }

    #[test]
    fn a_name_that_is_too_long_is_cut_in_the_advice() {
        check(
            &TargetError::ImpossibleComm {
                name: "postgres-autovacuum".into(),
            },
            "no thread can be named 'postgres-autovacuum'",
            "the kernel keeps 15 bytes of a name; this one has 19",
            "--comm 'postgres-autova'",
        );
    }

    #[test]
    fn candidates_are_listed_short_and_few() {
        let error = TargetError::AmbiguousContainer {
            id: "abcdef".into(),
            candidates: (0..7).map(|n| format!("abcdef{n:08}{:050}", 0)).collect(),
        };
        check(
            &error,
            "'abcdef' is the start of 7 container IDs",
            "abcdef00000000, abcdef00000001, abcdef00000002, abcdef00000003, abcdef00000004, …",
            "give more digits of the ID",
        );
    }
}
