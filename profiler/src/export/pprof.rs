//! pprof's own format: the message in `proto`, compressed by gzip.
//!
//! Everything is numbered by what it says and not by when it was met: texts by their bytes,
//! functions and mappings by their texts, locations by mapping and address, samples by their
//! stacks. So the same events give the same bytes, in whatever order they came. Only what a
//! sample leads to is written, and the mappings that say what was profiled.

mod places;

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
};

use flate2::{Compression, write::GzEncoder};
use foldhash::HashMap;
use prost::Message;

use places::{Frame, Places};

use super::{names, proto};
use crate::profile::{
    LabelKey, LabelValue, LocationId, Profile, SAMPLES_COUNT, Sample, ValueType, Values,
};

/// Writes the profile as gzip of a pprof message.
///
/// # Errors
/// What `out` refused.
pub fn write(profile: &Profile, out: &mut dyn Write) -> io::Result<()> {
    write_message(&message(profile), out)
}

/// Writes what became more and what became less from one profile to a later one of the same kind.
///
/// # Errors
/// What `out` refused.
pub fn write_difference(before: &Profile, after: &Profile, out: &mut dyn Write) -> io::Result<()> {
    write_message(&difference(before, after), out)
}

fn write_message(message: &proto::Profile, out: &mut dyn Write) -> io::Result<()> {
    // The encoder's header has no time and no name: the same message gives the same bytes.
    let mut gzip = GzEncoder::new(out, Compression::default());
    gzip.write_all(&message.encode_to_vec())?;
    gzip.finish()?;
    Ok(())
}

/// The profile as a pprof message.
#[must_use]
pub fn message(profile: &Profile) -> proto::Profile {
    message_of(profile, |sample| Sums {
        count: signed(sample.count),
        events: signed(sample.events),
    })
}

/// What became more and what became less, as a pprof message: values may be negative, and what stayed
/// as it was is not there. It lasts from the time of the one to that of the other.
#[must_use]
pub fn difference(before: &Profile, after: &Profile) -> proto::Profile {
    let mut both = after.clone();
    both.merge(before);
    both.time_ns = after.time_ns;
    both.duration_ns = after.time_ns.saturating_sub(before.time_ns);
    // Merging leaves the handles of what was there: so the later counts are found by them.
    let later: HashMap<_, Sample<'_>> = after
        .samples()
        .map(|sample| ((sample.labels, sample.stack), sample))
        .collect();
    message_of(&both, |sum| {
        let later = later.get(&(sum.labels, sum.stack));
        let (count, events) = later.map_or((0, 0), |later| (later.count, later.events));
        Sums {
            count: signed(count) - signed(sum.count.saturating_sub(count)),
            events: signed(events) - signed(sum.events.saturating_sub(events)),
        }
    })
}

/// The message with these sums for the samples.
fn message_of(profile: &Profile, sums: impl Fn(&Sample<'_>) -> Sums) -> proto::Profile {
    let samples = SampleTable::of(profile, sums);
    let places = Places::of(profile, &samples);
    let texts = texts(profile, &samples, &places);
    let text = |text: &str| signed(texts.id(&Cow::Borrowed(text)));
    let value_type = |value: &ValueType| proto::ValueType {
        r#type: text(&value.kind),
        unit: text(&value.unit),
    };
    let has_period = profile.period_type != ValueType::default();
    proto::Profile {
        sample_type: sample_types(profile).into_iter().map(value_type).collect(),
        sample: samples.messages(profile, &places, text),
        mapping: places.mapping_messages(text),
        location: places.location_messages(),
        function: places.function_messages(text),
        string_table: texts.items().map(ToString::to_string).collect(),
        time_nanos: signed(profile.time_ns),
        duration_nanos: signed(profile.duration_ns),
        period_type: has_period.then(|| value_type(&profile.period_type)),
        period: signed(profile.period),
        comment: comments(profile).iter().map(|line| text(line)).collect(),
        drop_frames: text(&names::clean(&profile.hints.drop_frames)),
        keep_frames: text(&names::clean(&profile.hints.keep_frames)),
        doc_url: text(&names::clean(&profile.hints.doc_url)),
        default_sample_type: 0,
    }
}

/// What events are counted as beside their weight.
static EVENTS: ValueType = SAMPLES_COUNT;

/// What the values of each sample are. Readers show the last one.
fn sample_types(profile: &Profile) -> Vec<&ValueType> {
    match profile.values {
        Values::CountAndPeriod => vec![&profile.event_type, &profile.period_type],
        Values::CountAlone => vec![&profile.event_type],
        Values::EventsAndWeight => vec![&EVENTS, &profile.event_type],
    }
}

/// Distinct things, numbered in their own order.
struct Table<T> {
    ids: BTreeMap<T, u64>,
}

impl<T: Ord> Table<T> {
    fn new(items: impl IntoIterator<Item = T>, first_id: u64) -> Self {
        let items: BTreeSet<T> = items.into_iter().collect();
        Self {
            ids: items.into_iter().zip(first_id..).collect(),
        }
    }

    /// The number of a thing that was there from the start.
    fn id(&self, item: &T) -> u64 {
        self.ids[item]
    }

    fn items(&self) -> impl Iterator<Item = &T> {
        self.ids.keys()
    }
}

/// The samples as pprof shows them.
struct SampleTable<'a> {
    rows: Vec<Row<'a>>,
    /// What the samples' shown labels say, each set of them once.
    labels: Table<Vec<Label<'a>>>,
}

/// A sample with the number of its shown labels.
struct Row<'a> {
    /// Innermost first.
    stack: &'a [LocationId],
    labels: u64,
    sums: Sums,
}

/// What a sample's values are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Sums {
    count: i64,
    events: i64,
}

impl Sums {
    fn values(self, profile: &Profile) -> Vec<i64> {
        match profile.values {
            Values::CountAndPeriod => {
                let weight = signed(profile.weight(self.count.unsigned_abs()));
                vec![self.count, weight * self.count.signum()]
            }
            Values::CountAlone => vec![self.count],
            Values::EventsAndWeight => vec![self.events, self.count],
        }
    }
}

/// A label by what it says.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Label<'a> {
    key: Key<'a>,
    value: Value<'a>,
}

/// A label's key: ours come first, in the order of their kinds.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Key<'a> {
    Own(LabelKey),
    Foreign(Cow<'a, str>),
}

impl Key<'_> {
    fn name(&self) -> &str {
        match self {
            Self::Own(key) => key.own_name().unwrap_or_default(),
            Self::Foreign(name) => name,
        }
    }
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Value<'a> {
    Text(Cow<'a, str>),
    Number { number: i64, unit: Cow<'a, str> },
}

impl<'a> SampleTable<'a> {
    fn of(profile: &'a Profile, sums: impl Fn(&Sample<'_>) -> Sums) -> Self {
        let samples = profile.samples().filter(|sample| sums(sample).count != 0);
        let samples: Vec<Sample<'a>> = samples.collect();
        // Samples with the same labels follow each other.
        let same = |one: &Sample<'a>, other: &Sample<'a>| one.labels == other.labels;
        let sets: Vec<(&[Sample<'a>], Vec<Label<'a>>)> = samples
            .chunk_by(same)
            .map(|samples| (samples, shown_labels(profile, &samples[0])))
            .collect();
        let labels = Table::new(sets.iter().map(|(_, labels)| labels.clone()), 0);
        let sums = &sums;
        let rows = sets.iter().flat_map(|(samples, set)| {
            let set = labels.id(set);
            samples.iter().map(move |sample| Row {
                stack: sample.stack,
                labels: set,
                sums: sums(sample),
            })
        });
        Self {
            rows: rows.collect(),
            labels,
        }
    }

    /// The frames of all samples, in their order.
    fn frames(&self, profile: &Profile) -> Vec<Frame> {
        let mut is_met = vec![false; profile.locations().len()];
        for id in self.rows.iter().flat_map(|row| row.stack) {
            is_met[id.index()] = true;
        }
        let has_empty = self.rows.iter().any(|row| row.stack.is_empty());
        let met = profile.location_ids().filter(|id| is_met[id.index()]);
        has_empty
            .then_some(None)
            .into_iter()
            .chain(met.map(Some))
            .collect()
    }

    /// Those that differ in hidden labels only are one.
    fn messages(
        &self,
        profile: &Profile,
        places: &Places<'_>,
        text: impl Fn(&str) -> i64,
    ) -> Vec<proto::Sample> {
        let labels: Vec<Vec<proto::Label>> = self
            .labels
            .items()
            .map(|labels| labels.iter().map(|label| label.message(&text)).collect())
            .collect();
        let rows = self.rows.iter().map(|row| {
            let ids: Vec<u64> = match row.stack {
                [] => vec![places.location_id(None)],
                stack => stack
                    .iter()
                    .map(|id| places.location_id(Some(*id)))
                    .collect(),
            };
            (ids, row.labels, row.sums)
        });
        let mut rows: Vec<(Vec<u64>, u64, Sums)> = rows.collect();
        rows.sort_unstable();
        rows.dedup_by(|(ids, labels, sums), (kept_ids, kept_labels, kept)| {
            let is_same = (ids, labels) == (kept_ids, kept_labels);
            if is_same {
                kept.count = kept.count.saturating_add(sums.count);
                kept.events = kept.events.saturating_add(sums.events);
            }
            is_same
        });
        rows.into_iter()
            .filter(|(_, _, sums)| sums.count != 0)
            .map(|(location_id, set, sums)| proto::Sample {
                location_id,
                value: sums.values(profile),
                label: labels[usize::try_from(set).expect("sets in memory")].clone(),
            })
            .collect()
    }
}

impl Label<'_> {
    fn message(&self, text: impl Fn(&str) -> i64) -> proto::Label {
        let key = text(self.key.name());
        match &self.value {
            Value::Text(value) => proto::Label {
                key,
                str: text(value),
                ..Default::default()
            },
            Value::Number { number, unit } => proto::Label {
                key,
                num: *number,
                num_unit: text(unit),
                ..Default::default()
            },
        }
    }

    fn texts(&self) -> [&str; 2] {
        let value = match &self.value {
            Value::Text(text) => text,
            Value::Number { unit, .. } => unit,
        };
        [self.key.name(), value]
    }
}

/// The labels of a sample that are to be seen, in the order of their keys.
fn shown_labels<'a>(profile: &'a Profile, sample: &Sample) -> Vec<Label<'a>> {
    let mut labels: Vec<Label<'a>> = sample
        .labels
        .iter()
        .filter(|(key, _)| profile.shows(*key))
        .map(|(key, value)| Label {
            key: match key {
                LabelKey::Foreign(name) => Key::Foreign(names::clean(profile.text(*name))),
                own => Key::Own(*own),
            },
            value: label_value(profile, *key, *value),
        })
        // To pprof, an empty text is no label.
        .filter(|label| label.value != Value::Text(Cow::Borrowed("")))
        .collect();
    labels.sort_unstable();
    labels
}

fn label_value(profile: &Profile, key: LabelKey, value: LabelValue) -> Value<'_> {
    match value {
        LabelValue::Text(text) => Value::Text(names::clean(profile.text(text))),
        LabelValue::Number(number, unit) => {
            let unit = names::clean(profile.text(unit));
            // Readers drop a 0 without a unit, and take other numbers of others as they stand.
            let is_as_it_was = matches!(key, LabelKey::Foreign(_)) && number != 0;
            let unit = if unit.is_empty() && !is_as_it_was {
                names::clean(profile.key_name(key))
            } else {
                unit
            };
            Value::Number { number, unit }
        }
    }
}

/// Every text of the message, the empty one first.
fn texts<'a>(
    profile: &'a Profile,
    samples: &'a SampleTable<'_>,
    places: &'a Places<'_>,
) -> Table<Cow<'a, str>> {
    let types = sample_types(profile)
        .into_iter()
        .chain([&profile.period_type])
        .flat_map(|value| [&*value.kind, &*value.unit]);
    let hints = &profile.hints;
    let hints = [&hints.drop_frames, &hints.keep_frames, &hints.doc_url];
    let hints = hints.map(|text| names::clean(text));
    let labels = samples
        .labels
        .items()
        .flat_map(|labels| labels.iter().flat_map(Label::texts));
    let mappings = places
        .mappings
        .items()
        .flat_map(|mapping| [&*mapping.path, &*mapping.build_id]);
    let functions = places
        .functions
        .items()
        .flat_map(|function| [&*function.name, &*function.system_name, &*function.file]);
    let borrowed = std::iter::once("")
        .chain(types)
        .chain(labels)
        .chain(mappings)
        .chain(functions)
        .map(Cow::Borrowed);
    Table::new(borrowed.chain(comments(profile)).chain(hints), 0)
}

/// The comments, as they stand in the file.
fn comments(profile: &Profile) -> Vec<Cow<'_, str>> {
    profile
        .comments
        .iter()
        .map(|comment| names::clean(comment))
        .filter(|comment| !comment.is_empty())
        .collect()
}

/// pprof's numbers are signed. What does not fit is as large as can be.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{FrameKind, Mapping, MappingId, MappingKind, StringId};

    fn mapping(profile: &mut Profile, kind: MappingKind, path: &str) -> MappingId {
        let path = profile.string(path);
        profile.mapping(Mapping {
            kind,
            start: 0x1000,
            limit: 0x2000,
            file_offset: 0,
            path,
            build_id: StringId::EMPTY,
        })
    }

    fn paths(message: &proto::Profile) -> Vec<&str> {
        message
            .mapping
            .iter()
            .map(|mapping| message.string_table[mapping.filename as usize].as_str())
            .collect()
    }

    #[test]
    fn what_is_profiled_is_the_first_mapping_and_the_kernel_the_last() {
        let mut profile = Profile::cpu(1);
        for (kind, path) in [
            (MappingKind::Kernel, "[a]"),
            (MappingKind::Object, "/b"),
            (MappingKind::Main, "/z"),
        ] {
            let mapping = mapping(&mut profile, kind, path);
            let location = profile.location(FrameKind::User, Some(mapping), 0x1000);
            profile.add(&[location], &[], 1);
        }
        assert_eq!(paths(&message(&profile)), ["/z", "/b", "[a]"]);
        mapping(&mut profile, MappingKind::Host, "system-wide on x");
        assert_eq!(
            paths(&message(&profile)),
            ["system-wide on x", "/z", "/b", "[a]"]
        );
    }

    #[test]
    fn only_what_samples_lead_to_is_written() {
        let mut profile = Profile::cpu(1);
        mapping(&mut profile, MappingKind::Main, "/main");
        let unused = mapping(&mut profile, MappingKind::Object, "/unused");
        profile.location(FrameKind::User, Some(unused), 0x1000);
        profile.string("unused");
        let message = message(&profile);
        assert_eq!(paths(&message), ["/main"]);
        assert!(message.location.is_empty() && message.function.is_empty());
        assert!(!message.string_table.contains(&"unused".to_owned()));
    }

    #[test]
    fn a_profile_without_mappings_gets_one() {
        let mut profile = Profile::cpu(1);
        let location = profile.location(FrameKind::Jit, None, 0x1000);
        profile.add(&[location], &[], 1);
        let message = message(&profile);
        assert_eq!(paths(&message), [names::UNKNOWN]);
        assert!(message.mapping[0].has_functions);
        assert_eq!(message.location[0].mapping_id, 0);
    }

    #[test]
    fn samples_that_differ_in_hidden_labels_only_are_one() {
        let mut profile = Profile::cpu(7);
        let unit = profile.string("cpu");
        for cpu in 0..3 {
            let labels = vec![(LabelKey::Cpu, LabelValue::Number(cpu, unit))];
            profile.add(&[], &labels, 2);
        }
        assert_eq!(message(&profile).sample.len(), 1);
        assert_eq!(message(&profile).sample[0].value, [6, 42]);
        profile.shown_labels.push(LabelKey::Cpu);
        let message = message(&profile);
        assert_eq!(message.sample.len(), 3);
        assert!(message.sample.iter().all(|s| s.label[0].num_unit != 0));
    }

    #[test]
    fn a_difference_has_what_changed_and_nothing_else() {
        let of = |counts: [(&str, u64); 3], time_ns| {
            let mut profile = Profile::cpu(10);
            for (words, count) in counts {
                let marker = profile.marker(words);
                profile.add(&[marker], &[], count);
            }
            profile.time_ns = time_ns;
            profile
        };
        let before = of([("less", 5), ("same", 3), ("gone", 1)], 100);
        let after = of([("new", 2), ("same", 3), ("less", 1)], 350);
        let message = difference(&before, &after);
        let names = message.function.iter().map(|function| function.name);
        let names = names.map(|at| message.string_table[at as usize].as_str());
        assert!(names.eq(["gone", "less", "new"]));
        let values: Vec<&[i64]> = message.sample.iter().map(|s| &s.value[..]).collect();
        assert_eq!(values, [[-1, -10], [-4, -40], [2, 20]]);
        assert_eq!((message.time_nanos, message.duration_nanos), (350, 250));
        let nothing = difference(&after, &after);
        assert!(nothing.sample.is_empty() && nothing.location.is_empty());
    }

    #[test]
    fn what_does_not_fit_is_as_large_as_can_be() {
        let mut profile = Profile::cpu(u64::MAX);
        profile.add(&[], &[], 3);
        let message = message(&profile);
        assert_eq!(message.sample[0].value, [3, i64::MAX]);
        assert_eq!(message.period, i64::MAX);
    }

    #[test]
    fn a_comment_is_one_line() {
        let mut profile = Profile::cpu(1);
        profile.comments = vec!["lost\n=0\0".to_owned(), String::new()];
        let message = message(&profile);
        assert_eq!(message.comment.len(), 1);
        assert_eq!(message.string_table[message.comment[0] as usize], "lost=0");
    }
}
