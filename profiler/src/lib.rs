//! ebpfprof: profiles any process, or the whole host, without touching it.
//!
//! The modules in the order in which data flows: see ARCHITECTURE.md.

pub mod bpf;
mod bug;
pub mod captures;
pub mod cli;
pub mod debuginfod;
pub mod doctor;
pub mod error;
pub mod export;
pub mod import;
pub mod jit;
pub mod object;
pub mod privilege;
pub mod process;
pub mod profile;
mod quantity;
pub mod record;
pub mod replay;
pub mod residency;
pub mod selftest;
pub mod server;
pub mod symbolize;
pub mod target;
pub mod unnamed;
pub mod unwind;
