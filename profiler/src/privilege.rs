//! Whether this process may do what profiling takes, told before anything is tried.

use std::fs;

use thiserror::Error;

use crate::error::Explain;

/// A Linux capability. Source of the numbers: `include/uapi/linux/capability.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Capability {
    SysPtrace = 19,
    SysAdmin = 21,
    Perfmon = 38,
    Bpf = 39,
}

impl Capability {
    fn name(self) -> &'static str {
        match self {
            Self::SysPtrace => "CAP_SYS_PTRACE",
            Self::SysAdmin => "CAP_SYS_ADMIN",
            Self::Perfmon => "CAP_PERFMON",
            Self::Bpf => "CAP_BPF",
        }
    }
}

/// Why this process may not profile.
#[derive(Debug, Error)]
#[error("cannot profile without {}", .missing.join(" and "))]
pub struct PrivilegeError {
    missing: Vec<&'static str>,
    uid: u32,
    paranoid: String,
}

impl Explain for PrivilegeError {
    fn why(&self) -> String {
        format!(
            "running as uid {} without {} (kernel.perf_event_paranoid is {})",
            self.uid,
            self.missing.join(", "),
            self.paranoid
        )
    }

    fn advice(&self) -> String {
        let program = std::env::current_exe().unwrap_or_else(|_| "ebpfprof".into());
        format!(
            "run it as root (sudo), or once: sudo setcap cap_bpf,cap_perfmon,cap_sys_ptrace,cap_checkpoint_restore,cap_syslog+ep {}",
            program.display()
        )
    }
}

/// Checks that this process may load programs, open perf events and read other processes.
///
/// # Errors
/// The capabilities that are missing.
pub fn check() -> Result<(), PrivilegeError> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let missing = missing(effective(&status));
    if missing.is_empty() {
        return Ok(());
    }
    let paranoid = fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").unwrap_or_default();
    Err(PrivilegeError {
        missing,
        uid: rustix::process::geteuid().as_raw(),
        paranoid: paranoid.trim().to_owned(),
    })
}

/// The effective capabilities in the text of a status file, as bits. Source:
/// `proc_pid_status(5)`.
fn effective(status: &str) -> u64 {
    let field = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    field
        .and_then(|field| u64::from_str_radix(field.trim(), 16).ok())
        .unwrap_or(0)
}

fn missing(effective: u64) -> Vec<&'static str> {
    let has = |capability: Capability| effective & (1 << capability as u64) != 0;
    // Before 5.8 CAP_SYS_ADMIN was all of BPF and perf, and it still is.
    [Capability::Bpf, Capability::Perfmon, Capability::SysPtrace]
        .into_iter()
        .filter(|capability| {
            let by_admin = *capability != Capability::SysPtrace && has(Capability::SysAdmin);
            !has(*capability) && !by_admin
        })
        .map(Capability::name)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_missing_capability_is_named() {
        let all = (1 << 19) | (1 << 38) | (1 << 39);
        assert_eq!(missing(all), Vec::<&str>::new());
        assert_eq!(missing(all & !(1 << 38)), ["CAP_PERFMON"]);
        assert_eq!(missing((1 << 21) | (1 << 19)), Vec::<&str>::new());
        assert_eq!(missing(0), ["CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE"]);
    }

    #[test]
    fn effective_capabilities_are_hexadecimal() {
        assert_eq!(
            effective("Name:\tx\nCapEff:\t000001ffffffffff\n"),
            0x1ff_ffff_ffff
        );
        assert_eq!(effective(""), 0);
    }
}
