//! Who a request is from, and what they may have.
//!
//! In: what a connection proves, and the headers of a request. Out: a [`Who`], or the answer that
//! refuses it; and the [`Policy`] of the routes. What is decided by comes from the configuration and
//! can change while we run ([`Gate`]); a request sees one state of it.

mod certificate;
mod credentials;
mod error;
mod hosts;
mod lists;
mod redact;

use std::{
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLock},
};

use axum::{body::Body, response::Response};
use hyper::{HeaderMap, StatusCode, Uri, Version, header};

use super::{
    config::Config,
    policy::{Limits, Policy, Refusal, Who},
};
use crate::{
    captures::Target,
    target::{Identity, identity},
};

use credentials::{Credentials, Proof};
use hosts::Hosts;
use lists::Lists;

pub use certificate::name_in as name_in_certificate;
pub use error::AccessError;

/// The kind that stands for the metrics: they tell of all processes, and of no stack.
pub const METRICS: &str = "metrics";

/// What a 401 asks for. `go tool pprof` and browsers answer the first, scrapers the second.
const CHALLENGES: [&str; 2] = [
    "Basic realm=\"ebpfprof\", charset=\"UTF-8\"",
    "Bearer realm=\"ebpfprof\"",
];

/// Who is at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Somebody who connected by TCP.
    Tcp {
        /// From there.
        address: SocketAddr,
        /// The name that their certificate proves.
        certified: Option<String>,
    },
    /// A process of this host, over a unix socket.
    Unix {
        /// Its user.
        uid: u32,
        /// Its id, where it is told.
        pid: Option<i32>,
    },
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp { address, .. } => address.fmt(f),
            Self::Unix { pid: Some(pid), .. } => write!(f, "unix:{pid}"),
            Self::Unix { pid: None, .. } => f.write_str("unix"),
        }
    }
}

/// What one state of the configuration allows.
#[derive(Debug)]
pub struct Access {
    credentials: Credentials,
    anonymous_loopback: bool,
    hosts: Hosts,
    lists: Lists,
    disabled_kinds: Vec<String>,
    redact_cmdline: bool,
    limits: Limits,
}

impl Access {
    /// Reads the files that the configuration names.
    ///
    /// # Errors
    /// When one cannot be read, others can read it, or it holds nothing.
    pub fn of(config: &Config) -> Result<Self, AccessError> {
        Ok(Self {
            credentials: Credentials::read(&config.auth)?,
            anonymous_loopback: config.auth.anonymous_loopback,
            hosts: Hosts::new(&config.hosts),
            lists: Lists::new(&config.allow, &config.deny),
            disabled_kinds: config.disabled_kinds.clone(),
            redact_cmdline: config.redact_cmdline,
            limits: Limits::from(&config.limits),
        })
    }

    /// Who a request is from.
    ///
    /// # Errors
    /// With the answer, when it is let no further.
    #[expect(
        clippy::result_large_err,
        reason = "the answer is what a refusal is, and each request makes one at most"
    )]
    pub fn admit(&self, peer: &Peer, request: &Asked<'_>) -> Result<Who, Response> {
        if matches!(peer, Peer::Tcp { .. }) {
            self.hosts
                .check(request)
                .map_err(|(status, why)| refusal(status, &why))?;
        }
        let proof = self.credentials.check(request.headers);
        match (proof, peer) {
            (Proof::Wrong, _) => Err(unauthorized("wrong password or token")),
            (Proof::Name(name), _) => Ok(Who::Named(name)),
            (Proof::Nothing, Peer::Unix { uid, .. }) => Ok(Who::User(*uid)),
            (
                Proof::Nothing,
                Peer::Tcp {
                    certified: Some(name),
                    ..
                },
            ) => Ok(Who::Named(name.clone())),
            (Proof::Nothing, Peer::Tcp { address, .. }) => {
                let here = address.ip().to_canonical().is_loopback();
                if here && self.anonymous_loopback {
                    Ok(Who::Anyone)
                } else {
                    Err(unauthorized("a password or a token is needed"))
                }
            }
        }
    }
}

/// What a request says of where it goes and who it is from.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Its version.
    pub version: Version,
    /// Its target.
    pub uri: &'a Uri,
    /// Its headers.
    pub headers: &'a HeaderMap,
}

impl Policy for Access {
    fn may(&self, who: &Who, target: &Target, kind: &str) -> Result<(), Refusal> {
        if self.disabled_kinds.iter().any(|disabled| disabled == kind) {
            return Err(Refusal(format!("{kind} is disabled here")));
        }
        match who {
            Who::User(uid) if *uid != 0 => may_user(*uid, target)?,
            _ => {}
        }
        // Metrics tell no more of a process than `ps` does.
        if kind == METRICS {
            return Ok(());
        }
        self.lists.check(target)
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn shown_cmdline(&self, arguments: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        match self.redact_cmdline {
            true => redact::redacted(arguments),
            false => arguments,
        }
    }
}

/// A user sees their own processes: those that are theirs whichever way one looks. One that runs with
/// another's rights shows what is that other's.
fn may_user(uid: u32, target: &Target) -> Result<(), Refusal> {
    let Target::Process(pid) = target else {
        return Err(Refusal(format!(
            "uid {uid} sees processes of its own by their pid; the rest is for root and for names"
        )));
    };
    match identity(*pid) {
        Some(Identity { uids, .. }) if uids == [uid; 3] => Ok(()),
        // Whether a process is there is not told either.
        _ => Err(Refusal(format!("pid {pid} is no process of uid {uid}"))),
    }
}

/// The state that holds now.
#[derive(Debug)]
pub struct Gate {
    now: RwLock<Arc<Access>>,
}

impl Gate {
    /// This state, until another is set.
    #[must_use]
    pub fn new(access: Access) -> Self {
        Self {
            now: RwLock::new(Arc::new(access)),
        }
    }

    /// The state that holds now.
    #[must_use]
    pub fn now(&self) -> Arc<Access> {
        // A panic can leave no half of an `Arc`.
        Arc::clone(&self.now.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Has another state hold from now on.
    pub fn set(&self, access: Access) {
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(access);
    }
}

impl Policy for Gate {
    fn may(&self, who: &Who, target: &Target, kind: &str) -> Result<(), Refusal> {
        self.now().may(who, target, kind)
    }

    fn limits(&self) -> Limits {
        self.now().limits()
    }

    fn shown_cmdline(&self, arguments: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        self.now().shown_cmdline(arguments)
    }
}

/// An answer that refuses, in pprof's way: one line, which `go tool pprof` shows.
#[must_use]
pub fn refusal(status: StatusCode, why: &str) -> Response {
    let mut response = Response::new(Body::from(format!("{why}\n")));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    for (name, value) in [
        ("content-type", "text/plain; charset=utf-8"),
        ("x-content-type-options", "nosniff"),
        ("x-go-pprof", "1"),
    ] {
        headers.insert(name, header::HeaderValue::from_static(value));
    }
    response
}

fn unauthorized(why: &str) -> Response {
    let mut response = refusal(StatusCode::UNAUTHORIZED, why);
    for challenge in CHALLENGES {
        let value = header::HeaderValue::from_static(challenge);
        response
            .headers_mut()
            .append(header::WWW_AUTHENTICATE, value);
    }
    response
}

#[cfg(test)]
mod tests;
