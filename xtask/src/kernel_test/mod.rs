//! `cargo xtask kernel-test`: the kernel's part of the tests under other kernels, in virtual machines,
//! and under the host's own.
//!
//! [`kernels`] are those that there are, [`fetch`] gets them from Debian, [`vm`] runs a command under
//! one, [`suite`] is what is run, and [`matrix`] the table of the results.

mod fetch;
mod initramfs;
mod kernels;
mod matrix;
mod suite;
mod vm;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{fixtures, packages, process::is_root, section::Report, workspace::Workspace};

use kernels::{HOST, KERNELS, Kernel};
use matrix::Row;
use suite::{Outcome, Part, Programs};
use vm::Task;

pub(crate) use kernels::names;

/// The longest that one kernel's tests may take.
const LIMIT: Duration = Duration::from_mins(20);

/// Which kernels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// The host's own, the oldest and the newest.
    Usual,
    /// The oldest and the newest, by the tests that tell most.
    Ends,
    /// These.
    Named(Vec<String>),
    /// Every one.
    All,
}

/// A place to run the tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    Host,
    Machine(Kernel),
}

/// Runs the tests under each kernel and prints the table. Fails unless all passed everywhere.
pub(crate) fn run(workspace: &Workspace, choice: &Choice, report: Report) -> Result<()> {
    if !is_root() {
        bail!("the tests load BPF programs, and machines are shown this host's files: run as root");
    }
    let subjects = chosen(choice)?;
    if subjects.iter().any(|subject| *subject != Subject::Host) {
        packages::ensure_for_machines()?;
    }
    fixtures::build(workspace)?;
    let programs = Programs::build(workspace)?;
    let part = match choice {
        Choice::Ends => Part::Short,
        _ => Part::Machine,
    };
    let mut rows = Vec::new();
    for subject in subjects {
        let row = test(workspace, subject, &programs, part);
        println!("{}", row.summary());
        rows.push(row);
    }
    println!("\n{}", matrix::table(&rows));
    let failed: Vec<&str> = rows
        .iter()
        .filter(|row| row.flaw().is_some())
        .map(|row| row.name)
        .collect();
    if !failed.is_empty() {
        bail!("failed under: {}", failed.join(", "));
    }
    match report {
        Report::Printed => Ok(()),
        Report::Written => matrix::write(workspace, &rows),
    }
}

fn chosen(choice: &Choice) -> Result<Vec<Subject>> {
    let machines = |kernels: &[Kernel]| -> Vec<Subject> {
        kernels.iter().copied().map(Subject::Machine).collect()
    };
    let with_host = |kernels: &[Kernel]| {
        let mut subjects = vec![Subject::Host];
        subjects.extend(machines(kernels));
        subjects
    };
    let named = |name: &String| match kernels::named(name) {
        _ if name == HOST => Ok(Subject::Host),
        Some(kernel) => Ok(Subject::Machine(kernel)),
        None => bail!(
            "no kernel is called {name}: there are {}",
            names().join(", ")
        ),
    };
    match choice {
        Choice::Usual => Ok(with_host(&kernels::ends())),
        Choice::Ends => Ok(machines(&kernels::ends())),
        Choice::All => Ok(with_host(&KERNELS)),
        Choice::Named(asked) => asked.iter().map(named).collect(),
    }
}

/// Runs the tests in one place.
fn test(workspace: &Workspace, subject: Subject, programs: &Programs, part: Part) -> Row {
    let mut row = match subject {
        Subject::Host => Row::new(HOST, None),
        Subject::Machine(kernel) => Row::new(kernel.name, Some(kernel.walker)),
    };
    let result = match subject {
        Subject::Host => test_here(workspace, programs, &mut row),
        Subject::Machine(kernel) => test_in_machine(workspace, &kernel, (programs, part), &mut row),
    };
    match result {
        Ok(outcome) => row.outcome = Some(outcome),
        Err(error) => row.error = Some(format!("{error:#}")),
    }
    row
}

fn test_here(workspace: &Workspace, programs: &Programs, row: &mut Row) -> Result<Outcome> {
    row.release = vm::host_release()?;
    println!("testing under this host's Linux {}", row.release);
    let started = Instant::now();
    let printed = suite::run_here(workspace, programs)?;
    row.took = started.elapsed();
    finish(&printed, Part::Host, row)
}

fn test_in_machine(
    workspace: &Workspace,
    kernel: &Kernel,
    (programs, part): (&Programs, Part),
    row: &mut Row,
) -> Result<Outcome> {
    let unpacked = fetch::ensure(workspace, kernel)?;
    row.release = unpacked.release.clone();
    row.package = Some(unpacked.package.clone());
    println!("testing under Linux {} in a machine", row.release);
    let started = Instant::now();
    let ended = vm::run(&Task {
        kernel: &unpacked,
        folder: workspace.root(),
        command: &suite::slow_command(programs, part),
        limit: LIMIT,
    })?;
    row.took = started.elapsed();
    let outcome = finish(&ended.output, part, row)?;
    if ended.code != 0 && outcome.failed.is_empty() {
        bail!("the tests ended with {}:\n{}", ended.code, ended.output);
    }
    Ok(outcome)
}

/// Reads what the tests printed, and shows it where some failed.
fn finish(printed: &str, part: Part, row: &Row) -> Result<Outcome> {
    let outcome = Outcome::parse(printed, part);
    if !outcome.failed.is_empty() {
        println!("{printed}");
    }
    let best = outcome
        .best
        .context("the tests do not tell which walker the kernel has");
    let Some(expected) = row.expected else {
        return best.map(|_| outcome);
    };
    let best = best?;
    if best != expected {
        bail!(
            "the product chose {} instead of {}",
            best.word(),
            expected.word()
        );
    }
    Ok(outcome)
}
