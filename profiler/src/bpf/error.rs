//! Why the kernel side could not be set up, and what mends it.

use std::io;

use aya::{EbpfError, maps::MapError, programs::ProgramError};
use thiserror::Error;

use super::btf::{BtfError, KERNEL_BTF};
use crate::error::Explain;

/// Why the kernel side could not be set up or kept up.
#[derive(Debug, Error)]
pub enum BpfError {
    /// The object could not be loaded.
    #[error("cannot load the BPF object into the kernel")]
    Load(#[source] Box<EbpfError>),
    /// A program was refused.
    #[error("the kernel refused the BPF program {program}")]
    Program {
        /// Its name.
        program: &'static str,
        /// The kernel's words, with the end of the verifier's log.
        #[source]
        source: Box<ProgramError>,
    },
    /// The walker that was asked for does not work under this kernel.
    #[error("cannot walk stacks by {walker} under this kernel")]
    Walker {
        /// How it walks.
        walker: &'static str,
        /// What is in the way.
        why: &'static str,
    },
    /// The object lacks a program or map, so it is not of this version.
    #[error("the BPF object has no {0}")]
    Missing(&'static str),
    /// A map could not be made or changed.
    #[error("the kernel refused the BPF map {map}")]
    Map {
        /// Its name.
        map: &'static str,
        /// The kernel's words.
        #[source]
        source: Box<MapError>,
    },
    /// Table memory could not be mapped.
    #[error("cannot map table memory")]
    TableMemory(#[source] io::Error),
    /// A perf event could not be opened or set up.
    #[error("the kernel refused a perf event on CPU {cpu}")]
    Event {
        /// The CPU.
        cpu: u32,
        /// The kernel's words.
        #[source]
        source: io::Error,
    },
    /// A descriptor could not be duplicated.
    #[error("cannot duplicate a file descriptor")]
    Descriptor(#[source] io::Error),
    /// The list of CPUs could not be read.
    #[error("cannot tell which CPUs are online")]
    Cpus(#[source] io::Error),
    /// The kernel's type information cannot be had.
    #[error("cannot read the kernel's BTF type information")]
    Btf(#[from] BtfError),
    /// The object named in the environment could not be read.
    #[error("cannot read the BPF object {path}")]
    Object {
        /// Its path.
        path: String,
        /// The system's words.
        #[source]
        source: io::Error,
    },
}

impl BpfError {
    pub(super) fn map(map: &'static str, error: impl Into<MapError>) -> Self {
        Self::Map {
            map,
            source: Box::new(error.into()),
        }
    }

    pub(super) fn program(program: &'static str, error: ProgramError) -> Self {
        if let ProgramError::LoadError { verifier_log, .. } = &error {
            log::debug!("the verifier's log of {program}:\n{verifier_log}");
        }
        Self::Program {
            program,
            source: Box::new(error),
        }
    }
}

/// What the verifier has against a program: the end of its log, before what it counted.
fn verdict(log: &str) -> String {
    const COUNTED: [&str; 3] = ["verification time ", "stack depth ", "processed "];
    let is_said = |line: &&str| !COUNTED.iter().any(|head| line.starts_with(head));
    let said: Vec<&str> = log.trim_end().lines().filter(is_said).collect();
    said[said.len().saturating_sub(3)..].join("; ")
}

impl Explain for BpfError {
    fn why(&self) -> String {
        match self {
            Self::Program { source, .. } => match &**source {
                ProgramError::LoadError {
                    io_error,
                    verifier_log,
                } => format!("{io_error}: {}", verdict(&verifier_log.to_string())),
                error => chain(error),
            },
            Self::Walker { why, .. } => (*why).to_owned(),
            error => std::error::Error::source(error).map_or_else(|| error.to_string(), chain),
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::Btf(BtfError::Read(_)) => {
                format!(
                    "ls -l {KERNEL_BTF}; run a kernel built with CONFIG_DEBUG_INFO_BTF=y (every distribution's since 2021 is)"
                )
            }
            Self::Descriptor(_) => "ulimit -n 65536, then the same command again".to_owned(),
            Self::Event { source, .. } if source.raw_os_error() == Some(libc::EMFILE) => {
                "ulimit -n 65536, then the same command again".to_owned()
            }
            Self::Event { .. } | Self::Load(_) | Self::Map { .. } | Self::TableMemory(_) => {
                "ebpfprof doctor, as the same user: it tells what is refused here and what mends it"
                    .to_owned()
            }
            Self::Walker { .. } => {
                "leave out --walker: the best one that works is taken then".to_owned()
            }
            Self::Object { .. } => "unset EBPFPROF_BPF_OBJECT".to_owned(),
            Self::Program { .. } | Self::Missing(_) | Self::Cpus(_) | Self::Btf(_) => {
                "report it with the output of: uname -r; ebpfprof --version".to_owned()
            }
        }
    }
}

/// An error with all its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !words.contains(&next) {
            words.push_str(": ");
            words.push_str(&next);
        }
        cause = error.source();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verifiers_verdict_is_before_what_it_counted() {
        let log = "1: (79) r1 = *(u64 *)(r10 -112)\n2: (57) r1 &= 255\nR1 bitwise operator &= on \
                   pointer prohibited\nverification time 5 usec\nstack depth 144+0\nprocessed 9 insns\n";
        let expected = "1: (79) r1 = *(u64 *)(r10 -112); 2: (57) r1 &= 255; R1 bitwise operator &= on \
                        pointer prohibited";
        assert_eq!(verdict(log), expected);
        assert_eq!(verdict(""), "");
    }
}
