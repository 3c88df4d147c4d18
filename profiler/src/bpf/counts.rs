//! What was counted while a capture ran: readings of clocks and counters, and what is between two.

use std::{collections::BTreeMap, time::Duration};

use super::ticks::DueTicks;

/// What the clocks and the counters say at one moment, since the programs were loaded.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// How long the clocks ran: the one of them that ran longest.
    pub(super) sampled: Duration,
    /// Ticks that were due on each CPU.
    pub(super) due: BTreeMap<u32, DueTicks>,
    /// Ticks that ran the program on each CPU.
    pub(super) runs: BTreeMap<u32, u64>,
    /// Ticks that may have come between the two on each CPU.
    pub(super) between: BTreeMap<u32, u64>,
    /// Ticks that fell on targets of the capture.
    pub(super) captured: u64,
    pub(super) ring_full: u64,
    pub(super) undecodable: u64,
    pub(super) no_scratch: u64,
    pub(super) not_followed: u64,
    pub(super) run_time: Duration,
}

impl Reading {
    /// This moment's clocks with what was counted for the capture until a later one, when no tick fell
    /// on it between the two.
    #[must_use]
    pub fn with_captured_of(&self, later: &Self) -> Self {
        Self {
            captured: later.captured,
            ring_full: later.ring_full,
            undecodable: later.undecodable,
            no_scratch: later.no_scratch,
            ..self.clone()
        }
    }
}

/// What the kernel side counted for a capture, and what the clocks say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// How long the clocks ran: the one of them that ran longest.
    pub sampled: Duration,
    /// Ticks by the clocks' own time, to within one a clock.
    pub ticks: u64,
    /// Ticks that ran the program beyond what the clocks allow. 0 or it is a bug.
    pub excess: u64,
    /// Ticks that fell on its targets.
    pub due: u64,
    /// Ticks that fell elsewhere, and on idle CPUs.
    pub elsewhere: u64,
    /// Due samples that found the ring full, whoever's they were.
    pub ring_full: u64,
    /// Due samples that found no scratch memory, whoever's they were.
    pub no_scratch: u64,
    /// Samples that arrived and could not be read, whoever's they were.
    pub undecodable: u64,
    /// Children that could not be followed, of all captures.
    pub not_followed: u64,
    /// Time spent in our programs, by the kernel's own measure.
    pub run_time: Duration,
}

impl Counts {
    /// What happened between two readings.
    #[must_use]
    pub fn between(start: &Reading, end: &Reading) -> Self {
        let Reconciled {
            ticks,
            runs,
            idle,
            excess,
        } = reconcile(start, end);
        let due = end.captured - start.captured;
        Self {
            sampled: end.sampled.saturating_sub(start.sampled),
            ticks,
            excess,
            due,
            elsewhere: runs.saturating_sub(due) + idle,
            ring_full: end.ring_full - start.ring_full,
            no_scratch: end.no_scratch - start.no_scratch,
            undecodable: end.undecodable - start.undecodable,
            not_followed: end.not_followed - start.not_followed,
            run_time: end.run_time.saturating_sub(start.run_time),
        }
    }
}

impl Counts {
    /// Of samples that were lost, whoever's they were, leaves those that a capture misses which kept so
    /// many of those due to it.
    pub(crate) fn attribute(&mut self, kept: u64) {
        let mut missing = self.due.saturating_sub(kept);
        for lost in [
            &mut self.ring_full,
            &mut self.no_scratch,
            &mut self.undecodable,
        ] {
            *lost = missing.min(*lost);
            missing -= *lost;
        }
    }

    /// Adds what happened in another span of time.
    pub(crate) fn add(&mut self, other: &Self) {
        self.sampled += other.sampled;
        self.ticks += other.ticks;
        self.excess += other.excess;
        self.due += other.due;
        self.elsewhere += other.elsewhere;
        self.ring_full += other.ring_full;
        self.no_scratch += other.no_scratch;
        self.undecodable += other.undecodable;
        self.not_followed += other.not_followed;
        self.run_time += other.run_time;
    }
}

/// What the clocks and the runs of the program say together.
#[derive(Debug, Default, PartialEq, Eq)]
struct Reconciled {
    /// Ticks in all.
    ticks: u64,
    /// Those that ran the program.
    runs: u64,
    /// Those that ran nothing, as their CPU was idle.
    idle: u64,
    /// Runs beyond what the clocks allow.
    excess: u64,
}

/// A clock's last tick may be counted before its time is, and so may the last one before the start:
/// that is within one a clock and one more, and the runs are right. Idle time is in larger units, and
/// never more than the runs leave.
fn reconcile(start: &Reading, end: &Reading) -> Reconciled {
    let mut sum = Reconciled::default();
    for (cpu, runs) in &end.runs {
        let before = start.runs.get(cpu).copied().unwrap_or(0);
        let runs = runs.saturating_sub(before);
        let due = end.due.get(cpu).copied().unwrap_or_default();
        let due = due.since(start.due.get(cpu).copied().unwrap_or_default());
        let ticks = due.ticks.max(runs);
        sum.ticks += ticks;
        sum.runs += runs;
        sum.idle += due.idle.min(ticks - runs);
        let between = [start, end].map(|reading| reading.between.get(cpu).copied().unwrap_or(0));
        let most = due.ticks + due.clocks + between.iter().sum::<u64>();
        sum.excess += runs.saturating_sub(most);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(due: [(u64, u64); 2], runs: [u64; 2]) -> Reading {
        let due = due.map(|(ticks, idle)| DueTicks {
            ticks,
            idle,
            clocks: 1,
        });
        Reading {
            due: (0..).zip(due).collect(),
            runs: (0..).zip(runs).collect(),
            ..Reading::default()
        }
    }

    /// Reconciles a CPU whose clock says 100 ticks, `idle` of them idle, with so many runs, beside a CPU
    /// that is always busy: since the programs were loaded, and since some moment later.
    #[track_caller]
    fn check_reconcile(idle: u64, runs: u64, [ticks, idle_ticks, excess]: [u64; 3]) {
        let expected = Reconciled {
            ticks: ticks + 50,
            runs: runs + 50,
            idle: idle_ticks,
            excess,
        };
        let end = reading([(100, idle), (50, 0)], [runs, 50]);
        assert_eq!(reconcile(&Reading::default(), &end), expected);
        let later = reading([(1100, idle + 300), (2050, 0)], [runs + 700, 2050]);
        let start = reading([(1000, 300), (2000, 0)], [700, 2000]);
        let expected = Reconciled {
            excess: excess.saturating_sub(1),
            ..expected
        };
        assert_eq!(reconcile(&start, &later), expected);
    }

    #[test]
    fn ticks_are_the_clocks_or_the_runs_within_one_a_clock() {
        check_reconcile(0, 98, [100, 0, 0]);
        check_reconcile(0, 101, [101, 0, 0]);
        check_reconcile(0, 103, [103, 0, 2]);
    }

    #[test]
    fn idle_ticks_are_at_most_what_the_runs_leave() {
        check_reconcile(60, 30, [100, 60, 0]);
        check_reconcile(60, 40, [100, 60, 0]);
        check_reconcile(70, 40, [100, 60, 0]);
        check_reconcile(70, 101, [101, 0, 0]);
    }

    #[test]
    fn what_is_not_the_captures_is_elsewhere() {
        let start = Reading {
            captured: 500,
            ring_full: 7,
            ..reading([(10, 0), (10, 0)], [10, 10])
        };
        let end = Reading {
            captured: 530,
            ring_full: 12,
            ..reading([(60, 20), (60, 0)], [40, 60])
        };
        let mut counts = Counts::between(&start, &end);
        let told = |counts: &Counts| (counts.ticks, counts.due, counts.elsewhere, counts.ring_full);
        assert_eq!(told(&counts), (100, 30, 70, 5));
        // Of five that were lost three were others'.
        counts.attribute(28);
        assert_eq!(told(&counts), (100, 30, 70, 2));
    }
}
