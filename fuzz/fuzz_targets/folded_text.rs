//! Runs the target `folded_text` under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ebpfprof_fuzz::folded_text(data));
