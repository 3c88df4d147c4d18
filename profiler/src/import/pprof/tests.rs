//! What is read of pprof files that others wrote, and what is refused.

use std::io::Write;

use flate2::{Compression, write::GzEncoder};
use prost::Message;

use super::*;
use crate::{
    error::Explain,
    export::{self, Format},
    import::SampleIndex,
    profile::Values,
};

/// A message with a heap's values: one sample of 3 objects and 4096 bytes in `main` of `/bin/app`.
fn heap() -> proto::Profile {
    let texts = [
        "",
        "objects",
        "count",
        "space",
        "bytes",
        "main",
        "/bin/app",
        "handler",
        "/burn",
        "time",
        "nanoseconds",
        "_ZN3app4workEv",
    ];
    let value_type = |r#type, unit| proto::ValueType { r#type, unit };
    proto::Profile {
        sample_type: vec![value_type(1, 2), value_type(3, 4)],
        sample: vec![proto::Sample {
            location_id: vec![7],
            value: vec![3, 4096],
            label: Vec::new(),
        }],
        mapping: vec![proto::Mapping {
            id: 9,
            memory_start: 0x1000,
            memory_limit: 0x9000,
            filename: 6,
            ..Default::default()
        }],
        location: vec![proto::Location {
            id: 7,
            mapping_id: 9,
            address: 0x1234,
            line: vec![proto::Line {
                function_id: 8,
                line: 5,
                column: 0,
            }],
            is_folded: false,
        }],
        function: vec![proto::Function {
            id: 8,
            name: 5,
            system_name: 5,
            filename: 0,
            start_line: 0,
        }],
        string_table: texts.map(str::to_owned).to_vec(),
        time_nanos: 1,
        period_type: Some(value_type(3, 4)),
        period: 524_288,
        ..Default::default()
    }
}

fn read_bytes(bytes: &[u8], asked: Option<SampleIndex>) -> Result<Profile, ImportError> {
    let settings = Settings {
        sample_index: asked,
        most_bytes: 1 << 20,
    };
    read(&settings, &mut { bytes })
}

fn read_message(message: &proto::Profile) -> Result<Profile, ImportError> {
    read_bytes(&message.encode_to_vec(), None)
}

fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

/// Checks the error for these bytes: its words and its reason hold `expected`.
#[track_caller]
fn check_bytes(bytes: &[u8], expected: &str) {
    let error = read_bytes(bytes, None).expect_err(expected);
    let words = format!("{error}: {}", error.why());
    assert!(words.contains(expected), "{words}");
    assert!(!error.advice().is_empty());
}

#[track_caller]
fn check(break_it: impl Fn(&mut proto::Profile), expected: &str) {
    let mut message = heap();
    break_it(&mut message);
    check_bytes(&message.encode_to_vec(), expected);
}

#[test]
fn what_a_part_says_of_another_must_be_there() {
    check(
        |m| m.sample[0].location_id[0] = 6,
        "a sample names location 6",
    );
    check(
        |m| m.location[0].line[0].function_id = 0,
        "location 7 names function 0",
    );
    check(
        |m| m.location.push(m.location[0].clone()),
        "two locations have the id 7",
    );
    check(
        |m| m.function.push(m.function[0]),
        "two functions have the id 8",
    );
    check(
        |m| m.mapping.push(m.mapping[0]),
        "two mappings have the id 9",
    );
    check(|m| m.location[0].id = 0, "a location has the id 0");
    check(|m| m.function[0].name = 12, "it names text 12, and has 12");
    check(|m| m.function[0].filename = -1, "it names text -1");
    check(|m| m.comment.push(99), "it names text 99");
    check(
        |m| m.sample_type[0].unit = i64::MAX,
        "it names text 9223372036854775807",
    );
    check(
        |m| m.string_table[0].push('x'),
        "its first text is not the empty one",
    );
    check(
        |m| m.sample[0].value.push(1),
        "sample 1 has 3 values, and there are 2 types",
    );
    check(|m| m.sample[0].value.clear(), "sample 1 has 0 values");
    check(|m| m.sample_type.clear(), "it has no sample type");
}

#[test]
fn what_pprof_overlooks_is_overlooked() {
    let mut message = heap();
    message.location[0].mapping_id = 1;
    message.location[0].line[0].line = -1;
    message.function[0].start_line = i64::MAX;
    message.time_nanos = -1;
    let profile = read_message(&message).unwrap();
    assert_eq!((profile.total(), profile.time_ns), (4096, 0));
    let location = &profile.locations()[0];
    assert_eq!((location.mapping, location.lines[0].line), (None, 0));
}

#[test]
fn what_is_no_pprof_file_is_refused() {
    check_bytes(b"", "it is empty");
    check_bytes(
        b"heap profile: 32: 1704544 [1: 2] @ heap/1048576",
        "it is a text",
    );
    check_bytes(b"<!doctype html><title>404</title>", "it is a text");
    check_bytes(&[0x0a, 0xff], "it is no pprof file");
    check_bytes(&[0xff; 20], "it is no pprof file");
    check_bytes(&[0x0b, 0x0c], "it has groups");
    check_bytes(&[0x32, 0x00, 0x48], "it is no pprof file");
    check_bytes(&[0x08, 0x01], "a field is not what pprof's is");
    let whole = heap().encode_to_vec();
    for length in 1..whole.len() {
        // Whatever comes of it, nothing panics.
        let _ = read_bytes(&whole[..length], None);
    }
    let gzip = packed(&whole);
    for length in 2..gzip.len() {
        check_bytes(&gzip[..length], "cannot unpack the profile");
    }
}

#[test]
fn bytes_are_read_packed_or_not_but_only_one_profile() {
    let bytes = heap().encode_to_vec();
    assert_eq!(read_bytes(&bytes, None).unwrap().total(), 4096);
    assert_eq!(read_bytes(&packed(&bytes), None).unwrap().total(), 4096);
    check_bytes(
        &[packed(&bytes), packed(&bytes)].concat(),
        "several are in one file",
    );
    check_bytes(
        &[bytes.clone(), bytes.clone()].concat(),
        "several are in one file",
    );
    check_bytes(&[packed(&bytes), vec![1, 2, 3]].concat(), "cannot unpack");
    // One message in two members is one message.
    let (first, rest) = bytes.split_at(20);
    let members = [packed(first), packed(rest)].concat();
    assert_eq!(read_bytes(&members, None).unwrap().total(), 4096);
}

#[test]
fn what_unpacks_to_too_much_is_refused() {
    let bomb = packed(&vec![0; 2 << 20]);
    assert!(bomb.len() < 4096);
    check_bytes(&bomb, "unpacked it has more than 1048576 bytes");
    check_bytes(&vec![0; 2 << 20], "more than 1048576 bytes");
}

#[test]
fn sums_that_no_number_holds_and_negative_values_are_refused() {
    let sample = |value| proto::Sample {
        value: vec![0, value],
        ..heap().sample[0].clone()
    };
    check(
        |m| m.sample = vec![sample(i64::MAX), sample(1)],
        "add up to more than 2^63",
    );
    check(
        |m| m.sample.push(sample(-1)),
        "space is negative in 1 of its samples",
    );
    let mut message = heap();
    message.sample[0].value[0] = -1;
    assert_eq!(read_message(&message).unwrap().total(), 4096);
}

#[track_caller]
fn check_choice(asked: &str, usual: i64, expected: Option<(&str, u64)>) {
    let mut message = heap();
    message.default_sample_type = usual;
    let asked = (!asked.is_empty()).then(|| asked.parse().unwrap());
    let read = read_bytes(&message.encode_to_vec(), asked).ok();
    let read = read.map(|profile| (profile.event_type.kind.to_string(), profile.total()));
    let expected = expected.map(|(kind, total)| (kind.to_owned(), total));
    assert_eq!(read, expected);
}

#[test]
fn values_are_chosen_as_pprof_chooses_them() {
    check_choice("", 0, Some(("space", 4096)));
    check_choice("", 1, Some(("objects", 3)));
    check_choice("", 5, Some(("space", 4096)));
    check_choice("objects", 3, Some(("objects", 3)));
    check_choice("inuse_space", 0, Some(("space", 4096)));
    check_choice("0", 0, Some(("objects", 3)));
    check_choice("1", 1, Some(("space", 4096)));
    check_choice("2", 0, None);
    check_choice("-1", 0, None);
    check_choice("Space", 0, None);
}

#[test]
fn a_value_that_follows_from_the_count_is_kept_with_it() {
    let mut message = heap();
    message.period = 10;
    message.sample[0].value = vec![3, 30];
    let profile = read_message(&message).unwrap();
    assert_eq!(
        (profile.values, profile.total()),
        (Values::CountAndPeriod, 3)
    );
    message.sample.push(proto::Sample {
        value: vec![1, 11],
        ..message.sample[0].clone()
    });
    let profile = read_message(&message).unwrap();
    assert_eq!((profile.values, profile.total()), (Values::CountAlone, 41));
    assert_eq!(export::pprof::message(&profile).sample_type.len(), 1);
}

#[test]
fn labels_of_others_stay_with_their_units() {
    let mut message = heap();
    let label = |key, str, num, num_unit| proto::Label {
        key,
        str,
        num,
        num_unit,
    };
    message.sample[0].label = vec![
        label(9, 0, 0, 10),
        label(7, 8, 0, 0),
        label(7, 5, 0, 0),
        label(4, 0, 65_536, 0),
        label(3, 0, 0, 0),
    ];
    let written = export::pprof::message(&read_message(&message).unwrap());
    let text = |at: i64| written.string_table[at as usize].as_str();
    let labels = written.sample[0].label.iter();
    let labels: Vec<(&str, &str, i64, &str)> = labels
        .map(|label| {
            (
                text(label.key),
                text(label.str),
                label.num,
                text(label.num_unit),
            )
        })
        .collect();
    let expected = [
        ("bytes", "", 65_536, ""),
        ("handler", "/burn", 0, ""),
        ("handler", "main", 0, ""),
        ("time", "", 0, "nanoseconds"),
    ];
    assert_eq!(labels, expected);
    message
        .string_table
        .extend((0..300).map(|number| number.to_string()));
    message.sample[0].label = (12..312).map(|key| label(key, 8, 0, 0)).collect();
    let error = read_message(&message).unwrap_err();
    assert!(error.why().contains("more than 256 keys"), "{error}");
}

#[test]
fn code_that_is_to_be_named_later_stays_so_in_pprof_alone() {
    let mut original = heap();
    original.location[0].line.clear();
    let profile = read_message(&original).unwrap();
    let written = export::pprof::message(&profile);
    assert!(!written.mapping[0].has_functions && written.location[0].line.is_empty());
    let mut folded = Vec::new();
    export::write(Format::Folded, &profile, &mut folded).unwrap();
    assert_eq!(folded, b"[app] 4096\n");
    // What its writer had no name for, nobody else has.
    original.mapping[0].has_functions = true;
    let written = export::pprof::message(&read_message(&original).unwrap());
    assert!(written.mapping[0].has_functions && written.location[0].line.len() == 1);
}

#[test]
fn names_that_nobody_made_readable_are_made_so() {
    let mut message = heap();
    (message.function[0].name, message.function[0].system_name) = (11, 11);
    let profile = read_message(&message).unwrap();
    let function = profile.functions()[0];
    let [name, system_name] = [function.name, function.system_name].map(|id| profile.text(id));
    assert_eq!((name, system_name), ("app::work()", "_ZN3app4workEv"));
}

#[test]
fn what_is_no_text_in_a_text_is_replaced() {
    let mut bytes = heap().encode_to_vec();
    let at = bytes.windows(4).position(|four| four == b"main").unwrap();
    bytes[at] = 0xff;
    let profile = read_bytes(&bytes, None).unwrap();
    assert_eq!(profile.text(profile.functions()[0].name), "\u{fffd}ain");
}
