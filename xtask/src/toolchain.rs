//! Finds a Rust compiler that can build the kernel side: one with the source of the standard library
//! beside it. Stable compilers do, by `RUSTC_BOOTSTRAP`. The one that equals the pin is preferred.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    linker::{self, Linker},
    packages,
    pin::Pin,
    process::{find, is_root, output},
    workspace::Workspace,
};

/// Where a sysroot keeps the source of the standard library.
const SOURCE: &str = "lib/rustlib/src/rust";

/// Debian's packages of a compiler, its cargo and its source, newest first.
const DEBIAN_RUST: [[&str; 3]; 2] = [
    ["rustc-web", "cargo-web", "rust-web-src"],
    ["rustc", "cargo", "rust-src"],
];

/// The oldest release that knows edition 2024.
const OLDEST: (u32, u32) = (1, 85);

/// A compiler, the linker that goes with it, and their names.
pub(crate) struct Toolchain {
    /// The compiler.
    pub(crate) compiler: Compiler,
    /// The linker.
    pub(crate) linker: Linker,
}

impl Toolchain {
    /// The toolchain as a record.
    pub(crate) fn pin(&self) -> Pin {
        Pin {
            rustc: self.compiler.version.clone(),
            rustc_commit: self.compiler.commit.clone(),
            rustc_llvm: self.compiler.llvm.clone(),
            bpf_linker: self.linker.version.clone(),
            bpf_linker_llvm: self.linker.llvm.clone(),
        }
    }
}

/// A Rust compiler with the source of its standard library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Compiler {
    /// Its `rustc`.
    pub(crate) rustc: PathBuf,
    /// Its `cargo`.
    pub(crate) cargo: PathBuf,
    /// The folder above `library`.
    pub(crate) source: PathBuf,
    /// First line of `rustc -vV`.
    pub(crate) version: String,
    commit: String,
    release: (u32, u32),
    llvm: String,
}

impl Compiler {
    /// Looks at one `rustc`; `None` when it is not there or cannot build the kernel side.
    fn at(rustc: &Path) -> Option<Self> {
        let cargo = rustc.with_file_name("cargo");
        if !rustc.is_file() || !cargo.is_file() {
            return None;
        }
        let verbose = output(Command::new(rustc).arg("-vV")).ok()?;
        let sysroot = output(Command::new(rustc).args(["--print", "sysroot"])).ok()?;
        let source = Path::new(&sysroot).join(SOURCE);
        let release = release_of(field(&verbose, "release")?)?;
        if !source.join("library/core/Cargo.toml").is_file() || release < OLDEST {
            return None;
        }
        Some(Self {
            rustc: rustc.to_path_buf(),
            cargo,
            source,
            version: verbose.lines().next()?.to_owned(),
            commit: field(&verbose, "commit-hash")?.to_owned(),
            release,
            llvm: field(&verbose, "LLVM version")?.to_owned(),
        })
    }

    fn is_pinned(&self, pin: &Pin) -> bool {
        self.version == pin.rustc && self.commit == pin.rustc_commit && self.llvm == pin.rustc_llvm
    }

    /// The major version of the LLVM that wrote this compiler's bitcode.
    pub(crate) fn llvm_major(&self) -> Result<u32> {
        let major = self.llvm.split('.').next().unwrap_or_default();
        major
            .parse()
            .with_context(|| format!("cannot read the LLVM version {:?}", self.llvm))
    }
}

/// Finds the toolchain to build with, and installs what can be installed.
pub(crate) fn find_toolchain(workspace: &Workspace, pin: &Pin) -> Result<Toolchain> {
    let mut compilers = compilers();
    if !compilers.iter().any(|compiler| compiler.is_pinned(pin)) {
        println!("the pinned compiler is not installed: {}", pin.rustc);
        if install_compiler(pin, &compilers)? {
            compilers = self::compilers();
        }
    }
    let Some(compiler) = best(compilers, pin) else {
        bail!(
            "no Rust compiler with the source of its standard library is installed; as root on \
             Debian, type: apt-get install -y {}; elsewhere: rustup toolchain install nightly \
             --component rust-src",
            DEBIAN_RUST[0].join(" ")
        );
    };
    let linker = linker::find_or_install(workspace, pin, compiler.llvm_major()?)?;
    Ok(Toolchain { compiler, linker })
}

/// Every compiler on this host that can build the kernel side.
fn compilers() -> Vec<Compiler> {
    let mut places = vec![PathBuf::from("/usr/bin/rustc")];
    // Ubuntu and Debian keep further versions side by side.
    let versions = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    places.extend(
        versions
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("rust-"))
            .map(|entry| entry.path().join("bin/rustc")),
    );
    places.extend(rustup_compilers());
    places.sort();
    places.dedup();
    places
        .iter()
        .filter_map(|rustc| Compiler::at(rustc))
        .collect()
}

/// The compilers of rustup's toolchains.
fn rustup_compilers() -> Vec<PathBuf> {
    let home = env::var_os("RUSTUP_HOME")
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".rustup")));
    let Some(toolchains) = home.map(|home| home.join("toolchains")) else {
        return Vec::new();
    };
    let entries = fs::read_dir(toolchains).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path().join("bin/rustc"))
        .filter_map(|rustc| rustc.canonicalize().ok())
        .collect()
}

/// The pinned compiler, else the newest.
fn best(compilers: Vec<Compiler>, pin: &Pin) -> Option<Compiler> {
    compilers
        .into_iter()
        .max_by_key(|compiler| (compiler.is_pinned(pin), compiler.release))
}

/// Installs the distribution's compiler, when it is the pinned one or there is none at all.
/// Says whether it did.
fn install_compiler(pin: &Pin, installed: &[Compiler]) -> Result<bool> {
    let none_found = installed.is_empty();
    if !packages::has_apt() {
        return Ok(false);
    }
    if is_root() {
        packages::update()?;
    }
    let release = pin.rustc.split(' ').nth(1).unwrap_or_default();
    for names in DEBIAN_RUST {
        let Some(version) = packages::offered(names[0]) else {
            continue;
        };
        let pinned = version.starts_with(release);
        let usable = release_of(&version).is_some_and(|release| release >= OLDEST);
        let wanted = pinned || (none_found && usable);
        if !wanted {
            continue;
        }
        if !is_root() && !none_found {
            println!(
                "to get it, type: sudo apt-get install -y {}",
                names.join(" ")
            );
            return Ok(false);
        }
        packages::install(&names)?;
        return Ok(true);
    }
    if none_found {
        return install_nightly();
    }
    Ok(false)
}

/// Lets rustup, where there is one, install a nightly compiler with its source.
fn install_nightly() -> Result<bool> {
    if find("rustup").is_none() {
        return Ok(false);
    }
    println!("the distribution has no compiler that would do; asking rustup for nightly");
    let mut rustup = Command::new("rustup");
    rustup.args(["toolchain", "install", "nightly", "--profile", "minimal"]);
    rustup.args(["--component", "rust-src"]);
    crate::process::run(&mut rustup)?;
    Ok(true)
}

/// The value of one line of `rustc -vV`.
fn field<'a>(verbose: &'a str, name: &str) -> Option<&'a str> {
    verbose
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

/// The first two numbers of a version.
fn release_of(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERBOSE: &str = "rustc 1.96.0 (ac68faa20 2026-05-25)\nbinary: rustc\n\
        commit-hash: ac68faa20c58\nrelease: 1.96.0\nLLVM version: 22.1.8";

    fn compiler(version: &str, release: (u32, u32)) -> Compiler {
        Compiler {
            rustc: PathBuf::new(),
            cargo: PathBuf::new(),
            source: PathBuf::new(),
            version: version.into(),
            commit: "abc".into(),
            release,
            llvm: "22.1.8".into(),
        }
    }

    #[test]
    fn the_fields_of_a_verbose_version_are_found() {
        assert_eq!(field(VERBOSE, "commit-hash"), Some("ac68faa20c58"));
        assert_eq!(field(VERBOSE, "LLVM version"), Some("22.1.8"));
        assert_eq!(field(VERBOSE, "host"), None);
    }

    #[test]
    fn a_release_is_two_numbers() {
        assert_eq!(release_of("1.97.0-nightly"), Some((1, 97)));
        assert_eq!(release_of("1.96.0+dfsg1-1~deb12u2"), Some((1, 96)));
        assert_eq!(release_of("unknown"), None);
    }

    #[test]
    fn the_pinned_compiler_wins_over_a_newer_one() {
        let pin = Pin {
            rustc: "old".into(),
            rustc_commit: "abc".into(),
            rustc_llvm: "22.1.8".into(),
            ..Pin::default()
        };
        let compilers = vec![compiler("old", (1, 96)), compiler("new", (1, 97))];
        assert_eq!(best(compilers.clone(), &pin).unwrap().version, "old");
        assert_eq!(best(compilers, &Pin::default()).unwrap().version, "new");
    }
}
