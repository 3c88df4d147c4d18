//! `ebpfprof explain`: why frames of a profile have no name or no line, and what would mend it.
//!
//! In: a pprof file. What a recording knew stands in its comments; of files without them only what
//! has no name is told. Out: two tables on stdout, or JSON. The objects are looked at as they are on
//! this host now: what was missing may be there by now.

use std::{
    fmt::Write as _,
    fs::File,
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use serde::Serialize;

use super::{args::ExplainArgs, start_log, tell, trouble::Trouble};
use crate::{
    export::{Nameless, ReadBack, ReadBackError, read_back},
    object::{Object, open_regular},
    symbolize::{LineSource, SymbolSources, symbol_sources},
    unnamed::{Cause, Entry, Gaps, NoLines, Place, Reason, Table},
};

/// What is looked for in an object's file now.
type Wanted = fn(&SymbolSources) -> bool;

/// Explains a profile. What it shows is its result and goes to stdout.
pub(super) fn run(args: &ExplainArgs) -> Result<ExitCode, Trouble> {
    start_log(args.verbose);
    let file = read(&args.file)?;
    let gaps = Gaps::of_comments(file.comments.iter().map(String::as_str));
    if gaps.is_none() && !file.nameless.is_empty() {
        tell(
            "the file does not tell why: those of other profilers and of an older ebpfprof do not",
        );
    }
    let explained = Explained::of(&file, gaps.as_ref());
    let text = if args.json {
        serde_json::to_string_pretty(&explained).expect("texts and numbers become JSON") + "\n"
    } else {
        explained.text()
    };
    match io::stdout().lock().write_all(text.as_bytes()) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        // Whoever read it has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        Err(error) => Err(Trouble::failure(
            "cannot write to stdout",
            error.to_string(),
            "ebpfprof explain FILE > why.txt, where there is room",
        )),
    }
}

fn read(path: &Path) -> Result<ReadBack, Trouble> {
    let trouble = |why: String, advice: &str| {
        Trouble::failure(format!("cannot explain {}", path.display()), why, advice)
    };
    let other = "ebpfprof explain FILE, with a profile that you can read";
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_dir() => return Err(trouble("it is a folder".to_owned(), other)),
        Ok(_) => {}
        Err(error) => return Err(trouble(error.to_string(), other)),
    }
    let file = File::open(path).map_err(|error| trouble(error.to_string(), other))?;
    read_back(file).map_err(|error| {
        let advice = match error {
            ReadBackError::CutOff => "copy it once more, or record it again",
            ReadBackError::NotPprof => {
                "ebpfprof -o profile.pb.gz, then ebpfprof explain profile.pb.gz"
            }
            ReadBackError::Read(_) => other,
            ReadBackError::TooLarge => "a profile of fewer processes, or of a shorter time",
        };
        trouble(error.to_string(), advice)
    })
}

/// All there is to say.
#[derive(Debug, Serialize)]
struct Explained {
    /// Whether the file tells the reasons.
    told: bool,
    samples: u64,
    frames: u64,
    unnamed_frames: u64,
    unnamed: Vec<Row>,
    unnamed_more: More,
    lineless_frames: u64,
    lineless: Vec<Row>,
    lineless_more: More,
}

/// What stands in no row.
#[derive(Debug, Default, Serialize)]
struct More {
    frames: u64,
    places: u64,
}

/// One place.
#[derive(Debug, Serialize)]
struct Row {
    frames: u64,
    samples: u64,
    /// Samples in percent of all.
    percent: f64,
    place: String,
    build_id: Option<String>,
    why: String,
    /// One way or another, the likeliest first.
    #[serde(rename = "try")]
    advice: Vec<String>,
    /// Whether it was mended since.
    mended: bool,
}

impl Explained {
    fn of(file: &ReadBack, gaps: Option<&Gaps>) -> Self {
        let Some(gaps) = gaps else {
            let rows = file.nameless.iter().map(|it| untold(it, file.samples));
            return Self {
                told: false,
                samples: file.samples,
                frames: file.frames,
                unnamed_frames: file.nameless.iter().map(|it| it.frames).sum(),
                unnamed: rows.collect(),
                unnamed_more: More::default(),
                lineless_frames: 0,
                lineless: Vec::new(),
                lineless_more: More::default(),
            };
        };
        let Gaps { unnamed, lineless } = gaps;
        let named = |entry: &Entry<Reason>| {
            told(entry, entry.advice(), file.samples, |found| {
                found.names.is_whole()
            })
        };
        let lined = |entry: &Entry<NoLines>| {
            told(entry, entry.advice(), file.samples, |found| {
                found.lines != LineSource::Nothing
            })
        };
        Self {
            told: true,
            samples: file.samples,
            frames: unnamed.of_frames,
            unnamed_frames: unnamed.frames(),
            unnamed: unnamed.entries.iter().map(named).collect(),
            unnamed_more: More::of(unnamed),
            lineless_frames: lineless.frames(),
            lineless: lineless.entries.iter().map(lined).collect(),
            lineless_more: More::of(lineless),
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        if self.unnamed_frames == 0 {
            let _ = writeln!(text, "every frame has a name ({} frames)", self.frames);
        } else {
            let (unnamed, frames) = (self.unnamed_frames, self.frames);
            let _ = writeln!(text, "{unnamed} of {frames} frames have no name:\n");
            write_rows(&self.unnamed, &self.unnamed_more, &mut text);
        }
        if self.lineless_frames > 0 {
            let (lineless, frames) = (self.lineless_frames, self.frames);
            let _ = writeln!(
                text,
                "\n{lineless} of {frames} frames have a name and no line:\n"
            );
            write_rows(&self.lineless, &self.lineless_more, &mut text);
        }
        if self.told && self.unnamed_frames + self.lineless_frames > 0 {
            text.push_str("\nWhat is mended shows in the next recording.\n");
        }
        text
    }
}

impl More {
    fn of<C>(table: &Table<C>) -> Self {
        Self {
            frames: table.more_frames,
            places: table.more_places,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
fn percent(samples: u64, of: u64) -> f64 {
    (1000.0 * samples as f64 / of.max(1) as f64).round() / 10.0
}

/// A place whose reason is known.
fn told<C: Cause>(entry: &Entry<C>, advice: Vec<String>, samples: u64, wanted: Wanted) -> Row {
    let mended = is_mended(entry, wanted);
    let advice = if mended {
        vec!["record again: what was missing is there now".to_owned()]
    } else {
        advice
    };
    Row {
        frames: entry.frames,
        samples: entry.samples,
        percent: percent(entry.samples, samples),
        place: entry.place.to_string(),
        build_id: entry.build_id.clone(),
        why: entry.cause.to_string(),
        advice,
        mended,
    }
}

/// A place whose reason nobody told.
fn untold(nameless: &Nameless, samples: u64) -> Row {
    Row {
        frames: nameless.frames,
        samples: nameless.samples,
        percent: percent(nameless.samples, samples),
        place: nameless.path.clone(),
        build_id: nameless.build_id.clone(),
        why: "not told by the file".to_owned(),
        advice: vec!["record it with this ebpfprof, and explain that profile".to_owned()],
        mended: false,
    }
}

/// Whether the same object is on this host now, with what was missing.
fn is_mended<C: Cause>(entry: &Entry<C>, wanted: Wanted) -> bool {
    let (Place::Object(path), Some(build_id)) = (&entry.place, &entry.build_id) else {
        return false;
    };
    if !entry.cause.is_mended_by_files() {
        return false;
    }
    let Ok(file) = open_regular(Path::new(path)) else {
        return false;
    };
    let object = Object::of_file(path, file);
    object.build_id.as_ref() == Some(build_id)
        && symbol_sources(&object).as_ref().is_some_and(wanted)
}

/// What stands before the ways to mend something.
const WORDS: [&str; 4] = ["try", " or", " or", " or"];

fn write_rows(rows: &[Row], more: &More, text: &mut String) {
    let _ = writeln!(
        text,
        "{:>10} {:>8}  where, why, and what mends it",
        "frames", "samples"
    );
    for row in rows {
        let _ = writeln!(
            text,
            "{:>10} {:>7.1}%  {}",
            row.frames, row.percent, row.place
        );
        let _ = write!(text, "{:21}why: {}", "", row.why);
        if let Some(build_id) = &row.build_id {
            let _ = write!(text, " (build id {build_id})");
        }
        let _ = writeln!(text);
        for (way, word) in row.advice.iter().zip(WORDS) {
            let _ = writeln!(text, "{:21}{word}: {way}", "");
        }
    }
    if more.places > 0 {
        let _ = writeln!(
            text,
            "{:>10} {:>8}  in {} other places",
            more.frames, "", more.places
        );
    }
}
