//! The address of a server, as the user types it.

use std::{fmt, str::FromStr};

use thiserror::Error;
use ureq::http::Uri;

use super::BuildId;

/// A server that is asked by HTTP or HTTPS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Without a slash at the end.
    url: String,
    /// What may be shown of it: an address may hold a password.
    shown: String,
}

/// Why a text is no address of a server.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "a debuginfod server has an address as in https://debuginfod.elfutils.org, and {0:?} is none"
)]
pub struct ServerError(String);

impl FromStr for Server {
    type Err = ServerError;

    fn from_str(text: &str) -> Result<Self, ServerError> {
        let trouble = || ServerError(text.to_owned());
        let uri: Uri = text.parse().map_err(|_| trouble())?;
        let scheme = uri
            .scheme_str()
            .filter(|scheme| ["http", "https"].contains(scheme));
        let (Some(scheme), Some(authority)) = (scheme, uri.authority()) else {
            return Err(trouble());
        };
        if authority.host().is_empty() || uri.query().is_some() {
            return Err(trouble());
        }
        let port = authority.port().map(|port| format!(":{port}"));
        let place = format!("{}{}", authority.host(), port.unwrap_or_default());
        Ok(Self {
            url: text.trim_end_matches('/').to_owned(),
            shown: format!("{scheme}://{place}{}", uri.path().trim_end_matches('/')),
        })
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl Server {
    /// Where it has the debug information of an object.
    pub(super) fn debuginfo(&self, build_id: &BuildId) -> String {
        format!("{}/buildid/{}/debuginfo", self.url, build_id.0)
    }

    /// Whether all it says is encrypted.
    pub(super) fn is_encrypted(&self) -> bool {
        self.url.starts_with("https:")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_scheme_and_a_host() {
        for text in [
            "",
            "debuginfod",
            "ftp://a",
            "file:///srv",
            "http://",
            "/srv",
            "http://a/?b",
            "ima:enforcing",
        ] {
            assert_eq!(text.parse::<Server>(), Err(ServerError(text.to_owned())));
        }
    }

    #[test]
    fn an_address_is_shown_without_its_password() {
        let server: Server = "https://me:secret@example.org:8002/debug/".parse().unwrap();
        assert_eq!(server.to_string(), "https://example.org:8002/debug");
        let wanted = server.debuginfo(&BuildId("00ff".to_owned()));
        assert_eq!(
            wanted,
            "https://me:secret@example.org:8002/debug/buildid/00ff/debuginfo"
        );
    }
}
