//! Where a profile goes: opened before the recording starts, named after it is written.
//!
//! In: a [`Destination`]. Out: a whole file under its name, or none. A regular file is written
//! without a name (`O_TMPFILE`) and linked into its folder at the end, so that nothing is left
//! behind however we die. File systems without such files get a named temporary file.
//!
//! No symbolic link is followed to what is written: root may write in a folder of others, who could
//! have one lead anywhere. It is a file that is there, and gives way to the new one itself. Names of
//! our own descriptors are links of the kernel's and lead where whoever started us had them lead.

mod error;
mod new_file;

use std::{
    ffi::OsString,
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write},
    os::unix::{ffi::OsStrExt, fs::OpenOptionsExt},
    path::{Path, PathBuf},
};

pub use error::OutputError;

use error::write_error;
use new_file::NewFile;

/// Where a profile goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Destination {
    /// Standard output.
    Stdout,
    /// A file, or something that is opened like one: a FIFO, `/dev/null`.
    File(PathBuf),
}

impl From<OsString> for Destination {
    /// Reads the argument of `--output`: `-` and the system's names for it are standard output.
    fn from(argument: OsString) -> Self {
        const STDOUT: [&str; 4] = ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"];
        if STDOUT.iter().any(|name| argument == *name) {
            Self::Stdout
        } else {
            Self::File(argument.into())
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("standard output"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// What happens to a file that is already there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Overwrite {
    /// It stays, and the output is an error.
    Refuse,
    /// It is replaced in one step, after the new one is whole. Of a symbolic link that is the link,
    /// not what it leads to.
    Replace,
}

/// An open output. Dropped without [`Output::finish`], it leaves nothing behind.
#[derive(Debug)]
pub struct Output {
    destination: Destination,
    sink: Sink,
}

#[derive(Debug)]
enum Sink {
    Stdout,
    /// Something that was there and is no regular file.
    Opened(File),
    /// A regular file to be.
    New(NewFile),
}

impl Output {
    /// Opens a destination, so that what cannot be written is known before anything is recorded.
    ///
    /// Opening a FIFO waits for its reader, as a shell's `>` does.
    ///
    /// # Errors
    /// Why nothing can be written there.
    pub fn open(destination: Destination, overwrite: Overwrite) -> Result<Self, OutputError> {
        let sink = match &destination {
            Destination::Stdout => Sink::Stdout,
            Destination::File(path) => open_path(path, overwrite)?,
        };
        Ok(Self { destination, sink })
    }

    /// Where this output goes.
    #[must_use]
    pub fn destination(&self) -> &Destination {
        &self.destination
    }

    /// Lets `write` write the profile, and gives the file its name. Says how many bytes it has.
    ///
    /// # Errors
    /// What went wrong. There is then no new file under the name, and an old one is as it was.
    pub fn finish(
        self,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<u64, OutputError> {
        let destination = &self.destination;
        match self.sink {
            Sink::Stdout => write_through(io::stdout().lock(), destination, write),
            Sink::Opened(file) => write_through(file, destination, write),
            Sink::New(mut new) => {
                let bytes = write_through(new.file(), destination, write)?;
                new.file()
                    .sync_all()
                    .map_err(|source| write_error(destination, bytes, source))?;
                let path = new.path.clone();
                new.publish().map_err(|source| match source.kind() {
                    io::ErrorKind::AlreadyExists => OutputError::Exists { path },
                    _ => write_error(destination, bytes, source),
                })?;
                Ok(bytes)
            }
        }
    }
}

fn open_path(path: &Path, overwrite: Overwrite) -> Result<Sink, OutputError> {
    let is_folder = || OutputError::IsFolder {
        path: path.to_owned(),
    };
    if path.as_os_str().as_bytes().ends_with(b"/") || path.file_name().is_none() {
        return Err(is_folder());
    }
    let exists = || OutputError::Exists {
        path: path.to_owned(),
    };
    if names_descriptor(path) {
        return match (path.is_file(), overwrite) {
            (true, Overwrite::Refuse) => Err(exists()),
            _ => open_in_place(path, Links::Followed),
        };
    }
    match fs::symlink_metadata(path) {
        // A link to a folder is left alone: whoever names it means a file in the folder.
        Ok(_) if path.is_dir() => Err(is_folder()),
        Ok(found) if !found.is_file() && !found.is_symlink() => open_in_place(path, Links::Refused),
        Ok(_) if overwrite == Overwrite::Refuse => Err(exists()),
        _ => NewFile::create(path.to_owned(), overwrite).map(Sink::New),
    }
}

/// Whether a path is one of the kernel's names for a descriptor of ours. Source: `proc_pid_fd(5)`.
fn names_descriptor(path: &Path) -> bool {
    let in_folder = |folder: &str| {
        let name = path
            .strip_prefix(folder)
            .map_or(&[][..], |rest| rest.as_os_str().as_bytes());
        !name.is_empty() && name.iter().all(u8::is_ascii_digit)
    };
    path == Path::new("/dev/stderr") || in_folder("/dev/fd") || in_folder("/proc/self/fd")
}

/// Whether a symbolic link is followed to what is opened. A file that one leads to is written anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Links {
    Followed,
    Refused,
}

/// Opens something that is written to as it is.
fn open_in_place(path: &Path, links: Links) -> Result<Sink, OutputError> {
    let flags = match links {
        Links::Followed => 0,
        // It may have become a link since it was looked at.
        Links::Refused => libc::O_NOFOLLOW,
    };
    OpenOptions::new()
        .write(true)
        .truncate(links == Links::Followed)
        .custom_flags(flags)
        .open(path)
        .map(Sink::Opened)
        .map_err(|source| OutputError::Open {
            path: path.to_owned(),
            source,
        })
}

/// Counts what the kernel took.
struct Counted<W> {
    inner: W,
    bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Writes through a buffer to the end, and says how many bytes that were.
fn write_through(
    inner: impl Write,
    destination: &Destination,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<u64, OutputError> {
    let mut buffer = BufWriter::with_capacity(64 * 1024, Counted { inner, bytes: 0 });
    let result = write(&mut buffer).and_then(|()| buffer.flush());
    // After an error, what is still in the buffer must not follow.
    let (counted, _) = buffer.into_parts();
    match result {
        Ok(()) => Ok(counted.bytes),
        Err(source) => Err(write_error(destination, counted.bytes, source)),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read,
        os::{
            fd::{AsRawFd, OwnedFd},
            unix::fs::{FileTypeExt, PermissionsExt, symlink},
        },
    };

    use rustix::io::Errno;
    use tempfile::TempDir;

    use super::{
        error::folder_of,
        new_file::{Content, copy_named, named_file, persist},
        *,
    };
    use crate::error::Explain;

    fn folder() -> TempDir {
        tempfile::tempdir().unwrap()
    }

    fn open(path: &Path, overwrite: Overwrite) -> Result<Output, OutputError> {
        Output::open(Destination::File(path.to_owned()), overwrite)
    }

    /// Both ways to a file: without a name, and on file systems that know no such files.
    const WAYS: [fn(&Path, Overwrite) -> Output; 2] = [
        |path, overwrite| open(path, overwrite).unwrap(),
        on_old_file_system,
    ];

    fn names_in(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// An output that cannot have a file without a name.
    fn on_old_file_system(path: &Path, overwrite: Overwrite) -> Output {
        let content = Content::Named(named_file(folder_of(path)).unwrap());
        Output {
            destination: Destination::File(path.to_owned()),
            sink: Sink::New(NewFile {
                path: path.to_owned(),
                overwrite,
                content,
            }),
        }
    }

    #[track_caller]
    fn check_explained(error: &OutputError, what: &str, why: &str, advice: &str) {
        assert_eq!(error.to_string(), what);
        assert_eq!(error.why(), why);
        assert_eq!(error.advice(), advice);
    }

    #[test]
    fn a_file_appears_under_its_name_when_it_is_whole() {
        let folder = folder();
        let path = folder.path().join("cpu.folded");
        for way in WAYS {
            let output = way(&path, Overwrite::Refuse);
            assert!(!path.exists());
            let bytes = output.finish(|out| {
                out.write_all(b"a;b 1\n")?;
                assert!(!path.exists());
                Ok(())
            });
            assert_eq!(bytes.unwrap(), 6);
            assert_eq!(fs::read(&path).unwrap(), b"a;b 1\n");
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            assert_eq!(names_in(folder.path()), ["cpu.folded"]);
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn an_output_in_an_ordinary_folder_has_no_name_while_it_is_written() {
        let folder = folder();
        let output = open(&folder.path().join("cpu.svg"), Overwrite::Refuse).unwrap();
        if let Sink::New(NewFile {
            content: Content::Named(_),
            ..
        }) = &output.sink
        {
            eprintln!("skipped: the file system of the temporary folder has no unnamed files");
            return;
        }
        assert!(names_in(folder.path()).is_empty());
    }

    #[test]
    fn a_dropped_output_leaves_nothing() {
        let folder = folder();
        let path = folder.path().join("cpu.svg");
        drop(open(&path, Overwrite::Refuse).unwrap());
        drop(on_old_file_system(&path, Overwrite::Refuse));
        assert!(names_in(folder.path()).is_empty());
    }

    #[test]
    fn a_file_that_is_there_is_refused_before_anything_is_written() {
        let folder = folder();
        let path = folder.path().join("cpu.pb.gz");
        fs::write(&path, "old").unwrap();
        fs::write(folder.path().join("cpu.1.pb.gz"), "older").unwrap();
        let error = open(&path, Overwrite::Refuse).unwrap_err();
        check_explained(
            &error,
            &format!("cannot write {}: it exists", path.display()),
            "files are not overwritten unless asked for",
            &format!(
                "--force to replace it, or -o {}/cpu.2.pb.gz",
                folder.path().display()
            ),
        );
        assert!(!error.is_misuse());
        let dangling = folder.path().join("dangling");
        symlink("nowhere", &dangling).unwrap();
        let error = open(&dangling, Overwrite::Refuse).unwrap_err();
        assert!(matches!(error, OutputError::Exists { .. }));
    }

    #[test]
    fn a_file_that_appears_meanwhile_stays_as_it_is() {
        let folder = folder();
        let path = folder.path().join("cpu.svg");
        for way in WAYS {
            let output = way(&path, Overwrite::Refuse);
            fs::write(&path, "theirs").unwrap();
            let error = output.finish(|out| out.write_all(b"ours")).unwrap_err();
            assert!(matches!(error, OutputError::Exists { .. }));
            assert_eq!(fs::read(&path).unwrap(), b"theirs");
            assert_eq!(names_in(folder.path()), ["cpu.svg"]);
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn replacing_is_one_step() {
        let folder = folder();
        let path = folder.path().join("cpu.svg");
        fs::write(&path, "old").unwrap();
        for (way, words) in [(WAYS[0], "one"), (WAYS[1], "two")] {
            let output = way(&path, Overwrite::Replace);
            let bytes = output.finish(|out| out.write_all(words.as_bytes()));
            assert_eq!(bytes.unwrap(), words.len() as u64);
            assert_eq!(fs::read_to_string(&path).unwrap(), words);
            assert_eq!(names_in(folder.path()), ["cpu.svg"]);
        }
    }

    #[test]
    fn a_link_is_replaced_and_what_it_leads_to_stays() {
        let (folder, elsewhere) = (folder(), folder());
        let theirs = elsewhere.path().join("theirs");
        let link = folder.path().join("latest.svg");
        for target in [
            theirs.as_path(),
            Path::new("/dev/full"),
            Path::new("nowhere"),
        ] {
            for way in WAYS {
                fs::write(&theirs, "theirs").unwrap();
                symlink(target, &link).unwrap();
                let error = open(&link, Overwrite::Refuse).unwrap_err();
                assert!(matches!(error, OutputError::Exists { .. }), "{error}");
                let output = way(&link, Overwrite::Replace);
                output.finish(|out| out.write_all(b"ours")).unwrap();
                assert!(fs::symlink_metadata(&link).unwrap().is_file());
                assert_eq!(fs::read(&link).unwrap(), b"ours");
                assert_eq!(fs::read(&theirs).unwrap(), b"theirs");
                assert_eq!(names_in(folder.path()), ["latest.svg"]);
                fs::remove_file(&link).unwrap();
            }
        }
    }

    #[test]
    fn a_link_that_appears_meanwhile_is_not_followed() {
        let (folder, elsewhere) = (folder(), folder());
        let theirs = elsewhere.path().join("theirs");
        fs::write(&theirs, "theirs").unwrap();
        let path = folder.path().join("cpu.svg");
        for way in WAYS {
            let output = way(&path, Overwrite::Replace);
            symlink(&theirs, &path).unwrap();
            output.finish(|out| out.write_all(b"ours")).unwrap();
            assert_eq!(fs::read(&theirs).unwrap(), b"theirs");
            assert_eq!(fs::read(&path).unwrap(), b"ours");
            fs::remove_file(&path).unwrap();
        }
        symlink("/dev/null", &path).unwrap();
        let error = open_in_place(&path, Links::Refused).unwrap_err();
        assert!(matches!(error, OutputError::Open { .. }), "{error}");
    }

    #[test]
    fn a_link_to_a_folder_is_no_file() {
        let folder = folder();
        let link = folder.path().join("profiles");
        symlink("/", &link).unwrap();
        let error = open(&link, Overwrite::Replace).unwrap_err();
        assert!(matches!(error, OutputError::IsFolder { .. }), "{error}");
    }

    #[test]
    fn names_of_our_descriptors_are_written_in_place() {
        let (mut reader, writer) = io::pipe().unwrap();
        for folder in ["/dev/fd", "/proc/self/fd"] {
            let path = PathBuf::from(format!("{folder}/{}", writer.as_raw_fd()));
            let output = open(&path, Overwrite::Refuse).unwrap();
            output.finish(|out| out.write_all(b"a;b 1\n")).unwrap();
            let mut bytes = [0; 6];
            reader.read_exact(&mut bytes).unwrap();
            assert_eq!(&bytes, b"a;b 1\n");
        }
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"longer than ours").unwrap();
        let path = PathBuf::from(format!("/dev/fd/{}", file.as_file().as_raw_fd()));
        let error = open(&path, Overwrite::Refuse).unwrap_err();
        assert!(matches!(error, OutputError::Exists { .. }), "{error}");
        let output = open(&path, Overwrite::Replace).unwrap();
        output.finish(|out| out.write_all(b"ours")).unwrap();
        assert_eq!(fs::read(file.path()).unwrap(), b"ours");
        for other in ["/dev/fd", "/dev/fd/../null", "/dev/fd/x", "/proc/1/fd/1"] {
            assert!(!names_descriptor(Path::new(other)), "{other}");
        }
    }

    #[test]
    fn an_unnamed_file_that_cannot_be_linked_is_copied() {
        let folder = folder();
        let path = folder.path().join("cpu.svg");
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"whole").unwrap();
        let copy = copy_named(&mut file, &path).unwrap();
        persist(copy, &path, Overwrite::Refuse).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
    }

    #[test]
    fn a_full_disk_leaves_nothing_under_the_name() {
        let folder = folder();
        let path = folder.path().join("cpu.svg");
        fs::write(&path, "old").unwrap();
        let output = open(&path, Overwrite::Replace).unwrap();
        let error = output
            .finish(|out| {
                out.write_all(&[0; 100_000])?;
                Err(Errno::NOSPC.into())
            })
            .unwrap_err();
        check_explained(
            &error,
            &format!(
                "cannot write {}: no room left after 100000 bytes",
                path.display()
            ),
            &format!("no space left on device (in {})", folder.path().display()),
            &format!("df -h {}", folder.path().display()),
        );
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names_in(folder.path()), ["cpu.svg"]);
    }

    #[test]
    fn what_is_no_regular_file_is_written_in_place() {
        let null = open(Path::new("/dev/null"), Overwrite::Refuse).unwrap();
        assert_eq!(null.finish(|out| out.write_all(b"gone")).unwrap(), 4);
        assert!(
            fs::metadata("/dev/null")
                .unwrap()
                .file_type()
                .is_char_device()
        );
        let full = open(Path::new("/dev/full"), Overwrite::Refuse).unwrap();
        let error = full.finish(|out| out.write_all(b"too much")).unwrap_err();
        check_explained(
            &error,
            "cannot write /dev/full: no room left after 0 bytes",
            "no space left on device (in /dev)",
            "df -h /dev",
        );
    }

    #[test]
    fn a_reader_that_has_gone_is_told_apart() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let output = Output {
            destination: Destination::Stdout,
            sink: Sink::Opened(OwnedFd::from(writer).into()),
        };
        let error = output.finish(|out| out.write_all(b"a;b 1\n")).unwrap_err();
        assert!(matches!(error, OutputError::ClosedPipe { .. }));
        check_explained(
            &error,
            "cannot write standard output: the reader has gone",
            "broken pipe",
            "-o profile.pb.gz, and read the file afterwards",
        );
    }

    #[test]
    fn a_folder_that_is_missing_is_named() {
        let folder = folder();
        let missing = folder.path().join("missing");
        let error = open(&missing.join("cpu.svg"), Overwrite::Refuse).unwrap_err();
        check_explained(
            &error,
            &format!(
                "cannot write {0}/cpu.svg: there is no folder {0}",
                missing.display()
            ),
            "no such file or directory",
            &format!("mkdir -p {}", missing.display()),
        );
        assert!(!error.is_misuse());
        let error = open(Path::new("/proc/cpu.svg"), Overwrite::Refuse).unwrap_err();
        assert!(
            matches!(error, OutputError::FolderRefuses { .. }),
            "{error}"
        );
    }

    #[test]
    fn a_folder_is_no_file() {
        let folder = folder();
        for name in ["", "new/", ".."] {
            let error = open(&folder.path().join(name), Overwrite::Replace).unwrap_err();
            assert!(matches!(error, OutputError::IsFolder { .. }), "{error}");
            assert!(error.is_misuse());
        }
    }

    #[test]
    fn a_dash_is_standard_output() {
        for name in ["-", "/dev/stdout"] {
            assert_eq!(Destination::from(OsString::from(name)), Destination::Stdout);
        }
        let file = Destination::from(OsString::from("./-"));
        assert_eq!(file, Destination::File("./-".into()));
    }
}
