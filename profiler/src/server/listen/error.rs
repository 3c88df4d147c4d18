//! Why an address cannot be listened on.

use std::{io, path::PathBuf};

use thiserror::Error;

use super::Address;
use crate::error::{Explain, kernel_words};

/// What an address that others can reach is without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Whoever is on the way can read it.
    Encryption,
    /// Whoever connects gets everything.
    Names,
    /// Both.
    Both,
}

/// Why an address cannot be listened on.
#[derive(Debug, Error)]
pub enum ListenError {
    /// Others could read everything.
    #[error("{address} is open to other hosts {}", .missing.words())]
    Exposed {
        /// The address.
        address: Address,
        /// What it is without.
        missing: Missing,
    },
    /// The kernel refuses.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address.
        address: Address,
        /// What it says.
        source: io::Error,
    },
    /// A file that is no socket is in the way.
    #[error("cannot listen on unix:{}", .path.display())]
    InTheWay {
        /// The file.
        path: PathBuf,
    },
    /// Somebody listens there.
    #[error("cannot listen on unix:{}", .path.display())]
    InUse {
        /// The socket's file.
        path: PathBuf,
    },
    /// There is no such group.
    #[error("there is no group '{name}'")]
    NoSuchGroup {
        /// Its name.
        name: String,
    },
    /// What systemd gave is of no use.
    #[error("cannot take over the sockets of systemd")]
    Inherited {
        /// Why.
        why: String,
    },
}

impl Missing {
    fn words(self) -> &'static str {
        match self {
            Self::Encryption => "without encryption",
            Self::Names => "without a password",
            Self::Both => "without encryption and without a password",
        }
    }
}

impl Explain for ListenError {
    fn why(&self) -> String {
        match self {
            Self::Exposed { missing, .. } => match missing {
                Missing::Encryption => {
                    "passwords and profiles could be read by whoever is on the way".to_owned()
                }
                Missing::Names | Missing::Both => {
                    "whoever reaches it would see what every process on this host does".to_owned()
                }
            },
            Self::Bind { source, .. } => kernel_words(source),
            Self::InTheWay { .. } => "there is a file of that name that is no socket".to_owned(),
            Self::InUse { .. } => "another server listens there".to_owned(),
            Self::NoSuchGroup { .. } => {
                "socket_group in the configuration names it, and /etc/group does not".to_owned()
            }
            Self::Inherited { why } => why.clone(),
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::Exposed { missing, .. } => {
                let sections = match missing {
                    Missing::Encryption => "[tls] (or add --insecure behind a proxy that encrypts)",
                    Missing::Names => "[auth]",
                    Missing::Both => "[tls] and [auth]",
                };
                format!(
                    "ebpfprof serve --listen 127.0.0.1:6060, or ebpfprof serve --config FILE with {sections} as in contrib/ebpfprof.toml"
                )
            }
            Self::Bind { address, source } => advice_to_bind(address, source.kind()),
            Self::InTheWay { path } => format!("ls -l {}", path.display()),
            Self::InUse { path } => format!("ss -xlp src {}", path.display()),
            Self::NoSuchGroup { name } => format!("groupadd --system {name}"),
            Self::Inherited { .. } => {
                "ListenStream= alone in the socket unit, and a kernel from 5.6 on".to_owned()
            }
        }
    }

    fn is_misuse(&self) -> bool {
        matches!(self, Self::Exposed { .. } | Self::NoSuchGroup { .. })
    }
}

fn advice_to_bind(address: &Address, kind: io::ErrorKind) -> String {
    match (address, kind) {
        (Address::Tcp(at), io::ErrorKind::AddrInUse) => format!(
            "ss -ltnp 'sport = :{}', or ebpfprof serve --listen {}:0",
            at.port(),
            match at.ip() {
                std::net::IpAddr::V6(ip) => format!("[{ip}]"),
                std::net::IpAddr::V4(ip) => ip.to_string(),
            }
        ),
        (Address::Tcp(_), io::ErrorKind::PermissionDenied) => {
            "a port from 1024 on, or run as root".to_owned()
        }
        (Address::Tcp(_), io::ErrorKind::AddrNotAvailable) => {
            "ip -brief address, and one of those".to_owned()
        }
        (Address::Unix(path), _) => {
            let folder = path.parent().filter(|it| !it.as_os_str().is_empty());
            format!("ls -ld {}", folder.unwrap_or(".".as_ref()).display())
        }
        _ => "ebpfprof serve --listen 127.0.0.1:6060".to_owned(),
    }
}
