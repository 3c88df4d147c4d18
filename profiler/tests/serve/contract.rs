//! Each row of what `net/http/pprof` does.

use crate::{
    client::{Answer, ask, get, post},
    server::Server,
};

const BINARY: &str = "application/octet-stream";
const PLAIN: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";

/// Our own process: it is there.
fn own(rest: &str) -> String {
    format!("/pid/{}/debug/pprof/{rest}", std::process::id())
}

#[track_caller]
fn check_seconds(query: &str, expected: Option<u64>) {
    let server = Server::start();
    let answer = get(server.address, &own(&format!("profile{query}")));
    match expected {
        Some(seconds) => {
            answer.check_ok(BINARY);
            assert_eq!(server.captures.only().duration.as_secs(), seconds);
        }
        None => {
            answer.check_error(
                400,
                "profile duration exceeds server's WriteTimeout\n".trim_end(),
            );
            assert_eq!(server.captures.count(), 0);
        }
    }
}

#[test]
fn the_root_without_a_slash_has_moved() {
    let server = Server::start();
    for (path, location) in [
        ("/debug/pprof", "/debug/pprof/"),
        ("/pid/1/debug/pprof?debug=1", "/pid/1/debug/pprof/?debug=1"),
        ("/comm/a%20b/debug/pprof", "/comm/a%20b/debug/pprof/"),
    ] {
        let answer = get(server.address, path);
        assert_eq!(answer.status, 301);
        assert_eq!(answer.header("location"), Some(location));
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    }
}

#[test]
fn the_index_is_a_table_of_counts_and_kinds_with_relative_links() {
    let server = Server::start();
    for path in ["/debug/pprof/".to_owned(), own("")] {
        let answer = get(server.address, &path);
        answer.check_ok(HTML);
        let page = answer.text();
        let places: Vec<usize> = ["cmdline", "profile", "symbol", "threads", "trace"]
            .map(|name| format!("<a href='{name}?debug=1'>{name}</a>"))
            .iter()
            .map(|link| {
                page.find(link)
                    .unwrap_or_else(|| panic!("no {link} in {page}"))
            })
            .collect();
        assert!(places.is_sorted());
        assert!(page.contains("Count") && page.contains("CPU profile."));
        // Our test program is none of Go's.
        assert!(!page.contains("'goroutine?debug=1'"));
    }
}

#[test]
fn a_profile_is_a_file_of_seconds_that_are_read_as_go_reads_them() {
    check_seconds("", Some(30));
    check_seconds("?seconds=", Some(30));
    check_seconds("?seconds=1", Some(1));
    check_seconds("?seconds=0", Some(30));
    check_seconds("?seconds=-5", Some(30));
    check_seconds("?seconds=1.5", Some(30));
    check_seconds("?seconds=junk", Some(30));
    check_seconds("?seconds=1e9", Some(30));
    check_seconds("?seconds=300", Some(300));
    check_seconds("?seconds=301", None);
    check_seconds("?seconds=1000000000", None);
}

#[test]
fn a_profile_has_the_headers_of_a_file_and_no_length_told_ahead() {
    let server = Server::start();
    let head = format!(
        "GET {} HTTP/1.1\r\nAccept-Encoding: gzip",
        own("profile?seconds=1")
    );
    let answer = ask(server.address, &head);
    answer.check_ok(BINARY);
    assert_eq!(
        answer.header("content-disposition"),
        Some("attachment; filename=\"profile\"")
    );
    assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
    assert_eq!(answer.header("content-length"), None);
    let profile = answer.profile();
    assert_eq!(profile.types(), ["samples/count", "cpu/nanoseconds"]);
    assert_eq!(
        profile.stacks(),
        [("main".to_owned(), 2), ("main;work".to_owned(), 40)]
    );
}

#[test]
fn no_execution_trace_is_made_up() {
    let server = Server::start();
    for path in ["/debug/pprof/trace".to_owned(), own("trace?seconds=1")] {
        get(server.address, &path).check_error(501, "no execution trace of ");
        assert!(get(server.address, &path).text().contains("format=firefox"));
    }
}

#[test]
fn a_snapshot_is_a_file_or_text() {
    let server = Server::start();
    for query in ["", "?debug=0", "?debug=abc", "?gc=1", "?seconds="] {
        let answer = get(server.address, &own(&format!("threads{query}")));
        answer.check_ok(BINARY);
        assert_eq!(
            answer.header("content-disposition"),
            Some("attachment; filename=\"threads\"")
        );
        assert_eq!(answer.profile().types(), ["threads/count"]);
    }
    for query in ["?debug=1", "?debug=2", "?debug=-1", "?gc=1&debug=1"] {
        let answer = get(server.address, &own(&format!("threads{query}")));
        answer.check_ok(PLAIN);
        assert_eq!(answer.header("content-disposition"), None);
        assert!(answer.text().starts_with("threads profile: total "));
    }
}

#[test]
fn what_changed_in_some_seconds_is_a_file_of_its_own() {
    let server = Server::start();
    let answer = get(server.address, &own("threads?seconds=1"));
    answer.check_ok(BINARY);
    assert_eq!(
        answer.header("content-disposition"),
        Some("attachment; filename=\"threads-delta\"")
    );
    let profile = answer.profile();
    assert_eq!(profile.types(), ["threads/count"]);
    let duration = profile.0.duration_nanos;
    assert!(
        (900_000_000..20_000_000_000).contains(&duration),
        "{duration}"
    );
}

#[test]
fn seconds_of_a_change_are_never_made_up() {
    let server = Server::start();
    let junk = "invalid value for \"seconds\" - must be a positive integer";
    let both = "seconds and debug params are incompatible";
    for (query, words) in [
        ("seconds=0", junk),
        ("seconds=-1", junk),
        ("seconds=1.5", junk),
        ("seconds=x&debug=1", junk),
        ("seconds=1&debug=1", both),
        (
            "seconds=1000",
            "profile duration exceeds server's WriteTimeout",
        ),
    ] {
        let answer = get(server.address, &own(&format!("threads?{query}")));
        answer.check_error(400, words);
        assert_eq!(answer.text(), format!("{words}\n"));
    }
}

#[test]
fn what_is_not_known_is_an_unknown_profile() {
    let server = Server::start();
    for name in [
        "heap",
        "allocs",
        "block",
        "mutex",
        "threadcreate",
        "goroutineleak",
        "goroutine",
        "nonsense",
        "heap?seconds=1",
        "delta_heap",
    ] {
        for path in [format!("/debug/pprof/{name}"), own(name)] {
            let answer = get(server.address, &path);
            answer.check_error(404, "Unknown profile");
            assert_eq!(answer.text(), "Unknown profile\n");
        }
    }
}

#[test]
fn many_profiles_of_one_process_are_made_at_one_time() {
    let server = Server::with(
        crate::fake::Fake::of(crate::fake::Course::Waits),
        crate::fake::Rules::default(),
    );
    let path = own("profile");
    let head = format!("GET {path} HTTP/1.1");
    let streams: Vec<_> = (0..5)
        .map(|_| crate::client::send(server.address, &head, b""))
        .collect();
    crate::server::wait_until(|| server.captures.count() == 5);
    drop(streams);
}

#[test]
fn a_command_line_has_nuls_between_its_arguments_and_none_at_the_end() {
    let server = Server::start();
    let mut child = std::process::Command::new("sh")
        .args(["-c", "read x", "two words", "--password=secret"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let answer = get(
        server.address,
        &format!("/pid/{}/debug/pprof/cmdline", child.id()),
    );
    answer.check_ok(PLAIN);
    assert_eq!(
        answer.text(),
        "sh\0-c\0read x\0two words\0--password=\u{2026}"
    );
    child.kill().unwrap();
    child.wait().unwrap();
    let whole = get(server.address, "/debug/pprof/cmdline");
    whole.check_ok(PLAIN);
    assert!(!whole.body.ends_with(b"\0") && !whole.body.ends_with(b"\n"));
}

#[test]
fn a_head_has_the_same_headers_at_once_and_no_body() {
    let server = Server::start();
    let headers = |answer: &Answer| {
        let mut headers = answer.headers.clone();
        headers.remove("date");
        // How a body comes is told with the body alone. Source: RFC 9112, section 6.1; Go too.
        headers.remove("transfer-encoding");
        headers
    };
    for path in [
        own("profile?seconds=1"),
        own("profile?seconds=1&format=svg"),
        own("threads"),
        own("threads?debug=1"),
        own("threads?seconds=1"),
        own("cmdline"),
        own("profile?seconds=1000"),
        "/debug/pprof/trace".to_owned(),
        "/pid/4194304/debug/pprof/profile".to_owned(),
    ] {
        let before = server.captures.count();
        let head = ask(server.address, &format!("HEAD {path} HTTP/1.1"));
        assert_eq!(server.captures.count(), before, "{path}");
        assert!(head.body.is_empty(), "{path}");
        let whole = get(server.address, &path);
        assert_eq!(head.status, whole.status, "{path}");
        assert_eq!(headers(&head), headers(&whole), "{path}");
    }
}

#[test]
fn a_client_that_goes_ends_its_capture_at_once() {
    let server = Server::with(
        crate::fake::Fake::of(crate::fake::Course::Waits),
        crate::fake::Rules::default(),
    );
    let waiting = || {
        server
            .captures
            .waiting
            .load(std::sync::atomic::Ordering::SeqCst)
    };
    let head = format!("GET {} HTTP/1.1", own("profile?seconds=300"));
    let stream = crate::client::send(server.address, &head, b"");
    crate::server::wait_until(|| waiting() == 1);
    drop(stream);
    crate::server::wait_until(|| waiting() == 0);
}

#[test]
fn only_what_reads_a_body_takes_posts() {
    let server = Server::start();
    post(server.address, "/debug/pprof/symbol", "0x1").check_ok(PLAIN);
    for path in ["/", "/debug/pprof/", "/debug/pprof/profile", "/debug/pprof"] {
        let answer = post(server.address, path, "x");
        answer.check_error(405, "this path answers GET, HEAD alone");
        assert_eq!(answer.header("allow"), Some("GET, HEAD"));
    }
    ask(server.address, "DELETE /debug/pprof/symbol HTTP/1.1").check_error(405, "this path");
}
