//! The programs with known call trees, started and ended.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::Instant,
};

use rustix::process::{Pid, Signal, kill_process};

pub(crate) use crate::fixture_path::fixture_path as path;
use crate::program::{PATIENCE, wait_until};

/// Clock ticks of 10 ms after which a fixture is past its beginning.
const BUSY_TICKS: u64 = 10;

/// A fixture that runs, until it is dropped.
#[derive(Debug)]
pub(crate) struct Fixture {
    child: Child,
    lines: Receiver<String>,
}

impl Fixture {
    /// Starts a fixture that never ends by itself, and waits until it is set up.
    #[track_caller]
    pub(crate) fn start(name: &str) -> Self {
        Self::start_with(name, &["inf"])
    }

    /// Starts a fixture with these arguments and waits until it is set up.
    #[track_caller]
    pub(crate) fn start_with(name: &str, arguments: &[&str]) -> Self {
        Self::of_command(Command::new(path(name)).args(arguments))
    }

    /// Starts a command that executes a fixture, and waits until that is set up.
    #[track_caller]
    pub(crate) fn of_command(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let stdout = child.stdout.take().expect("the output is a pipe");
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // The test may want no more lines; the fixture writes on.
                let _ = sender.send(line);
            }
        });
        let fixture = Self { child, lines };
        fixture.wait_for_line("ready");
        fixture
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The pid as an argument.
    pub(crate) fn pid_text(&self) -> String {
        self.pid().to_string()
    }

    /// Waits until it has worked for a while, and so is past its beginning.
    #[track_caller]
    pub(crate) fn wait_until_busy(&self) {
        wait_until("the fixture is busy", PATIENCE, || {
            let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
            // Time in user code and in the kernel, the 12th and 13th field behind the name.
            // Source: proc_pid_stat(5).
            let (_, fields) = stat.rsplit_once(')').unwrap();
            let times = fields.split_whitespace().skip(11).take(2);
            let ticks: u64 = times.map(|ticks| ticks.parse::<u64>().unwrap()).sum();
            ticks >= BUSY_TICKS
        });
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits until it has printed a line that starts so.
    #[track_caller]
    pub(crate) fn wait_for_line(&self, start: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if line.starts_with(start) => return,
                Ok(_) => {}
                Err(error) => panic!("the fixture printed no line {start:?}: {error}"),
            }
        }
    }

    /// The id of its thread of this name, once that has named itself.
    #[track_caller]
    pub(crate) fn thread_named(&self, name: &str) -> u32 {
        let mut found = None;
        wait_until("the thread has its name", PATIENCE, || {
            let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
            found = tasks.flatten().find_map(|task| {
                let comm = fs::read_to_string(task.path().join("comm")).ok()?;
                let tid = task.file_name().to_str()?.parse().ok()?;
                (comm.trim_end() == name).then_some(tid)
            });
            found.is_some()
        });
        found.expect("waited for")
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        // Both fail when it has ended and was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
