//! Answers: their headers and their bodies.

use std::{
    convert::Infallible,
    io::{self, BufWriter, Write},
    pin::Pin,
    task::{Context, Poll},
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderName, HeaderValue, Response, StatusCode, header},
};
use hyper::body::Frame;

use super::problem::Problem;
use crate::export::Format;

/// Bytes that are sent at a time.
const PIECE_BYTES: usize = 64 << 10;

pub(super) const PLAIN: &str = "text/plain; charset=utf-8";
const BINARY: &str = "application/octet-stream";

/// What a browser may do with a flame graph: run its script, and load nothing.
const GRAPH_POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'";

/// What is told of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    content_type: &'static str,
    /// The name of the file to keep it in; `None` to show it.
    file: Option<String>,
    policy: Option<&'static str>,
}

impl Kept {
    /// Text to read.
    pub(super) fn text() -> Self {
        Self {
            content_type: PLAIN,
            file: None,
            policy: None,
        }
    }

    /// A profile in a format. `name` is what pprof's own files are called.
    pub(super) fn profile(format: Format, name: &str) -> Self {
        let file = |name: String| Some(name);
        let named = |extension: &str| file(format!("{name}.{extension}"));
        let (content_type, file, policy) = match format {
            Format::Pprof => (BINARY, file(name.to_owned()), None),
            Format::Folded | Format::Top => (PLAIN, None, None),
            Format::FlameGraph => ("image/svg+xml", None, Some(GRAPH_POLICY)),
            Format::Html => ("text/html; charset=utf-8", None, None),
            Format::Speedscope => ("application/json", named(format.extension()), None),
            // It is a file of that kind, and not one that was compressed on the way.
            Format::Firefox => ("application/gzip", named(format.extension()), None),
        };
        Self {
            content_type,
            file,
            policy,
        }
    }

    /// The answer with these bytes. How many there are is not told, so that one without any has the
    /// same headers.
    pub(super) fn with(&self, bytes: Bytes) -> Response<Body> {
        let mut answer = Response::new(Body::new(Pieces(bytes)));
        set(&mut answer, header::CONTENT_TYPE, self.content_type);
        if let Some(file) = &self.file {
            let value = format!("attachment; filename=\"{file}\"");
            set(&mut answer, header::CONTENT_DISPOSITION, &value);
        }
        if let Some(policy) = self.policy {
            set(&mut answer, header::CONTENT_SECURITY_POLICY, policy);
        }
        answer
    }

    /// The answer to those who want its headers alone.
    pub(super) fn head(&self) -> Response<Body> {
        self.with(Bytes::new())
    }
}

/// Some lines of text.
pub(super) fn text(text: impl Into<Body>) -> Response<Body> {
    let mut answer = Response::new(text.into());
    set(&mut answer, header::CONTENT_TYPE, PLAIN);
    answer
}

/// A page of ours, with what a browser may do on it.
pub(super) fn page(text: String, policy: &str) -> Response<Body> {
    let mut answer = Response::new(Body::from(text));
    set(
        &mut answer,
        header::CONTENT_TYPE,
        "text/html; charset=utf-8",
    );
    set(&mut answer, header::CONTENT_SECURITY_POLICY, policy);
    set(&mut answer, header::REFERRER_POLICY, "no-referrer");
    set(&mut answer, header::CACHE_CONTROL, "no-store");
    answer
}

/// Sends a client to the same path with a slash behind it.
pub(super) fn moved(path: &str, query: Option<&str>) -> Response<Body> {
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    let mut answer = text("moved to the same path with a slash behind it\n");
    *answer.status_mut() = StatusCode::MOVED_PERMANENTLY;
    set(&mut answer, header::LOCATION, &format!("{path}/{query}"));
    answer
}

/// Sets a header. What cannot stand in one is left out.
pub(super) fn set(answer: &mut Response<Body>, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        answer.headers_mut().insert(name, value);
    }
}

/// What `write` writes, if it is not longer than an answer may be.
pub(super) fn written(
    most_bytes: usize,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<Bytes, Problem> {
    let bounded = Bounded {
        bytes: Vec::new(),
        most_bytes,
    };
    let mut out = BufWriter::with_capacity(PIECE_BYTES, bounded);
    let result = write(&mut out).and_then(|()| out.flush());
    match (result, out.into_parts().0) {
        (Ok(()), bounded) => Ok(bounded.bytes.into()),
        // Nothing else refuses to be written to memory.
        (Err(_), _) => Err(Problem::too_long(most_bytes)),
    }
}

/// Memory that takes so much and no more.
struct Bounded {
    bytes: Vec<u8>,
    most_bytes: usize,
}

impl Write for Bounded {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        if buffer.len() > self.most_bytes - self.bytes.len() {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        self.bytes.extend_from_slice(buffer);
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A body of unknown length.
struct Pieces(Bytes);

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.0.is_empty() {
            return Poll::Ready(None);
        }
        let bytes = PIECE_BYTES.min(self.0.len());
        Poll::Ready(Some(Ok(Frame::data(self.0.split_to(bytes)))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_as_long_as_it_may_be_and_no_longer() {
        let of = |bytes: usize| written(100_000, |out| out.write_all(&vec![b'x'; bytes]));
        assert_eq!(of(100_000).unwrap().len(), 100_000);
        assert!(of(100_001).is_err());
        assert_eq!(of(0).unwrap().len(), 0);
    }
}
