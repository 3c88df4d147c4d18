//! When and on which thread each event of a profile happened, for formats that show it.
//!
//! Kept on request only: 16 bytes an event, and each distinct stack and thread once. A profile
//! with a timeline has every one of its events in it; [`MOST_MOMENTS`] bounds how many that are.

use std::sync::Arc;

use super::{Interner, LocationId, Profile, StringId};

/// Events that a timeline holds at most: 256 MiB of them. One event more, and it is dropped as a
/// whole, for a part of it would show less work than there was.
pub const MOST_MOMENTS: usize = 1 << 24;

/// A thread as a sample saw it: one that is renamed is another from then on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Thread {
    /// Process id.
    pub pid: u32,
    /// Thread id.
    pub tid: u32,
    /// The thread's name.
    pub name: StringId,
    /// The name of the process, which is its first thread's; empty if unknown.
    pub process: StringId,
}

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment<'a> {
    /// Nanoseconds since the recording's start.
    pub time_ns: u64,
    /// Where it happened.
    pub thread: Thread,
    /// Innermost first.
    pub stack: &'a [LocationId],
    /// Its part in the count of its sample: 1, or its weight where that is counted.
    pub count: u64,
}

/// Every event of a profile with its time and thread.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    /// With the count of each event: there are few of those, and events have no room for it.
    threads: Interner<(Thread, u64)>,
    /// Shared between the table and its index.
    stacks: Interner<Arc<[LocationId]>>,
    moments: Vec<Kept>,
}

/// An event in numbers of the tables.
#[derive(Clone, Copy, Debug)]
struct Kept {
    time_ns: u64,
    thread: u32,
    stack: u32,
}

const _: () = assert!(size_of::<Kept>() == 16, "what an event costs");

impl Timeline {
    /// Every event, in no particular order.
    pub fn moments(&self) -> impl Iterator<Item = Moment<'_>> {
        self.moments.iter().map(|kept| {
            let (thread, count) = self.threads.items[kept.thread as usize];
            Moment {
                time_ns: kept.time_ns,
                thread,
                stack: &self.stacks.items[kept.stack as usize],
                count,
            }
        })
    }

    /// How many events.
    #[must_use]
    pub fn len(&self) -> usize {
        self.moments.len()
    }

    /// Whether nothing happened.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.moments.is_empty()
    }

    fn push(&mut self, moment: Moment<'_>) {
        let thread = self.threads.intern((moment.thread, moment.count));
        let stack = match self.stacks.get(moment.stack) {
            Some(id) => id,
            None => self.stacks.intern(moment.stack.into()),
        };
        self.moments.push(Kept {
            time_ns: moment.time_ns,
            thread,
            stack,
        });
    }
}

impl Profile {
    /// Has the times of events kept that are added from now on by [`Profile::note_moment`].
    pub fn keep_times(&mut self) {
        self.timeline = Some(Timeline::default());
    }

    /// Notes when and where an event happened that [`Profile::add`] or [`Profile::add_event`] counts.
    /// Without a timeline it does nothing; one event too many ends the timeline.
    pub fn note_moment(&mut self, moment: Moment<'_>) {
        let Some(timeline) = &mut self.timeline else {
            return;
        };
        if timeline.len() < MOST_MOMENTS {
            timeline.push(moment);
        } else {
            self.timeline = None;
        }
    }

    /// Has the events of the timeline count as much as they weigh.
    pub(super) fn weigh_moments(&mut self, period: u64) {
        let Some(timeline) = &mut self.timeline else {
            return;
        };
        let threads = std::mem::take(&mut timeline.threads).items.into_iter();
        for (thread, count) in threads {
            // Positions stay as they are.
            timeline
                .threads
                .intern((thread, count.saturating_mul(period)));
        }
    }

    /// The times of the events, if they were kept.
    #[must_use]
    pub fn timeline(&self) -> Option<&Timeline> {
        self.timeline.as_ref()
    }

    /// The timeline of this profile with another's events, whose locations are these here. There
    /// is one only if both have one and it is known which of them began when.
    pub(super) fn joined_timeline(
        &mut self,
        other: &Self,
        locations: &[LocationId],
    ) -> Option<Timeline> {
        let mut ours = self.timeline.take()?;
        let theirs = other.timeline.as_ref()?;
        if self.time_ns == 0 || other.time_ns == 0 || ours.len() + theirs.len() > MOST_MOMENTS {
            return None;
        }
        let start_ns = self.time_ns.min(other.time_ns);
        for moment in &mut ours.moments {
            moment.time_ns = moment.time_ns.saturating_add(self.time_ns - start_ns);
        }
        for moment in theirs.moments() {
            let thread = Thread {
                name: self.string(other.text(moment.thread.name)),
                process: self.string(other.text(moment.thread.process)),
                ..moment.thread
            };
            let stack: Vec<LocationId> = moment
                .stack
                .iter()
                .map(|id| locations[id.index()])
                .collect();
            ours.push(Moment {
                time_ns: moment.time_ns.saturating_add(other.time_ns - start_ns),
                thread,
                stack: &stack,
                count: moment.count,
            });
        }
        Some(ours)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(time_ns: u64, moments_ns: &[u64]) -> Profile {
        let mut profile = Profile::cpu(1);
        profile.time_ns = time_ns;
        profile.keep_times();
        let stack = [profile.marker("[cut]")];
        let name = profile.string("worker");
        let thread = Thread {
            pid: 1,
            tid: 2,
            name,
            process: name,
        };
        for moment_ns in moments_ns {
            profile.add(&stack, &[], 1);
            profile.note_moment(Moment {
                time_ns: *moment_ns,
                thread,
                stack: &stack,
                count: 1,
            });
        }
        profile
    }

    fn times(profile: &Profile) -> Option<Vec<u64>> {
        let times = |timeline: &Timeline| timeline.moments().map(|moment| moment.time_ns).collect();
        profile.timeline().map(times)
    }

    #[track_caller]
    fn check_merge(one: &Profile, other: &Profile, expected: Option<&[u64]>) {
        for (into, from) in [(one, other), (other, one)] {
            let mut merged = into.clone();
            merged.merge(from);
            let mut times = times(&merged);
            if let Some(times) = &mut times {
                assert_eq!(times.len() as u64, merged.total());
                times.sort_unstable();
            }
            assert_eq!(times.as_deref(), expected);
        }
    }

    #[test]
    fn merged_times_count_from_the_earlier_start() {
        check_merge(
            &profile(1_000, &[5, 7]),
            &profile(900, &[1]),
            Some(&[1, 105, 107]),
        );
    }

    #[test]
    fn times_are_all_there_or_not_at_all() {
        let timed = profile(1_000, &[5]);
        check_merge(&timed, &profile(0, &[1]), None);
        check_merge(&timed, &Profile::cpu(1), None);
    }

    #[test]
    fn without_a_timeline_no_time_is_kept() {
        let mut profile = Profile::cpu(1);
        let thread = Thread {
            pid: 1,
            tid: 1,
            name: StringId::EMPTY,
            process: StringId::EMPTY,
        };
        profile.note_moment(Moment {
            time_ns: 1,
            thread,
            stack: &[],
            count: 1,
        });
        assert!(profile.timeline().is_none());
    }
}
