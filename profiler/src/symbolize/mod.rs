//! Names, lines and inlined calls for the locations of a profile.
//!
//! In: a profile whose locations have no lines yet, and where each location lies. Out: the same
//! profile with a line at least for each location. A frame without a symbol gets its object's
//! name, never a neighbour's, and a reason.

mod demangle;
mod dwarf;
mod elf_file;
pub mod go;
mod kernel;
mod object;
mod rust_sources;
mod sources;
mod store;
mod symbols;
mod warm;

use std::{collections::BTreeMap, time::Instant};

pub(crate) use demangle::readable;
pub(crate) use kernel::text_bytes as kernel_text_bytes;
pub use kernel::{KERNEL_NAME, KernelNames, kernel_functions_at};
pub use sources::{LineSource, NameSource, SymbolSources, symbol_sources};
pub(crate) use warm::Warm;

use self::{dwarf::Frame, rust_sources::RustSources};
use crate::{
    bpf::KernelSymbols,
    bug,
    jit::{JitReason, Runtime},
    object::{ElfAddr, Object, ObjectId, ObjectTable, Unopened},
    profile::{FrameKind, Function, Line, LocationId, Profile, StringId},
    unnamed::{NoLines, Reason},
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

/// Whether functions of objects are looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// Here and now.
    Resolve,
    /// By whoever reads the profile, where the objects are. What readers cannot look up has names:
    /// the kernel, the vDSO, code made at run time.
    LeftToReader,
}

/// The memory of symbols of a run that asks for none, in bytes.
pub const DEFAULT_SYMBOL_BYTES: u64 = 256 << 20;

/// How symbols are looked up.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Whether inlined calls and lines are.
    pub inlines: Inlines,
    /// Whether functions of objects are.
    pub names: Names,
    /// Bytes of memory that they may take at one time. Names come first; what would need more has no
    /// lines.
    pub most_bytes: u64,
    /// When whoever wants them wants them no more: what was not asked by then has names and no lines.
    pub deadline: Option<Instant>,
    /// Whether what objects say is remembered.
    pub memory: Memory,
}

/// Whether what objects say is remembered: by those who ask again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// With the object, within bounds.
    Kept,
    /// It is not.
    None,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            inlines: Inlines::Resolve,
            names: Names::Resolve,
            most_bytes: DEFAULT_SYMBOL_BYTES,
            deadline: None,
            memory: Memory::None,
        }
    }
}

/// What became of a location.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Its function has a name of its own.
    Named,
    /// As before, but its object says no line, and lines are what it could have.
    Lineless(NoLines),
    /// It has none, for this reason.
    Unnamed(Reason),
}

/// What came of it.
#[derive(Debug)]
pub struct Symbolized {
    /// What became of each location. Of code made at run time only `jit` knows.
    pub known: Vec<Known>,
    /// Whether the kernel hid its names.
    pub kernel_names: KernelNames,
    /// Addresses whose lines would have taken more memory than symbols may have.
    pub without_lines: usize,
    /// Objects that have no debug information, and a build id by which others may have it.
    pub bare_objects: usize,
    /// Objects that were not asked for all lines, as the time was up.
    pub hurried: usize,
}

/// Gives each location its lines. `origins[i]` belongs to the `i`th location; `printed` is what the
/// kernel says of its addresses, where it can.
pub fn symbolize(
    profile: &mut Profile,
    origins: &[Origin],
    objects: &ObjectTable,
    settings: Settings,
    printed: Option<&KernelSymbols>,
) -> Symbolized {
    let mut known: Vec<Known> = origins.iter().map(before_asking).collect();
    let mut by_object: BTreeMap<ObjectId, Vec<(LocationId, u64)>> = BTreeMap::new();
    let mut in_kernel = Vec::new();
    let (mut without_lines, mut bare_objects, mut hurried) = (0, 0, 0);
    for (id, origin) in profile.location_ids().zip(origins) {
        match origin {
            Origin::Object(object, address) => {
                by_object.entry(*object).or_default().push((id, address.0));
            }
            Origin::Kernel(address) => in_kernel.push((id, *address)),
            Origin::Marker | Origin::Jit | Origin::Unknown => {}
        }
    }
    let mut sources = RustSources::of_host();
    for (object, addresses) in by_object {
        let object = objects.get(object);
        // What is no file is here alone.
        let addresses = match settings.names {
            Names::LeftToReader if object.has_path() => leave(profile, addresses, &mut known),
            _ => addresses,
        };
        let is_late = settings.deadline.is_some_and(|at| Instant::now() >= at);
        let in_haste = is_late && settings.inlines == Inlines::Resolve;
        let naming = Naming {
            settings: Settings {
                inlines: if in_haste {
                    Inlines::Skip
                } else {
                    settings.inlines
                },
                ..settings
            },
            known: &mut known,
            sources: &mut sources,
        };
        let asked = bug::contain(|| symbolize_object(profile, object, &addresses, naming));
        let asked = asked.unwrap_or_else(|| {
            leave_unread(profile, &addresses, &mut known);
            Asked::default()
        });
        hurried += usize::from(in_haste || asked.is_hurried);
        without_lines += asked.without_lines;
        bare_objects += usize::from(asked.is_bare);
    }
    let kernel_names = bug::contain(|| kernel::symbolize(profile, &in_kernel, printed, &mut known));
    name_the_rest(profile, origins, objects);
    Symbolized {
        known,
        kernel_names: kernel_names.unwrap_or(KernelNames::Told),
        without_lines,
        bare_objects,
        hurried,
    }
}

/// What holds of a location unless somebody says otherwise.
fn before_asking(origin: &Origin) -> Known {
    match origin {
        Origin::Object(..) => Known::Unnamed(Reason::NoSymbol),
        Origin::Kernel(_) => Known::Unnamed(Reason::KernelNoSymbol),
        Origin::Jit => Known::Unnamed(Reason::Made(Runtime::Other, JitReason::Gone)),
        Origin::Unknown => Known::Unnamed(Reason::NoMapping),
        Origin::Marker => Known::Named,
    }
}

/// The build id, in lower-case hex, of a file that would tell more of an object and is not on this
/// machine: its debug file, or what that shares with others.
#[must_use]
pub fn lacking(object: &Object, inlines: Inlines) -> Option<String> {
    object::lacking(object, object.unchanged_file()?, inlines)
}

/// What naming needs beside what is named.
struct Naming<'a> {
    settings: Settings,
    known: &'a mut [Known],
    sources: &'a mut RustSources,
}

/// Leaves locations in mappings to the reader. Gives those that lie in none.
fn leave(
    profile: &mut Profile,
    locations: Vec<(LocationId, u64)>,
    known: &mut [Known],
) -> Vec<(LocationId, u64)> {
    let mut rest = Vec::new();
    for (id, address) in locations {
        let Some(mapping) = profile.location_at(id).mapping else {
            rest.push((id, address));
            continue;
        };
        profile.leave_unnamed(mapping);
        known[id.index()] = Known::Unnamed(Reason::LeftToReader);
    }
    rest
}

/// Says of an object's locations that we failed to read its symbols, but for those that have names.
fn leave_unread(profile: &Profile, locations: &[(LocationId, u64)], known: &mut [Known]) {
    for (id, _) in locations {
        if profile.location_at(*id).lines.is_empty() {
            known[id.index()] = Known::Unnamed(Reason::BrokenSymbols);
        }
    }
}

/// What an object said beside names.
#[derive(Clone, Copy, Debug, Default)]
struct Asked {
    /// Addresses whose lines would have taken too much memory.
    without_lines: usize,
    /// Whether lines were left out, as the time was up.
    is_hurried: bool,
    /// Whether it has no debug information, and a build id by which others may have it.
    is_bare: bool,
}

/// One object at a time: memory is that of one object's symbols.
fn symbolize_object(
    profile: &mut Profile,
    object: &Object,
    locations: &[(LocationId, u64)],
    naming: Naming<'_>,
) -> Asked {
    let Naming {
        settings,
        known,
        sources,
    } = naming;
    bug::provoke(bug::Place::Symbolize);
    let mut addresses: Vec<u64> = locations.iter().map(|(_, address)| *address).collect();
    addresses.sort_unstable();
    addresses.dedup();
    let ask = |file, addresses: &[u64]| object::ask(object, file, addresses, settings);
    let told = file_of(object).and_then(|file| match settings.memory {
        Memory::Kept => object.warm.ask(&addresses, settings, |new| ask(file, new)),
        Memory::None => ask(file, &addresses),
    });
    let mut told = match told {
        Ok(told) => told,
        Err(reason) => {
            for (id, _) in locations {
                known[id.index()] = Known::Unnamed(reason);
            }
            return Asked::default();
        }
    };
    for frame in told.frames.iter_mut().flatten() {
        if let Some(local) = sources.local(&frame.place.file) {
            frame.place.file = local;
        }
    }
    for (id, address) in locations {
        let frames = addresses
            .binary_search(address)
            .map(|at| &told.frames[at])
            .expect("each address was asked for");
        known[id.index()] = if frames.is_empty() {
            Known::Unnamed(told.unnamed)
        } else if frames.iter().any(|frame| frame.place.line != 0) {
            Known::Named
        } else if told.lines.too_long.binary_search(address).is_ok() {
            Known::Lineless(NoLines::TooLarge)
        } else if told.lines.too_late.binary_search(address).is_ok() {
            Known::Lineless(NoLines::NotAsked)
        } else {
            Known::Lineless(told.lines.lineless)
        };
        if !frames.is_empty() {
            let lines = frames.iter().map(|frame| line(profile, frame)).collect();
            profile.set_lines(*id, lines);
        }
    }
    Asked {
        without_lines: told.lines.too_long.len(),
        is_hurried: !told.lines.too_late.is_empty(),
        is_bare: told.is_bare,
    }
}

/// The file of an object, or why there is none to read.
fn file_of(object: &Object) -> Result<&std::fs::File, Reason> {
    if object.file.is_none() {
        let why = object.unopened.unwrap_or(Unopened::Gone);
        return Err(Reason::Unopened(why));
    }
    object.unchanged_file().ok_or(Reason::WrittenOver)
}

/// A function that an address lies in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Its readable name.
    pub name: String,
    /// The source file; empty if unknown.
    pub file: String,
    /// The line in it; 0 if unknown.
    pub line: u32,
    /// The column; 0 if unknown.
    pub column: u32,
    /// The line that the function starts at; 0 if unknown.
    pub start_line: u32,
}

/// The functions of addresses in an object, the innermost inlined call first; none where it does not
/// tell.
#[must_use]
pub fn functions_at(object: &Object, addresses: &[ElfAddr], settings: Settings) -> Vec<Vec<Named>> {
    let mut sorted: Vec<u64> = addresses.iter().map(|address| address.0).collect();
    sorted.sort_unstable();
    sorted.dedup();
    let file = object.unchanged_file();
    let told = file.and_then(|file| object::ask(object, file, &sorted, settings).ok());
    let frames = told.map(|told| told.frames).unwrap_or_default();
    let named = |frame: &Frame| {
        let raw = frame.name.as_deref().unwrap_or_default();
        Named {
            name: readable(raw).unwrap_or_else(|| raw.to_owned()),
            file: frame.place.file.clone(),
            line: frame.place.line,
            column: frame.place.column,
            start_line: frame.start_line,
        }
    };
    let of_address = |address: &ElfAddr| {
        let at = sorted.binary_search(&address.0).ok()?;
        Some(frames.get(at)?.iter().map(named).collect())
    };
    let all = addresses.iter().map(of_address);
    all.map(Option::unwrap_or_default).collect()
}

/// A line of a location, with a readable name.
fn line(profile: &mut Profile, frame: &Frame) -> Line {
    let raw = frame.name.as_deref().unwrap_or("[unknown]");
    let readable = readable(raw);
    let name = profile.string(readable.as_deref().unwrap_or(raw));
    let system_name = match readable {
        Some(_) => profile.string(raw),
        None => StringId::EMPTY,
    };
    let file = profile.string(&frame.place.file);
    let function = profile.function(Function {
        name,
        system_name,
        file,
        start_line: frame.start_line,
    });
    Line {
        function,
        line: frame.place.line,
        column: frame.place.column,
    }
}

/// A line that has a name and nothing else.
fn named_line(profile: &mut Profile, raw_name: &str) -> Line {
    let frame = Frame {
        name: Some(raw_name.to_owned()),
        ..Frame::default()
    };
    line(profile, &frame)
}

/// A stand-in for each location that has no symbol: what the code lies in.
fn name_the_rest(profile: &mut Profile, origins: &[Origin], objects: &ObjectTable) {
    for (id, origin) in profile.location_ids().zip(origins) {
        let location = profile.location_at(id);
        let is_left = location
            .mapping
            .is_some_and(|id| profile.is_left_unnamed(id));
        if !location.lines.is_empty() || is_left {
            continue;
        }
        let words = match origin {
            Origin::Object(object, _) => bracketed(objects.get(*object).short_name()),
            Origin::Kernel(_) => kernel_name(profile, id),
            Origin::Jit => "[jit]".to_owned(),
            Origin::Unknown | Origin::Marker => "[unknown]".to_owned(),
        };
        let line = named_line(profile, &words);
        profile.set_lines(id, vec![line]);
    }
}

fn kernel_name(profile: &Profile, id: LocationId) -> String {
    let location = profile.location_at(id);
    debug_assert_eq!(location.kind, FrameKind::Kernel);
    match location.mapping {
        Some(mapping) if profile.text(profile.mapping_at(mapping).path) != KERNEL_NAME => {
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
