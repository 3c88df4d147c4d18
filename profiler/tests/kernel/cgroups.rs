//! Cgroups made for a test, and removed after it.

use std::{
    fs,
    path::{Path, PathBuf},
    process,
    time::Duration,
};

use crate::{fixture::Fixture, program::wait_until};

/// A directory of a cgroup tree, with another one in it.
#[derive(Debug)]
pub(crate) struct TestCgroup {
    root: PathBuf,
    outer: PathBuf,
    inner: PathBuf,
    members: Vec<u32>,
}

/// Where a tree of this file system type is mounted. Source: `proc_pid_mountinfo(5)`.
pub(crate) fn mount_point(kind: &str, holds: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.lines().find_map(|line| {
        let (fields, rest) = line.split_once(" - ")?;
        let point = PathBuf::from(fields.split(' ').nth(4)?);
        (rest.split(' ').next()? == kind && holds(&point)).then_some(point)
    })
}

impl TestCgroup {
    /// Makes a cgroup and one below it.
    pub(crate) fn make(tree: &Path) -> Self {
        Self::make_below(tree, &format!("ebpfprof-test-{}", process::id()))
    }

    /// Makes a cgroup of this name and one below it.
    pub(crate) fn make_below(tree: &Path, name: &str) -> Self {
        let outer = tree.join(name);
        let inner = outer.join("inner");
        fs::create_dir_all(&inner).unwrap();
        Self {
            root: tree.to_owned(),
            outer,
            inner,
            members: Vec::new(),
        }
    }

    pub(crate) fn path(&self) -> &str {
        self.outer.to_str().unwrap()
    }

    /// The path as `/proc/PID/cgroup` has it.
    pub(crate) fn path_in_tree(&self) -> String {
        let inside = self.outer.strip_prefix(&self.root).unwrap();
        format!("/{}", inside.display())
    }

    /// Moves a fixture into the inner cgroup.
    pub(crate) fn take_in(&mut self, fixture: &Fixture) {
        fs::write(self.inner.join("cgroup.procs"), fixture.pid_text()).unwrap();
        self.members.push(fixture.pid());
    }
}

impl Drop for TestCgroup {
    fn drop(&mut self) {
        for pid in &self.members {
            // Gone already, as a rule.
            let _ = fs::write(self.root.join("cgroup.procs"), pid.to_string());
        }
        if !std::thread::panicking() {
            wait_until("the cgroup is empty", Duration::from_secs(10), || {
                fs::remove_dir(&self.inner).is_ok() || !self.inner.exists()
            });
        }
        // What is left after a failed test is in nobody's way.
        let _ = fs::remove_dir(&self.inner);
        let _ = fs::remove_dir(&self.outer);
    }
}
