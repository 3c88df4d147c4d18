//! Pages for people.

use std::process::{Child, Command, Stdio};

use ebpfprof::{captures::Target, target::Pid};

use crate::{
    client::{ask, get},
    fake::{Fake, Rules},
    server::{Server, wait_until},
};

const HTML: &str = "text/html; charset=utf-8";

/// A process that is busy until it is dropped.
struct Busy(Child);

impl Busy {
    fn start() -> Self {
        let mut command = Command::new("sh");
        command
            .args(["-c", "while :; do :; done"])
            .stdin(Stdio::null());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn the_first_page_lists_who_is_busy_and_where_it_is_profiled() {
    let server = Server::start();
    let busy = Busy::start();
    let pid = busy.0.id();
    let row = || {
        let answer = get(server.address, "/");
        answer.check_ok(HTML);
        let name = format!("<a href=\"/pid/{pid}\">sh</a>");
        let text = answer.text().to_owned();
        text.lines()
            .find(|line| line.contains(&name))
            .map(str::to_owned)
    };
    // It is among the first as soon as a look finds it at work.
    wait_until(|| row().is_some_and(|row| !row.contains(">0.0%<")));
    let row = row().unwrap();
    assert!(row.contains(&format!(
        "/pid/{pid}/debug/pprof/profile?seconds=5&amp;format=html"
    )));
    let page = get(server.address, "/");
    for part in [
        "href=\"/debug/pprof/\"",
        "href=\"/metrics\"",
        "go tool pprof",
    ] {
        assert!(page.text().contains(part), "{part}");
    }
}

#[test]
fn pages_have_no_script_and_load_nothing() {
    let server = Server::start();
    for path in [
        "/".to_owned(),
        "/debug/pprof/".to_owned(),
        format!("/pid/{}", std::process::id()),
    ] {
        let answer = get(server.address, &path);
        answer.check_ok(HTML);
        let policy = answer.header("content-security-policy").unwrap();
        assert!(
            policy.starts_with("default-src 'none'; style-src 'sha256-"),
            "{policy}"
        );
        for word in ["<script", "style=", " onclick", "http://www", "<img"] {
            assert!(!answer.text().contains(word), "{word} in {path}");
        }
    }
}

#[test]
fn only_those_are_listed_who_may_be_profiled() {
    let own = Target::Process(Pid(std::process::id()));
    let rules = Rules {
        only: Some(own),
        ..Rules::default()
    };
    let server = Server::with(Fake::default(), rules);
    let page = get(server.address, "/");
    page.check_ok(HTML);
    assert_eq!(
        page.text().matches("<a href=\"/pid/").count(),
        3,
        "its page, its flame graph and its profiles"
    );
    assert!(page.text().contains("<b>1</b> processes"));
    assert!(page.text().contains("Only processes that you may profile"));
    assert!(!page.text().contains("/metrics"));
    get(server.address, "/pid/1").check_error(403, "uid:1000 may not have process");
}

#[test]
fn the_page_of_a_process_says_who_it_is_and_how_to_profile_it() {
    let server = Server::start();
    let mut child = Command::new("sh")
        .args(["-c", "read x", "<script>", "--password=secret"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = child.id();
    for path in [format!("/pid/{pid}"), format!("/pid/{pid}/")] {
        let head = format!("GET {path} HTTP/1.1");
        let page = ask(server.address, &head);
        page.check_ok(HTML);
        let text = page.text();
        let address = server.address;
        for part in [
            "<dt>Name</dt><dd>sh</dd>",
            "<dt>Threads</dt><dd>1</dd>",
            "<dt>Cgroup</dt>",
            "sh -c read x &lt;script&gt; --password=\u{2026}",
            &format!(
                "go tool pprof -http=: &#39;http://{address}/pid/{pid}/debug/pprof/profile?seconds=30&#39;"
            ),
            &format!("href=\"/pid/{pid}/debug/pprof/\""),
        ] {
            assert!(text.contains(part), "no {part} in {text}");
        }
        assert!(!text.contains("secret"));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let rules = Rules {
        denied: vec!["cmdline"],
        ..Rules::default()
    };
    let server = Server::with(Fake::default(), rules);
    let page = get(server.address, &format!("/pid/{}", std::process::id()));
    page.check_ok(HTML);
    assert!(!page.text().contains("Command line"));
}

#[test]
fn a_host_that_is_no_address_is_not_shown() {
    let server = Server::start();
    let head = "GET /debug/pprof/ HTTP/1.0\r\nHost: x';reboot;'";
    let mut stream = std::net::TcpStream::connect(server.address).unwrap();
    std::io::Write::write_all(&mut stream, format!("{head}\r\n\r\n").as_bytes()).unwrap();
    let page = crate::client::Answer::read(stream);
    assert!(!page.text().contains("reboot"));
    assert!(
        page.text()
            .contains("http://127.0.0.1:6060/debug/pprof/profile")
    );
}

/// Serves for as long as somebody looks: `SECONDS=600 cargo test --test serve -- --ignored look`.
#[test]
#[ignore = "for people who want to see the pages"]
fn look() {
    let server = Server::start();
    eprintln!("http://{}/", server.address);
    let seconds = std::env::var("SECONDS")
        .ok()
        .and_then(|text| text.parse().ok());
    std::thread::sleep(std::time::Duration::from_secs(seconds.unwrap_or(600)));
}
