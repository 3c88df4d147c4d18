//! The walk of one sample's stacks: its scratch record, one step, and the record's way out.
//!
//! The two flavours ([`by_loop`], [`tail`]) run the same step.

pub mod by_loop;
pub mod callers;
pub mod tail;

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext,
    bindings::{BPF_RB_AVAIL_DATA, pt_regs},
    helpers::{
        bpf_get_current_comm, bpf_get_current_pid_tgid,
        generated::{
            bpf_get_current_cgroup_id, bpf_get_smp_processor_id, bpf_get_stack, bpf_ktime_get_ns,
            bpf_probe_read_user, bpf_ringbuf_query,
        },
    },
    programs::PerfEventContext,
};
use profiler_common::{
    config::CaptureBits,
    counters::Counter,
    frame::{Place, PlaceWord, Position, object_place},
    limits::{
        CALLERS_STACK_PAGES, FEW_FRAMES, FRAME_POINTERS_FOLLOWED, MAX_KERNEL_FRAMES,
        MAX_USER_FRAMES, PAGE_BYTES, RED_ZONE_BYTES, SCRATCH_FRAMES, SCRATCH_WORDS,
        STACK_COPY_PAGES,
    },
    mapping::{self, Chunk, MappingEntry, ProcessEntry, SWITCHES_STACKS},
    step::{ALL_REGISTERS, AllRegisters, Depth, Growth, Registers, UserMemory},
    stop::StopReason,
    unwind::{
        Chunks, NO_INFORMATION, TABLE_PENDING, TABLE_REFUSED, TABLE_RESIDENT, TABLE_UNREADABLE,
        TableEntry, find_rule,
    },
    walk::{Cursor, Interrupted, Knowledge, caller},
    wire::{HEADER_BYTES, KIND_STACK, KIND_UNWALKED, RAW_HEAD_WORDS, SampleHeader},
};

use crate::{
    maps::{CONFIG, PROCESSES, RULES, SAMPLES, TABLES, WALK, chunk, count, count_at},
    task::{self, CurrentMemory, RegisterSource, in_user_code},
};

/// `BPF_RB_NO_WAKEUP`: the user side polls.
const NO_WAKEUP: u64 = 1;

/// The state of one walk. The record that leaves is its beginning: header, then words.
#[repr(C)]
pub struct Walk {
    header: SampleHeader,
    words: [u64; SCRATCH_WORDS],
    /// What the task entered the kernel with, if it is there.
    entry: pt_regs,
    /// The user registers of the sample.
    registers: AllRegisters,
    cursor: Cursor,
    /// The mapping of the last frame: the next one's too, more often than not.
    mapping: MappingEntry,
    /// Where the unwind table of that mapping's object is.
    object: TableEntry,
    /// Where the code of the current frame lies.
    place: PlaceWord,
    /// The flags of its mapping.
    flags: u32,
    /// The process's mapping table.
    table: ProcessEntry,
    depth: u32,
}

/// This CPU's scratch.
#[inline(always)]
pub fn scratch() -> Option<&'static mut Walk> {
    let walk = WALK.get_ptr_mut(0)?;
    // SAFETY: a per-CPU slot, used by perf event programs alone, which do not nest; its user has
    // no other reference to it at that time.
    Some(unsafe { &mut *walk })
}

impl Walk {
    /// Fills the header.
    #[inline(always)]
    pub fn begin(&mut self, probe: u16, captures: CaptureBits) {
        let ids = bpf_get_current_pid_tgid();
        let pid = (ids >> 32) as u32;
        let last_generation = self.table.generation;
        self.table = match PROCESSES.get_ptr(pid) {
            // SAFETY: the entry is four words that the user side swaps whole; it is copied at once.
            Some(entry) => unsafe { *entry },
            None => ProcessEntry::default(),
        };
        if self.table.generation == last_generation {
            // The same mappings, but the object's table may have come or gone.
            self.find_object();
        } else {
            self.mapping = MappingEntry::default();
        }
        self.depth = 0;
        self.header = SampleHeader {
            kind: KIND_STACK,
            probe,
            kernel_count: 0,
            user_count: 0,
            pid,
            tid: ids as u32,
            // SAFETY: gives a number.
            cpu: unsafe { bpf_get_smp_processor_id() },
            generation: self.table.generation,
            // SAFETY: gives a number.
            time_ns: unsafe { bpf_ktime_get_ns() },
            // SAFETY: gives a number.
            cgroup_id: unsafe { bpf_get_current_cgroup_id() },
            captures,
            comm: bpf_get_current_comm().unwrap_or_default(),
            user_stop: StopReason::Absent as u8,
            kernel_stop: StopReason::Absent as u8,
            in_syscall: 0,
            _pad: [0; 5],
        };
    }

    /// Takes the kernel's stack, if the tick fell in the kernel.
    #[inline(always)]
    pub fn kernel_stack(&mut self, ctx: &PerfEventContext) {
        if CONFIG.load().kernel_stacks == 0 || in_user_code(ctx) {
            return;
        }
        let bytes = (MAX_KERNEL_FRAMES * 8) as u32;
        // SAFETY: the buffer is longer than `bytes`.
        let taken =
            unsafe { bpf_get_stack(ctx.as_ptr(), self.words.as_mut_ptr().cast(), bytes, 0) };
        let stop = if taken < 0 {
            StopReason::KernelUnreadable
        } else if taken as u64 >= u64::from(CONFIG.load().kernel_frames) * 8 {
            StopReason::TooDeep
        } else {
            StopReason::Root
        };
        if taken > 0 {
            self.header.kernel_count = ((taken as u64 / 8) as u16).min(MAX_KERNEL_FRAMES as u16);
        }
        self.header.kernel_stop = stop as u8;
        count_at(Counter::KernelStop as u32 + stop as u32);
    }

    /// Sets out from the user registers, if user stacks are wanted and there is one.
    #[inline(always)]
    pub fn user_registers(&mut self, ctx: &PerfEventContext, source: RegisterSource) {
        if CONFIG.load().user_stacks == 0 {
            return;
        }
        let position = match task::user_registers(ctx, source, &mut self.entry, &mut self.registers)
        {
            Ok(position) => position,
            Err(reason) => return self.stop(reason),
        };
        self.header.in_syscall = (position == Position::ReturnAddress) as u8;
        self.cursor = Cursor::innermost(Registers::of(&self.registers), position);
        if self.table.generation == 0 {
            self.push(Place::Address(self.cursor.registers.pc).encode());
            return self.stop(StopReason::NoProcessTable);
        }
        // A walk that is under way; each end of it writes the reason.
        self.header.user_stop = WALKING;
    }

    /// Whether there are user frames to walk.
    #[inline(always)]
    pub fn wants_user_frames(&self) -> bool {
        self.header.user_stop == WALKING
    }

    /// Writes the current frame and goes to its caller. False when the walk has ended.
    #[inline(always)]
    pub fn step(&mut self) -> bool {
        match self.advance() {
            Ok(()) => true,
            Err(reason) => {
                self.stop(reason);
                false
            }
        }
    }

    #[inline(always)]
    fn advance(&mut self) -> Result<(), StopReason> {
        if self.depth as usize >= MAX_USER_FRAMES {
            return Err(StopReason::TooDeep);
        }
        let known = self.find_code();
        if let Ok(code) = known {
            self.cursor.confirm(code, &CurrentMemory)?;
        }
        self.push(self.place);
        let growth = if self.flags & SWITCHES_STACKS == 0 {
            Growth::Strict
        } else {
            Growth::MaySwitch
        };
        let others = Interrupted {
            registers: &self.registers,
            saved_at: self.cursor.saved_at,
            memory: &CurrentMemory,
        };
        self.cursor = caller(&self.cursor, known?, growth, &others, &CurrentMemory)?;
        Ok(())
    }

    /// Finds where the current frame's code lies, and what is known of it.
    ///
    /// # Errors
    /// The reason why that is not enough to go on.
    #[inline(always)]
    fn find_code(&mut self) -> Result<Knowledge, StopReason> {
        let lookup = self.cursor.lookup();
        // An interrupted frame may be anywhere: the next sample's is somewhere else.
        let is_caller = self.cursor.depth() == Depth::Caller;
        if is_caller
            && let Some(caller) = callers::place_of(lookup, self.table.generation)
            && caller.lookup == lookup
            && caller.generation == self.table.generation
        {
            self.place = caller.place;
            self.flags = caller.flags;
            return Ok(Knowledge::Rule(caller.rule));
        }
        self.find_mapping(lookup);
        self.place = self.current_place();
        self.flags = self.mapping.flags;
        let known = self.knowledge(lookup);
        if let Ok(Knowledge::Rule(rule)) = known
            && is_caller
            && let Some(caller) = callers::place_of(lookup, self.table.generation)
        {
            *caller = callers::Caller {
                lookup,
                generation: self.table.generation,
                flags: self.flags,
                place: self.place,
                rule,
            };
        }
        known
    }

    /// Finds the mapping of an address, and where its object's unwind table is.
    #[inline(always)]
    fn find_mapping(&mut self, lookup: u64) {
        if self.mapping.contains(lookup) {
            return;
        }
        self.mapping = match chunk(self.table.chunk) {
            Some(chunk) => mapping::find(chunk, &self.table, lookup).unwrap_or_default(),
            None => MappingEntry::default(),
        };
        self.find_object();
    }

    /// Finds where the unwind table of the mapping's object is.
    #[inline(always)]
    fn find_object(&mut self) {
        self.object = match TABLES.get_ptr(self.mapping.slot) {
            // SAFETY: an array's value lives as long as the map.
            Some(entry) => unsafe { read_table_entry(entry) },
            None => TableEntry::default(),
        };
    }

    /// What is known of the code of the current mapping.
    ///
    /// # Errors
    /// The reason why that is not enough to go on.
    #[inline(always)]
    fn knowledge(&self, lookup: u64) -> Result<Knowledge, StopReason> {
        if self.mapping.end == 0 {
            return Err(StopReason::UnknownCode);
        }
        if self.mapping.object == 0 {
            return Ok(Knowledge::Generated);
        }
        match self.object.state {
            TABLE_RESIDENT => {}
            TABLE_PENDING => return Err(StopReason::NoTableYet),
            TABLE_REFUSED => return Err(StopReason::TableMemoryFull),
            TABLE_UNREADABLE => return Err(StopReason::ObjectUnreadable),
            _ => return Ok(Knowledge::NoTable),
        }
        let elf_address = lookup.wrapping_sub(self.mapping.bias);
        let found = find_rule(&TableChunks, &self.object.place, elf_address);
        if found.rule == NO_INFORMATION {
            return Ok(Knowledge::NoRow);
        }
        Ok(match RULES.get(u32::from(found.rule)) {
            Some(word) => Knowledge::Rule(found.word(*word)),
            None => Knowledge::NoRow,
        })
    }

    /// Where the current frame's code lies.
    #[inline(always)]
    fn current_place(&self) -> PlaceWord {
        let pc = self.cursor.registers.pc;
        if self.mapping.object == 0 {
            return Place::Address(pc).encode();
        }
        object_place(self.mapping.object, self.mapping.bias, pc)
    }

    #[inline(always)]
    fn push(&mut self, place: PlaceWord) {
        let frame = place.with(self.cursor.position(), self.cursor.source());
        let at = self.header.kernel_count as usize + self.depth as usize;
        // Verifier: the mask bounds the index.
        self.words[at & (SCRATCH_FRAMES - 1)] = frame;
        self.depth += 1;
        self.header.user_count = self.depth as u16;
    }

    /// Ends the user stack.
    #[inline(always)]
    pub fn stop(&mut self, reason: StopReason) {
        self.header.user_stop = reason as u8;
        count_at(Counter::Stop as u32 + reason as u32);
    }

    /// Sends the record. A stack that lacked a table leaves unwalked if there is room for it, else as
    /// far as it was walked.
    #[inline(always)]
    pub fn emit(&mut self) {
        if self.lacks_table() {
            self.leave_unwalked();
        }
        let words = self.header.kernel_count as usize + self.header.user_count as usize;
        // Verifier: bounds the length; the walk's limits keep it below.
        let words = if words > SCRATCH_WORDS {
            SCRATCH_WORDS
        } else {
            words
        };
        let record = core::ptr::from_ref(self).cast::<u8>();
        // SAFETY: at most the length of header and words, all of it initialized.
        let record = unsafe { core::slice::from_raw_parts(record, HEADER_BYTES + words * 8) };
        if SAMPLES.output_untyped::<[u8]>(record, NO_WAKEUP).is_err() {
            count(Counter::LostRingFull);
        }
    }

    #[inline(always)]
    fn lacks_table(&self) -> bool {
        let stop = self.header.user_stop;
        stop == StopReason::NoProcessTable as u8
            || stop == StopReason::NoTableYet as u8
            || (stop == StopReason::UnknownCode as u8 && self.depth <= FEW_FRAMES)
    }

    /// Puts registers and the top of the stack in the place of the user frames.
    #[inline(always)]
    fn leave_unwalked(&mut self) {
        let ring = core::ptr::from_ref(&SAMPLES).cast_mut().cast();
        // SAFETY: `ring` is a ring buffer map; asks for a number.
        let used = unsafe { bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA.into()) };
        if used >= u64::from(CONFIG.load().unwalked_ring_bytes) {
            return;
        }
        // Verifier: the mask bounds every place below.
        let head = self.header.kernel_count as usize & MAX_KERNEL_FRAMES;
        let mut i = 0;
        while i < ALL_REGISTERS {
            self.words[head + i] = self.registers[i];
            i += 1;
        }
        let lacks_one = self.header.user_stop == StopReason::NoTableYet as u8;
        self.words[head + ALL_REGISTERS] = if lacks_one {
            u64::from(self.mapping.object)
        } else {
            0
        };
        // The red zone comes along unless it is on another page, which may not be there yet.
        let sp = self.registers[7];
        let page = sp & !(PAGE_BYTES as u64 - 1);
        let below = sp.wrapping_sub(RED_ZONE_BYTES) & !7;
        let start = if below < page { sp & !7 } else { below };
        let parts = (head + RAW_HEAD_WORDS) * 8;
        self.words[head + ALL_REGISTERS + 3] = self.stack_before(start);
        let (start, bytes) = self.copy_stack(parts, start, STACK_COPY_PAGES);
        self.words[head + ALL_REGISTERS + 1] = start;
        self.words[head + ALL_REGISTERS + 2] = bytes as u64 / 8;
        // Verifier: it would follow the second copy once for each length of the first and for each way
        // to where it begins, if it knew them.
        let before = self.forgotten(head + ALL_REGISTERS + 3);
        let bytes = self.forgotten(head + ALL_REGISTERS + 2) as usize * 8;
        // Verifier: bounds the second part's place.
        let bytes = if bytes > STACK_COPY_PAGES * PAGE_BYTES {
            0
        } else {
            bytes
        };
        let (start, more) = if before == 0 {
            (0, 0)
        } else {
            self.copy_stack(parts + bytes, before, CALLERS_STACK_PAGES)
        };
        self.words[head + ALL_REGISTERS + 3] = start;
        self.words[head + ALL_REGISTERS + 4] = more as u64 / 8;
        self.header.kind = KIND_UNWALKED;
        self.header.user_count = (RAW_HEAD_WORDS + (bytes + more) / 8) as u16;
    }

    /// A word, of whose value the compiler and the verifier know nothing.
    #[inline(always)]
    fn forgotten(&self, word: usize) -> u64 {
        // SAFETY: the reference says that it can be read.
        unsafe { (&raw const self.words[word]).read_volatile() }
    }

    /// The frame pointer by which the chain of them leaves the part of the stack that begins at
    /// `start`: a thread of Go's, or a signal handler, was on another stack before. 0 if it does not.
    #[inline(always)]
    fn stack_before(&self, start: u64) -> u64 {
        let end = start.wrapping_add((STACK_COPY_PAGES * PAGE_BYTES) as u64);
        let (mut lowest, mut frame) = (start, self.registers[6]);
        let mut followed = 0;
        while followed < FRAME_POINTERS_FOLLOWED {
            if frame & 7 != 0 {
                return 0;
            }
            if frame < lowest || frame >= end {
                return frame;
            }
            lowest = frame + 8;
            let Some(bytes) = CurrentMemory.read(frame) else {
                return 0;
            };
            frame = u64::from_ne_bytes(bytes);
            followed += 1;
        }
        0
    }

    /// Copies a stack from an address on, page by page, as far as it can be read, and tells where the
    /// copy begins and how many bytes it has. A frame may have been made on a page that is not there
    /// before something is written to it.
    #[inline(always)]
    fn copy_stack(&mut self, at: usize, start: u64, pages: usize) -> (u64, usize) {
        let (mut start, mut bytes) = (start, 0);
        let mut length = PAGE_BYTES - (start as usize & (PAGE_BYTES - 1));
        let mut page = 0;
        while page < pages {
            let from = start.wrapping_add(bytes as u64) as *const c_void;
            let to = self.words.as_mut_ptr().cast::<u8>();
            // SAFETY: the pages and what is before them fit the words (asserted in `limits`).
            let to = unsafe { to.add(at + bytes) };
            // SAFETY: the helper checks the source address, and there is room for `length` bytes.
            if unsafe { bpf_probe_read_user(to.cast(), length as u32, from) } == 0 {
                bytes += length;
            } else if bytes == 0 {
                start = start.wrapping_add(length as u64);
            } else {
                break;
            }
            length = PAGE_BYTES;
            page += 1;
        }
        (start, bytes)
    }
}

/// Reads where a table is. The user side writes the place before it says that a table is there, so
/// it is read after that.
///
/// # Safety
/// `entry` can be read.
#[inline(always)]
unsafe fn read_table_entry(entry: *const TableEntry) -> TableEntry {
    // SAFETY: the caller says so. Volatile reads keep their order.
    let state = unsafe { (&raw const (*entry).state).read_volatile() };
    // SAFETY: as above.
    let place = unsafe { (&raw const (*entry).place).read_volatile() };
    TableEntry {
        place,
        state,
        _pad: 0,
    }
}

/// Table memory, as the search reads it.
struct TableChunks;

impl Chunks for TableChunks {
    #[inline(always)]
    fn chunk(&self, number: u32) -> Option<&Chunk> {
        chunk(number)
    }
}

/// [`SampleHeader::user_stop`] of a walk that has not ended. Never leaves the kernel.
const WALKING: u8 = u8::MAX;
