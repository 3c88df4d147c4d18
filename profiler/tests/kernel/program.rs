//! The binary under test, run as its users run it: started, watched with a deadline, ended.

use std::{
    env,
    ffi::OsString,
    hint,
    io::Read,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::bpf_ids::runs_of;

/// The binary that was built for the tests.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_ebpfprof");

/// Names another build of the binary to test: on a slow host, an optimized one.
const BINARY_VARIABLE: &str = "EBPFPROF_BINARY";

/// How long anything may take on a busy or slow machine before it counts as hung.
pub(crate) const PATIENCE: Duration = Duration::from_secs(240);

/// Ticks after which a recording is surely under way.
const SOME_TICKS: u64 = 100;

/// How long a CPU is kept busy between two looks at how far a recording is.
const BUSY: Duration = Duration::from_millis(30);

/// The binary to test.
pub(crate) fn binary() -> OsString {
    env::var_os(BINARY_VARIABLE).unwrap_or_else(|| BINARY.into())
}

/// Waits until something is so.
#[track_caller]
pub(crate) fn wait_until(what: &str, limit: Duration, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < limit, "after {limit:?} not yet: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A process of ours that is killed when a test leaves it behind.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    stdout: Receiver<Vec<u8>>,
    stderr: Receiver<Vec<u8>>,
}

/// What a process left when it ended.
#[derive(Debug)]
pub(crate) struct Finished {
    /// Its exit code; `None` when a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Running {
    /// Starts a command, with nothing to read and its outputs kept.
    #[track_caller]
    pub(crate) fn start(command: &mut Command) -> Self {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let stdout = collect(child.stdout.take());
        let stderr = collect(child.stderr.take());
        Self {
            child,
            stdout,
            stderr,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits until the clocks tick and the program runs, or the process has ended.
    #[track_caller]
    pub(crate) fn wait_until_sampling(&mut self) {
        self.wait_for_runs_with(SOME_TICKS, || {
            // Ticks of idle CPUs run nothing, and who is recorded may not be there yet.
            let start = Instant::now();
            while start.elapsed() < BUSY {
                hint::spin_loop();
            }
        });
    }

    /// Waits until the program has run so often, or the process has ended.
    #[track_caller]
    pub(crate) fn wait_for_runs(&mut self, count: u64) {
        self.wait_for_runs_with(count, || {});
    }

    #[track_caller]
    fn wait_for_runs_with(&mut self, count: u64, between: impl Fn()) {
        let pid = self.pid();
        wait_until("the program has run often enough", PATIENCE, || {
            between();
            runs_of(pid) >= count || self.child.try_wait().is_ok_and(|end| end.is_some())
        });
    }

    /// Waits for the end.
    #[track_caller]
    pub(crate) fn finish(mut self) -> Finished {
        let mut status = None;
        wait_until("the process has ended", PATIENCE, || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        let whole = |output: &Receiver<Vec<u8>>| {
            let bytes = output.recv_timeout(PATIENCE);
            bytes.expect("nobody else holds the output open")
        };
        Finished {
            code: status.and_then(|status| status.code()),
            stdout: whole(&self.stdout),
            stderr: String::from_utf8(whole(&self.stderr)).unwrap(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail when it has ended and was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads an output to its end, aside.
fn collect(output: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    let mut output = output.expect("the output is a pipe");
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came before an error is kept.
        let _ = output.read_to_end(&mut bytes);
        let _ = sender.send(bytes);
    });
    receiver
}
