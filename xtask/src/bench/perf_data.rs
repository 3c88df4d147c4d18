//! A perf.data file made by hand: samples at addresses of our choice, so that `perf script` names the
//! same code as everyone else.
//!
//! Source: `tools/perf/Documentation/perf.data-file-format.txt` (pipe mode) and
//! `include/uapi/linux/perf_event.h` of Linux.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt};

/// `PERFILE2`, as a number of the machine that reads it.
const MAGIC: u64 = u64::from_le_bytes(*b"PERFILE2");
const RECORD_COMM: u32 = 3;
const RECORD_SAMPLE: u32 = 9;
const RECORD_MMAP2: u32 = 10;
const HEADER_ATTR: u32 = 64;
/// The event happened in user code.
const MISC_USER: u16 = 2;
/// `PERF_ATTR_SIZE_VER5`.
const ATTR_BYTES: u32 = 112;
const TYPE_SOFTWARE: u32 = 1;
/// What a sample holds: address, process and thread, time, call chain.
const SAMPLE_TYPE: u64 = 1 | 1 << 1 | 1 << 2 | 1 << 5;
/// What stands in a call chain before user addresses: `PERF_CONTEXT_USER`.
const CONTEXT_USER: u64 = (-512_i64).cast_unsigned();
/// Any process will do.
const PID: u32 = 77;
const EXECUTABLE: u32 = 4 | 1;

/// Code that a process maps.
pub(super) struct Code<'a> {
    pub(super) file: &'a OsStr,
    pub(super) start: u64,
    pub(super) bytes: u64,
    pub(super) file_offset: u64,
}

/// A file with one sample for each runtime address.
pub(super) fn file(mappings: &[Code<'_>], addresses: impl Iterator<Item = u64>) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(MAGIC.to_le_bytes());
    out.extend(16_u64.to_le_bytes());
    record(&mut out, HEADER_ATTR, 0, &attributes());
    let mut comm = ids();
    comm.extend(b"bench\0\0\0");
    record(&mut out, RECORD_COMM, 0, &comm);
    for code in mappings {
        record(&mut out, RECORD_MMAP2, MISC_USER, &mmap(code));
    }
    for (time_ns, address) in (1_000_u64..).zip(addresses) {
        let mut sample = address.to_le_bytes().to_vec();
        sample.extend(ids());
        for word in [time_ns, 2, CONTEXT_USER, address] {
            sample.extend(word.to_le_bytes());
        }
        record(&mut out, RECORD_SAMPLE, MISC_USER, &sample);
    }
    out
}

fn ids() -> Vec<u8> {
    [PID.to_le_bytes(), PID.to_le_bytes()].concat()
}

/// The event that the samples are of: the software CPU clock. No ids follow.
fn attributes() -> Vec<u8> {
    let mut attributes = Vec::new();
    attributes.extend(TYPE_SOFTWARE.to_le_bytes());
    attributes.extend(ATTR_BYTES.to_le_bytes());
    // Which software event, the period, what samples hold.
    for word in [0_u64, 1, SAMPLE_TYPE] {
        attributes.extend(word.to_le_bytes());
    }
    attributes.resize(ATTR_BYTES as usize, 0);
    attributes
}

fn mmap(code: &Code<'_>) -> Vec<u8> {
    let mut body = ids();
    // Device, inode and its generation are unknown.
    for word in [code.start, code.bytes, code.file_offset, 0, 0, 0] {
        body.extend(word.to_le_bytes());
    }
    body.extend(EXECUTABLE.to_le_bytes());
    // Private.
    body.extend(2_u32.to_le_bytes());
    body.extend(code.file.as_bytes());
    body.push(0);
    body.resize(body.len().next_multiple_of(8), 0);
    body
}

fn record(out: &mut Vec<u8>, kind: u32, misc: u16, body: &[u8]) {
    let bytes = u16::try_from(body.len() + 8).expect("records are short");
    out.extend(kind.to_le_bytes());
    out.extend(misc.to_le_bytes());
    out.extend(bytes.to_le_bytes());
    out.extend(body);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_follow_each_other_to_the_end() {
        let code = Code {
            file: OsStr::new("/bin/true"),
            start: 0x1000,
            bytes: 0x1000,
            file_offset: 0,
        };
        let bytes = file(&[code], [0x1000, 0x1008].into_iter());
        let mut kinds = Vec::new();
        let mut at = 16;
        while at < bytes.len() {
            kinds.push(bytes[at]);
            let size = u16::from_le_bytes([bytes[at + 6], bytes[at + 7]]);
            assert!(size >= 8 && size % 8 == 0);
            at += usize::from(size);
        }
        assert_eq!((at, kinds), (bytes.len(), vec![64, 3, 10, 9, 9]));
    }
}
