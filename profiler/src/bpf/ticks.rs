//! The clocks: one perf event on each online CPU, and the count of ticks that were due on it.
//!
//! A `cpu-clock` event's timer goes off at exact multiples of its period from the moment it is
//! enabled. So the time for which the kernel says it was enabled, over the period, is the number
//! of ticks there should have been, whatever arrived. A clock whose period is changed stands still
//! meanwhile and starts anew, so this holds for each part of its time.
//!
//! Ticks of an idle CPU run nothing: they would cost time, the kernel throttles an event that goes off
//! too often between two ticks of its own, which an idle CPU has few of, and there are hypervisors
//! under which they never come. How many there were is the kernel's idle time over the period.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs, io,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use super::{
    BpfError, idle, now_ns,
    perf::{IdleTicks, PerfEvent},
};

const ONLINE_CPUS: &str = "/sys/devices/system/cpu/online";
/// Periods that are remembered of each CPU: samples are some seconds old at most.
const MOST_PERIODS: usize = 64;

/// The clocks of all CPUs.
pub(super) struct Clocks {
    period_ns: u64,
    program: OwnedFd,
    running: Vec<Clock>,
    /// Clocks of CPUs that have gone offline.
    stopped: Vec<Clock>,
    /// CPUs that are online and have no clock, as the kernel refused it.
    refused: BTreeSet<u32>,
    periods: Periods,
}

/// Since when, in nanoseconds of `CLOCK_MONOTONIC`, each CPU's clock has had which period; oldest first.
#[derive(Debug, Default)]
struct Periods(BTreeMap<u32, VecDeque<(u64, u64)>>);

impl Periods {
    fn note(&mut self, cpu: u32, since_ns: u64, period_ns: u64) {
        let periods = self.0.entry(cpu).or_default();
        periods.push_back((since_ns, period_ns));
        if periods.len() > MOST_PERIODS {
            periods.pop_front();
        }
    }

    /// The period of a CPU's clock at that time, or of the oldest that is known.
    fn at(&self, cpu: u32, time_ns: u64) -> Option<u64> {
        let periods = self.0.get(&cpu)?;
        let mut newest_first = periods.iter().rev();
        let found = newest_first.find(|(since_ns, _)| *since_ns <= time_ns);
        found.or(periods.front()).map(|(_, period_ns)| *period_ns)
    }
}

struct Clock {
    cpu: u32,
    event: PerfEvent,
    /// Its period now; a refused change leaves it the old one.
    period_ns: u64,
    enabled_ns: u64,
    /// What `enabled_ns` was when the period was last changed.
    since_ns: u64,
    idle_ticks: IdleTicks,
    /// The CPU's idle time, as last read.
    idle_ns: u64,
    /// What `idle_ns` was when the clock was enabled, or its period last changed.
    idle_since_ns: u64,
    /// Ticks that were due with earlier periods.
    earlier: DueTicks,
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
            refused: BTreeSet::new(),
            periods: Periods::default(),
        };
        let idle_by_cpu = idle::by_cpu();
        for cpu in online_cpus()? {
            clocks.add(cpu, idle_by_cpu.get(&cpu).copied())?;
        }
        Ok(clocks)
    }

    /// Opens the clock of a CPU that has been idle for so long.
    fn add(&mut self, cpu: u32, idle_ns: Option<u64>) -> Result<(), BpfError> {
        let refused = |source| BpfError::Event { cpu, source };
        let idle_ticks = match idle_ns {
            Some(_) => IdleTicks::LeftOut,
            None => IdleTicks::Taken,
        };
        let idle_ns = idle_ns.unwrap_or(0);
        let event = PerfEvent::cpu_clock(cpu, self.period_ns, idle_ticks).map_err(refused)?;
        event.set_program(self.program.as_fd()).map_err(refused)?;
        self.running.push(Clock {
            cpu,
            event,
            period_ns: self.period_ns,
            enabled_ns: 0,
            since_ns: 0,
            idle_ticks,
            idle_ns,
            idle_since_ns: idle_ns,
            earlier: DueTicks::default(),
        });
        self.periods.note(cpu, now_ns(), self.period_ns);
        Ok(())
    }

    /// CPUs that are online and have no clock, as the kernel refused it.
    pub(super) fn refused(&self) -> &BTreeSet<u32> {
        &self.refused
    }

    pub(super) fn cpus(&self) -> impl Iterator<Item = u32> + '_ {
        self.running.iter().map(|clock| clock.cpu)
    }

    /// Starts the clocks.
    pub(super) fn enable(&mut self) -> Result<(), BpfError> {
        let idle_by_cpu = idle::by_cpu();
        for clock in &mut self.running {
            clock.idle_until(&idle_by_cpu);
            clock.idle_since_ns = clock.idle_ns;
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
        self.read_idle();
    }

    fn read_idle(&mut self) {
        let idle_by_cpu = idle::by_cpu();
        for clock in &mut self.running {
            clock.idle_until(&idle_by_cpu);
        }
    }

    /// Stops the clocks for a while.
    pub(super) fn pause(&mut self) {
        self.disable();
        for clock in &mut self.running {
            clock.close_part();
        }
    }

    /// Starts the clocks again, with this period.
    pub(super) fn resume(&mut self, period_ns: u64) -> Result<(), BpfError> {
        for clock in &mut self.running {
            let changed = clock.event.set_period(period_ns);
            changed.map_err(|source| BpfError::Event {
                cpu: clock.cpu,
                source,
            })?;
            clock.period_ns = period_ns;
            self.periods.note(clock.cpu, now_ns(), period_ns);
        }
        self.period_ns = period_ns;
        self.enable()
    }

    /// Takes a reading of every clock that runs.
    pub(super) fn read(&mut self) {
        self.running.iter_mut().for_each(Clock::read);
        self.read_idle();
    }

    /// Has all clocks tick with another period. Each stands still for the change, some microseconds.
    pub(super) fn change_period(&mut self, period_ns: u64) -> Result<(), BpfError> {
        let mut refused = None;
        self.read_idle();
        for clock in &mut self.running {
            match clock.change_period(period_ns) {
                Ok(at_ns) => self.periods.note(clock.cpu, at_ns, period_ns),
                Err(source) => {
                    let cpu = clock.cpu;
                    refused = Some(BpfError::Event { cpu, source });
                }
            }
        }
        self.period_ns = period_ns;
        refused.map_or(Ok(()), Err)
    }

    /// The period of the tick that a CPU had at this time of `CLOCK_MONOTONIC`.
    pub(super) fn period_at(&self, cpu: u32, time_ns: u64) -> u64 {
        self.periods.at(cpu, time_ns).unwrap_or(self.period_ns)
    }

    /// Tells which CPUs came or went since the last call, and starts clocks on the new ones.
    pub(super) fn follow_cpus(&mut self) -> Result<Vec<CpuChange>, BpfError> {
        self.running.iter_mut().for_each(Clock::read);
        let changes = self.match_cpus()?;
        for clock in &mut self.running {
            let cpu = clock.cpu;
            if changes.contains(&CpuChange::Online(cpu)) {
                let enabled = clock.event.enable();
                enabled.map_err(|source| BpfError::Event { cpu, source })?;
            }
        }
        Ok(changes)
    }

    /// Lets go of the clocks of CPUs that went, and opens some on those that came: not yet enabled.
    pub(super) fn match_cpus(&mut self) -> Result<Vec<CpuChange>, BpfError> {
        let online = online_cpus()?;
        self.refused.retain(|cpu| online.contains(cpu));
        let (running, gone): (Vec<_>, Vec<_>) = self
            .running
            .drain(..)
            .partition(|clock| online.contains(&clock.cpu));
        self.running = running;
        let offline = gone.iter().map(|clock| CpuChange::Offline(clock.cpu));
        let mut changes: Vec<CpuChange> = offline.collect();
        self.stopped.extend(gone);
        for cpu in online {
            if self.running.iter().any(|clock| clock.cpu == cpu) {
                continue;
            }
            let idle_ns = idle::by_cpu().get(&cpu).copied();
            // The next call tries again: a CPU may go before its clock is open.
            match self.add(cpu, idle_ns) {
                Ok(()) => {
                    self.refused.remove(&cpu);
                    changes.push(CpuChange::Online(cpu));
                }
                Err(error) => {
                    if self.refused.insert(cpu) {
                        log::debug!("{error}");
                    }
                }
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
            entry.add(clock.earlier);
            entry.add(clock.latest());
        }
        due
    }
}

/// Ticks that were due on one CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct DueTicks {
    /// By the clocks' own time over their period.
    pub(super) ticks: u64,
    /// Those of them that the CPU was idle at, by its idle time over the period, where they run
    /// nothing.
    pub(super) idle: u64,
    /// Clocks there were, or parts of their time; each may be off by one tick.
    pub(super) clocks: u64,
}

impl DueTicks {
    fn add(&mut self, other: Self) {
        self.ticks += other.ticks;
        self.idle += other.idle;
        self.clocks += other.clocks;
    }

    /// What came to be since another reading of the same clocks. Each part of their time that lies
    /// between, and each end, may be off by one tick.
    pub(super) fn since(self, earlier: Self) -> Self {
        Self {
            ticks: self.ticks.saturating_sub(earlier.ticks),
            idle: self.idle.saturating_sub(earlier.idle),
            clocks: self.clocks - earlier.clocks + u64::from(earlier.clocks > 0) * 2,
        }
    }
}

impl Clock {
    /// Ticks that were due since the period was last changed.
    fn latest(&self) -> DueTicks {
        DueTicks {
            ticks: (self.enabled_ns - self.since_ns) / self.period_ns,
            idle: match self.idle_ticks {
                IdleTicks::LeftOut => (self.idle_ns - self.idle_since_ns) / self.period_ns,
                IdleTicks::Taken => 0,
            },
            clocks: 1,
        }
    }

    /// Takes the idle time. What a CPU that has gone is said to have, if anything, is kept.
    fn idle_until(&mut self, idle_by_cpu: &BTreeMap<u32, u64>) {
        let idle_ns = idle_by_cpu.get(&self.cpu).copied();
        self.idle_ns = self.idle_ns.max(idle_ns.unwrap_or(0));
    }

    /// Gives it another period, and says when it stood still for that.
    fn change_period(&mut self, period_ns: u64) -> io::Result<u64> {
        self.event.disable()?;
        self.read();
        let at_ns = now_ns();
        let changed = self.event.set_period(period_ns);
        if changed.is_ok() {
            self.close_part();
            self.period_ns = period_ns;
        }
        self.event.enable()?;
        changed.map(|()| at_ns)
    }

    /// What was counted until now stays as it is; what follows is another part of its time.
    fn close_part(&mut self) {
        self.earlier.add(self.latest());
        self.since_ns = self.enabled_ns;
        self.idle_since_ns = self.idle_ns;
    }

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
