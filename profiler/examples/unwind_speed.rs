//! How fast unwind tables are compiled and how large they are. `cargo xtask bench` runs it.
//!
//! Usage: unwind_speed FILE…. One line for each file, with tabs between: bytes of the file, functions,
//! rows, bytes of rows and index, nanoseconds of the fastest of three compilations, the path.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool: figures go to stdout, errors to stderr"
)]

use std::{
    env,
    error::Error,
    fs::File,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use ebpfprof::unwind::{Layout, Table};

/// Compilations of which the fastest counts.
const TRIES: usize = 3;

fn measure(path: &Path) -> Result<String, Box<dyn Error>> {
    let file = File::open(path)?;
    let mut fastest_ns = u128::MAX;
    let mut table = Table::of_file(&file)?;
    for _ in 0..TRIES {
        let started = Instant::now();
        table = Table::of_file(&file)?;
        fastest_ns = fastest_ns.min(started.elapsed().as_nanos());
    }
    let layout = Layout::of(&table, 0, Some);
    Ok(format!(
        "{}\t{}\t{}\t{}\t{fastest_ns}\t{}",
        file.metadata()?.len(),
        table.coverage().functions,
        table.rows().len(),
        4 * (layout.rows.len() + layout.index.len()),
        path.display()
    ))
}

fn main() -> ExitCode {
    for path in env::args_os().skip(1).map(PathBuf::from) {
        match measure(&path) {
            Ok(line) => println!("{line}"),
            Err(error) => {
                eprintln!("error: {}: {error}", path.display());
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}
