//! The form of the comments: they are read back to what they were made of.

use proptest::{prelude::*, sample::select};

use super::*;

fn text() -> impl Strategy<Value = String> {
    // What the form itself is made of, and what would break a line.
    let piece = prop_oneof![
        "[ -~]{0,12}",
        ".{0,6}",
        select(vec![
            ": ",
            ", build id ",
            "\n",
            "\t",
            " (",
            ")",
            "frames",
            "é",
            "\u{ffff}"
        ])
        .prop_map(str::to_owned),
    ];
    prop::collection::vec(piece, 0..4).prop_map(|pieces| pieces.concat())
}

fn place_for(cause: &Reason) -> BoxedStrategy<Place> {
    match cause {
        Reason::Made(..) => (any::<u32>(), text())
            .prop_map(|(pid, comm)| Place::process(Pid(pid), &comm))
            .boxed(),
        Reason::NoMapping => text().prop_map(|comm| Place::threads(&comm)).boxed(),
        _ => text().prop_map(|path| Place::object(&path)).boxed(),
    }
}

fn unnamed() -> impl Strategy<Value = Unnamed> {
    let cause = (0_u32..=i32::MAX.unsigned_abs())
        .prop_flat_map(|number| select(Reason::every(number).collect::<Vec<_>>()));
    let placed = cause.prop_flat_map(|cause| (Just(cause), place_for(&cause)));
    let counts = (0_u64..1 << 40, 0_u64..1 << 40);
    (counts, placed, prop::option::of("[0-9a-f]{1,40}")).prop_map(
        |((frames, samples), (cause, place), build_id)| Entry {
            frames,
            samples,
            cause,
            build_id,
            place,
        },
    )
}

fn table() -> impl Strategy<Value = Table<Reason>> {
    prop::collection::vec(unnamed(), 0..300).prop_map(|entries| {
        let counts = entries.into_iter().map(|it| {
            let key = (it.cause, it.place, it.build_id);
            (key, (it.frames, it.samples))
        });
        Table::of(counts.collect(), 1 << 50)
    })
}

proptest! {
    #[test]
    fn a_comment_is_read_back_to_what_it_was_made_of(entry in unnamed()) {
        let comment = entry.to_string();
        prop_assert!(!comment.contains(char::is_control), "{}", comment);
        prop_assert_eq!(comment.parse::<Unnamed>(), Ok(entry));
    }

    #[test]
    fn what_is_read_is_written_the_same(comment in "#unnamed [0-9+]{1,3} frames in [0-9]{1,2} samples: (stripped of all symbols|it is no regular file)(, build id [0-9a-fA-F]{0,2})?: [ -~]{0,9}") {
        if let Ok(entry) = comment.parse::<Unnamed>() {
            prop_assert_eq!(entry.to_string(), comment);
        }
    }

    #[test]
    fn any_text_is_read_or_refused(comment in text()) {
        let _ = format!("#unnamed {comment}").parse::<Unnamed>();
        let _ = Gaps::of_comments([comment.as_str()].into_iter());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_table_is_read_back_from_its_comments(table in table()) {
        let comments = table.comments();
        prop_assert!(comments.len() <= MOST_UNNAMED + 2);
        let read = Table::of_comments(comments.iter().map(String::as_str));
        prop_assert_eq!(read, Some(table));
    }
}

#[test]
fn no_two_causes_have_the_same_words() {
    let mut words: Vec<String> = Reason::every(7).map(|reason| reason.to_string()).collect();
    let all = words.len();
    assert!(words.iter().all(|words| !words.contains(':')), "{words:?}");
    words.sort();
    words.dedup();
    assert_eq!(words.len(), all);
    for why in NoLines::ALL {
        assert_eq!(NoLines::of_words(&why.to_string()), Some(why));
    }
}

#[track_caller]
fn check(comment: &str, expected: Option<&Unnamed>) {
    let read = comment.parse::<Unnamed>().ok();
    assert_eq!(read.as_ref(), expected, "{comment}");
}

#[test]
fn the_form_is_as_documented() {
    let stripped = Entry {
        frames: 80,
        samples: 60,
        cause: Reason::Stripped(LeftSymbols::Exported, DebugLink::Absent),
        build_id: Some("12ab".to_owned()),
        place: Place::object("/usr/lib/libfoo.so.1"),
    };
    check(
        "#unnamed 80 frames in 60 samples: stripped, with exported symbols left, build id 12ab: /usr/lib/libfoo.so.1",
        Some(&stripped),
    );
    let made = Entry {
        frames: 28,
        samples: 9,
        cause: Reason::Made(crate::jit::Runtime::Java, crate::jit::JitReason::NoMap),
        build_id: None,
        place: Place::process(Pid(1234), "java"),
    };
    check(
        "#unnamed 28 frames in 9 samples: code made at run time by Java, which wrote no perf map: process 1234 (java)",
        Some(&made),
    );
    check("#unnamed 120 of 5000 frames", None);
    check("#unnamed 1 frames in 1 samples: bad luck: /bin/sh", None);
    check(
        "#lineless 1 frames in 1 samples: no debug information: /bin/sh",
        None,
    );
}

#[test]
fn what_there_is_no_room_for_is_counted() {
    let entry = |number: u64| {
        let place = Place::object(&format!("/{number}"));
        ((NoLines::NoDebugInfo, place, None), (number, 1))
    };
    let table = Table::of((1..=30).map(entry).collect(), 1000);
    assert_eq!(table.entries.len(), MOST_LINELESS);
    assert_eq!((table.more_places, table.more_frames), (10, 55));
    assert_eq!(table.frames(), 465);
    let comments = table.comments();
    assert_eq!(comments[0], "#lineless 465 of 1000 frames");
    assert_eq!(comments[21], "#lineless 55 frames more, in 10 other places");
}

#[test]
fn tables_of_two_profiles_are_one() {
    let comments = [
        "#unnamed 5 of 10 frames",
        "#unnamed 5 frames in 4 samples: the kernel hides its names: [kernel.kallsyms]",
        "#unnamed 8 of 90 frames",
        "#unnamed 7 frames in 2 samples: the kernel hides its names: [kernel.kallsyms]",
        "#unnamed 1 frames more, in 1 other places",
        "something else",
    ];
    let table = Table::<Reason>::of_comments(comments.into_iter()).unwrap();
    assert_eq!((table.frames(), table.of_frames), (13, 100));
    assert_eq!(table.entries.len(), 1);
    assert_eq!(Table::<Reason>::of_comments(["#unnamed"].into_iter()), None);
}

#[test]
fn each_cause_has_advice_that_can_be_pasted() {
    for cause in Reason::every(13) {
        let place = match cause {
            Reason::Made(..) => Place::process(Pid(7), "java"),
            Reason::NoMapping => Place::threads("java"),
            _ => Place::object("/opt/it's here/$(x)"),
        };
        for build_id in [None, Some("1234".to_owned())] {
            let entry = Entry {
                frames: 1,
                samples: 1,
                cause,
                build_id,
                place: place.clone(),
            };
            let advice = entry.advice().join("\n");
            assert!(advice.len() > 15, "{cause}: {advice}");
            let quoted = advice.replace("'/opt/it'\\''s here/$(x)'", "");
            assert!(!quoted.contains("$("), "{cause}: {advice}");
        }
    }
}
