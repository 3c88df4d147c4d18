//! Differences: between two runs of ours, and between our profile and Go's own.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
};

use crate::{
    fixture,
    matrix::row_of,
    reader::{Age, Reader},
    recording::{Recorded, record},
    subject::{self, C_PIE},
    turn,
};

/// How many functions are compared.
const HOTTEST: usize = 10;

#[test]
fn a_profile_less_itself_is_nothing() {
    let recorded = C_PIE.record(&[]);
    let file = subject::file(&recorded);
    let base = format!("-base={}", file.display());
    for reader in Reader::all() {
        let top = reader.show(&["-top", &base], &[&file]);
        assert!(
            top.contains("Total samples = ") && rows(&top).is_empty(),
            "{top}"
        );
        assert!(top.contains(" 0 total"), "{top}");
    }
}

#[test]
fn two_runs_at_other_addresses_differ_by_what_they_did_alone() {
    let runs = [(); 2].map(|()| C_PIE.record(&[]));
    let starts = runs.each_ref().map(|run| run.pprof.main_start());
    assert_ne!(starts[0], starts[1], "the second run lies elsewhere");
    let files = runs.each_ref().map(subject::file);
    let base = format!("-base={}", files[0].display());
    for reader in Reader::all() {
        // By address: the same code is the same row, though it was loaded elsewhere. Normalized, as
        // others may have taken time from one of the runs.
        let options = ["-top", "-addresses", "-nodefraction=0", "-nodecount=10000"];
        let difference = reader.show(
            &[&options[..], &["-normalize", &base]].concat(),
            &[&files[1]],
        );
        let whole = reader.show(&options, &[&files[1]]);
        let (moved, all) = (total(&rows(&difference)), total(&rows(&whole)));
        // What is not matched counts twice, once gone and once new: 2.0 if nothing is. The rest is
        // chance.
        assert!(moved < 1.2 * all, "{moved} of {all}:\n{difference}");
        // By function: each had the same share in both runs, in which others took time as well.
        let shares = files.each_ref().map(|file| {
            let rows = rows(&reader.show(&["-top"], &[file]));
            let sum = total(&rows);
            rows["hot_divide"] / sum
        });
        assert!((shares[0] - shares[1]).abs() < 0.1, "{shares:?}");
    }
}

/// Time of each function itself, in milliseconds, as `-top` shows it.
fn rows(top: &str) -> BTreeMap<String, f64> {
    let rows = top.lines().filter_map(row_of);
    rows.map(|(own, name)| (name.to_owned(), milliseconds(own)))
        .filter(|(_, own)| *own != 0.0)
        .collect()
}

fn total(rows: &BTreeMap<String, f64>) -> f64 {
    rows.values().map(|own| own.abs()).sum()
}

fn milliseconds(text: &str) -> f64 {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "s" => 1000.0,
        "ms" | "" => 1.0,
        "us" => 0.001,
        "ns" => 0.000_001,
        unit => panic!("a time in {unit}"),
    };
    digits.parse::<f64>().unwrap() * unit
}

/// Both profiles of the same seconds of one process.
#[track_caller]
fn record_beside_its_own(own: &Path) -> Recorded {
    let mut command = Command::new(fixture::path("go-hot"));
    command.arg("-profile").arg(own).args(["-seconds", "3"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"go\n").unwrap();
    let pid = child.id().to_string();
    let recorded = record(499, 2.5, &["--pid", &pid]);
    // Said when the file is whole.
    let stdout = BufReader::new(child.stdout.take().unwrap());
    let mut lines = stdout.lines().map_while(Result::ok);
    assert!(lines.any(|line| line == "profiled"), "it has ended");
    child.kill().unwrap();
    child.wait().unwrap();
    recorded
}

#[test]
fn ours_and_gos_own_profile_can_be_subtracted_and_agree_on_what_is_hot() {
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("own.pb.gz");
    let recorded = {
        let _turn = turn();
        record_beside_its_own(&own)
    };
    let file = subject::file(&recorded);
    for reader in Reader::all() {
        let base = format!("-base={}", own.display());
        reader.show(&["-top", &base], &[&file]);
        let base = format!("-diff_base={}", file.display());
        reader.show(&["-top", &base], &[&own]);
        let [ours, gos] = [&file, &own].map(|file| hottest(&reader, file));
        let both = ours.intersection(&gos).count();
        assert!(both >= 8, "{both} of {HOTTEST} agree: {ours:?} {gos:?}");
    }
    assert_eq!(Reader::all().map(|reader| reader.age), [Age::Old, Age::New]);
}

/// The functions with most time of their own.
#[track_caller]
fn hottest(reader: &Reader, file: &Path) -> BTreeSet<String> {
    let rows = rows(&reader.show(&["-top", "-noinlines"], &[file]));
    let mut rows: Vec<(String, f64)> = rows.into_iter().collect();
    rows.sort_by(|one, other| other.1.total_cmp(&one.1));
    rows.into_iter().take(HOTTEST).map(|row| row.0).collect()
}
