//! Reads jitdump files: records of code that was made at run time, each with its time.
//!
//! Source: `tools/perf/Documentation/jitdump-specification.txt` of the kernel, version 2. The bytes
//! arrive in pieces of any size, and may be anything; the code itself is passed over.

use super::{
    code::{Appeared, CodeMap, MOST_NAME_BYTES},
    lines::Lines,
};

const MAGIC: u32 = 0x4A69_5444;
const HEADER_BYTES: usize = 40;
const RECORD_BYTES: usize = 16;
/// Fixed parts of records, with their headers.
const LOAD_BYTES: usize = 56;
const MOVE_BYTES: usize = 64;
const DEBUG_BYTES: usize = 32;
const DEBUG_ENTRY_BYTES: usize = 16;
/// The most that is read of one record of lines: what is beyond has none.
const MOST_DEBUG_BYTES: usize = 1 << 20;
/// Flag of the header: times are the processor's own, which nothing of ours can be compared with.
const ARCH_TIMESTAMP: u64 = 1;

const CODE_LOAD: u32 = 0;
const CODE_MOVE: u32 = 1;
const CODE_DEBUG_INFO: u32 = 2;
const CODE_CLOSE: u32 = 3;

/// What V8 writes into the header's unused word.
/// Source: `src/diagnostics/perf-jit.cc` of V8.
const PAD_OF_V8: u32 = 0xDEAD_BEEF;
/// V8 adds the size of the ELF header that `perf inject` puts before the code to the address of
/// each line.
const V8_LINE_OFFSET: u64 = 64;
/// The name of a file that is that of the line before.
const SAME_FILE: &[u8] = b"\xff";

/// By what the times in the file are ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    /// Its time namespace's `CLOCK_MONOTONIC` minus ours, in nanoseconds.
    pub offset_ns: i64,
}

/// A jitdump file, as far as it was read.
#[derive(Debug, Default)]
pub struct Jitdump {
    clock: Clock,
    header: Option<Header>,
    /// Of the record under way, or of the header.
    partial: Vec<u8>,
    /// Bytes to pass over.
    skip: u64,
    /// Lines of the code that is to come.
    lines: Option<(u64, Lines)>,
    is_broken: bool,
    garbage: u64,
    newest_ns: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Header {
    pid: u32,
    is_v8: bool,
    has_our_time: bool,
}

/// How much of the bytes at hand belongs to one thing, once all of it is there.
enum Need {
    More(usize),
    /// This many are taken, of a record this long.
    Whole {
        taken: usize,
        record: u64,
    },
}

impl Jitdump {
    /// Nothing read yet.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            ..Self::default()
        }
    }

    /// Takes the next bytes, which came into the file at that time.
    pub fn feed(&mut self, mut bytes: &[u8], appeared: Appeared, code: &mut CodeMap) {
        while !self.is_broken && !bytes.is_empty() {
            if self.skip > 0 {
                let now = usize::try_from(self.skip).map_or(bytes.len(), |n| n.min(bytes.len()));
                self.skip -= now as u64;
                bytes = &bytes[now..];
                continue;
            }
            match self.need() {
                Need::More(total) => {
                    let now = (total - self.partial.len()).min(bytes.len());
                    self.partial.extend_from_slice(&bytes[..now]);
                    bytes = &bytes[now..];
                }
                Need::Whole { .. } => {}
            }
            if let Need::Whole { taken, record } = self.need() {
                self.take(appeared, code);
                self.skip = record.saturating_sub(taken as u64);
                self.partial.clear();
                self.partial.shrink_to(MOST_NAME_BYTES + LOAD_BYTES);
            }
        }
    }

    /// Bytes that need not be read: [`Jitdump::passed`] tells that they were passed over.
    #[must_use]
    pub fn skip(&self) -> u64 {
        self.skip
    }

    /// That many were passed over.
    pub fn passed(&mut self, bytes: u64) {
        self.skip = self.skip.saturating_sub(bytes);
    }

    /// Whether the rest of the file cannot be understood.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// By what its times are ours.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// The time of the newest record read, if records have times of ours.
    #[must_use]
    pub fn newest_ns(&self) -> Option<u64> {
        self.newest_ns
    }

    /// Records that say nothing of any code of this process.
    #[must_use]
    pub fn garbage(&self) -> u64 {
        self.garbage
    }

    fn need(&mut self) -> Need {
        let have = self.partial.len();
        if self.header.is_none() {
            return match have {
                HEADER_BYTES => Need::Whole {
                    taken: have,
                    record: u64::from(word(&self.partial, 8)),
                },
                _ => Need::More(HEADER_BYTES),
            };
        }
        if have < RECORD_BYTES {
            return Need::More(RECORD_BYTES);
        }
        let record = word(&self.partial, 4) as usize;
        let most = match word(&self.partial, 0) {
            CODE_LOAD => return self.need_of_load(record),
            CODE_MOVE => MOVE_BYTES,
            CODE_DEBUG_INFO => MOST_DEBUG_BYTES,
            _ => RECORD_BYTES,
        };
        let wanted = record.min(most).max(RECORD_BYTES);
        if have < wanted {
            Need::More(wanted)
        } else {
            Need::Whole {
                taken: have,
                record: record as u64,
            }
        }
    }

    /// The name, but not the code that follows it.
    fn need_of_load(&self, record: usize) -> Need {
        let have = self.partial.len();
        let wanted = record.clamp(RECORD_BYTES, LOAD_BYTES + MOST_NAME_BYTES + 1);
        let name = self.partial.get(LOAD_BYTES..).unwrap_or_default();
        if have >= wanted || name.contains(&0) {
            return Need::Whole {
                taken: have,
                record: record as u64,
            };
        }
        // A name is short as a rule, and what comes after it need not be copied.
        let step = if have < LOAD_BYTES {
            LOAD_BYTES
        } else {
            have + 64
        };
        Need::More(step.min(wanted))
    }

    fn take(&mut self, appeared: Appeared, code: &mut CodeMap) {
        let bytes = std::mem::take(&mut self.partial);
        let Some(header) = self.header else {
            self.take_header(&bytes);
            return;
        };
        if (word(&bytes, 4) as usize) < RECORD_BYTES {
            self.is_broken = true;
            return;
        }
        let appeared = self.time_of(long(&bytes, 8), header, appeared);
        let is_taken = match word(&bytes, 0) {
            CODE_LOAD => self.load(&bytes, header, appeared, code),
            CODE_MOVE => shift(&bytes, header, appeared, code),
            CODE_DEBUG_INFO => {
                self.lines = lines_of(&bytes, header);
                true
            }
            // What comes after the end was written by somebody else.
            CODE_CLOSE => true,
            _ => true,
        };
        self.garbage += u64::from(!is_taken);
        self.partial = bytes;
    }

    fn take_header(&mut self, bytes: &[u8]) {
        let is_it = word(bytes, 0) == MAGIC && word(bytes, 8) as usize >= HEADER_BYTES;
        self.is_broken = !is_it;
        self.header = is_it.then(|| Header {
            pid: word(bytes, 20),
            is_v8: word(bytes, 16) == PAD_OF_V8,
            has_our_time: long(bytes, 32) & ARCH_TIMESTAMP == 0,
        });
    }

    /// When a record's code came to be. A time that cannot be is not believed: then what is known is
    /// when the record came into the file.
    fn time_of(&mut self, stamp_ns: u64, header: Header, appeared: Appeared) -> Appeared {
        let ours = stamp_ns.checked_add_signed(self.clock.offset_ns.wrapping_neg());
        match ours.filter(|ns| header.has_our_time && *ns != 0 && *ns <= appeared.by_ns) {
            Some(ns) => {
                self.newest_ns = self.newest_ns.max(Some(ns));
                Appeared::at(ns)
            }
            None => appeared,
        }
    }

    fn load(
        &mut self,
        bytes: &[u8],
        header: Header,
        appeared: Appeared,
        code: &mut CodeMap,
    ) -> bool {
        let Some(name) = bytes.get(LOAD_BYTES..) else {
            return false;
        };
        let name = &name[..memchr::memchr(0, name).unwrap_or(name.len())];
        let (vma, start, size) = (long(bytes, 24), long(bytes, 32), long(bytes, 40));
        let lines = self.lines.take().filter(|(of, _)| *of == start);
        // By default both addresses are the same; where they are not, the code runs at the other.
        let runs_at = if vma == 0 { start } else { vma };
        let is_ours = word(bytes, 16) == header.pid;
        let Some(end) = runs_at.checked_add(size) else {
            return false;
        };
        if !is_ours || name.is_empty() || size == 0 {
            return false;
        }
        let lines = lines.map(|(_, lines)| lines);
        code.insert(runs_at..end, name, appeared, lines);
        true
    }
}

fn shift(bytes: &[u8], header: Header, appeared: Appeared, code: &mut CodeMap) -> bool {
    if bytes.len() < MOVE_BYTES || word(bytes, 16) != header.pid {
        return false;
    }
    let (vma, from, to) = (long(bytes, 24), long(bytes, 32), long(bytes, 40));
    let to = if vma == 0 { to } else { vma };
    code.shift(from, to, long(bytes, 48), appeared);
    true
}

fn lines_of(bytes: &[u8], header: Header) -> Option<(u64, Lines)> {
    let mut rest = bytes.get(DEBUG_BYTES..)?;
    let start = long(bytes, 16);
    let extra = if header.is_v8 { V8_LINE_OFFSET } else { 0 };
    let mut lines = Lines::default();
    let mut file: &[u8] = b"";
    for _ in 0..long(bytes, 24) {
        let Some(end) = rest
            .get(DEBUG_ENTRY_BYTES..)
            .and_then(|name| memchr::memchr(0, name))
        else {
            break;
        };
        let name = &rest[DEBUG_ENTRY_BYTES..DEBUG_ENTRY_BYTES + end];
        if name != SAME_FILE {
            file = &name[..end.min(MOST_NAME_BYTES)];
        }
        let offset = long(rest, 0).wrapping_sub(start).checked_sub(extra);
        if let Some(offset) = offset.and_then(|offset| u32::try_from(offset).ok()) {
            lines.add(offset, word(rest, 8), file);
        }
        rest = &rest[DEBUG_ENTRY_BYTES + end + 1..];
    }
    (!lines.is_empty()).then(|| (start, lines.sorted()))
}

/// The word at an offset, of which the bytes hold enough, else 0.
fn word(bytes: &[u8], at: usize) -> u32 {
    let found = bytes.get(at..).and_then(|bytes| bytes.first_chunk());
    found.map_or(0, |bytes| u32::from_ne_bytes(*bytes))
}

/// As [`word`], of eight bytes.
fn long(bytes: &[u8], at: usize) -> u64 {
    let found = bytes.get(at..).and_then(|bytes| bytes.first_chunk());
    found.map_or(0, |bytes| u64::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests;
