//! The executable mappings of one process at one time.

use std::sync::Arc;

use crate::object::{Bias, ElfAddr, ObjectId};

/// One executable mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// Address after the last.
    pub end: u64,
    /// Offset of the first address in the file, in bytes.
    pub file_offset: u64,
    /// The object behind it, if a file backs it.
    pub object: Option<ObjectId>,
    /// Runtime address minus ELF address.
    pub bias: Bias,
    /// Path or name, as the kernel has it.
    pub path: Arc<str>,
}

/// What a mapping changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// Nothing: the same code lay there.
    Nothing,
    /// Something lies where nothing was, or nothing else.
    More,
    /// Something else lay there, or in a part of it.
    Other,
}

/// Mappings by address, none over another. Cheap to copy: a fork shares its parent's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Space(Arc<Vec<Mapping>>);

impl Space {
    /// The space with these mappings.
    #[must_use]
    pub fn of_rows(rows: impl Iterator<Item = Mapping>) -> Self {
        let mut space = Self::default();
        rows.for_each(|mapping| {
            space.insert(&mapping);
        });
        space
    }

    /// Maps something over whatever was there.
    pub fn insert(&mut self, mapping: &Mapping) -> Inserted {
        let mappings = Arc::make_mut(&mut self.0);
        let first = mappings.partition_point(|other| other.end <= mapping.start);
        let last = mappings.partition_point(|other| other.start < mapping.end);
        let overlapped: Vec<Mapping> = mappings[first..last].to_vec();
        let mut pieces = Vec::with_capacity(3);
        for other in &overlapped {
            if other.start < mapping.start {
                pieces.push(Mapping {
                    end: mapping.start,
                    ..other.clone()
                });
            }
        }
        pieces.push(mapping.clone());
        for other in &overlapped {
            if other.end > mapping.end {
                let cut = mapping.end - other.start;
                pieces.push(Mapping {
                    start: mapping.end,
                    file_offset: other.file_offset + cut,
                    ..other.clone()
                });
            }
        }
        mappings.splice(first..last, pieces);
        // The kernel also reports a mapping when only its rights change.
        let is_same =
            |other: &Mapping| (other.object, other.bias) == (mapping.object, mapping.bias);
        if !overlapped.iter().all(is_same) {
            return Inserted::Other;
        }
        let in_common =
            |other: &Mapping| other.end.min(mapping.end) - other.start.max(mapping.start);
        match overlapped.iter().map(in_common).sum::<u64>() == mapping.end - mapping.start {
            true => Inserted::Nothing,
            false => Inserted::More,
        }
    }

    /// The mapping at a runtime address.
    #[must_use]
    pub fn find(&self, address: u64) -> Option<&Mapping> {
        let after = self.0.partition_point(|mapping| mapping.start <= address);
        let mapping = self.0.get(after.checked_sub(1)?)?;
        (address < mapping.end).then_some(mapping)
    }

    /// The mapping that holds this address of an object.
    #[must_use]
    pub fn of_object(&self, object: ObjectId, address: ElfAddr) -> Option<&Mapping> {
        self.0.iter().find(|mapping| {
            let runtime = mapping.bias.to_runtime(address);
            mapping.object == Some(object) && runtime >= mapping.start && runtime < mapping.end
        })
    }

    /// The runtime addresses of an object's address: more than one if it is mapped more than once.
    pub fn runtime_addresses(
        &self,
        object: ObjectId,
        address: ElfAddr,
    ) -> impl Iterator<Item = u64> {
        let of_object = self
            .0
            .iter()
            .filter(move |mapping| mapping.object == Some(object));
        of_object.filter_map(move |mapping| {
            let runtime = mapping.bias.to_runtime(address);
            (mapping.start..mapping.end)
                .contains(&runtime)
                .then_some(runtime)
        })
    }

    /// The objects mapped.
    pub fn objects(&self) -> impl Iterator<Item = ObjectId> {
        self.0.iter().filter_map(|mapping| mapping.object)
    }

    /// The mappings, by address.
    pub fn iter(&self) -> impl Iterator<Item = &Mapping> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mapping(start: u64, end: u64, offset: u64) -> Mapping {
        Mapping {
            start,
            end,
            file_offset: offset,
            object: ObjectId::from_wire(1),
            bias: Bias(start.wrapping_sub(offset)),
            path: Arc::from(""),
        }
    }

    proptest! {
        #[test]
        fn the_last_mapping_over_an_address_wins(rows in prop::collection::vec((0u64..200, 1u64..60, 0u64..50), 1..40)) {
            let rows: Vec<Mapping> = rows.into_iter().map(|(start, len, offset)| mapping(start, start + len, offset)).collect();
            let space = Space::of_rows(rows.iter().cloned());
            for address in 0..270 {
                let last = rows.iter().rev().find(|row| (row.start..row.end).contains(&address));
                let found = space.find(address);
                prop_assert_eq!(found.map(|row| row.bias.to_elf(address)), last.map(|row| row.bias.to_elf(address)));
                if let Some(found) = found {
                    prop_assert_eq!(found.file_offset + (address - found.start), found.bias.to_elf(address).0);
                }
            }
            let starts: Vec<u64> = space.iter().map(|row| row.start).collect();
            prop_assert!(starts.is_sorted());
        }
    }

    #[test]
    fn a_mapping_tells_what_it_changed() {
        let mut space = Space::default();
        assert_eq!(space.insert(&mapping(100, 200, 0)), Inserted::More);
        assert_eq!(space.insert(&mapping(100, 200, 0)), Inserted::Nothing);
        assert_eq!(space.insert(&mapping(120, 130, 20)), Inserted::Nothing);
        assert_eq!(space.insert(&mapping(120, 210, 20)), Inserted::More);
        assert_eq!(space.insert(&mapping(150, 160, 7)), Inserted::Other);
        assert_eq!(space.insert(&mapping(100, 200, 0)), Inserted::Other);
    }

    #[test]
    fn an_object_mapped_twice_has_two_runtime_addresses() {
        let id = ObjectId::from_wire(1).unwrap();
        let mut space = Space::of_rows([mapping(100, 200, 0)].into_iter());
        let addresses =
            |space: &Space| -> Vec<u64> { space.runtime_addresses(id, ElfAddr(5)).collect() };
        assert_eq!(addresses(&space), [105]);
        space.insert(&mapping(300, 400, 0));
        assert_eq!(addresses(&space), [105, 305]);
    }
}
