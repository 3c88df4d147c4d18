//! Counts the frames of a recording that have no name, or no line, by place and reason.
//!
//! In: the samples, and what became of each location. Out: the account's frames, and the tables of
//! [`Gaps`], whose sum is the account's.

use std::hash::Hash;

use foldhash::HashMap;

use super::account::Account;
use crate::{
    jit,
    object::{ObjectId, ObjectTable},
    profile::{LabelKey, LabelValue, LocationId, MappingId, Profile, Sample, StringId},
    symbolize::{KERNEL_NAME, Known, Origin},
    target::Pid,
    unnamed::{Cause, Counts, Gaps, NoLines, Place, Reason, Table},
};

/// What became of the locations of a profile.
pub(super) struct Found<'a> {
    pub(super) profile: &'a Profile,
    pub(super) origins: &'a [Origin],
    pub(super) known: &'a [Known],
    /// Whose code is made at run time and has no name.
    pub(super) made: &'a HashMap<LocationId, jit::Made>,
    pub(super) objects: &'a ObjectTable,
}

/// Frames by what became of them.
pub(super) struct Tally<'a> {
    found: Found<'a>,
    unnamed: Counted<Reason>,
    lineless: Counted<NoLines>,
}

impl<'a> Tally<'a> {
    pub(super) fn new(found: Found<'a>) -> Self {
        Self {
            found,
            unnamed: Counted::default(),
            lineless: Counted::default(),
        }
    }

    /// Counts the frames of a sample, also in the account.
    pub(super) fn add(&mut self, sample: &Sample<'_>, account: &mut Account) {
        let is_frame = |id: &&LocationId| self.found.origins[id.index()] != Origin::Marker;
        for id in sample.stack.iter().filter(is_frame) {
            account.frames += sample.events;
            match self.found.known[id.index()] {
                Known::Named => {}
                Known::Lineless(cause) => {
                    let spot = self.found.spot(*id, sample);
                    self.lineless.add(cause, spot, sample.events);
                }
                Known::Unnamed(cause) => {
                    account.unnamed += sample.events;
                    let spot = self.found.spot(*id, sample);
                    self.unnamed.add(cause, spot, sample.events);
                }
            }
        }
        self.unnamed.in_sample.clear();
        self.lineless.in_sample.clear();
    }

    /// The tables, given the frames that there are.
    pub(super) fn finish(self, frames: u64) -> Gaps {
        Gaps {
            unnamed: self.found.table(self.unnamed, frames),
            lineless: self.found.table(self.lineless, frames),
        }
    }
}

/// Where a frame lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Spot {
    Object(ObjectId),
    Kernel(Option<MappingId>),
    Made(Pid),
    /// With the name of the thread.
    Nowhere(StringId),
}

impl Found<'_> {
    fn spot(&self, id: LocationId, sample: &Sample<'_>) -> Spot {
        match self.origins[id.index()] {
            Origin::Object(object, _) => Spot::Object(object),
            Origin::Kernel(_) => Spot::Kernel(self.profile.location_at(id).mapping),
            Origin::Jit => self
                .made
                .get(&id)
                .map_or(Spot::Nowhere(StringId::EMPTY), |made| Spot::Made(made.pid)),
            Origin::Unknown | Origin::Marker => Spot::Nowhere(comm(sample)),
        }
    }

    /// What to call a spot, and the build id of what is there.
    fn place(&self, spot: Spot, comms: &HashMap<Pid, &str>) -> (Place, Option<String>) {
        match spot {
            Spot::Object(object) => {
                let object = self.objects.get(object);
                (Place::object(&object.path), object.build_id.clone())
            }
            Spot::Kernel(mapping) => {
                let path = mapping.map(|id| self.profile.text(self.profile.mapping_at(id).path));
                (Place::object(path.unwrap_or(KERNEL_NAME)), None)
            }
            Spot::Made(pid) => {
                let comm = comms.get(&pid).copied().unwrap_or_default();
                (Place::process(pid, comm), None)
            }
            Spot::Nowhere(comm) => (Place::threads(self.profile.text(comm)), None),
        }
    }

    fn table<C: Cause + Hash>(&self, counted: Counted<C>, frames: u64) -> Table<C> {
        let comms = self.made.values().map(|made| (made.pid, &*made.comm));
        let comms: HashMap<Pid, &str> = comms.collect();
        let mut counts = Counts::new();
        for ((cause, spot), (frames, samples)) in counted.counts {
            let (place, build_id) = self.place(spot, &comms);
            let sum: &mut (u64, u64) = counts.entry((cause, place, build_id)).or_default();
            sum.0 += frames;
            sum.1 += samples;
        }
        Table::of(counts, frames)
    }
}

/// The name of a sample's thread, which it always has.
fn comm(sample: &Sample<'_>) -> StringId {
    let comm = sample.labels.iter().find_map(|(key, value)| match value {
        LabelValue::Text(text) if *key == LabelKey::Comm => Some(*text),
        _ => None,
    });
    comm.unwrap_or(StringId::EMPTY)
}

/// Frames and samples of one kind, by cause and spot.
struct Counted<C> {
    counts: HashMap<(C, Spot), (u64, u64)>,
    /// What the sample at hand has.
    in_sample: Vec<(C, Spot)>,
}

impl<C> Default for Counted<C> {
    fn default() -> Self {
        Self {
            counts: HashMap::default(),
            in_sample: Vec::new(),
        }
    }
}

impl<C: Cause + Hash> Counted<C> {
    /// A frame of the sample at hand, which counts so often.
    fn add(&mut self, cause: C, spot: Spot, count: u64) {
        let (frames, samples) = self.counts.entry((cause, spot)).or_default();
        *frames += count;
        if !self.in_sample.contains(&(cause, spot)) {
            self.in_sample.push((cause, spot));
            *samples += count;
        }
    }
}
