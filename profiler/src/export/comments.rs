//! What a profile says of its recording, in comments: who made it and how, where every tick went,
//! what it cost, and why frames have no name.
//!
//! A comment that starts with `#` is shown on request only, so a report has one line of them.

use super::about::TARGET_COMMENT;
use crate::{
    record::{Account, Cost, Lowered},
    unnamed::Gaps,
};

/// A recording, as far as comments tell of it.
#[derive(Clone, Copy, Debug)]
pub struct Recorded<'a> {
    /// A short name of the targets.
    pub label: &'a str,
    /// The frequency at first and at last, in Hz.
    pub frequencies_hz: (u32, u32),
    /// Each lowering of it, in the order of time.
    pub lowered: &'a [Lowered],
    /// Where every tick went.
    pub account: &'a Account,
    /// What it cost.
    pub cost: &'a Cost,
    /// Frames without a name or a line, and why.
    pub gaps: &'a Gaps,
}

/// The comments of a recording, in their order.
#[must_use]
pub fn comments_of(recorded: &Recorded<'_>) -> Vec<String> {
    let mut comments = vec![
        head(recorded),
        format!("#{TARGET_COMMENT}{}", recorded.label),
    ];
    let lowered = recorded.lowered.iter();
    comments.extend(lowered.map(|lowered| format!("#{lowered}")));
    let receipt = format!("{}{}", recorded.account, recorded.cost);
    comments.extend(receipt.lines().map(|line| format!("#{line}")));
    comments.extend(recorded.gaps.comments());
    comments
}

/// The line that heads reports of the profile.
fn head(recorded: &Recorded<'_>) -> String {
    let uname = rustix::system::uname();
    let hertz = match recorded.frequencies_hz {
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}..{last}"),
    };
    format!(
        "ebpfprof {} host={} kernel={} hz={hertz} kept={} lost={}",
        env!("CARGO_PKG_VERSION"),
        uname.nodename().to_string_lossy(),
        uname.release().to_string_lossy(),
        recorded.account.kept,
        recorded.account.lost(),
    )
}
