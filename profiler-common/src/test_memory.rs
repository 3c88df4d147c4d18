//! Memory of a task, for tests.

extern crate std;
use std::collections::BTreeMap;

use crate::step::UserMemory;

/// Memory given byte by byte.
#[derive(Default)]
pub(crate) struct Memory(BTreeMap<u64, u8>);

impl Memory {
    /// Bytes from an address on.
    pub(crate) fn bytes(mut self, address: u64, bytes: &[u8]) -> Self {
        self.0.extend(
            bytes
                .iter()
                .enumerate()
                .map(|(i, byte)| (address + i as u64, *byte)),
        );
        self
    }

    /// A word at an address.
    pub(crate) fn word(self, address: u64, value: u64) -> Self {
        self.bytes(address, &value.to_ne_bytes())
    }

    /// A return address: a call instruction ends there.
    pub(crate) fn call_before(self, address: u64) -> Self {
        self.bytes(address - 8, &[0x90, 0x90, 0x90, 0xe8, 1, 2, 3, 4])
    }
}

impl UserMemory for Memory {
    fn read<const N: usize>(&self, address: u64) -> Option<[u8; N]> {
        let mut out = [0; N];
        for (i, byte) in out.iter_mut().enumerate() {
            *byte = *self.0.get(&(address + i as u64))?;
        }
        Some(out)
    }
}
