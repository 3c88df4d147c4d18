//! Records of the sample ring.
//!
//! One record is a [`SampleHeader`], then `kernel_count` kernel addresses, then `user_count`
//! words, each 8 bytes. Native byte order: the record never leaves the host. The words are
//!
//! - of [`KIND_STACK`] the frames (see [`crate::frame`]), innermost first;
//! - of [`KIND_UNWALKED`] the task's user registers by their DWARF numbers, the program counter as
//!   number 16, then the number of the object whose unwind table was lacking (0 for none), then
//!   address and words of a part of the stack, address and words of a part of the stack that the
//!   thread came from, and those two parts themselves.

use crate::{config::CaptureBits, limits::COMM_BYTES};

/// [`SampleHeader::kind`] of a sample whose stacks are already walked.
pub const KIND_STACK: u16 = 1;

/// [`SampleHeader::kind`] of a sample whose user stack the kernel side had no tables for: the user
/// side walks it.
pub const KIND_UNWALKED: u16 = 2;

/// Words of an unwalked sample before its parts of stacks: registers, object, and of each part the
/// address and the number of words.
pub const RAW_HEAD_WORDS: usize = crate::step::ALL_REGISTERS + 5;

/// [`SampleHeader::probe`] of the on-CPU probe.
pub const PROBE_CPU: u16 = 1;

/// The head of each record.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SampleHeader {
    /// What follows the header: [`KIND_STACK`] or [`KIND_UNWALKED`].
    pub kind: u16,
    /// The probe that took the sample: [`PROBE_CPU`].
    pub probe: u16,
    /// Kernel addresses after the header, at most [`crate::limits::MAX_KERNEL_FRAMES`].
    pub kernel_count: u16,
    /// Words after the kernel addresses: frames, at most [`crate::limits::MAX_USER_FRAMES`], or the
    /// words of an unwalked sample.
    pub user_count: u16,
    /// Process id (the kernel's tgid), in the initial pid namespace.
    pub pid: u32,
    /// Thread id (the kernel's pid), in the initial pid namespace.
    pub tid: u32,
    /// The CPU that ticked.
    pub cpu: u32,
    /// Generation of the mapping table the frames were translated with; 0 for none.
    pub generation: u32,
    /// Time of the tick, in nanoseconds of `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// Id of the task's cgroup in the cgroup v2 tree; 0 for none.
    pub cgroup_id: u64,
    /// The captures that the sample is for.
    pub captures: CaptureBits,
    /// Name of the thread, padded with NUL.
    pub comm: [u8; COMM_BYTES],
    /// Why the user stack ends, or was not walked: a [`crate::stop::StopReason`]; any byte may
    /// arrive here.
    pub user_stop: u8,
    /// Why the kernel stack ends: a [`crate::stop::StopReason`]; any byte may arrive here.
    pub kernel_stop: u8,
    /// 1 when the task was in a system call: its user program counter is a return address.
    pub in_syscall: u8,
    /// Always zero.
    pub _pad: [u8; 5],
}

/// Bytes of a [`SampleHeader`].
pub const HEADER_BYTES: usize = 72;

const _: () = assert!(
    size_of::<SampleHeader>() == HEADER_BYTES,
    "no hidden padding"
);
const _: () = assert!(4 * 2 + 4 * 4 + 3 * 8 + COMM_BYTES + 3 + 5 == HEADER_BYTES);

// SAFETY: `repr(C)`, no hidden padding (asserted above), and every bit pattern is a valid value.
#[cfg(feature = "user")]
unsafe impl aya::Pod for SampleHeader {}
