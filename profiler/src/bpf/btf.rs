//! Offsets of fields in the running kernel's structures, from its BTF.
//!
//! Rust emits no CO-RE relocations, and the kernel side needs two offsets; so the user side reads
//! them and passes them in. Source of the format: `Documentation/bpf/btf.rst` of the kernel.

use std::{fs, io, ops::Range};

use thiserror::Error;

/// Where the kernel publishes its BTF.
pub(super) const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xeb9f;
const KIND_STRUCT: u32 = 4;

/// Why an offset could not be read.
#[derive(Debug, Error)]
pub enum BtfError {
    /// The file could not be read.
    #[error("cannot read {KERNEL_BTF}")]
    Read(#[from] io::Error),
    /// The file is not BTF as we know it.
    #[error("{KERNEL_BTF} is not BTF that we can read")]
    Malformed,
    /// The kernel has no such field.
    #[error("the kernel's BTF has no {structure}.{field}")]
    Missing {
        /// Name of the structure.
        structure: &'static str,
        /// Name of the field.
        field: &'static str,
    },
}

/// A kernel's BTF.
pub(super) struct Btf {
    data: Vec<u8>,
    types: Range<usize>,
    strings: Range<usize>,
}

impl Btf {
    /// The running kernel's.
    pub(super) fn of_kernel() -> Result<Self, BtfError> {
        Self::parse(fs::read(KERNEL_BTF)?)
    }

    fn parse(data: Vec<u8>) -> Result<Self, BtfError> {
        let word = |at| u32_at(&data, at).map(|word| word as usize);
        let magic = data.first_chunk().map(|bytes| u16::from_le_bytes(*bytes));
        if magic != Some(MAGIC) {
            return Err(BtfError::Malformed);
        }
        let part = |offset_at, length_at| {
            let start = word(4)?.checked_add(word(offset_at)?)?;
            let end = start.checked_add(word(length_at)?)?;
            (end <= data.len()).then_some(start..end)
        };
        let types = part(8, 12).ok_or(BtfError::Malformed)?;
        let strings = part(16, 20).ok_or(BtfError::Malformed)?;
        Ok(Self {
            data,
            types,
            strings,
        })
    }

    fn types(&self) -> &[u8] {
        &self.data[self.types.clone()]
    }

    /// Offset in bytes of a field of a structure, which must not be a bit field.
    pub(super) fn offset(
        &self,
        structure: &'static str,
        field: &'static str,
    ) -> Result<u32, BtfError> {
        self.find(structure, field)
            .ok_or(BtfError::Missing { structure, field })
    }

    fn find(&self, structure: &str, field: &str) -> Option<u32> {
        let mut at = 0;
        while at < self.types().len() {
            let name = u32_at(self.types(), at)?;
            let info = u32_at(self.types(), at + 4)?;
            let (kind, count) = ((info >> 24) & 0x1f, (info & 0xffff) as usize);
            let body = at + 12;
            if kind == KIND_STRUCT && self.name_is(name, structure) {
                let has_bit_fields = info >> 31 != 0;
                if let Some(offset) = self.member(body, count, field, has_bit_fields) {
                    return Some(offset);
                }
            }
            at = body + body_bytes(kind, count)?;
        }
        None
    }

    fn member(&self, body: usize, count: usize, field: &str, has_bit_fields: bool) -> Option<u32> {
        (0..count).find_map(|i| {
            let at = body + i * 12;
            if !self.name_is(u32_at(self.types(), at)?, field) {
                return None;
            }
            let bits = u32_at(self.types(), at + 8)?;
            Some(
                if has_bit_fields {
                    bits & 0x00ff_ffff
                } else {
                    bits
                } / 8,
            )
        })
    }

    fn name_is(&self, offset: u32, name: &str) -> bool {
        let strings = &self.data[self.strings.clone()];
        let rest = strings.get(offset as usize..).unwrap_or_default();
        rest.strip_prefix(name.as_bytes())
            .is_some_and(|rest| rest.first() == Some(&0))
    }
}

fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    data.get(at..)?
        .first_chunk()
        .map(|bytes| u32::from_le_bytes(*bytes))
}

/// Bytes after the common head of a type, by kind. `None` for kinds we do not know.
fn body_bytes(kind: u32, count: usize) -> Option<usize> {
    Some(match kind {
        1 | 14 | 17 => 4,              // INT, VAR, DECL_TAG: one word
        2 | 7..=12 | 16 | 18 => 0,     // PTR, FWD, TYPEDEF, qualifiers, FUNC, FLOAT, TYPE_TAG
        3 => 12,                       // ARRAY
        4 | 5 | 15 | 19 => count * 12, // STRUCT, UNION, DATASEC, ENUM64
        6 | 13 => count * 8,           // ENUM, FUNC_PROTO
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One INT, then a structure with two members, the second at byte 8.
    fn sample() -> Vec<u8> {
        let strings = b"\0int\0task\0first\0second\0";
        let mut types = Vec::new();
        for word in [
            1_u32,
            1 << 24,
            4,
            32,
            5,
            (4 << 24) | 2,
            16,
            10,
            1,
            0,
            16,
            1,
            64,
        ] {
            types.extend(word.to_le_bytes());
        }
        let mut data = Vec::new();
        data.extend(MAGIC.to_le_bytes());
        data.extend([1, 0]);
        for word in [
            24,
            0,
            types.len() as u32,
            types.len() as u32,
            strings.len() as u32,
        ] {
            data.extend(word.to_le_bytes());
        }
        data.extend(types);
        data.extend(strings);
        data
    }

    #[test]
    fn a_field_is_found_behind_other_types() {
        let btf = Btf::parse(sample()).unwrap();
        assert_eq!(btf.offset("task", "second").unwrap(), 8);
        assert_eq!(btf.offset("task", "first").unwrap(), 0);
        assert!(matches!(
            btf.offset("task", "third"),
            Err(BtfError::Missing { .. })
        ));
    }

    #[test]
    fn cut_data_is_an_error_and_never_a_panic() {
        let whole = sample();
        for length in 0..whole.len() {
            if let Ok(btf) = Btf::parse(whole[..length].to_vec()) {
                let _ = btf.offset("task", "second");
            }
        }
    }

    #[test]
    fn this_kernel_has_the_fields_we_need() {
        let btf = Btf::of_kernel().unwrap();
        for field in ["stack", "tgid"] {
            assert!(btf.offset("task_struct", field).unwrap() > 0, "{field}");
        }
    }
}
