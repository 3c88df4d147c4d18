//! What we ourselves take: CPU time and memory.

use std::{fs, time::Duration};

use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    time::{ClockId, clock_gettime},
};

/// CPU time of this process so far, user and system, all threads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    pub(super) cpu: Duration,
}

impl Usage {
    pub(super) fn now() -> Self {
        Self {
            cpu: duration(ClockId::ProcessCPUTime),
        }
    }
}

fn duration(clock: ClockId) -> Duration {
    Duration::try_from(clock_gettime(clock)).unwrap_or_default()
}

/// Lets this process open as many files as the administrator allows. A refusal is no error.
pub(crate) fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        log::debug!("the limit of open files stays: {error}");
    }
}

/// The largest resident memory of this process so far, in bytes. Source: `VmHWM` in
/// `proc_pid_status(5)`.
pub(super) fn peak_resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kibibytes = status.lines().find_map(|line| {
        line.strip_prefix("VmHWM:")?
            .trim()
            .strip_suffix(" kB")?
            .trim()
            .parse::<u64>()
            .ok()
    });
    kibibytes.unwrap_or(0) * 1024
}
