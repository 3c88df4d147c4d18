//! Files that grow, are cut, and are written anew.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::Path,
    time::Duration,
};

use super::*;

/// Keeps what it is given.
#[derive(Default)]
struct Kept {
    bytes: Vec<u8>,
    times: Vec<Appeared>,
    starts: Vec<Appeared>,
    skip: u64,
}

impl Reader for Kept {
    fn feed(&mut self, bytes: &[u8], appeared: Appeared) {
        self.bytes.extend_from_slice(bytes);
        self.times.push(appeared);
    }

    fn skip(&self) -> u64 {
        self.skip
    }

    fn passed(&mut self, bytes: u64) {
        self.skip -= bytes;
    }

    fn start_over(&mut self, when: Appeared) {
        self.bytes.clear();
        self.starts.push(when);
    }
}

struct Case {
    _folder: tempfile::TempDir,
    path: std::path::PathBuf,
    tail: Tail,
    kept: Kept,
}

impl Case {
    fn new(bytes: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("perf-1.map");
        fs::write(&path, bytes).unwrap();
        Self {
            tail: Tail::new(Source::Near(File::open(&path).unwrap())),
            _folder: folder,
            path,
            kept: Kept::default(),
        }
    }

    fn look_at(&mut self, ns: u64) {
        let time = SystemTime::now() + Duration::from_secs(1);
        self.tail.look(Now { ns, time }, &mut self.kept);
        self.tail.read(u64::MAX, &mut self.kept);
    }

    #[track_caller]
    fn check(&mut self, ns: u64, bytes: &[u8], starts: usize) {
        self.look_at(ns);
        assert_eq!(self.kept.bytes, bytes);
        assert_eq!(self.kept.starts.len(), starts);
        assert!(self.tail.is_whole());
    }
}

fn append(path: &Path, bytes: &[u8]) {
    let file = OpenOptions::new().append(true).open(path);
    file.unwrap().write_all(bytes).unwrap();
}

#[test]
fn what_is_appended_is_read_once() {
    let mut case = Case::new(b"one\n");
    case.check(2_000_000_000, b"one\n", 0);
    case.check(3_000_000_000, b"one\n", 0);
    append(&case.path, b"two\n");
    case.check(4_000_000_000, b"one\ntwo\n", 0);
    assert_eq!(case.kept.times.len(), 2);
    // It was written a second before the look at it.
    let Appeared { after_ns, by_ns } = case.kept.times[0];
    assert_eq!(after_ns, 0);
    assert!((1_000_000_000..1_100_000_000).contains(&by_ns), "{by_ns}");
    assert_eq!(case.kept.times[1].after_ns, 3_000_000_000);
}

#[test]
fn a_file_that_was_cut_or_written_anew_is_started_over() {
    let mut case = Case::new(b"one\ntwo\n");
    case.check(2_000_000_000, b"one\ntwo\n", 0);
    fs::write(&case.path, b"new\n").unwrap();
    case.check(3_000_000_000, b"new\n", 1);
    // Longer than before, and yet not the same with more at its end.
    fs::write(&case.path, b"other and longer\n").unwrap();
    case.check(4_000_000_000, b"other and longer\n", 2);
    fs::write(&case.path, b"").unwrap();
    case.check(5_000_000_000, b"", 3);
    append(&case.path, b"again\n");
    case.check(6_000_000_000, b"again\n", 3);
    assert_eq!(
        case.kept.starts[0],
        Appeared::between(2_000_000_000, 3_000_000_000)
    );
}

#[test]
fn no_more_is_read_than_may_be() {
    let bytes = vec![b'x'; 5 * PIECE_BYTES + 7];
    let mut case = Case::new(&bytes);
    let now = Now {
        ns: 1,
        time: SystemTime::now(),
    };
    case.tail.look(now, &mut case.kept);
    assert_eq!(case.tail.read(1, &mut case.kept), PIECE_BYTES as u64);
    assert!(!case.tail.is_whole());
    assert_eq!(case.tail.told_until(), 0);
    case.tail.read(u64::MAX, &mut case.kept);
    assert_eq!(case.kept.bytes, bytes);
    assert_eq!(case.tail.told_until(), 1);
}

#[test]
fn what_need_not_be_read_is_passed_over() {
    let mut case = Case::new(&[7; 100]);
    case.kept.skip = 150;
    case.check(1, b"", 0);
    append(&case.path, &[8; 60]);
    case.check(2, &[8; 10], 0);
}

#[test]
fn another_reader_goes_on_where_one_stopped() {
    let mut case = Case::new(b"one\n");
    case.check(2_000_000_000, b"one\n", 0);
    let left = case.tail.left().unwrap();
    let again = |case: &Case| Tail::new(Source::Near(File::open(&case.path).unwrap())).after(&left);
    (case.tail, case.kept) = (again(&case), Kept::default());
    case.check(3_000_000_000, b"", 0);
    append(&case.path, b"two\n");
    (case.tail, case.kept) = (again(&case), Kept::default());
    case.check(4_000_000_000, b"two\n", 0);
    fs::write(&case.path, b"other and longer\n").unwrap();
    (case.tail, case.kept) = (again(&case), Kept::default());
    case.check(5_000_000_000, b"other and longer\n", 0);
}
