//! What the kernel side and the user side share.
//!
//! Owns every type that crosses the kernel boundary, every number that both sides must agree on,
//! and every decision of the kernel side that can be a pure function of values: how a frame is
//! written, which mapping an address lies in, where a frame's caller is. The kernel programs, the
//! unit tests and the user side run this one code. It allocates nothing and knows no aya beyond
//! the [`aya::Pod`] marks behind the feature `user`.

#![no_std]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

pub mod code;
pub mod config;
pub mod counters;
pub mod frame;
pub mod limits;
pub mod mapping;
pub mod step;
pub mod stop;
pub mod symbols;
#[cfg(test)]
mod test_memory;
pub mod unwind;
pub mod walk;
pub mod wire;
