//! A request: let in, answered, and told about at its end, however that comes.

use std::{
    convert::Infallible,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use axum::{body::Body, response::Response};
use http_body_util::Limited;
use hyper::{
    Method, Request,
    body::{Body as HttpBody, Bytes, Frame, Incoming, SizeHint},
    header,
    http::request,
    service::Service,
};
use jiff::Timestamp;
use tokio::time::{Sleep, sleep};
use tower::ServiceExt;

use super::{Server, seats::Seat};
use crate::server::{
    access::{Asked, Peer},
    audit::{Cost, Ending, Line, named_in},
    config::Limits,
};

/// Most of an answer that is handed over at one time.
const PIECE_BYTES: usize = 64 << 10;

/// The requests of a connection, one after another.
#[derive(Clone)]
pub(super) struct Requests {
    pub(super) server: Arc<Server>,
    pub(super) seat: Arc<Seat>,
    pub(super) peer: Peer,
    pub(super) limits: Limits,
}

impl Service<Request<Incoming>> for Requests {
    type Response = Response<Told>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Told>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let requests = self.clone();
        let (mut parts, body) = request.into_parts();
        let mut story = requests.begin(&parts);
        Box::pin(async move {
            let access = requests.server.gate.now();
            let asked = Asked {
                version: parts.version,
                uri: &parts.uri,
                headers: &parts.headers,
            };
            let answer = match access.admit(&requests.peer, &asked) {
                Err(refused) => refused,
                Ok(who) => {
                    story.line.who = who.to_string();
                    parts.extensions.insert(who);
                    parts.extensions.insert(requests.peer.clone());
                    let body = Timed::new(body, requests.limits.request_timeout);
                    let body = Body::new(Limited::new(body, requests.limits.body));
                    let request = Request::from_parts(parts, body);
                    let Ok(answer) = requests.server.routes.clone().oneshot(request).await;
                    answer
                }
            };
            Ok(story.answered(answer))
        })
    }
}

impl Requests {
    fn begin(&self, parts: &request::Parts) -> Story {
        self.seat.work();
        let (target, kind) = named_in(parts.uri.path());
        let agent = parts.headers.get(header::USER_AGENT);
        let agent = agent.map(|agent| String::from_utf8_lossy(agent.as_bytes()).into_owned());
        Story {
            requests: self.clone(),
            started: Instant::now(),
            is_head: parts.method == Method::HEAD,
            line: Line {
                time: Timestamp::now(),
                who: "?".to_owned(),
                peer: self.peer.to_string(),
                method: parts.method.to_string(),
                target: target.to_owned(),
                kind: kind.to_owned(),
                status: None,
                duration: Duration::ZERO,
                bytes: 0,
                cost: None,
                agent: agent.unwrap_or_default(),
                ending: Ending::Aborted,
            },
        }
    }
}

/// What becomes of a request. It is told when it is dropped.
struct Story {
    requests: Requests,
    started: Instant,
    is_head: bool,
    line: Line,
}

impl Story {
    fn answered(mut self, answer: Response) -> Response<Told> {
        self.line.status = Some(answer.status().as_u16());
        self.line.cost = answer.extensions().get::<Cost>().copied();
        // Nobody asks for the body then.
        if self.is_head || answer.body().is_end_stream() {
            self.line.ending = Ending::Whole;
        }
        answer.map(|body| Told {
            body,
            rest: Bytes::new(),
            story: self,
        })
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        self.line.duration = self.started.elapsed();
        let server = &self.requests.server;
        server.metrics.count(self.line.status, &self.line.kind);
        server.audit.write(&self.line);
        self.requests.seat.answered();
    }
}

/// The body of an answer, in pieces: hyper takes a piece when there is room, so what was handed over
/// has left, but for little.
pub(super) struct Told {
    body: Body,
    /// What is left of a frame.
    rest: Bytes,
    story: Story,
}

impl HttpBody for Told {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let told = self.get_mut();
        if told.rest.is_empty() {
            let frame = ready!(Pin::new(&mut told.body).poll_frame(cx));
            match frame.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => told.rest = data,
                Some(Ok(Err(other))) => return Poll::Ready(Some(Ok(other))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => {
                    told.story.line.ending = Ending::Whole;
                    return Poll::Ready(None);
                }
            }
        }
        let piece = told.rest.split_to(told.rest.len().min(PIECE_BYTES));
        told.story.line.bytes += u64::try_from(piece.len()).unwrap_or(u64::MAX);
        if told.is_end_stream() {
            told.story.line.ending = Ending::Whole;
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = u64::try_from(self.rest.len()).unwrap_or(u64::MAX);
        let body = self.body.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(body.lower().saturating_add(rest));
        if let Some(upper) = body.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint
    }
}

/// The body of a request, which comes within a time or not at all.
struct Timed {
    body: Incoming,
    limit: Duration,
    clock: Option<Pin<Box<Sleep>>>,
}

impl Timed {
    fn new(body: Incoming, limit: Duration) -> Self {
        Self {
            body,
            limit,
            clock: None,
        }
    }
}

impl HttpBody for Timed {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let timed = self.get_mut();
        if let Poll::Ready(frame) = Pin::new(&mut timed.body).poll_frame(cx) {
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let limit = timed.limit;
        let clock = timed.clock.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(clock.as_mut().poll(cx));
        let late = io::Error::new(io::ErrorKind::TimedOut, "the request does not come");
        Poll::Ready(Some(Err(late.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
