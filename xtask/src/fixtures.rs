//! `cargo xtask fixtures`: compiles the programs in `fixtures/` into `target/fixtures/`.
//!
//! One program is a `.c` file, a `.rs` file, or a folder `go-…`, compiled with frame pointers. The
//! programs of [`BARE`] have none: they are made from the same sources and those in
//! `fixtures/bare/`, one source in several ways, into `target/fixtures/bare/`. A program is compiled
//! again when its source, a header or the command that compiles it has changed. Those that readers
//! of profiles are shown are in [`readers`].

mod readers;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::SystemTime,
};

use anyhow::{Context, Result, bail};

use crate::{
    process::{run, words},
    tools,
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

/// Optimized, without frame pointers, and with every call a frame of its own.
const BARE_C_FLAGS: [&str; 7] = [
    "-O2",
    "-g",
    "-DBARE",
    "-fomit-frame-pointer",
    "-fno-optimize-sibling-calls",
    "-fno-inline-functions-called-once",
    "-pthread",
];

const BARE_RUST_FLAGS: [&str; 5] = [
    "--edition=2024",
    "-O",
    "-g",
    "-C",
    "force-frame-pointers=no",
];

/// A program without frame pointers, or a library for one.
struct Bare {
    /// Its name in `target/fixtures/bare/`.
    program: &'static str,
    /// Below `fixtures/`.
    source: &'static str,
    compiler: Compiler,
    /// What this program is compiled with, apart from what all are.
    flags: &'static [&'static str],
    headers: SectionHeaders,
}

#[derive(Clone, Copy)]
enum Compiler {
    C,
    Cpp,
    MuslC,
    Rust,
}

/// What becomes of a program's section headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SectionHeaders {
    Kept,
    /// As some packers and size tools do: the program headers alone say what is where.
    Dropped,
}

impl Bare {
    const fn new(
        program: &'static str,
        source: &'static str,
        compiler: Compiler,
        flags: &'static [&'static str],
    ) -> Self {
        Self {
            program,
            source,
            compiler,
            flags,
            headers: SectionHeaders::Kept,
        }
    }

    const fn c(
        program: &'static str,
        source: &'static str,
        flags: &'static [&'static str],
    ) -> Self {
        Self::new(program, source, Compiler::C, flags)
    }

    const fn without_section_headers(mut self) -> Self {
        self.headers = SectionHeaders::Dropped;
        self
    }
}

/// Finds a library beside the program that needs it, and its functions when they are first called.
const LAZY_LIBRARY: &[&str] = &["-ltiny", "-Wl,-rpath,$ORIGIN", "-Wl,-z,lazy"];

/// The programs without frame pointers. A library comes before the program that needs it.
const BARE: &[Bare] = &[
    Bare::c("shares", "shares.c", &[]),
    Bare::c("shares-no-pie", "shares.c", &["-fno-pie", "-no-pie"]),
    Bare::c("shares-static", "shares.c", &["-static"]),
    Bare::c("shares-static-pie", "shares.c", &["-static-pie"]),
    Bare::c("shares-stripped", "shares.c", &["-s"]),
    Bare::c("shares-headerless", "shares.c", &["-s"]).without_section_headers(),
    Bare::c(
        "shares-debug-frame",
        "shares.c",
        &["-fno-asynchronous-unwind-tables", "-fno-unwind-tables"],
    ),
    Bare::new("shares-musl", "shares.c", Compiler::MuslC, &[]),
    Bare::new(
        "shares-musl-static",
        "shares.c",
        Compiler::MuslC,
        &["-static"],
    ),
    Bare::new(
        "shares-musl-stripped",
        "shares.c",
        Compiler::MuslC,
        &["-static", "-s"],
    ),
    Bare::c("deep", "deep.c", &[]),
    Bare::c("threads", "threads.c", &[]),
    Bare::c("threads-static", "threads.c", &["-static"]),
    Bare::new("threads-musl", "threads.c", Compiler::MuslC, &[]),
    Bare::c("syscalls", "syscalls.c", &[]),
    Bare::c("syscalls-static", "syscalls.c", &["-static"]),
    Bare::c("forker", "forker.c", &[]),
    Bare::c("alloca", "bare/alloca.c", &[]),
    Bare::c("realign", "bare/realign.c", &[]),
    Bare::c("signals", "bare/signals.c", &[]),
    Bare::c("vdso", "bare/vdso.c", &[]),
    Bare::c(
        "libtiny.so",
        "bare/plt.c",
        &["-DLIBRARY", "-shared", "-fPIC"],
    ),
    Bare::c("plt", "bare/plt.c", LAZY_LIBRARY),
    Bare::c(
        "libone.so",
        "bare/plugins.c",
        &["-DONE", "-shared", "-fPIC"],
    ),
    Bare::c(
        "libtwo.so",
        "bare/plugins.c",
        &["-DTWO", "-shared", "-fPIC"],
    ),
    Bare::c("plugins", "bare/plugins.c", &["-ldl"]),
    Bare::c("chaos", "bare/chaos.c", &["-ldl"]),
    Bare::c("storm", "bare/storm.c", &[]),
    Bare::c("spawn", "bare/spawn.c", &[]),
    // At fixed addresses, so that the code of one lies where the other's was.
    Bare::c("ping", "bare/exec_pair.c", &["-fno-pie", "-no-pie"]),
    Bare::c(
        "pong",
        "bare/exec_pair.c",
        &["-DPONG", "-fno-pie", "-no-pie"],
    ),
    Bare::c("jumps", "bare/jumps.c", &[]),
    Bare::c("assembly", "bare/assembly.c", &[]),
    Bare::new("throws", "bare/throws.cpp", Compiler::Cpp, &[]),
    Bare::new("tree", "tree.rs", Compiler::Rust, &["-C", "panic=abort"]),
    Bare::new(
        "panics",
        "bare/panics.rs",
        Compiler::Rust,
        &["-C", "panic=unwind"],
    ),
];

/// The Go program that is made in several ways: its folder, and how each further one is called and
/// linked.
const GO_WORDS: &str = "go-words";
const GO_WAYS: [(&str, &[&str]); 3] = [
    ("go-words.stripped", &["-ldflags=-s -w"]),
    ("go-words.pie", &["-buildmode=pie"]),
    (
        "go-words.pie.stripped",
        &["-buildmode=pie", "-ldflags=-s -w"],
    ),
];

/// How one program is made.
struct Build {
    source: PathBuf,
    program: PathBuf,
    command: Command,
    headers: SectionHeaders,
}

/// Compiles what is not up to date.
pub(crate) fn build(workspace: &Workspace) -> Result<()> {
    tools::ensure(workspace)?;
    let source = workspace.root().join("fixtures");
    let target = workspace.target("fixtures")?;
    let bare_target = workspace.target("fixtures/bare")?;
    let mut sources: Vec<PathBuf> = entries(&source)?;
    sources.sort();
    let header = newest_header(&sources)?;
    let mut builds: Vec<Build> = sources
        .iter()
        .filter_map(|path| compilation(path, &target))
        .collect();
    if builds.is_empty() {
        bail!("{} holds no program", source.display());
    }
    builds.extend(
        BARE.iter()
            .map(|bare| bare_compilation(bare, &source, &bare_target)),
    );
    builds.extend(readers::builds(workspace)?);
    let words = source.join(GO_WORDS);
    let ways = GO_WAYS.iter();
    builds.extend(ways.map(|(name, flags)| go_compilation(&words, target.join(name), flags)));
    let mut compiled = 0;
    for build in &mut builds {
        compiled += u32::from(build.run_if_stale(workspace, header)?);
    }
    println!("{} fixtures, {compiled} compiled just now", builds.len());
    Ok(())
}

impl Build {
    /// Makes the program unless it is up to date; whether it was made.
    fn run_if_stale(&mut self, workspace: &Workspace, header: SystemTime) -> Result<bool> {
        // A library has an extension of its own, and a program of the same name may stand beside it.
        let mut record = self.program.clone().into_os_string();
        record.push(".command");
        let record = PathBuf::from(record);
        let mut command = words(&self.command);
        if self.headers == SectionHeaders::Dropped {
            command.push_str("; drop the section headers");
        }
        let changed = newest(&self.source)?.max(header);
        if up_to_date(changed, &self.program, &record, &command) {
            return Ok(false);
        }
        let source = workspace.relative(&self.source);
        println!("compiling {} of {}", name(&self.program), source.display());
        run(&mut self.command)?;
        if self.headers == SectionHeaders::Dropped {
            drop_section_headers(&self.program)?;
        }
        fs::write(&record, command)
            .with_context(|| format!("cannot write {}", record.display()))?;
        Ok(true)
    }
}

/// The last part of a path, for a message.
fn name(path: &Path) -> std::borrow::Cow<'_, str> {
    path.file_name().unwrap_or_default().to_string_lossy()
}

/// How to compile one entry of the folder; `None` for other files.
fn compilation(path: &Path, target: &Path) -> Option<Build> {
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
            let mut rustc = rustc();
            rustc.args(RUST_FLAGS).arg(&program).arg(path);
            rustc
        }
        None if path.is_dir() && name.to_str()?.starts_with("go-") => {
            return Some(go_compilation(path, program, &[]));
        }
        _ => return None,
    };
    // Cargo's own settings are for the product.
    command.env_remove("CARGO_ENCODED_RUSTFLAGS");
    Some(Build {
        source: path.to_owned(),
        program,
        command,
        headers: SectionHeaders::Kept,
    })
}

/// How to compile a folder of Go.
fn go_build(mut go: Command, flags: &[&str], folder: &Path, program: &Path) -> Command {
    // The folder may be another user's, and the network may be absent.
    go.args(["build", "-buildvcs=false"])
        .args(flags)
        .arg("-o")
        .arg(program)
        .arg(".")
        .current_dir(folder)
        .env("GOFLAGS", "")
        .env("GOPROXY", "off")
        .env("GOTOOLCHAIN", "local")
        .env("CGO_ENABLED", "0");
    go
}

/// How to compile a program in Go by the toolchain on PATH.
fn go_compilation(folder: &Path, program: PathBuf, flags: &[&str]) -> Build {
    Build {
        source: folder.to_owned(),
        command: go_build(Command::new("go"), flags, folder, &program),
        program,
        headers: SectionHeaders::Kept,
    }
}

/// How to compile one program without frame pointers.
fn bare_compilation(bare: &Bare, sources: &Path, target: &Path) -> Build {
    let source = sources.join(bare.source);
    let program = target.join(bare.program);
    let mut command = match bare.compiler {
        Compiler::C => Command::new("cc"),
        Compiler::Cpp => Command::new("c++"),
        Compiler::MuslC => Command::new("musl-gcc"),
        Compiler::Rust => rustc(),
    };
    match bare.compiler {
        Compiler::Rust => command.args(BARE_RUST_FLAGS),
        _ => command.args(BARE_C_FLAGS).arg("-L").arg(target),
    };
    command
        .arg("-o")
        .arg(&program)
        .arg(&source)
        .args(bare.flags);
    command.env_remove("CARGO_ENCODED_RUSTFLAGS");
    Build {
        source,
        program,
        command,
        headers: bare.headers,
    }
}

fn rustc() -> Command {
    Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
}

/// Rewrites a program so that it has no section headers.
fn drop_section_headers(program: &Path) -> Result<()> {
    let mut bytes =
        fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    let end = section_headers(&bytes)
        .with_context(|| format!("{} is no 64-bit ELF file", program.display()))?;
    bytes.truncate(end);
    forget_section_headers(&mut bytes);
    fs::write(program, bytes).with_context(|| format!("cannot write {}", program.display()))
}

/// Where the section headers begin, which the linker puts at the file's end.
/// Source: `Elf64_Ehdr`, with `e_shoff` at 40.
fn section_headers(elf: &[u8]) -> Option<usize> {
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let bytes = elf.get(40..48)?.try_into().ok()?;
    let start = usize::try_from(u64::from_le_bytes(bytes)).ok()?;
    (64..elf.len()).contains(&start).then_some(start)
}

/// Clears what the file header says of section headers: `e_shoff`, and `e_shentsize`, `e_shnum`,
/// `e_shstrndx` from 58 on.
fn forget_section_headers(elf: &mut [u8]) {
    for range in [40..48, 58..64] {
        if let Some(bytes) = elf.get_mut(range) {
            bytes.fill(0);
        }
    }
}

/// Whether the program is newer than the last change of its source and was made by this command.
fn up_to_date(changed: SystemTime, program: &Path, record: &Path, command: &str) -> bool {
    let Ok(made) = fs::metadata(program).and_then(|metadata| metadata.modified()) else {
        return false;
    };
    let same_command = fs::read_to_string(record).is_ok_and(|old| old == command);
    same_command && changed < made
}

/// When a header among these files was last changed.
fn newest_header(paths: &[PathBuf]) -> Result<SystemTime> {
    let headers = paths
        .iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "h"));
    headers
        .map(|header| newest(header))
        .try_fold(SystemTime::UNIX_EPOCH, |newest, changed| {
            Ok(newest.max(changed?))
        })
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
        let program = compilation(Path::new(file), Path::new("out"))
            .map(|build| build.command.get_program().to_string_lossy().into_owned());
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
            let changed = newest(&source).unwrap();
            let fresh = up_to_date(changed, &program, &record, command);
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

    #[test]
    fn a_program_without_frame_pointers_is_told_so_by_its_flags() {
        for bare in BARE {
            let build = bare_compilation(bare, Path::new("fixtures"), Path::new("out"));
            let words = words(&build.command);
            let expected = match bare.compiler {
                Compiler::Rust => "force-frame-pointers=no",
                _ => "-fomit-frame-pointer",
            };
            assert!(words.contains(expected), "{words}");
        }
    }

    #[test]
    fn section_headers_are_found_and_forgotten() {
        let mut elf = vec![7; 200];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[40..48].copy_from_slice(&150_u64.to_le_bytes());
        assert_eq!(section_headers(&elf), Some(150));
        forget_section_headers(&mut elf);
        assert_eq!(section_headers(&elf), None);
        assert_eq!((elf[39], elf[48], elf[57], elf[64]), (7, 7, 7, 7));
        assert_eq!(elf[58..64], [0; 6]);
        assert_eq!(section_headers(b"#!/bin/sh"), None);
    }
}
