//! The bytes of a file, unpacked if they are compressed, and never more than was agreed on.

use std::io::{self, BufRead, BufReader, Cursor, Read};

use flate2::bufread::MultiGzDecoder;

use super::{GZIP, ImportError};

/// Unpacked bytes on their way in.
pub(super) struct Input<'a> {
    bytes: Box<dyn BufRead + 'a>,
    is_packed: bool,
    left: u64,
    most_bytes: u64,
}

impl<'a> Input<'a> {
    pub(super) fn new(input: &'a mut dyn BufRead, most_bytes: u64) -> Result<Self, ImportError> {
        let mut start = Vec::new();
        let head = input.take(GZIP.len() as u64).read_to_end(&mut start);
        head.map_err(ImportError::Read)?;
        let is_packed = start == GZIP;
        let whole = Cursor::new(start).chain(input);
        Ok(Self {
            bytes: if is_packed {
                Box::new(BufReader::new(MultiGzDecoder::new(whole)))
            } else {
                Box::new(whole)
            },
            is_packed,
            left: most_bytes,
            most_bytes,
        })
    }

    /// All that is left.
    pub(super) fn rest(mut self) -> Result<Vec<u8>, ImportError> {
        let mut bytes = Vec::new();
        let most_bytes = self.left.saturating_add(1);
        let read = self.bytes.by_ref().take(most_bytes).read_to_end(&mut bytes);
        read.map_err(|error| self.failure(error))?;
        self.spend(bytes.len())?;
        Ok(bytes)
    }

    /// Reads one line into `line`, with its end if it has one; `false` at the end of the input. Of a
    /// line of more than `most` bytes it is one more than that.
    pub(super) fn line(&mut self, line: &mut Vec<u8>, most: u64) -> Result<bool, ImportError> {
        line.clear();
        let mut bytes = self.bytes.by_ref().take(most.saturating_add(1));
        let read = bytes.read_until(b'\n', line);
        read.map_err(|error| self.failure(error))?;
        self.spend(line.len())?;
        Ok(!line.is_empty())
    }

    fn spend(&mut self, bytes: usize) -> Result<(), ImportError> {
        let left = self.left.checked_sub(bytes as u64);
        self.left = left.ok_or(ImportError::TooLong {
            most_bytes: self.most_bytes,
        })?;
        Ok(())
    }

    fn failure(&self, error: io::Error) -> ImportError {
        // What the decoder says of the bytes has no number of the kernel's.
        if self.is_packed && error.raw_os_error().is_none() {
            ImportError::Unpack(error)
        } else {
            ImportError::Read(error)
        }
    }
}
