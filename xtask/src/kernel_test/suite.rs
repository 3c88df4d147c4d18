//! The tests that run under every kernel, and what their program prints.
//!
//! They are a part of `profiler/tests/kernel`: a machine of software is slow, so whatever depends on
//! the kernel alone is here, and what depends on programs and their files is not.

use std::{collections::BTreeMap, process::Command};

use anyhow::{Context, Result, bail};

use crate::{
    process::{cargo, output},
    workspace::Workspace,
};

use super::vm::quoted;

/// Tells the tests that everything takes many times longer than on a processor.
const SLOW_VARIABLE: &str = "EBPFPROF_SLOW_HOST";

/// Tells them which build of the product to test.
const BINARY_VARIABLE: &str = "EBPFPROF_BINARY";

/// Which of the tests are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// What tells most in the shortest time.
    Short,
    /// All but what a host does not bear.
    Host,
    /// All.
    Machine,
}

impl Part {
    pub(super) fn tests(self) -> impl Iterator<Item = &'static str> {
        let groups: &[&[&'static str]] = match self {
            Self::Short => &[SHORT],
            Self::Host => &[SHORT, MORE],
            Self::Machine => &[SHORT, MORE, OF_MACHINES],
        };
        groups.iter().copied().flatten().copied()
    }
}

/// The tests by which each change is tested, by what they hold for.
const SHORT: &[&str] = &[
    // Verifier, flavours, and the product's own test.
    "walkers::the_verifier_reads_few_instructions",
    "walkers::the_selftest_passes_by_every_walker",
    // Complete and right stacks: in code, in system calls, in signal handlers, deep ones, of static
    // programs, of Rust.
    "unwinding::programs_that_are_recorded_together_have_whole_stacks",
    // The end.
    "endings::nothing_is_left_behind_when_it_is_killed",
];

const MORE: &[&str] = &[
    // Kernel stacks and their names.
    "kernel_names::a_profile_has_the_kernels_names_as_it_lists_them",
    // Targets, and processes that come and go.
    "targets::a_name_means_processes_and_threads",
    "targets::a_cgroup_of_version_2_is_sampled_with_all_below_it",
    "commands::children_are_followed",
    // The account.
    "targets::the_account_of_the_whole_host_is_exact",
];

/// Those that do to a machine what nobody wants done to a host.
const OF_MACHINES: &[&str] = &[
    "faults::a_cpu_that_goes_away_and_comes_back_keeps_the_account",
    "faults::a_clock_that_jumps_changes_no_time_of_the_profile",
    "captures::a_sampler_that_slept_samples_the_cpus_that_are_there",
];

/// One of the two flavours of the walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Walker {
    Loop,
    TailCalls,
}

impl Walker {
    fn of_word(word: &str) -> Option<Self> {
        match word {
            "loop" => Some(Self::Loop),
            "tail-calls" => Some(Self::TailCalls),
            _ => None,
        }
    }

    /// As the product's option has it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Loop => "loop",
            Self::TailCalls => "tail-calls",
        }
    }
}

/// What the tests said under one kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// The walker that the product chose.
    pub(super) best: Option<Walker>,
    /// The instructions that the verifier read of each walker's largest program, where it tells.
    pub(super) instructions: BTreeMap<Walker, Option<u32>>,
    pub(super) asked: usize,
    pub(super) passed: usize,
    /// The tests that did not pass.
    pub(super) failed: Vec<String>,
}

impl Outcome {
    /// Reads what the program of tests printed. A test that was not run has failed.
    pub(super) fn parse(printed: &str, part: Part) -> Self {
        let mut outcome = Self {
            asked: part.tests().count(),
            ..Self::default()
        };
        let mut passed = Vec::new();
        for line in printed.lines() {
            if let Some(word) = line.strip_prefix("best walker: ") {
                outcome.best = Walker::of_word(word);
            } else if let Some((walker, count)) = instructions(line) {
                outcome.instructions.insert(walker, count);
            } else if let Some(name) = passed_test(line) {
                passed.push(name);
            }
        }
        outcome.passed = passed.len();
        let missing = part.tests().filter(|name| !passed.contains(name));
        outcome.failed = missing.map(str::to_owned).collect();
        outcome
    }
}

/// `walker loop: 4711 instructions`.
fn instructions(line: &str) -> Option<(Walker, Option<u32>)> {
    let rest = line
        .strip_prefix("walker ")?
        .strip_suffix(" instructions")?;
    let (walker, count) = rest.split_once(": ")?;
    Some((Walker::of_word(walker)?, count.parse().ok()))
}

/// `test module::name ... ok`.
fn passed_test(line: &str) -> Option<&str> {
    line.strip_prefix("test ")?.strip_suffix(" ... ok")
}

/// The programs that the tests are made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Programs {
    /// The tests.
    tests: String,
    /// The product, optimized: it would take too long in a machine otherwise.
    product: String,
}

impl Programs {
    /// Builds both.
    pub(super) fn build(workspace: &Workspace) -> Result<Self> {
        let tests = ["test", "--no-run", "-p", "ebpfprof", "--test", "kernel"];
        // As users build it, so it is built once.
        let product = ["build", "--release"];
        Ok(Self {
            tests: built(workspace, &tests, "kernel")?,
            product: built(workspace, &product, "ebpfprof")?,
        })
    }
}

/// Builds something by cargo; tells where the program of this name is.
fn built(workspace: &Workspace, arguments: &[&str], name: &str) -> Result<String> {
    let mut command = cargo();
    command
        .args(arguments)
        .args(["--locked", "--message-format", "json-render-diagnostics"])
        .current_dir(workspace.root());
    let messages = output(&mut command).with_context(|| format!("cannot build {name}"))?;
    let named = format!(r#""name":"{name}""#);
    let mut of_name = messages.lines().filter(|line| line.contains(&named));
    let program = of_name.find_map(executable);
    program.with_context(|| format!("cargo does not tell where it put {name}"))
}

/// The program in a message of cargo's. Source: "External tools" in cargo's book.
fn executable(message: &str) -> Option<String> {
    let (_, rest) = message.split_once(r#""executable":""#)?;
    let (path, _) = rest.split_once('"')?;
    (!path.contains('\\')).then(|| path.to_owned())
}

/// Runs the tests here; tells what they printed.
pub(super) fn run_here(workspace: &Workspace, programs: &Programs) -> Result<String> {
    let mut command = Command::new(&programs.tests);
    command
        .args(arguments(Part::Host))
        .env(BINARY_VARIABLE, &programs.product)
        .current_dir(workspace.root());
    let ended = command
        .output()
        .with_context(|| format!("cannot run {}", programs.tests))?;
    let stdout = String::from_utf8_lossy(&ended.stdout).into_owned();
    if !stdout.contains("test result: ") {
        bail!(
            "the tests did not run: {}",
            String::from_utf8_lossy(&ended.stderr)
        );
    }
    Ok(stdout)
}

/// The line of the shell that runs the tests on a slow host.
pub(super) fn slow_command(programs: &Programs, part: Part) -> String {
    let [tests, product] = [&programs.tests, &programs.product].map(|path| quoted(path));
    let arguments: Vec<String> = arguments(part).map(quoted).collect();
    let arguments = arguments.join(" ");
    format!("{SLOW_VARIABLE}=1 {BINARY_VARIABLE}={product} exec {tests} {arguments}")
}

/// One test at a time, exactly these, with what passed ones print.
fn arguments(part: Part) -> impl Iterator<Item = &'static str> {
    let options = [
        "--exact",
        "--include-ignored",
        "--test-threads=1",
        "--show-output",
    ];
    options.into_iter().chain(part.tests())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_that_is_not_there_has_not_passed() {
        let printed = format!(
            "running 2 tests\ntest {} ... ok\ntest {} ... FAILED\n\
             best walker: tail-calls\nwalker tail-calls: unknown instructions\n\
             walker loop: 4711 instructions\n",
            SHORT[0], SHORT[1]
        );
        let outcome = Outcome::parse(&printed, Part::Short);
        assert_eq!(outcome.best, Some(Walker::TailCalls));
        assert_eq!(outcome.instructions[&Walker::TailCalls], None);
        assert_eq!(outcome.instructions[&Walker::Loop], Some(4711));
        assert_eq!((outcome.passed, outcome.failed.len()), (1, SHORT.len() - 1));
        assert_eq!(outcome.failed[0], SHORT[1]);
        let in_machine = Outcome::parse(&printed, Part::Machine);
        assert_eq!(
            in_machine.failed.len(),
            outcome.failed.len() + MORE.len() + OF_MACHINES.len()
        );
    }

    #[test]
    fn the_program_is_found_in_cargos_message() {
        let message = r#"{"target":{"name":"kernel"},"executable":"/a/kernel-1","fresh":true}"#;
        assert_eq!(executable(message).as_deref(), Some("/a/kernel-1"));
        assert_eq!(executable(r#"{"executable":null}"#), None);
    }
}
