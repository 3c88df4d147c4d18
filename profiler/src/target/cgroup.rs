//! Cgroups: where their trees are mounted, which directory a name means, who is in it.
//!
//! In: our mountinfo and a path as people write it. Out: the directory, its version and its level.
//! The kernel side filters by cgroups of version 2 alone, and not on every kernel; others become the
//! processes in them.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs, io,
    os::unix::{ffi::OsStringExt, fs::MetadataExt},
    path::{Component, Path, PathBuf},
};

use super::{
    ids::{Pid, Tid},
    procfs::process_of,
};

/// The version of a cgroup tree. The order is the order of preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    /// The one tree that the kernel side knows.
    V2,
    /// One tree for each controller.
    V1,
}

/// A mounted cgroup tree, or part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) version: Version,
    /// The directory it is mounted at.
    pub(crate) point: PathBuf,
    /// The cgroup that is mounted there, as a path from the tree's root (of our namespace).
    pub(crate) root: PathBuf,
}

/// A cgroup's directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cgroup {
    pub(super) version: Version,
    pub(super) directory: PathBuf,
    /// Depth below the root of the tree (of our namespace); `None` when it lies outside.
    pub(super) level: Option<usize>,
}

impl Cgroup {
    /// The id that the kernel side knows it by: the directory's inode number.
    /// Source: `kernfs_node.id` in `include/linux/kernfs.h`, on 64-bit hosts from 5.5.
    pub(super) fn id(&self) -> io::Result<u64> {
        Ok(fs::metadata(&self.directory)?.ino())
    }
}

/// The cgroup trees in a mountinfo, those of version 2 first. Source: proc_pid_mountinfo(5).
pub(crate) fn mounts(mountinfo: &[u8]) -> Vec<Mount> {
    let mut mounts: Vec<Mount> = mountinfo
        .split(|byte| *byte == b'\n')
        .filter_map(mount)
        .collect();
    mounts.sort_by_key(|mount| mount.version);
    mounts
}

/// One line: `id parent major:minor root point options [tags…] - type source options`.
fn mount(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let root = unescape(fields.nth(3)?);
    let point = unescape(fields.next()?);
    let version = match fields.skip_while(|field| *field != b"-").nth(1)? {
        b"cgroup2" => Version::V2,
        b"cgroup" => Version::V1,
        _ => return None,
    };
    Some(Mount {
        version,
        point,
        root,
    })
}

/// Turns `\040` and the like back into bytes.
pub(crate) fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        match octal(rest) {
            Some(byte) => {
                bytes.push(byte);
                rest = &rest[4..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

fn octal(text: &[u8]) -> Option<u8> {
    let digits = text.strip_prefix(b"\\")?.get(..3)?;
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

/// The directories that a path may mean, the preferred ones first: a directory of a mounted tree,
/// or a cgroup's path from a tree's root, as in `/proc/PID/cgroup`.
pub(super) fn named(mounts: &[Mount], path: &Path) -> Vec<Cgroup> {
    if path.is_absolute()
        && let Ok(directory) = fs::canonicalize(path)
        && directory.is_dir()
        && let Some(mount) = mounts
            .iter()
            .filter(|mount| directory.starts_with(&mount.point))
            .max_by_key(|mount| mount.point.components().count())
    {
        return vec![mount.cgroup(directory)];
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for mount in mounts {
        let below = path
            .strip_prefix(&mount.root)
            .or_else(|_| path.strip_prefix("/"))
            .unwrap_or(path);
        let directory = mount.point.join(below);
        if directory.is_dir() {
            found.push(mount.cgroup(directory));
        }
    }
    found
}

impl Mount {
    fn cgroup(&self, directory: PathBuf) -> Cgroup {
        let level = self.level_of(&directory);
        Cgroup {
            version: self.version,
            directory,
            level,
        }
    }

    fn level_of(&self, directory: &Path) -> Option<usize> {
        let mut level = 0;
        for part in self.root.components() {
            match part {
                Component::Normal(_) => level += 1,
                // A mount from outside our cgroup namespace.
                Component::ParentDir => return None,
                _ => {}
            }
        }
        let below = directory.strip_prefix(&self.point).ok()?;
        Some(level + below.components().count())
    }

    /// Every cgroup in the tree, from the mount's root downwards. What cannot be read is left out.
    pub(super) fn walk(&self) -> Vec<Cgroup> {
        let directories = directories_below(&self.point);
        let cgroups = directories.into_iter().map(|path| self.cgroup(path));
        cgroups.collect()
    }
}

/// The one to take: the first that has processes, else the first. On a host with both versions
/// either tree may hold an empty twin.
pub(super) fn preferred(mut candidates: Vec<Cgroup>) -> Option<Cgroup> {
    candidates.sort_by_key(|cgroup| (cgroup.version, cgroup.level));
    let populated = candidates
        .iter()
        .position(|cgroup| pids_below(&cgroup.directory).is_ok_and(|pids| !pids.is_empty()));
    if candidates.is_empty() {
        return None;
    }
    Some(candidates.swap_remove(populated.unwrap_or(0)))
}

/// A directory and every directory below it, parents before children.
fn directories_below(top: &Path) -> Vec<PathBuf> {
    let mut directories = vec![top.to_owned()];
    let mut next = 0;
    while next < directories.len() {
        let entries = fs::read_dir(&directories[next]);
        for entry in entries.into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                directories.push(entry.path());
            }
        }
        next += 1;
    }
    directories
}

/// The processes in a cgroup and in all below it. Works for both versions.
pub(super) fn pids_below(directory: &Path) -> io::Result<BTreeSet<Pid>> {
    fs::metadata(directory)?;
    let mut pids = BTreeSet::new();
    for directory in directories_below(directory) {
        // A cgroup may vanish meanwhile, and a threaded one lists threads and no processes
        // (EOPNOTSUPP).
        match fs::read_to_string(directory.join("cgroup.procs")) {
            // Processes outside our pid namespace are listed as 0.
            Ok(text) => pids.extend(text.lines().filter_map(|line| line.parse::<Pid>().ok())),
            Err(_) => {
                let text = fs::read_to_string(directory.join("cgroup.threads"));
                let text = text.unwrap_or_default();
                let tids = text.lines().filter_map(|line| line.parse::<Tid>().ok());
                pids.extend(tids.filter_map(process_of));
            }
        }
    }
    Ok(pids)
}

/// The processes in a cgroup and in all below it, sorted. Where the kernel side cannot filter by it,
/// read it again to learn who has come.
///
/// # Errors
/// When the cgroup is gone or cannot be read.
pub fn cgroup_pids(directory: &Path) -> io::Result<Vec<Pid>> {
    Ok(pids_below(directory)?.into_iter().collect())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Directories with processes in them, and a mountinfo that says so.
    pub(crate) struct Trees {
        pub(crate) top: tempfile::TempDir,
        pub(crate) mounts: Vec<Mount>,
    }

    impl Trees {
        /// A tree of version 2 at `unified` and one of version 1 at `memory`.
        pub(crate) fn hybrid() -> Self {
            let top = tempfile::tempdir().unwrap();
            let path = fs::canonicalize(top.path()).unwrap();
            let mounts =
                [("unified", Version::V2), ("memory", Version::V1)].map(|(name, version)| {
                    fs::create_dir(path.join(name)).unwrap();
                    Mount {
                        version,
                        point: path.join(name),
                        root: "/".into(),
                    }
                });
            Self {
                top,
                mounts: mounts.to_vec(),
            }
        }

        /// Adds a cgroup that holds these processes.
        pub(crate) fn with(self, path: &str, pids: &[u32]) -> Self {
            let directory = self.path(path);
            fs::create_dir_all(&directory).unwrap();
            let text: String = pids.iter().map(|pid| format!("{pid}\n")).collect();
            fs::write(directory.join("cgroup.procs"), text).unwrap();
            self
        }

        pub(crate) fn path(&self, below: &str) -> PathBuf {
            fs::canonicalize(self.top.path()).unwrap().join(below)
        }

        /// The mounts as lines of a mountinfo.
        pub(crate) fn mountinfo(&self) -> String {
            let line = |mount: &Mount| {
                let kind = match mount.version {
                    Version::V2 => "cgroup2",
                    Version::V1 => "cgroup",
                };
                let (root, point) = (mount.root.display(), mount.point.display());
                format!("40 23 0:9 {root} {point} rw,relatime - {kind} {kind} rw\n")
            };
            self.mounts.iter().map(line).collect()
        }
    }

    #[test]
    fn cgroup_mounts_are_found_among_others() {
        let text = b"22 27 0:21 / /proc rw,relatime - proc proc rw\n\
            35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n\
            41 31 0:38 /a\\040b /mnt/c\\134d rw shared:1 master:2 - cgroup2 cgroup2 rw\n\
            garbage\n\
            27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n";
        let expected = [
            (Version::V2, "/mnt/c\\d", "/a b"),
            (Version::V1, "/sys/fs/cgroup/memory", "/"),
        ];
        let expected = expected.map(|(version, point, root)| Mount {
            version,
            point: point.into(),
            root: root.into(),
        });
        assert_eq!(mounts(text), expected);
    }

    #[test]
    fn mountinfo_written_by_the_tests_reads_back() {
        let trees = Trees::hybrid();
        assert_eq!(mounts(trees.mountinfo().as_bytes()), trees.mounts);
    }

    #[track_caller]
    fn check(trees: &Trees, path: &str, directory: &str, level: usize) {
        let found = preferred(named(&trees.mounts, Path::new(path))).unwrap();
        assert_eq!(found.directory, trees.path(directory));
        assert_eq!(found.level, Some(level));
    }

    #[test]
    fn a_cgroup_is_named_by_directory_or_by_path_in_the_tree() {
        let trees = Trees::hybrid()
            .with("unified/a.slice/b.service", &[7])
            .with("memory/only/here", &[8]);
        let absolute = trees.path("unified/a.slice/b.service");
        let absolute = absolute.to_str().unwrap();
        check(&trees, absolute, "unified/a.slice/b.service", 2);
        check(&trees, "/a.slice/b.service", "unified/a.slice/b.service", 2);
        check(&trees, "a.slice", "unified/a.slice", 1);
        check(&trees, "/only/here", "memory/only/here", 2);
        check(&trees, "/", "unified", 0);
        assert!(named(&trees.mounts, Path::new("no/such")).is_empty());
        assert!(named(&trees.mounts, Path::new("a.slice/../..")).is_empty());
    }

    #[test]
    fn an_empty_twin_gives_way_to_the_cgroup_that_has_processes() {
        let trees = Trees::hybrid()
            .with("unified/pod", &[])
            .with("memory/pod/inner", &[7]);
        check(&trees, "/pod", "memory/pod", 1);
        let trees = Trees::hybrid()
            .with("unified/pod", &[])
            .with("memory/pod", &[]);
        check(&trees, "/pod", "unified/pod", 1);
    }

    #[test]
    fn levels_count_from_the_root_of_the_tree_not_of_the_mount() {
        let mount = Mount {
            version: Version::V2,
            point: "/sys/fs/cgroup".into(),
            root: "/docker/abc".into(),
        };
        assert_eq!(mount.level_of(Path::new("/sys/fs/cgroup/x")), Some(3));
        let outside = Mount {
            root: "/../..".into(),
            ..mount
        };
        assert_eq!(outside.level_of(Path::new("/sys/fs/cgroup/x")), None);
    }

    #[test]
    fn the_mounted_part_of_a_path_is_stripped() {
        let mut trees = Trees::hybrid().with("unified/x", &[7]);
        trees.mounts[0].root = "/docker/abc".into();
        check(&trees, "/docker/abc/x", "unified/x", 3);
    }

    #[test]
    fn processes_are_those_of_the_whole_subtree() {
        let trees = Trees::hybrid()
            .with("memory/a", &[5, 3])
            .with("memory/a/b/c", &[4, 0]);
        let pids = cgroup_pids(&trees.path("memory/a")).unwrap();
        assert_eq!(pids, [Pid(3), Pid(4), Pid(5)]);
        assert!(cgroup_pids(&trees.path("memory/none")).is_err());
    }
}
