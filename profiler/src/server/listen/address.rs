//! An address to listen on, as people write it.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

/// Longest path of a unix socket. Source: unix(7), `sun_path` without its final NUL.
const MOST_PATH_BYTES: usize = 107;

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// An address of IP and a port.
    Tcp(SocketAddr),
    /// A unix socket's file.
    Unix(PathBuf),
}

/// The port of Go's examples, on this host alone.
impl Default for Address {
    fn default() -> Self {
        Self::Tcp(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 6060))
    }
}

impl Address {
    /// Whether nobody but processes of this host can connect.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.len() {
                0 => Err("a unix socket has a path, as in unix:/run/ebpfprof.sock".to_owned()),
                1..=MOST_PATH_BYTES if !path.contains('\0') => Ok(Self::Unix(path.into())),
                _ => Err(format!(
                    "the path of a unix socket has {MOST_PATH_BYTES} bytes at most"
                )),
            };
        }
        let local = text
            .strip_prefix("localhost:")
            .map(|port| format!("{}:{port}", Ipv4Addr::LOCALHOST));
        let address = local.as_deref().unwrap_or(text).parse();
        address.map(Self::Tcp).map_err(|_| {
            "an address is IP:PORT, [IPv6]:PORT, localhost:PORT or unix:PATH, as in 127.0.0.1:6060"
                .to_owned()
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_back() {
        for text in [
            "127.0.0.1:6060",
            "[::1]:80",
            "0.0.0.0:1",
            "unix:/run/a b",
            "unix:here",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        let local: Address = "localhost:6060".parse().unwrap();
        assert_eq!(local, Address::default());
    }

    #[test]
    fn other_texts_are_no_addresses() {
        for text in [
            "",
            "6060",
            ":6060",
            "127.0.0.1",
            "example.org:80",
            "unix:",
            "::1:80",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
        assert!(
            format!("unix:/{}", "x".repeat(107))
                .parse::<Address>()
                .is_err()
        );
    }
}
