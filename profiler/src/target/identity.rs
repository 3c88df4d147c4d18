//! Whose a process is: what access to it is decided by.

use std::{fs, path::PathBuf};

use super::{Pid, procfs::Procfs};

/// What a process is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its user: real, effective and saved. They differ in programs that changed theirs.
    pub uids: [u32; 3],
    /// The name of its first thread.
    pub comm: Vec<u8>,
    /// Its cgroups, each a path from the root of its tree.
    pub cgroups: Vec<PathBuf>,
}

/// Whose a process is now; `None` when there is none.
#[must_use]
pub fn identity(pid: Pid) -> Option<Identity> {
    let procfs = Procfs::system();
    let status = fs::read(procfs.path().join(pid.to_string()).join("status")).ok()?;
    Some(Identity {
        uids: uids_in_status(&status)?,
        comm: procfs.stat(pid.0)?.comm,
        cgroups: cgroups_in(&procfs.cgroups(pid)?),
    })
}

/// The line `Uid:` of `/proc/PID/status`: real, effective, saved, file system.
fn uids_in_status(status: &[u8]) -> Option<[u32; 3]> {
    let line = status
        .split(|byte| *byte == b'\n')
        .find_map(|line| line.strip_prefix(b"Uid:"))?;
    let mut uids = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    let mut next = || uids.next()?.parse().ok();
    Some([next()?, next()?, next()?])
}

/// Rows of `/proc/PID/cgroup`, as `number:controllers:path`.
fn cgroups_in(rows: &str) -> Vec<PathBuf> {
    rows.lines()
        .filter_map(|row| row.splitn(3, ':').nth(2))
        .map(PathBuf::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_stand_in_the_status() {
        let status = b"Name:\tUid: 9\nUmask:\t0022\nUid:\t1000\t0\t7\t0\nGid:\t1\t1\t1\t1\n";
        assert_eq!(uids_in_status(status), Some([1000, 0, 7]));
        assert_eq!(uids_in_status(b"Name:\tx\nUid:\t1\n"), None);
    }

    #[test]
    fn cgroups_of_every_tree_count() {
        let rows = "9:memory:/a:b/c\n1:name=systemd:/a\n0::/\n";
        assert_eq!(cgroups_in(rows), ["/a:b/c", "/a", "/"].map(PathBuf::from));
    }

    #[test]
    fn our_own_identity_is_known() {
        let own = identity(Pid(std::process::id())).unwrap();
        assert_eq!(own.uids[0], rustix::process::getuid().as_raw());
        assert!(!own.comm.is_empty() && !own.cgroups.is_empty());
        assert_eq!(identity(Pid(4_194_304)), None);
    }
}
