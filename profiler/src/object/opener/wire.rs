//! What goes between us and a process that opens files: one packet each way, with descriptors.
//!
//! Both ends are the same program, so numbers are words in the order of this machine.

use std::{
    ffi::OsStr,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use rustix::{
    io::Errno,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags,
    },
};

use super::{Place, Request, Seen, What};
use crate::process::FileNumber;

/// Most bytes of a file that one answer holds.
pub(super) const MOST_READ_BYTES: usize = 64 << 10;
/// The longest packet: a head, and a path or what was read.
const MOST_PACKET_BYTES: usize = MOST_READ_BYTES + 1024;
/// Most descriptors of one packet: a copy, and the place that it is a copy of.
const MOST_DESCRIPTORS: usize = 2;
const WORD_BYTES: usize = 8;

/// A packet that was received.
pub(super) struct Packet {
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

/// Sends a packet.
pub(super) fn send(
    socket: BorrowedFd<'_>,
    parts: &[&[u8]],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    let parts: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
    loop {
        match rustix::net::sendmsg(socket, &parts, &mut control, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            sent => return sent.map(|_| ()).map_err(io::Error::from),
        }
    }
}

/// Receives a packet. `None` when the other end is closed.
pub(super) fn receive(socket: BorrowedFd<'_>) -> io::Result<Option<Packet>> {
    let mut bytes = vec![0; MOST_PACKET_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let length = loop {
        let into = &mut [IoSliceMut::new(&mut bytes)];
        match rustix::net::recvmsg(socket, into, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            received => break received?.bytes,
        }
    };
    bytes.truncate(length);
    let descriptors = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let descriptors = descriptors.flatten().collect();
    Ok((length > 0).then_some(Packet { bytes, descriptors }))
}

/// Words as bytes.
fn bytes_of<const N: usize>(words: [u64; N]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// Words at the start of a packet, and what follows.
fn words_of<const N: usize>(bytes: &[u8]) -> Option<([u64; N], &[u8])> {
    let mut words = [0; N];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(WORD_BYTES)) {
        *word = u64::from_ne_bytes(bytes.try_into().ok()?);
    }
    Some((words, bytes.get(N * WORD_BYTES..)?))
}

impl Request<'_> {
    /// Sends it.
    pub(super) fn send(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let (what, offset, bytes) = match self.what {
            What::Open => (0, 0, 0),
            What::Look => (1, 0, 0),
            What::Stat => (2, 0, 0),
            What::Read { offset, bytes } => (3, offset, bytes as u64),
        };
        let (place, path, descriptor) = match self.place {
            Place::Host(path) => (0, path, None),
            Place::Below(root, path) => (1, path, Some(root)),
            Place::Held(file) => (2, Path::new(""), Some(file)),
        };
        let number = self.number.unwrap_or(FileNumber {
            major: 0,
            minor: 0,
            inode: 0,
        });
        let (major, minor) = (number.major.into(), number.minor.into());
        let has_number = u64::from(self.number.is_some());
        let head = [
            what,
            offset,
            bytes,
            place,
            has_number,
            major,
            minor,
            number.inode,
            self.most_copied,
        ];
        let path = path.as_os_str().as_bytes();
        send(socket, &[&bytes_of(head), path], descriptor.as_slice())
    }

    /// Has it be read from a packet.
    pub(super) fn with<R>(packet: &Packet, act: impl FnOnce(Request<'_>) -> R) -> Option<R> {
        let (head, path) = words_of::<9>(&packet.bytes)?;
        let [
            what,
            offset,
            bytes,
            place,
            has_number,
            major,
            minor,
            inode,
            most_copied,
        ] = head;
        let what = match what {
            0 => What::Open,
            1 => What::Look,
            2 => What::Stat,
            _ => What::Read {
                offset,
                bytes: usize::try_from(bytes).ok()?.min(MOST_READ_BYTES),
            },
        };
        let path = Path::new(OsStr::from_bytes(path));
        let held = packet.descriptors.first().map(AsFd::as_fd);
        let place = match place {
            0 => Place::Host(path),
            1 => Place::Below(held?, path),
            _ => Place::Held(held?),
        };
        let number = FileNumber {
            major: u32::try_from(major).ok()?,
            minor: u32::try_from(minor).ok()?,
            inode,
        };
        Some(act(Request {
            what,
            place,
            number: (has_number != 0).then_some(number),
            most_copied,
        }))
    }
}

/// What was found out.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// A file to read, or a place to look at.
    pub(super) file: Option<OwnedFd>,
    /// The place of what the file is a copy of.
    pub(super) copied_from: Option<OwnedFd>,
    pub(super) seen: Seen,
    /// What was read.
    pub(super) bytes: Vec<u8>,
}

/// One packet of an answer.
pub(super) enum Reply {
    /// It takes longer, as there is much to copy: this many bytes so far.
    Copied(u64),
    Done(Result<Answer, Errno>),
}

impl Reply {
    pub(super) fn send(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let head = |kind, number, seen: Seen| {
            let Seen {
                device,
                inode,
                uid,
                mode,
                bytes,
                modified,
            } = seen;
            let seconds = modified.0.cast_unsigned();
            bytes_of([
                kind,
                number,
                device,
                inode,
                uid.into(),
                mode.into(),
                bytes,
                seconds,
                modified.1.into(),
            ])
        };
        match self {
            Self::Copied(bytes) => send(socket, &[&head(0, *bytes, Seen::default())], &[]),
            Self::Done(Err(error)) => {
                let number = u64::from(error.raw_os_error().unsigned_abs());
                send(socket, &[&head(1, number, Seen::default())], &[])
            }
            Self::Done(Ok(answer)) => {
                let descriptors = answer.file.iter().chain(&answer.copied_from);
                let descriptors: Vec<BorrowedFd<'_>> = descriptors.map(AsFd::as_fd).collect();
                let head = head(2, 0, answer.seen);
                send(socket, &[&head, &answer.bytes], &descriptors)
            }
        }
    }

    /// Reads it from a packet.
    pub(super) fn of(packet: Packet) -> Option<Self> {
        let (head, rest) = words_of::<9>(&packet.bytes)?;
        let [
            kind,
            number,
            device,
            inode,
            uid,
            mode,
            bytes,
            seconds,
            nanos,
        ] = head;
        let mut descriptors = packet.descriptors.into_iter();
        Some(match kind {
            0 => Self::Copied(number),
            1 => Self::Done(Err(Errno::from_raw_os_error(i32::try_from(number).ok()?))),
            _ => Self::Done(Ok(Answer {
                file: descriptors.next(),
                copied_from: descriptors.next(),
                seen: Seen {
                    device,
                    inode,
                    uid: u32::try_from(uid).ok()?,
                    mode: u32::try_from(mode).ok()?,
                    bytes,
                    modified: (seconds.cast_signed(), u32::try_from(nanos).ok()?),
                },
                bytes: rest.to_vec(),
            })),
        })
    }
}
