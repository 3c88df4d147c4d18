//! Debug information of stripped objects, by build id, from the servers that the user names.
//!
//! In: servers, and objects that lack debug information. Out: files that belong to them, which
//! `symbolize` then reads, and a [`Report`]. Nothing is asked of anybody unless a [`Debuginfod`] is
//! made, which only the command line does, when it is told to.
//!
//! Servers are not trusted: an answer is a whole file of the right build id or it is refused, and
//! time and bytes are bounded. What is found is kept where elfutils and gdb keep it.
//!
//! Source: debuginfod(8) for what servers are asked, debuginfod_find_debuginfo(3) for the cache.

mod cache;
mod client;
mod fetcher;
mod report;
mod server;

use std::{
    fs::File,
    ops::ControlFlow,
    os::fd::AsRawFd,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

pub use client::Refusal;
pub use report::{Complaint, Report};
pub use server::{Server, ServerError};

use crate::{
    object::Object,
    symbolize::{Inlines, lacking},
};
use client::Client;
use fetcher::{Fetcher, Job};

/// How long the end of a run waits for files that are still on their way.
pub const DEFAULT_PATIENCE: Duration = Duration::from_secs(60);
/// How long a server may be silent, or send next to nothing.
pub const DEFAULT_STALL: Duration = Duration::from_secs(30);
/// The largest file taken, in bytes.
pub const DEFAULT_MOST_BYTES: u64 = 2 << 30;

/// How often the one who waits is told.
const TELL_EVERY: Duration = Duration::from_millis(100);
/// A debug file, and then what it shares with others.
const ROUNDS: usize = 2;

/// Whom to ask, and how much of it to bear.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Servers, asked in this order.
    pub servers: Vec<Server>,
    /// Where files are kept; `None` for nowhere.
    pub cache: Option<PathBuf>,
    /// How long [`Debuginfod::supply`] waits, in all its calls together.
    pub patience: Duration,
    /// How long a server may be silent, or send less than 100 KiB.
    pub stall: Duration,
    /// The largest file taken, in bytes.
    pub most_bytes: u64,
    /// What the files are for.
    pub inlines: Inlines,
}

/// The build id of an object, as it stands in paths: lower-case hex of a length that a file may have.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct BuildId(String);

impl BuildId {
    /// The longest that elfutils has, in bytes.
    const MOST_BYTES: usize = 64;

    fn of(hex: String) -> Option<Self> {
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let is_sound = !hex.is_empty() && hex.len() <= 2 * Self::MOST_BYTES;
        (is_sound && hex.bytes().all(is_hex)).then_some(Self(hex))
    }
}

/// Fetches debug information. Copies of it share their work.
#[derive(Clone, Debug)]
pub struct Debuginfod(Arc<Open>);

/// Its threads end with the last copy.
#[derive(Debug)]
struct Open(Arc<Fetcher>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.give_up();
    }
}

impl Debuginfod {
    /// Asks nobody yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let client = Client::new(settings.stall, settings.most_bytes);
        Self(Arc::new(Open(Arc::new(Fetcher::new(settings, client)))))
    }

    /// A sample lies in an object: what it lacks is fetched from now on. Never waits, and leaves out
    /// what takes long to find out; [`Self::supply`] makes up for it.
    pub fn expect(&self, object: &Object) {
        let is_plain = object.root.is_none() && object.has_path() && !object.is_go;
        if !is_plain || object.build_id.is_none() {
            return;
        }
        let Some(file) = object.unchanged_file() else {
            return;
        };
        // Opened once more, as another thread reads it: where a file is read is one place for all
        // copies of a descriptor.
        if let Ok(file) = File::open(format!("/proc/self/fd/{}", file.as_raw_fd())) {
            let path = object.path.clone();
            self.fetcher().push(Job::Look { path, file });
        }
    }

    /// Gives objects the files that they lack. Waits for them; `waiting` is told of how many, and may
    /// end it.
    pub fn supply<'a>(
        &self,
        objects: impl Iterator<Item = &'a mut Object>,
        waiting: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) {
        let mut objects: Vec<&mut Object> = objects.collect();
        for _ in 0..ROUNDS {
            let wanted = |object: &&mut Object| {
                let lacking = lacking(object, self.fetcher().settings.inlines);
                lacking.and_then(BuildId::of)
            };
            let wanted: Vec<Option<BuildId>> = objects.iter().map(wanted).collect();
            if wanted.iter().all(Option::is_none) {
                return;
            }
            for build_id in wanted.iter().flatten() {
                self.fetcher().push(Job::Fetch(build_id.clone()));
            }
            self.wait(waiting);
            for (object, build_id) in objects.iter_mut().zip(wanted) {
                if let Some(build_id) = build_id
                    && let Some(file) = self.fetcher().found(&build_id)
                {
                    object.supply(&build_id.0, file);
                }
            }
        }
    }

    /// Waits until nothing is on its way, patience is over, or there is no more wish to.
    fn wait(&self, waiting: &mut dyn FnMut(usize) -> ControlFlow<()>) {
        let deadline = self.fetcher().deadline();
        loop {
            let left = self.fetcher().wait(TELL_EVERY);
            if left == 0 {
                return;
            }
            if waiting(left).is_break() || Instant::now() >= deadline {
                self.fetcher().give_up();
                return;
            }
        }
    }

    /// What came of it so far.
    #[must_use]
    pub fn report(&self) -> Report {
        self.fetcher().report()
    }

    fn fetcher(&self) -> &Arc<Fetcher> {
        &self.0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_id_never_leads_out_of_a_folder() {
        for text in ["", "..", "a/b", "AB", "0x12", &"0".repeat(130)] {
            assert_eq!(BuildId::of(text.to_owned()), None, "{text}");
        }
        assert!(BuildId::of("00ff".to_owned()).is_some());
    }
}
