//! Opens the perf map that a process writes, and no other file.
//!
//! The process says where that is: `/tmp/perf-PID.map`, with its `/tmp` and the pid that it has in
//! its own namespace. Everything about the path may be hostile: it is resolved below the process's
//! root, and looked at before it is opened for reading, as opening a device may have effects.

use std::{
    fs,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    time::{Duration, SystemTime},
};

use rustix::{
    fs::{FileType, Mode, OFlags},
    io::Errno,
};

use super::tail::Source;
use crate::{
    object::opener::{self, Asking, Seen},
    target::Pid,
};

/// Clocks differ by this much at most, in the time of a file and the start of a process.
const CLOCK_SLACK: Duration = Duration::from_secs(2);

/// Why a map that may be there is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Refusal {
    /// The last part of its path is a symbolic link.
    SymbolicLink,
    /// It is a directory, a FIFO, a device or a socket.
    NotAFile,
    /// It belongs to neither the process's user nor root.
    Owner {
        /// Whose it is.
        uid: u32,
    },
    /// It was last written before the process was started: another one of the same number did.
    Stale,
    /// We may not look.
    NoPermission,
    /// Its file system does not answer.
    Silent,
    /// The system's word for something else.
    Unreadable {
        /// Its number: `errno(3)`.
        errno: i32,
    },
}

/// What opening gave.
#[derive(Debug)]
pub(super) enum Opened {
    /// The map.
    Map(Source),
    /// There is none yet.
    Absent,
    /// It was not worth asking for it.
    NotAsked,
    /// The process has ended.
    Gone,
    /// There may be one, and it is not to be read.
    Refused(Refusal),
}

/// What is known of a process that its map must agree with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Writer {
    pub(super) pid: Pid,
    /// In its own pid namespace.
    pub(super) own_pid: u32,
    /// As whom it writes files.
    pub(super) uid: u32,
    /// When it was started, or began to run its program.
    pub(super) started: Option<SystemTime>,
}

impl Writer {
    /// Reads what `/proc` says. `None` when the process is gone.
    pub(super) fn of(pid: Pid) -> Option<Self> {
        let status = fs::read(format!("/proc/{pid}/status")).ok()?;
        let (own_pid, uid) = parse_status(&String::from_utf8_lossy(&status))?;
        Some(Self {
            pid,
            own_pid,
            uid,
            started: started(pid),
        })
    }

    /// Opens the map.
    pub(super) fn open_map(&self, asking: Asking) -> Opened {
        let root = match self.root() {
            Ok(root) => root,
            Err(Errno::NOENT | Errno::SRCH) => return Opened::Gone,
            Err(error) => return refused(error),
        };
        let (place, seen) = match opener::look(root.as_fd(), &self.path(), asking) {
            Ok(Some(found)) => found,
            Ok(None) => return Opened::NotAsked,
            Err(Errno::NOENT | Errno::NOTDIR) => return Opened::Absent,
            Err(error) => return refused(error),
        };
        if let Some(refusal) = self.objection(&seen) {
            return Opened::Refused(refusal);
        }
        // The very file that was looked at.
        match opener::open_found(place.as_fd()) {
            Ok(file) => Opened::Map(Source::Near(file)),
            Err(Errno::FBIG) => Opened::Map(Source::Far(place)),
            Err(error) => refused(error),
        }
    }

    /// What speaks against reading a file, if anything does.
    pub(super) fn objection(&self, seen: &Seen) -> Option<Refusal> {
        match seen.kind() {
            FileType::Symlink => return Some(Refusal::SymbolicLink),
            FileType::RegularFile => {}
            _ => return Some(Refusal::NotAFile),
        }
        // As perf has it, which takes its own user for the process's.
        if seen.uid != 0 && seen.uid != self.uid {
            return Some(Refusal::Owner { uid: seen.uid });
        }
        let is_stale = match (seen.modified_at(), self.started) {
            (Some(written), Some(started)) => written + CLOCK_SLACK < started,
            _ => false,
        };
        is_stale.then_some(Refusal::Stale)
    }

    /// Whether a mapping of this path is of the jitdump, `jit-PID.dump`, with the pid that the process
    /// has for itself. One of another pid is its parent's.
    /// Source: `jit_detect` in `tools/perf/util/jitdump.c` of the kernel.
    pub(super) fn is_dump(&self, path: &str) -> bool {
        let path = path.strip_suffix(" (deleted)").unwrap_or(path);
        let file = path.rsplit(['/', ':']).next().unwrap_or(path);
        let pid = file
            .strip_prefix("jit-")
            .and_then(|rest| rest.strip_suffix(".dump"));
        pid.is_some_and(|pid| {
            [self.own_pid, self.pid.0]
                .iter()
                .any(|own| *pid == own.to_string())
        })
    }

    /// The numbers of the file that is at the path now. `None` when there is none.
    pub(super) fn file_at_path(&self) -> Option<(u64, u64)> {
        let root = self.root().ok()?;
        let (_, seen) = opener::look(root.as_fd(), &self.path(), Asking::Worth).ok()??;
        Some((seen.device, seen.inode))
    }

    /// The process's root.
    fn root(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let path = format!("/proc/{}/root", self.pid);
        rustix::fs::open(path, flags, Mode::empty())
    }

    /// The map's path below the root.
    fn path(&self) -> PathBuf {
        format!("tmp/perf-{}.map", self.own_pid).into()
    }
}

/// What a process has told so far of the code that it makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It writes a perf map.
    Map,
    /// It writes a jitdump.
    Jitdump,
    /// There is neither.
    Nothing,
    /// There may be a perf map, and it is not to be read.
    Refused(Refusal),
}

/// Looks for what a process that maps these paths has told.
pub fn told<'a>(pid: Pid, mut paths: impl Iterator<Item = &'a str>) -> Told {
    let Some(writer) = Writer::of(pid) else {
        return Told::Nothing;
    };
    if paths.any(|path| writer.is_dump(path)) {
        return Told::Jitdump;
    }
    match writer.open_map(Asking::Worth) {
        Opened::Map(_) => Told::Map,
        Opened::Absent | Opened::NotAsked | Opened::Gone => Told::Nothing,
        Opened::Refused(refusal) => Told::Refused(refusal),
    }
}

fn refused(error: Errno) -> Opened {
    Opened::Refused(match error {
        Errno::ACCESS | Errno::PERM => Refusal::NoPermission,
        Errno::LOOP => Refusal::SymbolicLink,
        Errno::INVAL => Refusal::NotAFile,
        Errno::TIMEDOUT => Refusal::Silent,
        error => Refusal::Unreadable {
            errno: error.raw_os_error(),
        },
    })
}

/// The innermost pid, and the user whose files are, in the text of `/proc/PID/status`.
/// Source: `proc_pid_status(5)`: `NSpid` is outermost first, `Uid` real, effective, saved, file system.
fn parse_status(status: &str) -> Option<(u32, u32)> {
    let last = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_ascii_whitespace().last()?.parse().ok()
    };
    Some((last("NSpid:")?, last("Uid:")?))
}

/// When a process was started, by our clock.
fn started(pid: Pid) -> Option<SystemTime> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let ticks = start_ticks(&String::from_utf8_lossy(&stat))?;
    SystemTime::now().checked_sub(since_start(ticks)?)
}

/// Ticks from the boot to the start of a process, in the text of `/proc/PID/stat`.
/// Source: `proc_pid_stat(5)`, field 22; the name before it may hold anything.
fn start_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Time since so many ticks after the boot.
pub(super) fn since_start(ticks: u64) -> Option<Duration> {
    let up = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let up = Duration::new(
        u64::try_from(up.tv_sec).ok()?,
        u32::try_from(up.tv_nsec).ok()?,
    );
    let hertz = rustix::param::clock_ticks_per_second();
    let part = Duration::from_secs(ticks % hertz) / u32::try_from(hertz).ok()?;
    up.checked_sub(Duration::from_secs(ticks / hertz) + part)
}

/// A process's `CLOCK_MONOTONIC` minus ours, which a time namespace may set apart, in nanoseconds.
/// Source: `time_namespaces(7)`.
pub(super) fn clock_offset_ns(pid: Pid) -> i64 {
    let text = fs::read_to_string(format!("/proc/{pid}/timens_offsets")).unwrap_or_default();
    parse_clock_offset(&text).unwrap_or(0)
}

fn parse_clock_offset(text: &str) -> Option<i64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("monotonic"))?;
    let mut numbers = line.split_ascii_whitespace().map(str::parse::<i64>);
    let (seconds, nanos) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    seconds.checked_mul(1_000_000_000)?.checked_add(nanos)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn this() -> Writer {
        Writer::of(Pid(std::process::id())).unwrap()
    }

    #[test]
    fn status_tells_the_innermost_pid_and_the_file_system_user() {
        let status = "Name:\tx\nUid:\t1\t2\t3\t4\nNSpid:\t4242\t17\t3\n";
        assert_eq!(parse_status(status), Some((3, 4)));
        assert_eq!(parse_status("Name:\tx\n"), None);
    }

    #[test]
    fn a_start_is_found_behind_any_name() {
        let stat = format!("1 (a) b (c) S {} 250 1", vec!["0"; 18].join(" "));
        assert_eq!(start_ticks(&stat), Some(250));
        assert_eq!(start_ticks("1 (x"), None);
    }

    #[test]
    fn a_time_namespace_sets_the_clock_apart() {
        let text = "monotonic           10         5\nboottime             0         0\n";
        assert_eq!(parse_clock_offset(text), Some(10_000_000_005));
        assert_eq!(parse_clock_offset(""), None);
    }

    #[test]
    fn this_process_was_started_before_now_and_not_long_ago() {
        let age = this().started.unwrap().elapsed().unwrap();
        assert!(age < Duration::from_secs(24 * 3600), "{age:?}");
    }

    /// A file that something may speak against.
    #[track_caller]
    fn check(make: impl FnOnce(&std::path::Path), writer: Writer, expected: Option<Refusal>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("perf-1.map");
        make(&path);
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let file = rustix::fs::open(&path, flags, Mode::empty()).unwrap();
        let seen = opener::stat(file.as_fd()).unwrap();
        assert_eq!(writer.objection(&seen), expected);
    }

    #[test]
    fn only_a_file_of_the_right_user_and_time_is_read() {
        let write = |path: &std::path::Path| fs::write(path, "").unwrap();
        let own = this();
        check(write, own, None);
        check(
            |path| fs::create_dir(path).unwrap(),
            own,
            Some(Refusal::NotAFile),
        );
        check(
            |path| symlink("/etc/passwd", path).unwrap(),
            own,
            Some(Refusal::SymbolicLink),
        );
        check(
            |path| {
                let kind = FileType::Fifo;
                rustix::fs::mknodat(rustix::fs::CWD, path, kind, Mode::RUSR, 0).unwrap();
            },
            own,
            Some(Refusal::NotAFile),
        );
        let later = Writer {
            started: Some(SystemTime::now() + Duration::from_secs(60)),
            ..own
        };
        check(write, later, Some(Refusal::Stale));
        if own.uid == 0 {
            let chown = |path: &std::path::Path| {
                write(path);
                std::os::unix::fs::chown(path, Some(1234), None).unwrap();
            };
            check(chown, own, Some(Refusal::Owner { uid: 1234 }));
            check(chown, Writer { uid: 1234, ..own }, None);
        }
    }

    #[test]
    fn a_process_without_a_map_has_none_and_one_that_ended_is_gone() {
        assert!(matches!(this().open_map(Asking::Worth), Opened::Absent));
        let gone = Writer {
            pid: Pid(u32::MAX >> 2),
            ..this()
        };
        assert!(matches!(gone.open_map(Asking::Worth), Opened::Gone));
    }
}
