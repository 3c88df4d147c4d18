//! Opens the file behind a mapping, and no other.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

use rustix::{
    io::Errno,
    process::{DumpableBehavior, set_dumpable_behavior},
};

use super::{
    file::in_memory,
    is_file_path,
    opener::{self, Opened},
};
use crate::{
    process::{self, FileNumber, MapRow},
    target::Pid,
};

/// The largest vDSO image we read. Kernels have two pages of it.
const MOST_VDSO_BYTES: u64 = 1 << 20;

/// The file behind a mapping: through the mapping itself, else by its path in the process's root,
/// else by its path in ours (the process may be gone). What is opened has the mapping's inode. An
/// executable that has no path any more is also where the process says that it is: that takes
/// CAP_SYS_PTRACE alone, and the mappings of another user's process CAP_DAC_READ_SEARCH too.
///
/// # Errors
/// When none of them leads to it.
pub(super) fn mapped_file(pid: Pid, row: &MapRow, number: FileNumber) -> Result<Opened, Unopened> {
    let link = format!("/proc/{pid}/map_files/{:x}-{:x}", row.start, row.end);
    let mut told = match opener::open_mapping(pid, Path::new(&link), number) {
        Ok(file) => return Ok(file),
        Err(error) => Unopened::of(error),
    };
    let mut paths = Vec::new();
    if is_file_path(&row.path) {
        let path = row.path.strip_suffix(" (deleted)").unwrap_or(&row.path);
        paths.push(format!("/proc/{pid}/root{path}"));
        paths.push(path.to_owned());
    }
    for path in &paths {
        if told.is_final() {
            return Err(told);
        }
        match open_numbered(pid, Path::new(path), number) {
            Ok(file) => return Ok(file),
            Err(why) => told = told.max(why),
        }
    }
    if told.is_final() {
        return Err(told);
    }
    open_numbered(pid, Path::new(&format!("/proc/{pid}/exe")), number).map_err(|_| told)
}

/// Why the file behind a mapping could not be opened. What tells more comes later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unopened {
    /// There is none: it was deleted, and the processes that ran it have ended.
    Gone,
    /// As before, and there is another file at its path.
    Replaced,
    /// The system's word for something else.
    Unreadable {
        /// Its number: `errno(3)`.
        errno: i32,
    },
    /// We may not read it.
    NoPermission,
    /// It is a device.
    NotAFile,
    /// It is on a server, and too large to be copied from there.
    TooLarge,
    /// Its file system does not answer.
    Silent,
    /// This process, or the host, has too many files open.
    TooManyFiles,
}

impl Unopened {
    /// Whether another path to the same file would give the same.
    fn is_final(self) -> bool {
        matches!(self, Self::TooLarge | Self::Silent | Self::TooManyFiles)
    }

    fn of(error: Errno) -> Self {
        match error {
            Errno::MFILE | Errno::NFILE => Self::TooManyFiles,
            Errno::NOENT | Errno::SRCH | Errno::NOTDIR => Self::Gone,
            Errno::ACCESS | Errno::PERM => Self::NoPermission,
            Errno::INVAL => Self::NotAFile,
            Errno::STALE => Self::Replaced,
            Errno::FBIG => Self::TooLarge,
            Errno::TIMEDOUT => Self::Silent,
            error => Self::Unreadable {
                errno: error.raw_os_error(),
            },
        }
    }
}

impl From<&io::Error> for Unopened {
    fn from(error: &io::Error) -> Self {
        Self::of(Errno::from_io_error(error).unwrap_or(Errno::IO))
    }
}

/// Opens a path if it is the regular file with this number.
fn open_numbered(pid: Pid, path: &Path, number: FileNumber) -> Result<Opened, Unopened> {
    opener::open_numbered(pid, path, number).map_err(Unopened::of)
}

/// The vDSO, which is the same in every process: copied from our own memory into a memory file.
pub(super) fn vdso() -> io::Result<File> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let row = process::parse_maps(&maps)
        .find(|row| row.path == "[vdso]")
        .ok_or(io::ErrorKind::NotFound)?;
    let mut memory = own_memory()?;
    memory.seek(SeekFrom::Start(row.start))?;
    let mut image = Vec::new();
    memory
        .take((row.end - row.start).min(MOST_VDSO_BYTES))
        .read_to_end(&mut image)?;
    in_memory("vdso", &image)
}

/// Our own memory. A program whose file has capabilities cannot be dumped, so what procfs has of it is
/// root's: for this one call it can.
fn own_memory() -> io::Result<File> {
    let open = || File::open("/proc/self/mem");
    match open() {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            set_dumpable_behavior(DumpableBehavior::Dumpable)?;
            let opened = open();
            set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
            opened
        }
        opened => opened,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn the_vdso_is_an_elf_file() {
        let facts = super::super::elf::read(&vdso().unwrap()).unwrap();
        assert!(!facts.segments.is_empty() && facts.build_id.is_some());
    }

    #[test]
    fn a_path_that_leads_to_another_file_is_not_taken() {
        let meta = fs::metadata("/proc/self/exe").unwrap();
        let (major, minor) = (rustix::fs::major(meta.dev()), rustix::fs::minor(meta.dev()));
        let right = FileNumber {
            major,
            minor,
            inode: meta.ino(),
        };
        let wrong = FileNumber {
            inode: meta.ino() + 1,
            ..right
        };
        let this = Pid(std::process::id());
        let opened = |path: &str, number| open_numbered(this, Path::new(path), number).map(|_| ());
        assert_eq!(opened("/proc/self/exe", right), Ok(()));
        assert_eq!(opened("/proc/self/exe", wrong), Err(Unopened::Replaced));
        assert_eq!(opened("/proc/self", right), Err(Unopened::NotAFile));
        assert_eq!(opened("/proc/self/none", right), Err(Unopened::Gone));
    }
}
