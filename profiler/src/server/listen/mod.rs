//! Where the server listens.
//!
//! In: addresses of the command line, of the configuration or of systemd. Out: sockets that accept
//! connections. What others can reach is refused unless it is encrypted and asks who they are.

mod address;
mod error;
mod inherited;
mod unix;

use std::net::{SocketAddr, TcpListener as StdTcpListener};

use rustix::net::{AddressFamily, SocketType, sockopt};
use tokio::{
    io,
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
};

use super::{access::Peer, config::Config};
use unix::SocketFile;

pub use address::Address;
pub use error::{ListenError, Missing};

/// How many connections the kernel keeps that we have not accepted yet.
const BACKLOG: i32 = 1024;

/// Whether what is sent may be read by whoever is on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secrecy {
    /// It may not: other hosts need encryption.
    Needed,
    /// The user said that it may (`--insecure`), as somebody else encrypts.
    Waived,
}

/// A socket that accepts connections.
#[derive(Debug)]
pub struct Listener {
    /// What it is bound to.
    pub address: Address,
    socket: Socket,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    /// The file is removed when nobody listens any more; not if it is systemd's.
    Unix(
        UnixListener,
        #[expect(dead_code, reason = "dropped with it")] Option<SocketFile>,
    ),
}

/// A connection.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Opens every socket: those that systemd opened, else those of the configuration. All addresses are
/// judged before the first is opened. Call it where tokio runs.
///
/// # Errors
/// When an address is open to others without what that takes, or cannot be listened on.
pub fn open(config: &Config, secrecy: Secrecy) -> Result<Vec<Listener>, ListenError> {
    let given = inherited::sockets()?;
    if !given.is_empty() {
        return given
            .into_iter()
            .map(|socket| take(socket, config, secrecy))
            .collect();
    }
    for address in &config.listen {
        check(address, config, secrecy)?;
    }
    config
        .listen
        .iter()
        .map(|address| bind(address, config))
        .collect()
}

/// Whether it is safe to listen there.
pub(super) fn check(
    address: &Address,
    config: &Config,
    secrecy: Secrecy,
) -> Result<(), ListenError> {
    if address.is_local() {
        return Ok(());
    }
    let encrypted = config.tls.is_on() || secrecy == Secrecy::Waived;
    let missing = match (encrypted, config.knows_anybody()) {
        (true, true) => return Ok(()),
        (true, false) => Missing::Names,
        (false, true) => Missing::Encryption,
        (false, false) => Missing::Both,
    };
    Err(ListenError::Exposed {
        address: address.clone(),
        missing,
    })
}

fn bind(address: &Address, config: &Config) -> Result<Listener, ListenError> {
    let (socket, address) = match address {
        Address::Tcp(at) => {
            let bound = bind_tcp(*at).map_err(|source| ListenError::Bind {
                address: address.clone(),
                source,
            })?;
            let at = bound.local_addr().unwrap_or(*at);
            (Socket::Tcp(bound), Address::Tcp(at))
        }
        Address::Unix(path) => {
            let (bound, file) = unix::bind(path, config)?;
            (Socket::Unix(bound, Some(file)), address.clone())
        }
    };
    Ok(Listener { address, socket })
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
        SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
    };
    // Connections of an earlier run may still be waiting for their end.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG.unsigned_abs())
}

/// Takes a socket of systemd's over.
fn take(
    socket: std::os::fd::OwnedFd,
    config: &Config,
    secrecy: Secrecy,
) -> Result<Listener, ListenError> {
    let odd = |why: String| ListenError::Inherited { why };
    let family = sockopt::socket_domain(&socket).map_err(|error| odd(error.to_string()))?;
    let kind = sockopt::socket_type(&socket).map_err(|error| odd(error.to_string()))?;
    if kind != SocketType::STREAM {
        return Err(odd("it is no stream socket".to_owned()));
    }
    let taken = |error: io::Error| odd(error.to_string());
    if family == AddressFamily::UNIX {
        let listener = std::os::unix::net::UnixListener::from(socket);
        listener.set_nonblocking(true).map_err(taken)?;
        let at = listener.local_addr().map_err(taken)?;
        let path = at.as_pathname().unwrap_or("(unnamed)".as_ref()).to_owned();
        let listener = UnixListener::from_std(listener).map_err(taken)?;
        return Ok(Listener {
            address: Address::Unix(path),
            socket: Socket::Unix(listener, None),
        });
    }
    let listener = StdTcpListener::from(socket);
    listener.set_nonblocking(true).map_err(taken)?;
    let address = Address::Tcp(listener.local_addr().map_err(taken)?);
    check(&address, config, secrecy)?;
    Ok(Listener {
        address,
        socket: Socket::Tcp(TcpListener::from_std(listener).map_err(taken)?),
    })
}

impl Listener {
    /// The next connection, and who is at its other end.
    pub(super) async fn accept(&self) -> io::Result<(Stream, Peer)> {
        match &self.socket {
            Socket::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                // Answers are written whole; waiting for more would delay their ends.
                stream.set_nodelay(true)?;
                let certified = None;
                Ok((Stream::Tcp(stream), Peer::Tcp { address, certified }))
            }
            Socket::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                let peer = stream.peer_cred()?;
                let (uid, pid) = (peer.uid(), peer.pid());
                Ok((Stream::Unix(stream), Peer::Unix { uid, pid }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::server::config::{Auth, Tls};

    fn config(tls: Option<&str>, tokens: Option<&str>) -> Config {
        Config {
            tls: Tls {
                certificate: tls.map(PathBuf::from),
                key: tls.map(PathBuf::from),
                client_ca: None,
            },
            auth: Auth {
                token_file: tokens.map(PathBuf::from),
                ..Auth::default()
            },
            ..Config::default()
        }
    }

    #[track_caller]
    fn check_open(address: &str, config: &Config, secrecy: Secrecy, expected: Option<Missing>) {
        let found = check(&address.parse().unwrap(), config, secrecy);
        let missing = found.err().map(|error| match error {
            ListenError::Exposed { missing, .. } => missing,
            other => panic!("{other}"),
        });
        assert_eq!(missing, expected, "{address}");
    }

    #[test]
    fn what_others_reach_needs_encryption_and_names() {
        use Missing::{Both, Encryption, Names};
        use Secrecy::{Needed, Waived};
        let (tls, tokens) = (Some("c.pem"), Some("tokens"));
        for open in ["0.0.0.0:6060", "[::]:6060", "10.0.0.1:1", "[fe80::1]:80"] {
            check_open(open, &config(None, None), Needed, Some(Both));
            check_open(open, &config(None, None), Waived, Some(Names));
            check_open(open, &config(tls, None), Needed, Some(Names));
            check_open(open, &config(None, tokens), Needed, Some(Encryption));
            check_open(open, &config(None, tokens), Waived, None);
            check_open(open, &config(tls, tokens), Needed, None);
        }
    }

    #[test]
    fn certificates_of_clients_are_names() {
        let mut config = config(Some("c.pem"), None);
        config.tls.client_ca = Some("ca.pem".into());
        check_open("0.0.0.0:6060", &config, Secrecy::Needed, None);
    }

    #[test]
    fn what_this_host_alone_reaches_needs_nothing() {
        for here in [
            "127.0.0.1:6060",
            "127.9.9.9:1",
            "[::1]:0",
            "localhost:80",
            "unix:/run/x",
        ] {
            check_open(here, &config(None, None), Secrecy::Needed, None);
        }
    }
}
