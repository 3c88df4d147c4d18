//! Whole recordings on the running kernel: a program with a known call tree is started, the built
//! binary profiles it, and stacks, shares and the account are compared with what is known.
//!
//! They need root, BPF and the fixtures (`cargo xtask fixtures`). What is missing fails the test
//! with the reason, which is the binary's own message.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod bpf_ids;
#[cfg(debug_assertions)]
mod bugs;
mod call_sites;
mod captures;
mod cgroups;
mod commands;
mod deep;
mod endings;
mod faults;
mod fixture;
#[path = "../common/fixture_path.rs"]
mod fixture_path;
mod folded;
mod fuse;
mod ghosts;
mod governor;
mod hangs;
mod host;
mod jit;
mod kernel_names;
mod known;
mod library;
mod objects;
mod pprof;
mod program;
mod receipt;
mod recording;
mod refusals;
mod rights;
mod stacks;
mod tables;
mod targets;
mod times;
mod unnamed;
mod unwinding;
mod walkers;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Held by each test that measures: on a machine with two CPUs one at a time does.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    // A failed test says nothing about the next one.
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}
