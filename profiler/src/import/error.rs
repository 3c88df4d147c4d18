//! Why a file could not be read as a profile, in the words that the user reads.

use std::io;

use super::SampleIndex;
use crate::{
    error::{Explain, kernel_words},
    export::Format,
};

/// Why there is no profile.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// Neither name nor content tells the format.
    #[error("cannot tell the format of the input")]
    UnknownFormat,
    /// Profiles are written in this format and not read.
    #[error("cannot read a profile in the format {format}")]
    Unreadable {
        /// The format.
        format: Format,
    },
    /// The input failed.
    #[error("cannot read the input")]
    Read(#[source] io::Error),
    /// There is nothing in it.
    #[error("cannot read the profile: it is empty")]
    Empty,
    /// It begins as gzip and does not go on so.
    #[error("cannot unpack the profile")]
    Unpack(#[source] io::Error),
    /// It is longer than is read.
    #[error("cannot read the profile: it is too long")]
    TooLong {
        /// The most that is read, in bytes.
        most_bytes: u64,
    },
    /// It is a text that net/http/pprof makes for people.
    #[error("cannot read the profile: it is a text, and no pprof file")]
    DebugText,
    /// It is no message, or none of pprof's.
    #[error("cannot read the profile: it is no pprof file")]
    NotPprof {
        /// What is wrong, as a clause.
        why: String,
    },
    /// Two profiles, one behind the other.
    #[error("cannot read the profile: several are in one file")]
    Concatenated,
    /// The file contradicts itself.
    #[error("cannot read the profile: it is broken")]
    Broken {
        /// What is wrong, as a clause.
        why: String,
    },
    /// There is no value to take.
    #[error("cannot read the profile: it has no values")]
    NoValues,
    /// The value that was asked for is not there.
    #[error("there is no value {asked} in the profile")]
    NoSuchValue {
        /// What was asked for.
        asked: SampleIndex,
        /// What there is.
        kinds: Vec<String>,
    },
    /// Some of the values are negative, as in the difference of two profiles.
    #[error("cannot read the profile: {kind} is negative in {samples} of its samples")]
    Negative {
        /// What was counted.
        kind: String,
        /// In how many samples it is.
        samples: u64,
    },
    /// The sum is more than a number holds.
    #[error("cannot read the profile: its values add up to more than 2^63")]
    TooMuch,
    /// A line of folded text without a count.
    #[error("cannot read line {line}: it does not end in a count")]
    NoCount {
        /// Its number, from 1.
        line: u64,
        /// What stands there instead.
        found: String,
    },
    /// A line of folded text with a part of a sample.
    #[error("cannot read line {line}: {found} is no whole count")]
    Fraction {
        /// Its number, from 1.
        line: u64,
        /// What stands there.
        found: String,
    },
    /// A line of folded text that no stack fills.
    #[error("cannot read line {line}: it is too long")]
    LongLine {
        /// Its number, from 1.
        line: u64,
        /// The most that is read, in bytes.
        most_bytes: u64,
    },
}

impl Explain for ImportError {
    fn why(&self) -> String {
        match self {
            Self::UnknownFormat => "neither its name nor its first bytes tell".to_owned(),
            Self::Unreadable { .. } => "what can be read is pprof and folded".to_owned(),
            Self::Read(source) | Self::Unpack(source) => kernel_words(source),
            Self::Empty => "there is not one byte in it".to_owned(),
            Self::TooLong { most_bytes } => {
                format!("unpacked it has more than {most_bytes} bytes")
            }
            Self::DebugText => "net/http/pprof answers so when asked for debug".to_owned(),
            Self::NotPprof { why } | Self::Broken { why } => why.clone(),
            Self::Concatenated => "what a profile has one of stands there twice".to_owned(),
            Self::NoValues => "it has no sample type".to_owned(),
            Self::NoSuchValue { kinds, .. } => format!("there is {}", kinds.join(", ")),
            Self::Negative { .. } => "it is the difference of two profiles".to_owned(),
            Self::TooMuch => "no program runs or allocates that much".to_owned(),
            Self::NoCount { found, .. } => format!("it ends in {found:?}"),
            Self::Fraction { .. } => {
                "rounding would change the sum, and samples are whole".to_owned()
            }
            Self::LongLine { most_bytes, .. } => format!("it has more than {most_bytes} bytes"),
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::UnknownFormat => "--from pprof, or --from folded".to_owned(),
            Self::Unreadable { .. } => {
                "--from pprof or --from folded, if it is one of these".to_owned()
            }
            Self::Read(_) => "ebpfprof convert FILE OUT, with a file that you can read".to_owned(),
            Self::Unpack(_) | Self::Broken { .. } => {
                "go tool pprof -top FILE, or make the profile again".to_owned()
            }
            Self::TooLong { .. } | Self::TooMuch => {
                "go tool pprof -proto -focus=FUNCTION FILE, for a part of it".to_owned()
            }
            Self::DebugText => "fetch it without debug=1 in the address".to_owned(),
            Self::NotPprof { .. } => {
                "file FILE; --from folded if it is a text of stacks".to_owned()
            }
            Self::Concatenated => {
                "go tool pprof -proto A B, on the files before they were joined".to_owned()
            }
            Self::Empty | Self::NoValues => "make the profile again".to_owned(),
            Self::NoSuchValue { kinds, .. } => match kinds.first() {
                Some(kind) => format!("--sample-index {kind}"),
                None => "make the profile again".to_owned(),
            },
            Self::Negative { .. } => {
                "--sample-index with another value, or go tool pprof -top FILE".to_owned()
            }
            Self::NoCount { .. } | Self::LongLine { .. } => {
                "one stack a line, as in main;work;read 12".to_owned()
            }
            Self::Fraction { .. } => {
                "count in a smaller unit, as microseconds instead of milliseconds".to_owned()
            }
        }
    }

    fn is_misuse(&self) -> bool {
        matches!(
            self,
            Self::UnknownFormat | Self::Unreadable { .. } | Self::NoSuchValue { .. }
        )
    }
}
