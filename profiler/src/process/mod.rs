//! The processes of a run and where their code lies, kept true in the order of time.
//!
//! In: the kernel's process events, `/proc/PID/maps`, samples. Out: for each user frame the object
//! and ELF address it belongs to; and the mapping tables that the kernel side translates with.
//!
//! The caller hands over events and samples merged by time, so a sample is read with the mappings
//! that its process had at that moment, also when the process has ended since.

mod ended;
mod event;
mod maps;
mod space;
mod unwalked;

use std::{collections::HashSet, io, sync::Arc};

use foldhash::HashMap;
use profiler_common::{
    frame::{Frame, Place, Position, Source},
    mapping::{MappingEntry, SWITCHES_STACKS},
    stop::StopReason,
    unwind::NO_SLOT,
};

pub use event::{Change, FileNumber, MapRow, ProcessEvent};
pub use maps::parse_maps;
pub use space::{Inserted, Mapping, Space};
pub use unwalked::{CodeSpace, Tabled};

use crate::{
    bpf::{Sample, Tables},
    object::{ElfAddr, ObjectId, Objects, lookup_address},
    residency::Residency,
    target::{Follow, Pid},
};

/// A process is read from `/proc` at most this often for want of a mapping.
const RESCAN_NS: u64 = 1_000_000_000;

/// Where one user frame belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserPlace {
    /// An object; the address is the one to look up, so a return address less one.
    Object(ObjectId, ElfAddr),
    /// Executable memory that no file backs. The address is the one to look up.
    Jit(u64),
    /// Memory that we know nothing of.
    Unknown(u64),
}

/// A sample's user stack, read with its process's mappings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserStack {
    /// Where each frame belongs, innermost first.
    pub places: Vec<UserPlace>,
    /// Why it ends.
    pub stop: StopReason,
    /// The object whose unwind table the walk lacked.
    pub wants: Option<ObjectId>,
}

/// A frame of a walk, and where it belongs.
#[derive(Clone, Copy, Debug)]
struct Located {
    place: UserPlace,
    position: Position,
    source: Source,
}

impl UserStack {
    /// The stack up to the first frame that the objects' files refute: one whose return address
    /// follows no call. The kernel side leaves that to us where a rule led, and where it could not
    /// read the code.
    fn confirmed(frames: &[Located], stop: StopReason, objects: &Objects) -> Self {
        let refuted = frames
            .iter()
            .enumerate()
            .skip(1)
            .find_map(|(depth, frame)| Some((depth, check_call(frame, objects).err()?)))
            .filter(|(depth, _)| stop != StopReason::StaleMapping || depth + 1 < frames.len());
        let (length, stop) = refuted.unwrap_or((frames.len(), stop));
        let places: Vec<UserPlace> = frames[..length].iter().map(|frame| frame.place).collect();
        let wants = match (stop, places.last()) {
            (
                StopReason::NoTableYet | StopReason::TableMemoryFull,
                Some(UserPlace::Object(object, _)),
            ) => Some(*object),
            _ => None,
        };
        Self {
            places,
            stop,
            wants,
        }
    }
}

/// The times that tables depend on, in nanoseconds of `CLOCK_MONOTONIC`.
#[derive(Clone, Copy, Debug)]
pub struct PublishTimes {
    /// Now.
    pub now_ns: u64,
    /// Every event before this was applied.
    pub seen_ns: u64,
}

/// Which processes to keep.
#[derive(Clone, Debug)]
pub enum Scope {
    /// Every process of the host that is met.
    All,
    /// These, and their children if they are followed.
    Only(HashSet<Pid>, Follow),
}

/// One process.
#[derive(Debug, Default)]
struct Process {
    space: Space,
    /// What an exec replaced. While the kernel sets up the new program, the task's user registers
    /// are still those of the old one.
    before_exec: Space,
    /// Whether the space is known, from `/proc`, an exec or a known parent.
    is_known: bool,
    /// Events before this are in the space already.
    known_from_ns: u64,
    /// The table that the kernel side walks by.
    generation: Option<u32>,
    /// When the kernel side was given a table to watch over: it walks by it once all that happened
    /// before is known, unless something happened since.
    armed_ns: Option<u64>,
    /// What the table that the kernel side has says is no longer so; if not, it lacks something.
    is_outdated: bool,
    /// The kernel side should get a new table.
    wants_table: bool,
    /// The space lacks something: it is read anew when every event is taken into account.
    wants_scan: bool,
    ended_ns: Option<u64>,
    /// Its first thread has ended, and others went on.
    is_outlived: bool,
}

impl Process {
    /// The program that an exec started runs once its innermost frame lies in its own code: what was
    /// before is gone.
    fn settle(&mut self, innermost: u64) {
        if self.space.find(innermost).is_some() {
            self.before_exec = Space::default();
        }
    }
}

/// Whether a frame is a sample's first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Innermost {
    Yes,
    No,
}

impl Innermost {
    fn at(depth: usize) -> Self {
        if depth == 0 { Self::Yes } else { Self::No }
    }
}

/// A table that the kernel side has or had.
#[derive(Debug)]
struct Snapshot {
    pid: Pid,
    space: Space,
    /// Frames translated with it at or after this time may be wrong, and are translated anew.
    stale_from_ns: Option<u64>,
}

/// The processes of a run.
#[derive(Debug)]
pub struct Processes {
    scope: Scope,
    maps: maps::Reader,
    processes: HashMap<Pid, Process>,
    /// Processes that are to be looked at when tables are next published: few of many.
    wanting: HashSet<Pid>,
    snapshots: HashMap<u32, Snapshot>,
    retired: Vec<Pid>,
    events_lost: u64,
    /// When each process of this batch runs another program, or ends.
    turns: HashMap<Pid, u64>,
    this_batch_ns: u64,
    last_batch_ns: u64,
    last_sweep_ns: u64,
}

impl Processes {
    /// No process yet.
    #[must_use]
    pub fn new(scope: Scope) -> Self {
        Self {
            scope,
            maps: maps::Reader::default(),
            processes: HashMap::default(),
            wanting: HashSet::default(),
            snapshots: HashMap::default(),
            retired: Vec::new(),
            events_lost: 0,
            turns: HashMap::default(),
            this_batch_ns: 0,
            last_batch_ns: 0,
            last_sweep_ns: 0,
        }
    }

    /// Reads a process from `/proc` and has the kernel side get its table.
    ///
    /// # Errors
    /// When the process is gone or may not be looked at.
    pub fn scan(&mut self, pid: Pid, now_ns: u64, objects: &mut Objects) -> io::Result<()> {
        let mappings = mappings(&self.maps.read(pid)?, pid, objects);
        if let Scope::Only(pids, _) = &mut self.scope {
            pids.insert(pid);
        }
        let space = Space::of_rows(mappings.into_iter());
        let process = self.processes.entry(pid).or_default();
        retire_table(process, &mut self.snapshots, now_ns);
        *process = Process {
            space,
            is_known: true,
            known_from_ns: now_ns,
            wants_table: true,
            ..Process::default()
        };
        self.wanting.insert(pid);
        Ok(())
    }

    /// Takes one event into account.
    pub fn apply(&mut self, event: &ProcessEvent, objects: &mut Objects) {
        let time_ns = event.time_ns;
        match &event.change {
            Change::Fork { pid, parent } if pid != parent => {
                self.fork(*pid, *parent, time_ns, objects);
            }
            Change::Fork { .. } => {}
            Change::Exec { pid, .. } => {
                if let Some(process) = self.current(*pid, time_ns) {
                    process.before_exec = std::mem::take(&mut process.space);
                    process.is_known = true;
                    // Another thread than the first may have run it, which ended the first.
                    process.ended_ns = None;
                    process.is_outlived = false;
                    self.outdate(*pid, time_ns);
                }
            }
            Change::Map { pid, row } => self.map(*pid, row, time_ns, objects),
            Change::Exit { pid, tid } => {
                if pid.0 == tid.0
                    && let Some(process) = self.processes.get_mut(pid)
                    && process.ended_ns.is_none()
                {
                    process.ended_ns = Some(time_ns);
                    self.retired.push(*pid);
                }
            }
            Change::Lost(count) => self.distrust(*count),
        }
    }

    /// Events were lost since the last batch: no process is surely what it was then.
    fn distrust(&mut self, count: u64) {
        log::debug!("{count} process events were lost: reading processes anew");
        self.events_lost += count;
        let since_ns = self.last_batch_ns;
        self.processes
            .values_mut()
            .for_each(|process| process.is_known = false);
        self.snapshots.values_mut().for_each(|snapshot| {
            snapshot.stale_from_ns.get_or_insert(since_ns);
        });
    }

    /// Says what is about to be applied, and what comes after it, so that no process is read from
    /// `/proc` for a moment before it ran another program or ended.
    pub fn begin_batch(&mut self, events: &[ProcessEvent], waiting: &[ProcessEvent]) {
        self.last_batch_ns = self.this_batch_ns;
        self.this_batch_ns = events
            .last()
            .map_or(self.this_batch_ns, |event| event.time_ns);
        self.turns.clear();
        for event in events.iter().chain(waiting) {
            match &event.change {
                Change::Exec { pid, .. } => {
                    self.turns.insert(*pid, event.time_ns);
                }
                Change::Exit { pid, tid } if pid.0 == tid.0 => {
                    self.turns.insert(*pid, event.time_ns);
                }
                _ => {}
            }
        }
    }

    /// Reads a process for the sake of what it was at `time_ns`, if it is still that.
    fn scan_for(
        &mut self,
        pid: Pid,
        time_ns: u64,
        now_ns: u64,
        objects: &mut Objects,
    ) -> io::Result<()> {
        if self
            .turns
            .get(&pid)
            .is_some_and(|turn_ns| *turn_ns > time_ns)
        {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.scan(pid, now_ns, objects)
    }

    fn is_in_scope(&self, pid: Pid) -> bool {
        match &self.scope {
            Scope::All => true,
            Scope::Only(pids, _) => pids.contains(&pid),
        }
    }

    /// A process that an event of that time changes.
    fn current(&mut self, pid: Pid, time_ns: u64) -> Option<&mut Process> {
        if !self.is_in_scope(pid) {
            return None;
        }
        let process = self.processes.entry(pid).or_default();
        (process.known_from_ns <= time_ns).then_some(process)
    }

    fn fork(&mut self, pid: Pid, parent: Pid, time_ns: u64, objects: &mut Objects) {
        match &mut self.scope {
            Scope::All => {}
            Scope::Only(pids, Follow::Yes) if pids.contains(&parent) => {
                pids.insert(pid);
            }
            Scope::Only(..) => return,
        }
        if !self
            .processes
            .get(&parent)
            .is_some_and(|process| process.is_known)
        {
            // The parent was there before us. It may have ended since: then the child is read
            // when it is first met.
            let _ = self.scan_for(parent, time_ns, time_ns, objects);
        }
        let inherited = self
            .processes
            .get(&parent)
            .filter(|process| process.is_known)
            .map(|process| process.space.clone());
        let child = self.processes.entry(pid).or_default();
        if child.known_from_ns > time_ns {
            return; // Read from `/proc` after it was born.
        }
        retire_table(child, &mut self.snapshots, time_ns);
        *child = Process {
            is_known: inherited.is_some(),
            space: inherited.unwrap_or_default(),
            ..Process::default()
        };
    }

    fn map(&mut self, pid: Pid, row: &MapRow, time_ns: u64, objects: &mut Objects) {
        if !is_user_space(row) || self.current(pid, time_ns).is_none() {
            return;
        }
        let mapping = mapping_of(pid, row, objects);
        let process = self.processes.entry(pid).or_default();
        match process.space.insert(&mapping) {
            Inserted::Nothing => {}
            Inserted::Other => self.outdate(pid, time_ns),
            Inserted::More => {
                if process.generation.is_some() {
                    process.wants_table = true;
                    self.wanting.insert(pid);
                }
            }
        }
    }

    /// The kernel side's table of this process is wrong from this time on.
    fn outdate(&mut self, pid: Pid, time_ns: u64) {
        let Some(process) = self.processes.get_mut(&pid) else {
            return;
        };
        process.is_outdated = true;
        process.wants_table |= process.generation.is_some() || process.armed_ns.take().is_some();
        self.wanting.insert(pid);
        if let Some(snapshot) = process
            .generation
            .and_then(|generation| self.snapshots.get_mut(&generation))
        {
            snapshot.stale_from_ns.get_or_insert(time_ns);
        }
    }

    /// Reads a sample's process from `/proc` if it is new to us.
    fn meet(&mut self, sample: &Sample, now_ns: u64, objects: &mut Objects) {
        let is_known = self
            .processes
            .get(&sample.pid)
            .is_some_and(|process| process.is_known);
        if !is_known {
            let _ = self.scan_for(sample.pid, sample.time_ns, now_ns, objects);
        }
    }

    /// Where each user frame of a walked sample belongs. Reads the process first if it is new to us.
    pub fn user_stack(&mut self, sample: &Sample, now_ns: u64, objects: &mut Objects) -> UserStack {
        if !sample.user.is_empty() {
            self.meet(sample, now_ns, objects);
        }
        let stack = self.read_stack(sample, objects);
        if let Some(process) = self.processes.get_mut(&sample.pid)
            && process.ended_ns.is_none()
        {
            process.wants_table |= process.generation.is_none() && process.armed_ns.is_none();
            if process.wants_table {
                self.wanting.insert(sample.pid);
            }
        }
        let is_unknown = |place: &UserPlace| matches!(place, UserPlace::Unknown(_));
        if stack.stop == StopReason::UnknownCode || stack.places.iter().any(is_unknown) {
            self.doubt(sample, now_ns);
        }
        stack
    }

    /// A sample's stack leads where its process is not known to map anything: it is read anew, if
    /// that was not done just now.
    pub fn doubt(&mut self, sample: &Sample, now_ns: u64) {
        if let Some(process) = self.processes.get_mut(&sample.pid) {
            let is_old = process.known_from_ns + RESCAN_NS < now_ns;
            process.wants_scan |= process.ended_ns.is_none() && is_old;
            if process.wants_scan {
                self.wanting.insert(sample.pid);
            }
        }
    }

    /// The stack, up to the first frame that is not where the kernel side's table had it: it was
    /// walked on by another object's rules.
    fn read_stack(&self, sample: &Sample, objects: &Objects) -> UserStack {
        let mut frames = Vec::with_capacity(sample.user.len());
        let mut stop = sample.user_stop;
        for (depth, frame) in sample.user.iter().enumerate() {
            let place = self.place(sample, depth, objects);
            frames.push(Located {
                place,
                position: frame.position,
                source: frame.source,
            });
            let is_last = depth + 1 == sample.user.len();
            if !is_as_walked(frame, place, is_last) {
                stop = StopReason::StaleMapping;
                break;
            }
        }
        UserStack::confirmed(&frames, stop, objects)
    }

    fn place(&self, sample: &Sample, depth: usize, objects: &Objects) -> UserPlace {
        let frame = sample.user[depth];
        let of_address = |address| self.place_of_address(sample.pid, address, Innermost::at(depth));
        let (object, elf_address) = match frame.place {
            Place::Address(address) => {
                let lookup = lookup_address(address, frame.position);
                return of_address(lookup);
            }
            Place::Object {
                object,
                elf_address,
            } => (ObjectId::from_wire(object), elf_address),
        };
        let lookup = ElfAddr(lookup_address(elf_address, frame.position));
        let object = object.filter(|id| objects.find(*id).is_some());
        let snapshot = self.snapshots.get(&sample.generation);
        let of_process = snapshot.filter(|snapshot| snapshot.pid == sample.pid);
        let (Some(object), Some(snapshot)) = (object, of_process) else {
            return UserPlace::Unknown(elf_address);
        };
        if snapshot
            .stale_from_ns
            .is_none_or(|from| sample.time_ns < from)
        {
            return UserPlace::Object(object, lookup);
        }
        // The table was out of date: back to the address, and forth with the right mappings. An
        // object may be mapped more than once; then all of its mappings must tell the same.
        let addresses = snapshot.space.runtime_addresses(object, lookup);
        let mut places = addresses.map(of_address);
        let first = places.next();
        match first.filter(|first| places.all(|place| place == *first)) {
            Some(place) => place,
            None => UserPlace::Unknown(elf_address),
        }
    }

    fn place_of_address(&self, pid: Pid, address: u64, innermost: Innermost) -> UserPlace {
        let Some(process) = self.processes.get(&pid) else {
            return UserPlace::Unknown(address);
        };
        match unwalked::place_in(&process.space, address) {
            // The task's own registers: code that nothing maps now can only be the old program's.
            UserPlace::Unknown(_) if innermost == Innermost::Yes => {
                unwalked::place_in(&process.before_exec, address)
            }
            place => place,
        }
    }

    /// The mapping of a process that holds this address of an object.
    #[must_use]
    pub fn mapping(&self, pid: Pid, object: ObjectId, address: ElfAddr) -> Option<&Mapping> {
        let process = self.processes.get(&pid)?;
        let now = process.space.of_object(object, address);
        now.or_else(|| process.before_exec.of_object(object, address))
    }

    /// The mappings of a process, as far as it is known.
    #[must_use]
    pub fn space(&self, pid: Pid) -> Option<&Space> {
        self.processes.get(&pid).map(|process| &process.space)
    }

    /// Gives the kernel side the tables it lacks, and takes back those of processes that ended a
    /// while ago. Tells which those are: their pids may be given to others.
    pub fn publish(
        &mut self,
        times: PublishTimes,
        tables: &mut Tables,
        residency: &mut Residency,
        objects: &mut Objects,
    ) -> Vec<Pid> {
        let now_ns = times.now_ns;
        let wanting: Vec<Pid> = self.wanting.drain().collect();
        for pid in &wanting {
            let process = self.processes.get_mut(pid);
            if process.is_some_and(|process| std::mem::take(&mut process.wants_scan)) {
                let _ = self.scan_for(*pid, self.this_batch_ns, now_ns, objects);
            }
        }
        for pid in wanting {
            self.publish_one(pid, times, tables, |process, tables| {
                entries_of(&process.space, tables, residency, objects)
            });
        }
        let gone = self.sweep(now_ns, tables);
        let mapped = || {
            self.processes
                .values()
                .flat_map(|process| process.space.objects())
                .collect()
        };
        if residency.is_crowded() {
            residency.forget_all_but(&mapped(), tables);
        }
        objects.shed(mapped);
        gone
    }

    /// Gives the kernel side the table of a process that it lacks.
    fn publish_one(
        &mut self,
        pid: Pid,
        times: PublishTimes,
        tables: &mut Tables,
        entries: impl FnOnce(&Process, &mut Tables) -> Vec<MappingEntry>,
    ) {
        let PublishTimes { now_ns, seen_ns } = times;
        let process = self.processes.get_mut(&pid);
        let Some(process) = process.filter(|process| process.ended_ns.is_none()) else {
            return;
        };
        if process.armed_ns.is_some_and(|armed_ns| armed_ns < seen_ns) {
            use_table(pid, process, tables, &mut self.snapshots);
        }
        if process.wants_table && process.armed_ns.is_none() {
            process.wants_table = false;
            let entries = entries(process, tables);
            let is_outdated = std::mem::take(&mut process.is_outdated);
            let had_table = process.generation.is_some() && !is_outdated;
            retire_table(process, &mut self.snapshots, now_ns);
            // What the old table has still holds, so the kernel side need not stop using one.
            let extended = had_table.then(|| tables.extend(pid, &entries)).flatten();
            match extended {
                Some(generation) => in_use(pid, process, generation, &mut self.snapshots),
                None => {
                    process.armed_ns = tables.arm(pid, &entries);
                    process.wants_table = process.armed_ns.is_none() && tables.is_growing();
                }
            }
        }
        if process.wants_table || process.armed_ns.is_some() {
            self.wanting.insert(pid);
        }
    }

    /// The objects that a process maps.
    #[must_use]
    pub fn objects_of(&self, pid: Pid) -> Vec<ObjectId> {
        let process = self.processes.get(&pid);
        process.map_or_else(Vec::new, |process| process.space.objects().collect())
    }

    /// Process events that the kernel dropped.
    #[must_use]
    pub fn events_lost(&self) -> u64 {
        self.events_lost
    }
}

/// The executable mappings of a process as they are now, with the objects behind them.
///
/// # Errors
/// When the process is gone or may not be looked at.
pub fn mappings_of(pid: Pid, objects: &mut Objects) -> io::Result<Vec<Mapping>> {
    let rows = maps::Reader::default().read(pid)?;
    Ok(mappings(&rows, pid, objects))
}

fn mappings(rows: &[MapRow], pid: Pid, objects: &mut Objects) -> Vec<Mapping> {
    let rows = rows.iter().filter(|row| is_user_space(row));
    rows.map(|row| mapping_of(pid, row, objects)).collect()
}

/// Whether a frame lies where the kernel side's table had it, so that the walk went on from it by the
/// right rules. Of the last frame nothing depends on that.
fn is_as_walked(frame: &Frame, place: UserPlace, is_last: bool) -> bool {
    match (frame.place, place) {
        (
            Place::Object {
                object,
                elf_address,
            },
            UserPlace::Object(id, address),
        ) => id.get() == object && address.0 == lookup_address(elf_address, frame.position),
        (Place::Object { .. }, UserPlace::Jit(_) | UserPlace::Unknown(_)) => false,
        (Place::Address(_), UserPlace::Object(..)) => is_last,
        (Place::Address(_), UserPlace::Jit(_) | UserPlace::Unknown(_)) => true,
    }
}

/// Whether a frame's return address follows a call, by its object's file. The place is that of the
/// call, the address after it is the frame's.
fn check_call(frame: &Located, objects: &Objects) -> Result<(), StopReason> {
    if frame.position == Position::Exact {
        return Ok(());
    }
    let verdict = match frame.place {
        UserPlace::Object(object, address) => {
            objects.follows_call(object, ElfAddr(address.0.wrapping_add(1)))
        }
        UserPlace::Jit(_) | UserPlace::Unknown(_) => None,
    };
    match (verdict, frame.source) {
        (Some(true), _) => Ok(()),
        (Some(false), _) => Err(StopReason::NotACall),
        (None, _) if matches!(frame.place, UserPlace::Unknown(_)) => Err(StopReason::UnknownCode),
        (None, Source::UncheckedFramePointer) => Err(StopReason::CodeUnreadable),
        (None, Source::Exact | Source::FramePointer) => Ok(()),
    }
}

/// Has the kernel side walk by the table that it watched over. If something happened to the process
/// meanwhile, it gets another.
fn use_table(
    pid: Pid,
    process: &mut Process,
    tables: &mut Tables,
    snapshots: &mut HashMap<u32, Snapshot>,
) {
    process.armed_ns = None;
    let Some(generation) = tables.use_armed(pid) else {
        process.wants_table = true;
        return;
    };
    in_use(pid, process, generation, snapshots);
}

fn in_use(
    pid: Pid,
    process: &mut Process,
    generation: u32,
    snapshots: &mut HashMap<u32, Snapshot>,
) {
    process.generation = Some(generation);
    let snapshot = Snapshot {
        pid,
        space: process.space.clone(),
        stale_from_ns: None,
    };
    snapshots.insert(generation, snapshot);
}

/// The process gets another table, or none: frames translated with the old one from `time_ns` on
/// are translated anew.
fn retire_table(process: &mut Process, snapshots: &mut HashMap<u32, Snapshot>, time_ns: u64) {
    if let Some(snapshot) = process
        .generation
        .take()
        .and_then(|generation| snapshots.get_mut(&generation))
    {
        snapshot.stale_from_ns.get_or_insert(time_ns);
    }
}

/// The vsyscall page lies in the kernel's half, where the search of mapping tables ends.
fn is_user_space(row: &MapRow) -> bool {
    row.end >> 56 == 0
}

/// Memory that only looks like a file: some runtimes map what they make twice, to write it here and
/// run it there (.NET, PHP's opcache). A program that runs from such memory is an ELF file.
fn is_shared_memory(row: &MapRow) -> bool {
    let is_memory = ["/memfd:", "/dev/zero", "/SYSV"]
        .iter()
        .any(|start| row.path.starts_with(start));
    // A jitdump may be such memory: it is mapped to be found.
    is_memory && !row.path.contains(".dump")
}

fn mapping_of(pid: Pid, row: &MapRow, objects: &mut Objects) -> Mapping {
    let object = objects
        .of_mapping(pid, row)
        .filter(|id| !(is_shared_memory(row) && objects.get(*id).is_no_elf_file()));
    let bias = match object {
        // Without its headers an object's file offsets serve as its addresses.
        Some(id) => objects
            .get(id)
            .bias(row.start, row.file_offset)
            .unwrap_or(crate::object::Bias(row.start.wrapping_sub(row.file_offset))),
        None => crate::object::Bias::default(),
    };
    Mapping {
        start: row.start,
        end: row.end,
        file_offset: row.file_offset,
        object,
        bias,
        path: Arc::from(row.path.as_str()),
    }
}

/// The mapping table of a space.
fn entries_of(
    space: &Space,
    tables: &mut Tables,
    residency: &mut Residency,
    objects: &Objects,
) -> Vec<MappingEntry> {
    let entry = |mapping: &Mapping| {
        let slot = mapping
            .object
            .and_then(|object| residency.slot(object, tables))
            .map_or(NO_SLOT, crate::bpf::Slot::get);
        entry_of(mapping, slot, objects)
    };
    space.iter().map(entry).collect()
}

fn entry_of(mapping: &Mapping, slot: u32, objects: &Objects) -> MappingEntry {
    let is_go = mapping.object.is_some_and(|id| objects.get(id).is_go);
    MappingEntry {
        start: mapping.start,
        end: mapping.end,
        bias: mapping.bias.0,
        object: mapping.object.map_or(0, ObjectId::get),
        slot,
        flags: if is_go { SWITCHES_STACKS } else { 0 },
    }
}

#[cfg(test)]
mod tests;
