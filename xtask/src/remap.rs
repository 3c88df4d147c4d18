//! Keeps the folders of this machine out of the object.
//!
//! They would get there in two ways. Debug info, and through it BTF, names source files: `rustc`
//! renames them when told to. And cargo hashes the folder of a package outside its own workspace,
//! such as `profiler-common` seen from `profiler-ebpf`, into every symbol name. So cargo is told
//! that this program is its `rustc` wrapper, and the wrapper mends the flags.

use std::{
    env,
    ffi::OsString,
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result};

use crate::workspace::Workspace;

/// Holds the remap flags while cargo calls this program in place of `rustc`.
const FLAGS_VARIABLE: &str = "EBPFPROF_XTASK_REMAP";

/// Holds the workspace's folder for the same while.
const ROOT_VARIABLE: &str = "EBPFPROF_XTASK_ROOT";

/// What stands between two flags. No folder name holds it.
const SEPARATOR: &str = "\u{1f}";

/// Cargo gives this after a `-C`.
const HASH_FLAG: &str = "metadata=";

/// What each folder becomes lies below one that never exists (Debian keeps the name free): LLVM
/// puts the text of source lines into BTF when it finds the files.
const NOWHERE: &str = "/nonexistent";

/// Makes a cargo command call this program in place of `rustc`.
///
/// `source` is the standard library's source, `target` the folder that cargo builds in.
pub(crate) fn wrap(
    cargo: &mut Command,
    workspace: &Workspace,
    source: &Path,
    target: &Path,
) -> Result<()> {
    let mut folders = vec![
        (workspace.root().to_path_buf(), "ebpfprof"),
        (source.to_path_buf(), "rust"),
        (target.to_path_buf(), "target"),
    ];
    folders.extend(registries().into_iter().map(|folder| (folder, "cargo")));
    let own_path = env::current_exe().context("cannot find this program's own file")?;
    cargo
        .env("RUSTC_WRAPPER", own_path)
        .env(ROOT_VARIABLE, workspace.root())
        .env(FLAGS_VARIABLE, flags(&folders).join(SEPARATOR));
    Ok(())
}

/// Each registry's folder of unpacked packages. Its name holds a hash of the registry's address, so
/// it goes too.
fn registries() -> Vec<PathBuf> {
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".cargo")));
    let Some(sources) = home.map(|home| home.join("registry/src")) else {
        return Vec::new();
    };
    let entries = fs::read_dir(sources).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// The flags for these folders, under the name given and under the name without symbolic links. Of
/// two that match `rustc` takes the later, so the longer comes later.
fn flags(folders: &[(PathBuf, &str)]) -> Vec<String> {
    let mut pairs: Vec<(PathBuf, &str)> = folders
        .iter()
        .flat_map(|(folder, name)| {
            let real = folder.canonicalize().unwrap_or_else(|_| folder.clone());
            [(folder.clone(), *name), (real, *name)]
        })
        .collect();
    pairs.sort_by_key(|(folder, _)| folder.components().count());
    pairs.dedup();
    pairs
        .iter()
        .map(|(folder, name)| format!("--remap-path-prefix={}={NOWHERE}/{name}", folder.display()))
        .collect()
}

/// Becomes `rustc` with mended flags, when cargo called us as its wrapper. Otherwise `None`.
pub(crate) fn run_as_rustc() -> Option<ExitCode> {
    let flags = env::var(FLAGS_VARIABLE).ok()?;
    let root = env::var_os(ROOT_VARIABLE)?;
    let mut arguments = env::args_os().skip(1);
    let rustc = arguments.next()?;
    let package = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default();
    let own = Path::new(&package).strip_prefix(root).ok();
    let error = Command::new(&rustc)
        .args(arguments.map(|argument| without_hash(argument, own)))
        .args(flags.split(SEPARATOR))
        .exec();
    eprintln!("error: cannot run {}: {error}", rustc.display());
    Some(ExitCode::FAILURE)
}

/// The argument, with cargo's hash for symbol names replaced by the package's path in the workspace
/// if it is one of ours.
fn without_hash(argument: OsString, own: Option<&Path>) -> OsString {
    match own {
        Some(package)
            if argument
                .as_encoded_bytes()
                .starts_with(HASH_FLAG.as_bytes()) =>
        {
            format!("{HASH_FLAG}{}", package.display()).into()
        }
        _ => argument,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_inside_another_is_matched_first() {
        let folders = [
            (PathBuf::from("/absent/tree/target/ebpf"), "target"),
            (PathBuf::from("/absent/tree"), "ebpfprof"),
        ];
        assert_eq!(
            flags(&folders),
            [
                "--remap-path-prefix=/absent/tree=/nonexistent/ebpfprof",
                "--remap-path-prefix=/absent/tree/target/ebpf=/nonexistent/target",
            ]
        );
    }
    #[track_caller]
    fn check_hash(argument: &str, own: Option<&str>, expected: &str) {
        assert_eq!(without_hash(argument.into(), own.map(Path::new)), expected);
    }

    #[test]
    fn only_our_own_packages_lose_their_hash() {
        let ours = Some("profiler-common");
        check_hash("metadata=1f2e", ours, "metadata=profiler-common");
        check_hash("metadata=1f2e", None, "metadata=1f2e");
        check_hash("extra-filename=-1f2e", ours, "extra-filename=-1f2e");
    }
}
