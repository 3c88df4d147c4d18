//! Finds what was split off an object: the files that may have its symbols, its debug information
//! and its `.debug_frame`.
//!
//! In: what the object says of itself, and where it is. Out: open files that belong to it, by build
//! id, or by checksum where it has none.
//!
//! Source: GDB's manual, "Debugging Information in Separate Files".

use std::{
    ffi::OsStr,
    fs::File,
    io::Read,
    iter,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use crc32fast::Hasher;

use super::{elf, file::open_regular, root::Root};

/// Where distributions put debug files.
pub(crate) const DEBUG_FOLDER: &str = "/usr/lib/debug";
/// The largest file whose checksum is computed, in bytes.
const MOST_CHECKED_BYTES: u64 = 1 << 30;
/// Bytes read at a time for it.
const CHECKED_AT_ONCE: usize = 64 << 10;

/// What an object says of the file with what was split off it.
#[derive(Clone, Debug, Default)]
pub(crate) struct SplitOff {
    pub(crate) build_id: Option<Vec<u8>>,
    /// The bytes of `.gnu_debuglink`.
    pub(crate) link: Option<Vec<u8>>,
}

/// Where to look for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places<'a> {
    /// Where debug files are, on the host and in the root.
    pub(crate) folder: &'a Path,
    /// The root of the processes that run the object, if it is not ours.
    pub(crate) root: Option<&'a Root>,
    /// Where they have the object.
    pub(crate) object: Option<&'a Path>,
}

impl Places<'_> {
    /// Opens a path, as the processes see it and as we do. The caller finds out which is right.
    pub(crate) fn open<'a>(&'a self, path: &'a Path) -> impl Iterator<Item = File> + 'a {
        let theirs = self.root.and_then(|root| root.open(path).ok());
        let ours = iter::once_with(move || open_regular(path).ok());
        theirs.into_iter().chain(ours.flatten())
    }
}

/// The files that belong to an object, likeliest first. Each is opened when it is asked for.
pub(crate) fn candidates<'a>(
    split: &'a SplitOff,
    places: Places<'a>,
) -> impl Iterator<Item = File> + 'a {
    let by_build_id = iter::once_with(move || {
        let path = path_by_build_id(places.folder, split.build_id.as_deref()?);
        places.open(&path).find(|debug| has_build_id(debug, split))
    });
    let by_link = iter::once_with(move || {
        let link = Link::parse(split.link.as_deref()?)?;
        let paths = link.paths(places.folder, places.object?);
        let is_it = |debug: &File| match split.build_id {
            Some(_) => has_build_id(debug, split),
            None => checksum(debug) == Some(link.checksum),
        };
        paths.iter().find_map(|path| places.open(path).find(is_it))
    });
    by_build_id.flatten().chain(by_link.flatten())
}

/// Where debug files are put by the build id of what they were split off.
pub(crate) fn path_by_build_id(folder: &Path, build_id: &[u8]) -> PathBuf {
    path_by_hex(folder, &elf::hex(build_id))
}

/// The same by the build id in hex.
pub(super) fn path_by_hex(folder: &Path, build_id: &str) -> PathBuf {
    let mut path = folder.join(".build-id").into_os_string();
    let (first, rest) = build_id.split_at_checked(2).unwrap_or((build_id, ""));
    for part in [first, rest].into_iter().filter(|part| !part.is_empty()) {
        path.push("/");
        path.push(part);
    }
    path.push(".debug");
    path.into()
}

/// Whether a file from elsewhere is all there, and is what has this build id (in lower-case hex).
pub(crate) fn is_whole(file: &File, build_id: &str) -> bool {
    elf::is_whole(file, build_id)
}

fn has_build_id(debug: &File, split: &SplitOff) -> bool {
    let wanted = split.build_id.as_deref().map(elf::hex);
    elf::read(debug).is_ok_and(|debug| debug.build_id == wanted)
}

/// What `.gnu_debuglink` says.
#[derive(Debug, PartialEq, Eq)]
struct Link {
    name: Vec<u8>,
    checksum: u32,
}

impl Link {
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
