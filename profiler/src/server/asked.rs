//! A request that was read: who asks, for what, and how.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes, to_bytes},
    http::{HeaderMap, Request, header},
};

use super::{App, Scheme, policy::Who, problem::Problem, query::Query};
use crate::{
    captures::Target,
    target::{self, CgroupFilter, Pid, Targets, UserStacks},
};

/// Most bytes of a request's body: some 50,000 addresses.
const MOST_BODY_BYTES: usize = 1 << 20;
/// How long a body may take to come.
const BODY_PATIENCE: Duration = Duration::from_secs(10);

/// What of an answer is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    /// All of it.
    Whole,
    /// What it would be, at once.
    Head,
}

/// A request.
pub(super) struct Asked {
    pub(super) app: Arc<App>,
    pub(super) who: Who,
    pub(super) target: Target,
    pub(super) want: Want,
    /// As it stands in the request.
    pub(super) path: String,
    pub(super) raw_query: Option<String>,
    pub(super) query: Query,
    pub(super) scheme: Scheme,
    headers: HeaderMap,
    body: Body,
}

impl Asked {
    pub(super) fn new(
        app: Arc<App>,
        who: Who,
        (target, want): (Target, Want),
        request: Request<Body>,
    ) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let raw_query = parts.uri.query().map(str::to_owned);
        Ok(Self {
            app,
            who,
            target,
            want,
            path: parts.uri.path().to_owned(),
            query: Query::read(raw_query.as_deref().unwrap_or_default())?,
            raw_query,
            scheme: parts.extensions.get().copied().unwrap_or_default(),
            headers: parts.headers,
            body,
        })
    }

    /// The body, which is short.
    pub(super) async fn body(&mut self) -> Result<Bytes, Problem> {
        let body = std::mem::take(&mut self.body);
        match tokio::time::timeout(BODY_PATIENCE, to_bytes(body, MOST_BODY_BYTES)).await {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(_)) => Err(Problem::bad(format!(
                "the body of the request is broken, or longer than {MOST_BODY_BYTES} bytes: send it in parts"
            ))),
            Err(_) => Err(Problem::slow_body(BODY_PATIENCE)),
        }
    }

    /// The address that the client knows us by, if nothing but one stands there: it is shown in
    /// commands to copy.
    pub(super) fn address(&self) -> Option<&str> {
        let host = self.headers.get(header::HOST)?.to_str().ok()?;
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]_".contains(&byte);
        (!host.is_empty() && host.bytes().all(is_plain)).then_some(host)
    }

    /// Makes sure that the target is there.
    pub(super) fn check_target(&self) -> impl Future<Output = Result<(), Problem>> + Send + use<> {
        // Of the request nothing is kept meanwhile.
        let (app, target) = (Arc::clone(&self.app), self.target.clone());
        async move {
            match target {
                Target::Host => Ok(()),
                target => app.work(move || found(&target).map(drop)).await,
            }
        }
    }
}

/// What a target means on this host, now.
pub(super) fn found(target: &Target) -> Result<Targets, Problem> {
    let spec = target.spec();
    target::resolve(&spec, UserStacks::No, CgroupFilter::Kernel)
        .map_err(|error| Problem::of_target(&error))
}

/// The process that stands for a target, if one does.
pub(super) fn main_process(target: &Target) -> Result<Option<Pid>, Problem> {
    let targets = found(target)?;
    Ok(targets.main.or_else(|| targets.pids.first().copied()))
}

/// A target in words.
pub(super) fn words(target: &Target) -> String {
    match target {
        Target::Host => "the whole host".to_owned(),
        Target::Process(pid) => format!("pid {pid}"),
        Target::Comm(name) => format!("comm {name}"),
        Target::Cgroup(path) => format!("cgroup {}", path.display()),
        Target::Container(id) => format!("container {id}"),
    }
}
