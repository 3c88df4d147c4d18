//! The bytes of one section, read as they are needed.
//!
//! Debug information may be larger than our memory, and the file that it is in may be cut off while
//! we read it. So sections are read by `pread` in the pieces that are asked for, never mapped: a
//! mapping of a file that shrinks ends us by SIGBUS. What is compressed is decompressed into memory,
//! and what is too long for that into a file without a name.

use std::{
    borrow::Cow,
    cell::RefCell,
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::FileExt,
    rc::Rc,
};

use flate2::read::ZlibDecoder;
use object::elf;
use ruzstd::decoding::StreamingDecoder;
use thiserror::Error;

/// Bytes that are read around a small piece: the next one is often near.
const BLOCK_BYTES: u64 = 16 << 10;
/// Bytes of a compressed section that are read at a time.
const CHUNK_BYTES: usize = 256 << 10;
/// Bytes of an `Elf64_Chdr`: type, reserved, size, alignment.
const ELF_HEADER_BYTES: u64 = 24;
/// Bytes before the stream of a `.zdebug_` section: `ZLIB`, and the size.
const GNU_HEADER_BYTES: u64 = 12;
/// Most bytes that a byte of a compressed section may become.
const MOST_RATIO: u64 = 1032;
/// The longest text read, in bytes: C++ has names of some kilobytes.
const MOST_TEXT_BYTES: u64 = 64 << 10;

/// Why bytes cannot be had.
#[derive(Debug, Error)]
pub(super) enum StoreError {
    /// The file has less than it says, or cannot be read.
    #[error("cannot read it: {0}")]
    Read(#[from] io::Error),
    /// It is compressed in a way that we do not know, or broken.
    #[error("cannot decompress it")]
    Compressed,
    /// It is longer than the memory that symbols may have.
    #[error("{bytes} bytes at once are more than --max-symbol-memory allows")]
    TooLong {
        /// What would have to be in memory.
        bytes: u64,
    },
}

/// How a section is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    /// Not at all.
    None,
    /// A header tells how: the System V ABI's `SHF_COMPRESSED`.
    Elf,
    /// The older form of `.zdebug_` sections.
    Gnu,
}

/// Where a section is in its file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) file_offset: u64,
    pub(super) bytes: u64,
    pub(super) packing: Packing,
}

/// What of a section is in memory at one time, at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    pub(super) bytes: u64,
}

/// A section.
#[derive(Clone, Debug, Default)]
pub(super) struct Store {
    source: Source,
    block: RefCell<Block>,
    most_bytes: u64,
}

#[derive(Clone, Debug, Default)]
enum Source {
    #[default]
    Nothing,
    Memory(Rc<Vec<u8>>),
    File {
        file: Rc<File>,
        offset: u64,
        bytes: u64,
    },
}

/// A piece that was read before.
#[derive(Clone, Debug, Default)]
struct Block {
    start: u64,
    bytes: Vec<u8>,
}

impl Store {
    /// A section of a file.
    pub(super) fn open(file: &Rc<File>, place: Place, limit: Limit) -> Result<Self, StoreError> {
        let file_bytes = file.metadata()?.len();
        let end = place.file_offset.checked_add(place.bytes);
        if end.is_none_or(|end| end > file_bytes) {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let source = match place.packing {
            Packing::None => Source::File {
                file: Rc::clone(file),
                offset: place.file_offset,
                bytes: place.bytes,
            },
            Packing::Elf | Packing::Gnu => unpacked(file, place, limit)?,
        };
        Ok(Self {
            source,
            block: RefCell::default(),
            most_bytes: limit.bytes,
        })
    }

    /// Bytes of the whole section.
    pub(super) fn len(&self) -> u64 {
        match &self.source {
            Source::Nothing => 0,
            Source::Memory(bytes) => bytes.len() as u64,
            Source::File { bytes, .. } => *bytes,
        }
    }

    /// The bytes from an offset on, fewer where the section ends before.
    pub(super) fn window(&self, start: u64, bytes: u64) -> Result<Cow<'_, [u8]>, StoreError> {
        let start = start.min(self.len());
        let bytes = bytes.min(self.len() - start);
        match &self.source {
            Source::Nothing => Ok(Cow::Borrowed(&[])),
            Source::Memory(all) => {
                let start = start as usize;
                Ok(Cow::Borrowed(&all[start..start + bytes as usize]))
            }
            Source::File { .. } if bytes > self.most_bytes => Err(StoreError::TooLong { bytes }),
            Source::File { file, offset, .. } => {
                let mut window = vec![0; bytes as usize];
                file.read_exact_at(&mut window, offset + start)?;
                Ok(Cow::Owned(window))
            }
        }
    }

    /// A few bytes.
    pub(super) fn bytes<const N: usize>(&self, start: u64) -> Option<[u8; N]> {
        self.near(start, N as u64, |bytes| {
            bytes.get(..N).and_then(|bytes| bytes.try_into().ok())
        })
    }

    /// A number of this many bytes, eight at most.
    pub(super) fn number(&self, start: u64, width: u8) -> Option<u64> {
        self.near(start, u64::from(width), |bytes| {
            let bytes = bytes.get(..usize::from(width))?;
            let mut word = [0; 8];
            word.get_mut(..bytes.len())?.copy_from_slice(bytes);
            Some(u64::from_le_bytes(word))
        })
    }

    /// The text at an offset, up to its NUL.
    pub(super) fn text(&self, start: u64) -> Option<String> {
        let mut wanted = 128;
        loop {
            let text = self.near(start, wanted, |bytes| {
                let end = memchr::memchr(0, bytes)?;
                Some(String::from_utf8_lossy(&bytes[..end]).into_owned())
            });
            if text.is_some() || wanted > MOST_TEXT_BYTES || start + wanted >= self.len() {
                return text;
            }
            wanted *= 8;
        }
    }

    /// Reads what is in a block that was read before, or reads one. `read` may be given more than
    /// was wanted, and less at the section's end.
    fn near<T>(&self, start: u64, bytes: u64, read: impl FnOnce(&[u8]) -> Option<T>) -> Option<T> {
        if start >= self.len() {
            return None;
        }
        if let Source::Memory(all) = &self.source {
            return read(&all[start as usize..]);
        }
        let mut block = self.block.borrow_mut();
        let end = (start + bytes).min(self.len());
        let is_in = start >= block.start && end <= block.start + block.bytes.len() as u64;
        if !is_in {
            let length = bytes.max(BLOCK_BYTES);
            let window = self.window(start, length).ok()?.into_owned();
            *block = Block {
                start,
                bytes: window,
            };
        }
        read(&block.bytes[(start - block.start) as usize..])
    }
}

fn unpacked(file: &Rc<File>, place: Place, limit: Limit) -> Result<Source, StoreError> {
    let header_bytes = match place.packing {
        Packing::Gnu => GNU_HEADER_BYTES,
        Packing::Elf | Packing::None => ELF_HEADER_BYTES,
    };
    let stream_bytes = place.bytes.checked_sub(header_bytes);
    let stream_bytes = stream_bytes.ok_or(StoreError::Compressed)?;
    let mut header = [0; ELF_HEADER_BYTES as usize];
    let header = &mut header[..header_bytes as usize];
    file.read_exact_at(header, place.file_offset)?;
    let (kind, bytes) = match place.packing {
        Packing::Gnu if header.starts_with(b"ZLIB") => (
            elf::ELFCOMPRESS_ZLIB,
            u64::from_be_bytes(word(&header[4..])),
        ),
        Packing::Gnu => return Err(StoreError::Compressed),
        Packing::Elf | Packing::None => {
            let kind = u64::from_le_bytes(word(header)) as u32;
            (
                elf::CompressionType(kind),
                u64::from_le_bytes(word(&header[8..])),
            )
        }
    };
    if bytes / MOST_RATIO > stream_bytes {
        return Err(StoreError::Compressed);
    }
    let stream = Piece {
        file,
        at: place.file_offset + header_bytes,
        left: stream_bytes,
    };
    let stream = io::BufReader::with_capacity(CHUNK_BYTES, stream);
    match kind {
        elf::ELFCOMPRESS_ZLIB => keep(ZlibDecoder::new(stream), bytes, limit),
        elf::ELFCOMPRESS_ZSTD => {
            let decoder = StreamingDecoder::new(stream).map_err(|_| StoreError::Compressed)?;
            keep(decoder, bytes, limit)
        }
        _ => Err(StoreError::Compressed),
    }
}

/// The first eight bytes of a part of a header, which has them.
fn word(header: &[u8]) -> [u8; 8] {
    std::array::from_fn(|i| header[i])
}

/// Keeps what a stream has, which claims so many bytes: in memory, or in a file without a name.
fn keep(stream: impl Read, bytes: u64, limit: Limit) -> Result<Source, StoreError> {
    let mut stream = stream.take(bytes);
    if bytes <= limit.bytes {
        let mut unpacked = Vec::new();
        let read = stream.read_to_end(&mut unpacked);
        return match read {
            Ok(read) if read as u64 == bytes => Ok(Source::Memory(Rc::new(unpacked))),
            _ => Err(StoreError::Compressed),
        };
    }
    let mut file = tempfile::tempfile()?;
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut written = 0;
    loop {
        let read = stream.read(&mut chunk);
        match read.map_err(|_| StoreError::Compressed)? {
            0 => break,
            read => {
                file.write_all(&chunk[..read])?;
                written += read as u64;
            }
        }
    }
    if written != bytes {
        return Err(StoreError::Compressed);
    }
    file.seek(SeekFrom::Start(0))?;
    Ok(Source::File {
        file: Rc::new(file),
        offset: 0,
        bytes,
    })
}

/// A part of a file as a stream.
struct Piece<'a> {
    file: &'a File,
    at: u64,
    left: u64,
}

impl Read for Piece<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = self.left.min(buffer.len() as u64) as usize;
        let read = self.file.read_at(&mut buffer[..wanted], self.at)?;
        self.at += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}
