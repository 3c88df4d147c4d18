//! Files that were found before, where elfutils and gdb keep and find them too.
//!
//! In: a build id. Out: the file, or that there was none a short while ago. An entry is
//! `BUILDID/debuginfo`; one that is empty says that no server has it. No link is followed below the
//! cache's folder, and what is kept is whole or not there: it gets its name when all of it is written.
//! Without a folder, or where it takes no file, files have no name and are gone with the run.
//!
//! Source: debuginfod_find_debuginfo(3), "CACHE".

use std::{
    fs::{DirBuilder, File},
    io::{self, Read},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::DirBuilderExt,
    },
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, SystemTime},
};

use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags},
    io::Errno,
};

use super::BuildId;

/// An entry's file.
const ENTRY: &str = "debuginfo";
/// For how long nothing is asked of what is not there, unless the cache's own file tells.
const MISS_LASTS: Duration = Duration::from_secs(600);
/// The file that tells, in seconds.
const MISS_FILE: &str = "cache_miss_s";

/// The cache.
#[derive(Debug)]
pub(super) struct Cache {
    folder: Option<OwnedFd>,
    miss_lasts: Duration,
}

/// What the cache has.
#[derive(Debug)]
pub(super) enum Held {
    /// A file. Whether it is the right one is for the caller to find out.
    File(File),
    /// That no server had it.
    Miss,
    Nothing,
}

impl Cache {
    pub(super) fn open(path: Option<&Path>) -> Self {
        let folder = path.and_then(|path| match open_folder(path) {
            Ok(folder) => Some(folder),
            Err(error) => {
                log::debug!("no cache in {}: {error}", path.display());
                None
            }
        });
        let miss_lasts = folder.as_ref().and_then(miss_lasts);
        Self {
            folder,
            miss_lasts: miss_lasts.unwrap_or(MISS_LASTS),
        }
    }

    pub(super) fn look(&self, build_id: &BuildId) -> Held {
        let Some(folder) = self.folder.as_ref() else {
            return Held::Nothing;
        };
        self.entry(folder, build_id).unwrap_or(Held::Nothing)
    }

    fn entry(&self, folder: &OwnedFd, build_id: &BuildId) -> Result<Held, Errno> {
        let folder = open_below(folder, &build_id.0)?;
        // An empty entry may have no mode to be opened by.
        let stat = rustix::fs::statat(&folder, ENTRY, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Errno::INVAL);
        }
        if stat.st_size > 0 {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
            let file = rustix::fs::openat(&folder, ENTRY, flags, Mode::empty())?;
            return Ok(Held::File(File::from(file)));
        }
        let noted = u64::try_from(stat.st_mtime).unwrap_or(0);
        let noted = SystemTime::UNIX_EPOCH + Duration::from_secs(noted);
        let age = SystemTime::now().duration_since(noted);
        if age.is_ok_and(|age| age <= self.miss_lasts) {
            return Ok(Held::Miss);
        }
        rustix::fs::unlinkat(&folder, ENTRY, AtFlags::empty())?;
        Ok(Held::Nothing)
    }

    /// A place for a file that is being fetched.
    pub(super) fn slot(&self, build_id: &BuildId) -> io::Result<Slot> {
        let named = self
            .folder
            .as_ref()
            .map(|folder| Slot::below(folder, build_id));
        match named {
            Some(Ok(slot)) => Ok(slot),
            other => {
                if let Some(Err(error)) = other {
                    log::debug!("{}: the cache takes no file: {error}", build_id.0);
                }
                Ok(Slot {
                    file: tempfile::tempfile()?,
                    place: None,
                })
            }
        }
    }

    /// Remembers that no server has it.
    pub(super) fn note_miss(&self, build_id: &BuildId) {
        let Some(folder) = self.folder.as_ref() else {
            return;
        };
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let noted = make_below(folder, &build_id.0)
            .and_then(|folder| rustix::fs::openat(&folder, ENTRY, flags, Mode::empty()));
        if let Err(error) = noted {
            log::debug!("{}: the cache keeps no note: {error}", build_id.0);
        }
    }
}

/// A file that is being written.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) file: File,
    place: Option<Place>,
}

/// Where it will be.
#[derive(Debug)]
struct Place {
    folder: OwnedFd,
    /// Its name until then, where files need one.
    name: Option<String>,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            // It is there unless it was kept.
            let _ = rustix::fs::unlinkat(&self.folder, name.as_str(), AtFlags::empty());
        }
    }
}

impl Slot {
    fn below(folder: &OwnedFd, build_id: &BuildId) -> Result<Self, Errno> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let folder = make_below(folder, &build_id.0)?;
        let mode = Mode::RUSR | Mode::WUSR;
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        // Without a name nothing is left behind, however we end.
        let (file, name) = match rustix::fs::openat(&folder, ".", flags | OFlags::TMPFILE, mode) {
            Ok(file) => (file, None),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT | Errno::INVAL) => {
                let number = NUMBER.fetch_add(1, Ordering::Relaxed);
                let name = format!("{ENTRY}.{}.{number}", std::process::id());
                let flags = flags | OFlags::CREATE | OFlags::EXCL;
                let file = rustix::fs::openat(&folder, name.as_str(), flags, mode)?;
                (file, Some(name))
            }
            Err(error) => return Err(error),
        };
        Ok(Self {
            file: File::from(file),
            place: Some(Place { folder, name }),
        })
    }

    /// Gives the file its name. It is as good without one for this run.
    pub(super) fn keep(self) -> File {
        if let Some(place) = &self.place
            && let Err(error) = place.keep(&self.file)
        {
            log::debug!("the cache keeps no file: {error}");
        }
        self.file
    }
}

impl Place {
    fn keep(&self, file: &File) -> Result<(), Errno> {
        if let Some(name) = &self.name {
            return rustix::fs::renameat(&self.folder, name.as_str(), &self.folder, ENTRY);
        }
        let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
        let link = || {
            let follow = AtFlags::SYMLINK_FOLLOW;
            rustix::fs::linkat(CWD, unnamed.as_str(), &self.folder, ENTRY, follow)
        };
        match link() {
            Err(Errno::EXIST) => {
                // What was there was of no use, or another program was as fast.
                rustix::fs::unlinkat(&self.folder, ENTRY, AtFlags::empty())?;
                link()
            }
            done => done,
        }
    }
}

/// The cache's own folder, which may be behind links: it is the user's choice.
fn open_folder(path: &Path) -> io::Result<OwnedFd> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700).create(path)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, path, flags, Mode::empty())?)
}

fn open_below(folder: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(folder, name, flags, Mode::empty())
}

fn make_below(folder: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
    match rustix::fs::mkdirat(folder, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => open_below(folder, name),
        Err(error) => Err(error),
    }
}

/// For how long the cache's own file says that a miss counts.
fn miss_lasts(folder: &OwnedFd) -> Option<Duration> {
    const MOST_DIGITS: u64 = 20;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = rustix::fs::openat(folder, MISS_FILE, flags, Mode::empty()).ok()?;
    let mut text = String::new();
    let mut file = File::from(file).take(MOST_DIGITS);
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        io::Write,
        os::unix::fs::{PermissionsExt, symlink},
    };

    use super::*;

    fn build_id() -> BuildId {
        BuildId("00ff".to_owned())
    }

    #[test]
    fn what_is_kept_is_found_and_is_ours_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/cache");
        let cache = Cache::open(Some(&path));
        let mut slot = cache.slot(&build_id()).unwrap();
        slot.file.write_all(b"text").unwrap();
        assert!(matches!(cache.look(&build_id()), Held::Nothing));
        drop(slot.keep());
        let Held::File(mut file) = cache.look(&build_id()) else {
            panic!("it is not there");
        };
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "text");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path.join("00ff/debuginfo")), 0o600);
        assert_eq!((mode(&path.join("00ff")), mode(&path)), (0o700, 0o700));
        assert_eq!(fs::read_dir(path.join("00ff")).unwrap().count(), 1);
    }

    #[test]
    fn what_is_not_kept_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(Some(folder.path()));
        drop(cache.slot(&build_id()).unwrap());
        let entries = fs::read_dir(folder.path().join("00ff")).unwrap();
        assert_eq!(entries.count(), 0);
    }

    #[test]
    fn a_miss_counts_for_a_while_and_a_file_takes_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(Some(folder.path()));
        cache.note_miss(&build_id());
        assert!(matches!(cache.look(&build_id()), Held::Miss));
        fs::write(folder.path().join(MISS_FILE), "1\n").unwrap();
        let entry = File::open(folder.path().join("00ff/debuginfo"));
        if let Ok(entry) = entry {
            let old = SystemTime::now() - Duration::from_secs(5);
            entry.set_modified(old).unwrap();
            let cache = Cache::open(Some(folder.path()));
            assert!(matches!(cache.look(&build_id()), Held::Nothing));
        }
        cache.note_miss(&build_id());
        drop(cache.slot(&build_id()).unwrap().keep());
        let entry = folder.path().join("00ff/debuginfo");
        let mode = fs::metadata(&entry).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "the file is there, not the note");
    }

    #[test]
    fn links_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        fs::write(elsewhere.path().join(ENTRY), "text").unwrap();
        symlink(elsewhere.path(), folder.path().join("00ff")).unwrap();
        let cache = Cache::open(Some(folder.path()));
        assert!(matches!(cache.look(&build_id()), Held::Nothing));
        drop(cache.slot(&build_id()).unwrap().keep());
        fs::remove_file(folder.path().join("00ff")).unwrap();
        fs::create_dir(folder.path().join("00ff")).unwrap();
        symlink(
            elsewhere.path().join(ENTRY),
            folder.path().join("00ff").join(ENTRY),
        )
        .unwrap();
        assert!(matches!(cache.look(&build_id()), Held::Nothing));
        drop(cache.slot(&build_id()).unwrap().keep());
        assert_eq!(fs::read(elsewhere.path().join(ENTRY)).unwrap(), b"text");
    }
}
