//! `cargo xtask fixtures`: compiles the programs in `fixtures/` into `target/fixtures/`.
//!
//! One program is a `.c` file, a `.rs` file, or a folder `go-…`. It is compiled again when its source
//! or the command that compiles it has changed.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::SystemTime,
};

use anyhow::{Context, Result, bail};

use crate::{
    process::{run, words},
    workspace::Workspace,
};

/// Optimized, with frame pointers, and with every call a frame of its own.
const C_FLAGS: [&str; 6] = [
    "-O2",
    "-g",
    "-fno-omit-frame-pointer",
    "-fno-optimize-sibling-calls",
    "-fno-inline-functions-called-once",
    "-pthread",
];

const RUST_FLAGS: [&str; 6] = [
    "--edition=2024",
    "-O",
    "-g",
    "-C",
    "force-frame-pointers=yes",
    "-o",
];

/// Compiles what is not up to date.
pub(crate) fn build(workspace: &Workspace) -> Result<()> {
    let source = workspace.root().join("fixtures");
    let target = workspace.target("fixtures")?;
    let mut sources: Vec<PathBuf> = entries(&source)?;
    sources.sort();
    let (mut programs, mut compiled) = (0, 0);
    for path in sources {
        let Some((mut command, program)) = compilation(&path, &target) else {
            continue;
        };
        programs += 1;
        let record = program.with_extension("command");
        if up_to_date(&path, &program, &record, &words(&command))? {
            continue;
        }
        println!("compiling {}", workspace.relative(&path).display());
        run(&mut command)?;
        fs::write(&record, words(&command))
            .with_context(|| format!("cannot write {}", record.display()))?;
        compiled += 1;
    }
    if programs == 0 {
        bail!("{} holds no program", source.display());
    }
    println!("{programs} fixtures, {compiled} compiled just now");
    Ok(())
}

/// How to compile one entry of the folder, and the program it gives; `None` for other files.
fn compilation(path: &Path, target: &Path) -> Option<(Command, PathBuf)> {
    let name = path.file_stem()?;
    let program = target.join(name);
    let mut command = match path.extension().and_then(|extension| extension.to_str()) {
        Some("c") => {
            let mut cc = Command::new("cc");
            cc.args(C_FLAGS)
                .arg("-o")
                .arg(&program)
                .arg(path)
                .arg("-lm");
            cc
        }
        Some("rs") => {
            let mut rustc = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
            rustc.args(RUST_FLAGS).arg(&program).arg(path);
            rustc
        }
        None if path.is_dir() && name.to_str()?.starts_with("go-") => {
            let mut go = Command::new("go");
            // The folder may be another user's, and the network may be absent.
            go.args(["build", "-buildvcs=false", "-o"])
                .arg(&program)
                .arg(".")
                .current_dir(path)
                .env("GOFLAGS", "")
                .env("GOPROXY", "off")
                .env("GOTOOLCHAIN", "local")
                .env("CGO_ENABLED", "0");
            go
        }
        _ => return None,
    };
    // Cargo's own settings are for the product.
    command.env_remove("CARGO_ENCODED_RUSTFLAGS");
    Some((command, program))
}

/// Whether the program is newer than its source and was made by this command.
fn up_to_date(source: &Path, program: &Path, record: &Path, command: &str) -> Result<bool> {
    let Ok(made) = fs::metadata(program).and_then(|metadata| metadata.modified()) else {
        return Ok(false);
    };
    let same_command = fs::read_to_string(record).is_ok_and(|old| old == command);
    Ok(same_command && newest(source)? < made)
}

/// When a file, or any file in a folder, was last changed.
fn newest(path: &Path) -> Result<SystemTime> {
    let metadata = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut newest = metadata.modified()?;
    if metadata.is_dir() {
        for entry in entries(path)? {
            newest = newest.max(self::newest(&entry)?);
        }
    }
    Ok(newest)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = || -> std::io::Result<Vec<PathBuf>> {
        fs::read_dir(folder)?
            .map(|entry| Ok(entry?.path()))
            .collect()
    };
    read().with_context(|| format!("cannot read {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_compiler(file: &str, compiler: Option<&str>) {
        let command = compilation(Path::new(file), Path::new("out"));
        let program = command
            .as_ref()
            .map(|(command, _)| command.get_program().to_string_lossy().into_owned());
        match compiler {
            Some("rustc") => assert!(program.is_some_and(|program| program.contains("rustc"))),
            compiler => assert_eq!(program.as_deref(), compiler),
        }
    }

    #[test]
    fn the_extension_names_the_compiler() {
        check_compiler("fixtures/nested.c", Some("cc"));
        check_compiler("fixtures/nested.rs", Some("rustc"));
        check_compiler("fixtures/README.md", None);
        check_compiler("fixtures/absent-folder", None);
    }

    #[test]
    fn a_program_is_stale_when_its_command_or_source_changes() {
        let folder = tempfile::tempdir().unwrap();
        let [source, program, record] =
            ["a.c", "a", "a.command"].map(|name| folder.path().join(name));
        let check = |expected: bool, command: &str| {
            let fresh = up_to_date(&source, &program, &record, command).unwrap();
            assert_eq!(fresh, expected, "{command}");
        };
        let set_age = |path: &Path, seconds: u64| {
            let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            fs::File::options()
                .write(true)
                .open(path)
                .and_then(|file| file.set_modified(time))
                .unwrap();
        };
        fs::write(&source, "").unwrap();
        check(false, "cc a");
        fs::write(&program, "").unwrap();
        fs::write(&record, "cc a").unwrap();
        set_age(&source, 1000);
        set_age(&program, 2000);
        check(true, "cc a");
        check(false, "cc -O2 a");
        set_age(&source, 3000);
        check(false, "cc a");
    }
}
