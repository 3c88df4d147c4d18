//! What holds for every profile: nothing is lost or made up on the way through merging, writing
//! and reading, and the order of events never shows.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read,
};

use ebpfprof::{
    export::{self, Format, proto},
    import,
    profile::{
        FrameKind, Function, LabelKey, LabelValue, Line, LocationId, Mapping, MappingKind, Moment,
        Profile, Thread, Values,
    },
};
use flate2::read::GzDecoder;
use proptest::{collection, prelude::*, sample::select};
use prost::Message;

const PERIOD: u64 = 10_101_010;

/// Where a location lies: kind, position in [`MAPPINGS`], address.
type Place = (FrameKind, Option<usize>, u64);

/// A line's texts (name, linker's name, file) and numbers (start line, line, column).
type LineSpec = ([String; 3], [u32; 3]);

/// An event: positions in the table of places, innermost first; comm; pid; cpu; count.
type Event = (Vec<usize>, String, i64, i64, u64);

/// Whether a profile has the times of its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Times {
    Kept,
    LeftOut,
}

/// A profile as a value.
#[derive(Clone, Debug)]
struct Spec {
    times: Times,
    places: Vec<(Place, Vec<LineSpec>)>,
    events: Vec<Event>,
    shown: Vec<LabelKey>,
}

const MAPPINGS: [(MappingKind, &str); 5] = [
    (MappingKind::Object, "/usr/lib/libc.so.6 (deleted)"),
    (MappingKind::Kernel, "[kernel.kallsyms]"),
    (MappingKind::Main, "/usr/bin/server"),
    (MappingKind::Object, "[vdso]"),
    (MappingKind::Object, ""),
];

fn text() -> impl Strategy<Value = String> {
    // What formats take for their own: separators, control characters, numbers, suffixes.
    let piece = select(vec![
        "a", "b", "B::c", ";", " ", "\n", "\0", "\t", "7", "_[k]", "<&>", "é", "#", "\u{ffff}",
    ]);
    collection::vec(piece, 0..4).prop_map(|pieces| pieces.concat())
}

fn line() -> impl Strategy<Value = LineSpec> {
    ([text(), text(), text()], [0..3_u32, 0..3_u32, 0..3_u32])
}

fn place() -> impl Strategy<Value = Place> {
    let code = (
        select(vec![FrameKind::User, FrameKind::Kernel, FrameKind::Jit]),
        proptest::option::of(0..MAPPINGS.len()),
        0x1000..0x1004_u64,
    );
    prop_oneof![9 => code, 1 => Just((FrameKind::Marker, None, 0))]
}

fn event() -> impl Strategy<Value = Event> {
    let count = prop_oneof![1 => Just(0), 9 => 1..20_u64];
    (
        collection::vec(0..64_usize, 0..6),
        text(),
        0..3_i64,
        0..2_i64,
        count,
    )
}

fn spec() -> impl Strategy<Value = Spec> {
    (
        collection::btree_map(place(), collection::vec(line(), 0..3), 1..8),
        collection::vec(event(), 0..12),
        proptest::sample::subsequence(LabelKey::ALL.to_vec(), 0..=LabelKey::ALL.len()),
        select(vec![Times::Kept, Times::LeftOut]),
    )
        .prop_map(|(places, mut events, shown, times)| {
            for (stack, ..) in &mut events {
                for place in stack {
                    *place %= places.len();
                }
            }
            Spec {
                times,
                places: places.into_iter().collect(),
                events,
                shown,
            }
        })
}

fn add_place(profile: &mut Profile, (place, lines): &(Place, Vec<LineSpec>)) -> LocationId {
    let (kind, mapping, address) = *place;
    if kind == FrameKind::Marker {
        return profile.marker("[cut]");
    }
    let mapping = mapping.map(|at| {
        let (kind, path) = MAPPINGS[at];
        let mapping = Mapping {
            kind,
            start: 0x1000,
            limit: 0x2000,
            file_offset: 0x1000 * at as u64,
            path: profile.string(path),
            build_id: profile.string("beef"),
        };
        profile.mapping(mapping)
    });
    let id = profile.location(kind, mapping, address);
    let lines = lines
        .iter()
        .map(|([name, system_name, file], [start_line, line, column])| {
            let function = Function {
                name: profile.string(name),
                system_name: profile.string(system_name),
                file: profile.string(file),
                start_line: *start_line,
            };
            Line {
                function: profile.function(function),
                line: *line,
                column: *column,
            }
        })
        .collect();
    profile.set_lines(id, lines);
    id
}

/// The profile of a spec, with its places and events added in the order of these keys.
fn build_in_order(spec: &Spec, order: impl Fn(usize) -> usize) -> Profile {
    let mut profile = Profile::cpu(PERIOD);
    profile.shown_labels = spec.shown.clone();
    profile.time_ns = 1_700_000_000_000_000_000;
    profile.duration_ns = 1_000_000_000;
    if spec.times == Times::Kept {
        profile.keep_times();
    }
    let mut at: Vec<usize> = (0..spec.places.len()).collect();
    at.sort_by_key(|at| order(*at));
    let ids: BTreeMap<usize, LocationId> = at
        .into_iter()
        .map(|at| (at, add_place(&mut profile, &spec.places[at])))
        .collect();
    let mut at: Vec<usize> = (0..spec.events.len()).collect();
    at.sort_by_key(|at| order(*at));
    for at in at {
        let (stack, comm, pid, cpu, count) = &spec.events[at];
        let stack: Vec<_> = stack.iter().map(|place| ids[place]).collect();
        let labels = vec![
            (
                LabelKey::Cpu,
                LabelValue::Number(*cpu, profile.string("cpu")),
            ),
            (LabelKey::Comm, LabelValue::Text(profile.string(comm))),
            // Without a unit, as a recording would never have it.
            (LabelKey::Pid, LabelValue::Number(*pid, profile.string(""))),
        ];
        profile.add(&stack, &labels, *count);
        for number in 0..*count {
            note(
                &mut profile,
                &stack,
                (at as u64 * 7 + number) % 50,
                &spec.events[at],
            );
        }
    }
    profile
}

/// Notes the time and thread of an event, of which some are the same.
fn note(profile: &mut Profile, stack: &[LocationId], time_ns: u64, event: &Event) {
    let (_, comm, pid, cpu, _) = event;
    let name = profile.string(comm);
    let thread = Thread {
        pid: *pid as u32,
        tid: *pid as u32 + *cpu as u32,
        name,
        process: if *cpu == 0 { name } else { profile.string("") },
    };
    profile.note_moment(Moment {
        time_ns,
        thread,
        stack,
        count: 1,
    });
}

fn build(spec: &Spec) -> Profile {
    build_in_order(spec, |at| at)
}

fn written(format: Format, profile: &Profile) -> Vec<u8> {
    let mut bytes = Vec::new();
    export::write(format, profile, &mut bytes).unwrap();
    bytes
}

fn decoded(bytes: &[u8]) -> proto::Profile {
    let mut message = Vec::new();
    GzDecoder::new(bytes).read_to_end(&mut message).unwrap();
    proto::Profile::decode(message.as_slice()).unwrap()
}

/// A frame as a reader sees it: mapping's path, address, and its lines.
type FrameView = (String, u64, Vec<LineSpec>);
/// Labels as a reader sees them: key, text, number, unit.
type LabelView = (String, String, i64, String);
/// The values of each distinct stack with labels.
type View = BTreeMap<(Vec<FrameView>, Vec<LabelView>), Vec<i64>>;

fn clean(text: &str) -> String {
    text.replace(|c: char| c.is_control() || c == '\u{ffff}', "")
}

fn expected_frame((place, lines): &(Place, Vec<LineSpec>)) -> FrameView {
    let (kind, mapping, address) = *place;
    let (path, file) = match mapping.map(|at| MAPPINGS[at].1) {
        Some("/usr/lib/libc.so.6 (deleted)") => ("/usr/lib/libc.so.6", "[libc.so.6]"),
        Some("/usr/bin/server") => ("/usr/bin/server", "[server]"),
        Some("") => ("[unknown]", "[unknown]"),
        Some(bracketed) => (bracketed, bracketed),
        None => ("", "[unknown]"),
    };
    let (path, stand_in) = match kind {
        FrameKind::User => (path, file),
        FrameKind::Kernel => (path, "[kernel]"),
        FrameKind::Jit => ("", "[jit]"),
        FrameKind::Marker => ("", "[cut]"),
    };
    let named = |name: &str| ([name.to_owned(), String::new(), String::new()], [0; 3]);
    if kind == FrameKind::Marker || lines.is_empty() {
        return (path.to_owned(), address, vec![named(stand_in)]);
    }
    let lines = lines
        .iter()
        .map(|(texts, numbers)| {
            let [mut name, mut system_name, file] = texts.each_ref().map(|text| clean(text));
            if name.trim().is_empty() {
                stand_in.clone_into(&mut name);
            }
            if system_name == name {
                system_name.clear();
            }
            ([name, system_name, file], *numbers)
        })
        .collect();
    (path.to_owned(), address, lines)
}

fn expected_view(spec: &Spec) -> View {
    let mut view = View::new();
    for (stack, comm, pid, cpu, count) in spec.events.iter().filter(|event| event.4 > 0) {
        let mut frames: Vec<FrameView> = stack
            .iter()
            .map(|place| expected_frame(&spec.places[*place]))
            .collect();
        if frames.is_empty() {
            frames.push(expected_frame(&((FrameKind::User, None, 0), Vec::new())));
        }
        let number = |key: &str, number| (key.to_owned(), String::new(), number, key.to_owned());
        let comm = clean(comm);
        let labels = [
            (
                LabelKey::Comm,
                ("comm".to_owned(), comm.clone(), 0, String::new()),
            ),
            (LabelKey::Pid, number("pid", *pid)),
            (LabelKey::Cpu, number("cpu", *cpu)),
        ]
        .into_iter()
        .filter(|(key, _)| spec.shown.contains(key))
        .filter(|(key, _)| *key != LabelKey::Comm || !comm.is_empty())
        .map(|(_, label)| label)
        .collect();
        let values = view.entry((frames, labels)).or_insert(vec![0, 0]);
        values[0] += *count as i64;
        values[1] += (*count * PERIOD) as i64;
    }
    view
}

fn view(profile: &proto::Profile) -> View {
    let text = |at: i64| profile.string_table[at as usize].clone();
    let frame = |id: &u64| {
        let location = &profile.location[*id as usize - 1];
        let path = match location.mapping_id {
            0 => String::new(),
            id => text(profile.mapping[id as usize - 1].filename),
        };
        let lines = location.line.iter().map(|line| {
            let function = &profile.function[line.function_id as usize - 1];
            (
                [function.name, function.system_name, function.filename].map(text),
                [function.start_line, line.line, line.column].map(|n| n as u32),
            )
        });
        (path, location.address, lines.collect())
    };
    let label = |l: &proto::Label| (text(l.key), text(l.str), l.num, text(l.num_unit));
    let samples = profile.sample.iter().map(|sample| {
        let stack = sample.location_id.iter().map(frame).collect();
        let labels = sample.label.iter().map(label).collect();
        ((stack, labels), sample.value.clone())
    });
    let view: View = samples.collect();
    assert_eq!(view.len(), profile.sample.len(), "two samples read alike");
    view
}

/// Checks what every reader relies on.
#[track_caller]
fn check_contract(profile: &proto::Profile) {
    let dense = |ids: Vec<u64>| ids.iter().copied().eq(1..=ids.len() as u64);
    assert!(dense(profile.mapping.iter().map(|m| m.id).collect()));
    assert!(dense(profile.location.iter().map(|l| l.id).collect()));
    assert!(dense(profile.function.iter().map(|f| f.id).collect()));
    assert_eq!(profile.string_table[0], "");
    let distinct: BTreeSet<&String> = profile.string_table.iter().collect();
    assert_eq!(distinct.len(), profile.string_table.len());
    assert!(!profile.string_table.concat().contains(['\n', '\0']));
    assert_eq!(profile.sample_type.len(), 2);
    assert_eq!(profile.period_type, Some(profile.sample_type[1]));
    assert_eq!(profile.default_sample_type, 0);
    assert!(!profile.mapping.is_empty());
    for mapping in &profile.mapping {
        assert!(mapping.has_functions && mapping.filename != 0);
    }
    for location in &profile.location {
        assert!(!location.line.is_empty());
    }
    for function in &profile.function {
        assert_ne!(function.name, 0);
        assert_ne!(function.name, function.system_name);
    }
    for sample in &profile.sample {
        assert!(!sample.location_id.is_empty());
        assert_eq!(sample.value.len(), 2);
        assert!(sample.value[0] > 0);
        for label in &sample.label {
            assert!((label.str == 0) != (label.num_unit == 0));
        }
    }
}

/// The events in each format that is JSON or text, by its own numbers.
fn totals(profile: &Profile) -> [(Format, u64); 5] {
    let period = match profile.values {
        Values::CountAndPeriod => profile.period,
        Values::CountAlone | Values::EventsAndWeight => 1,
    };
    let whole = |number: &serde_json::Value| {
        // Firefox wants weights that are times in milliseconds.
        let ns = || (number.as_f64().unwrap() * 1e6).round() as u64;
        number.as_u64().unwrap_or_else(ns)
    };
    let sum = |numbers: &serde_json::Value| -> u64 {
        numbers.as_array().unwrap().iter().map(whole).sum()
    };
    let speedscope: serde_json::Value =
        serde_json::from_slice(&written(Format::Speedscope, profile)).unwrap();
    let profiles = speedscope["profiles"].as_array().unwrap();
    for profile in profiles {
        assert_eq!(
            sum(&profile["weights"]),
            profile["endValue"].as_u64().unwrap()
        );
    }
    let speedscope: u64 = profiles.iter().map(|one| sum(&one["weights"])).sum();
    let firefox = written(Format::Firefox, profile);
    let firefox: serde_json::Value =
        serde_json::from_reader(GzDecoder::new(firefox.as_slice())).unwrap();
    let threads = firefox["threads"].as_array().unwrap();
    let firefox: u64 = threads
        .iter()
        .map(|one| sum(&one["samples"]["weight"]))
        .sum();
    let page = String::from_utf8(written(Format::Html, profile)).unwrap();
    let (_, data) = page.split_once("id=\"data\">").unwrap();
    let data: serde_json::Value =
        serde_json::from_str(data.split_once("</script>").unwrap().0).unwrap();
    let groups = data["groups"].as_array().unwrap().iter();
    let nodes = groups.flat_map(|group| group["tree"].as_array().unwrap().chunks(3));
    let html = nodes.map(|node| node[2].as_u64().unwrap()).sum();
    let top = String::from_utf8(written(Format::Top, profile)).unwrap();
    let own = |line: &str| line.split_whitespace().next()?.parse::<u64>().ok();
    [
        (
            Format::Folded,
            folded_total(&written(Format::Folded, profile)),
        ),
        (Format::Speedscope, speedscope / period),
        (Format::Firefox, firefox),
        (Format::Html, html),
        (Format::Top, top.lines().filter_map(own).sum()),
    ]
}

/// The profile in what was written of it.
fn read(format: Format, mut bytes: &[u8]) -> Profile {
    import::read(format, &import::Settings::default(), &mut bytes).unwrap()
}

/// The sum of what folded lines count.
fn folded_total(bytes: &[u8]) -> u64 {
    std::str::from_utf8(bytes)
        .unwrap()
        .lines()
        .map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap())
        .sum()
}

/// Two events of one stack and one of another, with times; the last after the period had changed.
fn with_two_periods() -> Profile {
    let mut profile = Profile::cpu(10);
    profile.keep_times();
    let stacks = ["[one]", "[two]"].map(|words| [profile.marker(words)]);
    let name = profile.string("worker");
    for (time_ns, period, stack) in [(1, 10, 0), (2, 10, 1), (3, 20, 0)] {
        if period != profile.period {
            profile.change_period(period);
        }
        let count = profile.count_of_event(period);
        profile.add_event(&stacks[stack], &[], count);
        profile.note_moment(Moment {
            time_ns,
            thread: Thread {
                pid: 1,
                tid: 1,
                name,
                process: name,
            },
            stack: &stacks[stack],
            count,
        });
    }
    profile
}

#[test]
fn events_of_two_periods_are_counted_and_weighed() {
    let profile = with_two_periods();
    let mut twice = profile.clone();
    twice.merge(&profile);
    for (profile, times) in [(profile, 1), (twice, 2)] {
        assert_eq!(profile.total(), times * 40);
        let pprof = decoded(&written(Format::Pprof, &profile));
        let text = |index: i64| pprof.string_table[index as usize].as_str();
        let types = pprof.sample_type.iter();
        let types: Vec<[&str; 2]> = types.map(|of| [text(of.r#type), text(of.unit)]).collect();
        assert_eq!(types, [["samples", "count"], ["cpu", "nanoseconds"]]);
        assert_eq!(pprof.period, 20);
        let values = pprof.sample.iter().map(|sample| sample.value.clone());
        let times = times as i64;
        let expected = [[times, times * 10], [times * 2, times * 30]];
        assert_eq!(
            values.collect::<BTreeSet<_>>(),
            expected.map(Vec::from).into()
        );
    }
}

#[test]
fn every_format_shows_what_events_weigh() {
    let mut untimed = with_two_periods();
    untimed.merge(&Profile::cpu(20));
    assert!(untimed.timeline().is_none());
    for profile in [with_two_periods(), untimed] {
        for (format, total) in totals(&profile) {
            assert_eq!(total, profile.total(), "{format:?}");
        }
    }
}

proptest! {
    #[test]
    fn decoding_after_encoding_is_identity(spec in spec()) {
        let message = decoded(&written(Format::Pprof, &build(&spec)));
        check_contract(&message);
        prop_assert_eq!(view(&message), expected_view(&spec));
    }

    #[test]
    fn merging_commutes(a in spec(), b in spec()) {
        let mut ab = build(&a);
        ab.merge(&build(&b));
        let mut ba = build(&b);
        ba.merge(&build(&a));
        prop_assert_eq!(ab.total(), build(&a).total() + build(&b).total());
        for format in Format::ALL {
            prop_assert_eq!(written(format, &ab), written(format, &ba));
        }
    }

    #[test]
    fn merging_associates(a in spec(), b in spec(), c in spec()) {
        let mut left = build(&a);
        left.merge(&build(&b));
        left.merge(&build(&c));
        let mut tail = build(&b);
        tail.merge(&build(&c));
        let mut right = build(&a);
        right.merge(&tail);
        for format in Format::ALL {
            prop_assert_eq!(written(format, &left), written(format, &right));
        }
    }

    #[test]
    fn every_format_keeps_the_sum(spec in spec()) {
        let profile = build(&spec);
        let total = profile.total();
        let pprof = decoded(&written(Format::Pprof, &profile));
        let sums = [0, 1].map(|at| pprof.sample.iter().map(|s| s.value[at] as u64).sum::<u64>());
        prop_assert_eq!(sums, [total, total * PERIOD]);
        for (format, sum) in totals(&profile) {
            prop_assert_eq!(sum, total, "{}", format);
        }
        if let Some(timeline) = profile.timeline() {
            prop_assert_eq!(timeline.len() as u64, total);
        }
        let svg = String::from_utf8(written(Format::FlameGraph, &profile)).unwrap();
        let expected = match total {
            0 => ">no samples<".to_owned(),
            _ => format!("total_samples=\"{total}\""),
        };
        prop_assert!(svg.contains(&expected));
    }

    #[test]
    fn what_is_read_is_written_again_as_it_was(spec in spec()) {
        let profile = build(&spec);
        for format in import::READABLE {
            let bytes = written(format, &profile);
            let read = read(format, &bytes);
            prop_assert_eq!(written(format, &read), bytes, "{}", format);
            prop_assert_eq!(read.total(), profile.total());
            let pprof = written(Format::Pprof, &read);
            prop_assert_eq!(written(Format::Pprof, &self::read(Format::Pprof, &pprof)), pprof);
        }
    }

    #[test]
    fn what_is_read_has_the_same_sum_in_every_format(spec in spec()) {
        let profile = build(&spec);
        for from in import::READABLE {
            let read = read(from, &written(from, &profile));
            for (format, sum) in totals(&read) {
                prop_assert_eq!(sum, profile.total(), "{} to {}", from, format);
            }
            let pprof = decoded(&written(Format::Pprof, &read));
            let sum: i64 = pprof.sample.iter().map(|sample| sample.value[0]).sum();
            prop_assert_eq!(sum as u64, profile.total());
        }
    }

    #[test]
    fn what_was_read_merges_as_what_was_recorded(a in spec(), b in spec()) {
        let [a, b] = [a, b].map(|spec| read(Format::Pprof, &written(Format::Pprof, &build(&spec))));
        let mut ab = a.clone();
        ab.merge(&b);
        let mut ba = b.clone();
        ba.merge(&a);
        prop_assert_eq!(ab.total(), a.total() + b.total());
        for format in Format::ALL {
            prop_assert_eq!(written(format, &ab), written(format, &ba));
        }
    }

    #[test]
    fn the_order_of_events_does_not_show(spec in spec(), seed in 1..1000_usize) {
        let profile = build(&spec);
        let shuffled = build_in_order(&spec, |at| (at + 1) * 7919 * seed % 1009);
        for format in Format::ALL {
            prop_assert_eq!(written(format, &profile), written(format, &shuffled));
        }
    }

    #[test]
    fn folded_lines_are_sorted_and_unlike(spec in spec()) {
        let text = String::from_utf8(written(Format::Folded, &build(&spec))).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let stacks: Vec<&str> = lines.iter().map(|l| l.rsplit_once(' ').unwrap().0).collect();
        prop_assert!(stacks.is_sorted_by(|a, b| a < b));
    }
}
