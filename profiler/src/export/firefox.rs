//! The Firefox Profiler's processed profile, compressed by gzip: processes and threads over time.
//!
//! Its readers take every version of the format and bring older ones up to date; this is the
//! oldest in which threads share their tables. Functions have their names already, so objects
//! are told by path alone and nothing is looked up.
//!
//! Where no time is known, samples follow each other, and the name of the product says so.
//!
//! Source: `docs-developer/processed-profile-format.md` and `CHANGELOG-formats.md` of
//! github.com/firefox-devtools/profiler.

mod tables;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
};

use flate2::{Compression, write::GzEncoder};
use serde::Serialize;

use super::{
    about,
    frames::Shown,
    tracks::{Order, Track, Tracks},
};
use crate::profile::{Profile, Values};
use tables::{Lib, Shared};

const VERSION: u32 = 60;
/// That of the format that Firefox itself writes, which readers want to see. Ours says nothing that
/// depends on it.
const GECKO_VERSION: u32 = 36;

/// What a kind of frame is called, and its colour of those that the reader knows.
const fn category(shown: Shown) -> (&'static str, &'static str) {
    match shown {
        Shown::User => ("User", "yellow"),
        Shown::Kernel => ("Kernel", "orange"),
        Shown::Jit => ("JIT", "green"),
        Shown::Inlined => ("Inlined", "lightblue"),
        // The reader needs a grey one, for what has no category.
        Shown::Marker => ("Other", "grey"),
    }
}

#[derive(Serialize)]
struct File<'a> {
    meta: Meta<'a>,
    libs: Vec<Lib<'a>>,
    shared: Shared<'a>,
    threads: Vec<Thread<'a>>,
    pages: [(); 0],
    counters: [(); 0],
    #[serde(rename = "profilerOverhead")]
    profiler_overhead: [(); 0],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Meta<'a> {
    interval: f64,
    start_time: f64,
    profiling_start_time: f64,
    profiling_end_time: f64,
    process_type: u32,
    product: String,
    imported_from: &'a str,
    oscpu: &'a str,
    stackwalk: u32,
    version: u32,
    preprocessed_profile_version: u32,
    symbolicated: bool,
    uses_only_one_stack_type: bool,
    source_code_is_not_on_searchfox: bool,
    keep_profile_thread_order: bool,
    categories: Vec<Category<'a>>,
    marker_schema: [(); 0],
    sample_units: Units<'a>,
    extra: Vec<Section<'a>>,
}

#[derive(Serialize)]
struct Category<'a> {
    name: &'a str,
    color: &'a str,
    subcategories: [&'a str; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Units<'a> {
    time: &'a str,
    event_delay: &'a str,
    #[serde(rename = "threadCPUDelta")]
    thread_cpu_delta: &'a str,
}

/// Part of what the reader shows about a profile.
#[derive(Serialize)]
struct Section<'a> {
    label: &'a str,
    entries: Vec<Entry>,
}

#[derive(Serialize)]
struct Entry {
    label: String,
    format: &'static str,
    value: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Thread<'a> {
    process_type: &'a str,
    process_startup_time: f64,
    process_shutdown_time: Option<f64>,
    register_time: f64,
    unregister_time: Option<f64>,
    paused_ranges: [(); 0],
    name: &'a str,
    is_main_thread: bool,
    process_name: &'a str,
    pid: String,
    tid: String,
    samples: Samples<'a>,
    markers: Markers,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Samples<'a> {
    length: usize,
    stack: Vec<usize>,
    time: Vec<f64>,
    weight: Vec<Weight>,
    weight_type: &'a str,
    #[serde(rename = "threadCPUDelta", skip_serializing_if = "Option::is_none")]
    thread_cpu_delta: Option<Vec<u64>>,
}

/// A number, in the unit of all weights.
#[derive(Serialize)]
#[serde(untagged)]
enum Weight {
    Count(u64),
    Milliseconds(f64),
}

/// No markers, in columns.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Markers {
    length: usize,
    data: [(); 0],
    name: [(); 0],
    start_time: [(); 0],
    end_time: [(); 0],
    phase: [(); 0],
    category: [(); 0],
}

/// Writes the profile as a file for the Firefox Profiler.
///
/// # Errors
/// What `out` refused.
pub fn write(profile: &Profile, out: &mut dyn Write) -> io::Result<()> {
    let tracks = Tracks::of(profile);
    let (shared, libs, leaves) = tables::of(&tracks);
    let file = File {
        meta: meta(profile, tracks.order),
        libs,
        shared,
        threads: threads(profile, &tracks, &leaves),
        pages: [],
        counters: [],
        profiler_overhead: [],
    };
    // The encoder's header has no time and no name: the same profile gives the same bytes.
    let mut gzip = GzEncoder::new(out, Compression::default());
    serde_json::to_writer(&mut gzip, &file)?;
    gzip.finish()?;
    Ok(())
}

/// A comment, labelled by its first word: `ticks`, `due`, `stacks`.
fn entry(comment: String) -> Entry {
    let word = comment.split_whitespace().next().unwrap_or_default();
    Entry {
        label: word.trim_end_matches(':').to_owned(),
        format: "string",
        value: comment,
    }
}

fn meta(profile: &Profile, order: Order) -> Meta<'static> {
    let product = about::title(profile);
    let comments: Vec<String> = about::comments(profile).collect();
    Meta {
        interval: milliseconds(profile.period),
        start_time: milliseconds(profile.time_ns),
        profiling_start_time: 0.0,
        profiling_end_time: milliseconds(profile.duration_ns),
        process_type: 0,
        product: match order {
            Order::Time => product,
            Order::Stacks => format!("{product} (no times: samples follow each other)"),
        },
        imported_from: about::EXPORTER,
        oscpu: "Linux",
        stackwalk: 1,
        version: GECKO_VERSION,
        preprocessed_profile_version: VERSION,
        symbolicated: true,
        uses_only_one_stack_type: true,
        source_code_is_not_on_searchfox: true,
        keep_profile_thread_order: false,
        categories: Shown::ALL
            .into_iter()
            .map(|shown| {
                let (name, color) = category(shown);
                Category {
                    name,
                    color,
                    subcategories: ["Other"],
                }
            })
            .collect(),
        marker_schema: [],
        sample_units: Units {
            time: "ms",
            event_delay: "ms",
            thread_cpu_delta: "ns",
        },
        extra: vec![Section {
            label: "ebpfprof",
            entries: comments.into_iter().map(entry).collect(),
        }],
    }
}

/// The reader shows a process at its first thread, so those of one stand together. It wants one of them
/// to be the main one: where that took no sample, the busiest is.
fn threads<'a>(profile: &Profile, tracks: &'a Tracks<'_>, leaves: &[usize]) -> Vec<Thread<'a>> {
    let mut busiest: BTreeMap<Option<i64>, usize> = BTreeMap::new();
    for (at, track) in tracks.tracks.iter().enumerate() {
        busiest.entry(track.id.pid).or_insert(at);
    }
    let mut order: Vec<(usize, &Track<'_>)> = tracks.tracks.iter().enumerate().collect();
    order.sort_by_key(|(at, track)| (busiest[&track.id.pid], !track.is_main(), *at));
    let mut with_main: BTreeSet<Option<i64>> = BTreeSet::new();
    order
        .into_iter()
        .map(|(at, track)| Thread {
            process_type: "default",
            process_startup_time: 0.0,
            process_shutdown_time: None,
            register_time: 0.0,
            unregister_time: None,
            paused_ranges: [],
            name: &track.name,
            is_main_thread: with_main.insert(track.id.pid) || track.is_main(),
            process_name: &track.process,
            // Where none is known, threads are told apart by where they stand.
            pid: track.id.pid.unwrap_or_default().to_string(),
            tid: match track.id.tid {
                Some(tid) => tid.to_string(),
                None => format!("track {at}"),
            },
            samples: samples(profile, track, leaves),
            markers: Markers::default(),
        })
        .collect()
}

fn samples(profile: &Profile, track: &Track<'_>, leaves: &[usize]) -> Samples<'static> {
    let events = track.events.iter();
    let weight_type = weight_type(profile);
    let weight = |count| match weight_type {
        "tracing-ms" => Weight::Milliseconds(milliseconds(count)),
        _ => Weight::Count(count),
    };
    Samples {
        length: track.events.len(),
        stack: events.clone().map(|event| leaves[event.stack]).collect(),
        time: events
            .clone()
            .map(|event| milliseconds(event.time_ns))
            .collect(),
        weight: events.clone().map(|event| weight(event.count)).collect(),
        weight_type,
        // What the thread used since the sample before: a period, however long ago that was.
        thread_cpu_delta: match profile.values {
            Values::CountAndPeriod | Values::EventsAndWeight => {
                Some(events.map(|event| profile.weight(event.count)).collect())
            }
            Values::CountAlone => None,
        },
    }
}

/// What weights are to the reader. It knows three kinds.
fn weight_type(profile: &Profile) -> &'static str {
    match (profile.values, &*profile.event_type.unit) {
        (Values::CountAndPeriod, _) => "samples",
        (_, "bytes") => "bytes",
        (_, "nanoseconds") => "tracing-ms",
        _ => "samples",
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a millionth of a millisecond is no matter"
)]
fn milliseconds(ns: u64) -> f64 {
    ns as f64 / 1_000_000.0
}
