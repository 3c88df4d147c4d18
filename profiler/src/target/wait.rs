//! Notices the end of processes, through pidfds: no polling of `/proc`, no pid mistaken for an
//! earlier one.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, retry_on_intr},
    process::{PidfdFlags, pidfd_open},
};

use super::ids::Pid;

/// A watch over some processes.
#[derive(Debug)]
pub struct ExitWatch {
    watched_count: usize,
    /// Those that had not ended when last looked at.
    alive: Vec<(Pid, OwnedFd)>,
}

impl ExitWatch {
    /// Watches these processes. One that is gone already counts as ended.
    ///
    /// # Errors
    /// When the kernel refuses a pidfd, as for want of file descriptors.
    pub fn new(pids: &[Pid]) -> io::Result<Self> {
        let mut alive = Vec::with_capacity(pids.len());
        for pid in pids {
            let Some(id) = pid.to_rustix() else { continue };
            match pidfd_open(id, PidfdFlags::empty()) {
                Ok(fd) => alive.push((*pid, fd)),
                Err(Errno::SRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Self {
            watched_count: pids.len(),
            alive,
        })
    }

    /// The descriptors of the processes that have not ended yet, for `poll`: one becomes readable
    /// when its process ends. Then ask [`Self::all_gone`], which lets go of it.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.alive.iter().map(|(_, fd)| fd.as_fd())
    }

    /// The processes that had not ended when [`Self::all_gone`] last looked.
    pub fn alive(&self) -> impl Iterator<Item = Pid> {
        self.alive.iter().map(|(pid, _)| *pid)
    }

    /// Whether every process has ended, without waiting. A watch over none never ends.
    pub fn all_gone(&mut self) -> bool {
        self.alive.retain(|(_, fd)| !has_ended(fd));
        self.watched_count > 0 && self.alive.is_empty()
    }
}

/// A pidfd is readable once the process has ended with all its threads. Source: pidfd_open(2).
fn has_ended(pidfd: &OwnedFd) -> bool {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    // A failed poll says nothing, so the process counts as alive until the next one.
    let ready = retry_on_intr(|| poll(&mut fds, Some(&now)));
    ready.is_ok() && !fds[0].revents().is_empty()
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A process that lives until its input ends.
    fn cat() -> Child {
        let mut command = Command::new("cat");
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        command.spawn().unwrap()
    }

    fn wait_for_any(watch: &ExitWatch) {
        let limit = Timespec {
            tv_sec: 10,
            tv_nsec: 0,
        };
        let mut fds: Vec<PollFd<'_>> = watch
            .fds()
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        let ready = retry_on_intr(|| poll(&mut fds, Some(&limit))).unwrap();
        assert_ne!(ready, 0, "no process ended within 10 s");
    }

    #[test]
    fn a_watch_ends_with_the_last_process() {
        let (mut first, mut second) = (cat(), cat());
        let pids = [Pid(first.id()), Pid(second.id())];
        let mut watch = ExitWatch::new(&pids).unwrap();
        assert!(!watch.all_gone());
        drop(first.stdin.take());
        wait_for_any(&watch);
        assert!(!watch.all_gone());
        assert_eq!(watch.alive().collect::<Vec<_>>(), [pids[1]]);
        drop(second.stdin.take());
        wait_for_any(&watch);
        // Both are zombies here: their end is noticed before anyone asks for their status.
        assert!(watch.all_gone());
        assert_eq!(watch.fds().count(), 0);
        first.wait().unwrap();
        second.wait().unwrap();
    }

    #[test]
    fn processes_that_are_gone_already_have_ended() {
        let mut child = cat();
        drop(child.stdin.take());
        child.wait().unwrap();
        let mut watch = ExitWatch::new(&[Pid(child.id())]).unwrap();
        assert!(watch.all_gone());
    }

    #[test]
    fn a_watch_over_nothing_never_ends() {
        assert!(!ExitWatch::new(&[]).unwrap().all_gone());
    }
}
