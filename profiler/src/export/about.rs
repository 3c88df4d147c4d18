//! What formats say of a profile as a whole.

use super::names;
use crate::{
    profile::{Profile, ValueType},
    unnamed::Gaps,
};

/// How the comment starts that says what was profiled. Titles are made of the rest of it.
pub const TARGET_COMMENT: &str = "target: ";

/// Who wrote a file.
pub(super) const EXPORTER: &str = concat!("ebpfprof@", env!("CARGO_PKG_VERSION"));

/// What was profiled, if a comment says so.
pub(super) fn target(profile: &Profile) -> Option<String> {
    comments(profile)
        .find_map(|comment| comment.strip_prefix(TARGET_COMMENT).map(str::to_owned))
        .map(|target| target.trim().to_owned())
        .filter(|target| !names::is_blank(target))
}

/// A name for the whole: what was measured, and of what.
pub(super) fn title(profile: &Profile) -> String {
    named(profile, "profile")
}

/// The name of a whole that is shown as this: `CPU profile: server`.
pub(super) fn named(profile: &Profile, what: &str) -> String {
    let mut name = match &*profile.weight_type().kind {
        "cpu" => format!("CPU {what}"),
        // What was sampled is not told.
        kind if kind == "samples" || names::is_blank(kind) => what[..1].to_uppercase() + &what[1..],
        kind => format!("{} {what}", names::clean(kind)),
    };
    if let Some(target) = target(profile) {
        name.push_str(": ");
        name.push_str(&target);
    }
    name
}

/// What a number of this type is a number of: `samples`, `bytes`.
pub(super) fn counted(value: &ValueType) -> &str {
    match (&*value.unit, &*value.kind) {
        ("count" | "", kind) => kind,
        (unit, _) => unit,
    }
}

/// The comments without what marks them as such, each on a line of its own. Those that `ebpfprof
/// explain` reads are left out.
pub(super) fn comments(profile: &Profile) -> impl Iterator<Item = String> {
    let comments = profile.comments.iter();
    let comments = comments.filter(|comment| !Gaps::is_comment(comment));
    comments.map(|comment| {
        let text = comment.trim_start_matches(['#', ' ']);
        text.replace(names::breaks_text, " ")
    })
}
