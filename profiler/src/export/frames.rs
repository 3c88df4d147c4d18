//! A profile's stacks as the frames that a person sees, outermost first: each inlined call is one
//! of its own, and a stack without frames has one that says so.
//!
//! Functions and frames are numbered by what they say, so the same events give the same numbers
//! in whatever order they came. Only what a sample leads to has one.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use super::names;
use crate::profile::{FrameKind, Line, Location, LocationId, Profile};

/// What a frame is, as shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Shown {
    /// A function of an object.
    User,
    /// A function of the kernel, inlined or not.
    Kernel,
    /// A function made at run time.
    Jit,
    /// A function that was inlined into the one before.
    Inlined,
    /// No function: says why a stack was cut here.
    Marker,
}

impl Shown {
    /// Every kind, in the order of their numbers.
    pub(super) const ALL: [Self; 5] = [
        Self::User,
        Self::Kernel,
        Self::Jit,
        Self::Inlined,
        Self::Marker,
    ];

    /// The kind of a location's line at this position. The last line is the real function.
    pub(super) fn of(location: &Location, at: usize) -> Self {
        let is_inlined = at + 1 < location.lines.len();
        match location.kind {
            FrameKind::Marker => Self::Marker,
            FrameKind::Kernel => Self::Kernel,
            FrameKind::User | FrameKind::Jit if is_inlined => Self::Inlined,
            FrameKind::User => Self::User,
            FrameKind::Jit => Self::Jit,
        }
    }

    /// Its position in [`Shown::ALL`].
    pub(super) const fn number(self) -> usize {
        self as usize
    }
}

/// A function by what it says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Function<'a> {
    /// Never blank.
    pub(super) name: Cow<'a, str>,
    /// Source file; empty if unknown.
    pub(super) file: Cow<'a, str>,
    /// Path of the object it lies in, or a name in brackets; empty if there is none.
    pub(super) object: Cow<'a, str>,
    /// Line it starts at; 0 if unknown.
    pub(super) start_line: u32,
}

/// A frame: a function, and where in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Frame {
    /// Position in [`Frames::functions`].
    pub(super) function: usize,
    /// What it is.
    pub(super) shown: Shown,
    /// From 1; 0 if unknown.
    pub(super) line: u32,
    /// From 1; 0 if unknown.
    pub(super) column: u32,
}

/// The frames of a profile.
#[derive(Debug)]
pub(super) struct Frames<'a> {
    /// Sorted.
    pub(super) functions: Vec<Function<'a>>,
    /// Sorted.
    pub(super) frames: Vec<Frame>,
    /// The frames of each location, outermost first; none where no sample leads.
    of_locations: Vec<Vec<usize>>,
    /// The frame that stands in an empty stack.
    of_nothing: Option<usize>,
}

/// A frame with its function spelled out.
type Told<'a> = (Function<'a>, Shown, u32, u32);

impl<'a> Frames<'a> {
    pub(super) fn of(profile: &'a Profile) -> Self {
        let (is_met, has_empty) = met(profile);
        let told: Vec<Vec<Told<'a>>> = profile
            .locations()
            .iter()
            .zip(is_met)
            .map(|(location, is_met)| {
                if is_met {
                    told_of(profile, location)
                } else {
                    Vec::new()
                }
            })
            .collect();
        let nothing = has_empty.then(|| {
            let unknown = Function {
                name: Cow::Borrowed(names::UNKNOWN),
                file: Cow::Borrowed(""),
                object: Cow::Borrowed(""),
                start_line: 0,
            };
            (unknown, Shown::Marker, 0, 0)
        });
        let all = || told.iter().flatten().chain(&nothing);
        let functions: BTreeSet<&Function<'a>> = all().map(|(function, ..)| function).collect();
        let numbers: BTreeMap<&Function<'a>, usize> = functions.into_iter().zip(0..).collect();
        let frame_of = |(function, shown, line, column): &Told<'a>| Frame {
            function: numbers[function],
            shown: *shown,
            line: *line,
            column: *column,
        };
        let frames: BTreeSet<Frame> = all().map(frame_of).collect();
        let frames: Vec<Frame> = frames.into_iter().collect();
        let number_of = |told: &Told<'a>| {
            let found = frames.binary_search(&frame_of(told));
            found.expect("each frame is in the table of all")
        };
        Self {
            of_locations: told
                .iter()
                .map(|told| told.iter().map(number_of).collect())
                .collect(),
            of_nothing: nothing.as_ref().map(number_of),
            functions: numbers.into_keys().cloned().collect(),
            frames,
        }
    }

    /// A stack of the profile as positions in [`Frames::frames`], outermost first.
    pub(super) fn of_stack(&self, stack: &[LocationId]) -> Vec<usize> {
        match (stack, self.of_nothing) {
            ([], Some(nothing)) => vec![nothing],
            _ => stack
                .iter()
                .rev()
                .flat_map(|id| &self.of_locations[id.index()])
                .copied()
                .collect(),
        }
    }
}

/// Which locations a sample leads to, and whether one has no stack.
fn met(profile: &Profile) -> (Vec<bool>, bool) {
    let mut is_met = vec![false; profile.locations().len()];
    let mut has_empty = false;
    for sample in profile.samples().filter(|sample| sample.count > 0) {
        has_empty |= sample.stack.is_empty();
        for id in sample.stack {
            is_met[id.index()] = true;
        }
    }
    (is_met, has_empty)
}

/// The frames of one location, outermost first.
fn told_of<'a>(profile: &'a Profile, location: &Location) -> Vec<Told<'a>> {
    if location.lines.is_empty() {
        return vec![told(profile, location, None, Shown::of(location, 0))];
    }
    let lines = location.lines.iter().enumerate().rev();
    lines
        .map(|(at, line)| told(profile, location, Some(line), Shown::of(location, at)))
        .collect()
}

fn told<'a>(
    profile: &'a Profile,
    location: &Location,
    line: Option<&Line>,
    shown: Shown,
) -> Told<'a> {
    let code = line.map(|line| profile.function_at(line.function));
    let function = Function {
        name: names::clean_owned(names::of_line(profile, location, line)),
        file: code.map_or(Cow::Borrowed(""), |code| {
            names::clean(profile.text(code.file))
        }),
        object: object_of(profile, location),
        start_line: code.map_or(0, |code| code.start_line),
    };
    let place = line.map_or((0, 0), |line| (line.line, line.column));
    (function, shown, place.0, place.1)
}

/// Where a location lies: markers and run-time code lie in no object.
fn object_of<'a>(profile: &'a Profile, location: &Location) -> Cow<'a, str> {
    match (location.kind, location.mapping) {
        (FrameKind::User | FrameKind::Kernel, Some(id)) => {
            let path = profile.text(profile.mapping_at(id).path);
            names::clean(names::without_deleted(path))
        }
        _ => Cow::Borrowed(""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{self, Mapping, MappingKind, StringId};

    impl<'a> Frames<'a> {
        /// The function of a frame.
        fn function_of(&self, frame: usize) -> &Function<'a> {
            &self.functions[self.frames[frame].function]
        }
    }

    fn line(profile: &mut Profile, name: &str, line: u32) -> Line {
        let name = profile.string(name);
        let function = profile.function(profile::Function {
            name,
            system_name: StringId::EMPTY,
            file: StringId::EMPTY,
            start_line: 0,
        });
        Line {
            function,
            line,
            column: 0,
        }
    }

    #[track_caller]
    fn check(kind: FrameKind, names: &[&str], expected: &[(&str, Shown)]) {
        let mut profile = Profile::cpu(1);
        let path = profile.string("/usr/lib/liba.so (deleted)");
        let mapping = profile.mapping(Mapping {
            kind: MappingKind::Object,
            start: 0,
            limit: 0x1000,
            file_offset: 0,
            path,
            build_id: StringId::EMPTY,
        });
        let location = profile.location(kind, Some(mapping), 0x10);
        let lines = names
            .iter()
            .map(|name| line(&mut profile, name, 7))
            .collect();
        profile.set_lines(location, lines);
        profile.add(&[location], &[], 1);
        let frames = Frames::of(&profile);
        let actual: Vec<(&str, Shown)> = frames
            .of_stack(&[location])
            .into_iter()
            .map(|at| {
                (
                    frames.function_of(at).name.as_ref(),
                    frames.frames[at].shown,
                )
            })
            .collect();
        assert_eq!(actual, expected);
    }

    #[test]
    fn inlined_calls_are_frames_of_their_own() {
        check(
            FrameKind::User,
            &["deep", "mid", "main"],
            &[
                ("main", Shown::User),
                ("mid", Shown::Inlined),
                ("deep", Shown::Inlined),
            ],
        );
        check(
            FrameKind::Kernel,
            &["in", "out"],
            &[("out", Shown::Kernel), ("in", Shown::Kernel)],
        );
        check(FrameKind::Jit, &["Foo.bar"], &[("Foo.bar", Shown::Jit)]);
        check(FrameKind::Marker, &["[cut]"], &[("[cut]", Shown::Marker)]);
    }

    #[test]
    fn code_without_a_name_is_shown_by_where_it_lies() {
        check(FrameKind::User, &[], &[("[liba.so]", Shown::User)]);
        check(FrameKind::Kernel, &["\n"], &[("[kernel]", Shown::Kernel)]);
        check(FrameKind::User, &["a\nb\0"], &[("ab", Shown::User)]);
    }

    #[test]
    fn an_empty_stack_has_a_frame_and_what_no_sample_leads_to_has_none() {
        let mut profile = Profile::cpu(1);
        let unused = profile.location(FrameKind::User, None, 0x10);
        let main = line(&mut profile, "main", 1);
        profile.set_lines(unused, vec![main]);
        profile.add(&[unused], &[], 0);
        profile.add(&[], &[], 2);
        let frames = Frames::of(&profile);
        assert_eq!(frames.frames.len(), 1);
        let [only] = frames.of_stack(&[])[..] else {
            panic!("one frame");
        };
        assert_eq!(frames.function_of(only).name, names::UNKNOWN);
    }

    #[test]
    fn numbers_follow_from_what_frames_say() {
        let numbered = |order: [&str; 2]| {
            let mut profile = Profile::cpu(1);
            for name in order {
                let main = line(&mut profile, name, 1);
                let location =
                    profile.location(FrameKind::User, None, main.function.index() as u64);
                profile.set_lines(location, vec![main]);
                profile.add(&[location], &[], 1);
            }
            let frames = Frames::of(&profile);
            let names = frames
                .functions
                .iter()
                .map(|function| function.name.to_string());
            (names.collect::<Vec<_>>(), frames.frames.clone())
        };
        assert_eq!(numbered(["a", "b"]), numbered(["b", "a"]));
    }
}
