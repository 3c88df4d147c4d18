//! Unix sockets and their files.

use std::{
    fs, io,
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt},
        net::UnixStream as StdUnixStream,
    },
    path::{Path, PathBuf},
};

use rustix::fs::Gid;
use tokio::net::UnixListener;

use super::{Address, ListenError};
use crate::server::config::Config;

/// A socket's file, for as long as we listen.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode: another server may have put its own there.
    id: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let own = id(&self.path).is_ok_and(|id| id == self.id);
        if own && let Err(error) = fs::remove_file(&self.path) {
            log::debug!("{} stays: {error}", self.path.display());
        }
    }
}

fn id(path: &Path) -> io::Result<(u64, u64)> {
    let meta = fs::symlink_metadata(path)?;
    Ok((meta.dev(), meta.ino()))
}

/// Listens at a path, in place of a socket that nobody listens at any more.
///
/// The socket has another name until its rights are what they should be: nobody connects before.
pub(super) fn bind(
    path: &Path,
    config: &Config,
) -> Result<(UnixListener, SocketFile), ListenError> {
    let refused = |source| ListenError::Bind {
        address: Address::Unix(path.to_owned()),
        source,
    };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(refused(error)),
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(ListenError::InTheWay {
                path: path.to_owned(),
            });
        }
        Ok(_) => {
            // Only a refusal proves that nobody listens.
            let answer = StdUnixStream::connect(path).map_err(|error| error.kind());
            if answer.err() != Some(io::ErrorKind::ConnectionRefused) {
                return Err(ListenError::InUse {
                    path: path.to_owned(),
                });
            }
        }
    }
    let group = group_id(&config.socket_group)?;
    let mut new = path.as_os_str().to_owned();
    new.push(format!(".{}", std::process::id()));
    let new = PathBuf::from(new);
    let listener = UnixListener::bind(&new).map_err(refused)?;
    let placed = place(&new, path, config.socket_mode, group);
    if placed.is_err() {
        // The error says why; what is left of the attempt goes.
        let _ = fs::remove_file(&new);
    }
    let id = placed.map_err(refused)?;
    let file = SocketFile {
        path: path.to_owned(),
        id,
    };
    Ok((listener, file))
}

fn place(new: &Path, path: &Path, mode: u32, group: Option<Gid>) -> io::Result<(u64, u64)> {
    if group.is_some() {
        rustix::fs::chown(new, None, group)?;
    }
    fs::set_permissions(new, fs::Permissions::from_mode(mode))?;
    fs::rename(new, path)?;
    id(path)
}

/// The group of a name or a number. Source: group(5).
fn group_id(name: &str) -> Result<Option<Gid>, ListenError> {
    if name.is_empty() {
        return Ok(None);
    }
    let number = name.parse().ok().or_else(|| {
        let groups = fs::read_to_string("/etc/group").ok()?;
        let of_name = |line: &str| {
            let mut fields = line.split(':');
            (fields.next() == Some(name)).then(|| fields.nth(1)?.parse::<u32>().ok())?
        };
        groups.lines().find_map(of_name)
    });
    match number {
        Some(number) => Ok(Some(Gid::from_raw(number))),
        None => Err(ListenError::NoSuchGroup {
            name: name.to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen(path: &Path) -> Result<(UnixListener, SocketFile), ListenError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let _guard = runtime.enter();
        bind(path, &Config::default())
    }

    #[test]
    fn a_socket_is_for_its_group_and_goes_with_its_server() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let (listener, file) = listen(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o660);
        drop((listener, file));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_dead_socket_gives_way_and_a_live_one_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let first = listen(&path).unwrap();
        let second = listen(&path).unwrap_err();
        assert!(matches!(second, ListenError::InUse { .. }), "{second:?}");
        drop(first);
        fs::write(&path, "precious").unwrap();
        let third = listen(&path).unwrap_err();
        assert!(matches!(third, ListenError::InTheWay { .. }), "{third:?}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn the_file_of_another_server_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let first = listen(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let second = listen(&path).unwrap();
        drop(first);
        assert!(path.exists());
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn groups_have_names_and_numbers() {
        assert_eq!(group_id("").unwrap(), None);
        assert_eq!(group_id("root").unwrap(), Some(Gid::from_raw(0)));
        assert_eq!(group_id("1234").unwrap(), Some(Gid::from_raw(1234)));
        assert!(group_id("no-such-group").is_err());
    }
}
