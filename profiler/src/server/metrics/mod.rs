//! What the server does and costs, and who uses the CPUs, in the words of Prometheus.
//!
//! In: the state of the captures, `/proc`, and what became of requests. Out: a text for scrapers, at
//! `/metrics` and `/debug/metrics`. Every label has few values: names of processes are bounded, and
//! kinds are those that are known.

mod processes;
mod text;

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Extension, Router,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
    routing::get,
};
use rustix::time::{ClockId, clock_gettime};

use super::{
    access::{METRICS, refusal},
    policy::{Policy, Who},
};
use crate::captures::{self, Captures, Target};
use processes::Processes;
use text::{Kind, Page};

pub use text::Form;

/// Upper ends of the times that naming took, in seconds.
const NAMING_SECONDS: [f64; 10] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Kinds that are counted by their name; all others are `other`.
const KINDS: [&str; 18] = [
    "allocs",
    "block",
    "cmdline",
    "goroutine",
    "heap",
    "index",
    "lock",
    "metrics",
    "mutex",
    "offcpu",
    "profile",
    "symbol",
    "syscalls",
    "threadcreate",
    "threads",
    "trace",
    "wall",
    "-",
];

/// All that is counted.
pub struct Metrics {
    captures: Arc<dyn Captures>,
    top: AtomicUsize,
    processes: Mutex<Processes>,
    requests: Mutex<BTreeMap<(u16, &'static str), u64>>,
    naming: Mutex<Naming>,
}

/// How long naming took so far.
#[derive(Debug, Default)]
struct Naming {
    /// Those up to each upper end, and all the others last.
    counts: [u64; NAMING_SECONDS.len() + 1],
    sum: Duration,
}

impl Naming {
    fn add(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        let place = NAMING_SECONDS.iter().position(|end| seconds <= *end);
        self.counts[place.unwrap_or(NAMING_SECONDS.len())] += 1;
        self.sum += took;
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Counts from now on. `top` names of processes are told.
    #[must_use]
    pub fn new(captures: Arc<dyn Captures>, top: usize) -> Self {
        Self {
            captures,
            top: AtomicUsize::new(top),
            processes: Mutex::new(Processes::new(Path::new("/proc"))),
            requests: Mutex::default(),
            naming: Mutex::default(),
        }
    }

    /// Has another number of names be told from now on.
    pub fn set_top(&self, top: usize) {
        self.top.store(top, Ordering::Relaxed);
    }

    /// Counts a request. Without a status it came to no answer.
    pub fn count(&self, status: Option<u16>, kind: &str) {
        let kind = match KINDS.into_iter().find(|known| *known == kind) {
            Some("-") => "page",
            Some(known) => known,
            None => "other",
        };
        let mut requests = lock(&self.requests);
        *requests.entry((status.unwrap_or(0), kind)).or_default() += 1;
    }

    /// The text of now.
    #[must_use]
    pub fn text(&self, form: Form) -> String {
        let state = self.captures.state();
        let mut page = Page::new(form);
        page.family("ebpfprof_build", Kind::Info, "The version that runs.");
        page.sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
        write_captures(&state, &mut page);
        self.write_naming(&state.naming, &mut page);
        write_own(&state, &mut page);
        self.write_requests(&mut page);
        self.write_processes(&mut page);
        page.finish()
    }

    fn write_naming(&self, new: &[Duration], page: &mut Page) {
        let mut naming = lock(&self.naming);
        for took in new {
            naming.add(*took);
        }
        page.family(
            "ebpfprof_symbolize_duration_seconds",
            Kind::Histogram,
            "How long naming a capture took.",
        );
        let mut sum = 0;
        for (end, count) in NAMING_SECONDS.iter().zip(naming.counts) {
            sum += count;
            page.part("_bucket", &[("le", &format!("{end:?}"))], sum);
        }
        sum += naming.counts[NAMING_SECONDS.len()];
        page.part("_bucket", &[("le", "+Inf")], sum);
        page.part("_sum", &[], naming.sum.as_secs_f64());
        page.part("_count", &[], sum);
    }

    fn write_requests(&self, page: &mut Page) {
        page.family(
            "ebpfprof_http_requests",
            Kind::Counter,
            "Requests by status and kind; status 0 came to no answer.",
        );
        for ((code, kind), count) in &*lock(&self.requests) {
            page.sample(&[("code", &code.to_string()), ("kind", kind)], count);
        }
    }

    fn write_processes(&self, page: &mut Page) {
        let top = self.top.load(Ordering::Relaxed);
        let busiest = lock(&self.processes).busiest(top, Instant::now());
        page.family(
            "ebpfprof_process_cpu_seconds",
            Kind::Counter,
            "CPU time of the busiest processes, by name and service.",
        );
        for (name, seconds) in busiest {
            let labels = [("comm", &*name.comm), ("service", &*name.service)];
            page.sample(&labels, seconds);
        }
    }
}

/// A panic leaves counts that are right.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn write_captures(state: &captures::State, page: &mut Page) {
    let cpu = [("kind", "cpu")];
    page.family("ebpfprof_samples", Kind::Counter, "Samples that arrived.");
    page.sample(&cpu, state.kept);
    page.family(
        "ebpfprof_due_samples",
        Kind::Counter,
        "Samples that were due on the targets of captures.",
    );
    page.sample(&cpu, state.due);
    page.family(
        "ebpfprof_lost_samples",
        Kind::Counter,
        "Samples that were due and did not arrive.",
    );
    for (reason, count) in &state.lost {
        page.sample(&[("reason", reason)], count);
    }
    page.family(
        "ebpfprof_unwind_errors",
        Kind::Counter,
        "Stacks that were cut.",
    );
    for (reason, count) in &state.cut {
        page.sample(&[("reason", reason)], count);
    }
    page.family("ebpfprof_captures", Kind::Counter, "Captures that ended.");
    page.sample(&[("result", "answered")], state.finished);
    page.sample(&[("result", "abandoned")], state.abandoned);
    page.family(
        "ebpfprof_sessions_in_flight",
        Kind::Gauge,
        "Captures that run.",
    );
    page.sample(&[], state.running);
    page.family(
        "ebpfprof_sampling_frequency_hertz",
        Kind::Gauge,
        "Samples per second and CPU; 0 while nobody asks.",
    );
    page.sample(&[], state.frequency_hz);
}

/// What we take ourselves.
fn write_own(state: &captures::State, page: &mut Page) {
    let cpu = Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default();
    page.family(
        "ebpfprof_self_cpu_seconds",
        Kind::Counter,
        "CPU time of this process.",
    );
    page.sample(&[], cpu.as_secs_f64());
    if let Some(bpf) = state.bpf {
        page.family(
            "ebpfprof_self_bpf_cpu_seconds",
            Kind::Counter,
            "CPU time of its programs in the kernel.",
        );
        page.sample(&[], bpf.as_secs_f64());
    }
    page.family(
        "ebpfprof_self_resident_memory_bytes",
        Kind::Gauge,
        "Memory of this process.",
    );
    page.sample(&[], resident_bytes());
    page.family(
        "ebpfprof_self_kernel_memory_bytes",
        Kind::Gauge,
        "Memory of its rings and tables in the kernel.",
    );
    page.sample(&[], state.kernel_bytes);
    page.family(
        "ebpfprof_self_open_files",
        Kind::Gauge,
        "Files that this process has open.",
    );
    page.sample(&[], open_files());
}

/// Source: the second field of `/proc/self/statm`, proc_pid_statm(5).
fn resident_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    let page_bytes = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
    pages.unwrap_or(0) * page_bytes
}

fn open_files() -> usize {
    // One of them is the folder that is read.
    fs::read_dir("/proc/self/fd").map_or(0, |files| files.count().saturating_sub(1))
}

/// The routes of the scrapers.
pub fn routes(metrics: Arc<Metrics>, policy: Arc<dyn Policy>) -> Router {
    Router::new()
        .route("/metrics", get(answer))
        .route("/debug/metrics", get(answer))
        .with_state((metrics, policy))
}

type Shared = (Arc<Metrics>, Arc<dyn Policy>);

async fn answer(
    State((metrics, policy)): State<Shared>,
    Extension(who): Extension<Who>,
    headers: HeaderMap,
) -> Response {
    if let Err(why) = policy.may(&who, &Target::Host, METRICS) {
        return refusal(StatusCode::FORBIDDEN, &why.0);
    }
    let accept = headers.get_all(header::ACCEPT).iter();
    let accept: Vec<&str> = accept.filter_map(|value| value.to_str().ok()).collect();
    let form = Form::accepted(&accept.join(","));
    // Hundreds of files of `/proc` are read.
    let Ok(text) = tokio::task::spawn_blocking(move || metrics.text(form)).await else {
        return refusal(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the metrics could not be read; see the log",
        );
    };
    let mut response = Response::new(Body::from(text));
    for (name, value) in [
        (header::CONTENT_TYPE, form.content_type()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        let value = HeaderValue::from_static(value);
        response.headers_mut().insert(name, value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::captures::{CaptureError, Captured, Pending, Recent, Wanted};

    struct Fake;

    impl Captures for Fake {
        fn capture(&self, _: Wanted) -> Pending<Captured> {
            Box::pin(std::future::ready(Err(CaptureError::Ended)))
        }

        fn recent(&self, _: Recent) -> Pending<Captured> {
            Box::pin(std::future::ready(Err(CaptureError::NoRecorder)))
        }

        fn state(&self) -> captures::State {
            captures::State {
                running: 2,
                kept: 90,
                due: 100,
                lost: vec![("ring full", 10)],
                naming: vec![Duration::from_millis(30), Duration::from_secs(20)],
                ..captures::State::default()
            }
        }
    }

    #[test]
    fn durations_of_naming_add_up_over_scrapes() {
        let metrics = Metrics::new(Arc::new(Fake), 3);
        let first = metrics.text(Form::Prometheus);
        assert!(first.contains("\nebpfprof_symbolize_duration_seconds_count 2\n"));
        let text = metrics.text(Form::Prometheus);
        for line in [
            "ebpfprof_symbolize_duration_seconds_bucket{le=\"0.025\"} 0",
            "ebpfprof_symbolize_duration_seconds_bucket{le=\"0.05\"} 2",
            "ebpfprof_symbolize_duration_seconds_bucket{le=\"1.0\"} 2",
            "ebpfprof_symbolize_duration_seconds_bucket{le=\"+Inf\"} 4",
            "ebpfprof_symbolize_duration_seconds_sum 40.06",
            "ebpfprof_symbolize_duration_seconds_count 4",
            "ebpfprof_lost_samples_total{reason=\"ring full\"} 10",
            "ebpfprof_samples_total{kind=\"cpu\"} 90",
            "ebpfprof_sessions_in_flight 2",
        ] {
            assert!(text.contains(&format!("\n{line}\n")), "{line}:\n{text}");
        }
    }

    #[test]
    fn what_clients_name_makes_no_label() {
        let metrics = Metrics::new(Arc::new(Fake), 0);
        for number in 0..1000 {
            metrics.count(Some(404), &format!("kind-{number}"));
        }
        metrics.count(Some(200), "profile");
        metrics.count(None, "profile");
        metrics.count(Some(200), "-");
        let text = metrics.text(Form::OpenMetrics);
        let rows: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("ebpfprof_http_requests_total"))
            .collect();
        assert_eq!(
            rows,
            [
                "ebpfprof_http_requests_total{code=\"0\",kind=\"profile\"} 1",
                "ebpfprof_http_requests_total{code=\"200\",kind=\"page\"} 1",
                "ebpfprof_http_requests_total{code=\"200\",kind=\"profile\"} 1",
                "ebpfprof_http_requests_total{code=\"404\",kind=\"other\"} 1000",
            ]
        );
    }
}
