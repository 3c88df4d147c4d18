//! speedscope's own format: one profile for each thread, its samples in the order of time.
//!
//! Its reader of pprof shows no inlined calls and one kind of value, so it gets its own. It counts
//! times by frame, not by function, so each function is one frame, by the line that it starts at.
//!
//! Source: <https://www.speedscope.app/file-format-schema.json>.

use std::io::{self, Write};

use serde::Serialize;

use super::{
    about,
    frames::Function,
    tracks::{Event, Track, Tracks},
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
    let function_of = |frame: &usize| tracks.frames.frames[*frame].function;
    let stacks: Vec<Vec<usize>> = (tracks.stacks.iter())
        .map(|stack| stack.iter().map(function_of).collect())
        .collect();
    let mut profiles: Vec<Sampled<'_>> = tracks
        .tracks
        .iter()
        .map(|track| sampled(profile, &stacks, track))
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
            frames: tracks.frames.functions.iter().map(frame).collect(),
        },
        profiles,
    };
    serde_json::to_writer(&mut *out, &file)?;
    out.write_all(b"\n")
}

fn frame<'a>(function: &'a Function<'_>) -> Frame<'a> {
    if function.file.is_empty() {
        return Frame {
            name: &function.name,
            file: &function.object,
            line: None,
        };
    }
    Frame {
        name: &function.name,
        file: &function.file,
        line: (function.start_line != 0).then_some(function.start_line),
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

/// `stacks` are those of the tracks, by their functions.
fn sampled<'a>(profile: &Profile, stacks: &'a [Vec<usize>], track: &Track<'_>) -> Sampled<'a> {
    let mut sampled = Sampled::new(profile, track.title());
    // Idle time has no place here: samples follow each other, each for as long as it stands for.
    let same = |a: &Event, b: &Event| stacks[a.stack] == stacks[b.stack];
    for events in track.events.chunk_by(same) {
        let count = events
            .iter()
            .fold(0_u64, |sum, event| sum.saturating_add(event.count));
        let weight = profile.weight(count);
        sampled.samples.push(&stacks[events[0].stack]);
        sampled.weights.push(weight);
        sampled.end = sampled.end.saturating_add(weight);
    }
    sampled
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{self, FrameKind, StringId};

    #[test]
    fn a_function_is_one_frame_whatever_its_lines_are() {
        let mut profile = Profile::cpu(10);
        let [name, file] = ["spin", "/src/spin.c"].map(|text| profile.string(text));
        let function = profile.function(profile::Function {
            name,
            system_name: StringId::EMPTY,
            file,
            start_line: 3,
        });
        for line in [4, 5] {
            let location = profile.location(FrameKind::User, None, u64::from(line));
            let line = profile::Line {
                function,
                line,
                column: 0,
            };
            profile.set_lines(location, vec![line]);
            profile.add(&[location], &[], 1);
        }
        let mut bytes = Vec::new();
        write(&profile, &mut bytes).unwrap();
        let file: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        let frame = serde_json::json!([{"name": "spin", "file": "/src/spin.c", "line": 3}]);
        assert_eq!(file["shared"]["frames"], frame);
        assert_eq!(file["profiles"][0]["samples"], serde_json::json!([[0]]));
        assert_eq!(file["profiles"][0]["weights"], serde_json::json!([20]));
    }
}
