//! Threads as they are, and goroutines, which are not told.

use std::{
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
};

use crate::{
    client::get,
    fixture_path::fixture_path,
    server::{Server, wait_until},
};

/// A thread with a name, which waits until it is dropped.
struct Waiter(Option<(mpsc::Sender<()>, thread::JoinHandle<()>)>);

impl Waiter {
    fn named(name: &str) -> Self {
        let (sender, receiver) = mpsc::channel::<()>();
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
            receiver.recv().unwrap_err();
        });
        Self(Some((sender, thread.unwrap())))
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let (sender, thread) = self.0.take().unwrap();
        drop(sender);
        thread.join().unwrap();
    }
}

fn path(rest: &str) -> String {
    format!("/pid/{}/debug/pprof/{rest}", std::process::id())
}

#[test]
fn each_thread_has_its_state_and_where_it_waits() {
    let server = Server::start();
    let waiter = Waiter::named("waits-in-vain");
    let row = || {
        let answer = get(server.address, &path("threads?debug=1"));
        let text = answer.text().to_owned();
        let row = text.lines().find(|line| line.ends_with("waits-in-vain"));
        row.map(str::to_owned)
    };
    wait_until(|| row().is_some_and(|row| row.contains("futex")));
    assert!(row().unwrap().contains(" sleeping "));
    let profile = get(server.address, &path("threads")).profile();
    let stacks = profile.stacks();
    let of_thread = stacks
        .iter()
        .find(|(stack, _)| stack.starts_with("waits-in-vain;"));
    let (stack, count) = of_thread.unwrap();
    assert!(
        stack.starts_with("waits-in-vain;[sleeping];futex"),
        "{stack}"
    );
    assert_eq!(*count, 1);
    let labels: Vec<(&str, &str)> = profile
        .0
        .sample
        .iter()
        .flat_map(|sample| &sample.label)
        .map(|label| (profile.text(label.key), profile.text(label.str)))
        .collect();
    assert!(labels.contains(&("state", "sleeping")));
    assert!(labels.iter().all(|(key, _)| *key == "state"));
    let mapping = profile.text(profile.0.mapping[0].filename);
    assert!(mapping.contains("serve-"), "{mapping}");
    drop(waiter);
    assert_eq!(row(), None);
}

#[test]
fn the_whole_hosts_threads_say_whose_they_are() {
    let server = Server::start();
    let _waiter = Waiter::named("of-the-host");
    let profile = get(server.address, "/debug/pprof/threads").profile();
    let keys: Vec<&str> = profile.0.sample[0]
        .label
        .iter()
        .map(|label| profile.text(label.key))
        .collect();
    assert_eq!(keys, ["comm", "pid", "state"]);
    assert!(
        profile
            .text(profile.0.mapping[0].filename)
            .starts_with("system-wide on ")
    );
    let by_name = get(
        server.address,
        "/comm/of-the-host/debug/pprof/threads?debug=1",
    );
    assert!(
        by_name.text().starts_with("threads profile: total 1\n"),
        "{}",
        by_name.text()
    );
}

#[test]
fn a_thread_that_ended_is_one_less() {
    let server = Server::start();
    let waiter = Waiter::named("soon-gone");
    let address = server.address;
    let asked = thread::spawn(move || get(address, &path("threads?seconds=2")));
    // The first look is taken at once; the second long after the thread has ended.
    thread::sleep(std::time::Duration::from_millis(700));
    drop(waiter);
    let profile = asked.join().unwrap().profile();
    let stacks = profile.stacks();
    let gone = stacks
        .iter()
        .find(|(stack, _)| stack.starts_with("soon-gone;"));
    assert_eq!(gone.unwrap().1, -1, "{stacks:?}");
}

#[test]
fn a_process_that_ended_is_all_less() {
    let server = Server::start();
    let mut child = sleeper();
    let address = server.address;
    let path = format!("/pid/{}/debug/pprof/threads?seconds=2", child.id());
    let asked = thread::spawn(move || get(address, &path));
    thread::sleep(std::time::Duration::from_millis(700));
    child.kill().unwrap();
    child.wait().unwrap();
    let answer = asked.join().unwrap();
    answer.check_ok("application/octet-stream");
    let profile = answer.profile();
    let total: i64 = profile.stacks().iter().map(|(_, count)| count).sum();
    assert_eq!(total, -1);
    assert!(
        profile
            .comments()
            .contains(&"#the target ended before the time was over")
    );
}

fn sleeper() -> Child {
    Command::new("sleep").arg("1000").spawn().unwrap()
}

#[test]
fn goroutines_of_a_go_program_are_not_made_up() {
    let server = Server::start();
    let mut child = Command::new(fixture_path("go-burn"))
        .arg("inf")
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let base = format!("/pid/{}/debug/pprof/", child.id());
    wait_until(|| get(server.address, &format!("{base}goroutine")).status != 404);
    let answer = get(server.address, &format!("{base}goroutine?debug=2"));
    answer.check_error(501, "the goroutines of pid ");
    assert!(answer.text().contains("try: threads?debug=1"));
    assert!(
        get(server.address, &base)
            .text()
            .contains("'goroutine?debug=1'")
    );
    child.kill().unwrap();
    child.wait().unwrap();
}
