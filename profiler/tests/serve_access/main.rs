//! `ebpfprof serve`, around its routes: who is let in, who is cut off, what is told of it, and how it
//! ends. Everything goes over real sockets; the routes are a stand-in that says who asked.
//!
//! They need root (other users connect), and curl, openssl, setpriv and promtool.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod certificates;
mod client;
mod endings;
mod limits;
mod program;
mod scrapes;
mod service;
mod unix_sockets;
mod words;
