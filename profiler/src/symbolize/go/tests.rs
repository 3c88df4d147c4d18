//! The tables of the fuzz corpus, whole and broken. `fuzz/seeds/go_table` has their source.

use std::{fs, path::Path};

use object::{Object, ObjectSection};

use super::*;
use crate::object::file::in_memory;

/// Bytes from one function to the next.
const F_BYTES: u64 = 16;

/// A program, and where its text begins.
fn program(name: &str) -> (Vec<u8>, u64) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/go_table");
    let bytes = fs::read(corpus.join(format!("table.{name}.bin"))).unwrap();
    let text = object::File::parse(&bytes[..]).unwrap();
    let text = text.section_by_name(".text").unwrap().address();
    (bytes, text)
}

/// What is at an offset of the text, without lines where functions begin.
fn at(bytes: &[u8], address: u64) -> Option<Vec<String>> {
    let file = in_memory("go", bytes).unwrap();
    let frames = GoTable::read(&file)?.resolve(&[address]).remove(0)?;
    let told = frames.iter().map(|frame| {
        let GoFrame {
            name, file, line, ..
        } = frame;
        format!("{name} {file}:{line}")
    });
    Some(told.collect())
}

#[track_caller]
fn check(bytes: &[u8], address: u64, expected: &[&str]) {
    let found = at(bytes, address).unwrap_or_default();
    assert_eq!(found, expected, "{address:#x}");
}

const WHOLE: [&str; 8] = [
    "116.fixed",
    "116.pie",
    "118.fixed",
    "118.pie",
    "118.blank",
    "120.fixed",
    "120.pie",
    "120.blank",
];

#[test]
fn every_form_tells_names_lines_and_inlined_calls() {
    for name in WHOLE {
        let (bytes, text) = program(name);
        check(&bytes, text, &["main.f /src/one.go:10"]);
        check(&bytes, text + 11, &["main.f /src/one.go:13"]);
        let g = text + F_BYTES;
        check(&bytes, g + 7, &["main.(*T).g /src/one.go:20"]);
        let own = "main.(*T).g /src/one.go:20";
        let inlined = "main.inlined[...] /src/two.go:30";
        let deeper = "main.deeper /src/two.go:25";
        check(&bytes, g + 8, &[deeper, inlined, own]);
        check(&bytes, g + 16, &[inlined, own]);
        check(&bytes, g + 24, &["main.(*T).g /src/one.go:21"]);
    }
}

#[test]
fn functions_tell_where_they_begin_since_go_1_20() {
    let lines = |name| {
        let (bytes, text) = program(name);
        let file = in_memory("go", &bytes).unwrap();
        let resolved = GoTable::read(&file).unwrap().resolve(&[text + F_BYTES + 8]);
        let frames = resolved[0].clone().unwrap().into_iter();
        frames.map(|frame| frame.start_line).collect::<Vec<_>>()
    };
    assert_eq!(lines("120.fixed"), [24, 29, 19]);
    assert_eq!(lines("118.fixed"), [0, 0, 0]);
    assert_eq!(lines("116.fixed"), [0, 0, 0]);
}

#[test]
fn what_lies_behind_or_between_functions_has_no_answer() {
    for name in WHOLE {
        let (bytes, text) = program(name);
        for into in [12, 15, F_BYTES + 28, F_BYTES + 31, F_BYTES + 32, 1 << 30] {
            check(&bytes, text + into, &[]);
        }
        check(&bytes, text - 1, &[]);
        check(&bytes, u64::MAX, &[]);
        check(&bytes, 0, &[]);
    }
}

#[test]
fn addresses_may_come_in_any_order() {
    let (bytes, text) = program("120.fixed");
    let file = in_memory("go", &bytes).unwrap();
    let table = GoTable::read(&file).unwrap();
    let addresses: Vec<u64> = (text - 4..text + 64).collect();
    let mut sorted = table.resolve(&addresses);
    sorted.reverse();
    let reversed: Vec<u64> = addresses.into_iter().rev().collect();
    assert_eq!(table.resolve(&reversed), sorted);
}

/// A program in which each `old` is `new`.
fn changed(name: &str, old: &[u8], new: &[u8]) -> (Vec<u8>, u64) {
    let (mut bytes, text) = program(name);
    let places: Vec<usize> = memchr::memmem::find_iter(&bytes, old).collect();
    assert!(!places.is_empty());
    for place in places {
        bytes[place..place + old.len()].copy_from_slice(new);
    }
    (bytes, text)
}

/// The name of a section is not the one that is known.
fn without_data(name: &str) -> (Vec<u8>, u64) {
    changed(name, b".noptrdata", b".nooneknow")
}

#[test]
fn without_the_description_of_the_program_names_remain() {
    let (bytes, text) = without_data("118.fixed");
    check(&bytes, text, &["main.f /src/one.go:10"]);
    let g = text + F_BYTES;
    check(&bytes, g + 24, &["main.(*T).g /src/one.go:21"]);
    // Which function the line belongs to is not known.
    check(&bytes, g + 8, &["main.(*T).g /src/one.go:0"]);
    // Newer tables do not say where the text is; older ones need nothing else.
    let (bytes, text) = without_data("120.fixed");
    check(&bytes, text, &[]);
    let (bytes, text) = without_data("116.fixed");
    check(&bytes, text, &["main.f /src/one.go:10"]);
}

/// The number that a file has at a place.
fn number(bytes: &[u8], at: usize) -> usize {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize
}

/// The program with another name for the section of the table, behind its end.
fn renamed(name: &str, section: &[u8]) -> (Vec<u8>, u64) {
    let (mut bytes, text) = program(name);
    let file = object::File::parse(&bytes[..]).unwrap();
    let table = file.section_by_name(".gopclntab").unwrap().index().0;
    // Source: System V ABI, chapter 4: `e_shoff`, `e_shstrndx`; `sh_name`, `sh_offset`, `sh_size`.
    let headers = number(&bytes, 40);
    let names = headers + 64 * (number(&bytes, 56) >> 48);
    let at = bytes.len() - number(&bytes, names + 24);
    bytes.extend(section);
    bytes.push(0);
    let header = headers + 64 * table;
    bytes[header..header + 4].copy_from_slice(&(at as u32).to_le_bytes());
    let length = (at + section.len() + 1) as u64;
    bytes[names + 32..names + 40].copy_from_slice(&length.to_le_bytes());
    (bytes, text)
}

#[test]
fn a_table_that_a_c_linker_moved_is_found_by_its_head() {
    for name in ["118.blank", "120.pie"] {
        let (bytes, text) = renamed(name, b".data.rel.ro");
        check(&bytes, text, &["main.f /src/one.go:10"]);
        let (bytes, text) = renamed(name, b".rodata.other");
        check(&bytes, text, &[]);
    }
}

#[test]
fn a_name_that_does_not_begin_where_it_should_is_none() {
    let (bytes, text) = changed("118.fixed", b"main.f\0main", b"main.ffmain");
    // The next name begins in the middle of that, and so does no function's.
    check(&bytes, text + F_BYTES, &[]);
    check(&bytes, text, &["main.ffmain.(*T).g /src/one.go:10"]);
    let (bytes, text) = changed("118.fixed", b"\0main.deeper", b"xmain.deeper");
    let g = text + F_BYTES;
    check(&bytes, g + 8, &["main.(*T).g /src/one.go:0"]);
}

#[test]
fn bytes_that_are_no_text_become_marks() {
    let (bytes, text) = changed("118.fixed", b"main.f", b"main\xff\xfe");
    check(&bytes, text, &["main\u{fffd}\u{fffd} /src/one.go:10"]);
}

#[test]
fn a_file_that_is_cut_tells_less_and_nothing_else() {
    let (whole, text) = program("120.fixed");
    let headers = u64::from_le_bytes(whole[40..48].try_into().unwrap()) as usize;
    let data = memchr::memmem::find(&whole, b"main.f").unwrap();
    let expected = at(&whole, text + F_BYTES + 8);
    // The headers stay where they are, and what is behind a place is zero.
    for length in data..headers {
        let mut bytes = whole.clone();
        bytes[length..headers].fill(0);
        let found = at(&bytes, text + F_BYTES + 8);
        let own = vec!["main.(*T).g /src/one.go:0".to_owned()];
        let is_less = found.is_none() || found == Some(own) || found == expected;
        assert!(is_less, "{length}: {found:?}");
    }
    for length in 0..whole.len() {
        assert_eq!(at(&whole[..length], text), None, "{length}");
    }
}
