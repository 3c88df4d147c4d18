//! Folded stacks: one line of text for each stack, outermost frame first, and its count.
//!
//! The last space of a line separates the count. There are no comments: every line is a stack, but
//! for those that are blank. Stacks that are told twice add up. Suffixes give back what a frame
//! is: `_[k]` kernel, `_[i]` inlined into the one before, `_[j]` made at run time. What a suffix
//! would not be written behind again is part of the name, so our own files come out as they went
//! in. The first frame is a frame: only who wrote the file knows whether it is a thread's name.

use std::io::BufRead;

use foldhash::HashMap;

use super::{ImportError, SampleIndex, Settings, input::Input};
use crate::{
    export::folded,
    profile::{
        FrameKind, Function, FunctionId, Line, Location, LocationId, Mapping, MappingId,
        MappingKind, Profile, SAMPLES_COUNT, StringId,
    },
};

/// The longest line, in bytes.
const MOST_LINE_BYTES: u64 = 16 << 20;

/// Bytes shown of what is wrong.
const MOST_SHOWN: usize = 40;

/// Reads a profile.
///
/// # Errors
/// The first line that is no stack with a count, or why there are no lines.
pub(super) fn read(settings: &Settings, input: &mut dyn BufRead) -> Result<Profile, ImportError> {
    let mut input = Input::new(input, settings.most_bytes)?;
    check_asked(settings.sample_index.as_ref())?;
    let mut stacks = Stacks::new();
    let mut bytes = Vec::new();
    for number in 1.. {
        if !input.line(&mut bytes, MOST_LINE_BYTES)? {
            break;
        }
        if bytes.len() as u64 > MOST_LINE_BYTES {
            return Err(ImportError::LongLine {
                line: number,
                most_bytes: MOST_LINE_BYTES,
            });
        }
        let line = String::from_utf8_lossy(&bytes);
        // With the end of the line, of either kind.
        let line = line.trim_end();
        if !line.is_empty() {
            let (stack, count) = split(line, number)?;
            stacks.add(stack, count)?;
        }
    }
    Ok(stacks.profile)
}

/// Folded stacks have one value.
fn check_asked(asked: Option<&SampleIndex>) -> Result<(), ImportError> {
    match asked {
        None | Some(SampleIndex::Position(0)) => Ok(()),
        Some(SampleIndex::Kind(kind)) if *kind == SAMPLES_COUNT.kind => Ok(()),
        Some(asked) => Err(ImportError::NoSuchValue {
            asked: asked.clone(),
            kinds: vec![SAMPLES_COUNT.kind.to_string()],
        }),
    }
}

/// A line as its stack and its count.
fn split(line: &str, number: u64) -> Result<(&str, u64), ImportError> {
    let (stack, count) = line.rsplit_once(' ').unwrap_or(("", line));
    let shown = || count.chars().take(MOST_SHOWN).collect();
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if is_digits(count) && stack.len() < line.len() - count.len() {
        return match count.parse() {
            Ok(count) => Ok((stack, count)),
            Err(_) => Err(ImportError::TooMuch),
        };
    }
    match count.split_once('.') {
        Some((whole, part)) if is_digits(whole) && is_digits(part) => Err(ImportError::Fraction {
            line: number,
            found: shown(),
        }),
        _ => Err(ImportError::NoCount {
            line: number,
            found: shown(),
        }),
    }
}

/// What a suffix says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    None,
    Kernel,
    Jit,
    Inlined,
}

impl Mark {
    const SUFFIXES: [(Self, &'static str); 3] = [
        (Self::Kernel, "_[k]"),
        (Self::Jit, "_[j]"),
        (Self::Inlined, "_[i]"),
    ];

    /// A frame's name without its mark, if it would be written so.
    fn of(frame: &str) -> (&str, Self) {
        let found = Self::SUFFIXES.into_iter().find_map(|(mark, suffix)| {
            let name = frame.strip_suffix(suffix)?;
            let is_same = !name.is_empty() && folded::frame(name, suffix) == frame;
            is_same.then_some((name, mark))
        });
        found.unwrap_or((frame, Self::None))
    }
}

/// The stacks on their way into a profile.
struct Stacks {
    profile: Profile,
    /// The function of each name that was met.
    functions: HashMap<String, FunctionId>,
    kernel: Option<MappingId>,
    total: u64,
}

impl Stacks {
    fn new() -> Self {
        Self {
            profile: Profile::counting(SAMPLES_COUNT),
            functions: HashMap::default(),
            kernel: None,
            total: 0,
        }
    }

    fn add(&mut self, stack: &str, count: u64) -> Result<(), ImportError> {
        let total = self.total.checked_add(count);
        let total = total.filter(|total| i64::try_from(*total).is_ok());
        self.total = total.ok_or(ImportError::TooMuch)?;
        // Outermost first, and so are the lines of each.
        let mut locations: Vec<Location> = Vec::new();
        for frame in stack.split(';').filter(|_| !stack.is_empty()) {
            self.push(frame, &mut locations);
        }
        let told = locations.into_iter().rev().map(|mut told| {
            told.lines.reverse();
            self.profile.told_location(told)
        });
        let stack: Vec<LocationId> = told.collect();
        self.profile.add(&stack, &[], count);
        Ok(())
    }

    /// Adds a frame to the stack: to the last location if it was inlined there.
    fn push(&mut self, frame: &str, stack: &mut Vec<Location>) {
        let (name, mark) = Mark::of(frame);
        if mark == Mark::Inlined {
            let line = self.line(name);
            match stack.last_mut() {
                Some(caller) if caller.kind != FrameKind::Kernel => caller.lines.push(line),
                // Nothing is inlined into nothing, and the kernel's frames have a mark of their own.
                _ => self.push_as(frame, FrameKind::User, stack),
            }
            return;
        }
        let kind = match mark {
            Mark::Kernel => FrameKind::Kernel,
            Mark::Jit => FrameKind::Jit,
            Mark::None | Mark::Inlined => FrameKind::User,
        };
        self.push_as(name, kind, stack);
    }

    fn push_as(&mut self, name: &str, kind: FrameKind, stack: &mut Vec<Location>) {
        let location = Location {
            kind,
            mapping: (kind == FrameKind::Kernel).then(|| self.kernel()),
            address: 0,
            lines: vec![self.line(name)],
        };
        stack.push(location);
    }

    fn line(&mut self, name: &str) -> Line {
        let function = match self.functions.get(name) {
            Some(function) => *function,
            None => {
                let text = self.profile.string(name);
                let function = self.profile.function(Function {
                    name: text,
                    system_name: StringId::EMPTY,
                    file: StringId::EMPTY,
                    start_line: 0,
                });
                self.functions.insert(name.to_owned(), function);
                function
            }
        };
        Line {
            function,
            line: 0,
            column: 0,
        }
    }

    /// The kernel's mapping, by which readers of pprof know its code; and one before it, which they
    /// take for the program.
    fn kernel(&mut self) -> MappingId {
        if let Some(kernel) = self.kernel {
            return kernel;
        }
        let [_, kernel] = [
            (MappingKind::Host, "[unknown]"),
            (MappingKind::Kernel, "[kernel.kallsyms]"),
        ]
        .map(|(kind, path)| {
            let path = self.profile.string(path);
            self.profile.mapping(Mapping {
                kind,
                start: 0,
                limit: 0,
                file_offset: 0,
                path,
                build_id: StringId::EMPTY,
            })
        });
        self.kernel = Some(kernel);
        kernel
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        error::Explain,
        export::{self, Format},
    };

    fn read_text(text: &[u8]) -> Result<Profile, ImportError> {
        let settings = Settings {
            sample_index: None,
            most_bytes: 20 << 20,
        };
        read(&settings, &mut { text })
    }

    /// Checks what is written again of a text.
    #[track_caller]
    fn check(text: &str, expected: &str) {
        let profile = read_text(text.as_bytes()).unwrap();
        let mut written = Vec::new();
        export::write(Format::Folded, &profile, &mut written).unwrap();
        assert_eq!(String::from_utf8(written).unwrap(), expected);
    }

    #[track_caller]
    fn check_same(text: &str) {
        check(text, text);
    }

    #[track_caller]
    fn check_refused(text: &[u8], expected: &str) {
        let error = read_text(text).expect_err(expected);
        let words = format!("{error}: {}", error.why());
        assert!(words.contains(expected), "{words}");
    }

    #[test]
    fn the_last_space_separates_the_count() {
        check("a;b c;d 12\r\n\n  \na;b c;d 3", "a;b c;d 15\n");
        check("f() const 1\n# comment 4\n", "# comment 4\nf() const 1\n");
        check("a 0\n", "");
        check("", "");
        check(" 7\n", "[unknown] 7\n");
        check("a;;b 1\n", "a;[unknown];b 1\n");
    }

    #[test]
    fn a_line_without_a_whole_count_is_named() {
        check_refused(
            b"a 1\nb;c\n",
            "cannot read line 2: it does not end in a count",
        );
        check_refused(b"12\n", "line 1: it does not end in a count");
        check_refused(b"a -1\n", "it ends in \"-1\"");
        check_refused(b"a 1.5\n", "cannot read line 1: 1.5 is no whole count");
        check_refused(b"a 1e3\n", "it ends in \"1e3\"");
        check_refused(b"a 18446744073709551616\n", "add up to more than");
        check_refused(b"a 9223372036854775807\nb 1\n", "add up to more than");
    }

    #[test]
    fn a_line_has_an_end() {
        check_refused(&vec![b'a'; 17 << 20], "it has more than 16777216 bytes");
        check_refused(&vec![b'\n'; 21 << 20], "more than 20971520 bytes");
    }

    #[test]
    fn suffixes_give_back_what_frames_are() {
        let profile = read_text(b"app;main;deep_[i];sys_read_[k];Foo.bar_[j] 2\n").unwrap();
        let kinds = profile.locations().iter();
        let kinds: Vec<(FrameKind, usize)> =
            kinds.map(|told| (told.kind, told.lines.len())).collect();
        let expected = [
            (FrameKind::Jit, 1),
            (FrameKind::Kernel, 1),
            (FrameKind::User, 2),
            (FrameKind::User, 1),
        ];
        assert_eq!(kinds, expected);
        let inlined = &profile.locations()[2].lines;
        assert_eq!(profile.line_name(&inlined[0]), "deep");
        assert_eq!(profile.line_name(&inlined[1]), "main");
    }

    #[test]
    fn what_is_no_suffix_of_ours_is_part_of_the_name() {
        check_same("_[k];a _[k];x 7_[k] 1\n");
        check_same("a_[i];b_[k];c_[i] 1\n");
        check_same("a_[k]_[k];b_[j]_[i];[kernel]_[k] 1\n");
        check_same("a;b_[w];c_[i]_[i];d_[j];e_[i] 1\n");
    }
}
