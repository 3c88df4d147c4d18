//! Decompresses sections.
//!
//! In: what a file has, and how it says that it is compressed. Out: at most [`MOST_FRAME_BYTES`],
//! however much more the data would make.

use object::{
    elf,
    read::{CompressedData, CompressionFormat},
};

use super::{CompileError, section::MOST_FRAME_BYTES};
use crate::object::xz;

/// How a section is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    /// Not at all.
    None,
    /// A header tells how: the System V ABI's `SHF_COMPRESSED`.
    Elf,
    /// The older form of `.zdebug_` sections: `ZLIB`, the size, and a zlib stream.
    Gnu,
    /// An xz stream, whose size nothing tells: `.gnu_debugdata`.
    Xz,
}

/// Bytes of an `Elf64_Chdr`: type, reserved, size, alignment.
const ELF_HEADER_BYTES: usize = 24;
/// Most bytes that a byte of a compressed section stands for. Call frame information has 3 to 6.
const MOST_RATIO: u64 = 64;
/// Bytes before the stream of a `.zdebug_` section.
const GNU_HEADER_BYTES: usize = 12;

/// The section as it was before it was compressed.
pub(super) fn unpack(packing: Packing, packed: Vec<u8>) -> Result<Vec<u8>, CompileError> {
    match packing {
        Packing::None => Ok(packed),
        Packing::Elf => by_elf_header(&packed),
        Packing::Gnu => by_gnu_header(&packed),
        Packing::Xz => by_xz(packed),
    }
}

fn by_elf_header(packed: &[u8]) -> Result<Vec<u8>, CompileError> {
    let (header, stream) = packed
        .split_first_chunk::<ELF_HEADER_BYTES>()
        .ok_or(CompileError::Compressed)?;
    let [kind @ .., _, _, _, _] = first_word(header);
    let size = u64::from_le_bytes(first_word(&header[8..]));
    let format = match elf::CompressionType(u32::from_le_bytes(kind)) {
        elf::ELFCOMPRESS_ZLIB => CompressionFormat::Zlib,
        elf::ELFCOMPRESS_ZSTD => CompressionFormat::Zstandard,
        _ => return Err(CompileError::Compressed),
    };
    of_size(size, format, stream)
}

fn by_gnu_header(packed: &[u8]) -> Result<Vec<u8>, CompileError> {
    let (header, stream) = packed
        .split_first_chunk::<GNU_HEADER_BYTES>()
        .filter(|(header, _)| header.starts_with(b"ZLIB"))
        .ok_or(CompileError::Compressed)?;
    let size = u64::from_be_bytes(first_word(&header[4..]));
    of_size(size, CompressionFormat::Zlib, stream)
}

/// The first eight bytes of a part of a header, which has them.
fn first_word(header: &[u8]) -> [u8; 8] {
    std::array::from_fn(|i| header[i])
}

fn by_xz(packed: Vec<u8>) -> Result<Vec<u8>, CompileError> {
    let unpacked = xz::unpacked(packed, MOST_FRAME_BYTES as usize);
    let unpacked = unpacked.map_err(|_| CompileError::Compressed)?;
    if unpacked.len() as u64 > MOST_FRAME_BYTES {
        return Err(CompileError::TooLong(unpacked.len() as u64));
    }
    Ok(unpacked)
}

/// The bytes of a stream whose header claims a size. Nothing beyond it is made.
fn of_size(
    uncompressed_size: u64,
    format: CompressionFormat,
    data: &[u8],
) -> Result<Vec<u8>, CompileError> {
    if uncompressed_size > MOST_FRAME_BYTES {
        return Err(CompileError::TooLong(uncompressed_size));
    }
    // The decoders make room for all that is claimed.
    if uncompressed_size > data.len() as u64 * MOST_RATIO {
        return Err(CompileError::Compressed);
    }
    let compressed = CompressedData {
        format,
        data,
        uncompressed_size,
    };
    let unpacked = compressed.decompress();
    Ok(unpacked.map_err(|_| CompileError::Compressed)?.into_owned())
}
