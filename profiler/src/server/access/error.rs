//! What is wrong with the files that say who is known.

use std::{io, path::PathBuf};

use thiserror::Error;

use crate::error::{Explain, kernel_words};

/// What is wrong with a file of tokens or passwords. None of it shows what is in there.
#[derive(Debug, Error)]
pub enum AccessError {
    /// It cannot be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// Others can read or write it.
    #[error("{} is no secret", .path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its rights.
        mode: u32,
    },
    /// A line holds no name or no secret.
    #[error("line {line} of {} is wrong", .path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// It holds nothing.
    #[error("{} names nobody", .path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// It is longer than any such file.
    #[error("{} is too long", .path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
}

impl Explain for AccessError {
    fn why(&self) -> String {
        match self {
            Self::Read { source, .. } => kernel_words(source),
            Self::Open { mode, .. } => {
                format!(
                    "others than its owner and group can read it, or others than its owner can write it (its rights are {mode:04o})"
                )
            }
            Self::Line { .. } => "it is no `name:secret`".to_owned(),
            Self::Empty { .. } => "no line of it holds a secret".to_owned(),
            Self::TooLong { .. } => "it has more than 1 MiB".to_owned(),
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::Read { path, .. } | Self::TooLong { path } => {
                format!("ls -l {}", path.display())
            }
            Self::Open { path, .. } => format!("chmod 0600 {}", path.display()),
            Self::Line { path, .. } | Self::Empty { path } => {
                format!("echo \"me:$(openssl rand -hex 16)\" >> {}", path.display())
            }
        }
    }

    fn is_misuse(&self) -> bool {
        true
    }
}
