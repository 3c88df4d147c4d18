//! Profiles on their way out: the formats, and the files they go to.
//!
//! In: a finished [`Profile`]. Out: bytes. Each format is one module with one function `write`,
//! and is a pure function of what the profile says: events added in another order give the same
//! bytes. `output` opens the file before a recording and names it after.
//!
//! To add a format: a module with `write`, and a line in each `match` here.

mod about;
mod comments;
pub mod firefox;
pub mod flame;
pub mod folded;
mod frames;
pub mod html;
mod names;
pub mod output;
pub mod pprof;
pub mod proto;
mod read_back;
pub mod speedscope;
pub mod svg;
pub mod top;
mod tracks;

use std::{
    fmt,
    io::{self, Write},
    path::Path,
};

use clap::ValueEnum;

pub use about::TARGET_COMMENT;
pub use comments::{Recorded, comments_of};
pub use read_back::{Nameless, ReadBack, ReadBackError, read_back};

use crate::profile::Profile;
use flame::Flame;

/// What a profile is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
pub enum Format {
    /// pprof's own format, compressed by gzip: everything the profile holds.
    Pprof,
    /// One line of text for each stack, for flame graph tools.
    Folded,
    /// A flame graph that a browser opens.
    #[value(name = "svg")]
    FlameGraph,
    /// A page with a flame graph to search and to zoom into, and a table of functions.
    Html,
    /// What each thread did over time, for speedscope.
    Speedscope,
    /// What each process and thread did over time, for the Firefox Profiler; compressed by gzip.
    Firefox,
    /// The functions as a table of text, hottest first.
    Top,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 7] = [
        Self::Pprof,
        Self::Folded,
        Self::FlameGraph,
        Self::Html,
        Self::Speedscope,
        Self::Firefox,
        Self::Top,
    ];

    /// The format that a file's name asks for, by its extension.
    #[must_use]
    pub fn from_path(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?.to_ascii_lowercase();
        Self::ALL
            .into_iter()
            .find(|format| format.extensions().iter().any(|end| name.ends_with(end)))
    }

    /// The format's name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pprof => "pprof",
            Self::Folded => "folded",
            Self::FlameGraph => "svg",
            Self::Html => "html",
            Self::Speedscope => "speedscope",
            Self::Firefox => "firefox",
            Self::Top => "top",
        }
    }

    /// The extension that files of this format get, without the dot.
    #[must_use]
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Pprof => "pb.gz",
            Self::Folded => "folded",
            Self::FlameGraph => "svg",
            Self::Html => "html",
            Self::Speedscope => "speedscope.json",
            Self::Firefox => "firefox.json.gz",
            Self::Top => "txt",
        }
    }

    /// Every ending of a file's name that means this format.
    #[must_use]
    pub const fn extensions(self) -> &'static [&'static str] {
        match self {
            Self::Pprof => &[".pb.gz", ".pprof", ".pb"],
            Self::Folded => &[".folded", ".collapsed"],
            Self::FlameGraph => &[".svg"],
            Self::Html => &[".html"],
            Self::Speedscope => &[".speedscope.json"],
            Self::Firefox => &[".firefox.json.gz"],
            Self::Top => &[".txt"],
        }
    }

    /// Whether the bytes are unfit for a terminal.
    #[must_use]
    pub const fn is_binary(self) -> bool {
        matches!(self, Self::Pprof | Self::Firefox)
    }

    /// Whether it shows when each event happened, if the profile knows.
    #[must_use]
    pub const fn needs_times(self) -> bool {
        matches!(self, Self::Speedscope | Self::Firefox)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What can be chosen beyond the format. Each setting counts in the formats that know it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// How flame graphs are drawn.
    pub flame: Flame,
}

/// Writes a profile with nothing chosen but its format. `out` gets many small pieces: give it a
/// buffer.
///
/// # Errors
/// What `out` refused.
pub fn write(format: Format, profile: &Profile, out: &mut dyn Write) -> io::Result<()> {
    write_with(format, &Settings::default(), profile, out)
}

/// Writes a profile. `out` gets many small pieces: give it a buffer.
///
/// # Errors
/// What `out` refused.
pub fn write_with(
    format: Format,
    settings: &Settings,
    profile: &Profile,
    out: &mut dyn Write,
) -> io::Result<()> {
    match format {
        Format::Pprof => pprof::write(profile, out),
        Format::Folded => folded::write(profile, out),
        Format::FlameGraph => svg::write(profile, settings.flame, out),
        Format::Html => html::write(profile, settings.flame, out),
        Format::Speedscope => speedscope::write(profile, out),
        Format::Firefox => firefox::write(profile, out),
        Format::Top => top::write(profile, out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, expected: Option<Format>) {
        assert_eq!(Format::from_path(Path::new(path)), expected, "{path}");
    }

    #[test]
    fn the_extension_names_the_format() {
        check("cpu.pb.gz", Some(Format::Pprof));
        check("cpu.pprof", Some(Format::Pprof));
        check("/tmp/a.folded/cpu.pb", Some(Format::Pprof));
        check("cpu.folded", Some(Format::Folded));
        check("cpu.collapsed", Some(Format::Folded));
        check("./CPU.SVG", Some(Format::FlameGraph));
        check("cpu.html", Some(Format::Html));
        check("cpu.speedscope.json", Some(Format::Speedscope));
        check("cpu.firefox.json.gz", Some(Format::Firefox));
        check("cpu.txt", Some(Format::Top));
        check("cpu.json", None);
        check("cpu.gz", None);
        check("svg", None);
        check("cpu.unknown", None);
        check("/", None);
    }

    #[test]
    fn a_format_is_found_by_its_own_name_and_extension() {
        for format in Format::ALL {
            assert_eq!(Format::from_str(format.name(), false), Ok(format));
            assert_eq!(format.to_string(), format.name());
            check(&format!("cpu.{}", format.extension()), Some(format));
        }
        assert!(Format::from_str("flamegraph", false).is_err());
    }
}
