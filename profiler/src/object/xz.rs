//! Unpacks xz streams, such as `.gnu_debugdata`: an ELF file with what stripping took away.
//!
//! Source: GDB's manual, "MiniDebugInfo".

use std::{
    io::{self, Cursor, Read},
    num::NonZeroUsize,
};

use xz4rust::{XzDecoder, XzReader};

/// The dictionary that the decoder begins with, in bytes.
const FIRST_BYTES: usize = 64 << 10;

/// What a stream holds, which does not tell how much that is. One byte more than `most_bytes` tells
/// that there is more.
pub(crate) fn unpacked(packed: Vec<u8>, most_bytes: usize) -> io::Result<Vec<u8>> {
    let decoder = XzDecoder::in_heap_with_alloc_dict_size(FIRST_BYTES, most_bytes);
    let buffer = NonZeroUsize::MIN.saturating_add(FIRST_BYTES);
    let reader = XzReader::new_with_buffer_size_and_decoder(Cursor::new(packed), buffer, decoder);
    let mut unpacked = Vec::new();
    let mut reader = reader.take(most_bytes as u64 + 1);
    reader.read_to_end(&mut unpacked)?;
    Ok(unpacked)
}
