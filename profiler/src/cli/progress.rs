//! The line that moves while a recording runs: on a terminal alone.

use std::{
    io::{IsTerminal, stderr},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};

use crate::record::{Progress, Watch};

/// A bar for a recording of known length, else a spinner. Nothing where stderr is no terminal.
pub(super) struct Bar(ProgressBar);

impl Bar {
    pub(super) fn new(duration: Option<Duration>) -> Self {
        if !stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let bar = match duration {
            Some(duration) => {
                ProgressBar::new(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
                    .with_style(style("{bar:30} {msg}"))
            }
            None => ProgressBar::new_spinner()
                .with_style(style("{spinner} {msg} (Ctrl-C ends and writes)")),
        };
        Self(bar)
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

impl Watch for Bar {
    fn progress(&mut self, progress: Progress) {
        let Progress {
            elapsed,
            kept,
            lost,
        } = progress;
        self.0
            .set_position(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
        self.0.set_message(format!(
            "{:.0} s, {kept} samples, {lost} lost",
            elapsed.as_secs_f64()
        ));
        self.0.tick();
    }

    fn sampled(&mut self) {
        self.0.finish_and_clear();
    }

    fn fetching(&mut self, left: usize) {
        if !stderr().is_terminal() {
            return;
        }
        if self.0.is_finished() {
            self.0 = ProgressBar::new_spinner()
                .with_style(style("{spinner} {msg} (Ctrl-C goes on without)"));
        }
        self.0
            .set_message(format!("fetching debug information, {left} to come"));
        self.0.tick();
    }

    fn fetched(&mut self) {
        self.0.finish_and_clear();
    }
}
