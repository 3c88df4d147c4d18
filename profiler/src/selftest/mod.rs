//! A workload whose call tree and shares are known, and the comparison of a profile with it.
//!
//! The shares are true by construction: each function burns CPU time until its thread's own clock
//! has moved by its slice, and has less of the next round by what it ran over. So they hold on a busy machine and on a slow one.

pub mod workload;

use std::collections::HashMap;

use crate::profile::{FrameKind, LocationId, Profile, Sample};

/// How far a share may be off, in percentage points.
pub const TOLERANCE: f64 = 3.0;

/// One share: of the samples below `root`, those with `function` called by `caller`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Expected {
    /// The function that everything is compared to.
    pub root: &'static str,
    /// The function that calls it.
    pub caller: &'static str,
    /// The function.
    pub function: &'static str,
    /// Its true share in percent of the root's time.
    pub percent: f64,
}

/// A share that was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// What it should be.
    pub expected: Expected,
    /// What it is, in percent of the root's samples.
    pub percent: f64,
    /// The root's samples.
    pub samples: u64,
}

impl Measured {
    /// Whether it is near enough to the truth.
    #[must_use]
    pub fn is_right(&self) -> bool {
        self.samples > 0 && (self.percent - self.expected.percent).abs() <= TOLERANCE
    }
}

/// The shares of the workload.
pub const EXPECTED: [Expected; 5] = [
    Expected {
        root: "first_thread",
        caller: "first_thread",
        function: "alpha",
        percent: 50.0,
    },
    Expected {
        root: "first_thread",
        caller: "beta",
        function: "gamma",
        percent: 30.0,
    },
    Expected {
        root: "first_thread",
        caller: "first_thread",
        function: "reads",
        percent: 20.0,
    },
    Expected {
        root: "second_thread",
        caller: "second_thread",
        function: "delta",
        percent: 60.0,
    },
    Expected {
        root: "second_thread",
        caller: "second_thread",
        function: "epsilon",
        percent: 40.0,
    },
];

/// Compares a profile of the workload with the truth.
#[must_use]
#[expect(
    clippy::cast_precision_loss,
    reason = "counts of samples are far below 2^52"
)]
pub fn compare(profile: &Profile) -> Vec<Measured> {
    let names = names(profile);
    let mut roots: HashMap<&str, u64> = HashMap::new();
    let mut found = [0_u64; EXPECTED.len()];
    for sample in profile.samples() {
        let path: Vec<&str> = sample
            .stack
            .iter()
            .filter_map(|id| names.get(id).copied())
            .collect();
        for root in ["first_thread", "second_thread"] {
            if path.contains(&root) {
                *roots.entry(root).or_insert(0) += sample.count;
            }
        }
        for (expected, count) in EXPECTED.iter().zip(&mut found) {
            let calls = path
                .windows(2)
                .any(|pair| pair == [expected.function, expected.caller]);
            if calls && path.contains(&expected.root) {
                *count += sample.count;
            }
        }
    }
    let measured = |(expected, count): (&Expected, u64)| {
        let samples = roots.get(expected.root).copied().unwrap_or(0);
        let percent = if samples == 0 {
            0.0
        } else {
            100.0 * count as f64 / samples as f64
        };
        Measured {
            expected: *expected,
            percent,
            samples,
        }
    };
    EXPECTED.iter().zip(found).map(measured).collect()
}

/// Samples of `reads` that show the kernel below it, which a system call does.
#[must_use]
pub fn reads_in_the_kernel(profile: &Profile) -> u64 {
    let names = names(profile);
    let in_kernel = |sample: &Sample<'_>| {
        let leaf = sample
            .stack
            .first()
            .is_some_and(|id| profile.location_at(*id).kind == FrameKind::Kernel);
        leaf && sample
            .stack
            .iter()
            .any(|id| names.get(id) == Some(&"reads"))
    };
    profile
        .samples()
        .filter(in_kernel)
        .map(|sample| sample.count)
        .sum()
}

/// The workload's functions by location, under the last part of their names.
fn names(profile: &Profile) -> HashMap<LocationId, &str> {
    let mut names = HashMap::new();
    for id in profile.location_ids() {
        let location = profile.location_at(id);
        for line in &location.lines {
            if let Some((path, name)) = profile.line_name(line).rsplit_once("::")
                && path.ends_with("selftest::workload")
            {
                names.insert(id, name);
            }
        }
    }
    names
}
