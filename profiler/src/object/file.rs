//! Files and what all readers of objects ask of them.

use std::{
    fs::File,
    io::{self, Write},
    path::Path,
};

use object::{
    Endian,
    elf::{self, FileHeader64, ProgramHeader64},
    read::{
        ReadRef,
        elf::{NoteIterator, ProgramHeader},
    },
};
use rustix::{
    fs::{MemfdFlags, Stat},
    io::Errno,
};

use super::opener::{self, Place};
use crate::process::FileNumber;

/// Most program headers read of one file. Linkers write a dozen.
pub(crate) const MOST_SEGMENTS: usize = 4096;
/// The longest notes read of one segment, in bytes: a file may claim any length.
pub(super) const MOST_NOTE_BYTES: u64 = 64 << 10;

/// Opens a path of ours if it leads to a regular file. Never waits on a FIFO, nor for a server that
/// does not answer.
///
/// # Errors
/// When there is none, or the kernel refuses it, or nobody answers ([`Errno::TIMEDOUT`]).
pub(crate) fn open_regular(path: &Path) -> Result<File, Errno> {
    Ok(opener::open(Place::Host(path))?.file)
}

/// Whether a file is the one that a mapping has.
pub(super) fn is_numbered(stat: &Stat, number: FileNumber) -> bool {
    let device = (
        rustix::fs::major(stat.st_dev),
        rustix::fs::minor(stat.st_dev),
    );
    // Overlay and btrfs show another device in mappings than in `stat`; both have major 0.
    let same_device = device == (number.major, number.minor) || device.0 == 0 || number.major == 0;
    stat.st_ino == number.inode && same_device
}

/// A file that is in memory alone.
///
/// # Errors
/// When the kernel has no room for it.
pub(crate) fn in_memory(name: &str, bytes: &[u8]) -> io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    Ok(file)
}

/// What the notes of a file say.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    /// The GNU build id.
    pub(crate) build_id: Option<Vec<u8>>,
    /// Whether the Go linker wrote it.
    pub(crate) is_go: bool,
}

impl Notes {
    /// Reads those of a segment, if it has any.
    pub(crate) fn read<'a, E: Endian, R: ReadRef<'a>>(
        &mut self,
        segment: &ProgramHeader64<E>,
        endian: E,
        data: R,
    ) {
        if segment.p_filesz(endian) > MOST_NOTE_BYTES {
            return;
        }
        self.take(segment.notes(endian, data).unwrap_or_default(), endian);
    }

    /// Takes what some notes say, if there are any.
    pub(super) fn take<E: Endian>(
        &mut self,
        notes: Option<NoteIterator<'_, FileHeader64<E>>>,
        endian: E,
    ) {
        let Some(mut notes) = notes else { return };
        while let Ok(Some(note)) = notes.next() {
            if note.name() == elf::ELF_NOTE_GNU && note.n_type(endian) == elf::NT_GNU_BUILD_ID {
                self.build_id = Some(note.desc().to_vec());
            }
            self.is_go |= note.name() == b"Go";
        }
    }
}
