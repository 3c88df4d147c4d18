//! From samples to a profile: each frame becomes a location, equal stacks are counted.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use foldhash::HashMap;
use profiler_common::stop::StopReason;

use super::{
    Addresses, Times,
    account::Account,
    labels::{LabelSettings, Labeller},
    unnamed::{Found, Tally},
};
use crate::{
    bpf::{KernelSymbols, Sample},
    bug,
    jit::{self, Jit},
    object::{Bias, ElfAddr, ObjectId, ObjectTable, Objects},
    process::{Mapping as ProcessMapping, Processes, Space, UserPlace, UserStack},
    profile::{
        self, FrameKind, Function, LabelKey, Line, LocationId, MappingId, MappingKind, Moment,
        Profile, StringId,
    },
    symbolize::{self, Origin, Symbolized, symbolize},
    target::Pid,
    unnamed::{Gaps, Reason},
};

/// A mapping that stands for an object, wherever else it is mapped: so the same code in two
/// processes is one location.
#[derive(Clone, Copy, Debug)]
struct Representative {
    first: ElfAddr,
    last: ElfAddr,
    /// What the profile's addresses are above those of the ELF file.
    bias: Bias,
    mapping: MappingId,
}

/// What is known of processes and objects when a sample is added.
#[derive(Clone, Copy)]
pub(super) struct Known<'a> {
    pub(super) processes: &'a Processes,
    pub(super) objects: &'a Objects,
}

/// What a collector has in the end.
pub(super) struct Finished {
    pub(super) profile: Profile,
    pub(super) account: Account,
    pub(super) symbolized: Symbolized,
    /// Frames without a name or a line, and why.
    pub(super) gaps: Gaps,
}

/// A profile that grows.
pub(super) struct Collector {
    profile: Profile,
    origins: Vec<Origin>,
    representatives: HashMap<ObjectId, Vec<Representative>>,
    /// The locations of places that a representative was found for.
    places: HashMap<(ObjectId, ElfAddr), LocationId>,
    labeller: Labeller,
    /// The names of code made at run time.
    pub(super) jit: Jit,
    /// Where such code lies in the profile.
    made: Vec<(LocationId, jit::Place)>,
    main_path: Option<String>,
    times: Times,
    addresses: Addresses,
    /// `CLOCK_MONOTONIC` when the clocks started.
    start_ns: u64,
    complete: u64,
    cut: BTreeMap<StopReason, u64>,
    kept: u64,
}

impl Collector {
    pub(super) fn new(
        mut profile: Profile,
        labels: LabelSettings,
        times: Times,
        addresses: Addresses,
    ) -> Self {
        if times == Times::Kept {
            profile.keep_times();
        }
        profile.shown_labels.clone_from(&labels.shown);
        Self {
            profile,
            origins: Vec::new(),
            representatives: HashMap::default(),
            places: HashMap::default(),
            labeller: Labeller::new(labels),
            jit: Jit::default(),
            made: Vec::new(),
            main_path: None,
            times,
            addresses,
            start_ns: 0,
            complete: 0,
            cut: BTreeMap::new(),
            kept: 0,
        }
    }

    /// When the clocks started: by the calendar, and by the clock that samples carry.
    pub(super) fn set_start(&mut self, time: SystemTime, monotonic_ns: u64) {
        self.start_ns = monotonic_ns;
        let since_epoch = time
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        self.profile.time_ns = u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX);
    }

    /// The path of the executable that the profile is of.
    pub(super) fn set_main(&mut self, path: Option<String>) {
        self.main_path = path;
    }

    pub(super) fn has_main(&self) -> bool {
        self.main_path.is_some()
    }

    /// Kept samples with a cut stack, by reason.
    pub(super) fn cut(&self) -> &BTreeMap<StopReason, u64> {
        &self.cut
    }

    pub(super) fn kept(&self) -> u64 {
        self.kept
    }

    /// Samples have another period from now on, but for some that are on their way.
    pub(super) fn change_period(&mut self, period_ns: u64) {
        self.profile.change_period(period_ns);
    }

    /// Adds one sample, which stands for a period, and whose user frames lie at these places.
    pub(super) fn add(
        &mut self,
        sample: &Sample,
        period_ns: u64,
        user: &UserStack,
        known: Known<'_>,
    ) {
        let mut stack = Vec::with_capacity(sample.kernel.len() + user.places.len() + 1);
        for (depth, address) in sample.kernel.iter().enumerate() {
            // All but the innermost are return addresses.
            let address = if depth == 0 {
                *address
            } else {
                address.wrapping_sub(1)
            };
            stack.push(self.kernel_location(address));
        }
        if !sample.kernel_stop.is_complete() {
            stack.push(self.marker(&kernel_cut_words(sample.kernel_stop)));
        }
        for place in &user.places {
            stack.push(self.user_location(sample, *place, known));
        }
        if !user.stop.is_complete() {
            stack.push(self.marker(&cut_words(user.stop)));
        }
        if stack.is_empty() {
            stack.push(self.marker("[stack left out]"));
        }
        let labels = self.labeller.labels(&mut self.profile, sample);
        let count = self.profile.count_of_event(period_ns);
        self.profile.add_event(&stack, &labels, count);
        if self.times == Times::Kept {
            let thread = self.labeller.thread_of(&mut self.profile, sample);
            self.profile.note_moment(Moment {
                time_ns: sample.time_ns.saturating_sub(self.start_ns),
                thread,
                stack: &stack,
                count,
            });
        }
        self.kept += 1;
        let stops = [user.stop, sample.kernel_stop];
        match stops.into_iter().find(|stop| !stop.is_complete()) {
            None => self.complete += 1,
            Some(reason) => *self.cut.entry(reason).or_insert(0) += 1,
        }
    }

    fn marker(&mut self, words: &str) -> LocationId {
        let id = self.profile.marker(words);
        self.note_origin(id, Origin::Marker)
    }

    fn kernel_location(&mut self, address: u64) -> LocationId {
        let id = self.profile.location(FrameKind::Kernel, None, address);
        self.note_origin(id, Origin::Kernel(address))
    }

    fn user_location(&mut self, sample: &Sample, place: UserPlace, known: Known<'_>) -> LocationId {
        match place {
            UserPlace::Object(object, address) => {
                if let Some(id) = self.places.get(&(object, address)) {
                    return *id;
                }
                let origin = Origin::Object(object, address);
                let Some(found) = self.representative(sample.pid, object, address, known) else {
                    let id = self.profile.location(FrameKind::User, None, address.0);
                    return self.note_origin(id, origin);
                };
                let (mapping, runtime) = (Some(found.mapping), found.bias.to_runtime(address));
                let id = self.profile.location(FrameKind::User, mapping, runtime);
                self.places.insert((object, address), id);
                self.note_origin(id, origin)
            }
            UserPlace::Jit(address) => {
                let comm = || sample.comm.text();
                let place = self.jit.place(sample.pid, address, sample.time_ns, comm);
                let id = self.profile.made_location(address, place.number());
                if id.index() == self.origins.len() {
                    self.made.push((id, place));
                }
                self.note_origin(id, Origin::Jit)
            }
            UserPlace::Unknown(address) => {
                let id = self.profile.location(FrameKind::User, None, address);
                self.note_origin(id, Origin::Unknown)
            }
        }
    }

    /// Locations and origins grow together.
    fn note_origin(&mut self, id: LocationId, origin: Origin) -> LocationId {
        if id.index() == self.origins.len() {
            self.origins.push(origin);
        }
        id
    }

    fn representative(
        &mut self,
        pid: Pid,
        object: ObjectId,
        address: ElfAddr,
        known: Known<'_>,
    ) -> Option<Representative> {
        let covers = |made: &&Representative| made.first <= address && address <= made.last;
        let made = self
            .representatives
            .get(&object)
            .and_then(|made| made.iter().find(covers))
            .copied();
        if made.is_some() {
            return made;
        }
        let mapping = known.processes.mapping(pid, object, address)?;
        let made = self.represent(mapping, object, known.objects);
        self.representatives.entry(object).or_default().push(made);
        Some(made)
    }

    fn represent(
        &mut self,
        mapping: &ProcessMapping,
        id: ObjectId,
        objects: &Objects,
    ) -> Representative {
        let object = objects.get(id);
        let is_main = self.main_path.as_deref() == Some(object.path.as_str());
        let kind = if is_main {
            MappingKind::Main
        } else {
            MappingKind::Object
        };
        let path = self.profile.string(&object.path);
        let build_id = self
            .profile
            .string(object.build_id.as_deref().unwrap_or(""));
        let ProcessMapping {
            start,
            end,
            file_offset,
            bias,
            ..
        } = *mapping;
        let shown = match (kind, self.addresses) {
            (MappingKind::Main, Addresses::Elf) => Bias::default(),
            _ => bias,
        };
        let [first, last] = [start, end - 1].map(|address| bias.to_elf(address));
        let mapping = profile::Mapping {
            kind,
            start: shown.to_runtime(first),
            limit: shown.to_runtime(last).wrapping_add(1),
            file_offset,
            path,
            build_id,
        };
        let mapping = self.profile.mapping(mapping);
        Representative {
            first,
            last,
            bias: shown,
            mapping,
        }
    }

    /// Adds the main executable's mapping if no sample lies in it: what was profiled is known all
    /// the same. `main` is the process that has it.
    pub(super) fn add_main(&mut self, main: Option<Pid>, known: Known<'_>) {
        let is_main = |mapping: &profile::Mapping| mapping.kind == MappingKind::Main;
        let Some(path) = self.main_path.clone() else {
            return;
        };
        if self.profile.mappings().iter().any(is_main) {
            return;
        }
        let mapped = main
            .into_iter()
            .filter_map(|pid| known.processes.space(pid))
            .flat_map(Space::iter);
        let mut objects = mapped.filter_map(|mapping| Some((mapping, mapping.object?)));
        let found = objects.find(|(_, object)| known.objects.get(*object).path == path);
        if let Some((mapping, object)) = found {
            self.represent(mapping, object, known.objects);
            return;
        }
        // It has ended, or its mappings were never asked for.
        let path = self.profile.string(&path);
        self.profile.mapping(profile::Mapping {
            kind: MappingKind::Main,
            start: 0,
            limit: 0,
            file_offset: 0,
            path,
            build_id: StringId::EMPTY,
        });
    }

    /// The objects that samples lie in.
    pub(super) fn objects(&self) -> impl Iterator<Item = ObjectId> + '_ {
        objects_of(&self.origins)
    }

    /// The kernel addresses that are to be named.
    pub(super) fn kernel_addresses(&self) -> Vec<u64> {
        let in_kernel = |origin: &Origin| match origin {
            Origin::Kernel(address) => Some(*address),
            _ => None,
        };
        self.origins.iter().filter_map(in_kernel).collect()
    }

    /// Reads a piece of what runtimes told of their code so far. False when there is nothing left.
    pub(super) fn read_rest(&mut self, known: Known<'_>) -> bool {
        let jit = &mut self.jit;
        let read = || jit.read_rest(jit::Now::read(), known.processes, known.objects);
        bug::contain(read).unwrap_or(false)
    }

    /// Ends the sampling: what is left to do takes no process, and may be done by another thread.
    /// Reading what runtimes told may take this long.
    pub(super) fn gather(mut self, known: Known<'_>, patience: Duration) -> Gathered {
        let jit = std::mem::take(&mut self.jit);
        let Known { processes, objects } = known;
        let jit = bug::contain(|| jit.finish(jit::Now::read(), processes, objects, patience));
        let origins = self.origins;
        Gathered {
            profile: self.profile,
            objects: objects.table(objects_of(&origins)),
            origins,
            jit: jit.unwrap_or_default(),
            made: self.made,
            account: Account {
                kept: self.kept,
                complete: self.complete,
                cut: self.cut,
                ..Account::default()
            },
        }
    }
}

/// A profile with names, and why some have none.
pub(super) struct Named {
    pub(super) profile: Profile,
    origins: Vec<Origin>,
    objects: ObjectTable,
    pub(super) symbolized: Symbolized,
    made: HashMap<LocationId, jit::Made>,
}

impl Named {
    fn found(&self) -> Found<'_> {
        Found {
            profile: &self.profile,
            origins: &self.origins,
            known: &self.symbolized.known,
            made: &self.made,
            objects: &self.objects,
        }
    }

    /// The samples that are wanted: their profile, the part of the account that is about them, and
    /// frames without a name or a line.
    pub(super) fn part(
        &self,
        shown: &[LabelKey],
        is_wanted: impl Fn(&profile::Sample<'_>) -> bool,
    ) -> (Profile, Account, Gaps) {
        let mut account = Account::default();
        let mut tally = Tally::new(self.found());
        for sample in self.profile.samples().filter(&is_wanted) {
            account.kept += sample.events;
            match self.cut(&sample) {
                None => account.complete += sample.events,
                Some(reason) => *account.cut.entry(reason).or_insert(0) += sample.events,
            }
            tally.add(&sample, &mut account);
        }
        let gaps = tally.finish(account.frames);
        (self.profile.part(shown, is_wanted), account, gaps)
    }

    /// Why a sample's stack is cut, by the frame that says so.
    fn cut(&self, sample: &profile::Sample<'_>) -> Option<StopReason> {
        let markers = sample.stack.iter().rev();
        let mut markers = markers.filter(|id| self.origins[id.index()] == Origin::Marker);
        let words = |id: &LocationId| {
            let line = self.profile.location_at(*id).lines.first()?;
            cut_reason(self.profile.line_name(line))
        };
        markers.find_map(words)
    }
}

fn objects_of(origins: &[Origin]) -> impl Iterator<Item = ObjectId> + '_ {
    origins.iter().filter_map(|origin| match origin {
        Origin::Object(object, _) => Some(*object),
        _ => None,
    })
}

/// The frame that ends a cut stack.
fn cut_words(reason: StopReason) -> String {
    format!("[cut: {}]", reason.words())
}

/// The frame that ends a cut kernel stack.
fn kernel_cut_words(reason: StopReason) -> String {
    format!("[kernel stack cut: {}]", reason.words())
}

/// The reason in one of these frames.
fn cut_reason(words: &str) -> Option<StopReason> {
    let is_it =
        |reason: &StopReason| words == cut_words(*reason) || words == kernel_cut_words(*reason);
    StopReason::ALL.into_iter().find(is_it)
}

/// A profile whose code has no names yet.
pub(super) struct Gathered {
    pub(super) profile: Profile,
    origins: Vec<Origin>,
    objects: ObjectTable,
    jit: jit::Finished,
    made: Vec<(LocationId, jit::Place)>,
    account: Account,
}

impl Gathered {
    /// Names everything. Gives the profile, the part of the account that is about stacks, and
    /// whether the kernel hid its names.
    pub(super) fn name(
        mut self,
        symbols: symbolize::Settings,
        printed: Option<&KernelSymbols>,
    ) -> Finished {
        let mut account = std::mem::take(&mut self.account);
        let named = self.name_to_keep(symbols, printed);
        let mut tally = Tally::new(named.found());
        let samples = named.profile.samples();
        samples.for_each(|sample| tally.add(&sample, &mut account));
        let gaps = tally.finish(account.frames);
        Finished {
            profile: named.profile,
            account,
            symbolized: named.symbolized,
            gaps,
        }
    }

    /// Names everything, for whoever wants parts of it.
    pub(super) fn name_to_keep(
        mut self,
        symbols: symbolize::Settings,
        printed: Option<&KernelSymbols>,
    ) -> Named {
        let (profile, objects) = (&mut self.profile, &self.objects);
        let mut symbolized = symbolize(profile, &self.origins, objects, symbols, printed);
        let made = self.name_made(&mut symbolized.known);
        Named {
            profile: self.profile,
            origins: self.origins,
            objects: self.objects,
            symbolized,
            made,
        }
    }

    /// About how much memory it takes, in bytes.
    pub(super) fn bytes(&self) -> usize {
        const LOCATION_BYTES: usize = 200;
        const SAMPLE_BYTES: usize = 300;
        let stacks: usize = self.profile.samples().map(|one| 4 * one.stack.len()).sum();
        let samples = self.profile.samples().count();
        self.origins.len() * LOCATION_BYTES + samples * SAMPLE_BYTES + stacks
    }

    /// Gives code made at run time its names, or the reason why it has none. Tells whose it is.
    fn name_made(&mut self, known: &mut [symbolize::Known]) -> HashMap<LocationId, jit::Made> {
        let jit = std::mem::take(&mut self.jit);
        let mut unnamed = HashMap::default();
        for (id, place) in std::mem::take(&mut self.made) {
            let Some(name) = jit.names.get(place.index()).and_then(Option::as_ref) else {
                if let Some(made) = jit.made.get(place.index()) {
                    let reason = Reason::Made(made.runtime, made.reason);
                    known[id.index()] = symbolize::Known::Unnamed(reason);
                    unnamed.insert(id, made.clone());
                }
                continue;
            };
            let function = Function {
                name: self.profile.string(&name.function),
                system_name: StringId::EMPTY,
                file: self.profile.string(&name.file),
                start_line: name.start_line,
            };
            let line = Line {
                function: self.profile.function(function),
                line: name.line,
                column: 0,
            };
            self.profile.set_lines(id, vec![line]);
            known[id.index()] = symbolize::Known::Named;
        }
        unnamed
    }
}
