//! Runs the target `pprof_file` under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ebpfprof_fuzz::pprof_file(data));
