//! The governor: lowers the frequency of a run that costs more than it may.
//!
//! In: what the run has cost so far, about once a second. Out: a lower frequency, when one is called
//! for. It knows neither clocks nor profiles, and never raises a frequency again.

use std::{fmt, time::Duration};

/// The lowest frequency there is, in Hz.
const LEAST_HZ: u32 = 1;

/// The most that a run may cost, in percent of one CPU, however many there are: as the receipt tells
/// its cost.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Budget(f64);

impl Budget {
    /// A budget of so many percent of one CPU. `None` unless it is more than nothing.
    #[must_use]
    pub fn of_percent(percent: f64) -> Option<Self> {
        (percent.is_finite() && percent > 0.0).then_some(Self(percent))
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

/// Whether the time in the kernel's programs is part of a cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BpfTime {
    /// It is.
    Counted,
    /// The kernel does not tell it.
    Unknown,
}

/// One lowering of the frequency.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lowered {
    /// Samples per second and CPU until then.
    pub from_hz: u32,
    /// Samples per second and CPU from then on.
    pub to_hz: u32,
    /// When, since the clocks started.
    pub after: Duration,
    /// What the second before cost, in percent of one CPU.
    pub cost_percent: f64,
    /// What is part of the cost.
    pub bpf_time: BpfTime,
    /// What it may cost.
    pub budget: Budget,
}

impl fmt::Display for Lowered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            from_hz,
            to_hz,
            after,
            cost_percent,
            bpf_time,
            budget,
        } = self;
        let unknown = match bpf_time {
            BpfTime::Counted => "",
            BpfTime::Unknown => " (BPF time unknown)",
        };
        write!(
            f,
            "frequency lowered from {from_hz} to {to_hz} Hz after {:.1} s: cost {cost_percent:.2}% of one CPU{unknown}, budget {budget}",
            after.as_secs_f64()
        )
    }
}

/// What a run has cost so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spent {
    /// Time since the clocks started.
    pub(super) elapsed: Duration,
    /// Our own CPU time, in the kernel's programs and out of them.
    pub(super) cpu: Duration,
}

impl Spent {
    /// The cost since an earlier moment, in percent of one CPU.
    fn percent_since(self, earlier: Self) -> f64 {
        let elapsed = self.elapsed.saturating_sub(earlier.elapsed).as_secs_f64();
        let cpu = self.cpu.saturating_sub(earlier.cpu).as_secs_f64();
        if elapsed > 0.0 {
            100.0 * cpu / elapsed
        } else {
            0.0
        }
    }
}

/// Holds a run to its budget.
#[derive(Debug)]
pub(super) struct Governor {
    budget: Budget,
    bpf_time: BpfTime,
    frequency_hz: u32,
    last: Option<Spent>,
    lowered: Vec<Lowered>,
}

impl Governor {
    pub(super) fn new(budget: Budget, frequency_hz: u32, bpf_time: BpfTime) -> Self {
        Self {
            budget,
            bpf_time,
            frequency_hz,
            last: None,
            lowered: Vec::new(),
        }
    }

    /// The frequency to go on with, in Hz, if what has been spent since the last call is too much.
    /// Until the first call the run reads processes and makes tables, whatever its frequency.
    pub(super) fn judge(&mut self, spent: Spent) -> Option<u32> {
        let earlier = self.last.replace(spent)?;
        let cost_percent = spent.percent_since(earlier);
        let to_hz = lower(self.frequency_hz, cost_percent, self.budget)?;
        let from_hz = std::mem::replace(&mut self.frequency_hz, to_hz);
        self.lowered.push(Lowered {
            from_hz,
            to_hz,
            after: spent.elapsed,
            cost_percent,
            bpf_time: self.bpf_time,
            budget: self.budget,
        });
        Some(to_hz)
    }

    /// Each lowering, in the order of time.
    pub(super) fn into_lowered(self) -> Vec<Lowered> {
        self.lowered
    }
}

/// Half the frequency, if the cost is more than the budget and there is a lower one.
fn lower(frequency_hz: u32, cost_percent: f64, budget: Budget) -> Option<u32> {
    let lower_hz = (frequency_hz / 2).max(LEAST_HZ);
    (cost_percent > budget.0 && lower_hz < frequency_hz).then_some(lower_hz)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_lower(frequency_hz: u32, cost_percent: f64, expected: Option<u32>) {
        let budget = Budget::of_percent(1.0).unwrap();
        assert_eq!(lower(frequency_hz, cost_percent, budget), expected);
    }

    #[test]
    fn the_frequency_is_halved_above_the_budget_and_never_below_1_hz() {
        check_lower(999, 0.5, None);
        check_lower(999, 1.0, None);
        check_lower(999, 1.01, Some(499));
        check_lower(999, 90.0, Some(499));
        check_lower(3, 90.0, Some(1));
        check_lower(2, 90.0, Some(1));
        check_lower(1, 90.0, None);
    }

    #[test]
    fn budgets_are_more_than_nothing() {
        for percent in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(Budget::of_percent(percent), None);
        }
    }

    /// Judges seconds that cost so many percent. Gives the frequencies that they lead to.
    fn judged(frequency_hz: u32, costs_percent: &[u64]) -> (Vec<Option<u32>>, Vec<Lowered>) {
        let budget = Budget::of_percent(1.0).unwrap();
        let mut governor = Governor::new(budget, frequency_hz, BpfTime::Counted);
        let mut cpu = Duration::ZERO;
        let judged = (1..).zip(costs_percent).map(|(second, percent)| {
            cpu += Duration::from_millis(10 * percent);
            let elapsed = Duration::from_secs(second);
            governor.judge(Spent { elapsed, cpu })
        });
        (judged.collect(), governor.into_lowered())
    }

    #[test]
    fn each_second_but_the_first_is_judged_by_itself() {
        let (frequencies, lowered) = judged(999, &[50, 2, 1, 3, 0]);
        assert_eq!(frequencies, [None, Some(499), None, Some(249), None]);
        let told: Vec<String> = lowered.iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "frequency lowered from 999 to 499 Hz after 2.0 s: cost 2.00% of one CPU, budget 1%",
                "frequency lowered from 499 to 249 Hz after 4.0 s: cost 3.00% of one CPU, budget 1%",
            ]
        );
    }

    #[test]
    fn a_cost_without_bpf_time_says_so() {
        let lowered = Lowered {
            from_hz: 99,
            to_hz: 49,
            after: Duration::from_millis(2_050),
            cost_percent: 0.777,
            bpf_time: BpfTime::Unknown,
            budget: Budget::of_percent(0.5).unwrap(),
        };
        let words = "frequency lowered from 99 to 49 Hz after 2.0 s: cost 0.78% of one CPU (BPF time unknown), budget 0.5%";
        assert_eq!(lowered.to_string(), words);
    }
}
