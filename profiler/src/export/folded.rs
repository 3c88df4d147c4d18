//! Folded stacks: one line of text for each stack, as flame graph tools read them.
//!
//! ```text
//! comm;outermost;…;innermost COUNT
//! ```
//!
//! A recording knows every thread's name. What was read may not: its lines then start with the
//! outermost frame. Suffixes say what a frame is: `_[k]` kernel, `_[i]` inlined, `_[j]` made at run time. There
//! are no comments and no headers: readers take them for frames. Lines are sorted by byte.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    io::{self, Write},
};

use super::{frames::Shown, names};
use crate::profile::{LabelKey, LabelValue, Location, LocationId, Profile, Sample};

/// Writes the profile as folded stacks.
///
/// # Errors
/// What `out` refused.
pub fn write(profile: &Profile, out: &mut dyn Write) -> io::Result<()> {
    for (stack, count) in stacks(profile) {
        writeln!(out, "{stack} {count}")?;
    }
    Ok(())
}

/// Every distinct stack as text, with its events: none of them has no event.
pub(super) fn stacks(profile: &Profile) -> BTreeMap<String, u64> {
    let frames: Vec<String> = profile
        .locations()
        .iter()
        .map(|location| {
            let frames = frames_of(profile, location).map(|(frame, _)| frame);
            frames.collect::<Vec<_>>().join(";")
        })
        .collect();
    let mut stacks = BTreeMap::new();
    for sample in profile.samples().filter(|sample| sample.count > 0) {
        let comm = comm_of(profile, &sample);
        let stack = stack_of(&sample, comm.as_deref(), &frames);
        let count: &mut u64 = stacks.entry(stack).or_default();
        *count = count.saturating_add(sample.count);
    }
    stacks
}

/// One line's stack; `frames` are those of each location.
fn stack_of(sample: &Sample<'_>, comm: Option<&str>, frames: &[String]) -> String {
    let frame = |id: &LocationId| &*frames[id.index()];
    let mut stack: Vec<&str> = comm.into_iter().collect();
    if sample.stack.is_empty() {
        stack.push(names::UNKNOWN);
    }
    stack.extend(sample.stack.iter().rev().map(frame));
    stack.join(";")
}

/// Every frame as it stands in [`stacks`], and what it is; some of them several times.
pub(super) fn shown_frames(profile: &Profile) -> impl Iterator<Item = (String, Shown)> + '_ {
    let locations = profile.locations().iter();
    locations.flat_map(|location| frames_of(profile, location))
}

/// The first frame of every stack in [`stacks`] that tells its thread; some of them several times.
pub(super) fn comms(profile: &Profile) -> impl Iterator<Item = String> + '_ {
    profile
        .samples()
        .filter_map(|sample| comm_of(profile, &sample))
}

/// The thread's name as a first frame, if the sample tells it. It has no space, so that no reader
/// trims it.
fn comm_of(profile: &Profile, sample: &Sample<'_>) -> Option<String> {
    let comm = sample.labels.iter().find_map(|label| match label {
        (LabelKey::Comm, LabelValue::Text(text)) => Some(profile.text(*text)),
        _ => None,
    });
    comm.map(|comm| match names::is_blank(comm) {
        true => names::UNKNOWN.to_owned(),
        false => safe(comm).replace(char::is_whitespace, "_"),
    })
}

/// The frames of one location, outermost first, and what each is.
fn frames_of<'a>(
    profile: &'a Profile,
    location: &'a Location,
) -> impl Iterator<Item = (String, Shown)> + 'a {
    // One without lines has one frame all the same.
    (0..location.lines.len().max(1)).rev().map(move |at| {
        let name = names::of_line(profile, location, location.lines.get(at));
        let shown = Shown::of(location, at);
        (frame(&name, suffix(shown)), shown)
    })
}

/// What a frame is marked with.
pub(super) const fn suffix(shown: Shown) -> &'static str {
    match shown {
        Shown::User | Shown::Marker => "",
        Shown::Kernel => "_[k]",
        Shown::Inlined => "_[i]",
        Shown::Jit => "_[j]",
    }
}

pub(crate) fn frame(name: &str, suffix: &str) -> String {
    let name = safe(name);
    format!("{}{suffix}", without_number_at_end(name.trim()))
}

/// The name without what separates frames or lines.
fn safe(name: &str) -> String {
    name.chars()
        .map(|c| match c {
            ';' => ':',
            c if names::breaks_text(c) => ' ',
            c => c,
        })
        .collect()
}

/// The name such that its end is no number of its own: readers would take that for a count.
fn without_number_at_end(name: &str) -> Cow<'_, str> {
    match name.rsplit_once(' ') {
        Some((head, tail)) if tail.chars().all(|c| c.is_ascii_digit() || c == '.') => {
            Cow::Owned(format!("{head}_{tail}"))
        }
        _ => Cow::Borrowed(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{FrameKind, Function, Line, StringId};

    fn line(profile: &mut Profile, name: &str) -> Line {
        let name = profile.string(name);
        let function = profile.function(Function {
            name,
            system_name: StringId::EMPTY,
            file: StringId::EMPTY,
            start_line: 0,
        });
        Line {
            function,
            line: 1,
            column: 0,
        }
    }

    #[track_caller]
    fn check(kind: FrameKind, names: &[&str], expected: &str) {
        let mut profile = Profile::cpu(1);
        let location = profile.location(kind, None, 0x1000);
        let lines = names.iter().map(|name| line(&mut profile, name)).collect();
        profile.set_lines(location, lines);
        let comm = profile.string("my app");
        let labels = vec![(LabelKey::Comm, LabelValue::Text(comm))];
        profile.add(&[location], &labels, 3);
        let mut text = Vec::new();
        write(&profile, &mut text).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            format!("my_app;{expected} 3\n")
        );
    }

    #[test]
    fn a_suffix_says_what_a_frame_is() {
        check(FrameKind::User, &["main"], "main");
        check(
            FrameKind::User,
            &["deep", "mid", "main"],
            "main;mid_[i];deep_[i]",
        );
        check(FrameKind::Kernel, &["vfs_read"], "vfs_read_[k]");
        check(FrameKind::Kernel, &["in", "out"], "out_[k];in_[k]");
        check(FrameKind::Jit, &["Foo.bar"], "Foo.bar_[j]");
        check(FrameKind::Marker, &["[no unwind row]"], "[no unwind row]");
    }

    #[test]
    fn a_frame_without_a_name_gets_a_stand_in() {
        check(FrameKind::User, &[], "[unknown]");
        check(FrameKind::User, &[""], "[unknown]");
        check(FrameKind::Kernel, &[], "[kernel]_[k]");
        check(FrameKind::Jit, &["\n"], "[jit]_[j]");
    }

    #[test]
    fn a_name_cannot_break_its_line() {
        check(FrameKind::User, &["f<[u8; 4]>"], "f<[u8: 4]>");
        check(FrameKind::User, &["a\nb\0c\td"], "a b c d");
        check(FrameKind::User, &[" a "], "a");
        check(FrameKind::User, &["lambda 12"], "lambda_12");
        check(FrameKind::User, &["f() const"], "f() const");
    }

    #[test]
    fn stacks_that_read_alike_are_one_line_and_no_event_is_no_line() {
        let mut profile = Profile::cpu(1);
        for (address, count) in [(0x10, 2), (0x20, 3), (0x30, 0)] {
            let location = profile.location(FrameKind::User, None, address);
            let main = line(&mut profile, if count == 0 { "never" } else { "main" });
            profile.set_lines(location, vec![main]);
            profile.add(&[location], &[], count);
        }
        profile.add(&[], &[], 4);
        let mut text = Vec::new();
        write(&profile, &mut text).unwrap();
        assert_eq!(String::from_utf8(text).unwrap(), "[unknown] 4\nmain 5\n");
    }
}
