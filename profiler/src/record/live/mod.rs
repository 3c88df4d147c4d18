//! The sampler of a server: one thread that owns it, and any number of captures that share it.
//!
//! In: what others want, over a channel. Out: profiles, each named by a thread of its own, so that
//! the rings are emptied meanwhile. While nobody asks, the clocks stand still and nothing is attached
//! to the kernel; programs, unwind tables and open files stay, so the next capture starts at once.

mod engine;
mod job;
mod naming;
mod recorder;

use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Sender},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{RecordError, period_ns};
use crate::{
    bpf::{self, Sampler, Settings, Stacks},
    bug,
    captures::{CaptureError, Captured, Recent, State, Wanted},
    object::opener,
    privilege, symbolize,
    target::{self, CgroupFilter, TargetSpec, Targets, UserStacks},
};
use engine::Engine;
use job::Reader;
use naming::Namers;
pub use recorder::RecorderSettings;
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd},
    process::{Signal, getpid, kill_process},
};

/// How the sampler of a server is set up.
#[derive(Clone, Copy, Debug)]
pub struct LiveSettings {
    /// Most kernel memory in mapping and unwind tables, in bytes.
    pub table_bytes: usize,
    /// How symbols are looked up.
    pub symbols: symbolize::Settings,
    /// Most captures at one time; the kernel side has room for 24 and some that end.
    pub most_captures: usize,
    /// The highest frequency that will be asked for, in Hz: rings are made for it.
    pub most_frequency_hz: u32,
    /// The flight recorder, if there is one.
    pub recorder: Option<RecorderSettings>,
}

/// What the sampler's thread is asked for.
enum Command {
    Begin(Box<Begin>),
    Recent(Recent, Reply),
    /// Ends every capture, and the thread.
    End,
}

/// A capture that is to begin.
struct Begin {
    wanted: Wanted,
    spec: TargetSpec,
    targets: Targets,
    reader: Reader,
}

/// Wakes the sampler's thread.
#[derive(Clone, Debug)]
struct Bell(Arc<OwnedFd>);

impl Bell {
    fn new() -> io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self(Arc::new(fd)))
    }

    fn ring(&self) {
        // A counter that is full has woken it already.
        let _ = rustix::io::write(&*self.0, &1_u64.to_ne_bytes());
    }

    /// Waits until it rings, at most for so long.
    fn wait(&self, most: Duration) {
        let time = Timespec::try_from(most).ok();
        let mut fds = [PollFd::new(&*self.0, PollFlags::IN)];
        // A signal ends it early, which is as well.
        let _ = rustix::event::poll(&mut fds, time.as_ref());
    }

    fn heard(&self) {
        let mut count = [0; 8];
        let _ = rustix::io::read(&*self.0, &mut count);
    }
}

/// The sampler's thread. Dropping it ends the captures that run, each with what it has.
#[derive(Debug)]
pub struct Live {
    asker: Asker,
    state: Arc<Mutex<State>>,
    failed: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Live {
    /// Loads the programs and starts the thread. No clock ticks yet.
    ///
    /// # Errors
    /// When the kernel refuses something.
    pub fn start(settings: LiveSettings) -> Result<Self, RecordError> {
        super::usage::raise_descriptor_limit();
        let period_ns = period_ns(settings.most_frequency_hz);
        let mut sampler = Sampler::load(&Settings {
            period_ns,
            shortest_period_ns: period_ns,
            most_targets: 0,
            kernel_stacks: Stacks::Taken,
            user_stacks: Stacks::Taken,
            flavour: None,
            table_bytes: settings.table_bytes,
        })?;
        sampler.pause();
        symbolize::kernel_text_bytes();
        opener::prepare();
        let bell = Bell::new().map_err(RecordError::Wait)?;
        let (commands, received) = mpsc::channel();
        let state = Arc::new(Mutex::new(State::default()));
        let namers = Namers::new(settings.symbols, Arc::clone(&state));
        let (their_bell, their_state) = (bell.clone(), Arc::clone(&state));
        let failed = Arc::new(AtomicBool::new(false));
        let has_failed = Arc::clone(&failed);
        let thread = thread::Builder::new().name("sampler".to_owned());
        let thread = thread
            .spawn(move || {
                privilege::keep_only(privilege::SAMPLING);
                let ran = bug::contain(|| {
                    // What it knows of processes is not for other threads, so it is made here.
                    let mut engine = Engine::new(sampler, settings, namers, their_state);
                    engine.run(&received, &their_bell);
                });
                if ran.is_none() {
                    has_failed.store(true, Ordering::Relaxed);
                    // Nobody would be answered any more: whoever started us is to know.
                    let _ = kill_process(getpid(), Signal::TERM);
                }
            })
            .map_err(RecordError::Wait)?;
        Ok(Self {
            asker: Asker {
                cgroups: bpf::cgroup_filter(),
                commands,
                bell,
            },
            state,
            failed,
            thread: Some(thread),
        })
    }

    /// Ends the captures that run, each with what it has.
    pub fn end(&self) {
        // Whoever has ended already hears nothing.
        let _ = self.asker.send(Command::End);
    }

    /// Tells whether the thread ended by a bug of ours. Then this process was asked to end.
    #[must_use]
    pub fn failure(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.failed)
    }

    /// Who asks it, from any thread.
    #[must_use]
    pub fn asker(&self) -> Asker {
        self.asker.clone()
    }

    /// What was done so far. Durations of naming are handed out once.
    #[must_use]
    pub fn state(&self) -> State {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let naming = std::mem::take(&mut state.naming);
        State {
            naming,
            ..state.clone()
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.end();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Asks the sampler's thread, from any other.
#[derive(Clone, Debug)]
pub struct Asker {
    /// What samples of cgroups are told by. Finding that out takes rights that others may lack.
    cgroups: CgroupFilter,
    commands: Sender<Command>,
    bell: Bell,
}

impl Asker {
    /// Finds the target and begins to capture; `done` gets the profile. It ends at once when what this
    /// gives is dropped.
    ///
    /// # Errors
    /// When the target is not there, or the sampler has ended.
    pub fn begin(&self, wanted: Wanted, done: Done) -> Result<Waiting, CaptureError> {
        let spec = wanted.target.spec();
        let targets = resolve(&spec, self.cgroups)?;
        let (reply, waiting) = self.reply(done);
        self.send(Command::Begin(Box::new(Begin {
            wanted,
            spec,
            targets,
            reader: Reader::Client(reply),
        })))?;
        Ok(waiting)
    }

    /// Has `done` get what the flight recorder has.
    ///
    /// # Errors
    /// When the sampler has ended.
    pub fn recent(&self, recent: Recent, done: Done) -> Result<Waiting, CaptureError> {
        let (reply, waiting) = self.reply(done);
        self.send(Command::Recent(recent, reply))?;
        Ok(waiting)
    }

    /// A reply, and what tells it that nobody waits any more.
    fn reply(&self, done: Done) -> (Reply, Waiting) {
        let gone = Arc::new(AtomicBool::new(false));
        let waiting = Waiting {
            gone: Arc::clone(&gone),
            bell: self.bell.clone(),
        };
        (Reply { done, gone }, waiting)
    }

    fn send(&self, command: Command) -> Result<(), CaptureError> {
        self.commands
            .send(command)
            .map_err(|_| CaptureError::Ended)?;
        self.bell.ring();
        Ok(())
    }
}

/// Gets a profile, or why there is none.
pub type Done = Box<dyn FnOnce(Result<Captured, CaptureError>) + Send>;

/// Whoever waits for a capture. Dropping it ends the capture.
#[derive(Debug)]
pub struct Waiting {
    gone: Arc<AtomicBool>,
    bell: Bell,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.gone.store(true, Ordering::Relaxed);
        self.bell.ring();
    }
}

/// A reply on its way to whoever asked.
struct Reply {
    done: Done,
    gone: Arc<AtomicBool>,
}

impl Reply {
    fn send(self, captured: Result<Captured, CaptureError>) {
        (self.done)(captured);
    }

    /// Whether nobody waits any more.
    fn is_closed(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }
}

fn resolve(spec: &TargetSpec, cgroups: CgroupFilter) -> Result<Targets, RecordError> {
    Ok(target::resolve(spec, UserStacks::Yes, cgroups)?)
}

/// At most so long until it is looked whether somebody has gone.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
