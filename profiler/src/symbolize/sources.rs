//! What can be known of an object's code before any address of it is asked for: where its names come
//! from, and its lines.

use std::{fs, os::fd::AsRawFd, path::PathBuf};

use serde::Serialize;

use super::{
    Settings,
    elf_file::{ElfFile, Part},
    go::GoTable,
    object::Source,
};
use crate::object::Object;

/// What names an object's functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NameSource {
    /// Go's table of functions.
    GoTable,
    /// `.symtab`: every function.
    Symbols,
    /// `.gnu_debugdata`: a compressed table of symbols.
    DebugData,
    /// A debug file: every function.
    DebugFile,
    /// `.dynsym`: what others may call, and nothing else.
    Exported,
    /// Nothing.
    Nothing,
}

impl NameSource {
    /// Whether it names every function.
    #[must_use]
    pub fn is_whole(self) -> bool {
        !matches!(self, Self::Exported | Self::Nothing)
    }

    /// As people read it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::GoTable => "Go's table",
            Self::Symbols => ".symtab",
            Self::DebugData => ".gnu_debugdata",
            Self::DebugFile => "debug file",
            Self::Exported => ".dynsym",
            Self::Nothing => "none",
        }
    }
}

/// What tells an object's lines and inlined calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LineSource {
    /// Its own debug information.
    Own,
    /// Go's table of functions.
    GoTable,
    /// A debug file.
    DebugFile(PathBuf),
    /// Nothing.
    Nothing,
}

/// What tells of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SymbolSources {
    /// Its names.
    pub names: NameSource,
    /// Its lines.
    pub lines: LineSource,
}

/// Finds out what tells of an object. `None` if its file cannot be read as one.
#[must_use]
pub fn symbol_sources(object: &Object) -> Option<SymbolSources> {
    let file = object.unchanged_file()?;
    let source = Source::open(object, file, Settings::default()).ok()?;
    let is_go = object.is_go && GoTable::read(file).is_some();
    let has_debug = |elf: &ElfFile| elf.has_debug(Part::Whole);
    let is_asked = !has_debug(&source.elf) || source.elf.symbols.is_none();
    let debug_file = is_asked.then(|| source.debug_file()).flatten();
    let names = if is_go {
        NameSource::GoTable
    } else if source.elf.symbols.is_some() {
        NameSource::Symbols
    } else if debug_file
        .as_ref()
        .is_some_and(|file| file.symbols.is_some())
    {
        NameSource::DebugFile
    } else if source.elf.debugdata.is_some() {
        NameSource::DebugData
    } else if source.elf.dynamic_symbols.is_some() {
        NameSource::Exported
    } else {
        NameSource::Nothing
    };
    let lines = match debug_file {
        _ if has_debug(&source.elf) => LineSource::Own,
        Some(debug) if has_debug(&debug) => LineSource::DebugFile(path_of(&debug)),
        _ if is_go => LineSource::GoTable,
        _ => LineSource::Nothing,
    };
    Some(SymbolSources { names, lines })
}

/// Where an open file is.
fn path_of(elf: &ElfFile) -> PathBuf {
    let link = format!("/proc/self/fd/{}", elf.file.as_raw_fd());
    fs::read_link(link).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn our_own_test_program_tells_names_and_lines_by_itself() {
        let path = std::env::current_exe().unwrap();
        let file = File::open(&path).unwrap();
        let object = Object::of_file(&path.to_string_lossy(), file);
        let expected = SymbolSources {
            names: NameSource::Symbols,
            lines: LineSource::Own,
        };
        assert_eq!(symbol_sources(&object), Some(expected));
    }

    #[test]
    fn a_file_that_is_no_object_is_not_known() {
        let file = File::open("/proc/self/status").unwrap();
        assert_eq!(symbol_sources(&Object::of_file("status", file)), None);
    }
}
