//! The tests that run under every kernel, and what their program prints.
//!
//! They are a part of `profiler/tests/kernel`: a machine of software is slow, so whatever depends on
//! the kernel alone is here, and what depends on programs and their files is not.

use std::{collections::BTreeMap, path::Path, process::Command};

use anyhow::{Context, Result, bail};

use crate::{
    process::{cargo, output},
    workspace::Workspace,
};

use super::vm::quoted;

/// Tells the tests that everything takes many times longer than on a processor.
const SLOW_VARIABLE: &str = "EBPFPROF_SLOW_HOST";

/// The tests, by what they hold for.
pub(super) const TESTS: &[&str] = &[
    // Verifier, flavours, and the product's own test.
    "walkers::the_verifier_reads_few_instructions",
    "walkers::the_selftest_passes_by_every_walker",
    "walkers::both_walkers_see_the_same",
    // Complete and right stacks: in code, in system calls, in signal handlers, of threads, deep ones,
    // of other C libraries, of Rust and Go.
    "unwinding::one_source_has_whole_stacks_however_it_is_linked",
    "unwinding::the_kernels_code_and_the_c_librarys_are_passed",
    "unwinding::signal_handlers_have_the_code_that_they_interrupted",
    "unwinding::threads_have_whole_stacks",
    "unwinding::four_hundred_frames_are_all_there",
    "unwinding::a_deeper_stack_is_cut_and_says_so",
    "unwinding::rust_and_go_have_whole_stacks",
    // Kernel stacks and their names.
    "stacks::a_process_in_system_calls_has_its_user_stack_below_the_kernels",
    "kernel_names::a_profile_has_the_kernels_names_as_it_lists_them",
    // Targets, and processes that come and go.
    "targets::several_pids_are_sampled_together",
    "targets::a_name_means_processes_and_threads",
    "targets::a_cgroup_of_version_2_is_sampled_with_all_below_it",
    "commands::children_are_followed",
    // The account, and the end.
    "targets::the_account_of_the_whole_host_is_exact",
    "endings::a_very_short_recording_has_an_exact_account",
    "endings::a_signal_ends_the_recording_and_it_is_written",
    "endings::nothing_is_left_behind_when_it_is_killed",
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
    pub(super) passed: usize,
    /// The tests that did not pass.
    pub(super) failed: Vec<String>,
}

impl Outcome {
    /// Reads what the program of tests printed. A test that was not run has failed.
    pub(super) fn parse(printed: &str) -> Self {
        let mut outcome = Self::default();
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
        let missing = TESTS.iter().filter(|name| !passed.contains(name));
        outcome.failed = missing.map(|name| (*name).to_owned()).collect();
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

/// Builds the program of tests; tells where it is.
pub(super) fn build(workspace: &Workspace) -> Result<String> {
    let mut command = cargo();
    command
        .args(["test", "--locked", "-p", "ebpfprof", "--test", "kernel"])
        .args(["--no-run", "--message-format", "json-render-diagnostics"])
        .current_dir(workspace.root());
    let messages = output(&mut command).context("cannot build the tests")?;
    let program = messages
        .lines()
        .filter(|line| line.contains(r#""name":"kernel""#))
        .find_map(executable);
    program.context("cargo does not tell where it put the tests")
}

/// The program in a message of cargo's. Source: "External tools" in cargo's book.
fn executable(message: &str) -> Option<String> {
    let (_, rest) = message.split_once(r#""executable":""#)?;
    let (path, _) = rest.split_once('"')?;
    (!path.contains('\\')).then(|| path.to_owned())
}

/// Runs the tests here; tells what they printed.
pub(super) fn run_here(workspace: &Workspace, program: &str) -> Result<String> {
    let mut command = Command::new(program);
    command.args(arguments()).current_dir(workspace.root());
    let ended = command
        .output()
        .with_context(|| format!("cannot run {program}"))?;
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
pub(super) fn slow_command(program: &Path) -> String {
    let program = quoted(&program.display().to_string());
    let arguments: Vec<String> = arguments().map(quoted).collect();
    format!("{SLOW_VARIABLE}=1 exec {program} {}", arguments.join(" "))
}

/// One test at a time, exactly these, with what passed ones print.
fn arguments() -> impl Iterator<Item = &'static str> {
    let options = ["--exact", "--test-threads=1", "--show-output"];
    options.into_iter().chain(TESTS.iter().copied())
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
            TESTS[0], TESTS[1]
        );
        let outcome = Outcome::parse(&printed);
        assert_eq!(outcome.best, Some(Walker::TailCalls));
        assert_eq!(outcome.instructions[&Walker::TailCalls], None);
        assert_eq!(outcome.instructions[&Walker::Loop], Some(4711));
        assert_eq!((outcome.passed, outcome.failed.len()), (1, TESTS.len() - 1));
        assert_eq!(outcome.failed[0], TESTS[1]);
    }

    #[test]
    fn the_program_is_found_in_cargos_message() {
        let message = r#"{"target":{"name":"kernel"},"executable":"/a/kernel-1","fresh":true}"#;
        assert_eq!(executable(message).as_deref(), Some("/a/kernel-1"));
        assert_eq!(executable(r#"{"executable":null}"#), None);
    }
}
