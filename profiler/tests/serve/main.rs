//! `/debug/pprof` over real sockets: what `net/http/pprof` answers, byte for byte where readers of
//! profiles depend on it, and what is ours.
//!
//! Nothing is sampled: captures are made up by [`fake::Fake`], which keeps what was wanted of it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../common/fixture_path.rs"]
mod fixture_path;

mod captures;
mod client;
mod contract;
mod fake;
mod go_tool;
mod limits;
mod pages;
mod server;
mod symbols;
mod targets;
mod threads;
