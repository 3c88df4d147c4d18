//! What the checks see of a host: its files, and what its kernel answers.
//!
//! Files are read below a root, so that a folder can stand for a host that is not there: one without
//! BTF, one with a limit, an old one.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    bpf::{self, Answer, BpfError, Feature, Trial},
    privilege::Capabilities,
};

/// How long a trial waits for its clocks.
const PATIENCE: Duration = Duration::from_millis(300);

/// The kernel, as far as it is asked.
pub trait Kernel {
    /// Whether something works.
    fn ask(&self, feature: Feature) -> Answer;

    /// How long a tick keeps a CPU from what runs there, if that can be told.
    fn interruption(&self) -> Option<Duration>;

    /// What a run that samples nothing shows.
    ///
    /// # Errors
    /// When the kernel refuses something that every recording needs.
    fn try_all(&self) -> Result<Trial, BpfError>;
}

/// The kernel that runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunningKernel;

impl Kernel for RunningKernel {
    fn ask(&self, feature: Feature) -> Answer {
        bpf::ask(feature)
    }

    fn interruption(&self) -> Option<Duration> {
        bpf::interruption()
    }

    fn try_all(&self) -> Result<Trial, BpfError> {
        bpf::trial(PATIENCE)
    }
}

/// A host.
pub struct Host<'a> {
    root: PathBuf,
    kernel: &'a dyn Kernel,
    status: String,
}

impl<'a> Host<'a> {
    /// The one whose files are below `root`.
    #[must_use]
    pub fn at(root: &Path, kernel: &'a dyn Kernel) -> Self {
        let mut host = Self {
            root: root.to_owned(),
            kernel,
            status: String::new(),
        };
        host.status = host.text("/proc/self/status").unwrap_or_default();
        host
    }

    /// Asks its kernel.
    pub(super) fn ask(&self, feature: Feature) -> Answer {
        self.kernel.ask(feature)
    }

    /// How long a tick keeps a CPU from what runs there, if that can be told.
    pub(super) fn interruption(&self) -> Option<Duration> {
        self.kernel.interruption()
    }

    /// Tries everything at once.
    pub(super) fn try_all(&self) -> Result<Trial, BpfError> {
        self.kernel.try_all()
    }

    /// Where an absolute path of the host is.
    pub(super) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    pub(super) fn exists(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// A file's text without the space around it; `None` if it cannot be read.
    pub(super) fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        let text = fs::read_to_string(self.path(path)).ok()?;
        Some(text.trim().to_owned())
    }

    /// The number in a file.
    pub(super) fn number(&self, path: impl AsRef<Path>) -> Option<i64> {
        self.text(path)?.parse().ok()
    }

    /// A file's lines, read as far as they are asked for.
    pub(super) fn lines(&self, path: &str) -> impl Iterator<Item = String> + use<> {
        let file = File::open(self.path(path)).ok();
        let lines = file.map(|file| BufReader::new(file).lines().map_while(io::Result::ok));
        lines.into_iter().flatten()
    }

    /// A field of our own status. Source: `proc_pid_status(5)`.
    pub(super) fn status(&self, field: &str) -> Option<&str> {
        let lines = self.status.lines();
        let mut found = lines.filter_map(|line| line.split_once(':'));
        found.find_map(|(name, value)| (name == field).then(|| value.trim()))
    }

    pub(super) fn capabilities(&self) -> Capabilities {
        Capabilities::effective(&self.status)
    }

    /// The inode number of our own namespace of this kind, from a link such as `pid:[4026531836]`.
    pub(super) fn namespace(&self, kind: &str) -> Option<u64> {
        let link = fs::read_link(self.path("/proc/self/ns").join(kind)).ok()?;
        let (_, number) = link.to_str()?.split_once(":[")?;
        number.strip_suffix(']')?.parse().ok()
    }

    /// A limit of ours, soft and hard; `None` for none. Source: `proc_pid_limits(5)`.
    pub(super) fn limit(&self, name: &str) -> Option<Limit> {
        let text = self.text("/proc/self/limits")?;
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let mut fields = line
            .split_ascii_whitespace()
            .map(|field| field.parse().ok());
        Some(Limit {
            soft: fields.next()?,
            hard: fields.next()?,
        })
    }

    /// The first two numbers of the kernel's version.
    pub(super) fn version(&self) -> Option<(u32, u32)> {
        let release = self.text("/proc/sys/kernel/osrelease")?;
        let mut numbers = release.split(|c: char| !c.is_ascii_digit());
        let mut next = || numbers.next()?.parse::<u32>().ok();
        Some((next()?, next()?))
    }
}

/// A limit of a process; `None` is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    pub(super) soft: Option<u64>,
    pub(super) hard: Option<u64>,
}
