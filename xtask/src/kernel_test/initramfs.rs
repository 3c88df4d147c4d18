//! The file system that a kernel unpacks into memory for its first process: an archive as
//! `cpio -H newc` makes it.
//!
//! Source: `Documentation/driver-api/early-userspace/buffer-format.rst` of the kernel.

use std::fmt::Write as _;

/// Marks of a folder and of a file that may be executed, as in `st_mode`.
const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;

/// The entry behind the last one.
const END: &str = "TRAILER!!!";

/// An archive that grows by one entry at a time; folders come before what they hold.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Adds an empty folder.
    pub(super) fn folder(&mut self, name: &str) {
        self.entry(name, FOLDER, &[]);
    }

    /// Adds a file that may be executed.
    pub(super) fn program(&mut self, name: &str, content: &[u8]) {
        self.entry(name, PROGRAM, content);
    }

    /// The whole archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry(END, 0, &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let length = |bytes: usize| u32::try_from(bytes).expect("a file of the initramfs is small");
        let fields = [
            self.entries,
            mode,
            0, // owner
            0, // group
            1, // links
            0, // time
            length(content.len()),
            0, // device
            0,
            0, // device of a device file
            0,
            length(name.len() + 1),
            0, // checksum
        ];
        let mut head = "070701".to_owned();
        for field in fields {
            write!(head, "{field:08x}").expect("a string takes what is written");
        }
        self.bytes.extend(head.bytes());
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend(content);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_a_head_a_name_and_its_bytes_each_aligned() {
        let mut archive = Archive::default();
        archive.program("init", b"12345");
        let bytes = archive.bytes.clone();
        // 110 bytes of head, "init" and a zero, padding; five bytes, padding.
        assert_eq!(bytes.len(), 116 + 8);
        let text = String::from_utf8_lossy(&bytes[..115]);
        assert!(text.starts_with("07070100000001000081ed"), "{text}");
        assert!(text.ends_with("0000000500000000init\0"), "{text}");
        assert_eq!(&bytes[116..], b"12345\0\0\0");
        let whole = archive.finish();
        assert_eq!(whole.len() % 4, 0);
        assert!(String::from_utf8_lossy(&whole).contains(END));
    }
}
