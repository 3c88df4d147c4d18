//! Compiles unwind tables aside, so that the rings are emptied meanwhile.

use std::{
    collections::VecDeque,
    fs::File,
    io,
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::Duration,
};

use crate::{
    bug,
    object::ObjectId,
    privilege,
    unwind::{CompileError, Table},
};

/// Most threads that compile. Most runs have a handful of objects.
const MOST_WORKERS: usize = 2;

/// An object to compile.
pub(super) struct Job {
    pub(super) object: ObjectId,
    pub(super) file: File,
    /// Where the object is for its process, to find the files that belong to it.
    pub(super) path: PathBuf,
}

/// What a job gave.
pub(super) struct Done {
    pub(super) object: ObjectId,
    pub(super) table: Result<Table, CompileError>,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    is_closed: bool,
}

type Shared = Arc<(Mutex<Queue>, Condvar)>;

/// The threads that compile, started with the first job.
pub(super) struct Workers {
    queue: Shared,
    threads: usize,
    sender: Sender<Done>,
    done: Receiver<Done>,
    under_way: usize,
}

impl Workers {
    pub(super) fn new() -> Self {
        let (sender, done) = mpsc::channel();
        Self {
            queue: Shared::default(),
            threads: 0,
            sender,
            done,
            under_way: 0,
        }
    }

    /// Queues a job.
    pub(super) fn submit(&mut self, job: Job) {
        self.under_way += 1;
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        if self.threads < self.under_way.min(MOST_WORKERS).min(cpus) {
            self.start_thread();
        }
        if self.threads == 0 {
            // Better late than never.
            let (object, table) = (job.object, compiled(&job));
            let _ = self.sender.send(Done { object, table });
            return;
        }
        let (queue, wake) = &*self.queue;
        let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.jobs.push_back(job);
        drop(queue);
        wake.notify_one();
    }

    fn start_thread(&mut self) {
        let (queue, sender) = (Arc::clone(&self.queue), self.sender.clone());
        let started = thread::Builder::new()
            .name("unwind-tables".to_owned())
            .spawn(move || work(&queue, &sender));
        match started {
            Ok(_) => self.threads += 1,
            // With another thread the jobs get done all the same.
            Err(error) => log::debug!("cannot start a thread: {error}"),
        }
    }

    /// A job that is done, or `None` after `patience`.
    pub(super) fn next(&mut self, patience: Duration) -> Option<Done> {
        if self.under_way == 0 {
            return None;
        }
        match self.done.recv_timeout(patience) {
            Ok(done) => {
                self.under_way -= 1;
                Some(done)
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => None,
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        let (queue, wake) = &*self.queue;
        let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.is_closed = true;
        queue.jobs.clear();
        drop(queue);
        wake.notify_all();
        // A thread that compiles still ends when it is done: nobody need wait for it.
    }
}

fn work((queue, wake): &(Mutex<Queue>, Condvar), done: &Sender<Done>) {
    privilege::keep_only(privilege::READING);
    loop {
        let mut waiting = queue.lock().unwrap_or_else(PoisonError::into_inner);
        let job = loop {
            if waiting.is_closed {
                return;
            }
            match waiting.jobs.pop_front() {
                Some(job) => break job,
                None => waiting = wake.wait(waiting).unwrap_or_else(PoisonError::into_inner),
            }
        };
        drop(waiting);
        let object = job.object;
        let table = compiled(&job);
        if done.send(Done { object, table }).is_err() {
            return;
        }
    }
}

/// A file that is beyond our compiler costs its own stacks.
fn compiled(job: &Job) -> Result<Table, CompileError> {
    let failed = || CompileError::Read(io::Error::other("the compiler failed"));
    bug::contain(|| compile(job)).unwrap_or_else(|| Err(failed()))
}

fn compile(job: &Job) -> Result<Table, CompileError> {
    bug::provoke(bug::Place::Residency);
    log::debug!("compiling the unwind table of {}", job.path.display());
    Table::of_object(&job.file, Some(&job.path))
}
