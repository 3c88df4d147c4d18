//! Runs the target `unwind_sections` under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ebpfprof_fuzz::unwind_sections(data));
