//! The threads that fetch, and what they have found.
//!
//! In: jobs. Out: a file for each build id, or why there is none. Few threads work at a time; each is
//! made when there is a job that nobody is free for. Whoever gives up waits for none of them.

use std::{
    collections::VecDeque,
    fs::File,
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
    time::{Duration, Instant},
};

use foldhash::HashMap;

use super::{
    BuildId, Complaint, Refusal, Report, Settings,
    cache::{Cache, Held},
    client::{Answer, Client},
};
use crate::{
    bug,
    object::{Object, debug_file},
    privilege,
    symbolize::lacking,
};

/// Files fetched at a time.
const MOST_WORKERS: usize = 3;
/// Objects that wait to be looked at. What finds no room is looked at when the recording is over.
const MOST_LOOKS: usize = 1024;

/// Something to do.
#[derive(Debug)]
pub(super) enum Job {
    /// Find out what an object lacks, and fetch it.
    Look { path: String, file: File },
    /// Fetch a file.
    Fetch(BuildId),
}

/// How far a file is.
#[derive(Debug)]
enum Fate {
    Asked,
    Fetched(File),
    Cached(File),
    NotThere,
    Refused,
    GivenUp,
}

impl Fate {
    fn words(&self) -> &'static str {
        match self {
            Self::Asked => "asked for",
            Self::Fetched(_) => "fetched",
            Self::Cached(_) => "in the cache",
            Self::NotThere => "not there",
            Self::Refused => "refused",
            Self::GivenUp => "given up",
        }
    }
}

/// What is known of a server.
#[derive(Clone, Debug, Default)]
struct Standing {
    first: Option<String>,
    count: usize,
    is_out: bool,
}

#[derive(Debug, Default)]
struct State {
    jobs: VecDeque<Job>,
    fates: HashMap<BuildId, Fate>,
    servers: Vec<Standing>,
    disk: Option<String>,
    workers: usize,
    idle: usize,
    deadline: Option<Instant>,
    is_over: bool,
}

/// What all threads share.
#[derive(Debug)]
pub(super) struct Fetcher {
    pub(super) settings: Settings,
    /// Made when it is first needed.
    cache: OnceLock<Cache>,
    client: Client,
    state: Mutex<State>,
    changed: Condvar,
}

impl Fetcher {
    pub(super) fn new(settings: Settings, client: Client) -> Self {
        let state = State {
            servers: vec![Standing::default(); settings.servers.len()],
            ..State::default()
        };
        Self {
            settings,
            cache: OnceLock::new(),
            client,
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    /// No thread leaves the state half changed.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cache(&self) -> &Cache {
        self.cache
            .get_or_init(|| Cache::open(self.settings.cache.as_deref()))
    }

    /// Adds a job, unless it is done or being done.
    pub(super) fn push(self: &Arc<Self>, job: Job) {
        let mut state = self.state();
        if !state.accept(job) {
            return;
        }
        if state.idle == 0 && state.workers < MOST_WORKERS {
            let own = Arc::clone(self);
            let thread = thread::Builder::new().name("debuginfod".to_owned());
            match thread.spawn(move || own.work()) {
                Ok(_) => state.workers += 1,
                Err(error) => log::debug!("debuginfod: no thread: {error}"),
            }
        }
        let has_worker = state.workers > 0;
        drop(state);
        self.changed.notify_all();
        if !has_worker {
            self.give_up();
        }
    }

    /// When the waiting ends: patience is counted from the first wait.
    pub(super) fn deadline(&self) -> Instant {
        let mut state = self.state();
        // What was only to be looked at is asked for now.
        state.jobs.retain(|job| matches!(job, Job::Fetch(_)));
        let patience = self.settings.patience;
        *state
            .deadline
            .get_or_insert_with(|| Instant::now() + patience)
    }

    /// Waits so long, or until nothing is asked for any more. Tells how much is.
    pub(super) fn wait(&self, time: Duration) -> usize {
        let state = self.state();
        let is_busy = |state: &mut State| state.asked() > 0;
        let waited = self.changed.wait_timeout_while(state, time, is_busy);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.asked()
    }

    /// The file with this build id, if it was found.
    pub(super) fn found(&self, build_id: &BuildId) -> Option<File> {
        match self.state().fates.get(build_id)? {
            Fate::Fetched(file) | Fate::Cached(file) => file.try_clone().ok(),
            Fate::Asked | Fate::NotThere | Fate::Refused | Fate::GivenUp => None,
        }
    }

    /// Ends all that is on its way.
    pub(super) fn give_up(&self) {
        let mut state = self.state();
        state.is_over = true;
        state.jobs.clear();
        for fate in state.fates.values_mut() {
            if matches!(fate, Fate::Asked) {
                *fate = Fate::GivenUp;
            }
        }
        drop(state);
        self.client.shut_down();
        self.changed.notify_all();
    }

    pub(super) fn report(&self) -> Report {
        let state = self.state();
        let mut report = Report {
            disk: state.disk.clone(),
            patience: self.settings.patience,
            ..Report::default()
        };
        for fate in state.fates.values() {
            let count = match fate {
                Fate::Fetched(_) => &mut report.fetched,
                Fate::Cached(_) => &mut report.cached,
                Fate::NotThere => &mut report.absent,
                Fate::Refused => &mut report.refused,
                Fate::Asked | Fate::GivenUp => &mut report.unfinished,
            };
            *count += 1;
        }
        for (server, standing) in self.settings.servers.iter().zip(&state.servers) {
            if let Some(what) = &standing.first {
                report.complaints.push(Complaint {
                    server: server.to_string(),
                    what: what.clone(),
                    count: standing.count,
                });
            }
        }
        report
    }

    /// Does jobs until it is over.
    fn work(self: Arc<Self>) {
        privilege::keep_only(privilege::FETCHING);
        while let Some(job) = self.next() {
            match job {
                // A file that we cannot look into lacks nothing that we know of.
                Job::Look { path, file } => {
                    bug::contain(|| self.look(&path, file));
                }
                Job::Fetch(build_id) => {
                    let started = Instant::now();
                    let fate = bug::contain(|| self.fetch(&build_id)).unwrap_or(Fate::Refused);
                    let came = fate.words();
                    log::debug!("{}: {came} after {:?}", build_id.0, started.elapsed());
                    self.settle(build_id, fate);
                }
            }
        }
    }

    /// Asks for what a file lacks.
    fn look(self: &Arc<Self>, path: &str, file: File) {
        let object = Object::of_file(path, file);
        let lacking = lacking(&object, self.settings.inlines);
        if let Some(build_id) = lacking.and_then(BuildId::of) {
            self.push(Job::Fetch(build_id));
        }
    }

    fn next(&self) -> Option<Job> {
        let mut state = self.state();
        loop {
            if state.is_over {
                return None;
            }
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            state.idle += 1;
            let woken = self.changed.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }

    /// Writes down what became of a file, unless nobody waits for it any more.
    fn settle(&self, build_id: BuildId, fate: Fate) {
        let mut state = self.state();
        if !state.is_over {
            state.fates.insert(build_id, fate);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Looks into the cache, then asks one server after the other.
    fn fetch(&self, build_id: &BuildId) -> Fate {
        match self.cache().look(build_id) {
            Held::File(file) if debug_file::is_whole(&file, &build_id.0) => {
                return Fate::Cached(file);
            }
            Held::Miss => return Fate::NotThere,
            Held::File(_) | Held::Nothing => {}
        }
        let mut all_have_none = true;
        for (number, server) in self.settings.servers.iter().enumerate() {
            if self.state().servers[number].is_out {
                all_have_none = false;
                continue;
            }
            log::debug!("{}: asking {server}", build_id.0);
            match self.fetch_from(number, build_id) {
                Ok(Some(file)) => return Fate::Fetched(file),
                Ok(None) => {}
                Err(refusal) => {
                    all_have_none = false;
                    self.complain(number, &refusal);
                }
            }
        }
        if all_have_none {
            self.cache().note_miss(build_id);
            return Fate::NotThere;
        }
        Fate::Refused
    }

    fn fetch_from(&self, server: usize, build_id: &BuildId) -> Result<Option<File>, Refusal> {
        let mut slot = self.cache().slot(build_id).map_err(Refusal::Disk)?;
        let server = &self.settings.servers[server];
        match self.client.fetch(server, build_id, &mut slot.file)? {
            Answer::NotThere => Ok(None),
            Answer::Written if debug_file::is_whole(&slot.file, &build_id.0) => {
                Ok(Some(slot.keep()))
            }
            Answer::Written => Err(Refusal::Lied),
        }
    }

    fn complain(&self, server: usize, refusal: &Refusal) {
        let mut state = self.state();
        // What we ended ourselves is nobody's fault.
        if state.is_over {
            return;
        }
        log::debug!("{} {refusal}", self.settings.servers[server]);
        if let Refusal::Disk(error) = refusal {
            state.disk.get_or_insert_with(|| error.to_string());
            return;
        }
        let standing = &mut state.servers[server];
        standing.first.get_or_insert_with(|| refusal.to_string());
        standing.count += 1;
        standing.is_out |= refusal.is_final();
    }
}

impl State {
    fn asked(&self) -> usize {
        let is_asked = |fate: &&Fate| matches!(fate, Fate::Asked);
        self.fates.values().filter(is_asked).count()
    }

    /// Takes a job that is new.
    fn accept(&mut self, job: Job) -> bool {
        if let Job::Fetch(build_id) = &job {
            if self.fates.contains_key(build_id) {
                return false;
            }
            let fate = if self.is_over {
                Fate::GivenUp
            } else {
                Fate::Asked
            };
            self.fates.insert(build_id.clone(), fate);
        } else if self.jobs.len() >= MOST_LOOKS {
            return false;
        }
        if self.is_over {
            return false;
        }
        self.jobs.push_back(job);
        true
    }
}
