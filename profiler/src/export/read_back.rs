//! What a pprof file says of its frames without names: its comments, its weights, and the frames
//! that stand under the name of their object.
//!
//! In: the bytes of a file, ours or another's. Out: what `ebpfprof explain` needs of it, and no more.
//! Everything in it is the file's claim.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    io::{self, Read},
};

use flate2::read::MultiGzDecoder;
use prost::Message;
use thiserror::Error;

use super::{names, proto};

/// The largest message read, in bytes. One of a busy host has some megabytes.
const MOST_BYTES: u64 = 256 << 20;
/// How the names begin of what is no frame.
const MARKERS: [&str; 3] = ["[cut: ", "[kernel stack cut: ", "[stack left out]"];
/// How compressed files begin.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// What a file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadBack {
    /// The comments, in the file's order.
    pub comments: Vec<String>,
    /// Samples in all.
    pub samples: u64,
    /// Frames of all samples.
    pub frames: u64,
    /// Frames that have no name, or one in brackets. What says that a stack was cut is none.
    pub nameless: Vec<Nameless>,
}

/// Frames without a name in one mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nameless {
    /// Path of the mapping; `[unknown]` if there is none.
    pub path: String,
    /// Its build id, if it tells one.
    pub build_id: Option<String>,
    /// How many.
    pub frames: u64,
    /// Samples with such a frame.
    pub samples: u64,
}

/// Why a file cannot be read.
#[derive(Debug, Error)]
pub enum ReadBackError {
    /// The system's word, or that of the decompressor.
    #[error("cannot read it: {0}")]
    Read(#[source] io::Error),
    /// It ends before it should.
    #[error("it is cut off: it ends in the middle of compressed data")]
    CutOff,
    /// Unpacked it is larger than what is read.
    #[error("it holds more than {} MiB", MOST_BYTES >> 20)]
    TooLarge,
    /// It is something else.
    #[error("it is no pprof profile")]
    NotPprof,
}

/// Reads a file.
///
/// # Errors
/// When it is no profile, or not whole.
pub fn read_back(file: impl Read) -> Result<ReadBack, ReadBackError> {
    count(&decode(file)?).ok_or(ReadBackError::NotPprof)
}

/// Unpacks and decodes.
fn decode(mut file: impl Read) -> Result<proto::Profile, ReadBackError> {
    let mut head = Vec::new();
    let first = file.by_ref().take(GZIP.len() as u64);
    unpack(first, &mut head)?;
    let is_packed = head == GZIP;
    let whole = io::Cursor::new(head).chain(file);
    let mut bytes = Vec::new();
    if is_packed {
        unpack(MultiGzDecoder::new(whole), &mut bytes)?;
    } else {
        unpack(whole, &mut bytes)?;
    }
    proto::Profile::decode(bytes.as_slice()).map_err(|_| ReadBackError::NotPprof)
}

fn unpack(from: impl Read, bytes: &mut Vec<u8>) -> Result<(), ReadBackError> {
    let read = from.take(MOST_BYTES + 1).read_to_end(bytes);
    read.map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => ReadBackError::CutOff,
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => ReadBackError::NotPprof,
        _ => ReadBackError::Read(error),
    })?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(ReadBackError::TooLarge);
    }
    Ok(())
}

/// What a location is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A frame whose function has a name.
    Named,
    /// A frame without one, in the mapping with this id.
    Nameless(u64),
    /// It only says something, as that a stack was cut.
    Marker,
}

impl Kind {
    fn of(location: &proto::Location, names: &BTreeMap<u64, &str>) -> Self {
        let lines = location.line.iter();
        let mut names = lines.map(|line| names.get(&line.function_id).copied().unwrap_or(""));
        if names
            .clone()
            .any(|name| MARKERS.iter().any(|it| name.starts_with(it)))
        {
            return Self::Marker;
        }
        let is_name = |name: &str| {
            let is_stand_in = name.starts_with('[') && name.ends_with(']');
            !is_stand_in && !names::is_blank(name)
        };
        if names.any(is_name) {
            Self::Named
        } else {
            Self::Nameless(location.mapping_id)
        }
    }
}

fn text(profile: &proto::Profile, index: i64) -> &str {
    let text = usize::try_from(index).ok();
    let text = text.and_then(|index| profile.string_table.get(index));
    text.map_or("", String::as_str)
}

/// Counts. `None` when it is no profile: the decoder makes a message of nearly anything.
fn count(profile: &proto::Profile) -> Option<ReadBack> {
    let starts_right = profile.string_table.first().is_some_and(String::is_empty);
    if !starts_right || profile.sample_type.is_empty() {
        return None;
    }
    let names = profile.function.iter();
    let names = names.map(|function| (function.id, text(profile, function.name)));
    let names: BTreeMap<u64, &str> = names.collect();
    let kinds = profile.location.iter();
    let kinds = kinds.map(|location| (location.id, Kind::of(location, &names)));
    let kinds: BTreeMap<u64, Kind> = kinds.collect();
    let mut units = profile.sample_type.iter().map(|it| text(profile, it.unit));
    let counted = units.position(|unit| unit == "count");
    let comments = profile.comment.iter();
    let mut told = ReadBack {
        comments: comments.map(|it| text(profile, *it).to_owned()).collect(),
        ..ReadBack::default()
    };
    let mut by_mapping: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for sample in &profile.sample {
        // Where nothing is counted each stack is one.
        let count = counted.map_or(Some(1), |at| sample.value.get(at).copied());
        let count = u64::try_from(count.unwrap_or(0)).unwrap_or(0);
        told.samples = told.samples.saturating_add(count);
        let mut met = BTreeSet::new();
        for id in &sample.location_id {
            let kind = kinds.get(id).copied().unwrap_or(Kind::Nameless(0));
            if kind != Kind::Marker {
                told.frames = told.frames.saturating_add(count);
            }
            if let Kind::Nameless(mapping) = kind {
                let (frames, samples) = by_mapping.entry(mapping).or_default();
                *frames = frames.saturating_add(count);
                if met.insert(mapping) {
                    *samples = samples.saturating_add(count);
                }
            }
        }
    }
    told.nameless = nameless(profile, by_mapping);
    Some(told)
}

/// With what a file says of its mappings, the most frames first.
fn nameless(profile: &proto::Profile, by_mapping: BTreeMap<u64, (u64, u64)>) -> Vec<Nameless> {
    let mappings: BTreeMap<u64, &proto::Mapping> =
        profile.mapping.iter().map(|it| (it.id, it)).collect();
    let mut by_object: BTreeMap<(&str, &str), (u64, u64)> = BTreeMap::new();
    for (id, (frames, samples)) in by_mapping {
        let mapping = mappings.get(&id);
        let object = mapping.map_or((names::UNKNOWN, ""), |it| {
            (text(profile, it.filename), text(profile, it.build_id))
        });
        let sum = by_object.entry(object).or_default();
        *sum = (sum.0.saturating_add(frames), sum.1.saturating_add(samples));
    }
    let all = by_object.into_iter().filter(|(_, (frames, _))| *frames > 0);
    let all = all.map(|((path, build_id), (frames, samples))| Nameless {
        path: names::clean(path).into_owned(),
        build_id: (!build_id.is_empty()).then(|| names::clean(build_id).into_owned()),
        frames,
        samples,
    });
    let mut all: Vec<Nameless> = all.collect();
    all.sort_by_key(|it| Reverse(it.frames));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        export::pprof,
        profile::{FrameKind, Profile},
    };

    fn packed(profile: &Profile) -> Vec<u8> {
        let mut bytes = Vec::new();
        pprof::write(profile, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn frames_without_names_are_counted_and_markers_are_not() {
        let mut profile = Profile::cpu(1);
        let cut = profile.marker("[cut: too deep]");
        let nowhere = profile.location(FrameKind::User, None, 16);
        profile.add(&[nowhere, nowhere, cut], &[], 3);
        profile.comments = vec!["#one".to_owned(), "two".to_owned()];
        let told = read_back(packed(&profile).as_slice()).unwrap();
        let expected = ReadBack {
            comments: profile.comments.clone(),
            samples: 3,
            frames: 6,
            nameless: vec![Nameless {
                path: "[unknown]".to_owned(),
                build_id: None,
                frames: 6,
                samples: 3,
            }],
        };
        assert_eq!(told, expected);
        let plain = pprof::message(&profile).encode_to_vec();
        assert_eq!(read_back(plain.as_slice()).unwrap(), expected);
    }

    #[track_caller]
    fn check(bytes: &[u8], words: &str) {
        let error = read_back(bytes).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }

    #[test]
    fn what_is_no_profile_is_refused() {
        let whole = packed(&Profile::cpu(1));
        check(&whole[..whole.len() / 2], "cut off");
        check(&whole[..1], "no pprof");
        check(b"", "no pprof");
        check(b"main;run 7\n", "no pprof");
        check(b"\x1f\x8bnonsense", "no pprof");
    }
}
