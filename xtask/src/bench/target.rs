//! What is profiled: programs with stacks of a known depth, and a host full of processes.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    process::{find, run as run_command},
    workspace::Workspace,
};

/// The name of the program with known stacks.
const FRAMES: &str = "frames";
/// The interpreter.
const PYTHON: &str = "python3";

/// What is kept busy while it is profiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Workload {
    /// A small C program with stacks this deep.
    Frames(u32),
    /// CPython, with `bench/work.py`.
    Python,
}

impl Workload {
    /// What the report calls it.
    pub(super) fn name(self) -> String {
        match self {
            Self::Frames(depth) => format!("{depth} frames"),
            Self::Python => "CPython".to_owned(),
        }
    }

    /// The name of its threads.
    pub(super) fn comm(self) -> &'static str {
        match self {
            Self::Frames(_) => FRAMES,
            Self::Python => PYTHON,
        }
    }

    /// Whether its stacks have `main` in them by name.
    pub(super) fn has_main(self) -> bool {
        matches!(self, Self::Frames(_))
    }

    /// Whether what runs it is here.
    pub(super) fn is_installed(self) -> bool {
        match self {
            Self::Frames(_) => true,
            Self::Python => find(PYTHON).is_some(),
        }
    }
}

/// What compiles it: as distributions compile, without debug information, so that no profiler pays
/// for reading that.
const COMPILER_FLAGS: [&str; 4] = [
    "-O2",
    "-fomit-frame-pointer",
    "-fno-optimize-sibling-calls",
    "-fasynchronous-unwind-tables",
];

/// The longest that a process may take to be there.
const START_TIME: Duration = Duration::from_secs(20);

/// A process of ours, ended when this is dropped.
pub(crate) struct Running(Child);

impl Running {
    /// Starts a command that nobody hears.
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        Self::start_heard(command.stdout(Stdio::null()).stderr(Stdio::null()))
    }

    /// Starts a command whose outputs go where it says.
    pub(crate) fn start_heard(command: &mut Command) -> Result<Self> {
        let child = command
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot run {}", crate::process::words(command)))?;
        Ok(Self(child))
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// How it ended, once it has.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.0.try_wait().context("cannot wait for a child")
    }

    /// Asks it to end, as Ctrl-C does.
    pub(crate) fn interrupt(&self) -> Result<()> {
        let pid = Pid::from_child(&self.0);
        kill_process(pid, Signal::INT).context("cannot send a signal to a child")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Compiles the program.
pub(super) fn compile(workspace: &Workspace, folder: &Path) -> Result<PathBuf> {
    let program = folder.join(FRAMES);
    let mut cc = Command::new("cc");
    cc.args(COMPILER_FLAGS).arg("-o").arg(&program);
    run_command(cc.arg(workspace.root().join("xtask/bench/frames.c")))?;
    Ok(program)
}

/// Starts a workload that many times. `frames` is the compiled program.
pub(super) fn start(
    workspace: &Workspace,
    frames: &Path,
    workload: Workload,
    processes: usize,
) -> Result<Vec<Running>> {
    let command = || match workload {
        Workload::Frames(depth) => {
            let mut command = Command::new(frames);
            command.arg(depth.to_string());
            command
        }
        Workload::Python => {
            let mut command = Command::new(PYTHON);
            command.arg(workspace.root().join("xtask/bench/work.py"));
            command
        }
    };
    let started = (0..processes)
        .map(|_| Running::start(&mut command()))
        .collect::<Result<Vec<_>>>()?;
    for running in &started {
        wait_for_cpu_time(running.pid())?;
    }
    Ok(started)
}

/// Waits until a process has used some CPU time: its stack is as deep as it gets then.
fn wait_for_cpu_time(pid: u32) -> Result<()> {
    let deadline = Instant::now() + START_TIME;
    let path = format!("/proc/{pid}/schedstat");
    while Instant::now() < deadline {
        // The first number is the time on a CPU, in nanoseconds.
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let on_cpu_ns = text.split(' ').next().and_then(|word| word.parse().ok());
        if on_cpu_ns.unwrap_or(0_u64) > 50_000_000 {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(10));
    }
    bail!("process {pid} does not run")
}

/// A program that does a little, again and again.
struct Idler {
    program: &'static str,
    arguments: &'static [&'static str],
    /// Of a hundred processes, how many are this one.
    share: usize,
}

/// In arguments: a path of the process's own.
const SOCKET: &str = "{socket}";

const IDLERS: [Idler; 6] = [
    Idler {
        program: "python3",
        arguments: &[
            "-c",
            "import time\nwhile True: sum(range(20000)); time.sleep(0.2)",
        ],
        share: 25,
    },
    Idler {
        program: "perl",
        arguments: &[
            "-e",
            "while (1) { $s += $_ for 1..20000; select(undef, undef, undef, 0.2) }",
        ],
        share: 30,
    },
    Idler {
        program: "node",
        arguments: &[
            "-e",
            "setInterval(() => { let s = 0; for (let i = 0; i < 1e5; i++) s += i }, 200)",
        ],
        share: 5,
    },
    Idler {
        program: "gdb",
        arguments: &[
            "-nx",
            "-batch",
            "-ex",
            "python exec('import time\\nwhile True: sum(range(20000)); time.sleep(0.2)')",
        ],
        share: 2,
    },
    Idler {
        program: "bash",
        arguments: &[
            "-c",
            "exec {never}<> <(:); while :; do for i in {1..2000}; do :; done; read -t 0.2 -u $never; done",
        ],
        share: 10,
    },
    Idler {
        program: "redis-server",
        arguments: &[
            "--port",
            "0",
            "--save",
            "",
            "--hz",
            "100",
            "--unixsocket",
            SOCKET,
        ],
        share: 3,
    },
];

/// Many processes of various programs.
pub(super) struct Crowd {
    /// The processes.
    pub(super) running: Vec<Running>,
    /// Names of their programs.
    pub(super) programs: Vec<&'static str>,
}

/// Starts that many processes: of each program that there is its share, and the rest are `frames`.
pub(super) fn start_crowd(frames: &Path, count: usize) -> Result<Crowd> {
    let mut crowd = Crowd {
        running: Vec::with_capacity(count),
        programs: Vec::new(),
    };
    for idler in &IDLERS {
        let Some(program) = find(idler.program) else {
            continue;
        };
        crowd.programs.push(idler.program);
        for number in 0..count * idler.share / 100 {
            let socket = frames.with_file_name(format!("{}-{number}", idler.program));
            let own = |argument: &&str| argument.replace(SOCKET, &socket.to_string_lossy());
            let mut command = Command::new(&program);
            command.args(idler.arguments.iter().map(own));
            crowd.running.push(Running::start(&mut command)?);
        }
    }
    crowd.programs.push(FRAMES);
    for number in crowd.running.len()..count {
        let depth = 5 + number % 60;
        let mut command = Command::new(frames);
        command.args([depth.to_string(), "1".to_owned()]);
        crowd.running.push(Running::start(&mut command)?);
    }
    Ok(crowd)
}

/// The processes of a crowd that have not ended.
pub(super) fn alive(crowd: &mut Crowd) -> usize {
    let alive = crowd
        .running
        .iter_mut()
        .map(|running| matches!(running.ended(), Ok(None)));
    alive.map(usize::from).sum()
}
