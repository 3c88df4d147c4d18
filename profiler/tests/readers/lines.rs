//! Source lines and inlined calls, with the program at hand and without it.

use std::process::Command;

use crate::{
    fixture::{self, Fixture},
    matrix::row_of,
    reader::Reader,
    recording::{Recorded, record},
    subject::{self, C_PIE, CPP, GO, RUST, Subject},
    turn,
};

/// Lines of `-list` with their times, in the order of the file: own, with what it calls, text.
fn listed(list: &str) -> Vec<(f64, f64, &str)> {
    let row = |line: &'_ str| -> Option<(f64, f64, usize)> {
        let mut words = line.split_whitespace();
        let (own, all, number) = (words.next()?, words.next()?, words.next()?);
        number.strip_suffix(':')?.parse::<u32>().ok()?;
        Some((time(own)?, time(all)?, line.find(number)? + number.len()))
    };
    let rows = list.lines().filter_map(|line| Some((row(line)?, line)));
    rows.map(|((own, all, at), line)| (own, all, line[at..].trim_start()))
        .collect()
}

/// A time of `-list` in milliseconds; a point is none.
fn time(text: &str) -> Option<f64> {
    if text == "." {
        return Some(0.0);
    }
    let number = |unit: &str| text.strip_suffix(unit)?.parse::<f64>().ok();
    number("ms").or_else(|| Some(number("s")? * 1000.0))
}

/// Fails unless the hot line has the most of the hot function's time.
#[track_caller]
fn check_list(reader: &Reader, subject: &Subject, file: &std::path::Path) {
    let list = reader.show(&[&format!("-list={}", subject.hot)], &[file]);
    let (_, hot_line) = subject.source.unwrap();
    let rows = listed(&list);
    let all: f64 = rows.iter().map(|(own, ..)| own).sum();
    let most = rows.iter().max_by(|one, other| one.1.total_cmp(&other.1));
    let (_, with_calls, text) = most.unwrap_or_else(|| panic!("no line:\n{list}"));
    assert!(text.contains(hot_line), "{text} has most:\n{list}");
    assert!(*with_calls > 0.5 * all, "{list}");
    // What is before the function is not its own.
    let brace = |text: &str| text.starts_with("/*") || text.starts_with("//");
    let elsewhere = rows.iter().filter(|(.., text)| brace(text));
    let elsewhere: f64 = elsewhere.map(|(_, all, _)| all).sum();
    assert!(elsewhere < 0.01 * all.max(1.0), "{list}");
}

#[test]
fn the_hot_line_has_the_most() {
    for subject in [&C_PIE, &CPP, &RUST, &GO] {
        let recorded = subject.record(&[]);
        for reader in Reader::all() {
            check_list(&reader, subject, &subject::file(&recorded));
        }
    }
}

/// A profile of a program that is gone when it is read.
#[track_caller]
fn recorded_and_deleted(subject: &Subject, arguments: &[&str]) -> Recorded {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("server");
    // Not by us: while we have a file open for writing, a child that another test starts has it
    // too, and what somebody writes cannot be run.
    let mut cp = Command::new("cp");
    cp.arg(fixture::path(subject.name)).arg(&program);
    assert!(cp.status().unwrap().success());
    let target = Fixture::of_command(Command::new(&program).args(arguments));
    let recorded = record(499, 1.2, &["--pid", &target.pid_text()]);
    drop(target);
    drop(folder);
    recorded
}

#[test]
fn without_the_program_all_is_read_but_its_code() {
    for (subject, arguments) in [(&C_PIE, &["inf"][..]), (&CPP, &["inf"]), (&GO, &[])] {
        let recorded = recorded_and_deleted(subject, arguments);
        let file = subject::file(&recorded);
        for reader in Reader::all() {
            for command in ["-top", "-tree", "-traces", "-raw", "-svg", "-callgrind"] {
                let output = reader.write(&[command], &file);
                let text = String::from_utf8_lossy(&output);
                assert!(text.contains(&subject.hot_name()), "{command}: {text}");
            }
            let peek = reader.show(&[&format!("-peek={}", subject.hot)], &[&file]);
            assert!(peek.contains(&subject.hot_name()), "{peek}");
            check_list(&reader, subject, &file);
            check_inlined(&reader, subject, &file);
        }
    }
}

/// Inlined calls stand in stacks by name, and are marked.
#[track_caller]
fn check_inlined(reader: &Reader, subject: &Subject, file: &std::path::Path) {
    let top = reader.show(&["-top", "-nodefraction=0"], &[file]);
    let names: Vec<&str> = top.lines().filter_map(row_of).map(|row| row.1).collect();
    let is_stir = |name: &&str| name.contains("stir") && name.ends_with(" (inline)");
    assert!(names.iter().any(is_stir), "{}: {names:?}", subject.name);
}
