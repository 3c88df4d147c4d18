//! `-- CMD`: a command that is held back just before its first instruction, until the profiler is
//! ready for it.
//!
//! In: the words after `--`. Out: a [`Prepared`] child whose pid is known, then a [`Running`] one.
//! The child is made by `std::process::Command`; between fork and exec it tells us its pid, then
//! waits for one byte. It needs no ptrace and no stop signal, and nothing is left behind if we die.

use std::{
    ffi::OsString,
    io::{self, PipeReader, PipeWriter, Read, Write},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::{Child, ExitStatus, Stdio},
    thread::{self, JoinHandle},
};

use rustix::process::Signal;

use super::ids::Pid;
use crate::error::Explain;

/// The byte that lets the child go. Any other, and the end of the pipe, makes it exit.
const GO: u8 = 1;
const GIVE_UP: u8 = 0;
/// Exit code of a child that was not let go.
const GIVEN_UP_STATUS: i32 = 127;

/// Where the command's standard output goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChildStdout {
    /// Where ours goes.
    Inherit,
    /// To our standard error, because a profile goes to standard output.
    ToStderr,
}

/// A command that could not be started.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// No word follows `--`.
    #[error("no command to start")]
    Empty,
    /// There is no such program.
    #[error("cannot start '{}'", program.to_string_lossy())]
    Exec {
        /// The first word.
        program: OsString,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The process itself could not be made.
    #[error("cannot make a process for '{}'", program.to_string_lossy())]
    Fork {
        /// The first word.
        program: OsString,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl CommandError {
    /// Whether the program is named by its path, so that PATH is not searched.
    fn is_path(program: &OsString) -> bool {
        program.as_encoded_bytes().contains(&b'/')
    }
}

impl Explain for CommandError {
    fn why(&self) -> String {
        match self {
            Self::Empty => "nothing follows `--`".to_owned(),
            Self::Exec { program, source } => match source.kind() {
                io::ErrorKind::NotFound if !Self::is_path(program) => {
                    "no directory in PATH holds such a program".to_owned()
                }
                // A directory that we may not search counts as well.
                io::ErrorKind::PermissionDenied if !Self::is_path(program) => {
                    "no directory in PATH holds such a program that we may execute".to_owned()
                }
                io::ErrorKind::NotFound if Path::new(program).exists() => {
                    "the interpreter or loader that the file names does not exist".to_owned()
                }
                io::ErrorKind::NotFound => "no such file".to_owned(),
                io::ErrorKind::PermissionDenied if Path::new(program).is_dir() => {
                    "it is a directory".to_owned()
                }
                io::ErrorKind::PermissionDenied => "the file is not executable for us".to_owned(),
                _ => source.to_string(),
            },
            Self::Fork { source, .. } => source.to_string(),
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::Empty => "ebpfprof -- CMD [ARG…]".to_owned(),
            Self::Exec { program, source } => match source.kind() {
                io::ErrorKind::PermissionDenied
                    if Self::is_path(program) && !Path::new(program).is_dir() =>
                {
                    format!("chmod +x {}", program.to_string_lossy())
                }
                _ => "check the path after `--`; shell syntax needs `-- sh -c '…'`".to_owned(),
            },
            Self::Fork { .. } => "look at `ulimit -u`, `ulimit -n` and free memory".to_owned(),
        }
    }

    fn is_misuse(&self) -> bool {
        matches!(self, Self::Empty)
    }
}

/// The words after `--`.
#[derive(Clone, Copy, Debug)]
pub struct Command;

impl Command {
    /// Makes the process and holds it back before its exec. It has our environment, directory,
    /// input and error output.
    ///
    /// # Errors
    /// When `argv` is empty, or no process can be made. That the program cannot be executed is
    /// noticed in [`Prepared::start`].
    pub fn prepare(argv: &[OsString], stdout: ChildStdout) -> Result<Prepared, CommandError> {
        let (program, arguments) = argv.split_first().ok_or(CommandError::Empty)?;
        let fork_error = |source| CommandError::Fork {
            program: program.clone(),
            source,
        };
        let (mut pid_reader, pid_writer) = io::pipe().map_err(fork_error)?;
        let (go_reader, go_writer) = io::pipe().map_err(fork_error)?;
        let mut command = std::process::Command::new(program);
        command.args(arguments);
        if stdout == ChildStdout::ToStderr {
            command.stdout(Stdio::from(io::stderr()));
        }
        let gate = Gate {
            pid_writer,
            go_reader,
            go_writer: go_writer.as_raw_fd(),
        };
        // SAFETY: between fork and exec the closure only makes system calls on descriptors that are
        // open by then. It neither allocates nor takes a lock.
        unsafe { command.pre_exec(move || gate.pass()) };
        // `spawn` returns after the exec, so it waits in a thread.
        let spawning = thread::Builder::new()
            .name("spawn".to_owned())
            .spawn(move || command.spawn())
            .map_err(fork_error)?;
        let mut held = Held {
            spawning: Some(spawning),
            go: go_writer,
        };
        let mut pid = [0; 4];
        if pid_reader.read_exact(&mut pid).is_err() {
            // The pipe ended: there is no child, and `spawn` knows why.
            let source = match held.join() {
                Err(source) => source,
                Ok(_) => io::Error::other("the child ended before it told its pid"),
            };
            return Err(fork_error(source));
        }
        Ok(Prepared {
            pid: Pid(u32::from_ne_bytes(pid)),
            program: program.clone(),
            held,
        })
    }
}

/// What the child passes through between fork and exec.
struct Gate {
    pid_writer: PipeWriter,
    go_reader: PipeReader,
    /// The parent's end of the second pipe; the child has a copy that it must close, or it would
    /// never see the pipe's end.
    go_writer: RawFd,
}

impl Gate {
    /// Runs in the child.
    fn pass(&self) -> io::Result<()> {
        reset_signals()?;
        // SAFETY: this copy of the descriptor belongs to the child, where nothing else uses it.
        drop(unsafe { OwnedFd::from_raw_fd(self.go_writer) });
        let pid = std::process::id();
        (&self.pid_writer).write_all(&pid.to_ne_bytes())?;
        let mut byte = [GIVE_UP];
        match (&self.go_reader).read_exact(&mut byte) {
            Ok(()) if byte[0] == GO => Ok(()),
            // Nobody waits for an error: the parent has given up, or is dead. An error returned
            // here would be written to it, and a failure to do so makes the library abort.
            // SAFETY: ends the process at once, without running anything of the parent's.
            _ => unsafe { libc::_exit(GIVEN_UP_STATUS) },
        }
    }
}

/// Gives the child the dispositions and the mask that a shell would give it, whatever ours are.
fn reset_signals() -> io::Result<()> {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: sets a disposition of the child's own; `SIG_DFL` is a valid one.
        if unsafe { libc::signal(signal, libc::SIG_DFL) } == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
    }
    let mut none = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the set is ours to write.
    unsafe { libc::sigemptyset(none.as_mut_ptr()) };
    // SAFETY: the set was filled above; the old mask is not asked for.
    if unsafe { libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut()) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The thread that waits for the exec, and the way to let it happen.
#[derive(Debug)]
struct Held {
    spawning: Option<JoinHandle<io::Result<Child>>>,
    go: PipeWriter,
}

impl Held {
    /// Tells the child to go or to give up. If it is gone already, nobody reads it, which is fine.
    fn tell(&self, byte: u8) {
        let _ = (&self.go).write_all(&[byte]);
    }

    fn join(&mut self) -> io::Result<Child> {
        let spawning = self.spawning.take();
        let spawning = spawning.ok_or_else(|| io::Error::other("the child was joined already"))?;
        let result = spawning.join();
        result.unwrap_or_else(|_| Err(io::Error::other("the thread that starts it panicked")))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.spawning.is_some() {
            self.tell(GIVE_UP);
            // Ended while it was held back, it looks to `spawn` like a child that was started.
            if let Ok(mut child) = self.join() {
                let _ = child.wait();
            }
        }
    }
}

/// A child that is held back before its exec. Dropped, it ends without running the command.
#[derive(Debug)]
pub struct Prepared {
    pid: Pid,
    program: OsString,
    held: Held,
}

impl Prepared {
    /// The pid that the command will have.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Lets the command start. Returns once it runs.
    ///
    /// # Errors
    /// When the program cannot be executed.
    pub fn start(mut self) -> Result<Running, CommandError> {
        self.held.tell(GO);
        match self.held.join() {
            Ok(child) => Ok(Running { child }),
            Err(source) => Err(CommandError::Exec {
                program: self.program,
                source,
            }),
        }
    }
}

/// A command that runs, or has run.
#[derive(Debug)]
pub struct Running {
    child: Child,
}

impl Running {
    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid(self.child.id())
    }

    /// How it ended; `None` while it runs.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Waits for its end, and says how it ended.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait()
    }

    /// Sends it a signal; if it has ended, nothing happens.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn signal(&mut self, signal: Signal) -> io::Result<()> {
        // Only a child that has not been waited for still owns its pid.
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        match self.pid().to_rustix() {
            Some(pid) => Ok(rustix::process::kill_process(pid, signal)?),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::process::ExitStatusExt};

    use super::{
        super::{start_time, wait::ExitWatch},
        *,
    };

    fn words(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    fn prepare(argv: &[&str]) -> Prepared {
        Command::prepare(&words(argv), ChildStdout::ToStderr).unwrap()
    }

    #[track_caller]
    fn check_refused(argv: &[&str], why: &str) {
        let error = prepare(argv).start().unwrap_err();
        assert_eq!(error.to_string(), format!("cannot start '{}'", argv[0]));
        assert_eq!(error.why(), why);
        assert!(!error.is_misuse() && !error.advice().is_empty());
    }

    #[test]
    fn a_command_runs_only_once_it_is_let_go() {
        let directory = tempfile::tempdir().unwrap();
        let trace = directory.path().join("ran");
        let script = format!("echo $$ > {}; exit 7", trace.display());
        let prepared = prepare(&["sh", "-c", &script]);
        let pid = prepared.pid();
        let ours = fs::read_link("/proc/self/exe").unwrap();
        let held = fs::read_link(format!("/proc/{pid}/exe")).unwrap();
        assert_eq!(held, ours, "no exec before start");
        let started = start_time(pid);
        assert!(started.is_some() && !trace.exists());
        let mut running = prepared.start().unwrap();
        assert_eq!(running.pid(), pid);
        assert_eq!(start_time(pid), started);
        assert_eq!(running.wait().unwrap().code(), Some(7));
        assert_eq!(running.try_wait().unwrap().unwrap().code(), Some(7));
        assert_eq!(
            fs::read_to_string(trace).unwrap().trim(),
            pid.to_string(),
            "the pid stays the same through exec"
        );
        running.signal(Signal::KILL).unwrap();
    }

    #[test]
    fn a_command_that_is_never_let_go_never_runs() {
        let directory = tempfile::tempdir().unwrap();
        let trace = directory.path().join("ran");
        let prepared = prepare(&["touch", trace.to_str().unwrap()]);
        let mut watch = ExitWatch::new(&[prepared.pid()]).unwrap();
        assert!(!watch.all_gone());
        drop(prepared);
        assert!(watch.all_gone());
        assert!(!trace.exists());
    }

    #[test]
    fn a_program_that_cannot_be_executed_is_refused_with_the_reason() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        let unknown = prepare(&["no-such-program-anywhere"]).start();
        let why = unknown.unwrap_err().why();
        assert!(why.starts_with("no directory in PATH holds"), "{why}");
        check_refused(&[&path("none"), "x"], "no such file");
        fs::write(path("plain"), "text").unwrap();
        check_refused(&[&path("plain")], "the file is not executable for us");
        check_refused(&[directory.path().to_str().unwrap()], "it is a directory");
        let script = path("script");
        fs::write(&script, "#!/no/such/interpreter\n").unwrap();
        let all = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&script, all).unwrap();
        check_refused(
            &[&script],
            "the interpreter or loader that the file names does not exist",
        );
    }

    #[test]
    fn no_words_are_misuse_and_a_nul_byte_makes_no_process() {
        let error = Command::prepare(&[], ChildStdout::Inherit).unwrap_err();
        assert!(error.is_misuse());
        let error = Command::prepare(&words(&["a\0b"]), ChildStdout::Inherit).unwrap_err();
        assert!(matches!(error, CommandError::Fork { .. }));
    }

    #[test]
    fn signals_reach_the_command_with_their_default_effect() {
        let mut running = prepare(&["sleep", "1000"]).start().unwrap();
        let status = fs::read_to_string(format!("/proc/{}/status", running.pid())).unwrap();
        let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:"));
        assert_eq!(blocked.unwrap().trim(), "0000000000000000");
        assert!(running.try_wait().unwrap().is_none());
        running.signal(Signal::INT).unwrap();
        assert_eq!(running.wait().unwrap().signal(), Some(libc::SIGINT));
    }

    #[test]
    fn a_child_that_is_killed_while_held_back_counts_as_run() {
        let prepared = prepare(&["sleep", "1000"]);
        let pid = prepared.pid().to_rustix().unwrap();
        rustix::process::kill_process(pid, Signal::KILL).unwrap();
        let mut running = prepared.start().unwrap();
        assert_eq!(running.wait().unwrap().signal(), Some(libc::SIGKILL));
    }

    /// The pipes and sockets that a process has open beyond its three standard streams.
    fn pipes(pid: Pid) -> Vec<std::path::PathBuf> {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        let mut links: Vec<_> = descriptors
            .flatten()
            .filter(|entry| !matches!(entry.file_name().to_str(), Some("0" | "1" | "2")))
            .filter_map(|entry| fs::read_link(entry.path()).ok())
            .filter(|link| !link.is_absolute())
            .collect();
        links.sort();
        links
    }

    #[test]
    fn the_command_inherits_no_descriptor_of_ours() {
        // What the test itself was started with goes to every child alike.
        let mut plain = std::process::Command::new("sleep");
        let mut plain = plain.arg("1000").spawn().unwrap();
        let mut running = prepare(&["sleep", "1000"]).start().unwrap();
        let (expected, found) = (pipes(Pid(plain.id())), pipes(running.pid()));
        plain.kill().unwrap();
        plain.wait().unwrap();
        running.signal(Signal::KILL).unwrap();
        running.wait().unwrap();
        assert_eq!(found, expected);
    }
}
