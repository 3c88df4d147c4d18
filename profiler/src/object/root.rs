//! The files that a process sees.
//!
//! A process may have a root, or mounts, of its own: a container has both. Its paths mean other files
//! than ours do, and the links in them lead to where it would get by them. They are opened below its
//! root and never leave it.

use std::{
    fs::{self, File},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::Path,
    sync::Arc,
};

use foldhash::HashMap;
use rustix::{
    fs::{CWD, Mode, OFlags},
    io::Errno,
};

use super::opener::{self, Place};
use crate::target::Pid;

/// The root of processes that see other files than we do. It stays open when they have ended.
#[derive(Debug)]
pub struct Root(OwnedFd);

impl Root {
    /// Opens a path below the root if it leads to a regular file. Never waits on a FIFO, nor for a
    /// server that does not answer.
    ///
    /// # Errors
    /// When there is none, or the kernel refuses it, or nobody answers ([`Errno::TIMEDOUT`]).
    pub fn open(&self, path: &Path) -> Result<File, Errno> {
        Ok(opener::open(Place::Below(self.0.as_fd(), path))?.file)
    }
}

/// What tells one root from another: the mounts, and the directory.
type Key = (u64, u64, u64);

/// Every root seen in this run.
#[derive(Debug, Default)]
pub(super) struct Roots(HashMap<Key, Option<Arc<Root>>>);

impl Roots {
    /// The root of a process; `None` if it sees what we see, or has ended.
    pub(super) fn of(&mut self, pid: Pid) -> Option<Arc<Root>> {
        let key = key(&pid.to_string())?;
        self.0
            .entry(key)
            .or_insert_with(|| {
                if self::key("self") == Some(key) {
                    return None;
                }
                let root = open_root(&pid.to_string());
                root.ok().map(|root| Arc::new(Root(root)))
            })
            .clone()
    }
}

fn open_root(process: &str) -> Result<OwnedFd, Errno> {
    let path = format!("/proc/{process}/root");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty())
}

fn key(process: &str) -> Option<Key> {
    let mounts = fs::metadata(format!("/proc/{process}/ns/mnt")).ok()?;
    let root = open_root(process).ok()?;
    let root = opener::known(root.as_fd()).ok()?;
    Some((mounts.ino(), root.device, root.inode))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_process_that_sees_what_we_see_has_no_root_of_its_own() {
        let mut roots = Roots::default();
        assert!(roots.of(Pid(std::process::id())).is_none());
    }

    #[test]
    fn no_path_leads_out_of_a_root() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("inside");
        fs::create_dir(&inside).unwrap();
        fs::write(folder.path().join("secret"), "outside").unwrap();
        fs::write(inside.join("secret"), "inside").unwrap();
        symlink("/secret", inside.join("absolute")).unwrap();
        symlink("../../secret", inside.join("upwards")).unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let root = rustix::fs::open(&inside, flags, Mode::empty()).unwrap();
        let root = Root(root);
        for name in ["/secret", "/absolute", "upwards", "/../secret"] {
            let file = root.open(Path::new(name)).unwrap();
            let text = std::io::read_to_string(file).unwrap();
            assert_eq!(text, "inside", "{name}");
        }
        assert!(root.open(Path::new("/")).is_err());
    }
}
