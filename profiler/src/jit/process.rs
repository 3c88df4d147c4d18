//! One process that makes code: its map, its jitdump, and its frames.

use std::{fs, sync::Arc, time::Duration};

use foldhash::HashMap;

use super::{
    Book, JitReason, Made, Named, Place, Runtime, Shared,
    code::{Appeared, CodeMap, Found, Late},
    find::{Opened, Writer, clock_offset_ns},
    jitdump::{Clock, Jitdump},
    perf_map::PerfMap,
    tail::{Left, Now, Reader, Source, Tail},
};
use crate::{
    object::{Objects, opener::Asking},
    process::Space,
    target::Pid,
};

/// How often the path of a map is looked at while another file is open, or while that takes asking.
const PATH_NS: u64 = 1_000_000_000;

/// How a process came to run what it runs.
#[derive(Clone, Debug)]
pub(super) enum Birth {
    /// It has the code that its parent had then.
    Fork { parent: Pid, at_ns: u64 },
    /// It has none from before.
    Exec { at_ns: u64, left: Option<Left> },
}

impl Birth {
    /// Of a process that was born before we looked: it is its parent's child, and not another
    /// program, if the kernel placed the program, its stack and its arguments alike in both.
    pub(super) fn before_us(pid: Pid) -> Option<Self> {
        let own = Placed::of(pid)?;
        let parent = Placed::of(own.parent)?;
        (own.parent.0 > 1 && own.places == parent.places && own.places.iter().all(|at| *at != 0))
            .then_some(Self::Fork {
                parent: own.parent,
                at_ns: own.started_ns?,
            })
    }
}

/// Where a process's program lies.
struct Placed {
    parent: Pid,
    places: [u64; 4],
    /// In nanoseconds of `CLOCK_MONOTONIC`.
    started_ns: Option<u64>,
}

impl Placed {
    /// Source: `proc_pid_stat(5)`: the parent is field 4, the start of the process 22, of its code
    /// 26, of its stack 28, of its arguments 48, and the end of its environment 51.
    fn of(pid: Pid) -> Option<Self> {
        let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
        let stat = String::from_utf8_lossy(&stat);
        let (_, fields) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let started = super::find::since_start(field(22)?)?;
        let now = crate::bpf::now_ns();
        Some(Self {
            parent: Pid(u32::try_from(field(4)?).ok()?),
            places: [field(26)?, field(28)?, field(48)?, field(51)?],
            started_ns: u64::try_from(started.as_nanos())
                .ok()
                .and_then(|age| now.checked_sub(age)),
        })
    }
}

/// A perf map on its way into a [`CodeMap`].
#[derive(Debug, Default)]
struct MapReader {
    lines: PerfMap,
    code: CodeMap,
    /// What was known before the file was started over ends once it is read, at that time.
    stale: Option<(u64, Appeared)>,
}

impl Reader for MapReader {
    fn feed(&mut self, bytes: &[u8], appeared: Appeared) {
        self.lines.feed(bytes, appeared, &mut self.code);
    }

    fn start_over(&mut self, when: Appeared) {
        self.lines = PerfMap::default();
        self.stale = Some((self.code.mark(), when));
    }
}

#[derive(Debug)]
struct DumpReader {
    records: Jitdump,
    code: CodeMap,
}

impl Reader for DumpReader {
    fn feed(&mut self, bytes: &[u8], appeared: Appeared) {
        self.records.feed(bytes, appeared, &mut self.code);
    }

    fn skip(&self) -> u64 {
        self.records.skip()
    }

    fn passed(&mut self, bytes: u64) {
        self.records.passed(bytes);
    }

    fn is_done(&self) -> bool {
        self.records.is_broken()
    }

    fn start_over(&mut self, when: Appeared) {
        self.records = Jitdump::new(self.records.clock());
        self.code.end_before(self.code.mark(), when);
    }
}

/// A map that there is, may be, or is not.
#[derive(Debug)]
enum Map {
    Unread(JitReason),
    Open(Tail),
}

/// Where an answer is from: the process's jitdump, its map, and from 2 on those of its parents.
type SourceNumber = u32;
const DUMP: SourceNumber = 0;
const MAP: SourceNumber = 1;
const PARENTS: SourceNumber = 2;

/// What a frame was found to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Answer {
    /// The entry with that number.
    Code(SourceNumber, u64),
    Nothing,
    Unsure,
}

/// Whether more may become known of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum State {
    Settled,
    Open,
}

/// Frames at one address with one answer.
#[derive(Clone, Copy, Debug)]
struct Frames {
    place: Place,
    first_ns: u64,
    last_ns: u64,
    count: u64,
}

/// One process that makes code.
#[derive(Debug)]
pub(super) struct Process {
    pid: Pid,
    comm: Option<Arc<str>>,
    runtime: Runtime,
    birth: Option<Birth>,
    parent: Option<(Shared, u64)>,
    writer: Option<Writer>,
    map: Map,
    map_reader: MapReader,
    dump: Option<Tail>,
    dump_reader: DumpReader,
    frames: HashMap<(u64, Answer, State), Frames>,
    /// When its files were last looked at.
    pub(super) looked_ns: u64,
    path_ns: u64,
}

impl Process {
    pub(super) fn new(pid: Pid, birth: Option<Birth>, parent: Option<(Shared, u64)>) -> Self {
        let clock = Clock {
            offset_ns: clock_offset_ns(pid),
        };
        Self {
            pid,
            comm: None,
            runtime: Runtime::Other,
            birth,
            parent,
            writer: None,
            map: Map::Unread(JitReason::Gone),
            map_reader: MapReader::default(),
            dump: None,
            dump_reader: DumpReader {
                records: Jitdump::new(clock),
                code: CodeMap::default(),
            },
            frames: HashMap::default(),
            looked_ns: 0,
            path_ns: 0,
        }
    }

    /// The place of a frame.
    pub(super) fn place(
        &mut self,
        address: u64,
        time_ns: u64,
        comm: impl FnOnce() -> String,
        book: &mut Book,
    ) -> Place {
        let comm = Arc::clone(self.comm.get_or_insert_with(|| Arc::from(comm())));
        let answer = self.answer(address, time_ns);
        let state = match answer {
            Answer::Code(source, _) if self.told_until(source) >= time_ns => State::Settled,
            _ => State::Open,
        };
        let key = (address, answer, state);
        let known = self.frames.get(&key).copied();
        let mut frames = known.unwrap_or_else(|| Frames {
            place: book.new_place(
                self.name(address, time_ns),
                Made {
                    pid: self.pid,
                    comm,
                    runtime: self.runtime,
                    reason: JitReason::Gone,
                },
            ),
            first_ns: time_ns,
            last_ns: time_ns,
            count: 0,
        });
        frames.first_ns = frames.first_ns.min(time_ns);
        frames.last_ns = frames.last_ns.max(time_ns);
        frames.count += 1;
        self.frames.insert(key, frames);
        frames.place
    }

    /// Looks at the files, or for them.
    pub(super) fn look(&mut self, now: Now, space: Option<&Space>, objects: &Objects) {
        self.looked_ns = now.ns;
        if let Some(space) = space.filter(|_| self.runtime == Runtime::Other) {
            let names = space.objects().map(|id| objects.get(id).short_name());
            self.runtime = Runtime::of(names);
        }
        if self.writer.is_none() {
            self.writer = Writer::of(self.pid);
            if let (Some(writer), Some(Birth::Exec { at_ns, .. })) = (&mut self.writer, &self.birth)
            {
                let age = Duration::from_nanos(now.ns.saturating_sub(*at_ns));
                writer.started = writer.started.max(now.time.checked_sub(age));
            }
        }
        let Some(writer) = self.writer else {
            return;
        };
        self.look_for_map(now, writer);
        if let Map::Open(tail) = &mut self.map {
            tail.look(now, &mut self.map_reader);
        }
        if self.dump.is_none() {
            self.dump = space.and_then(|space| find_dump(space, writer, objects));
        }
        if let Some(tail) = &mut self.dump {
            tail.look(now, &mut self.dump_reader);
        }
    }

    /// Has the next look ask for a map that was not there.
    pub(super) fn ask_again(&mut self) {
        if matches!(self.map, Map::Unread(_)) {
            self.path_ns = 0;
        }
    }

    fn look_for_map(&mut self, now: Now, writer: Writer) {
        let mut asking = Asking::Worth;
        let known = match &self.map {
            Map::Unread(_) => {
                if self.path_ns + PATH_NS > now.ns {
                    asking = Asking::NotNow;
                } else {
                    self.path_ns = now.ns;
                }
                None
            }
            Map::Open(_) if self.path_ns + PATH_NS > now.ns => return,
            Map::Open(tail) => {
                self.path_ns = now.ns;
                let file = tail.numbers();
                if writer
                    .file_at_path()
                    .is_none_or(|at_path| Some(at_path) == file)
                {
                    return;
                }
                Some(tail.looked_ns())
            }
        };
        match (writer.open_map(asking), known) {
            (Opened::Map(file), Some(looked_ns)) => {
                let when = Appeared::between(looked_ns, now.ns);
                self.map_reader.start_over(when);
                self.map = Map::Open(Tail::new(file).looked_at(looked_ns));
            }
            (Opened::Map(file), None) => {
                self.path_ns = now.ns;
                self.map = Map::Open(self.read_on(Tail::new(file)));
            }
            // What is open stays so.
            (_, Some(_)) => {}
            (Opened::Absent, None) => self.map = Map::Unread(JitReason::NoMap),
            (Opened::Refused(refusal), None) => {
                self.map = Map::Unread(JitReason::Refused(refusal));
            }
            (Opened::Gone | Opened::NotAsked, None) => {}
        }
    }

    /// A map that another program of this process has begun is read from where that left it.
    fn read_on(&self, tail: Tail) -> Tail {
        match &self.birth {
            Some(Birth::Exec {
                left: Some(left), ..
            }) => tail.after(left),
            _ => tail,
        }
    }

    /// Reads what was there at the last look, and no more than `most` bytes. How many were read.
    pub(super) fn read(&mut self, most: u64) -> u64 {
        let mut read = 0;
        if let Map::Open(tail) = &mut self.map {
            read += tail.read(most, &mut self.map_reader);
            if tail.is_whole()
                && let Some((mark, when)) = self.map_reader.stale.take()
            {
                self.map_reader.code.end_before(mark, when);
            }
        }
        if let Some(tail) = &mut self.dump
            && read < most
        {
            read += tail.read(most - read, &mut self.dump_reader);
        }
        self.map_reader.code.tidy();
        self.dump_reader.code.tidy();
        read
    }

    /// Names the frames of which no more can become known.
    pub(super) fn settle(&mut self, book: &mut Book) {
        let is_told = |(_, answer, state): &(u64, Answer, State), frames: &Frames| match answer {
            Answer::Code(source, _) => {
                *state == State::Open && self.told_until(*source) >= frames.last_ns
            }
            Answer::Nothing | Answer::Unsure => false,
        };
        let told: Vec<(u64, Answer, State)> = self
            .frames
            .iter()
            .filter(|(key, frames)| is_told(key, frames))
            .map(|(key, _)| *key)
            .collect();
        for key in told {
            if let Some(frames) = self.frames.remove(&key) {
                self.conclude(key, frames, book);
            }
        }
    }

    /// Names what can be named, and says why the rest has no name.
    pub(super) fn close(&mut self, book: &mut Book) {
        let frames = std::mem::take(&mut self.frames);
        for (key, frames) in frames {
            if key.2 == State::Open {
                self.conclude(key, frames, book);
            }
        }
    }

    /// How far the map was read.
    pub(super) fn left(&self) -> Option<Left> {
        match &self.map {
            Map::Open(tail) => tail.left(),
            Map::Unread(_) => None,
        }
    }

    /// What its code takes, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.map_reader.code.bytes() + self.dump_reader.code.bytes()
    }

    /// Lets the older half go of what takes more.
    pub(super) fn shed(&mut self) {
        let (map, dump) = (&mut self.map_reader.code, &mut self.dump_reader.code);
        if map.bytes() >= dump.bytes() {
            map.shed();
        } else {
            dump.shed();
        }
    }

    fn conclude(&self, (address, ..): (u64, Answer, State), frames: Frames, book: &mut Book) {
        let [first, last] =
            [frames.first_ns, frames.last_ns].map(|ns| (self.answer(address, ns), ns));
        let names = [first, last].map(|(_, ns)| self.name(address, ns));
        let known = &mut book.names[frames.place.index()];
        let reason = match names {
            [Some(first), Some(last)] if first == last => {
                *known = Some(first);
                return;
            }
            // It was known once, and is let go for want of memory.
            [None, None] if known.is_some() && self.left_out() > 0 => return,
            [None, None] if first.0 == Answer::Nothing && last.0 == Answer::Nothing => {
                self.reason()
            }
            _ => JitReason::Replaced,
        };
        *known = None;
        let made = &mut book.made[frames.place.index()];
        (made.runtime, made.reason) = (self.runtime, reason);
        let comm = self.comm.as_deref().unwrap_or_default().to_owned();
        let key = (self.pid, comm, self.runtime, reason);
        *book.reports.entry(key).or_insert(0) += frames.count;
    }

    fn reason(&self) -> JitReason {
        match &self.map {
            _ if self.left_out() > 0 => JitReason::LeftOut,
            Map::Open(tail) if !tail.is_whole() => JitReason::LeftOut,
            Map::Open(_) => JitReason::NotInMap,
            Map::Unread(_) if self.dump.is_some() => JitReason::NotInMap,
            Map::Unread(reason) => *reason,
        }
    }

    fn left_out(&self) -> u64 {
        self.map_reader.code.left_out() + self.dump_reader.code.left_out()
    }

    /// Up to when all is known of a source.
    fn told_until(&self, source: SourceNumber) -> u64 {
        match (source, &self.map, &self.dump) {
            (DUMP, _, Some(tail)) => match self.dump_reader.records.newest_ns() {
                // Runtimes write late, and in the order of time.
                Some(newest_ns) => newest_ns,
                None => tail.told_until(),
            },
            (MAP, Map::Open(tail), _) => tail.told_until(),
            (DUMP | MAP, ..) => 0,
            (source, ..) => self.parent.as_ref().map_or(0, |(parent, at_ns)| {
                let told = parent.borrow().told_until(source - PARENTS);
                if told >= *at_ns { u64::MAX } else { told }
            }),
        }
    }

    fn answer(&self, address: u64, time_ns: u64) -> Answer {
        self.find(
            address,
            time_ns,
            Late::Counts,
            &mut |source, found| match found {
                Found::Code(code) => Answer::Code(source, code.order),
                Found::Nothing => Answer::Nothing,
                Found::Unsure => Answer::Unsure,
            },
        )
    }

    fn name(&self, address: u64, time_ns: u64) -> Option<Named> {
        self.find(address, time_ns, Late::Counts, &mut |_, found| {
            let Found::Code(code) = found else {
                return None;
            };
            let named = Named::of(code.name);
            Some(match code.lines {
                Some(lines) => named.with_lines(lines.find(address.wrapping_sub(code.origin))),
                None => named,
            })
        })
    }

    /// What an address was at a time, by the dump, the map, or those of the parents at the time of
    /// the fork.
    fn find<R>(
        &self,
        address: u64,
        time_ns: u64,
        late: Late,
        found: &mut dyn FnMut(SourceNumber, Found<'_>) -> R,
    ) -> R {
        let own = [(DUMP, &self.dump_reader.code), (MAP, &self.map_reader.code)];
        for (source, code) in own {
            match code.find(address, time_ns, late) {
                Found::Nothing => {}
                it => return found(source, it),
            }
        }
        let Some((parent, at_ns)) = &self.parent else {
            return found(MAP, Found::Nothing);
        };
        parent
            .borrow()
            .find(address, time_ns.min(*at_ns), Late::No, &mut |source, it| {
                found(source + PARENTS, it)
            })
    }
}

/// The jitdump that a process has mapped for readers to find.
fn find_dump(space: &Space, writer: Writer, objects: &Objects) -> Option<Tail> {
    let mapping = space.iter().find(|mapping| writer.is_dump(&mapping.path))?;
    let object = objects.get(mapping.object?);
    let source = match object.copied_from() {
        Some(place) => Source::Far(place.try_clone().ok()?),
        None => Source::Near(object.file.as_ref()?.try_clone().ok()?),
    };
    if let Some(refusal) = writer.objection(&source.seen().ok()?) {
        log::debug!(
            "process {}: its jitdump is not read: {refusal:?}",
            writer.pid
        );
        return None;
    }
    Some(Tail::new(source))
}
