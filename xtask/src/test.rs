//! `cargo xtask test`: every check and test, one after the other. The first failure ends the run.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{
    ebpf, fixtures,
    kernel_test::{self, Choice},
    packages,
    process::{cargo, find, is_root, output, run as run_command, run_watched},
    section::Report,
    tidy, tools,
    workspace::{OTHER_MANIFESTS, Workspace},
};

/// Tells the product to load the object in this file in place of the embedded one.
const OBJECT_VARIABLE: &str = "EBPFPROF_BPF_OBJECT";

/// Cargo runs test programs by this one. The kernel tests need root; compiling does not.
const RUNNER_VARIABLE: &str = "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER";

/// How much to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Everything.
    Whole,
    /// Without the rebuild of the BPF object, the release build and other kernels.
    Quick,
}

type Action = fn(&Workspace) -> Result<()>;

/// The steps of a run, cheap ones first; the flag says whether a quick run has them too.
const STEPS: [(&str, Extent, Action); 11] = [
    ("needed programs", Extent::Quick, |_| {
        packages::ensure_for_tests()
    }),
    ("tools", Extent::Quick, tools::ensure),
    ("formatting", Extent::Quick, formatting),
    ("lock files", Extent::Quick, lock_files),
    ("house style", Extent::Quick, tidy::run),
    ("clippy", Extent::Quick, clippy),
    ("BPF object", Extent::Whole, |workspace| {
        ebpf::run(workspace, ebpf::Goal::Check)
    }),
    ("release build", Extent::Whole, release_build),
    ("fixtures", Extent::Quick, fixtures::build),
    ("tests", Extent::Quick, tests),
    ("other kernels", Extent::Whole, |workspace| {
        kernel_test::run(workspace, &Choice::Ends, Report::Printed)
    }),
];

/// Runs the steps.
pub(crate) fn run(workspace: &Workspace, extent: Extent) -> Result<()> {
    let start = Instant::now();
    let steps: Vec<_> = STEPS
        .iter()
        .filter(|(_, needed, _)| extent == Extent::Whole || *needed == Extent::Quick)
        .collect();
    for (number, (name, _, action)) in (1..).zip(&steps) {
        println!("\n== {number} of {}: {name}", steps.len());
        let began = Instant::now();
        action(workspace).with_context(|| format!("step {number}, {name}, failed"))?;
        println!("== {name}: passed in {}", words(began.elapsed()));
    }
    let left_out = match extent {
        Extent::Whole => "",
        Extent::Quick => {
            " (without the rebuild of the BPF object, the release build and other kernels)"
        }
    };
    println!(
        "\ncargo xtask test: all {} steps passed in {}{left_out}",
        steps.len(),
        words(start.elapsed())
    );
    Ok(())
}

/// Runs the real-kernel tests on the object in a file.
pub(crate) fn kernel_tests(workspace: &Workspace, object: &Path) -> Result<()> {
    fixtures::build(workspace)?;
    let mut command = in_root(workspace, &["test", "--locked", "-p", "ebpfprof"]);
    command
        .args(["--test", "kernel"])
        .env(OBJECT_VARIABLE, object);
    as_root(&mut command)?;
    run_command(&mut command)
}

fn formatting(workspace: &Workspace) -> Result<()> {
    run_command(&mut in_root(workspace, &["fmt", "--all", "--check"]))?;
    for manifest in OTHER_MANIFESTS {
        let arguments = ["fmt", "--check", "--manifest-path", manifest];
        run_command(&mut in_root(workspace, &arguments))?;
    }
    Ok(())
}

/// Each lock file names what its manifests ask for. Of our own workspace cargo checks it with each
/// command; nothing else here builds all of the others.
fn lock_files(workspace: &Workspace) -> Result<()> {
    for manifest in OTHER_MANIFESTS {
        let arguments = ["tree", "--locked", "--manifest-path", manifest];
        output(&mut in_root(workspace, &arguments))?;
    }
    Ok(())
}

fn clippy(workspace: &Workspace) -> Result<()> {
    let mut command = in_root(workspace, &["clippy", "--workspace", "--all-targets"]);
    run_command(command.args(["--locked", "--", "-D", "warnings"]))
}

fn release_build(workspace: &Workspace) -> Result<()> {
    run_command(&mut in_root(workspace, &["build", "--release", "--locked"]))
}

fn tests(workspace: &Workspace) -> Result<()> {
    let mut command = in_root(workspace, &["test", "--workspace", "--locked"]);
    as_root(&mut command)?;
    let mut passed = 0;
    run_watched(&mut command, |line| passed += passed_in(line))?;
    if passed == 0 {
        bail!("cargo test ran no test");
    }
    println!("{passed} tests passed");
    Ok(())
}

/// Lets test programs run as root, by sudo where we are not.
fn as_root(command: &mut Command) -> Result<()> {
    if is_root() {
        return Ok(());
    }
    if find("sudo").is_none() {
        bail!("the kernel tests load BPF programs: run as root, or install sudo");
    }
    println!("the test programs run through sudo: the kernel tests load BPF programs");
    command.env(RUNNER_VARIABLE, "sudo -E");
    Ok(())
}

fn in_root(workspace: &Workspace, arguments: &[&str]) -> Command {
    let mut command = cargo();
    command.args(arguments).current_dir(workspace.root());
    command
}

/// The tests that passed, if the line is the result of a test program.
fn passed_in(line: &str) -> usize {
    let counts = line.strip_prefix("test result: ok. ");
    let passed = counts.and_then(|counts| counts.split_once(" passed"));
    passed.map_or(0, |(number, _)| number.parse().unwrap_or(0))
}

fn words(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_test_programs_are_counted() {
        let line = "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured";
        assert_eq!(passed_in(line), 12);
        assert_eq!(passed_in("test result: FAILED. 3 passed; 1 failed"), 0);
        assert_eq!(passed_in("running 4 tests"), 0);
    }

    #[test]
    fn a_duration_is_minutes_and_seconds() {
        assert_eq!(words(Duration::from_millis(1500)), "1 s");
        assert_eq!(words(Duration::from_secs(135)), "2 min 15 s");
    }
}
