//! The programs that are stopped: fixtures, and servers that the host may have.

use std::{
    env, fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::{fs::chown, net::UnixStream, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::fixture_path::fixture_path;

/// The longest a program may take to be ready.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where a fixture without frame pointers is.
#[track_caller]
pub(crate) fn fixture(name: &str) -> PathBuf {
    fixture_path(&format!("bare/{name}"))
}

/// A program that runs, until this is dropped.
pub(crate) struct Program {
    child: Child,
    /// Where it keeps its files.
    folder: Option<TempDir>,
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Program {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Starts a command and waits until it prints this.
    #[track_caller]
    fn start(command: &mut Command, folder: Option<TempDir>, ready: &str) -> Self {
        let mut child = command
            .env("LD_BIND_NOW", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let mut stdout = BufReader::new(child.stdout.take().expect("the output is a pipe"));
        let mut said = Vec::new();
        while !said.ends_with(ready.as_bytes()) {
            let mut byte = [0];
            let read = stdout.read(&mut byte).unwrap();
            let text = String::from_utf8_lossy(&said).into_owned();
            assert_eq!(read, 1, "{command:?} ended before it was ready: {text}");
            said.push(byte[0]);
        }
        // Nobody reads on, and the program is to write on.
        thread::spawn(move || stdout.lines().map_while(Result::ok).for_each(drop));
        Self { child, folder }
    }

    /// A fixture that never ends.
    #[track_caller]
    pub(crate) fn fixture(name: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(fixture(name));
        Self::start(command.args(arguments), None, "ready\n")
    }

    /// The fixture that makes code while it runs, once the code is there.
    #[track_caller]
    pub(crate) fn with_generated_code() -> Self {
        let mut command = Command::new(fixture("../jit_like"));
        Self::start(command.arg("inf"), None, "\ncode ")
    }

    /// CPython in a deep recursion, with its C libraries at the bottom.
    #[track_caller]
    pub(crate) fn python() -> Self {
        let script = "
import json, re, zlib
print('ready', flush=True)
def deep(levels):
    if levels:
        return deep(levels - 1)
    text = json.dumps([{'key': list(range(50))}] * 20)
    json.loads(text)
    re.sub('(a|b)+c?', lambda match: 'x', 'abcabd' * 200)
    zlib.compress(text.encode() * 20, 9)
    sorted(range(2000), key=lambda number: -number)
while True:
    deep(40)
";
        let mut command = Command::new("python3");
        Self::start(command.args(["-c", script]), None, "ready\n")
    }

    /// nginx in one process, with a socket file of its own.
    #[track_caller]
    pub(crate) fn nginx(program: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().display();
        let settings = format!(
            "daemon off; master_process off; pid {at}/pid; error_log {at}/log;
             events {{}}
             http {{
                 access_log off;
                 server {{ listen unix:{at}/socket; location / {{ return 200 hello; }} }}
             }}"
        );
        fs::write(folder.path().join("nginx.conf"), settings).unwrap();
        let child = Command::new(program)
            .arg("-p")
            .arg(folder.path())
            .args(["-c", "nginx.conf"])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let nginx = Self {
            child,
            folder: Some(folder),
        };
        let deadline = Instant::now() + PATIENCE;
        while !nginx.request() {
            assert!(Instant::now() < deadline, "nginx does not listen");
            thread::sleep(Duration::from_millis(5));
        }
        nginx
    }

    /// Sends nginx a request; says whether it listens.
    fn request(&self) -> bool {
        let folder = self.folder.as_ref().expect("nginx has a folder");
        let socket = UnixStream::connect(folder.path().join("socket"));
        socket.is_ok_and(|mut socket| socket.write_all(b"GET / HTTP/1.0\r\n\r\n").is_ok())
    }

    /// Does something while nginx is sent requests.
    pub(crate) fn with_requests<T>(&self, action: impl FnOnce() -> T) -> T {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    self.request();
                    thread::sleep(Duration::from_millis(20));
                }
            });
            let result = action();
            done.store(true, Ordering::Relaxed);
            result
        })
    }

    /// A PostgreSQL backend at work on a long query.
    #[track_caller]
    pub(crate) fn postgres(folder_of_programs: &Path) -> Self {
        /// The user `nobody`: PostgreSQL refuses to run as root.
        const NOBODY: u32 = 65534;
        let folder = tempfile::tempdir().unwrap();
        chown(folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        let data = folder.path().join("data");
        let command = |name: &str| {
            let mut command = Command::new(folder_of_programs.join(name));
            command.uid(NOBODY).gid(NOBODY).current_dir("/");
            command
        };
        let made = command("initdb")
            .args(["--no-sync", "--auth=trust", "--locale=C", "-D"])
            .arg(&data)
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        // Without compiled queries: gdb does not see through code that is made at run time.
        let mut backend = command("postgres");
        backend.args(["--single", "-c", "jit=off", "-D"]).arg(&data);
        let mut postgres = Self::start(backend.arg("postgres"), Some(folder), "backend> ");
        let query = "select sum(hashint4(i)::bigint), count(distinct j % 7) \
                     from generate_series(1, 1000) i, generate_series(1, 200000) j \
                     where (i + j) % 3 = 1;\n";
        let stdin = postgres.child.stdin.as_mut().expect("the input is a pipe");
        stdin.write_all(query.as_bytes()).unwrap();
        postgres
    }
}

/// Where a program is, on the path or in one of these folders.
pub(crate) fn find(name: &str, folders: &[&str]) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut places = env::split_paths(&path).chain(folders.iter().map(PathBuf::from));
    places.find_map(|folder| {
        let program = folder.join(name);
        program.is_file().then_some(program)
    })
}
