//! Offsets of fields in the running kernel's structures, from its BTF.
//!
//! Rust emits no CO-RE relocations, and the kernel side needs a few offsets; so the user side reads
//! them and passes them in. Source of the format: `Documentation/bpf/btf.rst` of the kernel.

use std::{fs, io, iter, ops::Range};

use thiserror::Error;

/// Where the kernel publishes its BTF.
pub(super) const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xeb9f;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_FUNCTION: u32 = 12;
/// How deep structures without a name may lie in one another.
const MOST_NESTED: u32 = 4;

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

/// A type, as far as it is looked at.
struct Type {
    /// The offset of its name.
    name: u32,
    kind: u32,
    has_bit_fields: bool,
    /// Where its members begin.
    body: usize,
    count: usize,
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

    /// Whether the kernel has a function of this name.
    pub(super) fn has_function(&self, name: &str) -> bool {
        self.all()
            .any(|found| found.kind == KIND_FUNCTION && self.name_is(found.name, name))
    }

    fn find(&self, structure: &str, field: &str) -> Option<u32> {
        self.all().find_map(|found| {
            let is_it = found.kind == KIND_STRUCT && self.name_is(found.name, structure);
            is_it.then(|| self.member(&found, field, MOST_NESTED))?
        })
    }

    /// The types, the first of which has number 1.
    fn all(&self) -> impl Iterator<Item = Type> {
        let mut at = 0;
        iter::from_fn(move || {
            let word = |offset| u32_at(self.types(), at + offset);
            let (name, info) = (word(0)?, word(4)?);
            let (kind, count) = ((info >> 24) & 0x1f, (info & 0xffff) as usize);
            let body = at + 12;
            at = body + body_bytes(kind, count)?;
            Some(Type {
                name,
                kind,
                has_bit_fields: info >> 31 != 0,
                body,
                count,
            })
        })
    }

    /// Offset in bytes of a member of a structure or union, or of one without a name in it.
    fn member(&self, structure: &Type, field: &str, nested: u32) -> Option<u32> {
        (0..structure.count).find_map(|i| {
            let at = structure.body + i * 12;
            let word = |offset| u32_at(self.types(), at + offset);
            let bits = match structure.has_bit_fields {
                true => word(8)? & 0x00ff_ffff,
                false => word(8)?,
            };
            let name = word(0)?;
            if self.name_is(name, field) {
                return Some(bits / 8);
            }
            if name != 0 || nested == 0 {
                return None;
            }
            let number = (word(4)? as usize).checked_sub(1)?;
            let inner = self.all().nth(number)?;
            let is_structure = matches!(inner.kind, KIND_STRUCT | KIND_UNION);
            let inside = is_structure.then(|| self.member(&inner, field, nested - 1))??;
            Some(bits / 8 + inside)
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

    /// One INT, then a structure with two members, the second at byte 8, then one with such a structure
    /// without a name at byte 4.
    fn sample() -> Vec<u8> {
        let strings = b"\0int\0task\0first\0second\0outer\0";
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
            23,
            (4 << 24) | 1,
            20,
            0,
            2,
            32,
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
        assert_eq!(btf.offset("outer", "second").unwrap(), 12);
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
                let _ = btf.offset("outer", "second");
            }
        }
    }

    #[test]
    fn this_kernel_has_the_fields_we_need() {
        let btf = Btf::of_kernel().unwrap();
        for field in ["stack", "tgid", "mm"] {
            assert!(btf.offset("task_struct", field).unwrap() > 0, "{field}");
        }
        assert!(btf.offset("mm_struct", "end_code").unwrap() > 0);
        assert!(btf.has_function("do_exit"));
        assert!(!btf.has_function("task_struct"), "that is a structure");
    }
}
