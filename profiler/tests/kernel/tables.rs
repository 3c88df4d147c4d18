//! Table memory: what is too large for it costs its own stacks, and what another program leaves
//! behind is used no more.

use std::path::Path;

use crate::{
    fixture::{self, Fixture},
    folded::{Stack, percent},
    recording::{Recorded, Recording, record},
    turn,
};

/// A compiler at work, whose own library has a table of more than 4 MiB.
#[track_caller]
fn record_compiler(memory: &str) -> Recorded {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/tree.rs");
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("tree");
    Recording::new(499, None)
        .args(&["--no-inlines", "--max-table-memory", memory, "--"])
        .args(&["rustc", "--edition=2024", "-O", "-o"])
        .args(&[out.to_str().unwrap(), source.to_str().unwrap()])
        .record()
}

#[test]
fn a_table_that_finds_no_room_cuts_its_own_stacks_and_says_so() {
    let _turn = turn();
    let cut_for_room = |recorded: &Recorded| {
        let reasons = &recorded.receipt.cut_by_reason;
        let found = reasons
            .iter()
            .find(|(reason, _)| reason == "table memory full");
        percent(found.map_or(0, |(_, count)| *count), recorded.receipt.kept)
    };
    let small = record_compiler("4MiB");
    let share = cut_for_room(&small);
    assert!(share >= 30.0, "{share:.1} %: {:?}", small.receipt);
    let says = |stack: &Stack| stack.has("[cut: table memory full]");
    let shown = small.folded.percent(says);
    assert!((shown - share).abs() < 0.1, "{shown:.1} % of {share:.1} %");
    let large = record_compiler("64MiB");
    assert_eq!(cut_for_room(&large), 0.0, "{:?}", large.receipt);
    // Until the table is made, stacks deeper than the part of them that comes along are cut.
    let whole = percent(large.receipt.complete, large.receipt.kept);
    assert!(whole >= 25.0, "{whole:.1} %: {:?}", large.receipt);
}

#[test]
fn a_library_that_took_the_place_of_another_is_never_taken_for_it() {
    let _turn = turn();
    let fixture = Fixture::start("bare/plugins");
    let pid = fixture.pid_text();
    let folded = record(3999, 3.0, &["--pid", &pid]).folded;
    // Each library's functions call their own alone.
    let mixed = |stack: &Stack| {
        let has = |names: &[&str]| names.iter().any(|name| stack.has(name));
        has(&["one_enter", "one_burn"]) && has(&["two_enter", "two_middle", "two_burn"])
    };
    folded.check_percent("mixed stacks", 0.0, 0.0, mixed);
    for (library, chain) in [
        ("libone.so", &["load_loop", "one_enter", "one_burn"][..]),
        (
            "libtwo.so",
            &["load_loop", "two_enter", "two_middle", "two_burn"],
        ),
    ] {
        let share = folded.percent(|stack| stack.calls(chain));
        assert!(share >= 20.0, "{library} {share:.1} %:\n{}", folded.text());
    }
}

#[test]
fn a_program_that_executes_another_is_each_at_its_time() {
    let _turn = turn();
    let fixture = Fixture::start("bare/ping");
    let pid = fixture.pid_text();
    let folded = record(3999, 3.0, &["--pid", &pid]).folded;
    for (one, other) in [("ping", "pong"), ("pong", "ping")] {
        let functions = ["outer", "middle", "inner"].map(|part| format!("{other}_{part}"));
        let wrong = |stack: &Stack| {
            stack.comm == one && functions.iter().any(|function| stack.has(function))
        };
        // The name changes a moment before the program does.
        folded.check_percent("the other program's functions", 0.0, 0.5, wrong);
        let inner = format!("{one}_inner");
        let share = folded.percent(|stack| stack.has(&inner));
        assert!(share >= 20.0, "{inner} {share:.1} %:\n{}", folded.text());
    }
    assert!(fixture::path("bare/pong").exists());
}
