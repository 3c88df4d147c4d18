//! Profiles on their way in: files that we or others wrote.
//!
//! In: bytes that we do not trust, compressed by gzip or not. Out: a whole [`Profile`], or why
//! there is none: nothing is guessed and nothing is left out. Each format is one module. What a
//! file may take in memory is bounded, and time grows with its length alone.
//!
//! To add a format: a module, and a line in each `match` here.

mod error;
mod folded;
mod input;
mod pprof;

use std::{fmt, io::BufRead, path::Path, str::FromStr};

pub use error::ImportError;

use crate::{export::Format, profile::Profile};

/// The longest that a file may be, unpacked, in bytes.
///
/// Usual files take some times as much in memory; one that is made to be costly takes a hundred times.
pub const MOST_BYTES: u64 = 256 << 20;

/// How gzip begins. Source: RFC 1952, section 2.3.1.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// The formats that can be read.
pub const READABLE: [Format; 2] = [Format::Pprof, Format::Folded];

/// Which of a file's values to take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SampleIndex {
    /// By its position, from 0.
    Position(usize),
    /// By what it counts: `inuse_space`.
    Kind(String),
}

impl FromStr for SampleIndex {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let position = text.parse().map(Self::Position);
        Ok(position.unwrap_or_else(|_| Self::Kind(text.to_owned())))
    }
}

impl fmt::Display for SampleIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Position(position) => position.fmt(f),
            Self::Kind(kind) => kind.fmt(f),
        }
    }
}

/// How to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Which value to take. Unless told, it is what pprof itself would show; both values of a CPU
    /// profile, where one follows from the other.
    pub sample_index: Option<SampleIndex>,
    /// The longest that the file may be, unpacked, in bytes.
    pub most_bytes: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            sample_index: None,
            most_bytes: MOST_BYTES,
        }
    }
}

/// The format of a file, by its name, or else by how it begins.
///
/// # Errors
/// Its name says a format that cannot be read, or neither says one.
pub fn format_of(name: Option<&Path>, input: &mut dyn BufRead) -> Result<Format, ImportError> {
    if let Some(format) = name.and_then(Format::from_path) {
        return Ok(format);
    }
    let start = input.fill_buf().map_err(ImportError::Read)?;
    match start.starts_with(&GZIP) {
        true => Ok(Format::Pprof),
        false => Err(ImportError::UnknownFormat),
    }
}

/// Reads a profile.
///
/// # Errors
/// Why the bytes are no profile, or none that we can hold.
pub fn read(
    format: Format,
    settings: &Settings,
    input: &mut dyn BufRead,
) -> Result<Profile, ImportError> {
    match format {
        Format::Pprof => pprof::read(settings, input),
        Format::Folded => folded::read(settings, input),
        Format::FlameGraph | Format::Html | Format::Speedscope | Format::Firefox | Format::Top => {
            Err(ImportError::Unreadable { format })
        }
    }
}
