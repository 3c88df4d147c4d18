//! Walks the threads of a core file, by the step, the tables and the search of the product.
//!
//! In: a core file and the files that were mapped. Out: a [`Walked`] stack for each thread. A stack
//! that a profile shows cut or wrong can so be looked at again, as often as needed.
//!
//! A core file seldom holds code: what it lacks of executable memory is read from the mapped file,
//! which should be the one that the process ran. The vDSO is taken from the core file.

mod core_file;

use std::{
    collections::HashMap,
    fs::{self, File},
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
    rc::Rc,
};

pub use core_file::{CoreError, CoreFile, FileRange, MemoryRange, Thread};
use object::{
    LittleEndian,
    elf::{self, FileHeader64},
    read::elf::{FileHeader, ProgramHeader},
};
use profiler_common::{
    limits::PAGE_BYTES,
    step::{Growth, UserMemory},
    stop::StopReason,
    unwind::Rule,
    walk::Knowledge,
};

use crate::{
    object::{Bias, ObjectId, Objects, Segment, file::in_memory},
    process::{FileNumber, MapRow},
    target::Pid,
    unwind::{Code, Lookup, Table, Walked, walk},
};

/// The longest vDSO read, in bytes. Kernels have two pages of it.
const MOST_VDSO_BYTES: u64 = 1 << 20;

/// The objects and tables of the core files that are replayed one after the other.
#[derive(Default)]
pub struct Library {
    objects: Objects,
    tables: HashMap<ObjectId, Option<Rc<Lookup>>>,
}

impl Library {
    /// The object behind a mapped file, or `None` when it is not there any more.
    fn object(&mut self, pid: u32, file: &FileRange) -> Option<ObjectId> {
        let meta = fs::metadata(&file.path).ok()?;
        let row = MapRow {
            start: file.start,
            end: file.end,
            file_offset: file.file_offset,
            file: Some(FileNumber {
                major: rustix::fs::major(meta.dev()),
                minor: rustix::fs::minor(meta.dev()),
                inode: meta.ino(),
            }),
            path: file.path.clone(),
        };
        self.objects.of_mapping(Pid(pid), &row)
    }

    fn table(&mut self, id: ObjectId) -> Option<Rc<Lookup>> {
        if let Some(known) = self.tables.get(&id) {
            return known.clone();
        }
        let file = self.objects.get(id).file.as_ref();
        let table = file.and_then(|file| Table::of_file(file).ok());
        let lookup = table.map(|table| Rc::new(Lookup::new(&table)));
        self.tables.insert(id, lookup.clone());
        lookup
    }
}

/// What lies in a range of executable memory.
#[derive(Clone)]
pub struct CodeRange {
    /// First address.
    pub start: u64,
    /// Address after the last.
    pub end: u64,
    /// Path of the file, a name in brackets, or nothing for code without an object.
    pub path: String,
    /// Runtime address minus ELF address, where there is an object.
    pub bias: Option<Bias>,
    growth: Growth,
    table: Option<Rc<Lookup>>,
    /// The mapped file, and the offset of the range in it.
    file: Option<(Rc<File>, u64)>,
}

/// A core file with the tables of its objects.
pub struct Replay {
    core: CoreFile,
    /// By address.
    code: Vec<CodeRange>,
}

impl Replay {
    /// Opens a core file and compiles the tables of the objects that the library lacks.
    ///
    /// # Errors
    /// When it is no core file, or cannot be read.
    pub fn open(path: &Path, library: &mut Library) -> Result<Self, CoreError> {
        let core = CoreFile::open(path)?;
        let pid = core.threads().first().map_or(0, |thread| thread.tid);
        let mut code = Vec::new();
        for range in core.ranges().iter().filter(|range| range.is_code) {
            code.push(match core.file_at(range.start) {
                Some(file) => of_file(library, pid, file).0,
                None if core.vdso() == Some(range.start) => of_vdso(&core, range)?,
                None => without_object(range.start, range.end, ""),
            });
        }
        // Debuggers leave out what was never written to.
        let left_out = |file: &&FileRange| core.range_at(file.start).is_none();
        for file in core.files().iter().filter(left_out) {
            if let (range, Contents::Code) = of_file(library, pid, file) {
                code.push(range);
            }
        }
        code.sort_by_key(|range| range.start);
        Ok(Self { core, code })
    }

    /// The threads of the process.
    #[must_use]
    pub fn threads(&self) -> &[Thread] {
        self.core.threads()
    }

    /// Its executable memory, by address.
    #[must_use]
    pub fn code(&self) -> &[CodeRange] {
        &self.code
    }

    /// Walks the stack of a thread.
    #[must_use]
    pub fn walk(&self, thread: &Thread) -> Walked {
        walk(thread.innermost(), &thread.registers, self, self)
    }

    fn code_at(&self, address: u64) -> Option<&CodeRange> {
        let after = self.code.partition_point(|code| code.start <= address);
        let code = self.code[..after].last()?;
        (address < code.end).then_some(code)
    }

    /// Fills a buffer from the core file and the mapped files; says whether it could.
    #[must_use]
    pub fn read_into(&self, address: u64, out: &mut [u8]) -> bool {
        let (mut at, mut rest) = (address, out);
        while !rest.is_empty() {
            let read = match self.core.read(at, rest) {
                0 => self.read_mapped(at, rest),
                read => read,
            };
            if read == 0 {
                return false;
            }
            at = at.wrapping_add(read as u64);
            rest = &mut rest[read..];
        }
        true
    }

    /// Reads executable memory from the file that was mapped there.
    fn read_mapped(&self, address: u64, out: &mut [u8]) -> usize {
        let Some(code) = self.code_at(address) else {
            return 0;
        };
        let Some((file, offset)) = &code.file else {
            return 0;
        };
        let bytes = (code.end - address).min(out.len() as u64) as usize;
        let offset = offset.saturating_add(address - code.start);
        file.read_at(&mut out[..bytes], offset).unwrap_or(0)
    }
}

impl UserMemory for Replay {
    fn read<const N: usize>(&self, address: u64) -> Option<[u8; N]> {
        let mut out = [0; N];
        self.read_into(address, &mut out).then_some(out)
    }
}

impl Code for Replay {
    fn look_up(&self, address: u64) -> Result<(Knowledge, Growth), StopReason> {
        let code = self.code_at(address).ok_or(StopReason::UnknownCode)?;
        let knowledge = match (&code.table, code.bias) {
            (Some(table), Some(bias)) => match table.rule(bias.to_elf(address).0) {
                Rule::NoInformation => Knowledge::NoRow,
                rule => Knowledge::Rule(rule.encode()),
            },
            _ if code.path.is_empty() => Knowledge::Generated,
            _ => Knowledge::NoTable,
        };
        Ok((knowledge, code.growth))
    }
}

fn without_object(start: u64, end: u64, path: &str) -> CodeRange {
    CodeRange {
        start,
        end,
        path: path.to_owned(),
        bias: None,
        growth: Growth::Strict,
        table: None,
        file: None,
    }
}

/// What a file has where it was mapped.
enum Contents {
    Code,
    Others,
}

fn of_file(library: &mut Library, pid: u32, file: &FileRange) -> (CodeRange, Contents) {
    let mut code = without_object(file.start, file.end, &file.path);
    let Some(id) = library.object(pid, file) else {
        return (code, Contents::Others);
    };
    let object = library.objects.get(id);
    code.bias = object.bias(file.start, file.file_offset);
    if object.is_go {
        code.growth = Growth::MaySwitch;
    }
    let first_address = code.bias.map(|bias| bias.to_elf(file.start).0);
    let holds_first = |segment: &&Segment| {
        first_address.is_some_and(|first| {
            let page = segment.address & !(PAGE_BYTES as u64 - 1);
            (page..segment.address.saturating_add(segment.file_bytes)).contains(&first)
        })
    };
    let contents = match object
        .segments
        .iter()
        .find(|segment| segment.is_code && holds_first(segment))
    {
        Some(_) => Contents::Code,
        None => Contents::Others,
    };
    let opened = object.file.as_ref().and_then(|file| file.try_clone().ok());
    code.file = opened.map(|opened| (Rc::new(opened), file.file_offset));
    if matches!(contents, Contents::Code) {
        code.table = library.table(id);
    }
    (code, contents)
}

/// The vDSO as the core file has it.
fn of_vdso(core: &CoreFile, range: &MemoryRange) -> Result<CodeRange, CoreError> {
    let mut code = without_object(range.start, range.end, "[vdso]");
    let mut image = vec![0; (range.end - range.start).min(MOST_VDSO_BYTES) as usize];
    let bytes = core.read(range.start, &mut image);
    image.truncate(bytes);
    let first = first_address(&image);
    code.bias = first.map(|first| Bias(range.start.wrapping_sub(first)));
    let file = in_memory("vdso", &image)?;
    code.table = Table::of_file(&file)
        .ok()
        .map(|table| Rc::new(Lookup::new(&table)));
    Ok(code)
}

/// The lowest ELF address that an image is loaded at.
fn first_address(image: &[u8]) -> Option<u64> {
    let header = FileHeader64::<LittleEndian>::parse(image).ok()?;
    let segments = header.program_headers(LittleEndian, image).ok()?;
    let loaded = segments
        .iter()
        .filter(|segment| segment.p_type(LittleEndian) == elf::PT_LOAD);
    loaded.map(|segment| segment.p_vaddr(LittleEndian)).min()
}

#[cfg(test)]
mod tests;
