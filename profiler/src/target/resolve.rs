//! Each kind of target, resolved.

use std::{
    cell::OnceCell,
    collections::{BTreeSet, HashMap},
    path::{Path, PathBuf},
};

use profiler_common::{
    config::{TargetKey, TargetKind},
    limits::{COMM_BYTES, MAX_CGROUP_LEVELS, MAX_TARGETS},
};

use super::{
    CgroupFilter, Follow, TargetSpec, Targets, UserStacks,
    cgroup::{self, Cgroup, Mount, Version},
    container,
    error::TargetError,
    ids::{Pid, Tid},
    label,
    procfs::{Procfs, Stat, descendants_in},
};

/// Resolves against this procfs.
pub(super) fn resolve_in(
    procfs: &Procfs,
    spec: &TargetSpec,
    user_stacks: UserStacks,
    cgroups: CgroupFilter,
) -> Result<Targets, TargetError> {
    if spec.is_whole_host() {
        return Ok(Targets {
            label: label::combined(&[]),
            ..Targets::default()
        });
    }
    let mut found = Found::new(procfs, user_stacks, cgroups);
    for pid in &spec.pids {
        found.add_pid(*pid)?;
    }
    for tid in &spec.tids {
        found.add_tid(*tid)?;
    }
    for comm in &spec.comms {
        found.add_comm(comm)?;
    }
    if !spec.cgroups.is_empty() || !spec.containers.is_empty() {
        found.add_cgroups(spec)?;
    }
    if spec.follow == Follow::Yes {
        found.add_descendants()?;
        if !spec.tids.is_empty() {
            found.notes.push(
                "children of single threads are not followed: name the process instead".to_owned(),
            );
        }
    }
    found.finish()
}

/// What has been found so far. Sets are sorted, so that the result does not depend on chance.
struct Found<'a> {
    procfs: &'a Procfs,
    user_stacks: UserStacks,
    cgroup_filter: CgroupFilter,
    /// Every process, read once and only if need be.
    processes: OnceCell<HashMap<Pid, Stat>>,
    /// Whether pids mean the same to us and to the kernel side.
    pids_are_global: bool,
    pids: BTreeSet<Pid>,
    tids: BTreeSet<Tid>,
    comms: BTreeSet<[u8; COMM_BYTES]>,
    cgroup_ids: BTreeSet<u64>,
    cgroup_levels: u32,
    listed_cgroups: Vec<PathBuf>,
    /// Processes that are targets through another key than a pid.
    known: BTreeSet<Pid>,
    /// The processes that were named, in whatever way, in that order.
    roots: Vec<Pid>,
    exit_with: Vec<Pid>,
    labels: Vec<String>,
    notes: Vec<String>,
}

impl<'a> Found<'a> {
    fn new(procfs: &'a Procfs, user_stacks: UserStacks, cgroup_filter: CgroupFilter) -> Self {
        Self {
            procfs,
            user_stacks,
            cgroup_filter,
            processes: OnceCell::new(),
            pids_are_global: procfs.in_initial_pid_namespace(),
            pids: BTreeSet::new(),
            tids: BTreeSet::new(),
            comms: BTreeSet::new(),
            cgroup_ids: BTreeSet::new(),
            cgroup_levels: 0,
            listed_cgroups: Vec::new(),
            known: BTreeSet::new(),
            roots: Vec::new(),
            exit_with: Vec::new(),
            labels: Vec::new(),
            notes: Vec::new(),
        }
    }

    fn processes(&self) -> Result<&HashMap<Pid, Stat>, TargetError> {
        if let Some(processes) = self.processes.get() {
            return Ok(processes);
        }
        let processes = self.procfs.processes().map_err(|source| {
            let path = self.procfs.path().to_owned();
            TargetError::Unreadable { path, source }
        })?;
        Ok(self.processes.get_or_init(|| processes))
    }

    fn needs_global_pids(&self, what: &'static str) -> Result<(), TargetError> {
        if self.pids_are_global {
            Ok(())
        } else {
            Err(TargetError::PidNamespace { what })
        }
    }

    fn needs_user_code(
        &self,
        stat: &Stat,
        option: &'static str,
        id: u32,
    ) -> Result<(), TargetError> {
        if stat.is_kernel_thread() && self.user_stacks == UserStacks::Yes {
            let comm = stat.comm_text();
            return Err(TargetError::KernelThread { option, id, comm });
        }
        Ok(())
    }

    fn add_pid(&mut self, pid: Pid) -> Result<(), TargetError> {
        self.needs_global_pids("by pid")?;
        let stat = self.procfs.stat(pid.0);
        let stat = stat.ok_or(TargetError::NoSuchProcess { pid })?;
        let process = self.procfs.process_of(pid.0);
        let process = process.ok_or(TargetError::NoSuchProcess { pid })?;
        if process != pid {
            let leader = self.procfs.stat(process.0);
            return Err(TargetError::ThreadAsProcess {
                tid: Tid(pid.0),
                pid: process,
                comm: leader.unwrap_or(stat).comm_text(),
            });
        }
        let comm = stat.comm_text();
        if stat.is_gone() {
            let (option, id) = ("pid", pid.0);
            return Err(TargetError::Zombie { option, id, comm });
        }
        self.needs_user_code(&stat, "pid", pid.0)?;
        if self.pids.insert(pid) {
            self.labels.push(format!("{comm}-{pid}"));
            self.add_named_process(pid);
        }
        Ok(())
    }

    fn add_tid(&mut self, tid: Tid) -> Result<(), TargetError> {
        self.needs_global_pids("by tid")?;
        let gone = || TargetError::NoSuchThread { tid };
        let stat = self.procfs.stat(tid.0).ok_or_else(gone)?;
        let process = self.procfs.process_of(tid.0).ok_or_else(gone)?;
        let comm = stat.comm_text();
        if stat.is_ended_thread() {
            let (option, id) = ("tid", tid.0);
            return Err(TargetError::Zombie { option, id, comm });
        }
        self.needs_user_code(&stat, "tid", tid.0)?;
        if self.tids.insert(tid) {
            self.labels.push(format!("{comm}-{tid}"));
            self.known.insert(process);
            self.add_named_process(process);
        }
        Ok(())
    }

    /// A process that was named by one of its ids: the run ends with it.
    fn add_named_process(&mut self, pid: Pid) {
        if !self.exit_with.contains(&pid) {
            self.exit_with.push(pid);
        }
        self.add_root(pid);
    }

    fn add_root(&mut self, pid: Pid) {
        if !self.roots.contains(&pid) {
            self.roots.push(pid);
        }
    }

    /// The kernel side matches threads by name. A process whose first thread has the name is added
    /// by pid, so that its other threads count, whatever they are called.
    fn add_comm(&mut self, name: &str) -> Result<(), TargetError> {
        let bytes = name.as_bytes();
        if bytes.is_empty() || bytes.len() >= COMM_BYTES || bytes.contains(&0) {
            let name = name.to_owned();
            return Err(TargetError::ImpossibleComm { name });
        }
        let mut comm = [0; COMM_BYTES];
        comm[..bytes.len()].copy_from_slice(bytes);
        if !self.comms.insert(comm) {
            return Ok(());
        }
        self.labels.push(name.to_owned());
        let mut whole = BTreeSet::new();
        let mut partly = BTreeSet::new();
        let mut is_kernel_thread = false;
        for (pid, stat) in self.processes()? {
            if stat.is_kernel_thread() {
                is_kernel_thread |= stat.comm == bytes;
            } else if stat.comm == bytes {
                whole.insert(*pid);
            } else if self.procfs.has_thread_named(*pid, bytes) {
                partly.insert(*pid);
            }
        }
        if whole.is_empty() && partly.is_empty() && !is_kernel_thread {
            self.notes.push(format!(
                "no thread is named '{name}' now: waiting for one to come"
            ));
        }
        for pid in whole.iter().chain(&partly) {
            self.add_root(*pid);
        }
        if self.pids_are_global {
            self.pids.extend(whole);
            self.known.extend(partly);
        } else {
            self.notes.push(format!(
                "in a pid namespace of our own, only the threads that are named '{name}' \
                 themselves count"
            ));
        }
        Ok(())
    }

    fn add_cgroups(&mut self, spec: &TargetSpec) -> Result<(), TargetError> {
        let mountinfo = self.procfs.mountinfo().map_err(|source| {
            let path = self.procfs.mountinfo_path();
            TargetError::Unreadable { path, source }
        })?;
        let mounts = cgroup::mounts(&mountinfo);
        for path in &spec.cgroups {
            let found = cgroup::preferred(cgroup::named(&mounts, path));
            let cgroup = found.ok_or_else(|| TargetError::NoSuchCgroup {
                path: path.clone(),
                mounts: points(&mounts),
            })?;
            let label = label::last_component(path);
            self.add_cgroup(&cgroup, label)?;
        }
        for id in &spec.containers {
            let cgroup = container::find(&mounts, id)?;
            let name = container::container_of(&cgroup.directory).unwrap_or(id);
            let label = name.chars().take(container::SHORT_ID_CHARS).collect();
            self.add_cgroup(&cgroup, label)?;
        }
        Ok(())
    }

    fn add_cgroup(&mut self, cgroup: &Cgroup, label: String) -> Result<(), TargetError> {
        let gone = |source| TargetError::Unreadable {
            path: cgroup.directory.clone(),
            source,
        };
        let pids = cgroup::pids_below(&cgroup.directory).map_err(gone)?;
        if pids.is_empty() {
            self.notes.push(format!(
                "no process is in cgroup {} now: waiting for one to come",
                cgroup.directory.display()
            ));
        }
        self.labels.push(label);
        self.roots.extend(&pids);
        match (cgroup.version, self.cgroup_filter) {
            (Version::V2, CgroupFilter::Kernel) => {
                self.cgroup_levels |= self.levels_to_search(cgroup)?;
                self.cgroup_ids.insert(cgroup.id().map_err(gone)?);
                if self.pids_are_global {
                    self.known.extend(pids);
                }
            }
            (version, _) => {
                let (what, why) = match version {
                    Version::V1 => ("by cgroup v1", "is of version 1"),
                    Version::V2 => ("by cgroup on this kernel", "is none that this kernel tells"),
                };
                self.needs_global_pids(what)?;
                self.pids.extend(pids);
                if !self.listed_cgroups.contains(&cgroup.directory) {
                    self.note_listed(&cgroup.directory, why);
                    self.listed_cgroups.push(cgroup.directory.clone());
                }
            }
        }
        Ok(())
    }

    fn note_listed(&mut self, directory: &Path, why: &str) {
        self.notes.push(format!(
            "cgroup {} {why}: its processes are looked up again and again, so one that lives shortly \
             may be missed",
            directory.display()
        ));
    }

    /// The levels at which the kernel side must look for a cgroup: its own, or every one where it
    /// cannot be known, because we do not see the root of the tree.
    fn levels_to_search(&self, cgroup: &Cgroup) -> Result<u32, TargetError> {
        match cgroup.level {
            Some(level) if self.procfs.in_initial_cgroup_namespace() => u32::try_from(level)
                .ok()
                .filter(|level| *level < MAX_CGROUP_LEVELS)
                .map(|level| 1 << level)
                .ok_or_else(|| TargetError::CgroupTooDeep {
                    path: cgroup.directory.clone(),
                    level,
                }),
            _ => Ok(u32::MAX >> (u32::BITS - MAX_CGROUP_LEVELS)),
        }
    }

    fn add_descendants(&mut self) -> Result<(), TargetError> {
        let children = descendants_in(self.processes()?, &self.pids);
        self.pids.extend(children);
        Ok(())
    }

    /// The process that stands for all of them.
    fn main(&self) -> Option<Pid> {
        if !self.pids_are_global {
            return None;
        }
        let is_user = |pid: &&Pid| {
            let stat = self.procfs.stat(pid.0);
            stat.is_some_and(|stat| !stat.is_kernel_thread())
        };
        let mut roots = self.roots.iter().filter(is_user);
        let first = *roots.next()?;
        let executable = self.procfs.executable(first);
        let same = |pid: &Pid| executable.is_some() && self.procfs.executable(*pid) == executable;
        roots.all(same).then_some(first)
    }

    fn finish(self) -> Result<Targets, TargetError> {
        let ids = |kind, ids: Vec<u32>| {
            ids.into_iter()
                .map(move |id| TargetKey::id(kind, u64::from(id)))
        };
        let mut keys: Vec<TargetKey> = Vec::new();
        keys.extend(ids(
            TargetKind::Pid,
            self.pids.iter().map(|pid| pid.0).collect(),
        ));
        keys.extend(ids(
            TargetKind::Tid,
            self.tids.iter().map(|tid| tid.0).collect(),
        ));
        keys.extend(self.comms.iter().map(|comm| TargetKey::comm(*comm)));
        keys.extend(
            self.cgroup_ids
                .iter()
                .map(|id| TargetKey::id(TargetKind::Cgroup, *id)),
        );
        if keys.len() > MAX_TARGETS {
            return Err(TargetError::TooMany { count: keys.len() });
        }
        let mut filters = keys.iter().fold(0, |bits, key| bits | key.kind);
        if !self.listed_cgroups.is_empty() {
            filters |= TargetKind::Pid as u32;
        }
        Ok(Targets {
            main: self.main(),
            keys,
            filters,
            cgroup_levels: self.cgroup_levels,
            pids: self.pids.union(&self.known).copied().collect(),
            exit_with: self.exit_with,
            label: label::combined(&self.labels),
            listed_cgroups: self.listed_cgroups,
            notes: self.notes,
        })
    }
}

fn points(mounts: &[Mount]) -> Vec<PathBuf> {
    mounts.iter().map(|mount| mount.point.clone()).collect()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::{super::cgroup::tests::Trees, *};

    /// A procfs of our own making, with the trees' mountinfo.
    struct Host {
        trees: Trees,
    }

    impl Host {
        fn new(trees: Trees) -> Self {
            let host = Self { trees };
            let us = host.proc().join("self");
            fs::create_dir_all(us.join("ns")).unwrap();
            symlink("pid:[4026531836]", us.join("ns/pid")).unwrap();
            symlink("cgroup:[4026531835]", us.join("ns/cgroup")).unwrap();
            fs::write(us.join("mountinfo"), host.trees.mountinfo()).unwrap();
            host.task(1, 0, 1, "S (systemd)")
                .task(2, 0, 2, "S (kthreadd)")
        }

        /// The hosts of most tests: a server with a worker and a thread, and a shell.
        fn usual() -> Self {
            Self::new(Trees::hybrid())
                .task(100, 1, 100, "S (server)")
                .task(101, 100, 101, "S (worker)")
                .task(102, 101, 102, "S (helper)")
                .task(103, 1, 100, "S (io)")
                .thread(100, 103, "io")
                .thread(100, 104, "pool")
                .task(200, 1, 200, "Z (dead)")
                .task(300, 1, 300, "R (server)")
        }

        fn proc(&self) -> PathBuf {
            self.trees.path("proc")
        }

        /// A task, given as its state and its comm in parentheses.
        fn task(self, id: u32, parent: u32, process: u32, state_and_comm: &str) -> Self {
            let (state, comm) = state_and_comm.split_once(' ').unwrap();
            let flags = if id == 2 { KTHREAD } else { 0 };
            let directory = self.proc().join(id.to_string());
            fs::create_dir_all(&directory).unwrap();
            let stat = format!(
                "{id} {comm} {state} {parent} 1 1 0 -1 {flags} 0 0 0 0 0 0 0 0 20 0 1 0 99 0"
            );
            fs::write(directory.join("stat"), stat).unwrap();
            fs::write(directory.join("status"), format!("Tgid:\t{process}\n")).unwrap();
            symlink(format!("/bin/{comm}"), directory.join("exe")).unwrap();
            self
        }

        fn thread(self, process: u32, tid: u32, comm: &str) -> Self {
            let directory = self.proc().join(format!("{process}/task/{tid}"));
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join("comm"), format!("{comm}\n")).unwrap();
            self
        }

        fn resolve(&self, spec: &TargetSpec) -> Result<Targets, TargetError> {
            self.resolve_by(spec, CgroupFilter::Kernel)
        }

        fn resolve_by(
            &self,
            spec: &TargetSpec,
            filter: CgroupFilter,
        ) -> Result<Targets, TargetError> {
            resolve_in(&Procfs::at(&self.proc()), spec, UserStacks::Yes, filter)
        }

        #[track_caller]
        fn refuses(&self, spec: &TargetSpec, what: &str) {
            assert_eq!(self.resolve(spec).unwrap_err().to_string(), what);
        }
    }

    const KTHREAD: u32 = 0x20_0000;

    fn pid_key(pid: u32) -> TargetKey {
        TargetKey::id(TargetKind::Pid, u64::from(pid))
    }

    fn of_pids(pids: &[u32], follow: Follow) -> TargetSpec {
        TargetSpec {
            pids: pids.iter().map(|pid| Pid(*pid)).collect(),
            follow,
            ..TargetSpec::default()
        }
    }

    fn of_comm(comm: &str) -> TargetSpec {
        TargetSpec {
            comms: vec![comm.to_owned()],
            ..TargetSpec::default()
        }
    }

    fn of_cgroup(path: &str) -> TargetSpec {
        TargetSpec {
            cgroups: vec![path.into()],
            ..TargetSpec::default()
        }
    }

    #[test]
    fn a_pid_is_filtered_by_alone_unless_its_children_count() {
        let host = Host::usual();
        let alone = host.resolve(&of_pids(&[100], Follow::No)).unwrap();
        assert_eq!(alone.keys, [pid_key(100)]);
        assert_eq!((alone.filters, alone.main), (1, Some(Pid(100))));
        assert_eq!(alone.label, "server-100");
        let followed = host.resolve(&of_pids(&[100], Follow::Yes)).unwrap();
        assert_eq!(followed.pids, [Pid(100), Pid(101), Pid(102)]);
        assert_eq!(followed.exit_with, [Pid(100)]);
        assert_eq!(followed.keys.len(), 3);
    }

    #[test]
    fn several_pids_have_a_main_one_if_they_run_one_executable() {
        let host = Host::usual();
        let same = host.resolve(&of_pids(&[300, 100, 300], Follow::No));
        let same = same.unwrap();
        assert_eq!(same.main, Some(Pid(300)));
        assert_eq!(same.label, "server-300+1");
        assert_eq!(same.exit_with, [Pid(300), Pid(100)]);
        let other = host.resolve(&of_pids(&[100, 101], Follow::No)).unwrap();
        assert_eq!(other.main, None);
    }

    #[test]
    fn what_is_no_living_user_process_is_refused() {
        let host = Host::usual();
        let refuses = |pid, what| host.refuses(&of_pids(&[pid], Follow::No), what);
        refuses(999, "no process has pid 999");
        refuses(200, "pid 200 (dead) has ended");
        refuses(103, "103 is a thread of pid 100 (server), not a process");
        refuses(2, "pid 2 (kthreadd) is a kernel thread");
    }

    #[test]
    fn a_kernel_thread_is_a_target_without_user_stacks() {
        let host = Host::usual();
        let spec = of_pids(&[2], Follow::No);
        let targets = resolve_in(
            &Procfs::at(&host.proc()),
            &spec,
            UserStacks::No,
            CgroupFilter::Kernel,
        )
        .unwrap();
        assert_eq!(targets.keys, [pid_key(2)]);
        assert_eq!(targets.main, None);
    }

    #[test]
    fn a_thread_ends_the_run_with_its_process() {
        let host = Host::usual();
        let mut spec = TargetSpec {
            tids: vec![Tid(103)],
            ..TargetSpec::default()
        };
        let targets = host.resolve(&spec).unwrap();
        assert_eq!(targets.keys, [TargetKey::id(TargetKind::Tid, 103)]);
        assert_eq!(targets.pids, [Pid(100)]);
        assert_eq!(targets.exit_with, [Pid(100)]);
        assert_eq!(targets.label, "io-103");
        spec.tids = vec![Tid(999)];
        host.refuses(&spec, "no thread has tid 999");
        spec.tids = vec![Tid(2)];
        host.refuses(&spec, "tid 2 (kthreadd) is a kernel thread");
        spec.tids = vec![Tid(200)];
        host.refuses(&spec, "tid 200 (dead) has ended");
    }

    #[test]
    fn a_name_means_threads_and_whole_processes() {
        let host = Host::usual();
        let server = host.resolve(&of_comm("server")).unwrap();
        let comm = TargetKey::comm(*b"server\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(server.keys, [pid_key(100), pid_key(300), comm]);
        assert_eq!(server.filters, 1 | 4);
        assert!(server.exit_with.is_empty() && server.notes.is_empty());
        assert_eq!(
            (server.main, server.label.as_str()),
            (Some(Pid(100)), "server")
        );
        let thread = host.resolve(&of_comm("pool")).unwrap();
        assert_eq!((thread.filters, thread.keys.len()), (4, 1));
        assert_eq!(thread.pids, [Pid(100)]);
        assert!(host.resolve(&of_comm("kthreadd")).unwrap().notes.is_empty());
    }

    #[test]
    fn a_name_that_nobody_has_is_noted_and_one_that_nobody_can_have_refused() {
        let host = Host::usual();
        let nobody = host.resolve(&of_comm("fifteen-bytes-x")).unwrap();
        assert_eq!((nobody.keys.len(), nobody.notes.len()), (1, 1));
        for name in ["", "sixteen-bytes-xx", "nul\0"] {
            let error = host.resolve(&of_comm(name)).unwrap_err();
            assert!(
                matches!(error, TargetError::ImpossibleComm { .. }),
                "{name}"
            );
        }
    }

    #[test]
    fn a_cgroup_of_version_2_is_filtered_by_its_inode_and_level() {
        let host = Host::new(Trees::hybrid().with("unified/a.slice/b.service", &[100, 101]))
            .task(100, 1, 100, "S (server)")
            .task(101, 100, 101, "S (worker)");
        let targets = host.resolve(&of_cgroup("/a.slice/b.service")).unwrap();
        let path = host.trees.path("unified/a.slice/b.service");
        let inode = std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
        assert_eq!(targets.keys, [TargetKey::id(TargetKind::Cgroup, inode)]);
        assert_eq!((targets.filters, targets.cgroup_levels), (8, 1 << 2));
        assert_eq!(targets.pids, [Pid(100), Pid(101)]);
        assert_eq!((targets.label.as_str(), targets.main), ("b.service", None));
        host.refuses(&of_cgroup("/none"), "no cgroup '/none'");
    }

    #[test]
    fn a_cgroup_below_the_levels_we_search_is_refused() {
        let deep = |levels: u32| "x/".repeat(levels as usize);
        let host = Host::new(Trees::hybrid().with(&format!("unified/{}", deep(16)), &[100]));
        let targets = host.resolve(&of_cgroup(&deep(15))).unwrap();
        assert_eq!(targets.cgroup_levels, 1 << 15);
        let error = host.resolve(&of_cgroup(&deep(16))).unwrap_err();
        assert!(matches!(
            error,
            TargetError::CgroupTooDeep { level: 16, .. }
        ));
    }

    #[test]
    fn a_cgroup_of_version_1_becomes_its_processes() {
        let host = Host::new(Trees::hybrid().with("memory/pod/one", &[100])).task(
            100,
            1,
            100,
            "S (server)",
        );
        let targets = host.resolve(&of_cgroup("pod")).unwrap();
        assert_eq!(targets.keys, [pid_key(100)]);
        assert_eq!(targets.listed_cgroups, [host.trees.path("memory/pod")]);
        assert_eq!((targets.filters, targets.notes.len()), (1, 1));
        let empty = Host::new(Trees::hybrid().with("memory/pod", &[]));
        let targets = empty.resolve(&of_cgroup("pod")).unwrap();
        assert_eq!((targets.filters, targets.keys.len()), (1, 0));
    }

    #[test]
    fn a_cgroup_that_the_kernel_does_not_tell_becomes_its_processes() {
        let host = Host::new(Trees::hybrid().with("unified/a", &[100]));
        let host = host.task(100, 1, 100, "S (server)");
        let targets = host.resolve_by(&of_cgroup("a"), CgroupFilter::Processes);
        let targets = targets.unwrap();
        assert_eq!(targets.keys, [pid_key(100)]);
        assert_eq!(targets.listed_cgroups, [host.trees.path("unified/a")]);
        assert_eq!((targets.filters, targets.cgroup_levels), (1, 0));
        assert_eq!(targets.notes.len(), 1);
    }

    #[test]
    fn a_container_is_labelled_with_the_start_of_its_id() {
        let id = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        let host = Host::new(Trees::hybrid().with(&format!("unified/docker-{id}.scope"), &[100]))
            .task(100, 1, 100, "S (server)");
        let spec = TargetSpec {
            containers: vec!["012345".to_owned()],
            ..TargetSpec::default()
        };
        let targets = host.resolve(&spec).unwrap();
        assert_eq!(
            (targets.label.as_str(), targets.filters),
            ("0123456789ab", 8)
        );
        assert_eq!(targets.main, Some(Pid(100)));
    }

    #[test]
    fn in_a_pid_namespace_only_what_needs_no_pids_is_a_target() {
        let host = Host::new(
            Trees::hybrid()
                .with("unified/a", &[100])
                .with("memory/b", &[100]),
        )
        .task(100, 1, 100, "S (server)");
        let link = host.proc().join("self/ns/pid");
        fs::remove_file(&link).unwrap();
        symlink("pid:[4026532999]", link).unwrap();
        host.refuses(
            &of_pids(&[100], Follow::No),
            "cannot profile by pid in a pid namespace",
        );
        host.refuses(
            &of_cgroup("b"),
            "cannot profile by cgroup v1 in a pid namespace",
        );
        let comm = host.resolve(&of_comm("server")).unwrap();
        assert_eq!((comm.filters, comm.pids.len(), comm.main), (4, 0, None));
        let cgroup = host.resolve(&of_cgroup("a")).unwrap();
        assert_eq!((cgroup.filters, cgroup.pids.len()), (8, 0));
    }

    #[test]
    fn without_sight_of_the_root_every_level_is_searched() {
        let host = Host::new(Trees::hybrid().with("unified/a", &[100]));
        let link = host.proc().join("self/ns/cgroup");
        fs::remove_file(&link).unwrap();
        symlink("cgroup:[4026532999]", link).unwrap();
        assert_eq!(host.resolve(&of_cgroup("a")).unwrap().cgroup_levels, 0xffff);
    }
}
