//! The unwind tables of this machine's own programs and libraries, against direct evaluation, and
//! of broken files. `cargo xtask unwind-audit` compares every file and every row.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod oracle;

use std::{
    collections::HashMap,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use ebpfprof::unwind::{Cause, FrameFormat, Lookup, Sections, Table};
use oracle::{Counts, Extent, Numbers, RANDOM_ADDRESSES, compare, elf_files};
use profiler_common::unwind::Rule;

/// Where programs and libraries are.
const FOLDERS: [&str; 2] = ["/usr/bin", "/usr/lib/x86_64-linux-gnu"];
/// The largest file of the sample, in bytes.
const MOST_BYTES: u64 = 6 << 20;
/// Files in the sample, and the fewest that make a test of it.
const SAMPLE: usize = 60;
const FEWEST: u64 = 20;
/// The largest file of which every row is compared, in bytes.
const MOST_BYTES_OF_ROWS: u64 = 128 << 10;

/// Rows are sorted, neighbours differ, and every rule is used.
#[track_caller]
fn check_shape(table: &Table) {
    for pair in table.rows().windows(2) {
        assert!(pair[0].offset < pair[1].offset && pair[0].rule != pair[1].rule);
    }
    let rules = table.rules().len();
    assert!(table.rows().iter().all(|row| usize::from(row.rule) < rules));
    let extents = &table.coverage().rules;
    assert_eq!(extents.len(), rules);
    assert!(table.coverage().covered().bytes <= table.coverage().code_bytes);
}

/// The tables of some files agree with direct evaluation.
#[track_caller]
fn check_files(most_bytes: u64, extent: Extent) {
    let files = elf_files(FOLDERS, most_bytes);
    let step = files.len().div_ceil(SAMPLE).max(1);
    let (mut tables, mut counts) = (0, Counts::default());
    for path in files.iter().step_by(step) {
        let Ok(table) = Table::of_file(&File::open(path).unwrap()) else {
            continue;
        };
        let comparison = compare(path, &table, extent).unwrap();
        let path = path.display();
        assert!(
            comparison.differences.is_empty(),
            "{path}: {:#?}",
            comparison.differences
        );
        check_shape(&table);
        tables += 1;
        counts.add(comparison.counts);
    }
    assert!(tables >= FEWEST, "too few files: {tables}");
    assert!(counts.agree > tables * RANDOM_ADDRESSES / 2, "{counts:?}");
    let lost = counts.unusual_lost + counts.beyond;
    assert!(
        lost * 200 < counts.agree,
        "too much not expressed: {counts:?}"
    );
}

#[test]
fn a_table_agrees_with_direct_evaluation_at_any_address() {
    check_files(MOST_BYTES, Extent::Random);
}

#[test]
fn every_row_agrees_with_direct_evaluation() {
    check_files(MOST_BYTES_OF_ROWS, Extent::EveryRow);
}

#[test]
fn the_seeds_of_the_fuzz_targets_have_every_form_of_rule() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/unwind_file");
    let table = |name: &str| Table::of_file(&File::open(folder.join(name)).unwrap());
    let whole = table("frames.so").unwrap();
    for name in [
        "SignalFrame",
        "End",
        "ReturnInRegister",
        "Plt",
        "Loaded",
        "Register",
        "AtFp",
    ] {
        let has = |rule: &Rule| format!("{rule:?}").contains(name);
        assert!(
            whole.rules().iter().any(has),
            "no {name}: {:?}",
            whole.rules()
        );
    }
    let headless = table("frames.headless.so").unwrap();
    assert_eq!(headless.rules(), whole.rules());
    let debug_frame = table("debug_frame.so").unwrap();
    assert_eq!(debug_frame.format(), FrameFormat::DebugFrame);
    let compressed = table("debug_frame.compressed.so").unwrap();
    assert_eq!(compressed.rules(), debug_frame.rules());
    let odd = table("odd.so").unwrap();
    assert!(odd.coverage().inexpressible(Cause::Broken).rows > 0);
}

/// A small real object.
fn small_object() -> PathBuf {
    let files = elf_files(FOLDERS, 100 << 10);
    let described = |path: &PathBuf| {
        let sections = Sections::of_file(&File::open(path).unwrap()).ok()?;
        (sections.frames.len() > 2000).then_some(sections.frames.len())
    };
    let sized = files
        .iter()
        .filter_map(|path| Some((described(path)?, path)));
    sized.min().unwrap().1.clone()
}

/// Ends fast, and in a sound table.
#[track_caller]
fn check_hostile(sections: &Sections) {
    let started = Instant::now();
    let table = Table::of_sections(sections);
    check_shape(&table);
    let lookup = Lookup::new(&table);
    for (start, end, rule) in table.ranges().take(3) {
        let bucket_is_full = lookup.rule(start) == Rule::NoInformation;
        assert!(bucket_is_full || lookup.rule(end - 1) == rule);
    }
    let took = started.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn truncated_sections_make_sound_tables() {
    let sections = Sections::of_file(&File::open(small_object()).unwrap()).unwrap();
    for length in 0..sections.frames.len() {
        check_hostile(&Sections {
            frames: sections.frames[..length].to_vec(),
            ..sections.clone()
        });
    }
}

#[test]
fn sections_with_flipped_bits_make_sound_tables() {
    let mut sections = Sections::of_file(&File::open(small_object()).unwrap()).unwrap();
    let mut numbers = Numbers(7);
    for round in 0..3000u64 {
        let whole = sections.frames.clone();
        for _ in 0..=numbers.below(1 + round % 16) {
            let at = numbers.below(whole.len() as u64) as usize;
            sections.frames[at] ^= 1 << numbers.below(8);
        }
        sections.format = match round % 2 {
            0 => FrameFormat::EhFrame,
            _ => FrameFormat::DebugFrame,
        };
        check_hostile(&sections);
        sections.frames = whole;
    }
}

#[test]
fn files_with_broken_heads_make_sound_tables_or_errors() {
    let whole = fs::read(small_object()).unwrap();
    let mut numbers = Numbers(9);
    let headers = u64::from_le_bytes(whole[40..48].try_into().unwrap()) as usize;
    let mut kinds = HashMap::new();
    for round in 0..1500 {
        let mut data = whole.clone();
        for _ in 0..=numbers.below(3) {
            // The head with the segments, or the headers of sections.
            let at = match numbers.below(2) {
                0 => numbers.below(1024) as usize,
                _ => headers + numbers.below((whole.len() - headers) as u64) as usize,
            };
            data[at] ^= 1 << numbers.below(8);
        }
        if round % 10 == 0 {
            data.truncate(numbers.below(whole.len() as u64) as usize);
        }
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&data).unwrap();
        let made = Table::of_file(&file);
        if let Ok(table) = &made {
            check_shape(table);
        }
        *kinds.entry(made.is_ok()).or_insert(0) += 1;
    }
    assert!(kinds.len() == 2, "{kinds:?}");
}
