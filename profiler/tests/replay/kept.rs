//! Walks in small text files: what one walk reads and looks up, and the frames that gdb has.
//!
//! They are replayed where there is no gdb, and stay as they are when libraries change. `BLESS=1`
//! rewrites them from the programs they were taken from; read the difference.
//!
//! A file has one fact a line, and a remark behind each `#`:
//!
//! ```text
//! registers REGISTER…              17 of them, by their DWARF numbers
//! position exact | return
//! memory ADDRESS BYTES             what is not there cannot be read
//! code ADDRESS KNOWLEDGE GROWTH    what is known of the code at an address
//! frame ADDRESS NAME               gdb's frames, innermost first
//! walked COUNT STOP                how many of them we have, and why no more
//! ```

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use ebpfprof::{
    replay::{Replay, Thread},
    unwind::{Code, walk},
};
use profiler_common::{
    frame::Position,
    step::{AllRegisters, Growth, Registers, UserMemory},
    stop::StopReason,
    unwind::Rule,
    walk::{Cursor, Knowledge},
};

use crate::gdb::Frame;

/// Bytes of a line of memory.
const LINE: usize = 16;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/replay/kept")
}

/// A walk that reads what a file holds.
struct Kept {
    registers: AllRegisters,
    position: Position,
    memory: BTreeMap<u64, [u8; LINE]>,
    code: BTreeMap<u64, (Knowledge, Growth)>,
    frames: Vec<Frame>,
    walked: usize,
    stop: StopReason,
}

impl UserMemory for Kept {
    fn read<const N: usize>(&self, address: u64) -> Option<[u8; N]> {
        let mut out = [0; N];
        for (at, byte) in (address..).zip(&mut out) {
            let line = self.memory.get(&(at - at % LINE as u64))?;
            *byte = line[at as usize % LINE];
        }
        Some(out)
    }
}

impl Code for Kept {
    fn look_up(&self, address: u64) -> Result<(Knowledge, Growth), StopReason> {
        self.code
            .get(&address)
            .copied()
            .ok_or(StopReason::UnknownCode)
    }
}

/// Passes reads and lookups on, and keeps them.
struct Recorder<'a> {
    replay: &'a Replay,
    memory: RefCell<BTreeMap<u64, [u8; LINE]>>,
    code: RefCell<BTreeMap<u64, (Knowledge, Growth)>>,
}

impl UserMemory for Recorder<'_> {
    fn read<const N: usize>(&self, address: u64) -> Option<[u8; N]> {
        let first = address - address % LINE as u64;
        let mut memory = self.memory.borrow_mut();
        for line in (first..address.checked_add(N as u64)?).step_by(LINE) {
            if let Some(bytes) = self.replay.read(line) {
                memory.insert(line, bytes);
            }
        }
        self.replay.read(address)
    }
}

impl Code for Recorder<'_> {
    fn look_up(&self, address: u64) -> Result<(Knowledge, Growth), StopReason> {
        let found = self.replay.look_up(address)?;
        self.code.borrow_mut().insert(address, found);
        Ok(found)
    }
}

/// Writes the file of a walk, if asked to.
#[track_caller]
pub(crate) fn bless(name: &str, replay: &Replay, thread: &Thread, gdb: &[Frame]) {
    if std::env::var_os("BLESS").is_none() {
        return;
    }
    let recorder = Recorder {
        replay,
        memory: RefCell::default(),
        code: RefCell::default(),
    };
    let walked = walk(thread.innermost(), &thread.registers, &recorder, &recorder);
    let kept = Kept {
        registers: thread.registers,
        position: thread.position,
        memory: recorder.memory.take(),
        code: recorder.code.take(),
        frames: gdb.to_vec(),
        walked: walked.frames.len(),
        stop: walked.stop,
    };
    fs::create_dir_all(folder()).unwrap();
    let text = kept.to_text(replay.code().first().map(|code| code.path.as_str()));
    fs::write(folder().join(name).with_extension("txt"), text).unwrap();
}

impl Kept {
    fn to_text(&self, path: Option<&str>) -> String {
        let mut out = String::new();
        if let (Some(first), Some(path)) = (self.frames.first(), path) {
            let program = Path::new(path).file_name().unwrap_or_default();
            writeln!(out, "# {}, in {}", program.display(), first.name).unwrap();
        }
        out.push_str("registers");
        for register in self.registers {
            write!(out, " {register:x}").unwrap();
        }
        let position = match self.position {
            Position::Exact => "exact",
            Position::ReturnAddress => "return",
        };
        writeln!(out, "\nposition {position}").unwrap();
        for (address, bytes) in &self.memory {
            let bytes: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            writeln!(out, "memory {address:x} {bytes}").unwrap();
        }
        for (address, (knowledge, growth)) in &self.code {
            let (knowledge, remark) = match knowledge {
                Knowledge::Rule(word) => (
                    format!("{word:x}"),
                    format!(" # {:?}", Rule::decode(*word).unwrap()),
                ),
                other => (format!("{other:?}"), String::new()),
            };
            writeln!(out, "code {address:x} {knowledge} {growth:?}{remark}").unwrap();
        }
        for frame in &self.frames {
            writeln!(out, "frame {:x} {}", frame.pc, frame.name).unwrap();
        }
        writeln!(out, "walked {} {:?}", self.walked, self.stop).unwrap();
        out
    }

    fn of_text(text: &str) -> Option<Self> {
        let mut kept = Self {
            registers: [0; 17],
            position: Position::Exact,
            memory: BTreeMap::new(),
            code: BTreeMap::new(),
            frames: Vec::new(),
            walked: 0,
            stop: StopReason::Absent,
        };
        for line in text.lines() {
            let line = line.split('#').next()?;
            let mut words = line.split_whitespace();
            if let Some(kind) = words.next() {
                kept.line(kind, &words.collect::<Vec<&str>>())?;
            }
        }
        Some(kept)
    }

    fn line(&mut self, kind: &str, words: &[&str]) -> Option<()> {
        match (kind, words) {
            ("registers", words) => {
                let values: Option<Vec<u64>> = words.iter().map(|word| hex(word)).collect();
                self.registers = values?.try_into().ok()?;
            }
            ("position", [position]) => {
                self.position = match *position {
                    "exact" => Position::Exact,
                    "return" => Position::ReturnAddress,
                    _ => return None,
                };
            }
            ("memory", [address, bytes]) => {
                let bytes = u128::from_str_radix(bytes, 16).ok()?.to_be_bytes();
                self.memory.insert(hex(address)?, bytes);
            }
            ("code", [address, knowledge, growth]) => {
                let growths = [Growth::Strict, Growth::MaySwitch];
                let growth = named(&growths, growth)?;
                let others = [Knowledge::NoRow, Knowledge::NoTable, Knowledge::Generated];
                let knowledge = match named(&others, knowledge) {
                    Some(knowledge) => knowledge,
                    None => Knowledge::Rule(hex(knowledge)?),
                };
                self.code.insert(hex(address)?, (knowledge, growth));
            }
            ("frame", [pc, name @ ..]) => self.frames.push(Frame {
                pc: hex(pc)?,
                name: name.join(" "),
            }),
            ("walked", [count, stop]) => {
                self.walked = count.parse().ok()?;
                self.stop = named(&StopReason::ALL, stop)?;
            }
            _ => return None,
        }
        Some(())
    }

    #[track_caller]
    fn check(&self, name: &str) {
        let innermost = Cursor::innermost(Registers::of(&self.registers), self.position);
        let walked = walk(innermost, &self.registers, self, self);
        let found: Vec<u64> = walked.frames.iter().map(|frame| frame.pc).collect();
        let frames = self.frames.iter().map(|frame| frame.pc);
        let expected: Vec<u64> = frames.take(self.walked).collect();
        assert_eq!((found, walked.stop), (expected, self.stop), "{name}");
    }
}

fn hex(word: &str) -> Option<u64> {
    u64::from_str_radix(word, 16).ok()
}

/// The value with this name.
fn named<T: Copy + std::fmt::Debug>(values: &[T], name: &str) -> Option<T> {
    let mut values = values.iter().copied();
    values.find(|value| format!("{value:?}") == name)
}

/// The fewest files that make a test of it.
const FEWEST: usize = 12;

#[test]
fn kept_walks_have_the_frames_that_gdb_has() {
    let mut files: Vec<PathBuf> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() >= FEWEST, "{} files", files.len());
    for file in files {
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        let text = fs::read_to_string(&file).unwrap();
        let kept = Kept::of_text(&text).unwrap_or_else(|| panic!("{name}: not in the form"));
        let more = usize::from(ONE_MORE.contains(&name.as_str()));
        let is_whole = kept.walked + more == kept.frames.len() && kept.stop.is_complete();
        assert!(is_whole, "{name}");
        kept.check(&name);
    }
}

/// Kept walks where gdb takes what a context would go on with for a caller.
const ONE_MORE: [&str; 1] = ["coroutine"];
