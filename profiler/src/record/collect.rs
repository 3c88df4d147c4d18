//! From samples to a profile: each frame becomes a location, equal stacks are counted.

use std::{collections::BTreeMap, os::unix::fs::MetadataExt, time::SystemTime};

use foldhash::HashMap;
use profiler_common::stop::StopReason;

use super::{Times, account::Account};
use crate::{
    bpf::{Comm, KernelSymbols, Sample},
    object::{Bias, ElfAddr, ObjectId, Objects},
    process::{Mapping as ProcessMapping, Processes, UserPlace, UserStack},
    profile::{
        self, FrameKind, Label, LabelKey, LabelValue, LocationId, MappingId, MappingKind, Profile,
        StringId, Thread,
    },
    symbolize::{Inlines, KernelNames, Origin, symbolize},
    target::Pid,
};

/// What samples are sorted by, beyond their stacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelSettings {
    /// The labels that formats write, and so the ones that keep samples apart. The comm always is.
    pub shown: Vec<LabelKey>,
}

/// A mapping that stands for an object, wherever else it is mapped: so the same code in two
/// processes is one location.
#[derive(Clone, Copy, Debug)]
struct Representative {
    first: ElfAddr,
    last: ElfAddr,
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
    pub(super) kernel_names: KernelNames,
}

/// A profile that grows.
pub(super) struct Collector {
    profile: Profile,
    origins: Vec<Origin>,
    representatives: HashMap<ObjectId, Vec<Representative>>,
    /// The locations of places that a representative was found for.
    places: HashMap<(ObjectId, ElfAddr), LocationId>,
    comms: HashMap<Comm, StringId>,
    shown: Vec<LabelKey>,
    main_path: Option<String>,
    cgroups: HashMap<u64, StringId>,
    times: Times,
    /// `CLOCK_MONOTONIC` when the clocks started.
    start_ns: u64,
    /// The names of processes, where threads are kept apart.
    process_names: HashMap<Pid, StringId>,
    complete: u64,
    cut: BTreeMap<StopReason, u64>,
    kept: u64,
}

impl Collector {
    pub(super) fn new(mut profile: Profile, labels: LabelSettings, times: Times) -> Self {
        if times == Times::Kept {
            profile.keep_times();
        }
        profile.shown_labels.clone_from(&labels.shown);
        // As a profile keeps them, so that it need not sort those of each sample.
        let mut shown = labels.shown;
        shown.sort_unstable();
        Self {
            profile,
            origins: Vec::new(),
            representatives: HashMap::default(),
            places: HashMap::default(),
            comms: HashMap::default(),
            shown,
            main_path: None,
            cgroups: HashMap::default(),
            times,
            start_ns: 0,
            process_names: HashMap::default(),
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

    pub(super) fn kept(&self) -> u64 {
        self.kept
    }

    /// Adds one sample, whose user frames lie at these places.
    pub(super) fn add(&mut self, sample: &Sample, user: &UserStack, known: Known<'_>) {
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
            stack.push(self.marker(&format!(
                "[kernel stack cut: {}]",
                sample.kernel_stop.words()
            )));
        }
        for place in &user.places {
            stack.push(self.user_location(sample, *place, known));
        }
        if !user.stop.is_complete() {
            stack.push(self.marker(&format!("[cut: {}]", user.stop.words())));
        }
        if stack.is_empty() {
            stack.push(self.marker("[stack left out]"));
        }
        let labels = self.labels(sample);
        self.profile.add(&stack, &labels, 1);
        if self.times == Times::Kept {
            let thread = self.thread(sample);
            let time_ns = sample.time_ns.saturating_sub(self.start_ns);
            self.profile.note_moment(time_ns, thread, &stack);
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
                let id = self.profile.location(FrameKind::Jit, None, address);
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
        let mapping = profile::Mapping {
            kind,
            start,
            limit: end,
            file_offset,
            path,
            build_id,
        };
        let mapping = self.profile.mapping(mapping);
        Representative {
            first: bias.to_elf(start),
            last: bias.to_elf(end - 1),
            bias,
            mapping,
        }
    }

    fn comm(&mut self, comm: Comm) -> StringId {
        let profile = &mut self.profile;
        *self
            .comms
            .entry(comm)
            .or_insert_with(|| profile.string(&comm.text()))
    }

    fn thread(&mut self, sample: &Sample) -> Thread {
        let Sample { pid, tid, .. } = *sample;
        let name = self.comm(sample.comm);
        let process = if pid.0 == tid.0 {
            self.process_names.insert(pid, name);
            name
        } else {
            let profile = &mut self.profile;
            *self
                .process_names
                .entry(pid)
                .or_insert_with(|| profile.string(&name_of(pid).unwrap_or_default()))
        };
        Thread {
            pid: pid.0,
            tid: tid.0,
            name,
            process,
        }
    }

    fn labels(&mut self, sample: &Sample) -> Vec<Label> {
        let comm = self.comm(sample.comm);
        let mut labels = Vec::with_capacity(1 + self.shown.len());
        labels.push((LabelKey::Comm, LabelValue::Text(comm)));
        for i in 0..self.shown.len() {
            let key = self.shown[i];
            let number = |profile: &mut Profile, value: u32| {
                LabelValue::Number(i64::from(value), profile.string(key.name()))
            };
            let value = match key {
                LabelKey::Comm => continue,
                LabelKey::Pid => number(&mut self.profile, sample.pid.0),
                LabelKey::Tid => number(&mut self.profile, sample.tid.0),
                LabelKey::Cpu => number(&mut self.profile, sample.cpu),
                LabelKey::Cgroup => LabelValue::Text(self.cgroup(sample)),
            };
            labels.push((key, value));
        }
        labels
    }

    fn cgroup(&mut self, sample: &Sample) -> StringId {
        if let Some(path) = self.cgroups.get(&sample.cgroup_id) {
            return *path;
        }
        let Some(path) = cgroup_of(sample.pid, sample.cgroup_id) else {
            return self
                .profile
                .string(&format!("cgroup id {}", sample.cgroup_id));
        };
        let path = self.profile.string(&path);
        self.cgroups.insert(sample.cgroup_id, path);
        path
    }

    /// The kernel addresses that are to be named.
    pub(super) fn kernel_addresses(&self) -> Vec<u64> {
        let in_kernel = |origin: &Origin| match origin {
            Origin::Kernel(address) => Some(*address),
            _ => None,
        };
        self.origins.iter().filter_map(in_kernel).collect()
    }

    /// Names everything. Gives the profile, the part of the account that is about stacks, and
    /// whether the kernel hid its names.
    pub(super) fn finish(
        mut self,
        objects: &Objects,
        inlines: Inlines,
        printed: Option<&KernelSymbols>,
    ) -> Finished {
        let (named, kernel_names) =
            symbolize(&mut self.profile, &self.origins, objects, inlines, printed);
        let mut account = Account {
            kept: self.kept,
            complete: self.complete,
            cut: self.cut,
            ..Account::default()
        };
        for sample in self.profile.samples() {
            let is_frame = |id: &&LocationId| self.origins[id.index()] != Origin::Marker;
            let frames = sample.stack.iter().filter(is_frame);
            let (mut all, mut unnamed) = (0, 0);
            for id in frames {
                all += 1;
                unnamed += u64::from(!named[id.index()]);
            }
            account.frames += all * sample.count;
            account.unnamed += unnamed * sample.count;
        }
        Finished {
            profile: self.profile,
            account,
            kernel_names,
        }
    }
}

/// The name of a process's first thread, if the process is still there.
fn name_of(pid: Pid) -> Option<String> {
    let name = std::fs::read(format!("/proc/{pid}/comm")).ok()?;
    let name = name.strip_suffix(b"\n").unwrap_or(&name);
    Some(String::from_utf8_lossy(name).into_owned())
}

/// Path of a process's cgroup in the cgroup v2 tree, if it is still the one with this id. Source:
/// `cgroups(7)`; a cgroup's id is the inode number of its directory.
fn cgroup_of(pid: Pid, id: u64) -> Option<String> {
    let rows = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let path = rows.lines().find_map(|row| row.strip_prefix("0::"))?;
    let has_id = |mount: &&&str| {
        std::fs::metadata(format!("{mount}{path}")).is_ok_and(|directory| directory.ino() == id)
    };
    ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .iter()
        .find(has_id)?;
    Some(path.to_owned())
}
