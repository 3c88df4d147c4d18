//! pprof's own format: the message in `proto`, compressed by gzip.
//!
//! Everything is numbered by what it says and not by when it was met: texts by their bytes,
//! functions and mappings by their texts, locations by mapping and address, samples by their
//! stacks. So the same events give the same bytes, in whatever order they came. Only what a
//! sample leads to is written, and the mappings that say what was profiled.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
};

use flate2::{Compression, write::GzEncoder};
use foldhash::HashMap;
use prost::Message;

use super::{names, proto};
use crate::profile::{
    FrameKind, LabelKey, LabelValue, Line, Location, LocationId, MappingId, MappingKind, Profile,
    SAMPLES_COUNT, Sample, ValueType, Values,
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

/// A sample's frame: `None` is the one that stands in an empty stack.
type Frame = Option<LocationId>;

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

/// A function by what it says. The order of the fields is the order in the file.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct FunctionEntry<'a> {
    name: Cow<'a, str>,
    system_name: Cow<'a, str>,
    file: Cow<'a, str>,
    start_line: u32,
}

/// A mapping by what it says. The order of the fields is the order in the file.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct MappingEntry<'a> {
    /// What is profiled as a whole comes first: readers take the first for the main executable.
    rank: u8,
    path: Cow<'a, str>,
    start: u64,
    limit: u64,
    file_offset: u64,
    build_id: Cow<'a, str>,
    naming: Naming,
}

/// Who names the code of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Naming {
    /// Everything has its names here, if only stand-ins.
    Done,
    /// The reader, who may have the object.
    Left,
}

/// A location by what it says. The order of the fields is the order in the file.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct LocationEntry {
    mapping_id: u64,
    address: u64,
    lines: Vec<LineEntry>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct LineEntry {
    function_id: u64,
    line: u32,
    column: u32,
}

/// Every mapping, location and function that the samples lead to.
struct Places<'a> {
    functions: Table<FunctionEntry<'a>>,
    mappings: Table<MappingEntry<'a>>,
    locations: Table<LocationEntry>,
    /// The number of the frame that stands in an empty stack, and of each location; 0 where no sample
    /// leads.
    location_ids: Vec<u64>,
}

impl<'a> Places<'a> {
    fn of(profile: &'a Profile, samples: &SampleTable<'_>) -> Self {
        let frames = samples.frames(profile);
        let functions = Table::new(
            frames
                .iter()
                .flat_map(|frame| lines_of(profile, *frame))
                .map(|(function, _)| function),
            1,
        );
        let mappings = Table::new(mappings_of(profile, &frames), 1);
        let entries: Vec<(Frame, LocationEntry)> = frames
            .into_iter()
            .map(|frame| {
                let lines = lines_of(profile, frame)
                    .into_iter()
                    .map(|(function, line)| LineEntry {
                        function_id: functions.id(&function),
                        line: line.map_or(0, |line| line.line),
                        column: line.map_or(0, |line| line.column),
                    });
                let entry = LocationEntry {
                    mapping_id: mapping_of(profile, frame)
                        .map_or(0, |id| mappings.id(&mapping_entry(profile, id))),
                    address: frame.map_or(0, |id| profile.location_at(id).address),
                    lines: lines.collect(),
                };
                (frame, entry)
            })
            .collect();
        let locations = Table::new(entries.iter().map(|(_, entry)| entry.clone()), 1);
        let mut location_ids = vec![0; profile.locations().len() + 1];
        for (frame, entry) in &entries {
            location_ids[place_of(*frame)] = locations.id(entry);
        }
        Self {
            functions,
            mappings,
            locations,
            location_ids,
        }
    }

    fn location_id(&self, frame: Frame) -> u64 {
        self.location_ids[place_of(frame)]
    }

    fn mapping_messages(&self, text: impl Fn(&str) -> i64) -> Vec<proto::Mapping> {
        let mut messages: Vec<proto::Mapping> = self
            .mappings
            .items()
            .zip(1..)
            .map(|(mapping, id)| proto::Mapping {
                id,
                memory_start: mapping.start,
                memory_limit: mapping.limit,
                file_offset: mapping.file_offset,
                filename: text(&mapping.path),
                build_id: text(&mapping.build_id),
                // Also where no location lies in it: without this flag, readers look for
                // functions themselves, and over HTTP fail when they find none.
                has_functions: mapping.naming == Naming::Done,
                ..Default::default()
            })
            .collect();
        let has_file: Vec<bool> = self
            .functions
            .items()
            .map(|function| !function.file.is_empty())
            .collect();
        for location in self.locations.items().filter(|l| l.mapping_id != 0) {
            let mapping = &mut messages[position(location.mapping_id)];
            // With any flag set, readers would look for no name.
            if !mapping.has_functions {
                continue;
            }
            mapping.has_inline_frames |= location.lines.len() > 1;
            for line in &location.lines {
                mapping.has_filenames |= has_file[position(line.function_id)];
                mapping.has_line_numbers |= line.line != 0;
            }
        }
        messages
    }

    fn location_messages(&self) -> Vec<proto::Location> {
        self.locations
            .items()
            .zip(1..)
            .map(|(location, id)| proto::Location {
                id,
                mapping_id: location.mapping_id,
                address: location.address,
                line: location
                    .lines
                    .iter()
                    .map(|line| proto::Line {
                        function_id: line.function_id,
                        line: i64::from(line.line),
                        column: i64::from(line.column),
                    })
                    .collect(),
                is_folded: false,
            })
            .collect()
    }

    fn function_messages(&self, text: impl Fn(&str) -> i64) -> Vec<proto::Function> {
        self.functions
            .items()
            .zip(1..)
            .map(|(function, id)| proto::Function {
                id,
                name: text(&function.name),
                system_name: text(&function.system_name),
                filename: text(&function.file),
                start_line: i64::from(function.start_line),
            })
            .collect()
    }
}

/// Where a frame's number is in [`Places::location_ids`].
fn place_of(frame: Frame) -> usize {
    frame.map_or(0, |id| id.index() + 1)
}

/// The functions of a frame with their lines: one at least, for readers show nothing else, unless
/// they are to find them.
fn lines_of(profile: &Profile, frame: Frame) -> Vec<(FunctionEntry<'_>, Option<Line>)> {
    let Some(location) = frame.map(|id| profile.location_at(id)) else {
        return vec![(named(Cow::Borrowed(names::UNKNOWN)), None)];
    };
    if location.lines.is_empty() {
        if mapping_of(profile, frame).is_some_and(|id| profile.is_left_unnamed(id)) {
            return Vec::new();
        }
        let name = names::of_line(profile, location, None);
        return vec![(named(names::clean_owned(name)), None)];
    }
    location
        .lines
        .iter()
        .map(|line| (function_entry(profile, location, line), Some(*line)))
        .collect()
}

fn function_entry<'a>(profile: &'a Profile, location: &Location, line: &Line) -> FunctionEntry<'a> {
    let function = profile.function_at(line.function);
    let name = names::clean_owned(names::of_line(profile, location, Some(line)));
    let system_name = names::clean(profile.text(function.system_name));
    FunctionEntry {
        // Readers shorten names that are equal: `<T as Trait>::f` would become `::f`.
        system_name: if system_name == name {
            Cow::Borrowed("")
        } else {
            system_name
        },
        name,
        file: names::clean(profile.text(function.file)),
        start_line: function.start_line,
    }
}

fn named(name: Cow<'_, str>) -> FunctionEntry<'_> {
    FunctionEntry {
        name,
        system_name: Cow::Borrowed(""),
        file: Cow::Borrowed(""),
        start_line: 0,
    }
}

/// The mapping that a frame shows: markers and run-time code have none.
fn mapping_of(profile: &Profile, frame: Frame) -> Option<MappingId> {
    let location = profile.location_at(frame?);
    match location.kind {
        FrameKind::User | FrameKind::Kernel => location.mapping,
        FrameKind::Jit | FrameKind::Marker => None,
    }
}

/// Every mapping that a frame lies in, and what is profiled as a whole. Never none: readers
/// would make one up and complain.
fn mappings_of<'a>(profile: &'a Profile, frames: &[Frame]) -> Vec<MappingEntry<'a>> {
    let whole = profile.mapping_ids().filter(|id| {
        let kind = profile.mapping_at(*id).kind;
        matches!(kind, MappingKind::Main | MappingKind::Host)
    });
    let mut mappings: Vec<MappingEntry<'a>> = frames
        .iter()
        .filter_map(|frame| mapping_of(profile, *frame))
        .chain(whole)
        .map(|id| mapping_entry(profile, id))
        .collect();
    if mappings.is_empty() {
        mappings.push(MappingEntry {
            rank: 0,
            path: Cow::Borrowed(names::UNKNOWN),
            start: 0,
            limit: 0,
            file_offset: 0,
            build_id: Cow::Borrowed(""),
            naming: Naming::Done,
        });
    }
    mappings
}

fn mapping_entry(profile: &Profile, id: MappingId) -> MappingEntry<'_> {
    let mapping = profile.mapping_at(id);
    let path = names::clean(names::without_deleted(profile.text(mapping.path)));
    MappingEntry {
        rank: match mapping.kind {
            MappingKind::Host => 0,
            MappingKind::Main => 1,
            MappingKind::Object => 2,
            MappingKind::Kernel => 3,
        },
        path: if path.is_empty() {
            Cow::Borrowed(names::UNKNOWN)
        } else {
            path
        },
        start: mapping.start,
        limit: mapping.limit,
        file_offset: mapping.file_offset,
        build_id: names::clean(profile.text(mapping.build_id)),
        naming: if profile.is_left_unnamed(id) {
            Naming::Left
        } else {
            Naming::Done
        },
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

/// Position in its table of what has this id.
fn position(id: u64) -> usize {
    usize::try_from(id - 1).expect("ids count things in memory")
}

/// pprof's numbers are signed. What does not fit is as large as can be.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{Mapping, StringId};

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
