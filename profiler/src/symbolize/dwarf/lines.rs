//! The line of an address, and the files of a unit.

use std::rc::Rc;

use gimli::{ColumnType, DebugLine, DebugLineOffset, FileEntry, LineProgramHeader, LittleEndian};

use super::{
    Debug, DwarfError, Place,
    sections::{Sections, Slice},
    unit::Unit,
};

/// The files of a unit, by number. Those that it does not name are empty.
pub(super) type Files = Rc<Vec<String>>;

/// Most files of one unit.
const MOST_FILES: usize = 1 << 16;
/// Most units whose files are kept.
const MOST_KEPT: usize = 64;

/// A place in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Row {
    /// The file's number.
    pub(super) file: u64,
    pub(super) line: u32,
    pub(super) column: u32,
}

impl Debug<'_> {
    /// The line of each of some addresses, which are sorted, and the unit's files.
    pub(super) fn lines(
        &self,
        unit: &Unit,
        addresses: &[u64],
    ) -> Result<(Vec<Option<Row>>, Files), DwarfError> {
        let mut found = vec![None; addresses.len()];
        let Some(window) = program(&self.sections, unit)? else {
            return Ok((found, Files::default()));
        };
        let size = unit.head.encoding.address_size;
        let section = DebugLine::new(&window, LittleEndian);
        let program = section.program(DebugLineOffset(0), size, None, None)?;
        let files = files_of(&self.sections, unit, program.header());
        let mut rows = program.rows();
        let mut before: Option<(u64, Row)> = None;
        // What was read before the program turns out to be broken is right.
        while let Ok(Some((_, row))) = rows.next_row() {
            let address = row.address();
            if let Some((start, place)) = before
                && start < address
                && start >= self.code_start
            {
                let first = addresses.partition_point(|a| *a < start);
                let end = first + addresses[first..].partition_point(|a| *a < address);
                for row in &mut found[first..end] {
                    row.get_or_insert(place);
                }
            }
            let place = Row {
                file: row.file_index(),
                line: row.line().map_or(0, |line| number(line.get())),
                column: match row.column() {
                    ColumnType::LeftEdge => 0,
                    ColumnType::Column(column) => number(column.get()),
                },
            };
            before = (!row.end_sequence()).then_some((address, place));
        }
        Ok((found, files))
    }

    /// The files of a unit of which nothing else is wanted.
    pub(super) fn files(&self, sections: &Sections, unit: &Unit) -> Files {
        let key = (sections.of, unit.line_offset.unwrap_or(u64::MAX));
        if let Some(files) = self.kept_files.borrow().get(&key) {
            return Rc::clone(files);
        }
        let read = || {
            let window = program(sections, unit).ok()??;
            let section = DebugLine::new(&window, LittleEndian);
            let size = unit.head.encoding.address_size;
            let program = section.program(DebugLineOffset(0), size, None, None).ok()?;
            Some(files_of(sections, unit, program.header()))
        };
        let files = read().unwrap_or_default();
        let mut kept = self.kept_files.borrow_mut();
        if kept.len() >= MOST_KEPT {
            kept.clear();
        }
        kept.insert(key, Rc::clone(&files));
        files
    }

    /// A place with the name of its file.
    pub(super) fn place(row: Row, files: &[String]) -> Place {
        let file = usize::try_from(row.file).ok().and_then(|i| files.get(i));
        Place {
            file: file.cloned().unwrap_or_default(),
            line: row.line,
            // What has no line is of several; a column of one of them would say nothing.
            column: if row.line == 0 { 0 } else { row.column },
        }
    }
}

fn files_of(sections: &Sections, unit: &Unit, header: &LineProgramHeader<Slice<'_>>) -> Files {
    let first = u64::from(header.version() < 5);
    let named = header.file_names().iter().take(MOST_FILES);
    let paths = named.map(|entry| path(sections, unit, header, entry));
    Rc::new((0..first).map(|_| String::new()).chain(paths).collect())
}

fn path(
    sections: &Sections,
    unit: &Unit,
    header: &LineProgramHeader<Slice<'_>>,
    entry: &FileEntry<Slice<'_>>,
) -> String {
    let text = |value| unit.text(sections, None, value);
    let Some(name) = text(entry.path_name()).filter(|name| !name.is_empty()) else {
        return String::new();
    };
    let folder = match entry.directory_index() {
        0 if header.version() < 5 => None,
        _ => entry.directory(header).and_then(text),
    };
    joined(&[&unit.folder, folder.as_deref().unwrap_or_default(), &name])
}

/// The bytes of a unit's line number program.
fn program<'a>(
    sections: &'a Sections,
    unit: &Unit,
) -> Result<Option<std::borrow::Cow<'a, [u8]>>, DwarfError> {
    let Some(offset) = unit.line_offset else {
        return Ok(None);
    };
    let Some(first) = sections.line.number(offset, 4) else {
        return Ok(None);
    };
    let bytes = if first == 0xffff_ffff {
        sections.line.number(offset + 4, 8).map(|bytes| (bytes, 12))
    } else {
        Some((first, 4))
    };
    let bytes = bytes.and_then(|(bytes, more)| bytes.checked_add(more));
    let bytes = bytes.ok_or(DwarfError::CutOff)?;
    Ok(Some(sections.line.window(offset, bytes)?))
}

/// Parts of a path, of which one that begins with `/` makes those before it void.
fn joined(parts: &[&str]) -> String {
    let first = parts.iter().rposition(|part| part.starts_with('/'));
    let mut path = String::new();
    for part in &parts[first.unwrap_or(0)..] {
        let part = part.trim_end_matches('/');
        let part = part.strip_prefix("./").unwrap_or(part);
        if part.is_empty() || part == "." {
            continue;
        }
        if !path.is_empty() {
            path.push('/');
        }
        path.push_str(part);
    }
    path
}

pub(super) fn number(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(parts: &[&str], expected: &str) {
        assert_eq!(joined(parts), expected);
    }

    #[test]
    fn a_path_is_made_of_what_comes_after_its_last_root() {
        check(&["/build", "src", "a.c"], "/build/src/a.c");
        check(&["/build/", "./", "./a.c"], "/build/a.c");
        check(&["/build", "/usr/include", "a.h"], "/usr/include/a.h");
        check(&["/build", "src", "/a.c"], "/a.c");
        check(&["", "src", "a.c"], "src/a.c");
        check(&["", "", "a.c"], "a.c");
    }
}
