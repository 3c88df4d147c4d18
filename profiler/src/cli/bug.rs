//! What a panic says: that it is a bug of ours, what and where it was, and what to report.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::{self, Write},
    panic::{self, PanicHookInfo},
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use super::{printable, trouble::Trouble};
use crate::bug;

/// Whether there was one, on any thread.
static HAPPENED: AtomicBool = AtomicBool::new(false);

/// Runs the program. A panic is told as an error of ours, wherever it is, and the program fails:
/// also when the work went on without what panicked.
pub(super) fn watched(program: impl FnOnce() -> ExitCode) -> ExitCode {
    panic::set_hook(Box::new(report));
    let code = bug::contain(program);
    match HAPPENED.load(Ordering::Relaxed) {
        true => ExitCode::FAILURE,
        false => code.unwrap_or(ExitCode::FAILURE),
    }
}

fn report(panic: &PanicHookInfo<'_>) {
    HAPPENED.store(true, Ordering::Relaxed);
    let place = panic.location().map(ToString::to_string);
    let thread = thread::current();
    trouble(panic.payload_as_str(), place.as_deref(), thread.name()).report();
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        // When stderr is gone there is nobody left to tell.
        let _ = writeln!(io::stderr().lock(), "{backtrace}");
    }
}

/// What is told of a panic: its words, its place in our source, and the name of its thread.
fn trouble(words: Option<&str>, place: Option<&str>, thread: Option<&str>) -> Trouble {
    Trouble::failure(
        concat!("a bug in ebpfprof ", env!("CARGO_PKG_VERSION")),
        format!(
            "{} (at {}, thread {})",
            printable(words.unwrap_or("a panic without words")),
            place.unwrap_or("an unknown place"),
            printable(thread.unwrap_or("without a name"))
        ),
        "report it with the output of: uname -r; ebpfprof --version",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_told_as_a_bug_of_ours_with_its_place() {
        let told = trouble(
            Some("index\nout of bounds"),
            Some("src/a.rs:1:2"),
            Some("main"),
        );
        let words = concat!(
            "a bug in ebpfprof ",
            env!("CARGO_PKG_VERSION"),
            ": index\u{fffd}out of bounds (at src/a.rs:1:2, thread main)"
        );
        assert_eq!(told.to_string(), words);
    }
}
