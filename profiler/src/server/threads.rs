//! The threads of a target at one moment: what each does, and where the kernel has it wait.
//!
//! As a profile a thread is one sample: its name called its state, and that the kernel's function in
//! which it waits. No stack is read for it, and none is made up.

use std::{borrow::Cow, cmp::Reverse, collections::BTreeMap, fmt::Write, fs, time::Duration};

use super::{
    asked::{found, words},
    problem::Problem,
    processes,
    snapshot::{Snapshot, now_ns},
};
use crate::{
    captures::Target,
    profile::{LabelKey, LabelValue, Mapping, MappingKind, Profile, StringId, ValueType},
    target::{Pid, Procfs, Stat, Tid},
};

const THREADS_COUNT: ValueType = ValueType {
    kind: Cow::Borrowed("threads"),
    unit: Cow::Borrowed("count"),
};

/// The label that has a thread's state.
const STATE: &str = "state";

/// The threads of a target.
pub(super) struct Threads;

/// A thread.
struct Thread {
    pid: Pid,
    tid: Tid,
    comm: String,
    state: &'static str,
    cpu: Duration,
    /// The kernel's function in which it waits, as far as that is told.
    waits_in: Option<String>,
}

impl Snapshot for Threads {
    fn name(&self) -> &'static str {
        "threads"
    }

    fn description(&self) -> &'static str {
        "Every thread at the moment: its state, its CPU time, and where the kernel has it wait."
    }

    fn count(&self, target: &Target) -> Option<u64> {
        let counted = counted(target).ok()?;
        Some(counted)
    }

    fn take(&self, target: &Target) -> Result<Profile, Problem> {
        Ok(profile(target, &threads(target)?))
    }

    fn text(&self, target: &Target, _debug: i64) -> Result<String, Problem> {
        Ok(table(target, threads(target)?))
    }
}

/// The threads that are the target's, by process.
fn listed(target: &Target) -> Result<Vec<(Pid, Tid, Stat)>, Problem> {
    let (procfs, targets) = (Procfs::system(), found(target)?);
    let pids = match target {
        Target::Host => processes::every()?.into_keys().collect(),
        _ => targets.pids,
    };
    let mut listed: Vec<(Pid, Tid, Stat)> = Vec::new();
    for pid in pids {
        let threads = procfs.threads(pid).into_iter();
        let mut threads: Vec<_> = threads.map(|(tid, stat)| (pid, tid, stat)).collect();
        if let Target::Comm(name) = target {
            let is_named = |stat: &Stat| stat.comm == name.as_bytes();
            // A process whose first thread has the name counts with all of them.
            if !procfs.stat(pid.0).is_some_and(|first| is_named(&first)) {
                threads.retain(|(_, _, stat)| is_named(stat));
            }
        }
        listed.append(&mut threads);
    }
    listed.sort_by_key(|(pid, tid, _)| (*pid, *tid));
    Ok(listed)
}

/// How many threads there are. Of the whole host each process says.
fn counted(target: &Target) -> Result<u64, Problem> {
    match target {
        Target::Host => {
            let processes = processes::every()?;
            Ok(processes.values().map(|stat| stat.thread_count).sum())
        }
        target => Ok(listed(target)?.len() as u64),
    }
}

fn threads(target: &Target) -> Result<Vec<Thread>, Problem> {
    let listed = listed(target)?.into_iter();
    Ok(listed
        .map(|(pid, tid, stat)| thread(pid, tid, &stat))
        .collect())
}

fn thread(pid: Pid, tid: Tid, stat: &Stat) -> Thread {
    let waits_in = fs::read_to_string(format!("/proc/{pid}/task/{tid}/wchan"));
    // A thread that runs waits nowhere, and where it is not told there is a 0.
    let waits_in = waits_in
        .ok()
        .filter(|name| !matches!(name.as_str(), "" | "0"));
    Thread {
        pid,
        tid,
        comm: stat.comm_text(),
        state: processes::state_words(stat.state),
        cpu: processes::cpu_time(stat),
        waits_in,
    }
}

fn profile(target: &Target, threads: &[Thread]) -> Profile {
    let mut profile = Profile::counting(THREADS_COUNT);
    profile.period_type = THREADS_COUNT;
    profile.period = 1;
    profile.time_ns = now_ns();
    profile.comments = vec![format!("#target: {}", words(target))];
    add_whole(&mut profile, target);
    if !matches!(target, Target::Process(_)) {
        profile.shown_labels = vec![LabelKey::Comm, LabelKey::Pid];
    }
    let (unit, state) = (profile.string("pid"), profile.string(STATE));
    for thread in threads {
        let mut stack = Vec::new();
        if let Some(function) = &thread.waits_in {
            stack.push(profile.marker(function));
        }
        stack.push(profile.marker(&format!("[{}]", thread.state)));
        stack.push(profile.marker(&thread.comm));
        let comm = LabelValue::Text(profile.string(&thread.comm));
        let pid = LabelValue::Number(i64::from(thread.pid.0), unit);
        let words = LabelValue::Text(profile.string(thread.state));
        let labels = [
            (LabelKey::Comm, comm),
            (LabelKey::Pid, pid),
            (LabelKey::Foreign(state), words),
        ];
        profile.add(&stack, &labels, 1);
    }
    profile
}

/// Says what the profile is of: readers take the first mapping for it.
fn add_whole(profile: &mut Profile, target: &Target) {
    let (kind, path) = match target {
        Target::Process(pid) => {
            let path = Procfs::system().executable(*pid);
            let path = path.map(|path| path.to_string_lossy().into_owned());
            (MappingKind::Main, path.unwrap_or_else(|| words(target)))
        }
        target => {
            let host = rustix::system::uname()
                .nodename()
                .to_string_lossy()
                .into_owned();
            let what = match target {
                Target::Host => "system-wide".to_owned(),
                target => words(target),
            };
            (MappingKind::Host, format!("{what} on {host}"))
        }
    };
    let path = profile.string(&path);
    profile.mapping(Mapping {
        kind,
        start: 0,
        limit: 0,
        file_offset: 0,
        path,
        build_id: StringId::EMPTY,
    });
}

/// The threads as text, those with the most CPU time first.
fn table(target: &Target, mut threads: Vec<Thread>) -> String {
    threads.sort_by_key(|thread| (Reverse(thread.cpu), thread.pid, thread.tid));
    let mut states: BTreeMap<&str, usize> = BTreeMap::new();
    for thread in &threads {
        *states.entry(thread.state).or_default() += 1;
    }
    let states: Vec<String> = states
        .into_iter()
        .map(|(state, count)| format!("{count} {state}"))
        .collect();
    let mut text = format!("threads profile: total {}\n", threads.len());
    // Writing to a text cannot fail.
    let _ = writeln!(
        text,
        "# of {}: {}\n",
        printed(&words(target)),
        states.join(", ")
    );
    let _ = writeln!(
        text,
        "{:>8} {:>8} {:>12}  {:<16} {:<32} NAME",
        "PID", "TID", "CPU", "STATE", "WAITS IN"
    );
    for thread in &threads {
        let _ = writeln!(
            text,
            "{:>8} {:>8} {:>10.2} s  {:<16} {:<32} {}",
            thread.pid,
            thread.tid,
            thread.cpu.as_secs_f64(),
            thread.state,
            printed(thread.waits_in.as_deref().unwrap_or("-")),
            printed(&thread.comm)
        );
    }
    text
}

/// A name on one line.
fn printed(name: &str) -> String {
    name.replace(|c: char| c.is_control(), "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thread(state: &'static str, waits_in: Option<&str>, cpu_ms: u64) -> Thread {
        Thread {
            pid: Pid(7),
            tid: Tid(8),
            comm: "a\nb".to_owned(),
            state,
            cpu: Duration::from_millis(cpu_ms),
            waits_in: waits_in.map(str::to_owned),
        }
    }

    #[test]
    fn the_busiest_thread_stands_first_and_each_on_one_line() {
        let threads = vec![
            thread("sleeping", Some("futex_wait_queue"), 20),
            thread("running", None, 1500),
        ];
        let text = table(&Target::Process(Pid(7)), threads);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "threads profile: total 2");
        assert_eq!(lines[1], "# of pid 7: 1 running, 1 sleeping");
        assert_eq!(lines.len(), 6);
        assert!(lines[4].contains("1.50 s  running"), "{text}");
        assert!(lines[5].ends_with("a\u{fffd}b"), "{text}");
    }

    #[test]
    fn threads_that_do_the_same_are_one_sample() {
        let threads = [
            thread("sleeping", Some("futex_wait_queue"), 1),
            thread("sleeping", Some("futex_wait_queue"), 2),
            thread("running", None, 3),
        ];
        let profile = profile(&Target::Process(Pid(7)), &threads);
        let mut counts: Vec<(usize, u64)> = profile
            .samples()
            .map(|sample| (sample.stack.len(), sample.count))
            .collect();
        counts.sort_unstable();
        assert_eq!(counts, [(2, 1), (3, 2)]);
    }
}
