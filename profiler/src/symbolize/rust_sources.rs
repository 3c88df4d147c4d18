//! The sources of Rust's own libraries, where this host has them.
//!
//! The compiler remaps their paths to `/rustc/COMMIT/library/…`. rustup puts the very files of that
//! commit into a toolchain that has the component rust-src; there readers find them.

use std::{
    env,
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

use foldhash::HashMap;

/// What the compiler puts before the commit.
const REMAPPED: &str = "/rustc/";
/// Hex digits of a commit.
const COMMIT_DIGITS: usize = 40;
/// How many of them a version names: `1.95.0 (59807616e 2026-04-14)`.
const SHORT_DIGITS: usize = 9;
/// Where rustup keeps what a toolchain is made of, and the sources, below the toolchain.
const MANIFEST: &str = "lib/rustlib/multirust-channel-manifest.toml";
const SOURCES: &str = "lib/rustlib/src/rust";
/// A manifest has one megabyte.
const MOST_MANIFEST_BYTES: u64 = 8 << 20;
const MOST_TOOLCHAINS: usize = 32;

/// Finds them, and remembers.
#[derive(Debug)]
pub(super) struct RustSources {
    /// Folders with one toolchain in each folder of theirs.
    toolchains: Vec<PathBuf>,
    /// The sources of each commit that was asked for.
    by_commit: HashMap<String, Option<PathBuf>>,
}

impl RustSources {
    /// Those of whoever runs us, also by sudo.
    pub(super) fn of_host() -> Self {
        let sudo_user = env::var_os("SUDO_USER").map(|user| Path::new("/home").join(user));
        let homes = env::home_dir().into_iter().chain(sudo_user);
        let rustups = homes.map(|home| home.join(".rustup"));
        let rustups = rustups.chain([PathBuf::from("/usr/local/rustup")]);
        Self::below(rustups.map(|rustup| rustup.join("toolchains")).collect())
    }

    fn below(toolchains: Vec<PathBuf>) -> Self {
        Self {
            toolchains,
            by_commit: HashMap::default(),
        }
    }

    /// The file on this host behind a remapped path, if it is there.
    pub(super) fn local(&mut self, file: &str) -> Option<String> {
        let (commit, path) = file.strip_prefix(REMAPPED)?.split_once('/')?;
        let is_hex = commit.bytes().all(|digit| digit.is_ascii_hexdigit());
        if commit.len() != COMMIT_DIGITS || !is_hex || path.split('/').any(|part| part == "..") {
            return None;
        }
        if !self.by_commit.contains_key(commit) {
            let found = self.find(commit);
            self.by_commit.insert(commit.to_owned(), found);
        }
        let local = self.by_commit[commit].as_ref()?.join(path);
        local
            .is_file()
            .then_some(local)?
            .into_os_string()
            .into_string()
            .ok()
    }

    fn find(&self, commit: &str) -> Option<PathBuf> {
        let in_version = format!("({} ", &commit[..SHORT_DIGITS]);
        let folders = self
            .toolchains
            .iter()
            .filter_map(|folder| fs::read_dir(folder).ok());
        let mut toolchains = folders
            .flat_map(|entries| entries.flatten().take(MOST_TOOLCHAINS))
            .map(|entry| entry.path());
        toolchains.find_map(|toolchain| {
            let sources = toolchain.join(SOURCES);
            let is_it = sources.is_dir()
                && manifest(&toolchain.join(MANIFEST))
                    .is_some_and(|text| text.contains(&in_version));
            is_it.then_some(sources)
        })
    }
}

fn manifest(path: &Path) -> Option<String> {
    let mut text = String::new();
    let file = File::open(path).ok()?;
    file.take(MOST_MANIFEST_BYTES)
        .read_to_string(&mut text)
        .ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "59807616e1fa2540724bfbac14d7976d7e4a3860";

    #[test]
    fn the_sources_of_the_very_commit_stand_for_remapped_paths() {
        let folder = tempfile::tempdir().unwrap();
        for (name, version) in [
            ("old", "1.94.0 (123456789 2026-03-01)"),
            ("stable", "1.95.0 (59807616e 2026-04-14)"),
        ] {
            let toolchain = folder.path().join(name);
            let core = toolchain.join(SOURCES).join("library/core/src");
            fs::create_dir_all(&core).unwrap();
            fs::write(core.join("lib.rs"), "").unwrap();
            fs::write(
                toolchain.join(MANIFEST),
                format!("version = \"{version}\"\n"),
            )
            .unwrap();
        }
        let mut sources = RustSources::below(vec![folder.path().to_owned()]);
        let mut check = |path: &str, expected: Option<&str>| {
            let expected = expected.map(|path| folder.path().join(path));
            assert_eq!(sources.local(path).map(PathBuf::from), expected, "{path}");
        };
        check(
            &format!("/rustc/{COMMIT}/library/core/src/lib.rs"),
            Some("stable/lib/rustlib/src/rust/library/core/src/lib.rs"),
        );
        check(&format!("/rustc/{COMMIT}/library/core/src/none.rs"), None);
        check(&format!("/rustc/{COMMIT}/../../x"), None);
        check(
            &format!(
                "/rustc/{}/library/core/src/lib.rs",
                COMMIT.replace('5', "6")
            ),
            None,
        );
        check("/rustc/59807616e/library/core/src/lib.rs", None);
        check("/usr/src/main.rs", None);
    }
}
