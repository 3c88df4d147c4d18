//! The life of the server: it is made ready, serves, reads its configuration again, and ends.
//!
//! In: a configuration, whoever captures, and the routes. Out: nothing until the end. It is prepared
//! before anything is loaded into the kernel, so what is wrong with the configuration is told first.
//! One loop owns the signals.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use axum::Router;
use thiserror::Error;
use tokio::{
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, interval, timeout},
};

use super::{
    access::{Access, AccessError, Gate},
    audit::{Audit, AuditError},
    config::{Config, ConfigError},
    connection::{Life, Parts, Server, Terms},
    listen::{self, Address, ListenError, Listener, Secrecy},
    metrics::{self, Metrics},
    notify::Supervisor,
    policy::Policy,
    tls::TlsError,
};
use crate::{
    captures::Captures,
    error::{Explain, kernel_words},
    privilege::{SERVING, keep_only},
};

/// How long what is cut off has to notice.
const LAST_MOMENT: Duration = Duration::from_secs(1);

/// How often nobody is told that we are alive: the timer must have some time.
const SELDOM: Duration = Duration::from_secs(3600);

/// Why the server does not run.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file of tokens or passwords is wrong.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// A file for encryption is wrong.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The audit has no file.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The kernel gives no threads, or no signals.
    #[error("cannot start the server")]
    Start(#[source] io::Error),
}

impl Explain for ServeError {
    fn why(&self) -> String {
        match self {
            Self::Config(error) => error.why(),
            Self::Access(error) => error.why(),
            Self::Tls(error) => error.why(),
            Self::Audit(error) => error.why(),
            Self::Listen(error) => error.why(),
            Self::Start(error) => kernel_words(error),
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::Config(error) => error.advice(),
            Self::Access(error) => error.advice(),
            Self::Tls(error) => error.advice(),
            Self::Audit(error) => error.advice(),
            Self::Listen(error) => error.advice(),
            Self::Start(_) => "ulimit -u, and try again when the host has room".to_owned(),
        }
    }

    fn is_misuse(&self) -> bool {
        match self {
            Self::Config(error) => error.is_misuse(),
            Self::Access(error) => error.is_misuse(),
            Self::Tls(error) => error.is_misuse(),
            Self::Audit(error) => error.is_misuse(),
            Self::Listen(error) => error.is_misuse(),
            Self::Start(_) => false,
        }
    }
}

/// What the command line says of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setup {
    /// The configuration file.
    pub file: Option<PathBuf>,
    /// Addresses in place of the configuration's.
    pub listen: Vec<Address>,
    /// Whether other hosts need encryption.
    pub secrecy: Secrecy,
}

impl Setup {
    /// The configuration as it is now.
    fn config(&self) -> Result<Config, ConfigError> {
        let mut config = match &self.file {
            Some(path) => Config::load(path)?,
            None => Config::default(),
        };
        if !self.listen.is_empty() {
            config.listen.clone_from(&self.listen);
        }
        Ok(config)
    }
}

/// A server that listens and does not answer yet.
pub struct Prepared {
    setup: Setup,
    config: Config,
    access: Access,
    terms: Terms,
    audit: Audit,
    listeners: Vec<Listener>,
    runtime: Runtime,
}

/// Reads the configuration, and listens.
///
/// # Errors
/// When the configuration is wrong, or an address cannot be listened on.
pub fn prepare(setup: Setup) -> Result<Prepared, ServeError> {
    let config = setup.config()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("serve")
        // The first thread keeps its rights: it opens files again when the configuration changes.
        .on_thread_start(|| keep_only(SERVING))
        .enable_all()
        .build()
        .map_err(ServeError::Start)?;
    let guard = runtime.enter();
    let listeners = listen::open(&config, setup.secrecy)?;
    drop(guard);
    Ok(Prepared {
        access: Access::of(&config)?,
        terms: Terms::of(&config)?,
        audit: Audit::open(&config.audit)?,
        setup,
        config,
        listeners,
        runtime,
    })
}

impl Prepared {
    /// The configuration that it was prepared by.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where it listens: with the ports that the kernel chose.
    #[must_use]
    pub fn addresses(&self) -> Vec<Address> {
        let addresses = self.listeners.iter().map(|it| it.address.clone());
        addresses.collect()
    }

    /// Answers requests until a signal ends it. `routes` gets what decides who may have what.
    ///
    /// # Errors
    /// When the kernel gives no signals.
    pub fn run(
        self,
        captures: Arc<dyn Captures>,
        routes: impl FnOnce(Arc<dyn Policy>) -> Router,
    ) -> Result<(), ServeError> {
        let addresses = self.addresses();
        let Self {
            setup,
            config,
            access,
            terms,
            audit,
            listeners,
            runtime,
        } = self;
        let gate = Arc::new(Gate::new(access));
        let policy: Arc<dyn Policy> = Arc::<Gate>::clone(&gate);
        let metrics = Arc::new(Metrics::new(captures, config.top_processes));
        let routes =
            routes(Arc::clone(&policy)).merge(metrics::routes(Arc::clone(&metrics), policy));
        let server = Arc::new(Server::new(Parts {
            routes,
            gate: Arc::clone(&gate),
            audit,
            metrics: Arc::clone(&metrics),
            terms,
        }));
        let daemon = Daemon {
            setup,
            config,
            addresses,
            gate,
            metrics,
            server,
            supervisor: Supervisor::of_environment(),
        };
        let done = runtime.block_on(daemon.live(listeners));
        runtime.shutdown_timeout(LAST_MOMENT);
        done.map_err(ServeError::Start)
    }
}

/// A server that answers.
struct Daemon {
    setup: Setup,
    config: Config,
    /// Where it listens.
    addresses: Vec<Address>,
    gate: Arc<Gate>,
    metrics: Arc<Metrics>,
    server: Arc<Server>,
    supervisor: Supervisor,
}

impl Daemon {
    async fn live(mut self, listeners: Vec<Listener>) -> io::Result<()> {
        let mut hangup = signal(SignalKind::hangup())?;
        let mut ends = Ends::new()?;
        for listener in listeners {
            tokio::spawn(Arc::clone(&self.server).accept_from(listener));
        }
        let heartbeat = self.supervisor.heartbeat();
        let mut heartbeat = interval(heartbeat.unwrap_or(SELDOM));
        self.supervisor.ready();
        loop {
            tokio::select! {
                () = ends.next() => break,
                _ = hangup.recv() => self.reload(),
                _ = heartbeat.tick() => self.supervisor.alive(),
            }
        }
        self.end(&mut ends).await;
        Ok(())
    }

    /// Reads the configuration again. What is wrong with it is told, and all stays as it was.
    fn reload(&mut self) {
        self.supervisor.reloading();
        match self.read_again() {
            Ok(()) => log::info!("the configuration was read again"),
            Err(error) => log::error!(
                "the configuration stays as it was: {error}: {}; try: {}",
                error.why(),
                error.advice()
            ),
        }
        self.supervisor.ready();
    }

    /// All of it is read before any of it holds.
    fn read_again(&mut self) -> Result<(), ServeError> {
        let config = self.setup.config()?;
        let access = Access::of(&config)?;
        let terms = Terms::of(&config)?;
        // Listeners stay, and what they take is taken from them by nobody.
        for address in &self.addresses {
            listen::check(address, &config, self.setup.secrecy)?;
        }
        self.server.audit().reopen(&config.audit)?;
        for key in changed_by_restart(&self.config, &config) {
            log::warn!("{key} has changed: it holds after a restart");
        }
        self.gate.set(access);
        self.server.set_terms(terms);
        self.metrics.set_top(config.top_processes);
        self.config = config;
        Ok(())
    }

    async fn end(self, ends: &mut Ends) {
        self.supervisor.stopping();
        self.server.enter(Life::Draining);
        let started = Instant::now();
        tokio::select! {
            drained = timeout(self.config.limits.shutdown_timeout, self.server.is_empty()) => {
                if drained.is_err() {
                    log::warn!("requests still run after {:?}: they are cut off", started.elapsed());
                }
            }
            () = ends.next() => log::warn!("a second signal: running requests are cut off"),
        }
        self.server.enter(Life::Ended);
        // What is cut off writes its line of the audit.
        let _ = timeout(LAST_MOMENT, self.server.is_empty()).await;
    }
}

/// The signals that end us.
struct Ends {
    interrupt: Signal,
    terminate: Signal,
}

impl Ends {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for the next one.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Keys whose values differ and that a reload leaves alone.
fn changed_by_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let keys = [
        ("listen", old.listen != new.listen),
        ("socket_mode", old.socket_mode != new.socket_mode),
        ("socket_group", old.socket_group != new.socket_group),
        ("recorder", old.recorder != new.recorder),
        ("recorder_hz", old.recorder_hz != new.recorder_hz),
        (
            "max_table_memory",
            old.max_table_memory != new.max_table_memory,
        ),
        (
            "max_symbol_memory",
            old.max_symbol_memory != new.max_symbol_memory,
        ),
        (
            "limits.captures",
            old.limits.captures != new.limits.captures,
        ),
        ("limits.hz", old.limits.hz != new.limits.hz),
        (
            "limits.connections",
            old.limits.connections != new.limits.connections,
        ),
    ];
    let changed = keys.into_iter().filter(|(_, differs)| *differs);
    changed.map(|(key, _)| key).collect()
}
