//! A sampler and what is known of the processes it samples, for any number of captures.
//!
//! In: samples and process events, as the rings have them. Out: each sample with its stack, for the
//! captures that it is for. It owns no time and no end: whoever owns it asks it to go on.

use std::{
    io,
    rc::Rc,
    time::{Duration, Instant},
};

use profiler_common::stop::StopReason;
use rustix::{
    event::{PollFd, PollFlags, Timespec},
    fd::BorrowedFd,
};

use super::{
    RecordError,
    capture::Capture,
    collect::Known,
    timeline::{MARGIN_NS, Moment, Timeline},
    waiting::{Held, Waiting},
    watched,
};
use crate::{
    bpf::{Sample, Sampler, Stacks, now_ns},
    bug,
    debuginfod::Debuginfod,
    jit::Now,
    object::{ObjectId, Objects},
    process::{ProcessEvent, Processes, PublishTimes, Scope, Tabled, UserPlace, UserStack},
    residency::{Prospect, Residency},
    target::Pid,
};

/// How often the rings are emptied.
pub(super) const POLL: Duration = Duration::from_millis(100);
/// How often while samples arrive unwalked: their processes should get their tables soon.
const UNWALKED_POLL: Duration = Duration::from_millis(20);
/// How long the clocks wait for the tables of the targets. What is not made by then comes later, and
/// samples are walked on the user side until it does.
const TABLE_PATIENCE: Duration = Duration::from_millis(500);
/// Surely longer than two readings of a clock that differ.
const CLOCK_GRAIN: Duration = Duration::from_millis(1);
/// The sample at which a test may want a panic.
const PROVOKED_SAMPLE: u64 = 100;
/// How long the end waits for tables that samples still want.
const LAST_PATIENCE: Duration = Duration::from_secs(5);

/// All that captures share.
pub(super) struct Sampling {
    pub(super) sampler: Sampler,
    pub(super) processes: Processes,
    pub(super) objects: Objects,
    pub(super) captures: Vec<Capture>,
    residency: Residency,
    waiting: Waiting,
    /// Tables that were there when those that wait were last tried.
    tried_with: u64,
    /// Whether samples arrived unwalked when the rings were last emptied.
    had_unwalked: bool,
    timeline: Timeline,
    /// Everything before this time was taken, in nanoseconds of `CLOCK_MONOTONIC`.
    taken_until_ns: u64,
    debuginfod: Option<Debuginfod>,
}

impl Sampling {
    pub(super) fn new(sampler: Sampler, scope: Scope, debuginfod: Option<Debuginfod>) -> Self {
        Self {
            sampler,
            processes: Processes::new(scope),
            objects: Objects::default(),
            captures: Vec::new(),
            residency: Residency::new(),
            waiting: Waiting::default(),
            tried_with: 0,
            had_unwalked: false,
            timeline: Timeline::default(),
            taken_until_ns: 0,
            debuginfod,
        }
    }

    /// What is known when a sample is added.
    pub(super) fn known(&self) -> Known<'_> {
        Known {
            processes: &self.processes,
            objects: &self.objects,
        }
    }

    /// Reads processes from `/proc`, so that the kernel side gets their tables. One that has ended
    /// since is no error.
    ///
    /// # Errors
    /// When one may not be looked at.
    pub(super) fn scan(&mut self, pids: &[Pid], user_stacks: Stacks) -> Result<(), RecordError> {
        if user_stacks == Stacks::LeftOut {
            return Ok(());
        }
        for pid in pids.iter().copied() {
            match self.processes.scan(pid, now_ns(), &mut self.objects) {
                Ok(()) => {}
                Err(source) if source.kind() == io::ErrorKind::PermissionDenied => {
                    return Err(RecordError::Maps { pid, source });
                }
                Err(error) => log::debug!("process {pid}: {error}"),
            }
        }
        Ok(())
    }

    /// Gives the kernel side the tables of these processes, as far as they are made in time.
    pub(super) fn make_tables(&mut self, pids: &[Pid]) {
        self.want_tables(pids);
        self.residency.wait(TABLE_PATIENCE, self.sampler.tables());
        // Mapping tables are armed first; when what happened before that is known they are in use.
        self.pump();
        std::thread::sleep(Duration::from_nanos(MARGIN_NS) + CLOCK_GRAIN);
        self.pump();
    }

    /// Has the tables of these processes made, and waits for none.
    pub(super) fn want_tables(&mut self, pids: &[Pid]) {
        let tables = self.sampler.tables();
        self.residency.collect(now_ns(), tables);
        for pid in pids {
            for object in self.processes.objects_of(*pid) {
                self.residency.request(object, tables, &self.objects);
            }
        }
    }

    /// Sleeps until the next poll, or until one of these can be read, at most for so long.
    pub(super) fn wait<'a>(&'a self, most: Duration, others: impl Iterator<Item = BorrowedFd<'a>>) {
        let poll = if self.had_unwalked {
            UNWALKED_POLL
        } else {
            POLL
        };
        let time = Timespec::try_from(most.min(poll)).expect("at most a poll's time");
        let fds = others.chain(self.sampler.descriptors());
        let mut fds: Vec<PollFd<'_>> = fds
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        // A signal ends it early, which is as well: it may have asked us to stop.
        if let Err(error) = rustix::event::poll(&mut fds, Some(&time))
            && error != rustix::io::Errno::INTR
        {
            log::debug!("cannot wait on the rings: {error}");
            std::thread::sleep(POLL);
        }
    }

    /// Takes what the rings hold and is whole. True when there may be more samples.
    pub(super) fn pump(&mut self) -> bool {
        let read_ns = now_ns();
        let has_more = self.sampler.drain(&mut self.timeline.samples);
        let is_unwalked = |sample: &Sample| sample.unwalked.is_some();
        self.had_unwalked = self.timeline.samples.iter().any(is_unwalked);
        self.sampler.stream().drain(&mut self.timeline.events);
        // Samples that are still in the ring are newer than those that are out.
        let whole_ns = match self.timeline.newest_sample_ns() {
            Some(newest_ns) if has_more => newest_ns.min(read_ns),
            _ => read_ns,
        };
        self.process(Some(whole_ns));
        has_more
    }

    /// Forgets every process: they were not watched, or will not be.
    pub(super) fn forget_processes(&mut self) {
        self.processes.forget_all(self.sampler.tables());
        self.timeline = Timeline::default();
        self.waiting.take();
    }

    /// Lets go of what only captures that are over needed.
    pub(super) fn forget_samples(&mut self) {
        let needed = self.captures.iter();
        let needed = needed.flat_map(|capture| capture.collector.objects());
        self.objects.forget_samples(needed);
    }

    /// Takes all that the rings hold. Nothing more may come.
    pub(super) fn take_the_rest(&mut self) {
        while self.sampler.drain(&mut self.timeline.samples) {}
        self.sampler.stream().drain(&mut self.timeline.events);
        self.process(None);
        self.walk_the_rest();
    }

    /// Whether every sample from before this time was taken, and none of them waits for a table.
    pub(super) fn has_taken(&self, time_ns: u64) -> bool {
        self.taken_until_ns > time_ns && self.waiting.since_ns().is_none_or(|at| at > time_ns)
    }

    /// Makes stacks of samples, with what their processes were at the time.
    fn process(&mut self, whole_ns: Option<u64>) {
        let batch = self.timeline.take(whole_ns);
        let now_ns = now_ns();
        self.residency.collect(now_ns, self.sampler.tables());
        // What runtimes told before these samples were taken is known when they are named.
        for capture in &mut self.captures {
            let jit = &mut capture.collector.jit;
            jit.read(Now::read(), &self.processes, &self.objects);
        }
        self.walk_waiting();
        // Also what waits: it has changed `/proc` already.
        self.processes
            .begin_batch(&batch.events, &self.timeline.events);
        for moment in batch.moments() {
            match moment {
                Moment::Event(event) => self.apply(event),
                Moment::Sample(sample) => self.take(sample, now_ns),
            }
        }
        let times = PublishTimes {
            now_ns,
            seen_ns: batch.until_ns,
        };
        let gone = self.processes.publish(
            times,
            self.sampler.tables(),
            &mut self.residency,
            &mut self.objects,
        );
        for pid in &gone {
            self.sampler.forget_target(watched::key(*pid));
        }
        for capture in &mut self.captures {
            capture.forget(&gone);
        }
        self.taken_until_ns = batch.until_ns;
    }

    fn take(&mut self, sample: &Sample, now_ns: u64) {
        let Some(unwalked) = &sample.unwalked else {
            let stack = self.processes.user_stack(sample, now_ns, &mut self.objects);
            self.request(stack.wants);
            self.add(sample, &stack);
            return;
        };
        // What the kernel side lacked may lie beyond the part of the stack that came along.
        let lacking = ObjectId::from_wire(unwalked.lacking);
        self.request(lacking.filter(|object| self.objects.find(*object).is_some()));
        let space = self.processes.code_space(sample, now_ns, &mut self.objects);
        if space.has_made_code() {
            // By the time the stack is walked, the process may be gone.
            for capture in readers(&mut self.captures, sample) {
                capture.collector.jit.expect(sample.pid);
            }
        }
        self.walk(Held {
            sample: sample.clone(),
            unwalked: Rc::clone(unwalked),
            space,
        });
    }

    /// Has the table made that a stack lacks, if it lacks one.
    fn request(&mut self, object: Option<ObjectId>) -> Prospect {
        let tables = self.sampler.tables();
        object.map_or(Prospect::None, |object| {
            self.residency.request(object, tables, &self.objects)
        })
    }

    /// Walks a stack that arrived unwalked, or has it wait for a table.
    fn walk(&mut self, held: Held) {
        let stack = self.walked(&held);
        let prospect = self.request(stack.wants);
        if stack.stop == StopReason::UnknownCode {
            self.processes.doubt(&held.sample, now_ns());
        }
        if prospect == Prospect::ToCome
            && stack.stop == StopReason::NoTableYet
            && self.waiting.has_room()
        {
            self.waiting.push(held);
        } else {
            self.add(&held.sample, &stack);
        }
    }

    fn walked(&mut self, held: &Held) -> UserStack {
        let with = Tabled {
            residency: &self.residency,
            tables: self.sampler.tables(),
            objects: &self.objects,
        };
        held.space.walk(&held.unwalked, with)
    }

    /// Tries those that wait again, if there is a table that was not there.
    fn walk_waiting(&mut self) {
        let installed = self.residency.installed();
        if std::mem::replace(&mut self.tried_with, installed) == installed {
            return;
        }
        for held in self.waiting.take() {
            self.walk(held);
        }
    }

    fn add(&mut self, sample: &Sample, stack: &UserStack) {
        let mut last = None;
        for place in &stack.places {
            if let UserPlace::Object(object, _) = place
                && last.replace(*object) != Some(*object)
            {
                if self.objects.mark_sampled(*object)
                    && let Some(debuginfod) = &self.debuginfod
                {
                    debuginfod.expect(self.objects.get(*object));
                }
                self.residency.mark_used(*object);
            }
        }
        let known = Known {
            processes: &self.processes,
            objects: &self.objects,
        };
        let period_ns = self.sampler.period_of(sample);
        for capture in readers(&mut self.captures, sample) {
            if capture.collector.kept() == PROVOKED_SAMPLE {
                bug::provoke(bug::Place::Sample);
            }
            capture.add(sample, period_ns, stack, known);
        }
    }

    fn apply(&mut self, event: &ProcessEvent) {
        self.processes.apply(event, &mut self.objects);
        for capture in &mut self.captures {
            capture.apply(event, &mut self.sampler);
        }
    }

    /// Looks at the slow things: CPUs that come and go, cgroups of version 1.
    pub(super) fn slow_pump(&mut self) {
        if let Err(error) = self.sampler.follow_cpus() {
            // A CPU may go again while its clock is being made; the next look finds out.
            log::debug!("CPUs: {error}");
        }
        for capture in &mut self.captures {
            capture.read_cgroups(&mut self.sampler);
        }
    }

    /// Walks what still waits, once its tables are made.
    fn walk_the_rest(&mut self) {
        let deadline = Instant::now() + LAST_PATIENCE;
        while !self.waiting.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            let next = self.residency.wait_for_one(left, self.sampler.tables());
            if next.is_none() {
                break;
            }
            self.walk_waiting();
        }
        self.give_up_waiting(u64::MAX);
    }

    /// Takes those samples from before a time that still wait as far as they can be walked.
    pub(super) fn give_up_waiting(&mut self, before_ns: u64) {
        for held in self.waiting.take() {
            if held.sample.time_ns > before_ns {
                self.waiting.push(held);
                continue;
            }
            let stack = self.walked(&held);
            self.add(&held.sample, &stack);
        }
    }
}

/// The captures that a sample is for.
fn readers<'a>(
    captures: &'a mut [Capture],
    sample: &Sample,
) -> impl Iterator<Item = &'a mut Capture> {
    let bits = sample.captures;
    let is_reader = move |capture: &&mut Capture| capture.number.is_in(bits);
    captures.iter_mut().filter(is_reader)
}
