//! One capture of a server's sampler, from its beginning to the thread that names it.

use std::time::{Duration, Instant};

use super::{Begin, Reply};
use crate::{
    bpf::{CaptureNumber, now_ns},
    captures::{CaptureError, Wanted},
    record::{End, RecordError, usage::Usage},
    target::wait::ExitWatch,
};

/// How soon samples that are on their way may have arrived.
const ARRIVAL: Duration = Duration::from_millis(2);

/// How far a capture is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Ticks fall on it.
    Running,
    /// Its samples may still be on their way.
    Ended {
        /// When, in nanoseconds of `CLOCK_MONOTONIC`.
        at_ns: u64,
        end: End,
    },
}

/// Who a capture is for.
pub(super) enum Reader {
    /// Somebody who waits for it.
    Client(Reply),
    /// The flight recorder.
    Recorder,
}

/// A capture on its way.
pub(super) struct Job {
    pub(super) number: CaptureNumber,
    pub(super) wanted: Wanted,
    pub(super) reader: Reader,
    pub(super) stage: Stage,
    pub(super) started: Instant,
    /// When somebody asked for it, in nanoseconds of `CLOCK_MONOTONIC`.
    pub(super) asked_ns: u64,
    /// Our CPU time when it began.
    pub(super) cpu: Duration,
    /// The frequencies that it was sampled at: the first, and the last.
    pub(super) frequencies_hz: (u32, u32),
    exits: ExitWatch,
}

impl Job {
    pub(super) fn new(
        number: CaptureNumber,
        begin: Begin,
        frequency_hz: u32,
    ) -> Result<Self, (Reader, CaptureError)> {
        let exits = match ExitWatch::new(&begin.targets.exit_with) {
            Ok(exits) => exits,
            Err(error) => return Err((begin.reader, RecordError::Wait(error).into())),
        };
        Ok(Self {
            number,
            wanted: begin.wanted,
            reader: begin.reader,
            stage: Stage::Running,
            started: Instant::now(),
            asked_ns: now_ns(),
            cpu: Usage::now().cpu,
            frequencies_hz: (frequency_hz, frequency_hz),
            exits,
        })
    }

    /// Why it is to end now, if it is.
    pub(super) fn end(&mut self, runs_another: bool) -> Option<End> {
        if self.stage != Stage::Running {
            None
        } else if self.is_abandoned() {
            Some(End::Stopped)
        } else if runs_another || self.exits.all_gone() {
            Some(End::TargetEnded)
        } else {
            self.left().is_zero().then_some(End::TimeIsOver)
        }
    }

    /// How long it is to run on, or until it should be looked whether its samples have arrived.
    pub(super) fn left(&self) -> Duration {
        if self.stage != Stage::Running {
            return ARRIVAL;
        }
        self.wanted.duration.saturating_sub(self.started.elapsed())
    }

    /// It is sampled at another frequency from now on, if it still is.
    pub(super) fn note_frequency(&mut self, hz: u32) {
        if self.stage == Stage::Running {
            self.frequencies_hz.1 = hz;
        }
    }

    /// Whether nobody waits for it any more.
    pub(super) fn is_abandoned(&self) -> bool {
        matches!(&self.reader, Reader::Client(reply) if reply.is_closed())
    }
}
