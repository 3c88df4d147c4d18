//! Every map and global of the kernel side.

use aya_ebpf::{
    Global,
    btf_maps::{Array, ArrayOfMaps, HashMap, PerCpuArray, RingBuf},
    macros::{btf_map, map},
    maps::ProgramArray,
};
use profiler_common::{
    config::{CaptureBits, ProbeConfig, Scope, TargetKey},
    counters::{COUNTERS, Counter},
    limits::{
        CHUNK_WORDS, MAX_CAPTURES, MAX_CHUNKS, MAX_PROCESSES, MAX_TABLES, MAX_TARGETS,
        MIN_RING_BYTES,
    },
    mapping::{Chunk, ProcessEntry},
    symbols::PrintedSymbols,
    unwind::{MAX_RULES, TableEntry},
};

use crate::walk::{Walk, callers::Callers};

/// Settings, fixed by the loader before the programs are loaded.
#[unsafe(no_mangle)]
pub static CONFIG: Global<ProbeConfig> = Global::new(ProbeConfig {
    kernel_stacks: 1,
    user_stacks: 1,
    kernel_frames: 0,
    task_stack_offset: 0,
    task_tgid_offset: 0,
    unwalked_ring_bytes: 0,
    area_length_offset: 0,
    task_mm_offset: 0,
    mm_end_code_offset: 0,
    tells_cgroups: 0,
});

/// Entry 0: what is looked for at a tick. Written by the user side whenever a capture begins or ends,
/// read at each tick.
#[btf_map]
pub static SCOPE: Array<Scope, 1> = Array::new();

/// What to sample: key target, value the captures that it is a target of. Written by the user side and
/// `follow_fork`, read at each tick. When full, a child is not followed and `FollowFull` counts it.
/// The loader sets its size. Preallocated: kernels before 6.1 refuse other hashes here.
#[btf_map]
pub static TARGETS: HashMap<TargetKey, CaptureBits, MAX_TARGETS> = HashMap::new();

/// Ticks that fell on targets of each capture, by the number of its bit. Read by the user side when one
/// begins and when it ends.
#[btf_map]
pub static CAPTURED: PerCpuArray<u64, MAX_CAPTURES> = PerCpuArray::new();

/// The mapping table of each known process: key pid, value where its table lies. Written by the
/// user side, read at each tick that falls on a target; `forget_exec`, `follow_fork` and
/// `forget_reused` take an entry out when the pid stands for another program, or its code moves.
/// When full, the samples of further processes leave unwalked.
#[btf_map]
pub static PROCESSES: HashMap<u32, ProcessEntry, MAX_PROCESSES> = HashMap::new();

/// Table memory, in chunks of 256 KiB made by need and filled through `mmap` by the user side
/// (flag 1024 is `BPF_F_MMAPABLE`). Read at each frame.
#[btf_map]
pub static CHUNKS: ArrayOfMaps<Array<[u32; CHUNK_WORDS], 1, 1024>, MAX_CHUNKS> = ArrayOfMaps::new();

/// Where the unwind table of each object lies, by the slot that mapping entries name (flag 1024 is
/// `BPF_F_MMAPABLE`). Written by the user side through `mmap`, read when a walk comes to another
/// mapping. When full, an object has slot 0, and the stacks that pass through it are cut.
#[btf_map]
pub static TABLES: Array<TableEntry, MAX_TABLES, 1024> = Array::new();

/// The unwind rules of all tables, as words, by the number that rows name. Written by the user side
/// through `mmap`, read at each frame. When full, rows of further rules have none.
#[btf_map]
pub static RULES: Array<u64, MAX_RULES, 1024> = Array::new();

/// The state of the walk that runs on this CPU. One context class (perf events) uses it: those
/// programs do not nest.
#[btf_map]
pub static WALK: PerCpuArray<Walk, 1> = PerCpuArray::new();

/// What this CPU's walks have found out of callers. Used as `WALK` is.
#[btf_map]
pub static CALLERS: PerCpuArray<Callers, 1> = PerCpuArray::new();

/// The sample ring, read by the user side every few milliseconds; no wake-ups. The loader sets its
/// size. When full, the sample is lost and `LostRingFull` counts it.
#[btf_map]
pub static SAMPLES: RingBuf<[u8; 64], MIN_RING_BYTES> = RingBuf::new();

/// One counter for each way a tick can go: see [`Counter`]. Read by the user side at the end.
#[btf_map]
pub static COUNTS: PerCpuArray<u64, COUNTERS> = PerCpuArray::new();

/// Entry 0: what the last run of `print_symbols` printed. Written by it, read by the user side after
/// each run.
#[btf_map]
pub static SYMBOLS: Array<PrintedSymbols, 1> = Array::new();

/// Entry 0: the program that goes on with a walk. Set by the loader for the tail-call flavour.
#[map]
pub static CONTINUATIONS: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// Counts one.
#[inline(always)]
pub fn count(counter: Counter) {
    count_at(counter as u32);
}

/// Counts one in the counter with this number.
#[inline(always)]
pub fn count_at(counter: u32) {
    if let Some(slot) = COUNTS.get_ptr_mut(counter) {
        // SAFETY: a per-CPU slot, and no program that counts is interrupted by another on its CPU
        // except a tracepoint by a tick, which counts in other slots.
        unsafe { *slot += 1 };
    }
}

/// Counts one for each of these captures.
#[inline(always)]
pub fn count_for(captures: CaptureBits) {
    let mut left = captures;
    let mut number = 0;
    // Bits are given out from the lowest on, so few are looked at.
    while number < MAX_CAPTURES as u32 && left != 0 {
        if left & 1 != 0
            && let Some(count) = CAPTURED.get_ptr_mut(number)
        {
            // SAFETY: a per-CPU slot, used by perf event programs alone, which do not nest.
            unsafe { *count += 1 };
        }
        left >>= 1;
        number += 1;
    }
}

/// The chunk with this number.
#[inline(always)]
pub fn chunk(number: u32) -> Option<&'static Chunk> {
    let value = CHUNKS.get_value(number, &0)?;
    // SAFETY: an array's value lives as long as the map, which outlives the program. The user side
    // writes to it only where no published table lies.
    Some(unsafe { &*core::ptr::from_ref(value).cast() })
}
