//! Addresses: which page or profile a path names, and of whom.
//!
//! The target stands in the path and not in the query: `go tool pprof` asks for symbols at
//! `…/debug/pprof/symbol` without the query that it was given. Every part of a path is decoded once,
//! after the path was cut at its slashes, so an encoded slash belongs to a name.

use std::{ffi::OsString, os::unix::ffi::OsStringExt, path::PathBuf};

use super::{Subject, problem::Problem};
use crate::{captures::Target, target::Pid};

/// Longest path, in bytes: the kernel's for a cgroup's path, encoded.
const MOST_PATH_BYTES: usize = 3 * 4096;
/// Longest name of a container or of a kind, in bytes.
const MOST_NAME_BYTES: usize = 256;
/// Bytes of a thread's name. Source: `TASK_COMM_LEN` in `include/linux/sched.h`, less the NUL.
pub(super) const MOST_COMM_BYTES: usize = 15;

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Page {
    /// The processes of the host.
    Processes,
    /// A process.
    Process,
    /// What is there, with a slash behind it.
    Moved,
    /// The kinds of profiles.
    Index,
    /// A profile, by its kind's name.
    Kind(String),
}

/// A path that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) target: Target,
    pub(super) page: Page,
}

impl Route {
    /// Reads a path as it stands in a request.
    pub(super) fn of(path: &str) -> Result<Self, Problem> {
        if path.len() > MOST_PATH_BYTES {
            return Err(Problem::long_path(MOST_PATH_BYTES));
        }
        let parts: Vec<&str> = path.strip_prefix('/').unwrap_or(path).split('/').collect();
        let (target, rest) = match parts[..] {
            [""] => {
                return Ok(Self {
                    target: Target::Host,
                    page: Page::Processes,
                });
            }
            ["debug", ..] => (Target::Host, &parts[..]),
            ["pid", pid, ref rest @ ..] => (process(pid)?, rest),
            ["comm", name, ref rest @ ..] => (comm(name)?, rest),
            ["container", id, ref rest @ ..] => (container(id)?, rest),
            ["cgroup", ref rest @ ..] => {
                let at = end_of_cgroup(rest).ok_or_else(no_page)?;
                (cgroup(&rest[..at])?, &rest[at..])
            }
            _ => return Err(no_page()),
        };
        let page = match rest {
            [] | [""] if matches!(target, Target::Process(_)) => Page::Process,
            ["debug", "pprof"] => Page::Moved,
            ["debug", "pprof", ""] => Page::Index,
            ["debug", "pprof", kind] => Page::Kind(name(kind, "a profile")?),
            _ => return Err(no_page()),
        };
        Ok(Self { target, page })
    }

    /// What it is about, for those who decide and those who log.
    pub(super) fn subject(&self) -> Subject {
        let kind = match &self.page {
            Page::Processes => "processes",
            Page::Process => "process",
            Page::Moved | Page::Index => "index",
            Page::Kind(name) => name,
        };
        Subject {
            target: self.target.clone(),
            kind: kind.to_owned(),
        }
    }
}

fn no_page() -> Problem {
    Problem::absent(
        "no such page; try: /, /debug/pprof/, /pid/N/debug/pprof/, or the same below /comm/NAME, /cgroup/PATH, /container/ID",
    )
}

fn process(part: &str) -> Result<Target, Problem> {
    let pid = name(part, "a process")?.parse::<Pid>();
    let pid = pid.map_err(|error| Problem::bad(error.to_string()))?;
    Ok(Target::Process(pid))
}

fn comm(part: &str) -> Result<Target, Problem> {
    let name = name(part, "a thread")?;
    if name.len() > MOST_COMM_BYTES {
        return Err(Problem::bad(format!(
            "no thread can be named so: the kernel keeps {MOST_COMM_BYTES} bytes of a name, and this one has {}; try: its first {MOST_COMM_BYTES}",
            name.len()
        )));
    }
    Ok(Target::Comm(name))
}

fn container(part: &str) -> Result<Target, Problem> {
    let id = name(part, "a container")?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/".contains(&byte);
    if id == ".." || !id.bytes().all(is_plain) {
        return Err(Problem::bad(
            "IDs and names of containers hold letters, digits and '-_.:' alone; try: the ID that `docker ps --no-trunc` shows",
        ));
    }
    Ok(Target::Container(id))
}

/// Where the path of a cgroup ends: its own parts may be called `debug` and `pprof` too, so the last
/// ones are ours.
fn end_of_cgroup(parts: &[&str]) -> Option<usize> {
    let ours = ["debug", "pprof"];
    match parts {
        [.., a, b] if [*a, *b] == ours => Some(parts.len() - 2),
        [.., a, b, _] if [*a, *b] == ours => Some(parts.len() - 3),
        _ => None,
    }
}

fn cgroup(parts: &[&str]) -> Result<Target, Problem> {
    let mut path = Vec::new();
    for part in parts {
        path.push(b'/');
        path.extend(decoded(part).ok_or_else(|| broken(part))?);
    }
    let leads_astray = |part: &[u8]| matches!(part, b"" | b"." | b"..");
    let is_clean = path.split(|byte| *byte == b'/').skip(1);
    if !parts.is_empty() && is_clean.into_iter().any(leads_astray) || path.contains(&0) {
        return Err(Problem::bad(
            "the path of a cgroup has no '.', no '..', no empty part and no NUL; try: the path in /proc/PID/cgroup",
        ));
    }
    if path.is_empty() {
        path.push(b'/');
    }
    Ok(Target::Cgroup(PathBuf::from(OsString::from_vec(path))))
}

/// A part of a path as a name.
fn name(part: &str, whose: &str) -> Result<String, Problem> {
    let bytes = decoded(part).ok_or_else(|| broken(part))?;
    if bytes.is_empty() || bytes.len() > MOST_NAME_BYTES || bytes.contains(&0) {
        return Err(Problem::bad(format!(
            "the name of {whose} has 1 to {MOST_NAME_BYTES} bytes and no NUL"
        )));
    }
    String::from_utf8(bytes).map_err(|_| broken(part))
}

fn broken(part: &str) -> Problem {
    let start: String = part.chars().take(40).collect();
    Problem::bad(format!(
        "'{start}' is no encoded name: behind '%' stand two hex digits, and names are UTF-8"
    ))
}

/// Turns `%41` into a byte, once. `None` if a `%` has no two hex digits behind it.
/// Source: RFC 3986, section 2.1.
pub(super) fn decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                let (high, low) = (digit()?, digit()?);
                u8::try_from(16 * high + low).ok()?
            }
            plain => plain,
        });
    }
    Some(bytes)
}

/// A name as one part of a path.
pub(super) fn encoded(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                text.push(char::from(byte));
            }
            other => text.push_str(&format!("%{other:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;

    use super::*;

    #[track_caller]
    fn check(path: &str, target: Target, page: Page) {
        assert_eq!(Route::of(path).unwrap(), Route { target, page }, "{path}");
    }

    #[track_caller]
    fn refused(path: &str, status: StatusCode) {
        assert_eq!(Route::of(path).unwrap_err().status, status, "{path}");
    }

    fn kind(name: &str) -> Page {
        Page::Kind(name.to_owned())
    }

    #[test]
    fn the_target_stands_in_the_path() {
        let cgroup = |path: &str| Target::Cgroup(path.into());
        check("/", Target::Host, Page::Processes);
        check("/debug/pprof", Target::Host, Page::Moved);
        check("/debug/pprof/", Target::Host, Page::Index);
        check("/debug/pprof/heap", Target::Host, kind("heap"));
        check("/pid/77", Target::Process(Pid(77)), Page::Process);
        check("/pid/77/", Target::Process(Pid(77)), Page::Process);
        check("/pid/77/debug/pprof", Target::Process(Pid(77)), Page::Moved);
        check(
            "/comm/kworker%2F0:1/debug/pprof/profile",
            Target::Comm("kworker/0:1".to_owned()),
            kind("profile"),
        );
        check(
            "/container/web-1/debug/pprof/",
            Target::Container("web-1".to_owned()),
            Page::Index,
        );
        check(
            "/cgroup/system.slice/a%20b.service/debug/pprof/profile",
            cgroup("/system.slice/a b.service"),
            kind("profile"),
        );
        check(
            "/cgroup/debug/pprof/debug/pprof/",
            cgroup("/debug/pprof"),
            Page::Index,
        );
        check("/cgroup/debug/pprof/", cgroup("/"), Page::Index);
        // What is in a name is decoded once.
        check("/cgroup/a%252e/debug/pprof/", cgroup("/a%2e"), Page::Index);
    }

    #[test]
    fn what_leads_astray_is_refused() {
        let bad = StatusCode::BAD_REQUEST;
        for path in [
            "/pid/0/debug/pprof/",
            "/pid/x",
            "/pid/99999999999999999999/debug/pprof/",
            "/pid/-1/",
            "/pid/%31%/",
            "/comm/a%00b/debug/pprof/",
            "/comm/%ff/debug/pprof/",
            "/comm//debug/pprof/",
            "/comm/sixteen-bytes-xx/debug/pprof/",
            "/container/a%3bb/debug/pprof/",
            "/container/../debug/pprof/",
            "/cgroup/../debug/pprof/",
            "/cgroup/a/%2e%2e/b/debug/pprof/profile",
            "/cgroup/a%2f..%2fb/debug/pprof/",
            "/cgroup/a//b/debug/pprof/",
            "/cgroup/./debug/pprof/",
            "/cgroup/a%00/debug/pprof/",
            "/debug/pprof/%zz",
        ] {
            refused(path, bad);
        }
        refused(
            &format!("/comm/{}/debug/pprof/", "x".repeat(20_000)),
            StatusCode::URI_TOO_LONG,
        );
        for path in [
            "/debug",
            "/debug/",
            "/debug/pprof/a/b",
            "//debug/pprof/",
            "//evil.example/debug/pprof",
            "/pid",
            "/pid/7/debug",
            "/comm/x",
            "/cgroup/a/b",
            "/metrics/x",
            "/../etc/passwd",
        ] {
            refused(path, StatusCode::NOT_FOUND);
        }
    }

    #[test]
    fn an_encoded_name_is_read_back() {
        for name in ["a b", "kworker/0:1", "é", "100%", "\"<'>&"] {
            let encoded = encoded(name);
            assert!(encoded.bytes().all(|byte| byte.is_ascii_graphic()));
            assert_eq!(decoded(&encoded).unwrap(), name.as_bytes());
        }
    }
}
