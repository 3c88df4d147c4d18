//! The mappings, locations and functions that a message's samples lead to.

use std::borrow::Cow;

use super::{SampleTable, Table};
use crate::{
    export::{names, proto},
    profile::{FrameKind, Line, Location, LocationId, MappingId, MappingKind, Profile},
};

/// A sample's frame: `None` is the one that stands in an empty stack.
pub(super) type Frame = Option<LocationId>;

/// A function by what it says. The order of the fields is the order in the file.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FunctionEntry<'a> {
    pub(super) name: Cow<'a, str>,
    pub(super) system_name: Cow<'a, str>,
    pub(super) file: Cow<'a, str>,
    start_line: u32,
}

/// A mapping by what it says. The order of the fields is the order in the file.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct MappingEntry<'a> {
    /// What is profiled as a whole comes first: readers take the first for the main executable.
    rank: u8,
    pub(super) path: Cow<'a, str>,
    start: u64,
    limit: u64,
    file_offset: u64,
    pub(super) build_id: Cow<'a, str>,
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
pub(super) struct Places<'a> {
    pub(super) functions: Table<FunctionEntry<'a>>,
    pub(super) mappings: Table<MappingEntry<'a>>,
    locations: Table<LocationEntry>,
    /// The number of the frame that stands in an empty stack, and of each location; 0 where no sample
    /// leads.
    location_ids: Vec<u64>,
}

impl<'a> Places<'a> {
    pub(super) fn of(profile: &'a Profile, samples: &SampleTable<'_>) -> Self {
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

    pub(super) fn location_id(&self, frame: Frame) -> u64 {
        self.location_ids[place_of(frame)]
    }

    pub(super) fn mapping_messages(&self, text: impl Fn(&str) -> i64) -> Vec<proto::Mapping> {
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

    pub(super) fn location_messages(&self) -> Vec<proto::Location> {
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

    pub(super) fn function_messages(&self, text: impl Fn(&str) -> i64) -> Vec<proto::Function> {
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

/// Position in its table of what has this id.
fn position(id: u64) -> usize {
    usize::try_from(id - 1).expect("ids count things in memory")
}
