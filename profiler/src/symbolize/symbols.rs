//! Names from tables of symbols: `.symtab`, `.dynsym`.
//!
//! In: a table, and the addresses that want names. Out: a name for each, or none. The table is gone
//! through once and nothing of it is kept but what was asked for, so that the memory it takes is that
//! of the addresses and not of the table.

use std::cmp::{Ordering, Reverse};

use object::elf;

use super::{
    elf_file::{ElfFile, SymbolTable},
    store::{Limit, Store, StoreError},
};
use crate::object::CodeSections;

/// Bytes of an `Elf64_Sym`.
const SYMBOL_BYTES: usize = 24;
/// Symbols read at a time.
const SYMBOLS_AT_ONCE: u64 = 8192;
/// How many symbols may cover an address, on average. In a file that was not made to keep us busy
/// they hardly overlap.
const MOST_COVERS: usize = 256;

/// Whether a table has every function of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Completeness {
    /// It has. So a symbol that does not tell its size ends at the next one.
    All,
    /// It has those that other files see. What lies behind a symbol may be another function's.
    Exported,
}

/// A symbol of code.
#[derive(Clone, Copy, Debug)]
struct Symbol {
    start: u64,
    bytes: u64,
    binding: elf::SymbolBind,
    /// Where its name is.
    name: u64,
}

impl Symbol {
    /// Reads one, if it is of code.
    fn parse(raw: &[u8; SYMBOL_BYTES]) -> Option<Self> {
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| raw[at + i]));
        let (first, start, bytes) = (word(0), word(8), word(16));
        let name = first & 0xffff_ffff;
        let info = (first >> 32) as u8;
        let section = (first >> 48) as u16;
        let kind = elf::SymbolType(info & 0xf);
        let is_code = matches!(kind, elf::STT_FUNC | elf::STT_GNU_IFUNC | elf::STT_NOTYPE);
        let is_here = section != elf::SHN_UNDEF.0 && section != elf::SHN_ABS.0;
        (is_code && is_here && name != 0).then_some(Self {
            start,
            bytes,
            binding: elf::SymbolBind(info >> 4),
            name,
        })
    }

    /// Whether other files may use it.
    fn is_public(&self) -> bool {
        self.binding != elf::STB_LOCAL
    }

    /// What makes one of several symbols of an address the better one: the innermost, then the one
    /// that others know.
    fn rank(&self) -> (u64, Reverse<u64>, bool) {
        (self.start, Reverse(self.bytes), self.is_public())
    }
}

/// A name of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SymbolName {
    pub(super) text: String,
    /// Whether other files may use it.
    pub(super) is_public: bool,
}

/// The names of addresses, which are sorted.
pub(super) fn names(
    elf: &ElfFile,
    table: SymbolTable,
    completeness: Completeness,
    addresses: &[u64],
    sections: &CodeSections,
) -> Result<Vec<Option<SymbolName>>, StoreError> {
    let limit = Limit {
        bytes: SYMBOLS_AT_ONCE * SYMBOL_BYTES as u64,
    };
    let symbols = Store::open(&elf.file, table.symbols, limit)?;
    let names = Store::open(&elf.file, table.names, limit)?;
    let mut search = Search {
        addresses,
        names: &names,
        found: vec![None; addresses.len()],
        begins: vec![None; addresses.len()],
        covers_left: MOST_COVERS * (addresses.len() + MOST_COVERS),
    };
    let mut at = 0;
    while at < symbols.len() {
        let window = symbols.window(at, limit.bytes)?;
        let (rows, _) = window.as_chunks::<SYMBOL_BYTES>();
        for symbol in rows.iter().filter_map(Symbol::parse) {
            search.offer(symbol);
        }
        at += limit.bytes;
    }
    if completeness == Completeness::All {
        search.fill_gaps(sections);
    }
    let name = |symbol: Symbol| {
        Some(SymbolName {
            text: unversioned(names.text(symbol.name)?)?,
            is_public: symbol.is_public(),
        })
    };
    let found = search.found.into_iter();
    Ok(found.map(|symbol| symbol.and_then(name)).collect())
}

struct Search<'a> {
    addresses: &'a [u64],
    names: &'a Store,
    /// The best symbol that says that it covers the address.
    found: Vec<Option<Symbol>>,
    /// The last symbol that begins at or before the address and behind the address before.
    begins: Vec<Option<Symbol>>,
    covers_left: usize,
}

impl Search<'_> {
    fn offer(&mut self, symbol: Symbol) {
        let first = self.addresses.partition_point(|a| *a < symbol.start);
        let Some(rest) = self.addresses.get(first..).filter(|rest| !rest.is_empty()) else {
            return;
        };
        let is_last = self.begins[first].is_none_or(|last| symbol.start > last.start)
            || self.begins[first]
                .is_some_and(|last| symbol.start == last.start && self.is_better(&symbol, &last));
        if is_last {
            self.begins[first] = Some(symbol);
        }
        let end = symbol.start.saturating_add(symbol.bytes);
        let covered = rest.partition_point(|address| *address < end);
        let covered = covered.min(self.covers_left);
        self.covers_left -= covered;
        for i in first..first + covered {
            if self.found[i].is_none_or(|found| self.is_better(&symbol, &found)) {
                self.found[i] = Some(symbol);
            }
        }
    }

    /// Whether one symbol is to be preferred; of equal ones the one whose name hides less.
    fn is_better(&self, one: &Symbol, other: &Symbol) -> bool {
        match one.rank().cmp(&other.rank()) {
            Ordering::Equal => {
                let plainness = |symbol: &Symbol| {
                    let name = self.names.text(symbol.name).unwrap_or_default();
                    let underscores = name.len() - name.trim_start_matches('_').len();
                    (underscores, name.len(), name)
                };
                plainness(one) < plainness(other)
            }
            order => order == Ordering::Greater,
        }
    }

    /// Where no symbol says that it covers an address, the last one before it does if it does not
    /// tell its size, and is in the same section.
    fn fill_gaps(&mut self, sections: &CodeSections) {
        let mut last = None;
        for (i, address) in self.addresses.iter().enumerate() {
            last = self.begins[i].or(last);
            let unsized_one = last.filter(|symbol: &Symbol| {
                symbol.bytes == 0
                    && (symbol.start == *address || sections.are_together(symbol.start, *address))
            });
            self.found[i] = self.found[i].or(unsized_one);
        }
    }
}

/// A symbol's name without the version that linkers append: `memcpy@@GLIBC_2.14`.
fn unversioned(mut name: String) -> Option<String> {
    if let Some(end) = name.find('@').filter(|at| *at > 0) {
        name.truncate(end);
    }
    (!name.is_empty()).then_some(name)
}
