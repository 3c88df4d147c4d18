//! Samples and process events, put in the order of time before anything is made of them.
//!
//! Rings are read one after the other, so what one read gives is not whole up to its last entry:
//! an event may already be there that happened after a sample which is not. Only what is older
//! than the read is taken, the rest waits for the next.

use crate::{bpf::Sample, process::ProcessEvent};

/// How long a record may take from its time stamp to its ring.
pub(super) const MARGIN_NS: u64 = 5_000_000;

/// What was read and not yet taken.
#[derive(Debug, Default)]
pub(super) struct Timeline {
    /// New samples go to the end.
    pub(super) samples: Vec<Sample>,
    /// New events go to the end.
    pub(super) events: Vec<ProcessEvent>,
}

/// What happened up to some time, each in the order of time.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) samples: Vec<Sample>,
    pub(super) events: Vec<ProcessEvent>,
    /// Everything before this time is in this batch or an earlier one.
    pub(super) until_ns: u64,
}

/// One thing that happened.
#[derive(Clone, Copy, Debug)]
pub(super) enum Moment<'a> {
    Event(&'a ProcessEvent),
    Sample(&'a Sample),
}

impl Timeline {
    /// Takes what is surely whole when the rings were read from `read_ns` on; `None` takes all.
    pub(super) fn take(&mut self, read_ns: Option<u64>) -> Batch {
        self.samples.sort_by_key(|sample| sample.time_ns);
        self.events.sort_by_key(|event| event.time_ns);
        let Some(limit_ns) = read_ns.map(|read_ns| read_ns.saturating_sub(MARGIN_NS)) else {
            return Batch {
                samples: std::mem::take(&mut self.samples),
                events: std::mem::take(&mut self.events),
                until_ns: u64::MAX,
            };
        };
        let later = self
            .samples
            .partition_point(|sample| sample.time_ns < limit_ns);
        let waiting_samples = self.samples.split_off(later);
        let later = self
            .events
            .partition_point(|event| event.time_ns < limit_ns);
        let waiting_events = self.events.split_off(later);
        Batch {
            samples: std::mem::replace(&mut self.samples, waiting_samples),
            events: std::mem::replace(&mut self.events, waiting_events),
            until_ns: limit_ns,
        }
    }

    /// When the newest sample was taken.
    pub(super) fn newest_sample_ns(&self) -> Option<u64> {
        self.samples.iter().map(|sample| sample.time_ns).max()
    }
}

impl Batch {
    /// Everything in the order of time; what happened at the moment of a sample is before it.
    pub(super) fn moments(&self) -> impl Iterator<Item = Moment<'_>> {
        let mut events = self.events.iter().peekable();
        let mut samples = self.samples.iter().peekable();
        std::iter::from_fn(move || match (events.peek(), samples.peek()) {
            (Some(event), Some(sample)) if event.time_ns > sample.time_ns => {
                samples.next().map(Moment::Sample)
            }
            (Some(_), _) => events.next().map(Moment::Event),
            (None, _) => samples.next().map(Moment::Sample),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        bpf::Comm,
        process::Change,
        target::{Pid, Tid},
    };
    use profiler_common::stop::StopReason;

    fn sample(time_ns: u64) -> Sample {
        Sample {
            pid: Pid(1),
            tid: Tid(1),
            cpu: 0,
            generation: 0,
            time_ns,
            cgroup_id: 0,
            captures: 1,
            comm: Comm::default(),
            kernel: vec![],
            user: vec![],
            unwalked: None,
            kernel_stop: StopReason::Absent,
            user_stop: StopReason::Absent,
        }
    }

    fn event(time_ns: u64) -> ProcessEvent {
        ProcessEvent {
            time_ns,
            change: Change::Lost(1),
        }
    }

    fn times(batch: &Batch) -> Vec<(char, u64)> {
        let time = |moment: Moment<'_>| match moment {
            Moment::Event(event) => ('e', event.time_ns),
            Moment::Sample(sample) => ('s', sample.time_ns),
        };
        batch.moments().map(time).collect()
    }

    #[test]
    fn moments_are_in_the_order_of_time() {
        let mut timeline = Timeline {
            samples: vec![sample(30), sample(10), sample(20)],
            events: vec![event(20), event(5), event(40)],
        };
        let expected = [
            ('e', 5),
            ('s', 10),
            ('e', 20),
            ('s', 20),
            ('s', 30),
            ('e', 40),
        ];
        assert_eq!(times(&timeline.take(None)), expected);
        assert_eq!(times(&timeline.take(None)), []);
    }

    #[test]
    fn what_is_newer_than_the_read_waits() {
        let at = |ms: u64| ms * 1_000_000;
        let mut timeline = Timeline {
            samples: vec![sample(at(10)), sample(at(99))],
            events: vec![event(at(98)), event(at(20))],
        };
        assert_eq!(
            times(&timeline.take(Some(at(100)))),
            [('s', at(10)), ('e', at(20))]
        );
        timeline.samples.push(sample(at(97)));
        assert_eq!(
            times(&timeline.take(Some(at(200)))),
            [('s', at(97)), ('e', at(98)), ('s', at(99))]
        );
    }
}
