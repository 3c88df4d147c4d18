//! What a request wants captured, and what becomes of it.

use std::{io, time::Duration};

use ebpfprof::{
    captures::{CaptureError, Target},
    profile::LabelKey,
    record::{RecordError, Times},
    server::policy::Limits,
    target::{Pid, TargetError},
};

use crate::{
    client::{ask, get},
    fake::{Course, Fake, Rules},
    server::Server,
};

fn own() -> Pid {
    Pid(std::process::id())
}

fn path(query: &str) -> String {
    format!("/pid/{}/debug/pprof/profile?{query}", own())
}

#[test]
fn a_request_says_whose_samples_how_long_and_how_many() {
    let server = Server::start();
    get(server.address, &path("seconds=2&hz=250&labels=comm,tid"))
        .check_ok("application/octet-stream");
    let wanted = server.captures.only();
    assert_eq!(wanted.target, Target::Process(own()));
    assert_eq!(wanted.duration, Duration::from_secs(2));
    assert_eq!(wanted.frequency_hz, 250);
    assert_eq!(wanted.labels, Some(vec![LabelKey::Comm, LabelKey::Tid]));
    assert_eq!(wanted.times, Times::LeftOut);
}

#[test]
fn names_are_given_the_time_that_readers_wait_and_one_second_less() {
    for seconds in [1, 5, 30, 300] {
        let server = Server::start();
        get(server.address, &path(&format!("seconds={seconds}")));
        let wanted = server.captures.only();
        let seconds = f64::from(seconds);
        let deadline = 1.5 * seconds + 5.0;
        assert_eq!(wanted.patience.as_secs_f64(), 0.5 * seconds + 4.0);
        assert!((wanted.duration + wanted.patience).as_secs_f64() <= deadline - 1.0);
        assert_eq!((wanted.frequency_hz, wanted.labels), (99, None));
    }
}

#[test]
fn what_is_ours_alone_is_refused_with_the_reason() {
    let server = Server::start();
    for (query, words) in [
        ("hz=0", "invalid value for \"hz\" - a whole number"),
        ("hz=x", "invalid value for \"hz\""),
        ("hz=1e9", "invalid value for \"hz\""),
        (
            "hz=5000",
            "invalid value for \"hz\" - a whole number of samples per second from 1 to 4999",
        ),
        (
            "labels=nobody",
            "invalid value for \"labels\" - labels are comm, pid,",
        ),
        (
            "format=pdf",
            "invalid value for \"format\" - it is one of pprof, folded,",
        ),
        ("last=x", "invalid value for \"last\""),
        ("last=60s&hz=99", "hz and last params are incompatible"),
        (
            "seconds=1&seconds=2",
            "the parameter 'seconds' is given twice",
        ),
    ] {
        get(server.address, &path(query)).check_error(400, words);
    }
    assert_eq!(server.captures.count(), 0);
}

#[test]
fn each_format_has_its_type_and_is_shown_or_kept() {
    for (format, content_type, kept, start) in [
        (
            "pprof",
            "application/octet-stream",
            Some("profile"),
            &b"\x1f\x8b"[..],
        ),
        (
            "folded",
            "text/plain; charset=utf-8",
            None,
            b"server;main 2\n",
        ),
        ("svg", "image/svg+xml", None, b"<?xml"),
        ("html", "text/html; charset=utf-8", None, b"<!doctype html>"),
        (
            "speedscope",
            "application/json",
            Some("profile.speedscope.json"),
            b"{",
        ),
        (
            "firefox",
            "application/gzip",
            Some("profile.firefox.json.gz"),
            b"\x1f\x8b",
        ),
        ("top", "text/plain; charset=utf-8", None, b""),
    ] {
        let server = Server::start();
        let answer = get(server.address, &path(&format!("seconds=1&format={format}")));
        answer.check_ok(content_type);
        let kept = kept.map(|name| format!("attachment; filename=\"{name}\""));
        assert_eq!(
            answer.header("content-disposition"),
            kept.as_deref(),
            "{format}"
        );
        assert!(
            answer.body.starts_with(start),
            "{format}: {:?}",
            answer.body.get(..40)
        );
        let needs_times = matches!(format, "speedscope" | "firefox");
        let is_kept = server.captures.only().times == Times::Kept;
        assert_eq!(is_kept, needs_times, "{format}");
    }
}

#[test]
fn a_profile_says_what_the_command_line_says_and_what_was_asked() {
    let server = Server::start();
    let profile = get(server.address, &path("seconds=3&hz=199")).profile();
    let comments = profile.comments();
    assert!(comments[0].starts_with("ebpfprof ") && comments[0].ends_with(" hz=99 kept=42 lost=1"));
    assert_eq!(comments[1], "#target: server-77");
    assert_eq!(comments[2], "#ticks 100 = due 43 + elsewhere 57 + missed 0");
    assert!(comments[3].starts_with("#due 43 = kept 42 + lost 1"));
    assert!(
        comments
            .iter()
            .any(|comment| comment.starts_with("#cost: "))
    );
    let request = format!("#request: pid {}, 3 s at 199 Hz", own());
    assert!(comments.contains(&request.as_str()));
    assert!(comments.contains(&"#note: said once"));
    // Reports show the first one alone.
    assert!(comments[1..].iter().all(|comment| comment.starts_with('#')));
}

#[test]
fn the_past_is_the_recorders() {
    let server = Server::start();
    // Readers add seconds of their own accord.
    let answer = get(server.address, &path("last=1m&seconds=30"));
    answer.check_ok("application/octet-stream");
    let recent = server.captures.recent.lock().unwrap();
    assert_eq!(recent[0].last, Duration::from_secs(60));
    assert_eq!(recent[0].patience, Duration::from_secs(4));
    assert!(server.captures.wanted.lock().unwrap().is_empty());
    let request = format!("#request: pid {}, the last 60 s", own());
    assert!(answer.profile().comments().contains(&request.as_str()));
}

#[test]
fn the_past_of_a_process_that_has_ended_is_there() {
    let server = Server::start();
    // No process has the highest id that there can be: the kernel gives out the one below it last.
    let gone = "/pid/4194304/debug/pprof/profile";
    get(server.address, &format!("{gone}?seconds=1"))
        .check_error(404, "pid 4194304: no such process");
    get(server.address, &format!("{gone}?last=60s")).check_ok("application/octet-stream");
    assert_eq!(server.captures.recent.lock().unwrap().len(), 1);
}

#[test]
fn a_process_that_ends_leaves_what_there_is() {
    let server = Server::with(Fake::of(Course::Ended), Rules::default());
    let answer = get(server.address, &path("seconds=5"));
    answer.check_ok("application/octet-stream");
    let comment = "#the target ended before the time was over";
    assert!(answer.profile().comments().contains(&comment));
}

#[track_caller]
fn check_failure(error: fn() -> CaptureError, status: u16, words: &str) {
    let server = Server::with(Fake::of(Course::Fails(error)), Rules::default());
    let answer = get(server.address, "/debug/pprof/profile?seconds=1");
    answer.check_error(status, words);
    let line = answer.text();
    assert!(line.contains("; try: "), "{line}");
    let retries = answer.header("retry-after").is_some();
    assert_eq!(retries, status == 503, "{line}");
}

fn maps(errno: i32) -> CaptureError {
    CaptureError::Record(RecordError::Maps {
        pid: Pid(77),
        source: io::Error::from_raw_os_error(errno),
    })
}

fn target(error: TargetError) -> CaptureError {
    CaptureError::Record(RecordError::Target(error))
}

#[test]
fn every_failure_says_why_and_what_to_do() {
    check_failure(
        || target(TargetError::NoSuchProcess { pid: Pid(77) }),
        404,
        "pid 77: no such process",
    );
    check_failure(|| maps(libc::ESRCH), 404, "pid 77: no such process");
    check_failure(
        || maps(libc::EACCES),
        403,
        "cannot read the mappings of process 77: Permission denied",
    );
    check_failure(
        || {
            target(TargetError::NoSuchContainer {
                id: "abcdef".to_owned(),
                mounts: Vec::new(),
            })
        },
        404,
        "no running container 'abcdef'",
    );
    check_failure(
        || {
            target(TargetError::AmbiguousContainer {
                id: "ab".to_owned(),
                candidates: vec!["abc".to_owned(), "abd".to_owned()],
            })
        },
        400,
        "'ab' is the start of 2 container IDs",
    );
    check_failure(
        || CaptureError::Record(RecordError::Wait(io::Error::other("nothing to wait for"))),
        500,
        "cannot wait for the target: nothing to wait for",
    );
    check_failure(
        || CaptureError::TooMany { most: 32 },
        503,
        "32 captures run already",
    );
    check_failure(|| CaptureError::Ended, 503, "the sampler has ended");
    check_failure(
        || CaptureError::NoRecorder,
        501,
        "the flight recorder is off",
    );
}

#[test]
fn a_panic_costs_one_request() {
    let server = Server::with(Fake::of(Course::Panics), Rules::default());
    for _ in 0..3 {
        let answer = get(server.address, "/debug/pprof/profile?seconds=1");
        answer.check_error(500, "a bug in ebpfprof ");
    }
    get(server.address, "/debug/pprof/").check_ok("text/html; charset=utf-8");
}

#[test]
fn an_answer_that_is_too_long_is_none() {
    let limits = Limits {
        answer_bytes: 100,
        ..Limits::default()
    };
    let rules = Rules {
        limits,
        ..Rules::default()
    };
    let server = Server::with(Fake::default(), rules);
    for kind in [
        "profile?seconds=1&format=html",
        "threads",
        "threads?debug=1",
    ] {
        let answer = get(server.address, &format!("/debug/pprof/{kind}"));
        answer.check_error(500, "the profile takes more than the 100 bytes");
    }
}

#[test]
fn bytes_that_a_client_would_compress_are_sent_as_they_are() {
    let server = Server::start();
    let head = format!(
        "GET {} HTTP/1.1\r\nAccept-Encoding: gzip, br",
        path("seconds=1&format=folded")
    );
    let answer = ask(server.address, &head);
    answer.check_ok("text/plain; charset=utf-8");
    assert_eq!(answer.text(), "server;main 2\nserver;main;work 40\n");
}
