//! The bare form of the command: records and writes.

use std::{
    fs, io,
    process::ExitCode,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use super::{
    args::{RecordArgs, flame},
    debuginfod,
    outputs::{Plan, stop_when_stdout_closes},
    progress::Bar,
    start_log, stop_on_signals, summary, tell,
    trouble::Trouble,
};
use crate::{
    bpf::Stacks,
    export::{
        self, Recorded, Settings,
        output::{Destination, OutputError},
    },
    object::opener,
    privilege,
    quantity::Frequency,
    record::{End, Outcome, Request, Rights, StartCommand, Stop, Times, prepare},
    symbolize::{self, Inlines, Memory, Names},
    target::{
        Follow, TargetSpec,
        command::{ChildStdout, Running},
    },
};

const FREQUENCY_LIMIT: &str = "/proc/sys/kernel/perf_event_max_sample_rate";

/// Records what the arguments ask for.
pub(super) fn run(args: &RecordArgs) -> Result<ExitCode, Trouble> {
    start_log(args.verbose);
    opener::enable();
    if args.no_kernel && args.no_user {
        return Err(Trouble::misuse(
            "nothing to record",
            "--no-kernel and --no-user leave no frames",
            "ebpfprof … --no-kernel",
        ));
    }
    let plan = Plan::of_args(args)?;
    check_frequency(args.frequency)?;
    let debuginfod = debuginfod::open(args.debuginfod.as_ref(), inlines(args))?;
    privilege::check()?;
    let stop = stop_on_signals()?;
    let stdout_closed = plan.uses_stdout().then(|| stop_when_stdout_closes(&stop));
    let request = Request {
        debuginfod,
        ..request(args, &plan)
    };
    let ready = prepare(request)?;
    let outputs = plan.open(args, ready.label())?;
    let mut bar = Bar::new(args.seconds.map(|seconds| seconds.0));
    let mut outcome = ready.record(&stop, &mut bar)?;
    let comments = comments(args, &outcome);
    outcome.profile.comments.extend(comments);
    let settings = Settings {
        flame: flame(&args.flame),
    };
    let (written, mut troubles) = outputs.write(&outcome.profile, &settings);
    if troubles.is_empty() && stdout_closed.is_some_and(|closed| closed.load(Ordering::Relaxed)) {
        // An empty profile meets no resistance.
        let closed = OutputError::ClosedPipe {
            destination: Destination::Stdout,
            source: io::Error::from_raw_os_error(libc::EPIPE),
        };
        troubles.push(closed.into());
    }
    let hint = debuginfod::hint(args.debuginfod.as_ref(), outcome.bare_objects);
    outcome.notes.extend(hint);
    // When stderr is gone there is nobody left to tell.
    let _ = summary::write(&outcome, &mut io::stderr().lock());
    let _ = summary::write_files(&written, &mut io::stderr().lock());
    let _ = summary::write_unnamed(&outcome, &written, &mut io::stderr().lock());
    let running = outcome.running.take();
    let failed = troubles
        .iter()
        .fold(None, |_, trouble| Some(trouble.report()));
    let code = failed.unwrap_or_else(|| verdict(args, &outcome));
    if let Some(running) = running {
        see_off(running, outcome.end, &stop);
    }
    Ok(code)
}

fn request(args: &RecordArgs, plan: &Plan) -> Request {
    let stacks = |left_out: bool| {
        if left_out {
            Stacks::LeftOut
        } else {
            Stacks::Taken
        }
    };
    let command = (!args.command.is_empty()).then(|| StartCommand {
        argv: args.command.clone(),
        stdout: if plan.uses_stdout() {
            ChildStdout::ToStderr
        } else {
            ChildStdout::Inherit
        },
    });
    Request {
        spec: TargetSpec {
            pids: args.pid.clone(),
            tids: args.tid.clone(),
            comms: args.comm.clone(),
            cgroups: args.cgroup.clone(),
            containers: args.container.clone(),
            follow: if args.follow || command.is_some() {
                Follow::Yes
            } else {
                Follow::No
            },
        },
        command,
        frequency_hz: args.frequency.0,
        budget: args.max_overhead.map(|overhead| overhead.0),
        duration: args.seconds.map(|seconds| seconds.0),
        kernel_stacks: stacks(args.no_kernel),
        user_stacks: stacks(args.no_user),
        symbols: symbolize::Settings {
            inlines: inlines(args),
            names: if args.raw_addresses {
                Names::LeftToReader
            } else {
                Names::Resolve
            },
            most_bytes: args.max_symbol_memory.0 as u64,
            deadline: None,
            memory: Memory::None,
        },
        labels: args.labels.clone(),
        times: if plan.needs_times() {
            Times::Kept
        } else {
            Times::LeftOut
        },
        addresses: args.addresses.into(),
        flavour: args.walker.map(Into::into),
        table_bytes: args.max_table_memory.0,
        debuginfod: None,
        rights: Rights::GivenUp,
    }
}

fn inlines(args: &RecordArgs) -> Inlines {
    if args.no_inlines {
        Inlines::Skip
    } else {
        Inlines::Resolve
    }
}

/// Refuses a frequency that the kernel would throttle.
pub(super) fn check_frequency(frequency: Frequency) -> Result<(), Trouble> {
    let limit = fs::read_to_string(FREQUENCY_LIMIT)
        .ok()
        .and_then(|text| text.trim().parse::<u32>().ok());
    match limit {
        Some(limit) if frequency.0 > limit => Err(Trouble::misuse(
            format!("{} Hz is too fast", frequency.0),
            format!("the kernel's limit is {limit} Hz (kernel.perf_event_max_sample_rate)"),
            format!(
                "ebpfprof -F {limit}, or sudo sysctl kernel.perf_event_max_sample_rate={}",
                frequency.0
            ),
        )),
        _ => Ok(()),
    }
}

/// What the profile says of its recording.
fn comments(args: &RecordArgs, outcome: &Outcome) -> Vec<String> {
    let asked_hz = args.frequency.0;
    let last_hz = outcome.lowered.last().map(|lowered| lowered.to_hz);
    export::comments_of(&Recorded {
        label: &outcome.label,
        frequencies_hz: (asked_hz, last_hz.unwrap_or(asked_hz)),
        lowered: &outcome.lowered,
        account: &outcome.account,
        cost: &outcome.cost,
        gaps: &outcome.gaps,
    })
}

/// Says what is wrong with a run that gave a profile, if anything, and gives its exit code.
fn verdict(args: &RecordArgs, outcome: &Outcome) -> ExitCode {
    let account = &outcome.account;
    if let Some(flaw) = account.flaw() {
        let advice = "report it with the output of: uname -r; ebpfprof --version";
        return Trouble::failure("the account does not add up", flaw, advice).report();
    }
    if account.kept == 0 {
        let ran = format!("{:.2} s", outcome.cost.elapsed.as_secs_f64());
        if outcome.end == End::TargetEnded {
            let why = format!("the target ended after {ran}, before a tick fell on it");
            return Trouble::failure(
                "no samples",
                why,
                "ebpfprof -F 999 -- CMD, to profile a command from its start to its end",
            )
            .report();
        }
        let why = format!("the targets used no CPU in {ran}");
        // An idle target is no failure, but an empty profile should not surprise.
        tell(&format!(
            "no samples: {why}; try: ebpfprof --seconds 30, under load"
        ));
        return ExitCode::SUCCESS;
    }
    if args.strict && account.lost() > 0 {
        let why = format!(
            "{} of {} samples due were lost, and --strict was given",
            account.lost(),
            account.due
        );
        return Trouble::failure(
            "samples were lost",
            why,
            "ebpfprof with a lower -F, or without --strict",
        )
        .report();
    }
    ExitCode::SUCCESS
}

/// The profile is written, and the command still runs: it may go on when only the time was over,
/// and is asked to end when we were.
fn see_off(mut running: Running, end: End, stop: &Stop) {
    let pid = running.pid();
    let asked = match end {
        End::TimeIsOver | End::Bug => {
            tell(&format!(
                "the command (pid {pid}) still runs; waiting for its end, Ctrl-C ends both"
            ));
            while !stop.is_asked() && !has_ended(&mut running) {
                std::thread::sleep(PATIENCE_STEP);
            }
            stop.is_asked()
        }
        End::Stopped => true,
        End::TargetEnded => return,
    };
    if !asked {
        return;
    }
    let _ = running.signal(Signal::TERM);
    let since = Instant::now();
    while !has_ended(&mut running) {
        if since.elapsed() > PATIENCE {
            tell(&format!(
                "the command (pid {pid}) still runs; try: kill -9 {pid}"
            ));
            return;
        }
        std::thread::sleep(PATIENCE_STEP);
    }
}

fn has_ended(running: &mut Running) -> bool {
    running.try_wait().is_ok_and(|status| status.is_some())
}

/// How long a command may take to end when asked to.
const PATIENCE: Duration = Duration::from_secs(2);
const PATIENCE_STEP: Duration = Duration::from_millis(20);
