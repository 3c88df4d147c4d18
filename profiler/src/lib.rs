//! ebpfprof: profiles any process, or the whole host, without touching it.

pub mod error;
pub mod profile;
