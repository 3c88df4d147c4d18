//! Samples whose stacks wait for a table.

use std::rc::Rc;

use crate::{
    bpf::{Sample, Unwalked},
    process::CodeSpace,
};

/// Most samples that wait at one time: with their parts of the stack some 40 MiB.
const MOST_WAITING: usize = 2048;

/// A sample that arrived unwalked, and where its process's code lay then.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) sample: Sample,
    pub(super) unwalked: Rc<Unwalked>,
    pub(super) space: CodeSpace,
}

/// Those that wait, in the order of time.
#[derive(Debug, Default)]
pub(super) struct Waiting(Vec<Held>);

impl Waiting {
    pub(super) fn has_room(&self) -> bool {
        self.0.len() < MOST_WAITING
    }

    pub(super) fn push(&mut self, held: Held) {
        self.0.push(held);
    }

    pub(super) fn take(&mut self) -> Vec<Held> {
        std::mem::take(&mut self.0)
    }

    /// The time of the oldest sample that waits.
    pub(super) fn since_ns(&self) -> Option<u64> {
        self.0.iter().map(|held| held.sample.time_ns).min()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
