//! How long each CPU has been idle, by the kernel's own account.
//!
//! In: `/proc/stat`. Out: idle time by CPU, in the kernel's units of 10 ms.

use std::{collections::BTreeMap, fs};

const STAT: &str = "/proc/stat";
/// Of the numbers behind a CPU's name. Source: `proc_stat(5)`: `idle` is the fourth and `iowait`, the
/// part of the idle time in which a task waited for a disk, the fifth.
const IDLE_FIELDS: std::ops::Range<usize> = 3..5;

/// Idle time since the boot by CPU, in nanoseconds. Empty where the kernel does not tell.
pub(super) fn by_cpu() -> BTreeMap<u32, u64> {
    let units_per_second = rustix::param::clock_ticks_per_second();
    let text = fs::read_to_string(STAT).unwrap_or_default();
    parse(&text, 1_000_000_000 / units_per_second.max(1))
}

fn parse(text: &str, unit_ns: u64) -> BTreeMap<u32, u64> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("cpu"));
    lines
        .filter_map(|line| {
            // The line of all CPUs together has no number.
            let (cpu, times) = line.split_once(' ')?;
            let times = times.split_whitespace().map(str::parse);
            let times: Vec<u64> = times.collect::<Result<_, _>>().ok()?;
            let units: u64 = times.get(IDLE_FIELDS)?.iter().sum();
            Some((cpu.parse().ok()?, units.saturating_mul(unit_ns)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_idle_time_of_a_cpu_is_with_and_without_waiting_for_a_disk() {
        let text = "cpu  30 0 12 700 7 0 2 2 0 0\n\
                    cpu0 10 0 6 300 3 0 1 1 0 0\n\
                    cpu12 20 0 6 400 4 0 1 1 0 0\n\
                    intr 5 0 0\nctxt 9\n";
        let expected = BTreeMap::from([(0, 3_030_000_000), (12, 4_040_000_000)]);
        assert_eq!(parse(text, 10_000_000), expected);
    }

    #[test]
    fn what_is_no_time_of_a_cpu_is_left_out() {
        for text in [
            "",
            "cpu0 1 2 3\n",
            "cpu0 1 2 x 4 5\n",
            "cpux 1 2 3 4 5\n",
            "cpu0\n",
        ] {
            assert_eq!(parse(text, 1), BTreeMap::new(), "{text:?}");
        }
    }
}
