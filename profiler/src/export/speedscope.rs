//! speedscope's own format: one profile for each thread, its samples in the order of time.
//!
//! Its reader of pprof shows no inlined calls and one kind of value, so it gets its own.
//!
//! Source: <https://www.speedscope.app/file-format-schema.json>.

use std::io::{self, Write};

use serde::Serialize;

use super::{
    about, frames,
    tracks::{Track, Tracks},
};
use crate::profile::Profile;

/// Units that speedscope knows. A number in any other is shown as it is.
const UNITS: [&str; 5] = [
    "nanoseconds",
    "microseconds",
    "milliseconds",
    "seconds",
    "bytes",
];

#[derive(Serialize)]
struct File<'a> {
    #[serde(rename = "$schema")]
    schema: &'a str,
    exporter: &'a str,
    name: &'a str,
    #[serde(rename = "activeProfileIndex")]
    active_profile: usize,
    shared: Shared<'a>,
    profiles: Vec<Sampled<'a>>,
}

#[derive(Serialize)]
struct Shared<'a> {
    frames: Vec<Frame<'a>>,
}

#[derive(Serialize)]
struct Frame<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    file: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    col: Option<u32>,
}

/// The samples of one thread.
#[derive(Serialize)]
struct Sampled<'a> {
    r#type: &'a str,
    name: String,
    unit: &'a str,
    #[serde(rename = "startValue")]
    start: u64,
    #[serde(rename = "endValue")]
    end: u64,
    /// Positions in `shared.frames`, outermost first.
    samples: Vec<&'a [usize]>,
    weights: Vec<u64>,
}

/// Writes the profile as a file for speedscope.
///
/// # Errors
/// What `out` refused.
pub fn write(profile: &Profile, out: &mut dyn Write) -> io::Result<()> {
    let tracks = Tracks::of(profile);
    let mut profiles: Vec<Sampled<'_>> = tracks
        .tracks
        .iter()
        .map(|track| sampled(profile, &tracks, track))
        .collect();
    if profiles.is_empty() {
        // A file without profiles is refused.
        profiles.push(Sampled::new(profile, "no samples".to_owned()));
    }
    let file = File {
        schema: "https://www.speedscope.app/file-format-schema.json",
        exporter: about::EXPORTER,
        name: &about::title(profile),
        active_profile: 0,
        shared: Shared {
            frames: (0..tracks.frames.frames.len())
                .map(|at| frame(&tracks.frames, at))
                .collect(),
        },
        profiles,
    };
    serde_json::to_writer(&mut *out, &file)?;
    out.write_all(b"\n")
}

fn frame<'a>(frames: &'a frames::Frames<'_>, at: usize) -> Frame<'a> {
    let function = frames.function_of(at);
    let told = frames.frames[at];
    let known = |number: u32| (number != 0).then_some(number);
    if function.file.is_empty() {
        return Frame {
            name: &function.name,
            file: &function.object,
            line: None,
            col: None,
        };
    }
    Frame {
        name: &function.name,
        file: &function.file,
        line: known(told.line),
        col: known(told.column),
    }
}

impl Sampled<'_> {
    fn new(profile: &Profile, name: String) -> Self {
        let unit = &*profile.weight_type().unit;
        Self {
            r#type: "sampled",
            name,
            unit: UNITS
                .into_iter()
                .find(|known| *known == unit)
                .unwrap_or("none"),
            start: 0,
            end: 0,
            samples: Vec::new(),
            weights: Vec::new(),
        }
    }
}

fn sampled<'a>(profile: &Profile, tracks: &'a Tracks<'_>, track: &Track<'_>) -> Sampled<'a> {
    let mut sampled = Sampled::new(profile, track.title());
    // Idle time has no place here: samples follow each other, each for as long as it stands for.
    for events in track.events.chunk_by(|a, b| a.stack == b.stack) {
        let count = events
            .iter()
            .fold(0_u64, |sum, event| sum.saturating_add(event.count));
        let weight = profile.weight(count);
        sampled.samples.push(&tracks.stacks[events[0].stack]);
        sampled.weights.push(weight);
        sampled.end = sampled.end.saturating_add(weight);
    }
    sampled
}
