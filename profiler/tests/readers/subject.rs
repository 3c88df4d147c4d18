//! What is profiled: a program of each kind, and what a reader can know of it.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::{
    fixture::{self, Fixture},
    program::wait_until,
    reader::Age,
    recording::{Recorded, record},
    turn,
};

/// Whether and how pprof finds a function's machine code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    /// In an executable at the addresses that it was linked for.
    Fixed,
    /// In an executable that is loaded anywhere. pprof before 2022-08 knows no such thing: it finds
    /// the code only if the profile has link-time addresses.
    Relocated,
    /// Nowhere: the kernel's, made at run time, or of a function that only the dynamic symbols name,
    /// which pprof does not read.
    None,
}

/// A program to be profiled and read.
#[derive(Debug)]
pub(crate) struct Subject {
    pub(crate) name: &'static str,
    /// The hottest function, as pprof's commands name functions: by a regular expression.
    pub(crate) hot: &'static str,
    /// Names that pprof has to show as they are.
    pub(crate) names: &'static [&'static str],
    /// The source of the hot function, and a piece of its hottest line.
    pub(crate) source: Option<(&'static str, &'static str)>,
    pub(crate) code: Code,
    /// The readers whose source view has the function. That view looks for a function by the name
    /// that the object's own symbols or debug information give its address, which for C++ and Rust
    /// is another one, and shows nothing where it finds none. `-list` has it in any case.
    pub(crate) source_view: &'static [Age],
}

/// A program that runs, until it is dropped.
#[derive(Debug)]
pub(crate) enum Target {
    Fixture(Fixture),
    /// It prints nothing when it is set up.
    Silent(Child),
}

impl Target {
    pub(crate) fn pid(&self) -> u32 {
        match self {
            Self::Fixture(fixture) => fixture.pid(),
            Self::Silent(child) => child.id(),
        }
    }

    /// A command that ends by itself never, and never says that it is set up.
    #[track_caller]
    fn silent(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let target = Self::Silent(command.stderr(Stdio::null()).spawn().unwrap());
        let program = command.get_program().to_string_lossy().into_owned();
        let comm = format!("/proc/{}/comm", target.pid());
        wait_until("it runs its program", Duration::from_secs(10), || {
            std::fs::read_to_string(&comm).is_ok_and(|comm| comm.trim() == program)
        });
        target
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // What V8 and the JVM leave behind; other programs have none.
        let _ = std::fs::remove_file(format!("/tmp/perf-{}.map", self.pid()));
        if let Self::Silent(child) = self {
            // Both fail when it has ended and was waited for.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A source of the readers' fixtures.
pub(crate) fn source(name: &str) -> PathBuf {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/readers");
    fixtures.join(name).canonicalize().unwrap()
}

impl Subject {
    /// Starts it.
    #[track_caller]
    pub(crate) fn start(&self) -> Target {
        let mut command = match self.name {
            "python" => {
                // The distribution's: others may have other names.
                let mut python = Command::new("/usr/bin/python3");
                python.arg(source("hot.py"));
                python
            }
            "node" => {
                let mut node = Command::new("node");
                node.args(["--perf-basic-prof", "--interpreted-frames-native-stack"]);
                // The second switches a log on, which would be written where the test runs.
                node.args(["--no-logfile-per-isolate", "--logfile=/dev/null"]);
                node.arg(source("hot.js"));
                node
            }
            "java" => {
                let mut java = Command::new("java");
                java.args(["-XX:+PreserveFramePointer", "-XX:+UseSerialGC", "-cp"]);
                java.arg(fixture::path("readers")).arg("Hot");
                java
            }
            "dd" => {
                let mut dd = Command::new("dd");
                return Target::silent(dd.args(["if=/dev/zero", "of=/dev/null", "bs=64k"]));
            }
            program => Command::new(fixture::path(program)),
        };
        Target::Fixture(Fixture::of_command(&mut command))
    }

    /// Starts it and records it alone.
    #[track_caller]
    pub(crate) fn record(&self, arguments: &[&str]) -> Recorded {
        let _turn = turn();
        let target = self.start();
        let pid = target.pid().to_string();
        if self.name == "java" {
            ask_for_map(&pid);
        }
        let arguments = [&["--pid", pid.as_str()], arguments].concat();
        record(499, 1.2, &arguments)
    }
}

/// Has a JVM write down what it has compiled.
#[track_caller]
fn ask_for_map(pid: &str) {
    let jcmd = Command::new("jcmd")
        .args([pid, "Compiler.perfmap"])
        .output();
    let jcmd = jcmd.unwrap();
    assert!(jcmd.status.success(), "{jcmd:?}");
}

/// The file that a recording wrote for pprof.
pub(crate) fn file(recorded: &Recorded) -> PathBuf {
    recorded.folder.path().join("cpu.pb.gz")
}

pub(crate) const C_PIE: Subject = Subject {
    name: "readers/hot-pie",
    hot: "hot_divide",
    names: &["hot_divide", "stir (inline)", "warm_loop", "run", "main"],
    source: Some(("hot.c", "/* the hot line */")),
    code: Code::Relocated,
    source_view: &[Age::New],
};

pub(crate) const C_NO_PIE: Subject = Subject {
    name: "readers/hot-no-pie",
    code: Code::Fixed,
    source_view: &[Age::Old, Age::New],
    ..C_PIE
};

pub(crate) const CPP: Subject = Subject {
    name: "readers/hot-cpp",
    hot: "hot_divide",
    names: &[
        "(anonymous namespace)::Mixer<unsigned long, 3>::hot_divide(unsigned int)",
        "readers::warm_loop<std::map<int, unsigned long, std::less<int>, std::allocator<std::pair<int const, unsigned long> > > >(std::map<int, unsigned long, std::less<int>, std::allocator<std::pair<int const, unsigned long> > > const&)",
        "main",
    ],
    source: Some(("hot.cpp", "/* the hot line */")),
    code: Code::Relocated,
    source_view: &[],
};

pub(crate) const RUST: Subject = Subject {
    name: "readers/hot-rust",
    hot: "hot_divide",
    names: &[
        "<hot::Divider as hot::Work>::hot_divide",
        "hot::warm_loop",
        "hot::run",
        "hot::main",
    ],
    source: Some(("hot.rs", "// the hot line")),
    code: Code::Relocated,
    source_view: &[],
};

pub(crate) const GO: Subject = Subject {
    name: "go-hot",
    hot: r"main\.stepAlpha",
    names: &[
        "main.stepAlpha",
        "main.stir (inline)",
        "main.(*worker).step",
    ],
    source: Some(("../go-hot/main.go", "stir(value)*6364136223846793005 + 1")),
    code: Code::Fixed,
    source_view: &[Age::Old, Age::New],
};

/// Its symbols are in the table that the runtime needs itself, which pprof does not read.
/// It also tells how deep the stack is, as the `.debug_frame` did.
pub(crate) const GO_STRIPPED: Subject = Subject {
    name: "readers/go-hot-stripped",
    code: Code::None,
    source_view: &[],
    ..GO
};

pub(crate) const PYTHON: Subject = Subject {
    name: "python",
    hot: "_PyEval_EvalFrameDefault",
    names: &[
        "_PyEval_EvalFrameDefault",
        "PyEval_EvalCode",
        "Py_BytesMain",
    ],
    source: None,
    code: Code::None,
    source_view: &[],
};

/// FIXME: a stack is cut where the interpreter called, as its return addresses follow a jump. A map
/// says where the interpreter lies.
pub(crate) const JAVA: Subject = Subject {
    name: "java",
    hot: r"Hot\$Divider\.hotLoop",
    names: &["Hot$Divider.hotLoop(int, long)"],
    source: None,
    code: Code::None,
    source_view: &[],
};

pub(crate) const NODE: Subject = Subject {
    name: "node",
    hot: "hotLoop",
    names: &["hotLoop", "run"],
    source: Some(("hot.js", "Math.imul(value, 69069)")),
    ..JAVA
};

pub(crate) const KERNEL: Subject = Subject {
    name: "dd",
    hot: "vfs_read",
    names: &["vfs_read", "ksys_read", "do_syscall_64"],
    source: None,
    code: Code::None,
    source_view: &[Age::Old, Age::New],
};
