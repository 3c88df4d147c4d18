//! What is done with a file that others control: in a process of its own, as each step may wait for
//! a server that never answers.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::FileExt,
    },
};

use rustix::{
    fs::{AtFlags, CWD, FileType, MemfdFlags, Mode, OFlags, ResolveFlags, Stat, Statx, StatxFlags},
    io::Errno,
};

use super::{
    Place, Request, Seen, What,
    wire::{self, Answer, Reply},
};
use crate::{object::file::is_numbered, privilege};

/// What is copied between two reports.
const PIECE_BYTES: usize = 256 << 10;
/// What is read to see that a server answers.
const TRIED_BYTES: usize = 64;

/// File systems whose files are on a server: each `read` and each `close` may wait for it.
/// Source: `statfs(2)`, and `linux/magic.h`. NFS, SMB (three), FUSE, 9P, Ceph, AFS (two), Lustre, Coda, OCFS2.
const FAR_TYPES: [u32; 12] = [
    0x6969,
    0x517b,
    0xff53_4d42,
    0xfe53_4d42,
    0x6573_5546,
    0x0102_1997,
    0x00c3_6400,
    0x5346_414f,
    0x6b41_4653,
    0x0bd0_0bd0,
    0x7375_7245,
    0x7461_636f,
];

/// Serves whoever made this process, until that closes its end. Standard input is the socket.
///
/// # Errors
/// When this process may have rights that its maker has not, or the socket fails.
pub fn serve() -> io::Result<()> {
    // The program's file may have capabilities, and anybody may start it. Where they cannot be
    // gained, this process can do nothing that its maker could not do.
    if !rustix::thread::no_new_privs()? {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    privilege::keep_only(privilege::OPENING);
    let socket = rustix::stdio::stdin();
    // It is there.
    Reply::Copied(0).send(socket)?;
    while let Some(packet) = wire::receive(socket)? {
        let report = |bytes| Reply::Copied(bytes).send(socket);
        let answer = Request::with(&packet, |request| act(&request, &report));
        let answer = answer.unwrap_or(Err(Errno::BADMSG));
        Reply::Done(answer).send(socket)?;
    }
    Ok(())
}

/// Does what is asked for, and tells of progress.
pub(super) fn act(
    request: &Request<'_>,
    report: &dyn Fn(u64) -> io::Result<()>,
) -> Result<Answer, Errno> {
    match request.what {
        What::Open => open(request, report),
        What::Look => {
            let place = reach(request.place, OFlags::PATH | OFlags::NOFOLLOW)?;
            Ok(Answer {
                seen: seen(&rustix::fs::fstat(&place)?),
                file: Some(place),
                ..Answer::default()
            })
        }
        What::Stat => Ok(Answer {
            seen: match request.place {
                Place::Held(place) => seen(&rustix::fs::fstat(place)?),
                place => seen(&rustix::fs::fstat(reach(place, OFlags::PATH)?)?),
            },
            ..Answer::default()
        }),
        What::Read { offset, bytes } => {
            let file = File::from(reach(request.place, READ)?);
            let mut read = vec![0; bytes];
            let length = file
                .read_at(&mut read, offset)
                .map_err(|error| errno(&error))?;
            read.truncate(length);
            Ok(Answer {
                bytes: read,
                ..Answer::default()
            })
        }
    }
}

/// Never waits on a FIFO.
const READ: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

fn reach(place: Place<'_>, flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::CLOEXEC;
    match place {
        Place::Host(path) => rustix::fs::openat(CWD, path, flags, Mode::empty()),
        Place::Below(root, path) => {
            let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
            rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)
        }
        Place::Held(place) => {
            let path = own_path(place);
            rustix::fs::openat(CWD, path, flags, Mode::empty())
        }
    }
}

/// The path of what a descriptor of ours stands for.
pub(super) fn own_path(place: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", place.as_raw_fd())
}

fn open(request: &Request<'_>, report: &dyn Fn(u64) -> io::Result<()>) -> Result<Answer, Errno> {
    let file = File::from(reach(request.place, READ)?);
    let stat = rustix::fs::fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Errno::INVAL);
    }
    if request
        .number
        .is_some_and(|number| !is_numbered(&stat, number))
    {
        return Err(Errno::STALE);
    }
    let seen = seen(&stat);
    if request.most_copied == 0 {
        return Ok(Answer {
            file: Some(file.into()),
            seen,
            ..Answer::default()
        });
    }
    // It has no first bytes if it is empty; what else goes wrong is the reader's to see.
    let _ = file.read_at(&mut [0; TRIED_BYTES], 0);
    if !is_far(&file, &stat)? {
        return Ok(Answer {
            file: Some(file.into()),
            seen,
            ..Answer::default()
        });
    }
    let copy = copy(&file, seen.bytes, request.most_copied, report)?;
    let place = reach(Place::Held(file.as_fd()), OFlags::PATH)?;
    // Here and now, as closing it may wait too.
    drop(file);
    Ok(Answer {
        file: Some(copy.into()),
        copied_from: Some(place),
        seen,
        bytes: Vec::new(),
    })
}

/// Whether a file is on a server. What has a block device has none.
fn is_far(file: &File, stat: &Stat) -> Result<bool, Errno> {
    if rustix::fs::major(stat.st_dev) != 0 {
        return Ok(false);
    }
    let kind = u32::try_from(rustix::fs::fstatfs(file)?.f_type);
    Ok(kind.is_ok_and(|kind| FAR_TYPES.contains(&kind)))
}

/// Copies a file into memory.
fn copy(
    file: &File,
    bytes: u64,
    most: u64,
    report: &dyn Fn(u64) -> io::Result<()>,
) -> Result<File, Errno> {
    if bytes > most {
        return Err(Errno::FBIG);
    }
    let copy = File::from(rustix::fs::memfd_create("copy", MemfdFlags::CLOEXEC)?);
    let mut piece = vec![0; PIECE_BYTES];
    let mut offset = 0;
    loop {
        report(offset).map_err(|error| errno(&error))?;
        // It may have grown meanwhile.
        let room = usize::try_from(most - offset).unwrap_or(usize::MAX);
        let length = room.min(PIECE_BYTES);
        let length = file.read_at(&mut piece[..length], offset);
        let length = length.map_err(|error| errno(&error))?;
        if length == 0 {
            return Ok(copy);
        }
        // The place to read at stays at the start.
        let written = copy.write_all_at(&piece[..length], offset);
        written.map_err(|error| errno(&error))?;
        offset += length as u64;
    }
}

pub(super) fn seen(stat: &Stat) -> Seen {
    Seen {
        device: stat.st_dev,
        inode: stat.st_ino,
        uid: stat.st_uid,
        mode: stat.st_mode,
        bytes: u64::try_from(stat.st_size).unwrap_or(0),
        modified: (
            stat.st_mtime,
            u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
        ),
    }
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// The file that a descriptor stands for, by what is known of it without asking a server.
pub(crate) fn known(place: BorrowedFd<'_>) -> Result<Seen, Errno> {
    let stat = statx(place, StatxFlags::BASIC_STATS)?;
    Ok(Seen {
        device: rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
        inode: stat.stx_ino,
        uid: stat.stx_uid,
        mode: stat.stx_mode.into(),
        bytes: stat.stx_size,
        modified: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
    })
}

/// The mount that a folder is on, and its inode.
pub(super) fn mount_of(folder: BorrowedFd<'_>) -> Result<(u64, u64), Errno> {
    let stat = statx(folder, StatxFlags::INO | StatxFlags::MNT_ID)?;
    Ok((stat.stx_mnt_id, stat.stx_ino))
}

fn statx(place: BorrowedFd<'_>, wanted: StatxFlags) -> Result<Statx, Errno> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    rustix::fs::statx(place, "", flags, wanted)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    #[test]
    fn a_copy_is_the_file_and_is_read_from_its_start() {
        let path = Path::new("/proc/self/exe");
        let file = File::open(path).unwrap();
        let bytes = file.metadata().unwrap().len();
        let copied = copy(&file, bytes, u64::MAX, &|_| Ok(())).unwrap();
        let mut text = Vec::new();
        io::Read::read_to_end(&mut &copied, &mut text).unwrap();
        assert!(text == fs::read(path).unwrap(), "the copy differs");
    }

    #[test]
    fn a_file_that_is_too_large_is_not_copied_nor_read_beyond() {
        let file = File::open("/proc/self/exe").unwrap();
        let refused = copy(&file, 4097, 4096, &|_| panic!("it was begun"));
        assert_eq!(refused.err(), Some(Errno::FBIG));
        // It is longer than it was said to be.
        let copied = copy(&file, 4096, 4096, &|_| Ok(())).unwrap();
        assert_eq!(copied.metadata().unwrap().len(), 4096);
    }
}
