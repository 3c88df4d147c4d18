//! Panics of ours: they are told as bugs, and what was recorded until then is written.
//!
//! Builds without debug assertions panic for no test, so there are none of these then.

use std::{fs, process::Command, time::Duration};

use tempfile::TempDir;

use crate::{
    bpf_ids::{exists, held_by},
    fixture::Fixture,
    pprof::Pprof,
    program::{BINARY, Running, wait_until},
    receipt::Receipt,
    turn,
};

/// Has a debug build panic where this names.
const VARIABLE: &str = "EBPFPROF_TEST_PANIC";

/// What a recording left that panicked.
struct Left {
    stderr: String,
    folder: TempDir,
}

/// Records a fixture with a panic, and checks that it fails and leaves nothing in the kernel.
#[track_caller]
fn record_with_panic(place: &str) -> Left {
    let fixture = Fixture::start("shares");
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(BINARY);
    command.env(VARIABLE, place).env_remove("RUST_BACKTRACE");
    command.args(["-F", "499", "-s", "2.5", "--pid", &fixture.pid_text()]);
    command.arg("-o").arg(folder.path().join("cpu.pb.gz"));
    let mut running = Running::start(&mut command);
    running.wait_until_sampling();
    let held = held_by(running.pid());
    let finished = running.finish();
    let stderr = finished.stderr;
    assert_eq!(finished.code, Some(1), "{stderr}");
    let told = [
        concat!("error: a bug in ebpfprof ", env!("CARGO_PKG_VERSION"), "\n"),
        &format!("  why: {VARIABLE} is {place} (at profiler/src/"),
        "  try: report it with the output of: uname -r; ebpfprof --version\n",
    ];
    for words in told {
        assert!(stderr.contains(words), "{words:?} in\n{stderr}");
    }
    assert!(!stderr.contains("panicked at"), "{stderr}");
    assert!(!stderr.contains("does not add up"), "{stderr}");
    wait_until(
        "the kernel has let go of it",
        Duration::from_secs(3),
        || !held.iter().any(exists),
    );
    Left { stderr, folder }
}

impl Left {
    /// The receipt, and the profile whose samples it counts.
    #[track_caller]
    fn profile(&self) -> (Receipt, Pprof) {
        let receipt = Receipt::find(&self.stderr).unwrap();
        receipt.check_sums();
        let pprof = Pprof::parse(&fs::read(self.folder.path().join("cpu.pb.gz")).unwrap());
        assert!(receipt.kept > 0, "{receipt:?}");
        assert_eq!(pprof.total(), receipt.kept);
        (receipt, pprof)
    }
}

#[test]
fn a_panic_in_the_loop_ends_the_recording_and_it_is_written() {
    let _turn = turn();
    let (receipt, pprof) = record_with_panic("loop").profile();
    assert!(pprof.seconds() < 2.4, "{} s", pprof.seconds());
    assert_eq!(receipt.lost, 0, "{receipt:?}");
    assert!(pprof.samples().iter().any(|sample| sample.has("alpha")));
}

#[test]
fn samples_that_a_panic_lost_are_accounted_for() {
    let _turn = turn();
    let (receipt, _) = record_with_panic("sample").profile();
    assert_eq!(receipt.kept, 100, "{receipt:?}");
    let [.., bug] = receipt.lost_by_cause;
    assert!(bug > 0 && bug == receipt.lost, "{receipt:?}");
}

#[test]
fn a_panic_over_an_objects_symbols_costs_their_names() {
    let _turn = turn();
    let (receipt, pprof) = record_with_panic("symbolize").profile();
    assert_eq!(receipt.lost, 0, "{receipt:?}");
    assert!(receipt.unnamed > 0, "{receipt:?}");
    assert!(!pprof.samples().iter().any(|sample| sample.has("alpha")));
}

#[test]
fn a_panic_over_an_objects_unwind_table_costs_its_stacks() {
    let _turn = turn();
    let (receipt, _) = record_with_panic("residency").profile();
    assert_eq!(receipt.lost, 0, "{receipt:?}");
}

#[test]
fn a_panic_in_a_format_leaves_no_file() {
    let _turn = turn();
    let left = record_with_panic("export");
    Receipt::find(&left.stderr).unwrap().check_sums();
    assert_eq!(fs::read_dir(left.folder.path()).unwrap().count(), 0);
}
