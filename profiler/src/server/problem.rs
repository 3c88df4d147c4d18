//! Why a request has no answer: a status, and one line that `go tool pprof` shows to its user.

use std::{io, time::Duration};

use axum::{
    body::Body,
    http::{Response, StatusCode, header},
    response::IntoResponse,
};

use super::answer;
use crate::{
    captures::CaptureError,
    error::{Explain, kernel_words},
    record::RecordError,
    target::TargetError,
};

/// Marks a text that `go tool pprof` may show.
const GO_PPROF: &str = "x-go-pprof";

/// Why a request has no answer.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    words: String,
    /// When to try again, in seconds.
    retry_s: Option<u32>,
    /// The methods that there are.
    allow: Option<&'static str>,
}

impl Problem {
    fn new(status: StatusCode, words: impl Into<String>) -> Self {
        Self {
            status,
            words: words.into(),
            retry_s: None,
            allow: None,
        }
    }

    /// The request makes no sense.
    pub(super) fn bad(words: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, words)
    }

    /// There is no such thing.
    pub(super) fn absent(words: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, words)
    }

    /// Not for this client, or not for us.
    pub(super) fn forbidden(words: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, words)
    }

    /// We cannot do it, and something else may serve.
    pub(super) fn not_made(words: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, words)
    }

    /// As `net/http/pprof` says it.
    pub(super) fn unknown_profile() -> Self {
        Self::absent("Unknown profile")
    }

    /// The method is none of ours.
    pub(super) fn method(takes_posts: bool) -> Self {
        let allow = match takes_posts {
            true => "GET, HEAD, POST",
            false => "GET, HEAD",
        };
        Self {
            allow: Some(allow),
            ..Self::new(
                StatusCode::METHOD_NOT_ALLOWED,
                format!("this path answers {allow} alone"),
            )
        }
    }

    /// The body does not come.
    pub(super) fn slow_body(patience: Duration) -> Self {
        let words = format!("the body did not come within {} s", patience.as_secs());
        Self::new(StatusCode::REQUEST_TIMEOUT, words)
    }

    /// A process keeps its readers waiting.
    pub(super) fn slow_look(patience: Duration) -> Self {
        Self {
            retry_s: Some(10),
            ..Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                format!(
                    "the kernel did not let us look into the process for {} s: its memory is locked; try: again later, or profile, which needs no such look",
                    patience.as_secs()
                ),
            )
        }
    }

    /// The address is longer than any of ours.
    pub(super) fn long_path(most_bytes: usize) -> Self {
        let words = format!("the path is longer than {most_bytes} bytes");
        Self::new(StatusCode::URI_TOO_LONG, words)
    }

    /// As many captures run as may.
    pub(super) fn too_many(most: usize) -> Self {
        Self {
            retry_s: Some(1),
            ..Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                format!(
                    "{most} captures run already, and no more may at one time; try: again in a second"
                ),
            )
        }
    }

    /// The profile is larger than an answer may be.
    pub(super) fn too_long(most_bytes: usize) -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!(
                "the profile takes more than the {most_bytes} bytes that an answer may have; try: fewer seconds, a lower hz, or format=pprof, which is the smallest"
            ),
        )
    }

    /// We panicked. The rest was told where it happened.
    pub(super) fn bug() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            concat!(
                "a bug in ebpfprof ",
                env!("CARGO_PKG_VERSION"),
                ": the server's log says what and where, and how to report it"
            ),
        )
    }

    fn explained(status: StatusCode, what: &str, why: &str, advice: &str) -> Self {
        Self::new(status, format!("{what}: {why}; try: {advice}"))
    }

    /// A target that is not there, or that cannot be one.
    pub(super) fn of_target(error: &TargetError) -> Self {
        let (status, what) = match error {
            TargetError::NoSuchProcess { pid } => {
                (StatusCode::NOT_FOUND, format!("pid {pid}: no such process"))
            }
            TargetError::Zombie { .. }
            | TargetError::NoSuchThread { .. }
            | TargetError::NoSuchCgroup { .. }
            | TargetError::ThreadAsProcess { .. }
            | TargetError::NoSuchContainer { .. } => (StatusCode::NOT_FOUND, error.to_string()),
            TargetError::Unreadable { source, .. } if is_refusal(source) => {
                (StatusCode::FORBIDDEN, error.to_string())
            }
            error if error.is_misuse() => (StatusCode::BAD_REQUEST, error.to_string()),
            error => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        };
        // What to type is about addresses here, and not about options.
        let advice = match error {
            TargetError::NoSuchProcess { .. } | TargetError::Zombie { .. } => {
                "the list of processes at /, or /comm/NAME/debug/pprof/ for whoever has the name"
                    .to_owned()
            }
            TargetError::ThreadAsProcess { pid, .. } => format!("/pid/{pid}/debug/pprof/"),
            TargetError::KernelThread { .. } => "/debug/pprof/, for the whole host".to_owned(),
            TargetError::ImpossibleComm { .. } => "a name as `ps -eo comm` shows it".to_owned(),
            TargetError::PidNamespace { .. } => {
                "ebpfprof serve on the host, or in a container started with --pid=host".to_owned()
            }
            error => error.advice(),
        };
        Self::explained(status, &what, &error.why(), &advice)
    }

    /// No capture.
    pub(super) fn of_capture(error: &CaptureError) -> Self {
        match error {
            CaptureError::Record(error) => Self::of_recording(error),
            CaptureError::TooMany { most } => Self::too_many(*most),
            CaptureError::NoRecorder => Self::not_made(
                "the flight recorder is off: nothing was kept of what is past; try: seconds=30, or `recorder = \"5m\"` in the server's configuration",
            ),
            CaptureError::Ended => Self {
                retry_s: Some(5),
                ..Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "the sampler has ended: the server stops or starts anew; try: again in some seconds",
                )
            },
        }
    }

    fn of_recording(error: &RecordError) -> Self {
        let status = match error {
            RecordError::Target(error) => return Self::of_target(error),
            RecordError::Maps { pid, source } => match source.raw_os_error() {
                Some(libc::ENOENT | libc::ESRCH) => {
                    return Self::of_target(&TargetError::NoSuchProcess { pid: *pid });
                }
                _ => status_of(error),
            },
            _ => status_of(error),
        };
        let advice = match error {
            RecordError::Maps { .. } => "ebpfprof serve as root, or with CAP_SYS_PTRACE".to_owned(),
            error => error.advice(),
        };
        Self::explained(status, &error.to_string(), &error.why(), &advice)
    }

    /// Something of a process that could not be read.
    pub(super) fn of_process(pid: crate::target::Pid, error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ESRCH) => {
                Self::of_target(&TargetError::NoSuchProcess { pid })
            }
            _ => {
                let status = match is_refusal(error) {
                    true => StatusCode::FORBIDDEN,
                    false => StatusCode::INTERNAL_SERVER_ERROR,
                };
                let advice = "ebpfprof serve as root, or with CAP_SYS_PTRACE";
                let what = format!("cannot look at pid {pid}");
                Self::explained(status, &what, &kernel_words(error), advice)
            }
        }
    }
}

fn is_refusal(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

/// Refused, if the system said so anywhere on the way.
fn status_of(error: &RecordError) -> StatusCode {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<io::Error>().is_some_and(is_refusal) {
            return StatusCode::FORBIDDEN;
        }
        cause = error.source();
    }
    StatusCode::INTERNAL_SERVER_ERROR
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response<Body> {
        let line = self.words.replace(|c: char| c.is_control(), " ");
        let mut response = answer::text(format!("{line}\n"));
        *response.status_mut() = self.status;
        answer::set(
            &mut response,
            header::HeaderName::from_static(GO_PPROF),
            "1",
        );
        if let Some(seconds) = self.retry_s {
            answer::set(&mut response, header::RETRY_AFTER, &seconds.to_string());
        }
        if let Some(methods) = self.allow {
            answer::set(&mut response, header::ALLOW, methods);
        }
        response
    }
}
