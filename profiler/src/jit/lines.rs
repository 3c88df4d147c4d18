//! Lines of one piece of code that was made at run time.

/// Most files told apart in one piece of code: inlined calls come from some.
const MOST_FILES: usize = 64;

/// From an offset in the code on, up to the next: a line of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Row {
    offset: u32,
    line: u32,
    file: u16,
}

/// The lines of a piece of code, by offset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lines {
    rows: Vec<Row>,
    files: Vec<String>,
}

impl Lines {
    /// Adds one: from this offset on. What is beyond any bound is left out.
    pub fn add(&mut self, offset: u32, line: u32, file: &[u8]) {
        let known = self
            .files
            .iter()
            .rposition(|known| known.as_bytes() == file);
        let file = known.unwrap_or_else(|| {
            if self.files.len() < MOST_FILES {
                self.files.push(String::from_utf8_lossy(file).into_owned());
                self.files.len() - 1
            } else {
                MOST_FILES // One of many others.
            }
        });
        self.rows.push(Row {
            offset,
            line,
            file: file as u16,
        });
    }

    /// Puts them in order, once all are there.
    #[must_use]
    pub fn sorted(mut self) -> Self {
        self.rows.sort_by_key(|row| row.offset);
        self.rows.shrink_to_fit();
        self
    }

    /// The function's file and the line at an offset. The code begins in its own file; lines of
    /// other files are those of inlined calls, which are not told apart from it.
    #[must_use]
    pub fn find(&self, offset: u64) -> Option<(&str, u32)> {
        let first = self.rows.first()?;
        let own = self.files.get(usize::from(first.file))?;
        let after = self
            .rows
            .partition_point(|row| u64::from(row.offset) <= offset);
        let row = after.checked_sub(1).map(|at| self.rows[at]);
        let line = row
            .filter(|row| row.file == first.file)
            .map_or(0, |row| row.line);
        Some((own, line))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// What they take, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let files: usize = self.files.iter().map(|file| 24 + file.len()).sum();
        size_of::<Self>() + self.rows.capacity() * size_of::<Row>() + files
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_holds_up_to_the_next_and_other_files_have_none() {
        let mut lines = Lines::default();
        lines.add(0x20, 9, b"/b.js");
        lines.add(4, 7, b"/a.js");
        lines.add(0x30, 8, b"/a.js");
        let lines = lines.sorted();
        assert_eq!(lines.find(0), Some(("/a.js", 0)));
        assert_eq!(lines.find(4), Some(("/a.js", 7)));
        assert_eq!(lines.find(0x20), Some(("/a.js", 0)));
        assert_eq!(lines.find(0x31), Some(("/a.js", 8)));
        assert_eq!(Lines::default().find(0), None);
    }
}
