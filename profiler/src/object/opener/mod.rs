//! Opens files that others control, and never waits for a server that does not answer.
//!
//! In: a path, or a mapping's own link. Out: the file, or [`Errno::TIMEDOUT`].
//!
//! A file system may have a server: another host (NFS), or a process of anybody (FUSE). Then each
//! look-up, `open`, `read`, `stat` and even `close` may wait for it for ever, and no signal ends some
//! of these waits: a thread in one would keep our process from ending. So they are done by
//! processes of their own, which this program is too; they hold nothing of ours. One that gives no
//! answer in time is left behind, and its file system is not asked again. What lies on such a file
//! system is copied into memory there, so that nobody ever waits for it later.
//!
//! What cannot hang is opened at once, without them: files of mappings whose device is a block
//! device, or what we run from ourselves; and paths that the kernel knows by heart, up to such a
//! file.

mod act;
mod mounts;
mod server;
mod wire;

use std::{
    fs::File,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, SystemTime},
};

use foldhash::{HashSet, HashSetExt};
use rustix::{
    fs::{CWD, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};

pub(crate) use act::known;
pub use act::serve;
use mounts::Mount;
use server::{Heard, Patience, Server};
use wire::{Answer, MOST_READ_BYTES};

use crate::{
    process::{FileNumber, parse_maps},
    target::Pid,
};

/// The argument that makes this program such a process.
pub const VERB: &str = "open-files";

/// File systems that may fail to answer, after which those with a server are asked no more: each
/// costs the recording the time that is waited for it.
const MOST_SILENT: usize = 4;
/// The largest file that is copied, in bytes. Programs and libraries are rarely as long.
const MOST_FILE_BYTES: u64 = 256 << 20;
/// No file that has anything in it.
const NO_COPY: u64 = 1;
/// Most bytes of all copies: they are memory of ours.
const MOST_COPIED_BYTES: u64 = 1 << 30;
/// The longest that the run waits for copies, in all: nobody empties the rings meanwhile.
const MOST_COPYING: Duration = Duration::from_secs(3);

/// What goes on meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meanwhile {
    /// Samples arrive, and nobody takes them.
    Sampling,
    /// Nothing.
    Nothing,
}

impl Meanwhile {
    /// How long a server may take for one answer. One that works takes some milliseconds, a distant
    /// one a few times a tenth of a second. While samples arrive, that is how often the rings are
    /// emptied: samples of processes that are yet unknown bring parts of their stacks, fill half of
    /// a ring within that time, and are cut from then on.
    fn patience(self) -> Duration {
        Duration::from_millis(match self {
            Self::Sampling => 100,
            Self::Nothing => 500,
        })
    }
}

/// What is to be found out.
#[derive(Clone, Copy, Debug)]
struct Request<'a> {
    what: What,
    place: Place<'a>,
    /// The file has to be this one.
    number: Option<FileNumber>,
    /// The largest copy, in bytes; 0 to copy nothing and have the file itself.
    most_copied: u64,
}

impl Request<'_> {
    /// Does it here and now, whatever it takes.
    fn at_once(&self) -> Result<Answer, Errno> {
        let request = Request {
            most_copied: 0,
            ..*self
        };
        act::act(&request, &|_| Ok(()))
    }
}

#[derive(Clone, Copy, Debug)]
enum What {
    /// The regular file there.
    Open,
    /// What is there, to be looked at and not to be read; a link is not followed.
    Look,
    /// What is known of it now.
    Stat,
    /// A part of it.
    Read { offset: u64, bytes: usize },
}

/// Where a file is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place<'a> {
    /// At a path of ours.
    Host(&'a Path),
    /// At a path that does not leave a root.
    Below(BorrowedFd<'a>, &'a Path),
    /// It was found, and is held by a descriptor that does not read.
    Held(BorrowedFd<'a>),
}

/// What is known of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) uid: u32,
    /// With its type.
    pub(crate) mode: u32,
    pub(crate) bytes: u64,
    /// Seconds since 1970, and nanoseconds.
    pub(crate) modified: (i64, u32),
}

impl Seen {
    pub(crate) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.mode)
    }

    /// When it was last written.
    pub(crate) fn modified_at(&self) -> Option<SystemTime> {
        let (seconds, nanos) = self.modified;
        let since = Duration::new(u64::try_from(seconds).ok()?, nanos);
        SystemTime::UNIX_EPOCH.checked_add(since)
    }
}

/// A file that was opened.
#[derive(Debug)]
pub(crate) struct Opened {
    /// The file, or a copy in memory.
    pub(crate) file: File,
    /// Where the file is that this is a copy of.
    pub(crate) copied_from: Option<OwnedFd>,
}

/// What is not asked any more.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Silent {
    /// Files on a device.
    Device(u32, u32),
    /// Paths below a root, by its mount, which no other mount namespace has, and its inode.
    Root(u64, u64),
    /// Our paths below this one.
    Under(PathBuf),
}

impl Silent {
    /// What a request is about, if it hangs.
    fn of(request: &Request<'_>, mounts: impl FnOnce() -> Vec<Mount>) -> Self {
        match (request.number, request.place) {
            (Some(number), _) => Self::Device(number.major, number.minor),
            (None, Place::Held(place)) => {
                let device = known(place).unwrap_or_default().device;
                Self::Device(rustix::fs::major(device), rustix::fs::minor(device))
            }
            (None, Place::Below(root, _)) => {
                let (mount, inode) = act::mount_of(root).unwrap_or_default();
                Self::Root(mount, inode)
            }
            (None, Place::Host(path)) => Self::Under(mounts::silent_folder(&mounts(), path)),
        }
    }

    fn covers(&self, request: &Request<'_>) -> bool {
        match (self, request.place) {
            (Self::Under(folder), Place::Host(path)) => path.starts_with(folder),
            (Self::Under(_), _) => false,
            _ => *self == Self::of(request, Vec::new),
        }
    }
}

/// The processes that open files, and what is known of file systems.
struct Opener {
    /// Whether there may be such processes.
    is_used: bool,
    meanwhile: Meanwhile,
    idle: Vec<Server>,
    left_behind: Vec<Server>,
    silent: Vec<(Silent, String)>,
    copied_bytes: u64,
    copying: Duration,
}

static OPENER: Mutex<Opener> = Mutex::new(Opener {
    is_used: false,
    meanwhile: Meanwhile::Nothing,
    idle: Vec::new(),
    left_behind: Vec::new(),
    silent: Vec::new(),
    copied_bytes: 0,
    copying: Duration::ZERO,
});

fn opener() -> MutexGuard<'static, Opener> {
    OPENER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on what may hang is done by other processes: this program, with [`VERB`] as its
/// argument, has to [`serve`]. Without it everything is opened at once, whatever that takes.
pub fn enable() {
    opener().is_used = true;
}

/// Where something with a server is mounted, starts a process with this thread's rights: while
/// samples arrive there is less time for it.
pub fn prepare() {
    if !opener().is_used || !mounts::have_server() {
        return;
    }
    match Server::start(server::rights()) {
        Ok(server) => opener().idle.push(server),
        Err(error) => log::debug!("no process for files: {error}"),
    }
}

/// Tells what goes on while files are opened, from now on.
pub fn set_meanwhile(meanwhile: Meanwhile) {
    opener().meanwhile = meanwhile;
}

/// The file systems that did not answer, by their mount points, or by a path where that is not known.
#[must_use]
pub fn silent() -> Vec<String> {
    let opener = opener();
    opener.silent.iter().map(|(_, name)| name.clone()).collect()
}

/// Opens a regular file. Never waits on a FIFO, nor for a server.
///
/// # Errors
/// [`Errno::TIMEDOUT`] when its file system does not answer, [`Errno::FBIG`] when it is too large to
/// be copied from there; else what the kernel says.
pub(crate) fn open(place: Place<'_>) -> Result<Opened, Errno> {
    let request = open_request(place, MOST_FILE_BYTES);
    match by_heart(place, OFlags::PATH)? {
        Some((held, seen)) if is_near(seen.device) => open_near(held.as_fd()),
        _ => opened(ask(&request, None)?),
    }
}

/// Opens a regular file that was found, if it need not be copied.
///
/// # Errors
/// As [`open`]; [`Errno::FBIG`] when it has to be.
pub(crate) fn open_found(held: BorrowedFd<'_>) -> Result<File, Errno> {
    let opened = if is_near(known(held)?.device) {
        open_near(held)?
    } else {
        opened(ask(&open_request(Place::Held(held), NO_COPY), None)?)?
    };
    match opened.copied_from {
        Some(_) => Err(Errno::FBIG),
        None => Ok(opened.file),
    }
}

fn open_near(held: BorrowedFd<'_>) -> Result<Opened, Errno> {
    opened(open_request(Place::Held(held), 0).at_once()?)
}

fn open_request(place: Place<'_>, most_copied: u64) -> Request<'_> {
    Request {
        what: What::Open,
        place,
        number: None,
        most_copied,
    }
}

/// Opens the regular file of this number behind a mapping, through the mapping's own link.
///
/// # Errors
/// As [`open`]; [`Errno::STALE`] when it is another file.
pub(crate) fn open_mapping(pid: Pid, link: &Path, number: FileNumber) -> Result<Opened, Errno> {
    let request = numbered(link, number);
    // The link leads to that file alone.
    if is_near(rustix::fs::makedev(number.major, number.minor)) {
        return opened(request.at_once()?);
    }
    opened(ask(&request, Some(pid))?)
}

/// Opens a regular file at a path if it has this number.
///
/// # Errors
/// As [`open_mapping`].
pub(crate) fn open_numbered(pid: Pid, path: &Path, number: FileNumber) -> Result<Opened, Errno> {
    opened(ask(&numbered(path, number), Some(pid))?)
}

fn numbered(path: &Path, number: FileNumber) -> Request<'_> {
    Request {
        what: What::Open,
        place: Place::Host(path),
        number: Some(number),
        most_copied: MOST_FILE_BYTES,
    }
}

/// Whether it is worth asking for what the kernel does not know by heart: that takes some ten times
/// as long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asking {
    /// Yes.
    Worth,
    /// Not now.
    NotNow,
}

/// What is at a path below a root, to be looked at: it is not opened, and a link is not followed.
/// `None` when it was not worth asking.
///
/// # Errors
/// As [`open`].
pub(crate) fn look(
    root: BorrowedFd<'_>,
    path: &Path,
    asking: Asking,
) -> Result<Option<(OwnedFd, Seen)>, Errno> {
    let place = Place::Below(root, path);
    let found = by_heart(place, OFlags::PATH | OFlags::NOFOLLOW)?;
    if found.is_some() || asking == Asking::NotNow {
        return Ok(found);
    }
    let request = Request {
        what: What::Look,
        place,
        number: None,
        most_copied: MOST_FILE_BYTES,
    };
    let answer = ask(&request, None)?;
    Ok(Some((answer.file.ok_or(Errno::IO)?, answer.seen)))
}

/// What is known now of a file that was found.
///
/// # Errors
/// As [`open`].
pub(crate) fn stat(place: BorrowedFd<'_>) -> Result<Seen, Errno> {
    let request = Request {
        what: What::Stat,
        place: Place::Held(place),
        number: None,
        most_copied: MOST_FILE_BYTES,
    };
    Ok(ask(&request, None)?.seen)
}

/// Reads from a file that was found, up to the length of `into`. How many bytes.
///
/// # Errors
/// As [`open`].
pub(crate) fn read(place: BorrowedFd<'_>, offset: u64, into: &mut [u8]) -> Result<usize, Errno> {
    let request = Request {
        what: What::Read {
            offset,
            bytes: into.len().min(MOST_READ_BYTES),
        },
        place: Place::Held(place),
        number: None,
        most_copied: MOST_FILE_BYTES,
    };
    let bytes = ask(&request, None)?.bytes;
    let into = into.get_mut(..bytes.len()).ok_or(Errno::IO)?;
    into.copy_from_slice(&bytes);
    Ok(bytes.len())
}

/// What is known of a file of ours.
///
/// # Errors
/// What the kernel says.
pub(crate) fn seen(file: &File) -> Result<Seen, Errno> {
    Ok(act::seen(&rustix::fs::fstat(file)?))
}

fn opened(answer: Answer) -> Result<Opened, Errno> {
    Ok(Opened {
        file: answer.file.ok_or(Errno::IO)?.into(),
        copied_from: answer.copied_from,
    })
}

/// Follows a path by what the kernel remembers, and asks nobody. `None` when that is not all.
/// Source: `openat2(2)`, `RESOLVE_CACHED`; kernels before 5.12 do not know it.
fn by_heart(place: Place<'_>, flags: OFlags) -> Result<Option<(OwnedFd, Seen)>, Errno> {
    let (folder, path, resolve) = match place {
        Place::Host(path) => (CWD, path, ResolveFlags::empty()),
        Place::Below(root, path) => (root, path, ResolveFlags::IN_ROOT),
        Place::Held(_) => return Ok(None),
    };
    let resolve = resolve | ResolveFlags::CACHED | ResolveFlags::NO_MAGICLINKS;
    let flags = flags | OFlags::CLOEXEC;
    match rustix::fs::openat2(folder, path, flags, Mode::empty(), resolve) {
        Ok(held) => {
            let seen = known(held.as_fd())?;
            Ok(Some((held, seen)))
        }
        // Not that kernel, not that memory, or a link that may lead anywhere.
        Err(Errno::AGAIN | Errno::INVAL | Errno::NOSYS | Errno::LOOP | Errno::PERM) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether files on a device never have to be asked for: it is a block device, or we run from it
/// ourselves and hang with it in any case.
fn is_near(device: u64) -> bool {
    static OURS: OnceLock<HashSet<(u32, u32)>> = OnceLock::new();
    let number = (rustix::fs::major(device), rustix::fs::minor(device));
    let ours = || {
        let maps = std::fs::read("/proc/self/maps").unwrap_or_default();
        let maps = String::from_utf8_lossy(&maps);
        let files = parse_maps(&maps).filter_map(|row| row.file);
        let mut ours = HashSet::new();
        ours.extend(files.map(|file| (file.major, file.minor)));
        ours
    };
    number.0 != 0 || OURS.get_or_init(ours).contains(&number)
}

/// Has one of the processes find it out.
fn ask(request: &Request<'_>, pid: Option<Pid>) -> Result<Answer, Errno> {
    let rights = server::rights();
    let mut opener = opener();
    if !opener.is_used {
        drop(opener);
        return request.at_once();
    }
    if opener
        .silent
        .iter()
        .any(|(silent, _)| silent.covers(request))
    {
        return Err(Errno::TIMEDOUT);
    }
    if opener.silent.len() >= MOST_SILENT {
        drop(opener);
        return mounts::ask_none(request, pid);
    }
    let request = &Request {
        most_copied: request
            .most_copied
            .min(MOST_COPIED_BYTES.saturating_sub(opener.copied_bytes))
            .max(NO_COPY),
        ..*request
    };
    let patience = Patience {
        for_answers: opener.meanwhile.patience(),
        for_copies: MOST_COPYING.saturating_sub(opener.copying),
    };
    let idle = opener
        .idle
        .iter()
        .position(|server| server.rights == rights);
    let idle = idle.map(|index| opener.idle.swap_remove(index));
    // Others ask others meanwhile.
    drop(opener);
    let server = match idle.map_or_else(|| Server::start(rights), Ok) {
        Ok(server) => server,
        Err(error) => {
            log::debug!("files are opened without a process for it: {error}");
            return request.at_once();
        }
    };
    let heard = server.ask(request, patience);
    settle(request, pid, (server, heard))
}

/// Takes what came of a question.
fn settle(
    request: &Request<'_>,
    pid: Option<Pid>,
    (server, heard): (Server, Heard),
) -> Result<Answer, Errno> {
    match heard {
        Heard::Answer { answer, copying } => {
            let mut opener = opener();
            opener.idle.push(server);
            opener.copying += copying;
            if let Ok(answer) = &answer
                && answer.copied_from.is_some()
            {
                opener.copied_bytes += answer.seen.bytes;
            }
            answer
        }
        Heard::TooSlow { copying } => {
            opener().copying += copying;
            // It notices that nobody listens, and ends.
            Err(Errno::FBIG)
        }
        Heard::Silence => {
            let (silent, name) = mounts::told(request, pid);
            log::debug!("{name} does not answer");
            let mut opener = opener();
            // Where that helps: what waits for some servers can be ended.
            opener.left_behind.retain_mut(Server::is_there);
            opener.left_behind.push(server.ended());
            if !opener.silent.iter().any(|(known, _)| *known == silent) {
                opener.silent.push((silent, name));
            }
            Err(Errno::TIMEDOUT)
        }
        Heard::Broken => Err(Errno::IO),
    }
}

#[cfg(test)]
mod tests;
