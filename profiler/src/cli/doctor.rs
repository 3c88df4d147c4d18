//! `ebpfprof doctor`: what this host allows, and what mends what it does not.

use std::{
    io::{self, BufWriter, Write},
    path::Path,
    process::ExitCode,
    time::Instant,
};

use serde::Serialize;

use super::{args::DoctorArgs, printable, start_log, trouble::Trouble};
use crate::{
    doctor::{
        Finding, Host, ObjectReport, ProcessReport, RunningKernel, State, UnwindReport, examine,
        examine_process, verdict,
    },
    object::opener,
    symbolize::{LineSource, NameSource},
};

/// Where effects and fixes begin on their lines.
const INDENT: &str = "                          ";

/// All that is found, as programs read it.
#[derive(Debug, Serialize)]
struct Report {
    verdict: State,
    findings: Vec<Finding>,
    processes: Vec<ProcessReport>,
}

/// Examines, and shows what was found. That is its result and goes to stdout.
pub(super) fn run(args: &DoctorArgs) -> Result<ExitCode, Trouble> {
    start_log(args.verbose);
    opener::enable();
    let processes = args
        .pid
        .iter()
        .map(|pid| examine_process(*pid))
        .collect::<Result<Vec<ProcessReport>, _>>()?;
    let started = Instant::now();
    let findings = examine(&Host::at(Path::new("/"), &RunningKernel));
    log::debug!("examined the host in {:?}", started.elapsed());
    let of_processes = processes.iter().flat_map(|process| &process.findings);
    let report = Report {
        verdict: verdict(findings.iter().chain(of_processes)),
        findings,
        processes,
    };
    let mut out = BufWriter::new(io::stdout().lock());
    let written = if args.json {
        write_json(&report, &mut out)
    } else {
        write_text(&report, &mut out)
    };
    match written.and_then(|()| out.flush()) {
        Ok(()) => {}
        // Whoever read it has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        Err(error) => {
            return Err(Trouble::failure(
                "cannot write to stdout",
                error.to_string(),
                "ebpfprof doctor > doctor.txt, where there is room",
            ));
        }
    }
    Ok(match report.verdict {
        State::Ok | State::Limited => ExitCode::SUCCESS,
        State::Broken => ExitCode::FAILURE,
    })
}

fn write_json(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, report)?;
    writeln!(out)
}

fn write_text(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    write_findings(&report.findings, out)?;
    for process in &report.processes {
        write_process(process, out)?;
    }
    if !report.processes.is_empty() {
        writeln!(out)?;
    }
    let count = |state| {
        let of_processes = report.processes.iter().flat_map(|found| &found.findings);
        let all = report.findings.iter().chain(of_processes);
        all.filter(|finding| finding.state == state).count()
    };
    let (limited, broken) = (count(State::Limited), count(State::Broken));
    match report.verdict {
        State::Ok => writeln!(out, "profiling works on this host"),
        State::Limited => writeln!(out, "profiling works on this host, with limits: {limited}"),
        State::Broken => writeln!(
            out,
            "profiling does not work on this host: {broken} broken, {limited} limited"
        ),
    }
}

fn write_findings(findings: &[Finding], out: &mut dyn Write) -> io::Result<()> {
    for finding in findings {
        let (state, check) = (finding.state.name(), finding.check);
        writeln!(out, "{state:<8} {check:<16} {}", printable(&finding.what))?;
        if let Some(effect) = &finding.effect {
            writeln!(out, "{INDENT}effect: {}", printable(effect))?;
        }
        if let Some(fix) = &finding.fix {
            writeln!(out, "{INDENT}fix:    {}", printable(fix))?;
        }
    }
    Ok(())
}

fn write_process(process: &ProcessReport, out: &mut dyn Write) -> io::Result<()> {
    writeln!(
        out,
        "\nprocess {} ({})",
        process.pid,
        printable(&process.comm)
    )?;
    write_findings(&process.findings, out)?;
    writeln!(
        out,
        "\n{:>9} {:>8}  {:<14} {:<11} object",
        "code KiB", "rules", "names", "lines"
    )?;
    for object in &process.objects {
        write_object(object, out)?;
    }
    if process.objects_left_out > 0 {
        writeln!(out, "and {} smaller ones", process.objects_left_out)?;
    }
    Ok(())
}

fn write_object(object: &ObjectReport, out: &mut dyn Write) -> io::Result<()> {
    let rules = match object.unwind {
        Some(UnwindReport::Rules { percent, .. }) => format!("{percent:.1}%"),
        Some(UnwindReport::Go) => "Go".to_owned(),
        Some(UnwindReport::FramePointer) => "none".to_owned(),
        None => "?".to_owned(),
    };
    let names = object.names.map_or("unreadable", NameSource::name);
    let (lines, file) = match &object.lines {
        None => ("unreadable", None),
        Some(LineSource::Own) => ("own", None),
        Some(LineSource::GoTable) => ("Go's table", None),
        Some(LineSource::DebugFile(path)) => ("debug file", Some(path)),
        Some(LineSource::Nothing) => ("none", None),
    };
    let (kib, path) = (object.code_bytes >> 10, printable(&object.path));
    write!(out, "{kib:>9} {rules:>8}  {names:<14} {lines:<11} {path}")?;
    if let Some(id) = &object.build_id {
        write!(out, " (build id {id})")?;
    }
    if let Some(file) = file {
        write!(out, ", {}", printable(&file.to_string_lossy()))?;
    }
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(state: State, effect: Option<&str>) -> Finding {
        Finding {
            check: "perf-events",
            state,
            what: "what is so".to_owned(),
            effect: effect.map(str::to_owned),
            fix: effect.map(|_| "what to type".to_owned()),
        }
    }

    fn report(findings: Vec<Finding>) -> Report {
        Report {
            verdict: verdict(findings.iter()),
            findings,
            processes: Vec::new(),
        }
    }

    #[track_caller]
    fn check(findings: Vec<Finding>, expected: &str) {
        let mut text = Vec::new();
        write_text(&report(findings), &mut text).unwrap();
        assert_eq!(String::from_utf8(text).unwrap(), expected);
    }

    #[test]
    fn effects_and_fixes_follow_what_is_not_well() {
        check(
            vec![finding(State::Ok, None)],
            "ok       perf-events      what is so\nprofiling works on this host\n",
        );
        check(
            vec![
                finding(State::Limited, Some("what it means")),
                finding(State::Broken, None),
            ],
            "\
limited  perf-events      what is so
                          effect: what it means
                          fix:    what to type
broken   perf-events      what is so
profiling does not work on this host: 1 broken, 1 limited
",
        );
    }

    #[test]
    fn programs_read_the_same_keys_for_ever() {
        let mut json = Vec::new();
        let found = report(vec![finding(State::Limited, Some("what it means"))]);
        write_json(&found, &mut json).unwrap();
        let expected = r#"{
  "verdict": "limited",
  "findings": [
    {
      "check": "perf-events",
      "state": "limited",
      "what": "what is so",
      "effect": "what it means",
      "fix": "what to type"
    }
  ],
  "processes": []
}
"#;
        assert_eq!(String::from_utf8(json).unwrap(), expected);
    }
}
