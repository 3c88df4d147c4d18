//! `cargo xtask`: builds, checks and tests ebpfprof. Each verb is one module; what they share is in
//! [`process`] and [`workspace`].

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool: reports go to stdout, errors to stderr"
)]

mod audit;
mod bench;
mod ebpf;
mod fixtures;
mod fuzz;
mod kernel_test;
mod linker;
mod object_file;
mod packages;
mod pin;
mod process;
mod remap;
mod rust_view;
mod section;
mod soak;
mod test;
mod tidy;
mod toolchain;
mod tools;
mod vitals;
mod workspace;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::{ebpf::Goal, kernel_test::Choice, section::Report, test::Extent, workspace::Workspace};

/// Builds, checks and tests ebpfprof.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Measures what profiling costs, next to other profilers, and writes docs/overhead.md (as root).
    #[command(args_conflicts_with_subcommands = true)]
    Bench {
        #[command(subcommand)]
        what: Option<BenchVerb>,
        /// How long each profiler runs.
        #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=600))]
        seconds: u32,
        /// One case of each kind, and no report is written.
        #[arg(long)]
        quick: bool,
    },
    /// Builds the BPF object and puts it, and a record of its toolchain, into profiler-ebpf.
    Ebpf {
        /// Rebuild in a temporary folder and fail unless the checked-in object has the same bytes.
        #[arg(long)]
        check: bool,
    },
    /// Compiles the programs that the kernel tests profile.
    Fixtures,
    /// Runs fuzz targets: one under libFuzzer, or all by a small driver.
    Fuzz {
        /// The target for libFuzzer.
        #[arg(required_unless_present_any = ["smoke", "seeds"])]
        target: Option<String>,
        /// Run every target on its corpus and on mutations of it.
        #[arg(long, conflicts_with_all = ["target", "seeds"])]
        smoke: bool,
        /// Make the corpus from its sources in fuzz/seeds.
        #[arg(long, conflicts_with = "target")]
        seeds: bool,
        /// How long, all targets together.
        #[arg(long, value_name = "N", default_value_t = 60)]
        seconds: u32,
    },
    /// Runs the kernel's part of the tests under other kernels, in virtual machines, and under this
    /// host's own (as root, on Debian).
    KernelTest {
        /// One kernel (repeatable), instead of the host's own, the oldest and the newest.
        #[arg(long, value_name = "NAME", conflicts_with = "all", value_parser = clap::builder::PossibleValuesParser::new(kernel_test::names()))]
        kernel: Vec<String>,
        /// Every kernel.
        #[arg(long)]
        all: bool,
        /// Put the table into docs/kernels.md too, if all passed.
        #[arg(long, requires = "all")]
        write: bool,
    },
    /// Records the whole host for long while processes come and go, and fails unless the account is
    /// exact, nothing is lost, and memory, descriptors and threads are flat (as root).
    Soak {
        /// How long; a minute tells something, half an hour more.
        #[arg(long, value_name = "N", default_value_t = 1800, value_parser = clap::value_parser!(u32).range(20..=86_400))]
        seconds: u32,
        /// The build of ebpfprof that records, instead of a release build.
        #[arg(long, value_name = "FILE")]
        binary: Option<PathBuf>,
        /// Put the table into docs/reliability.md too, if nothing is wrong.
        #[arg(long)]
        write: bool,
    },
    /// Runs every check and test, and installs what they need (as root, on Debian and Ubuntu).
    Test {
        /// Leave out the rebuild of the BPF object, the release build and other kernels.
        #[arg(long)]
        quick: bool,
    },
    /// Checks the rules of the house style that a program can check.
    Tidy,
    /// Gets the programs that the tests call and no distribution has: the newest Go and its pprof.
    Tools,
    /// Compares the unwind table of every ELF file of this machine with direct evaluation.
    UnwindAudit {
        /// Look below these folders instead of where programs and libraries are.
        #[arg(long, num_args = 1.., value_name = "DIR")]
        path: Vec<PathBuf>,
        /// Compare at random addresses alone, not at each row.
        #[arg(long)]
        quick: bool,
    },
}

#[derive(Subcommand)]
enum BenchVerb {
    /// Measures what a recording of the whole host takes from a load that keeps the kernel busy, and
    /// what it loses under it.
    Load {
        /// How long each run is.
        #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=500))]
        seconds: u32,
        /// How often each kind of load runs without a recording, and how often with one.
        #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
        rounds: u32,
        /// The build of ebpfprof that records, instead of a release build.
        #[arg(long, value_name = "FILE")]
        binary: Option<PathBuf>,
        /// Put the tables into docs/reliability.md too, if every account was exact.
        #[arg(long)]
        write: bool,
    },
    /// Measures what names and lines cost, next to other symbolizers, and writes docs/symbols.md.
    Symbols {
        /// The program whose addresses are named; without it a build of ours, with all debug
        /// information.
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// How many addresses.
        #[arg(long, value_name = "N", default_value_t = 10_000)]
        addresses: usize,
    },
}

fn main() -> ExitCode {
    if let Some(code) = remap::run_as_rustc() {
        return code;
    }
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    let workspace = Workspace::find()?;
    match arguments.verb {
        Verb::Bench {
            what:
                Some(BenchVerb::Load {
                    seconds,
                    rounds,
                    binary,
                    write,
                }),
            ..
        } => {
            let plan = bench::load::Plan {
                binary,
                seconds,
                rounds,
            };
            bench::load::run(&workspace, plan, written(write))
        }
        Verb::Bench {
            what: Some(BenchVerb::Symbols { file, addresses }),
            ..
        } => bench::symbols::run(&workspace, file, addresses),
        Verb::Bench {
            what: None,
            seconds,
            quick,
        } => {
            let extent = match quick {
                true => bench::Extent::Quick,
                false => bench::Extent::Whole,
            };
            bench::run(&workspace, seconds, extent)
        }
        Verb::Ebpf { check: false } => ebpf::run(&workspace, Goal::Write),
        Verb::Ebpf { check: true } => ebpf::run(&workspace, Goal::Check),
        Verb::Fixtures => fixtures::build(&workspace),
        Verb::Fuzz { seeds: true, .. } => fuzz::seeds(&workspace),
        Verb::Fuzz {
            target: Some(target),
            seconds,
            ..
        } => fuzz::long(&workspace, &target, seconds),
        Verb::Fuzz { seconds, .. } => fuzz::smoke(&workspace, seconds),
        Verb::KernelTest { kernel, all, write } => {
            let choice = match (all, kernel.is_empty()) {
                (true, _) => Choice::All,
                (false, true) => Choice::Usual,
                (false, false) => Choice::Named(kernel),
            };
            kernel_test::run(&workspace, &choice, written(write))
        }
        Verb::Soak {
            seconds,
            binary,
            write,
        } => soak::run(&workspace, seconds, binary, written(write)),
        Verb::Test { quick: false } => test::run(&workspace, Extent::Whole),
        Verb::Test { quick: true } => test::run(&workspace, Extent::Quick),
        Verb::Tidy => tidy::run(&workspace),
        Verb::Tools => tools::ensure(&workspace),
        Verb::UnwindAudit { path, quick } => {
            let addresses = match quick {
                true => audit::Addresses::Random,
                false => audit::Addresses::EveryRow,
            };
            audit::run(&workspace, path, addresses)
        }
    }
}

fn written(write: bool) -> Report {
    match write {
        true => Report::Written,
        false => Report::Printed,
    }
}
