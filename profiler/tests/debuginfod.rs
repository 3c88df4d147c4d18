//! Debug information from servers: what a good one gives, and that a bad one takes little and breaks
//! nothing. The servers are threads of the test that speak just enough HTTP.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_ebpfprof");

/// A call inlined into a function that runs until its time is over.
const SOURCE: &str = r#"
#include <time.h>
static inline __attribute__((always_inline)) unsigned deep(unsigned x) {
    for (int i = 0; i < 1000; i++)
        x = x * 1664525 + 1013904223;
    return x;
}
__attribute__((noinline)) unsigned outer(unsigned x) {
    __asm__ volatile("" : "+r"(x));
    return deep(x) + 1;
}
int main(void) {
    volatile unsigned sum = 0;
    for (time_t end = time(0) + 2; time(0) < end;)
        for (int i = 0; i < 1000; i++)
            sum = outer(sum);
    return 0;
}
"#;

/// What a server is asked: the path.
type Asked = Arc<Mutex<Vec<String>>>;

/// A server on this machine, for as long as the test runs.
struct Server {
    url: String,
    asked: Asked,
}

impl Server {
    /// Answers each request so.
    fn start(
        answer: impl Fn(&str, &mut TcpStream) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Asked::default();
        let (answer, noted) = (Arc::new(answer), Arc::clone(&asked));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (answer, noted) = (Arc::clone(&answer), Arc::clone(&noted));
                let mut stream = stream.unwrap();
                thread::spawn(move || {
                    // The other side may go when it has seen enough.
                    let path = request_path(&stream).unwrap_or_default();
                    noted.lock().unwrap().push(path.clone());
                    let _ = answer(&path, &mut stream);
                });
            }
        });
        Self { url, asked }
    }

    /// Has these bytes for every build id.
    fn of_file(bytes: Vec<u8>) -> Self {
        Self::start(move |_, stream| send(stream, "200 OK", "", &bytes))
    }

    fn count(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

fn request_path(stream: &TcpStream) -> Option<String> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    for line in lines {
        if line.ok()?.is_empty() {
            break;
        }
    }
    Some(first.split(' ').nth(1)?.to_owned())
}

fn send(stream: &mut TcpStream, status: &str, headers: &str, body: &[u8]) -> io::Result<()> {
    let bytes = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {bytes}\r\nConnection: close\r\n{headers}\r\n"
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)
}

/// A program without symbols, and what was stripped off it.
struct Stripped {
    folder: TempDir,
    program: PathBuf,
    debug: Vec<u8>,
    build_id: String,
    /// An address in the inlined call.
    address: String,
}

#[track_caller]
fn run(program: &str, arguments: &[&str], folder: &Path) -> String {
    let mut command = Command::new(program);
    let output = command
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// A program with debug information.
fn build(extra: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("hot.c"), SOURCE).unwrap();
    let flags = ["-g", "-O1", "-Wl,--build-id", "-o", "hot", "hot.c", extra];
    run("gcc", &flags, folder.path());
    folder
}

impl Stripped {
    fn new() -> Self {
        let folder = build("-DFIRST");
        let top = folder.path();
        let symbols = run("nm", &["hot"], top);
        let outer = symbols
            .lines()
            .find(|line| line.ends_with(" outer"))
            .unwrap();
        let outer = u64::from_str_radix(outer.split(' ').next().unwrap(), 16).unwrap();
        let notes = run("readelf", &["-n", "hot"], top);
        let build_id = notes.split("Build ID: ").nth(1).unwrap();
        let build_id = build_id.split_whitespace().next().unwrap().to_owned();
        run("objcopy", &["--only-keep-debug", "hot", "hot.debug"], top);
        run("strip", &["hot"], top);
        let debug = fs::read(top.join("hot.debug")).unwrap();
        fs::remove_file(top.join("hot.debug")).unwrap();
        Self {
            program: top.join("hot"),
            debug,
            build_id,
            // Behind the first instructions of the function: in the loop that was inlined.
            address: format!("{:#x}", outer + 0xb),
            folder,
        }
    }

    /// The entry of this program in the cache of its test.
    fn entry(&self) -> PathBuf {
        self.cache().join(&self.build_id).join("debuginfo")
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("home/.cache/debuginfod_client")
    }

    /// Our program, in a home of the test's own.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        let home = self.folder.path().join("home");
        fs::create_dir_all(&home).unwrap();
        for name in ["URLS", "CACHE_PATH", "TIMEOUT", "MAXTIME", "MAXSIZE"] {
            command.env_remove(format!("DEBUGINFOD_{name}"));
        }
        for name in [
            "http_proxy",
            "HTTP_PROXY",
            "all_proxy",
            "ALL_PROXY",
            "XDG_CACHE_HOME",
        ] {
            command.env_remove(name);
        }
        command.env("HOME", home).current_dir(self.folder.path());
        command.args(arguments);
        command
    }

    /// `ebpfprof symbols` of the address.
    fn symbols(&self, flag: &str) -> Command {
        let mut command = self.command(&["symbols", self.program.to_str().unwrap()]);
        command.args([&self.address, flag]);
        command
    }
}

/// What a command said.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
    took: Duration,
}

fn said(command: &mut Command) -> Said {
    let started = Instant::now();
    let output = command.stdin(Stdio::null()).output().unwrap();
    Said {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
        took: started.elapsed(),
    }
}

fn flag(server: &Server) -> String {
    format!("--debuginfod={}", server.url)
}

#[track_caller]
fn check_named(said: &Said) {
    assert_eq!(said.code, Some(0), "{said:?}");
    let has_all = [" deep at ", "hot.c:", "inlined into outer"];
    assert!(
        has_all.iter().all(|part| said.out.contains(part)),
        "{said:?}"
    );
}

/// A server that answers so is refused: no names, these words, an end, and nothing is kept.
#[track_caller]
fn check_refused(server: &Server, words: &str) {
    let stripped = Stripped::new();
    let mut command = stripped.symbols(&flag(server));
    let said = said(command.env("DEBUGINFOD_MAXSIZE", "1000000"));
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(said.out, format!("{} ?\n", stripped.address), "{said:?}");
    let note = format!("note: debuginfod: {} {words}", server.url);
    assert!(said.err.contains(&note), "{said:?}");
    assert!(
        said.err.contains("0 of 1 files found, 1 refused"),
        "{said:?}"
    );
    assert!(said.took < Duration::from_secs(20), "{said:?}");
    let kept = fs::read_dir(stripped.entry().parent().unwrap()).unwrap();
    assert_eq!(kept.count(), 0, "something was kept");
}

#[test]
fn a_stripped_program_gets_names_lines_and_inlined_calls_and_keeps_them() {
    let stripped = Stripped::new();
    let server = Server::of_file(stripped.debug.clone());
    let first = said(&mut stripped.symbols(&flag(&server)));
    check_named(&first);
    assert!(
        first.err.contains("note: debuginfod: 1 of 1 files found\n"),
        "{first:?}"
    );
    let path = format!("/buildid/{}/debuginfo", stripped.build_id);
    assert_eq!(*server.asked.lock().unwrap(), [path]);
    assert_eq!(fs::read(stripped.entry()).unwrap(), stripped.debug);
    let mode = fs::metadata(stripped.entry()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // Nobody is asked again.
    let second = said(&mut stripped.symbols(&flag(&server)));
    check_named(&second);
    assert!(
        second.err.contains("1 of 1 files found, 1 from the cache"),
        "{second:?}"
    );
    assert_eq!(server.count(), 1);
}

#[test]
fn what_the_cache_has_is_checked_too() {
    let stripped = Stripped::new();
    fs::create_dir_all(stripped.entry().parent().unwrap()).unwrap();
    fs::write(
        stripped.entry(),
        &stripped.debug[..stripped.debug.len() / 2],
    )
    .unwrap();
    let server = Server::of_file(stripped.debug.clone());
    check_named(&said(&mut stripped.symbols(&flag(&server))));
    assert_eq!(server.count(), 1);
    assert_eq!(fs::read(stripped.entry()).unwrap(), stripped.debug);
}

#[test]
fn what_no_server_has_is_not_asked_for_again() {
    let stripped = Stripped::new();
    let server = Server::start(|_, stream| send(stream, "404 Not Found", "", b"no"));
    for _ in 0..2 {
        let said = said(&mut stripped.symbols(&flag(&server)));
        assert_eq!(said.code, Some(0), "{said:?}");
        assert!(
            said.err.contains("0 of 1 files found, 1 not there"),
            "{said:?}"
        );
        assert_eq!(server.count(), 1);
    }
    let meta = fs::metadata(stripped.entry()).unwrap();
    assert_eq!((meta.len(), meta.permissions().mode() & 0o777), (0, 0));
}

#[test]
fn the_next_server_is_asked_when_one_has_trouble() {
    let stripped = Stripped::new();
    let first = Server::start(|_, stream| send(stream, "503 Busy", "", b"later"));
    let second = Server::of_file(stripped.debug.clone());
    let both = format!("{},{}", flag(&first), second.url);
    let said = said(&mut stripped.symbols(&both));
    check_named(&said);
    assert!(
        said.err.contains("answered with HTTP status 503"),
        "{said:?}"
    );
}

#[test]
fn a_redirect_is_followed_and_a_circle_is_not() {
    let stripped = Stripped::new();
    let debug = stripped.debug.clone();
    let server = Server::start(move |path, stream| match path {
        "/else/where" => send(stream, "200 OK", "", &debug),
        _ => send(stream, "302 Found", "Location: /else/where\r\n", b""),
    });
    check_named(&said(&mut stripped.symbols(&flag(&server))));
    let circle = Server::start(|path, stream| {
        send(stream, "302 Found", &format!("Location: {path}\r\n"), b"")
    });
    check_refused(&circle, "redirects too often");
    assert!(circle.count() < 10);
}

#[test]
fn answers_that_are_no_answers_are_refused() {
    check_refused(&Server::of_file(vec![b'x'; 10_000]), "sent something else");
    check_refused(&Server::of_file(Vec::new()), "sent something else");
    let page =
        Server::start(|_, stream| send(stream, "200 OK", "Content-Type: text/html\r\n", b"<p>"));
    check_refused(&page, "sent something else");
    let nonsense = Server::start(|_, stream| stream.write_all(b"SSH-2.0-OpenSSH\r\n\r\n"));
    check_refused(&nonsense, "");
    let closes = Server::start(|_, _| Ok(()));
    check_refused(&closes, "");
}

#[test]
fn another_programs_file_is_refused() {
    let other = build("-DSECOND=1");
    fs::write(other.path().join("hot.c"), SOURCE.replace("+ 1;", "+ 2;")).unwrap();
    run(
        "gcc",
        &["-g", "-O1", "-Wl,--build-id", "-o", "hot", "hot.c"],
        other.path(),
    );
    let bytes = fs::read(other.path().join("hot")).unwrap();
    check_refused(&Server::of_file(bytes), "sent something else");
}

#[test]
fn a_length_that_is_wrong_is_noticed() {
    let stripped = Stripped::new();
    // Both are the program's own: `build` is repeatable.
    let debug = stripped.debug.clone();
    let longer = Server::start(move |_, stream| {
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
            debug.len() + 100
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(&debug)
    });
    check_refused(&longer, "broke off");
    let debug = stripped.debug.clone();
    let shorter = Server::start(move |_, stream| {
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
            debug.len() / 2
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(&debug)
    });
    check_refused(&shorter, "sent something else");
}

#[test]
fn a_file_without_end_is_cut_off() {
    let endless = Server::start(|_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
        loop {
            stream.write_all(&[0; 4096])?;
        }
    });
    check_refused(&endless, "sent more than ");
    let boast = Server::start(|_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999\r\n\r\n")
    });
    check_refused(&boast, "sent more than ");
}

#[test]
fn a_packed_answer_is_not_unpacked() {
    let packed = Server::start(|_, stream| {
        send(
            stream,
            "200 OK",
            "Content-Encoding: gzip\r\n",
            &[0x1f, 0x8b, 8, 0],
        )
    });
    check_refused(&packed, "sent a compressed answer");
}

/// Takes a question and says nothing.
fn silent() -> Server {
    Server::start(|_, stream| stream.read_to_end(&mut Vec::new()).map(drop))
}

/// A server whose answer never ends, and hardly comes.
fn dripping() -> Server {
    Server::start(|_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
        loop {
            stream.write_all(&[0])?;
            thread::sleep(Duration::from_millis(50));
        }
    })
}

#[test]
fn a_silent_server_is_given_up() {
    let stripped = Stripped::new();
    let server = silent();
    let mut command = stripped.symbols(&flag(&server));
    let said = said(command.env("DEBUGINFOD_TIMEOUT", "1"));
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(
        said.err
            .contains(&format!("{} did not answer in 1 s", server.url)),
        "{said:?}"
    );
    assert!(said.took < Duration::from_secs(15), "{said:?}");
}

#[test]
fn the_run_does_not_wait_longer_than_it_may() {
    let stripped = Stripped::new();
    let drips = dripping();
    for server in [silent(), drips] {
        let mut command = stripped.symbols(&flag(&server));
        let said = said(command.env("DEBUGINFOD_MAXTIME", "1"));
        assert_eq!(said.code, Some(0), "{said:?}");
        let words = "0 of 1 files found, 1 given up; try: DEBUGINFOD_MAXTIME=5";
        assert!(said.err.contains(words), "{said:?}");
        assert!(said.took < Duration::from_secs(15), "{said:?}");
    }
}

#[test]
fn a_server_that_drips_is_given_up() {
    let stripped = Stripped::new();
    let drips = dripping();
    let mut command = stripped.symbols(&flag(&drips));
    let said = said(command.env("DEBUGINFOD_TIMEOUT", "1"));
    assert!(
        said.err.contains("sent less than 100 KiB in 1 s"),
        "{said:?}"
    );
}

#[test]
fn without_a_server_it_is_a_wrong_command_line() {
    let stripped = Stripped::new();
    for urls in ["", " ", "ima:enforcing"] {
        let mut command = stripped.symbols("--debuginfod");
        let said = said(command.env("DEBUGINFOD_URLS", urls));
        assert_eq!(said.code, Some(2), "{said:?}");
        assert!(
            said.err.starts_with("error: no debuginfod server to ask\n"),
            "{said:?}"
        );
    }
    let said = said(&mut stripped.symbols("--debuginfod=file:///srv"));
    assert_eq!(said.code, Some(2), "{said:?}");
}

#[test]
fn the_environment_names_servers_and_asks_none_of_them() {
    let stripped = Stripped::new();
    let server = Server::of_file(stripped.debug.clone());
    let urls = format!("ima:ignore {}/", server.url);
    let mut command = stripped.symbols("--no-inlines");
    let unasked = said(command.env("DEBUGINFOD_URLS", &urls));
    assert_eq!((unasked.code, unasked.err.as_str()), (Some(0), ""));
    assert_eq!(server.count(), 0);
    let mut command = stripped.symbols("--debuginfod");
    check_named(&said(command.env("DEBUGINFOD_URLS", &urls)));
    assert_eq!(server.count(), 1);
}

#[test]
fn a_cache_that_takes_nothing_is_no_trouble() {
    let stripped = Stripped::new();
    let server = Server::of_file(stripped.debug.clone());
    for cache in ["/proc/none", "/dev/null"] {
        let mut command = stripped.symbols(&flag(&server));
        check_named(&said(command.env("DEBUGINFOD_CACHE_PATH", cache)));
    }
    let mut command = stripped.symbols(&flag(&server));
    check_named(&said(command.env_remove("HOME")));
    assert!(!stripped.cache().exists());
}

#[test]
fn a_full_disk_is_told_and_no_more() {
    let stripped = Stripped::new();
    let server = Server::of_file(stripped.debug.clone());
    let script = "mount -t tmpfs -o size=4k none \"$HOME\" && exec \"$0\" \"$@\"";
    let inner = stripped.symbols(&flag(&server));
    let mut command = Command::new("unshare");
    command
        .args(["-m", "sh", "-c", script, BINARY])
        .args(inner.get_args());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let said = said(&mut command);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(
        said.err
            .contains("note: debuginfod: a file could not be kept: "),
        "{said:?}"
    );
}

/// Records the program, which runs for two seconds.
fn record(stripped: &Stripped, flags: &[&str]) -> Command {
    let mut command = stripped.command(&["-F", "499", "-o", "-", "--format", "folded"]);
    command.args(flags).arg("--").arg(&stripped.program);
    command
}

#[test]
fn a_recording_fetches_while_it_runs() {
    let stripped = Stripped::new();
    let (debug, path) = (
        stripped.debug.clone(),
        format!("/buildid/{}/debuginfo", stripped.build_id),
    );
    let answered = Arc::new(Mutex::new(None));
    let noted = Arc::clone(&answered);
    let server = Server::start(move |asked, stream| {
        if asked != path {
            return send(stream, "404 Not Found", "", b"");
        }
        noted.lock().unwrap().get_or_insert_with(Instant::now);
        send(stream, "200 OK", "", &debug)
    });
    let said = said(&mut record(&stripped, &[&flag(&server)]));
    let ended = Instant::now();
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.out.contains(";main;outer;deep_[i] "), "{said:?}");
    let answered = answered.lock().unwrap().unwrap();
    assert!(
        ended - answered > Duration::from_secs(1),
        "it was asked at the end: {said:?}"
    );
}

#[test]
fn a_recording_with_a_silent_server_is_written() {
    let stripped = Stripped::new();
    let server = silent();
    let mut command = record(&stripped, &[&flag(&server)]);
    let said = said(command.env("DEBUGINFOD_MAXTIME", "1"));
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.out.contains("[hot]"), "{said:?}");
    assert!(said.err.contains(" given up; try: "), "{said:?}");
    assert!(said.err.contains(" + lost 0 "), "{said:?}");
}

#[test]
fn a_recording_that_may_ask_nobody_says_whom_it_could() {
    let stripped = Stripped::new();
    let server = Server::of_file(stripped.debug.clone());
    let mut command = record(&stripped, &[]);
    let said = said(command.env("DEBUGINFOD_URLS", &server.url));
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(
        said.err
            .contains("debuginfod may have it; try: ebpfprof --debuginfod"),
        "{said:?}"
    );
    assert_eq!(server.count(), 0);
}

#[test]
fn an_interrupt_ends_the_fetching_and_writes() {
    let stripped = Stripped::new();
    let server = silent();
    let mut command = record(&stripped, &["-s", "0.5", &flag(&server)]);
    let started = Instant::now();
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The recording is over, and the answer is not there.
    while server.count() == 0 || started.elapsed() < Duration::from_secs(4) {
        assert!(
            started.elapsed() < Duration::from_secs(40),
            "it was not asked"
        );
        thread::sleep(Duration::from_millis(20));
    }
    run("kill", &["-INT", &child.id().to_string()], Path::new("/"));
    let output = child.wait_with_output().unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(out.contains("[hot]"), "{out}{err}");
    assert!(err.contains(" given up; try: "), "{err}");
    assert!(
        started.elapsed() < Duration::from_secs(40),
        "it waited on: {err}"
    );
}
