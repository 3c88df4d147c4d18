//! Sockets that systemd opened for us. Source: sd_listen_fds(3).

use std::{env, os::fd::OwnedFd};

use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

use super::ListenError;

/// The first of them. Source: `SD_LISTEN_FDS_START`.
const FIRST: i32 = 3;

/// Most that are taken.
const MOST: i32 = 64;

/// The sockets that were opened for this process; none if nobody did.
pub(super) fn sockets() -> Result<Vec<OwnedFd>, ListenError> {
    let number = |name: &str| env::var(name).ok()?.parse::<i32>().ok();
    let for_us = number("LISTEN_PID") == Some(getpid().as_raw_nonzero().get());
    let count = number("LISTEN_FDS").filter(|count| for_us && (1..=MOST).contains(count));
    let odd = |error: rustix::io::Errno| ListenError::Inherited {
        why: error.to_string(),
    };
    let Some(count) = count else {
        return Ok(Vec::new());
    };
    // A copy of each is taken by way of ourselves: a number is no proof that a descriptor is ours.
    let own = pidfd_open(getpid(), PidfdFlags::empty()).map_err(odd)?;
    (FIRST..FIRST + count)
        .map(|number| pidfd_getfd(&own, number, PidfdGetfdFlags::empty()).map_err(odd))
        .collect()
}
