//! Who may ask for what, and how much of it.

use std::{fmt, time::Duration};

use crate::captures::Target;

/// Who sent a request. An extension of every request that reaches the routes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Who {
    /// Whoever can connect: nothing is asked for.
    Anyone,
    /// A name that was proven: by a password, a token or a certificate.
    Named(String),
    /// A user of this host, by the kernel's word, over a unix socket.
    User(u32),
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anyone => f.write_str("-"),
            Self::Named(name) => f.write_str(name),
            Self::User(uid) => write!(f, "uid:{uid}"),
        }
    }
}

/// Why somebody may not have something: one sentence for them to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal(pub String);

/// Decides who may have what.
pub trait Policy: Send + Sync + 'static {
    /// Whether somebody may have this kind of profile (`profile`, `cmdline`, …) of this target.
    ///
    /// # Errors
    /// When not.
    fn may(&self, who: &Who, target: &Target, kind: &str) -> Result<(), Refusal>;

    /// How much anybody may ask for.
    fn limits(&self) -> Limits;

    /// The arguments of a process as they may be shown: some hold passwords.
    fn shown_cmdline(&self, arguments: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        arguments
    }
}

/// The most that one request may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long a capture may be.
    pub duration: Duration,
    /// Samples per second and CPU.
    pub frequency_hz: u32,
    /// Bytes of an answer.
    pub answer_bytes: usize,
    /// Captures at one time.
    pub captures: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(300),
            frequency_hz: 4_999,
            answer_bytes: 256 << 20,
            captures: 24,
        }
    }
}
