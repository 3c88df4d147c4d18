//! The table of results: one row for each kernel, on the screen and in `docs/kernels.md`.

use std::{fmt::Write as _, time::Duration};

use anyhow::Result;

use crate::{section::Section, workspace::Workspace};

use super::suite::{Outcome, Walker};

/// Where the table stands.
const SECTION: Section = Section {
    document: "docs/kernels.md",
    command: "cargo xtask kernel-test --all --write",
};

const HEAD: [&str; 7] = [
    "kernel",
    "release",
    "walker",
    "instructions, loop",
    "instructions, tail calls",
    "passed",
    "seconds",
];

/// One kernel's results.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) name: &'static str,
    /// The walker that the product has to choose; whichever there is on a host.
    pub(super) expected: Option<Walker>,
    /// As `uname -r` tells it; empty when it is not known.
    pub(super) release: String,
    /// The version of Debian's package.
    pub(super) package: Option<String>,
    pub(super) outcome: Option<Outcome>,
    /// Why there is no outcome.
    pub(super) error: Option<String>,
    /// From the start of the machine to its end.
    pub(super) took: Duration,
}

impl Row {
    pub(super) fn new(name: &'static str, expected: Option<Walker>) -> Self {
        Self {
            name,
            expected,
            release: String::new(),
            package: None,
            outcome: None,
            error: None,
            took: Duration::ZERO,
        }
    }

    /// Why this row is no success.
    pub(super) fn flaw(&self) -> Option<String> {
        match (&self.error, &self.outcome) {
            (Some(error), _) => Some(error.clone()),
            (None, Some(outcome)) if outcome.failed.is_empty() => None,
            (None, Some(outcome)) => Some(format!("not passed: {}", outcome.failed.join(", "))),
            (None, None) => Some("nothing was run".to_owned()),
        }
    }

    /// One line for the screen.
    pub(super) fn summary(&self) -> String {
        match self.flaw() {
            None => format!("{}: passed in {} s", self.name, self.took.as_secs()),
            Some(flaw) => format!("{}: FAILED: {flaw}", self.name),
        }
    }

    fn cells(&self) -> [String; 7] {
        let outcome = self.outcome.clone().unwrap_or_default();
        let read = |walker| match outcome.instructions.get(&walker) {
            None => "–".to_owned(),
            Some(None) => "not told".to_owned(),
            Some(Some(count)) => grouped(*count),
        };
        let release = match &self.package {
            Some(package) => format!("{} ({package})", self.release),
            None => self.release.clone(),
        };
        let passed = match &self.error {
            Some(_) => "failed".to_owned(),
            None => format!("{} of {}", outcome.passed, outcome.asked),
        };
        [
            self.name.to_owned(),
            release,
            outcome.best.map_or("–", Walker::word).to_owned(),
            read(Walker::Loop),
            read(Walker::TailCalls),
            passed,
            self.took.as_secs().to_string(),
        ]
    }
}

/// The table, as Markdown that is readable by itself.
pub(super) fn table(rows: &[Row]) -> String {
    let cells: Vec<[String; 7]> = std::iter::once(HEAD.map(str::to_owned))
        .chain(rows.iter().map(Row::cells))
        .collect();
    let width = |column: usize| {
        let lengths = cells.iter().map(|row| row[column].chars().count());
        lengths.max().unwrap_or(0)
    };
    let mut text = String::new();
    for (number, row) in cells.iter().enumerate() {
        line(row, width, &mut text);
        if number == 0 {
            for column in 0..HEAD.len() {
                let dashes = "-".repeat(width(column));
                write!(text, "| {dashes} ").expect("a string takes what is written");
            }
            text.push_str("|\n");
        }
    }
    text
}

fn line(cells: &[String; 7], width: impl Fn(usize) -> usize, text: &mut String) {
    for (column, cell) in cells.iter().enumerate() {
        let width = width(column);
        write!(text, "| {cell:<width$} ").expect("a string takes what is written");
    }
    text.push_str("|\n");
}

/// Puts the table into the documentation.
pub(super) fn write(workspace: &Workspace, rows: &[Row]) -> Result<()> {
    SECTION.write(workspace, &table(rows))
}

/// 1234567 as 1,234,567.
fn grouped(number: u32) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_run_is_no_success() {
        let mut row = Row::new("5.10", Some(Walker::TailCalls));
        assert!(row.flaw().is_some());
        row.outcome = Some(Outcome::default());
        assert_eq!(row.flaw(), None);
        row.error = Some("not offered".to_owned());
        assert_eq!(row.summary(), "5.10: FAILED: not offered");
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut row = Row::new("5.10", None);
        row.outcome = Some(Outcome {
            best: Some(Walker::TailCalls),
            instructions: [(Walker::Loop, Some(1_234_567)), (Walker::TailCalls, None)].into(),
            asked: 3,
            passed: 3,
            failed: Vec::new(),
        });
        let table = table(&[row]);
        let lengths: Vec<usize> = table.lines().map(|line| line.chars().count()).collect();
        assert!(lengths.windows(2).all(|pair| pair[0] == pair[1]), "{table}");
        assert!(table.contains("| 1,234,567 "), "{table}");
        assert!(table.contains("| not told "), "{table}");
    }
}
