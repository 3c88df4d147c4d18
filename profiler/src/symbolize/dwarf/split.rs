//! What was split off a unit: in a file of its own (`.dwo`), or in a package of them (`.dwp`).
//!
//! Source: DWARF 5, section 7.3.2 and appendix F; "Split DWARF" in LLVM's and GCC's manuals for what
//! came before.

use std::fs::File;

use gimli::{IndexSectionId, LittleEndian, UnitIndex, UnitType};

use super::{
    Debug,
    sections::{Of, Sections, Slice, UnitHead},
    unit::{Bases, Unit},
};
use crate::symbolize::{elf_file::ElfFile, store::Limit};

/// Opens the files that split debug information is in.
pub(in crate::symbolize) struct SplitFiles<'a> {
    /// The package of an object, opened once.
    package: Option<Sections>,
    /// Opens the file with this path.
    open: &'a dyn Fn(&str) -> Option<File>,
    limit: Limit,
}

impl<'a> SplitFiles<'a> {
    /// `package` is the object's `.dwp` file, if there is one.
    pub(in crate::symbolize) fn new(
        package: Option<File>,
        open: &'a dyn Fn(&str) -> Option<File>,
        limit: Limit,
    ) -> Self {
        let read = |file| {
            let elf = ElfFile::read(file).ok()?;
            Sections::open(&elf, Of::Package, limit).ok()
        };
        Self {
            package: package.and_then(read),
            open,
            limit,
        }
    }

    /// Addresses are in the main file alone, and so are ranges before version 5.
    pub(super) fn share(&mut self, main: &Sections) {
        if let Some(package) = &mut self.package {
            package.share(main);
        }
    }
}

/// The sections that a split-off unit is in: those of a package are another's to keep.
pub(super) enum SplitSections<'a> {
    Package(&'a Sections),
    Own(Box<Sections>),
}

impl std::ops::Deref for SplitSections<'_> {
    type Target = Sections;

    fn deref(&self) -> &Sections {
        match self {
            Self::Package(sections) => sections,
            Self::Own(sections) => sections,
        }
    }
}

impl Sections {
    fn share(&mut self, main: &Self) {
        self.addr = main.addr.clone();
        self.ranges = main.ranges.clone();
    }
}

impl Debug<'_> {
    /// The part that was split off a unit, if it was and can be found.
    pub(super) fn split_of(&self, unit: &Unit) -> Option<(SplitSections<'_>, Unit)> {
        let (id, name) = unit.split.as_ref()?;
        self.packaged(unit, *id)
            .or_else(|| self.alone(unit, *id, name))
    }

    fn packaged(&self, skeleton: &Unit, id: u64) -> Option<(SplitSections<'_>, Unit)> {
        let sections = self.split.package.as_ref()?;
        let bytes = sections.cu_index.window(0, sections.cu_index.len()).ok()?;
        let index = gimli::DebugCuIndex::new(&bytes, LittleEndian);
        let index: UnitIndex<Slice<'_>> = index.index().ok()?;
        let row = index.find(id)?;
        let mut contribution = Contribution::default();
        for section in index.sections(row).ok()? {
            let offset = u64::from(section.offset);
            match section.section {
                IndexSectionId::DebugInfo => contribution.info = offset,
                IndexSectionId::DebugAbbrev => contribution.abbreviations = offset,
                IndexSectionId::DebugStrOffsets => contribution.str_offsets = offset,
                IndexSectionId::DebugRngLists => contribution.rnglists = offset,
                _ => {}
            }
        }
        let head = sections.unit_head(contribution.info).ok()?;
        let unit = self.split_unit(sections, head, skeleton, contribution)?;
        Some((SplitSections::Package(sections), unit))
    }

    fn alone(&self, skeleton: &Unit, id: u64, name: &str) -> Option<(SplitSections<'_>, Unit)> {
        let path = if name.starts_with('/') {
            name.to_owned()
        } else {
            format!("{}/{name}", skeleton.folder)
        };
        let elf = ElfFile::read((self.split.open)(&path)?).ok()?;
        let number = self.splits_read.get();
        self.splits_read.set(number + 1);
        let mut sections = Sections::open(&elf, Of::Split(number), self.split.limit).ok()?;
        sections.share(&self.sections);
        let mut offset = 0;
        let head = loop {
            let head = sections.unit_head(offset).ok()?;
            if matches!(head.kind, UnitType::SplitCompilation(found) if found.0 == id)
                || head.kind == UnitType::Compilation
            {
                break head;
            }
            offset = head.end();
        };
        let unit = self.split_unit(&sections, head, skeleton, Contribution::default())?;
        Some((SplitSections::Own(Box::new(sections)), unit))
    }

    /// A split-off unit. Addresses, and ranges before version 5, are those of its skeleton.
    fn split_unit(
        &self,
        sections: &Sections,
        head: UnitHead,
        skeleton: &Unit,
        contribution: Contribution,
    ) -> Option<Unit> {
        let format = head.encoding.format;
        let is_new = head.encoding.version >= 5;
        // Headers, which nothing in a split-off part leads past.
        let offsets_header = u64::from(format.initial_length_size()) + 4;
        let lists_header = u64::from(format.initial_length_size()) + 8;
        let bases = Bases {
            addr: skeleton.bases.addr,
            str_offsets: contribution.str_offsets + if is_new { offsets_header } else { 0 },
            rnglists: contribution.rnglists + if is_new { lists_header } else { 0 },
            ranges: skeleton.bases.ranges,
        };
        let head = UnitHead {
            abbreviations: head.abbreviations + contribution.abbreviations,
            ..head
        };
        let mut unit = self.read_unit(sections, head, bases).ok()?;
        unit.bases = bases;
        unit.low_pc = skeleton.low_pc;
        unit.line_offset = skeleton.line_offset;
        unit.folder.clone_from(&skeleton.folder);
        Some(unit)
    }
}

/// Where a unit's parts of a package's sections begin.
#[derive(Clone, Copy, Debug, Default)]
struct Contribution {
    info: u64,
    abbreviations: u64,
    str_offsets: u64,
    rnglists: u64,
}
