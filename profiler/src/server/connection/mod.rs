//! Connections: how they are encrypted, how long a client may take, and how they end.
//!
//! In: listeners, and the routes. Out: requests that carry who sent them
//! ([`Who`](super::policy::Who)), and a line of the audit for each. HTTP/1.1 is hyper's; it drops the
//! future of a request whose client goes away. A client that sends slowly, or does not take what there
//! is for it, is cut off.

mod paced;
mod request;
mod seats;

use std::{
    io,
    pin::pin,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

use super::{
    access::{Gate, Peer, name_in_certificate},
    audit::Audit,
    config::{Config, Limits},
    listen::{Listener, Stream},
    metrics::Metrics,
    tls::{self, TlsError},
};
use paced::Paced;
use request::Requests;
use seats::{Seat, Seats};

/// How long nothing is accepted when there is no descriptor left.
const PAUSE: Duration = Duration::from_millis(100);

/// Least that hyper's buffers can be limited to for an answer to flow.
const BUFFER_BYTES: usize = 64 << 10;

/// How the server lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Life {
    /// It accepts and answers.
    Serving,
    /// It answers what it was asked before.
    Draining,
    /// It answers nothing.
    Ended,
}

/// What connections get: a state of the configuration.
#[derive(Clone)]
pub struct Terms {
    tls: Option<TlsAcceptor>,
    limits: Limits,
}

impl Terms {
    /// Those of a configuration.
    ///
    /// # Errors
    /// When its files for encryption cannot be used.
    pub fn of(config: &Config) -> Result<Self, TlsError> {
        Ok(Self {
            tls: tls::acceptor(&config.tls)?,
            limits: config.limits.clone(),
        })
    }
}

/// What all connections share.
pub struct Server {
    routes: Router,
    gate: Arc<Gate>,
    audit: Audit,
    metrics: Arc<Metrics>,
    terms: RwLock<Arc<Terms>>,
    seats: Arc<Seats>,
    life: watch::Sender<Life>,
}

/// What a server is made of.
pub struct Parts {
    /// What answers requests.
    pub routes: Router,
    /// Who may come in.
    pub gate: Arc<Gate>,
    /// Where their lines go.
    pub audit: Audit,
    /// Where they are counted.
    pub metrics: Arc<Metrics>,
    /// What connections get.
    pub terms: Terms,
}

impl Server {
    /// A server that has no listener yet.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self {
            seats: Arc::new(Seats::new(parts.terms.limits.connections)),
            routes: parts.routes,
            gate: parts.gate,
            audit: parts.audit,
            metrics: parts.metrics,
            terms: RwLock::new(Arc::new(parts.terms)),
            life: watch::Sender::new(Life::Serving),
        }
    }

    /// Has these hold for connections to come.
    pub fn set_terms(&self, terms: Terms) {
        *self.terms.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(terms);
    }

    fn terms(&self) -> Arc<Terms> {
        Arc::clone(&self.terms.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Where lines of the audit go.
    pub fn audit(&self) -> &Audit {
        &self.audit
    }

    /// Enters this part of its life.
    pub fn enter(&self, life: Life) {
        self.life.send_replace(life);
    }

    /// Waits until no connection is left.
    pub async fn is_empty(&self) {
        self.seats.are_free().await;
    }

    /// Accepts connections until the server does not any more.
    pub async fn accept_from(self: Arc<Self>, listener: Listener) {
        let mut life = self.life.subscribe();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = life.wait_for(|life| *life > Life::Serving) => return,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    if is_shortage(&error) {
                        log::warn!("cannot accept a connection: {error}");
                        sleep(PAUSE).await;
                    }
                    continue;
                }
            };
            // Whoever waits for a seat is the last that is accepted: others wait in the kernel.
            let seat = tokio::select! {
                seat = self.seats.take() => seat,
                _ = life.wait_for(|life| *life > Life::Serving) => return,
            };
            let server = Arc::clone(&self);
            tokio::spawn(server.serve(stream, peer, seat));
        }
    }

    async fn serve(self: Arc<Self>, stream: Stream, peer: Peer, seat: Arc<Seat>) {
        let terms = self.terms();
        let pace = terms.limits.write_timeout;
        let stream = match (stream, &terms.tls) {
            (Stream::Unix(stream), _) => {
                return self.talk(Paced::new(stream, &seat, pace), peer, seat).await;
            }
            (Stream::Tcp(stream), None) => {
                return self.talk(Paced::new(stream, &seat, pace), peer, seat).await;
            }
            (Stream::Tcp(stream), Some(tls)) => tls.accept(Paced::new(stream, &seat, pace)),
        };
        let mut life = self.life.subscribe();
        let greeted = tokio::select! {
            greeted = timeout(terms.limits.request_timeout, stream) => greeted,
            () = seat.is_claimed() => return,
            _ = life.wait_for(|life| *life > Life::Serving) => return,
        };
        match greeted {
            Ok(Ok(stream)) => {
                let certificates = stream.get_ref().1.peer_certificates();
                let proven = certificates.and_then(|all| name_in_certificate(all.first()?));
                self.talk(stream, certified(peer, proven), seat).await;
            }
            Ok(Err(error)) => log::debug!("{peer}: no encryption: {error}"),
            Err(_) => log::debug!("{peer}: no encryption in time"),
        }
    }

    /// Answers the requests of a connection.
    async fn talk<S>(self: Arc<Self>, stream: S, peer: Peer, seat: Arc<Seat>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let limits = self.terms().limits.clone();
        let (mut draining, mut ended) = (self.life.subscribe(), self.life.subscribe());
        let requests = Requests {
            server: Arc::clone(&self),
            seat: Arc::clone(&seat),
            peer,
            limits: limits.clone(),
        };
        let http = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.request_timeout)
            .max_header_size(limits.header)
            .max_buf_size(limits.header.max(BUFFER_BYTES))
            .serve_connection(TokioIo::new(stream), requests);
        let mut http = pin!(http);
        let mut serving = true;
        loop {
            tokio::select! {
                done = &mut http => {
                    if let Err(error) = done {
                        log::debug!("a connection ended: {error}");
                    }
                    return;
                }
                () = seat.is_claimed() => return,
                _ = draining.wait_for(|life| *life > Life::Serving), if serving => {
                    // Whoever has asked nothing yet has nothing to wait for.
                    if seat.is_waiting() {
                        return;
                    }
                    serving = false;
                    http.as_mut().graceful_shutdown();
                }
                _ = ended.wait_for(|life| *life == Life::Ended) => return,
            }
        }
    }
}

/// A client whose certificate proves this name.
fn certified(peer: Peer, name: Option<String>) -> Peer {
    match peer {
        Peer::Tcp { address, .. } => Peer::Tcp {
            address,
            certified: name,
        },
        unix @ Peer::Unix { .. } => unix,
    }
}

/// Whether there is no room for another connection, rather than one that is gone already.
fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let shortages = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    let errno = Errno::from_io_error(error);
    errno.is_some_and(|errno| shortages.contains(&errno))
}
