//! What is found of code at a time, and what it takes.

use std::time::Instant;

use proptest::prelude::*;

use super::*;

/// The text of an answer: a name, `-` for nothing, `?` when it cannot be told.
fn told(code: &CodeMap, address: u64, time_ns: u64, late: Late) -> String {
    match code.find(address, time_ns, late) {
        Found::Code(code) => String::from_utf8_lossy(code.name).into_owned(),
        Found::Nothing => "-".to_owned(),
        Found::Unsure => "?".to_owned(),
    }
}

#[track_caller]
fn check(code: &CodeMap, address: u64, time_ns: u64, expected: &str) {
    assert_eq!(told(code, address, time_ns, Late::Counts), expected);
}

fn add(code: &mut CodeMap, start: u64, bytes: u64, name: &str, appeared: (u64, u64)) {
    let appeared = Appeared::between(appeared.0, appeared.1);
    code.insert(
        start..start.saturating_add(bytes),
        name.as_bytes(),
        appeared,
        None,
    );
}

#[test]
fn a_later_entry_wins_from_when_it_appeared() {
    let mut code = CodeMap::default();
    add(&mut code, 100, 50, "old", (0, 10));
    add(&mut code, 120, 10, "new", (200, 300));
    for (address, time_ns, expected) in [
        (119, 400, "old"),
        (120, 400, "new"),
        (129, 400, "new"),
        (130, 400, "old"),
        (149, 400, "old"),
        (150, 400, "-"),
        (120, 300, "new"),
        (120, 200, "old"),
        (120, 100, "old"),
        // Between: either may have been there.
        (120, 250, "?"),
        (119, 250, "old"),
    ] {
        check(&code, address, time_ns, expected);
    }
}

#[test]
fn what_replaces_its_like_is_never_in_doubt() {
    let mut code = CodeMap::default();
    add(&mut code, 100, 50, "f", (0, 10));
    add(&mut code, 100, 40, "f", (200, 300));
    check(&code, 120, 250, "f");
}

#[test]
fn an_exact_time_leaves_no_doubt() {
    let mut code = CodeMap::default();
    for (name, at) in [("one", 100), ("two", 200), ("three", 300)] {
        code.insert(16..32, name.as_bytes(), Appeared::at(at), None);
    }
    for (time_ns, expected) in [(199, "one"), (200, "two"), (299, "two"), (300, "three")] {
        check(&code, 20, time_ns, expected);
    }
}

#[test]
fn what_is_told_late_counts_only_if_nothing_was_told_before() {
    let mut code = CodeMap::default();
    add(&mut code, 100, 50, "late", (500, 600));
    check(&code, 100, 50, "late");
    assert_eq!(told(&code, 100, 50, Late::No), "-");
    assert_eq!(told(&code, 100, 600, Late::No), "late");
}

#[test]
fn code_that_moved_is_at_its_new_place_from_then_on() {
    let mut code = CodeMap::default();
    let mut lines = Lines::default();
    lines.add(0, 7, b"/x.js");
    code.insert(0x100..0x110, b"f", Appeared::at(100), Some(lines.sorted()));
    code.shift(0x100, 0x200, 0x10, Appeared::at(200));
    for (address, time_ns, expected) in [
        (0x105, 150, "f"),
        (0x105, 250, "-"),
        (0x205, 250, "f"),
        (0x20f, 250, "f"),
        (0x210, 250, "-"),
    ] {
        check(&code, address, time_ns, expected);
    }
    let Found::Code(moved) = code.find(0x205, 250, Late::No) else {
        panic!("it is there");
    };
    assert_eq!(moved.origin, 0x200);
    assert_eq!(moved.lines.unwrap().find(5), Some(("/x.js", 7)));
    code.shift(0x999, 0x100, 16, Appeared::at(300));
    check(&code, 0x105, 400, "-");
}

#[test]
fn a_map_written_anew_ends_what_it_does_not_tell_again() {
    let mut code = CodeMap::default();
    add(&mut code, 100, 10, "stays", (0, 10));
    add(&mut code, 200, 10, "goes", (0, 10));
    let mark = code.mark();
    add(&mut code, 100, 10, "stays", (500, 600));
    add(&mut code, 300, 10, "comes", (500, 600));
    code.end_before(mark, Appeared::between(500, 600));
    check(&code, 105, 550, "stays");
    check(&code, 205, 400, "goes");
    check(&code, 205, 700, "-");
    check(&code, 305, 700, "comes");
}

#[test]
fn the_whole_address_space_may_be_code() {
    let mut code = CodeMap::default();
    add(&mut code, 100, 0, "empty", (0, 0));
    assert!(code.is_empty());
    add(&mut code, u64::MAX - 1, 1, "last", (0, 0));
    check(&code, u64::MAX - 1, 0, "last");
    add(&mut code, 0, u64::MAX, "all", (1, 1));
    check(&code, 77, 1, "all");
    assert_eq!(code.len(), 1);
}

#[test]
fn names_are_cut_at_their_limit() {
    let mut code = CodeMap::default();
    add(&mut code, 1, 1, &"x".repeat(2 * MOST_NAME_BYTES), (0, 0));
    assert_eq!(told(&code, 1, 1, Late::No).len(), MOST_NAME_BYTES);
}

#[test]
fn the_newest_half_stays_and_the_rest_is_counted() {
    let mut code = CodeMap::default();
    for number in 0..10_000 {
        add(&mut code, number * 16, 16, &format!("f{number}"), (0, 10));
    }
    let before = code.bytes();
    code.shed();
    assert_eq!((code.len() as u64) + code.left_out(), 10_000);
    assert!(
        code.bytes() < before * 6 / 10,
        "{} of {before}",
        code.bytes()
    );
    check(&code, 9_999 * 16, 20, "f9999");
    check(&code, 0, 20, "-");
    while !code.is_empty() {
        code.shed();
    }
    code.shed();
    assert_eq!(code.bytes(), 0);
}

#[test]
fn names_that_nobody_has_are_let_go() {
    let mut code = CodeMap::default();
    for number in 0..200_000_u64 {
        add(
            &mut code,
            16,
            16,
            &format!("a function of a long name {number}"),
            (number, number),
        );
        code.tidy();
    }
    assert!(code.bytes() < 6 << 20, "{}", code.bytes());
    check(&code, 20, 1 << 40, "a function of a long name 199999");
}

/// Ten million lines take seconds and the memory they may.
#[test]
fn ten_million_lines_stay_within_their_memory() {
    let count: u64 = if cfg!(debug_assertions) {
        300_000
    } else {
        10_000_000
    };
    let most = if cfg!(debug_assertions) {
        4 << 20
    } else {
        64 << 20
    };
    let (mut map, mut code) = (super::super::PerfMap::default(), CodeMap::default());
    let started = Instant::now();
    let (mut peak, mut bytes) = (0, 0);
    let mut text = Vec::new();
    for number in 0..count {
        use std::io::Write;
        let start = 0x7f00_0000_0000 + number * 64;
        writeln!(
            text,
            "{start:x} 40 JS:*function{number} /srv/app/module{}.js:10:5",
            number % 97
        )
        .unwrap();
        if text.len() > 64 << 10 || number + 1 == count {
            map.feed(&text, Appeared::at(1), &mut code);
            bytes += text.len();
            text.clear();
            while code.bytes() > most {
                code.shed();
            }
            peak = peak.max(code.bytes());
        }
    }
    let took = started.elapsed();
    log::info!("{count} lines, {bytes} bytes: {took:?}, {peak} bytes at most");
    assert!(peak <= most);
    assert!(took < std::time::Duration::from_secs(60), "{took:?}");
    assert_eq!(code.len() as u64 + code.left_out(), count);
    let last = 0x7f00_0000_0000 + (count - 1) * 64;
    assert!(told(&code, last, 2, Late::No).starts_with("JS:*function"));
}

proptest! {
    #[test]
    fn every_address_has_the_last_entry_that_was_there(
        entries in prop::collection::vec((0_u64..60, 1_u64..20, 0_usize..4), 1..40),
    ) {
        let mut code = CodeMap::default();
        for (number, (start, bytes, name)) in entries.iter().enumerate() {
            let at = Appeared::at(number as u64 * 10 + 10);
            code.insert(*start..start + bytes, [b"a" as &[u8], b"b", b"c", b"d"][*name], at, None);
        }
        for time in 0..entries.len() {
            for address in 0..80 {
                let seen = &entries[..=time];
                let there = |(start, bytes, _): &&(u64, u64, usize)| (*start..start + bytes).contains(&address);
                let expected = seen.iter().rev().find(there).map(|(_, _, name)| ["a", "b", "c", "d"][*name]);
                let time_ns = time as u64 * 10 + 15;
                prop_assert_eq!(told(&code, address, time_ns, Late::No), expected.unwrap_or("-"));
            }
        }
    }
}
