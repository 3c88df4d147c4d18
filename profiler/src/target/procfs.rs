//! What `/proc` says of processes and threads: who they are, whether they live, whose children
//! they are.
//!
//! In: a procfs mount (a directory, so that tests can make one). Out: parsed facts. Entries that
//! vanish while they are read count as gone; that is no error.

use std::{
    collections::{BTreeSet, HashMap},
    fs, io,
    path::{Path, PathBuf},
};

use super::ids::{Pid, Tid};

/// `flags` bit of kernel threads. Source: `PF_KTHREAD` in `include/linux/sched.h`.
const KERNEL_THREAD_FLAG: u64 = 0x0020_0000;

/// Inode number of the first pid namespace. Source: `PROC_PID_INIT_INO` in
/// `include/linux/proc_ns.h`.
const INITIAL_PID_NAMESPACE: u64 = 0xefff_fffc;

/// Inode number of the first cgroup namespace. Source: `PROC_CGROUP_INIT_INO`, as above.
const INITIAL_CGROUP_NAMESPACE: u64 = 0xefff_fffb;

/// What `/proc/PID/stat` says of a task. Source: proc_pid_stat(5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    /// Name of the task. Any bytes: a program may set what it likes.
    pub(crate) comm: Vec<u8>,
    /// Field 3: `R`, `S`, `Z`, …
    pub(crate) state: u8,
    /// Field 4: the parent process; 0 for the first process and for kthreadd.
    pub(super) parent: Pid,
    /// Field 9.
    flags: u64,
    /// Fields 14 and 15: time on a CPU, in clock ticks. In a process's own file it is that of all its
    /// threads.
    pub(crate) cpu_ticks: u64,
    /// Field 20.
    pub(crate) thread_count: u64,
    /// Field 22: when the task started, in clock ticks since the boot.
    pub(crate) start_time: u64,
    /// Field 24: pages in memory.
    pub(crate) resident_pages: u64,
}

impl Stat {
    /// Parses the text of the file. The comm stands in parentheses and may hold anything, spaces,
    /// newlines and parentheses too, so the last `)` closes it.
    fn parse(text: &[u8]) -> Option<Self> {
        let open = text.iter().position(|byte| *byte == b'(')?;
        let close = text.iter().rposition(|byte| *byte == b')')?;
        let comm = text.get(open + 1..close)?.to_vec();
        let rest = std::str::from_utf8(text.get(close + 1..)?).ok()?;
        // The first of these is field 3.
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Self {
            comm,
            state: *fields.first()?.as_bytes().first()?,
            parent: Pid(u32::try_from(number(4)?).ok()?),
            flags: number(9)?,
            cpu_ticks: number(14)? + number(15)?,
            thread_count: number(20)?,
            start_time: number(22)?,
            resident_pages: number(24).unwrap_or(0),
        })
    }

    /// Whether no code of it will run again. A process whose first thread has ended lives on as
    /// long as it has others.
    pub(crate) fn is_gone(&self) -> bool {
        self.is_ended_thread() && self.thread_count <= 1
    }

    /// Whether the one thread with this id has ended, whatever others its process has.
    pub(crate) fn is_ended_thread(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }

    /// Whether it runs kernel code alone.
    pub(crate) fn is_kernel_thread(&self) -> bool {
        self.flags & KERNEL_THREAD_FLAG != 0
    }

    /// The comm for people to read.
    pub(crate) fn comm_text(&self) -> String {
        String::from_utf8_lossy(&self.comm).into_owned()
    }
}

/// A procfs mount.
#[derive(Clone, Debug)]
pub(crate) struct Procfs {
    root: PathBuf,
}

impl Procfs {
    /// The one at `/proc`.
    pub(crate) fn system() -> Self {
        Self::at(Path::new("/proc"))
    }

    /// The one at `root`.
    pub(super) fn at(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// What is known of the task with this process or thread id; `None` when there is none.
    pub(crate) fn stat(&self, id: u32) -> Option<Stat> {
        Stat::parse(&fs::read(self.root.join(id.to_string()).join("stat")).ok()?)
    }

    /// The process that the task with this process or thread id belongs to.
    pub(super) fn process_of(&self, id: u32) -> Option<Pid> {
        let status = fs::read(self.root.join(id.to_string()).join("status")).ok()?;
        process_in_status(&status)
    }

    /// Every process that has not ended.
    pub(crate) fn processes(&self) -> io::Result<HashMap<Pid, Stat>> {
        let mut processes = HashMap::new();
        for entry in fs::read_dir(&self.root)? {
            let Ok(pid) = entry?.file_name().to_string_lossy().parse::<Pid>() else {
                continue;
            };
            if let Some(stat) = self.stat(pid.0).filter(|stat| !stat.is_gone()) {
                processes.insert(pid, stat);
            }
        }
        Ok(processes)
    }

    /// What is known of each thread of a process that has not ended, by its id.
    pub(crate) fn threads(&self, pid: Pid) -> Vec<(Tid, Stat)> {
        let folder = self.root.join(pid.to_string()).join("task");
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let threads = entries.filter_map(|entry| {
            let tid: Tid = entry.file_name().to_string_lossy().parse().ok()?;
            let stat = Stat::parse(&fs::read(entry.path().join("stat")).ok()?)?;
            (!stat.is_ended_thread()).then_some((tid, stat))
        });
        threads.collect()
    }

    /// Whether a thread of the process has this name.
    pub(super) fn has_thread_named(&self, pid: Pid, comm: &[u8]) -> bool {
        let Ok(tasks) = fs::read_dir(self.root.join(pid.to_string()).join("task")) else {
            return false;
        };
        tasks.flatten().any(|task| {
            fs::read(task.path().join("comm"))
                .is_ok_and(|name| name.strip_suffix(b"\n").unwrap_or(&name) == comm)
        })
    }

    /// The path of the process's executable, if we may know it.
    pub(crate) fn executable(&self, pid: Pid) -> Option<PathBuf> {
        fs::read_link(self.root.join(pid.to_string()).join("exe")).ok()
    }

    /// The text of our own mountinfo.
    pub(super) fn mountinfo(&self) -> io::Result<Vec<u8>> {
        fs::read(self.mountinfo_path())
    }

    /// The cgroups of a process, one row for each tree; what is not UTF-8 is replaced. `None` when
    /// there is no such process. Source: cgroups(7).
    pub(crate) fn cgroups(&self, pid: Pid) -> Option<String> {
        let rows = fs::read(self.root.join(pid.to_string()).join("cgroup")).ok()?;
        Some(String::from_utf8_lossy(&rows).into_owned())
    }

    /// Where [`Self::mountinfo`] reads.
    pub(super) fn mountinfo_path(&self) -> PathBuf {
        self.root.join("self/mountinfo")
    }

    /// Where the processes are listed.
    pub(super) fn path(&self) -> &Path {
        &self.root
    }

    /// Whether our pids are those of the kernel side.
    pub(super) fn in_initial_pid_namespace(&self) -> bool {
        self.namespace("pid") == Some(INITIAL_PID_NAMESPACE)
    }

    /// Whether we see the cgroup tree from its root.
    pub(super) fn in_initial_cgroup_namespace(&self) -> bool {
        self.namespace("cgroup") == Some(INITIAL_CGROUP_NAMESPACE)
    }

    /// Our namespace of this kind, from a link such as `pid:[4026531836]`.
    fn namespace(&self, kind: &str) -> Option<u64> {
        let link = fs::read_link(self.root.join("self/ns").join(kind)).ok()?;
        let (_, number) = link.to_str()?.split_once(":[")?;
        number.strip_suffix(']')?.parse().ok()
    }
}

/// The line `Tgid:` of `/proc/ID/status`.
fn process_in_status(status: &[u8]) -> Option<Pid> {
    let line = status
        .split(|byte| *byte == b'\n')
        .find_map(|line| line.strip_prefix(b"Tgid:"))?;
    std::str::from_utf8(line).ok()?.trim().parse().ok()
}

/// The processes that come down from `roots`, themselves left out.
pub(super) fn descendants_in(
    processes: &HashMap<Pid, Stat>,
    roots: &BTreeSet<Pid>,
) -> BTreeSet<Pid> {
    let mut children: HashMap<Pid, Vec<Pid>> = HashMap::new();
    for (pid, stat) in processes {
        children.entry(stat.parent).or_default().push(*pid);
    }
    let mut found = BTreeSet::new();
    let mut open: Vec<Pid> = roots.iter().copied().collect();
    while let Some(parent) = open.pop() {
        for child in children.get(&parent).into_iter().flatten() {
            if !roots.contains(child) && found.insert(*child) {
                open.push(*child);
            }
        }
    }
    found
}

/// The living processes that come down from `roots`, themselves left out, in one pass over `/proc`.
///
/// A process whose parent has ended is no longer known as a descendant. Read it again once
/// `sched_process_fork` is followed: a child born between two readings is in neither.
///
/// # Errors
/// When `/proc` cannot be listed.
pub fn descendants(roots: &[Pid]) -> io::Result<Vec<Pid>> {
    let processes = Procfs::system().processes()?;
    let roots = roots.iter().copied().collect();
    Ok(descendants_in(&processes, &roots).into_iter().collect())
}

/// When the process or its first thread started, in clock ticks since the boot: with the pid, it
/// tells a process from a later one that got the same pid. `None` when there is none.
#[must_use]
pub fn start_time(pid: Pid) -> Option<u64> {
    Procfs::system().stat(pid.0).map(|stat| stat.start_time)
}

/// Whether the pids we see are those that the kernel side sees. In a container they are not, unless
/// it shares the host's pid namespace.
#[must_use]
pub fn is_initial_pid_namespace() -> bool {
    Procfs::system().in_initial_pid_namespace()
}

/// The process that a thread belongs to; `None` when there is no such thread.
#[must_use]
pub fn process_of(tid: Tid) -> Option<Pid> {
    Procfs::system().process_of(tid.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(comm: &str, state: char, flags: u64, threads: u64) -> Vec<u8> {
        format!(
            "77 ({comm}) {state} 5 77 77 0 -1 {flags} 1 2 3 4 5 6 7 8 20 0 {threads} 0 9876 1 2 3\n"
        )
        .into_bytes()
    }

    #[track_caller]
    fn check_comm(comm: &str) {
        let stat = Stat::parse(&line(comm, 'S', 0x40_0040, 3)).unwrap();
        assert_eq!(stat.comm, comm.as_bytes());
        assert_eq!((stat.parent, stat.start_time), (Pid(5), 9876));
        assert!(!stat.is_kernel_thread() && !stat.is_gone());
    }

    #[test]
    fn a_comm_may_hold_anything() {
        check_comm("redis-server");
        check_comm("Web Content");
        check_comm("(sd-pam)");
        check_comm("a) R 1 (b");
        check_comm("");
        check_comm("two\nlines");
        let mut bytes = line("x", 'S', 0, 1);
        bytes[4] = 0xff;
        assert_eq!(Stat::parse(&bytes).unwrap().comm, [0xff]);
    }

    #[test]
    fn text_that_is_no_stat_line_is_none() {
        for text in [
            "",
            "77",
            "77 (x",
            "77 (x)",
            "77 (x) S 1 2",
            ")(",
            "7 (x) S a",
        ] {
            assert_eq!(Stat::parse(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn a_zombie_is_gone_unless_threads_of_it_live() {
        assert!(Stat::parse(&line("x", 'Z', 0, 1)).unwrap().is_gone());
        assert!(!Stat::parse(&line("x", 'Z', 0, 4)).unwrap().is_gone());
    }

    #[test]
    fn kernel_threads_are_told_by_their_flag() {
        let stat = Stat::parse(&line("kthreadd", 'S', 0x20_8040, 1)).unwrap();
        assert!(stat.is_kernel_thread());
    }

    #[test]
    fn the_process_of_a_thread_stands_in_its_status() {
        let status = b"Name:\tTgid: 9\nUmask:\t0022\nTgid:\t412\nNgid:\t0\n";
        assert_eq!(process_in_status(status), Some(Pid(412)));
        assert_eq!(process_in_status(b"Name:\tx\n"), None);
    }

    #[test]
    fn descendants_are_found_at_every_depth_and_roots_are_left_out() {
        let child_of = |parent| Stat {
            parent: Pid(parent),
            ..Stat::parse(&line("x", 'S', 0, 1)).unwrap()
        };
        let processes = [(1, 0), (10, 1), (11, 10), (12, 11), (20, 1), (21, 20)]
            .map(|(pid, parent)| (Pid(pid), child_of(parent)));
        let processes = HashMap::from(processes);
        let found = descendants_in(&processes, &BTreeSet::from([Pid(10), Pid(11)]));
        assert_eq!(found, BTreeSet::from([Pid(12)]));
        let found = descendants_in(&processes, &BTreeSet::from([Pid(1)]));
        assert_eq!(found.len(), 5);
    }

    #[test]
    fn our_own_process_is_known() {
        let us = Pid(std::process::id());
        assert!(start_time(us).unwrap() > 0);
        assert_eq!(process_of(Tid(us.0)), Some(us));
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        assert_eq!(process_of(Tid(thread.unsigned_abs())), Some(us));
        assert_eq!(start_time(Pid(4_194_304)), None);
        let processes = Procfs::system().processes().unwrap();
        assert!(processes.contains_key(&us));
    }

    #[test]
    fn our_own_threads_are_known_by_name() {
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let (named, ready) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("named-by-test".to_owned())
            .spawn(move || {
                named.send(()).unwrap();
                wait.recv().unwrap_err();
            })
            .unwrap();
        ready.recv().unwrap();
        let us = Pid(std::process::id());
        assert!(Procfs::system().has_thread_named(us, b"named-by-test"));
        assert!(!Procfs::system().has_thread_named(us, b"named-by-nobody"));
        drop(done);
        thread.join().unwrap();
    }
}
