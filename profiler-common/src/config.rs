//! What the user side tells the kernel side: a read-only global, and what is captured for whom.

use crate::limits::{COMM_BYTES, MAX_CAPTURES};

/// What a [`TargetKey`] names. The discriminants are bits of [`Scope::filters`].
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TargetKind {
    /// A process, by process id.
    Pid = 1,
    /// A thread, by thread id.
    Tid = 2,
    /// Every thread of this name.
    Comm = 4,
    /// A cgroup v2, by id, with all below it.
    Cgroup = 8,
}

/// Captures, one bit each: samples are taken for several at once.
pub type CaptureBits = u64;

const _: () = assert!(MAX_CAPTURES <= CaptureBits::BITS as usize);

/// One target: key of the map `TARGETS`, whose value is the [`CaptureBits`] of those it is a target of.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TargetKey {
    /// A [`TargetKind`].
    pub kind: u32,
    /// Always zero, so that equal targets are equal bytes.
    pub _pad: u32,
    /// The id in native byte order, or the comm, padded with NUL.
    pub value: [u8; COMM_BYTES],
}

impl TargetKey {
    /// The target with this id.
    #[inline(always)]
    #[must_use]
    pub fn id(kind: TargetKind, id: u64) -> Self {
        let mut value = [0; COMM_BYTES];
        let bytes = id.to_ne_bytes();
        let mut i = 0;
        while i < bytes.len() {
            value[i] = bytes[i];
            i += 1;
        }
        Self {
            kind: kind as u32,
            _pad: 0,
            value,
        }
    }

    /// The threads with this name.
    #[inline(always)]
    #[must_use]
    pub fn comm(comm: [u8; COMM_BYTES]) -> Self {
        Self {
            kind: TargetKind::Comm as u32,
            _pad: 0,
            value: comm,
        }
    }
}

const _: () = assert!(
    size_of::<TargetKey>() == 4 + 4 + COMM_BYTES,
    "no hidden padding"
);

/// Settings of one run, fixed before the programs are loaded (global `CONFIG`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProbeConfig {
    /// 1 to walk kernel stacks, 0 not to.
    pub kernel_stacks: u32,
    /// 1 to walk user stacks, 0 not to.
    pub user_stacks: u32,
    /// Frames of the longest kernel stack that the kernel hands out
    /// (`kernel.perf_event_max_stack`); one as long as that is cut.
    pub kernel_frames: u32,
    /// Offset of `stack` in the kernel's `struct task_struct`, in bytes, from BTF.
    pub task_stack_offset: u32,
    /// Offset of `tgid` in the kernel's `struct task_struct`, in bytes, from BTF.
    pub task_tgid_offset: u32,
    /// Unwalked samples leave only while the sample ring holds fewer bytes than this, so that there
    /// is always room for walked ones.
    pub unwalked_ring_bytes: u32,
    /// Offset of `length` in the kernel's `struct vm_unmapped_area_info`, in bytes, from BTF; 0 where
    /// there is none.
    pub area_length_offset: u32,
    /// Offset of `mm` in the kernel's `struct task_struct`, in bytes, from BTF.
    pub task_mm_offset: u32,
    /// 1 where programs may ask for the cgroups of a task; elsewhere the verifier refuses the very call.
    pub tells_cgroups: u32,
    /// Offset of `end_code` in the kernel's `struct mm_struct`, in bytes, from BTF.
    pub mm_end_code_offset: u32,
}

const _: () = assert!(size_of::<ProbeConfig>() == 10 * 4, "no hidden padding");

/// What is looked for at a tick: entry 0 of the map `SCOPE`. It changes while the clocks run: a reader
/// may see one field from before a change and another from after it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Captures of every task but the idle.
    pub everybody: CaptureBits,
    /// Captures whose target processes' children are targets.
    pub following: CaptureBits,
    /// [`TargetKind`] bits that the target set holds keys of.
    pub filters: u32,
    /// Bit `n`: the target set holds cgroups at level `n` of the tree.
    pub cgroup_levels: u32,
}

const _: () = assert!(size_of::<Scope>() == 3 * 8, "no hidden padding");

// SAFETY: `repr(C)`, no hidden padding (asserted above), and every bit pattern is a valid value.
#[cfg(feature = "user")]
unsafe impl aya::Pod for TargetKey {}
// SAFETY: `repr(C)`, no hidden padding (asserted above), and every bit pattern is a valid value.
#[cfg(feature = "user")]
unsafe impl aya::Pod for ProbeConfig {}
// SAFETY: `repr(C)`, no hidden padding (asserted above), and every bit pattern is a valid value.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Scope {}
