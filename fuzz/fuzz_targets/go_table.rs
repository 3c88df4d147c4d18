//! Runs the target `go_table` under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ebpfprof_fuzz::go_table(data));
