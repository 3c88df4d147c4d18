//! Where profiles go: decided, checked and opened before the recording starts.

use std::{
    collections::HashSet,
    io::{IsTerminal, Write, stdout},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::event::{PollFd, PollFlags};

use super::{args::RecordArgs, summary::Written, trouble::Trouble};
use crate::{
    bug,
    export::{
        self, Format, Settings,
        output::{Destination, Output, Overwrite},
    },
    privilege,
    profile::Profile,
    record::Stop,
};

/// What to write where.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    files: Vec<(Destination, Format)>,
}

impl Plan {
    /// Reads the options. `None` among the files stands for the default name, known later.
    pub(super) fn of_args(args: &RecordArgs) -> Result<Self, Trouble> {
        let mut files = Vec::new();
        for path in &args.output {
            let destination = Destination::from(path.clone().into_os_string());
            let format = format_of(path, destination == Destination::Stdout, args.format)?;
            files.push((destination, format));
        }
        if let Some(path) = named_twice(&files) {
            return Err(Trouble::misuse(
                format!("two outputs are {}", path.display()),
                "one would overwrite the other",
                "ebpfprof … -o FILE -o OTHER",
            ));
        }
        let to_stdout = files
            .iter()
            .filter(|(destination, _)| *destination == Destination::Stdout);
        if to_stdout.clone().count() > 1 {
            return Err(Trouble::misuse(
                "more than one profile on stdout",
                "two profiles in one stream can be told apart by no reader",
                "ebpfprof … -o - -o FILE",
            ));
        }
        for (_, format) in to_stdout {
            check_terminal(*format)?;
        }
        Ok(Self { files })
    }

    pub(super) fn uses_stdout(&self) -> bool {
        self.files
            .iter()
            .any(|(destination, _)| *destination == Destination::Stdout)
    }

    /// Whether a format shows when things happened.
    pub(super) fn needs_times(&self) -> bool {
        self.files.iter().any(|(_, format)| format.needs_times())
    }

    /// Opens every output, so that a recording is never made for nothing. `label` names the file
    /// when no output was asked for.
    pub(super) fn open(mut self, args: &RecordArgs, label: &str) -> Result<Outputs, Trouble> {
        if self.files.is_empty() {
            let format = args.format.unwrap_or(Format::Pprof);
            let time = jiff::Zoned::now().strftime("%Y%m%d-%H%M%S").to_string();
            let path = PathBuf::from(format!("ebpfprof-{label}-{time}.{}", format.extension()));
            self.files.push((Destination::File(path), format));
        }
        let overwrite = if args.force {
            Overwrite::Replace
        } else {
            Overwrite::Refuse
        };
        let mut opened = Vec::new();
        for (destination, format) in self.files {
            let path = match &destination {
                Destination::Stdout => None,
                Destination::File(path) => Some(path.clone()),
            };
            opened.push((path, format, Output::open(destination, overwrite)?));
        }
        Ok(Outputs(opened))
    }
}

/// Refuses to write what is no text to a terminal.
pub(super) fn check_terminal(format: Format) -> Result<(), Trouble> {
    if !format.is_binary() || !stdout().is_terminal() {
        return Ok(());
    }
    Err(Trouble::misuse(
        "stdout is a terminal",
        format!("a profile for {} is compressed binary data", format.name()),
        format!(
            "ebpfprof … -o FILE.{}, or -o - --format folded",
            format.extension()
        ),
    ))
}

/// A file that two outputs would be written to. Folders are compared by where they lead.
fn named_twice(files: &[(Destination, Format)]) -> Option<PathBuf> {
    let mut seen = HashSet::new();
    files.iter().find_map(|(destination, _)| {
        let Destination::File(path) = destination else {
            return None;
        };
        // Any number of profiles may go to /dev/null. A link gives way to a file.
        let is_device = path
            .symlink_metadata()
            .is_ok_and(|meta| !meta.is_file() && !meta.is_symlink());
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new(".")).canonicalize().ok()?;
        let is_new = seen.insert((folder, path.file_name()?.to_owned()));
        (!is_new && !is_device).then(|| path.clone())
    })
}

/// Ends a recording whose reader on stdout has gone away: nobody would get it. The flag tells that
/// it has.
pub(super) fn stop_when_stdout_closes(stop: &Stop) -> Arc<AtomicBool> {
    let (flag, closed) = (stop.flag(), Arc::new(AtomicBool::new(false)));
    let has_closed = Arc::clone(&closed);
    // Ends with the process.
    std::thread::spawn(move || {
        privilege::keep_only(&[]);
        let stdout = stdout();
        // No event is asked for: the kernel reports errors in any case.
        let mut fds = [PollFd::new(&stdout, PollFlags::empty())];
        if rustix::event::poll(&mut fds, None).is_ok() && fds[0].revents().contains(PollFlags::ERR)
        {
            closed.store(true, Ordering::Relaxed);
            flag.store(true, Ordering::Relaxed);
        }
    });
    has_closed
}

/// The format of an output, by its name or as asked for.
pub(super) fn format_of(
    path: &Path,
    is_stdout: bool,
    asked: Option<Format>,
) -> Result<Format, Trouble> {
    let by_name = if is_stdout {
        None
    } else {
        Format::from_path(path)
    };
    match (by_name, asked) {
        (Some(by_name), Some(asked)) if by_name != asked && path.extension().is_some() => {
            Err(Trouble::misuse(
                format!(
                    "{} cannot be both {} and {}",
                    path.display(),
                    by_name.name(),
                    asked.name()
                ),
                "its extension says one format, --format another",
                format!(
                    "ebpfprof … -o {}",
                    path.with_extension(asked.extension()).display()
                ),
            ))
        }
        (Some(format), _) | (None, Some(format)) => Ok(format),
        (None, None) if is_stdout => Ok(Format::Pprof),
        (None, None) => {
            let known: Vec<&str> = Format::ALL
                .iter()
                .flat_map(|format| format.extensions())
                .copied()
                .collect();
            Err(Trouble::misuse(
                format!("cannot tell the format of {}", path.display()),
                format!("its extension is none of {}", known.join(" ")),
                format!("ebpfprof … -o {} --format pprof", path.display()),
            ))
        }
    }
}

/// Outputs that are open and wait for their profile.
pub(super) struct Outputs(Vec<(Option<PathBuf>, Format, Output)>);

impl Outputs {
    /// Writes the profile everywhere. One output's failure does not keep the others from theirs; that
    /// of a bug was told when it happened.
    pub(super) fn write(
        self,
        profile: &Profile,
        settings: &Settings,
    ) -> (Vec<Written>, Vec<Trouble>) {
        let (mut written, mut troubles) = (Vec::new(), Vec::new());
        for (path, format, output) in self.0 {
            let write = |out: &mut dyn Write| {
                bug::provoke(bug::Place::Export);
                export::write_with(format, settings, profile, out)
            };
            match bug::contain(|| output.finish(write)) {
                Some(Ok(bytes)) => written.push(Written {
                    path,
                    format,
                    bytes,
                }),
                Some(Err(error)) => troubles.push(error.into()),
                None => {}
            }
        }
        (written, troubles)
    }
}
