//! The clocks: one perf event on each online CPU, and the count of ticks that were due on it.
//!
//! A `cpu-clock` event's timer goes off at exact multiples of its period from the moment it is
//! enabled. So the time for which the kernel says it was enabled, over the period, is the number
//! of ticks there should have been, whatever arrived.

use std::{
    collections::BTreeMap,
    fs, io,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use super::{BpfError, perf::PerfEvent};

const ONLINE_CPUS: &str = "/sys/devices/system/cpu/online";

/// The clocks of all CPUs.
pub(super) struct Clocks {
    period_ns: u64,
    program: OwnedFd,
    running: Vec<Clock>,
    /// Clocks of CPUs that have gone offline.
    stopped: Vec<Clock>,
}

struct Clock {
    cpu: u32,
    event: PerfEvent,
    enabled_ns: u64,
}

/// How a CPU's online state changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CpuChange {
    Online(u32),
    Offline(u32),
}

impl Clocks {
    /// Opens a clock on every online CPU that will run `program` at each tick. Not yet enabled.
    pub(super) fn open(period_ns: u64, program: OwnedFd) -> Result<Self, BpfError> {
        let mut clocks = Self {
            period_ns,
            program,
            running: Vec::new(),
            stopped: Vec::new(),
        };
        for cpu in online_cpus()? {
            clocks.add(cpu)?;
        }
        Ok(clocks)
    }

    fn add(&mut self, cpu: u32) -> Result<(), BpfError> {
        let refused = |source| BpfError::Event { cpu, source };
        let event = PerfEvent::cpu_clock(cpu, self.period_ns).map_err(refused)?;
        event.set_program(self.program.as_fd()).map_err(refused)?;
        self.running.push(Clock {
            cpu,
            event,
            enabled_ns: 0,
        });
        Ok(())
    }

    pub(super) fn cpus(&self) -> impl Iterator<Item = u32> + '_ {
        self.running.iter().map(|clock| clock.cpu)
    }

    /// Starts the clocks.
    pub(super) fn enable(&self) -> Result<(), BpfError> {
        for clock in &self.running {
            clock.event.enable().map_err(|source| BpfError::Event {
                cpu: clock.cpu,
                source,
            })?;
        }
        Ok(())
    }

    /// Stops the clocks. No tick runs the program afterwards.
    pub(super) fn disable(&mut self) {
        for clock in &mut self.running {
            // A CPU that has just gone has no clock left to stop.
            let _ = clock.event.disable();
            clock.read();
        }
    }

    /// Tells which CPUs came or went since the last call, and starts clocks on the new ones.
    pub(super) fn follow_cpus(&mut self) -> Result<Vec<CpuChange>, BpfError> {
        self.running.iter_mut().for_each(Clock::read);
        let online = online_cpus()?;
        let mut changes = Vec::new();
        let (running, gone): (Vec<_>, Vec<_>) = self
            .running
            .drain(..)
            .partition(|clock| online.contains(&clock.cpu));
        self.running = running;
        changes.extend(gone.iter().map(|clock| CpuChange::Offline(clock.cpu)));
        self.stopped.extend(gone);
        for cpu in online {
            if self.running.iter().any(|clock| clock.cpu == cpu) {
                continue;
            }
            // A CPU may go again before its clock is open: the next call finds out.
            if self.add(cpu).is_ok() {
                let clock = self.running.last().expect("just added");
                clock
                    .event
                    .enable()
                    .map_err(|source| BpfError::Event { cpu, source })?;
                changes.push(CpuChange::Online(cpu));
            }
        }
        Ok(changes)
    }

    /// How long the clock that ran longest did.
    pub(super) fn longest(&self) -> Duration {
        let clocks = self.running.iter().chain(&self.stopped);
        Duration::from_nanos(clocks.map(|clock| clock.enabled_ns).max().unwrap_or(0))
    }

    /// Ticks that were due on each CPU so far, and how many clocks say so.
    pub(super) fn due(&self) -> BTreeMap<u32, DueTicks> {
        let mut due: BTreeMap<u32, DueTicks> = BTreeMap::new();
        for clock in self.running.iter().chain(&self.stopped) {
            let entry = due.entry(clock.cpu).or_default();
            entry.ticks += clock.enabled_ns / self.period_ns;
            entry.clocks += 1;
        }
        due
    }
}

/// Ticks that were due on one CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct DueTicks {
    /// By the clocks' own time over their period.
    pub(super) ticks: u64,
    /// Clocks there were; each may be off by one tick.
    pub(super) clocks: u64,
}

impl Clock {
    /// Takes the reading, unless the CPU has gone and the event forgot it.
    fn read(&mut self) {
        self.enabled_ns = self.enabled_ns.max(self.event.enabled_ns().unwrap_or(0));
    }
}

pub(super) fn online_cpus() -> Result<Vec<u32>, BpfError> {
    let text = fs::read_to_string(ONLINE_CPUS).map_err(BpfError::Cpus)?;
    parse_cpus(&text)
        .ok_or_else(|| BpfError::Cpus(io::Error::other(format!("{ONLINE_CPUS} says {text:?}"))))
}

/// Reads a list such as `0-3,8`.
pub(crate) fn parse_cpus(text: &str) -> Option<Vec<u32>> {
    let mut cpus = Vec::new();
    for range in text.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        cpus.extend(first.parse::<u32>().ok()?..=last.parse().ok()?);
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus_are_ranges_and_numbers() {
        assert_eq!(parse_cpus("0-3,8\n"), Some(vec![0, 1, 2, 3, 8]));
        assert_eq!(parse_cpus("0"), Some(vec![0]));
        assert_eq!(parse_cpus(""), None);
    }
}
