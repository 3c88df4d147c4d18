//! A line for each request: who asked for what, what they got, and what it cost.
//!
//! In: what is known of a request at its end. Out: one line of `key=value`, to the log or to a file.
//! Whatever a client sends is in it, so values are bounded and hold no control character.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use thiserror::Error;

use super::config::AuditTo;
use crate::error::{Explain, kernel_words};

/// The target of these lines in the log.
pub const LOG_TARGET: &str = "audit";

/// Most letters of a value.
const MOST_LETTERS: usize = 160;

/// What an answer cost. A route puts it among the extensions of its response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// CPU time, in the kernel and out of it.
    pub cpu: Duration,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All of the answer was handed over.
    Whole,
    /// The client went away, took too long, or we ended.
    Aborted,
}

/// A request, at its end.
#[derive(Clone, Debug)]
pub struct Line {
    /// When it came.
    pub time: Timestamp,
    /// Who sent it: as [`Who`](super::policy::Who) shows itself.
    pub who: String,
    /// From where.
    pub peer: String,
    /// Its method.
    pub method: String,
    /// The target in its path.
    pub target: String,
    /// The kind in its path.
    pub kind: String,
    /// The status of the answer; `None` if it came to none.
    pub status: Option<u16>,
    /// How long it took.
    pub duration: Duration,
    /// Bytes of the answer's body that were handed over.
    pub bytes: u64,
    /// What it cost, if that is known.
    pub cost: Option<Cost>,
    /// What the client calls itself.
    pub agent: String,
    /// How it ended.
    pub ending: Ending,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "time={:.3} who={}", self.time, Value(&self.who))?;
        write!(f, " peer={}", Value(&self.peer))?;
        write!(f, " method={}", Value(&self.method))?;
        write!(f, " target={}", Value(&self.target))?;
        write!(f, " kind={} status=", Value(&self.kind))?;
        match self.status {
            Some(status) => status.fmt(f)?,
            None => f.write_str("-")?,
        }
        write!(f, " ms={} bytes={}", self.duration.as_millis(), self.bytes)?;
        match self.cost {
            Some(cost) => write!(f, " cpu_ms={:.1}", cost.cpu.as_secs_f64() * 1e3)?,
            None => f.write_str(" cpu_ms=-")?,
        }
        let ending = match self.ending {
            Ending::Whole => "whole",
            Ending::Aborted => "aborted",
        };
        write!(f, " end={ending} agent={}", Value(&self.agent))
    }
}

/// A value that a client may have chosen: one word, or in quotes with escapes.
struct Value<'a>(&'a str);

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.0.char_indices().nth(MOST_LETTERS);
        let shown = &self.0[..end.map_or(self.0.len(), |(at, _)| at)];
        let cut = if end.is_some() { "…" } else { "" };
        let plain = |c: char| c.is_ascii_graphic() && !"\"\\=".contains(c);
        match shown {
            "" => f.write_str("-"),
            word if word.chars().all(plain) => write!(f, "{word}{cut}"),
            text => write!(f, "{:?}", format!("{text}{cut}")),
        }
    }
}

/// Why there is no file for the lines.
#[derive(Debug, Error)]
#[error("cannot write the audit file {}", .path.display())]
pub struct AuditError {
    path: PathBuf,
    source: io::Error,
}

impl Explain for AuditError {
    fn why(&self) -> String {
        kernel_words(&self.source)
    }

    fn advice(&self) -> String {
        let folder = self.path.parent().unwrap_or(&self.path);
        format!("ls -ld {}", folder.display())
    }

    fn is_misuse(&self) -> bool {
        true
    }
}

/// Where the lines go.
#[derive(Debug)]
pub struct Audit {
    to: Mutex<To>,
}

#[derive(Debug)]
enum To {
    Log,
    File(File),
    Nowhere,
}

impl To {
    fn open(to: &AuditTo) -> Result<Self, AuditError> {
        let path = match to {
            AuditTo::Log => return Ok(Self::Log),
            AuditTo::Nowhere => return Ok(Self::Nowhere),
            AuditTo::File(path) => path,
        };
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o640)
            .open(path);
        file.map(Self::File).map_err(|source| AuditError {
            path: path.clone(),
            source,
        })
    }
}

impl Audit {
    /// Opens it.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(to: &AuditTo) -> Result<Self, AuditError> {
        Ok(Self {
            to: Mutex::new(To::open(to)?),
        })
    }

    /// Opens it anew: the file may have been moved away.
    ///
    /// # Errors
    /// When the file cannot be opened; lines go where they went.
    pub fn reopen(&self, to: &AuditTo) -> Result<(), AuditError> {
        let opened = To::open(to)?;
        *self.to.lock().unwrap_or_else(PoisonError::into_inner) = opened;
        Ok(())
    }

    /// Writes a line.
    pub fn write(&self, line: &Line) {
        let mut to = self.to.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *to {
            To::Nowhere => {}
            To::Log => log::info!(target: LOG_TARGET, "{line}"),
            // One call, so that lines of two servers stay apart.
            To::File(file) => {
                if let Err(error) = file.write_all(format!("{line}\n").as_bytes()) {
                    log::error!("a line of the audit is lost: {error}: {line}");
                }
            }
        }
    }
}

/// The target and the kind in a path, as it was sent.
#[must_use]
pub fn named_in(path: &str) -> (&str, &str) {
    let Some((target, rest)) = path.split_once("/debug/pprof") else {
        return match path {
            "/metrics" | "/debug/metrics" => ("-", "metrics"),
            _ => (path, "-"),
        };
    };
    let target = target.trim_matches('/');
    let kind = rest.trim_matches('/');
    (
        if target.is_empty() { "host" } else { target },
        if kind.is_empty() { "index" } else { kind },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> Line {
        Line {
            time: Timestamp::from_millisecond(1_700_000_000_120).unwrap(),
            who: "me".to_owned(),
            peer: "127.0.0.1:4".to_owned(),
            method: "GET".to_owned(),
            target: "pid/77".to_owned(),
            kind: "profile".to_owned(),
            status: Some(200),
            duration: Duration::from_millis(5012),
            bytes: 1234,
            cost: Some(Cost {
                cpu: Duration::from_micros(12_345),
            }),
            agent: "Go-http-client/1.1".to_owned(),
            ending: Ending::Whole,
        }
    }

    #[test]
    fn a_line_tells_who_got_what_and_what_it_cost() {
        let expected = "time=2023-11-14T22:13:20.120Z who=me peer=127.0.0.1:4 method=GET target=pid/77 kind=profile status=200 ms=5012 bytes=1234 cpu_ms=12.3 end=whole agent=Go-http-client/1.1";
        assert_eq!(line().to_string(), expected);
        let aborted = Line {
            status: None,
            cost: None,
            agent: String::new(),
            ending: Ending::Aborted,
            ..line()
        };
        let text = aborted.to_string();
        assert!(
            text.ends_with("status=- ms=5012 bytes=1234 cpu_ms=- end=aborted agent=-"),
            "{text}"
        );
    }

    #[test]
    fn nothing_that_a_client_sends_makes_a_second_line_or_key() {
        for (sent, shown) in [
            ("a\nb", "\"a\\nb\""),
            ("a who=root", "\"a who=root\""),
            ("who=root", "\"who=root\""),
            ("\u{1b}[2J", "\"\\u{1b}[2J\""),
            ("\"", "\"\\\"\""),
            ("ü", "\"ü\""),
        ] {
            assert_eq!(Value(sent).to_string(), shown);
        }
        let long = Value(&"x".repeat(5000)).to_string();
        assert_eq!(long.chars().count(), MOST_LETTERS + 1);
        let long = Value(&"\n".repeat(5000)).to_string();
        assert!(long.len() < 3 * MOST_LETTERS && !long.contains('\n'));
    }

    #[test]
    fn targets_and_kinds_stand_in_the_path() {
        for (path, expected) in [
            ("/debug/pprof/profile", ("host", "profile")),
            ("/debug/pprof/", ("host", "index")),
            ("/debug/pprof", ("host", "index")),
            ("/pid/7/debug/pprof/symbol", ("pid/7", "symbol")),
            ("/cgroup/a/b/debug/pprof/heap", ("cgroup/a/b", "heap")),
            ("/metrics", ("-", "metrics")),
            ("/pid/7", ("/pid/7", "-")),
            ("/", ("/", "-")),
        ] {
            assert_eq!(named_in(path), expected, "{path}");
        }
    }

    #[test]
    fn lines_are_added_to_a_file_and_a_moved_one_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let to = AuditTo::File(path.clone());
        let audit = Audit::open(&to).unwrap();
        audit.write(&line());
        audit.write(&line());
        std::fs::rename(&path, folder.path().join("audit.log.1")).unwrap();
        audit.reopen(&to).unwrap();
        audit.write(&line());
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1);
        let missing = AuditTo::File(folder.path().join("no/such"));
        assert!(audit.reopen(&missing).is_err());
        audit.write(&line());
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 2);
    }
}
