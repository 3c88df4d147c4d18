//! The causes: why a frame has no name, and why one with a name has no line.
//!
//! Each is known when a profile is recorded, and is told in fixed words. No two have the same words,
//! and none have a colon: they stand in comments that are read back.

use std::fmt;

use crate::{
    jit::{JitReason, Refusal, Runtime},
    object::Unopened,
};

/// Why a frame has no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The object's own functions were taken out of its table of symbols.
    Stripped(LeftSymbols, DebugLink),
    /// The object's table is whole, and no symbol in it covers the address.
    NoSymbol,
    /// A table of symbols is there and cannot be read.
    BrokenSymbols,
    /// `.gnu_debugdata` cannot be read, or is too large unpacked.
    BrokenDebugdata,
    /// The file is no ELF file of 64 bits.
    NotElf,
    /// The file is for another kind of processor.
    OtherMachine,
    /// The file was written over while it was mapped.
    WrittenOver,
    /// The file could not be opened.
    Unopened(Unopened),
    /// Code made at run time.
    Made(Runtime, JitReason),
    /// The kernel hides its names.
    KernelHidden,
    /// Code of a module that the kernel has no name for.
    KernelModule,
    /// Code of the kernel that it has no name for.
    KernelNoSymbol,
    /// The address lay in no mapping that we knew of.
    NoMapping,
    /// Nobody asked for names: whoever reads the profile looks them up.
    LeftToReader,
}

/// The symbols that are left in a stripped object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LeftSymbols {
    /// Those that other objects use: `.dynsym`.
    Exported,
    /// None.
    Nothing,
}

/// Whether an object says what its debug file is called. None was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DebugLink {
    /// It has `.gnu_debuglink`.
    Named,
    /// It has none.
    Absent,
}

/// Why a frame that has a name has no line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NoLines {
    /// There is no debug information.
    NoDebugInfo,
    /// There is, and it says nothing of the address.
    NotDescribed,
    /// It cannot be read.
    Broken,
    /// It takes more memory than symbols may have.
    TooLarge,
    /// Nobody asked for lines.
    NotAsked,
}

impl Reason {
    /// Every reason. Those with a number in their words have this one.
    pub(super) fn every(number: u32) -> impl Iterator<Item = Self> {
        let errno = i32::try_from(number).unwrap_or(0);
        let lefts = [LeftSymbols::Exported, LeftSymbols::Nothing];
        let links = [DebugLink::Named, DebugLink::Absent];
        let stripped = lefts
            .into_iter()
            .flat_map(move |left| links.map(|link| Self::Stripped(left, link)));
        let refusals = [
            Refusal::SymbolicLink,
            Refusal::NotAFile,
            Refusal::Owner { uid: number },
            Refusal::Stale,
            Refusal::NoPermission,
            Refusal::Silent,
            Refusal::Unreadable { errno },
        ];
        let jit = [
            JitReason::NoMap,
            JitReason::Gone,
            JitReason::NotInMap,
            JitReason::Replaced,
            JitReason::LeftOut,
        ];
        let jit = jit
            .into_iter()
            .chain(refusals.into_iter().map(JitReason::Refused));
        let made = jit.flat_map(|why| Runtime::ALL.map(|runtime| Self::Made(runtime, why)));
        let unopened = [
            Unopened::Gone,
            Unopened::Replaced,
            Unopened::NoPermission,
            Unopened::NotAFile,
            Unopened::TooLarge,
            Unopened::Silent,
            Unopened::TooManyFiles,
            Unopened::Unreadable { errno },
        ];
        let rest = [
            Self::NoSymbol,
            Self::BrokenSymbols,
            Self::BrokenDebugdata,
            Self::NotElf,
            Self::OtherMachine,
            Self::WrittenOver,
            Self::KernelHidden,
            Self::KernelModule,
            Self::KernelNoSymbol,
            Self::NoMapping,
            Self::LeftToReader,
        ];
        let unopened = unopened.into_iter().map(Self::Unopened);
        stripped.chain(unopened).chain(made).chain(rest)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stripped(left, link) => stripped(*left, *link),
            Self::NoSymbol => "no symbol covers the address",
            Self::BrokenSymbols => "its table of symbols cannot be read",
            Self::BrokenDebugdata => "its .gnu_debugdata cannot be read",
            Self::LeftToReader => "--raw-addresses was given",
            Self::NotElf => "its file is no 64-bit ELF file",
            Self::OtherMachine => "its file is for another kind of processor",
            Self::WrittenOver => "its file was written over while it ran",
            Self::Unopened(why) => return unopened(*why, f),
            Self::Made(runtime, why) => {
                write!(f, "code made at run time by {}, ", maker(*runtime))?;
                return jit(*why, f);
            }
            Self::KernelHidden => "the kernel hides its names",
            Self::KernelModule => "the kernel has no name for code of this module",
            Self::KernelNoSymbol => "the kernel has no name for the address",
            Self::NoMapping => "the address lay in no mapping that was known",
        })
    }
}

fn stripped(left: LeftSymbols, link: DebugLink) -> &'static str {
    match (left, link) {
        (LeftSymbols::Exported, DebugLink::Absent) => "stripped, with exported symbols left",
        (LeftSymbols::Exported, DebugLink::Named) => {
            "stripped, with exported symbols left and a debug link whose file is not here"
        }
        (LeftSymbols::Nothing, DebugLink::Absent) => "stripped of all symbols",
        (LeftSymbols::Nothing, DebugLink::Named) => {
            "stripped of all symbols, with a debug link whose file is not here"
        }
    }
}

fn unopened(why: Unopened, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str(match why {
        Unopened::Gone => "its file was gone before it could be read",
        Unopened::Replaced => "its file was gone, and another one had its path",
        Unopened::NoPermission => "we may not read its file",
        Unopened::NotAFile => "it is no regular file",
        Unopened::TooLarge => "its file is on a server and too large to be copied in time",
        Unopened::Silent => "the file system of its file does not answer",
        Unopened::TooManyFiles => "too many files were open to read it",
        Unopened::Unreadable { errno } => {
            return write!(f, "its file cannot be opened (errno {errno})");
        }
    })
}

fn maker(runtime: Runtime) -> &'static str {
    match runtime {
        Runtime::Java => "Java",
        Runtime::Node => "Node.js",
        Runtime::Python => "Python",
        Runtime::DotNet => ".NET",
        Runtime::Ruby => "Ruby",
        Runtime::Beam => "Erlang",
        Runtime::Other => "the program",
    }
}

fn jit(why: JitReason, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str(match why {
        JitReason::NoMap => "which wrote no perf map",
        JitReason::Gone => "which ended before its perf map was looked for",
        JitReason::Refused(Refusal::SymbolicLink) => "whose perf map is behind a symbolic link",
        JitReason::Refused(Refusal::NotAFile) => "whose perf map is no regular file",
        JitReason::Refused(Refusal::Owner { uid }) => {
            return write!(f, "whose perf map belongs to user {uid}");
        }
        JitReason::Refused(Refusal::Stale) => "whose perf map is older than the process",
        JitReason::Refused(Refusal::NoPermission) => "whose perf map we may not read",
        JitReason::Refused(Refusal::Silent) => {
            "whose perf map is on a file system that does not answer"
        }
        JitReason::Refused(Refusal::Unreadable { errno }) => {
            return write!(f, "whose perf map cannot be opened (errno {errno})");
        }
        JitReason::NotInMap => "whose perf map or jitdump has nothing at the address",
        JitReason::Replaced => "which put other code in its place at about that time",
        JitReason::LeftOut => "whose perf map is longer than what could be kept of it",
    })
}

impl NoLines {
    /// Every one.
    pub(super) const ALL: [Self; 5] = [
        Self::NoDebugInfo,
        Self::NotDescribed,
        Self::Broken,
        Self::TooLarge,
        Self::NotAsked,
    ];
}

impl fmt::Display for NoLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoDebugInfo => "no debug information",
            Self::NotDescribed => "debug information has no line for the address",
            Self::Broken => "debug information cannot be read",
            Self::TooLarge => "lines take more memory than --max-symbol-memory",
            Self::NotAsked => "--no-inlines was given",
        })
    }
}
