//! When what a process has of the host is flat: it may grow while a recording gets to know the host,
//! and not after that.
//!
//! The readings of a run are cut into three parts of the same length. The first is for getting to
//! know. The median of the last part may be a little above that of the middle one: what the profile
//! itself needs for stacks that were not seen before, and what is in use by chance. The median and
//! not the greatest: whoever starts a large program on the host has its unwind table compiled, which
//! takes memory for a moment. What leaks is there in every reading that follows.

use crate::vitals::Vitals;

/// How far the last part may be above the middle one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Allowance {
    /// In percent of the middle one.
    pub(super) percent: u64,
    /// And this much more, in the reading's own unit.
    pub(super) more: u64,
}

/// What is held flat.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measure {
    pub(super) name: &'static str,
    pub(super) unit: Unit,
    pub(super) allowance: Allowance,
    pub(super) of: fn(&Vitals) -> u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Bytes,
    Pieces,
}

/// The medians of the first, the middle and the last third, and the greatest reading of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Course {
    pub(super) first: u64,
    pub(super) middle: u64,
    pub(super) last: u64,
    pub(super) greatest: u64,
}

/// The fewest readings that can be cut into three parts that say something.
pub(super) const FEWEST: usize = 15;

const MEMORY: Allowance = Allowance {
    percent: 5,
    more: 2 << 20,
};

/// All measures.
pub(super) const MEASURES: [Measure; 5] = [
    Measure {
        name: "resident memory, MiB",
        unit: Unit::Bytes,
        allowance: MEMORY,
        of: |vitals| vitals.resident_bytes,
    },
    Measure {
        name: "anonymous memory, MiB",
        unit: Unit::Bytes,
        allowance: MEMORY,
        of: |vitals| vitals.anonymous_bytes,
    },
    Measure {
        name: "kernel memory of maps, MiB",
        unit: Unit::Bytes,
        allowance: MEMORY,
        of: |vitals| vitals.map_bytes,
    },
    Measure {
        name: "open descriptors",
        unit: Unit::Pieces,
        // Processes that are there by chance have one each.
        allowance: Allowance {
            percent: 10,
            more: 8,
        },
        of: |vitals| vitals.descriptors,
    },
    Measure {
        name: "threads",
        unit: Unit::Pieces,
        allowance: Allowance {
            percent: 0,
            more: 0,
        },
        of: |vitals| vitals.threads,
    },
];

impl Measure {
    /// The course of some readings, if they are enough of them.
    pub(super) fn course(&self, readings: &[Vitals]) -> Option<Course> {
        if readings.len() < FEWEST {
            return None;
        }
        let third = readings.len() / 3;
        let median = |part: &[Vitals]| {
            let mut values: Vec<u64> = part.iter().map(self.of).collect();
            values.sort_unstable();
            values[values.len() / 2]
        };
        Some(Course {
            first: median(&readings[..third]),
            middle: median(&readings[third..2 * third]),
            last: median(&readings[2 * third..]),
            greatest: readings.iter().map(self.of).max().unwrap_or(0),
        })
    }

    /// Most that the last part may reach.
    pub(super) fn most(&self, middle: u64) -> u64 {
        middle + middle * self.allowance.percent / 100 + self.allowance.more
    }

    /// Whether it did not grow.
    pub(super) fn is_flat(&self, course: Course) -> bool {
        course.last <= self.most(course.middle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[track_caller]
    fn check(measure: usize, thirds: [u64; 3], expected: bool) {
        let measure = MEASURES[measure];
        let vitals = |value: u64| Vitals {
            resident_bytes: value,
            descriptors: value,
            threads: value,
            ..Vitals::default()
        };
        // Each third has a moment with more and one with less.
        let readings: Vec<Vitals> = thirds
            .iter()
            .flat_map(|value| [*value, 1000 * MIB, *value, 0, *value].map(vitals))
            .collect();
        let course = measure.course(&readings).unwrap();
        assert_eq!([course.first, course.middle, course.last], thirds);
        assert_eq!(course.greatest, 1000 * MIB);
        assert_eq!(measure.is_flat(course), expected, "{thirds:?}");
    }

    #[test]
    fn memory_may_grow_at_first_and_hardly_after_that() {
        check(0, [10 * MIB, 60 * MIB, 60 * MIB], true);
        check(0, [10 * MIB, 60 * MIB, 65 * MIB], true);
        check(0, [10 * MIB, 60 * MIB, 65 * MIB + 1], false);
        check(0, [60 * MIB, 60 * MIB, 10 * MIB], true);
        check(0, [0, 0, 2 * MIB], true);
    }

    #[test]
    fn descriptors_vary_and_threads_do_not() {
        check(3, [50, 100, 118], true);
        check(3, [50, 100, 119], false);
        check(4, [3, 4, 4], true);
        check(4, [3, 4, 5], false);
    }

    #[test]
    fn what_leaks_evenly_is_not_flat() {
        // From 40 MiB on, 8 MiB in each third.
        let readings = (0..90).map(|second| Vitals {
            anonymous_bytes: 40 * MIB + second * 8 * MIB / 30,
            ..Vitals::default()
        });
        let readings: Vec<Vitals> = readings.collect();
        let course = MEASURES[1].course(&readings).unwrap();
        assert!(!MEASURES[1].is_flat(course), "{course:?}");
    }

    #[test]
    fn a_few_readings_tell_nothing() {
        let readings = [Vitals::default(); FEWEST];
        assert!(MEASURES[0].course(&readings).is_some());
        assert_eq!(MEASURES[0].course(&readings[1..]), None);
    }
}
