//! Runs the target `jitdump` under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ebpfprof_fuzz::jitdump(data));
