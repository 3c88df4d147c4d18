//! One reader of a sampler: whose samples it takes, and the profile they become.
//!
//! In: samples with their stacks, what happens to processes. Out: a profile without names, and an
//! account of its own.

use std::{path::PathBuf, time::SystemTime};

use super::{
    RecordError,
    collect::{Collector, Known},
    watched::Watched,
};
use crate::{
    bpf::{CaptureNumber, CaptureTargets, Counts, Reading, Sample, Sampler, now_ns},
    captures::Program,
    process::{Change, ProcessEvent, UserStack},
    target::{Pid, TargetSpec, Targets},
};

/// A capture that runs.
pub(super) struct Capture {
    pub(super) number: CaptureNumber,
    pub(super) targets: Targets,
    pub(super) collector: Collector,
    watched: Watched,
    /// What clocks and counters said when it began, and when it ended.
    start: Reading,
    end: Option<Reading>,
    /// When it began, in nanoseconds of `CLOCK_MONOTONIC`.
    pub(super) started_ns: u64,
    pub(super) first_sample_ns: Option<u64>,
    program: Program,
    /// Its process runs another program than the one that is wanted.
    is_over: bool,
    /// Samples of that other program.
    withheld: u64,
}

impl Capture {
    /// Begins to capture. `None` if there are as many captures as can be.
    pub(super) fn begin(
        sampler: &mut Sampler,
        targets: Targets,
        spec: &TargetSpec,
        collector: Collector,
    ) -> Result<Option<Self>, RecordError> {
        let of = CaptureTargets {
            keys: targets.keys.clone(),
            filters: targets.filters,
            cgroup_levels: targets.cgroup_levels,
            follow: spec.follow,
        };
        let Some(number) = sampler.reserve() else {
            return Ok(None);
        };
        // Before any tick falls on it: it may be counted a moment later.
        let start = match sampler.reading(number) {
            Ok(start) => start,
            Err(error) => {
                sampler.close(number);
                return Err(error.into());
            }
        };
        sampler.begin(number, &of)?;
        let mut capture = Self {
            number,
            watched: Watched::new(
                number,
                spec.clone(),
                targets.listed_cgroups.clone(),
                &targets.pids,
            ),
            targets,
            collector,
            start,
            end: None,
            started_ns: now_ns(),
            first_sample_ns: None,
            program: Program::Any,
            is_over: false,
            withheld: 0,
        };
        capture.set_start();
        Ok(Some(capture))
    }

    /// Which programs of its process it is of.
    pub(super) fn of_program(mut self, program: Program) -> Self {
        self.program = program;
        self
    }

    /// Whether its process runs another program than the one that is wanted.
    pub(super) fn has_ended(&self) -> bool {
        self.is_over
    }

    /// The sampling starts, or has just done so.
    pub(super) fn set_start(&mut self) {
        self.started_ns = now_ns();
        self.collector.set_start(SystemTime::now(), self.started_ns);
    }

    /// Makes a process a target.
    pub(super) fn add_process(
        &mut self,
        pid: Pid,
        sampler: &mut Sampler,
    ) -> Result<(), RecordError> {
        self.watched.add(pid, sampler)?;
        self.targets.pids.push(pid);
        Ok(())
    }

    /// Takes a sample that is for it, which stands for a period.
    pub(super) fn add(
        &mut self,
        sample: &Sample,
        period_ns: u64,
        stack: &UserStack,
        known: Known<'_>,
    ) {
        if self.is_over {
            self.withheld += 1;
            return;
        }
        self.first_sample_ns.get_or_insert(sample.time_ns);
        self.collector.add(sample, period_ns, stack, known);
    }

    /// Takes an event into account.
    pub(super) fn apply(&mut self, event: &ProcessEvent, sampler: &mut Sampler) {
        self.watched.apply(event, sampler);
        if let Change::Exec { pid, .. } = &event.change
            && self.program == Program::First
            && self.targets.pids.contains(pid)
        {
            self.is_over = true;
        }
        self.collector.jit.apply(event);
        if let Change::Exec { pid, .. } = &event.change
            && self.targets.main == Some(*pid)
            && !self.collector.has_main()
        {
            self.collector.set_main(executable(*pid));
        }
    }

    /// Processes that are gone: their pids may be given to others.
    pub(super) fn forget(&mut self, pids: &[Pid]) {
        self.watched.forget(pids);
        self.collector.jit.forget(pids);
    }

    /// Looks at the slow things: cgroups of version 1.
    pub(super) fn read_cgroups(&mut self, sampler: &mut Sampler) {
        self.watched.read_cgroups(sampler);
    }

    /// Processes that could not become targets.
    pub(super) fn refused(&self) -> u64 {
        self.watched.refused()
    }

    /// Has no further tick fall on it.
    pub(super) fn end(&mut self, sampler: &mut Sampler) {
        sampler.end(self.number);
        self.end = sampler.reading(self.number).ok();
    }

    /// What was counted for it so far. Exact once no tick falls on it any more.
    pub(super) fn counts(&self, sampler: &mut Sampler) -> Result<Counts, RecordError> {
        let now = sampler.reading(self.number)?;
        let end = match &self.end {
            // A tick may have been under way.
            Some(end) => end.with_captured_of(&now),
            None => now,
        };
        let mut counts = Counts::between(&self.start, &end);
        // What its process did as another program is somebody else's.
        counts.due = counts.due.saturating_sub(self.withheld);
        counts.elsewhere += self.withheld;
        Ok(counts)
    }
}

/// The path of a process's executable, as the process sees it.
pub(super) fn executable(pid: Pid) -> Option<String> {
    let path: PathBuf = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let path = path.to_string_lossy().into_owned();
    Some(
        path.strip_suffix(" (deleted)")
            .map(str::to_owned)
            .unwrap_or(path),
    )
}
