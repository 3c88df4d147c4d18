//! The sampler of a server: captures of several targets at one time, each with an account of its own.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use ebpfprof::{
    captures::{CaptureError, Captured, Captures, Program, Recent, Target, Wanted},
    profile::Profile,
    record::{
        DEFAULT_TABLE_BYTES, End, Times,
        live::{Live, LiveSettings, RecorderSettings},
    },
    symbolize,
    target::Pid,
};
use tokio::runtime::Runtime;

use crate::{bpf_ids, fixture::Fixture, program::wait_until, turn};

/// How long a sampler may take to fall asleep once nobody asks.
const ASLEEP: Duration = Duration::from_secs(15);
/// The share of `alpha` in `shares`.
const ALPHA_PERCENT: f64 = 50.0;

fn live() -> Live {
    live_with(None)
}

fn live_with(recorder: Option<RecorderSettings>) -> Live {
    let settings = LiveSettings {
        table_bytes: DEFAULT_TABLE_BYTES,
        symbols: symbolize::Settings {
            memory: symbolize::Memory::Kept,
            ..symbolize::Settings::default()
        },
        most_captures: 24,
        most_frequency_hz: 999,
        recorder,
    };
    Live::start(settings).unwrap()
}

fn runtime() -> Runtime {
    Runtime::new().unwrap()
}

fn wanted(target: Target, frequency_hz: u32, seconds: f64) -> Wanted {
    Wanted {
        target,
        frequency_hz,
        duration: Duration::from_secs_f64(seconds),
        patience: Duration::from_secs(5),
        labels: None,
        times: Times::LeftOut,
        program: Program::Any,
    }
}

fn of(fixture: &Fixture) -> Target {
    Target::Process(Pid(fixture.pid()))
}

/// The share of a function's samples, in percent, wherever it is on the stack.
#[expect(clippy::cast_precision_loss, reason = "samples of a short run")]
fn share(profile: &Profile, function: &str) -> f64 {
    let has_it = |id: &ebpfprof::profile::LocationId| {
        let lines = &profile.location_at(*id).lines;
        lines.iter().any(|line| profile.line_name(line) == function)
    };
    let counts = |wanted: bool| -> u64 {
        let samples = profile.samples();
        let found = samples.filter(|sample| !wanted || sample.stack.iter().any(has_it));
        found.map(|sample| sample.count).sum()
    };
    100.0 * counts(true) as f64 / counts(false) as f64
}

#[track_caller]
fn check_account(captured: &Captured) {
    let account = &captured.account;
    assert_eq!(account.flaw(), None, "{account}");
    assert_eq!(account.lost(), 0, "{account}");
    assert!(account.missed() * 10 <= account.ticks, "{account}");
}

#[test]
fn a_capture_begins_at_once_and_costs_nothing_afterwards() {
    let _turn = turn();
    let before = bpf_ids::links();
    let fixture = Fixture::start("shares");
    let (live, runtime) = (live(), runtime());
    let asleep = bpf_ids::links();
    for round in 0..3 {
        let asked = Instant::now();
        let captured = runtime
            .block_on(live.capture(wanted(of(&fixture), 499, 1.0)))
            .unwrap();
        check_account(&captured);
        assert_eq!(captured.end, End::TimeIsOver);
        let took = asked.elapsed();
        assert!(took < Duration::from_secs(10), "{took:?}");
        let account = &captured.account;
        assert!(account.kept > 300, "{account}");
        assert!(account.complete * 1000 >= account.kept * 999, "{account}");
        let first = captured.cost.first_sample.unwrap();
        println!("round {round}: first sample after {first:?}, answered after {took:?}");
        if round > 0 {
            assert!(first < Duration::from_millis(800), "{first:?}");
        }
    }
    wait_until("the sampler is asleep", ASLEEP, || {
        bpf_ids::links() == asleep
    });
    assert_eq!(live.state().frequency_hz, 0);
    drop(live);
    assert_eq!(bpf_ids::links(), before);
}

#[test]
#[ignore = "takes a CPU away: run by cargo xtask kernel-test, in virtual machines"]
fn a_sampler_that_slept_samples_the_cpus_that_are_there() {
    const ONLINE: &str = "/sys/devices/system/cpu/cpu1/online";
    const PARANOID: &str = "/proc/sys/kernel/perf_event_paranoid";
    let _turn = turn();
    let before = fs::read_to_string(PARANOID).unwrap();
    fs::write(PARANOID, "2").unwrap();
    let fixture = Fixture::start("threads");
    let (live, runtime) = (live(), runtime());
    // How many CPUs were sampled, by the ticks that were due on them; and whether one is told to lack.
    let capture = || {
        let captured = runtime.block_on(live.capture(wanted(of(&fixture), 199, 2.0)));
        let captured = captured.unwrap();
        let (account, profile) = (&captured.account, &captured.profile);
        assert_eq!(account.flaw(), None, "{account}");
        let ticks_a_cpu = profile.duration_ns * 199 / 1_000_000_000;
        println!("{ticks_a_cpu} a CPU: {account}");
        let lacks = captured.notes.iter().any(|note| note.contains("on CPU 1,"));
        ((account.ticks + ticks_a_cpu / 2) / ticks_a_cpu, lacks)
    };
    assert_eq!(capture(), (2, false));
    // The clocks stand still between captures, and soon nothing is attached.
    for delay in [Duration::ZERO, ASLEEP] {
        thread::sleep(delay);
        fs::write(ONLINE, "0").unwrap();
        assert_eq!(capture(), (1, false));
        thread::sleep(delay);
        fs::write(ONLINE, "1").unwrap();
        assert_eq!(capture(), (2, false));
    }
    // Debian's kernels let nobody but the administrator open clocks then, who we are no longer.
    fs::write(PARANOID, "3").unwrap();
    fs::write(ONLINE, "0").unwrap();
    assert_eq!(capture(), (1, false));
    fs::write(ONLINE, "1").unwrap();
    assert_eq!(capture(), (1, true));
    fs::write(PARANOID, "2").unwrap();
    assert_eq!(capture(), (2, false));
    fs::write(PARANOID, before).unwrap();
}

#[test]
fn captures_that_overlap_have_an_account_each() {
    let _turn = turn();
    let fixtures: Vec<Fixture> = (0..4).map(|_| Fixture::start("shares")).collect();
    let (live, runtime) = (live(), runtime());
    let pending: Vec<_> = (0..20)
        .map(|number| {
            let fixture = &fixtures[number % fixtures.len()];
            let hz = [99, 199, 499, 999][number % 3];
            let seconds = 1.0 + 0.2 * f64::from(u8::try_from(number).unwrap());
            let target = match number {
                5 => Target::Host,
                6 => Target::Comm("shares".to_owned()),
                _ => of(fixture),
            };
            thread::sleep(Duration::from_millis(20));
            runtime.spawn(live.capture(wanted(target, hz, seconds)))
        })
        .collect();
    for (number, pending) in pending.into_iter().enumerate() {
        let captured = runtime.block_on(pending).unwrap().unwrap();
        check_account(&captured);
        let seconds = captured.profile.duration_ns as f64 / 1e9;
        let asked = 1.0 + 0.2 * f64::from(u8::try_from(number).unwrap());
        assert!(
            (seconds - asked).abs() < 2.0,
            "{number}: {seconds} s of {asked}"
        );
        if number == 5 {
            continue; // Of everybody, who may do anything.
        }

        let alpha = share(&captured.profile, "alpha");
        assert!(
            (alpha - ALPHA_PERCENT).abs() < 12.0,
            "{number}: {alpha:.1} %"
        );
    }
}

#[test]
fn whoever_goes_away_ends_the_capture() {
    let _turn = turn();
    let fixture = Fixture::start("shares");
    let (live, runtime) = (live(), runtime());
    let pending = runtime.spawn(live.capture(wanted(of(&fixture), 99, 60.0)));
    wait_until("the capture runs", ASLEEP, || live.state().running == 1);
    pending.abort();
    let gone = Instant::now();
    wait_until("the capture ends", ASLEEP, || live.state().running == 0);
    assert!(
        gone.elapsed() < Duration::from_secs(10),
        "{:?}",
        gone.elapsed()
    );
}

#[test]
fn a_target_that_ends_gives_what_there_is() {
    let _turn = turn();
    let fixture = Fixture::start("shares");
    let (live, runtime) = (live(), runtime());
    let pending = runtime.spawn(live.capture(wanted(of(&fixture), 499, 30.0)));
    thread::sleep(Duration::from_millis(700));
    drop(fixture);
    let captured = runtime.block_on(pending).unwrap().unwrap();
    check_account(&captured);
    assert_eq!(captured.end, End::TargetEnded);
    assert!(captured.account.kept > 100, "{}", captured.account);
}

#[test]
fn a_process_that_is_not_there_is_an_error() {
    let _turn = turn();
    let (live, runtime) = (live(), runtime());
    let gone = Target::Process(Pid(4_000_000));
    let answer = runtime.block_on(live.capture(wanted(gone, 99, 1.0)));
    let error = answer.unwrap_err();
    assert!(matches!(error, CaptureError::Record(_)), "{error}");
}

fn recent(target: Target, seconds: u64) -> Recent {
    Recent {
        target,
        last: Duration::from_secs(seconds),
        patience: Duration::from_secs(5),
        labels: None,
    }
}

#[test]
fn the_flight_recorder_has_what_has_just_happened() {
    let _turn = turn();
    let live = live_with(Some(RecorderSettings {
        span: Duration::from_secs(30),
        frequency_hz: 49,
    }));
    let runtime = runtime();
    let burst = Fixture::start("shares");
    let target = of(&burst);
    thread::sleep(Duration::from_millis(2_500));
    drop(burst);
    // Somebody's capture at another frequency does not change what samples weigh.
    let other = Fixture::start("deep");
    let captured = runtime.block_on(live.capture(wanted(of(&other), 499, 1.0)));
    check_account(&captured.unwrap());
    let asked = Instant::now();
    let had = runtime
        .block_on(live.recent(recent(target.clone(), 20)))
        .unwrap();
    assert!(
        asked.elapsed() < Duration::from_secs(20),
        "{:?}",
        asked.elapsed()
    );
    check_account(&had);
    let alpha = share(&had.profile, "alpha");
    assert!((alpha - ALPHA_PERCENT).abs() < 15.0, "{alpha:.1} %");
    let seconds = total_ns(&had.profile) as f64 / 1e9;
    assert!((0.3..=4.0).contains(&seconds), "{seconds} s");
    let of_all = runtime
        .block_on(live.recent(recent(Target::Host, 20)))
        .unwrap();
    check_account(&of_all);
    assert!(total_ns(&of_all.profile) > total_ns(&had.profile));
    thread::sleep(Duration::from_millis(3_500));
    let later = runtime.block_on(live.recent(recent(target, 2)));
    assert!(later.is_err() || later.unwrap().account.kept == 0);
}

/// What all samples weigh.
fn total_ns(profile: &Profile) -> u64 {
    assert_eq!(profile.values, ebpfprof::profile::Values::EventsAndWeight);
    profile.total()
}

#[test]
fn without_a_flight_recorder_there_is_no_past() {
    let _turn = turn();
    let (live, runtime) = (live(), runtime());
    let error = runtime
        .block_on(live.recent(recent(Target::Host, 5)))
        .unwrap_err();
    assert!(matches!(error, CaptureError::NoRecorder), "{error}");
}
