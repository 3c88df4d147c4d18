//! The pages of pprof's own web server.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    time::Duration,
};

use rustix::process::Signal;

use crate::{
    program::{PATIENCE, Running, wait_until},
    reader::{Age, Reader, spoken},
    subject::{Code, Subject},
};

/// An answer.
struct Page {
    status: u32,
    body: Vec<u8>,
}

/// Shows a profile on every page.
#[track_caller]
pub(crate) fn check(reader: &Reader, subject: &Subject, profile: &Path) {
    let address = free_address();
    let mut pprof = reader.command();
    pprof.arg(format!("-http={address}")).arg("-no_browser");
    let server = Running::start(pprof.arg(profile));
    wait_until("pprof serves", PATIENCE, || {
        TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
    });
    let get = |path: &str| get(address, path);
    let escaped = [('\\', "%5C"), ('[', "%5B"), (']', "%5D")]
        .into_iter()
        .fold(subject.hot.to_owned(), |text, (c, code)| {
            text.replace(c, code)
        });
    let about_hot = |page: &str| format!("/ui/{page}?f={escaped}");
    let pages = ["/", "/ui/flamegraph", "/ui/top"].map(str::to_owned);
    // Before 2025 the call graph was the first page, without a name.
    let graph = match reader.age {
        Age::Old => "/ui/",
        Age::New => "/ui/graph",
    };
    let more = [graph.to_owned(), about_hot("peek")];
    let source = get(&about_hot("source"));
    check_source(reader, subject, &source);
    for path in pages.iter().chain(&more) {
        let page = get(path);
        let text = String::from_utf8_lossy(&page.body);
        assert!(
            page.status == 200 && text.contains(&subject.hot_name()),
            "{:?} pprof, {path}: {} {text}",
            reader.age,
            page.status
        );
    }
    let download = get("/ui/download");
    assert_eq!(download.status, 200);
    assert!(download.body.starts_with(b"\x1f\x8b"), "it is a profile");
    let disasm = get(&about_hot("disasm"));
    check_disasm(reader, subject, &disasm);
    server.signal(Signal::KILL);
    check_said(subject, &server.finish().stderr);
}

#[track_caller]
fn check_source(reader: &Reader, subject: &Subject, page: &Page) {
    let text = String::from_utf8_lossy(&page.body);
    let is_wanted = subject.source_view.contains(&reader.age);
    assert!(
        page.status == 200 && (!is_wanted || text.contains(&subject.hot_name())),
        "{:?} pprof, {}: {} {text}",
        reader.age,
        subject.name,
        page.status
    );
}

#[track_caller]
fn check_disasm(reader: &Reader, subject: &Subject, page: &Page) {
    let expected: &[u32] = match (subject.code, reader.age) {
        (Code::Fixed, _) | (Code::Relocated, Age::New) => &[200],
        // As for `-disasm`.
        (Code::Relocated, Age::Old) => &[200, 400],
        (Code::None, _) => &[400],
    };
    assert!(
        expected.contains(&page.status),
        "{}: {}",
        subject.name,
        page.status
    );
}

/// What the server may say: where it is, and what it does not find. It looks for the kernel's code in
/// a file of the kernel's name.
#[track_caller]
fn check_said(subject: &Subject, stderr: &str) {
    let not_found = format!("no matches found for regexp {}", subject.hot);
    for line in spoken(stderr) {
        let is_allowed = line.starts_with("Serving web UI on http://127.0.0.1:")
            || (subject.code != Code::Fixed && line.replace("regexp:", "regexp") == not_found)
            || (subject.name == "dd"
                && line == "open [kernel.kallsyms]: no such file or directory");
        assert!(is_allowed, "{}: {line}", subject.name);
    }
}

/// An address that was free a moment ago.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap()
}

/// Asks for a page, and where that leads.
#[track_caller]
fn get(address: SocketAddr, path: &str) -> Page {
    let mut path = path.to_owned();
    for _ in 0..5 {
        let (page, next) = get_once(address, &path);
        match next {
            Some(next) => path = absolute(&path, &next),
            None => return page,
        }
    }
    panic!("{path} leads on and on");
}

/// Where a link on a page leads.
fn absolute(page: &str, link: &str) -> String {
    match page.rsplit_once('/') {
        Some((folder, _)) if !link.starts_with('/') => format!("{folder}/{link}"),
        _ => link.to_owned(),
    }
}

fn get_once(address: SocketAddr, path: &str) -> (Page, Option<String>) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // To a client of version 1.0 an answer comes in one piece.
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer
        .windows(4)
        .position(|bytes| bytes == b"\r\n\r\n")
        .unwrap_or_else(|| panic!("{path}: no answer"));
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let mut fields = head.lines().filter_map(|line| line.split_once(": "));
    let next = fields.find(|(name, _)| name.eq_ignore_ascii_case("location"));
    let page = Page {
        status: status.unwrap(),
        body: answer.split_off(end + 4),
    };
    (page, next.map(|(_, path)| path.to_owned()))
}
