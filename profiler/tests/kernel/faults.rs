//! What goes wrong while we record: targets that die at random, crowds, a profiler that is held up,
//! CPUs that go away, clocks that jump. The account stays exact, and nothing false is told.

use std::{
    env, fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::{
    process::Signal,
    time::{ClockId, Timespec, clock_gettime, clock_settime},
};

use crate::{
    fixture::Fixture,
    folded::{Folded, Stack, percent},
    pprof::Pprof,
    program::{Finished, Running, binary},
    receipt::Receipt,
    recording::record,
    turn,
};

/// Repeats a run of `chaos`: the seed that a failed test tells.
const SEED_VARIABLE: &str = "EBPFPROF_SEED";

/// Who calls whom in `chaos`, apart from what is called without a frame of its own.
const CALLS: [(&str, &str); 17] = [
    ("main", "supervise"),
    ("main", "live"),
    ("supervise", "live"),
    ("live", "compute_outer"),
    ("compute_outer", "compute_inner"),
    ("live", "call_code"),
    ("live", "plug"),
    ("plug", "one_enter"),
    ("one_enter", "one_burn"),
    ("plug", "two_enter"),
    ("two_enter", "two_middle"),
    ("two_middle", "two_burn"),
    ("live", "move_memory"),
    ("live", "fork_one"),
    ("fork_one", "be_child"),
    ("be_child", "live"),
    ("thread_main", "thread_inner"),
];

/// Whether the fixture's functions in a stack call each other as its source says, from a beginning on.
fn agrees(stack: &Stack) -> bool {
    let is_own = |frame: &&str| {
        CALLS
            .iter()
            .any(|call| call.0 == *frame || call.1 == *frame)
    };
    let frames = stack.user().iter().map(String::as_str);
    let own: Vec<&str> = frames.filter(is_own).collect();
    let begins = own
        .first()
        .is_none_or(|first| is_cut(stack) || ["main", "thread_main"].contains(first));
    let mut pairs = own.windows(2).map(|pair| (pair[0], pair[1]));
    begins && pairs.all(|pair| CALLS.contains(&pair))
}

#[test]
fn what_targets_do_at_random_makes_no_false_stack() {
    let _turn = turn();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = env::var(SEED_VARIABLE).unwrap_or_else(|_| now.as_micros().to_string());
    for walker in crate::host::walkers() {
        let fixture = Fixture::start_with("bare/chaos", &["inf", &seed]);
        let pid = fixture.pid_text();
        let arguments = [
            "--pid",
            &pid,
            "--follow",
            "--no-inlines",
            "--walker",
            walker,
        ];
        let recorded = record(1999, 3.0, &arguments);
        let (receipt, folded) = (&recorded.receipt, &recorded.folded);
        let again = format!("{walker}: {SEED_VARIABLE}={seed} {receipt:?}");
        let wrong = folded.0.iter().filter(|stack| !agrees(stack));
        let wrong = Folded(wrong.cloned().collect());
        assert!(wrong.0.is_empty(), "{again}\n{}", wrong.text());
        let computes = folded.percent(|stack| stack.has("live"));
        assert!(computes >= 30.0, "{computes:.1} % {again}");
        for inner in [
            "compute_inner",
            "call_code",
            "one_burn",
            "two_burn",
            "thread_inner",
        ] {
            assert!(
                folded.0.iter().any(|stack| stack.has(inner)),
                "{inner} {again}"
            );
        }
        let complete = percent(receipt.complete, receipt.kept);
        assert!(complete >= 99.5, "{complete:.2} % {again}\n{}", cut(folded));
    }
}

/// The stacks that are cut, for a message.
fn cut(folded: &Folded) -> String {
    let stacks = folded.0.iter().filter(|stack| is_cut(stack));
    Folded(stacks.cloned().collect()).text()
}

fn is_cut(stack: &Stack) -> bool {
    stack.frames.iter().any(|frame| frame.starts_with("[cut: "))
}

#[test]
fn what_finds_no_room_while_we_are_held_up_is_lost_by_cause() {
    let _turn = turn();
    for (option, code) in [(None, 0), (Some("--strict"), 1)] {
        // Each sample takes some KiB: a second or two without us fill the ring.
        let deep = || Fixture::start("deep");
        let (one, two) = (deep(), deep());
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("cpu.pb.gz");
        let mut command = Command::new(binary());
        let pids = format!("{},{}", one.pid(), two.pid());
        command.args(["-F", "499", "-s", "10", "--pid", &pids, "-o"]);
        command.arg(&output).args(option);
        let mut running = Running::start(&mut command);
        running.wait_until_sampling();
        running.signal(Signal::STOP);
        thread::sleep(Duration::from_secs(8));
        running.signal(Signal::CONT);
        let finished = running.finish();
        let receipt = check_account(&finished, code, &output);
        assert!(receipt.kept > 500, "{receipt:?}");
        assert!(receipt.lost > 50, "{receipt:?}");
        assert_eq!(receipt.lost_by_cause[0], receipt.lost, "{receipt:?}");
        let told = finished.stderr.contains("samples were lost");
        assert_eq!(told, option.is_some(), "{}", finished.stderr);
    }
}

/// Checks the account of a run that ended with this code, and that the profile has what was kept.
#[track_caller]
fn check_account(finished: &Finished, code: i32, output: &Path) -> Receipt {
    let stderr = &finished.stderr;
    assert_eq!(finished.code, Some(code), "{stderr}");
    let receipt = Receipt::find(stderr).unwrap_or_else(|flaw| panic!("{flaw}\n{stderr}"));
    receipt.check_sums();
    assert_eq!(
        Pprof::parse(&fs::read(output).unwrap()).total(),
        receipt.kept
    );
    receipt
}

#[test]
fn a_process_of_ten_thousand_threads_is_recorded() {
    let _turn = turn();
    let fixture = Fixture::start_with("crowd", &["threads", "10000", "2"]);
    let pid = fixture.pid_text();
    let recorded = record(499, 2.0, &["--pid", &pid, "--labels", "tid"]);
    check_crowd(&recorded.folded, &recorded.receipt);
    assert_eq!(recorded.pprof.label_numbers("tid").len(), 2);
}

#[test]
fn a_host_of_two_thousand_processes_is_recorded() {
    let _turn = turn();
    let fixture = Fixture::start_with("crowd", &["processes", "2000", "2"]);
    let recorded = record(499, 2.0, &["--labels", "pid"]);
    let of_crowd = recorded
        .folded
        .0
        .iter()
        .filter(|stack| stack.comm == "crowd");
    check_crowd(&Folded(of_crowd.cloned().collect()), &recorded.receipt);
    drop(fixture);
}

/// The busy ones are seen; the others are not. On a host that is busy otherwise the first samples of all
/// these processes may find no room for their stacks, and say so.
#[track_caller]
fn check_crowd(folded: &Folded, receipt: &Receipt) {
    assert!(folded.total() > 200, "{receipt:?}");
    let whole = folded.0.iter().filter(|stack| !is_cut(stack));
    let whole = Folded(whole.cloned().collect());
    let computing = whole.percent(|stack| stack.calls(&["one_of_many", "compute"]));
    assert!(computing > 99.0, "{computing:.1} %\n{}", folded.text());
    let complete = percent(whole.total(), folded.total());
    assert!(complete >= 75.0, "{complete:.2} %\n{}", folded.text());
}

#[test]
fn a_perf_map_of_a_million_lines_names_code() {
    const LINES: u64 = 1_000_000;
    let _turn = turn();
    let fixture = Fixture::start("jit_like");
    fixture.wait_for_line("code ");
    let pid = fixture.pid_text();
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let line = maps.lines().find(|line| line.contains(" rwxp "));
    let (start, _) = line.and_then(|line| line.split_once('-')).unwrap();
    let start = u64::from_str_radix(start, 16).unwrap();
    let mut text = String::new();
    for number in 0..LINES {
        // Far away, but for the last one.
        let (at, name) = if number == LINES - 1 {
            (start, "countdown".to_owned())
        } else {
            (0x10_0000 + number * 32, format!("Klass{number}::method"))
        };
        text += &format!("{at:x} 20 {name}\n");
    }
    let map = format!("/tmp/perf-{pid}.map");
    fs::write(&map, text).unwrap();
    let recorded = record(499, 2.0, &["--pid", &pid]);
    fs::remove_file(&map).unwrap();
    let folded = recorded.folded;
    let named = folded.percent(|stack| stack.calls(&["call_code", "countdown_[j]"]));
    assert!(named > 90.0, "{named:.1} %\n{}", folded.text());
    assert!(!folded.text().contains("Klass"), "{}", folded.text());
}

/// Starts a recording of the whole host, does something in its midst, and reads what it made.
#[track_caller]
fn disturb(seconds: f64, disturbance: impl FnOnce()) -> (Receipt, Pprof) {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("cpu.pb.gz");
    let mut command = Command::new(binary());
    command.args(["-F", "99", "-s", &seconds.to_string(), "-o"]);
    command.arg(&output);
    let mut running = Running::start(&mut command);
    running.wait_until_sampling();
    disturbance();
    let finished = running.finish();
    let receipt = check_account(&finished, 0, &output);
    assert_eq!(receipt.lost, 0, "{receipt:?}");
    assert!(receipt.kept > 20, "{receipt:?}");
    (receipt, Pprof::parse(&fs::read(&output).unwrap()))
}

#[test]
#[ignore = "takes a CPU away: run by cargo xtask kernel-test, in virtual machines"]
fn a_cpu_that_goes_away_and_comes_back_keeps_the_account() {
    const ONLINE: &str = "/sys/devices/system/cpu/cpu1/online";
    let _turn = turn();
    let fixture = Fixture::start("threads");
    let (receipt, pprof) = disturb(12.0, || {
        fs::write(ONLINE, "0").unwrap();
        thread::sleep(Duration::from_secs(3));
        fs::write(ONLINE, "1").unwrap();
    });
    drop(fixture);
    // Two CPUs, of which one had no clock for three seconds at least.
    let most = (2.0 * pprof.seconds() - 2.5) * 99.0;
    assert!(
        f64::from(u32::try_from(receipt.ticks).unwrap()) < most,
        "{receipt:?}"
    );
}

#[test]
#[ignore = "sets the clock: run by cargo xtask kernel-test, in virtual machines"]
fn a_clock_that_jumps_changes_no_time_of_the_profile() {
    const HOURS: i64 = 3600;
    let _turn = turn();
    let fixture = Fixture::start("shares");
    for jump in [2 * HOURS, -4 * HOURS] {
        let before = clock_gettime(ClockId::Realtime);
        let (_, pprof) = disturb(4.0, || {
            let now = clock_gettime(ClockId::Realtime);
            let then = Timespec {
                tv_sec: now.tv_sec + jump,
                ..now
            };
            clock_settime(ClockId::Realtime, then).unwrap();
        });
        let seconds = pprof.seconds();
        assert!((3.9..30.0).contains(&seconds), "{seconds} s");
        let began = pprof.began_s() - before.tv_sec;
        assert!((0..120).contains(&began), "began {began} s after");
    }
    drop(fixture);
}
