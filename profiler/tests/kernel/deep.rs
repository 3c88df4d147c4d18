//! Deep stacks, by both walkers.

use crate::{
    fixture::Fixture,
    folded::{Folded, Stack},
    host::walkers,
    recording::record,
    turn,
};

/// Most user frames that are kept of one stack.
const MOST_FRAMES: usize = 512;

fn levels(stack: &Stack) -> usize {
    stack
        .frames
        .iter()
        .filter(|frame| *frame == "descend")
        .count()
}

/// User frames that were walked: without the one that tells why a stack is cut, and those that are
/// inlined in another.
fn user_frames(stack: &Stack) -> usize {
    let user = stack.user().iter();
    user.filter(|frame| !frame.starts_with("[cut: ") && !frame.ends_with("_[i]"))
        .count()
}

#[track_caller]
fn profile(depth: &str, walker: &str) -> Folded {
    let fixture = Fixture::start_with("deep", &["inf", depth]);
    let recorded = record(
        499,
        1.0,
        &["--pid", &fixture.pid_text(), "--walker", walker],
    );
    let too_deep = recorded
        .receipt
        .cut_by_reason
        .iter()
        .find(|(reason, _)| reason == "too deep");
    let kept = recorded.receipt.kept;
    assert!(kept > 50, "{kept} samples");
    let expected = if depth == "300" { None } else { Some(kept) };
    assert_eq!(
        too_deep.map(|(_, count)| *count),
        expected,
        "{:?}",
        recorded.receipt
    );
    recorded.folded
}

#[test]
fn three_hundred_frames_are_all_there() {
    let _turn = turn();
    for walker in walkers() {
        let folded = profile("300", walker);
        folded.check_percent("the depth", 100.0, 0.0, |stack| levels(stack) == 300);
        let whole = |stack: &Stack| stack.calls(&["main", "descend"]) && stack.has("bottom");
        // A tick in the clock's code, which keeps no frame pointer, misses its caller.
        folded.check_percent("main and bottom", 99.0, 1.0, whole);
    }
}

#[test]
fn a_deeper_stack_keeps_its_innermost_frames_and_says_that_it_is_cut() {
    let _turn = turn();
    for walker in walkers() {
        let folded = profile("700", walker);
        let frames = |stack: &Stack| user_frames(stack) == MOST_FRAMES;
        folded.check_percent("the most frames", 100.0, 0.0, frames);
        let marked = |stack: &Stack| stack.frames[0] == "[cut: too deep]" && !stack.has("main");
        folded.check_percent("the mark", 100.0, 0.0, marked);
        folded.check_percent("the bottom", 99.0, 1.0, |stack| stack.has("bottom"));
    }
}
