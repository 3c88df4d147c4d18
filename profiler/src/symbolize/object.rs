//! What one object says of its addresses: names, lines, inlined calls.
//!
//! In: an object with its kept file, and addresses in it. Out: the functions of each. Names come from
//! the first of these that has one: Go's table of functions, `.symtab`, `.gnu_debugdata`, the debug
//! file, `.dynsym`, entries of linkage. Lines and inlined calls come from DWARF, for the addresses
//! asked for alone. What has no name, or no line, has a reason.

use std::{
    cell::LazyCell,
    fs::File,
    ops::Deref,
    path::{Path, PathBuf},
    time::Instant,
};

use super::{
    Inlines, Settings, demangle,
    dwarf::{Debug, DwarfError, Frame, Place, SplitFiles},
    elf_file::{ElfError, ElfFile, Part},
    go::{GoFrame, GoTable},
    store::{Limit, StoreError},
    symbols::{self, Completeness, SymbolName},
};
use crate::{
    object::{
        CodeSections, Object, Unopened,
        debug_file::{self, DEBUG_FOLDER, Places, SplitOff},
        file::in_memory,
        hex, xz,
    },
    unnamed::{DebugLink, LeftSymbols, NoLines, Reason},
};

/// The largest `.gnu_debugdata` unpacked, in bytes.
const MOST_DEBUGDATA_BYTES: usize = 64 << 20;

/// What an object says.
#[derive(Debug)]
pub(super) struct Told {
    /// The frames of each address, the innermost inlined call first; empty if it has no name.
    pub(super) frames: Vec<Vec<Frame>>,
    /// Why addresses have no name, where they have none.
    pub(super) unnamed: Reason,
    /// The lines of those that have.
    pub(super) lines: ToldLines,
    /// Whether it has no debug information, and a build id by which others may have it.
    pub(super) is_bare: bool,
}

/// What an object says of lines.
#[derive(Debug)]
pub(super) struct ToldLines {
    /// Why addresses have no line, where they have none.
    pub(super) lineless: NoLines,
    /// Addresses whose lines would take more memory than symbols may have, sorted.
    pub(super) too_long: Vec<u64>,
    /// Addresses whose lines were not looked up, as the time was up, sorted.
    pub(super) too_late: Vec<u64>,
}

/// An object while it is asked.
pub(super) struct Source<'a> {
    object: &'a Object,
    file: &'a File,
    pub(super) elf: ElfFile,
    limit: Limit,
}

/// The build id of a file that would tell more of an object and is not here: its debug file, or what
/// that shares with others.
pub(super) fn lacking(object: &Object, file: &File, inlines: Inlines) -> Option<String> {
    // What the Go linker leaves out is in no other file.
    if object.is_go || !object.has_path() {
        return None;
    }
    let settings = Settings {
        inlines,
        ..Settings::default()
    };
    let source = Source::open(object, file, settings).ok()?;
    let is_enough = |elf: &ElfFile| match inlines {
        Inlines::Resolve => elf.has_debug(Part::Whole),
        Inlines::Skip => elf.symbols.is_some() || elf.debugdata.is_some(),
    };
    if is_enough(&source.elf) {
        return source.lacking_shared(&source.elf);
    }
    match source.debug_file() {
        Some(debug) if is_enough(&debug) => source.lacking_shared(&debug),
        _ => object.build_id.clone(),
    }
}

/// Asks an object of some addresses, which are sorted.
///
/// # Errors
/// When it says nothing of any address.
pub(super) fn ask(
    object: &Object,
    file: &File,
    addresses: &[u64],
    settings: Settings,
) -> Result<Told, Reason> {
    let source = Source::open(object, file, settings)?;
    if !object.is_go {
        return Ok(source.ask(addresses, settings));
    }
    // Go's own table is never stripped. It leaves out what other compilers made.
    let mut frames = by_go_table(file, addresses, settings.inlines);
    let is_left = |(_, frames): &(&u64, &Vec<Frame>)| frames.is_empty();
    let left = addresses.iter().zip(&frames).filter(is_left);
    let left: Vec<u64> = left.map(|(address, _)| *address).collect();
    if left.is_empty() {
        let lineless = match settings.inlines {
            Inlines::Resolve => NoLines::NotDescribed,
            Inlines::Skip => NoLines::NotAsked,
        };
        return Ok(Told {
            frames,
            unnamed: Reason::NoSymbol,
            lines: ToldLines {
                lineless,
                too_long: Vec::new(),
                too_late: Vec::new(),
            },
            is_bare: false,
        });
    }
    let told = source.ask(&left, settings);
    let slots = frames.iter_mut().filter(|frames| frames.is_empty());
    for (slot, frames) in slots.zip(told.frames) {
        *slot = frames;
    }
    Ok(Told { frames, ..told })
}

/// What the table of functions of a Go program says, the innermost inlined call first.
fn by_go_table(file: &File, addresses: &[u64], inlines: Inlines) -> Vec<Vec<Frame>> {
    let resolved = GoTable::read(file).map(|table| table.resolve(addresses));
    let frames = |frames: Option<Vec<GoFrame>>| match (frames, inlines) {
        (None, _) => Vec::new(),
        (Some(frames), Inlines::Resolve) => frames.iter().map(frame_of_go).collect(),
        (Some(frames), Inlines::Skip) => {
            let outermost = frames.last().map(|frame| Frame {
                name: Some(frame.name.to_string()),
                ..Frame::default()
            });
            outermost.into_iter().collect()
        }
    };
    match resolved {
        Some(resolved) => resolved.into_iter().map(frames).collect(),
        None => vec![Vec::new(); addresses.len()],
    }
}

fn frame_of_go(frame: &GoFrame) -> Frame {
    Frame {
        name: Some(frame.name.to_string()),
        place: Place {
            file: frame.file.to_string(),
            line: frame.line,
            column: 0,
        },
        start_line: frame.start_line,
    }
}

impl<'a> Source<'a> {
    /// Reads where things are in the file.
    pub(super) fn open(
        object: &'a Object,
        file: &'a File,
        settings: Settings,
    ) -> Result<Self, Reason> {
        let kept = file.try_clone();
        let kept = kept.map_err(|error| Reason::Unopened(Unopened::from(&error)))?;
        let elf = ElfFile::read(kept).map_err(|error| {
            log::debug!("{}: no symbols: {error}", object.path);
            match error {
                ElfError::NotElf(_) => Reason::NotElf,
                ElfError::OtherMachine => Reason::OtherMachine,
            }
        })?;
        Ok(Self {
            object,
            file,
            elf,
            // A few pieces are in memory at one time: a unit's entries, its lines, texts.
            limit: Limit {
                bytes: settings.most_bytes / 4,
            },
        })
    }

    fn ask(&self, addresses: &[u64], settings: Settings) -> Told {
        let sections = CodeSections::read(self.file);
        let debug_file = LazyCell::new(|| self.debug_file());
        let mut names = Names {
            addresses,
            sections: &sections,
            found: vec![None; addresses.len()],
            is_whole: false,
            flaw: None,
        };
        self.name(&mut names, &debug_file);
        let mut frames = vec![Vec::new(); addresses.len()];
        let mut lines = ToldLines {
            lineless: NoLines::NotAsked,
            too_long: Vec::new(),
            too_late: Vec::new(),
        };
        let mut is_bare = !names.is_done();
        if settings.inlines == Inlines::Resolve {
            let has_debug = |elf: &&ElfFile| elf.has_debug(Part::Whole);
            let elf = Some(&self.elf).filter(has_debug);
            let elf = elf.or_else(|| debug_file.as_ref().filter(has_debug));
            is_bare = elf.is_none();
            lines.lineless = NoLines::NoDebugInfo;
            if let Some(elf) = elf {
                let code_start = first_code(self.object);
                (frames, lines) = self.lines(elf, code_start, addresses, settings.deadline);
            }
        }
        let reason = self.reason(&names);
        let unnamed: Vec<u64> = (addresses.iter().zip(&names.found).zip(&frames))
            .filter(|((_, name), frames)| name.is_none() && frames.iter().all(|f| f.name.is_none()))
            .map(|((address, _), _)| *address)
            .collect();
        let linkage = sections.linkage_names(self.file, &unnamed);
        let frames = (addresses.iter().zip(names.found).zip(frames))
            .map(|((address, name), frames)| {
                joined(frames, name.or_else(|| linkage_name(linkage.get(address)?)))
            })
            .collect();
        let can_be_found = !self.object.is_go && self.object.has_path();
        Told {
            frames,
            unnamed: reason,
            lines,
            is_bare: is_bare && can_be_found && self.elf.build_id.is_some(),
        }
    }

    /// Why what has no name has none, after all tables were asked.
    fn reason(&self, names: &Names<'_>) -> Reason {
        if let Some(flaw) = names.flaw {
            return flaw;
        }
        if names.is_whole {
            return Reason::NoSymbol;
        }
        let left = match self.elf.dynamic_symbols {
            Some(_) => LeftSymbols::Exported,
            None => LeftSymbols::Nothing,
        };
        let link = match self.elf.debuglink {
            Some(_) => DebugLink::Named,
            None => DebugLink::Absent,
        };
        Reason::Stripped(left, link)
    }

    /// Names addresses by tables of symbols.
    fn name(&self, names: &mut Names<'_>, debug_file: &dyn Deref<Target = Option<ElfFile>>) {
        names.take(&self.elf, Completeness::All);
        if names.is_done() {
            return;
        }
        if let Some(inside) = self.inside() {
            names.take(&inside, Completeness::All);
        } else if self.elf.debugdata.is_some() {
            names.flaw.get_or_insert(Reason::BrokenDebugdata);
        }
        if !names.is_done()
            && self.elf.symbols.is_none()
            && let Some(debug) = &**debug_file
        {
            names.take(debug, Completeness::All);
        }
        names.take(&self.elf, Completeness::Exported);
    }

    /// The file in `.gnu_debugdata`.
    fn inside(&self) -> Option<ElfFile> {
        let packed = self.elf.small(self.elf.debugdata?).ok()?;
        let image = xz::unpacked(packed, MOST_DEBUGDATA_BYTES).ok()?;
        ElfFile::read(in_memory("debugdata", &image).ok()?).ok()
    }

    fn places(&self) -> Places<'_> {
        Places {
            folder: Path::new(DEBUG_FOLDER),
            root: self.object.root.as_deref(),
            object: Some(Path::new(&self.object.path)),
        }
    }

    /// The file with what was split off it.
    pub(super) fn debug_file(&self) -> Option<ElfFile> {
        let link = self
            .elf
            .debuglink
            .and_then(|link| self.elf.small(link).ok());
        let split = SplitOff {
            build_id: self.elf.build_id.clone(),
            link,
        };
        // It was asked for because the others do not tell enough.
        let build_id = self.object.build_id.as_deref();
        let supplied = build_id.and_then(|build_id| self.object.supplied(build_id));
        let mut files = supplied
            .into_iter()
            .chain(debug_file::candidates(&split, self.places()));
        files.find_map(|file| ElfFile::read(file).ok())
    }

    /// Lines and inlined calls.
    fn lines(
        &self,
        elf: &ElfFile,
        code_start: u64,
        addresses: &[u64],
        deadline: Option<Instant>,
    ) -> (Vec<Vec<Frame>>, ToldLines) {
        let places = self.places();
        let open = |path: &str| places.open(Path::new(path)).next();
        let package = PathBuf::from(format!("{}.dwp", self.object.path));
        let package = places.open(&package).next();
        let split = SplitFiles::new(package, &open, self.limit);
        let shared = self.shared(elf);
        let resolved = Debug::open(elf, shared.as_ref(), split, code_start, self.limit)
            .and_then(|debug| debug.resolve(addresses, deadline));
        let mut lines = ToldLines {
            lineless: NoLines::NotDescribed,
            too_long: Vec::new(),
            too_late: Vec::new(),
        };
        let frames = match resolved {
            Ok(found) => {
                (lines.too_long, lines.too_late) = (found.too_long, found.too_late);
                found.frames
            }
            Err(error) => {
                log::debug!("{}: no debug information: {error}", self.object.path);
                match error {
                    DwarfError::Store(StoreError::TooLong { .. }) => {
                        lines.lineless = NoLines::TooLarge;
                        lines.too_long = addresses.to_vec();
                    }
                    _ => lines.lineless = NoLines::Broken,
                }
                vec![Vec::new(); addresses.len()]
            }
        };
        lines.too_long.sort_unstable();
        lines.too_late.sort_unstable();
        (frames, lines)
    }

    /// The file that a debug file shares with others. Source: dwz(1).
    fn shared(&self, elf: &ElfFile) -> Option<ElfFile> {
        let SharedLink { path, build_id } = SharedLink::read(elf)?;
        let path = path.as_str();
        let mut paths = Vec::new();
        if path.starts_with('/') {
            paths.push(PathBuf::from(path));
        } else if let Ok(debug) = std::fs::read_link(format!(
            "/proc/self/fd/{}",
            std::os::fd::AsRawFd::as_raw_fd(&*elf.file)
        )) {
            paths.extend(debug.parent().map(|folder| folder.join(path)));
        }
        paths.push(debug_file::path_by_build_id(
            Path::new(DEBUG_FOLDER),
            &build_id,
        ));
        let places = self.places();
        let supplied = self.object.supplied(&hex(&build_id));
        let files = paths.iter().flat_map(|path| places.open(path));
        let files = files.chain(supplied);
        files
            .filter_map(|file| ElfFile::read(file).ok())
            .find(|shared| shared.build_id.as_deref().map(hex) == Some(hex(&build_id)))
    }

    /// The build id of the shared file, if it is wanted and not here.
    fn lacking_shared(&self, elf: &ElfFile) -> Option<String> {
        let link = SharedLink::read(elf)?;
        match self.shared(elf) {
            Some(_) => None,
            None => Some(hex(&link.build_id)),
        }
    }
}

/// What `.gnu_debugaltlink` says of the file that a debug file shares with others.
struct SharedLink {
    path: String,
    build_id: Vec<u8>,
}

impl SharedLink {
    fn read(elf: &ElfFile) -> Option<Self> {
        let section = elf.small(elf.debugaltlink?).ok()?;
        let end = section.iter().position(|byte| *byte == 0)?;
        Some(Self {
            path: std::str::from_utf8(&section[..end]).ok()?.to_owned(),
            build_id: section[end + 1..].to_vec(),
        })
    }
}

/// Names as they are found.
struct Names<'a> {
    addresses: &'a [u64],
    sections: &'a CodeSections,
    found: Vec<Option<SymbolName>>,
    /// Whether a table was asked that has every function.
    is_whole: bool,
    /// What is wrong with a table, if something is.
    flaw: Option<Reason>,
}

impl Names<'_> {
    fn is_done(&self) -> bool {
        self.found.iter().all(Option::is_some)
    }

    /// Takes what a file's table has for those that have no name yet.
    fn take(&mut self, elf: &ElfFile, completeness: Completeness) {
        let table = match completeness {
            Completeness::All => elf.symbols,
            Completeness::Exported => elf.dynamic_symbols,
        };
        let Some(table) = table else { return };
        self.is_whole |= completeness == Completeness::All;
        let unnamed = |(_, name): &(&u64, &Option<SymbolName>)| name.is_none();
        let wanted = self.addresses.iter().zip(&self.found).filter(unnamed);
        let wanted: Vec<u64> = wanted.map(|(address, _)| *address).collect();
        if wanted.is_empty() {
            return;
        }
        match symbols::names(elf, table, completeness, &wanted, self.sections) {
            Ok(names) => {
                let slots = self.found.iter_mut().filter(|name| name.is_none());
                for (slot, name) in slots.zip(names) {
                    *slot = name;
                }
            }
            Err(error) => {
                log::debug!("a table of symbols: {error}");
                self.flaw.get_or_insert(Reason::BrokenSymbols);
            }
        }
    }
}

/// The name of an entry of linkage.
fn linkage_name(text: &str) -> Option<SymbolName> {
    Some(SymbolName {
        text: text.to_owned(),
        is_public: false,
    })
}

/// The frames of an address, of which the outermost may have a better name in a table of symbols.
fn joined(mut frames: Vec<Frame>, table: Option<SymbolName>) -> Vec<Frame> {
    match (frames.last_mut(), table) {
        (None, None) => Vec::new(),
        (None, Some(table)) => vec![Frame {
            name: Some(table.text),
            ..Frame::default()
        }],
        (Some(outermost), Some(table)) => {
            if outermost
                .name
                .as_ref()
                .is_none_or(|name| is_better(&table, name))
            {
                outermost.name = Some(table.text);
            }
            frames
        }
        (Some(outermost), None) => {
            if outermost.name.is_none() {
                frames.clear();
            }
            frames
        }
    }
}

/// Whether a symbol's name says more than that of the debug information. Slim debug information has
/// no more than the last part of a name; and libraries have functions by names of their own, such as
/// `__GI_abort`, that others know by another one, `abort`.
fn is_better(symbol: &SymbolName, name: &str) -> bool {
    is_full_name_of(&symbol.text, name)
        || (symbol.is_public && name.contains(&symbol.text) && demangle::readable(name).is_none())
}

/// Whether `mangled` is a mangled name whose last part is `short`.
fn is_full_name_of(mangled: &str, short: &str) -> bool {
    demangle::readable(short).is_none()
        && demangle::readable(mangled).is_some_and(|readable| readable.contains(short))
}

/// The first address of an object's code.
fn first_code(object: &Object) -> u64 {
    let code = object.segments.iter().filter(|segment| segment.is_code);
    code.map(|segment| segment.address).min().unwrap_or(0)
}
