//! Parts of a file, read piece by piece as they are needed.
//!
//! In: a file, and which part of it is meant. Out: numbers, texts and bytes. What was read is kept in
//! a few blocks, so readers may go back and forth, and a table of any size costs as much memory as a
//! small one. Nothing outside of a part is read, whatever offsets the file claims.

use std::{
    cell::{Cell, RefCell},
    fs::File,
    os::unix::fs::FileExt,
};

/// Bytes of a block, and how many are kept.
const BLOCK_BYTES: usize = 4 << 10;
const BLOCKS: usize = 256;
/// The longest text, in bytes.
const MOST_TEXT_BYTES: usize = 4 << 10;

/// A part of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// Offset in the file.
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

impl Part {
    /// What is left of it from here on.
    pub(crate) fn from(self, at: u64) -> Option<Self> {
        Some(Self {
            offset: self.offset.checked_add(at)?,
            bytes: self.bytes.checked_sub(at)?,
        })
    }

    /// So much of it, or all if it is shorter.
    pub(crate) fn first(self, bytes: u64) -> Self {
        Self {
            bytes: self.bytes.min(bytes),
            ..self
        }
    }
}

/// A file and the blocks that were read of it.
#[derive(Debug)]
pub(crate) struct Parts<'a> {
    file: &'a File,
    blocks: RefCell<Vec<Block>>,
    reads: Cell<u64>,
}

/// What a file has at one place, or had: the last block may be shorter.
#[derive(Clone, Debug, Default)]
struct Block {
    /// Its number in the file.
    number: u64,
    bytes: Vec<u8>,
}

impl<'a> Parts<'a> {
    pub(crate) fn new(file: &'a File) -> Self {
        Self {
            file,
            blocks: RefCell::new(vec![Block::default(); BLOCKS]),
            reads: Cell::new(0),
        }
    }

    /// How often the file was read so far: what is scattered costs a read for each piece.
    pub(crate) fn reads(&self) -> u64 {
        self.reads.get()
    }

    /// How many reads it takes to go through so many bytes once.
    pub(crate) fn reads_of(bytes: u64) -> u64 {
        bytes / BLOCK_BYTES as u64 + 1
    }

    /// Some bytes of a part.
    pub(crate) fn read<const N: usize>(&self, part: Part, at: u64) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        let read = self.copy(part, at, &mut bytes)?;
        (read == N).then_some(bytes)
    }

    pub(crate) fn u32(&self, part: Part, at: u64) -> Option<u32> {
        self.read(part, at).map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&self, part: Part, at: u64) -> Option<u64> {
        self.read(part, at).map(u64::from_le_bytes)
    }

    /// Fills as much of `bytes` as the part has, and tells how much that is. `None` past its end.
    pub(crate) fn copy(&self, part: Part, at: u64, bytes: &mut [u8]) -> Option<usize> {
        let mut left = part.from(at)?.first(bytes.len() as u64);
        let mut filled = 0;
        while left.bytes > 0 {
            let into = left.offset % BLOCK_BYTES as u64;
            let copied = self.with_block(left.offset / BLOCK_BYTES as u64, |block| {
                let source = block.get(into as usize..).unwrap_or_default();
                let length = source.len().min(left.bytes as usize);
                bytes[filled..filled + length].copy_from_slice(&source[..length]);
                length
            })?;
            if copied == 0 {
                break;
            }
            filled += copied;
            left = left.from(copied as u64)?;
        }
        Some(filled)
    }

    /// The text that begins at a place of a part and ends in a NUL.
    pub(crate) fn text(&self, part: Part, at: u64) -> Option<Vec<u8>> {
        let mut text = Vec::new();
        while text.len() <= MOST_TEXT_BYTES {
            let mut bytes = [0; 128];
            let read = self.copy(part, at.checked_add(text.len() as u64)?, &mut bytes)?;
            let bytes = bytes.get(..read).filter(|bytes| !bytes.is_empty())?;
            if let Some(end) = memchr::memchr(0, bytes) {
                text.extend(&bytes[..end]);
                return (text.len() <= MOST_TEXT_BYTES).then_some(text);
            }
            text.extend(bytes);
        }
        None
    }

    fn with_block<T>(&self, number: u64, use_it: impl FnOnce(&[u8]) -> T) -> Option<T> {
        let mut blocks = self.blocks.borrow_mut();
        let block = &mut blocks[(number % BLOCKS as u64) as usize];
        if block.number != number || block.bytes.is_empty() {
            block.number = number;
            self.reads.set(self.reads.get() + 1);
            let offset = number.checked_mul(BLOCK_BYTES as u64)?;
            block.bytes.resize(BLOCK_BYTES, 0);
            let read = read_at(self.file, &mut block.bytes, offset);
            block.bytes.truncate(read);
        }
        Some(use_it(&block.bytes))
    }
}

/// As many bytes as the file has there.
fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> usize {
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], offset.saturating_add(filled as u64)) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    filled
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::file::in_memory;

    /// A file of three blocks and a bit; each byte tells its place.
    fn file() -> File {
        let bytes: Vec<u8> = (0..3 * BLOCK_BYTES + 5)
            .map(|at| (at % 251) as u8)
            .collect();
        in_memory("parts", &bytes).unwrap()
    }

    fn part(offset: usize, bytes: usize) -> Part {
        Part {
            offset: offset as u64,
            bytes: bytes as u64,
        }
    }

    #[test]
    fn bytes_are_read_across_blocks_and_not_past_a_part() {
        let file = file();
        let parts = Parts::new(&file);
        let across = part(BLOCK_BYTES - 3, 100);
        let expected: [u8; 6] = std::array::from_fn(|byte| ((BLOCK_BYTES - 3 + byte) % 251) as u8);
        assert_eq!(parts.read(across, 0), Some(expected));
        assert_eq!(
            parts.read::<6>(across, 94).map(|bytes| bytes[5]),
            Some(((BLOCK_BYTES + 96) % 251) as u8)
        );
        assert_eq!(parts.read::<6>(across, 95), None);
        assert_eq!(parts.read::<1>(across, u64::MAX), None);
        assert_eq!(parts.u64(part(3 * BLOCK_BYTES, 100), 0), None);
        assert!(parts.u32(part(3 * BLOCK_BYTES, 100), 1).is_some());
        assert_eq!(parts.u32(part(usize::MAX, 100), 0), None);
    }

    #[test]
    fn a_text_ends_in_a_nul_and_is_not_long() {
        let mut bytes = b"one\0two\0".to_vec();
        bytes.extend([b'x'; MOST_TEXT_BYTES]);
        bytes.extend(b"\0x");
        bytes.extend([b'x'; MOST_TEXT_BYTES]);
        bytes.extend(b"\0end");
        let file = in_memory("texts", &bytes).unwrap();
        let parts = Parts::new(&file);
        let all = part(0, bytes.len());
        assert_eq!(parts.text(all, 0).as_deref(), Some(&b"one"[..]));
        assert_eq!(parts.text(all, 5).as_deref(), Some(&b"wo"[..]));
        assert_eq!(
            parts.text(all, 8).map(|text| text.len()),
            Some(MOST_TEXT_BYTES)
        );
        assert_eq!(parts.text(all, 9 + MOST_TEXT_BYTES as u64), None);
        assert_eq!(parts.text(all, all.bytes - 3), None);
        assert_eq!(parts.text(part(0, 3), 0), None);
    }
}
