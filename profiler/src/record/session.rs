//! The recording itself: everything that lives from the first tick to the last.

use std::{
    ops::ControlFlow,
    time::{Duration, Instant},
};

use profiler_common::config::TargetKind;

use super::{
    Cost, End, LabelSettings, Outcome, Progress, Ready, RecordError, Request, Rights, Stop, Times,
    Watch,
    capture::{Capture, executable},
    collect::{Collector, Finished, Known},
    governor::{BpfTime, Governor, Spent},
    period_ns,
    sampling::{POLL, Sampling},
    usage::{self, Usage},
};
use crate::{
    bpf::{Counts, Sampler, Settings},
    bug,
    debuginfod::Debuginfod,
    jit,
    object::{
        Objects,
        opener::{self, Meanwhile},
    },
    privilege::{self, Capability},
    process::Scope,
    profile::{LabelKey, MOST_MOMENTS, Mapping, MappingKind, Profile, StringId},
    symbolize::{self, KernelNames, Symbolized},
    target::{
        self, Follow, Pid, Targets,
        command::{Prepared, Running},
        wait::ExitWatch,
    },
};

/// How often at first, while most processes are yet unknown: one that ends before it is read from
/// `/proc` has no names.
const EARLY_POLL: Duration = Duration::from_millis(10);
const EARLY: Duration = Duration::from_millis(500);
/// How often the slow things are looked at: CPUs that come and go, cgroups of version 1.
const SLOW_POLL: Duration = Duration::from_secs(1);

/// All the state of a recording.
pub(super) struct Session {
    request: Request,
    prepared: Option<Prepared>,
    running: Option<Running>,
    /// What is sampled, for one capture.
    sampling: Sampling,
    exits: ExitWatch,
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
        let mut sampler = Sampler::load(&Settings {
            period_ns,
            shortest_period_ns: period_ns,
            most_targets: targets.keys.len(),
            kernel_stacks: request.kernel_stacks,
            user_stacks: request.user_stacks,
            flavour: request.flavour,
            table_bytes: request.table_bytes,
        })?;
        // Asked for while we may.
        symbolize::kernel_text_bytes();
        give_up(&request, privilege::SAMPLING);
        opener::prepare();
        // Before the first sample, so that a process that ends at once is noticed.
        let exits = ExitWatch::new(&targets.exit_with).map_err(RecordError::Wait)?;
        let labels = labels(&request, &targets);
        let scope = scope(&request, &targets);
        let governor = governor(&request, &sampler);
        let collector = Collector::new(
            Profile::cpu(period_ns),
            labels,
            request.times,
            request.addresses,
        );
        let capture = Capture::begin(&mut sampler, targets, &request.spec, collector)?;
        let mut sampling = Sampling::new(sampler, scope, request.debuginfod.clone());
        sampling.captures.extend(capture);
        Ok(Self {
            sampling,
            clocks_started: Instant::now(),
            usage: Usage::now(),
            governor,
            running: None,
            request,
            prepared,
            exits,
            started_ns,
        })
    }

    fn capture(&self) -> &Capture {
        &self.sampling.captures[0]
    }

    fn capture_mut(&mut self) -> &mut Capture {
        &mut self.sampling.captures[0]
    }

    /// Reads the targets, gives the kernel side their tables, and starts the clocks.
    pub(super) fn start(&mut self, watch: &mut dyn Watch) -> Result<(), RecordError> {
        if self.request.spec.follow == Follow::Yes {
            self.add_descendants()?;
        }
        let pids = self.capture().targets.pids.clone();
        self.sampling.scan(&pids, self.request.user_stacks)?;
        self.sampling.make_tables(&pids);
        let main = self.capture().targets.main;
        if let Some(main) = main.filter(|_| self.prepared.is_none()) {
            self.capture_mut().collector.set_main(executable(main));
        }
        self.capture_mut().set_start();
        self.usage = Usage::now();
        self.clocks_started = Instant::now();
        opener::set_meanwhile(Meanwhile::Sampling);
        self.sampling.sampler.enable()?;
        if let Some(prepared) = self.prepared.take() {
            let running = prepared.start()?;
            let main = executable(running.pid());
            self.capture_mut().collector.set_main(main);
            self.running = Some(running);
        }
        watch.started();
        Ok(())
    }

    /// Children that were born between the search for targets and the attaching of the follower.
    fn add_descendants(&mut self) -> Result<(), RecordError> {
        let Sampling {
            sampler, captures, ..
        } = &mut self.sampling;
        for capture in captures {
            let roots: Vec<Pid> = capture.targets.pids.clone();
            for pid in target::descendants(&roots).map_err(RecordError::Wait)? {
                if !capture.targets.pids.contains(&pid) {
                    capture.add_process(pid, sampler)?;
                }
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
            let had_more = self.sampling.pump();
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
            None => !self.capture().targets.exit_with.is_empty() && self.exits.all_gone(),
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
        let poll = if elapsed < EARLY { EARLY_POLL } else { POLL };
        let left = self
            .request
            .duration
            .map(|duration| duration.saturating_sub(elapsed));
        let most = left.map_or(poll, |left| left.min(poll));
        self.sampling.wait(most, self.exits.fds());
    }

    fn slow_pump(&mut self, watch: &mut dyn Watch) {
        self.sampling.slow_pump();
        let Sampling {
            sampler, captures, ..
        } = &mut self.sampling;
        let Ok(counts) = captures[0].counts(sampler) else {
            return;
        };
        self.govern(counts.run_time);
        bug::provoke(bug::Place::Loop);
        let lost = counts.ring_full + counts.no_scratch + counts.undecodable;
        watch.progress(Progress {
            elapsed: self.clocks_started.elapsed(),
            kept: self.capture().collector.kept(),
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
        if let Err(error) = self.sampling.sampler.change_period(period_ns) {
            // That CPU's samples weigh what they did.
            log::debug!("a clock keeps its frequency: {error}");
        }
        self.capture_mut().collector.change_period(period_ns);
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
        let sampled = Usage::now();
        let (request, mut running) = (self.request, self.running);
        let mut sampling = self.sampling;
        let capture = sampling.captures.pop().expect("it has one");
        let counts = capture.counts(&mut sampling.sampler)?;
        let mut notes = notes(&capture, &sampling, &counts);
        let (mut sampler, mut objects) = (sampling.sampler, sampling.objects);
        let has_bpf_time = sampler.has_run_time();
        let kernel_bytes = sampler.kernel_bytes() as u64;
        let printed = sampler.kernel_symbols(&capture.collector.kernel_addresses());
        // The programs leave the kernel before the slow part.
        drop(sampler);
        give_up(&request, privilege::NAMING);
        if let Some(debuginfod) = &request.debuginfod {
            if end == End::Stopped {
                stop.heed();
            }
            notes.extend(fetch_debug_files(debuginfod, &mut objects, stop, watch));
        }
        let known = Known {
            processes: &sampling.processes,
            objects: &objects,
        };
        let gathered = capture.collector.gather(known, jit::LAST_PATIENCE);
        let Finished {
            mut profile,
            mut account,
            symbolized,
            gaps,
        } = gathered.name(request.symbols, printed.as_ref());
        notes.extend(running.as_mut().and_then(command_note));
        notes.extend(symbol_notes(&symbolized));
        notes.extend(times_note(request.times, &profile));
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
            cpu: sampled.cpu.saturating_sub(self.usage.cpu) + counts.run_time,
            bpf: has_bpf_time.then_some(counts.run_time),
            samples: account.due,
            resident_bytes: usage::peak_resident_bytes(),
            kernel_bytes,
            first_sample: capture
                .first_sample_ns
                .map(|at| Duration::from_nanos(at.saturating_sub(self.started_ns))),
            afterwards: Usage::now().cpu.saturating_sub(sampled.cpu),
        };
        Ok(Outcome {
            profile,
            label: capture.targets.label,
            account,
            cost,
            lowered,
            end,
            running,
            notes,
            gaps,
            bare_objects: symbolized.bare_objects,
        })
    }

    /// Stops the clocks. For how long they ran.
    fn stop_clocks(&mut self) -> Duration {
        self.sampling.sampler.disable();
        opener::set_meanwhile(Meanwhile::Nothing);
        self.clocks_started.elapsed()
    }

    /// Takes what is in the rings and what waits, and completes the profile but for its names.
    fn take_the_rest(&mut self) {
        self.sampling.take_the_rest();
        let Sampling {
            processes,
            objects,
            captures,
            ..
        } = &mut self.sampling;
        for capture in captures {
            let known = Known { processes, objects };
            capture.collector.add_main(capture.targets.main, known);
        }
    }
}

/// What the user should know of what could not be done.
pub(super) fn notes(capture: &Capture, sampling: &Sampling, counts: &Counts) -> Vec<String> {
    let (objects, processes) = (&sampling.objects, &sampling.processes);
    let mut notes = capture.targets.notes.clone();
    let refused = counts.not_followed + capture.refused();
    if refused > 0 {
        notes.push(format!("{refused} processes could not become targets, as the target set was full: their ticks count as elsewhere; try: ebpfprof --all"));
    }
    if objects.unopened_for_want_of_descriptors() > 0 {
        notes.push(format!("{} files could not be opened and have no names: too many are open; try: ulimit -n 1048576", objects.unopened_for_want_of_descriptors()));
    }
    notes.extend(forbidden_note(objects.forbidden()));
    let without_clock = sampling.sampler.cpus_without_clock();
    if !without_clock.is_empty() {
        let numbers: Vec<String> = without_clock.iter().map(u32::to_string).collect();
        notes.push(format!("nothing was sampled on CPU {}, which came online later, as the kernel refused its clock; try: sudo sysctl kernel.perf_event_paranoid=2 (from 3 on it takes CAP_SYS_ADMIN, which was given up by then)", numbers.join(", ")));
    }
    if processes.events_lost() > 0 {
        notes.push(format!("the kernel dropped {} process events; frames of very short-lived processes may lack names", processes.events_lost()));
    }
    notes
}

/// The labels of the profile: by default those that tell processes apart, if there may be several.
fn labels(request: &Request, targets: &Targets) -> LabelSettings {
    let is_one_process =
        request.command.is_none() && targets.pids.len() == 1 && request.spec.follow == Follow::No;
    let default_labels = if is_one_process || request.command.is_some() {
        vec![]
    } else {
        vec![LabelKey::Comm, LabelKey::Pid]
    };
    LabelSettings {
        shown: request.labels.clone().unwrap_or(default_labels),
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
pub(super) fn symbol_notes(symbolized: &Symbolized) -> Vec<String> {
    let mut notes: Vec<String> = opener::silent()
        .iter()
        .map(|name| silent_note(name))
        .collect();
    if symbolized.without_lines > 0 {
        notes.push(format!("{} addresses have names and no lines, as those would take more memory than symbols may have; try: ebpfprof --max-symbol-memory 1GiB", symbolized.without_lines));
    }
    if symbolized.hurried > 0 {
        notes.push(format!("{} objects have names without all of their lines, as there was no time left to read those; try: a longer capture", symbolized.hurried));
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

/// Gives objects the debug files that they lack, and tells what the user should know of it. Whoever wants the profile now asks for the end again.
fn fetch_debug_files(
    debuginfod: &Debuginfod,
    objects: &mut Objects,
    stop: &Stop,
    watch: &mut dyn Watch,
) -> Vec<String> {
    bug::contain(|| {
        debuginfod.supply(objects.sampled_mut(), &mut |left| {
            watch.fetching(left);
            if stop.is_asked() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        watch.fetched();
    });
    debuginfod.report().notes()
}

/// How the command ended, if it did and not well.
fn command_note(running: &mut Running) -> Option<String> {
    let status = running.try_wait().ok()??;
    (!status.success()).then(|| format!("the command ended with {status}"))
}

/// A profile without one main executable is headed by the host.
pub(super) fn add_host_mapping(profile: &mut Profile) {
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
