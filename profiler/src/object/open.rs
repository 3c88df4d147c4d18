//! Opens the file behind a mapping, and no other.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustix::io::Errno;

use super::{
    file::{in_memory, open_regular},
    is_file_path,
};
use crate::{
    process::{self, FileNumber, MapRow},
    target::Pid,
};

/// The largest vDSO image we read. Kernels have two pages of it.
const MOST_VDSO_BYTES: u64 = 1 << 20;

/// The file behind a mapping: through the mapping itself, else by its path in the process's root,
/// else by its path in ours (the process may be gone). What is opened has the mapping's inode.
///
/// # Errors
/// When no more files can be opened.
pub(super) fn mapped_file(
    pid: Pid,
    row: &MapRow,
    number: FileNumber,
) -> Result<Option<File>, OutOfDescriptors> {
    let mut paths = vec![PathBuf::from(format!(
        "/proc/{}/map_files/{:x}-{:x}",
        pid.0, row.start, row.end
    ))];
    if is_file_path(&row.path) {
        let path = row.path.strip_suffix(" (deleted)").unwrap_or(&row.path);
        paths.push(PathBuf::from(format!("/proc/{}/root{path}", pid.0)));
        paths.push(PathBuf::from(path));
    }
    for path in &paths {
        if let Some(file) = open_numbered(path, number)? {
            return Ok(Some(file));
        }
    }
    Ok(None)
}

/// This process, or the host, has too many files open.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct OutOfDescriptors;

/// Opens a path if it is the regular file with this number.
fn open_numbered(path: &Path, number: FileNumber) -> Result<Option<File>, OutOfDescriptors> {
    let file = match open_regular(path) {
        Ok(file) => file,
        Err(Errno::MFILE | Errno::NFILE) => return Err(OutOfDescriptors),
        Err(_) => return Ok(None),
    };
    let is_it = file.metadata().is_ok_and(|meta| {
        let device = (rustix::fs::major(meta.dev()), rustix::fs::minor(meta.dev()));
        // Overlay and btrfs show another device in mappings than in `stat`; both have major 0.
        let same_device =
            device == (number.major, number.minor) || device.0 == 0 || number.major == 0;
        meta.ino() == number.inode && same_device
    });
    Ok(is_it.then_some(file))
}

/// The vDSO, which is the same in every process: copied from our own memory into a memory file.
pub(super) fn vdso() -> io::Result<File> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let row = process::parse_maps(&maps)
        .find(|row| row.path == "[vdso]")
        .ok_or(io::ErrorKind::NotFound)?;
    let mut memory = File::open("/proc/self/mem")?;
    memory.seek(SeekFrom::Start(row.start))?;
    let mut image = Vec::new();
    memory
        .take((row.end - row.start).min(MOST_VDSO_BYTES))
        .read_to_end(&mut image)?;
    in_memory("vdso", &image)
}

#[cfg(test)]
mod tests {
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
        assert!(open_numbered(Path::new("/proc/self/exe"), right).is_ok_and(|file| file.is_some()));
        assert!(open_numbered(Path::new("/proc/self/exe"), wrong).is_ok_and(|file| file.is_none()));
        assert!(open_numbered(Path::new("/proc/self"), right).is_ok_and(|file| file.is_none()));
    }
}
