//! Sizes and bounds that both sides of the kernel boundary know, and how they relate.

/// Most user frames kept of one stack.
pub const MAX_USER_FRAMES: usize = 512;

/// Most kernel frames the kernel hands out of one stack.
/// Source: `PERF_MAX_STACK_DEPTH` in `include/uapi/linux/perf_event.h`.
pub const MAX_KERNEL_FRAMES: usize = 127;

/// Slots for frames in a scratch record: a power of two, so that an index can be masked.
pub const SCRATCH_FRAMES: usize = 1024;

/// Words of a scratch record behind its header: the frames of a walked stack, or what a walk on the
/// user side needs. A per-CPU value has at most 32 KiB (`PCPU_MIN_UNIT_SIZE`).
pub const SCRATCH_WORDS: usize = 3776;

/// Callers that a CPU keeps what it has found out of: 32 KiB, the most of a per-CPU value.
pub const KEPT_CALLERS: usize = 1024;

/// Bytes of a page of memory.
pub const PAGE_BYTES: usize = 4096;

/// Most pages of stack that leave with an unwalked sample; the first is mostly not whole.
pub const STACK_COPY_PAGES: usize = 5;

/// Most pages of the stack that the thread came from that leave with an unwalked sample.
pub const CALLERS_STACK_PAGES: usize = 2;

/// Frame pointers followed in search of the stack that the thread came from.
pub const FRAME_POINTERS_FOLLOWED: usize = 48;

/// Frames walked up to which a stack that comes to unknown code leaves unwalked: with more, what was
/// walked tells more than the part of the stack would.
pub const FEW_FRAMES: u32 = 32;

/// Bytes below the stack pointer that a function may use without moving it.
/// Source: System V ABI for x86-64, section 3.2.2.
pub const RED_ZONE_BYTES: u64 = 128;

/// User frames walked by one program of the tail-call flavour.
pub const FRAMES_PER_PROGRAM: usize = 17;

/// Tail calls one sample may take.
/// Source: `MAX_TAIL_CALL_CNT` in `include/linux/bpf.h` is 33; older kernels stop at 32.
pub const MAX_TAIL_CALLS: usize = 32;

/// 32-bit words in one chunk of table memory: 256 KiB.
pub const CHUNK_WORDS: usize = 65_536;

/// Most chunks of table memory: 1 GiB in all, allocated one by one.
pub const MAX_CHUNKS: usize = 4096;

/// Most processes with a mapping table at one time.
pub const MAX_PROCESSES: usize = 16_384;

/// Most entries in one process's mapping table: what one chunk holds and the search tells apart.
pub const MAX_MAPPINGS: usize = CHUNK_WORDS / crate::mapping::ENTRY_WORDS - 1;

/// Most objects with an unwind table, or waiting for one, at one time.
pub const MAX_TABLES: usize = 16_384;

/// Most captures at one time: bits of [`crate::config::CaptureBits`]. The verifier follows a loop over
/// them.
pub const MAX_CAPTURES: usize = 28;

/// Most targets (pids, tids, comms, cgroups) filtered for at one time.
pub const MAX_TARGETS: usize = 65_536;

/// Levels of the cgroup tree that a cgroup target may lie at; the root is level 0.
pub const MAX_CGROUP_LEVELS: u32 = 16;

/// Bytes of a comm, with its closing NUL.
/// Source: `TASK_COMM_LEN` in `include/linux/sched.h`.
pub const COMM_BYTES: usize = 16;

/// The smallest sample ring, in bytes. The loader makes it larger by CPUs and frequency.
pub const MIN_RING_BYTES: usize = 2 << 20;

// One round more than frames: the last finds the stack too deep.
const _: () = assert!(MAX_TAIL_CALLS * FRAMES_PER_PROGRAM > MAX_USER_FRAMES);
const _: () = assert!(MAX_KERNEL_FRAMES + MAX_USER_FRAMES <= SCRATCH_FRAMES);
const _: () = assert!(
    (MAX_KERNEL_FRAMES + 1 + crate::wire::RAW_HEAD_WORDS) * 8
        + (STACK_COPY_PAGES + CALLERS_STACK_PAGES) * PAGE_BYTES
        <= SCRATCH_WORDS * 8
);
const _: () = assert!(SCRATCH_FRAMES <= SCRATCH_WORDS);
const _: () = assert!(KEPT_CALLERS.is_power_of_two());
const _: () = assert!(SCRATCH_FRAMES.is_power_of_two() && CHUNK_WORDS.is_power_of_two());
const _: () = assert!(MIN_RING_BYTES.is_power_of_two());
