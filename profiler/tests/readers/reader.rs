//! pprof, of two versions, run as its users run it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use tempfile::TempDir;

use crate::program::{Finished, Running};

/// A version of pprof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Age {
    /// Of the distribution's Go: 1.19 in Debian 12.
    Old,
    /// Of the newest Go.
    New,
}

/// A pprof with a home of its own, in which it keeps its settings.
#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) age: Age,
    home: TempDir,
}

impl Reader {
    pub(crate) fn of(age: Age) -> Self {
        Self {
            age,
            home: tempfile::tempdir().unwrap(),
        }
    }

    /// Both.
    pub(crate) fn all() -> [Self; 2] {
        [Age::Old, Age::New].map(Self::of)
    }

    /// pprof, without arguments.
    #[track_caller]
    pub(crate) fn command(&self) -> Command {
        let mut command = match self.age {
            Age::Old => Command::new(distribution_pprof()),
            Age::New => Command::new(tool("pprof")),
        };
        command.env("HOME", self.home.path());
        for setting in ["PPROF_BINARY_PATH", "PPROF_TOOLS", "PPROF_TMPDIR"] {
            command.env_remove(setting);
        }
        command
    }

    /// Reads a profile by a command.
    #[track_caller]
    pub(crate) fn read(&self, arguments: &[&str], profiles: &[&Path]) -> Finished {
        Running::start(self.command().args(arguments).args(profiles)).finish()
    }

    /// What a command shows. Fails unless it succeeds in silence.
    #[track_caller]
    pub(crate) fn show(&self, arguments: &[&str], profiles: &[&Path]) -> String {
        let finished = self.read(arguments, profiles);
        self.check_silent(&finished, arguments);
        String::from_utf8(finished.stdout).unwrap()
    }

    /// Fails unless a command succeeded and said nothing.
    #[track_caller]
    pub(crate) fn check_silent(&self, finished: &Finished, arguments: &[&str]) {
        let said = spoken(&finished.stderr);
        assert!(
            finished.code == Some(0) && said.is_empty(),
            "{:?} pprof, {arguments:?}: exit code {:?}, stderr {said:?}",
            self.age,
            finished.code
        );
    }

    /// What a command writes into a file. Fails unless it succeeds in silence.
    #[track_caller]
    pub(crate) fn write(&self, arguments: &[&str], profile: &Path) -> Vec<u8> {
        let output = tempfile::NamedTempFile::new_in(self.home.path()).unwrap();
        let path = output.path().to_str().unwrap();
        let arguments = [arguments, &["-output", path]].concat();
        self.show(&arguments, &[profile]);
        fs::read(output.path()).unwrap()
    }
}

/// The program that `go tool pprof` runs. Called by that, it would be a child of a child, and its
/// exit code would be lost.
fn distribution_pprof() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let output = Command::new("go").args(["tool", "-n", "pprof"]).output();
        let output = output.unwrap_or_else(|error| panic!("cannot run go: {error}"));
        assert!(output.status.success(), "go has no pprof: {output:?}");
        let path = String::from_utf8(output.stdout).unwrap();
        PathBuf::from(path.trim_end())
    })
}

/// What pprof said, apart from where it writes to.
pub(crate) fn spoken(stderr: &str) -> Vec<&str> {
    let lines = stderr.lines();
    lines
        .filter(|line| !line.starts_with("Generating report in "))
        .collect()
}

/// Where a program that `cargo xtask tools` gets is.
#[track_caller]
pub(crate) fn tool(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools");
    let path = folder.join(name);
    match path.canonicalize() {
        Ok(path) => path,
        Err(error) => panic!(
            "{}: {error}; get it with: cargo xtask tools",
            path.display()
        ),
    }
}
