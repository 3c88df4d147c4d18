//! Every fuzz target, on its corpus and on mutations of it, for some seconds.
//!
//! libFuzzer runs the same targets for hours (`fuzz/`); this run needs nothing but the compiler, and
//! also checks what memory and time an input may cost. The mutations are the same in every run, so
//! a failure is found again; the input that caused it is written to a file that the failure names.
//! `EBPFPROF_FUZZ_SECONDS` says for how long to run, all targets together.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod allocator;
mod dense;
mod mutation;
#[path = "../oracle/numbers.rs"]
mod numbers;
#[allow(
    unreachable_pub,
    reason = "a library of its own where libFuzzer runs it"
)]
#[path = "../../../fuzz/src/targets.rs"]
mod targets;

use std::{
    env, fs,
    io::Write,
    panic,
    path::{Path, PathBuf},
    process,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use allocator::{Counting, peak_bytes};
use mutation::mutated;
use numbers::{Numbers, mix};
use targets::{TARGETS, Target};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How long to run unless told, all targets together.
const SECONDS: f64 = 5.0;
/// The variable that tells.
const SECONDS_VARIABLE: &str = "EBPFPROF_FUZZ_SECONDS";
/// Mutations tried of each target, however slow they are.
const FEWEST_MUTATIONS: u64 = 100;
/// The longest that one input may take, without optimization and on a busy machine.
const MOST_TIME: Duration = Duration::from_secs(5);
/// An input that takes this long will never end.
const HUNG: Duration = Duration::from_secs(60);

/// Since when the input under way runs, in milliseconds of the run, and where it is kept.
static STARTED_MS: AtomicU64 = AtomicU64::new(u64::MAX);
static UNDER_WAY: Mutex<Option<PathBuf>> = Mutex::new(None);

/// What the inputs of one target took.
#[derive(Default)]
struct Tally {
    inputs: u64,
    most_bytes: usize,
    slowest: Duration,
}

/// The run of one target.
struct Run<'a> {
    target: &'a Target,
    folder: &'a Path,
    clock: Instant,
    tally: Tally,
}

impl Run<'_> {
    /// Runs the corpus and inputs made to be costly, then mutations until time is up.
    fn all(&mut self, time: Duration) -> Result<(), String> {
        let inputs = corpus(self.target.name);
        for input in inputs.iter().chain(&dense::inputs(self.target.name)) {
            self.one(input)?;
        }
        let mut numbers = Numbers(mix(self.target.name.len() as u64));
        let started = Instant::now();
        let mut mutations = 0;
        while mutations < FEWEST_MUTATIONS || started.elapsed() < time {
            self.one(&mutated(&inputs, &mut numbers))?;
            mutations += 1;
        }
        Ok(())
    }

    /// Runs one input, which lies in a file meanwhile: some failures end the process.
    fn one(&mut self, input: &[u8]) -> Result<(), String> {
        let target = self.target;
        let under_way = self.folder.join(format!("{}.running", target.name));
        fs::write(&under_way, input).unwrap();
        *UNDER_WAY.lock().unwrap() = Some(under_way.clone());
        let now_ms = self.clock.elapsed().as_millis() as u64;
        STARTED_MS.store(now_ms, Ordering::Relaxed);
        let started = Instant::now();
        let mut panicked = false;
        let bytes = peak_bytes(|| {
            panicked = panic::catch_unwind(|| (target.run)(input)).is_err();
        });
        let took = started.elapsed();
        STARTED_MS.store(u64::MAX, Ordering::Relaxed);
        self.tally.inputs += 1;
        self.tally.most_bytes = self.tally.most_bytes.max(bytes);
        self.tally.slowest = self.tally.slowest.max(took);
        let bound = target.fixed_bytes + input.len() * target.bytes_per_byte;
        let breach = match () {
            () if panicked => "panicked (see above)".to_owned(),
            () if bytes > bound => {
                let length = input.len();
                format!("took {bytes} bytes for {length} bytes of input, bound {bound}")
            }
            () if took > MOST_TIME => format!("took {took:?}, bound {MOST_TIME:?}"),
            () => return Ok(()),
        };
        let hash = input
            .iter()
            .fold(0, |hash, byte| mix(hash ^ u64::from(*byte)));
        let kept = self.folder.join(format!("{}-{hash:016x}", target.name));
        fs::rename(&under_way, &kept).unwrap();
        Err(format!(
            "{} {breach}; the input is in {}",
            target.name,
            kept.display()
        ))
    }
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(target);
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// Ends the process when an input runs for too long: nothing else can end it.
fn watch(clock: Instant) {
    loop {
        thread::sleep(Duration::from_secs(1));
        let started = Duration::from_millis(STARTED_MS.load(Ordering::Relaxed));
        if clock
            .elapsed()
            .checked_sub(started)
            .is_some_and(|took| took > HUNG)
        {
            let path = UNDER_WAY.lock().unwrap().take().unwrap_or_default();
            say(&format!("hung; the input is in {}", path.display()));
            process::abort();
        }
    }
}

/// Writes past the test harness, which shows nothing of a test that ends the process.
fn say(line: &str) {
    let line = format!("{line}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

#[test]
fn no_input_crashes_a_target_or_exceeds_its_bounds() {
    let seconds = env::var(SECONDS_VARIABLE)
        .map_or(SECONDS, |text| text.parse().expect("a number of seconds"));
    let time = Duration::from_secs_f64(seconds) / TARGETS.len() as u32;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/fuzz");
    fs::create_dir_all(&folder).unwrap();
    let folder = folder.canonicalize().unwrap();
    say(&format!(
        "the input under way lies in {}/TARGET.running",
        folder.display()
    ));
    let clock = Instant::now();
    thread::spawn(move || watch(clock));
    let mut failures = Vec::new();
    for target in &TARGETS {
        let mut run = Run {
            target,
            folder: &folder,
            clock,
            tally: Tally::default(),
        };
        failures.extend(run.all(time).err());
        let Tally {
            inputs,
            most_bytes,
            slowest,
        } = run.tally;
        say(&format!(
            "{:<16} {inputs:>8} inputs, at most {:>6} KiB at one time, {:>5} ms for one",
            target.name,
            most_bytes.div_ceil(1024),
            slowest.as_millis()
        ));
        let _ = fs::remove_file(folder.join(format!("{}.running", target.name)));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
