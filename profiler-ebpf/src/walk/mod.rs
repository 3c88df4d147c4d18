//! The walk of one sample's stacks: its scratch record, one step, and the record's way out.
//!
//! The two flavours ([`by_loop`], [`tail`]) run the same step.

pub mod by_loop;
pub mod tail;

use aya_ebpf::{
    EbpfContext,
    helpers::{
        bpf_get_current_comm, bpf_get_current_pid_tgid,
        generated::{
            bpf_get_current_cgroup_id, bpf_get_smp_processor_id, bpf_get_stack, bpf_ktime_get_ns,
        },
    },
    programs::PerfEventContext,
};
use profiler_common::{
    counters::Counter,
    frame::{Frame, Place, Position, Source, object_place},
    limits::{MAX_KERNEL_FRAMES, MAX_USER_FRAMES, SCRATCH_FRAMES},
    mapping::{self, MappingEntry, ProcessEntry, SWITCHES_STACKS},
    step::{CallCheck, Depth, Growth, Registers, caller_by_frame_pointer},
    stop::StopReason,
    wire::{HEADER_BYTES, KIND_STACK, SampleHeader},
};

use crate::{
    maps::{CONFIG, PROCESSES, SAMPLES, WALK, chunk, count, count_at},
    task::{CurrentMemory, UserRegisters, in_user_code},
};

/// `BPF_RB_NO_WAKEUP`: the user side polls.
const NO_WAKEUP: u64 = 1;

/// The state of one walk. The record that leaves is its beginning: header, then frames.
#[repr(C)]
pub struct Walk {
    header: SampleHeader,
    frames: [u64; SCRATCH_FRAMES],
    registers: Registers,
    /// The mapping of the last frame: the next one's too, more often than not.
    mapping: MappingEntry,
    table: ProcessEntry,
    depth: u32,
    /// 1 when the pc of the innermost frame is a return address.
    entered_by_syscall: u32,
    /// 1 when the current frame's return address is still to be checked by the user side.
    unchecked: u32,
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
    pub fn begin(&mut self, probe: u16) {
        let ids = bpf_get_current_pid_tgid();
        let pid = (ids >> 32) as u32;
        self.table = match PROCESSES.get_ptr(pid) {
            // SAFETY: the entry is four words that the user side swaps whole; it is copied at once.
            Some(entry) => unsafe { *entry },
            None => ProcessEntry::default(),
        };
        self.mapping = MappingEntry::default();
        self.depth = 0;
        self.unchecked = 0;
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
            unsafe { bpf_get_stack(ctx.as_ptr(), self.frames.as_mut_ptr().cast(), bytes, 0) };
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
    pub fn user_registers(&mut self, found: Result<UserRegisters, StopReason>) {
        if CONFIG.load().user_stacks == 0 {
            return;
        }
        match found {
            Ok(found) => {
                self.registers = found.registers;
                self.entered_by_syscall = (found.position == Position::ReturnAddress) as u32;
                // A walk that is under way; each end of it writes the reason.
                self.header.user_stop = WALKING;
            }
            Err(reason) => self.stop(reason),
        }
    }

    /// Whether there are user frames to walk.
    #[inline(always)]
    pub fn wants_user_frames(&self) -> bool {
        self.header.user_stop == WALKING
    }

    /// Writes the current frame and goes to its caller. False when the walk has ended.
    #[inline(always)]
    pub fn step(&mut self) -> bool {
        if self.depth as usize >= MAX_USER_FRAMES {
            self.stop(StopReason::TooDeep);
            return false;
        }
        let innermost = self.depth == 0;
        let returns = !innermost || self.entered_by_syscall != 0;
        let position = if returns {
            Position::ReturnAddress
        } else {
            Position::Exact
        };
        let (place, growth) = self.place(position);
        let source = if innermost {
            Source::Exact
        } else if self.unchecked == 0 {
            Source::FramePointer
        } else {
            Source::UncheckedFramePointer
        };
        self.push(Frame {
            place,
            position,
            source,
        });
        let depth = if innermost {
            Depth::Innermost
        } else {
            Depth::Caller
        };
        match caller_by_frame_pointer(self.registers, depth, growth, &CurrentMemory) {
            Ok(caller) => {
                self.registers = caller.registers;
                self.unchecked = (caller.check == CallCheck::CodeUnreadable) as u32;
                true
            }
            Err(reason) => {
                self.stop(reason);
                false
            }
        }
    }

    /// Where the current frame's code lies. A return address belongs to the call before it, which
    /// may be the last instruction of its mapping.
    #[inline(always)]
    fn place(&mut self, position: Position) -> (Place, Growth) {
        let pc = self.registers.pc;
        let lookup = pc.wrapping_sub((position == Position::ReturnAddress) as u64);
        if self.mapping.contains(lookup) {
            count(Counter::MappingCached);
        } else {
            count(Counter::MappingSearched);
            self.mapping = match chunk(self.table.chunk) {
                Some(chunk) => mapping::find(chunk, &self.table, lookup).unwrap_or_default(),
                None => MappingEntry::default(),
            };
        }
        let growth = if self.mapping.flags & SWITCHES_STACKS == 0 {
            Growth::Strict
        } else {
            Growth::MaySwitch
        };
        if self.mapping.object == 0 {
            return (Place::Address(pc), growth);
        }
        (
            object_place(self.mapping.object, self.mapping.bias, pc),
            growth,
        )
    }

    #[inline(always)]
    fn push(&mut self, frame: Frame) {
        let at = self.header.kernel_count as usize + self.depth as usize;
        // Verifier: the mask bounds the index.
        self.frames[at & (SCRATCH_FRAMES - 1)] = frame.encode();
        self.depth += 1;
        self.header.user_count = self.depth as u16;
    }

    /// Ends the user stack.
    #[inline(always)]
    pub fn stop(&mut self, reason: StopReason) {
        self.header.user_stop = reason as u8;
        count_at(Counter::Stop as u32 + reason as u32);
    }

    /// Sends the record.
    #[inline(always)]
    pub fn emit(&self) {
        let frames = self.header.kernel_count as usize + self.header.user_count as usize;
        // Verifier: the mask bounds the length; the walk's limits keep it below the mask.
        let bytes = HEADER_BYTES + (frames & (SCRATCH_FRAMES - 1)) * 8;
        let record = core::ptr::from_ref(self).cast::<u8>();
        // SAFETY: `bytes` is at most the length of header and frames, all of it initialized.
        let record = unsafe { core::slice::from_raw_parts(record, bytes) };
        if SAMPLES.output_untyped::<[u8]>(record, NO_WAKEUP).is_err() {
            count(Counter::LostRingFull);
        }
    }
}

/// [`SampleHeader::user_stop`] of a walk that has not ended. Never leaves the kernel.
const WALKING: u8 = u8::MAX;
