//! The recording itself: everything that lives from the first tick to the last.

use std::{
    io,
    ops::ControlFlow,
    path::PathBuf,
    rc::Rc,
    time::{Duration, Instant, SystemTime},
};

use profiler_common::{
    config::{TargetKey, TargetKind},
    stop::StopReason,
};
use rustix::event::{PollFd, PollFlags, Timespec};

use super::{
    Cost, End, LabelSettings, Outcome, Progress, Ready, RecordError, Request, Rights, Stop, Times,
    Watch,
    collect::{Collector, Finished, Known},
    governor::{BpfTime, Governor, Spent},
    timeline::{MARGIN_NS, Moment, Timeline},
    usage::{self, Usage},
    waiting::{Held, Waiting},
    watched::Watched,
};
use crate::{
    bpf::{Counts, Sample, Sampler, Settings, Stacks, now_ns},
    bug,
    debuginfod::Debuginfod,
    jit::Now,
    object::{
        ObjectId, Objects,
        opener::{self, Meanwhile},
    },
    privilege::{self, Capability},
    process::{Change, ProcessEvent, Processes, PublishTimes, Scope, Tabled, UserPlace, UserStack},
    profile::{LabelKey, MOST_MOMENTS, Mapping, MappingKind, Profile, StringId},
    residency::{Prospect, Residency},
    symbolize::{self, KernelNames, Symbolized},
    target::{
        self, Follow, Pid, Targets,
        command::{Prepared, Running},
        wait::ExitWatch,
    },
};

/// How often the rings are emptied.
const POLL: Duration = Duration::from_millis(100);
/// How often at first, while most processes are yet unknown: one that ends before it is read from
/// `/proc` has no names.
const EARLY_POLL: Duration = Duration::from_millis(10);
const EARLY: Duration = Duration::from_millis(500);
/// How often while samples arrive unwalked: their processes should get their tables soon.
const UNWALKED_POLL: Duration = Duration::from_millis(20);
/// How often the slow things are looked at: CPUs that come and go, cgroups of version 1.
const SLOW_POLL: Duration = Duration::from_secs(1);

/// How long the clocks wait for the tables of the targets. What is not made by then comes later, and
/// samples are walked on the user side until it does.
const TABLE_PATIENCE: Duration = Duration::from_millis(500);
/// Surely longer than two readings of a clock that differ.
const CLOCK_GRAIN: Duration = Duration::from_millis(1);
/// The sample at which a test may want a panic.
const PROVOKED_SAMPLE: u64 = 100;
/// How long the end waits for tables that samples still want.
const LAST_PATIENCE: Duration = Duration::from_secs(5);

/// All the state of a recording.
pub(super) struct Session {
    request: Request,
    targets: Targets,
    prepared: Option<Prepared>,
    running: Option<Running>,
    sampler: Sampler,
    processes: Processes,
    objects: Objects,
    collector: Collector,
    residency: Residency,
    waiting: Waiting,
    /// Tables that were there when those that wait were last tried.
    tried_with: u64,
    /// Whether samples arrived unwalked when the rings were last emptied.
    had_unwalked: bool,
    exits: ExitWatch,
    watched: Watched,
    timeline: Timeline,
    first_sample_ns: Option<u64>,
    started_ns: u64,
    clocks_started: Instant,
    usage: Usage,
    governor: Option<Governor>,
}

impl Session {
    pub(super) fn set_up(ready: Ready) -> Result<Self, RecordError> {
        // A file stays open for each object: a busy host has thousands.
        usage::raise_descriptor_limit();
        let Ready {
            request,
            targets,
            prepared,
            started_ns,
        } = ready;
        let period_ns = period_ns(request.frequency_hz);
        let sampler = Sampler::load(&Settings {
            period_ns,
            targets: targets.keys.clone(),
            filters: targets.filters,
            cgroup_levels: targets.cgroup_levels,
            kernel_stacks: request.kernel_stacks,
            user_stacks: request.user_stacks,
            follow: request.spec.follow,
            flavour: request.flavour,
            table_bytes: request.table_bytes,
        })?;
        // Asked for while we may.
        symbolize::kernel_text_bytes();
        give_up(&request, privilege::SAMPLING);
        opener::prepare();
        // Before the first sample, so that a process that ends at once is noticed.
        let exits = ExitWatch::new(&targets.exit_with).map_err(RecordError::Wait)?;
        let is_one_process = request.command.is_none()
            && targets.pids.len() == 1
            && request.spec.follow == Follow::No;
        let default_labels = if is_one_process || request.command.is_some() {
            vec![]
        } else {
            vec![LabelKey::Comm, LabelKey::Pid]
        };
        let labels = LabelSettings {
            shown: request.labels.clone().unwrap_or(default_labels),
        };
        let scope = scope(&request, &targets);
        Ok(Self {
            watched: Watched::new(
                request.spec.clone(),
                targets.listed_cgroups.clone(),
                &targets.pids,
            ),
            collector: Collector::new(
                Profile::cpu(period_ns),
                labels,
                request.times,
                request.addresses,
            ),
            processes: Processes::new(scope),
            objects: Objects::default(),
            residency: Residency::new(),
            waiting: Waiting::default(),
            tried_with: 0,
            had_unwalked: false,
            timeline: Timeline::default(),
            first_sample_ns: None,
            clocks_started: Instant::now(),
            usage: Usage::now(),
            governor: governor(&request, &sampler),
            running: None,
            request,
            targets,
            prepared,
            sampler,
            exits,
            started_ns,
        })
    }

    /// Reads the targets, gives the kernel side their tables, and starts the clocks.
    pub(super) fn start(&mut self, watch: &mut dyn Watch) -> Result<(), RecordError> {
        if self.request.spec.follow == Follow::Yes {
            self.add_descendants()?;
        }
        let wanted = match self.request.user_stacks {
            Stacks::Taken => self.targets.pids.clone(),
            Stacks::LeftOut => Vec::new(),
        };
        for pid in wanted {
            match self.processes.scan(pid, now_ns(), &mut self.objects) {
                Ok(()) => {}
                Err(source) if source.kind() == io::ErrorKind::PermissionDenied => {
                    return Err(RecordError::Maps { pid, source });
                }
                // It has just ended: the run ends with it.
                Err(error) => log::debug!("process {pid}: {error}"),
            }
        }
        self.make_tables();
        if let Some(main) = self.targets.main.filter(|_| self.prepared.is_none()) {
            self.collector.set_main(executable(main));
        }
        self.collector.set_start(SystemTime::now(), now_ns());
        self.usage = Usage::now();
        self.clocks_started = Instant::now();
        opener::set_meanwhile(Meanwhile::Sampling);
        self.sampler.enable()?;
        if let Some(prepared) = self.prepared.take() {
            let running = prepared.start()?;
            self.collector.set_main(executable(running.pid()));
            self.running = Some(running);
        }
        watch.started();
        Ok(())
    }

    /// Gives the kernel side the tables of the targets, as far as they are made in time.
    fn make_tables(&mut self) {
        let tables = self.sampler.tables();
        self.residency.collect(now_ns(), tables);
        for pid in &self.targets.pids {
            for object in self.processes.objects_of(*pid) {
                self.residency.request(object, tables, &self.objects);
            }
        }
        self.residency.wait(TABLE_PATIENCE, tables);
        // Mapping tables are armed first; when what happened before that is known they are in use.
        self.pump();
        std::thread::sleep(Duration::from_nanos(MARGIN_NS) + CLOCK_GRAIN);
        self.pump();
    }

    /// Children that were born between the search for targets and the attaching of the follower.
    fn add_descendants(&mut self) -> Result<(), RecordError> {
        let roots: Vec<Pid> = self.targets.pids.clone();
        for pid in target::descendants(&roots).map_err(RecordError::Wait)? {
            if !self.targets.pids.contains(&pid) {
                self.sampler
                    .add_target(TargetKey::id(TargetKind::Pid, u64::from(pid.0)))?;
                self.targets.pids.push(pid);
            }
        }
        Ok(())
    }

    /// Empties the rings until the end.
    pub(super) fn run(&mut self, stop: &Stop, watch: &mut dyn Watch) -> End {
        let mut last_slow = Instant::now();
        loop {
            // What is still in the rings is taken when the clocks stand still.
            if let Some(end) = self.end(stop) {
                return end;
            }
            let had_more = self.pump();
            if last_slow.elapsed() >= SLOW_POLL {
                last_slow = Instant::now();
                self.slow_pump(watch);
            }
            if !had_more {
                self.wait();
            }
        }
    }

    fn end(&mut self, stop: &Stop) -> Option<End> {
        if stop.is_asked() {
            return Some(End::Stopped);
        }
        let ended = match &mut self.running {
            Some(running) => running.try_wait().is_ok_and(|status| status.is_some()),
            None => !self.targets.exit_with.is_empty() && self.exits.all_gone(),
        };
        if ended {
            return Some(End::TargetEnded);
        }
        let is_over = self
            .request
            .duration
            .is_some_and(|duration| self.clocks_started.elapsed() >= duration);
        is_over.then_some(End::TimeIsOver)
    }

    /// Sleeps until the next poll, the end of the time or of the target, whichever comes first.
    fn wait(&self) {
        let elapsed = self.clocks_started.elapsed();
        let poll = if elapsed < EARLY {
            EARLY_POLL
        } else if self.had_unwalked {
            UNWALKED_POLL
        } else {
            POLL
        };
        let left = self
            .request
            .duration
            .map(|duration| duration.saturating_sub(elapsed));
        let time = left.map_or(poll, |left| left.min(poll));
        let time = Timespec::try_from(time).expect("at most a poll's time");
        let fds = self.exits.fds().chain(self.sampler.descriptors());
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
    fn pump(&mut self) -> bool {
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

    /// Makes stacks of samples, with what their processes were at the time.
    fn process(&mut self, whole_ns: Option<u64>) {
        let batch = self.timeline.take(whole_ns);
        let now_ns = now_ns();
        self.residency.collect(now_ns, self.sampler.tables());
        // What runtimes told before these samples were taken is known when they are named.
        self.collector
            .jit
            .read(Now::read(), &self.processes, &self.objects);
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
        self.watched.forget(&gone, &mut self.sampler);
        self.collector.jit.forget(&gone);
    }

    fn take(&mut self, sample: &Sample, now_ns: u64) {
        self.first_sample_ns.get_or_insert(sample.time_ns);
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
            self.collector.jit.expect(sample.pid);
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
                    && let Some(debuginfod) = &self.request.debuginfod
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
        if self.collector.kept() == PROVOKED_SAMPLE {
            bug::provoke(bug::Place::Sample);
        }
        let period_ns = self.sampler.period_of(sample);
        self.collector.add(sample, period_ns, stack, known);
    }

    fn apply(&mut self, event: &ProcessEvent) {
        self.processes.apply(event, &mut self.objects);
        self.watched.apply(event, &mut self.sampler);
        self.collector.jit.apply(event);
        if let Change::Exec { pid, .. } = &event.change
            && self.targets.main == Some(*pid)
            && !self.collector.has_main()
        {
            self.collector.set_main(executable(*pid));
        }
    }

    fn slow_pump(&mut self, watch: &mut dyn Watch) {
        if let Err(error) = self.sampler.follow_cpus() {
            // A CPU may go again while its clock is being made; the next look finds out.
            log::debug!("CPUs: {error}");
        }
        self.watched.read_cgroups(&mut self.sampler);
        let Ok(counts) = self.sampler.counts() else {
            return;
        };
        self.govern(counts.run_time);
        bug::provoke(bug::Place::Loop);
        let lost = counts.ring_full + counts.no_scratch + counts.undecodable;
        watch.progress(Progress {
            elapsed: self.clocks_started.elapsed(),
            kept: self.collector.kept(),
            lost,
        });
    }

    /// Lowers the frequency if the last second cost too much.
    fn govern(&mut self, bpf: Duration) {
        let spent = Spent {
            elapsed: self.clocks_started.elapsed(),
            cpu: Usage::now().cpu + bpf,
        };
        let lower = |governor: &mut Governor| governor.judge(spent);
        let Some(frequency_hz) = self.governor.as_mut().and_then(lower) else {
            return;
        };
        let period_ns = period_ns(frequency_hz);
        if let Err(error) = self.sampler.change_period(period_ns) {
            // That CPU's samples weigh what they did.
            log::debug!("a clock keeps its frequency: {error}");
        }
        self.collector.change_period(period_ns);
    }

    /// Stops the clocks, takes the rest, names everything.
    pub(super) fn finish(
        mut self,
        end: End,
        stop: &Stop,
        watch: &mut dyn Watch,
    ) -> Result<Outcome, RecordError> {
        let elapsed = self.stop_clocks();
        let rest = bug::contain(|| self.take_the_rest());
        let sampling = Usage::now();
        let counts = self.sampler.counts()?;
        let mut notes = self.notes(&counts);
        let has_bpf_time = self.sampler.has_run_time();
        let kernel_bytes = self.sampler.kernel_bytes() as u64;
        let printed = self
            .sampler
            .kernel_symbols(&self.collector.kernel_addresses());
        // The programs leave the kernel before the slow part.
        drop(self.sampler);
        give_up(&self.request, privilege::NAMING);
        if let Some(debuginfod) = &self.request.debuginfod {
            if end == End::Stopped {
                stop.heed();
            }
            bug::contain(|| fetch_debug_files(debuginfod, &mut self.objects, stop, watch));
            notes.extend(debuginfod.report().notes());
        }
        let known = Known {
            processes: &self.processes,
            objects: &self.objects,
        };
        let Finished {
            mut profile,
            mut account,
            symbolized,
            gaps,
        } = self
            .collector
            .finish(known, self.request.symbols, printed.as_ref());
        notes.extend(self.running.as_mut().and_then(command_note));
        notes.extend(symbol_notes(&symbolized));
        notes.extend(times_note(self.request.times, &profile));
        let lowered = self.governor.map_or(vec![], Governor::into_lowered);
        notes.extend(lowered.iter().map(ToString::to_string));
        account.count(&counts);
        if end == End::Bug || rest.is_none() {
            account.write_off();
        }
        profile.duration_ns = u64::try_from(counts.sampled.as_nanos()).unwrap_or(u64::MAX);
        add_host_mapping(&mut profile);
        let cost = Cost {
            elapsed,
            cpu: sampling.cpu.saturating_sub(self.usage.cpu) + counts.run_time,
            bpf: has_bpf_time.then_some(counts.run_time),
            samples: account.due,
            resident_bytes: usage::peak_resident_bytes(),
            kernel_bytes,
            first_sample: self
                .first_sample_ns
                .map(|at| Duration::from_nanos(at.saturating_sub(self.started_ns))),
            afterwards: Usage::now().cpu.saturating_sub(sampling.cpu),
        };
        Ok(Outcome {
            profile,
            label: self.targets.label,
            account,
            cost,
            lowered,
            end,
            running: self.running,
            notes,
            gaps,
            bare_objects: symbolized.bare_objects,
        })
    }

    /// Stops the clocks. For how long they ran.
    fn stop_clocks(&mut self) -> Duration {
        self.sampler.disable();
        opener::set_meanwhile(Meanwhile::Nothing);
        self.clocks_started.elapsed()
    }

    /// Takes what is in the rings and what waits, and completes the profile but for its names.
    fn take_the_rest(&mut self) {
        while self.sampler.drain(&mut self.timeline.samples) {}
        self.sampler.stream().drain(&mut self.timeline.events);
        self.process(None);
        self.walk_the_rest();
        let known = Known {
            processes: &self.processes,
            objects: &self.objects,
        };
        self.collector.add_main(self.targets.main, known);
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
        for held in self.waiting.take() {
            let stack = self.walked(&held);
            self.add(&held.sample, &stack);
        }
    }

    fn notes(&self, counts: &Counts) -> Vec<String> {
        let mut notes = self.targets.notes.clone();
        let refused = counts.not_followed + self.watched.refused();
        if refused > 0 {
            notes.push(format!("{refused} processes could not become targets, as the target set was full: their ticks count as elsewhere; try: ebpfprof --all"));
        }
        if self.objects.unopened_for_want_of_descriptors() > 0 {
            notes.push(format!("{} files could not be opened and have no names: too many are open; try: ulimit -n 1048576", self.objects.unopened_for_want_of_descriptors()));
        }
        notes.extend(forbidden_note(self.objects.forbidden()));
        if self.processes.events_lost() > 0 {
            notes.push(format!("the kernel dropped {} process events; frames of very short-lived processes may lack names", self.processes.events_lost()));
        }
        notes
    }
}

/// Whose processes are kept track of.
fn scope(request: &Request, targets: &Targets) -> Scope {
    let only_pids =
        targets.filters == TargetKind::Pid as u32 || targets.filters == TargetKind::Tid as u32;
    if only_pids && targets.listed_cgroups.is_empty() && request.spec.comms.is_empty() {
        Scope::Only(targets.pids.iter().copied().collect(), request.spec.follow)
    } else {
        Scope::All
    }
}

/// What holds the run to its budget, if it has one.
fn governor(request: &Request, sampler: &Sampler) -> Option<Governor> {
    let bpf_time = match sampler.has_run_time() {
        true => BpfTime::Counted,
        false => BpfTime::Unknown,
    };
    let new = |budget| Governor::new(budget, request.frequency_hz, bpf_time);
    request.budget.map(new)
}

/// The period of a frequency.
fn period_ns(frequency_hz: u32) -> u64 {
    1_000_000_000 / u64::from(frequency_hz.max(1))
}

/// Gives up what is not needed any more, if that was asked for. The command may be another user's
/// when it is told to end.
fn give_up(request: &Request, needed: &[Capability]) {
    if request.rights == Rights::GivenUp {
        let command = request.command.iter().map(|_| Capability::Kill);
        let needed: Vec<Capability> = needed.iter().copied().chain(command).collect();
        privilege::keep_only(&needed);
    }
}

/// What the user should know of names and lines that are not there, now that all are looked up.
fn symbol_notes(symbolized: &Symbolized) -> Vec<String> {
    let mut notes: Vec<String> = opener::silent()
        .iter()
        .map(|name| silent_note(name))
        .collect();
    if symbolized.without_lines > 0 {
        notes.push(format!("{} addresses have names and no lines, as those would take more memory than symbols may have; try: ebpfprof --max-symbol-memory 1GiB", symbolized.without_lines));
    }
    match symbolized.kernel_names {
        KernelNames::Told => {}
        KernelNames::Unplaced => notes.push(format!(
            "the kernel hides where its code lies, so its frames have names and no mapping; try: {}",
            privilege::kernel_addresses()
        )),
        KernelNames::Hidden => notes.push(format!(
            "the kernel hides its symbols, so its frames have no names; try: {}",
            privilege::kernel_addresses()
        )),
    }
    notes
}

/// What the user should know of times that were asked for and are not there.
fn times_note(times: Times, profile: &Profile) -> Option<String> {
    (times == Times::Kept && profile.timeline().is_none()).then(|| format!("more than {MOST_MOMENTS} samples: their times were not kept, so they stand one after the other in formats that show times; try: a shorter run, or a lower -F"))
}

/// What the user should know of a file system that is waited for in vain.
fn silent_note(name: &str) -> String {
    format!(
        "the file system at {name} does not answer: what could not be read there has no names, and stacks through it are cut; try: findmnt --target {name}, for its server or its FUSE process"
    )
}

/// What opens the files of so many objects, if it is a capability.
fn forbidden_note(count: usize) -> Option<String> {
    let lacking = privilege::lacking(&[Capability::CheckpointRestore, Capability::DacReadSearch]);
    (count > 0 && !lacking.is_empty()).then(|| {
        format!(
            "the files of {count} programs or libraries may not be opened without {}, so their frames have no names and stacks through them are cut; try: ebpfprof explain",
            lacking.join(" and ")
        )
    })
}

/// Gives objects the debug files that they lack. Whoever wants the profile now asks for the end again.
fn fetch_debug_files(
    debuginfod: &Debuginfod,
    objects: &mut Objects,
    stop: &Stop,
    watch: &mut dyn Watch,
) {
    debuginfod.supply(objects.sampled_mut(), &mut |left| {
        watch.fetching(left);
        if stop.is_asked() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    watch.fetched();
}

/// How the command ended, if it did and not well.
fn command_note(running: &mut Running) -> Option<String> {
    let status = running.try_wait().ok()??;
    (!status.success()).then(|| format!("the command ended with {status}"))
}

/// The path of a process's executable, as the process sees it.
fn executable(pid: Pid) -> Option<String> {
    let path: PathBuf = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let path = path.to_string_lossy().into_owned();
    Some(
        path.strip_suffix(" (deleted)")
            .map(str::to_owned)
            .unwrap_or(path),
    )
}

/// A profile without one main executable is headed by the host.
fn add_host_mapping(profile: &mut Profile) {
    if profile
        .mappings()
        .iter()
        .any(|mapping| mapping.kind == MappingKind::Main)
    {
        return;
    }
    let host = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    let path = profile.string(&format!("system-wide on {host}"));
    profile.mapping(Mapping {
        kind: MappingKind::Host,
        start: 0,
        limit: 0,
        file_offset: 0,
        path,
        build_id: StringId::EMPTY,
    });
}
