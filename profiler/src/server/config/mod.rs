//! What the server is told by its configuration file.
//!
//! In: a TOML file. Out: a [`Config`] in which every value is possible by itself and with the others,
//! or an error that names the file, the line and the key. `contrib/ebpfprof.toml` describes each key.

mod error;
mod read;

use std::{fs, path::Path, path::PathBuf, time::Duration};

use serde::Deserialize;

use super::{listen::Address, policy};

pub use error::ConfigError;

/// Bytes that the name of a thread has at most. Source: `TASK_COMM_LEN` in `include/linux/sched.h`.
const COMM_BYTES: usize = 15;

/// Fewest bytes of headers that can be a limit: less would refuse browsers.
const LEAST_HEADER_BYTES: usize = 8 << 10;

/// All of it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where to listen.
    #[serde(deserialize_with = "read::list")]
    pub listen: Vec<Address>,
    /// The rights of a unix socket's file.
    #[serde(deserialize_with = "read::mode")]
    pub socket_mode: u32,
    /// The group of a unix socket's file, by name or number; empty for our own.
    pub socket_group: String,
    /// Host names that requests may be for, besides our own.
    pub hosts: Vec<String>,
    /// Kinds of profiles that nobody gets.
    pub disabled_kinds: Vec<String>,
    /// Whether what looks like a secret is left out of command lines.
    pub redact_cmdline: bool,
    /// Where a line for each request goes.
    #[serde(deserialize_with = "read::audit")]
    pub audit: AuditTo,
    /// How far back the flight recorder remembers; `None` without one.
    #[serde(deserialize_with = "read::span")]
    pub recorder: Option<Duration>,
    /// Samples per second and CPU of the flight recorder.
    #[serde(deserialize_with = "read::frequency")]
    pub recorder_hz: u32,
    /// Kernel memory for mapping and unwind tables, in bytes.
    #[serde(deserialize_with = "read::table_memory")]
    pub max_table_memory: usize,
    /// Memory for looking up lines, in bytes.
    #[serde(deserialize_with = "read::symbol_memory")]
    pub max_symbol_memory: usize,
    /// How many names of processes the metrics have.
    pub top_processes: usize,
    /// Encryption.
    pub tls: Tls,
    /// Who is known.
    pub auth: Auth,
    /// The only processes that may be profiled; everybody's if it is empty.
    pub allow: List,
    /// Processes that may not be profiled.
    pub deny: List,
    /// How much.
    pub limits: Limits,
}

/// Where a line for each request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuditTo {
    /// To the log, as target `audit`.
    Log,
    /// To a file.
    File(PathBuf),
    /// Nowhere.
    Nowhere,
}

/// Files in PEM for encryption.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// Our certificate, and those between it and the root.
    pub certificate: Option<PathBuf>,
    /// Its private key.
    pub key: Option<PathBuf>,
    /// Who signs the certificates of clients: a client may prove its name by one.
    pub client_ca: Option<PathBuf>,
}

/// Who is known.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    /// A file with a token on each line, as `name:token` or alone.
    pub token_file: Option<PathBuf>,
    /// A file with `name:password` on each line.
    pub password_file: Option<PathBuf>,
    /// Whether whoever connects from this host by TCP needs none of them.
    pub anonymous_loopback: bool,
}

/// Processes, by what they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct List {
    /// By their user.
    pub uids: Vec<u32>,
    /// By their cgroup, a path from the root of its tree: all below it counts.
    pub cgroups: Vec<PathBuf>,
    /// By the name of their first thread.
    pub comms: Vec<String>,
}

/// How much of everything.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Length of a capture.
    #[serde(deserialize_with = "read::duration")]
    pub seconds: Duration,
    /// Samples per second and CPU.
    #[serde(deserialize_with = "read::frequency")]
    pub hz: u32,
    /// Captures at one time.
    pub captures: usize,
    /// Bytes of an answer.
    #[serde(deserialize_with = "read::memory")]
    pub answer: usize,
    /// Connections at one time.
    pub connections: usize,
    /// Bytes of a request's line and headers.
    #[serde(deserialize_with = "read::memory")]
    pub header: usize,
    /// Bytes of a request's body.
    #[serde(deserialize_with = "read::memory")]
    pub body: usize,
    /// How long a client may take to send a request, and may wait before it.
    #[serde(deserialize_with = "read::duration")]
    pub request_timeout: Duration,
    /// How long a client may not take what there is for it.
    #[serde(deserialize_with = "read::duration")]
    pub write_timeout: Duration,
    /// How long running requests have when the server ends.
    #[serde(deserialize_with = "read::duration")]
    pub shutdown_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![Address::default()],
            socket_mode: 0o660,
            socket_group: String::new(),
            hosts: Vec::new(),
            disabled_kinds: Vec::new(),
            redact_cmdline: true,
            audit: AuditTo::Log,
            recorder: None,
            recorder_hz: 19,
            max_table_memory: 64 << 20,
            max_symbol_memory: 256 << 20,
            top_processes: 20,
            tls: Tls::default(),
            auth: Auth::default(),
            allow: List::default(),
            deny: List::default(),
            limits: Limits::default(),
        }
    }
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            token_file: None,
            password_file: None,
            anonymous_loopback: true,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        let asked = policy::Limits::default();
        Self {
            seconds: asked.duration,
            hz: asked.frequency_hz,
            captures: asked.captures,
            answer: asked.answer_bytes,
            connections: 1024,
            header: 16 << 10,
            body: 1 << 20,
            request_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            shutdown_timeout: Duration::from_secs(30),
        }
    }
}

impl From<&Limits> for policy::Limits {
    fn from(limits: &Limits) -> Self {
        Self {
            duration: limits.seconds,
            frequency_hz: limits.hz,
            answer_bytes: limits.answer,
            captures: limits.captures,
        }
    }
}

impl Tls {
    /// Whether connections are encrypted.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.certificate.is_some()
    }
}

impl List {
    /// Whether nothing is on it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.uids.is_empty() && self.cgroups.is_empty() && self.comms.is_empty()
    }
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, is no configuration, or asks for what does not go together.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, path)
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// When it is no configuration, or asks for what does not go together.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let config: Self =
            toml::from_str(text).map_err(|error| ConfigError::syntax(path, text, &error))?;
        match config.contradiction() {
            None => Ok(config),
            Some((key, why)) => Err(ConfigError::Value {
                path: path.to_owned(),
                key,
                why,
            }),
        }
    }

    /// Whether names are known by which somebody who is not on this host may ask.
    #[must_use]
    pub fn knows_anybody(&self) -> bool {
        self.auth.token_file.is_some()
            || self.auth.password_file.is_some()
            || self.tls.client_ca.is_some()
    }

    /// The first key whose value is impossible, by itself or with others, and why.
    fn contradiction(&self) -> Option<(&'static str, &'static str)> {
        let limits = &self.limits;
        let above_zero = [
            ("limits.captures", limits.captures),
            ("limits.answer", limits.answer),
            ("limits.connections", limits.connections),
        ];
        if let Some((key, _)) = above_zero.into_iter().find(|(_, number)| *number == 0) {
            return Some((key, "it is 1 or more"));
        }
        let is_path = |path: &&PathBuf| path.is_absolute();
        let are_comms = |list: &List| {
            let fits = |comm: &String| !comm.is_empty() && comm.len() <= COMM_BYTES;
            list.comms.iter().all(fits)
        };
        let checks = [
            (
                !self.listen.is_empty(),
                "listen",
                "it names one address or more",
            ),
            (
                limits.header >= LEAST_HEADER_BYTES,
                "limits.header",
                "it is 8KiB or more",
            ),
            (
                self.tls.certificate.is_none() || self.tls.key.is_some(),
                "tls.key",
                "a certificate needs its private key",
            ),
            (
                self.tls.key.is_none() || self.tls.certificate.is_some(),
                "tls.certificate",
                "a private key needs its certificate",
            ),
            (
                self.tls.client_ca.is_none() || self.tls.is_on(),
                "tls.certificate",
                "certificates of clients need one of ours",
            ),
            (
                [&self.allow, &self.deny]
                    .iter()
                    .all(|list| list.cgroups.iter().filter(is_path).count() == list.cgroups.len()),
                "cgroups",
                "a cgroup is a path from the root of its tree, as in /system.slice/db.service",
            ),
            (
                are_comms(&self.allow) && are_comms(&self.deny),
                "comms",
                "the kernel keeps 15 bytes of a name, so longer ones match nothing",
            ),
        ];
        let broken = checks.into_iter().find(|(holds, ..)| !holds);
        broken.map(|(_, key, why)| (key, why))
    }
}

#[cfg(test)]
mod tests;
