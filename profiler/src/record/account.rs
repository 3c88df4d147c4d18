//! The account of a run: where every tick went. Its words and their order are an interface.
//!
//! In: the kernel side's counts and what the user side kept. Out: the receipt.

use std::{collections::BTreeMap, fmt, time::Duration};

use profiler_common::stop::StopReason;

use crate::bpf::Counts;

/// Where every tick went, and how the stacks of the kept samples are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Ticks there should have been, by the clocks' own time.
    pub ticks: u64,
    /// Ticks that fell on targets.
    pub due: u64,
    /// Ticks that fell on other tasks or on an idle CPU.
    pub elsewhere: u64,
    /// Samples in the profile.
    pub kept: u64,
    /// Due samples that found the sample ring full.
    pub ring_full: u64,
    /// Due samples that found no scratch memory.
    pub no_scratch: u64,
    /// Due samples that arrived and could not be read.
    pub undecodable: u64,
    /// Due samples that were on their way into the profile when we panicked. Their number is what the
    /// others leave, so such a run says that it has failed.
    pub bug: u64,
    /// Kept samples whose stacks are whole.
    pub complete: u64,
    /// Kept samples with a cut stack, by reason.
    pub cut: BTreeMap<StopReason, u64>,
    /// Frames of the kept samples.
    pub frames: u64,
    /// Frames without a name of their own.
    pub unnamed: u64,
    /// Runs of the program beyond what the clocks allow: 0, or a bug.
    pub excess: u64,
}

impl Account {
    /// Takes over what the kernel side counted.
    pub fn count(&mut self, counts: &Counts) {
        self.ticks = counts.ticks;
        self.due = counts.due;
        self.elsewhere = counts.elsewhere;
        self.ring_full = counts.ring_full;
        self.no_scratch = counts.no_scratch;
        self.undecodable = counts.undecodable;
        self.excess = counts.excess;
    }

    /// Writes off what is missing after a panic.
    pub fn write_off(&mut self) {
        self.bug = self.due.saturating_sub(self.kept + self.lost());
    }

    /// Ticks that the kernel or a hypervisor never let run.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.ticks.saturating_sub(self.due + self.elsewhere)
    }

    /// Due samples that are not in the profile.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.ring_full + self.no_scratch + self.undecodable + self.bug
    }

    /// What does not add up, if anything: a bug of ours.
    #[must_use]
    pub fn flaw(&self) -> Option<String> {
        if self.kept + self.lost() != self.due {
            return Some(format!(
                "{} samples were due, but {} are kept and {} lost",
                self.due,
                self.kept,
                self.lost()
            ));
        }
        if self.excess != 0 {
            return Some(format!(
                "{} more ticks arrived than the clocks allow",
                self.excess
            ));
        }
        let cut: u64 = self.cut.values().sum();
        if self.complete + cut != self.kept {
            return Some(format!(
                "{} samples are kept, but {} stacks are complete and {cut} cut",
                self.kept, self.complete
            ));
        }
        None
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            ticks,
            due,
            elsewhere,
            kept,
            ring_full,
            no_scratch,
            undecodable,
            bug,
            complete,
            frames,
            unnamed,
            ..
        } = self;
        writeln!(
            f,
            "ticks {ticks} = due {due} + elsewhere {elsewhere} + missed {}",
            self.missed()
        )?;
        write!(
            f,
            "due {due} = kept {kept} + lost {} (ring full {ring_full}, no scratch {no_scratch}, undecodable {undecodable}",
            self.lost()
        )?;
        if *bug > 0 {
            write!(f, ", bug {bug}")?;
        }
        writeln!(f, ")")?;
        write!(
            f,
            "stacks: {complete} complete, {} cut",
            self.cut.values().sum::<u64>()
        )?;
        for (i, (reason, count)) in self.cut.iter().enumerate() {
            write!(
                f,
                "{}{} {count}",
                if i == 0 { " (" } else { ", " },
                reason.words()
            )?;
        }
        if !self.cut.is_empty() {
            write!(f, ")")?;
        }
        writeln!(f, "; frames: {frames}, unnamed {unnamed}")
    }
}

/// What the run cost the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Length of the sampling.
    pub elapsed: Duration,
    /// Our own CPU time while sampling, in the kernel's programs and out of them.
    pub cpu: Duration,
    /// Part of `cpu` in the kernel's programs; `None` where the kernel does not tell.
    pub bpf: Option<Duration>,
    /// Due samples.
    pub samples: u64,
    /// Our largest resident memory, in bytes.
    pub resident_bytes: u64,
    /// Kernel memory in rings and tables, in bytes.
    pub kernel_bytes: u64,
    /// From the start of the process to the first sample.
    pub first_sample: Option<Duration>,
    /// Symbols and files, after the sampling: CPU time.
    pub afterwards: Duration,
}

impl Cost {
    /// Our CPU time while sampling, in percent of one CPU.
    #[must_use]
    pub fn percent(&self) -> f64 {
        if self.elapsed.is_zero() {
            0.0
        } else {
            100.0 * self.cpu.as_secs_f64() / self.elapsed.as_secs_f64()
        }
    }

    /// BPF time for each due sample; ticks elsewhere are in it.
    #[must_use]
    pub fn bpf_per_sample(&self) -> Option<Duration> {
        let samples = u32::try_from(self.samples)
            .ok()
            .filter(|samples| *samples > 0)?;
        self.bpf.map(|time| time / samples)
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cost: {:.2}% of one CPU", self.percent())?;
        match (self.bpf, self.bpf_per_sample()) {
            (_, Some(time)) => write!(f, " (BPF {:.1} µs a sample)", time.as_secs_f64() * 1e6)?,
            (Some(_), None) => write!(f, " (no samples)")?,
            (None, None) => write!(f, " (BPF time unknown: reading it needs CAP_SYS_ADMIN)")?,
        }
        write!(
            f,
            ", {:.0} MiB, tables {:.1} MiB",
            mebibytes(self.resident_bytes),
            mebibytes(self.kernel_bytes)
        )?;
        match self.first_sample {
            Some(time) => write!(f, ", first sample after {} ms", time.as_millis())?,
            None => write!(f, ", no first sample")?,
        }
        writeln!(
            f,
            ", symbols and files {:.2} s CPU",
            self.afterwards.as_secs_f64()
        )
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account() -> Account {
        Account {
            ticks: 5940,
            due: 2970,
            elsewhere: 2964,
            kept: 2968,
            ring_full: 2,
            complete: 2951,
            cut: BTreeMap::from([
                (StopReason::NoFramePointer, 9),
                (StopReason::StackUnreadable, 8),
            ]),
            frames: 41_210,
            unnamed: 12,
            ..Account::default()
        }
    }

    #[test]
    fn the_receipt_has_these_words_in_this_order() {
        let receipt = "\
ticks 5940 = due 2970 + elsewhere 2964 + missed 6
due 2970 = kept 2968 + lost 2 (ring full 2, no scratch 0, undecodable 0)
stacks: 2951 complete, 17 cut (no frame pointer 9, stack unreadable 8); frames: 41210, unnamed 12
";
        assert_eq!(account().to_string(), receipt);
        let none = "ticks 0 = due 0 + elsewhere 0 + missed 0\ndue 0 = kept 0 + lost 0 (ring full 0, no scratch 0, undecodable 0)\nstacks: 0 complete, 0 cut; frames: 0, unnamed 0\n";
        assert_eq!(Account::default().to_string(), none);
    }

    #[test]
    fn an_account_that_does_not_add_up_says_so() {
        assert_eq!(account().flaw(), None);
        assert!(
            Account {
                kept: 2967,
                ..account()
            }
            .flaw()
            .is_some()
        );
        assert!(
            Account {
                excess: 1,
                ..account()
            }
            .flaw()
            .is_some()
        );
        assert!(
            Account {
                complete: 1,
                ..account()
            }
            .flaw()
            .is_some()
        );
    }

    #[test]
    fn what_a_panic_lost_is_told_as_a_cause() {
        let mut broken = Account {
            kept: 2960,
            complete: 2943,
            ..account()
        };
        assert!(broken.flaw().is_some());
        broken.write_off();
        assert_eq!(broken.flaw(), None);
        let line =
            "due 2970 = kept 2960 + lost 10 (ring full 2, no scratch 0, undecodable 0, bug 8)";
        assert!(broken.to_string().contains(line), "{broken}");
        let mut whole = account();
        whole.write_off();
        assert_eq!(whole, account());
    }

    #[test]
    fn the_cost_is_one_line() {
        let cost = Cost {
            elapsed: Duration::from_secs(30),
            cpu: Duration::from_millis(93),
            bpf: Some(Duration::from_micros(9207)),
            samples: 2970,
            resident_bytes: 38 << 20,
            kernel_bytes: 6_710_886,
            first_sample: Some(Duration::from_millis(110)),
            afterwards: Duration::from_millis(250),
        };
        let line = "cost: 0.31% of one CPU (BPF 3.1 µs a sample), 38 MiB, tables 6.4 MiB, first sample after 110 ms, symbols and files 0.25 s CPU\n";
        assert_eq!(cost.to_string(), line);
    }
}
