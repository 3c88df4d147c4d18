//! The program `ebpfprof`: see the library for everything it does.

use std::process::ExitCode;

fn main() -> ExitCode {
    ebpfprof::cli::main(std::env::args_os())
}
