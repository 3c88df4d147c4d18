//! The audit of unwind tables: every row of every ELF file below some folders, against direct
//! evaluation. `cargo xtask unwind-audit` runs it. Exits with 1 on any difference.
//!
//! Usage: unwind_audit [--quick] FOLDER…

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool: the report goes to stdout, errors to stderr"
)]

#[path = "../tests/oracle/mod.rs"]
mod oracle;

use std::{
    collections::BTreeMap,
    env,
    fmt::{self, Display},
    fs::{self, File},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use ebpfprof::unwind::{Cause, CompileError, Layout, Table};
use oracle::{Comparison, Counts, Extent, RANDOM_ADDRESSES, compare, elf_files};

/// What all files came to.
#[derive(Default)]
struct Report {
    /// Files with a table.
    objects: u64,
    /// Files without one, by reason.
    without: BTreeMap<String, u64>,
    functions: u64,
    rows: u64,
    table_bytes: u64,
    code_bytes: u64,
    covered_bytes: u64,
    compiled_in: Duration,
    /// Rows and bytes that no rule expresses.
    not_expressed: [(u64, u64); Cause::ALL.len()],
    counts: Counts,
    /// Files that have a table and could not be read for the comparison.
    unread: Vec<String>,
    /// The differences, each with its file.
    differences: Vec<String>,
}

impl Report {
    fn add_table(&mut self, table: &Table, compiled_in: Duration) {
        let layout = Layout::of(table, 0, Some);
        let coverage = table.coverage();
        self.objects += 1;
        self.functions += coverage.functions;
        self.rows += table.rows().len() as u64;
        self.table_bytes += 4 * (layout.rows.len() + layout.index.len()) as u64;
        self.code_bytes += coverage.code_bytes;
        self.covered_bytes += coverage.covered().bytes;
        self.compiled_in += compiled_in;
        for (sum, cause) in self.not_expressed.iter_mut().zip(Cause::ALL) {
            let extent = coverage.inexpressible(cause);
            sum.0 += extent.rows;
            sum.1 += extent.bytes;
        }
    }

    fn add(&mut self, path: &Path, comparison: &Comparison) {
        self.counts.add(comparison.counts);
        let named = |difference| format!("{} at {difference}", path.display());
        self.differences
            .extend(comparison.differences.iter().map(named));
    }

    fn add_without(&mut self, error: &CompileError) {
        let reason = match error {
            // The rest of the words is about the one file.
            CompileError::NotElf(_) => "its headers are broken".to_owned(),
            CompileError::Read(error) => format!("it cannot be read: {}", error.kind()),
            other => other.to_string(),
        };
        *self.without.entry(reason).or_default() += 1;
    }

    fn rows_per_second(&self) -> u64 {
        (self.rows as f64 / self.compiled_in.as_secs_f64().max(1e-9)) as u64
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = &self.counts;
        let compared = counts.agree + counts.without_rule + counts.differ;
        let share = |part: u64, whole: u64| 100.0 * part as f64 / whole.max(1) as f64;
        writeln!(f, "objects      {:>13}  with a table", Count(self.objects))?;
        for (reason, files) in &self.without {
            writeln!(f, "             {:>13}  without: {reason}", Count(*files))?;
        }
        writeln!(f, "functions    {:>13}", Count(self.functions))?;
        writeln!(
            f,
            "rows         {:>13}  of {:.2} bytes each, with the index; {} a second on one CPU",
            Count(self.rows),
            self.table_bytes as f64 / self.rows.max(1) as f64,
            Count(self.rows_per_second())
        )?;
        writeln!(
            f,
            "code         {:>13}  bytes, {:.3}% of them with a rule",
            Count(self.code_bytes),
            share(self.covered_bytes, self.code_bytes)
        )?;
        writeln!(
            f,
            "addresses    {:>13}  compared, {RANDOM_ADDRESSES} of each object at random",
            Count(compared)
        )?;
        writeln!(f, "differences  {:>13}", Count(counts.differ))?;
        let lost: u64 = self.not_expressed.iter().map(|(rows, _)| rows).sum();
        writeln!(f, "not expressed{:>13}  rows of descriptions", Count(lost))?;
        for ((rows, bytes), cause) in self.not_expressed.iter().zip(Cause::ALL) {
            if *rows > 0 {
                writeln!(
                    f,
                    "             {:>13}  {}: {} bytes of code, {:.4}%",
                    Count(*rows),
                    cause.words(),
                    Count(*bytes),
                    share(*bytes, self.code_bytes)
                )?;
            }
        }
        writeln!(
            f,
            "not compared {:>13}  addresses: {} of unusual forms without a rule, {} that need registers no sample has, {} that two functions describe",
            Count(counts.unusual_lost + counts.beyond + counts.doubtful),
            Count(counts.unusual_lost),
            Count(counts.beyond),
            Count(counts.doubtful)
        )
    }
}

/// A number with its thousands apart.
struct Count(u64);

impl Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        let mut text = String::new();
        for (at, digit) in digits.chars().enumerate() {
            if at > 0 && (digits.len() - at).is_multiple_of(3) {
                text.push(',');
            }
            text.push(digit);
        }
        f.pad(&text)
    }
}

/// Compares all files, on all CPUs.
fn audit(files: &[PathBuf], extent: Extent) -> Report {
    let report = Mutex::new(Report::default());
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(path) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            let started = Instant::now();
            let table = File::open(path)
                .map_err(CompileError::Read)
                .and_then(|file| Table::of_file(&file));
            let compiled_in = started.elapsed();
            let compared = table
                .as_ref()
                .ok()
                .map(|table| compare(path, table, extent));
            let mut report = report.lock().expect("no thread panics with the lock");
            match &table {
                Ok(table) => report.add_table(table, compiled_in),
                Err(error) => report.add_without(error),
            }
            match compared {
                Some(Ok(comparison)) => report.add(path, &comparison),
                Some(Err(error)) => report.unread.push(format!("{}: {error}", path.display())),
                None => {}
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, Into::into) {
            scope.spawn(work);
        }
    });
    report.into_inner().expect("no thread panics with the lock")
}

fn main() -> ExitCode {
    let mut folders: Vec<PathBuf> = env::args_os().skip(1).map(PathBuf::from).collect();
    let extent = match folders.first() {
        Some(first) if first == Path::new("--quick") => Extent::Random,
        _ => Extent::EveryRow,
    };
    folders.retain(|folder| folder != Path::new("--quick"));
    let mut files = elf_files(&folders, u64::MAX);
    if files.is_empty() {
        eprintln!("error: no ELF file for x86-64 in {folders:?}");
        return ExitCode::FAILURE;
    }
    // The largest first, so that no thread is left alone with one.
    files.sort_by_key(|path| std::cmp::Reverse(fs::metadata(path).map_or(0, |meta| meta.len())));
    let started = Instant::now();
    let mut report = audit(&files, extent);
    println!(
        "unwind-audit: {} ELF files for x86-64, {}, in {:.0} s",
        Count(files.len() as u64),
        match extent {
            Extent::EveryRow => "at both ends of each row and each gap",
            Extent::Random => "at random addresses alone",
        },
        started.elapsed().as_secs_f64()
    );
    print!("{report}");
    report.differences.sort();
    for difference in &report.differences {
        println!("differs: {difference}");
    }
    for file in &report.unread {
        println!("not compared: {file}");
    }
    if report.counts.differ == 0 && report.unread.is_empty() && report.objects > 0 {
        ExitCode::SUCCESS
    } else {
        eprintln!(
            "error: {} objects with a table, {} addresses differ, {} files not compared",
            report.objects,
            report.counts.differ,
            report.unread.len()
        );
        ExitCode::FAILURE
    }
}
