//! The profile in memory: pprof's own model, interned, with 32-bit handles.
//!
//! In: recorded samples ([`Profile::location`], [`Profile::add`]), and later the lines that
//! `symbolize` finds; or what `import` read, places with their lines ([`Profile::told_location`]).
//! Out: formats read it in `export`. It imports no format and no kernel type. Formats live at the
//! rim; text is never an intermediate form.
//!
//! Source of the words: `proto/profile.proto` of github.com/google/pprof.

mod merge;
mod summary;
mod timeline;

use std::{borrow::Cow, hash::Hash, str::FromStr};

use foldhash::{HashMap, HashSet};

pub use summary::{Hot, hottest};
pub use timeline::{MOST_MOMENTS, Moment, Thread, Timeline};

/// A string in [`Profile::strings`]. [`StringId::EMPTY`] is the empty one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StringId(u32);

impl StringId {
    /// The empty string: pprof's entry 0.
    pub const EMPTY: Self = Self(0);
}

macro_rules! handle {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(u32);

        impl $name {
            /// Position in the profile's table.
            #[must_use]
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }
    };
}

handle!(
    /// A function in [`Profile::functions`].
    FunctionId
);
handle!(
    /// A mapping in [`Profile::mappings`].
    MappingId
);
handle!(
    /// A location in [`Profile::locations`].
    LocationId
);

/// A kind of value and its unit, such as `cpu` in `nanoseconds`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ValueType {
    /// What is counted. In our own profiles in lower case without a dash.
    pub kind: Cow<'static, str>,
    /// Its unit: `count`, `nanoseconds`, `bytes`.
    pub unit: Cow<'static, str>,
}

/// What follows from a sample's count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Values {
    /// Two values: the count, and the count times the period, in the period's type. Every
    /// recording is like that.
    CountAndPeriod,
    /// One value, which is the count: bytes of a heap profile, or what folded text counts.
    CountAlone,
    /// Two values: how many events there were, and what they weigh together, which is the count.
    /// So is a recording whose frequency was lowered on its way: its events do not weigh the same.
    EventsAndWeight,
}

/// What pprof's own reader is told of a profile, as texts. It means nothing to other formats.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hints {
    /// Regular expression of frames to drop, with all they call.
    pub drop_frames: String,
    /// Regular expression of frames to keep although they match `drop_frames`.
    pub keep_frames: String,
    /// Absolute URL of a page about the profile.
    pub doc_url: String,
}

/// What a mapping's code is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MappingKind {
    /// The target's main executable. Formats that want it first put it first.
    Main,
    /// Another ELF file, or the vDSO.
    Object,
    /// The kernel, or a module of it.
    Kernel,
    /// Stands for the whole host: no location lies in it.
    Host,
}

/// An address range backed by one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mapping {
    /// What its code is.
    pub kind: MappingKind,
    /// First runtime address, as in `/proc/PID/maps`.
    pub start: u64,
    /// Runtime address after the last.
    pub limit: u64,
    /// Offset in the file of the first address, in bytes.
    pub file_offset: u64,
    /// Path as the target sees it, or a name in brackets.
    pub path: StringId,
    /// GNU build id in lower-case hex; empty when there is none.
    pub build_id: StringId,
}

/// What a location's code is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FrameKind {
    /// User code of an object.
    User,
    /// Kernel code.
    Kernel,
    /// User code without an object: made at run time.
    Jit,
    /// No code: says why a stack was cut here.
    Marker,
}

/// One function of a location: the innermost inlined one first, the one that was called last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Line {
    /// The function.
    pub function: FunctionId,
    /// Line number in the function's file, from 1; 0 when unknown.
    pub line: u32,
    /// Column, from 1; 0 when unknown.
    pub column: u32,
}

/// A function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Function {
    /// The name to show.
    pub name: StringId,
    /// The linker's name where it differs from `name`, else empty.
    pub system_name: StringId,
    /// Source file, absolute if known, else empty.
    pub file: StringId,
    /// Line the function starts at; 0 when unknown.
    pub start_line: u32,
}

/// A place in the code, with the functions it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// What its code is.
    pub kind: FrameKind,
    /// The mapping it lies in.
    pub mapping: Option<MappingId>,
    /// Runtime address: of the instruction itself, so a return address less one. 0 for markers.
    pub address: u64,
    /// Not empty in a finished recording, unless its mapping is left unnamed: `symbolize` fills it,
    /// with a stand-in if need be.
    pub lines: Vec<Line>,
}

/// The value of a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LabelValue {
    /// Text.
    Text(StringId),
    /// A number and its unit. In a recording the unit is never empty: pprof drops a 0 without one.
    Number(i64, StringId),
}

/// The label keys that a recording knows, and those of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LabelKey {
    /// Name of the thread.
    Comm,
    /// Process id.
    Pid,
    /// Thread id.
    Tid,
    /// CPU number.
    Cpu,
    /// Path of the cgroup in the cgroup v2 tree.
    Cgroup,
    /// ID or name of the container.
    Container,
    /// Name and id of the thread in one text, to group by.
    Thread,
    /// A key that is none of ours, from a file that was read.
    Foreign(StringId),
}

impl LabelKey {
    /// Every key of ours.
    pub const ALL: [Self; 7] = [
        Self::Comm,
        Self::Pid,
        Self::Tid,
        Self::Cpu,
        Self::Cgroup,
        Self::Container,
        Self::Thread,
    ];

    /// The key as it stands in files and on the command line, if it is one of ours.
    #[must_use]
    pub const fn own_name(self) -> Option<&'static str> {
        match self {
            Self::Comm => Some("comm"),
            Self::Pid => Some("pid"),
            Self::Tid => Some("tid"),
            Self::Cpu => Some("cpu"),
            Self::Cgroup => Some("cgroup"),
            Self::Container => Some("container"),
            Self::Thread => Some("thread"),
            Self::Foreign(_) => None,
        }
    }
}

/// A text that names no label of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("labels are {}", LabelKey::ALL.map(|key| key.own_name().unwrap_or_default()).join(", "))]
pub struct NoSuchLabel;

impl FromStr for LabelKey {
    type Err = NoSuchLabel;

    fn from_str(text: &str) -> Result<Self, NoSuchLabel> {
        let mut own = Self::ALL.into_iter();
        own.find(|key| key.own_name() == Some(text))
            .ok_or(NoSuchLabel)
    }
}

/// What is known of where a sample was taken: a key and its value.
pub type Label = (LabelKey, LabelValue);

/// What tells a location from others of its kind, mapping and address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Identity {
    /// Nothing: there is but one.
    Place,
    /// What a marker says.
    Words(StringId),
    /// The number of code made at run time: other code may have been there at another time, or may
    /// be in another process.
    Made(u32),
    /// The function of code made at run time, once it is known.
    Function(FunctionId),
    /// The lines that a file tells of it, by their number.
    Lines(u32),
}

/// Some events with the same stack and the same labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample<'a> {
    /// Innermost first.
    pub stack: &'a [LocationId],
    /// Sorted by key. Of a recording they always hold the comm, and one value a key at most;
    /// formats show those that [`Profile::shows`].
    pub labels: &'a [Label],
    /// How many events, or what [`Profile::event_type`] says instead.
    pub count: u64,
    /// How many events: the count, unless that is their weight ([`Values::EventsAndWeight`]).
    pub events: u64,
}

/// What a sample sums up.
#[derive(Clone, Copy, Debug)]
struct Sum {
    count: u64,
    events: u64,
}

impl Sum {
    fn add(&mut self, other: Self) {
        self.count += other.count;
        self.events += other.events;
    }
}

/// A profile.
///
/// A sample's values follow from its count: see [`Values`].
#[derive(Clone, Debug)]
pub struct Profile {
    /// What the counts count, such as `samples` in `count`: events, unless their weights are counted.
    pub event_type: ValueType,
    /// What the period measures, such as `cpu` in `nanoseconds`.
    pub period_type: ValueType,
    /// The period: how much of `period_type` one event stands for. Where they do not weigh the same,
    /// what the last ones do.
    pub period: u64,
    /// What follows from a sample's count.
    pub values: Values,
    /// Start, in nanoseconds since the epoch.
    pub time_ns: u64,
    /// Length of the recording in nanoseconds.
    pub duration_ns: u64,
    /// Free text. A comment that starts with `#` is shown on request only.
    pub comments: Vec<String>,
    /// The labels of ours that formats with labels write.
    pub shown_labels: Vec<LabelKey>,
    /// What pprof's own reader is told.
    pub hints: Hints,
    strings: Interner<String>,
    functions: Interner<Function>,
    mappings: Interner<Mapping>,
    /// Mappings whose code is left to whoever reads the file to name.
    unnamed: HashSet<MappingId>,
    /// Lines that tell locations apart.
    line_sets: Interner<Vec<Line>>,
    locations: Vec<Location>,
    location_ids: HashMap<(FrameKind, Option<MappingId>, u64, Identity), LocationId>,
    /// Events by labels, then by stack.
    samples: HashMap<Vec<Label>, HashMap<Vec<LocationId>, Sum>>,
    timeline: Option<Timeline>,
}

/// On-CPU samples by a clock: what Go's CPU profiles have, so that both can be compared.
pub const SAMPLES_COUNT: ValueType = ValueType {
    kind: Cow::Borrowed("samples"),
    unit: Cow::Borrowed("count"),
};
/// Time on a CPU.
pub const CPU_NANOSECONDS: ValueType = ValueType {
    kind: Cow::Borrowed("cpu"),
    unit: Cow::Borrowed("nanoseconds"),
};

impl Profile {
    /// An empty CPU profile with one sample every `period_ns`.
    #[must_use]
    pub fn cpu(period_ns: u64) -> Self {
        let mut strings = Interner::default();
        strings.intern(String::new());
        Self {
            event_type: SAMPLES_COUNT,
            period_type: CPU_NANOSECONDS,
            period: period_ns,
            values: Values::CountAndPeriod,
            time_ns: 0,
            duration_ns: 0,
            comments: Vec::new(),
            shown_labels: Vec::new(),
            hints: Hints::default(),
            strings,
            functions: Interner::default(),
            mappings: Interner::default(),
            unnamed: HashSet::default(),
            line_sets: Interner::default(),
            locations: Vec::new(),
            location_ids: HashMap::default(),
            samples: HashMap::default(),
            timeline: None,
        }
    }

    /// An empty profile whose samples have one value of this type. No period is known.
    #[must_use]
    pub fn counting(event_type: ValueType) -> Self {
        Self {
            event_type,
            period_type: ValueType::default(),
            values: Values::CountAlone,
            ..Self::cpu(0)
        }
    }

    /// What the last value of a sample is: that which the widths in a graph stand for.
    #[must_use]
    pub fn weight_type(&self) -> &ValueType {
        match self.values {
            Values::CountAndPeriod => &self.period_type,
            Values::CountAlone | Values::EventsAndWeight => &self.event_type,
        }
    }

    /// The last value of a sample with this count. What does not fit is as large as can be.
    #[must_use]
    pub fn weight(&self, count: u64) -> u64 {
        match self.values {
            Values::CountAndPeriod => count.saturating_mul(self.period),
            Values::CountAlone | Values::EventsAndWeight => count,
        }
    }

    /// Whether formats with labels write this one. What others labelled was meant to be seen.
    #[must_use]
    pub fn shows(&self, key: LabelKey) -> bool {
        matches!(key, LabelKey::Foreign(_)) || self.shown_labels.contains(&key)
    }

    /// A label's key as it stands in files.
    #[must_use]
    pub fn key_name(&self, key: LabelKey) -> &str {
        match key {
            LabelKey::Foreign(name) => self.text(name),
            own => own.own_name().expect("only foreign keys have none"),
        }
    }

    /// The handle of a string.
    pub fn string(&mut self, text: &str) -> StringId {
        StringId(match self.strings.get(text) {
            Some(id) => id,
            None => self.strings.intern(text.to_owned()),
        })
    }

    /// The text of a string.
    #[must_use]
    pub fn text(&self, id: StringId) -> &str {
        &self.strings.items[id.0 as usize]
    }

    /// The handle of a function.
    pub fn function(&mut self, function: Function) -> FunctionId {
        FunctionId(self.functions.intern(function))
    }

    /// The handle of a mapping.
    pub fn mapping(&mut self, mapping: Mapping) -> MappingId {
        MappingId(self.mappings.intern(mapping))
    }

    /// The handle of a place in the code: one for each kind, mapping and address.
    pub fn location(
        &mut self,
        kind: FrameKind,
        mapping: Option<MappingId>,
        address: u64,
    ) -> LocationId {
        self.location_keyed(kind, mapping, address, Identity::Place)
    }

    /// The handle of code that was made at run time: one for each address and number.
    pub fn made_location(&mut self, address: u64, number: u32) -> LocationId {
        self.location_keyed(FrameKind::Jit, None, address, Identity::Made(number))
    }

    /// The handle of a place as a file tells it. What differs in its lines is another place: many
    /// files have no addresses.
    pub fn told_location(&mut self, told: Location) -> LocationId {
        let identity = Identity::Lines(self.line_sets.intern(told.lines.clone()));
        let id = self.location_keyed(told.kind, told.mapping, told.address, identity);
        self.locations[id.index()].lines = told.lines;
        id
    }

    /// Leaves the code of a mapping that has no name to whoever reads the file, who may have the
    /// object. Formats that nobody adds names to have a stand-in.
    pub fn leave_unnamed(&mut self, mapping: MappingId) {
        self.unnamed.insert(mapping);
    }

    /// Whether a mapping's code is left to others to name.
    #[must_use]
    pub fn is_left_unnamed(&self, mapping: MappingId) -> bool {
        self.unnamed.contains(&mapping)
    }

    /// The handle of a frame that only says something, such as why a stack was cut.
    pub fn marker(&mut self, words: &str) -> LocationId {
        let name = self.string(words);
        let id = self.location_keyed(FrameKind::Marker, None, 0, Identity::Words(name));
        if self.locations[id.index()].lines.is_empty() {
            let function = self.function(Function {
                name,
                system_name: StringId::EMPTY,
                file: StringId::EMPTY,
                start_line: 0,
            });
            self.locations[id.index()].lines.push(Line {
                function,
                line: 0,
                column: 0,
            });
        }
        id
    }

    fn location_keyed(
        &mut self,
        kind: FrameKind,
        mapping: Option<MappingId>,
        address: u64,
        identity: Identity,
    ) -> LocationId {
        *self
            .location_ids
            .entry((kind, mapping, address, identity))
            .or_insert_with(|| {
                let id = u32::try_from(self.locations.len())
                    .expect("fewer than 2^32 locations fit in memory");
                self.locations.push(Location {
                    kind,
                    mapping,
                    address,
                    lines: Vec::new(),
                });
                LocationId(id)
            })
    }

    /// Adds `count` events with this stack (innermost first) and these labels.
    pub fn add(&mut self, stack: &[LocationId], labels: &[Label], count: u64) {
        let events = count;
        self.add_sum(stack, labels, Sum { count, events });
    }

    /// Adds one event with this count: see [`Profile::count_of_event`].
    pub fn add_event(&mut self, stack: &[LocationId], labels: &[Label], count: u64) {
        self.add_sum(stack, labels, Sum { count, events: 1 });
    }

    /// The count of one event that stands for so much of the period's type.
    #[must_use]
    pub fn count_of_event(&self, period: u64) -> u64 {
        match self.values {
            Values::CountAndPeriod | Values::CountAlone => 1,
            Values::EventsAndWeight => period,
        }
    }

    /// From now on events have the period that is added with each, and what the others weigh is
    /// counted as well. `period` is that of the last ones.
    pub fn change_period(&mut self, period: u64) {
        if self.values == Values::CountAndPeriod {
            let old = self.period;
            for sum in self.samples.values_mut().flat_map(HashMap::values_mut) {
                sum.count = sum.count.saturating_mul(old);
            }
            self.weigh_moments(old);
            self.event_type = self.period_type.clone();
            self.values = Values::EventsAndWeight;
        }
        self.period = period;
    }

    fn add_sum(&mut self, stack: &[LocationId], labels: &[Label], sum: Sum) {
        if !labels.is_sorted_by_key(|(key, _)| *key) {
            let mut sorted = labels.to_vec();
            sorted.sort_unstable_by_key(|(key, _)| *key);
            return self.add_sum(stack, &sorted, sum);
        }
        // Most samples are like one before: nothing is allocated for those.
        if let Some(stacks) = self.samples.get_mut(labels) {
            if let Some(old) = stacks.get_mut(stack) {
                old.add(sum);
            } else {
                stacks.insert(stack.to_vec(), sum);
            }
        } else {
            let stacks = std::iter::once((stack.to_vec(), sum)).collect();
            self.samples.insert(labels.to_vec(), stacks);
        }
    }

    /// Sets the functions of a location, the innermost inlined one first.
    pub fn set_lines(&mut self, id: LocationId, lines: Vec<Line>) {
        self.locations[id.index()].lines = lines;
    }

    /// Sets the mapping of a location, found out after the location was made.
    pub fn set_mapping(&mut self, id: LocationId, mapping: MappingId) {
        let location = &mut self.locations[id.index()];
        let (kind, old, address) = (location.kind, location.mapping, location.address);
        location.mapping = Some(mapping);
        self.location_ids
            .remove(&(kind, old, address, Identity::Place));
        self.location_ids
            .insert((kind, Some(mapping), address, Identity::Place), id);
    }

    /// Every string, in the order of the handles; the first is empty.
    #[must_use]
    pub fn strings(&self) -> &[String] {
        &self.strings.items
    }

    /// Every function, in the order of the handles.
    #[must_use]
    pub fn functions(&self) -> &[Function] {
        &self.functions.items
    }

    /// Every mapping, in the order of the handles.
    #[must_use]
    pub fn mappings(&self) -> &[Mapping] {
        &self.mappings.items
    }

    /// Every location, in the order of the handles.
    #[must_use]
    pub fn locations(&self) -> &[Location] {
        &self.locations
    }

    /// A location with its handle.
    pub fn location_ids(&self) -> impl Iterator<Item = LocationId> + use<> {
        (0..u32::try_from(self.locations.len()).expect("fewer than 2^32 locations fit in memory"))
            .map(LocationId)
    }

    /// A mapping with its handle.
    pub fn mapping_ids(&self) -> impl Iterator<Item = MappingId> + use<> {
        let count = u32::try_from(self.mappings.items.len());
        (0..count.expect("fewer than 2^32 mappings fit in memory")).map(MappingId)
    }

    /// The location with this handle.
    #[must_use]
    pub fn location_at(&self, id: LocationId) -> &Location {
        &self.locations[id.index()]
    }

    /// The mapping with this handle.
    #[must_use]
    pub fn mapping_at(&self, id: MappingId) -> &Mapping {
        &self.mappings.items[id.index()]
    }

    /// The function with this handle.
    #[must_use]
    pub fn function_at(&self, id: FunctionId) -> &Function {
        &self.functions.items[id.index()]
    }

    /// The name of a line's function.
    #[must_use]
    pub fn line_name(&self, line: &Line) -> &str {
        self.text(self.function_at(line.function).name)
    }

    /// Every sample, in no particular order.
    pub fn samples(&self) -> impl Iterator<Item = Sample<'_>> {
        self.samples.iter().flat_map(|(labels, stacks)| {
            stacks.iter().map(move |(stack, sum)| Sample {
                stack,
                labels,
                count: sum.count,
                events: sum.events,
            })
        })
    }

    /// The sum of all counts: the events in the profile, unless their weights are counted.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.samples().map(|sample| sample.count).sum()
    }
}

/// Each distinct value once, with its position as its number.
#[derive(Clone, Debug)]
struct Interner<T> {
    items: Vec<T>,
    ids: HashMap<T, u32>,
}

impl<T> Default for Interner<T> {
    fn default() -> Self {
        Self {
            items: Vec::new(),
            ids: HashMap::default(),
        }
    }
}

impl<T: Clone + Eq + Hash> Interner<T> {
    fn intern(&mut self, item: T) -> u32 {
        if let Some(id) = self.ids.get(&item) {
            return *id;
        }
        let id = u32::try_from(self.items.len()).expect("fewer than 2^32 items fit in memory");
        self.items.push(item.clone());
        self.ids.insert(item, id);
        id
    }

    fn get<Q: Eq + Hash + ?Sized>(&self, item: &Q) -> Option<u32>
    where
        T: std::borrow::Borrow<Q>,
    {
        self.ids.get(item).copied()
    }
}
