//! Clients that send too much, too slowly, too often, or take nothing.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use crate::{
    client::{connect, read, send, wait_until},
    service::Service,
};

const SHORT: Duration = Duration::from_millis(300);
const PROFILE: &str = "/debug/pprof/profile";

#[test]
fn huge_headers_are_refused() {
    let service = Service::start(|config, _| config.limits.header = 8 << 10);
    assert_eq!(
        service
            .get(PROFILE, &format!("X: {}\r\n", "x".repeat(4000)))
            .status,
        200
    );
    let one = format!("X: {}\r\n", "x".repeat(100_000));
    assert_eq!(service.get(PROFILE, &one).status, 431);
    let many: String = (0..5000).map(|n| format!("X-{n}: y\r\n")).collect();
    assert_eq!(service.get(PROFILE, &many).status, 431);
    let path = format!("{PROFILE}?{}", "x".repeat(100_000));
    let answer = service.get(&path, "");
    assert!([414, 431].contains(&answer.status), "{}", answer.head);
    assert_eq!(service.get(PROFILE, "").status, 200);
}

#[test]
fn huge_bodies_are_refused() {
    let service = Service::start(|config, _| config.limits.body = 1000);
    let post = |length: usize| {
        let request = format!(
            "POST /debug/pprof/length HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{}",
            "x".repeat(length)
        );
        send(service.address(), &request).status
    };
    assert_eq!(post(1000), 200);
    assert_eq!(post(1001), 413);
}

/// How long a connection lives that sends this and then a byte now and then.
fn life_of(service: &Service, request: &str) -> Duration {
    let started = Instant::now();
    let mut stream = connect(service.address());
    stream.set_read_timeout(Some(SHORT / 10)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut part = [0; 512];
    loop {
        let gone = stream.write_all(b"x").is_err();
        match stream.read(&mut part) {
            Ok(0) => return started.elapsed(),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {
                return started.elapsed();
            }
            _ if gone => return started.elapsed(),
            _ => assert!(started.elapsed() < SHORT * 100, "it lives on"),
        }
    }
}

#[test]
fn a_request_that_comes_byte_by_byte_is_cut_off() {
    let service = Service::start(|config, _| config.limits.request_timeout = SHORT);
    for request in [
        "",
        "GET /debug/pprof/profile HTTP/1.1\r\nHost: local",
        "POST /debug/pprof/length HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\n",
    ] {
        let life = life_of(&service, request);
        assert!(life >= SHORT / 2, "{request}: {life:?}");
    }
    // A connection that was of use is closed too when it is not any more.
    let mut stream = connect(service.address());
    write!(stream, "GET {PROFILE} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    assert_eq!(read(&mut stream).status, 200);
}

#[test]
fn the_answer_is_dropped_when_its_client_goes_away() {
    let service = Service::start(|_, _| {});
    let mut stream = connect(service.address());
    write!(
        stream,
        "GET /debug/pprof/wait HTTP/1.1\r\nHost: localhost\r\n\r\n"
    )
    .unwrap();
    wait_until("the request runs", || service.counts.running() == 1);
    drop(stream);
    wait_until("it is dropped", || service.counts.dropped() == 1);
    let lines = service.lines(1);
    assert!(lines[0].contains("kind=wait status=- "), "{}", lines[0]);
    assert!(lines[0].contains(" end=aborted"), "{}", lines[0]);
}

#[test]
fn a_client_that_reads_nothing_is_cut_off() {
    let service = Service::start(|config, _| config.limits.write_timeout = SHORT);
    let mut stream = connect(service.address());
    write!(
        stream,
        "GET /debug/pprof/endless HTTP/1.1\r\nHost: localhost\r\n\r\n"
    )
    .unwrap();
    wait_until("the answer is dropped", || service.counts.dropped() == 1);
    let lines = service.lines(1);
    assert!(
        lines[0].contains("kind=endless status=200 "),
        "{}",
        lines[0]
    );
    assert!(lines[0].contains(" end=aborted"), "{}", lines[0]);
}

#[test]
fn many_connections_that_send_nothing_keep_nobody_out() {
    let service = Service::start(|config, _| config.limits.connections = 50);
    let mut busy = connect(service.address());
    write!(
        busy,
        "GET /debug/pprof/wait HTTP/1.1\r\nHost: localhost\r\n\r\n"
    )
    .unwrap();
    wait_until("a request runs", || service.counts.running() == 1);
    let mut idle: Vec<TcpStream> = Vec::new();
    for number in 0..200 {
        idle.push(connect(service.address()));
        if number % 50 == 0 {
            assert_eq!(service.get(PROFILE, "").status, 200);
        }
    }
    assert_eq!(service.get(PROFILE, "").status, 200);
    assert_eq!(service.counts.running(), 1, "one that is answered stays");
    // The others went, the oldest first.
    let oldest = &mut idle[0];
    assert_eq!(oldest.read(&mut [0; 16]).unwrap_or(0), 0);
}

#[test]
fn many_requests_at_one_time_are_answered() {
    let service = Service::start(|_, _| {});
    let address = service.address();
    let mut clients: Vec<TcpStream> = (0..200).map(|_| connect(address)).collect();
    for client in &mut clients {
        write!(
            client,
            "GET /debug/pprof/slow HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
    }
    for client in &mut clients {
        assert_eq!(read(client).body, "at last");
    }
}
