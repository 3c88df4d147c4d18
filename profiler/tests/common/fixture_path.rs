//! Programs that `cargo xtask fixtures` builds.

use std::path::{Path, PathBuf};

/// Where a fixture's program is.
#[track_caller]
pub(crate) fn fixture_path(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/fixtures");
    let path = folder.join(name);
    match path.canonicalize() {
        Ok(path) => path,
        Err(error) => panic!(
            "{}: {error}; build it with: cargo xtask fixtures",
            path.display()
        ),
    }
}
