//! Mappings, functions and locations of a pprof file.

use foldhash::{HashMap, HashSet};

use super::{Texts, broken};
use crate::{
    export::proto,
    import::ImportError,
    profile::{
        FrameKind, Function, FunctionId, Line, Location, LocationId, Mapping, MappingId,
        MappingKind, Profile, StringId,
    },
    symbolize,
};

/// The kernel's own text. Modules have their name in brackets, at the kernel's addresses.
const KERNEL: &str = "[kernel.kallsyms]";
/// User code at a kernel's address: a page that the kernel lends to every process.
const VSYSCALL: &str = "[vsyscall]";
/// What is written where there is no mapping at all.
const STAND_IN: &str = "[unknown]";
/// Where the kernel's addresses start, on every machine that we know.
const KERNEL_START: u64 = 1 << 63;

/// The locations of a file, by their ids.
pub(super) struct Places {
    locations: HashMap<u64, LocationId>,
}

impl Places {
    pub(super) fn read(profile: &mut Profile, texts: &mut Texts<'_>) -> Result<Self, ImportError> {
        let functions = functions(profile, texts)?;
        let mappings = Mappings::read(profile, texts)?;
        let mut locations = HashMap::default();
        for location in texts.parts.locations() {
            let location: proto::Location = location?;
            let lines = lines(&location, &functions)?;
            let mapping = mappings.by_id.get(&location.mapping_id).copied();
            let told = Location {
                kind: kind_of(profile, &mappings, &location, &lines),
                mapping: mapping.map(|(id, _)| id),
                address: location.address,
                lines,
            };
            let told = profile.told_location(told);
            insert(&mut locations, location.id, told, "location")?;
        }
        Ok(Self { locations })
    }

    pub(super) fn location(&self, id: u64) -> Result<LocationId, ImportError> {
        let found = self.locations.get(&id).copied();
        found.ok_or_else(|| broken(format!("a sample names location {id}, which is not there")))
    }
}

/// Notes what has an id, which no other may have.
fn insert<T>(table: &mut HashMap<u64, T>, id: u64, item: T, what: &str) -> Result<(), ImportError> {
    if id == 0 {
        return Err(broken(format!("a {what} has the id 0")));
    }
    match table.insert(id, item) {
        None => Ok(()),
        Some(_) => Err(broken(format!("two {what}s have the id {id}"))),
    }
}

/// The mappings of a file.
struct Mappings {
    /// With what code in them is.
    by_id: HashMap<u64, (MappingId, FrameKind)>,
    /// Whether any code lies in one.
    are_used: bool,
}

/// What locations say of the mapping they lie in.
#[derive(Default)]
struct Uses {
    used: HashSet<u64>,
    /// Those with a location that has no line.
    unnamed: HashSet<u64>,
}

impl Uses {
    fn of(texts: &Texts<'_>) -> Result<Self, ImportError> {
        let mut uses = Self::default();
        for location in texts.parts.locations() {
            let location: proto::Location = location?;
            uses.used.insert(location.mapping_id);
            if location.line.is_empty() {
                uses.unnamed.insert(location.mapping_id);
            }
        }
        Ok(uses)
    }
}

impl Mappings {
    fn read(profile: &mut Profile, texts: &mut Texts<'_>) -> Result<Self, ImportError> {
        let uses = Uses::of(texts)?;
        let mut by_id = HashMap::default();
        let mut are_used = false;
        let parts = texts.parts;
        let is_used = |mapping: &proto::Mapping| uses.used.contains(&mapping.id);
        let is_whole = |mapping: &proto::Mapping| !is_used(mapping) && mapping.memory_limit == 0;
        let has_host = parts.mappings.first().is_some_and(is_whole);
        let mains = Mains::of(texts, has_host)?;
        for (at, mapping) in parts.mappings.iter().enumerate() {
            let path = parts.text(mapping.filename)?;
            let is_kernel = is_kernel(&path, mapping.memory_start);
            are_used |= is_used(mapping);
            if has_host && parts.mappings.len() == 1 && path == STAND_IN {
                break;
            }
            let kind = match at {
                0 if has_host => MappingKind::Host,
                _ if mains.has(at, is_used(mapping)) => MappingKind::Main,
                _ if is_kernel => MappingKind::Kernel,
                _ => MappingKind::Object,
            };
            let id = profile_mapping(profile, texts, mapping, kind)?;
            let has_names =
                mapping.has_functions | mapping.has_filenames | mapping.has_line_numbers;
            if !has_names && uses.unnamed.contains(&mapping.id) {
                profile.leave_unnamed(id);
            }
            let code = match is_kernel {
                true => FrameKind::Kernel,
                false => FrameKind::User,
            };
            insert(&mut by_id, mapping.id, (id, code), "mapping")?;
        }
        Ok(Self { by_id, are_used })
    }
}

fn profile_mapping(
    profile: &mut Profile,
    texts: &mut Texts<'_>,
    mapping: &proto::Mapping,
    kind: MappingKind,
) -> Result<MappingId, ImportError> {
    let mapping = Mapping {
        kind,
        start: mapping.memory_start,
        limit: mapping.memory_limit,
        file_offset: mapping.file_offset,
        path: texts.id(profile, mapping.filename)?,
        build_id: texts.id(profile, mapping.build_id)?,
    };
    Ok(profile.mapping(mapping))
}

fn is_kernel(path: &str, start: u64) -> bool {
    path == KERNEL || (start >= KERNEL_START && path.starts_with('[') && path != VSYSCALL)
}

/// The mappings, from the first on, that may be main executables.
struct Mains {
    end: usize,
    /// Whether what follows could not stand there if it were one too.
    is_end_known: bool,
}

impl Mains {
    /// Ours are sorted within each kind, the main ones first, so where the order breaks they end. If
    /// it does not, it does not matter. The first mapping of every file stays the first.
    fn of(texts: &Texts<'_>, has_host: bool) -> Result<Self, ImportError> {
        let parts = texts.parts;
        let mut last = None;
        for (at, mapping) in parts.mappings.iter().enumerate() {
            let path = parts.text(mapping.filename)?;
            let is_kernel = at > 0 && is_kernel(&path, mapping.memory_start);
            let numbers = [
                mapping.memory_start,
                mapping.memory_limit,
                mapping.file_offset,
            ];
            let key = Some((path, numbers, parts.text(mapping.build_id)?));
            // The host is first whatever it is called.
            let is_broken = key < last && !(at == 1 && has_host);
            if is_kernel || is_broken {
                return Ok(Self {
                    end: at,
                    is_end_known: is_broken && !is_kernel,
                });
            }
            last = key;
        }
        Ok(Self {
            end: parts.mappings.len(),
            is_end_known: false,
        })
    }

    /// Whether the mapping there is one. What no code lies in is there for no other reason.
    fn has(&self, at: usize, is_used: bool) -> bool {
        at == 0 || (at < self.end && (self.is_end_known || !is_used))
    }
}

fn functions(
    profile: &mut Profile,
    texts: &mut Texts<'_>,
) -> Result<HashMap<u64, FunctionId>, ImportError> {
    let mut functions = HashMap::default();
    let mut readable = HashMap::default();
    for function in texts.parts.functions() {
        let function: proto::Function = function?;
        let mut name = texts.id(profile, function.name)?;
        let mut system_name = texts.id(profile, function.system_name)?;
        if name == StringId::EMPTY {
            name = system_name;
        }
        if name == system_name {
            // pprof makes a name readable only if both are the same, and we write no such two.
            name = *readable.entry(name).or_insert_with(|| {
                let readable = symbolize::readable(profile.text(name));
                readable.map_or(name, |readable| profile.string(&readable))
            });
        }
        if name == system_name {
            system_name = StringId::EMPTY;
        }
        let known = Function {
            name,
            system_name,
            file: texts.id(profile, function.filename)?,
            start_line: line_number(function.start_line),
        };
        let known = profile.function(known);
        insert(&mut functions, function.id, known, "function")?;
    }
    Ok(functions)
}

fn lines(
    location: &proto::Location,
    functions: &HashMap<u64, FunctionId>,
) -> Result<Vec<Line>, ImportError> {
    let line = |line: &proto::Line| {
        let (id, place) = (line.function_id, location.id);
        let function = functions.get(&id).ok_or_else(|| {
            broken(format!(
                "location {place} names function {id}, which is not there"
            ))
        })?;
        Ok(Line {
            function: *function,
            line: line_number(line.line),
            column: line_number(line.column),
        })
    };
    location.line.iter().map(line).collect()
}

/// A number of a line or a column; 0 for what is none.
fn line_number(number: i64) -> u32 {
    u32::try_from(number).unwrap_or(0)
}

/// What a location's code is, as far as its place tells.
fn kind_of(
    profile: &Profile,
    mappings: &Mappings,
    location: &proto::Location,
    lines: &[Line],
) -> FrameKind {
    if let Some((_, kind)) = mappings.by_id.get(&location.mapping_id) {
        return *kind;
    }
    match (location.address, lines) {
        (0, [line]) if is_bracketed(profile.line_name(line)) => FrameKind::Marker,
        // Where no code has a mapping, that tells nothing.
        (1.., _) if mappings.are_used => FrameKind::Jit,
        _ => FrameKind::User,
    }
}

fn is_bracketed(name: &str) -> bool {
    name.starts_with('[') && name.ends_with(']')
}
