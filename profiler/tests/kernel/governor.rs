//! The budget: the frequency is lowered, and what is written stays true.

use std::{fs, process::Command, time::Duration};

use ebpfprof::{
    profile::Values,
    record::{self, Budget, Lowered, Request, Watch},
    symbolize::Inlines,
};

use crate::{
    fixture::Fixture,
    library::request,
    pprof::Pprof,
    program::{BINARY, Running},
    receipt::Receipt,
    turn,
};

/// Reads a process's CPU time when the clocks start, and when they stop.
struct CpuTime {
    pid: u32,
    readings_ns: Vec<u64>,
}

impl CpuTime {
    /// Source: `/proc/PID/schedstat` in `Documentation/scheduler/sched-stats.rst`. Of one thread.
    fn read(&mut self) {
        let text = fs::read_to_string(format!("/proc/{}/schedstat", self.pid)).unwrap();
        let on_cpu = text.split_whitespace().next().unwrap();
        self.readings_ns.push(on_cpu.parse().unwrap());
    }
}

impl Watch for CpuTime {
    fn started(&mut self) {
        self.read();
    }

    fn sampled(&mut self) {
        self.read();
    }
}

#[test]
#[expect(clippy::cast_precision_loss, reason = "nanoseconds of a short run")]
fn a_lowered_frequency_keeps_the_account_exact_and_the_time_true() {
    let _turn = turn();
    let fixture = Fixture::start("shares");
    let request = Request {
        frequency_hz: 999,
        budget: Budget::of_percent(0.01),
        duration: Some(Duration::from_millis(4_600)),
        ..request(&fixture, Inlines::Skip)
    };
    let mut watch = CpuTime {
        pid: fixture.pid(),
        readings_ns: Vec::new(),
    };
    let outcome = record::prepare(request)
        .unwrap()
        .record(&record::Stop::default(), &mut watch)
        .unwrap();
    let (account, profile) = (&outcome.account, &outcome.profile);
    let frequencies: Vec<(u32, u32)> = outcome.lowered.iter().map(ends).collect();
    assert!(!frequencies.is_empty(), "nothing was lowered");
    let expected = [(999, 499), (499, 249), (249, 124), (124, 62)];
    assert!(expected.starts_with(&frequencies), "{frequencies:?}");
    let first = &outcome.lowered[0];
    assert!(first.after > Duration::from_secs(2), "{first}");
    assert_eq!(account.flaw(), None, "{account}");
    assert_eq!(account.lost(), 0, "{account}");
    // A period that was forgotten would double the ticks; idle CPUs miss some hundredths.
    assert!(account.missed() * 10 <= account.ticks, "{account}");
    assert_eq!(profile.values, Values::EventsAndWeight);
    let events: u64 = profile.samples().map(|sample| sample.events).sum();
    assert_eq!(events, account.kept);
    let last_hz = frequencies.last().unwrap().1;
    assert_eq!(profile.period, 1_000_000_000 / u64::from(last_hz));
    let [start_ns, end_ns] = watch.readings_ns[..] else {
        panic!("{:?}", watch.readings_ns);
    };
    let (told, used) = (profile.total() as f64, (end_ns - start_ns) as f64);
    assert!(
        (told / used - 1.0).abs() < 0.05,
        "{told} ns instead of {used} ns\n{account}"
    );
}

fn ends(lowered: &Lowered) -> (u32, u32) {
    (lowered.from_hz, lowered.to_hz)
}

#[test]
fn the_file_and_the_receipt_tell_of_a_lowered_frequency() {
    let _turn = turn();
    let fixture = Fixture::start("shares");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cpu.pb.gz");
    let mut command = Command::new(BINARY);
    command.args(["-F", "999", "-s", "3.6", "--max-overhead", "0.01%", "--pid"]);
    command.arg(fixture.pid_text()).arg("-o").arg(&path);
    let finished = Running::start(&mut command).finish();
    let stderr = &finished.stderr;
    assert_eq!(finished.code, Some(0), "{stderr}");
    Receipt::find(stderr).unwrap().check_sums();
    let pprof = Pprof::parse(&fs::read(&path).unwrap());
    let comments = pprof.comments();
    let said = "frequency lowered from 999 to 499 Hz after ";
    let comment = comments.iter().find_map(|comment| {
        comment
            .strip_prefix('#')
            .filter(|text| text.starts_with(said))
    });
    let comment = comment.unwrap_or_else(|| panic!("{comments:?}"));
    assert!(comment.ends_with("% of one CPU, budget 0.01%"), "{comment}");
    assert!(stderr.contains(&format!("note: {comment}\n")), "{stderr}");
    assert!(comments[0].contains(" hz=999.."), "{comments:?}");
}

#[test]
fn a_budget_that_is_kept_changes_nothing() {
    let _turn = turn();
    let fixture = Fixture::start("shares");
    // More than two CPUs: nothing can cost as much.
    let arguments = ["--pid", &fixture.pid_text(), "--max-overhead", "100000%"];
    let recorded = crate::recording::record(499, 3.0, &arguments);
    assert!(recorded.receipt.kept > 0, "{:?}", recorded.receipt);
}
