//! `cargo xtask unwind-audit`: every unwind table that this machine's files give, against direct
//! evaluation. The work is done by an example of the product, built for release: this program does
//! not depend on the product, so that it starts at once.

use std::{path::PathBuf, process::Command};

use anyhow::{Result, bail};

use crate::{
    process::{cargo, output, run as run_command},
    workspace::Workspace,
};

/// Where programs and libraries are.
const FOLDERS: [&str; 7] = ["/usr", "/lib", "/lib64", "/bin", "/sbin", "/opt", "/snap"];

/// Which addresses are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Addresses {
    /// Some at random.
    Random,
    /// Those and both ends of every row.
    EveryRow,
}

/// Runs the audit below some folders, or below all that hold programs and libraries.
pub(crate) fn run(
    workspace: &Workspace,
    folders: Vec<PathBuf>,
    addresses: Addresses,
) -> Result<()> {
    if let Some(absent) = folders.iter().find(|folder| !folder.exists()) {
        bail!("there is no {}", absent.display());
    }
    let folders = match folders.is_empty() {
        true => usual_folders(),
        false => folders,
    };
    let mut command = cargo();
    command
        .args(["run", "--quiet", "--release", "--locked", "-p", "ebpfprof"])
        .args(["--example", "unwind_audit", "--"])
        .current_dir(workspace.root());
    if addresses == Addresses::Random {
        command.arg("--quick");
    }
    run_command(command.args(folders))
}

/// The system's folders and that of the Rust toolchains.
pub(crate) fn usual_folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = FOLDERS.iter().map(PathBuf::from).collect();
    let sysroot = output(Command::new("rustc").args(["--print", "sysroot"]));
    folders.extend(sysroot.ok().map(PathBuf::from).and_then(|sysroot| {
        let toolchains = sysroot.parent()?;
        toolchains
            .ends_with("toolchains")
            .then(|| toolchains.to_path_buf())
    }));
    folders.retain(|folder| folder.is_dir());
    folders
}
