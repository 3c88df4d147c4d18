//! The names that requests are for.
//!
//! A page from somewhere else can have its own name lead to this host, and then read our answers by a
//! browser that runs here ("DNS rebinding"). Its requests still carry its name, so only ours are
//! answered. An address is nobody's name.

use std::net::IpAddr;

use hyper::{StatusCode, Uri, Version, header, http::uri::Authority};

use super::Asked;

/// The names that are ours, in lower case.
#[derive(Debug)]
pub(super) struct Hosts(Vec<String>);

impl Hosts {
    /// Those of the configuration, and those of this machine.
    pub(super) fn new(configured: &[String]) -> Self {
        let machine = rustix::system::uname();
        let machine = machine.nodename().to_string_lossy().to_ascii_lowercase();
        let short = machine.split('.').next().map(str::to_owned);
        let own = ["localhost".to_owned(), machine].into_iter().chain(short);
        let configured = configured.iter().map(|name| name.to_ascii_lowercase());
        Self(own.chain(configured).collect())
    }

    /// Whether a request is for us.
    pub(super) fn check(&self, asked: &Asked<'_>) -> Result<(), (StatusCode, String)> {
        let mut named = asked.headers.get_all(header::HOST).iter();
        let (host, more) = (named.next(), named.next());
        if more.is_some() {
            return Err((
                StatusCode::BAD_REQUEST,
                "more than one Host header".to_owned(),
            ));
        }
        let Some(host) = host else {
            // A browser names it always.
            return match asked.version {
                Version::HTTP_10 => Ok(()),
                _ => Err((StatusCode::BAD_REQUEST, "no Host header".to_owned())),
            };
        };
        let host = host.to_str().ok().and_then(|host| host.parse().ok());
        let authorities = [host, asked.uri.authority().cloned()];
        let in_uri = usize::from(Uri::authority(asked.uri).is_some());
        let ours = authorities.iter().flatten().filter(|it| self.has(it));
        if ours.count() == 1 + in_uri {
            return Ok(());
        }
        Err((
            StatusCode::MISDIRECTED_REQUEST,
            "this is not the host that the request names; add its name to hosts in the configuration"
                .to_owned(),
        ))
    }

    fn has(&self, authority: &Authority) -> bool {
        let host = authority.host();
        let address = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        if address.unwrap_or(host).parse::<IpAddr>().is_ok() {
            return true;
        }
        let name = host.strip_suffix('.').unwrap_or(host);
        self.0.iter().any(|own| own.eq_ignore_ascii_case(name))
    }
}
