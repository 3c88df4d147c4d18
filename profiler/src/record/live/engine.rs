//! The thread that owns the sampler: begins captures, empties the rings, ends captures.

use std::{
    os::fd::AsFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, TryRecvError},
    },
    time::{Duration, Instant},
};

use profiler_common::limits::MAX_CAPTURES;

use super::{
    Begin, Bell, Command, LONGEST_WAIT, LiveSettings, Reply,
    job::{Job, Reader, Stage},
    naming::{Namers, Question, Sampled},
    recorder::{Recorder, Segment},
};
use crate::{
    bpf::{Counts, Sampler, Stacks, now_ns},
    captures::{CaptureError, Recent, State},
    jit::LAST_PATIENCE,
    process::Scope,
    profile::Profile,
    record::{
        Addresses, End, LabelSettings, RecordError,
        capture::{Capture, executable},
        collect::{Collector, Known},
        period_ns,
        sampling::{POLL, Sampling},
        session,
        usage::Usage,
    },
    target::{TargetSpec, Targets},
};

/// How often the slow things are looked at.
const SLOW_POLL: Duration = Duration::from_secs(1);
/// How long samples of an ended capture may be on their way: tables that they wait for are made by
/// then, or they are taken as far as they can be walked.
const ARRIVAL_PATIENCE_NS: u64 = 500_000_000;
/// How long after its end a capture may read what runtimes told of their code.
const CODE_PATIENCE_NS: u64 = LAST_PATIENCE.as_nanos() as u64;
/// How long processes are watched on after the last capture: the next one may be about to come.
const LINGER: Duration = Duration::from_secs(10);
/// Captures for others, at most: some more numbers are for the recorder, and for those whose samples
/// are on their way.
const MOST_CLIENTS: usize = MAX_CAPTURES - 4;
/// How often what only past captures needed is let go of.
const TIDY: Duration = Duration::from_secs(60);

/// What the sampler does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// The clocks tick at this frequency.
    Sampling { hz: u32 },
    /// They stand still since then; processes are watched.
    Resting { since: Instant },
    /// Nothing is attached to the kernel.
    Asleep,
}

/// All that the thread owns.
pub(super) struct Engine {
    settings: LiveSettings,
    sampling: Sampling,
    jobs: Vec<Job>,
    recorder: Option<Recorder>,
    mode: Mode,
    namers: Namers,
    state: Arc<Mutex<State>>,
    last_slow: Instant,
    last_tidy: Instant,
    last_part: Instant,
}

impl Engine {
    pub(super) fn new(
        sampler: Sampler,
        settings: LiveSettings,
        namers: Namers,
        state: Arc<Mutex<State>>,
    ) -> Self {
        Self {
            settings,
            sampling: Sampling::new(sampler, Scope::All, None),
            jobs: Vec::new(),
            recorder: settings.recorder.map(Recorder::new),
            mode: Mode::Asleep,
            namers,
            state,
            last_slow: Instant::now(),
            last_tidy: Instant::now(),
            last_part: Instant::now(),
        }
    }

    /// Does what it is asked to until it is asked to end.
    pub(super) fn run(&mut self, commands: &Receiver<Command>, bell: &Bell) {
        self.record_on();
        while self.obey(commands) {
            let had_more = self.mode != Mode::Asleep && self.sampling.pump();
            self.look_at_jobs();
            self.tell();
            if !had_more {
                self.wait(bell);
            }
        }
        for at in 0..self.jobs.len() {
            self.stop_job(at, End::Stopped);
        }
        self.sampling.sampler.disable();
        self.sampling.take_the_rest();
        while !self.jobs.is_empty() {
            self.finish_job(0);
        }
    }

    /// Takes what was asked for. False when that is the end.
    fn obey(&mut self, commands: &Receiver<Command>) -> bool {
        loop {
            match commands.try_recv() {
                Ok(Command::Begin(begin)) => self.begin(*begin),
                Ok(Command::Recent(recent, reply)) => self.ask_recorder(recent, reply),
                Ok(Command::End) | Err(TryRecvError::Disconnected) => return false,
                Err(TryRecvError::Empty) => return true,
            }
        }
    }

    fn wait(&self, bell: &Bell) {
        let longest = match self.mode {
            Mode::Asleep => LONGEST_WAIT * 60,
            Mode::Resting { .. } => LONGEST_WAIT,
            Mode::Sampling { .. } => POLL,
        };
        let next = self.jobs.iter().map(Job::left).min();
        let most = next.map_or(longest, |next| {
            next.clamp(Duration::from_millis(1), longest)
        });
        match self.mode {
            Mode::Asleep => bell.wait(most),
            _ => self.sampling.wait(most, std::iter::once(bell.0.as_fd())),
        }
        bell.heard();
    }

    fn begin(&mut self, begin: Begin) {
        let most = self.settings.most_captures.min(MOST_CLIENTS);
        let is_client = |job: &&Job| matches!(job.reader, Reader::Client(_));
        let begun = match &begin.reader {
            Reader::Client(reply) if reply.is_closed() => return,
            Reader::Client(_) if self.jobs.iter().filter(is_client).count() >= most => {
                Err((begin.reader, CaptureError::TooMany { most }))
            }
            Reader::Client(_) | Reader::Recorder => self.try_begin(begin),
        };
        if let Err((reader, error)) = begun {
            refuse(reader, error);
            self.adapt();
        }
    }

    /// Begins the next part of what the flight recorder remembers.
    fn record_on(&mut self) {
        let Some(recorder) = &self.recorder else {
            return;
        };
        self.last_part = Instant::now();
        self.begin(Begin {
            wanted: recorder.wanted(),
            spec: TargetSpec::default(),
            targets: Targets::default(),
            reader: Reader::Recorder,
        });
    }

    /// Has the flight recorder go on if it stands still: once a second, as what was refused may be again.
    fn see_to_the_recorder(&mut self) {
        if self.recorder.is_some()
            && self.running_part().is_none()
            && self.last_part.elapsed() >= SLOW_POLL
        {
            self.record_on();
        }
    }

    /// Where the capture is that becomes the flight recorder's next part.
    fn running_part(&self) -> Option<usize> {
        let is_part = |job: &Job| matches!(job.reader, Reader::Recorder);
        let runs = |job: &Job| is_part(job) && job.stage == Stage::Running;
        self.jobs.iter().position(runs)
    }

    /// Has the part that is on its way end, so that what has just happened is in it.
    fn ask_recorder(&mut self, recent: Recent, reply: Reply) {
        let Some(recorder) = &mut self.recorder else {
            reply.send(Err(CaptureError::NoRecorder));
            return;
        };
        recorder.asked.push((recent, reply));
        match self.running_part() {
            Some(at) => {
                self.stop_job(at, End::Stopped);
                self.record_on();
            }
            None => self.answer_from_recorder(),
        }
    }

    /// Answers those who asked the flight recorder.
    fn answer_from_recorder(&mut self) {
        let sampler = &self.sampling.sampler;
        let Some(recorder) = &mut self.recorder else {
            return;
        };
        let hz = recorder.wanted().frequency_hz;
        for (recent, reply) in std::mem::take(&mut recorder.asked) {
            self.namers.remember(Question {
                segments: recorder.last(recent.last),
                recent,
                frequency_hz: hz,
                has_bpf_time: sampler.has_run_time(),
                kernel_bytes: sampler.kernel_bytes() as u64,
                reply,
            });
        }
    }

    fn try_begin(&mut self, begin: Begin) -> Result<(), (Reader, CaptureError)> {
        let hz = begin.wanted.frequency_hz.max(self.frequency_hz());
        if let Err(error) = self.sample_at(hz) {
            return Err((begin.reader, error.into()));
        }
        let pids = begin.targets.pids.clone();
        if let Err(error) = self.sampling.scan(&pids, Stacks::Taken) {
            return Err((begin.reader, error.into()));
        }
        self.sampling.want_tables(&pids);
        let main = begin.targets.main;
        let mut collector = Collector::new(
            Profile::cpu(period_ns(hz)),
            LabelSettings {
                shown: begin.wanted.target.labels(begin.wanted.labels.as_deref()),
            },
            begin.wanted.times,
            Addresses::Runtime,
        );
        if let Some(main) = main {
            collector.set_main(executable(main));
        }
        if matches!(begin.reader, Reader::Recorder) {
            // Its parts are put together, whatever others ask for meanwhile.
            collector.change_period(period_ns(hz));
        }
        let sampler = &mut self.sampling.sampler;
        let begun = Capture::begin(sampler, begin.targets.clone(), &begin.spec, collector);
        let capture = match begun {
            Ok(Some(capture)) => capture.of_program(begin.wanted.program),
            Ok(None) => {
                let most = self.jobs.len();
                return Err((begin.reader, CaptureError::TooMany { most }));
            }
            Err(error) => return Err((begin.reader, error.into())),
        };
        let number = capture.number;
        match Job::new(number, begin, hz) {
            Ok(job) => {
                self.jobs.push(job);
                self.sampling.captures.push(capture);
                Ok(())
            }
            Err(refused) => {
                sampler.end(number);
                sampler.close(number);
                Err(refused)
            }
        }
    }

    /// The highest frequency that a capture which runs asks for; 0 for none.
    fn frequency_hz(&self) -> u32 {
        let running = self.jobs.iter().filter(|job| job.stage == Stage::Running);
        let asked = running.map(|job| job.wanted.frequency_hz);
        asked.max().unwrap_or(0)
    }

    /// Has the clocks tick at the frequency that is asked for now, or stand still.
    fn adapt(&mut self) {
        let hz = self.frequency_hz();
        if hz > 0 {
            if let Err(error) = self.sample_at(hz) {
                log::warn!("the clocks keep their frequency: {error}");
            }
        } else if matches!(self.mode, Mode::Sampling { .. }) {
            self.sampling.sampler.rest();
            let since = Instant::now();
            self.mode = Mode::Resting { since };
        }
    }

    fn sample_at(&mut self, hz: u32) -> Result<(), RecordError> {
        let period_ns = period_ns(hz);
        let sampler = &mut self.sampling.sampler;
        match self.mode {
            Mode::Sampling { hz: now } if now == hz => return Ok(()),
            Mode::Sampling { .. } => {
                sampler.change_period(period_ns)?;
                for capture in &mut self.sampling.captures {
                    capture.collector.change_period(period_ns);
                }
                for job in &mut self.jobs {
                    job.note_frequency(hz);
                }
            }
            Mode::Resting { .. } => sampler.tick(period_ns)?,
            Mode::Asleep => {
                self.sampling.forget_processes();
                self.sampling.sampler.resume(period_ns)?;
            }
        }
        self.mode = Mode::Sampling { hz };
        Ok(())
    }

    /// Ends what is to end, and hands on what has arrived.
    fn look_at_jobs(&mut self) {
        if self.last_slow.elapsed() >= SLOW_POLL && self.mode != Mode::Asleep {
            self.last_slow = Instant::now();
            self.sampling.slow_pump();
        }
        self.see_to_the_recorder();
        if self.last_tidy.elapsed() >= TIDY {
            self.last_tidy = Instant::now();
            self.sampling.forget_samples();
        }
        for at in 0..self.jobs.len() {
            let runs_another = self.runs_another_program(at);
            if let Some(end) = self.jobs[at].end(runs_another) {
                self.stop_job(at, end);
                if matches!(self.jobs[at].reader, Reader::Recorder) {
                    self.record_on();
                }
            }
        }
        let mut at = 0;
        while at < self.jobs.len() {
            if self.has_arrived(at) && !self.has_code_to_read(at) {
                self.finish_job(at);
            } else {
                at += 1;
            }
        }
        if let Mode::Resting { since } = self.mode
            && since.elapsed() >= LINGER
            && self.jobs.is_empty()
        {
            self.sampling.sampler.pause();
            self.sampling.forget_processes();
            self.sampling.forget_samples();
            self.mode = Mode::Asleep;
        }
    }

    /// Whether a capture of one program is at its end, as its process runs another.
    fn runs_another_program(&self, at: usize) -> bool {
        let job = &self.jobs[at];
        let mut captures = self.sampling.captures.iter();
        let capture = captures.find(|capture| capture.number == job.number);
        capture.is_some_and(|capture| capture.has_ended())
    }

    fn stop_job(&mut self, at: usize, end: End) {
        let job = &self.jobs[at];
        if job.stage != Stage::Running {
            return;
        }
        let number = job.number;
        let Sampling {
            sampler, captures, ..
        } = &mut self.sampling;
        if let Some(capture) = captures.iter_mut().find(|one| one.number == number) {
            capture.end(sampler);
        }
        // From now on no tick falls on it.
        let at_ns = now_ns();
        self.jobs[at].stage = Stage::Ended { at_ns, end };
        self.adapt();
    }

    /// Whether every sample of an ended capture was taken.
    fn has_arrived(&mut self, at: usize) -> bool {
        let Stage::Ended { at_ns, .. } = self.jobs[at].stage else {
            return false;
        };
        if self.sampling.has_taken(at_ns) {
            return true;
        }
        if now_ns() > at_ns + ARRIVAL_PATIENCE_NS {
            self.sampling.give_up_waiting(at_ns);
            return self.sampling.has_taken(at_ns);
        }
        false
    }

    /// Reads a piece of what runtimes told of their code, and looks at the rings meanwhile. False when
    /// there is nothing left, or when it takes too long.
    fn has_code_to_read(&mut self, at: usize) -> bool {
        let job = &self.jobs[at];
        let Stage::Ended { at_ns, .. } = job.stage else {
            return false;
        };
        if job.is_abandoned() || now_ns() > at_ns + CODE_PATIENCE_NS {
            return false;
        }
        let Sampling {
            captures,
            processes,
            objects,
            ..
        } = &mut self.sampling;
        let known = Known { processes, objects };
        let found = captures.iter_mut().find(|one| one.number == job.number);
        found.is_some_and(|capture| capture.collector.read_rest(known))
    }

    fn finish_job(&mut self, at: usize) {
        let job = self.jobs.remove(at);
        let captures = &mut self.sampling.captures;
        let Some(found) = captures.iter().position(|one| one.number == job.number) else {
            return;
        };
        let mut capture = captures.remove(found);
        let sampler = &mut self.sampling.sampler;
        let counts = capture.counts(sampler);
        sampler.close(capture.number);
        let counts = match counts {
            Ok(mut counts) => {
                counts.attribute(capture.collector.kept());
                counts
            }
            Err(error) => {
                refuse(job.reader, error.into());
                return;
            }
        };
        self.note(&counts, &capture);
        if job.is_abandoned() {
            self.state().abandoned += 1;
            return;
        }
        let reply = match job.reader {
            Reader::Client(reply) => reply,
            Reader::Recorder => return self.remember(job.started, counts, capture),
        };
        let Stage::Ended { end, .. } = job.stage else {
            return;
        };
        let notes = session::notes(&capture, &self.sampling, &counts);
        let known = self.sampling.known();
        capture.collector.add_main(capture.targets.main, known);
        let addresses = capture.collector.kernel_addresses();
        let first_sample_ns = capture.first_sample_ns;
        let first = first_sample_ns.map(|at| Duration::from_nanos(at.saturating_sub(job.asked_ns)));
        let gathered = capture
            .collector
            .gather(self.sampling.known(), Duration::ZERO);
        let sampler = &mut self.sampling.sampler;
        let bpf = sampler.has_run_time().then_some(counts.run_time);
        self.namers.name(Sampled {
            gathered,
            printed: sampler.kernel_symbols(&addresses),
            label: capture.targets.label,
            notes,
            end,
            elapsed: job.started.elapsed(),
            cpu: Usage::now().cpu.saturating_sub(job.cpu) + counts.run_time,
            bpf,
            kernel_bytes: sampler.kernel_bytes() as u64,
            first_sample: first,
            frequencies_hz: job.frequencies_hz,
            patience: job.wanted.patience,
            counts,
            reply,
        });
    }
}

/// Tells whoever waits that there is nothing.
fn refuse(reader: Reader, error: CaptureError) {
    match reader {
        Reader::Client(reply) => reply.send(Err(error)),
        Reader::Recorder => log::warn!("the flight recorder stands still: {error}"),
    }
}

impl Engine {
    /// Gives the flight recorder a part, and answers those who waited for it.
    fn remember(&mut self, began: Instant, counts: Counts, mut capture: Capture) {
        capture.collector.add_main(None, self.sampling.known());
        let addresses = capture.collector.kernel_addresses();
        let gathered = capture
            .collector
            .gather(self.sampling.known(), Duration::ZERO);
        let printed = self.sampling.sampler.kernel_symbols(&addresses);
        let segment = Segment::new([began, Instant::now()], counts, gathered, printed);
        if let Some(recorder) = &mut self.recorder {
            recorder.push(segment);
        }
        self.answer_from_recorder();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds what a capture had to what we tell of all.
    fn note(&self, counts: &Counts, capture: &Capture) {
        let mut state = self.state();
        state.due += counts.due;
        state.kept += capture.collector.kept();
        let lost = [
            ("ring full", counts.ring_full),
            ("no scratch", counts.no_scratch),
            ("undecodable", counts.undecodable),
        ];
        for (cause, count) in lost {
            add(&mut state.lost, cause, count);
        }
        for (reason, count) in capture.collector.cut() {
            add(&mut state.cut, reason.words(), *count);
        }
    }

    /// Tells what we do now.
    fn tell(&self) {
        let mut state = self.state();
        let is_client = |job: &&Job| matches!(job.reader, Reader::Client(_));
        state.running = self.jobs.iter().filter(is_client).count();
        state.frequency_hz = match self.mode {
            Mode::Sampling { hz } => hz,
            Mode::Resting { .. } | Mode::Asleep => 0,
        };
        let sampler = &self.sampling.sampler;
        state.bpf = sampler.has_run_time().then(|| sampler.run_time());
        state.kernel_bytes = sampler.kernel_bytes() as u64;
    }
}

fn add(counts: &mut Vec<(&'static str, u64)>, name: &'static str, count: u64) {
    match counts.iter_mut().find(|(known, _)| *known == name) {
        Some((_, sum)) => *sum += count,
        None => counts.push((name, count)),
    }
}
