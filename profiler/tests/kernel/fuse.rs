//! A FUSE file system of ours: one folder of files, served until it is told to answer no more.
//!
//! It speaks the kernel's protocol itself, as much of it as running a program takes. Source:
//! `linux/fuse.h`. Every look-up and every attribute is asked for anew, so whoever touches the
//! mount waits for us.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Read, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, Timespec};
use tempfile::TempDir;

use crate::program::{PATIENCE, wait_until};

const ROOT: u64 = 1;
/// The first file's node; the others follow.
const FIRST_NODE: u64 = 2;
/// The longest request that we let the kernel send.
const REQUEST_BYTES: usize = 1 << 20;
const IN_HEADER_BYTES: usize = 40;
/// How often the end is looked for.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 50_000_000,
};

const PAUSE: Duration = Duration::from_millis(10);

const EPERM: i32 = 1;
const ENOENT: i32 = 2;
const ENOSYS: i32 = 38;
/// What is in the page cache stays there when a file is opened again.
const FOPEN_KEEP_CACHE: u32 = 1 << 1;

/// Numbers of requests.
mod opcode {
    pub(super) const LOOKUP: u32 = 1;
    pub(super) const FORGET: u32 = 2;
    pub(super) const GETATTR: u32 = 3;
    pub(super) const OPEN: u32 = 14;
    pub(super) const READ: u32 = 15;
    pub(super) const STATFS: u32 = 17;
    pub(super) const RELEASE: u32 = 18;
    pub(super) const FLUSH: u32 = 25;
    pub(super) const INIT: u32 = 26;
    pub(super) const OPENDIR: u32 = 27;
    pub(super) const RELEASEDIR: u32 = 29;
    pub(super) const INTERRUPT: u32 = 36;
    pub(super) const BATCH_FORGET: u32 = 42;
}

/// A mounted file system, until it is dropped. Then whoever still waits for it gets an error.
#[derive(Debug)]
pub(crate) struct Fuse {
    point: TempDir,
    state: Arc<State>,
    server: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    /// Requests are taken and not answered: nothing ends such a wait, not even SIGKILL.
    is_mute: AtomicBool,
    is_over: AtomicBool,
    unanswered: AtomicU64,
}

impl Fuse {
    /// Mounts these files.
    #[track_caller]
    pub(crate) fn mount(files: &[(&str, Vec<u8>)]) -> Self {
        let point = tempfile::tempdir().unwrap();
        let device = File::options().read(true).write(true).open("/dev/fuse");
        let device = device.expect("these tests take FUSE: modprobe fuse");
        let state = Arc::new(State::default());
        let files = files
            .iter()
            .map(|(name, bytes)| ((*name).to_owned(), bytes.clone()));
        let server = Server {
            device: device.try_clone().unwrap(),
            files: files.collect(),
            state: Arc::clone(&state),
        };
        // `mount` may look at what it has mounted.
        let server = thread::spawn(move || server.serve());
        let mut mount = Command::new("mount");
        mount
            .args(["-i", "-t", "fuse.hangs", "-o"])
            .arg("fd=0,rootmode=40000,user_id=0,group_id=0,allow_other")
            .arg("hangs")
            .arg(point.path())
            .stdin(Stdio::from(device));
        assert!(mount.status().unwrap().success(), "{mount:?}");
        // Once it answers this it has told the kernel what it can do.
        fs::metadata(point.path()).unwrap();
        Self {
            point,
            state,
            server: Some(server),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.point.path()
    }

    /// A file on it, which is in the page cache from now on: it can be run without us.
    #[track_caller]
    pub(crate) fn cached(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::read(&path).unwrap();
        path
    }

    /// Answers no more.
    pub(crate) fn hang(&self) {
        self.state.is_mute.store(true, Ordering::SeqCst);
    }

    /// Requests that were not answered.
    pub(crate) fn unanswered(&self) -> u64 {
        self.state.unanswered.load(Ordering::SeqCst)
    }

    /// Waits until somebody waits for an answer.
    #[track_caller]
    pub(crate) fn wait_until_asked(&self) {
        wait_until("the file system is asked", PATIENCE, || {
            self.unanswered() > 0
        });
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        self.state.is_over.store(true, Ordering::SeqCst);
        if let Some(server) = self.server.take() {
            // The connection ends with its descriptor, and everybody's waits with it.
            let _ = server.join();
        }
        // What runs from it may still be there.
        let mut unmount = Command::new("umount");
        let _ = unmount.args(["-l", "-c"]).arg(self.point.path()).status();
    }
}

/// The serving side.
struct Server {
    device: File,
    files: BTreeMap<String, Vec<u8>>,
    state: Arc<State>,
}

/// The head of a request.
struct Head {
    opcode: u32,
    unique: u64,
    node: u64,
}

impl Server {
    fn serve(self) {
        let mut bytes = vec![0; REQUEST_BYTES];
        while !self.state.is_over.load(Ordering::SeqCst) {
            let mut fds = [PollFd::new(&self.device, PollFlags::IN)];
            if !rustix::event::poll(&mut fds, Some(&LOOK)).is_ok_and(|ready| ready > 0) {
                continue;
            }
            match (&self.device).read(&mut bytes) {
                Ok(length) => self.take(&bytes[..length]),
                // The request was given up meanwhile, or the mount is gone.
                Err(error) if error.raw_os_error() == Some(ENOENT) => {}
                // It is not mounted yet.
                Err(error) if error.raw_os_error() == Some(EPERM) => thread::sleep(PAUSE),
                Err(_) => return,
            }
        }
    }

    fn take(&self, request: &[u8]) {
        let head = Head {
            opcode: u32_at(request, 4),
            unique: u64_at(request, 8),
            node: u64_at(request, 16),
        };
        let body = &request[IN_HEADER_BYTES..];
        let wants_none = [opcode::FORGET, opcode::BATCH_FORGET, opcode::INTERRUPT];
        if wants_none.contains(&head.opcode) {
            return;
        }
        if self.state.is_mute.load(Ordering::SeqCst) {
            // Nobody waits for the kernel to let go of a file.
            let lets_go = [opcode::RELEASE, opcode::RELEASEDIR].contains(&head.opcode);
            let waits = u64::from(!lets_go);
            self.state.unanswered.fetch_add(waits, Ordering::SeqCst);
            return;
        }
        let (error, answer) = match self.answer(&head, body) {
            Ok(answer) => (0, answer),
            Err(error) => (-error, Vec::new()),
        };
        let length = u32::try_from(16 + answer.len()).unwrap();
        let mut reply = length.to_ne_bytes().to_vec();
        reply.extend(error.to_ne_bytes());
        reply.extend(head.unique.to_ne_bytes());
        reply.extend(answer);
        // Whoever asked may be gone.
        let _ = (&self.device).write(&reply);
    }

    fn answer(&self, head: &Head, body: &[u8]) -> Result<Vec<u8>, i32> {
        match head.opcode {
            opcode::INIT => Ok(init(body)),
            opcode::LOOKUP => {
                let name = body.split(|byte| *byte == 0).next().unwrap_or_default();
                let mut names = self.files.keys();
                let index = names.position(|it| it.as_bytes() == name).ok_or(ENOENT)?;
                let node = FIRST_NODE + index as u64;
                // The node, its generation, no time for which it holds, and its attributes.
                let mut entry = words(&[node, 0, 0, 0, 0]);
                entry.extend(self.attributes(node)?);
                Ok(entry)
            }
            opcode::GETATTR => {
                let mut answer = words(&[0, 0]);
                answer.extend(self.attributes(head.node)?);
                Ok(answer)
            }
            opcode::OPEN | opcode::OPENDIR => Ok(words(&[head.node, u64::from(FOPEN_KEEP_CACHE)])),
            opcode::READ => {
                let file = self.file(head.node)?;
                let start = usize::try_from(u64_at(body, 8)).unwrap().min(file.len());
                let end = (start + u32_at(body, 16) as usize).min(file.len());
                Ok(file[start..end].to_vec())
            }
            opcode::STATFS => Ok(vec![0; 80]),
            opcode::FLUSH | opcode::RELEASE | opcode::RELEASEDIR => Ok(Vec::new()),
            _ => Err(ENOSYS),
        }
    }

    fn file(&self, node: u64) -> Result<&[u8], i32> {
        let index = node.checked_sub(FIRST_NODE).ok_or(ENOENT)?;
        let mut files = self.files.values();
        let file = files.nth(usize::try_from(index).unwrap()).ok_or(ENOENT)?;
        Ok(file)
    }

    /// `fuse_attr`: a folder or an executable file, of root's, of one time.
    fn attributes(&self, node: u64) -> Result<Vec<u8>, i32> {
        let (mode, bytes) = match node {
            ROOT => (0o040_755, 0),
            _ => (0o100_755, self.file(node)?.len() as u64),
        };
        let now = fs::metadata("/proc/self/exe")
            .unwrap()
            .mtime()
            .unsigned_abs();
        let mut attributes = words(&[node, bytes, bytes.div_ceil(512), now, now, now]);
        // Three parts of a second, mode, links, user, group, device, block size, flags.
        for number in [0, 0, 0, mode, 1, 0, 0, 0, 4096, 0_u32] {
            attributes.extend(number.to_ne_bytes());
        }
        Ok(attributes)
    }
}

/// `fuse_init_out`: version 7.31, and what reads need.
fn init(body: &[u8]) -> Vec<u8> {
    let (read_ahead, most_written) = (u32_at(body, 8), 128 << 10);
    let mut answer = Vec::new();
    for number in [7, 31, read_ahead, 0, 0, most_written, 1, 0, 0] {
        answer.extend(number.to_ne_bytes());
    }
    answer.resize(64, 0);
    answer
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap())
}
