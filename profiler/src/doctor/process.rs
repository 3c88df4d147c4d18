//! What is known of one process's code: whether it can be read, named and unwound, and what it made
//! at run time.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use serde::Serialize;

use super::Finding;
use crate::{
    jit::{Refusal, Runtime, Told, told},
    object::{Object, ObjectId, Objects, debug_path},
    privilege,
    process::{Mapping, mappings_of},
    record::RecordError,
    symbolize::{self, LineSource, NameSource},
    target::{self, CgroupFilter, Pid, TargetError, TargetSpec, UserStacks},
    unwind::{CompileError, Table},
};

/// Most objects that are looked at, the largest first.
const MOST_OBJECTS: usize = 40;
/// How long unwind tables are compiled.
const PATIENCE: Duration = Duration::from_secs(3);
/// The part of the code that has rules from which on nothing is said, in percent. Compilers fill the
/// space between functions, some hundredths of all, and no stack passes through that.
const ENOUGH_PERCENT: f64 = 96.0;
/// Bytes without rules about which nothing is said: what begins and ends a program.
const FEW_BARE_BYTES: u64 = 4096;
/// Objects that a finding names.
const NAMED: usize = 3;

/// What is known of a process.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProcessReport {
    /// The process.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// What that means.
    pub findings: Vec<Finding>,
    /// Its objects, the largest first.
    pub objects: Vec<ObjectReport>,
    /// Smaller ones that were not looked at.
    pub objects_left_out: usize,
}

/// What is known of an object.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ObjectReport {
    /// Where it is, as its process sees it.
    pub path: String,
    /// GNU build id in lower-case hex.
    pub build_id: Option<String>,
    /// Bytes of it that are mapped as code.
    pub code_bytes: u64,
    /// What names its functions; `None` if it cannot be read.
    pub names: Option<NameSource>,
    /// What tells its lines; `None` if it cannot be read.
    pub lines: Option<LineSource>,
    /// How its stacks are walked; `None` if that was not looked at.
    pub unwind: Option<UnwindReport>,
}

/// How an object's stacks are walked.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnwindReport {
    /// By call frame information where there is some, by frame pointer elsewhere.
    Rules {
        /// The part of the code that is described.
        percent: f64,
        /// Bytes of code that are not.
        bare_bytes: u64,
    },
    /// By frame pointer, which all Go code has.
    Go,
    /// By frame pointer alone, as nothing describes the code.
    FramePointer,
}

/// Examines a process.
///
/// # Errors
/// When it is not there, or may not be looked at.
pub fn examine_process(pid: Pid) -> Result<ProcessReport, RecordError> {
    let spec = TargetSpec {
        pids: vec![pid],
        ..TargetSpec::default()
    };
    match target::resolve(&spec, UserStacks::Yes, CgroupFilter::Kernel) {
        // Its mappings can be read, whatever its pid is to the programs.
        Ok(_) | Err(TargetError::PidNamespace { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let mut objects = Objects::default();
    let mappings =
        mappings_of(pid, &mut objects).map_err(|source| RecordError::Maps { pid, source })?;
    let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let mut sizes: BTreeMap<ObjectId, u64> = BTreeMap::new();
    for mapping in &mappings {
        if let Some(object) = mapping.object {
            *sizes.entry(object).or_default() += mapping.end - mapping.start;
        }
    }
    let mut sizes: Vec<(ObjectId, u64)> = sizes.into_iter().collect();
    sizes.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    let deadline = Instant::now() + PATIENCE;
    let reports: Vec<ObjectReport> = sizes
        .iter()
        .take(MOST_OBJECTS)
        .map(|(id, bytes)| report(objects.get(*id), *bytes, deadline))
        .collect();
    let findings = vec![
        readable(&reports),
        symbols(&reports),
        debug_info(&reports),
        unwinding(&reports),
        made_at_run_time(pid, &mappings, &objects),
    ];
    Ok(ProcessReport {
        pid: pid.0,
        comm: comm.trim_end().to_owned(),
        findings,
        objects_left_out: sizes.len() - reports.len(),
        objects: reports,
    })
}

fn report(object: &Object, code_bytes: u64, deadline: Instant) -> ObjectReport {
    let known = symbolize::symbol_sources(object);
    ObjectReport {
        path: object.path.clone(),
        build_id: object.build_id.clone(),
        code_bytes,
        names: known.as_ref().map(|known| known.names),
        lines: known.map(|known| known.lines),
        unwind: unwind(object, deadline),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a percentage")]
fn unwind(object: &Object, deadline: Instant) -> Option<UnwindReport> {
    if object.is_go {
        return Some(UnwindReport::Go);
    }
    let file = object.unchanged_file()?;
    if Instant::now() >= deadline {
        return None;
    }
    match Table::of_object(file, Some(Path::new(&object.path))) {
        Ok(table) => {
            let coverage = table.coverage();
            let code_bytes = coverage.code_bytes.max(1);
            let covered_bytes = coverage.covered().bytes.min(code_bytes);
            Some(UnwindReport::Rules {
                percent: 100.0 * covered_bytes as f64 / code_bytes as f64,
                bare_bytes: code_bytes - covered_bytes,
            })
        }
        Err(CompileError::NoFrames) => Some(UnwindReport::FramePointer),
        Err(_) => None,
    }
}

fn readable(objects: &[ObjectReport]) -> Finding {
    const CHECK: &str = "objects";
    let bytes: u64 = objects.iter().map(|object| object.code_bytes).sum();
    let unreadable = those(objects, |object| object.names.is_none());
    let what = format!("{} with {} KiB of code", objects.len(), bytes >> 10);
    if unreadable.is_empty() {
        return Finding::ok(CHECK, what);
    }
    Finding::limited(CHECK, format!("{what}; unreadable: {}", list(&unreadable))).so(
        "their frames have no names, and stacks that pass through them are cut",
        privilege::grant(),
    )
}

fn symbols(objects: &[ObjectReport]) -> Finding {
    const CHECK: &str = "symbols";
    let poor = those(objects, |object| {
        object.names.is_some_and(|names| !names.is_whole())
    });
    let Some(largest) = poor.first() else {
        return Finding::ok(CHECK, "every function that has a name");
    };
    Finding::limited(CHECK, format!("stripped: {}", list(&poor))).so(
        "of their functions those that others may call have names, the rest are addresses",
        get_debug_file(largest),
    )
}

fn debug_info(objects: &[ObjectReport]) -> Finding {
    const CHECK: &str = "debug-info";
    let poor = those(objects, |object| object.lines == Some(LineSource::Nothing));
    let Some(largest) = poor.first() else {
        return Finding::ok(CHECK, "lines and inlined calls of every object");
    };
    Finding::limited(CHECK, format!("none: {}", list(&poor))).so(
        "their frames have no lines, and inlined calls are missing",
        get_debug_file(largest),
    )
}

fn unwinding(objects: &[ObjectReport]) -> Finding {
    const CHECK: &str = "unwinding";
    let poor = those(objects, |object| match object.unwind {
        Some(UnwindReport::Rules {
            percent,
            bare_bytes,
        }) => percent < ENOUGH_PERCENT && bare_bytes > FEW_BARE_BYTES,
        Some(UnwindReport::FramePointer) => true,
        Some(UnwindReport::Go) | None => false,
    });
    if poor.is_empty() {
        let left_out = those(objects, |object| {
            object.unwind.is_none() && object.names.is_some()
        });
        let what = "rules for the code, or frame pointers as Go has them";
        return Finding::ok(
            CHECK,
            match left_out.len() {
                0 => what.to_owned(),
                count => format!("{what}; {count} not looked at"),
            },
        );
    }
    Finding::limited(CHECK, format!("in part without rules: {}", list(&poor))).so(
        "there stacks are walked by frame pointer, and cut where the code has none",
        "build them with -fasynchronous-unwind-tables, or with -fno-omit-frame-pointer",
    )
}

fn made_at_run_time(pid: Pid, mappings: &[Mapping], objects: &Objects) -> Finding {
    const CHECK: &str = "jit";
    let bytes: u64 = mappings
        .iter()
        .filter(|mapping| mapping.object.is_none() && !mapping.path.starts_with("[u"))
        .map(|mapping| mapping.end - mapping.start)
        .sum();
    if bytes == 0 {
        return Finding::ok(CHECK, "no code made at run time");
    }
    let names = mappings.iter().filter_map(|mapping| mapping.object);
    let runtime = Runtime::of(names.map(|id| objects.get(id).short_name()));
    let paths = mappings.iter().map(|mapping| &*mapping.path);
    let size = format!("{} KiB of code made at run time", bytes >> 10);
    let why = match told(pid, paths) {
        Told::Map => return Finding::ok(CHECK, format!("{size}, named by a perf map")),
        Told::Jitdump => return Finding::ok(CHECK, format!("{size}, named by a jitdump")),
        Told::Nothing => "and no perf map".to_owned(),
        Told::Refused(refusal) => format!("and a perf map that is not read: {}", words(refusal)),
    };
    let of = match runtime {
        Runtime::Other => String::new(),
        runtime => format!(" ({})", runtime.name()),
    };
    Finding::limited(CHECK, format!("{size}{of} {why}")).so(
        "its frames have no names; its stacks are walked by frame pointer, and cut where it has none",
        runtime.advice(pid.0),
    )
}

fn words(refusal: Refusal) -> String {
    match refusal {
        Refusal::SymbolicLink => "a link leads to it".to_owned(),
        Refusal::NotAFile => "it is no file".to_owned(),
        Refusal::Owner { uid } => format!("it belongs to uid {uid}"),
        Refusal::Stale => "it is older than the process".to_owned(),
        Refusal::NoPermission => "permission denied".to_owned(),
        Refusal::Silent => "its file system does not answer".to_owned(),
        Refusal::Unreadable { errno } => std::io::Error::from_raw_os_error(errno).to_string(),
    }
}

/// What brings an object's debug file to where it is looked for.
fn get_debug_file(object: &ObjectReport) -> String {
    match &object.build_id {
        Some(id) => format!(
            "install its debug package, or: ebpfprof --debuginfod=https://debuginfod.elfutils.org (it is looked for at {})",
            debug_path(id).display()
        ),
        None => "build it with -g, and do not strip it".to_owned(),
    }
}

/// Those of which something is so. The kernel's own is left out: it has what it has.
fn those(objects: &[ObjectReport], is_so: impl Fn(&ObjectReport) -> bool) -> Vec<&ObjectReport> {
    let of_files = objects.iter().filter(|object| object.path != "[vdso]");
    of_files.filter(|object| is_so(object)).collect()
}

fn list(objects: &[&ObjectReport]) -> String {
    let short = |object: &&ObjectReport| {
        let name = object.path.rsplit('/').next().unwrap_or(&object.path);
        name.to_owned()
    };
    let mut names: Vec<String> = objects.iter().take(NAMED).map(short).collect();
    if objects.len() > NAMED {
        names.push(format!("and {} more", objects.len() - NAMED));
    }
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_our_own_test_program_everything_is_known() {
        let report = examine_process(Pid(std::process::id())).unwrap();
        let program = std::env::current_exe().unwrap();
        let is_ours = |object: &&ObjectReport| Path::new(&object.path) == program;
        let object = report.objects.iter().find(is_ours).unwrap();
        assert_eq!(object.names, Some(NameSource::Symbols));
        assert_eq!(object.lines, Some(LineSource::Own));
        assert!(
            matches!(object.unwind, Some(UnwindReport::Rules { percent, .. }) if percent > 90.0),
            "{object:?}"
        );
        assert!(report.objects.iter().any(|object| object.path == "[vdso]"));
        let checks: Vec<&str> = report.findings.iter().map(|found| found.check).collect();
        let expected = ["objects", "symbols", "debug-info", "unwinding", "jit"];
        assert_eq!(checks, expected);
    }

    #[test]
    fn a_process_that_is_gone_is_an_error() {
        let error = examine_process(Pid(4_194_304)).unwrap_err();
        assert_eq!(error.to_string(), "no process has pid 4194304");
    }

    fn object(path: &str, names: NameSource, lines: LineSource, percent: f64) -> ObjectReport {
        ObjectReport {
            path: path.to_owned(),
            build_id: Some("abcdef".to_owned()),
            code_bytes: 4096,
            names: Some(names),
            lines: Some(lines),
            unwind: Some(UnwindReport::Rules {
                percent,
                bare_bytes: 1 << 20,
            }),
        }
    }

    #[test]
    fn what_lacks_is_named_with_where_it_would_be() {
        let objects = [
            object("/bin/a", NameSource::Exported, LineSource::Nothing, 80.0),
            object("/bin/b", NameSource::Symbols, LineSource::Own, 100.0),
            object("[vdso]", NameSource::Exported, LineSource::Nothing, 90.0),
        ];
        let findings = [symbols(&objects), debug_info(&objects), unwinding(&objects)];
        let words = ["stripped: a", "none: a", "in part without rules: a"];
        for (finding, words) in findings.iter().zip(words) {
            assert_eq!(finding.what, words);
            assert_eq!(finding.state, super::super::State::Limited);
        }
        let fix = findings[0].fix.as_deref().unwrap();
        assert!(
            fix.contains("/usr/lib/debug/.build-id/ab/cdef.debug"),
            "{fix}"
        );
    }
}
