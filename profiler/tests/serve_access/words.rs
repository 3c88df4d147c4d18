//! Passwords, tokens, hosts, lists; and the line that each request leaves.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use base64::{Engine, engine::general_purpose::STANDARD};
use ebpfprof::server::config::Config;

use crate::{client::send, service::Service};

const PROFILE: &str = "/debug/pprof/profile";

pub(crate) fn secret(folder: &Path, name: &str, text: &str) -> std::path::PathBuf {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

fn guarded(config: &mut Config, folder: &Path) {
    config.auth.token_file = Some(secret(folder, "tokens", "alloy:t0ken\n"));
    config.auth.password_file = Some(secret(folder, "passwords", "me:pass\n"));
    config.auth.anonymous_loopback = false;
}

fn basic(pair: &str) -> String {
    format!("Authorization: Basic {}\r\n", STANDARD.encode(pair))
}

#[test]
fn a_token_or_a_password_opens_and_nothing_else_does() {
    let service = Service::start(guarded);
    let check = |headers: &str, status: u16, body: &str| {
        let answer = service.get(PROFILE, headers);
        assert_eq!((answer.status, &*answer.body), (status, body), "{headers}");
        let is_asked = answer.has("www-authenticate: basic realm=");
        assert_eq!(is_asked, status == 401);
        if status == 401 {
            assert!(answer.has("x-go-pprof: 1\r\n"), "{}", answer.head);
            assert!(answer.has("content-type: text/plain; charset=utf-8\r\n"));
        }
    };
    check("Authorization: Bearer t0ken\r\n", 200, "for alloy");
    check(&basic("me:pass"), 200, "for me");
    check("", 401, "a password or a token is needed\n");
    check(
        "Authorization: Bearer wrong\r\n",
        401,
        "wrong password or token\n",
    );
    check(&basic("me:wrong"), 401, "wrong password or token\n");
    check(&basic("you:pass"), 401, "wrong password or token\n");
}

#[test]
fn a_password_opens_for_post_too() {
    let service = Service::start(guarded);
    let request = format!(
        "POST /debug/pprof/length HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 5\r\n{}\r\n0xabc",
        basic("me:pass")
    );
    let answer = send(service.address(), &request);
    assert_eq!((answer.status, &*answer.body), (200, "5"));
    let refused = send(service.address(), &request.replace("Basic ", "Basic x"));
    assert_eq!(refused.status, 401);
}

#[test]
fn this_host_needs_nothing_by_default() {
    let service = Service::start(|_, _| {});
    assert_eq!(service.get(PROFILE, "").body, "for -");
}

#[test]
fn a_page_that_calls_us_by_its_own_name_gets_nothing() {
    let service = Service::start(|_, _| {});
    let ask = |host: &str| {
        let request = format!("GET {PROFILE} HTTP/1.1\r\n{host}Connection: close\r\n\r\n");
        send(service.address(), &request).status
    };
    assert_eq!(ask("Host: localhost:6060\r\n"), 200);
    assert_eq!(ask("Host: 192.0.2.7\r\n"), 200);
    assert_eq!(ask("Host: rebound.example.org\r\n"), 421);
    assert_eq!(ask("Host: localhost\r\nHost: rebound.example.org\r\n"), 400);
    assert_eq!(ask(""), 400);
    let absolute = format!(
        "GET http://rebound.example.org{PROFILE} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    );
    assert_eq!(send(service.address(), &absolute).status, 421);
}

#[test]
fn what_is_denied_is_refused_with_the_reason() {
    let own = format!("/pid/{}/debug/pprof/profile", std::process::id());
    let uid = rustix::process::getuid().as_raw();
    let service = Service::start(|config, _| config.deny.uids = vec![uid]);
    let answer = service.get(&own, "");
    let expected = format!("pid {} may not be profiled here\n", std::process::id());
    assert_eq!((answer.status, answer.body), (403, expected));
    assert_eq!(service.get(PROFILE, "").status, 403);
    let service = Service::start(|config, _| config.allow.uids = vec![uid]);
    assert_eq!(service.get(&own, "").status, 200);
    let service = Service::start(|config, _| config.disabled_kinds = vec!["profile".to_owned()]);
    let answer = service.get(&own, "");
    assert_eq!(
        (answer.status, &*answer.body),
        (403, "profile is disabled here\n")
    );
}

#[test]
fn each_request_leaves_one_line() {
    let service = Service::start(guarded);
    service.get("/pid/1/debug/pprof/profile", &basic("me:pass"));
    service.get(
        "/debug/pprof/slow",
        "Authorization: Bearer t0ken\r\nUser-Agent: a b\u{9b}\"\r\n",
    );
    service.get("/debug/pprof/heap?x=1", "Authorization: Bearer wrong\r\n");
    let lines = service.lines(3);
    assert_eq!(lines.len(), 3);
    let check = |line: &str, parts: &[&str]| {
        for part in parts {
            assert!(line.contains(part), "{part}: {line}");
        }
    };
    check(
        &lines[0],
        &[
            "time=2",
            "who=me peer=127.0.0.1:",
            "method=GET target=pid/1 kind=profile status=200 ms=",
            " bytes=6 cpu_ms=- end=whole agent=-",
        ],
    );
    check(
        &lines[1],
        &[
            "who=alloy ",
            "target=host kind=slow status=200",
            " bytes=7 cpu_ms=4.2 end=whole ",
        ],
    );
    check(&lines[2], &["who=? ", "kind=heap status=401 ", "end=whole"]);
    assert!(!lines.concat().contains('\u{9b}'));
}
