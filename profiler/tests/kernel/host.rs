//! The host that the tests run on: how fast it is, and what its kernel has.

use std::env;

use ebpfprof::bpf::Flavour;

/// Set where everything takes many times longer than on a processor: in the machines of
/// `cargo xtask kernel-test`, which are software.
const SLOW_VARIABLE: &str = "EBPFPROF_SLOW_HOST";

/// Samples per second and CPU that leave such a host time for anything else.
const SLOW_HERTZ: u32 = 499;
/// How much longer a recording takes there, at most, to have as many samples.
const MOST_STRETCH: f64 = 2.0;
/// How much longer than asked for a recording may be, in seconds: that is when it is stopped late.
const LATE_SECONDS: f64 = 3.0;
const SLOW_LATE_SECONDS: f64 = 10.0;

/// How a recording is made on this host, and how exactly it keeps to its time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Pace {
    pub(crate) hertz: u32,
    /// `None` for as long as it takes.
    pub(crate) seconds: Option<f64>,
    /// How much longer it may take.
    pub(crate) late_seconds: f64,
}

impl Pace {
    /// The pace of a recording that would have this frequency and length on a processor.
    pub(crate) fn of(hertz: u32, seconds: Option<f64>) -> Self {
        if env::var_os(SLOW_VARIABLE).is_none() {
            return Self {
                hertz,
                seconds,
                late_seconds: LATE_SECONDS,
            };
        }
        let slower = hertz.min(SLOW_HERTZ);
        let stretch = (f64::from(hertz) / f64::from(slower)).min(MOST_STRETCH);
        Self {
            hertz: slower,
            seconds: seconds.map(|seconds| seconds * stretch),
            late_seconds: SLOW_LATE_SECONDS,
        }
    }
}

/// Percent of its time that a program spends in its own functions, at least, when it would be this
/// much on a processor: on a slow host forks, signals and runtimes take much of the time.
pub(crate) fn own_percent(percent: f64) -> f64 {
    match env::var_os(SLOW_VARIABLE) {
        Some(_) => percent / 4.0,
        None => percent,
    }
}

/// The walkers that the kernel has, as arguments; the one that it is given of itself comes first.
pub(crate) fn walkers() -> &'static [&'static str] {
    let works = [Flavour::Loop, Flavour::TailCalls].map(|walker| walker.obstacle().is_none());
    match works {
        [true, true] => &["loop", "tail-calls"],
        [true, false] => &["loop"],
        [false, true] => &["tail-calls"],
        [false, false] => panic!("no walker works under this kernel"),
    }
}
