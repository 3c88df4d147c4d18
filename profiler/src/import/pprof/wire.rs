//! A pprof message in its outermost fields, which are looked at in place: as a whole it would take
//! many times as much memory as it has bytes.
//!
//! Source: `proto/profile.proto` of github.com/google/pprof, and the encoding of protocol buffers.

use std::borrow::Cow;

use prost::{
    Message,
    encoding::{WireType, decode_key, decode_varint},
};

use crate::{export::proto, import::ImportError};

/// The longest that one sample or one location may be, in bytes: some million frames.
const MOST_PART_BYTES: usize = 16 << 20;

const SAMPLE_TYPE: u32 = 1;
const SAMPLE: u32 = 2;
const MAPPING: u32 = 3;
const LOCATION: u32 = 4;
const FUNCTION: u32 = 5;
const STRING: u32 = 6;
const DROP_FRAMES: u32 = 7;
const KEEP_FRAMES: u32 = 8;
const TIME: u32 = 9;
const DURATION: u32 = 10;
const PERIOD_TYPE: u32 = 11;
const PERIOD: u32 = 12;
const COMMENT: u32 = 13;
const DEFAULT_SAMPLE_TYPE: u32 = 14;
const DOC_URL: u32 = 15;

/// What one field holds.
#[derive(Clone, Copy)]
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// What no field of ours is like.
    Other,
}

/// The fields of a message.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn next(&mut self) -> Result<Option<(u32, Value<'a>)>, ImportError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let (tag, wire_type) = decode_key(&mut self.0).map_err(no_message)?;
        let value = match wire_type {
            WireType::Varint => Value::Number(decode_varint(&mut self.0).map_err(no_message)?),
            WireType::LengthDelimited => {
                let length = decode_varint(&mut self.0).map_err(no_message)?;
                Value::Bytes(self.take(length)?)
            }
            WireType::SixtyFourBit => self.take(8).map(|_| Value::Other)?,
            WireType::ThirtyTwoBit => self.take(4).map(|_| Value::Other)?,
            WireType::StartGroup | WireType::EndGroup => {
                return Err(not_pprof("it has groups, which pprof has not"));
            }
        };
        Ok(Some((tag, value)))
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], ImportError> {
        let length = usize::try_from(length).ok();
        let split = length.and_then(|length| self.0.split_at_checked(length));
        let (taken, rest) = split.ok_or_else(|| not_pprof("it ends within a field"))?;
        self.0 = rest;
        Ok(taken)
    }
}

/// A message with what there is one of, or few.
#[derive(Default)]
pub(super) struct Parts<'a> {
    bytes: &'a [u8],
    strings: Vec<&'a [u8]>,
    pub(super) sample_types: Vec<proto::ValueType>,
    pub(super) mappings: Vec<proto::Mapping>,
    /// Texts.
    pub(super) comments: Vec<i64>,
    pub(super) period_type: Option<proto::ValueType>,
    drop_frames: Option<i64>,
    keep_frames: Option<i64>,
    time_nanos: Option<i64>,
    duration_nanos: Option<i64>,
    period: Option<i64>,
    default_sample_type: Option<i64>,
    doc_url: Option<i64>,
}

/// The numbers that there is one of; 0 if it is not there.
pub(super) struct Singles {
    /// Text.
    pub(super) drop_frames: i64,
    /// Text.
    pub(super) keep_frames: i64,
    pub(super) time_nanos: i64,
    pub(super) duration_nanos: i64,
    pub(super) period: i64,
    /// Text.
    pub(super) default_sample_type: i64,
    /// Text.
    pub(super) doc_url: i64,
}

impl<'a> Parts<'a> {
    pub(super) fn of(bytes: &'a [u8]) -> Result<Self, ImportError> {
        let mut parts = Self {
            bytes,
            ..Self::default()
        };
        let mut fields = Fields(bytes);
        while let Some((tag, value)) = fields.next()? {
            parts.note(tag, value)?;
        }
        match parts.strings.first() {
            None => Err(not_pprof("it has no table of texts")),
            Some(first) if !first.is_empty() => Err(ImportError::Broken {
                why: "its first text is not the empty one".to_owned(),
            }),
            Some(_) => Ok(parts),
        }
    }

    fn note(&mut self, tag: u32, value: Value<'a>) -> Result<(), ImportError> {
        let single = match tag {
            STRING => {
                self.strings.push(as_bytes(value)?);
                return Ok(());
            }
            SAMPLE_TYPE => {
                self.sample_types.push(decode(value)?);
                return Ok(());
            }
            MAPPING => {
                self.mappings.push(decode(value)?);
                return Ok(());
            }
            COMMENT => return self.note_comments(value),
            PERIOD_TYPE => {
                let old = self.period_type.replace(decode(value)?);
                return old.map_or(Ok(()), |_| Err(ImportError::Concatenated));
            }
            DROP_FRAMES => &mut self.drop_frames,
            KEEP_FRAMES => &mut self.keep_frames,
            TIME => &mut self.time_nanos,
            DURATION => &mut self.duration_nanos,
            PERIOD => &mut self.period,
            DEFAULT_SAMPLE_TYPE => &mut self.default_sample_type,
            DOC_URL => &mut self.doc_url,
            // What is walked through later, and fields of versions to come.
            _ => return Ok(()),
        };
        // No writer repeats what there is one of: it is the next file's.
        match single.replace(as_number(value)?) {
            None => Ok(()),
            Some(_) => Err(ImportError::Concatenated),
        }
    }

    /// One comment, or several in one field.
    fn note_comments(&mut self, value: Value<'_>) -> Result<(), ImportError> {
        let Value::Bytes(mut packed) = value else {
            self.comments.push(as_number(value)?);
            return Ok(());
        };
        while !packed.is_empty() {
            let number = decode_varint(&mut packed).map_err(no_message)?;
            self.comments.push(number.cast_signed());
        }
        Ok(())
    }

    pub(super) fn singles(&self) -> Singles {
        Singles {
            drop_frames: self.drop_frames.unwrap_or_default(),
            keep_frames: self.keep_frames.unwrap_or_default(),
            time_nanos: self.time_nanos.unwrap_or_default(),
            duration_nanos: self.duration_nanos.unwrap_or_default(),
            period: self.period.unwrap_or_default(),
            default_sample_type: self.default_sample_type.unwrap_or_default(),
            doc_url: self.doc_url.unwrap_or_default(),
        }
    }

    /// How many texts there are.
    pub(super) fn string_count(&self) -> usize {
        self.strings.len()
    }

    /// A text of the table. What is no UTF-8 in it is replaced: some writers take any bytes.
    pub(super) fn text(&self, at: i64) -> Result<Cow<'a, str>, ImportError> {
        let found = usize::try_from(at).ok().and_then(|at| self.strings.get(at));
        let found = found.ok_or_else(|| ImportError::Broken {
            why: format!("it names text {at}, and has {}", self.strings.len()),
        })?;
        Ok(String::from_utf8_lossy(found))
    }

    pub(super) fn functions(&self) -> Each<'a, proto::Function> {
        Each::of(self.bytes, FUNCTION)
    }

    pub(super) fn locations(&self) -> Each<'a, proto::Location> {
        Each::of(self.bytes, LOCATION)
    }

    pub(super) fn samples(&self) -> Each<'a, proto::Sample> {
        Each::of(self.bytes, SAMPLE)
    }
}

/// The messages in one field of a message, decoded one by one.
pub(super) struct Each<'a, M> {
    fields: Fields<'a>,
    tag: u32,
    message: std::marker::PhantomData<M>,
}

impl<'a, M> Each<'a, M> {
    fn of(bytes: &'a [u8], tag: u32) -> Self {
        Self {
            fields: Fields(bytes),
            tag,
            message: std::marker::PhantomData,
        }
    }
}

impl<M: Message + Default> Iterator for Each<'_, M> {
    type Item = Result<M, ImportError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.fields.next() {
                Err(error) => return Some(Err(error)),
                Ok(None) => return None,
                Ok(Some((tag, value))) if tag == self.tag => return Some(decode(value)),
                Ok(Some(_)) => {}
            }
        }
    }
}

fn decode<M: Message + Default>(value: Value<'_>) -> Result<M, ImportError> {
    let bytes = as_bytes(value)?;
    if bytes.len() > MOST_PART_BYTES {
        return Err(ImportError::TooLong {
            most_bytes: MOST_PART_BYTES as u64,
        });
    }
    M::decode(bytes).map_err(no_message)
}

fn as_bytes(value: Value<'_>) -> Result<&[u8], ImportError> {
    match value {
        Value::Bytes(bytes) => Ok(bytes),
        Value::Number(_) | Value::Other => Err(not_pprof("a field is not what pprof's is")),
    }
}

fn as_number(value: Value<'_>) -> Result<i64, ImportError> {
    match value {
        Value::Number(number) => Ok(number.cast_signed()),
        Value::Bytes(_) | Value::Other => Err(not_pprof("a field is not what pprof's is")),
    }
}

fn not_pprof(why: &str) -> ImportError {
    ImportError::NotPprof {
        why: why.to_owned(),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "so it is given")]
fn no_message(error: prost::DecodeError) -> ImportError {
    ImportError::NotPprof {
        why: error.to_string(),
    }
}
