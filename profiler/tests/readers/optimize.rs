//! Profile-guided optimization: Go's compiler takes our profiles for its own.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::Command,
};

use ebpfprof::export::proto;
use flate2::read::GzDecoder;
use prost::Message;

use crate::{
    program::{Finished, Running},
    reader::tool,
    subject::{self, Code, Subject},
};

/// Compiled by the Go that is to read its profile: older ones say no line where a function starts.
const NEWEST: Subject = Subject {
    name: "readers/go-hot-newest",
    code: Code::Fixed,
    ..subject::GO
};

/// The newest Go, with a cache that is there already.
fn go(arguments: &[&str]) -> Command {
    let mut go = Command::new(tool("goroot/bin/go"));
    go.args(arguments)
        .env("GOROOT", tool("goroot"))
        .env("GOCACHE", tool("go-cache"))
        .env("GOFLAGS", "")
        .env("GOPROXY", "off")
        .env("GOTOOLCHAIN", "local")
        .env("CGO_ENABLED", "0");
    go
}

#[track_caller]
fn run(command: &mut Command) -> Finished {
    let finished = Running::start(command).finish();
    assert_eq!(finished.code, Some(0), "{command:?}:\n{}", finished.stderr);
    finished
}

fn sources() -> PathBuf {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/go-hot");
    sources.canonicalize().unwrap()
}

/// The line that a function of the fixture starts at.
fn start_line(source: &str, function: &str) -> Option<usize> {
    let (package, name) = function.rsplit_once('.')?;
    let name = match package {
        "main" => format!("func {name}("),
        "main.(*worker)" => format!("func (w *worker) {name}("),
        _ => return None,
    };
    let mut lines = source.lines();
    Some(1 + lines.position(|line| line.starts_with(&name))?)
}

/// The profile with the start lines of the program's own functions, as the source has them.
fn with_start_lines(profile: &[u8]) -> Vec<u8> {
    let source = fs::read_to_string(sources().join("main.go")).unwrap();
    let mut raw = Vec::new();
    GzDecoder::new(profile).read_to_end(&mut raw).unwrap();
    let mut message = proto::Profile::decode(raw.as_slice()).unwrap();
    for function in &mut message.function {
        let name = &message.string_table[usize::try_from(function.name).unwrap()];
        let line = start_line(&source, name).unwrap_or_default();
        function.start_line = i64::try_from(line).unwrap();
    }
    message.encode_to_vec()
}

#[test]
fn go_optimizes_by_our_profile() {
    let recorded = NEWEST.record(&[]);
    let folder = recorded.folder.path();
    let [given, digest, program] =
        ["given.pb", "digest", "optimized"].map(|name| folder.join(name));
    let given = given.to_str().unwrap();
    let digest = digest.to_str().unwrap();
    let file = subject::file(&recorded);
    // FIXME: our profiles have no start lines, so Go refuses them. Once they have, they are `given`
    // as they are.
    let refused = [
        "tool",
        "preprofile",
        "-o",
        digest,
        "-i",
        file.to_str().unwrap(),
    ];
    let refused = Running::start(&mut go(&refused)).finish();
    assert!(
        refused.stderr.contains("missing Function.start_line data"),
        "{}",
        refused.stderr
    );
    fs::write(given, with_start_lines(&fs::read(&file).unwrap())).unwrap();
    let made = run(&mut go(&["tool", "preprofile", "-i", given, "-o", digest]));
    assert_eq!(made.stderr, "");
    let edges = fs::read_to_string(digest).unwrap();
    // Calls within the program by the line they stand in, the inlined ones too.
    for call in [
        "main.(*worker).step\nmain.stepAlpha\n",
        "main.stepAlpha\nmain.stir\n",
    ] {
        assert!(edges.contains(call), "{edges}");
    }
    let pgo = format!("-pgo={given}");
    let flags = "-gcflags=-d=pgodebug=1";
    let mut build = go(&["build", "-buildvcs=false", &pgo, flags, "-o"]);
    let built = run(build.arg(&program).arg(".").current_dir(sources()));
    assert!(program.is_file());
    // It says what it takes for hot, and complains of nothing.
    for words in ["hot-callsite-thres", "budget=2000 for func=main.stir"] {
        assert!(built.stderr.contains(words), "{}", built.stderr);
    }
    let is_complaint = |line: &&str| {
        ["error", "warning", "missing"]
            .iter()
            .any(|w| line.contains(w))
    };
    let complaints: Vec<&str> = built.stderr.lines().filter(is_complaint).collect();
    assert!(complaints.is_empty(), "{complaints:?}");
}
