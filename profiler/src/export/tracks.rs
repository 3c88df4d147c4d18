//! A profile as threads with what each did in the order of time, for formats that show that.
//!
//! With a timeline it is known. Without one, samples are sorted by what labels tell of their
//! threads, and follow each other for as long as their events stand for, equal stacks together:
//! the widths are true, the order says nothing.

use std::{borrow::Cow, collections::BTreeMap};

use foldhash::HashMap;

use super::{frames::Frames, names};
use crate::profile::{LabelKey, LabelValue, LocationId, Profile, Sample, Timeline};

/// Whether the order of events is what happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// By when they happened.
    Time,
    /// By their stacks, as no time is known.
    Stacks,
}

/// Every thread of a profile.
#[derive(Debug)]
pub(super) struct Tracks<'a> {
    /// What the stacks consist of.
    pub(super) frames: Frames<'a>,
    /// Distinct stacks as positions in [`Frames::frames`], outermost first; sorted.
    pub(super) stacks: Vec<Vec<usize>>,
    /// Busiest first.
    pub(super) tracks: Vec<Track<'a>>,
    /// What the order in each track means.
    pub(super) order: Order,
}

/// What one thread did, as far as the profile keeps threads apart.
#[derive(Debug)]
pub(super) struct Track<'a> {
    /// Who.
    pub(super) id: TrackId,
    /// The thread's name. Never blank.
    pub(super) name: Cow<'a, str>,
    /// The name of its process. Never blank.
    pub(super) process: Cow<'a, str>,
    /// In their order.
    pub(super) events: Vec<Event>,
}

/// What is known of who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct TrackId {
    /// Process.
    pub(super) pid: Option<i64>,
    /// Thread.
    pub(super) tid: Option<i64>,
}

/// Some events with the same stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Event {
    /// When the first was, in nanoseconds since the start.
    pub(super) time_ns: u64,
    /// Position in [`Tracks::stacks`].
    pub(super) stack: usize,
    /// How many, or what they count.
    pub(super) count: u64,
}

impl Track<'_> {
    /// How many events.
    pub(super) fn count(&self) -> u64 {
        self.events.iter().map(|event| event.count).sum()
    }

    /// Whether it is the first thread of its process, or all of it.
    pub(super) fn is_main(&self) -> bool {
        self.id.tid.is_none() || self.id.tid == self.id.pid
    }

    /// What tells it from the others: `worker 13 (server 12)`.
    pub(super) fn title(&self) -> String {
        let (name, process) = (&self.name, &self.process);
        match (self.id.pid, self.id.tid) {
            (Some(pid), Some(tid)) if pid != tid => format!("{name} {tid} ({process} {pid})"),
            (Some(id), _) | (None, Some(id)) => format!("{name} {id}"),
            (None, None) => name.to_string(),
        }
    }
}

impl<'a> Tracks<'a> {
    pub(super) fn of(profile: &'a Profile) -> Self {
        let frames = Frames::of(profile);
        let (stacks, numbers) = stacks_of(profile, &frames);
        let (mut tracks, order) = match profile.timeline() {
            Some(timeline) => (timed(profile, timeline, &numbers), Order::Time),
            None => (laid_out(profile, &numbers), Order::Stacks),
        };
        tracks.sort_by(|a, b| {
            (b.count().cmp(&a.count())).then_with(|| (a.id, &a.name).cmp(&(b.id, &b.name)))
        });
        Self {
            frames,
            stacks,
            tracks,
            order,
        }
    }
}

type Numbers<'a> = HashMap<&'a [LocationId], usize>;

/// The distinct stacks by their frames, and where each stack of locations is among them.
fn stacks_of<'a>(profile: &'a Profile, frames: &Frames<'_>) -> (Vec<Vec<usize>>, Numbers<'a>) {
    let known: Numbers<'a> = profile
        .samples()
        .filter(|sample| sample.count > 0)
        .map(|sample| (sample.stack, 0))
        .collect();
    let mut told: Vec<(Vec<usize>, &[LocationId])> = known
        .into_keys()
        .map(|stack| (frames.of_stack(stack), stack))
        .collect();
    told.sort_unstable();
    let mut stacks: Vec<Vec<usize>> = Vec::new();
    let mut numbers = Numbers::default();
    for (frames, stack) in told {
        if stacks.last() != Some(&frames) {
            stacks.push(frames);
        }
        numbers.insert(stack, stacks.len() - 1);
    }
    (stacks, numbers)
}

/// A name as shown: never blank.
fn shown_name(name: &str) -> Cow<'_, str> {
    if names::is_blank(name) {
        Cow::Borrowed(names::UNKNOWN)
    } else {
        names::clean(name)
    }
}

/// What a moment says of its thread: when, on which stack, its count, and the names at that time.
type Seen<'a> = (u64, usize, u64, &'a str, &'a str);

fn timed<'a>(
    profile: &'a Profile,
    timeline: &'a Timeline,
    numbers: &Numbers<'_>,
) -> Vec<Track<'a>> {
    let mut threads: BTreeMap<(u32, u32), Vec<Seen<'a>>> = BTreeMap::new();
    for moment in timeline.moments() {
        let thread = moment.thread;
        let names = [thread.name, thread.process].map(|name| profile.text(name));
        threads.entry((thread.pid, thread.tid)).or_default().push((
            moment.time_ns,
            numbers[moment.stack],
            moment.count,
            names[0],
            names[1],
        ));
    }
    for seen in threads.values_mut() {
        seen.sort_unstable();
    }
    let processes = process_names(&threads);
    threads
        .into_iter()
        .map(|((pid, tid), seen)| Track {
            id: TrackId {
                pid: Some(i64::from(pid)),
                tid: Some(i64::from(tid)),
            },
            // A thread that was renamed goes by its last name.
            name: shown_name(seen.last().map_or("", |(.., name, _)| name)),
            process: shown_name(processes[&pid].1),
            events: seen
                .iter()
                .map(|(time_ns, stack, count, ..)| Event {
                    time_ns: *time_ns,
                    stack: *stack,
                    count: *count,
                })
                .collect(),
        })
        .collect()
}

/// The last known name of each process, with when that was.
fn process_names<'a>(
    threads: &BTreeMap<(u32, u32), Vec<Seen<'a>>>,
) -> BTreeMap<u32, (u64, &'a str)> {
    let mut names: BTreeMap<u32, (u64, &'a str)> = BTreeMap::new();
    for ((pid, _), seen) in threads {
        let name = names.entry(*pid).or_default();
        let named = seen.iter().filter(|(.., process)| !process.is_empty());
        if let Some(last) = named
            .map(|(time_ns, .., process)| (*time_ns, *process))
            .max()
        {
            *name = last.max(*name);
        }
    }
    names
}

fn laid_out<'a>(profile: &'a Profile, numbers: &Numbers<'_>) -> Vec<Track<'a>> {
    let mut counts: BTreeMap<(TrackId, &'a str), BTreeMap<usize, u64>> = BTreeMap::new();
    for sample in profile.samples().filter(|sample| sample.count > 0) {
        let who = (
            TrackId {
                pid: number(profile, &sample, LabelKey::Pid),
                tid: number(profile, &sample, LabelKey::Tid),
            },
            comm_of(profile, &sample),
        );
        let count = counts.entry(who).or_default();
        let count = count.entry(numbers[sample.stack]).or_default();
        *count = count.saturating_add(sample.count);
    }
    counts
        .into_iter()
        .map(|((id, comm), counts)| {
            let mut time_ns = 0_u64;
            let events = counts.into_iter().map(|(stack, count)| {
                let event = Event {
                    time_ns,
                    stack,
                    count,
                };
                time_ns = time_ns.saturating_add(profile.weight(count));
                event
            });
            Track {
                id,
                name: shown_name(comm),
                process: shown_name(comm),
                events: events.collect(),
            }
        })
        .collect()
}

/// The thread's name by its label, which is kept whether shown or not.
fn comm_of<'a>(profile: &'a Profile, sample: &Sample<'_>) -> &'a str {
    let comm = sample.labels.iter().find_map(|label| match label {
        (LabelKey::Comm, LabelValue::Text(text)) => Some(profile.text(*text)),
        _ => None,
    });
    comm.unwrap_or_default()
}

/// The number of a label that is to be seen.
fn number(profile: &Profile, sample: &Sample<'_>, key: LabelKey) -> Option<i64> {
    if !profile.shows(key) {
        return None;
    }
    sample.labels.iter().find_map(|label| match label {
        (found, LabelValue::Number(number, _)) if *found == key => Some(*number),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{Moment, Thread};

    fn label(profile: &mut Profile, comm: &str, pid: i64) -> Vec<crate::profile::Label> {
        let comm = profile.string(comm);
        let unit = profile.string("pid");
        vec![
            (LabelKey::Comm, LabelValue::Text(comm)),
            (LabelKey::Pid, LabelValue::Number(pid, unit)),
        ]
    }

    /// A track: title, process, and its events' times and counts.
    type Told = (String, String, Vec<(u64, u64)>);

    fn told(profile: &Profile) -> Vec<Told> {
        let tracks = Tracks::of(profile);
        let events = |track: &Track<'_>| {
            let events = track.events.iter();
            events.map(|event| (event.time_ns, event.count)).collect()
        };
        tracks
            .tracks
            .iter()
            .map(|track| (track.title(), track.process.to_string(), events(track)))
            .collect()
    }

    #[test]
    fn threads_are_in_the_order_of_time_and_go_by_their_last_names() {
        let mut profile = Profile::cpu(10);
        profile.keep_times();
        let stack = [profile.marker("[cut]")];
        let mut note = |time_ns, tid, name: &str, process: &str| {
            let thread = Thread {
                pid: 7,
                tid,
                name: profile.string(name),
                process: profile.string(process),
            };
            profile.add(&stack, &[], 1);
            profile.note_moment(Moment {
                time_ns,
                thread,
                stack: &stack,
                count: 1,
            });
        };
        note(30, 8, "pool", "server");
        note(10, 8, "server", "sh");
        note(20, 8, "server", "");
        note(15, 7, "server", "server");
        let expected = [
            (
                "pool 8 (server 7)",
                "server",
                vec![(10, 1), (20, 1), (30, 1)],
            ),
            ("server 7", "server", vec![(15, 1)]),
        ]
        .map(|(title, process, events)| (title.to_owned(), process.to_owned(), events));
        assert_eq!(told(&profile), expected);
        assert_eq!(Tracks::of(&profile).order, Order::Time);
    }

    #[track_caller]
    fn check_labels(shown: &[LabelKey], expected: &[(&str, &[(u64, u64)])]) {
        let mut profile = Profile::cpu(10);
        profile.shown_labels = shown.to_vec();
        let [one, two] = ["[a]", "[b]"].map(|words| profile.marker(words));
        for (stack, pid, count) in [(two, 1, 3), (one, 1, 2), (one, 2, 4)] {
            let labels = label(&mut profile, "sh", pid);
            profile.add(&[stack], &labels, count);
        }
        let actual: Vec<(String, Vec<(u64, u64)>)> = told(&profile)
            .into_iter()
            .map(|(title, _, events)| (title, events))
            .collect();
        let expected: Vec<(String, Vec<(u64, u64)>)> = expected
            .iter()
            .map(|(title, events)| ((*title).to_owned(), events.to_vec()))
            .collect();
        assert_eq!(actual, expected);
    }

    #[test]
    fn without_times_samples_follow_each_other_by_their_stacks() {
        check_labels(&[], &[("sh", &[(0, 6), (60, 3)])]);
        check_labels(
            &[LabelKey::Pid],
            &[("sh 1", &[(0, 2), (20, 3)]), ("sh 2", &[(0, 4)])],
        );
    }
}
