//! The user side of the kernel boundary: loads the programs, runs their clocks, and turns what
//! comes out into types that cannot be wrong. The only module that knows aya.
//!
//! In: [`Settings`], mapping tables, targets. Out: [`Sample`]s, process events, [`Counts`].

mod btf;
mod chunks;
mod decode;
mod error;
mod features;
mod feeder;
mod idle;
mod memory;
mod perf;
mod stream;
mod symbols;
mod tables;
mod ticks;
mod unwind_tables;

use std::{
    collections::BTreeMap,
    fs,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{self, MapData, PerCpuArray, ProgramArray, RingBuf},
    programs::{PerfEvent, ProgramType, RawTracePoint},
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

pub use decode::{Comm, Sample, StackPart, Unwalked};
pub use error::BpfError;
pub use features::{Answer, Feature, Trial, ask, trial};
pub use stream::ProcessStream;
pub use symbols::KernelSymbols;
pub use tables::Tables;
pub(crate) use ticks::parse_cpus;
pub use unwind_tables::{Slot, Stored};

use memory::TableMemory;
use unwind_tables::UnwindTables;

use ticks::{Clocks, CpuChange};

use crate::target::{CgroupFilter, Follow};

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
    /// The targets; with `filters` 0, every task.
    pub targets: Vec<TargetKey>,
    /// Bits of the kinds of target that `targets` holds or will hold.
    pub filters: u32,
    /// Levels of the cgroup tree at which `targets` holds cgroups, as bits.
    pub cgroup_levels: u32,
    /// Whether kernel stacks are taken.
    pub kernel_stacks: Stacks,
    /// Whether user stacks are taken.
    pub user_stacks: Stacks,
    /// Whether children are followed.
    pub follow: Follow,
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

/// What the kernel side counted, and what the clocks say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// How long the clocks ran: the one of them that ran longest.
    pub sampled: Duration,
    /// Ticks by the clocks' own time, to within one a clock.
    pub ticks: u64,
    /// Ticks that ran the program beyond what the clocks allow. 0 or it is a bug.
    pub excess: u64,
    /// Ticks that fell on targets.
    pub due: u64,
    /// Ticks that fell elsewhere, and on idle CPUs.
    pub elsewhere: u64,
    /// Due samples that found the ring full.
    pub ring_full: u64,
    /// Due samples that found no scratch memory.
    pub no_scratch: u64,
    /// Due samples that arrived and could not be read.
    pub undecodable: u64,
    /// Children that could not be followed.
    pub not_followed: u64,
    /// Time spent in our programs, by the kernel's own measure.
    pub run_time: Duration,
}

/// The kernel side of one run. Dropping it takes everything out of the kernel.
pub struct Sampler {
    bpf: Ebpf,
    flavour: Flavour,
    clocks: Clocks,
    stream: ProcessStream,
    samples: RingBuf<MapData>,
    counts: PerCpuArray<MapData, u64>,
    targets: maps::HashMap<MapData, TargetKey, u8>,
    tables: Tables,
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
        let ring_bytes = ring_bytes(settings.period_ns, ticks::online_cpus()?.len());
        let mut bpf = load_object(settings, ring_bytes)?;
        let log = if log::log_enabled!(log::Level::Debug) {
            aya_log::EbpfLogger::init(&mut bpf).ok()
        } else {
            None
        };
        let targets = fill_targets(&mut bpf, &settings.targets)?;
        let (program, continuations) = load_programs(&mut bpf, flavour)?;
        let clocks = Clocks::open(settings.period_ns, program)?;
        let mut stream = ProcessStream::default();
        for cpu in clocks.cpus() {
            stream
                .add_cpu(cpu)
                .map_err(|source| BpfError::Event { cpu, source })?;
        }
        attach_lifecycle(&mut bpf)?;
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
            targets,
            tables,
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

    /// Makes something a target.
    ///
    /// # Errors
    /// When the target set is full.
    pub fn add_target(&mut self, key: TargetKey) -> Result<(), BpfError> {
        self.targets
            .insert(key, 1, 0)
            .map_err(|error| BpfError::map("TARGETS", error))
    }

    /// Makes something a target no longer. Not being one is fine.
    pub fn remove_target(&mut self, key: TargetKey) {
        let _ = self.targets.remove(&key);
    }

    /// Starts clocks on CPUs that came online, and lets go of those that went.
    ///
    /// # Errors
    /// When the list of CPUs cannot be read or a clock is refused.
    pub fn follow_cpus(&mut self) -> Result<(), BpfError> {
        for change in self.clocks.follow_cpus()? {
            match change {
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

    /// The account so far. Exact after [`Self::disable`].
    ///
    /// # Errors
    /// When the counters cannot be read.
    pub fn counts(&self) -> Result<Counts, BpfError> {
        let per_cpu = |counter: Counter| {
            let values = self
                .counts
                .get(&(counter as u32), 0)
                .map_err(|error| BpfError::map("COUNTS", error))?;
            Ok::<Vec<u64>, BpfError>(values.iter().copied().collect())
        };
        let total = |counter| Ok::<u64, BpfError>(per_cpu(counter)?.iter().sum());
        let (due, elsewhere) = (per_cpu(Counter::Due)?, per_cpu(Counter::Elsewhere)?);
        let runs: BTreeMap<u32, u64> = (0..)
            .zip(due.iter().zip(&elsewhere))
            .map(|(cpu, (due, elsewhere))| (cpu, due + elsewhere))
            .collect();
        let Reconciled {
            ticks,
            idle,
            excess,
        } = reconcile(&self.clocks.due(), &runs);
        Ok(Counts {
            sampled: self.clocks.longest(),
            ticks,
            excess,
            due: due.iter().sum(),
            elsewhere: elsewhere.iter().sum::<u64>() + idle,
            ring_full: total(Counter::LostRingFull)?,
            no_scratch: total(Counter::LostNoScratch)?,
            undecodable: self.undecodable,
            not_followed: total(Counter::FollowFull)?,
            run_time: self.run_time(),
        })
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

    fn run_time(&self) -> Duration {
        self.loaded().map(|(_, info)| info.run_time()).sum()
    }

    fn loaded(&self) -> impl Iterator<Item = (&str, aya::programs::ProgramInfo)> {
        self.bpf
            .programs()
            .filter_map(|(name, program)| Some((name, program.info().ok()?)))
    }
}

/// What the clocks and the runs of the program say together.
#[derive(Debug, Default, PartialEq, Eq)]
struct Reconciled {
    /// Ticks in all.
    ticks: u64,
    /// Those that ran nothing, as their CPU was idle.
    idle: u64,
    /// Runs beyond what the clocks allow.
    excess: u64,
}

/// A clock's last tick may be counted before its time is: that is within one a clock, and the runs are
/// right. Idle time is in larger units, and never more than the runs leave.
fn reconcile(due: &BTreeMap<u32, ticks::DueTicks>, runs: &BTreeMap<u32, u64>) -> Reconciled {
    let mut sum = Reconciled::default();
    for (cpu, runs) in runs {
        let due = due.get(cpu).copied().unwrap_or_default();
        let ticks = due.ticks.max(*runs);
        sum.ticks += ticks;
        sum.idle += due.idle.min(ticks - runs);
        sum.excess += runs.saturating_sub(due.ticks + due.clocks);
    }
    sum
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
        filters: settings.filters,
        cgroup_levels: settings.cgroup_levels,
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
        mm_end_code_offset: kernel.offset("mm_struct", "end_code")?,
        follow_children: u32::from(settings.follow == Follow::Yes),
        unwalked_ring_bytes: u32::try_from(ring_bytes / UNWALKED_PART)
            .expect("at most MAX_RING_BYTES"),
    };
    let log_level = if log::log_enabled!(log::Level::Debug) {
        aya_log::Level::Debug as u8
    } else {
        0
    };
    let room = (settings.targets.len() + ROOM_FOR_CHILDREN).min(MAX_TARGETS);
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

fn fill_targets(
    bpf: &mut Ebpf,
    keys: &[TargetKey],
) -> Result<maps::HashMap<MapData, TargetKey, u8>, BpfError> {
    let mut targets: maps::HashMap<MapData, TargetKey, u8> =
        maps::HashMap::try_from(take(bpf, "TARGETS")?)
            .map_err(|error| BpfError::map("TARGETS", error))?;
    for key in keys {
        targets
            .insert(key, 1, 0)
            .map_err(|error| BpfError::map("TARGETS", error))?;
    }
    Ok(targets)
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

fn attach_lifecycle(bpf: &mut Ebpf) -> Result<(), BpfError> {
    for (name, tracepoint) in LIFECYCLE {
        attach(bpf, name, tracepoint)?;
    }
    // From 5.8 on.
    if let Err(error) = attach(bpf, "forget_reused", "vm_unmapped_area") {
        log::debug!("address ranges that are given out again are noticed late: {error}");
    }
    Ok(())
}

fn attach(bpf: &mut Ebpf, name: &'static str, tracepoint: &'static str) -> Result<(), BpfError> {
    let program = bpf.program_mut(name).ok_or(BpfError::Missing(name))?;
    let program: &mut RawTracePoint = program
        .try_into()
        .map_err(|error| BpfError::program(name, error))?;
    program
        .load()
        .map_err(|error| BpfError::program(name, error))?;
    program
        .attach(tracepoint)
        .map_err(|error| BpfError::program(name, error))?;
    Ok(())
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
    use super::{ticks::DueTicks, *};

    /// Reconciles a CPU whose clock says 100 ticks, `idle` of them idle, with so many runs, beside a CPU
    /// that is always busy.
    #[track_caller]
    fn check_reconcile(idle: u64, runs: u64, [ticks, idle_ticks, excess]: [u64; 3]) {
        let due = |ticks, idle| DueTicks {
            ticks,
            idle,
            clocks: 1,
        };
        let due = BTreeMap::from([(0, due(100, idle)), (1, due(50, 0))]);
        let expected = Reconciled {
            ticks: ticks + 50,
            idle: idle_ticks,
            excess,
        };
        assert_eq!(
            reconcile(&due, &BTreeMap::from([(0, runs), (1, 50)])),
            expected
        );
    }

    #[test]
    fn ticks_are_the_clocks_or_the_runs_within_one_a_clock() {
        check_reconcile(0, 98, [100, 0, 0]);
        check_reconcile(0, 101, [101, 0, 0]);
        check_reconcile(0, 103, [103, 0, 2]);
    }

    #[test]
    fn idle_ticks_are_at_most_what_the_runs_leave() {
        check_reconcile(60, 30, [100, 60, 0]);
        check_reconcile(60, 40, [100, 60, 0]);
        check_reconcile(70, 40, [100, 60, 0]);
        check_reconcile(70, 101, [101, 0, 0]);
    }

    #[test]
    fn the_ring_grows_with_the_frequency_and_stays_a_power_of_two() {
        for frequency in [1, 99, 999, 10_000, 100_000] {
            let bytes = ring_bytes(1_000_000_000 / frequency, 64);
            assert!(bytes.is_power_of_two() && (MIN_RING_BYTES..=MAX_RING_BYTES).contains(&bytes));
        }
    }
}
