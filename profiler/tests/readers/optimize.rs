//! Profile-guided optimization: Go's compiler takes our profiles for its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

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

#[test]
fn go_optimizes_by_our_profile() {
    let recorded = NEWEST.record(&[]);
    let folder = recorded.folder.path();
    let [digest, program] = ["digest", "optimized"].map(|name| folder.join(name));
    let digest = digest.to_str().unwrap();
    let file = subject::file(&recorded);
    let given = file.to_str().unwrap();
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
