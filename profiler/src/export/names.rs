//! The names that every format shows, where the profile has one and where it has none.

use std::borrow::Cow;

use crate::profile::{FrameKind, Line, Location, Profile};

/// What stands for code of which nothing is known.
pub(super) const UNKNOWN: &str = "[unknown]";

/// The name of one line of a location: its function's, or a stand-in that says where it lies.
pub(super) fn of_line<'a>(
    profile: &'a Profile,
    location: &Location,
    line: Option<&Line>,
) -> Cow<'a, str> {
    match line.map(|line| profile.line_name(line)) {
        Some(name) if !is_blank(name) => Cow::Borrowed(name),
        _ => stand_in(profile, location),
    }
}

/// A name for code without one: the object it lies in, never a neighbour's name.
fn stand_in<'a>(profile: &'a Profile, location: &Location) -> Cow<'a, str> {
    match location.kind {
        FrameKind::Kernel => Cow::Borrowed("[kernel]"),
        FrameKind::Jit => Cow::Borrowed("[jit]"),
        FrameKind::Marker => Cow::Borrowed(UNKNOWN),
        FrameKind::User => match location.mapping {
            None => Cow::Borrowed(UNKNOWN),
            Some(id) => bracketed(profile.text(profile.mapping_at(id).path)),
        },
    }
}

/// The last part of a path, in brackets: `[libc.so.6]`, `[vdso]`.
fn bracketed(path: &str) -> Cow<'_, str> {
    let path = without_deleted(path);
    let file = path.rsplit('/').next().unwrap_or(path);
    if is_blank(file) {
        Cow::Borrowed(UNKNOWN)
    } else if file.starts_with('[') && file.ends_with(']') {
        Cow::Borrowed(file)
    } else {
        Cow::Owned(format!("[{file}]"))
    }
}

/// The path without the mark that the kernel puts behind the name of a deleted file.
pub(super) fn without_deleted(path: &str) -> &str {
    path.strip_suffix(" (deleted)").unwrap_or(path)
}

/// Whether nothing of a name would be seen.
pub(super) fn is_blank(name: &str) -> bool {
    name.chars().all(|c| c.is_whitespace() || breaks_text(c))
}

/// Whether a character would break a line, a terminal or an XML file. A thread may give itself
/// any name, so these do arrive.
pub(super) fn breaks_text(c: char) -> bool {
    c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}')
}

/// The text without what would break a reader's line or terminal.
pub(super) fn clean(text: &str) -> Cow<'_, str> {
    if text.contains(breaks_text) {
        Cow::Owned(text.replace(breaks_text, ""))
    } else {
        Cow::Borrowed(text)
    }
}

/// [`clean`] for what may be owned already.
pub(super) fn clean_owned(text: Cow<'_, str>) -> Cow<'_, str> {
    match text {
        Cow::Borrowed(text) => clean(text),
        Cow::Owned(text) => Cow::Owned(clean(&text).into_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, expected: &str) {
        assert_eq!(bracketed(path), expected);
    }

    #[test]
    fn an_object_without_symbols_stands_for_its_code() {
        check("/usr/lib/libc.so.6", "[libc.so.6]");
        check("/usr/lib/libc.so.6 (deleted)", "[libc.so.6]");
        check("[vdso]", "[vdso]");
        check("server", "[server]");
        check("", UNKNOWN);
        check("/", UNKNOWN);
    }
}
