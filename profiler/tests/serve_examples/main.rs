//! The scripts in `examples/`, in a short form: they find what is slow, mend it, see that it is gone,
//! and leave nothing behind.
//!
//! They need root, and what the scripts need: go, curl, wrk, and PostgreSQL.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Mutex, PoisonError},
};

/// A script is done in less than 40 seconds; on a busy host, or with a Go that compiles its
/// libraries first, in less than this.
const DEADLINE_SECONDS: &str = "240";

/// One at a time: each puts as much load on the host as it can.
static TURN: Mutex<()> = Mutex::new(());

/// Runs a script in a folder for temporary files.
fn run(script: &str, options: &[&str], folder: &Path) -> Output {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    Command::new("timeout")
        .arg(DEADLINE_SECONDS)
        .arg(examples.join(script))
        .args(options)
        .env("EBPFPROF", env!("CARGO_BIN_EXE_ebpfprof"))
        .env("TMPDIR", folder)
        .output()
        .unwrap()
}

/// Processes that were started with this folder for temporary files.
fn left_over(folder: &Path) -> Vec<PathBuf> {
    let mark = format!("TMPDIR={}", folder.display());
    let has_mark = |process: &PathBuf| {
        // What is no process, or has ended since, has no environment.
        let environment = fs::read(process.join("environ")).unwrap_or_default();
        let mut variables = environment.split(|byte| *byte == 0);
        variables.any(|variable| variable == mark.as_bytes())
    };
    let entries = fs::read_dir("/proc").unwrap();
    let processes = entries.map(|entry| entry.unwrap().path());
    processes.filter(has_mark).collect()
}

#[track_caller]
fn check(script: &str, expected: &[&str]) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    // PostgreSQL is another user.
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let output = run(script, &["--seconds", "2"], folder.path());
    let said = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{}\n{said}\n{complaints}",
        output.status
    );
    for words in expected {
        assert!(said.contains(words), "no {words}\n{said}");
    }
    let processes = left_over(folder.path());
    assert!(processes.is_empty(), "still running: {processes:?}");
    let files: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
    assert!(files.is_empty(), "still there: {files:?}");
}

#[test]
fn a_slow_web_service_in_go_is_found_and_mended() {
    let expected = [
        // The line of the handler, with its source.
        "regexp.MustCompile(`",
        "reports per second",
        "== regexp.compile: ",
        "== runtime.concatstrings: ",
        "\n== gone\n",
    ];
    check("tune-go.sh", &expected);
}

#[test]
fn a_query_without_an_index_is_found_in_postgres_and_mended() {
    let expected = ["CREATE INDEX", "== heap_getnextslot: ", "\n== gone\n"];
    check("tune-postgres.sh", &expected);
}

#[test]
fn a_wrong_option_is_misuse() {
    let folder = tempfile::tempdir().unwrap();
    for script in ["tune-go.sh", "tune-postgres.sh"] {
        for options in [&["--seconds", "0"][..], &["--seconds"], &["--fast"]] {
            let output = run(script, options, folder.path());
            assert_eq!(output.status.code(), Some(2), "{script} {options:?}");
            assert!(output.stdout.is_empty());
        }
    }
}
