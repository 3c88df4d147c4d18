//! What readers make of our profiles: `go tool pprof` of two versions, of what every language's
//! programs give, by every command and every page.
//!
//! Each subject is recorded by the built binary, then shown to the distribution's pprof and to the
//! newest (`cargo xtask tools`). A reader has to succeed in silence; each exception stands in one
//! place, with its reason. They need root, BPF and the fixtures, as the kernel tests do.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod base;
#[path = "../kernel/bpf_ids.rs"]
#[allow(dead_code, reason = "the kernel tests use the rest")]
mod bpf_ids;
#[path = "../kernel/cgroups.rs"]
#[allow(dead_code, reason = "the kernel tests use the rest")]
mod cgroups;
#[path = "../kernel/fixture.rs"]
#[allow(dead_code, reason = "the kernel tests use the rest")]
mod fixture;
#[path = "../common/fixture_path.rs"]
mod fixture_path;
#[path = "../kernel/folded.rs"]
#[allow(dead_code, reason = "the kernel tests use the rest")]
mod folded;
#[path = "../kernel/host.rs"]
#[allow(dead_code, reason = "the kernel tests use the rest")]
mod host;
mod labels;
mod lines;
mod matrix;
mod optimize;
mod pages;
#[path = "../kernel/pprof.rs"]
#[allow(dead_code, reason = "the kernel tests use the rest")]
mod pprof;
#[path = "../kernel/program.rs"]
#[allow(dead_code, reason = "the kernel tests use the rest")]
mod program;
mod reader;
#[path = "../kernel/receipt.rs"]
#[allow(dead_code, reason = "the kernel tests use the rest")]
mod receipt;
#[path = "../kernel/recording.rs"]
#[allow(dead_code, reason = "the kernel tests use the rest")]
mod recording;
mod subject;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Held by each test while it records: on a machine with two CPUs one at a time does. Readers read
/// without it.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    // A failed test says nothing about the next one.
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}
