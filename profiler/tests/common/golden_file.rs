//! Files in `testdata/golden`: what an output has to be, to the byte.

use std::{fs, path::Path};

/// Compares an output with its file; with `BLESS` in the environment it writes the file.
#[track_caller]
pub(crate) fn check(name: &str, actual: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../testdata/golden")
        .join(name);
    if std::env::var_os("BLESS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, actual).unwrap();
        return;
    }
    let expected = fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; BLESS=1 writes it", path.display()));
    assert!(
        actual == expected,
        "{name} differs; BLESS=1 rewrites it. It is now:\n{actual}\nIt was:\n{expected}"
    );
}
