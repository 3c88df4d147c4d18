//! Names of addresses, as readers of profiles ask for them.

use std::fs;

use crate::{
    client::{get, post},
    server::Server,
};

const PLAIN: &str = "text/plain; charset=utf-8";

/// A function of ours, found by its address.
#[inline(never)]
fn a_function_to_find(number: u64) -> u64 {
    std::hint::black_box(number) + 1
}

/// An address in it.
fn address() -> u64 {
    a_function_to_find as *const () as u64
}

fn path() -> String {
    format!("/pid/{}/debug/pprof/symbol", std::process::id())
}

#[track_caller]
fn check(text: &str) {
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("num_symbols: 1"));
    let (found, name) = lines.next().unwrap().split_once(' ').unwrap();
    assert_eq!(found, format!("{:#x}", address()));
    assert!(name.ends_with("symbols::a_function_to_find"), "{name}");
    // What is unknown is left out.
    assert_eq!(lines.next(), None);
}

#[test]
fn addresses_are_asked_for_in_either_way() {
    let server = Server::start();
    let list = format!("{:#x}+0x10", address());
    for answer in [
        get(server.address, &format!("{}?{list}", path())),
        post(server.address, &path(), &list),
    ] {
        answer.check_ok(PLAIN);
        check(answer.text());
    }
    for nothing in ["", "?", "?x+y", "?0x0"] {
        let answer = get(server.address, &format!("{}{nothing}", path()));
        answer.check_ok(PLAIN);
        assert_eq!(answer.text(), "num_symbols: 1\n");
    }
    assert_eq!(a_function_to_find(1), 2);
}

#[test]
fn the_names_are_beside_the_profile_of_each_target() {
    let server = Server::start();
    // pprof takes the address of the profile without its query, and asks beside it.
    for target in ["", "/comm/x", "/cgroup/a/b", "/container/abcdef"] {
        let path = format!("{target}/debug/pprof/symbol");
        let answer = post(server.address, &path, &format!("{:#x}", address()));
        answer.check_ok(PLAIN);
        // User addresses are nobody's here.
        assert_eq!(answer.text(), "num_symbols: 1\n");
    }
}

#[test]
fn addresses_of_the_kernel_have_the_same_names_for_all() {
    let server = Server::start();
    let symbols = fs::read_to_string("/proc/kallsyms").unwrap();
    let row = symbols.lines().find(|row| row.ends_with(" T schedule"));
    let address = row.unwrap().split(' ').next().unwrap();
    if address.chars().all(|digit| digit == '0') {
        eprintln!("skipped: the kernel hides its addresses from us");
        return;
    }
    for path in ["/debug/pprof/symbol".to_owned(), path()] {
        let answer = post(server.address, &path, &format!("0x{address}"));
        assert_eq!(
            answer.text(),
            format!("num_symbols: 1\n0x{address} schedule\n")
        );
    }
}
