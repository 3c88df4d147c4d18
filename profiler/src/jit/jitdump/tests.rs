//! Files of records, whole and broken.

use proptest::prelude::*;

use super::*;
use crate::jit::code::{Found, Late};

const PID: u32 = 7;
const NOW: Appeared = Appeared {
    after_ns: 500,
    by_ns: 1000,
};

/// A file in the making.
struct Dump(Vec<u8>);

impl Dump {
    fn new(flags: u64, pad: u32) -> Self {
        let mut bytes = Vec::new();
        for word in [MAGIC, 1, HEADER_BYTES as u32, 62, pad, PID] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(1_u64.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        Self(bytes)
    }

    fn record(mut self, id: u32, time: u64, body: &[u8]) -> Self {
        self.0.extend(id.to_ne_bytes());
        let total = RECORD_BYTES + body.len();
        self.0.extend((total as u32).to_ne_bytes());
        self.0.extend(time.to_ne_bytes());
        self.0.extend(body);
        self
    }

    fn load_of(self, pid: u32, time: u64, (at, bytes): (u64, usize), name: &str) -> Self {
        let mut body = [pid.to_ne_bytes(), pid.to_ne_bytes()].concat();
        for long in [at, at, bytes as u64, 1] {
            body.extend(long.to_ne_bytes());
        }
        body.extend(name.as_bytes());
        body.push(0);
        body.extend(vec![0x90; bytes]);
        self.record(CODE_LOAD, time, &body)
    }

    fn load(self, time: u64, at: u64, bytes: usize, name: &str) -> Self {
        self.load_of(PID, time, (at, bytes), name)
    }

    fn moved(self, time: u64, from: u64, to: u64, bytes: u64) -> Self {
        let mut body = [PID.to_ne_bytes(), PID.to_ne_bytes()].concat();
        for long in [to, from, to, bytes, 1] {
            body.extend(long.to_ne_bytes());
        }
        self.record(CODE_MOVE, time, &body)
    }

    fn lines(self, at: u64, lines: &[(u64, u32, &str)]) -> Self {
        let mut body = at.to_ne_bytes().to_vec();
        body.extend((lines.len() as u64).to_ne_bytes());
        for (address, line, file) in lines {
            body.extend(address.to_ne_bytes());
            body.extend(line.to_ne_bytes());
            body.extend(0_u32.to_ne_bytes());
            body.extend(file.as_bytes());
            body.push(0);
        }
        self.record(CODE_DEBUG_INFO, 1, &body)
    }

    fn read(&self) -> (Jitdump, CodeMap) {
        let (mut dump, mut code) = (Jitdump::default(), CodeMap::default());
        dump.feed(&self.0, NOW, &mut code);
        (dump, code)
    }
}

fn told(code: &CodeMap, address: u64, time_ns: u64) -> String {
    match code.find(address, time_ns, Late::No) {
        Found::Code(code) => String::from_utf8_lossy(code.name).into_owned(),
        Found::Nothing => "-".to_owned(),
        Found::Unsure => "?".to_owned(),
    }
}

fn line(code: &CodeMap, address: u64) -> Option<(String, u32)> {
    let Found::Code(found) = code.find(address, 2000, Late::No) else {
        return None;
    };
    let (file, line) = found.lines?.find(address - found.origin)?;
    Some((file.to_owned(), line))
}

#[test]
fn records_hold_from_their_own_time_on() {
    let dump = Dump::new(0, 0)
        .load(100, 0x1000, 64, "first")
        .load(200, 0x1000, 64, "second")
        .moved(300, 0x1000, 0x2000, 64)
        .record(4, 310, &[0; 24])
        .record(99, 320, b"unknown");
    let (read, code) = dump.read();
    for (address, time_ns, expected) in [
        (0x1000, 99, "-"),
        (0x1000, 199, "first"),
        (0x103f, 200, "second"),
        (0x1000, 300, "-"),
        (0x2000, 300, "second"),
        (0x2000, 299, "-"),
    ] {
        assert_eq!(
            told(&code, address, time_ns),
            expected,
            "{address:x} {time_ns}"
        );
    }
    assert_eq!((read.garbage(), read.newest_ns()), (0, Some(320)));
}

#[test]
fn times_of_another_clock_are_not_compared() {
    let dump = Dump::new(ARCH_TIMESTAMP, 0).load(1 << 60, 0x1000, 64, "f");
    let (read, code) = dump.read();
    assert_eq!(
        (told(&code, 0x1000, 1000), read.newest_ns()),
        ("f".into(), None)
    );
    assert_eq!(told(&code, 0x1000, 500), "-");
}

#[test]
fn a_time_that_cannot_be_is_that_of_the_reading() {
    let (_, code) = Dump::new(0, 0)
        .load(5000, 0x1000, 64, "future")
        .load(0, 0x2000, 64, "none")
        .read();
    for address in [0x1000, 0x2000] {
        assert_eq!(told(&code, address, 500), "-");
        assert_ne!(told(&code, address, 1000), "-");
    }
}

#[test]
fn a_clock_set_apart_is_set_right() {
    let clock = Clock { offset_ns: 1000 };
    let (mut dump, mut code) = (Jitdump::new(clock), CodeMap::default());
    dump.feed(
        &Dump::new(0, 0).load(1100, 0x1000, 64, "f").0,
        NOW,
        &mut code,
    );
    assert_eq!(told(&code, 0x1000, 99), "-");
    assert_eq!(told(&code, 0x1000, 100), "f");
}

#[test]
fn lines_are_those_of_the_code_that_follows() {
    let lines = [
        (0x1000, 5, "/a.js"),
        (0x1010, 6, "\u{ff}"),
        (0x1020, 9, "/b.js"),
    ];
    let mut dump = Dump::new(0, 0).lines(0x1000, &lines);
    // The mark for the file of the line before is one byte, which is no text.
    let mark = dump.0.windows(2).position(|two| two == "\u{ff}".as_bytes());
    let mark = mark.unwrap();
    dump.0.splice(mark..mark + 2, [0xff]);
    let total = HEADER_BYTES + 4;
    let size = word(&dump.0, total) - 1;
    dump.0[total..total + 4].copy_from_slice(&size.to_ne_bytes());
    let (read, code) = dump
        .load(10, 0x1000, 64, "f")
        .load(20, 0x3000, 64, "other")
        .read();
    assert_eq!(read.garbage(), 0);
    assert_eq!(line(&code, 0x1000), Some(("/a.js".into(), 5)));
    assert_eq!(line(&code, 0x1011), Some(("/a.js".into(), 6)));
    assert_eq!(line(&code, 0x1021), Some(("/a.js".into(), 0)));
    assert_eq!(line(&code, 0x3000), None);
}

#[test]
fn v8_counts_lines_from_behind_a_header() {
    let lines = [(0x1040, 5, "/a.js"), (0x1050, 6, "/a.js")];
    let dump = Dump::new(0, PAD_OF_V8).lines(0x1000, &lines);
    let (_, code) = dump.load(10, 0x1000, 64, "JS:^f /a.js:5:1").read();
    assert_eq!(line(&code, 0x1000), Some(("/a.js".into(), 5)));
    assert_eq!(line(&code, 0x1010), Some(("/a.js".into(), 6)));
}

#[test]
fn what_is_no_code_of_this_process_is_counted() {
    let (read, code) = Dump::new(0, 0)
        .load_of(PID + 1, 10, (0x1000, 64), "another process")
        .load(20, 0x2000, 0, "empty")
        .load(30, 0x3000, 64, "")
        .load(40, u64::MAX - 1, 64, "beyond")
        .record(CODE_LOAD, 50, b"short")
        .record(CODE_MOVE, 60, b"short")
        .record(CODE_DEBUG_INFO, 70, b"short")
        .load(80, 0x4000, 64, "good")
        .read();
    assert_eq!((read.garbage(), code.len()), (6, 1));
    assert_eq!(told(&code, 0x4000, 100), "good");
}

#[test]
fn a_file_that_is_none_says_nothing() {
    let mut swapped = Dump::new(0, 0).load(10, 0x1000, 64, "f").0;
    swapped[..4].reverse();
    let mut endless = Dump::new(0, 0).0;
    endless.extend([0; 64]);
    for bytes in [swapped, endless, vec![0xff; 4096]] {
        let (mut dump, mut code) = (Jitdump::default(), CodeMap::default());
        dump.feed(&bytes, NOW, &mut code);
        assert!(dump.is_broken() && code.is_empty());
    }
}

#[test]
fn a_record_as_long_as_can_be_is_passed_over_in_no_memory() {
    let mut bytes = Dump::new(0, 0).0;
    for (id, total) in [(CODE_DEBUG_INFO, u32::MAX), (9, u32::MAX)] {
        bytes.extend(u32::to_ne_bytes(id));
        bytes.extend(u32::to_ne_bytes(total));
        bytes.extend(1_u64.to_ne_bytes());
        let (mut dump, mut code) = (Jitdump::default(), CodeMap::default());
        dump.feed(&bytes, NOW, &mut code);
        for _ in 0..64 {
            dump.feed(&[0; 1 << 16], NOW, &mut code);
        }
        assert!(dump.skip() > 0 && dump.partial.capacity() <= MOST_DEBUG_BYTES);
        bytes = Dump::new(0, 0).0;
    }
}

proptest! {
    #[test]
    fn it_does_not_matter_how_the_bytes_arrive(pieces in prop::collection::vec(1_usize..90, 1..9)) {
        let long = "x".repeat(MOST_NAME_BYTES + 100);
        let dump = Dump::new(0, 0)
            .lines(0x1000, &[(0x1000, 5, "/a.js"), (0x1010, 6, "/b.js")])
            .load(10, 0x1000, 100, "first")
            .load(20, 0x2000, 10, &long)
            .record(4, 25, &[1; 50])
            .moved(30, 0x1000, 0x3000, 100);
        let (whole, expected) = dump.read();
        let (mut read, mut code) = (Jitdump::default(), CodeMap::default());
        let mut rest = &dump.0[..];
        for piece in pieces.iter().cycle() {
            // What need not be read may be passed over.
            let skip = (read.skip() as usize).min(rest.len());
            read.passed(skip as u64);
            rest = &rest[skip..];
            let (now, later) = rest.split_at((*piece).min(rest.len()));
            read.feed(now, NOW, &mut code);
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(whole.garbage(), read.garbage());
        for address in [0x1000, 0x2000, 0x2009, 0x3000, 0x3063, 0x3064] {
            for time_ns in [5, 15, 25, 35] {
                prop_assert_eq!(told(&expected, address, time_ns), told(&code, address, time_ns));
            }
        }
        prop_assert_eq!(line(&code, 0x3005), Some(("/a.js".to_owned(), 5)));
    }
}
