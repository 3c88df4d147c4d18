//! What the running kernel grants of what profiling takes: each thing is asked for by trying it, as
//! versions tell neither what was left out of a kernel nor what was forbidden.
//!
//! In: a [`Feature`]. Out: an [`Answer`]; and of it all at once, a [`Trial`].

use std::{
    fmt, hint,
    time::{Duration, Instant},
};

use aya::{
    maps::MapType,
    programs::{ProgramError, ProgramType},
    sys::{BpfHelper, SyscallError, is_helper_supported, is_map_supported, is_program_supported},
};
use profiler_common::config::{TargetKey, TargetKind};

use super::{
    BpfError, CaptureNumber, CaptureTargets, Counts, Flavour, Sampler, Settings, Stacks,
    btf::{Btf, BtfError},
    perf::{IdleTicks, PerfEvent},
    ticks,
};

/// The period of clocks that are only tried, in nanoseconds: 199 Hz.
const TRIED_PERIOD_NS: u64 = 1_000_000_000 / 199;
/// The table memory of a trial, in bytes. It is taken when it is needed, and a trial needs none.
const TRIED_TABLE_BYTES: usize = 4 << 20;
/// How often a trial looks whether its clocks ticked.
const LOOK: Duration = Duration::from_millis(2);

/// Something that profiling takes, or that makes it better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Feature {
    /// The kernel's type information, with the fields that the programs read.
    Types,
    /// A BPF program for clocks.
    Program,
    /// A ring buffer: from Linux 5.8 on.
    Ring,
    /// `bpf_probe_read_kernel`: `lockdown=confidentiality` takes it away.
    ReadKernel,
    /// `bpf_loop`: from Linux 5.17 on.
    Loop,
    /// `bpf_snprintf`: from Linux 5.13 on.
    Print,
    /// A clock on each CPU: a perf event.
    Clock,
}

/// What the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is there.
    Works,
    /// The kernel does not have it.
    Lacks,
    /// The kernel, or whoever filters our system calls, refuses it, with this number: `errno(3)`.
    Refuses(i32),
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Works => f.write_str("it works"),
            Self::Lacks => f.write_str("this kernel does not have it"),
            Self::Refuses(errno) => std::io::Error::from_raw_os_error(*errno).fmt(f),
        }
    }
}

/// Asks the running kernel.
#[must_use]
pub fn ask(feature: Feature) -> Answer {
    let helper = |helper| of_program(is_helper_supported(ProgramType::PerfEvent, helper));
    match feature {
        Feature::Types => types(),
        Feature::Program => of_program(is_program_supported(ProgramType::PerfEvent)),
        Feature::Ring => match is_map_supported(MapType::RingBuf) {
            Ok(is_there) => of_presence(is_there),
            Err(error) => of_call(&error),
        },
        Feature::ReadKernel => helper(BpfHelper::BPF_FUNC_probe_read_kernel),
        Feature::Loop => helper(BpfHelper::BPF_FUNC_loop),
        Feature::Print => helper(BpfHelper::BPF_FUNC_snprintf),
        Feature::Clock => clock(),
    }
}

fn types() -> Answer {
    let needed = [
        ("task_struct", "stack"),
        ("task_struct", "tgid"),
        ("task_struct", "mm"),
        ("mm_struct", "end_code"),
    ];
    let found = Btf::of_kernel().and_then(|kernel| {
        needed
            .into_iter()
            .try_for_each(|(structure, field)| kernel.offset(structure, field).map(drop))
    });
    match found {
        Ok(()) => Answer::Works,
        Err(BtfError::Read(error)) => match error.raw_os_error() {
            Some(libc::ENOENT) | None => Answer::Lacks,
            Some(errno) => Answer::Refuses(errno),
        },
        Err(BtfError::Malformed | BtfError::Missing { .. }) => Answer::Lacks,
    }
}

fn clock() -> Answer {
    let Ok(cpus) = ticks::online_cpus() else {
        return Answer::Lacks;
    };
    let refused = cpus
        .into_iter()
        .find_map(|cpu| PerfEvent::cpu_clock(cpu, TRIED_PERIOD_NS, IdleTicks::LeftOut).err());
    match refused {
        None => Answer::Works,
        Some(error) => error.raw_os_error().map_or(Answer::Lacks, Answer::Refuses),
    }
}

fn of_presence(is_there: bool) -> Answer {
    if is_there {
        Answer::Works
    } else {
        Answer::Lacks
    }
}

fn of_program(tried: Result<bool, ProgramError>) -> Answer {
    match tried {
        Ok(is_there) => of_presence(is_there),
        Err(ProgramError::SyscallError(error)) => of_call(&error),
        Err(_) => Answer::Lacks,
    }
}

fn of_call(error: &SyscallError) -> Answer {
    let errno = error.io_error.raw_os_error();
    errno.map_or(Answer::Lacks, Answer::Refuses)
}

/// What a run that samples nothing showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trial {
    /// The walker in use.
    pub flavour: Flavour,
    /// Instructions that the verifier read, where the kernel tells (5.16).
    pub verified_instructions: u64,
    /// Ticks that ran the program, of all CPUs.
    pub ticks: u64,
}

/// Uses the CPU for so long: an idle one's ticks run nothing.
fn stay_busy(time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        hint::spin_loop();
    }
}

/// Loads the programs and runs the clocks, as every recording does, until they ticked, at most for
/// `patience`. This process is its only target.
///
/// # Errors
/// When the kernel refuses something that every recording needs.
pub fn trial(patience: Duration) -> Result<Trial, BpfError> {
    let settings = Settings {
        period_ns: TRIED_PERIOD_NS,
        shortest_period_ns: TRIED_PERIOD_NS,
        most_targets: 1,
        kernel_stacks: Stacks::Taken,
        user_stacks: Stacks::Taken,
        flavour: None,
        table_bytes: TRIED_TABLE_BYTES,
    };
    let us = u64::from(std::process::id());
    let targets = CaptureTargets {
        keys: vec![TargetKey::id(TargetKind::Pid, us)],
        filters: TargetKind::Pid as u32,
        ..CaptureTargets::default()
    };
    let mut sampler = Sampler::load(&settings)?;
    let capture = sampler.reserve().unwrap_or(CaptureNumber::FIRST);
    let start = sampler.reading(capture)?;
    sampler.begin(capture, &targets)?;
    sampler.enable()?;
    let deadline = Instant::now() + patience;
    let counts = loop {
        stay_busy(LOOK);
        let counts = Counts::between(&start, &sampler.reading(capture)?);
        if counts.due + counts.elsewhere > 0 || Instant::now() >= deadline {
            break counts;
        }
    };
    sampler.disable();
    let verified = sampler.verified_instructions();
    Ok(Trial {
        flavour: sampler.flavour(),
        verified_instructions: verified.iter().map(|(_, count)| u64::from(*count)).sum(),
        ticks: counts.due + counts.elsewhere,
    })
}
