//! A client that writes and reads HTTP/1.1 itself, so that nothing is added or mended on the way.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use ebpfprof::export::proto;
use flate2::read::GzDecoder;
use prost::Message;

/// No answer takes as long.
const PATIENCE: Duration = Duration::from_secs(30);

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// By names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

/// Sends the head of a request, and what follows it.
#[track_caller]
pub(crate) fn send(address: SocketAddr, head: &str, body: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!("{head}\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    stream
}

/// A request and its answer. `head` is the request line, and headers if need be.
#[track_caller]
pub(crate) fn ask(address: SocketAddr, head: &str) -> Answer {
    Answer::read(send(address, head, b""))
}

/// A GET and its answer.
#[track_caller]
pub(crate) fn get(address: SocketAddr, path: &str) -> Answer {
    ask(address, &format!("GET {path} HTTP/1.1"))
}

/// A POST and its answer.
#[track_caller]
pub(crate) fn post(address: SocketAddr, path: &str, body: &str) -> Answer {
    let head = format!("POST {path} HTTP/1.1\r\nContent-Length: {}", body.len());
    Answer::read(send(address, &head, body.as_bytes()))
}

impl Answer {
    #[track_caller]
    pub(crate) fn read(mut stream: TcpStream) -> Self {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no answer: {:?}", String::from_utf8_lossy(&bytes)));
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap();
        let headers: BTreeMap<String, String> = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let rest = &bytes[end + 4..];
        let is_chunked = headers
            .get("transfer-encoding")
            .is_some_and(|how| how == "chunked");
        Self {
            status: status.parse().unwrap(),
            body: if is_chunked {
                joined(rest)
            } else {
                rest.to_vec()
            },
            headers,
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    #[track_caller]
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// What must be so of a success of this type.
    #[track_caller]
    pub(crate) fn check_ok(&self, content_type: &str) {
        assert_eq!(self.status, 200, "{}", String::from_utf8_lossy(&self.body));
        assert_eq!(self.header("content-type"), Some(content_type));
        self.check_any();
        assert_eq!(self.header("x-go-pprof"), None);
    }

    /// What must be so of an error whose line begins with this.
    #[track_caller]
    pub(crate) fn check_error(&self, status: u16, start: &str) {
        assert_eq!(self.status, status, "{}", self.text());
        self.check_any();
        assert_eq!(
            self.header("content-type"),
            Some("text/plain; charset=utf-8")
        );
        assert_eq!(self.header("x-go-pprof"), Some("1"));
        assert_eq!(self.header("content-disposition"), None);
        let line = self.text().strip_suffix('\n').unwrap();
        assert!(!line.contains(char::is_control), "{line:?}");
        assert!(line.starts_with(start), "{line:?}");
    }

    /// What must be so of every answer.
    #[track_caller]
    fn check_any(&self) {
        assert_eq!(self.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(self.header("content-encoding"), None);
    }

    /// The body as a profile.
    #[track_caller]
    pub(crate) fn profile(&self) -> Profile {
        let mut bytes = Vec::new();
        GzDecoder::new(&self.body[..])
            .read_to_end(&mut bytes)
            .unwrap();
        Profile(proto::Profile::decode(&bytes[..]).unwrap())
    }
}

/// The pieces of a chunked body. Source: RFC 9112, section 7.1.
#[track_caller]
fn joined(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    // A body without pieces is the answer to a HEAD.
    while !rest.is_empty() {
        let end = rest.windows(2).position(|two| two == b"\r\n").unwrap();
        let size = std::str::from_utf8(&rest[..end]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            assert_eq!(&rest[end..], b"\r\n\r\n");
            break;
        }
        body.extend_from_slice(&rest[end + 2..][..size]);
        rest = &rest[end + 2 + size + 2..];
    }
    body
}

/// A profile that was read.
pub(crate) struct Profile(pub(crate) proto::Profile);

impl Profile {
    pub(crate) fn text(&self, at: i64) -> &str {
        &self.0.string_table[usize::try_from(at).unwrap()]
    }

    /// Types of values, as `kind/unit`.
    pub(crate) fn types(&self) -> Vec<String> {
        let types = self.0.sample_type.iter();
        types
            .map(|kind| format!("{}/{}", self.text(kind.r#type), self.text(kind.unit)))
            .collect()
    }

    pub(crate) fn comments(&self) -> Vec<&str> {
        self.0.comment.iter().map(|at| self.text(*at)).collect()
    }

    /// The stacks as text, outermost first, with their first values.
    pub(crate) fn stacks(&self) -> Vec<(String, i64)> {
        let name = |id: &u64| {
            let location = &self.0.location[usize::try_from(*id).unwrap() - 1];
            let function = usize::try_from(location.line[0].function_id).unwrap() - 1;
            self.text(self.0.function[function].name)
        };
        let samples = self.0.sample.iter();
        let mut stacks: Vec<(String, i64)> = samples
            .map(|sample| {
                let names: Vec<&str> = sample.location_id.iter().rev().map(name).collect();
                (names.join(";"), sample.value[0])
            })
            .collect();
        stacks.sort();
        stacks
    }
}
