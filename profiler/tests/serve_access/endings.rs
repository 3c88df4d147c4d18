//! How the server ends: what runs is finished, or cut off when it takes too long.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use crate::{
    client::{PATIENCE, connect, read, wait_until},
    service::Service,
};

fn ask(service: &Service, path: &str) -> TcpStream {
    let mut stream = connect(service.address());
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    stream
}

#[test]
fn running_requests_are_finished_and_nobody_new_comes_in() {
    let service = Service::start(|_, _| {});
    let mut idle = connect(service.address());
    let mut slow = ask(&service, "/debug/pprof/slow");
    wait_until("the request runs", || service.counts.running() == 1);
    service.end(PATIENCE);
    let answer = read(&mut slow);
    assert_eq!((answer.status, &*answer.body), (200, "at last"));
    assert_eq!(idle.read(&mut [0; 16]).unwrap_or(0), 0);
    wait_until("the port is closed", || {
        TcpStream::connect(service.address()).is_err()
    });
}

#[test]
fn requests_that_run_for_too_long_are_cut_off() {
    let service = Service::start(|_, _| {});
    let mut waits = ask(&service, "/debug/pprof/wait");
    wait_until("the request runs", || service.counts.running() == 1);
    let started = Instant::now();
    service.end(Duration::from_millis(200));
    assert!(started.elapsed() >= Duration::from_millis(200));
    assert_eq!(service.counts.dropped(), 1);
    assert_eq!(read(&mut waits).status, 0);
    assert!(service.lines(1)[0].contains(" end=aborted"));
}

#[test]
fn an_answer_that_is_on_its_way_arrives_whole() {
    let service = Service::start(|_, _| {});
    let mut stream = ask(&service, "/debug/pprof/large");
    let reader = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        read(&mut stream)
    });
    wait_until("the request runs", || service.counts.dropped() == 1);
    service.end(PATIENCE);
    assert_eq!(
        reader.join().unwrap().body.len(),
        crate::service::LARGE_BYTES
    );
}
