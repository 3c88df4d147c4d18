//! `ebpfprof serve`: `/debug/pprof` for every process on the host.
//!
//! In: HTTP requests, and [`Captures`] that answer them. Out: profiles in any format, and pages. Who
//! asks is found out before a request comes here ([`policy`]), and listening is not done here.
//!
//! A request is read to the end before anything runs: [`route`] tells whose profile is wanted and
//! which, [`query`] how. Then its [`kinds`] answer. A panic costs the one request.

pub mod access;
pub mod audit;
pub mod config;
pub mod connection;
pub mod daemon;
pub mod listen;
pub mod metrics;
pub mod notify;
pub mod policy;
pub mod tls;

mod answer;
mod asked;
mod capture;
mod cmdline;
mod contained;
mod goroutine;
mod kinds;
mod pages;
mod problem;
mod processes;
mod query;
mod route;
mod sampler;
mod snapshot;
mod symbol;
mod threads;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{HeaderValue, Method, Request, Response, header},
    response::IntoResponse,
};
use tokio::sync::{Mutex, Semaphore};

use crate::{
    bug,
    captures::{Captures, Target},
};
use asked::{Asked, Want};
use contained::Contained;
use kinds::Kinds;
use policy::{Policy, Who};
use problem::Problem;
use processes::Busy;
use route::{Page, Route};

/// Threads that write profiles and list processes, at most: more would wait for a CPU.
const WORKERS: usize = 8;

/// Threads that look into processes, at most. They are others, as a process can have its readers wait
/// for as long as it likes: while its memory is locked.
const LOOKERS: usize = 8;
/// How long such a look may take.
const LOOK_PATIENCE: Duration = Duration::from_secs(5);

/// What requests are answered by.
pub struct App {
    captures: Arc<dyn Captures>,
    policy: Arc<dyn Policy>,
    kinds: Kinds,
    running: Arc<AtomicUsize>,
    workers: Arc<Semaphore>,
    lookers: Arc<Semaphore>,
    /// Who was busy at the last look.
    busy: Mutex<Option<Arc<Busy>>>,
}

impl App {
    /// Everything there is, captured by these and allowed by those.
    #[must_use]
    pub fn new(captures: Arc<dyn Captures>, policy: Arc<dyn Policy>) -> Self {
        Self::with_kinds(captures, policy, Kinds::all())
    }

    fn with_kinds(captures: Arc<dyn Captures>, policy: Arc<dyn Policy>, kinds: Kinds) -> Self {
        Self {
            captures,
            policy,
            kinds,
            running: Arc::default(),
            workers: Arc::new(Semaphore::new(WORKERS)),
            lookers: Arc::new(Semaphore::new(LOOKERS)),
            busy: Mutex::default(),
        }
    }

    /// Counts a capture until its answer is made, if there is room for one more.
    fn begin(&self) -> Result<Running, Problem> {
        let most = self.policy.limits().captures;
        let one_more = |running| (running < most).then_some(running + 1);
        let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
        match self.running.fetch_update(success, failure, one_more) {
            Ok(_) => Ok(Running(Arc::clone(&self.running))),
            Err(_) => Err(Problem::too_many(most)),
        }
    }

    /// Does work that takes its time, on a thread of its own.
    async fn work<T: Send + 'static>(
        &self,
        part: impl FnOnce() -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        on_a_thread(Arc::clone(&self.workers), part).await
    }

    /// Looks into a process, which may keep us waiting.
    async fn look<T: Send + 'static>(
        &self,
        part: impl FnOnce() -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let looked = on_a_thread(Arc::clone(&self.lookers), part);
        match tokio::time::timeout(LOOK_PATIENCE, looked).await {
            Ok(looked) => looked,
            Err(_) => Err(Problem::slow_look(LOOK_PATIENCE)),
        }
    }
}

/// Does something on a thread of its own once one is free.
async fn on_a_thread<T: Send + 'static>(
    threads: Arc<Semaphore>,
    part: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    let turn = threads.acquire_owned().await;
    let contained = move || {
        let _turn = turn;
        bug::contain(part)
    };
    match tokio::task::spawn_blocking(contained).await {
        Ok(Some(done)) => done,
        Ok(None) | Err(_) => Err(Problem::bug()),
    }
}

/// A capture that counts as running.
struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// How a request came here, for links that lead back. An extension of a request; HTTP if there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scheme {
    /// In the clear.
    #[default]
    Http,
    /// By TLS.
    Https,
}

/// What was asked for. An extension of every answer to a request that names something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Whose profile.
    pub target: Target,
    /// Which: a kind's name, or `index`, or `process`, or `processes`.
    pub kind: String,
}

/// The routes. Every request has a [`Who`] among its extensions. `/metrics` is for others to add.
pub fn router(app: Arc<App>) -> Router {
    Router::new().fallback(handle).with_state(app)
}

async fn handle(State(app): State<Arc<App>>, request: Request<Body>) -> Response<Body> {
    let route = bug::contain(|| Route::of(request.uri().path()));
    let mut answer = match route.unwrap_or_else(|| Err(Problem::bug())) {
        Ok(route) => {
            let subject = route.subject();
            let answered = Contained::new(serve(app, route, request)).await;
            let answered = answered.unwrap_or_else(|| Err(Problem::bug()));
            let mut answer = answered.unwrap_or_else(IntoResponse::into_response);
            answer.extensions_mut().insert(subject);
            answer
        }
        Err(problem) => problem.into_response(),
    };
    let headers = answer.headers_mut();
    let nosniff = HeaderValue::from_static("nosniff");
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    answer
}

async fn serve(
    app: Arc<App>,
    route: Route,
    request: Request<Body>,
) -> Result<Response<Body>, Problem> {
    let kind = match &route.page {
        Page::Kind(name) => Some(app.kinds.find(name).ok_or_else(Problem::unknown_profile)?),
        Page::Moved | Page::Processes | Page::Process | Page::Index => None,
    };
    let want = match *request.method() {
        Method::GET => Want::Whole,
        Method::HEAD => Want::Head,
        Method::POST if kind.as_ref().is_some_and(|kind| kind.takes_posts()) => Want::Whole,
        _ => return Err(Problem::method(kind.is_some_and(|kind| kind.takes_posts()))),
    };
    let who = request.extensions().get::<Who>().cloned();
    // Whoever puts these routes to use forgot to ask.
    let who = who.ok_or_else(Problem::bug)?;
    let page = route.page.clone();
    if page != Page::Processes {
        let refused = |refusal: policy::Refusal| Problem::forbidden(&refusal.0);
        let (kind, target) = (route.subject().kind, route.target.clone());
        let (policy, asks) = (Arc::clone(&app.policy), who.clone());
        // Lists are looked up in `/proc`, which may take its time.
        let may = move || policy.may(&asks, &target, &kind).map_err(refused);
        app.work(may).await?;
    }
    let asked = Asked::new(app, who, (route.target, want), request)?;
    match (page, kind) {
        (Page::Kind(_), Some(kind)) => kind.answer(asked).await,
        (Page::Moved, _) => Ok(answer::moved(&asked.path, asked.raw_query.as_deref())),
        (Page::Processes, _) => pages::processes(asked).await,
        (Page::Process, _) => pages::process(asked).await,
        (Page::Index | Page::Kind(_), _) => pages::index(asked).await,
    }
}
