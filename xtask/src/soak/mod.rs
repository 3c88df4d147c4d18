//! `cargo xtask soak`: records the whole host for long, while processes come and go, and checks that
//! the account is exact, that nothing is lost, and that memory, descriptors and threads are flat.
//!
//! [`churn`] is what comes and goes, [`flat`] says what flat is. A profile has a line for each stack
//! and label set, and so grows with what it has seen. The run labels samples by comm alone: with a
//! pid among the labels each new process would be a new line.

mod churn;
mod flat;

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{
    bench::{
        self, host,
        recording::{FREQUENCY, Recorded, Recording},
        report::{Markdown, figure, mebibytes},
    },
    fixtures,
    process::is_root,
    section::{Report, Section},
    vitals::Vitals,
    workspace::Workspace,
};

use churn::Churn;
use flat::{FEWEST, MEASURES, Measure, Unit};

/// What it writes.
const SECTION: Section = Section {
    document: "docs/reliability.md",
    command: "cargo xtask soak --write",
};
/// The profile, and the same as text with a line for each stack of names.
const PROFILE: &str = "soak.pb.gz";
const STACKS: &str = "soak.folded";
/// How often the recording is looked at.
const PERIOD: Duration = Duration::from_secs(1);
/// Before its end no reading is taken any more: it might be of the naming.
const BEFORE_END: Duration = Duration::from_secs(1);
/// Readings between two words of progress.
const PROGRESS: usize = 30;

/// What was seen.
struct Soak {
    readings: Vec<Vitals>,
    recorded: Recorded,
    /// Processes that came to be meanwhile.
    made: u64,
    profile_bytes: u64,
    stacks: u64,
}

/// Records for so many seconds.
pub(crate) fn run(
    workspace: &Workspace,
    seconds: u32,
    binary: Option<PathBuf>,
    report: Report,
) -> Result<()> {
    if !is_root() {
        bail!("a recording of the whole host needs root: sudo -E cargo xtask soak");
    }
    fixtures::build(workspace)?;
    let ebpfprof = bench::build(workspace, binary)?;
    let head = head(&ebpfprof, seconds)?;
    let soak = soak(workspace, &ebpfprof, seconds)?;
    let text = format!("{head}\n{}\n{}", soak.facts(), soak.table());
    println!("{text}");
    let flaws = soak.flaws();
    if !flaws.is_empty() {
        bail!("{}", flaws.join("; "));
    }
    match report {
        Report::Printed => Ok(()),
        Report::Written => SECTION.write(workspace, text.trim_end()),
    }
}

/// What was run, and where.
fn head(ebpfprof: &Path, seconds: u32) -> Result<String> {
    let lines = [
        format!("- {}", host::machine()?),
        format!(
            "- {}, whole host at {FREQUENCY} Hz for {seconds} s",
            host::version(ebpfprof)?
        ),
        format!("- beside it, again and again: {}", churn::names()),
        format!("- {}", host::load()),
    ];
    Ok(lines.join("\n"))
}

/// Records, and looks at the recording each second.
fn soak(workspace: &Workspace, ebpfprof: &Path, seconds: u32) -> Result<Soak> {
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let mut churn = Churn::start(workspace)?;
    let options = ["--strict", "--labels", "comm", "-o", PROFILE, "-o", STACKS];
    let started = Instant::now();
    let end = started + Duration::from_secs(u64::from(seconds)) - BEFORE_END;
    let mut recording = Recording::start(ebpfprof, seconds, &options, folder.path())?;
    let mut readings = Vec::new();
    while Instant::now() < end && recording.ended()?.is_none() {
        churn.tend()?;
        readings.push(recording.vitals()?);
        if readings.len() % PROGRESS == 0 {
            tell_progress(&readings, started.elapsed(), seconds);
        }
        thread::sleep(PERIOD);
    }
    let made = churn.made()?;
    let recorded = recording.finish()?;
    drop(churn);
    let [profile, stacks] = [PROFILE, STACKS].map(|name| folder.path().join(name));
    Ok(Soak {
        readings,
        recorded,
        made,
        profile_bytes: fs::metadata(&profile).map_or(0, |meta| meta.len()),
        stacks: line_count(&stacks)?,
    })
}

/// Says how far it is, and the last reading.
fn tell_progress(readings: &[Vitals], elapsed: Duration, seconds: u32) {
    let Some(last) = readings.last() else {
        return;
    };
    let words: Vec<String> = MEASURES
        .iter()
        .map(|measure| format!("{} {}", measure.name, measure.unit.show((measure.of)(last))))
        .collect();
    let elapsed = elapsed.as_secs();
    eprintln!("soak: {elapsed} of {seconds} s: {}", words.join("; "));
}

fn line_count(path: &Path) -> Result<u64> {
    let file = fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(BufReader::new(file).split(b'\n').count() as u64)
}

impl Soak {
    /// Everything that is wrong.
    fn flaws(&self) -> Vec<String> {
        let mut flaws: Vec<String> = self.recorded.flaw().into_iter().collect();
        if self.readings.len() < FEWEST {
            let count = self.readings.len();
            flaws.push(format!("{count} readings are too few, {FEWEST} at least"));
        }
        flaws.extend(MEASURES.iter().filter_map(|measure| self.growth(measure)));
        flaws
    }

    /// That a measure is not flat, in words.
    fn growth(&self, measure: &Measure) -> Option<String> {
        let course = measure.course(&self.readings)?;
        let most = measure.most(course.middle);
        (!measure.is_flat(course)).then(|| {
            let [middle, last, most] =
                [course.middle, course.last, most].map(|n| measure.unit.show(n));
            format!(
                "{} grew: {middle} in the middle third, {last} in the last, allowed {most}",
                measure.name
            )
        })
    }

    /// The receipt and the profile, as a list.
    fn facts(&self) -> String {
        let Recorded {
            account, receipt, ..
        } = &self.recorded;
        let exact = account.flaw().unwrap_or_else(|| "exact".to_owned());
        let lines = [
            format!("- {} processes and threads came to be meanwhile", self.made),
            format!(
                "- account {exact}: ticks {}, due {}, missed {}, lost {} (by cause: {})",
                account.ticks,
                account.due,
                account.missed,
                account.lost,
                account.losses()
            ),
            format!(
                "- {} % of the stacks complete (cut: {}); {} % of one CPU, {} µs of BPF a sample",
                figure(receipt.complete_percent(), 2),
                account.cuts(),
                figure(receipt.percent, 2),
                figure(receipt.bpf_us, 1)
            ),
            format!(
                "- the profile: {} stacks of names, {:.1} MiB compressed; {} MiB resident at most, naming and writing included",
                self.stacks,
                mebibytes(self.profile_bytes),
                figure(receipt.resident_mib, 0)
            ),
        ];
        lines.join("\n") + "\n"
    }

    /// The course of each measure.
    fn table(&self) -> Markdown {
        let mut table = Markdown::with_columns(&[
            "median of each third",
            "first",
            "middle",
            "last",
            "last may reach",
            "flat",
            "greatest of all",
        ]);
        for measure in &MEASURES {
            let Some(course) = measure.course(&self.readings) else {
                continue;
            };
            let verdict = match measure.is_flat(course) {
                true => "yes",
                false => "no",
            };
            let most = measure.most(course.middle);
            let numbers = [course.first, course.middle, course.last, most];
            let mut cells = vec![measure.name.to_owned()];
            cells.extend(numbers.map(|number| measure.unit.show(number)));
            cells.extend([verdict.to_owned(), measure.unit.show(course.greatest)]);
            table.push(cells);
        }
        table
    }
}

impl Unit {
    fn show(self, number: u64) -> String {
        match self {
            Self::Bytes => format!("{:.1}", mebibytes(number)),
            Self::Pieces => number.to_string(),
        }
    }
}
