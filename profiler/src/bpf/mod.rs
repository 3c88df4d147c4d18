//! The user side of the kernel boundary: loads the programs, runs their clocks, and turns what
//! comes out into types that cannot be wrong. The only module that knows aya.
//!
//! In: [`Settings`], mapping tables, targets. Out: [`Sample`]s, process events, [`Counts`].

mod btf;
mod captures;
mod chunks;
mod counts;
mod decode;
mod error;
mod features;
mod feeder;
mod idle;
mod interruptions;
mod memory;
mod perf;
mod stream;
mod symbols;
mod tables;
mod ticks;
mod unwind_tables;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{self, MapData, PerCpuArray, ProgramArray, RingBuf},
    programs::{PerfEvent, ProgramType, RawTracePoint, raw_trace_point::RawTracePointLinkId},
    sys::{Stats, enable_stats, is_helper_supported},
};
use aya_obj::generated::bpf_func_id::{
    BPF_FUNC_get_current_ancestor_cgroup_id, BPF_FUNC_loop, BPF_FUNC_task_pt_regs,
};
use profiler_common::{
    config::{ProbeConfig, TargetKey},
    counters::Counter,
    limits::{MAX_KERNEL_FRAMES, MAX_TARGETS, MIN_RING_BYTES},
};

pub use captures::{CaptureNumber, CaptureTargets};
pub use counts::{Counts, Reading};
pub use decode::{Comm, Sample, StackPart, Unwalked};
pub use error::BpfError;
pub use features::{Answer, Feature, Trial, ask, trial};
pub use interruptions::interruption;
pub use stream::ProcessStream;
pub use symbols::KernelSymbols;
pub use tables::Tables;
pub(crate) use ticks::parse_cpus;
pub use unwind_tables::{Slot, Stored};

use memory::TableMemory;
use unwind_tables::UnwindTables;

use captures::CaptureSet;
use ticks::{Clocks, CpuChange};

use crate::target::CgroupFilter;

static OBJECT: &[u8] =
    aya::include_bytes_aligned!("../../../profiler-ebpf/prebuilt/ebpfprof.bpf.o");

/// Names another BPF object to load instead of the embedded one, for tests of a fresh build.
const OBJECT_VARIABLE: &str = "EBPFPROF_BPF_OBJECT";

/// The largest sample ring, in bytes.
const MAX_RING_BYTES: usize = 128 << 20;
/// Bytes of ring for each sample that a CPU can take in a second: half a second of the deepest
/// stacks, some seconds of ordinary ones.
const RING_BYTES_PER_HERTZ: usize = 4096;
/// The part of the ring that unwalked samples may fill, one in this many bytes: they are large, and
/// walked ones must always find room.
const UNWALKED_PART: usize = 2;
/// Free places in the target set, for children that come to be.
const ROOM_FOR_CHILDREN: usize = 16_384;
/// Samples taken from the ring before process events get their turn.
const MOST_SAMPLES_AT_ONCE: usize = 50_000;
/// Unwalked ones among them: they are large, and what they lack should be made first.
const MOST_UNWALKED_AT_ONCE: usize = 256;

/// Now, by the clock of samples and process events: nanoseconds of `CLOCK_MONOTONIC`.
#[must_use]
pub fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let number = |part: i64| u64::try_from(part).expect("the clock counts up from boot");
    number(now.tv_sec) * 1_000_000_000 + number(now.tv_nsec)
}

/// Which walker to load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// `bpf_loop`, where the kernel has it (5.17 and later). It has `bpf_task_pt_regs` for the user
    /// registers of a task in the kernel.
    Loop,
    /// A bounded loop and tail calls. It takes those registers from the top of the task's kernel
    /// stack, so it is not for kernels that keep something else there.
    TailCalls,
}

impl Flavour {
    /// The best that the running kernel has: it is asked for what is needed, not for its version.
    #[must_use]
    pub fn best() -> Self {
        match Self::Loop.obstacle() {
            None => Self::Loop,
            Some(_) => Self::TailCalls,
        }
    }

    /// Why it does not work under the running kernel, if so.
    #[must_use]
    pub fn obstacle(self) -> Option<&'static str> {
        let has = |helper| is_helper_supported(ProgramType::PerfEvent, helper).unwrap_or(false);
        match self {
            Self::Loop => (!has(BPF_FUNC_loop) || !has(BPF_FUNC_task_pt_regs))
                .then_some("the kernel has no bpf_loop or no bpf_task_pt_regs"),
            Self::TailCalls => has_padded_stacks()
                .then_some("the kernel keeps user registers elsewhere on its stacks (FRED)"),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Loop => "bpf_loop",
            Self::TailCalls => "tail calls",
        }
    }
}

/// Whether user registers lie below the very top of a kernel stack, as they do in kernels built with
/// FRED. Source: `TOP_OF_KERNEL_STACK_PADDING` in `arch/x86/include/asm/thread_info.h`, from 6.9.
fn has_padded_stacks() -> bool {
    btf::Btf::of_kernel().is_ok_and(|kernel| kernel.has_function("fred_entry_from_user"))
}

/// Who can tell which cgroup of version 2 a task is in: the program asks the kernel for it, which not
/// every kernel answers (5.10 does not).
#[must_use]
pub fn cgroup_filter() -> CgroupFilter {
    let helper = BPF_FUNC_get_current_ancestor_cgroup_id;
    // Whoever may not ask may not load the program either, and is told so then.
    match is_helper_supported(ProgramType::PerfEvent, helper) {
        Ok(false) => CgroupFilter::Processes,
        _ => CgroupFilter::Kernel,
    }
}

/// What a run samples, fixed before the programs are loaded.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Nanoseconds between two ticks of a CPU.
    pub period_ns: u64,
    /// The shortest such time that there will be: rings are made for it.
    pub shortest_period_ns: u64,
    /// Targets that there will be, children aside.
    pub most_targets: usize,
    /// Whether kernel stacks are taken.
    pub kernel_stacks: Stacks,
    /// Whether user stacks are taken.
    pub user_stacks: Stacks,
    /// The walker, or `None` for the best that the kernel has.
    pub flavour: Option<Flavour>,
    /// Most kernel memory in tables, in bytes.
    pub table_bytes: usize,
}

/// Whether stacks of a kind are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stacks {
    /// They are.
    Taken,
    /// They are left out.
    LeftOut,
}

/// How often clocks and counters are read until no tick comes between the two.
const READINGS: usize = 4;

/// The kernel side of one run. Dropping it takes everything out of the kernel.
pub struct Sampler {
    bpf: Ebpf,
    flavour: Flavour,
    clocks: Clocks,
    stream: ProcessStream,
    samples: RingBuf<MapData>,
    counts: PerCpuArray<MapData, u64>,
    captures: CaptureSet,
    tables: Tables,
    links: Vec<Link>,
    ring_bytes: usize,
    undecodable: u64,
    log: Option<aya_log::EbpfLogger<&'static dyn log::Log>>,
    _continuations: Option<ProgramArray<MapData>>,
    stats: Option<OwnedFd>,
}

impl Sampler {
    /// Loads the programs and opens the clocks, not yet enabled. The process stream and the
    /// following of children run from here on.
    ///
    /// # Errors
    /// When the kernel lacks something or refuses it.
    pub fn load(settings: &Settings) -> Result<Self, BpfError> {
        let flavour = settings.flavour.unwrap_or_else(Flavour::best);
        if let Some(why) = flavour.obstacle() {
            let walker = flavour.name();
            return Err(BpfError::Walker { walker, why });
        }
        // Without the kernel's run time statistics the cost is told without BPF time.
        let stats = enable_stats(Stats::RunTime).ok();
        let ring_bytes = ring_bytes(settings.shortest_period_ns, ticks::online_cpus()?.len());
        let mut bpf = load_object(settings, ring_bytes)?;
        let log = if log::log_enabled!(log::Level::Debug) {
            aya_log::EbpfLogger::init(&mut bpf).ok()
        } else {
            None
        };
        let captures = CaptureSet::open(&mut bpf)?;
        let (program, continuations) = load_programs(&mut bpf, flavour)?;
        let clocks = Clocks::open(settings.period_ns, program)?;
        let mut stream = ProcessStream::default();
        for cpu in clocks.cpus() {
            stream
                .add_cpu(cpu)
                .map_err(|source| BpfError::Event { cpu, source })?;
        }
        let links = attach_lifecycle(&mut bpf)?;
        let tables = open_tables(&mut bpf, settings.table_bytes)?;
        let samples = RingBuf::try_from(take(&mut bpf, "SAMPLES")?)
            .map_err(|error| BpfError::map("SAMPLES", error))?;
        let counts = PerCpuArray::try_from(take(&mut bpf, "COUNTS")?)
            .map_err(|error| BpfError::map("COUNTS", error))?;
        let sampler = Self {
            bpf,
            flavour,
            clocks,
            stream,
            samples,
            counts,
            captures,
            tables,
            links,
            ring_bytes,
            undecodable: 0,
            log,
            _continuations: continuations,
            stats,
        };
        log::debug!(
            "walker {flavour:?}, clocks attached by ioctl; the verifier read {:?}",
            sampler.verified_instructions()
        );
        Ok(sampler)
    }

    /// Starts the clocks.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn enable(&mut self) -> Result<(), BpfError> {
        self.clocks.enable()
    }

    /// Stops the clocks: afterwards the counts stand still.
    pub fn disable(&mut self) {
        self.clocks.disable();
    }

    /// Stops the clocks until [`Self::tick`]. Processes are watched on.
    pub fn rest(&mut self) {
        self.clocks.pause();
    }

    /// Starts the clocks again, with this period, on the CPUs that are online by now.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn tick(&mut self, period_ns: u64) -> Result<(), BpfError> {
        let changes = self.clocks.match_cpus()?;
        self.watch_cpus(&changes)?;
        self.clocks.resume(period_ns)
    }

    /// Stops the clocks and everything else that costs time, until [`Self::resume`]: processes are not
    /// watched, so whoever has mapping tables takes them back first.
    pub fn pause(&mut self) {
        self.rest();
        self.stream.disable();
        for (name, link) in self.links.drain(..) {
            let program = lifecycle_program(&mut self.bpf, name);
            let detached = program.map(|program| program.detach(link).is_ok());
            if !detached.unwrap_or(false) {
                log::debug!("{name} stays attached");
            }
        }
    }

    /// Watches processes and starts the clocks again, with this period.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn resume(&mut self, period_ns: u64) -> Result<(), BpfError> {
        self.stream.enable();
        if self.links.is_empty() {
            for (name, tracepoint) in LIFECYCLE.into_iter().chain([REUSE]) {
                match attach(&mut self.bpf, name, tracepoint) {
                    Ok(link) => self.links.push((name, link)),
                    Err(error) if name == REUSE.0 => log::debug!("{name}: {error}"),
                    Err(error) => return Err(error),
                }
            }
        }
        self.tick(period_ns)
    }

    /// Has the clocks tick with another period from now on. Those of CPUs that refuse it keep theirs.
    ///
    /// # Errors
    /// When the kernel refuses it on some CPU.
    pub fn change_period(&mut self, period_ns: u64) -> Result<(), BpfError> {
        self.clocks.change_period(period_ns)
    }

    /// The period, in nanoseconds, of the tick that this sample is of.
    #[must_use]
    pub fn period_of(&self, sample: &Sample) -> u64 {
        self.clocks.period_at(sample.cpu, sample.time_ns)
    }

    /// The walker in use.
    #[must_use]
    pub fn flavour(&self) -> Flavour {
        self.flavour
    }

    /// Mapping and unwind tables.
    pub fn tables(&mut self) -> &mut Tables {
        &mut self.tables
    }

    /// The process events.
    pub fn stream(&mut self) -> &mut ProcessStream {
        &mut self.stream
    }

    /// Descriptors that become readable when process events should be taken soon.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.stream.descriptors()
    }

    /// Takes what the sample ring holds, or a good part of it. True when there may be more.
    pub fn drain(&mut self, samples: &mut Vec<Sample>) -> bool {
        if let Some(log) = &mut self.log {
            log.flush();
        }
        let mut unwalked = 0;
        for _ in 0..MOST_SAMPLES_AT_ONCE {
            let Some(record) = self.samples.next() else {
                return false;
            };
            match decode::decode(&record) {
                Some(sample) => {
                    unwalked += usize::from(sample.unwalked.is_some());
                    samples.push(sample);
                }
                None => self.undecodable += 1,
            }
            if unwalked == MOST_UNWALKED_AT_ONCE {
                break;
            }
        }
        true
    }

    /// A number for a capture that is to begin. `None` if there are as many captures as can be. What is
    /// read for it now is what it starts from.
    pub fn reserve(&mut self) -> Option<CaptureNumber> {
        self.captures.reserve()
    }

    /// Begins a capture of these targets.
    ///
    /// # Errors
    /// When the target set is full. Then the number is free again.
    pub fn begin(
        &mut self,
        capture: CaptureNumber,
        targets: &CaptureTargets,
    ) -> Result<(), BpfError> {
        self.captures.begin(capture, targets)
    }

    /// Has no further tick fall on a capture. Samples from before may still be on their way.
    pub fn end(&mut self, capture: CaptureNumber) {
        self.captures.end(capture);
    }

    /// Gives the number of an ended capture free, once none of its samples is on its way.
    pub fn close(&mut self, capture: CaptureNumber) {
        self.captures.close(capture);
    }

    /// Makes something a target of a capture.
    ///
    /// # Errors
    /// When the target set is full.
    pub fn add_target(&mut self, capture: CaptureNumber, key: TargetKey) -> Result<(), BpfError> {
        self.captures.add(capture, key)
    }

    /// Makes something a target of a capture no longer. Not being one is fine.
    pub fn remove_target(&mut self, capture: CaptureNumber, key: TargetKey) {
        self.captures.remove(capture, key);
    }

    /// Makes something no target of any capture.
    pub fn forget_target(&mut self, key: TargetKey) {
        self.captures.forget(key);
    }

    /// Starts clocks on CPUs that came online, and lets go of those that went.
    ///
    /// # Errors
    /// When the list of CPUs cannot be read or a clock is refused.
    pub fn follow_cpus(&mut self) -> Result<(), BpfError> {
        let changes = self.clocks.follow_cpus()?;
        self.watch_cpus(&changes)
    }

    /// CPUs that came online and have no clock, as the kernel refused it: nothing is sampled there.
    #[must_use]
    pub fn cpus_without_clock(&self) -> &BTreeSet<u32> {
        self.clocks.refused()
    }

    /// Watches processes on CPUs that came online, and no longer on those that went.
    fn watch_cpus(&mut self, changes: &[CpuChange]) -> Result<(), BpfError> {
        for change in changes {
            match *change {
                CpuChange::Online(cpu) => {
                    log::info!("CPU {cpu} came online");
                    self.stream
                        .add_cpu(cpu)
                        .map_err(|source| BpfError::Event { cpu, source })?;
                }
                CpuChange::Offline(cpu) => {
                    log::info!("CPU {cpu} went offline");
                    self.stream.remove_cpu(cpu);
                }
            }
        }
        Ok(())
    }

    /// What clocks and counters say now, for a capture. Exact while the clocks stand still; else ticks
    /// may come while it is read, and it says how many.
    ///
    /// # Errors
    /// When the counters cannot be read.
    pub fn reading(&mut self, capture: CaptureNumber) -> Result<Reading, BpfError> {
        let mut before = self.runs()?;
        let mut tries = 0;
        let (runs, between) = loop {
            self.clocks.read();
            let runs = self.runs()?;
            let came = |(cpu, runs): (&u32, &u64)| (*cpu, runs - before.get(cpu).unwrap_or(&0));
            let between: BTreeMap<u32, u64> = runs.iter().map(came).collect();
            tries += 1;
            if tries == READINGS || between.values().all(|came| *came == 0) {
                break (runs, between);
            }
            before = runs;
        };
        Ok(Reading {
            sampled: self.clocks.longest(),
            due: self.clocks.due(),
            runs,
            between,
            captured: self.captures.due(capture)?,
            ring_full: self.per_cpu(Counter::LostRingFull)?.iter().sum(),
            undecodable: self.undecodable,
            no_scratch: self.per_cpu(Counter::LostNoScratch)?.iter().sum(),
            not_followed: self.per_cpu(Counter::FollowFull)?.iter().sum(),
            run_time: self.run_time(),
        })
    }

    /// Ticks that ran the program on each CPU.
    fn runs(&self) -> Result<BTreeMap<u32, u64>, BpfError> {
        let (due, elsewhere) = (
            self.per_cpu(Counter::Due)?,
            self.per_cpu(Counter::Elsewhere)?,
        );
        let runs = due.iter().zip(&elsewhere);
        Ok((0..)
            .zip(runs.map(|(due, elsewhere)| due + elsewhere))
            .collect())
    }

    fn per_cpu(&self, counter: Counter) -> Result<Vec<u64>, BpfError> {
        let values = self
            .counts
            .get(&(counter as u32), 0)
            .map_err(|error| BpfError::map("COUNTS", error))?;
        Ok(values.iter().copied().collect())
    }

    /// The names of kernel addresses, as the kernel prints them. `None` where it cannot: before 5.13.
    pub fn kernel_symbols(&mut self, addresses: &[u64]) -> Option<KernelSymbols> {
        symbols::of_kernel(&mut self.bpf, addresses)
            .inspect_err(|error| log::debug!("the kernel prints no symbols: {error}"))
            .ok()
    }

    /// Kernel memory that this run takes in rings and tables, in bytes.
    #[must_use]
    pub fn kernel_bytes(&self) -> usize {
        self.ring_bytes + self.tables.bytes()
    }

    /// Whether the kernel tells the time that our programs run.
    #[must_use]
    pub fn has_run_time(&self) -> bool {
        self.stats.is_some()
    }

    /// Instructions that the verifier read for each loaded program, where the kernel tells (5.16).
    #[must_use]
    pub fn verified_instructions(&self) -> Vec<(String, u32)> {
        self.loaded()
            .filter_map(|(name, info)| Some((name.to_owned(), info.verified_instruction_count()?)))
            .collect()
    }

    /// Time spent in our programs, by the kernel's own measure.
    #[must_use]
    pub fn run_time(&self) -> Duration {
        self.loaded().map(|(_, info)| info.run_time()).sum()
    }

    fn loaded(&self) -> impl Iterator<Item = (&str, aya::programs::ProgramInfo)> {
        self.bpf
            .programs()
            .filter_map(|(name, program)| Some((name, program.info().ok()?)))
    }
}

fn ring_bytes(period_ns: u64, cpus: usize) -> usize {
    let frequency = usize::try_from(1_000_000_000 / period_ns.max(1)).unwrap_or(usize::MAX);
    frequency
        .saturating_mul(cpus)
        .saturating_mul(RING_BYTES_PER_HERTZ)
        .clamp(MIN_RING_BYTES, MAX_RING_BYTES)
        .next_power_of_two()
}

fn load_object(settings: &Settings, ring_bytes: usize) -> Result<Ebpf, BpfError> {
    let kernel = btf::Btf::of_kernel()?;
    let config = ProbeConfig {
        kernel_stacks: u32::from(settings.kernel_stacks == Stacks::Taken),
        user_stacks: u32::from(settings.user_stacks == Stacks::Taken),
        task_stack_offset: kernel.offset("task_struct", "stack")?,
        kernel_frames: kernel_frames(),
        task_tgid_offset: kernel.offset("task_struct", "tgid")?,
        // Without it what takes a library's place is noticed some milliseconds later.
        area_length_offset: kernel
            .offset("vm_unmapped_area_info", "length")
            .unwrap_or(0),
        task_mm_offset: kernel.offset("task_struct", "mm")?,
        tells_cgroups: u32::from(cgroup_filter() == CgroupFilter::Kernel),
        mm_end_code_offset: kernel.offset("mm_struct", "end_code")?,
        unwalked_ring_bytes: u32::try_from(ring_bytes / UNWALKED_PART)
            .expect("at most MAX_RING_BYTES"),
    };
    let log_level = if log::log_enabled!(log::Level::Debug) {
        aya_log::Level::Debug as u8
    } else {
        0
    };
    let room = (settings.most_targets + ROOM_FOR_CHILDREN).min(MAX_TARGETS);
    let mut loader = EbpfLoader::new();
    loader
        .override_global("CONFIG", &config, true)
        .override_global(aya_log::LEVEL, &log_level, true)
        .map_max_entries("TARGETS", u32::try_from(room).expect("at most MAX_TARGETS"))
        .map_max_entries(
            "SAMPLES",
            u32::try_from(ring_bytes).expect("at most MAX_RING_BYTES"),
        );
    let loaded = match std::env::var(OBJECT_VARIABLE) {
        Ok(path) => {
            let object = fs::read(&path).map_err(|source| BpfError::Object { path, source })?;
            loader.load(&object)
        }
        Err(_) => loader.load(OBJECT),
    };
    loaded.map_err(|error| BpfError::Load(Box::new(error)))
}

/// The longest kernel stack that the kernel hands out.
fn kernel_frames() -> u32 {
    let text = fs::read_to_string("/proc/sys/kernel/perf_event_max_stack").unwrap_or_default();
    let most = u32::try_from(MAX_KERNEL_FRAMES).expect("127");
    text.trim()
        .parse()
        .map_or(most, |frames: u32| frames.min(most))
}

/// Loads the flavour's programs; gives the one for the clocks, and what keeps its tail calls.
fn load_programs(
    bpf: &mut Ebpf,
    flavour: Flavour,
) -> Result<(OwnedFd, Option<ProgramArray<MapData>>), BpfError> {
    match flavour {
        Flavour::Loop => Ok((load_program(bpf, "cpu_loop")?, None)),
        Flavour::TailCalls => {
            let name = "cpu_tail_next";
            load_program(bpf, name)?;
            let mut continuations = ProgramArray::try_from(take(bpf, "CONTINUATIONS")?)
                .map_err(|error| BpfError::map("CONTINUATIONS", error))?;
            let next = perf_program(bpf, name)?
                .fd()
                .map_err(|error| BpfError::program(name, error))?;
            let next = next.try_clone().map_err(BpfError::Descriptor)?;
            continuations
                .set(0, &next, 0)
                .map_err(|error| BpfError::map("CONTINUATIONS", error))?;
            Ok((load_program(bpf, "cpu_tail")?, Some(continuations)))
        }
    }
}

fn load_program(bpf: &mut Ebpf, name: &'static str) -> Result<OwnedFd, BpfError> {
    let program = perf_program(bpf, name)?;
    program
        .load()
        .map_err(|error| BpfError::program(name, error))?;
    let fd = program
        .fd()
        .map_err(|error| BpfError::program(name, error))?;
    fd.as_fd()
        .try_clone_to_owned()
        .map_err(BpfError::Descriptor)
}

fn perf_program<'a>(bpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut PerfEvent, BpfError> {
    let program = bpf.program_mut(name).ok_or(BpfError::Missing(name))?;
    program
        .try_into()
        .map_err(|error| BpfError::program(name, error))
}

/// The programs that keep up with processes, and the tracepoints they are attached to.
const LIFECYCLE: [(&str, &str); 2] = [
    ("follow_fork", "sched_process_fork"),
    ("forget_exec", "sched_process_exec"),
];

/// Another, which not every kernel has.
const REUSE: (&str, &str) = ("forget_reused", "vm_unmapped_area");

/// A program that is attached to a tracepoint.
type Link = (&'static str, RawTracePointLinkId);

fn attach_lifecycle(bpf: &mut Ebpf) -> Result<Vec<Link>, BpfError> {
    let mut links = Vec::with_capacity(LIFECYCLE.len() + 1);
    for (name, tracepoint) in LIFECYCLE {
        load_lifecycle(bpf, name)?;
        links.push((name, attach(bpf, name, tracepoint)?));
    }
    // From 5.8 on.
    let (name, tracepoint) = REUSE;
    match load_lifecycle(bpf, name).and_then(|()| attach(bpf, name, tracepoint)) {
        Ok(link) => links.push((name, link)),
        Err(error) => {
            log::debug!("address ranges that are given out again are noticed late: {error}");
        }
    }
    Ok(links)
}

fn load_lifecycle(bpf: &mut Ebpf, name: &'static str) -> Result<(), BpfError> {
    lifecycle_program(bpf, name)?
        .load()
        .map_err(|error| BpfError::program(name, error))
}

fn attach(
    bpf: &mut Ebpf,
    name: &'static str,
    tracepoint: &'static str,
) -> Result<RawTracePointLinkId, BpfError> {
    lifecycle_program(bpf, name)?
        .attach(tracepoint)
        .map_err(|error| BpfError::program(name, error))
}

fn lifecycle_program<'a>(
    bpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut RawTracePoint, BpfError> {
    let program = bpf.program_mut(name).ok_or(BpfError::Missing(name))?;
    program
        .try_into()
        .map_err(|error| BpfError::program(name, error))
}

fn open_tables(bpf: &mut Ebpf, budget_bytes: usize) -> Result<Tables, BpfError> {
    let chunks = match take(bpf, "CHUNKS")? {
        maps::Map::ArrayOfMaps(data) => data,
        _ => return Err(BpfError::Missing("CHUNKS")),
    };
    let processes = maps::HashMap::try_from(take(bpf, "PROCESSES")?)
        .map_err(|error| BpfError::map("PROCESSES", error))?;
    let unwind = UnwindTables::new(take_array(bpf, "TABLES")?, take_array(bpf, "RULES")?)?;
    let memory = TableMemory::new(chunks, budget_bytes);
    Ok(Tables::new(memory, budget_bytes, processes, unwind))
}

fn take_array(bpf: &mut Ebpf, name: &'static str) -> Result<MapData, BpfError> {
    match take(bpf, name)? {
        maps::Map::Array(data) => Ok(data),
        _ => Err(BpfError::Missing(name)),
    }
}

fn take(bpf: &mut Ebpf, name: &'static str) -> Result<maps::Map, BpfError> {
    bpf.take_map(name).ok_or(BpfError::Missing(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_grows_with_the_frequency_and_stays_a_power_of_two() {
        for frequency in [1, 99, 999, 10_000, 100_000] {
            let bytes = ring_bytes(1_000_000_000 / frequency, 64);
            assert!(bytes.is_power_of_two() && (MIN_RING_BYTES..=MAX_RING_BYTES).contains(&bytes));
        }
    }
}
