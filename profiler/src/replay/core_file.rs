//! Reads an ELF core file: its threads, its memory, and which files were mapped where.
//!
//! Sources: `elf(5)`; `struct elf_prstatus` in `include/linux/elfcore.h`; `fill_files_note` in
//! `fs/binfmt_elf.c`; `struct user_regs_struct` in `arch/x86/include/asm/user_64.h`.

use std::{fs::File, io, os::unix::fs::FileExt, path::Path};

use object::{
    LittleEndian as Little,
    elf::{self, FileHeader64},
    read::{
        ReadCache,
        elf::{FileHeader, Note, ProgramHeader},
    },
};
use profiler_common::{
    frame::Position,
    step::{AllRegisters, Registers},
    walk::Cursor,
};

/// The longest notes read of one core file, in bytes: a thread has some 3 KiB of them.
const MOST_NOTE_BYTES: u64 = 256 << 20;

/// Why a core file cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum CoreError {
    /// It could not be read.
    #[error("{0}")]
    Read(#[from] io::Error),
    /// It is not what it should be.
    #[error("it is not a 64-bit ELF file: {0}")]
    NotElf(#[from] object::read::Error),
    /// It is of another kind, or for another machine.
    #[error("it is not a core file for x86-64")]
    NotCore,
    /// A note is shorter than its kind is.
    #[error("its notes are cut short")]
    ShortNote,
    /// The notes claim more bytes than we read.
    #[error("its notes have {0} bytes, more than {MOST_NOTE_BYTES}")]
    TooLong(u64),
}

/// A thread as the core file has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thread {
    /// Its id in its namespace.
    pub tid: u32,
    /// Its registers.
    pub registers: AllRegisters,
    /// Whether it was in a system call, so that its program counter is the address after one.
    pub position: Position,
}

impl Thread {
    /// Its innermost frame.
    #[must_use]
    pub fn innermost(&self) -> Cursor {
        Cursor::innermost(Registers::of(&self.registers), self.position)
    }
}

/// A range of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRange {
    /// First address.
    pub start: u64,
    /// Address after the last.
    pub end: u64,
    /// Whether it may be executed.
    pub is_code: bool,
    /// Where the core file has its bytes, from the first on.
    file_offset: u64,
    /// How many of them it has.
    file_bytes: u64,
}

/// A file that was mapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRange {
    /// First address.
    pub start: u64,
    /// Address after the last.
    pub end: u64,
    /// Offset of the first address in the file, in bytes.
    pub file_offset: u64,
    /// Path as the process saw it.
    pub path: String,
}

/// An open core file.
#[derive(Debug)]
pub struct CoreFile {
    file: File,
    /// By address.
    ranges: Vec<MemoryRange>,
    files: Vec<FileRange>,
    threads: Vec<Thread>,
    vdso: Option<u64>,
}

impl CoreFile {
    /// Reads the head of a core file.
    ///
    /// # Errors
    /// When it is none, or cannot be read.
    pub fn open(path: &Path) -> Result<Self, CoreError> {
        let file = File::open(path)?;
        let cache = ReadCache::new(&file);
        let header = FileHeader64::<Little>::parse(&cache)?;
        let is_ours = header.is_little_endian() && header.e_machine(Little) == elf::EM_X86_64;
        if !is_ours || header.e_type(Little) != elf::ET_CORE {
            return Err(CoreError::NotCore);
        }
        let mut core = Parts::default();
        for segment in header.program_headers(Little, &cache)? {
            if segment.p_type(Little) == elf::PT_LOAD {
                core.ranges.push(MemoryRange {
                    start: segment.p_vaddr(Little),
                    end: segment
                        .p_vaddr(Little)
                        .saturating_add(segment.p_memsz(Little)),
                    is_code: segment.p_flags(Little).0 & elf::PF_X.0 != 0,
                    file_offset: segment.p_offset(Little),
                    file_bytes: segment.p_filesz(Little).min(segment.p_memsz(Little)),
                });
            }
            if segment.p_type(Little) == elf::PT_NOTE && segment.p_filesz(Little) > MOST_NOTE_BYTES
            {
                return Err(CoreError::TooLong(segment.p_filesz(Little)));
            }
            if let Some(mut notes) = segment.notes(Little, &cache)? {
                while let Some(note) = notes.next()? {
                    core.note(&note).ok_or(CoreError::ShortNote)?;
                }
            }
        }
        core.ranges.sort_by_key(|range| range.start);
        drop(cache);
        Ok(Self {
            file,
            ranges: core.ranges,
            files: core.files,
            threads: core.threads,
            vdso: core.vdso,
        })
    }

    /// Its threads; the one that a signal ended, if one did, is the first.
    #[must_use]
    pub fn threads(&self) -> &[Thread] {
        &self.threads
    }

    /// The memory that the core file describes, by address.
    #[must_use]
    pub fn ranges(&self) -> &[MemoryRange] {
        &self.ranges
    }

    /// The files that were mapped.
    #[must_use]
    pub fn files(&self) -> &[FileRange] {
        &self.files
    }

    /// The mapped file that holds an address.
    #[must_use]
    pub fn file_at(&self, address: u64) -> Option<&FileRange> {
        let holds = |range: &&FileRange| range.start <= address && address < range.end;
        self.files.iter().find(holds)
    }

    /// The range of memory that holds an address.
    #[must_use]
    pub fn range_at(&self, address: u64) -> Option<&MemoryRange> {
        let after = self.ranges.partition_point(|range| range.start <= address);
        let range = self.ranges[..after].last()?;
        (address < range.end).then_some(range)
    }

    /// Where the kernel's code in user memory begins.
    #[must_use]
    pub fn vdso(&self) -> Option<u64> {
        self.vdso
    }

    /// Reads as many bytes at an address as the core file has of that range, and says how many.
    #[must_use]
    pub fn read(&self, address: u64, out: &mut [u8]) -> usize {
        let Some(range) = self.range_at(address) else {
            return 0;
        };
        let into = address - range.start;
        let bytes = range.file_bytes.saturating_sub(into).min(out.len() as u64) as usize;
        let offset = range.file_offset.saturating_add(into);
        match self.file.read_exact_at(&mut out[..bytes], offset) {
            Ok(()) => bytes,
            Err(_) => 0,
        }
    }
}

/// What the headers and notes tell.
#[derive(Default)]
struct Parts {
    ranges: Vec<MemoryRange>,
    files: Vec<FileRange>,
    threads: Vec<Thread>,
    vdso: Option<u64>,
}

impl Parts {
    /// Takes a note in; `None` when it is too short.
    fn note(&mut self, note: &Note<'_, FileHeader64<Little>>) -> Option<()> {
        if note.name() != elf::ELF_NOTE_CORE {
            return Some(());
        }
        match note.n_type(Little) {
            elf::NT_PRSTATUS => self.threads.push(thread_of(note.desc())?),
            elf::NT_FILE => self.files = files_of(note.desc())?,
            elf::NT_AUXV => self.vdso = vdso_of(note.desc()),
            _ => {}
        }
        Some(())
    }
}

/// Bytes from the start of `struct elf_prstatus` to the thread's id and to its registers.
const PRSTATUS_PID: usize = 32;
const PRSTATUS_REGISTERS: usize = 112;

/// Where `struct user_regs_struct` has the registers of the DWARF numbers 0 to 16, in words: rax,
/// rdx, rcx, rbx, rsi, rdi, rbp, rsp, r8 to r15, rip.
const PLACES: [usize; 17] = [10, 12, 11, 5, 13, 14, 4, 19, 9, 8, 7, 6, 3, 2, 1, 0, 16];
/// And the number of the system call, negative outside of one.
const ORIGINAL_RAX: usize = 15;

fn thread_of(note: &[u8]) -> Option<Thread> {
    let registers = note.get(PRSTATUS_REGISTERS..)?;
    let tid = note.get(PRSTATUS_PID..PRSTATUS_PID + 4)?;
    let mut thread = Thread {
        tid: u32::from_le_bytes(tid.try_into().ok()?),
        registers: [0; 17],
        position: match word(registers, ORIGINAL_RAX)? as i64 {
            0.. => Position::ReturnAddress,
            _ => Position::Exact,
        },
    };
    for (register, place) in thread.registers.iter_mut().zip(PLACES) {
        *register = word(registers, place)?;
    }
    Some(thread)
}

/// The note counts the files and gives the unit of their offsets; then come start, end and offset
/// of each, then the paths, each closed by a NUL.
fn files_of(note: &[u8]) -> Option<Vec<FileRange>> {
    let (count, unit) = (usize::try_from(word(note, 0)?).ok()?, word(note, 1)?);
    let paths = note.get(count.checked_mul(24)?.checked_add(16)?..)?;
    let mut paths = paths.split(|byte| *byte == 0);
    let mut files = Vec::new();
    for file in 0..count {
        let field = |i| word(note, 2 + file * 3 + i);
        files.push(FileRange {
            start: field(0)?,
            end: field(1)?,
            file_offset: field(2)?.saturating_mul(unit),
            path: String::from_utf8_lossy(paths.next()?).into_owned(),
        });
    }
    Some(files)
}

/// Source: `AT_SYSINFO_EHDR` in `getauxval(3)`.
const SYSINFO_EHDR: u64 = 33;

fn vdso_of(note: &[u8]) -> Option<u64> {
    let mut pairs = note.chunks_exact(16);
    let pair = pairs.find(|pair| word(pair, 0) == Some(SYSINFO_EHDR))?;
    word(pair, 1)
}

/// The word of this number.
fn word(bytes: &[u8], number: usize) -> Option<u64> {
    let at = number.checked_mul(8)?;
    let word = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(word.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn registers_are_found_by_their_dwarf_numbers() {
        let mut note = vec![0; PRSTATUS_REGISTERS];
        note[PRSTATUS_PID] = 77;
        // r15 to rdi have their places as values, then orig_rax, rip, cs, flags, rsp, ss.
        note.extend(words(&(0..27).collect::<Vec<u64>>()));
        let thread = thread_of(&note).unwrap();
        assert_eq!((thread.tid, thread.registers[16]), (77, 16));
        assert_eq!((thread.registers[6], thread.registers[7]), (4, 19));
        assert_eq!((thread.registers[0], thread.registers[15]), (10, 0));
        assert_eq!(thread.position, Position::ReturnAddress);
        assert_eq!(thread_of(&note[..PRSTATUS_REGISTERS + 100]), None);
    }

    #[test]
    fn mapped_files_have_offsets_in_their_unit() {
        let mut note = words(&[2, 4096, 0x1000, 0x2000, 3, 0x5000, 0x6000, 0]);
        note.extend(b"/bin/a\0/lib/b\0");
        let files = files_of(&note).unwrap();
        assert_eq!(files[0].path, "/bin/a");
        assert_eq!((files[1].start, files[1].path.as_str()), (0x5000, "/lib/b"));
        assert_eq!(files[0].file_offset, 3 * 4096);
        assert_eq!(files_of(&words(&[u64::MAX, 1])), None);
        assert_eq!(files_of(&words(&[1, 1, 0, 0])), None);
    }

    #[test]
    fn a_program_is_no_core_file() {
        let refused = CoreFile::open(Path::new("/proc/self/exe"));
        assert!(matches!(refused, Err(CoreError::NotCore)));
    }
}
