//! Names, lines and inlined calls for the locations of a profile.
//!
//! In: a profile whose locations have no lines yet, and where each location lies. Out: the same
//! profile with a line at least for each location. A frame without a symbol gets its object's
//! name, never a neighbour's.

mod demangle;
pub mod go;
mod kernel;

use std::{cell::LazyCell, collections::BTreeMap, path::Path};

use blazesym::symbolize::{
    CodeInfo, Input, Sym, Symbolized, Symbolizer,
    source::{Elf, Source},
};

pub use kernel::KernelNames;

use crate::{
    bpf::KernelSymbols,
    object::{CodeSections, ElfAddr, Object, ObjectId, Objects},
    profile::{FrameKind, Function, Line, LocationId, Profile, StringId},
};

/// Where a location lies, for the one who looks up its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In an object, at the address to look up.
    Object(ObjectId, ElfAddr),
    /// In the kernel, at the address to look up.
    Kernel(u64),
    /// In executable memory that no file backs.
    Jit,
    /// In memory that nothing is known of.
    Unknown,
    /// Nowhere: the location only says something.
    Marker,
}

/// Whether inlined calls and lines are looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inlines {
    /// From DWARF, where there is any.
    Resolve,
    /// Function names alone: faster, and small in memory.
    Skip,
}

/// Gives each location its lines. `origins[i]` belongs to the `i`th location; `printed` is what the
/// kernel says of its addresses, where it can. Tells for each location whether its function has a
/// name of its own, and whether the kernel hid its names.
pub fn symbolize(
    profile: &mut Profile,
    origins: &[Origin],
    objects: &Objects,
    inlines: Inlines,
    printed: Option<&KernelSymbols>,
) -> (Vec<bool>, KernelNames) {
    let mut named = vec![false; origins.len()];
    let mut by_object: BTreeMap<ObjectId, Vec<(LocationId, u64)>> = BTreeMap::new();
    let mut in_kernel = Vec::new();
    for (id, origin) in profile.location_ids().zip(origins) {
        match origin {
            Origin::Object(object, address) => {
                by_object.entry(*object).or_default().push((id, address.0));
            }
            Origin::Kernel(address) => in_kernel.push((id, *address)),
            Origin::Marker => named[id.index()] = true,
            Origin::Jit | Origin::Unknown => {}
        }
    }
    for (object, addresses) in by_object {
        symbolize_object(
            profile,
            objects.get(object),
            &addresses,
            inlines,
            &mut named,
        );
    }
    let kernel_names = kernel::symbolize(profile, &in_kernel, printed, &mut named);
    name_the_rest(profile, origins, objects);
    (named, kernel_names)
}

/// One object at a time, with a symbolizer of its own: memory is that of one object's symbols.
fn symbolize_object(
    profile: &mut Profile,
    object: &Object,
    addresses: &[(LocationId, u64)],
    inlines: Inlines,
    named: &mut [bool],
) {
    let Some(path) = object.kept_path() else {
        return;
    };
    let names = symbolizer(Inlines::Skip);
    let symbols = match lookup(&names, &path, addresses, Inlines::Skip) {
        Ok(symbols) => symbols,
        Err(error) => {
            log::debug!("{}: no symbols: {error}", object.path);
            return;
        }
    };
    let lines = symbolizer(inlines);
    let debug = match inlines {
        Inlines::Resolve => lookup(&lines, &path, addresses, inlines).unwrap_or_else(|error| {
            log::debug!("{}: no debug information: {error}", object.path);
            Vec::new()
        }),
        Inlines::Skip => Vec::new(),
    };
    let file = object.unchanged_file();
    let sections = LazyCell::new(|| file.map(CodeSections::read).unwrap_or_default());
    let mut unnamed = Vec::new();
    for (i, (id, address)) in addresses.iter().enumerate() {
        let is_own = |symbol: &&Sym<'_>| is_of(symbol, *address, &sections);
        let by_table = symbols.get(i).and_then(Symbolized::as_sym).filter(is_own);
        let by_debug = debug.get(i).and_then(Symbolized::as_sym).filter(is_own);
        let found = match (by_debug, by_table) {
            (Some(debug), table) => lines_of(profile, debug, table),
            (None, Some(table)) => lines_of(profile, table, None),
            (None, None) => {
                unnamed.push((*id, *address));
                continue;
            }
        };
        profile.set_lines(*id, found);
        named[id.index()] = true;
    }
    if let Some(file) = file.filter(|_| !unnamed.is_empty()) {
        let wanted: Vec<u64> = unnamed.iter().map(|(_, address)| *address).collect();
        let names = sections.linkage_names(file, &wanted);
        for (id, address) in unnamed {
            if let Some(name) = names.get(&address) {
                let line = line(profile, name, None);
                profile.set_lines(id, vec![line]);
                named[id.index()] = true;
            }
        }
    }
}

/// Whether a symbol is that of an address, and not of what lies before it. One that does not tell
/// its size ends at the next one, and at the end of its section.
fn is_of(symbol: &Sym<'_>, address: u64, sections: &CodeSections) -> bool {
    symbol.size.is_some() || symbol.addr == address || sections.are_together(symbol.addr, address)
}

fn symbolizer(inlines: Inlines) -> Symbolizer {
    let debug = inlines == Inlines::Resolve;
    Symbolizer::builder()
        .enable_demangling(false)
        .enable_code_info(debug)
        .enable_inlined_fns(debug)
        .enable_auto_reload(false)
        .build()
}

fn lookup<'a>(
    symbolizer: &'a Symbolizer,
    path: &Path,
    addresses: &[(LocationId, u64)],
    inlines: Inlines,
) -> blazesym::Result<Vec<Symbolized<'a>>> {
    let mut elf = Elf::new(path);
    elf.debug_syms = inlines == Inlines::Resolve;
    let addresses: Vec<u64> = addresses.iter().map(|(_, address)| *address).collect();
    symbolizer.symbolize(&Source::Elf(elf), Input::VirtOffset(&addresses))
}

/// A symbol's lines, the innermost inlined call first. Slim debug information has no more than the
/// last part of a name; `table` is what the symbol table says of the same address.
fn lines_of(profile: &mut Profile, symbol: &Sym<'_>, table: Option<&Sym<'_>>) -> Vec<Line> {
    let name = table
        .filter(|table| is_full_name_of(&table.name, &symbol.name))
        .map_or(&symbol.name, |table| &table.name);
    let mut lines = vec![line(profile, name, symbol.code_info.as_deref())];
    for inlined in &symbol.inlined {
        lines.push(line(profile, &inlined.name, inlined.code_info.as_ref()));
    }
    lines.reverse();
    lines
}

/// Whether `mangled` is a mangled name whose last part is `short`.
fn is_full_name_of(mangled: &str, short: &str) -> bool {
    demangle::readable(short).is_none()
        && demangle::readable(mangled).is_some_and(|readable| readable.contains(short))
}

fn line(profile: &mut Profile, raw_name: &str, code: Option<&CodeInfo<'_>>) -> Line {
    let readable = demangle::readable(raw_name);
    let name = profile.string(readable.as_deref().unwrap_or(raw_name));
    let system_name = match readable {
        Some(_) => profile.string(raw_name),
        None => StringId::EMPTY,
    };
    let file = match code {
        Some(code) => profile.string(&code.to_path().to_string_lossy()),
        None => StringId::EMPTY,
    };
    let function = profile.function(Function {
        name,
        system_name,
        file,
        start_line: 0,
    });
    Line {
        function,
        line: code.and_then(|code| code.line).unwrap_or(0),
        column: code.and_then(|code| code.column).map_or(0, u32::from),
    }
}

/// A stand-in for each location that has no symbol: what the code lies in.
fn name_the_rest(profile: &mut Profile, origins: &[Origin], objects: &Objects) {
    for (id, origin) in profile.location_ids().zip(origins) {
        if !profile.location_at(id).lines.is_empty() {
            continue;
        }
        let words = match origin {
            Origin::Object(object, _) => bracketed(objects.get(*object).short_name()),
            Origin::Kernel(_) => kernel_name(profile, id),
            Origin::Jit => "[jit]".to_owned(),
            Origin::Unknown | Origin::Marker => "[unknown]".to_owned(),
        };
        let name = profile.string(&words);
        let function = profile.function(Function {
            name,
            system_name: StringId::EMPTY,
            file: StringId::EMPTY,
            start_line: 0,
        });
        profile.set_lines(
            id,
            vec![Line {
                function,
                line: 0,
                column: 0,
            }],
        );
    }
}

fn kernel_name(profile: &Profile, id: LocationId) -> String {
    let location = profile.location_at(id);
    debug_assert_eq!(location.kind, FrameKind::Kernel);
    match location.mapping {
        Some(mapping) if profile.text(profile.mapping_at(mapping).path) != kernel::KERNEL_NAME => {
            profile.text(profile.mapping_at(mapping).path).to_owned()
        }
        _ => "[kernel]".to_owned(),
    }
}

fn bracketed(name: &str) -> String {
    if name.starts_with('[') {
        name.to_owned()
    } else {
        format!("[{name}]")
    }
}
