//! One recording: the loop that owns all state, from the targets to a named profile.
//!
//! In: a [`Request`]. Out: an [`Outcome`]. It prints nothing and knows no format; what it wants to
//! say while it runs goes to a [`Watch`].

mod account;
mod collect;
mod usage;

use std::{
    collections::HashSet,
    ffi::OsString,
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use profiler_common::config::{TargetKey, TargetKind};
use rustix::event::{PollFd, PollFlags, Timespec};
use thiserror::Error;

pub use account::{Account, Cost};
pub use collect::LabelSettings;

use crate::{
    bpf::{BpfError, Flavour, Sample, Sampler, Settings, Stacks},
    error::Explain,
    object::Objects,
    process::{Change, ProcessEvent, Processes, Scope},
    profile::{LabelKey, Mapping, MappingKind, Profile, StringId},
    symbolize::Inlines,
    target::{
        self, Follow, Pid, TargetError, TargetSpec, Targets, UserStacks,
        command::{ChildStdout, Command, CommandError, Prepared, Running},
        wait::ExitWatch,
    },
};
use collect::{Collector, Finished, Known};
use usage::{Usage, monotonic_ns};

/// How often the rings are emptied.
const POLL: Duration = Duration::from_millis(100);
/// How often the slow things are looked at: CPUs that come and go, cgroups of version 1.
const SLOW_POLL: Duration = Duration::from_secs(1);

/// What to record.
#[derive(Clone, Debug)]
pub struct Request {
    /// Processes, threads, names, cgroups; nothing for the whole host.
    pub spec: TargetSpec,
    /// A command to start, instead of a target that is there.
    pub command: Option<StartCommand>,
    /// Samples per second and CPU.
    pub frequency_hz: u32,
    /// How long; `None` until stopped or the target's end.
    pub duration: Option<Duration>,
    /// Whether kernel stacks are taken.
    pub kernel_stacks: Stacks,
    /// Whether user stacks are taken.
    pub user_stacks: Stacks,
    /// Whether lines and inlined calls are looked up.
    pub inlines: Inlines,
    /// Labels to write; `None` for the default: none for one process, else comm and pid.
    pub labels: Option<Vec<LabelKey>>,
    /// The walker; `None` for the best.
    pub flavour: Option<Flavour>,
}

/// A command and where its standard output goes.
#[derive(Clone, Debug)]
pub struct StartCommand {
    /// Program and arguments.
    pub argv: Vec<OsString>,
    /// Our own standard output may be wanted for a profile.
    pub stdout: ChildStdout,
}

/// Ends a recording from outside: by a signal handler or another thread.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// The flag behind it, for a signal handler to set.
    #[must_use]
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }

    fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// How far a recording is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Time since the clocks started.
    pub elapsed: Duration,
    /// Samples so far.
    pub kept: u64,
    /// Samples lost so far.
    pub lost: u64,
}

/// Sees a recording on its way.
pub trait Watch {
    /// The clocks run. Whoever waits for the start may go on.
    fn started(&mut self) {}
    /// The rings were emptied once more.
    fn progress(&mut self, _progress: Progress) {}
    /// The sampling is over; names are next.
    fn sampled(&mut self) {}
}

/// A watch that looks away.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unwatched;

impl Watch for Unwatched {}

/// Why a recording ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The time asked for is over.
    TimeIsOver,
    /// Stopped from outside.
    Stopped,
    /// The targets, or the command, have ended.
    TargetEnded,
}

/// What a recording gave.
#[derive(Debug)]
pub struct Outcome {
    /// The profile, named.
    pub profile: Profile,
    /// A short name of the targets.
    pub label: String,
    /// Where every tick went.
    pub account: Account,
    /// What it cost.
    pub cost: Cost,
    /// Why it ended.
    pub end: End,
    /// The command, if one was started and still runs.
    pub running: Option<Running>,
    /// What the user should know, one sentence each.
    pub notes: Vec<String>,
}

/// Why a recording failed.
#[derive(Debug, Error)]
pub enum RecordError {
    /// The target is not there or cannot be one.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The command could not be started.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The kernel side could not be set up or kept up.
    #[error(transparent)]
    Bpf(#[from] BpfError),
    /// A process that is there may not be looked at.
    #[error("cannot read the mappings of process {pid}")]
    Maps {
        /// The process.
        pid: Pid,
        /// The system's words.
        #[source]
        source: io::Error,
    },
    /// Waiting for the target failed.
    #[error("cannot wait for the target")]
    Wait(#[source] io::Error),
}

impl Explain for RecordError {
    fn why(&self) -> String {
        match self {
            Self::Target(error) => error.why(),
            Self::Command(error) => error.why(),
            Self::Bpf(error) => error.why(),
            Self::Maps { source, .. } | Self::Wait(source) => source.to_string(),
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::Target(error) => error.advice(),
            Self::Command(error) => error.advice(),
            Self::Bpf(error) => error.advice(),
            Self::Maps { pid, .. } => format!(
                "ebpfprof --pid {pid} --no-user, for its kernel stacks; root or CAP_SYS_PTRACE reads other processes, unless they are protected even from those"
            ),
            Self::Wait(_) => "ulimit -n 65536, then the same command again".to_owned(),
        }
    }

    fn is_misuse(&self) -> bool {
        match self {
            Self::Target(error) => error.is_misuse(),
            Self::Command(error) => error.is_misuse(),
            Self::Bpf(_) | Self::Maps { .. } | Self::Wait(_) => false,
        }
    }
}

/// A recording that is ready to start: its targets are found, its command waits.
pub struct Ready {
    request: Request,
    targets: Targets,
    prepared: Option<Prepared>,
    started_ns: u64,
}

/// Finds the targets, or starts the command up to the point where it would run.
///
/// # Errors
/// When a target is not there, or the command cannot be started.
pub fn prepare(request: Request) -> Result<Ready, RecordError> {
    let started_ns = monotonic_ns();
    let (targets, prepared) = match &request.command {
        Some(command) => {
            let prepared = Command::prepare(&command.argv, command.stdout)?;
            let program = command.argv.first().cloned().unwrap_or_default();
            (
                Targets::of_command(prepared.pid(), &program)?,
                Some(prepared),
            )
        }
        None => {
            let user = if request.user_stacks == Stacks::Taken {
                UserStacks::Yes
            } else {
                UserStacks::No
            };
            (target::resolve(&request.spec, user)?, None)
        }
    };
    Ok(Ready {
        request,
        targets,
        prepared,
        started_ns,
    })
}

impl Ready {
    /// A short name of the targets, for a file name.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.targets.label
    }

    /// Records.
    ///
    /// # Errors
    /// When the kernel refuses something, or the target may not be looked at.
    pub fn record(self, stop: &Stop, watch: &mut dyn Watch) -> Result<Outcome, RecordError> {
        let mut session = Session::set_up(self)?;
        session.start(watch)?;
        let end = session.run(stop, watch)?;
        watch.sampled();
        session.finish(end)
    }
}

/// All the state of a recording.
struct Session {
    request: Request,
    targets: Targets,
    prepared: Option<Prepared>,
    running: Option<Running>,
    sampler: Sampler,
    processes: Processes,
    objects: Objects,
    collector: Collector,
    exits: ExitWatch,
    /// Processes that are targets because their main thread has a name asked for.
    named: HashSet<Pid>,
    samples: Vec<Sample>,
    events: Vec<ProcessEvent>,
    first_sample_ns: Option<u64>,
    started_ns: u64,
    clocks_started: Instant,
    usage: Usage,
}

impl Session {
    fn set_up(ready: Ready) -> Result<Self, RecordError> {
        // A file stays open for each object: a busy host has thousands.
        usage::raise_descriptor_limit();
        let Ready {
            request,
            targets,
            prepared,
            started_ns,
        } = ready;
        let period_ns = 1_000_000_000 / u64::from(request.frequency_hz.max(1));
        let sampler = Sampler::load(&Settings {
            period_ns,
            targets: targets.keys.clone(),
            filters: targets.filters,
            cgroup_levels: targets.cgroup_levels,
            kernel_stacks: request.kernel_stacks,
            user_stacks: request.user_stacks,
            follow: request.spec.follow,
            flavour: request.flavour,
        })?;
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
        let only_pids =
            targets.filters == TargetKind::Pid as u32 || targets.filters == TargetKind::Tid as u32;
        let scope = if only_pids && targets.cgroup_v1.is_empty() && request.spec.comms.is_empty() {
            Scope::Only(targets.pids.iter().copied().collect(), request.spec.follow)
        } else {
            Scope::All
        };
        Ok(Self {
            named: HashSet::new(),
            collector: Collector::new(Profile::cpu(period_ns), labels),
            processes: Processes::new(scope),
            objects: Objects::default(),
            samples: Vec::new(),
            events: Vec::new(),
            first_sample_ns: None,
            clocks_started: Instant::now(),
            usage: Usage::now(),
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
    fn start(&mut self, watch: &mut dyn Watch) -> Result<(), RecordError> {
        if self.request.spec.follow == Follow::Yes {
            self.add_descendants()?;
        }
        let wanted = match self.request.user_stacks {
            Stacks::Taken => self.targets.pids.clone(),
            Stacks::LeftOut => Vec::new(),
        };
        for pid in wanted {
            match self.processes.scan(pid, monotonic_ns(), &mut self.objects) {
                Ok(()) => {}
                Err(source) if source.kind() == io::ErrorKind::PermissionDenied => {
                    return Err(RecordError::Maps { pid, source });
                }
                // It has just ended: the run ends with it.
                Err(error) => log::debug!("process {pid}: {error}"),
            }
        }
        self.processes
            .publish(monotonic_ns(), self.sampler.tables(), &self.objects)?;
        if let Some(main) = self.targets.main.filter(|_| self.prepared.is_none()) {
            self.collector.set_main(executable(main));
        }
        self.collector.set_start(SystemTime::now());
        self.usage = Usage::now();
        self.clocks_started = Instant::now();
        self.sampler.enable()?;
        if let Some(prepared) = self.prepared.take() {
            let running = prepared.start()?;
            self.collector.set_main(executable(running.pid()));
            self.running = Some(running);
        }
        watch.started();
        Ok(())
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
    fn run(&mut self, stop: &Stop, watch: &mut dyn Watch) -> Result<End, RecordError> {
        let mut last_slow = Instant::now();
        loop {
            let end = self.end(stop);
            let had_more = self.pump()?;
            if let Some(end) = end {
                return Ok(end);
            }
            if last_slow.elapsed() >= SLOW_POLL {
                last_slow = Instant::now();
                self.slow_pump()?;
                let counts = self.sampler.counts()?;
                let lost = counts.ring_full + counts.no_scratch + counts.undecodable;
                watch.progress(Progress {
                    elapsed: self.clocks_started.elapsed(),
                    kept: self.collector.kept(),
                    lost,
                });
            }
            if !had_more {
                self.wait()?;
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
    fn wait(&mut self) -> Result<(), RecordError> {
        let left = self
            .request
            .duration
            .map(|duration| duration.saturating_sub(self.clocks_started.elapsed()));
        let time = left.map_or(POLL, |left| left.min(POLL));
        let time = Timespec::try_from(time).expect("at most a poll's time");
        let fds = self.exits.fds().chain(self.sampler.descriptors());
        let mut fds: Vec<PollFd<'_>> = fds
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        match rustix::event::poll(&mut fds, Some(&time)) {
            // A signal may have asked us to stop.
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(RecordError::Wait(error.into())),
        }
    }

    /// Takes what the rings hold, merged by time. True when there may be more.
    ///
    /// Samples are taken first: whatever happened before a sample is then in the stream already.
    fn pump(&mut self) -> Result<bool, RecordError> {
        self.samples.clear();
        self.events.clear();
        let has_more = self.sampler.drain(&mut self.samples);
        self.sampler.stream().drain(&mut self.events);
        self.samples.sort_by_key(|sample| sample.time_ns);
        let samples = std::mem::take(&mut self.samples);
        let events = std::mem::take(&mut self.events);
        let now_ns = monotonic_ns();
        let mut next_event = events.iter().peekable();
        for sample in &samples {
            while let Some(event) = next_event.next_if(|event| event.time_ns <= sample.time_ns) {
                self.apply(event)?;
            }
            self.first_sample_ns.get_or_insert(sample.time_ns);
            let stack = self.processes.user_stack(sample, now_ns, &mut self.objects);
            let known = Known {
                processes: &self.processes,
                objects: &self.objects,
            };
            self.collector.add(sample, &stack, known);
        }
        for event in next_event {
            self.apply(event)?;
        }
        self.processes
            .publish(now_ns, self.sampler.tables(), &self.objects)?;
        (self.samples, self.events) = (samples, events);
        Ok(has_more)
    }

    fn apply(&mut self, event: &ProcessEvent) -> Result<(), RecordError> {
        self.processes.apply(event, &mut self.objects);
        match &event.change {
            Change::Exec { pid, comm } => {
                if self.request.spec.comms.contains(comm) {
                    self.add_named(*pid)?;
                } else if self.named.remove(pid) {
                    self.sampler
                        .remove_target(TargetKey::id(TargetKind::Pid, u64::from(pid.0)));
                }
                if self.targets.main == Some(*pid) && !self.collector.has_main() {
                    self.collector.set_main(executable(*pid));
                }
            }
            Change::Fork { pid, parent } if pid != parent && self.named.contains(parent) => {
                self.add_named(*pid)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// A process whose main thread has a name asked for: all its threads are targets.
    fn add_named(&mut self, pid: Pid) -> Result<(), RecordError> {
        self.named.insert(pid);
        Ok(self
            .sampler
            .add_target(TargetKey::id(TargetKind::Pid, u64::from(pid.0)))?)
    }

    fn slow_pump(&mut self) -> Result<(), RecordError> {
        self.sampler.follow_cpus()?;
        for directory in &self.targets.cgroup_v1 {
            // A cgroup that is gone has no processes.
            for pid in target::cgroup_v1_pids(directory).unwrap_or_default() {
                let key = TargetKey::id(TargetKind::Pid, u64::from(pid.0));
                if !self.sampler.is_target(key) {
                    self.sampler.add_target(key)?;
                }
            }
        }
        Ok(())
    }

    /// Stops the clocks, takes the rest, names everything.
    fn finish(mut self, end: End) -> Result<Outcome, RecordError> {
        self.sampler.disable();
        let elapsed = self.clocks_started.elapsed();
        while self.pump()? {}
        let sampling = Usage::now();
        let counts = self.sampler.counts()?;
        let mut notes = self.notes(&counts);
        let has_bpf_time = self.sampler.has_run_time();
        let kernel_bytes = self.sampler.kernel_bytes() as u64;
        // The programs leave the kernel before the slow part.
        drop(self.sampler);
        let Finished {
            mut profile,
            mut account,
            kernel_is_hidden,
        } = self.collector.finish(&self.objects, self.request.inlines);
        if kernel_is_hidden {
            notes.push("the kernel hides some of its symbols, so frames of it have no names; try: sudo sysctl kernel.kptr_restrict=0 kernel.perf_event_paranoid=1".to_owned());
        }
        account.count(&counts);
        profile.duration_ns = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
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
            end,
            running: self.running,
            notes,
        })
    }

    fn notes(&self, counts: &crate::bpf::Counts) -> Vec<String> {
        let mut notes = self.targets.notes.clone();
        if counts.not_followed > 0 {
            notes.push(format!(
                "{} children could not be followed: the target set was full; try: ebpfprof --all",
                counts.not_followed
            ));
        }
        if self.processes.events_lost() > 0 {
            notes.push(format!("the kernel dropped {} process events; frames of very short-lived processes may lack names", self.processes.events_lost()));
        }
        notes
    }
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
