//! Why a profile could not be written, in the words that the user reads.

use std::{
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
};

use super::Destination;
use crate::error::{Explain, kernel_words};

/// Why an output could not be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The file is there already.
    #[error("cannot write {}: it exists", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The name is a folder's.
    #[error("cannot write {}: it names a folder", path.display())]
    IsFolder {
        /// The folder.
        path: PathBuf,
    },
    /// The folder that the file is to lie in is not there.
    #[error("cannot write {}: there is no folder {}", path.display(), folder.display())]
    NoFolder {
        /// The file.
        path: PathBuf,
        /// Its folder.
        folder: PathBuf,
        /// The kernel's words.
        source: io::Error,
    },
    /// No file can be made in the folder.
    #[error("cannot write {}: the folder {} takes no file", path.display(), folder.display())]
    FolderRefuses {
        /// The file.
        path: PathBuf,
        /// Its folder.
        folder: PathBuf,
        /// The kernel's words.
        source: io::Error,
    },
    /// What is there cannot be opened for writing.
    #[error("cannot open {} for writing", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The kernel's words.
        source: io::Error,
    },
    /// There is no room for the profile. A regular file then has nothing under its name.
    #[error("cannot write {destination}: no room left after {written_bytes} bytes")]
    NoRoom {
        /// Where the profile was to go.
        destination: Destination,
        /// What had been written.
        written_bytes: u64,
        /// The kernel's words.
        source: io::Error,
    },
    /// Who was to read the profile has gone.
    #[error("cannot write {destination}: the reader has gone")]
    ClosedPipe {
        /// Where the profile was to go.
        destination: Destination,
        /// The kernel's words.
        source: io::Error,
    },
    /// The profile could not be written for another reason.
    #[error("cannot write {destination}")]
    Write {
        /// Where the profile was to go.
        destination: Destination,
        /// The kernel's words.
        source: io::Error,
    },
}

impl Explain for OutputError {
    fn why(&self) -> String {
        match self {
            Self::Exists { .. } => "files are not overwritten unless asked for".to_owned(),
            Self::IsFolder { .. } => "a profile goes to a file".to_owned(),
            Self::NoFolder { source, .. }
            | Self::FolderRefuses { source, .. }
            | Self::Open { source, .. }
            | Self::ClosedPipe { source, .. }
            | Self::Write { source, .. } => kernel_words(source),
            Self::NoRoom {
                destination,
                source,
                ..
            } => match destination {
                Destination::Stdout => kernel_words(source),
                Destination::File(path) => {
                    format!(
                        "{} (in {})",
                        kernel_words(source),
                        folder_of(path).display()
                    )
                }
            },
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::Exists { path } => {
                format!(
                    "--force to replace it, or -o {}",
                    spare_name(path).display()
                )
            }
            Self::IsFolder { path } => format!("-o {}", path.join("profile.pb.gz").display()),
            Self::NoFolder { folder, .. } => format!("mkdir -p {}", folder.display()),
            Self::FolderRefuses { path, folder, .. } => format!(
                "ls -ld {}, or -o {}",
                folder.display(),
                elsewhere(path).display()
            ),
            Self::Open { path, .. } => format!("ls -l {}", path.display()),
            Self::NoRoom { destination, .. } => match destination {
                Destination::Stdout => "df -h".to_owned(),
                Destination::File(path) => format!("df -h {}", folder_of(path).display()),
            },
            Self::ClosedPipe { .. } => "-o profile.pb.gz, and read the file afterwards".to_owned(),
            Self::Write { destination, .. } => match destination {
                Destination::Stdout => "-o profile.pb.gz".to_owned(),
                Destination::File(path) => format!("-o {}", elsewhere(path).display()),
            },
        }
    }

    fn is_misuse(&self) -> bool {
        matches!(self, Self::IsFolder { .. })
    }
}

/// The error for what went wrong on the way to a destination.
pub(super) fn write_error(
    destination: &Destination,
    written_bytes: u64,
    source: io::Error,
) -> OutputError {
    let destination = destination.clone();
    match source.kind() {
        io::ErrorKind::BrokenPipe => OutputError::ClosedPipe {
            destination,
            source,
        },
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            OutputError::NoRoom {
                destination,
                written_bytes,
                source,
            }
        }
        _ => OutputError::Write {
            destination,
            source,
        },
    }
}

/// The error for a folder that a file could not be made in.
pub(super) fn folder_error(path: PathBuf, source: io::Error) -> OutputError {
    let folder = folder_of(&path).to_owned();
    match source.kind() {
        // procfs says "no such file" of files that it will not have.
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory if !folder.is_dir() => {
            OutputError::NoFolder {
                path,
                folder,
                source,
            }
        }
        _ => OutputError::FolderRefuses {
            path,
            folder,
            source,
        },
    }
}

/// The folder that a file lies in.
pub(super) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// The name of a file in its folder.
pub(super) fn name_of(path: &Path) -> &OsStr {
    path.file_name()
        .expect("a path without a file's name was refused when it was opened")
}

/// A name beside `path` that is free: `cpu.pb.gz` gives `cpu.1.pb.gz`.
fn spare_name(path: &Path) -> PathBuf {
    let name = name_of(path).to_string_lossy();
    // The dot of a hidden file starts no extension.
    let at = name.get(1..).and_then(|rest| rest.find('.'));
    let (stem, extension) = name.split_at(at.map_or(name.len(), |at| at + 1));
    (1..)
        .map(|number| path.with_file_name(format!("{stem}.{number}{extension}")))
        .find(|spare| fs::symlink_metadata(spare).is_err())
        .expect("a folder holds fewer files than there are numbers")
}

/// The same name where anyone may write.
fn elsewhere(path: &Path) -> PathBuf {
    std::env::temp_dir().join(name_of(path))
}
