//! The programs and libraries of this machine.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Every ELF file with this machine's code below some folders, each once, in the order of the names.
pub(crate) fn elf_files<P: AsRef<Path>>(
    folders: impl IntoIterator<Item = P>,
    most_bytes: u64,
) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut seen = HashSet::new();
    let mut rest: Vec<PathBuf> = folders
        .into_iter()
        .map(|folder| folder.as_ref().to_path_buf())
        .collect();
    while let Some(path) = rest.pop() {
        // Links lead to files that are found under their own name.
        let Ok(meta) = path.symlink_metadata() else {
            continue;
        };
        if meta.is_dir() {
            let entries = fs::read_dir(&path).into_iter().flatten().flatten();
            rest.extend(entries.map(|entry| entry.path()));
        } else if meta.is_file()
            && meta.len() <= most_bytes
            && is_elf(&path)
            && seen.insert((meta.dev(), meta.ino()))
        {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn is_elf(path: &Path) -> bool {
    let mut head = [0; 20];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut head));
    // 64 bits; a program or a shared object; x86-64.
    read.is_ok() && head.starts_with(b"\x7fELF\x02") && matches!(head[16], 2 | 3) && head[18] == 62
}
