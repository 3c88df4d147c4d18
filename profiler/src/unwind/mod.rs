//! Unwind tables: an object's call frame information, compiled into what a stack walk searches.
//!
//! In: an ELF file. Out: a [`Table`] of rows and rules, and a [`Layout`] of it in the words that go
//! into chunks; and [`walk`], which walks a stack by them. What a rule means and how an address is
//! found is `profiler_common::unwind`'s. Whoever keeps tables resident gives each of the table's rules
//! its number among all rules.
//!
//! A crafted file may cost its own stacks but nothing else: every size is bounded, every row takes
//! at least a byte of the section, and common entries are read where they are, once.

mod compile;
mod ends;
mod go;
mod go_frames;
mod layout;
mod rule;
mod section;
mod start;
mod unpack;
mod walk;

use std::{fs::File, io, path::Path};

use profiler_common::{
    code::SIGNAL_RETURN_BYTES,
    unwind::{NO_INFORMATION, Rule},
};

use compile::ByCode;

pub use compile::MOST_ROWS;
pub use layout::{Layout, Lookup};
pub use rule::Cause;
pub use section::{CodeRange, FrameFormat, MOST_FRAME_BYTES, Sections};
pub use walk::{Code, Walked, WalkedFrame, walk};

/// One row: a rule, from an address to the next row's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableRow {
    /// First address, in bytes from [`Table::base`].
    pub offset: u32,
    /// The number of its rule in [`Table::rules`].
    pub rule: u16,
}

/// Rows and bytes of code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Rows.
    pub rows: u64,
    /// Bytes of code.
    pub bytes: u64,
}

impl Extent {
    fn add(&mut self, bytes: u64) {
        self.rows += 1;
        self.bytes += bytes;
    }
}

/// How much of an object's code a table covers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Bytes of code: of its code sections, or of its code segments where no section is named.
    pub code_bytes: u64,
    /// Functions described.
    pub functions: u64,
    /// Those of them that an object with both forms describes in `.debug_frame` alone.
    pub debug_functions: u64,
    /// What the rules of the table cover, by the number of the rule; of
    /// [`Rule::NoInformation`] what lies between others.
    pub rules: Vec<Extent>,
    /// What the object describes and no rule expresses, as many times as it describes it.
    pub inexpressible: [Extent; Cause::ALL.len()],
}

impl Coverage {
    /// What rules cover.
    #[must_use]
    pub fn covered(&self) -> Extent {
        let known = self.rules.iter().skip(usize::from(NO_INFORMATION) + 1);
        known.fold(Extent::default(), |sum, rule| Extent {
            rows: sum.rows + rule.rows,
            bytes: sum.bytes + rule.bytes,
        })
    }

    /// What was described and not expressed, for one cause.
    #[must_use]
    pub fn inexpressible(&self, cause: Cause) -> Extent {
        self.inexpressible[cause as usize]
    }
}

/// An object's unwind table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    format: FrameFormat,
    base: u64,
    rows: Vec<TableRow>,
    rules: Vec<Rule>,
    coverage: Coverage,
}

impl Table {
    /// Compiles the table of a file.
    ///
    /// # Errors
    /// When the file is no x86-64 ELF file, describes nothing, or cannot be read.
    pub fn of_file(file: &File) -> Result<Self, CompileError> {
        Self::with_code(Sections::of_file(file), file)
    }

    /// Compiles the table of an object. If its file describes nothing, what was split off it may:
    /// the file in its `.gnu_debugdata`, or a debug file that belongs to it. `path` is where the
    /// object is, to find the file that it names.
    ///
    /// # Errors
    /// When the file is no x86-64 ELF file, nothing describes it, or it cannot be read.
    pub fn of_object(file: &File, path: Option<&Path>) -> Result<Self, CompileError> {
        Self::with_code(Sections::of_object(file, path), file)
    }

    /// The table of sections and of what the code itself tells, which may be all there is.
    fn with_code(
        sections: Result<Sections, CompileError>,
        file: &File,
    ) -> Result<Self, CompileError> {
        let (sections, undescribed) = match sections {
            Err(CompileError::NoFrames) => (
                Sections::without_frames(file)?,
                Some(CompileError::NoFrames),
            ),
            sections => (sections?, None),
        };
        let ends = ends::find(file, &sections.code);
        let rules = match sections.is_go {
            true => go::find(file, &sections.code),
            false => Vec::new(),
        };
        match undescribed {
            Some(error) if ends.is_empty() && rules.is_empty() => return Err(error),
            _ => {}
        }
        let start = start::find(file, sections.entry, &sections.code);
        let mut outermost: Vec<_> = ends
            .into_iter()
            .map(|end| end..end + 1)
            .chain(start)
            .collect();
        outermost.sort_unstable_by_key(|range| range.start);
        let told = ByCode { rules, outermost };
        let read_code = |offset| {
            use std::os::unix::fs::FileExt;
            let mut code = [0; SIGNAL_RETURN_BYTES];
            file.read_exact_at(&mut code, offset).ok()?;
            Some(code)
        };
        Ok(compile::compile(&sections, &read_code, &told))
    }

    /// Compiles a table from sections, without the code that they describe: signal frames are
    /// known by their mark alone.
    #[must_use]
    pub fn of_sections(sections: &Sections) -> Self {
        compile::compile(sections, &|_| None, &ByCode::default())
    }

    /// The form that the object describes itself in, the first of them if it has both.
    #[must_use]
    pub fn format(&self) -> FrameFormat {
        self.format
    }

    /// The ELF address that rows count from, a multiple of
    /// [`BUCKET_BYTES`](profiler_common::unwind::BUCKET_BYTES).
    #[must_use]
    pub fn base(&self) -> u64 {
        self.base
    }

    /// The rows, by address. Neighbours have different rules; the last row has no rule and ends
    /// the table.
    #[must_use]
    pub fn rows(&self) -> &[TableRow] {
        &self.rows
    }

    /// The distinct rules. Number 0 is [`Rule::NoInformation`].
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// What the table covers.
    #[must_use]
    pub fn coverage(&self) -> &Coverage {
        &self.coverage
    }

    /// The rows with their ranges of ELF addresses, the last one apart.
    pub fn ranges(&self) -> impl Iterator<Item = (u64, u64, Rule)> {
        let ends = self.rows.iter().skip(1);
        self.rows.iter().zip(ends).map(|(row, next)| {
            let address = |row: &TableRow| self.base + u64::from(row.offset);
            (
                address(row),
                address(next),
                self.rules[usize::from(row.rule)],
            )
        })
    }
}

/// Why there is no table.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The file could not be read.
    #[error("{0}")]
    Read(io::Error),
    /// The file is not what it should be.
    #[error("it is not a 64-bit ELF file: {0}")]
    NotElf(object::read::Error),
    /// The file is for another machine.
    #[error("it is not for x86-64")]
    OtherMachine,
    /// No segment is executable.
    #[error("it has no code")]
    NoCode,
    /// Neither `.eh_frame` nor `.debug_frame`, nor a debug file where we looked.
    #[error("it has neither .eh_frame nor .debug_frame")]
    NoFrames,
    /// The only section there is is compressed, and not in a way that we know, or broken.
    #[error("it has no .eh_frame, and its .debug_frame cannot be decompressed")]
    Compressed,
    /// The section is longer than we read.
    #[error("its call frame information has {0} bytes, more than {MOST_FRAME_BYTES}")]
    TooLong(u64),
}

impl CompileError {
    /// Whether the file was read, and describes no code of ours. If not, it may well describe some.
    #[must_use]
    pub fn describes_nothing(&self) -> bool {
        match self {
            Self::NotElf(_) | Self::OtherMachine | Self::NoCode | Self::NoFrames => true,
            Self::Read(_) | Self::Compressed | Self::TooLong(_) => false,
        }
    }

    /// What to do next.
    #[must_use]
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Read(_) => "name a file that you can read",
            Self::NotElf(_) | Self::OtherMachine | Self::NoCode => {
                "name a program or a shared library, as in: ebpfprof unwind /bin/sh"
            }
            Self::NoFrames | Self::TooLong(_) => {
                "build the object with -fasynchronous-unwind-tables, or with frame pointers"
            }
            Self::Compressed => "objcopy --decompress-debug-sections FILE COPY, and name the copy",
        }
    }
}

#[cfg(test)]
mod file_tests;
#[cfg(test)]
mod tests;
