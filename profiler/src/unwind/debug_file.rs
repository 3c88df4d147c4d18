//! Finds what was split off an object: the files that may have its `.debug_frame`.
//!
//! In: what the object says of itself, and where it is. Out: open files that belong to it, by build
//! id, or by checksum where it has none.
//!
//! Source: GDB's manual, "Debugging Information in Separate Files" and "MiniDebugInfo".

use std::{
    ffi::OsStr,
    fs::File,
    io::Read,
    iter,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use crc32fast::Hasher;

use super::section::Head;
use crate::object::file::{in_memory, open_regular};

/// Where distributions put debug files.
pub(super) const DEBUG_FOLDER: &str = "/usr/lib/debug";
/// The largest file whose checksum is computed, in bytes.
const MOST_CHECKED_BYTES: u64 = 1 << 30;
/// Bytes read at a time for it.
const CHECKED_AT_ONCE: usize = 64 << 10;

/// The files that may have an object's call frame information, likeliest first. Each is opened when
/// it is asked for. `folder` is where the host's debug files are.
pub(super) fn candidates<'a>(
    folder: &'a Path,
    head: &'a Head,
    file: &'a File,
    path: Option<&'a Path>,
) -> impl Iterator<Item = File> + 'a {
    let inside = iter::once_with(move || inside(head, file)).flatten();
    let by_build_id = iter::once_with(move || {
        let debug = open_regular(&path_by_build_id(folder, head.build_id.as_deref()?)).ok()?;
        has_build_id(&debug, head).then_some(debug)
    });
    let by_link = iter::once_with(move || {
        let link = Link::read(head, file)?;
        let paths = link.paths(folder, path?);
        paths.into_iter().find_map(|path| {
            let debug = open_regular(&path).ok()?;
            let is_it = match head.build_id {
                Some(_) => has_build_id(&debug, head),
                None => checksum(&debug) == Some(link.checksum),
            };
            is_it.then_some(debug)
        })
    });
    inside.chain(by_build_id.flatten()).chain(by_link.flatten())
}

/// The file in `.gnu_debugdata`, in memory.
fn inside(head: &Head, file: &File) -> Option<File> {
    let image = head.named.debugdata?.read(file).ok()?;
    in_memory("debugdata", &image).ok()
}

fn path_by_build_id(folder: &Path, build_id: &[u8]) -> PathBuf {
    let mut path = folder.join(".build-id").into_os_string();
    for (i, byte) in build_id.iter().enumerate() {
        let slash = if i < 2 { "/" } else { "" };
        path.push(format!("{slash}{byte:02x}"));
    }
    path.push(".debug");
    path.into()
}

fn has_build_id(debug: &File, head: &Head) -> bool {
    Head::read(debug).is_ok_and(|debug| debug.build_id == head.build_id)
}

/// What `.gnu_debuglink` says.
#[derive(Debug, PartialEq, Eq)]
struct Link {
    name: Vec<u8>,
    checksum: u32,
}

impl Link {
    fn read(head: &Head, file: &File) -> Option<Self> {
        Self::parse(&head.named.debuglink?.read(file).ok()?)
    }

    /// A name, zeros up to a multiple of four, a checksum.
    fn parse(section: &[u8]) -> Option<Self> {
        let end = section.iter().position(|byte| *byte == 0)?;
        let name = &section[..end];
        // The name is the file's claim: it leads to no other folder.
        if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') {
            return None;
        }
        let checksum = section
            .get((end + 1).next_multiple_of(4)..)?
            .first_chunk()?;
        Some(Self {
            name: name.to_vec(),
            checksum: u32::from_le_bytes(*checksum),
        })
    }

    /// Where the file may be, given where the object is.
    fn paths(&self, folder: &Path, object: &Path) -> Vec<PathBuf> {
        let name = OsStr::from_bytes(&self.name);
        let Some(beside) = object.parent() else {
            return Vec::new();
        };
        let mirrored = beside.strip_prefix("/").unwrap_or(beside);
        vec![
            beside.join(name),
            beside.join(".debug").join(name),
            folder.join(mirrored).join(name),
        ]
    }
}

/// The checksum that debug links have: that of zlib.
fn checksum(mut file: &File) -> Option<u32> {
    if file.metadata().ok()?.len() > MOST_CHECKED_BYTES {
        return None;
    }
    let mut crc = Hasher::new();
    let mut bytes = vec![0; CHECKED_AT_ONCE];
    loop {
        match file.read(&mut bytes).ok()? {
            0 => return Some(crc.finalize()),
            read => crc.update(&bytes[..read]),
        }
    }
}
