//! What each program does, one module a probe.

pub mod cpu;
pub mod lifecycle;
pub mod symbols;
