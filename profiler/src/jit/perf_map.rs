//! Reads perf maps: a line for each piece of code, `START BYTES NAME`, numbers in hex.
//!
//! Source: `tools/perf/Documentation/jit-interface.txt` of the kernel. The bytes arrive in pieces of
//! any size, and may be anything.

use std::ops::Range;

use super::code::{Appeared, CodeMap};

/// The longest line that is read. A name is cut well before.
const MOST_LINE_BYTES: usize = 64 << 10;

/// A perf map, as far as it was read.
#[derive(Debug, Default)]
pub struct PerfMap {
    /// The start of a line whose end is yet to come.
    partial: Vec<u8>,
    /// The line under way is too long.
    is_skipping: bool,
    garbage: u64,
}

impl PerfMap {
    /// Takes the next bytes. A line counts once its end is there.
    pub fn feed(&mut self, mut bytes: &[u8], appeared: Appeared, code: &mut CodeMap) {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
            bytes = rest;
            if std::mem::take(&mut self.is_skipping)
                || self.partial.len() + line.len() > MOST_LINE_BYTES
            {
                self.garbage += 1;
            } else if self.partial.is_empty() {
                self.line(line, appeared, code);
            } else {
                let mut whole = std::mem::take(&mut self.partial);
                whole.extend_from_slice(line);
                self.line(&whole, appeared, code);
                self.partial = whole;
            }
            self.partial.clear();
        }
        if self.is_skipping || self.partial.len() + bytes.len() > MOST_LINE_BYTES {
            self.is_skipping = true;
            self.partial = Vec::new();
        } else {
            self.partial.extend_from_slice(bytes);
        }
    }

    /// Lines that say nothing of any code.
    #[must_use]
    pub fn garbage(&self) -> u64 {
        self.garbage
    }

    fn line(&mut self, line: &[u8], appeared: Appeared, code: &mut CodeMap) {
        match parse(line) {
            Some((at, name)) => code.insert(at, name, appeared, None),
            None => self.garbage += 1,
        }
    }
}

/// Addresses and name. What a file that was cut under its writer has before the next line is NULs.
fn parse(line: &[u8]) -> Option<(Range<u64>, &[u8])> {
    let line = line.trim_ascii_start();
    let (start, rest) = hex(line)?;
    let (bytes, rest) = hex(rest.trim_ascii_start())?;
    let name = rest.trim_ascii();
    let is_name = !name.is_empty() && memchr::memchr(0, name).is_none();
    let end = start.checked_add(bytes)?;
    (is_name && bytes > 0).then_some((start..end, name))
}

/// A number in hex, with or without `0x`, up to the next blank.
fn hex(text: &[u8]) -> Option<(u64, &[u8])> {
    let digits = text
        .strip_prefix(b"0x")
        .or_else(|| text.strip_prefix(b"0X"))
        .unwrap_or(text);
    let mut number = 0_u64;
    let mut length = 0;
    for byte in digits {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            b' ' | b'\t' => break,
            _ => return None,
        };
        if number >> 60 != 0 {
            return None;
        }
        number = number << 4 | u64::from(digit);
        length += 1;
    }
    (length > 0).then_some((number, &digits[length..]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::jit::code::{Found, Late};

    const EARLY: Appeared = Appeared {
        after_ns: 0,
        by_ns: 10,
    };

    fn name_at(code: &CodeMap, address: u64) -> Option<String> {
        match code.find(address, 20, Late::No) {
            Found::Code(code) => Some(String::from_utf8_lossy(code.name).into_owned()),
            Found::Nothing | Found::Unsure => None,
        }
    }

    fn read(text: &[u8]) -> (PerfMap, CodeMap) {
        let (mut map, mut code) = (PerfMap::default(), CodeMap::default());
        map.feed(text, EARLY, &mut code);
        (map, code)
    }

    #[track_caller]
    fn check(line: &str, address: u64, expected: Option<&str>) {
        let (map, code) = read(format!("{line}\n").as_bytes());
        assert_eq!(name_at(&code, address).as_deref(), expected, "{line}");
        assert_eq!(map.garbage(), u64::from(expected.is_none()), "{line}");
    }

    #[test]
    fn lines_of_all_runtimes_are_read() {
        check(
            "1000 10 JS:*foo /x.js:1:2",
            0x100f,
            Some("JS:*foo /x.js:1:2"),
        );
        check(
            "0x00007f2dc8ecd420 0x00000000000003d8 int Hot.inner(int)",
            0x7f2d_c8ec_d420,
            Some("int Hot.inner(int)"),
        );
        check("1000 b py::f:/a b.py\r", 0x1000, Some("py::f:/a b.py"));
        check("  1000\t10\tname", 0x1000, Some("name"));
        check("ffffffffffff0000 10 x", 0xffff_ffff_ffff_0000, Some("x"));
    }

    #[test]
    fn lines_that_say_nothing_are_counted() {
        for line in [
            "",
            "garbage",
            "1000",
            "1000 10",
            "1000 10 ",
            "1000 0 empty",
            "ffffffffffffffff 1 beyond",
            "11111111111111111 1 long",
            "-1 10 negative",
            "1000 10 nul\0name",
            "\0\0\0\x001000 10 name",
            "0x 10 name",
        ] {
            check(line, 0x1000, None);
        }
    }

    #[test]
    fn invalid_text_is_kept_as_it_is() {
        let (_, code) = read(b"1000 10 a\xffb\n");
        assert_eq!(name_at(&code, 0x1000).as_deref(), Some("a\u{fffd}b"));
    }

    #[test]
    fn a_line_without_its_end_waits_for_it() {
        let (mut map, mut code) = read(b"1000 10 first\n2000 10 sec");
        assert_eq!(name_at(&code, 0x2000), None);
        map.feed(b"ond\n", EARLY, &mut code);
        assert_eq!(name_at(&code, 0x2000).as_deref(), Some("second"));
        assert_eq!(map.garbage(), 0);
    }

    #[test]
    fn a_line_of_megabytes_takes_no_memory_and_the_next_one_counts() {
        let (mut map, mut code) = (PerfMap::default(), CodeMap::default());
        for _ in 0..64 {
            map.feed(&vec![b'1'; MOST_LINE_BYTES], EARLY, &mut code);
            assert!(map.partial.capacity() <= MOST_LINE_BYTES);
        }
        map.feed(b" 10 x\n2000 10 name\n", EARLY, &mut code);
        assert_eq!(name_at(&code, 0x2000).as_deref(), Some("name"));
        assert_eq!((map.garbage(), code.len()), (1, 1));
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_the_bytes_arrive(
            lines in prop::collection::vec("[0-9a-f]{1,3} [0-9a-f]{1,2} [a-c\0 ]{0,3}|.{0,8}", 0..20),
            pieces in prop::collection::vec(1_usize..20, 1..9),
        ) {
            let text = lines.join("\n");
            let (map, code) = read(text.as_bytes());
            let (mut other_map, mut other_code) = (PerfMap::default(), CodeMap::default());
            let mut rest = text.as_bytes();
            for piece in pieces.iter().cycle() {
                let (now, later) = rest.split_at((*piece).min(rest.len()));
                other_map.feed(now, EARLY, &mut other_code);
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(map.garbage(), other_map.garbage());
            for address in 0..0x1100 {
                prop_assert_eq!(name_at(&code, address), name_at(&other_code, address));
            }
        }
    }
}
