//! pprof's own format: the message in `export::proto`, compressed by gzip or not.
//!
//! Everything that one part says of another is checked. Places keep their addresses, mappings and
//! lines, so that what is written again is what was read; what others left to be named stays so.
//! One value of each sample is taken, or the two of a CPU profile.
//!
//! Files do not say what a frame is, so it is told by where it lies, as ours are written: kernel
//! code in the kernel's mappings, markers at no address, code made at run time in no mapping.

mod places;
mod values;
mod wire;

use std::io::BufRead;

use foldhash::HashMap;

use super::{ImportError, Settings, input::Input};
use crate::{
    export::proto,
    profile::{Hints, Label, LabelKey, LabelValue, LocationId, Profile, StringId},
};
use places::Places;
use values::Choice;
use wire::Parts;

/// Keys of labels that are not ours, at most.
const MOST_KEYS: usize = 256;

/// Bytes that show whether a file is a text.
const MOST_LOOKED_AT: usize = 64;

/// How the texts begin that net/http/pprof writes for people.
const DEBUG_TEXTS: [&[u8]; 5] = [
    b"heap profile: ",
    b"goroutine profile: ",
    b"threadcreate profile: ",
    b"--- mutex:",
    b"--- contention:",
];

/// Reads a profile.
///
/// # Errors
/// Why the bytes are no profile, or none that we can hold.
pub(super) fn read(settings: &Settings, input: &mut dyn BufRead) -> Result<Profile, ImportError> {
    let bytes = Input::new(input, settings.most_bytes)?.rest()?;
    if bytes.is_empty() {
        return Err(ImportError::Empty);
    }
    if DEBUG_TEXTS.iter().any(|text| bytes.starts_with(text)) {
        return Err(ImportError::DebugText);
    }
    let parts = Parts::of(&bytes).map_err(|error| match error {
        ImportError::NotPprof { .. } if is_text(&bytes) => ImportError::NotPprof {
            why: "it is a text".to_owned(),
        },
        error => error,
    })?;
    let choice = Choice::of(&parts, settings.sample_index.as_ref())?;
    let mut profile = choice.profile();
    let mut texts = Texts::new(&parts);
    describe(&mut profile, &mut texts)?;
    let places = Places::read(&mut profile, &mut texts)?;
    let mut reader = SampleReader {
        profile: &mut profile,
        texts,
        places,
        choice,
        keys: HashMap::default(),
        total: 0,
    };
    reader.read()?;
    Ok(profile)
}

/// Whether bytes begin as a text, as an answer of a server may that has no profile.
fn is_text(bytes: &[u8]) -> bool {
    let is_letter = |byte: &u8| byte.is_ascii_graphic() || byte.is_ascii_whitespace();
    bytes.iter().take(MOST_LOOKED_AT).all(is_letter)
}

/// What the file says of the profile as a whole.
fn describe(profile: &mut Profile, texts: &mut Texts<'_>) -> Result<(), ImportError> {
    let parts = texts.parts;
    let singles = parts.singles();
    let text = |at: i64| Ok::<_, ImportError>(parts.text(at)?.into_owned());
    // What is negative is not known.
    profile.time_ns = u64::try_from(singles.time_nanos).unwrap_or(0);
    profile.duration_ns = u64::try_from(singles.duration_nanos).unwrap_or(0);
    profile.hints = Hints {
        drop_frames: text(singles.drop_frames)?,
        keep_frames: text(singles.keep_frames)?,
        doc_url: text(singles.doc_url)?,
    };
    let comments = parts.comments.iter().map(|at| text(*at));
    profile.comments = comments.collect::<Result<_, _>>()?;
    Ok(())
}

/// The table of texts, each with its handle in the profile once it was asked for.
struct Texts<'a> {
    parts: &'a Parts<'a>,
    ids: Vec<Option<StringId>>,
}

impl<'a> Texts<'a> {
    fn new(parts: &'a Parts<'a>) -> Self {
        Self {
            parts,
            ids: vec![None; parts.string_count()],
        }
    }

    fn id(&mut self, profile: &mut Profile, at: i64) -> Result<StringId, ImportError> {
        let known = usize::try_from(at).ok().and_then(|at| self.ids.get(at));
        if let Some(Some(id)) = known {
            return Ok(*id);
        }
        let id = profile.string(&self.parts.text(at)?);
        if let Some(known) = usize::try_from(at).ok().and_then(|at| self.ids.get_mut(at)) {
            *known = Some(id);
        }
        Ok(id)
    }
}

/// The samples on their way into the profile.
struct SampleReader<'a> {
    profile: &'a mut Profile,
    texts: Texts<'a>,
    places: Places,
    choice: Choice,
    /// The key for each text that is one. A number and a text of one key are told apart.
    keys: HashMap<(i64, bool), LabelKey>,
    total: u64,
}

impl SampleReader<'_> {
    fn read(&mut self) -> Result<(), ImportError> {
        let value_count = self.texts.parts.sample_types.len();
        let mut negative = 0;
        for (number, sample) in (1..).zip(self.texts.parts.samples()) {
            let sample: proto::Sample = sample?;
            if sample.value.len() != value_count {
                let found = sample.value.len();
                return Err(broken(format!(
                    "sample {number} has {found} values, and there are {value_count} types"
                )));
            }
            match self.choice.count(&sample) {
                Some(count) => self.add(&sample, count)?,
                None => negative += 1,
            }
        }
        if negative > 0 {
            return Err(ImportError::Negative {
                kind: self.choice.event_type.kind.to_string(),
                samples: negative,
            });
        }
        let shown = LabelKey::ALL.into_iter();
        let is_met = |key: &LabelKey| self.keys.values().any(|met| met == key);
        self.profile.shown_labels = shown.filter(is_met).collect();
        Ok(())
    }

    fn add(&mut self, sample: &proto::Sample, count: u64) -> Result<(), ImportError> {
        let total = self.total.checked_add(count);
        let most = i64::MAX.unsigned_abs();
        let total = total.filter(|total| *total <= most);
        self.total = total.ok_or(ImportError::TooMuch)?;
        let stack = sample
            .location_id
            .iter()
            .map(|id| self.places.location(*id));
        let stack: Vec<LocationId> = stack.collect::<Result<_, _>>()?;
        let mut labels = Vec::with_capacity(sample.label.len());
        for label in &sample.label {
            labels.extend(self.label(label)?);
        }
        labels.sort_unstable();
        labels.dedup();
        self.profile.add(&stack, &labels, count);
        Ok(())
    }

    fn label(&mut self, label: &proto::Label) -> Result<Option<Label>, ImportError> {
        let value = match (label.str, label.num, label.num_unit) {
            // To pprof that is no label.
            (0, 0, 0) => return Ok(None),
            (0, number, unit) => LabelValue::Number(number, self.texts.id(self.profile, unit)?),
            (text, ..) => LabelValue::Text(self.texts.id(self.profile, text)?),
        };
        let is_number = matches!(value, LabelValue::Number(..));
        let key = match self.keys.get(&(label.key, is_number)) {
            Some(key) => *key,
            None => self.new_key(label.key, is_number)?,
        };
        Ok(Some((key, value)))
    }

    fn new_key(&mut self, at: i64, is_number: bool) -> Result<LabelKey, ImportError> {
        if self.keys.len() >= MOST_KEYS {
            return Err(broken(format!(
                "it has more than {MOST_KEYS} keys of labels"
            )));
        }
        let name = self.texts.id(self.profile, at)?;
        let text = self.profile.text(name);
        let own = LabelKey::ALL.into_iter().find(|key| {
            let counts = matches!(key, LabelKey::Pid | LabelKey::Tid | LabelKey::Cpu);
            key.own_name() == Some(text) && counts == is_number
        });
        let key = own.unwrap_or(LabelKey::Foreign(name));
        self.keys.insert((at, is_number), key);
        Ok(key)
    }
}

fn broken(why: String) -> ImportError {
    ImportError::Broken { why }
}

#[cfg(test)]
mod tests;
