//! What is known of a fixture's stacks, and which of a recording's stacks agree with it.

use crate::{
    bpf_ids::runs_of,
    call_sites::CallSites,
    fixture::Fixture,
    folded::{Folded, Stack, percent},
    host::own_percent,
    recording::{Recorded, Recording, record},
};

use rustix::process::Signal;

/// High enough for some 4,000 samples of one thread that has a CPU to itself, and for some hundreds
/// on a busy machine.
const HERTZ: u32 = 3999;
const SECONDS: f64 = 1.0;
/// Samples of each fixture, more or less, when many are recorded together.
const SAMPLES_EACH: u64 = 1500;
/// The longest name that a thread has. Source: `TASK_COMM_LEN` in the kernel's `sched.h`.
const COMM_BYTES: usize = 15;
/// Percent of stacks that are complete, at least.
const COMPLETE: f64 = 99.9;
/// Below this a recording says nothing.
const LEAST_SAMPLES: u64 = 300;

/// A fixture with its call chains. A name in a chain may be several, as in `read|__read`, of which
/// any will do, because the C library has names for its inner functions only where its debug
/// information is installed. A name behind `~` is a library's.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    program: &'static str,
    arguments: Vec<&'static str>,
    /// Root first, from the bottom marker on.
    chains: Vec<Vec<&'static str>>,
    /// Chains that may be there as well.
    rare: Vec<Vec<&'static str>>,
    /// The first frames of complete stacks.
    roots: &'static str,
    options: &'static [&'static str],
    hertz: u32,
    /// Percent of samples that reach the bottom marker, at least.
    reaching: f64,
    /// Percent of samples in which a whole chain is found, at least.
    whole: f64,
}

/// What a stack is, by what is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// A chain, and code of others below it at most.
    Whole,
    /// The start of a chain, and code of others below it at most.
    Part,
    /// No function of the fixture's own is in it.
    Foreign,
    /// Functions of the fixture that do not call each other so.
    False,
}

impl Known {
    /// A fixture that is busy all the time in these chains, and starts at `main`.
    pub(crate) fn new(program: &'static str, chains: &[&[&'static str]]) -> Self {
        Self {
            program,
            arguments: vec!["inf"],
            chains: chains.iter().map(|chain| chain.to_vec()).collect(),
            rare: Vec::new(),
            roots: "_start",
            options: &[],
            hertz: HERTZ,
            reaching: 99.9,
            whole: own_percent(95.0),
        }
    }

    pub(crate) fn argument(mut self, argument: &'static str) -> Self {
        self.arguments.push(argument);
        self
    }

    /// It may be in this chain too, and need not.
    pub(crate) fn rarely(mut self, chain: &[&'static str]) -> Self {
        self.rare.push(chain.to_vec());
        self
    }

    /// It is sampled less often: stacks this deep take an unoptimized build too long.
    pub(crate) fn deep(mut self) -> Self {
        self.hertz = HERTZ / 4;
        self
    }

    /// Complete stacks begin in one of these, separated by `|`.
    pub(crate) fn rooted_in(mut self, roots: &'static str) -> Self {
        self.roots = roots;
        self
    }

    /// So much of its time reaches the bottom marker, at least: other threads have some of it.
    pub(crate) fn reaching(mut self, percent: f64) -> Self {
        self.reaching = own_percent(percent);
        self
    }

    /// So much of its time is spent in whole chains, at least.
    pub(crate) fn whole(mut self, percent: f64) -> Self {
        self.whole = own_percent(percent);
        self
    }

    /// Its work is done by processes that begin and end all the time: the time of their loading and
    /// of their end is no chain's.
    pub(crate) fn of_processes(mut self) -> Self {
        self.options = &["--follow"];
        self.reaching = 70.0;
        self.whole = 60.0;
        self
    }

    /// Records the fixture. `Err` tells all that is not as known.
    #[track_caller]
    pub(crate) fn check(&self, walker: &str) -> Result<(), String> {
        let fixture = Fixture::start_with(self.program, &self.arguments);
        let recorded = self.record(&fixture, walker);
        let flaws = self.flaws(&recorded);
        if flaws.is_empty() {
            return Ok(());
        }
        Err(format!(
            "{} {:?} by {walker}: {}\n{:?}\n{}",
            self.program,
            self.arguments,
            flaws.join("; "),
            recorded.receipt,
            self.suspects(&recorded.folded)
        ))
    }

    #[track_caller]
    fn record(&self, fixture: &Fixture, walker: &str) -> Recorded {
        let pid = fixture.pid_text();
        let mut arguments = vec!["--pid", &pid, "--walker", walker, "--no-inlines"];
        arguments.extend(self.options);
        record(self.hertz, SECONDS, &arguments)
    }

    fn flaws(&self, recorded: &Recorded) -> Vec<String> {
        let mut flaws = self.flaws_of_stacks(&recorded.folded);
        let calls = CallSites::of_file(&recorded.folder.path().join("cpu.pb.gz"));
        let kept = recorded.receipt.kept;
        flaws.extend(wrong_calls(&calls, kept));
        // With two frames there is nothing between the innermost and the outermost.
        let has_callers = self.chains.iter().all(|chain| chain.len() > 2);
        if has_callers && calls.right < kept / 3 {
            flaws.push(format!("{} calls checked", calls.right));
        }
        flaws
    }

    fn flaws_of_stacks(&self, folded: &Folded) -> Vec<String> {
        let mut flaws = Vec::new();
        let mut require = |holds: bool, flaw: String| {
            if !holds {
                flaws.push(flaw);
            }
        };
        let kept = folded.total();
        require(kept >= LEAST_SAMPLES, format!("{kept} samples"));
        let cut = folded.count(|stack| without_cut(stack).len() < stack.user().len());
        let enough = cut <= allowed(kept, COMPLETE);
        require(enough, format!("{cut} of {kept} are cut"));
        let count = |verdict| folded.count(|stack| self.verdict(stack) == verdict);
        let (whole, part) = (count(Verdict::Whole), count(Verdict::Part));
        let share = percent(whole, kept);
        require(share >= self.whole, format!("{share:.2} % whole chains"));
        let reaching = whole + part;
        let missing = kept - reaching.min(kept);
        require(
            missing <= allowed(kept, self.reaching),
            format!("{reaching} of {kept} reach the bottom marker"),
        );
        let wrong = count(Verdict::False);
        require(wrong <= allowed(kept, 99.9), format!("{wrong} are wrong"));
        for chain in &self.chains {
            let found = folded.count(|stack| starts_with(self.tail(without_cut(stack)), chain));
            let shown = chain
                .iter()
                .take(6)
                .copied()
                .collect::<Vec<_>>()
                .join(" > ");
            require(percent(found, kept) >= 2.0, format!("{found} of {shown}"));
        }
        let rootless = folded.count(|stack| self.is_rootless(stack));
        let few = rootless <= allowed(kept, 99.9);
        require(few, format!("{rootless} begin elsewhere"));
        let unknown = folded.count(|stack| stack.has("[unknown]"));
        let few = unknown <= allowed(kept, 99.9);
        require(few, format!("{unknown} have unknown frames"));
        flaws
    }

    /// The part of a recording that is this fixture's, by its name.
    fn part_of(&self, folded: &Folded) -> Folded {
        let (_, name) = self.program.rsplit_once('/').unwrap_or(("", self.program));
        let comm = &name[..name.len().min(COMM_BYTES)];
        let own = folded.0.iter().filter(|stack| stack.comm == comm);
        Folded(own.cloned().collect())
    }

    /// A stack is said to be complete and reaches the marker, but does not begin where it should.
    fn is_rootless(&self, stack: &Stack) -> bool {
        let user = stack.user();
        let complete = without_cut(stack).len() == user.len();
        let reaches = matches!(self.verdict(stack), Verdict::Whole | Verdict::Part);
        complete && reaches && !user.first().is_some_and(|frame| is(frame, self.roots))
    }

    fn verdict(&self, stack: &Stack) -> Verdict {
        let user = without_cut(stack);
        let tail = self.tail(user);
        let (before, owned) = (user.len() - tail.len(), |frame: &String| self.owns(frame));
        if user[..before].iter().any(owned) {
            return Verdict::False;
        }
        if tail.is_empty() {
            return Verdict::Foreign;
        }
        let agreeing = |chain: &Vec<&str>| {
            let pairs = tail.iter().zip(chain.iter());
            pairs.take_while(|(frame, names)| is(frame, names)).count()
        };
        // One chain may be the start of another.
        let best = |chain: &Vec<&str>| (agreeing(chain), agreeing(chain) == chain.len());
        let chains = self.chains.iter().chain(&self.rare);
        let Some((frames, is_whole)) = chains.map(best).max() else {
            return Verdict::False;
        };
        if tail[frames..].iter().any(owned) {
            Verdict::False
        } else if is_whole {
            Verdict::Whole
        } else {
            Verdict::Part
        }
    }

    /// The frames from the bottom marker on; none without it.
    fn tail<'a>(&self, user: &'a [String]) -> &'a [String] {
        let is_marker = |frame: &String| self.chains.iter().any(|chain| is(frame, chain[0]));
        let start = user.iter().position(is_marker).unwrap_or(user.len());
        &user[start..]
    }

    /// Whether a function is the fixture's own.
    fn owns(&self, frame: &str) -> bool {
        let mut names = self.chains.iter().flatten();
        names.any(|names| !names.starts_with('~') && is(frame, names))
    }

    /// The commonest stacks that are wrong, and the commonest that are no whole chain or are cut.
    fn suspects(&self, folded: &Folded) -> String {
        let is_wrong =
            |stack: &&Stack| self.verdict(stack) == Verdict::False || self.is_rootless(stack);
        let is_poor = |stack: &&Stack| {
            !is_wrong(stack)
                && (self.verdict(stack) != Verdict::Whole
                    || without_cut(stack).len() < stack.user().len())
        };
        let wrong = Folded(folded.0.iter().filter(is_wrong).cloned().collect()).text();
        let poor = Folded(folded.0.iter().filter(is_poor).cloned().collect()).text();
        let mut text = format!("wrong:\n{wrong}poor:\n{poor}");
        // A deep stack makes a long line.
        text.truncate(text.floor_char_boundary(6000));
        text
    }
}

/// Records fixtures of different names together, until there are enough samples: on a slow host the
/// programs are loaded once for all. `Err` tells all that is not as known.
#[track_caller]
pub(crate) fn check_together(all: &[Known], walker: &str) -> Result<(), String> {
    let start = |known: &Known| {
        let fixture = Fixture::start_with(known.program, &known.arguments);
        fixture.wait_until_busy();
        // Until the recording is under way, the CPUs are for that.
        fixture.signal(Signal::STOP);
        fixture
    };
    let fixtures: Vec<Fixture> = all.iter().map(start).collect();
    let pids: Vec<String> = fixtures.iter().map(Fixture::pid_text).collect();
    let mut recording = Recording::new(HERTZ, None).args(&["--pid", &pids.join(",")]);
    recording = recording.args(&["--walker", walker, "--no-inlines"]);
    let mut running = recording.start();
    running.wait_until_sampling();
    let before = runs_of(running.pid());
    for fixture in &fixtures {
        fixture.signal(Signal::CONT);
    }
    let count = u64::try_from(all.len()).expect("a few") * SAMPLES_EACH;
    running.wait_for_runs(before + count);
    for fixture in &fixtures {
        fixture.signal(Signal::STOP);
    }
    running.signal(Signal::INT);
    let recorded = recording.take(running.finish());
    let mut failed = Vec::new();
    let receipt = &recorded.receipt;
    if receipt.cut > allowed(receipt.kept, 99.9) {
        failed.push(format!("{} of {} are cut", receipt.cut, receipt.kept));
    }
    // The kernel's side of system calls is there, from their entry on.
    let read = |stack: &Stack| stack.calls(&["serve", "read_loop"]);
    let enters = |stack: &Stack| read(stack) && stack.has("vfs_read_[k]");
    let inside = percent(recorded.folded.count(enters), recorded.folded.count(read));
    if inside < 60.0 {
        failed.push(format!("{inside:.1} % of the reads show vfs_read"));
    }
    for known in all {
        let part = known.part_of(&recorded.folded);
        let flaws = known.flaws_of_stacks(&part).join("; ");
        if !flaws.is_empty() {
            let suspects = known.suspects(&part);
            failed.push(format!(
                "{} by {walker}: {flaws}\n{suspects}",
                known.program
            ));
        }
    }
    let calls = CallSites::of_file(&recorded.folder.path().join("cpu.pb.gz"));
    failed.extend(wrong_calls(&calls, recorded.receipt.kept));
    if failed.is_empty() {
        return Ok(());
    }
    Err(format!("{:?}\n{}", recorded.receipt, failed.join("\n")))
}

/// What is wrong with callers that make no call.
fn wrong_calls(calls: &CallSites, kept: u64) -> Option<String> {
    let CallSites {
        wrong_samples,
        wrong,
        ..
    } = calls;
    let few = *wrong_samples <= allowed(kept, 99.9);
    (!few).then(|| format!("{wrong_samples} have callers that make no call: {wrong:?}"))
}

/// The user frames without the one that tells why the stack is cut.
pub(crate) fn without_cut(stack: &Stack) -> &[String] {
    let user = stack.user();
    let cut = user
        .first()
        .is_some_and(|frame| frame.starts_with("[cut: "));
    &user[usize::from(cut)..]
}

/// Whether a frame has one of these names.
fn is(frame: &str, names: &str) -> bool {
    let names = names.strip_prefix('~').unwrap_or(names);
    names.split('|').any(|name| name == frame)
}

fn starts_with(frames: &[String], chain: &[&str]) -> bool {
    frames.len() >= chain.len()
        && frames
            .iter()
            .zip(chain)
            .all(|(frame, names)| is(frame, names))
}

/// How many samples of a number may miss what so many percent must have: one always may.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "counts of samples are far below 2^52, and percentages between 0 and 100"
)]
fn allowed(samples: u64, least_percent: f64) -> u64 {
    ((samples as f64 * (100.0 - least_percent) / 100.0).round() as u64).max(1)
}

#[test]
fn a_stack_is_held_against_the_chains() {
    let read = "~read|[libc.so.6]";
    let known = Known::new("none", &[&["main", "idle"], &["main", "run", read, "leaf"]]);
    let check = |line: &str, expected: Verdict| {
        let folded = Folded::parse(&format!("none;{line} 1\n"));
        assert_eq!(known.verdict(&folded.0[0]), expected, "{line}");
    };
    check("_start;main;run;read;leaf", Verdict::Whole);
    check("_start;main;run;[libc.so.6];leaf;write", Verdict::Whole);
    check("_start;main;run;write;close", Verdict::Part);
    check("_start;main;idle", Verdict::Whole);
    check("_start;write", Verdict::Foreign);
    check("[cut: too deep];leaf", Verdict::False);
    check("_start;main;leaf", Verdict::False);
    check("_start;run;main", Verdict::False);
    check("_start;main;run;read;leaf;run", Verdict::False);
    let nested = Known::new("none", &[&["main", "run"], &["main", "run", read, "leaf"]]);
    let folded = Folded::parse("none;main;run 1\nnone;main;run;read;leaf 1\n");
    for stack in &folded.0 {
        assert_eq!(nested.verdict(stack), Verdict::Whole);
    }
    assert_eq!((allowed(2000, 99.9), allowed(10, 99.9)), (2, 1));
}
