//! gdb stops a process, writes a core file at each stop, and says what it takes the stacks for.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// The longest one run of gdb may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// What gdb runs: a core file and the stacks of all threads for each stop. Frames of inlined
/// functions and of calls that became jumps are gdb's idea alone.
const RECORDER: &str = r#"
import gdb
stops = 0

def stack(out):
    frame = gdb.newest_frame()
    while frame is not None:
        if frame.type() not in (gdb.INLINE_FRAME, gdb.TAILCALL_FRAME):
            out.write('%x %s\n' % (frame.pc(), frame.name() or '?'))
        frame = frame.older()

def record():
    global stops
    gdb.execute('gcore %s/%03d.core' % (folder, stops), to_string=True)
    with open('%s/%03d.stacks' % (folder, stops), 'w') as out:
        for thread in gdb.selected_inferior().threads():
            thread.switch()
            out.write('thread %d\n' % thread.ptid[1])
            stack(out)
    stops += 1

def step(count, stride=1):
    record()
    for _ in range(count):
        gdb.execute('stepi %d' % stride, to_string=True)
        record()
"#;

/// What holds before there is a target: no look at the network, frames to the very last, the
/// same addresses in each run where that is allowed, and functions found before they are called.
const SETTINGS: [&str; 10] = [
    "set debuginfod enabled off",
    "set auto-load no",
    "set startup-with-shell off",
    "set disable-randomization on",
    "set backtrace past-main on",
    "set backtrace past-entry on",
    "set backtrace limit 600",
    "set breakpoint pending on",
    "set environment LD_BIND_NOW 1",
    "handle SIGALRM SIGUSR1 nostop noprint pass",
];

/// A frame as gdb has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) pc: u64,
    /// The function, or `?`.
    pub(crate) name: String,
}

/// Where gdb stopped a process.
pub(crate) struct Stop {
    pub(crate) core: PathBuf,
    /// The stack of each thread, by its id.
    pub(crate) stacks: Vec<(u32, Vec<Frame>)>,
}

/// The stops of one run of gdb. The core files are gone when it is dropped.
pub(crate) struct Stops {
    pub(crate) stops: Vec<Stop>,
    _folder: TempDir,
}

/// Whether gdb is there, and has Python in it.
pub(crate) fn is_there() -> bool {
    Command::new("gdb")
        .args(["-batch", "-nx", "-ex", "python print(7 * 6)"])
        .output()
        .is_ok_and(|output| output.stdout.starts_with(b"42"))
}

/// Has gdb attach to a process, do as told and leave.
#[track_caller]
pub(crate) fn attach(pid: u32, commands: &[&str]) -> Stops {
    run(&["-p", &pid.to_string()], commands)
}

/// Has gdb start a program, do as told and kill it.
#[track_caller]
pub(crate) fn start(program: &Path, arguments: &[&str], commands: &[&str]) -> Stops {
    let program = program.to_str().unwrap();
    run(&[&["--args", program], arguments].concat(), commands)
}

#[track_caller]
fn run(target: &[&str], commands: &[&str]) -> Stops {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("recorder.py");
    let line = format!("folder = {:?}\n", folder.path().to_str().unwrap());
    fs::write(&script, line + RECORDER).unwrap();
    let mut gdb = Command::new("gdb");
    gdb.args(["-batch", "-nx"]);
    for setting in SETTINGS {
        gdb.args(["-iex", setting]);
    }
    gdb.arg("-iex").arg(format!("source {}", script.display()));
    for command in commands {
        gdb.args(["-ex", command]);
    }
    let log = folder.path().join("log");
    gdb.args(target)
        .stdin(Stdio::null())
        .stdout(fs::File::create(&log).unwrap())
        .stderr(fs::File::options().append(true).open(&log).unwrap());
    let mut child = gdb.spawn().unwrap();
    wait(&mut child, &log);
    let stops = read_stops(folder.path());
    let said = fs::read_to_string(&log).unwrap_or_default();
    assert!(!stops.is_empty(), "gdb stopped nowhere; it said:\n{said}");
    Stops {
        stops,
        _folder: folder,
    }
}

#[track_caller]
fn wait(gdb: &mut Child, log: &Path) {
    let deadline = Instant::now() + PATIENCE;
    while gdb.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            let _ = gdb.kill();
            let _ = gdb.wait();
            panic!(
                "gdb took longer than {PATIENCE:?}; it said:\n{}",
                fs::read_to_string(log).unwrap_or_default()
            );
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn read_stops(folder: &Path) -> Vec<Stop> {
    let mut stops = Vec::new();
    loop {
        let core = folder.join(format!("{:03}.core", stops.len()));
        let Ok(text) = fs::read_to_string(core.with_extension("stacks")) else {
            return stops;
        };
        stops.push(Stop {
            core,
            stacks: parse(&text),
        });
    }
}

fn parse(text: &str) -> Vec<(u32, Vec<Frame>)> {
    let mut stacks: Vec<(u32, Vec<Frame>)> = Vec::new();
    for line in text.lines() {
        let (first, second) = line.split_once(' ').unwrap();
        if first == "thread" {
            stacks.push((second.parse().unwrap(), Vec::new()));
            continue;
        }
        let (_, frames) = stacks.last_mut().expect("a thread comes first");
        let pc = u64::from_str_radix(first, 16).unwrap();
        // What gdb reads beyond the last frame of code without a description.
        if pc != 0 {
            frames.push(Frame {
                pc,
                name: second.to_owned(),
            });
        }
    }
    stacks
}
