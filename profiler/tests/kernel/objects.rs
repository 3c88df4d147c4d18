//! Programs whose files are not where their names say: they are named all the same.

use std::{fs, process::Command};

use crate::{fixture, fixture::Fixture, folded::Stack, recording::record, turn};

#[track_caller]
fn check_named(fixture: &Fixture) {
    let recorded = record(499, 1.0, &["--pid", &fixture.pid_text()]);
    let folded = &recorded.folded;
    let known = |stack: &Stack| {
        stack.calls(&["main", "run", "alpha"])
            || stack.calls(&["main", "run", "beta", "gamma"])
            || stack.calls(&["main", "run", "delta"])
    };
    let share = folded.percent(known);
    assert!(share >= 97.0, "{share:.1} % are named:\n{}", folded.text());
    assert_eq!(recorded.receipt.unnamed, 0, "{}", folded.text());
    let path = recorded.pprof.main_path();
    assert!(path.ends_with("/copy-of-shares"), "{path}");
}

#[test]
fn a_deleted_program_is_named() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy-of-shares");
    fs::copy(fixture::path("shares"), &copy).unwrap();
    let fixture = Fixture::of_command(Command::new(&copy).arg("inf"));
    fs::remove_file(&copy).unwrap();
    check_named(&fixture);
}

#[test]
fn a_replaced_program_is_named_by_the_file_that_runs() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy-of-shares");
    fs::copy(fixture::path("shares"), &copy).unwrap();
    let fixture = Fixture::of_command(Command::new(&copy).arg("inf"));
    // As an upgrade does it: another file takes the name.
    let newer = folder.path().join("newer");
    fs::copy(fixture::path("threads"), &newer).unwrap();
    fs::rename(&newer, &copy).unwrap();
    check_named(&fixture);
}

#[test]
fn a_program_in_another_mount_namespace_is_named() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    // The file lies on a file system that only the program sees.
    let script = "mount -t tmpfs none \"$1\" && cp \"$2\" \"$1/copy-of-shares\" && exec \"$1/copy-of-shares\" inf";
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script, "sh"]);
    command.arg(folder.path()).arg(fixture::path("shares"));
    let fixture = Fixture::of_command(&mut command);
    assert!(!folder.path().join("copy-of-shares").exists());
    check_named(&fixture);
}
