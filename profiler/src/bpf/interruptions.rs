//! What a tick takes by itself, before any program runs: the interrupt.
//!
//! Our own time has none of it: the kernel counts it as the interrupted task's. In a virtual machine
//! the hypervisor has a part in each: 20 µs in one that was measured.
//!
//! In: a clock on this thread's CPU, which reads the time again and again meanwhile. Out: how long it
//! stood still at a tick.

use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};

use super::perf::{IdleTicks, PerfEvent};

/// The clock's period: many ticks in a short time, and far below what kernels refuse.
const PERIOD: Duration = Duration::from_micros(250);
/// Ticks to be seen.
const TICKS: u32 = 100;
/// What is longer than this was no reading of the time, which takes some 25 ns.
const SHORTEST: Duration = Duration::from_nanos(500);

/// How long a tick keeps a CPU from what runs there, without any program. `None` if that cannot be
/// told, as where clocks are refused.
#[must_use]
pub fn interruption() -> Option<Duration> {
    let before = sched_getaffinity(None).ok()?;
    let cpu = sched_getcpu();
    let mut here = CpuSet::new();
    here.set(cpu);
    sched_setaffinity(None, &here).ok()?;
    let stops = u32::try_from(cpu).ok().and_then(stops);
    // Refused if CPUs were taken from us meanwhile; then the kernel has chosen others.
    let _ = sched_setaffinity(None, &before);
    median_of_ticks(stops?)
}

/// Each time that this thread stood still on its CPU while a clock ticked there.
fn stops(cpu: u32) -> Option<Vec<Duration>> {
    let period_ns = u64::try_from(PERIOD.as_nanos()).ok()?;
    let clock = PerfEvent::cpu_clock(cpu, period_ns, IdleTicks::LeftOut).ok()?;
    clock.enable().ok()?;
    let mut stops = Vec::new();
    let start = Instant::now();
    let mut last = start;
    while last - start < PERIOD * TICKS {
        let now = Instant::now();
        if now - last > SHORTEST {
            stops.push(now - last);
        }
        last = now;
    }
    clock.disable().ok()?;
    Some(stops)
}

/// The median of the longest ones, as many as there were ticks: CPUs stand still for less than that at
/// other times, some of them often. `None` if there were too few.
fn median_of_ticks(mut stops: Vec<Duration>) -> Option<Duration> {
    let ticks = TICKS as usize;
    stops.sort_unstable_by(|one, other| other.cmp(one));
    stops.truncate(ticks);
    let are_ticks = stops.len() >= ticks / 2;
    are_ticks.then(|| stops[stops.len() / 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_that_of_ticks_or_none() {
        let us = Duration::from_micros;
        let ticks = |count| vec![us(20); count];
        assert_eq!(median_of_ticks(ticks(99)), Some(us(20)));
        let with_others = [ticks(97), vec![us(1); 300], vec![us(4000); 5]].concat();
        assert_eq!(median_of_ticks(with_others), Some(us(20)));
        assert_eq!(median_of_ticks(ticks(20)), None, "no clock ticked");
    }
}
