//! What happens to processes, as the kernel tells it.

use crate::target::{Pid, Tid};

/// One change of a process, in the order of time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessEvent {
    /// When, in nanoseconds of `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// What.
    pub change: Change,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A process or thread came to be.
    Fork {
        /// Process of the new task.
        pid: Pid,
        /// Process that made it. Equal to `pid` for a new thread.
        parent: Pid,
    },
    /// A process runs another program now: all its mappings are gone.
    Exec {
        /// The process.
        pid: Pid,
        /// Its new name.
        comm: String,
    },
    /// A process has a new executable mapping, over whatever was there.
    Map {
        /// The process.
        pid: Pid,
        /// The mapping.
        row: MapRow,
    },
    /// A thread has ended.
    Exit {
        /// Its process.
        pid: Pid,
        /// The thread.
        tid: Tid,
    },
    /// The kernel dropped this many events: what is known of any process may be wrong.
    Lost(u64),
}

/// One executable mapping, as `/proc/PID/maps` or the kernel's event has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapRow {
    /// First address.
    pub start: u64,
    /// Address after the last.
    pub end: u64,
    /// Offset of the first address in the file, in bytes.
    pub file_offset: u64,
    /// Device and inode of the file, if there is one.
    pub file: Option<FileNumber>,
    /// Path as the process sees it, a name in brackets, or nothing.
    pub path: String,
}

/// A file, as the kernel numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileNumber {
    /// Major device number.
    pub major: u32,
    /// Minor device number.
    pub minor: u32,
    /// Inode number.
    pub inode: u64,
}
