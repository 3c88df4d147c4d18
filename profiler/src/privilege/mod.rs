//! Whether this process may do what profiling takes, told before anything is tried; and what it
//! gives up when that is done.

mod give_up;

use std::fs;

use rustix::thread::CapabilitySet;
use thiserror::Error;

pub use give_up::{FETCHING, NAMING, OPENING, READING, SAMPLING, SERVING, keep_only};

use crate::{error::Explain, unnamed::KERNEL_NAMES};

/// A Linux capability. Source of the numbers: `include/uapi/linux/capability.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// Gives files away.
    Chown = 0,
    /// Reads and writes files of others.
    DacOverride = 1,
    /// Reads files of others.
    DacReadSearch = 2,
    /// Replaces and links files of others.
    Fowner = 3,
    /// Signals processes of others.
    Kill = 5,
    /// Holds more memory in place than the limits say.
    IpcLock = 14,
    /// Reads other processes.
    SysPtrace = 19,
    /// Before 5.8 all of BPF and perf.
    SysAdmin = 21,
    /// Raises limits.
    SysResource = 24,
    /// Sees the kernel's addresses.
    Syslog = 34,
    /// Opens perf events, and loads programs that read memory.
    Perfmon = 38,
    /// Loads programs and makes maps.
    Bpf = 39,
    /// Opens files through the mappings of other processes.
    CheckpointRestore = 40,
}

impl Capability {
    /// Its name, as `capabilities(7)` has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Chown => "CAP_CHOWN",
            Self::DacOverride => "CAP_DAC_OVERRIDE",
            Self::DacReadSearch => "CAP_DAC_READ_SEARCH",
            Self::Fowner => "CAP_FOWNER",
            Self::Kill => "CAP_KILL",
            Self::IpcLock => "CAP_IPC_LOCK",
            Self::SysPtrace => "CAP_SYS_PTRACE",
            Self::SysAdmin => "CAP_SYS_ADMIN",
            Self::SysResource => "CAP_SYS_RESOURCE",
            Self::Syslog => "CAP_SYSLOG",
            Self::Perfmon => "CAP_PERFMON",
            Self::Bpf => "CAP_BPF",
            Self::CheckpointRestore => "CAP_CHECKPOINT_RESTORE",
        }
    }

    /// Whether CAP_SYS_ADMIN allows the same: before 5.8 it was all of BPF and perf, and it still
    /// is; it also stands for CAP_CHECKPOINT_RESTORE (5.9).
    fn is_of_admin(self) -> bool {
        matches!(self, Self::Bpf | Self::Perfmon | Self::CheckpointRestore)
    }

    fn set(self) -> CapabilitySet {
        CapabilitySet::from_bits_retain(1 << self as u64)
    }
}

/// The capabilities that a process has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities(u64);

impl Capabilities {
    /// Those in effect for this thread. None where the kernel does not tell.
    #[must_use]
    pub fn own() -> Self {
        let held = rustix::thread::capabilities(None);
        Self(held.map_or(0, |held| held.effective.bits()))
    }

    /// Those in effect, by the text of a status file. Source: `proc_pid_status(5)`.
    #[must_use]
    pub fn effective(status: &str) -> Self {
        let field = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        let bits = field.and_then(|field| u64::from_str_radix(field.trim(), 16).ok());
        Self(bits.unwrap_or(0))
    }

    /// Whether one is among them.
    #[must_use]
    pub fn has(self, capability: Capability) -> bool {
        self.0 & (1 << capability as u64) != 0
    }

    /// Whether what one allows is allowed, by itself or by CAP_SYS_ADMIN.
    #[must_use]
    pub fn allows(self, capability: Capability) -> bool {
        self.has(capability) || (capability.is_of_admin() && self.has(Capability::SysAdmin))
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
        format!("run it as root (sudo), or once: {}", grant())
    }
}

/// What has the kernel show where its code lies.
#[must_use]
pub fn kernel_addresses() -> String {
    let restrict = fs::read_to_string("/proc/sys/kernel/kptr_restrict").unwrap_or_default();
    let is_hidden_from_all = restrict.trim().parse().is_ok_and(|value: u32| value >= 2);
    if is_hidden_from_all || lacking(&[Capability::Syslog]).is_empty() {
        KERNEL_NAMES.to_owned()
    } else {
        format!("{}, or {KERNEL_NAMES}", Capability::Syslog.name())
    }
}

/// Those of some capabilities that this thread has not, by name.
#[must_use]
pub fn lacking(capabilities: &[Capability]) -> Vec<&'static str> {
    lacking_in(Capabilities::own(), capabilities)
}

fn lacking_in(held: Capabilities, wanted: &[Capability]) -> Vec<&'static str> {
    let lacking = wanted
        .iter()
        .filter(|capability| !held.allows(**capability));
    lacking.map(|capability| capability.name()).collect()
}

/// The command that grants this program what it needs.
#[must_use]
pub fn grant() -> String {
    let program = std::env::current_exe().unwrap_or_else(|_| "ebpfprof".into());
    format!(
        "sudo setcap cap_bpf,cap_perfmon,cap_sys_ptrace,cap_checkpoint_restore,cap_syslog+ep {}",
        program.display()
    )
}

/// Checks that this process may load programs, open perf events and read other processes.
///
/// # Errors
/// The capabilities that are missing.
pub fn check() -> Result<(), PrivilegeError> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let missing = missing(Capabilities::effective(&status));
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

/// The capabilities that nothing is recorded without, of those that are not there.
pub(crate) fn missing(effective: Capabilities) -> Vec<&'static str> {
    lacking_in(
        effective,
        &[Capability::Bpf, Capability::Perfmon, Capability::SysPtrace],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_missing_capability_is_named() {
        let missing = |bits| missing(Capabilities(bits));
        let all = (1 << 19) | (1 << 38) | (1 << 39);
        assert_eq!(missing(all), Vec::<&str>::new());
        assert_eq!(missing(all & !(1 << 38)), ["CAP_PERFMON"]);
        assert_eq!(missing((1 << 21) | (1 << 19)), Vec::<&str>::new());
        assert_eq!(missing(0), ["CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE"]);
    }

    #[test]
    fn effective_capabilities_are_hexadecimal() {
        let effective = Capabilities::effective("Name:\tx\nCapEff:\t000001ffffffffff\n");
        assert_eq!(effective, Capabilities(0x1ff_ffff_ffff));
        assert_eq!(Capabilities::effective(""), Capabilities(0));
    }
}
