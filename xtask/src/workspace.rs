//! Where things lie. All paths come from the folder that cargo runs in, so that a copy of the tree
//! works by itself.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

/// Manifests of the packages that are workspaces of their own.
pub(crate) const OTHER_MANIFESTS: [&str; 2] = ["profiler-ebpf/Cargo.toml", "fuzz/Cargo.toml"];

/// The folder of the workspace.
pub(crate) struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// Finds the workspace that `cargo xtask` was called in, else the one this program was built in.
    pub(crate) fn find() -> Result<Self> {
        let package = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = package
            .parent()
            .with_context(|| format!("{} has no parent folder", package.display()))?
            .canonicalize()
            .with_context(|| format!("cannot find the folder above {}", package.display()))?;
        if !root.join("profiler-ebpf/Cargo.toml").is_file() {
            bail!("{} is not the workspace of ebpfprof", root.display());
        }
        Ok(Self { root })
    }

    /// The top folder.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The package of the kernel side.
    pub(crate) fn ebpf(&self) -> PathBuf {
        self.root.join("profiler-ebpf")
    }

    /// The checked-in BPF object.
    pub(crate) fn prebuilt(&self) -> PathBuf {
        self.ebpf().join("prebuilt/ebpfprof.bpf.o")
    }

    /// The record of the toolchain that made the checked-in object.
    pub(crate) fn pin(&self) -> PathBuf {
        self.ebpf().join("toolchain.toml")
    }

    /// A folder for what is built, made when missing. It does not follow `CARGO_TARGET_DIR`: tests
    /// look for fixtures here.
    pub(crate) fn target(&self, name: &str) -> Result<PathBuf> {
        let folder = self.root.join("target").join(name);
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        Ok(folder)
    }

    /// A path as a reader of a report wants it: relative to the top folder.
    pub(crate) fn relative<'a>(&self, path: &'a Path) -> &'a Path {
        path.strip_prefix(&self.root).unwrap_or(path)
    }
}
