//! A regular file that gets its name when it is whole.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, Seek},
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    process,
};

use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags},
    io::Errno,
};
use tempfile::NamedTempFile;

use super::{
    Overwrite,
    error::{OutputError, folder_error, folder_of, name_of},
};

/// A file to be. Dropped, it leaves nothing behind.
#[derive(Debug)]
pub(super) struct NewFile {
    /// Its name once it is whole.
    pub(super) path: PathBuf,
    pub(super) overwrite: Overwrite,
    pub(super) content: Content,
}

#[derive(Debug)]
pub(super) enum Content {
    /// Without a name so far, in this folder.
    Unnamed { file: File, folder: OwnedFd },
    /// Under a temporary name.
    Named(NamedTempFile),
}

impl NewFile {
    /// Makes the file, or says why its folder takes none.
    pub(super) fn create(path: PathBuf, overwrite: Overwrite) -> Result<Self, OutputError> {
        let folder = folder_of(&path);
        let content = Content::unnamed(folder).and_then(|content| match content {
            Some(content) => Ok(content),
            None => named_file(folder).map(Content::Named),
        });
        match content {
            Ok(content) => Ok(Self {
                path,
                overwrite,
                content,
            }),
            Err(source) => Err(folder_error(path, source)),
        }
    }

    /// What to write to.
    pub(super) fn file(&mut self) -> &mut File {
        match &mut self.content {
            Content::Unnamed { file, .. } => file,
            Content::Named(file) => file.as_file_mut(),
        }
    }

    /// Gives the file its name.
    pub(super) fn publish(self) -> io::Result<()> {
        let (path, overwrite) = (&self.path, self.overwrite);
        match self.content {
            Content::Named(file) => persist(file, path, overwrite),
            Content::Unnamed { mut file, folder } => {
                match link(&file, &folder, name_of(path), overwrite) {
                    Ok(()) => Ok(()),
                    Err(Errno::EXIST) => Err(Errno::EXIST.into()),
                    // Security modules and some file systems refuse links: better a copy than
                    // no profile.
                    Err(_) => persist(copy_named(&mut file, path)?, path, overwrite),
                }
            }
        }
    }
}

impl Content {
    /// A file without a name, where the file system has such files.
    fn unnamed(folder: &Path) -> io::Result<Option<Self>> {
        let folder = rustix::fs::open(
            folder,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let file = rustix::fs::openat(
            &folder,
            ".",
            OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC,
            Mode::RUSR | Mode::WUSR,
        );
        let file = match file {
            Ok(file) => {
                let file = File::from(file);
                give_to_caller(&file);
                file
            }
            // What kernels and file systems say that know no such files: open(2), `O_TMPFILE`.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT | Errno::INVAL) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        // Its way to a name leads through procfs.
        let has_proc = fs::symlink_metadata(proc_path(&file)).is_ok();
        Ok(has_proc.then_some(Self::Unnamed { file, folder }))
    }
}

pub(super) fn named_file(folder: &Path) -> io::Result<NamedTempFile> {
    let file = tempfile::Builder::new()
        .prefix(".ebpfprof-")
        .suffix(".tmp")
        .tempfile_in(folder)?;
    give_to_caller(file.as_file());
    Ok(file)
}

/// Under sudo the file belongs to whoever called it, who is about to open it. Source: `sudo(8)`,
/// `SUDO_UID` and `SUDO_GID`. A refusal leaves it to root.
fn give_to_caller(file: &File) {
    let id = |name| std::env::var(name).ok()?.parse::<u32>().ok();
    if rustix::process::geteuid().is_root()
        && let (Some(uid), Some(gid)) = (id("SUDO_UID"), id("SUDO_GID"))
        && let Err(error) = std::os::unix::fs::fchown(file, Some(uid), Some(gid))
    {
        log::debug!("the file stays root's: {error}");
    }
}

pub(super) fn persist(file: NamedTempFile, path: &Path, overwrite: Overwrite) -> io::Result<()> {
    let persisted = match overwrite {
        Overwrite::Refuse => file.persist_noclobber(path),
        Overwrite::Replace => file.persist(path),
    };
    persisted.map(drop).map_err(|error| error.error)
}

pub(super) fn copy_named(file: &mut File, path: &Path) -> io::Result<NamedTempFile> {
    let mut copy = named_file(folder_of(path))?;
    file.rewind()?;
    io::copy(file, copy.as_file_mut())?;
    copy.as_file().sync_all()?;
    Ok(copy)
}

/// Links an unnamed file into its folder.
fn link(file: &File, folder: &OwnedFd, name: &OsStr, overwrite: Overwrite) -> Result<(), Errno> {
    let link_as = |name: &OsStr| {
        rustix::fs::linkat(CWD, proc_path(file), folder, name, AtFlags::SYMLINK_FOLLOW)
    };
    match (link_as(name), overwrite) {
        (Err(Errno::EXIST), Overwrite::Replace) => {}
        (result, _) => return result,
    }
    // A link replaces nothing, but a rename does. The fd makes the name unique within us, the
    // pid among others; a leftover of a process that died in between gives way.
    let temporary = OsString::from(format!(
        ".ebpfprof-{}-{}.tmp",
        process::id(),
        file.as_raw_fd()
    ));
    if link_as(&temporary) == Err(Errno::EXIST) {
        rustix::fs::unlinkat(folder, &temporary, AtFlags::empty())?;
        link_as(&temporary)?;
    }
    rustix::fs::renameat(folder, &temporary, folder, name).inspect_err(|_| {
        // The rename's own error is what counts.
        let _ = rustix::fs::unlinkat(folder, &temporary, AtFlags::empty());
    })
}

fn proc_path(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}
