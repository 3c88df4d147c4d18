//! Unix sockets: who is at the other end, by the kernel's word.

use std::{
    os::unix::fs::PermissionsExt,
    process::{Command, Output},
};

use ebpfprof::server::listen::Address;

use crate::service::Service;

/// A user without any right.
const NOBODY: u32 = 65534;

fn service() -> Service {
    Service::start(|config, folder| {
        // Others get to the socket, and see that they are known there.
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(folder, open).unwrap();
        config.listen = vec![Address::Unix(folder.join("socket"))];
        config.socket_mode = 0o666;
    })
}

/// Asks as a user: the status and the body.
fn ask(service: &Service, uid: u32, path: &str) -> (String, String) {
    let output: Output = Command::new("setpriv")
        .args([
            format!("--reuid={uid}"),
            "--regid=65534".to_owned(),
            "--clear-groups".to_owned(),
        ])
        .args([
            "curl",
            "-s",
            "-w",
            "\n%{http_code}",
            "--max-time",
            "60",
            "--unix-socket",
        ])
        .arg(service.file("socket"))
        .arg(format!("http://localhost{path}"))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, status) = text.rsplit_once('\n').unwrap();
    (status.to_owned(), body.to_owned())
}

#[test]
fn a_user_gets_processes_of_their_own_and_root_gets_all() {
    let service = service();
    let mut theirs = Command::new("setpriv")
        .args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "sleep",
            "60",
        ])
        .spawn()
        .unwrap();
    let of = |pid: u32| format!("/pid/{pid}/debug/pprof/profile");
    crate::client::wait_until("the process has its user", || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", theirs.id()));
        status.unwrap().contains("Uid:\t65534\t65534\t65534")
    });
    let (status, body) = ask(&service, NOBODY, &of(theirs.id()));
    assert_eq!((&*status, &*body), ("200", "for uid:65534"));
    let own = std::process::id();
    let (status, body) = ask(&service, NOBODY, &of(own));
    assert_eq!(status, "403");
    assert_eq!(body, format!("pid {own} is no process of uid 65534\n"));
    assert_eq!(ask(&service, NOBODY, "/debug/pprof/profile").0, "403");
    assert_eq!(ask(&service, NOBODY, "/metrics").0, "403");
    for path in [of(theirs.id()), of(own), "/debug/pprof/profile".to_owned()] {
        let (status, body) = ask(&service, 0, &path);
        assert_eq!((&*status, &*body), ("200", "for uid:0"), "{path}");
    }
    theirs.kill().unwrap();
    theirs.wait().unwrap();
    let lines = service.lines(7);
    assert!(
        lines[0].contains("who=uid:65534 peer=unix:"),
        "{}",
        lines[0]
    );
}

#[test]
fn the_sockets_file_goes_with_the_server() {
    let service = service();
    let path = service.file("socket");
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o666);
    service.end(crate::client::PATIENCE);
    crate::client::wait_until("the file is gone", || !path.exists());
}
