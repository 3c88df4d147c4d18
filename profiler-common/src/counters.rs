//! The per-CPU counters of the kernel side. Their numbers are published: never reuse one.

/// One way a tick can go, counted by the kernel side, per CPU.
///
/// `Due + Elsewhere` is every run of the sampling program. `Due` less the `Lost…` counters is the
/// number of records in the sample ring.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Counter {
    /// The tick fell on a target of some capture.
    Due = 0,
    /// The tick fell on another task, or on an idle CPU whose ticks run the program.
    Elsewhere = 1,
    /// A due sample found no room in the sample ring.
    LostRingFull = 2,
    /// A due sample found no scratch memory. Cannot happen while maps work as documented.
    LostNoScratch = 3,
    /// A child could not be followed: the target set was full.
    FollowFull = 4,
    /// First of the counters by stop reason: `Stop + reason` for each user stack.
    Stop = 32,
    /// First of the counters by stop reason of kernel stacks.
    KernelStop = 64,
}

/// How many counters there are.
pub const COUNTERS: usize = 96;

const _: () =
    assert!(Counter::Stop as usize + crate::stop::STOP_REASONS <= Counter::KernelStop as usize);
const _: () = assert!(Counter::KernelStop as usize + crate::stop::STOP_REASONS <= COUNTERS);
