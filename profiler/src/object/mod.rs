//! The objects that processes run: opened at first sight, kept open, known by a number.
//!
//! In: mappings. Out: [`ObjectId`]s, and for each its file, its segments, its build id. Runtime
//! addresses, ELF addresses and file offsets are turned into each other here alone.
//!
//! The file stays open for as long as the run: so a deleted or replaced file, a container that is
//! gone and a process that has ended still get names, and the kernel cannot give the file's inode
//! number to another file meanwhile.

pub(crate) mod debug_file;
mod elf;
pub(crate) mod file;
pub(crate) mod go_functions;
pub(crate) mod go_module;
pub(crate) mod go_sections;
pub(crate) mod go_steps;
mod open;
pub mod opener;
pub(crate) mod parts;
mod root;
mod sections;
pub(crate) mod xz;

use std::{
    cell::RefCell,
    fs::File,
    os::{
        fd::OwnedFd,
        unix::fs::{FileExt, MetadataExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

pub use elf::Segment;
pub(crate) use elf::hex;
pub(crate) use file::open_regular;
use foldhash::{HashMap, HashSet};
pub use open::Unopened;
use profiler_common::code::{CALL_BYTES, SIGNAL_RETURN, follows_call};
pub use root::Root;
use root::Roots;
pub use sections::CodeSections;

use crate::{
    process::{FileNumber, MapRow},
    symbolize::Warm,
    target::Pid,
};

/// From this many open files on, those that nobody needs are closed.
const MOST_OPEN_FILES: usize = 512;

/// An object's number in this run, never 0: 0 is "no object" in the mapping tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectId(u32);

impl ObjectId {
    /// The number, as it crosses the kernel boundary.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }

    /// The id with this number, as it comes back over the kernel boundary.
    #[must_use]
    pub fn from_wire(number: u32) -> Option<Self> {
        (number != 0).then_some(Self(number))
    }

    fn index(self) -> usize {
        self.0 as usize - 1
    }
}

/// A virtual address as an object's program headers have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ElfAddr(pub u64);

/// Runtime address minus ELF address, for one mapping of an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Bias(pub u64);

impl Bias {
    /// The ELF address of a runtime address.
    #[must_use]
    pub fn to_elf(self, address: u64) -> ElfAddr {
        ElfAddr(address.wrapping_sub(self.0))
    }

    /// The runtime address of an ELF address.
    #[must_use]
    pub fn to_runtime(self, address: ElfAddr) -> u64 {
        address.0.wrapping_add(self.0)
    }
}

/// The address to look up for a frame: a return address belongs to the call before it.
#[must_use]
pub fn lookup_address(address: u64, position: profiler_common::frame::Position) -> u64 {
    match position {
        profiler_common::frame::Position::Exact => address,
        profiler_common::frame::Position::ReturnAddress => address.wrapping_sub(1),
    }
}

/// What is known of one object.
#[derive(Debug)]
pub struct Object {
    /// Path as the first process that ran it saw it, or a name in brackets.
    pub path: String,
    /// The file, unless it could not be opened. Of one on a server it is a copy in memory.
    pub file: Option<File>,
    /// Why it could not be.
    pub unopened: Option<Unopened>,
    /// GNU build id in lower-case hex.
    pub build_id: Option<String>,
    /// Loaded segments.
    pub segments: Vec<Segment>,
    /// Whether the Go toolchain made it.
    pub is_go: bool,
    /// The root that its path is in, if it is not ours.
    pub root: Option<Arc<Root>>,
    /// Where the file is, if it was copied.
    copied_from: Option<OwnedFd>,
    /// What it said of addresses.
    pub(crate) warm: Warm,
    stamp: Option<Stamp>,
    supplied: Vec<Supplied>,
}

/// A file that belongs to an object and was not on this machine.
#[derive(Debug)]
struct Supplied {
    build_id: String,
    file: File,
}

impl Object {
    /// A file that no process needs to run.
    #[must_use]
    pub fn of_file(path: &str, file: File) -> Self {
        Self::new(path, Ok(file), None)
    }

    fn new(path: &str, file: Result<File, Unopened>, root: Option<Arc<Root>>) -> Self {
        let unopened = file.as_ref().err().copied();
        let file = file.ok();
        let facts = file
            .as_ref()
            .and_then(|file| elf::read(file).ok())
            .unwrap_or_default();
        Self {
            path: path.strip_suffix(" (deleted)").unwrap_or(path).to_owned(),
            stamp: file.as_ref().and_then(Stamp::of),
            file,
            unopened,
            build_id: facts.build_id,
            segments: facts.segments,
            is_go: facts.is_go,
            root,
            copied_from: None,
            warm: Warm::default(),
            supplied: Vec::new(),
        }
    }

    /// Gives the object a file with more symbols: its debug file, or what that shares with others.
    pub fn supply(&mut self, build_id: &str, file: File) {
        self.supplied.push(Supplied {
            build_id: build_id.to_owned(),
            file,
        });
    }

    /// The file with this build id that the object was given.
    pub(crate) fn supplied(&self, build_id: &str) -> Option<File> {
        let is_it = |supplied: &&Supplied| supplied.build_id == build_id;
        self.supplied.iter().find(is_it)?.file.try_clone().ok()
    }

    /// Whether it has a path in the file system, rather than a name in brackets.
    #[must_use]
    pub fn has_path(&self) -> bool {
        is_file_path(&self.path)
    }

    /// The bias of a mapping of this object, or `None` when no segment lies at that offset.
    #[must_use]
    pub fn bias(&self, start: u64, file_offset: u64) -> Option<Bias> {
        elf::address_of(&self.segments, file_offset)
            .map(|address| Bias(start.wrapping_sub(address)))
    }

    /// The file, unless it was written over in place.
    #[must_use]
    pub fn unchanged_file(&self) -> Option<&File> {
        self.file.as_ref().filter(|_| self.is_unchanged())
    }

    /// Reads the object's bytes at an ELF address from its file. `None` when that does not hold
    /// them.
    #[must_use]
    pub fn read<const N: usize>(&self, address: ElfAddr) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        let offset = elf::offset_of(&self.segments, address.0)?;
        let file = self.unchanged_file()?;
        file.read_exact_at(&mut bytes, offset).ok()?;
        Some(bytes)
    }

    /// Where the file is, if what we have is a copy: a runtime may write on there.
    pub(crate) fn copied_from(&self) -> Option<&OwnedFd> {
        self.copied_from.as_ref()
    }

    /// Whether the file is as it was when it was opened.
    fn is_unchanged(&self) -> bool {
        self.file.as_ref().and_then(Stamp::of) == self.stamp
    }

    /// Whether the file could be opened and is of another format.
    #[must_use]
    pub fn is_no_elf_file(&self) -> bool {
        self.file.is_some() && self.segments.is_empty()
    }

    /// Last part of the path.
    #[must_use]
    pub fn short_name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }
}

/// What tells one object from another: its file, and its state at the time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    File(FileNumber),
    /// A file that could not be opened, by number and path.
    Unopened(FileNumber, String),
    Vdso,
}

/// What changes when a file is written over in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    bytes: u64,
    modified: (i64, i64),
}

impl Stamp {
    fn of(file: &File) -> Option<Self> {
        let meta = file.metadata().ok()?;
        Some(Self {
            bytes: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
        })
    }
}

/// Objects by their ids, as they were at one time: for whoever names code while others go on.
#[derive(Clone, Debug, Default)]
pub struct ObjectTable(HashMap<ObjectId, Arc<Object>>);

impl ObjectTable {
    /// The object with this id, which is one of them.
    #[must_use]
    pub fn get(&self, id: ObjectId) -> &Object {
        &self.0[&id]
    }
}

/// Every object seen in this run.
#[derive(Debug, Default)]
pub struct Objects {
    objects: Vec<Arc<Object>>,
    roots: Roots,
    ids: HashMap<Key, ObjectId>,
    /// Objects that a sample lies in.
    sampled: HashSet<ObjectId>,
    open_files: usize,
    /// Files that were open after the last search for those to close: until another is opened,
    /// there is no need for the next.
    needed_files: usize,
    out_of_descriptors: u64,
    /// What files said of return addresses.
    calls: RefCell<HashMap<(ObjectId, ElfAddr), Option<bool>>>,
}

impl Objects {
    /// The object behind a mapping of a process, opened if it is new. `None` for memory that no
    /// file backs (JIT code).
    pub fn of_mapping(&mut self, pid: Pid, row: &MapRow) -> Option<ObjectId> {
        if row.path == "[vdso]" {
            return self.vdso();
        }
        let number = row.file?;
        if let Some(id) = self.ids.get(&Key::File(number))
            && self.get(*id).is_unchanged()
        {
            return Some(*id);
        }
        match open::mapped_file(pid, row, number) {
            Err(Unopened::TooManyFiles) => {
                // Not remembered: there may be room the next time.
                self.out_of_descriptors += 1;
                Some(self.insert(&row.path, Err(Unopened::TooManyFiles), None))
            }
            Ok(opened) => {
                let root = self.roots.of(pid);
                let mut object = Object::new(&row.path, Ok(opened.file), root);
                object.copied_from = opened.copied_from;
                let id = self.push(object);
                self.ids.insert(Key::File(number), id);
                Some(id)
            }
            Err(why) => {
                let key = Key::Unopened(number, row.path.clone());
                if let Some(id) = self.ids.get(&key) {
                    return Some(*id);
                }
                let id = self.insert(&row.path, Err(why), None);
                self.ids.insert(key, id);
                Some(id)
            }
        }
    }

    fn vdso(&mut self) -> Option<ObjectId> {
        if let Some(id) = self.ids.get(&Key::Vdso) {
            return Some(*id);
        }
        let file = open::vdso().map_err(|error| Unopened::from(&error));
        let id = self.insert("[vdso]", file, None);
        self.ids.insert(Key::Vdso, id);
        Some(id)
    }

    /// A sample lies in this object: its file is kept to the end. Tells whether it is the first one.
    pub fn mark_sampled(&mut self, id: ObjectId) -> bool {
        self.sampled.insert(id)
    }

    /// The objects that samples lie in, in the order in which they were first seen, but for those that
    /// somebody holds.
    pub fn sampled_mut(&mut self) -> impl Iterator<Item = &mut Object> {
        let sampled = &self.sampled;
        let numbered = (1..).zip(&mut self.objects);
        let is_sampled = |number| sampled.contains(&ObjectId(number));
        numbered
            .filter(move |(number, _)| is_sampled(*number))
            .filter_map(|(_, object)| Arc::get_mut(object))
    }

    /// Files that could not be opened because too many are.
    #[must_use]
    pub fn unopened_for_want_of_descriptors(&self) -> u64 {
        self.out_of_descriptors
    }

    /// Objects that a sample lies in and whose files we may not open.
    #[must_use]
    pub fn forbidden(&self) -> usize {
        let sampled = (1..)
            .zip(&self.objects)
            .filter(|(number, _)| self.sampled.contains(&ObjectId(*number)));
        sampled
            .filter(|(_, object)| object.unopened == Some(Unopened::NoPermission))
            .count()
    }

    /// Once many files are open, closes those that no sample lies in and no process maps.
    pub fn shed(&mut self, mapped: impl FnOnce() -> HashSet<ObjectId>) {
        if self.open_files < MOST_OPEN_FILES || self.open_files == self.needed_files {
            return;
        }
        let mapped = mapped();
        let is_needed = |id: &ObjectId| mapped.contains(id) || self.sampled.contains(id);
        self.ids.retain(|_, id| is_needed(id));
        for (number, object) in (1..).zip(&mut self.objects) {
            // What somebody holds is closed the next time.
            if !is_needed(&ObjectId(number))
                && let Some(object) = Arc::get_mut(object)
                && object.file.take().is_some()
            {
                object.unopened = Some(Unopened::TooManyFiles);
                object.warm = Warm::default();
            }
        }
        let open_files = self.objects.iter().filter(|object| object.file.is_some());
        self.open_files = open_files.count();
        self.needed_files = self.open_files;
    }

    fn insert(
        &mut self,
        path: &str,
        file: Result<File, Unopened>,
        root: Option<Arc<Root>>,
    ) -> ObjectId {
        self.push(Object::new(path, file, root))
    }

    fn push(&mut self, object: Object) -> ObjectId {
        let objects = &mut self.objects;
        self.open_files += usize::from(object.file.is_some());
        objects.push(Arc::new(object));
        ObjectId(u32::try_from(objects.len()).expect("fewer than 2^32 objects"))
    }

    /// Whether the code in an object's file ends a call at this address, or returns from a signal
    /// handler there. `None` when the file does not tell.
    pub fn follows_call(&self, id: ObjectId, address: ElfAddr) -> Option<bool> {
        if let Some(known) = self.calls.borrow().get(&(id, address)) {
            return *known;
        }
        let found = self.find(id).and_then(|object| {
            let start = ElfAddr(address.0.checked_sub(CALL_BYTES as u64)?);
            let before = object.read::<CALL_BYTES>(start)?;
            // What a signal handler returns into is called by nobody.
            let is_signal_return = || object.read(address) == Some(SIGNAL_RETURN);
            Some(follows_call(&before) || is_signal_return())
        });
        self.calls.borrow_mut().insert((id, address), found);
        found
    }

    /// The object with this id.
    #[must_use]
    pub fn get(&self, id: ObjectId) -> &Object {
        &self.objects[id.index()]
    }

    /// Some of the objects: their files stay open for as long as somebody has them.
    #[must_use]
    pub fn table(&self, ids: impl Iterator<Item = ObjectId>) -> ObjectTable {
        let object = |id: ObjectId| Some((id, Arc::clone(self.objects.get(id.index())?)));
        ObjectTable(ids.filter_map(object).collect())
    }

    /// Forgets in which objects samples lie, but for these, and what files said of return addresses.
    pub fn forget_samples(&mut self, but: impl Iterator<Item = ObjectId>) {
        self.sampled = but.collect();
        self.needed_files = 0;
        self.calls.borrow_mut().clear();
    }

    /// The object with this id, if there is one: for ids that came over the kernel boundary.
    #[must_use]
    pub fn find(&self, id: ObjectId) -> Option<&Object> {
        self.objects.get(id.index()).map(Arc::as_ref)
    }

    /// How many objects there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }
}

/// Where the debug file of an object with this build id is looked for.
#[must_use]
pub fn debug_path(build_id: &str) -> PathBuf {
    debug_file::path_by_hex(Path::new(debug_file::DEBUG_FOLDER), build_id)
}

/// Whether a path names a file, rather than the kernel's word for memory without one.
fn is_file_path(path: &str) -> bool {
    Path::new(path).is_absolute()
}
