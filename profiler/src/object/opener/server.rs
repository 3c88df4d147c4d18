//! One process that opens files, as we see it: started, asked, left behind.

use std::{
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType},
    thread::{CapabilitySet, capabilities},
};

use super::{
    Request, VERB,
    wire::{self, Answer, Reply},
};
use crate::privilege;

/// How often as long it may take while our process does not wait: then the host is busy, not the
/// server.
const MOST_STRETCH: u32 = 50;
/// How long a process may take to start on a busy host.
const START_PATIENCE: Duration = Duration::from_secs(10);

/// A process that opens files.
pub(super) struct Server {
    child: Child,
    socket: OwnedFd,
    /// Those of whoever started it: nobody has it do what they may not.
    pub(super) rights: CapabilitySet,
}

/// How long is waited.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// For one answer, or one piece of a copy.
    pub(super) for_answers: Duration,
    /// For all of a copy.
    pub(super) for_copies: Duration,
}

/// What came of a question.
pub(super) enum Heard {
    /// An answer, and how long it took to copy.
    Answer {
        answer: Result<Answer, Errno>,
        copying: Duration,
    },
    /// The server answers, and would take longer than there is time.
    TooSlow { copying: Duration },
    /// No answer.
    Silence,
    /// The process has ended.
    Broken,
}

/// The rights of this thread.
pub(super) fn rights() -> CapabilitySet {
    capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective)
}

impl Server {
    /// Starts one, with no more rights than this thread has.
    pub(super) fn start(rights: CapabilitySet) -> io::Result<Self> {
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        // Rights are given up by a thread for itself, and this one may need its own.
        let start = move || {
            privilege::keep_only(privilege::OPENING);
            Command::new("/proc/self/exe")
                .arg(VERB)
                .stdin(theirs)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                // It outlives us if it hangs: it keeps no folder, and Ctrl-C is not meant for it.
                .current_dir("/")
                .process_group(0)
                .spawn()
        };
        let started = thread::Builder::new().spawn(start)?.join();
        let child = started.map_err(|_| io::Error::other("a thread failed"))??;
        let server = Self {
            child,
            socket: ours,
            rights,
        };
        match server.wait(START_PATIENCE)? {
            // The first packet says that it is there.
            true => wire::receive(server.socket.as_fd())?.map(|_| server),
            false => None,
        }
        .ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }

    /// Asks it.
    pub(super) fn ask(&self, request: &Request<'_>, patience: Patience) -> Heard {
        if request.send(self.socket.as_fd()).is_err() {
            return Heard::Broken;
        }
        let mut copying_since: Option<Instant> = None;
        loop {
            let copying = copying_since.map_or(Duration::ZERO, |since| since.elapsed());
            match self.next(patience.for_answers) {
                Ok(Some(Reply::Done(answer))) => return Heard::Answer { answer, copying },
                Ok(Some(Reply::Copied(_))) if copying < patience.for_copies => {
                    copying_since.get_or_insert_with(Instant::now);
                }
                Ok(Some(Reply::Copied(_))) => return Heard::TooSlow { copying },
                Ok(None) => return Heard::Silence,
                Err(_) => return Heard::Broken,
            }
        }
    }

    /// The next packet; `None` when there is none in time.
    fn next(&self, patience: Duration) -> io::Result<Option<Reply>> {
        let mut is_there = self.wait(patience)?;
        for _ in 1..MOST_STRETCH {
            if is_there || !self.is_busy() {
                break;
            }
            is_there = self.wait(patience)?;
        }
        if !is_there {
            return Ok(None);
        }
        let packet = wire::receive(self.socket.as_fd())?;
        let reply = packet.and_then(Reply::of);
        reply
            .map(Some)
            .ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }

    /// Waits for a packet. Whether there is one.
    fn wait(&self, patience: Duration) -> io::Result<bool> {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).expect("some seconds at most");
            let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
            match rustix::event::poll(&mut fds, Some(&left)) {
                // Whoever wants the end of the recording has it soon.
                Err(Errno::INTR) => {}
                polled => return Ok(polled? > 0),
            }
        }
    }

    /// Whether it runs, or would if it had a CPU. Source: `proc_pid_stat(5)`, field 3.
    fn is_busy(&self) -> bool {
        let stat = std::fs::read(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        let name_end = stat.iter().rposition(|byte| *byte == b')');
        name_end.is_some_and(|end| stat.get(end + 2) == Some(&b'R'))
    }

    /// Ends it, if whatever it waits for lets it go.
    pub(super) fn ended(mut self) -> Self {
        if let Err(error) = self.child.kill() {
            log::debug!("a process that opens files: {error}");
        }
        self
    }

    /// Whether it is still there.
    pub(super) fn is_there(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_none())
    }
}
