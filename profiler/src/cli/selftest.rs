//! `ebpfprof selftest`: profiles a workload with known shares and compares.

use std::{
    env,
    io::{self, Write},
    process::ExitCode,
    time::Instant,
};

use rustix::process::Signal;

use super::{
    args::SelftestArgs, record::check_frequency, start_log, stop_on_signals, summary,
    trouble::Trouble,
};
use crate::{
    bpf::Stacks,
    privilege,
    record::{Addresses, Outcome, Request, Rights, StartCommand, Times, Unwatched, prepare},
    selftest::{Measured, TOLERANCE, compare, reads_in_the_kernel, workload},
    symbolize,
    target::{Follow, TargetSpec, command::ChildStdout},
};

/// Runs the test, or the workload when asked to be that.
pub(super) fn run(args: &SelftestArgs) -> Result<ExitCode, Trouble> {
    if args.be_the_workload {
        let failed = |error: io::Error| {
            Trouble::failure("the workload failed", error.to_string(), "ls -l /dev/zero")
        };
        return workload::run().map(|()| ExitCode::SUCCESS).map_err(failed);
    }
    start_log(args.verbose);
    check_frequency(args.frequency)?;
    privilege::check()?;
    let stop = stop_on_signals()?;
    let program = env::current_exe().map_err(|error| {
        Trouble::failure(
            "cannot find our own program",
            error.to_string(),
            "mount -t proc proc /proc",
        )
    })?;
    let request = Request {
        spec: TargetSpec {
            follow: Follow::Yes,
            ..TargetSpec::default()
        },
        command: Some(StartCommand {
            argv: vec![
                program.into(),
                "selftest".into(),
                "--be-the-workload".into(),
            ],
            stdout: ChildStdout::ToStderr,
        }),
        frequency_hz: args.frequency.0,
        budget: None,
        duration: Some(args.seconds.0),
        kernel_stacks: Stacks::Taken,
        user_stacks: Stacks::Taken,
        symbols: symbolize::Settings::default(),
        labels: None,
        times: Times::LeftOut,
        addresses: Addresses::Runtime,
        flavour: args.walker.map(Into::into),
        table_bytes: crate::record::DEFAULT_TABLE_BYTES,
        debuginfod: None,
        rights: Rights::GivenUp,
    };
    let started = Instant::now();
    let mut outcome = prepare(request)?.record(&stop, &mut Unwatched)?;
    if let Some(mut workload) = outcome.running.take() {
        // It may have ended by itself; either way it is reaped.
        let _ = workload.signal(Signal::KILL);
        let _ = workload.wait();
    }
    log::debug!("selftest took {:?}", started.elapsed());
    report(&outcome)
}

fn report(outcome: &Outcome) -> Result<ExitCode, Trouble> {
    let measured = compare(&outcome.profile);
    let in_kernel = reads_in_the_kernel(&outcome.profile);
    let mut out = io::stderr().lock();
    // When stderr is gone the exit code still tells.
    let _ = write_shares(&measured, in_kernel, &mut out);
    let _ = summary::write(outcome, &mut out);
    drop(out);
    if let Some(flaw) = outcome.account.flaw() {
        return Err(Trouble::failure(
            "the account does not add up",
            flaw,
            "report it with the output of: uname -r; ebpfprof --version",
        ));
    }
    if outcome.account.lost() > 0 {
        let why = format!(
            "{} of {} samples due",
            outcome.account.lost(),
            outcome.account.due
        );
        return Err(Trouble::failure(
            "samples were lost",
            why,
            "ebpfprof selftest -F 99",
        ));
    }
    if in_kernel == 0 {
        let why = "no sample of the function that reads shows kernel frames below it";
        return Err(Trouble::failure(
            "kernel stacks are missing",
            why,
            "sudo sysctl kernel.kptr_restrict=0; ebpfprof selftest --verbose",
        ));
    }
    if !measured.iter().all(Measured::is_right) {
        let why = format!("a share is more than {TOLERANCE} points from the truth");
        return Err(Trouble::failure(
            "the profile is not true",
            why,
            "ebpfprof selftest --seconds 20, on a host that is less busy",
        ));
    }
    let _ = writeln!(
        io::stderr().lock(),
        "selftest passed: every share within {TOLERANCE} points, the account exact"
    );
    Ok(ExitCode::SUCCESS)
}

fn write_shares(measured: &[Measured], in_kernel: u64, out: &mut dyn Write) -> io::Result<()> {
    writeln!(
        out,
        "{:<40} {:>7} {:>9} {:>11}",
        "call", "true", "measured", "difference"
    )?;
    for share in measured {
        let expected = &share.expected;
        let call = if expected.caller == expected.root {
            format!("{} > {}", expected.root, expected.function)
        } else {
            format!(
                "{} > {} > {}",
                expected.root, expected.caller, expected.function
            )
        };
        let difference = share.percent - expected.percent;
        let verdict = if share.is_right() { "" } else { "  WRONG" };
        writeln!(
            out,
            "{call:<40} {:>6.1}% {:>8.1}% {difference:>+11.1}{verdict}",
            expected.percent, share.percent
        )?;
    }
    writeln!(
        out,
        "samples of reads with kernel frames below it: {in_kernel}\n"
    )
}
