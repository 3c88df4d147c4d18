//! Walks the stacks that the kernel side had no tables for.
//!
//! In: a sample's registers and the top of its stack, and the mappings that its process had at that
//! moment. Out: the stack, by the same step and the same tables as in the kernel; or the object
//! whose table is to be waited for.

use std::{cell::OnceCell, fs::File, os::unix::fs::FileExt};

use profiler_common::{
    limits::{CALLERS_STACK_PAGES, PAGE_BYTES, STACK_COPY_PAGES},
    step::{Growth, Registers, UserMemory},
    stop::StopReason,
    walk::{Cursor, Knowledge},
};

use super::{Located, Mapping, Processes, Space, UserPlace, UserStack};
use crate::{
    bpf::{Sample, StackPart, Tables, Unwalked},
    object::{Objects, lookup_address},
    residency::Residency,
    target::Pid,
    unwind::{Code, walk},
};

/// Everything that a walk reads tables and code from.
#[derive(Clone, Copy)]
pub struct Tabled<'a> {
    /// Which object's table is where.
    pub residency: &'a Residency,
    /// The tables.
    pub tables: &'a Tables,
    /// The objects' files.
    pub objects: &'a Objects,
}

/// Where the code of a process lay at one moment. Cheap to keep.
#[derive(Clone, Debug)]
pub struct CodeSpace {
    pid: Pid,
    space: Space,
    before_exec: Space,
    is_known: bool,
}

impl Processes {
    /// Where the code of a sample's process lay at its moment. Reads the process first if it is new
    /// to us.
    pub fn code_space(&mut self, sample: &Sample, now_ns: u64, objects: &mut Objects) -> CodeSpace {
        self.meet(sample, now_ns, objects);
        let Some(process) = self.processes.get_mut(&sample.pid) else {
            return CodeSpace::unknown(sample.pid);
        };
        // The table that we think it has, if any, was taken out of the kernel.
        let has_table = process.armed_ns.is_some()
            || (sample.generation != 0 && process.generation == Some(sample.generation));
        process.wants_table |= process.ended_ns.is_none() && !has_table;
        if process.wants_table {
            self.wanting.insert(sample.pid);
        }
        if let Some(unwalked) = &sample.unwalked {
            process.settle(Registers::of(&unwalked.registers).pc);
        }
        CodeSpace {
            pid: sample.pid,
            space: process.space.clone(),
            before_exec: process.before_exec.clone(),
            is_known: process.is_known,
        }
    }
}

impl CodeSpace {
    /// Of a process that ended before we could look.
    fn unknown(pid: Pid) -> Self {
        Self {
            pid,
            space: Space::default(),
            before_exec: Space::default(),
            is_known: false,
        }
    }

    /// Whether some of the code is in memory that no file backs.
    #[must_use]
    pub fn has_made_code(&self) -> bool {
        self.space.iter().any(|mapping| mapping.object.is_none())
    }

    /// Walks a stack. An object in [`UserStack::wants`] may have a table later.
    #[must_use]
    pub fn walk(&self, unwalked: &Unwalked, with: Tabled<'_>) -> UserStack {
        let innermost = Cursor::innermost(Registers::of(&unwalked.registers), unwalked.position);
        let code = SpaceCode {
            space: self.space_of(innermost.lookup()),
            with,
        };
        let memory = Copied {
            unwalked,
            code: &code,
            pid: self.pid,
            process: OnceCell::new(),
        };
        let walked = walk(innermost, &unwalked.registers, &memory, &code);
        let frames: Vec<Located> = walked
            .frames
            .iter()
            .map(|frame| Located {
                place: place_in(code.space, lookup_address(frame.pc, frame.position)),
                position: frame.position,
                source: frame.source,
            })
            .collect();
        let stop = match walked.stop {
            StopReason::UnknownCode if !self.is_known => StopReason::NoProcessTable,
            StopReason::StackUnreadable if memory.is_full() => StopReason::StackCopyTooShort,
            stop => stop,
        };
        UserStack::confirmed(&frames, stop, with.objects)
    }

    /// The mappings that the innermost frame is in. While the kernel sets up a new program, the task's
    /// user registers are still those of the old one.
    fn space_of(&self, address: u64) -> &Space {
        if self.space.find(address).is_none() && self.before_exec.find(address).is_some() {
            &self.before_exec
        } else {
            &self.space
        }
    }
}

/// Where an address lies.
pub(super) fn place_in(space: &Space, address: u64) -> UserPlace {
    match space.find(address) {
        Some(Mapping {
            object: Some(object),
            bias,
            ..
        }) => UserPlace::Object(*object, bias.to_elf(address)),
        Some(_) => UserPlace::Jit(address),
        None => UserPlace::Unknown(address),
    }
}

/// The code of a process, as far as tables describe it.
struct SpaceCode<'a> {
    space: &'a Space,
    with: Tabled<'a>,
}

impl Code for SpaceCode<'_> {
    fn look_up(&self, address: u64) -> Result<(Knowledge, Growth), StopReason> {
        let (object, address) = match place_in(self.space, address) {
            UserPlace::Object(object, address) => (object, address),
            UserPlace::Jit(_) => return Ok((Knowledge::Generated, Growth::Strict)),
            UserPlace::Unknown(_) => return Err(StopReason::UnknownCode),
        };
        let Tabled {
            residency,
            tables,
            objects,
        } = self.with;
        let knowledge = residency.look_up(object, address, tables)?;
        let growth = if objects.get(object).is_go {
            Growth::MaySwitch
        } else {
            Growth::Strict
        };
        Ok((knowledge, growth))
    }
}

/// The memory that came with a sample, the code in the files of the process, and the code that it
/// made, as it is now.
struct Copied<'a> {
    unwalked: &'a Unwalked,
    code: &'a SpaceCode<'a>,
    pid: Pid,
    process: OnceCell<Option<File>>,
}

impl Copied<'_> {
    /// The memory of the process, if it is still there.
    fn process(&self) -> Option<&File> {
        let open = || File::open(format!("/proc/{}/mem", self.pid)).ok();
        self.process.get_or_init(open).as_ref()
    }

    /// Whether the stack goes on beyond what came along.
    fn is_full(&self) -> bool {
        let full = |part: &StackPart, pages| part.bytes.len() > (pages - 1) * PAGE_BYTES;
        full(&self.unwalked.stack, STACK_COPY_PAGES)
            || full(&self.unwalked.stack_before, CALLERS_STACK_PAGES)
    }
}

impl UserMemory for Copied<'_> {
    fn read<const N: usize>(&self, address: u64) -> Option<[u8; N]> {
        let Unwalked {
            stack,
            stack_before,
            ..
        } = self.unwalked;
        if let Some(bytes) = stack.from(address).or_else(|| stack_before.from(address)) {
            return bytes.first_chunk().copied();
        }
        match place_in(self.code.space, address) {
            UserPlace::Object(object, address) => self.code.with.objects.get(object).read(address),
            UserPlace::Jit(address) => {
                let mut bytes = [0; N];
                self.process()?.read_exact_at(&mut bytes, address).ok()?;
                Some(bytes)
            }
            UserPlace::Unknown(_) => None,
        }
    }
}
