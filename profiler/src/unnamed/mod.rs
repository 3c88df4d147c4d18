//! Frames that have no name, and frames that have a name and no line: where they lie and why.
//!
//! In: counts by place and cause, as a recording knows them. Out: tables of bounded length, and the
//! comments of a profile that carry them. A comment is one line, a sentence, and is read back to
//! what it was made of:
//!
//! ```text
//! #unnamed 120 of 5000 frames
//! #unnamed 80 frames in 60 samples: stripped, with exported symbols left, build id 12ab: /usr/lib/libfoo.so.1
//! #unnamed 28 frames in 9 samples: code made at run time by Java, which wrote no perf map: process 1234 (java)
//! #unnamed 12 frames more, in 7 other places
//! #lineless 300 of 5000 frames
//! #lineless 300 frames in 90 samples: no debug information, build id 34cd: /usr/bin/server
//! ```
//!
//! The first tells all, the last what the table has no room for. The place comes last and may hold
//! anything but what breaks a line. The frames of all lines but the first add up to those of the
//! first.

mod advice;
mod reason;

use std::{cmp::Reverse, collections::BTreeMap, fmt, str::FromStr};

pub use advice::KERNEL_NAMES;
pub use reason::{DebugLink, LeftSymbols, NoLines, Reason};

use crate::target::Pid;

/// Most places that are told of, for each table.
const MOST_UNNAMED: usize = 200;
const MOST_LINELESS: usize = 20;

/// Why frames lack something.
pub trait Cause: Copy + Ord + fmt::Display {
    /// How comments about it start.
    const TAG: &'static str;
    /// Most places in a table.
    const MOST: usize;

    /// The cause that these words tell.
    fn of_words(words: &str) -> Option<Self>;

    /// The place that a text names.
    fn place(self, text: &str) -> Option<Place>;

    /// Whether a debug file would mend it.
    fn is_mended_by_files(self) -> bool;
}

impl Cause for Reason {
    const TAG: &'static str = "#unnamed ";
    const MOST: usize = MOST_UNNAMED;

    fn of_words(words: &str) -> Option<Self> {
        Self::every(first_number(words)).find(|reason| reason.to_string() == words)
    }

    fn place(self, text: &str) -> Option<Place> {
        match self {
            Self::Made(..) => Place::process_of(text),
            Self::NoMapping => text.strip_prefix(THREADS).map(Place::threads),
            _ => Some(Place::object(text)),
        }
    }

    fn is_mended_by_files(self) -> bool {
        matches!(self, Self::Stripped(..) | Self::BrokenDebugdata)
    }
}

impl Cause for NoLines {
    const TAG: &'static str = "#lineless ";
    const MOST: usize = MOST_LINELESS;

    fn of_words(words: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|why| why.to_string() == words)
    }

    fn place(self, text: &str) -> Option<Place> {
        Some(Place::object(text))
    }

    fn is_mended_by_files(self) -> bool {
        matches!(self, Self::NoDebugInfo | Self::Broken)
    }
}

/// Where frames lie.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// An object, by its path as the target sees it, or by its name in brackets.
    Object(String),
    /// A process that makes code, and the name of one of its threads.
    Process(Pid, String),
    /// Threads of this name.
    Threads(String),
}

const PROCESS: &str = "process ";
const THREADS: &str = "threads named ";

impl Place {
    /// An object.
    #[must_use]
    pub fn object(path: &str) -> Self {
        Self::Object(one_line(path))
    }

    /// A process.
    #[must_use]
    pub fn process(pid: Pid, comm: &str) -> Self {
        Self::Process(pid, one_line(comm))
    }

    /// Threads.
    #[must_use]
    pub fn threads(comm: &str) -> Self {
        Self::Threads(one_line(comm))
    }

    fn process_of(text: &str) -> Option<Self> {
        let (pid, comm) = text.strip_prefix(PROCESS)?.split_once(" (")?;
        let pid = u32::try_from(number(pid)?).ok()?;
        Some(Self::process(Pid(pid), comm.strip_suffix(')')?))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Object(path) => f.write_str(path),
            Self::Process(pid, comm) => write!(f, "{PROCESS}{pid} ({comm})"),
            Self::Threads(comm) => write!(f, "{THREADS}{comm}"),
        }
    }
}

/// Text that stands on one line and does nothing to a terminal.
fn one_line(text: &str) -> String {
    let breaks = |c: char| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}');
    text.replace(breaks, "\u{fffd}")
}

/// Frames of one place that lack something for one cause.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry<C> {
    /// How many: a sample has as many as lie on its stack.
    pub frames: u64,
    /// Samples with such a frame.
    pub samples: u64,
    /// Why.
    pub cause: C,
    /// GNU build id of the object, in lower-case hex.
    pub build_id: Option<String>,
    /// Where.
    pub place: Place,
}

/// Frames without a name.
pub type Unnamed = Entry<Reason>;
/// Frames with a name and no line.
pub type Lineless = Entry<NoLines>;

const BUILD_ID: &str = ", build id ";

impl<C: Cause> fmt::Display for Entry<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tag, cause) = (C::TAG, self.cause);
        let (frames, samples) = (self.frames, self.samples);
        write!(f, "{tag}{frames} frames in {samples} samples: {cause}")?;
        if let Some(build_id) = &self.build_id {
            write!(f, "{BUILD_ID}{build_id}")?;
        }
        write!(f, ": {}", self.place)
    }
}

/// A text is no such comment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a comment of this form")]
pub struct OtherForm;

impl<C: Cause> FromStr for Entry<C> {
    type Err = OtherForm;

    fn from_str(text: &str) -> Result<Self, OtherForm> {
        let read = || {
            let (frames, rest) = text.strip_prefix(C::TAG)?.split_once(" frames in ")?;
            let (samples, rest) = rest.split_once(" samples: ")?;
            // Neither causes nor build ids have a colon.
            let (told, place) = rest.split_once(": ")?;
            let (words, build_id) = match told.split_once(BUILD_ID) {
                Some((words, build_id)) => (words, Some(hex(build_id)?)),
                None => (told, None),
            };
            let cause = C::of_words(words)?;
            Some(Self {
                frames: number(frames)?,
                samples: number(samples)?,
                cause,
                build_id,
                place: cause.place(place)?,
            })
        };
        read().ok_or(OtherForm)
    }
}

/// Places of frames that lack something, the most frames first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table<C> {
    /// Frames of all samples.
    pub of_frames: u64,
    /// The heaviest places.
    pub entries: Vec<Entry<C>>,
    /// Frames in places that are left out here.
    pub more_frames: u64,
    /// Those places.
    pub more_places: u64,
}

impl<C> Default for Table<C> {
    fn default() -> Self {
        Self {
            of_frames: 0,
            entries: Vec::new(),
            more_frames: 0,
            more_places: 0,
        }
    }
}

/// How frames and samples were counted: by cause, place, and build id.
pub type Counts<C> = BTreeMap<(C, Place, Option<String>), (u64, u64)>;

impl<C: Cause> Table<C> {
    /// The heaviest of some places.
    #[must_use]
    pub fn of(counts: Counts<C>, of_frames: u64) -> Self {
        let entry = |((cause, place, build_id), (frames, samples))| Entry {
            frames,
            samples,
            cause,
            build_id,
            place,
        };
        let mut entries: Vec<Entry<C>> = counts.into_iter().map(entry).collect();
        // What is equal in weight stays in the order of causes and places.
        entries.sort_by_key(|entry| (Reverse(entry.frames), Reverse(entry.samples)));
        let more = entries.split_off(entries.len().min(C::MOST));
        Self {
            of_frames,
            entries,
            more_frames: more.iter().map(|entry| entry.frames).sum(),
            more_places: more.len() as u64,
        }
    }

    /// Adds those of another table.
    fn merge(&mut self, other: Self) {
        let more = [
            self.more_frames + other.more_frames,
            self.more_places.max(other.more_places),
        ];
        let of_frames = self.of_frames + other.of_frames;
        let mut counts = Counts::new();
        for entry in self.entries.drain(..).chain(other.entries) {
            let key = (entry.cause, entry.place, entry.build_id);
            let sum: &mut (u64, u64) = counts.entry(key).or_default();
            sum.0 += entry.frames;
            sum.1 += entry.samples;
        }
        *self = Self::of(counts, of_frames);
        self.more_frames += more[0];
        self.more_places += more[1];
    }

    /// The frames that lack something.
    #[must_use]
    pub fn frames(&self) -> u64 {
        let told = self.entries.iter().map(|entry| entry.frames);
        told.fold(self.more_frames, u64::saturating_add)
    }

    /// The comments that carry it.
    #[must_use]
    pub fn comments(&self) -> Vec<String> {
        let tag = C::TAG;
        let head = format!("{tag}{} of {} frames", self.frames(), self.of_frames);
        let mut comments = vec![head];
        comments.extend(self.entries.iter().map(ToString::to_string));
        if self.more_places > 0 {
            let (frames, places) = (self.more_frames, self.more_places);
            comments.push(format!(
                "{tag}{frames} frames more, in {places} other places"
            ));
        }
        comments
    }

    /// The table that some comments carry, if they do. Profiles that were merged have several; they
    /// are one then. What a later version may say beyond is passed over.
    #[must_use]
    pub fn of_comments<'a>(comments: impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut counts = Counts::<C>::new();
        let (mut of_frames, mut more_frames, mut more_places) = (None, 0_u64, 0_u64);
        for comment in comments {
            if let Some((_, of)) = head::<C>(comment) {
                of_frames = Some(of_frames.unwrap_or(0_u64).saturating_add(of));
            } else if let Some((frames, places)) = rest::<C>(comment) {
                more_frames = more_frames.saturating_add(frames);
                more_places = more_places.saturating_add(places);
            } else if let Ok(entry) = comment.parse::<Entry<C>>() {
                let key = (entry.cause, entry.place, entry.build_id);
                let (frames, samples) = counts.entry(key).or_default();
                *frames = frames.saturating_add(entry.frames);
                *samples = samples.saturating_add(entry.samples);
            }
        }
        let table = Self::of(counts, of_frames?);
        Some(Self {
            more_frames: table.more_frames.saturating_add(more_frames),
            more_places: table.more_places.saturating_add(more_places),
            ..table
        })
    }
}

/// The numbers of a table's first line: frames that lack something, and all.
fn head<C: Cause>(comment: &str) -> Option<(u64, u64)> {
    let rest = comment.strip_prefix(C::TAG)?.strip_suffix(" frames")?;
    let (frames, of_frames) = rest.split_once(" of ")?;
    Some((number(frames)?, number(of_frames)?))
}

/// The numbers of a table's last line: frames and places.
fn rest<C: Cause>(comment: &str) -> Option<(u64, u64)> {
    let rest = comment
        .strip_prefix(C::TAG)?
        .strip_suffix(" other places")?;
    let (frames, places) = rest.split_once(" frames more, in ")?;
    Some((number(frames)?, number(places)?))
}

/// Both tables of a profile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gaps {
    /// Frames without a name.
    pub unnamed: Table<Reason>,
    /// Frames with a name and no line.
    pub lineless: Table<NoLines>,
}

impl Gaps {
    /// Adds those of another profile.
    pub fn merge(&mut self, other: Self) {
        self.unnamed.merge(other.unnamed);
        self.lineless.merge(other.lineless);
    }

    /// The comments that carry them.
    #[must_use]
    pub fn comments(&self) -> Vec<String> {
        [self.unnamed.comments(), self.lineless.comments()].concat()
    }

    /// What comments carry, if they do.
    #[must_use]
    pub fn of_comments<'a>(comments: impl Iterator<Item = &'a str> + Clone) -> Option<Self> {
        Some(Self {
            unnamed: Table::of_comments(comments.clone())?,
            lineless: Table::of_comments(comments).unwrap_or_default(),
        })
    }

    /// Whether a comment is one of a table.
    #[must_use]
    pub fn is_comment(comment: &str) -> bool {
        comment.starts_with(Reason::TAG) || comment.starts_with(NoLines::TAG)
    }
}

/// A number as we write it: digits, and no more of them than needed.
fn number(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// The first number in a text; 0 if there is none.
fn first_number(text: &str) -> u32 {
    let digits = text.split(|c: char| !c.is_ascii_digit());
    let first = digits.into_iter().find(|digits| !digits.is_empty());
    first.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// A build id as we write it.
fn hex(text: &str) -> Option<String> {
    let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    (!text.is_empty() && text.bytes().all(is_hex)).then(|| text.to_owned())
}

#[cfg(test)]
mod tests;
