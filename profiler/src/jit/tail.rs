//! Reads a file that grows, from where it was left.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::FileExt,
    },
    time::{Duration, SystemTime},
};

use super::code::Appeared;
use crate::object::opener::{self, Seen};

/// What is read at one time.
const PIECE_BYTES: usize = 64 << 10;
/// What is compared before reading on: whether the file is still the one that was read.
const WITNESS_BYTES: usize = 256;
/// The clock that files are stamped by lags, by a tick of the kernel at most.
const STAMP_GRAIN_NS: u64 = 10_000_000;

/// Now, by the clock of samples and by that of files.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// In nanoseconds of `CLOCK_MONOTONIC`.
    pub ns: u64,
    /// The same moment.
    pub time: SystemTime,
}

impl Now {
    /// This moment. Time that passes between the two readings makes what was written look younger
    /// than it is, never older.
    #[must_use]
    pub fn read() -> Self {
        let time = SystemTime::now();
        Self {
            ns: crate::bpf::now_ns(),
            time,
        }
    }

    /// By when a file of this stamp was written, by the clock of samples. File systems that stamp by
    /// the second are not believed.
    fn written_ns(self, modified: Option<SystemTime>) -> u64 {
        let Some(modified) = modified.filter(|time| !is_whole_second(*time)) else {
            return self.ns;
        };
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let stamp_ns = match self.time.duration_since(modified) {
            Ok(age) => self.ns.saturating_sub(nanos(age)),
            Err(later) => self.ns.saturating_add(nanos(later.duration())),
        };
        stamp_ns.saturating_add(STAMP_GRAIN_NS)
    }
}

fn is_whole_second(time: SystemTime) -> bool {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.is_ok_and(|since| since.subsec_nanos() == 0)
}

/// What takes the bytes.
pub(super) trait Reader {
    /// The next bytes. They came into the file at that time.
    fn feed(&mut self, bytes: &[u8], appeared: Appeared);
    /// The next bytes that need not be read.
    fn skip(&self) -> u64 {
        0
    }
    /// That many were passed over.
    fn passed(&mut self, _bytes: u64) {}
    /// The rest of the file says nothing.
    fn is_done(&self) -> bool {
        false
    }
    /// The file is another since then, or was cut: what follows are its first bytes.
    fn start_over(&mut self, when: Appeared);
}

/// Where the file ended at some time.
#[derive(Clone, Copy, Debug)]
struct Mark {
    end: u64,
    appeared: Appeared,
}

/// Where a reader of a file stopped.
#[derive(Clone, Debug)]
pub(super) struct Left {
    file: (u64, u64),
    offset: u64,
    witness: Vec<u8>,
}

/// Where the bytes are.
#[derive(Debug)]
pub(super) enum Source {
    /// In a file of ours.
    Near(File),
    /// In a file on a server, which may not answer: each time it is asked for anew.
    Far(OwnedFd),
}

impl Source {
    pub(super) fn seen(&self) -> io::Result<Seen> {
        Ok(match self {
            Self::Near(file) => opener::seen(file)?,
            Self::Far(place) => opener::stat(place.as_fd())?,
        })
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        match self {
            Self::Near(file) => file.read_at(bytes, offset),
            Self::Far(place) => Ok(opener::read(place.as_fd(), offset, bytes)?),
        }
    }
}

/// A file, as far as it was read.
#[derive(Debug)]
pub(super) struct Tail {
    file: Source,
    offset: u64,
    /// The last bytes read, which end at `offset`, unless bytes were passed over there.
    witness: Vec<u8>,
    /// Where it ended when it was last looked at, and when that was.
    mark: Option<Mark>,
    looked_ns: u64,
    modified: Option<SystemTime>,
    failed: bool,
}

impl Tail {
    pub(super) fn new(file: Source) -> Self {
        Self {
            file,
            offset: 0,
            witness: Vec::new(),
            mark: None,
            looked_ns: 0,
            modified: None,
            failed: false,
        }
    }

    /// In place of a file that was last looked at then.
    pub(super) fn looked_at(mut self, ns: u64) -> Self {
        self.looked_ns = ns;
        self
    }

    /// On from where another reader of the file stopped, if what that read is still there.
    pub(super) fn after(mut self, left: &Left) -> Self {
        let Ok(seen) = self.file.seen() else {
            return self;
        };
        if (seen.device, seen.inode) != left.file || seen.bytes < left.offset {
            return self;
        }
        self.offset = left.offset;
        self.witness.clone_from(&left.witness);
        if self.is_witnessed() {
            // At the same length it is the same.
            self.modified = seen.modified_at().filter(|_| seen.bytes == left.offset);
        } else {
            self.offset = 0;
            self.witness.clear();
        }
        self
    }

    /// Where to go on later.
    pub(super) fn left(&self) -> Option<Left> {
        Some(Left {
            file: self.numbers()?,
            offset: self.offset,
            witness: self.witness.clone(),
        })
    }

    /// Device and inode.
    pub(super) fn numbers(&self) -> Option<(u64, u64)> {
        let seen = self.file.seen().ok()?;
        Some((seen.device, seen.inode))
    }

    pub(super) fn looked_ns(&self) -> u64 {
        self.looked_ns
    }

    /// Up to when all is read.
    pub(super) fn told_until(&self) -> u64 {
        if self.mark.is_none() && !self.failed {
            self.looked_ns
        } else {
            0
        }
    }

    /// Whether all is read that was there at the last look.
    pub(super) fn is_whole(&self) -> bool {
        self.failed || self.mark.is_none()
    }

    /// Looks whether the file grew.
    pub(super) fn look(&mut self, now: Now, reader: &mut impl Reader) {
        if !self.is_whole() || self.failed {
            return; // What was there at the last look comes first.
        }
        let Ok(seen) = self.file.seen() else {
            self.failed = true;
            return;
        };
        let (end, modified) = (seen.bytes, seen.modified_at());
        let is_same = end == self.offset && modified == self.modified;
        let was_read = self.offset != 0;
        if !is_same {
            let is_longer = end > self.offset && self.is_witnessed();
            if was_read && !is_longer {
                self.offset = 0;
                self.witness.clear();
                reader.start_over(Appeared::between(self.looked_ns, now.ns));
            }
            if end > self.offset {
                let by_ns = now.written_ns(modified).max(self.looked_ns);
                let appeared = Appeared::between(self.looked_ns, by_ns);
                self.mark = Some(Mark { end, appeared });
            }
        }
        self.modified = modified;
        self.looked_ns = now.ns;
    }

    /// Reads up to where the file ended at the last look, and no more than `most` bytes. How many
    /// were read.
    pub(super) fn read(&mut self, most: u64, reader: &mut impl Reader) -> u64 {
        let mut read = 0;
        let mut piece = vec![0; PIECE_BYTES];
        while let Some(Mark { end, appeared }) = self.mark {
            let skip = reader.skip().min(end - self.offset);
            if skip > 0 {
                reader.passed(skip);
                self.offset += skip;
                self.witness.clear();
            }
            if self.offset == end || self.failed || reader.is_done() {
                self.offset = end;
                self.mark = None;
                break;
            }
            if read >= most {
                break;
            }
            let length = (end - self.offset).min(PIECE_BYTES as u64);
            let length = usize::try_from(length).expect("at most a piece");
            match self.file.read_at(&mut piece[..length], self.offset) {
                Ok(0) => self.mark = None, // It was cut since; the next look sees that.
                Ok(length) => {
                    let bytes = &piece[..length];
                    reader.feed(bytes, appeared);
                    self.offset += length as u64;
                    self.witness = bytes[length.saturating_sub(WITNESS_BYTES)..].to_vec();
                    read += length as u64;
                }
                Err(error) => {
                    log::debug!("code made at run time: cannot read on: {error}");
                    self.failed = true;
                }
            }
        }
        read
    }

    /// Whether what was read last is still there.
    fn is_witnessed(&self) -> bool {
        let mut bytes = vec![0; self.witness.len()];
        let start = self.offset - self.witness.len() as u64;
        let read = self.file.read_at(&mut bytes, start);
        read.is_ok_and(|read| read == bytes.len()) && bytes == self.witness
    }
}

#[cfg(test)]
mod tests;
