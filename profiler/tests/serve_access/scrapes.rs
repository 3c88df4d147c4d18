//! The metrics, as scrapers read them.

use std::{
    collections::BTreeSet,
    io::Write,
    process::{Command, Stdio},
};

use crate::service::Service;

#[test]
fn promtool_has_nothing_to_say_of_the_metrics() {
    let service = Service::start(|_, _| {});
    service.get("/debug/pprof/profile", "");
    let answer = service.get("/metrics", "");
    assert_eq!(answer.status, 200);
    assert!(answer.has("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"));
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut promtool = promtool.expect("promtool is here: apt-get install prometheus");
    let mut input = promtool.stdin.take().unwrap();
    input.write_all(answer.body.as_bytes()).unwrap();
    drop(input);
    let said = promtool.wait_with_output().unwrap();
    let words = [said.stdout, said.stderr].concat();
    assert_eq!(String::from_utf8_lossy(&words), "", "{}", answer.body);
    assert!(said.status.success());
}

#[test]
fn the_metrics_have_the_names_that_dashboards_ask_for() {
    let service = Service::start(|_, _| {});
    service.get("/debug/pprof/profile", "");
    // A request is counted when its answer is out.
    service.lines(1);
    let text = service.get("/debug/metrics", "").body;
    for part in [
        "\nebpfprof_samples_total{kind=\"cpu\"} 990\n",
        "\nebpfprof_lost_samples_total{reason=\"ring full\"} 6\n",
        "\nebpfprof_lost_samples_total{reason=\"nmi \\\"busy\\\"\"} 4\n",
        "\nebpfprof_unwind_errors_total{reason=\"no rule\"} 3\n",
        "\nebpfprof_self_cpu_seconds_total ",
        "\nebpfprof_self_resident_memory_bytes ",
        "\nebpfprof_symbolize_duration_seconds_bucket{le=\"0.1\"} 1\n",
        "\nebpfprof_sessions_in_flight 1\n",
        "\nebpfprof_build_info{version=\"",
        "\nebpfprof_http_requests_total{code=\"200\",kind=\"profile\"} 1\n",
        "\nebpfprof_process_cpu_seconds_total{comm=\"",
    ] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
    let names = text
        .lines()
        .filter(|line| line.starts_with("ebpfprof_process_cpu_seconds"));
    assert!(names.count() <= 20);
}

#[test]
fn open_metrics_are_for_those_who_ask_for_them() {
    let service = Service::start(|_, _| {});
    let accept =
        "Accept: application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5\r\n";
    let answer = service.get("/metrics", accept);
    assert!(answer.has("content-type: application/openmetrics-text; version=1.0.0"));
    assert!(answer.body.ends_with("\n# EOF\n"));
    assert!(
        answer
            .body
            .contains("# TYPE ebpfprof_samples counter\nebpfprof_samples_total{")
    );
    assert!(
        answer
            .body
            .contains("# TYPE ebpfprof_build info\nebpfprof_build_info{")
    );
}

const DASHBOARD: &str = include_str!("../../../contrib/grafana-dashboard.json");

/// Names of metrics in a text, without what parts of a histogram end in.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let names = words.filter(|word| word.starts_with("ebpfprof_"));
    let names = names.map(|name| name.strip_suffix("_bucket").unwrap_or(name).to_owned());
    names.collect()
}

#[test]
fn the_dashboard_asks_for_what_there_is() {
    let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD).unwrap();
    assert_eq!(dashboard["templating"]["list"][0]["type"], "datasource");
    let service = Service::start(|_, _| {});
    service.get("/metrics", "");
    service.lines(1);
    let there = names(&service.get("/metrics", "").body);
    let asked = names(DASHBOARD);
    assert!(asked.len() > 10, "{asked:?}");
    let missing: Vec<&String> = asked.difference(&there).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
