//! Runs the target `perf_map` under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ebpfprof_fuzz::perf_map(data));
