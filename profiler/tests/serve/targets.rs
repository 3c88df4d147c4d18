//! Whose profile a path means, and who is not there.

use std::{path::PathBuf, process::Command};

use ebpfprof::{captures::Target, target::Pid};

use crate::{
    client::{ask, get},
    fake::{Fake, Rules},
    server::Server,
};

const BINARY: &str = "application/octet-stream";

#[track_caller]
fn check(path: &str, expected: &Target) {
    let server = Server::start();
    get(
        server.address,
        &format!("{path}/debug/pprof/profile?seconds=1"),
    )
    .check_ok(BINARY);
    assert_eq!(server.captures.only().target, *expected);
}

#[test]
fn the_target_stands_in_the_path_and_is_decoded_once() {
    check("", &Target::Host);
    let pid = std::process::id();
    check(&format!("/pid/{pid}"), &Target::Process(Pid(pid)));
    check("/comm/postgres", &Target::Comm("postgres".to_owned()));
    check(
        "/comm/kworker%2F0:1",
        &Target::Comm("kworker/0:1".to_owned()),
    );
    check("/comm/100%2525", &Target::Comm("100%25".to_owned()));
    check("/container/abcdef", &Target::Container("abcdef".to_owned()));
    let cgroup = PathBuf::from("/system.slice/a b.service");
    check(
        "/cgroup/system.slice/a%20b.service",
        &Target::Cgroup(cgroup.clone()),
    );
    check(
        "/cgroup/system.slice%2Fa%20b.service",
        &Target::Cgroup(cgroup),
    );
}

#[test]
fn what_is_no_name_is_refused_before_anything_runs() {
    let server = Server::start();
    for path in [
        "/pid/0",
        "/pid/abc",
        "/pid/4194305",
        "/pid/99999999999999999999999",
        "/comm/%00",
        "/comm/a-name-that-is-too-long",
        "/comm/%zz",
        "/container/a%20b",
        "/cgroup/../../etc",
        "/cgroup/a/%2e%2e/b",
        "/cgroup/a%2f..%2fb",
        "/cgroup/%00",
    ] {
        let answer = get(server.address, &format!("{path}/debug/pprof/profile"));
        answer.check_error(400, "");
    }
    let long = format!("/comm/{}/debug/pprof/", "x".repeat(20_000));
    get(server.address, &long).check_error(414, "the path is longer");
    get(server.address, "/nowhere").check_error(404, "no such page; try: /");
    get(server.address, "//debug/pprof/").check_error(404, "no such page");
    assert_eq!(server.captures.count(), 0);
}

#[test]
fn who_never_was_is_not_found_on_any_page() {
    let server = Server::start();
    for rest in [
        "",
        "/debug/pprof/",
        "/debug/pprof/profile",
        "/debug/pprof/cmdline",
        "/debug/pprof/symbol",
        "/debug/pprof/threads",
        "/debug/pprof/threads?debug=1",
        "/debug/pprof/threads?seconds=1",
    ] {
        let answer = get(server.address, &format!("/pid/4194304{rest}"));
        answer.check_error(404, "pid 4194304: no such process");
    }
    for path in [
        "/cgroup/nobody/here/debug/pprof/",
        "/container/abcdefabcdef/debug/pprof/threads",
    ] {
        get(server.address, path).check_error(404, "no ");
    }
    assert_eq!(server.captures.count(), 0);
    // A name that nobody has now may be somebody's later.
    get(server.address, "/comm/nobody-has-it/debug/pprof/").check_ok("text/html; charset=utf-8");
    get(server.address, "/comm/nobody-has-it/debug/pprof/cmdline")
        .check_error(404, "comm nobody-has-it: no such process");
}

#[test]
fn a_thread_is_sent_to_its_process() {
    let server = Server::start();
    let (sender, receiver) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        sender.send(rustix::thread::gettid()).unwrap();
        std::thread::park();
    });
    let tid = receiver.recv().unwrap().as_raw_nonzero();
    let answer = get(server.address, &format!("/pid/{tid}/debug/pprof/profile"));
    answer.check_error(404, &format!("{tid} is a thread of pid "));
    let advice = format!("; try: /pid/{}/debug/pprof/\n", std::process::id());
    assert!(answer.text().ends_with(&advice), "{}", answer.text());
    thread.thread().unpark();
    thread.join().unwrap();
}

#[test]
fn a_zombie_has_ended() {
    let server = Server::start();
    let mut child = Command::new("true").spawn().unwrap();
    let path = format!("/pid/{}/debug/pprof/profile?seconds=1", child.id());
    crate::server::wait_until(|| {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        stat.contains(") Z ")
    });
    get(server.address, &path).check_error(404, "pid ");
    child.wait().unwrap();
}

#[test]
fn who_may_not_have_it_reads_why() {
    let rules = Rules {
        denied: vec!["cmdline", "profile"],
        ..Rules::default()
    };
    let server = Server::with(Fake::default(), rules);
    for kind in ["cmdline", "profile?seconds=1"] {
        let answer = get(server.address, &format!("/debug/pprof/{kind}"));
        let kind = kind.split('?').next().unwrap();
        answer.check_error(403, &format!("uid:1000 may not have {kind} of this"));
    }
    let head = ask(server.address, "HEAD /debug/pprof/profile HTTP/1.1");
    assert_eq!(head.status, 403);
    let index = get(server.address, "/debug/pprof/");
    assert!(!index.text().contains("cmdline?debug=1"));
    assert!(index.text().contains("threads?debug=1"));
    assert_eq!(server.captures.count(), 0);
}
