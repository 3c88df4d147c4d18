//! Who a sampled process belongs to: its cgroup of version 2, and its container.
//!
//! In: the pid and the cgroup id of a sample, soon after it was taken. Out: the cgroup's path and
//! the container's ID. What cannot be found out has no answer: nobody is put into a cgroup that the
//! kernel did not name.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use foldhash::HashMap;

use super::{
    cgroup::{self, Mount, Version},
    container::container_of,
    ids::Pid,
    procfs::Procfs,
};

/// How long an answer that only `/proc` has is believed: the process may move, or its pid may be
/// given to another.
const PROCESS_ANSWER_NS: u64 = 1_000_000_000;

/// The cgroups and containers that samples were taken in, remembered.
#[derive(Debug)]
pub struct Memberships {
    procfs: Procfs,
    mounts: Vec<Mount>,
    /// Paths in the tree of version 2, by id. The kernel gives an id to one cgroup only.
    cgroups: HashMap<u64, Option<PathBuf>>,
    /// Containers by cgroups of version 1, and when that was read.
    processes: HashMap<Pid, (u64, Option<String>)>,
}

impl Memberships {
    /// Of this host.
    #[must_use]
    pub fn of_host() -> Self {
        let procfs = Procfs::system();
        // Without it there are no trees, and no answers.
        let mounts = cgroup::mounts(&procfs.mountinfo().unwrap_or_default());
        Self::new(procfs, mounts)
    }

    fn new(procfs: Procfs, mounts: Vec<Mount>) -> Self {
        Self {
            procfs,
            mounts,
            cgroups: HashMap::default(),
            processes: HashMap::default(),
        }
    }

    /// Path of the cgroup with this id in the tree of version 2. `pid` is a process that was in it
    /// when sampled: it may know the path, if it is still there.
    pub fn cgroup(&mut self, pid: Pid, id: u64) -> Option<&Path> {
        if !self.cgroups.contains_key(&id) {
            let path = self.path_of_process(pid, id).or_else(|| self.path_of(id));
            self.cgroups.insert(id, path);
        }
        self.cgroups.get(&id)?.as_deref()
    }

    /// ID or name of the container that a process was in at a time.
    pub fn container(&mut self, pid: Pid, cgroup_id: u64, time_ns: u64) -> Option<String> {
        let by_cgroup = self.cgroup(pid, cgroup_id).and_then(outermost_container);
        if let Some(id) = by_cgroup {
            return Some(id.to_owned());
        }
        let has_v1 = |mount: &Mount| mount.version == Version::V1;
        if !self.mounts.iter().any(has_v1) {
            return None;
        }
        if let Some((read_ns, id)) = self.processes.get(&pid)
            && time_ns < read_ns.saturating_add(PROCESS_ANSWER_NS)
        {
            return id.clone();
        }
        let rows = self.procfs.cgroups(pid).unwrap_or_default();
        let id = container_in_v1(&rows).map(str::to_owned);
        self.processes.insert(pid, (time_ns, id.clone()));
        id
    }

    /// The path that a process says, if the cgroup there is the one with this id. Source:
    /// `cgroups(7)`; a cgroup's id is the inode number of its directory.
    fn path_of_process(&self, pid: Pid, id: u64) -> Option<PathBuf> {
        let rows = self.procfs.cgroups(pid)?;
        let path = rows.lines().find_map(|row| row.strip_prefix("0::"))?;
        let is_it = |mount: &Mount| {
            let below = Path::new(path).strip_prefix(&mount.root).ok()?;
            let directory = fs::metadata(mount.point.join(below)).ok()?;
            (directory.ino() == id).then_some(())
        };
        self.v2().find_map(is_it)?;
        Some(PathBuf::from(path))
    }

    /// The path by a search of the tree: the process has ended, or moved.
    fn path_of(&self, id: u64) -> Option<PathBuf> {
        self.v2().find_map(|mount| {
            let cgroups = mount.walk();
            let found = cgroups
                .iter()
                .find(|cgroup| cgroup.id().is_ok_and(|its| its == id))?;
            let below = found.directory.strip_prefix(&mount.point).ok()?;
            Some(if below.as_os_str().is_empty() {
                mount.root.clone()
            } else {
                mount.root.join(below)
            })
        })
    }

    fn v2(&self) -> impl Iterator<Item = &Mount> {
        let mounts = self.mounts.iter();
        mounts.filter(|mount| mount.version == Version::V2)
    }
}

/// The container that the cgroups of version 1 tell, unless they tell of several.
fn container_in_v1(rows: &str) -> Option<&str> {
    let mut found = None;
    for row in rows.lines() {
        let (controllers, path) = row.split_once(':')?.1.split_once(':')?;
        let path = path.strip_suffix(" (deleted)").unwrap_or(path);
        // The row of version 2 has no controllers. It is true of now, the id of the sample's time.
        let is_v1 = !controllers.is_empty();
        let Some(container) = outermost_container(Path::new(path)).filter(|_| is_v1) else {
            continue;
        };
        if found.is_some_and(|other| other != container) {
            return None;
        }
        found = Some(container);
    }
    found
}

/// The container that a cgroup belongs to. Of containers in containers it is the outermost: what a
/// container calls its own cgroups says nothing that the host can believe.
fn outermost_container(cgroup: &Path) -> Option<&str> {
    let containers = cgroup.ancestors().filter_map(container_of);
    containers.last()
}

#[cfg(test)]
mod tests {
    use super::{super::cgroup::tests::Trees, *};

    const A: &str = "c83094317aa162b1c9025de42ec64120c83094317aa162b1c9025de42ec64120";
    const B: &str = "d83094317aa162b1c9025de42ec64120c83094317aa162b1c9025de42ec64120";

    /// A host with trees and a procfs in which each of these processes has a file `cgroup`.
    fn host(trees: &Trees, processes: &[(u32, &str)]) -> Memberships {
        let proc = trees.path("proc");
        for (pid, rows) in processes {
            let folder = proc.join(pid.to_string());
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("cgroup"), rows.replace("IDA", A)).unwrap();
        }
        Memberships::new(Procfs::at(&proc), trees.mounts.clone())
    }

    fn id_of(trees: &Trees, path: &str) -> u64 {
        fs::metadata(trees.path(path)).unwrap().ino()
    }

    #[test]
    fn a_cgroup_is_found_by_its_id_whether_its_process_lives_or_not() {
        let trees = Trees::hybrid()
            .with("unified/a.slice/b.service", &[7])
            .with("unified/other", &[8]);
        let mut host = host(&trees, &[(7, "0::/a.slice/b.service\n"), (8, "0::/\n")]);
        let id = id_of(&trees, "unified/a.slice/b.service");
        let expected = Some(Path::new("/a.slice/b.service"));
        assert_eq!(host.cgroup(Pid(7), id), expected);
        host.cgroups.clear();
        // It has ended; or it has moved since.
        assert_eq!(host.cgroup(Pid(99), id), expected);
        host.cgroups.clear();
        assert_eq!(host.cgroup(Pid(8), id), expected);
        let root = id_of(&trees, "unified");
        assert_eq!(host.cgroup(Pid(99), root), Some(Path::new("/")));
    }

    #[test]
    fn a_cgroup_that_is_gone_has_no_path() {
        let trees = Trees::hybrid().with("unified/a", &[7]);
        let mut host = host(&trees, &[(7, "0::/a\n")]);
        assert_eq!(host.cgroup(Pid(7), 1), None);
    }

    #[test]
    fn the_part_of_the_tree_that_is_mounted_stands_before_the_path() {
        let mut trees = Trees::hybrid().with("unified/x", &[7]);
        trees.mounts[0].root = "/docker/abc".into();
        let mut host = host(&trees, &[]);
        let id = id_of(&trees, "unified/x");
        let expected = Some(Path::new("/docker/abc/x"));
        assert_eq!(host.cgroup(Pid(7), id), expected);
    }

    #[track_caller]
    fn check_outermost(cgroup: &str, expected: Option<&str>) {
        let cgroup = cgroup.replace("IDA", A).replace("IDB", B);
        assert_eq!(outermost_container(Path::new(&cgroup)), expected);
    }

    #[test]
    fn a_container_is_the_outermost_one() {
        check_outermost("/system.slice/docker-IDA.scope", Some(A));
        check_outermost("/docker/IDA/init.scope", Some(A));
        check_outermost("/docker/IDA/docker/IDB", Some(A));
        check_outermost(
            "/lxc.payload.web/system.slice/docker-IDB.scope",
            Some("web"),
        );
        check_outermost("/user.slice/user-1000.slice", None);
        check_outermost("/", None);
    }

    #[test]
    fn the_cgroup_of_the_sample_tells_the_container_before_proc_does() {
        let path = format!("unified/docker-{A}.scope");
        let trees = Trees::hybrid().with(&path, &[7]);
        let mut host = host(&trees, &[(7, &format!("4:memory:/docker/{B}\n0::/\n"))]);
        let id = id_of(&trees, &path);
        assert_eq!(host.container(Pid(7), id, 0).as_deref(), Some(A));
    }

    #[test]
    fn version_1_is_asked_where_version_2_knows_no_container() {
        let trees = Trees::hybrid();
        let rows = [
            (7, "5:cpu,cpuacct:/\n4:memory:/docker/IDA\n0::/\n"),
            (8, "4:memory:/user.slice\n0::/docker-IDA.scope\n"),
            (9, "4:memory:/docker/IDA (deleted)\n"),
            (11, &format!("4:memory:/docker/IDA\n5:cpu:/docker/{B}\n")),
        ];
        let mut host = host(&trees, &rows);
        let root = id_of(&trees, "unified");
        assert_eq!(host.container(Pid(7), root, 0).as_deref(), Some(A));
        // Version 2 is believed by its id alone.
        assert_eq!(host.container(Pid(8), root, 0), None);
        assert_eq!(host.container(Pid(9), root, 0).as_deref(), Some(A));
        assert_eq!(host.container(Pid(10), root, 0), None);
        assert_eq!(host.container(Pid(11), root, 0), None, "they differ");
    }

    #[test]
    fn an_answer_of_proc_is_asked_for_again() {
        let trees = Trees::hybrid();
        let mut known = host(&trees, &[(7, "4:memory:/docker/IDA\n")]);
        let root = id_of(&trees, "unified");
        assert_eq!(known.container(Pid(7), root, 5).as_deref(), Some(A));
        host(&trees, &[(7, "4:memory:/\n")]);
        assert_eq!(known.container(Pid(7), root, 6).as_deref(), Some(A));
        let later = 5 + PROCESS_ANSWER_NS;
        assert_eq!(known.container(Pid(7), root, later), None);
    }
}
