//! Requests that would cost too much, or that never end.

use std::{sync::atomic::Ordering, time::Instant};

use ebpfprof::server::policy::Limits;

use crate::{
    client::{get, post, send},
    fake::{Course, Fake, Rules},
    server::{Server, wait_until},
};

#[test]
fn no_more_captures_run_than_may_and_one_that_ends_makes_room() {
    let limits = Limits {
        captures: 3,
        ..Limits::default()
    };
    let rules = Rules {
        limits,
        ..Rules::default()
    };
    let server = Server::with(Fake::of(Course::Waits), rules);
    let waiting = || server.captures.waiting.load(Ordering::SeqCst);
    let path = "/debug/pprof/profile?seconds=300";
    let head = format!("GET {path} HTTP/1.1");
    let mut streams: Vec<_> = (0..3).map(|_| send(server.address, &head, b"")).collect();
    wait_until(|| waiting() == 3);
    let answer = get(server.address, path);
    answer.check_error(503, "3 captures run already");
    assert_eq!(answer.header("retry-after"), Some("1"));
    // A difference takes as long.
    let difference = get(server.address, "/debug/pprof/threads?seconds=1");
    difference.check_error(503, "3 captures run already");
    get(server.address, "/debug/pprof/threads?debug=1").check_ok("text/plain; charset=utf-8");
    drop(streams.pop());
    wait_until(|| waiting() == 2);
    streams.push(send(server.address, &head, b""));
    wait_until(|| waiting() == 3);
}

#[test]
fn limits_are_those_of_the_moment_and_of_the_policy() {
    let limits = Limits {
        duration: std::time::Duration::from_secs(10),
        frequency_hz: 50,
        ..Limits::default()
    };
    let rules = Rules {
        limits,
        ..Rules::default()
    };
    let server = Server::with(Fake::default(), rules);
    // What is asked for by default is more than may be: that is said, as Go says it.
    let words = "profile duration exceeds server's WriteTimeout";
    get(server.address, "/debug/pprof/profile").check_error(400, words);
    get(server.address, "/debug/pprof/profile?seconds=11").check_error(400, words);
    get(server.address, "/debug/pprof/profile?seconds=1&hz=51").check_error(400, "invalid value");
    get(server.address, "/debug/pprof/profile?seconds=10").check_ok("application/octet-stream");
    assert_eq!(server.captures.only().frequency_hz, 50);
}

#[test]
fn a_body_is_read_to_a_length() {
    let server = Server::start();
    let body = "0x1+".repeat(300_000);
    let answer = post(server.address, "/debug/pprof/symbol", &body);
    answer.check_error(400, "the body of the request is broken, or longer than");
    let body = "0x1+".repeat(20_000);
    let answer = post(server.address, "/debug/pprof/symbol", &body);
    answer.check_error(400, "more than 16384 addresses");
}

#[test]
fn a_query_is_read_to_a_length() {
    let server = Server::start();
    let long = format!("/debug/pprof/profile?x={}", "y".repeat(5000));
    get(server.address, &long).check_error(400, "the query is longer");
    let many: Vec<String> = (0..100).map(|n| format!("p{n}=1")).collect();
    let many = format!("/debug/pprof/profile?{}", many.join("&"));
    get(server.address, &many).check_error(400, "more than 32 parameters");
}

#[test]
fn many_at_the_first_page_look_at_the_host_together() {
    let server = Server::start();
    let since = Instant::now();
    let address = server.address;
    let clients: Vec<_> = (0..20)
        .map(|_| std::thread::spawn(move || get(address, "/").check_ok("text/html; charset=utf-8")))
        .collect();
    clients
        .into_iter()
        .for_each(|client| client.join().unwrap());
    // Half a second each would be ten.
    assert!(since.elapsed().as_secs() < 9);
}
