//! What a run says at its end: the hottest functions, the receipt, and what to type next.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use super::printable;
use crate::{
    export::Format,
    profile::{Profile, Values, hottest},
    record::Outcome,
};

/// Functions shown.
const HOTTEST: usize = 10;

/// A file that was written.
#[derive(Debug)]
pub(super) struct Written {
    /// Where; `None` for stdout.
    pub(super) path: Option<PathBuf>,
    /// In which format.
    pub(super) format: Format,
    /// How large, in bytes.
    pub(super) bytes: u64,
}

/// Writes the hottest functions and the receipt.
pub(super) fn write(outcome: &Outcome, out: &mut dyn Write) -> io::Result<()> {
    write_hottest(&outcome.profile, out)?;
    write!(out, "{}{}", outcome.account, outcome.cost)?;
    for note in &outcome.notes {
        writeln!(out, "note: {note}")?;
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
fn write_hottest(profile: &Profile, out: &mut dyn Write) -> io::Result<()> {
    let total = profile.total();
    if total == 0 {
        return Ok(());
    }
    let percent = |count: u64| 100.0 * count as f64 / total as f64;
    let shown = |count: u64| match profile.values {
        Values::CountAndPeriod | Values::CountAlone => count.to_string(),
        Values::EventsAndWeight => format!("{:.2} s", count as f64 / 1e9),
    };
    writeln!(
        out,
        "{:>9} {:>6}  {:>9} {:>6}  function",
        "self", "", "total", ""
    )?;
    for hot in hottest(profile, HOTTEST) {
        let (own, all) = (percent(hot.flat), percent(hot.cumulative));
        writeln!(
            out,
            "{:>9} {own:>5.1}%  {:>9} {all:>5.1}%  {}",
            shown(hot.flat),
            shown(hot.cumulative),
            printable(&hot.name)
        )?;
    }
    writeln!(out)
}

/// Tells where to ask about frames without a name, if there are some and a file that knows.
pub(super) fn write_unnamed(
    outcome: &Outcome,
    files: &[Written],
    out: &mut dyn Write,
) -> io::Result<()> {
    let knows = |file: &&Written| file.format == Format::Pprof;
    let path = files
        .iter()
        .filter(knows)
        .find_map(|file| file.path.as_ref());
    let verb = match outcome.account.unnamed {
        0 => return Ok(()),
        1 => "1 frame has",
        unnamed => &format!("{unnamed} frames have"),
    };
    match path {
        Some(path) => writeln!(
            out,
            "note: {verb} no name; try: ebpfprof explain {}",
            path.display()
        ),
        None => Ok(()),
    }
}

/// Tells what was written and how to open it.
pub(super) fn write_files(files: &[Written], out: &mut dyn Write) -> io::Result<()> {
    for file in files {
        let Some(path) = &file.path else { continue };
        let path = path.display();
        writeln!(out, "wrote {path} ({} bytes)", file.bytes)?;
        match file.format {
            Format::Pprof => {
                writeln!(out, "  go tool pprof -top {path}")?;
                writeln!(out, "  go tool pprof -http=: {path}")?;
            }
            Format::Folded => writeln!(out, "  inferno-flamegraph < {path} > {path}.svg")?,
            Format::FlameGraph | Format::Html => writeln!(out, "  xdg-open {path}")?,
            Format::Speedscope => writeln!(out, "  open it at https://www.speedscope.app")?,
            Format::Firefox => writeln!(out, "  open it at https://profiler.firefox.com")?,
            Format::Top => writeln!(out, "  less -S {path}")?,
        }
    }
    Ok(())
}
