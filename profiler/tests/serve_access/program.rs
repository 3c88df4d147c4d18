//! The program itself: what it refuses to start with, signals, and what it tells its supervisor.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener},
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{
    client::{PATIENCE, connect, get, wait_until},
    words::secret,
};

const BINARY: &str = env!("CARGO_BIN_EXE_ebpfprof");

/// The verb with these options, to its end: its exit code and what it says.
fn refused(options: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(BINARY).arg("serve").args(options).output();
    let output = output.unwrap();
    assert!(output.stdout.is_empty());
    (
        output.status.code(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

#[track_caller]
fn check_refused(options: &[&str], code: i32, expected: &str) {
    let (found, said) = refused(options);
    assert!(said.contains(expected), "{options:?}: {said}");
    assert_eq!(found, Some(code), "{said}");
    assert_eq!(said.lines().count(), 3, "what, why and what to try: {said}");
}

#[test]
fn an_address_that_others_reach_takes_encryption_and_names() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = secret(folder.path(), "tokens", "t0ken\n");
    let path = folder.path().join("e.toml");
    let (open, config) = ("0.0.0.0:0", path.to_str().unwrap());
    let whole = "error: 0.0.0.0:6060 is open to other hosts without encryption and without a password\n  why: whoever reaches it would see what every process on this host does\n  try: ebpfprof serve --listen 127.0.0.1:6060, or ebpfprof serve --config FILE with [tls] and [auth] as in contrib/ebpfprof.toml\n";
    check_refused(&["--listen", "0.0.0.0:6060"], 2, whole);
    check_refused(&["--listen", open, "--insecure"], 2, "without a password\n");
    fs::write(&path, format!("auth.token_file = {tokens:?}\n")).unwrap();
    check_refused(&["--listen", open, "-c", config], 2, "without encryption\n");
    check_refused(
        &["--listen", "127.0.0.1:0", "--listen", "[::]:0"],
        2,
        "error: [::]:0 is open to other hosts",
    );
}

#[test]
fn what_cannot_be_listened_on_is_told_with_the_reason() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    check_refused(&["--listen", &address], 1, "why: address already in use\n");
    check_refused(
        &["--listen", "192.0.2.1:80", "--insecure"],
        2,
        "open to other hosts",
    );
    check_refused(
        &["--listen", "unix:/no/such/folder/s"],
        1,
        "why: no such file or directory\n",
    );
    check_refused(&["--listen", "nowhere"], 2, "IP:PORT");
    let folder = tempfile::tempdir().unwrap();
    let file = secret(folder.path(), "precious", "x");
    let unix = format!("unix:{}", file.display());
    check_refused(
        &["--listen", &unix],
        1,
        "why: there is a file of that name that is no socket\n",
    );
}

#[test]
fn a_wrong_configuration_is_told_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("e.toml");
    let config = path.to_str().unwrap();
    check_refused(&["-c", config], 2, "why: no such file or directory\n");
    fs::write(&path, "hosts = []\nlimit.seconds = 3\n").unwrap();
    check_refused(
        &["-c", config],
        2,
        &format!("wrong: {config}:2\n  why: unknown field `limit`"),
    );
    let tokens = folder.path().join("tokens");
    fs::write(&tokens, "t\n").unwrap();
    fs::write(&path, format!("auth.token_file = {tokens:?}\n")).unwrap();
    check_refused(
        &["-c", config],
        2,
        &format!("try: chmod 0600 {}\n", tokens.display()),
    );
    fs::write(
        &path,
        format!(
            "tls = {{ certificate = {tokens:?}, key = {tokens:?} }}\nlisten = [\"127.0.0.1:0\"]\n"
        ),
    )
    .unwrap();
    check_refused(&["-c", config], 2, "holds no private key\n");
}

/// A server that runs.
struct Program {
    child: Child,
    address: SocketAddr,
    said: Arc<Mutex<Vec<String>>>,
    folder: TempDir,
}

impl Program {
    /// Starts it by a configuration; `change` gets the command.
    fn start(config: &str, change: impl FnOnce(&mut Command, &Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("e.toml");
        fs::write(&path, config).unwrap();
        let mut command = Command::new(BINARY);
        command.args(["serve", "--listen", "127.0.0.1:0", "--config"]);
        command.arg(&path).stderr(Stdio::piped());
        change(&mut command, folder.path());
        let mut child = command.spawn().unwrap();
        let said = Arc::new(Mutex::new(Vec::new()));
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let kept = Arc::clone(&said);
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                kept.lock().unwrap().push(line);
            }
        });
        let mut address = None;
        wait_until("it listens", || {
            let said = said.lock().unwrap();
            let at = said
                .iter()
                .find_map(|line| line.strip_prefix("note: listening on http://"));
            address = at.and_then(|at| at.parse().ok());
            address.is_some()
        });
        Self {
            child,
            address: address.unwrap(),
            said,
            folder,
        }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn write(&self, config: &str) {
        fs::write(self.folder.path().join("e.toml"), config).unwrap();
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn says(&self, words: &str) -> bool {
        let said = self.said.lock().unwrap();
        said.iter().any(|line| line.contains(words))
    }

    #[track_caller]
    fn wait_for(&self, words: &str) {
        wait_until(words, || self.says(words));
    }

    fn status(&self, headers: &str) -> u16 {
        get(self.address, "/metrics", headers).status
    }

    /// Waits for its end.
    #[track_caller]
    fn code(&mut self) -> Option<i32> {
        let mut code = None;
        wait_until("it ends", || {
            code = self.child.try_wait().unwrap();
            code.is_some()
        });
        code.and_then(|status| status.code())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_hangup_reads_the_configuration_again_unless_it_is_broken() {
    let program = Program::start("", |_, _| {});
    assert_eq!(program.status(""), 200);
    let tokens = secret(&program.file(""), "tokens", "t0ken\n");
    let guarded = format!("[auth]\ntoken_file = {tokens:?}\nanonymous_loopback = false\n");
    program.write(&guarded);
    program.signal(Signal::HUP);
    program.wait_for("the configuration was read again");
    assert_eq!(program.status(""), 401);
    assert_eq!(program.status("Authorization: Bearer t0ken\r\n"), 200);
    program.write("[auth]\nanonymous = true\n");
    program.signal(Signal::HUP);
    program.wait_for("the configuration stays as it was: ");
    assert!(program.says("e.toml:2"));
    assert_eq!(program.status(""), 401);
    program.write(&format!(
        "listen = [\"127.0.0.1:1\"]\nrecorder = \"5m\"\n{guarded}"
    ));
    program.signal(Signal::HUP);
    program.wait_for("recorder has changed: it holds after a restart");
    assert_eq!(program.status(""), 401);
}

#[test]
fn requests_are_told_on_stderr() {
    let program = Program::start("", |_, _| {});
    get(program.address, "/pid/7/debug/pprof/heap", "");
    program.wait_for("audit] time=2");
    assert!(program.says("target=pid/7 kind=heap status="));
}

#[test]
fn a_supervisor_is_told_of_each_part_of_its_life() {
    let socket = Mutex::new(None);
    let mut program = Program::start("", |command, folder| {
        let path = folder.join("notify");
        let bound = UnixDatagram::bind(&path).unwrap();
        bound.set_read_timeout(Some(PATIENCE)).unwrap();
        *socket.lock().unwrap() = Some(bound);
        command
            .env("NOTIFY_SOCKET", path)
            .env("WATCHDOG_USEC", "100000");
    });
    let socket = socket.into_inner().unwrap().unwrap();
    let wait = |words: &str| {
        let mut buffer = [0; 256];
        loop {
            let length = socket.recv(&mut buffer).unwrap();
            if String::from_utf8_lossy(&buffer[..length]).contains(words) {
                return;
            }
        }
    };
    wait("READY=1");
    wait("WATCHDOG=1");
    program.signal(Signal::HUP);
    wait("RELOADING=1\nMONOTONIC_USEC=");
    wait("READY=1");
    program.signal(Signal::TERM);
    wait("STOPPING=1");
    assert_eq!(program.code(), Some(0));
}

#[test]
fn systemd_may_open_the_socket() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // The shell that becomes the program has its pid.
    let script = format!("exec 3<&0 0</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec {BINARY} serve");
    let mut child = Command::new("sh")
        .args(["-c", &script])
        .stdin(std::os::fd::OwnedFd::from(listener))
        .stderr(fs::File::create(folder.path().join("said")).unwrap())
        .spawn()
        .unwrap();
    let answer = get(address, "/metrics", "");
    assert_eq!(answer.status, 200);
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let mut program = Program::start("[limits]\nshutdown_timeout = \"1h\"\n", |_, _| {});
    // Whoever asks for more than there is room for, and reads nothing, holds the end up.
    let mut stream = connect(program.address);
    rustix::net::sockopt::set_socket_recv_buffer_size(&stream, 4096).unwrap();
    let requests = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(6000);
    stream.write_all(requests.as_bytes()).unwrap();
    let answered = || program.said.lock().unwrap().len();
    let mut before = 0;
    wait_until("nothing is answered any more", || {
        thread::sleep(Duration::from_millis(500));
        let now = answered();
        now > 10 && std::mem::replace(&mut before, now) == now
    });
    assert!(answered() < 6000);
    program.signal(Signal::TERM);
    // Nothing tells that it waits; too short a time proves too little, and nothing wrong.
    thread::sleep(Duration::from_millis(500));
    assert!(program.child.try_wait().unwrap().is_none());
    program.signal(Signal::TERM);
    program.wait_for("a second signal: running requests are cut off");
    assert_eq!(program.code(), Some(0));
}
