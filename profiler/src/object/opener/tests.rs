//! Opening by helpers: mounts, packets and what is asked of whom.

use std::os::fd::AsRawFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::{wire::Reply, *};

fn sockets() -> (OwnedFd, OwnedFd) {
    let flags = SocketFlags::CLOEXEC;
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap()
}

const NUMBER: FileNumber = FileNumber {
    major: 0,
    minor: 51,
    inode: u64::MAX,
};

#[test]
fn a_request_crosses_the_socket_with_its_descriptor() {
    let (ours, theirs) = sockets();
    let root = File::open("/").unwrap();
    let path = Path::new("tmp/perf-1.map");
    let sent = Request {
        what: What::Read {
            offset: 7,
            bytes: 4096,
        },
        place: Place::Below(root.as_fd(), path),
        number: Some(NUMBER),
        most_copied: 3,
    };
    sent.send(ours.as_fd()).unwrap();
    let packet = wire::receive(theirs.as_fd()).unwrap().unwrap();
    let same = Request::with(&packet, |request| {
        let Place::Below(received, to) = request.place else {
            panic!("{request:?}");
        };
        assert_ne!(received.as_raw_fd(), root.as_raw_fd());
        let inode = |fd| known(fd).unwrap().inode;
        assert_eq!(inode(received), inode(root.as_fd()));
        assert!(matches!(
            request.what,
            What::Read {
                offset: 7,
                bytes: 4096
            }
        ));
        (to, request.number, request.most_copied) == (path, Some(NUMBER), 3)
    });
    assert_eq!(same, Some(true));
}

#[test]
fn an_answer_crosses_the_socket_with_what_was_seen() {
    let (ours, theirs) = sockets();
    let request = open_request(Place::Host(Path::new("/proc/self/exe")), 0);
    let answer = request.at_once().unwrap();
    let seen = answer.seen;
    assert_eq!(seen.kind(), FileType::RegularFile);
    Reply::Done(Ok(answer)).send(ours.as_fd()).unwrap();
    Reply::Done(Err(Errno::STALE)).send(ours.as_fd()).unwrap();
    let receive = || Reply::of(wire::receive(theirs.as_fd()).unwrap().unwrap());
    match receive() {
        Some(Reply::Done(Ok(answer))) => {
            assert_eq!(answer.seen, seen);
            let file = File::from(answer.file.unwrap());
            assert_eq!(super::seen(&file), Ok(seen));
            assert!(answer.copied_from.is_none());
        }
        _ => panic!("another reply"),
    }
    assert!(matches!(receive(), Some(Reply::Done(Err(Errno::STALE)))));
    drop(ours);
    assert!(wire::receive(theirs.as_fd()).unwrap().is_none());
}

#[test]
fn what_is_silent_covers_its_files_and_no_others() {
    let on_device = numbered(Path::new("/proc/1/map_files/1-2"), NUMBER);
    let silent = Silent::of(&on_device, Vec::new);
    assert_eq!(silent, Silent::Device(0, 51));
    assert!(silent.covers(&numbered(Path::new("/x"), NUMBER)));
    let other = FileNumber {
        minor: 52,
        ..NUMBER
    };
    assert!(!silent.covers(&numbered(Path::new("/x"), other)));
    let under = Silent::Under("/mnt/far".into());
    let path = |path| open_request(Place::Host(Path::new(path)), 0);
    assert!(under.covers(&path("/mnt/far/a")));
    assert!(!under.covers(&path("/mnt/farther/a")));
    assert!(!silent.covers(&path("/mnt/far/a")));
}

#[test]
fn what_the_kernel_does_not_know_by_heart_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    std::fs::write(&path, "text").unwrap();
    let root = File::open(folder.path()).unwrap();
    let found = look(root.as_fd(), Path::new("file"), Asking::Worth).unwrap();
    assert_eq!(found.unwrap().1.bytes, 4);
    let opened = open(Place::Below(root.as_fd(), Path::new("file"))).unwrap();
    assert_eq!(std::io::read_to_string(opened.file).unwrap(), "text");
    let none = look(root.as_fd(), Path::new("none"), Asking::Worth);
    assert_eq!(none.err(), Some(Errno::NOENT));
}
