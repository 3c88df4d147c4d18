//! The functions of a profile as a table of text, hottest first.
//!
//! A function is told by its name, source file and object. Its line is the one that most of its
//! own events were at, or if it has none, the one that most calls were made from.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    io::{self, Write},
};

use super::{about, frames::Frames, names};
use crate::profile::{Profile, Values};

/// Columns are as wide as their longest entry, but for what is longer than these.
const MOST_NAME: usize = 64;
const MOST_PLACE: usize = 48;

/// How often a function, or a line of it, was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Counts {
    /// Events in it.
    own: u64,
    /// Events in it or in what it called.
    total: u64,
}

/// A row of the table.
struct Row {
    function: usize,
    counts: Counts,
    /// 0 if unknown.
    line: u32,
}

/// Writes the profile as a table.
///
/// # Errors
/// What `out` refused.
pub fn write(profile: &Profile, out: &mut dyn Write) -> io::Result<()> {
    let total = profile.total();
    writeln!(out, "# {}", about::title(profile))?;
    for comment in about::comments(profile) {
        if !comment.starts_with(about::TARGET_COMMENT) {
            writeln!(out, "# {comment}")?;
        }
    }
    write_counted(profile, out)?;
    let frames = Frames::of(profile);
    let rows = rows(profile, &frames);
    let width =
        |words: &dyn Fn(&Row) -> usize, most| rows.iter().map(words).max().unwrap_or(0).min(most);
    let names = width(&|row| row.name(&frames).chars().count(), MOST_NAME);
    let places = width(&|row| row.place(&frames).chars().count(), MOST_PLACE);
    writeln!(
        out,
        "{:>10} {:>7}  {:>10} {:>7}  {:<names$}  {:<places$}  object",
        "self", "self%", "total", "total%", "function", "file:line"
    )?;
    for row in &rows {
        let Counts { own, total: all } = row.counts;
        writeln!(
            out,
            "{own:>10} {:>6}%  {all:>10} {:>6}%  {:<names$}  {:<places$}  {}",
            percent(own, total),
            percent(all, total),
            row.name(&frames),
            row.place(&frames),
            row.object(&frames),
        )?;
    }
    Ok(())
}

/// What the numbers are, and what they stand for.
fn write_counted(profile: &Profile, out: &mut dyn Write) -> io::Result<()> {
    let [event, of] = [&profile.event_type, &profile.period_type];
    let counted = names::clean(about::counted(event));
    write!(out, "# {} {counted}", profile.total())?;
    match profile.values {
        Values::CountAndPeriod => {
            let (unit, kind) = (names::clean(&of.unit), names::clean(&of.kind));
            writeln!(out, ", one every {} {unit} of {kind}", profile.period)
        }
        Values::CountAlone if counted == event.kind => writeln!(out),
        Values::CountAlone | Values::EventsAndWeight => {
            writeln!(out, " of {}", names::clean(&event.kind))
        }
    }
}

impl Row {
    fn name<'a>(&self, frames: &'a Frames<'_>) -> &'a str {
        &frames.functions[self.function].name
    }

    fn place(&self, frames: &Frames<'_>) -> String {
        let file = frames.functions[self.function].file.as_ref();
        match (names::is_blank(file), self.line) {
            (true, _) => "-".to_owned(),
            (false, 0) => file.to_owned(),
            (false, line) => format!("{file}:{line}"),
        }
    }

    fn object<'a>(&self, frames: &'a Frames<'_>) -> &'a str {
        let object = frames.functions[self.function].object.as_ref();
        if names::is_blank(object) { "-" } else { object }
    }
}

/// With two digits behind the point, rounded to the nearest.
fn percent(part: u64, total: u64) -> String {
    let (part, total) = (u128::from(part), u128::from(total.max(1)));
    let hundredths = (part * 10_000 + total / 2) / total;
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

/// Every function, the one with the most events of its own first.
fn rows(profile: &Profile, frames: &Frames<'_>) -> Vec<Row> {
    let mut functions = vec![Counts::default(); frames.functions.len()];
    let mut lines: BTreeMap<(usize, u32), Counts> = BTreeMap::new();
    for sample in profile.samples().filter(|sample| sample.count > 0) {
        let stack = frames.of_stack(sample.stack);
        let leaf = *stack
            .last()
            .expect("a stack without frames has one that says so");
        let leaf = frames.frames[leaf];
        let add = |sum: &mut u64| *sum = sum.saturating_add(sample.count);
        add(&mut functions[leaf.function].own);
        add(&mut lines.entry((leaf.function, leaf.line)).or_default().own);
        // Of a function that calls itself, an event is one event.
        let mut met: Vec<(usize, u32)> = stack
            .iter()
            .map(|at| (frames.frames[*at].function, frames.frames[*at].line))
            .collect();
        met.sort_unstable();
        met.dedup();
        for place in &met {
            add(&mut lines.entry(*place).or_default().total);
        }
        met.dedup_by_key(|(function, _)| *function);
        for (function, _) in met {
            add(&mut functions[function].total);
        }
    }
    let mut hottest: BTreeMap<usize, (Counts, Reverse<u32>)> = BTreeMap::new();
    for ((function, line), counts) in lines {
        let best = hottest.entry(function).or_default();
        *best = (counts, Reverse(line)).max(*best);
    }
    let mut rows: Vec<Row> = functions
        .into_iter()
        .enumerate()
        .map(|(function, counts)| Row {
            function,
            counts,
            line: hottest.get(&function).map_or(0, |(_, Reverse(line))| *line),
        })
        .collect();
    // The functions are sorted by what they say, and equals stay in that order.
    rows.sort_by_key(|row| Reverse(row.counts));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(part: u64, total: u64, expected: &str) {
        assert_eq!(percent(part, total), expected);
    }

    #[test]
    fn percentages_are_rounded_to_the_nearest() {
        check(0, 0, "0.00");
        check(1, 3, "33.33");
        check(2, 3, "66.67");
        check(7, 7, "100.00");
        check(u64::MAX, u64::MAX, "100.00");
    }
}
