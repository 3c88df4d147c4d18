//! The command line: the only module that prints or exits.

mod args;
mod bug;
mod convert;
mod debuginfod;
mod doctor;
mod explain;
mod outputs;
mod progress;
mod record;
mod selftest;
mod serve;
mod summary;
mod symbols;
mod trouble;
mod unwind;

use std::{
    ffi::OsString,
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use args::{Cli, Verb};
use trouble::Trouble;

use crate::{object::opener, record::Stop};

/// Runs the program with these arguments (the first is its own name).
#[must_use]
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    bug::watched(|| run(args))
}

fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.collect();
    if args.get(1).is_some_and(|verb| verb == opener::VERB) {
        return match opener::serve() {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    if args.last().is_some_and(|last| last == "--") {
        return Trouble::misuse(
            "no command to start",
            "nothing follows `--`",
            "ebpfprof -- CMD",
        )
        .report();
    }
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            return match Trouble::of_command_line(error) {
                Ok(trouble) => trouble.report(),
                // Help goes to stdout. When that is gone there is nobody left to read it.
                Err(help) => help
                    .print()
                    .map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS),
            };
        }
    };
    let done = match cli.verb {
        None => record::run(&cli.record),
        Some(Verb::Convert(args)) => convert::run(&args),
        Some(Verb::Doctor(args)) => doctor::run(&args),
        Some(Verb::Explain(args)) => explain::run(&args),
        Some(Verb::Selftest(args)) => selftest::run(&args),
        Some(Verb::Serve(args)) => serve::run(&args),
        Some(Verb::Symbols(args)) => symbols::run(&args),
        Some(Verb::Unwind(args)) => unwind::run(&args),
    };
    done.unwrap_or_else(|trouble| trouble.report())
}

/// Says something that is no error.
fn tell(words: &str) {
    // When stderr is gone there is nobody left to tell.
    let _ = writeln!(io::stderr().lock(), "note: {words}");
}

/// Names come from files that we do not trust: no control character reaches the terminal.
fn printable(name: &str) -> String {
    name.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// Logs go to stderr: what RUST_LOG asks for, with `--verbose` everything of ours.
fn start_log(verbose: bool) {
    let mut log = env_logger::Builder::new();
    log.filter_level(log::LevelFilter::Error);
    if verbose {
        log.filter_module("ebpfprof", log::LevelFilter::Debug);
    }
    log.parse_default_env().init();
}

/// Has Ctrl-C and its like end a recording, which is then written; a second one ends the program
/// at once.
fn stop_on_signals() -> Result<Stop, Trouble> {
    let stop = Stop::default();
    for signal in [SIGINT, SIGTERM, SIGHUP]
        .into_iter()
        .filter(|signal| !is_ignored(*signal))
    {
        signal_hook::flag::register(signal, stop.flag()).map_err(|error| {
            Trouble::failure("cannot handle signals", error.to_string(), "run it again")
        })?;
    }
    Ok(stop)
}

/// Whether whoever started us had this signal ignored, as `nohup` does. Source: `SigIgn` in
/// `proc_pid_status(5)`.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = field.and_then(|field| u64::from_str_radix(field.trim(), 16).ok());
    ignored.unwrap_or(0) & (1 << (signal - 1)) != 0
}
