//! What this host allows: each thing that profiling takes, whether it is there, what it means for
//! profiles if not, and the one command that mends it.
//!
//! In: a [`Host`], which may be a folder that stands for one; and a pid, for what is known of its
//! code. Out: [`Finding`]s. It changes nothing and prints nothing.
//!
//! A check tells the effect on our profiles and not a general opinion: a setting that has none here
//! is fine. What the kernel grants is tried, not read off its version.

mod host;
mod kernel;
mod limits;
mod memory;
mod process;
mod rights;
mod settings;

use serde::Serialize;

pub use host::{Host, Kernel, RunningKernel};
pub use process::{ObjectReport, ProcessReport, UnwindReport, examine_process};

use crate::{
    bpf::{Answer, BpfError, Feature, Flavour},
    error::Explain,
};

/// How well something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be, or without effect.
    Ok,
    /// Profiling works, and profiles lack something.
    Limited,
    /// Profiling does not work.
    Broken,
}

impl State {
    /// As people read it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Limited => "limited",
            Self::Broken => "broken",
        }
    }
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The check's name, which stays the same.
    pub check: &'static str,
    /// How well it is.
    pub state: State,
    /// What is so.
    pub what: String,
    /// What that means for profiles.
    pub effect: Option<String>,
    /// What to type or do to mend it.
    pub fix: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, what: impl Into<String>) -> Self {
        Self {
            check,
            state: State::Ok,
            what: what.into(),
            effect: None,
            fix: None,
        }
    }

    fn limited(check: &'static str, what: impl Into<String>) -> Self {
        Self {
            state: State::Limited,
            ..Self::ok(check, what)
        }
    }

    fn broken(check: &'static str, what: impl Into<String>) -> Self {
        Self {
            state: State::Broken,
            ..Self::ok(check, what)
        }
    }

    /// What it means, and what to do about it.
    fn so(self, effect: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            effect: Some(effect.into()),
            fix: Some(fix.into()),
            ..self
        }
    }
}

/// How well all of it is: as the worst of it.
#[must_use]
pub fn verdict<'a>(findings: impl Iterator<Item = &'a Finding>) -> State {
    let states = findings.map(|finding| finding.state);
    states.max().unwrap_or(State::Ok)
}

/// A check.
type Check = fn(&Host<'_>) -> Finding;

/// The checks, what the others rest on first.
const CHECKS: [Check; 21] = [
    kernel::version,
    settings::procfs,
    rights::capabilities,
    rights::user_namespace,
    rights::pid_namespace,
    rights::seccomp,
    kernel::lockdown,
    kernel::types,
    kernel::programs,
    kernel::ring,
    settings::jit,
    rights::clocks,
    limits::interruption,
    settings::pmu,
    limits::sample_rate,
    settings::tracefs,
    settings::cgroups,
    limits::open_files,
    limits::locked_memory,
    limits::event_memory,
    memory::check,
];

/// Those that only programs can answer.
const CHECKS_BY_PROGRAMS: [Check; 3] = [kernel::kernel_reads, kernel::walker, kernel::names];

/// Examines a host.
#[must_use]
pub fn examine(host: &Host<'_>) -> Vec<Finding> {
    let mut findings: Vec<Finding> = CHECKS.iter().map(|check| check(host)).collect();
    if host.ask(Feature::Program) == Answer::Works {
        findings.extend(CHECKS_BY_PROGRAMS.iter().map(|check| check(host)));
    }
    // What is broken already says more than the error that a trial would end in.
    if verdict(findings.iter()) != State::Broken {
        findings.push(trial(host));
    }
    findings
}

/// Everything at once, as every recording does it.
fn trial(host: &Host<'_>) -> Finding {
    const CHECK: &str = "trial";
    let trial = match host.try_all() {
        Ok(trial) => trial,
        Err(error) => {
            let what = format!("{error}: {}", error.why());
            let fix = match &error {
                // What else would refuse them is known by now.
                BpfError::Load(_) | BpfError::Map { .. } | BpfError::Event { .. } => {
                    "report it with the output of: ebpfprof doctor --json --verbose".to_owned()
                }
                error => error.advice(),
            };
            return Finding::broken(CHECK, what).so("nothing can be recorded", fix);
        }
    };
    if trial.ticks == 0 {
        return Finding::broken(CHECK, "the programs load, but no clock ticks").so(
            "a recording has no samples",
            "report it with the output of: ebpfprof doctor --json --verbose",
        );
    }
    let walker = match trial.flavour {
        Flavour::Loop => "bpf_loop",
        Flavour::TailCalls => "tail calls",
    };
    let verified = match trial.verified_instructions {
        0 => String::new(),
        count => format!(" ({count} instructions verified)"),
    };
    Finding::ok(
        CHECK,
        format!("the programs load{verified}, walk by {walker}, and clocks tick"),
    )
}

#[cfg(test)]
mod tests;
