//! Who is let in, and what they get.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use hyper::header::{AUTHORIZATION, HOST, HeaderValue};
use tempfile::TempDir;

use super::*;
use crate::{server::config::Auth, target::Pid};

/// Files of tokens and passwords.
struct Files {
    folder: TempDir,
}

impl Files {
    fn new() -> Self {
        let files = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        files.write("tokens", "# scrapers\nalloy:t0ken\nl0nely\n", 0o600);
        files.write("passwords", "me:p:w\n\nyou:other\n", 0o440);
        files
    }

    fn write(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn config(&self) -> Config {
        Config {
            auth: Auth {
                token_file: Some(self.folder.path().join("tokens")),
                password_file: Some(self.folder.path().join("passwords")),
                anonymous_loopback: true,
            },
            ..Config::default()
        }
    }
}

fn tcp(address: &str) -> Peer {
    Peer::Tcp {
        address: address.parse().unwrap(),
        certified: None,
    }
}

/// What somebody gets who shows this for this host: their name, or the status.
fn admit(access: &Access, peer: &Peer, host: &str, shown: Option<&str>) -> Result<String, u16> {
    let mut headers = HeaderMap::new();
    headers.insert(HOST, HeaderValue::from_str(host).unwrap());
    if let Some(shown) = shown {
        headers.insert(AUTHORIZATION, HeaderValue::from_str(shown).unwrap());
    }
    let asked = Asked {
        version: Version::HTTP_11,
        uri: &Uri::from_static("/debug/pprof/"),
        headers: &headers,
    };
    access
        .admit(peer, &asked)
        .map(|who| who.to_string())
        .map_err(|response| response.status().as_u16())
}

fn basic(pair: &str) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    format!("Basic {}", STANDARD.encode(pair))
}

#[test]
fn a_token_or_a_password_proves_a_name() {
    let access = Access::of(&Files::new().config()).unwrap();
    let check = |shown: Option<&str>, expected: Result<&str, u16>| {
        let found = admit(&access, &tcp("10.1.2.3:4"), "10.1.2.9:6060", shown);
        assert_eq!(found, expected.map(str::to_owned), "{shown:?}");
    };
    check(None, Err(401));
    check(Some("Bearer t0ken"), Ok("alloy"));
    check(Some("bearer  t0ken"), Ok("alloy"));
    check(Some("Bearer l0nely"), Ok("token"));
    check(Some(&basic("me:p:w")), Ok("me"));
    check(Some(basic("you:other").trim_end_matches('=')), Ok("you"));
    check(Some(&basic("alloy:t0ken")), Ok("alloy"));
    for wrong in [
        "Bearer t0keN",
        "Bearer t0ke",
        "Bearer ",
        "Bearer",
        "t0ken",
        "Digest x",
        "Basic !",
    ] {
        check(Some(wrong), Err(401));
    }
    for wrong in ["me:p", "me:", "you:p:w", ":p:w", "me", "other:t0ken"] {
        check(Some(&basic(wrong)), Err(401));
    }
}

#[test]
fn this_host_needs_none_unless_it_is_told_to() {
    let mut config = Files::new().config();
    let files = Files::new();
    config.auth.token_file = Some(files.folder.path().join("tokens"));
    config.auth.password_file = None;
    let access = Access::of(&config).unwrap();
    let here = tcp("127.0.0.1:4");
    assert_eq!(admit(&access, &here, "localhost", None), Ok("-".to_owned()));
    let mapped = tcp("[::ffff:127.0.0.1]:4");
    assert_eq!(
        admit(&access, &mapped, "localhost", None),
        Ok("-".to_owned())
    );
    // Whoever shows something wants to be known.
    assert_eq!(
        admit(&access, &here, "localhost", Some("Bearer x")),
        Err(401)
    );
    config.auth.anonymous_loopback = false;
    let access = Access::of(&config).unwrap();
    assert_eq!(admit(&access, &here, "localhost", None), Err(401));
}

#[test]
fn who_certificates_and_the_kernel_prove_is_known() {
    let access = Access::of(&Config::default()).unwrap();
    let certified = Peer::Tcp {
        address: "10.0.0.1:2".parse().unwrap(),
        certified: Some("scraper".to_owned()),
    };
    assert_eq!(
        admit(&access, &certified, "10.0.0.2", None),
        Ok("scraper".to_owned())
    );
    let unix = Peer::Unix {
        uid: 1000,
        pid: Some(7),
    };
    // No browser speaks over a unix socket, so any name will do.
    assert_eq!(
        admit(&access, &unix, "anything", None),
        Ok("uid:1000".to_owned())
    );
}

#[test]
fn requests_for_other_hosts_are_refused() {
    let config = Config {
        hosts: vec!["Profiler.example.org".to_owned()],
        ..Config::default()
    };
    let access = Access::of(&config).unwrap();
    let here = tcp("127.0.0.1:4");
    for host in [
        "localhost:6060",
        "LOCALHOST",
        "127.0.0.1:6060",
        "[::1]:6060",
        "10.9.8.7",
        "profiler.example.org",
        "profiler.example.org.:80",
    ] {
        assert_eq!(
            admit(&access, &here, host, None),
            Ok("-".to_owned()),
            "{host}"
        );
    }
    for host in [
        "evil.example.org",
        "localhost.evil.org",
        "",
        "a b",
        "127.0.0.1.nip.io",
    ] {
        assert_eq!(admit(&access, &here, host, None), Err(421), "{host}");
    }
    let machine = rustix::system::uname();
    let machine = machine.nodename().to_string_lossy().into_owned();
    assert_eq!(admit(&access, &here, &machine, None), Ok("-".to_owned()));
}

#[test]
fn a_refusal_is_one_line_that_pprof_shows() {
    let response = unauthorized("wrong password or token");
    let header = |name: &str| response.headers()[name].to_str().unwrap();
    assert_eq!(header("content-type"), "text/plain; charset=utf-8");
    assert_eq!(header("x-go-pprof"), "1");
    assert_eq!(header("x-content-type-options"), "nosniff");
    assert_eq!(header("www-authenticate"), CHALLENGES[0]);
}

#[track_caller]
fn check_file(text: &str, mode: u32, expected: &str) {
    let files = Files::new();
    let mut config = files.config();
    config.auth.token_file = None;
    config.auth.password_file = Some(files.write("odd", text, mode));
    let error = Access::of(&config).unwrap_err().to_string();
    let name = files.folder.path().join("odd");
    assert_eq!(error.replace(name.to_str().unwrap(), "FILE"), expected);
    assert!(!error.contains("hunter2"));
}

#[test]
fn files_that_are_no_secret_or_hold_none_are_refused() {
    check_file("me:hunter2\n", 0o660, "FILE is no secret");
    check_file("me:hunter2\n", 0o604, "FILE is no secret");
    check_file("me:x\nhunter2\n", 0o600, "line 2 of FILE is wrong");
    check_file(":hunter2\n", 0o600, "line 1 of FILE is wrong");
    check_file("# nobody yet\n\n", 0o600, "FILE names nobody");
}

#[test]
fn a_user_sees_processes_of_their_own_alone() {
    let access = Access::of(&Config::default()).unwrap();
    let own = Target::Process(Pid(std::process::id()));
    let uid = rustix::process::getuid().as_raw();
    let user = Who::User(uid);
    assert_eq!(access.may(&user, &own, "profile"), Ok(()));
    let other = Who::User(uid + 1);
    assert!(access.may(&other, &own, "profile").is_err());
    let nobody = Target::Process(Pid(4_194_304));
    assert!(access.may(&other, &nobody, "profile").is_err());
    for many in [
        Target::Host,
        Target::Comm("x".to_owned()),
        Target::Cgroup("/".into()),
        Target::Container("abcdef".to_owned()),
    ] {
        assert!(access.may(&other, &many, "profile").is_err());
        for all in [Who::User(0), Who::Named("me".to_owned()), Who::Anyone] {
            assert_eq!(access.may(&all, &many, "profile"), Ok(()));
        }
    }
}

#[test]
fn a_disabled_kind_is_for_nobody() {
    let config = Config {
        disabled_kinds: vec!["cmdline".to_owned()],
        ..Config::default()
    };
    let access = Access::of(&config).unwrap();
    let refused = access.may(&Who::User(0), &Target::Host, "cmdline");
    assert_eq!(refused, Err(Refusal("cmdline is disabled here".to_owned())));
    assert_eq!(access.may(&Who::Anyone, &Target::Host, "profile"), Ok(()));
}
