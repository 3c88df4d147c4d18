//! Lines, inlined calls and the lines that functions start at, from DWARF 2 to 5.
//!
//! In: a file with debug information, and the addresses of a profile that lie in its object. Out: for
//! each address its functions, the innermost inlined call first, each with a place in the source.
//!
//! Debug information is larger than anything else there is of a program: a browser has gigabytes.
//! Readers that index it do so in memory, for addresses that come one by one. We know all addresses
//! beforehand, so we go through each unit that they lie in once, and keep what they ask for and
//! nothing else. gimli reads the bytes; what is here is the order in which they are read.
//!
//! Source: DWARF 5, chapters 2.17, 3.3, 6.1, 6.2 and 7.5; `DW_AT_GNU_*` as GCC and LLVM wrote them
//! before version 5.

mod functions;
mod index;
mod lines;
mod sections;
mod split;
mod unit;

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    time::Instant,
};

use gimli::{Abbreviations, UnitType};
use thiserror::Error;

pub(super) use split::SplitFiles;

use self::{
    functions::{KeptFunctions, Link},
    lines::{Files, Row},
    sections::{Of, Sections, UnitHead},
    unit::{Bases, Unit},
};
use super::{
    elf_file::ElfFile,
    store::{Limit, StoreError},
};

/// Tables of abbreviations that are kept. Compilers of whole programs have one for all units.
const MOST_TABLES: usize = 32;

/// Why debug information cannot be read.
#[derive(Debug, Error)]
pub(super) enum DwarfError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("it is broken: {0}")]
    Broken(#[from] gimli::Error),
    #[error("it ends before it should")]
    CutOff,
}

/// A place in the source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// Empty if unknown.
    pub(super) file: String,
    /// 0 if unknown.
    pub(super) line: u32,
    /// 0 if unknown.
    pub(super) column: u32,
}

/// A function that an address lies in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Frame {
    /// The linker's name, else the one in the source; `None` if only the line is known.
    pub(super) name: Option<String>,
    /// Where in it.
    pub(super) place: Place,
    /// The line that it starts at, in the place's file; 0 if unknown.
    pub(super) start_line: u32,
}

/// What debug information says of some addresses.
#[derive(Debug)]
pub(super) struct Found {
    /// For each address, the innermost inlined call first; empty if nothing is known.
    pub(super) frames: Vec<Vec<Frame>>,
    /// Addresses whose units are longer than the memory there is for one.
    pub(super) too_long: Vec<u64>,
    /// Addresses that were not looked up, as the time was up.
    pub(super) too_late: Vec<u64>,
}

/// The debug information of an object.
pub(super) struct Debug<'a> {
    sections: Sections,
    /// What several debug files share: dwz's.
    shared: Option<Sections>,
    split: SplitFiles<'a>,
    /// The first address of code: what linkers left out is put before it.
    code_start: u64,
    tables: RefCell<HashMap<(Of, u64), Rc<Abbreviations>>>,
    heads: RefCell<HashMap<Of, Rc<Vec<UnitHead>>>>,
    kept_files: RefCell<HashMap<(Of, u64), Files>>,
    kept_functions: RefCell<KeptFunctions>,
    splits_read: Cell<u64>,
}

impl<'a> Debug<'a> {
    /// Opens that of a file. `shared` is the file that `.gnu_debugaltlink` names.
    pub(super) fn open(
        elf: &ElfFile,
        shared: Option<&ElfFile>,
        mut split: SplitFiles<'a>,
        code_start: u64,
        limit: Limit,
    ) -> Result<Self, DwarfError> {
        let shared = shared.map(|shared| Sections::open(shared, Of::Shared, limit));
        let sections = Sections::open(elf, Of::Main, limit)?;
        split.share(&sections);
        Ok(Self {
            sections,
            shared: shared.transpose()?,
            split,
            code_start,
            tables: RefCell::default(),
            heads: RefCell::default(),
            kept_files: RefCell::default(),
            kept_functions: RefCell::default(),
            splits_read: Cell::new(0),
        })
    }

    /// What is known of addresses, which are sorted. No unit is begun after the deadline.
    pub(super) fn resolve(
        &self,
        addresses: &[u64],
        deadline: Option<Instant>,
    ) -> Result<Found, DwarfError> {
        let mut found = Found {
            frames: vec![Vec::new(); addresses.len()],
            too_long: Vec::new(),
            too_late: Vec::new(),
        };
        for (offset, mut wanted) in self.units_of(addresses)? {
            // Ranges come in any order.
            wanted.sort_unstable();
            let inside: Vec<u64> = wanted.iter().map(|i| addresses[*i]).collect();
            if deadline.is_some_and(|at| Instant::now() >= at) {
                found.too_late.extend(inside);
                continue;
            }
            match self.resolve_unit(offset, &inside) {
                Ok(frames) => {
                    for (i, frames) in wanted.into_iter().zip(frames) {
                        found.frames[i] = frames;
                    }
                }
                Err(DwarfError::Store(StoreError::TooLong { .. })) => {
                    found.too_long.extend(inside);
                }
                Err(error) => log::debug!("unit {offset:#x}: {error}"),
            }
        }
        Ok(found)
    }

    fn resolve_unit(&self, offset: u64, addresses: &[u64]) -> Result<Vec<Vec<Frame>>, DwarfError> {
        let unit = self.unit(self.sections.unit_head(offset)?)?;
        let (rows, files) = self.lines(&unit, addresses)?;
        let split = self.split_of(&unit);
        let (sections, inner): (&Sections, &Unit) = match &split {
            Some((sections, inner)) => (sections, inner),
            None => (&self.sections, &unit),
        };
        let chains = self.functions(sections, inner, addresses)?;
        let frames = rows.into_iter().zip(chains).map(|(row, chain)| {
            let described = |link: &Link| self.describe(sections, inner, link.offset);
            frames(row, &chain, &files, described)
        });
        Ok(frames.collect())
    }

    /// A unit of the main file.
    fn unit(&self, head: UnitHead) -> Result<Unit, DwarfError> {
        self.read_unit(&self.sections, head, Bases::default())
    }

    fn read_unit(
        &self,
        sections: &Sections,
        head: UnitHead,
        bases: Bases,
    ) -> Result<Unit, DwarfError> {
        let key = (sections.of, head.abbreviations);
        let kept = self.tables.borrow().get(&key).map(Rc::clone);
        let table = match kept {
            Some(table) => table,
            None => {
                let table = Rc::new(sections.abbreviations(head.abbreviations)?);
                let mut tables = self.tables.borrow_mut();
                if tables.len() >= MOST_TABLES {
                    tables.clear();
                }
                tables.insert(key, Rc::clone(&table));
                table
            }
        };
        Unit::read(sections, head, table, bases)
    }

    /// The unit of a file that an offset lies in.
    fn unit_at(&self, sections: &Sections, offset: u64) -> Option<Unit> {
        let kept = self.heads.borrow().get(&sections.of).map(Rc::clone);
        let heads = kept.unwrap_or_else(|| {
            let heads = Rc::new(all_heads(sections));
            self.heads
                .borrow_mut()
                .insert(sections.of, Rc::clone(&heads));
            heads
        });
        let after = heads.partition_point(|head| head.offset <= offset);
        let head = heads[..after].last().filter(|head| offset < head.end())?;
        self.read_unit(sections, *head, Bases::default()).ok()
    }
}

fn all_heads(sections: &Sections) -> Vec<UnitHead> {
    let (mut heads, mut offset) = (Vec::new(), 0);
    while let Ok(head) = sections.unit_head(offset) {
        offset = head.end();
        if !matches!(
            head.kind,
            UnitType::Type { .. } | UnitType::SplitType { .. }
        ) {
            heads.push(head);
        }
    }
    heads
}

/// The frames of one address.
fn frames(
    row: Option<Row>,
    chain: &[Link],
    files: &[String],
    describe: impl Fn(&Link) -> functions::Described,
) -> Vec<Frame> {
    let mut row = row;
    let mut frames = Vec::with_capacity(chain.len());
    for link in chain.iter().rev() {
        let described = describe(link);
        let place = Debug::place(row.unwrap_or_default(), files);
        // Lines of another file would be taken for this one's.
        let is_same = described
            .file
            .as_ref()
            .is_none_or(|file| *file == place.file);
        frames.push(Frame {
            name: described.linkage_name.or(described.name),
            start_line: if is_same { described.line } else { 0 },
            place,
        });
        row = link.call;
    }
    if frames.is_empty()
        && let Some(row) = row
    {
        frames.push(Frame {
            place: Debug::place(row, files),
            ..Frame::default()
        });
    }
    frames
}
