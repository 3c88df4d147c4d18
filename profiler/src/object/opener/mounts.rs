//! What is mounted, and which of it has a server. Asks no file system.

use std::{
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use rustix::io::Errno;

use super::{Place, Request, Silent, act::own_path, wire::Answer};
use crate::target::{Pid, unescape_mount};

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    device: (u32, u32),
    point: PathBuf,
    has_server: bool,
}

/// Those that a process sees. Source: `proc_pid_mountinfo(5)`.
fn of(process: &str) -> Vec<Mount> {
    let text = fs::read(format!("/proc/{process}/mountinfo")).unwrap_or_default();
    text.split(|byte| *byte == b'\n')
        .filter_map(mount)
        .collect()
}

/// One line: `id parent major:minor root point options [tags…] - type source options`.
fn mount(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let device = std::str::from_utf8(fields.nth(2)?).ok()?;
    let (major, minor) = device.split_once(':')?;
    let point = unescape_mount(fields.nth(1)?);
    let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
    Some(Mount {
        device: (major.parse().ok()?, minor.parse().ok()?),
        point,
        has_server: has_server(kind),
    })
}

/// Whether file systems of this type ask a server. `fuseblk` asks a process too, of root's.
fn has_server(kind: &[u8]) -> bool {
    let starts = [&b"nfs"[..], b"smb", b"fuse."];
    let names = [
        &b"fuse"[..],
        b"virtiofs",
        b"cifs",
        b"9p",
        b"ceph",
        b"glusterfs",
        b"afs",
        b"lustre",
        b"beegfs",
        b"gpfs",
        b"coda",
        b"ocfs2",
    ];
    names.contains(&kind) || starts.iter().any(|start| kind.starts_with(start))
}

/// What is not asked any more once a path of ours hung: the mount that it is on, if that has a
/// server; else a link led to one, and it is the path's folder.
pub(super) fn silent_folder(mounts: &[Mount], path: &Path) -> PathBuf {
    let above = mounts.iter().filter(|mount| path.starts_with(&mount.point));
    match above.max_by_key(|mount| mount.point.as_os_str().len()) {
        Some(mount) if mount.has_server => mount.point.clone(),
        _ => path.parent().unwrap_or(path).to_owned(),
    }
}

/// Whether anything that we see has one.
pub(super) fn have_server() -> bool {
    of("self").iter().any(|mount| mount.has_server)
}

/// What is silent if this request hung, and what to call it.
pub(super) fn told(request: &Request<'_>, pid: Option<Pid>) -> (Silent, String) {
    let ours = of("self");
    let silent = Silent::of(request, || ours.clone());
    let path = match request.place {
        Place::Host(path) => path.to_owned(),
        Place::Below(_, path) => Path::new("/").join(path),
        // Told by the kernel from what it remembers.
        Place::Held(place) => fs::read_link(own_path(place)).unwrap_or_default(),
    };
    let name = match &silent {
        Silent::Device(major, minor) => {
            let theirs = pid.map_or(Vec::new(), |pid| of(&pid.to_string()));
            let mut mounts = ours.iter().chain(&theirs);
            let is_it = |mount: &&Mount| mount.device == (*major, *minor);
            mounts.find(is_it).map_or(path, |mount| mount.point.clone())
        }
        Silent::Root(..) => path,
        Silent::Under(folder) => folder.clone(),
    };
    (
        silent,
        String::from_utf8_lossy(name.as_os_str().as_bytes()).into_owned(),
    )
}

/// Does what was asked for where no server can be involved, and no process is left to wait for one.
pub(super) fn ask_none(request: &Request<'_>, pid: Option<Pid>) -> Result<Answer, Errno> {
    let has_none = match (request.number, request.place) {
        (Some(number), _) => {
            let device = (number.major, number.minor);
            let mounts = of(&pid.map_or("self".to_owned(), |pid| pid.to_string()));
            let mut those = mounts.iter().filter(|mount| mount.device == device);
            those.next().is_some_and(|mount| !mount.has_server)
        }
        (None, Place::Host(_)) => of("self").iter().all(|mount| !mount.has_server),
        (None, Place::Below(..) | Place::Held(_)) => false,
    };
    if has_none {
        request.at_once()
    } else {
        Err(Errno::TIMEDOUT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, expected: Option<(&str, bool)>) {
        let found = mount(line.as_bytes());
        let found = found
            .as_ref()
            .map(|it| (it.point.to_str().unwrap(), it.has_server));
        assert_eq!(found, expected, "{line}");
    }

    #[test]
    fn mounts_tell_whether_they_have_a_server() {
        let local = "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw";
        check(local, Some(("/", false)));
        let nfs = "40 22 0:50 / /mnt/a\\040b rw shared:7 master:1 - nfs4 host:/x rw";
        check(nfs, Some(("/mnt/a b", true)));
        let fuse = "41 22 0:51 / /mnt/s rw - fuse.sshfs x rw";
        check(fuse, Some(("/mnt/s", true)));
        check(
            "42 22 8:1 / /mnt/w rw - fuseblk /dev/sda1 rw",
            Some(("/mnt/w", false)),
        );
        check(
            "43 22 0:52 / /sys/c rw - fusectl none rw",
            Some(("/sys/c", false)),
        );
        check("44 22 no", None);
    }

    #[test]
    fn a_path_that_hung_stands_for_its_mount_or_for_its_folder() {
        let lines = [
            "22 1 254:0 / / rw - ext4 /dev/vda rw",
            "40 22 0:50 / /mnt/far rw - nfs4 host:/x rw",
        ];
        let mounts: Vec<Mount> = lines.iter().filter_map(|it| mount(it.as_bytes())).collect();
        let folder = |path: &str| silent_folder(&mounts, Path::new(path));
        assert_eq!(folder("/mnt/far/a/b/c"), Path::new("/mnt/far"));
        assert_eq!(folder("/usr/link/c"), Path::new("/usr/link"));
    }
}
