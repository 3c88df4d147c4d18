//! Finds bpf-linker in the pinned version, or installs it into `target/tools`.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    packages,
    pin::Pin,
    process::{cargo, find, is_root, output, run},
    workspace::Workspace,
};

/// How many LLVM releases beyond the compiler's own are tried: a newer LLVM reads older bitcode.
const NEWER_RELEASES: u32 = 2;

/// What the record says of an LLVM that is part of the linker's own file.
const UNKNOWN: &str = "built in";

/// One bpf-linker.
#[derive(Clone, Debug)]
pub(crate) struct Linker {
    /// The folder it lies in.
    pub(crate) folder: PathBuf,
    /// Its version.
    pub(crate) version: String,
    /// The version of the LLVM it uses.
    pub(crate) llvm: String,
}

impl Linker {
    /// Looks at the bpf-linker in a folder; `None` when there is none that runs.
    fn at(folder: &Path) -> Option<Self> {
        let program = folder.join("bpf-linker");
        if !program.is_file() {
            return None;
        }
        let version = output(Command::new(&program).arg("--version")).ok()?;
        Some(Self {
            folder: folder.to_path_buf(),
            version: version.strip_prefix("bpf-linker ")?.to_owned(),
            llvm: llvm_of(&program).unwrap_or_else(|| UNKNOWN.to_owned()),
        })
    }

    /// Whether it reads the bitcode of this LLVM.
    fn reads(&self, llvm_major: u32) -> bool {
        major(&self.llvm).is_none_or(|own| own >= llvm_major)
    }
}

/// Finds the pinned bpf-linker; one with the pinned LLVM first. Installs it when there is none.
pub(crate) fn find_or_install(workspace: &Workspace, pin: &Pin, llvm_major: u32) -> Result<Linker> {
    let tools = workspace.target("tools")?;
    let fits = |linker: &Linker| linker.version == pin.bpf_linker && linker.reads(llvm_major);
    let mut linkers: Vec<Linker> = folders(&tools)
        .iter()
        .filter_map(|folder| Linker::at(folder))
        .filter(fits)
        .collect();
    linkers.sort_by_key(|linker| linker.llvm != pin.bpf_linker_llvm);
    if let Some(linker) = linkers.into_iter().next() {
        return Ok(linker);
    }
    install(&tools, &pin.bpf_linker, llvm_major)?;
    Linker::at(&tools.join("bin"))
        .filter(fits)
        .context("the bpf-linker just installed does not run, or has another version")
}

/// Where a bpf-linker may lie: our own folder, then cargo's, then `PATH`.
fn folders(tools: &Path) -> Vec<PathBuf> {
    let cargo_home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".cargo")));
    let on_path = find("bpf-linker").and_then(|program| Some(program.parent()?.to_path_buf()));
    let mut folders = vec![tools.join("bin")];
    folders.extend(cargo_home.map(|home| home.join("bin")));
    folders.extend(on_path);
    folders
}

/// Builds bpf-linker with the first LLVM that is there, or can be installed, and reads the
/// compiler's bitcode.
fn install(tools: &Path, version: &str, llvm_major: u32) -> Result<()> {
    println!("installing bpf-linker {version} into {}", tools.display());
    let (major, prefix) = llvm(llvm_major)?;
    run(cargo()
        .args(["install", "bpf-linker", "--locked", "--version", version])
        .args(["--no-default-features", "--features"])
        .arg(format!("llvm-{major}"))
        .arg("--root")
        .arg(tools)
        .env("LLVM_PREFIX", prefix)
        .env_remove("CARGO_ENCODED_RUSTFLAGS"))
    .context("cannot install bpf-linker")
}

/// An LLVM with its development files: its major version and its folder.
fn llvm(wanted: u32) -> Result<(u32, PathBuf)> {
    let majors = wanted..=wanted + NEWER_RELEASES;
    let there = |major: u32| {
        let prefix = PathBuf::from(format!("/usr/lib/llvm-{major}"));
        let has_headers = prefix.join("include/llvm-c/Core.h").exists();
        (has_headers && prefix.join("bin/llvm-config").exists()).then_some((major, prefix))
    };
    if let Some(found) = majors.clone().find_map(there) {
        return Ok(found);
    }
    if packages::has_apt() {
        if is_root() {
            packages::update()?;
        }
        for major in majors.clone() {
            let package = format!("llvm-{major}-dev");
            if packages::offered(&package).is_some() {
                packages::install(&[&package])?;
                return there(major).with_context(|| format!("{package} lacks llvm-config"));
            }
        }
    }
    bail!(
        "bpf-linker needs LLVM {wanted} to {} with its development files (llvm-{wanted}-dev), and \
         this host offers none; put a bpf-linker on PATH instead",
        wanted + NEWER_RELEASES
    )
}

/// The version of the LLVM library that a program is linked with.
fn llvm_of(program: &Path) -> Option<String> {
    let libraries = output(Command::new("ldd").arg(program)).ok()?;
    let library = llvm_library(&libraries)?;
    let config = Path::new(library)
        .parent()?
        .with_file_name("bin/llvm-config");
    output(Command::new(config).arg("--version")).ok()
}

/// The path of the LLVM library in the output of `ldd`.
fn llvm_library(libraries: &str) -> Option<&str> {
    libraries.lines().find_map(|line| {
        let (name, rest) = line.trim().split_once(" => ")?;
        (name.starts_with("libLLVM")).then(|| rest.split(" (").next())?
    })
}

fn major(version: &str) -> Option<u32> {
    version.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_llvm_library_is_found_among_the_others() {
        let libraries = "\tlinux-vdso.so.1 (0x00007f3b91f6f000)\n\
            \tlibLLVM.so.22.1 => /usr/lib/llvm-22/lib/libLLVM.so.22.1 (0x00007f3b88c00000)\n\
            \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f3b88a1e000)";
        assert_eq!(
            llvm_library(libraries),
            Some("/usr/lib/llvm-22/lib/libLLVM.so.22.1")
        );
        assert_eq!(llvm_library("\tstatically linked"), None);
    }

    #[test]
    fn an_older_llvm_does_not_read_newer_bitcode() {
        let linker = |llvm: &str| Linker {
            folder: PathBuf::new(),
            version: "0.13.0".into(),
            llvm: llvm.into(),
        };
        assert!(linker("22.1.8").reads(22));
        assert!(linker("23.0.0").reads(22));
        assert!(!linker("21.1.0").reads(22));
        assert!(linker(UNKNOWN).reads(22));
    }
}
