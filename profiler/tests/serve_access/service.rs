//! A server in this process, with routes that say who asked.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Extension, Router,
    body::{Body, Bytes},
    extract::{Path as InPath, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{any, get, post},
};
use ebpfprof::{
    captures::{self, CaptureError, Captured, Captures, Pending, Recent, Target, Wanted},
    server::{
        access::{Access, Gate, refusal},
        audit::{Audit, Cost},
        config::{AuditTo, Config},
        connection::{Life, Parts, Server, Terms},
        listen::{self, Address, Secrecy},
        metrics::{self, Metrics},
        policy::{Policy, Who},
    },
    target::Pid,
};
use hyper::body::{Body as HttpBody, Frame};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::client::{Answer, get as ask, wait_until};

/// Bytes of a large answer.
pub(crate) const LARGE_BYTES: usize = 32 << 20;

/// Answers that run, and those that were dropped before their end.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) running: AtomicUsize,
    pub(crate) dropped: AtomicUsize,
}

impl Counts {
    pub(crate) fn running(&self) -> usize {
        self.running.load(Ordering::SeqCst)
    }

    pub(crate) fn dropped(&self) -> usize {
        self.dropped.load(Ordering::SeqCst)
    }
}

/// Counts itself when it is dropped.
struct Watched(Arc<Counts>);

impl Watched {
    fn new(counts: &Arc<Counts>) -> Self {
        counts.running.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(counts))
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
        self.0.dropped.fetch_add(1, Ordering::SeqCst);
    }
}

/// A body without an end.
struct Endless(Watched);

impl HttpBody for Endless {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let _ = &self.0;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[b'x'; 65536])))))
    }
}

/// Captures of which a few numbers are known.
pub(crate) struct Fake;

impl Captures for Fake {
    fn capture(&self, _: Wanted) -> Pending<Captured> {
        Box::pin(std::future::ready(Err(CaptureError::Ended)))
    }

    fn recent(&self, _: Recent) -> Pending<Captured> {
        Box::pin(std::future::ready(Err(CaptureError::NoRecorder)))
    }

    fn state(&self) -> captures::State {
        captures::State {
            running: 1,
            finished: 7,
            abandoned: 2,
            due: 1000,
            kept: 990,
            lost: vec![("ring full", 6), ("nmi \"busy\"", 4)],
            cut: vec![("no rule", 3)],
            frequency_hz: 99,
            bpf: Some(Duration::from_millis(12)),
            kernel_bytes: 1 << 20,
            naming: vec![Duration::from_millis(70)],
        }
    }
}

#[derive(Clone)]
struct Shared {
    policy: Arc<dyn Policy>,
    counts: Arc<Counts>,
}

fn routes(policy: Arc<dyn Policy>, counts: Arc<Counts>) -> Router {
    Router::new()
        .route("/debug/pprof/profile", any(host))
        .route("/pid/{pid}/debug/pprof/profile", get(process))
        .route("/debug/pprof/wait", get(wait))
        .route("/debug/pprof/endless", get(endless))
        .route("/debug/pprof/slow", get(slow))
        .route("/debug/pprof/large", get(large))
        .route("/debug/pprof/length", post(length))
        .with_state(Shared { policy, counts })
}

async fn host(State(shared): State<Shared>, Extension(who): Extension<Who>) -> Response {
    answer(&shared, &who, &Target::Host)
}

async fn process(
    State(shared): State<Shared>,
    Extension(who): Extension<Who>,
    InPath(pid): InPath<u32>,
) -> Response {
    answer(&shared, &who, &Target::Process(Pid(pid)))
}

fn answer(shared: &Shared, who: &Who, target: &Target) -> Response {
    match shared.policy.may(who, target, "profile") {
        Ok(()) => format!("for {who}").into_response(),
        Err(why) => refusal(StatusCode::FORBIDDEN, &why.0),
    }
}

/// Never answers.
async fn wait(State(shared): State<Shared>) -> Response {
    let _watched = Watched::new(&shared.counts);
    std::future::pending().await
}

async fn endless(State(shared): State<Shared>) -> Response {
    Response::new(Body::new(Endless(Watched::new(&shared.counts))))
}

async fn slow(State(shared): State<Shared>) -> Response {
    let watched = Watched::new(&shared.counts);
    tokio::time::sleep(Duration::from_millis(700)).await;
    drop(watched);
    let mut response = "at last".into_response();
    response.extensions_mut().insert(Cost {
        cpu: Duration::from_micros(4200),
    });
    response
}

/// More than there is room for on the way.
async fn large(State(shared): State<Shared>) -> Response {
    drop(Watched::new(&shared.counts));
    Response::new(Body::from(vec![b'x'; LARGE_BYTES]))
}

async fn length(body: Bytes) -> String {
    body.len().to_string()
}

/// A server, for as long as the test runs.
pub(crate) struct Service {
    pub(crate) addresses: Vec<Address>,
    pub(crate) counts: Arc<Counts>,
    pub(crate) server: Arc<Server>,
    pub(crate) runtime: Runtime,
    folder: TempDir,
}

impl Service {
    /// On a port that the kernel chooses, or where the configuration says. `change` gets a folder for
    /// files, too.
    pub(crate) fn start(change: impl FnOnce(&mut Config, &Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config {
            listen: vec!["127.0.0.1:0".parse().unwrap()],
            audit: AuditTo::File(folder.path().join("audit.log")),
            ..Config::default()
        };
        change(&mut config, folder.path());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let guard = runtime.enter();
        let listeners = listen::open(&config, Secrecy::Needed).unwrap();
        let gate = Arc::new(Gate::new(Access::of(&config).unwrap()));
        let policy: Arc<dyn Policy> = Arc::<Gate>::clone(&gate);
        let counts = Arc::new(Counts::default());
        let metrics = Arc::new(Metrics::new(Arc::new(Fake), config.top_processes));
        let routes = routes(Arc::clone(&policy), Arc::clone(&counts));
        let server = Arc::new(Server::new(Parts {
            routes: routes.merge(metrics::routes(Arc::clone(&metrics), policy)),
            gate,
            audit: Audit::open(&config.audit).unwrap(),
            metrics,
            terms: Terms::of(&config).unwrap(),
        }));
        let addresses = listeners.iter().map(|it| it.address.clone()).collect();
        for listener in listeners {
            tokio::spawn(Arc::clone(&server).accept_from(listener));
        }
        drop(guard);
        Self {
            addresses,
            counts,
            server,
            runtime,
            folder,
        }
    }

    /// Where it listens by TCP.
    pub(crate) fn address(&self) -> SocketAddr {
        let tcp = self.addresses.iter().find_map(|address| match address {
            Address::Tcp(address) => Some(*address),
            Address::Unix(_) => None,
        });
        tcp.unwrap()
    }

    pub(crate) fn get(&self, path: &str, headers: &str) -> Answer {
        ask(self.address(), path, headers)
    }

    /// A file of the test.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Lines of the audit, once there are so many.
    #[track_caller]
    pub(crate) fn lines(&self, count: usize) -> Vec<String> {
        let path = self.file("audit.log");
        let read = || fs::read_to_string(&path).unwrap_or_default();
        wait_until("the audit has its lines", || {
            read().lines().count() >= count
        });
        read().lines().map(str::to_owned).collect()
    }

    /// Ends it as the daemon does, and waits so long for requests that run.
    pub(crate) fn end(&self, patience: Duration) {
        self.server.enter(Life::Draining);
        self.runtime.block_on(async {
            let _ = tokio::time::timeout(patience, self.server.is_empty()).await;
            self.server.enter(Life::Ended);
            self.server.is_empty().await;
        });
    }
}
