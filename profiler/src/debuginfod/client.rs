//! Asks one server for one file.
//!
//! In: a server, a build id, a file to write to. Out: whether the server has it, or why its answer is
//! refused. Every wait ends: to find the server, to hear of it, and between any two pieces of a file.

use std::{
    fs::File,
    io::{self, Read, Write},
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use thiserror::Error;
use ureq::{
    Agent, Body, Timeout,
    http::{Response, StatusCode, header},
    tls::{Certificate, RootCerts, TlsConfig},
};

use super::{BuildId, Server};

/// How long a connection may take, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Redirects followed for one file.
const MOST_REDIRECTS: u32 = 5;
/// Bytes that a server sends at least within the time for which it may be silent. Source:
/// `DEBUGINFOD_TIMEOUT` in debuginfod_find_debuginfo(3).
const LEAST_BYTES: u64 = 100 << 10;
/// Bytes read at one time.
const PIECE_BYTES: usize = 64 << 10;

/// Why an answer was not taken.
#[derive(Debug, Error)]
pub enum Refusal {
    /// There is nobody at the address, or nobody to be trusted.
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    /// It took the question and kept silent.
    #[error("did not answer in {} s", .0.as_secs())]
    Silent(Duration),
    /// It sent next to nothing.
    #[error("sent less than 100 KiB in {} s", .0.as_secs())]
    Slow(Duration),
    /// It has trouble of its own.
    #[error("answered with HTTP status {0}")]
    Status(u16),
    /// It led nowhere.
    #[error("redirects too often")]
    Redirects,
    /// It led from where all is encrypted to where nothing is.
    #[error("redirects from https to http")]
    Downgrade,
    /// The file is larger than what is taken.
    #[error("sent more than {} MiB", .0 >> 20)]
    TooLarge(u64),
    /// It packed what nobody asked it to pack.
    #[error("sent a compressed answer, which nobody asked for")]
    Encoded,
    /// It ended early.
    #[error("broke off: {0}")]
    BrokeOff(String),
    /// It sent another file, or a part of one.
    #[error("sent something else than the whole file of that build id")]
    Lied,
    /// There is no room for the file: not the server's fault.
    #[error("cannot keep a file")]
    Disk(#[source] io::Error),
}

impl Refusal {
    /// Whether the server is worth no other question in this run.
    pub(super) fn is_final(&self) -> bool {
        match self {
            Self::Status(_) | Self::TooLarge(_) | Self::BrokeOff(_) | Self::Disk(_) => false,
            Self::Unreachable(_)
            | Self::Silent(_)
            | Self::Slow(_)
            | Self::Redirects
            | Self::Downgrade
            | Self::Encoded
            | Self::Lied => true,
        }
    }
}

/// Whether a server has a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It is written.
    Written,
    /// It has none.
    NotThere,
}

/// The one who asks.
#[derive(Debug)]
pub(super) struct Client {
    agent: OnceLock<Agent>,
    stall: Duration,
    most_bytes: u64,
}

impl Client {
    pub(super) fn new(stall: Duration, most_bytes: u64) -> Self {
        Self {
            agent: OnceLock::new(),
            stall,
            most_bytes,
        }
    }

    /// Fetches a file. What is written counts only if this succeeds.
    pub(super) fn fetch(
        &self,
        server: &Server,
        build_id: &BuildId,
        to: &mut File,
    ) -> Result<Answer, Refusal> {
        let request = self
            .agent
            .get_or_init(|| agent(self.stall))
            .get(server.debuginfo(build_id))
            .config()
            .https_only(server.is_encrypted())
            .build();
        let response = request.call().map_err(|error| self.refusal(error))?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(Answer::NotThere),
            other => return Err(Refusal::Status(other.as_u16())),
        }
        self.check_head(&response)?;
        self.write(response.into_body().into_reader(), to)?;
        Ok(Answer::Written)
    }

    /// Ends what is on its way.
    pub(super) fn shut_down(&self) {
        if let Some(agent) = self.agent.get() {
            agent.clone().shutdown();
        }
    }

    fn check_head(&self, response: &Response<Body>) -> Result<(), Refusal> {
        let encoding = response.headers().get(header::CONTENT_ENCODING);
        if encoding.is_some_and(|encoding| encoding != "identity") {
            return Err(Refusal::Encoded);
        }
        match response.body().content_length() {
            Some(bytes) if bytes > self.most_bytes => Err(Refusal::TooLarge(self.most_bytes)),
            _ => Ok(()),
        }
    }

    fn write(&self, mut body: impl Read, to: &mut File) -> Result<(), Refusal> {
        let mut piece = vec![0; PIECE_BYTES];
        let (mut written, mut marked) = (0, 0);
        let mut mark = Instant::now();
        loop {
            let bytes = match body.read(&mut piece) {
                Ok(0) => return Ok(()),
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.broken(error.into())),
            };
            written += bytes as u64;
            if written > self.most_bytes {
                return Err(Refusal::TooLarge(self.most_bytes));
            }
            to.write_all(&piece[..bytes]).map_err(Refusal::Disk)?;
            if written - marked >= LEAST_BYTES {
                (marked, mark) = (written, Instant::now());
            } else if mark.elapsed() > self.stall {
                return Err(Refusal::Slow(self.stall));
            }
        }
    }

    /// What it means that there was no answer.
    fn refusal(&self, error: ureq::Error) -> Refusal {
        match error {
            ureq::Error::Timeout(Timeout::Resolve | Timeout::Connect) => {
                Refusal::Unreachable(format!("no connection in {} s", CONNECT_TIMEOUT.as_secs()))
            }
            ureq::Error::Timeout(_) => Refusal::Silent(self.stall),
            ureq::Error::TooManyRedirects => Refusal::Redirects,
            ureq::Error::RequireHttpsOnly(_) => Refusal::Downgrade,
            ureq::Error::Protocol(_) | ureq::Error::LargeResponseHeader(..) => Refusal::Lied,
            ureq::Error::Io(error) => Refusal::Unreachable(error.to_string()),
            other => Refusal::Unreachable(other.to_string()),
        }
    }

    /// What it means that an answer ended early.
    fn broken(&self, error: ureq::Error) -> Refusal {
        match error {
            ureq::Error::Timeout(_) => Refusal::Silent(self.stall),
            other => Refusal::BrokeOff(other.to_string()),
        }
    }
}

/// The one who speaks HTTP. It trusts whom the machine trusts: whoever runs a server of their own
/// has their certificate there.
fn agent(stall: Duration) -> Agent {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        log::debug!("certificates: {error}");
    }
    let certificates = found.certs.iter();
    let certificates = certificates.map(|one| Certificate::from_der(one).to_owned());
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::from(certificates.collect::<Vec<_>>()))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build();
    Agent::config_builder()
        .tls_config(tls)
        .user_agent(concat!("ebpfprof/", env!("CARGO_PKG_VERSION")))
        .accept_encoding("identity")
        .http_status_as_error(false)
        .max_redirects(MOST_REDIRECTS)
        .timeout_resolve(Some(CONNECT_TIMEOUT))
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_recv_response(Some(stall))
        .timeout_per_read(Some(stall))
        .timeout_per_write(Some(stall))
        .build()
        .new_agent()
}
