//! `go tool pprof`, as its users run it.

use std::process::Command;

use crate::{
    fake::{Course, Fake, Rules},
    server::Server,
};

/// What pprof says of a profile that it fetches: what it prints, and what it complains of.
#[track_caller]
fn fetch(url: &str) -> (bool, String, String) {
    let home = tempfile::tempdir().unwrap();
    let output = Command::new("go")
        .args(["tool", "pprof", "-top", "-seconds", "1", url])
        .env("HOME", home.path())
        .env("PPROF_TMPDIR", home.path())
        .output()
        .unwrap_or_else(|error| panic!("cannot run go: {error}"));
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.success(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn it_fetches_a_profile_and_complains_of_nothing() {
    let server = Server::start();
    for target in [String::new(), format!("/pid/{}", std::process::id())] {
        // Without a path it asks for the host's profile.
        let path = match target.as_str() {
            "" => String::new(),
            target => format!("{target}/debug/pprof/profile"),
        };
        let (is_good, report, words) = fetch(&format!("http://{}{path}", server.address));
        assert!(is_good, "{words}");
        assert!(
            report.contains("95.24%") && report.contains("work"),
            "{report}"
        );
        let said: Vec<&str> = words
            .lines()
            .map(|line| line.split(' ').next().unwrap())
            .collect();
        assert_eq!(said, ["Fetching", "Please", "Saved"], "{words}");
    }
    let wanted = server.captures.wanted.lock().unwrap();
    assert_eq!(wanted[0].duration.as_secs(), 1);
}

#[test]
fn it_shows_its_user_why_there_is_no_profile() {
    let server = Server::with(Fake::of(Course::Waits), Rules::default());
    let url = format!("http://{}/pid/4194304/debug/pprof/profile", server.address);
    let (is_good, _, words) = fetch(&url);
    assert!(!is_good);
    let line = "404 Not Found - pid 4194304: no such process: /proc/4194304 does not exist; try: ";
    assert!(words.contains(line), "{words}");
}

#[test]
fn it_reads_threads_and_what_changed() {
    let server = Server::start();
    let base = format!(
        "http://{}/pid/{}/debug/pprof/threads",
        server.address,
        std::process::id()
    );
    let (is_good, report, words) = fetch(&base);
    assert!(is_good, "{words}");
    assert!(report.contains("Type: threads"), "{report}");
}
