//! How values are written in the file: quantities as on the command line.

use std::{fmt, marker::PhantomData, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, de};

use super::AuditTo;
use crate::quantity::{Frequency, Seconds, SymbolMemory, TableMemory, bytes};

/// A value that is written as a text, or as a number if it may be without a unit.
struct Written<T>(PhantomData<T>);

impl<T: FromStr<Err: fmt::Display>> de::Visitor<'_> for Written<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a quantity")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }
}

fn written<'de, D: Deserializer<'de>, T: FromStr<Err: fmt::Display>>(
    deserializer: D,
) -> Result<T, D::Error> {
    deserializer.deserialize_any(Written(PhantomData))
}

/// A length of time.
pub(super) fn duration<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
    written(d).map(|Seconds(duration)| duration)
}

/// Samples per second.
pub(super) fn frequency<'de, D: Deserializer<'de>>(d: D) -> Result<u32, D::Error> {
    written(d).map(|Frequency(hz)| hz)
}

/// A budget of table memory.
pub(super) fn table_memory<'de, D: Deserializer<'de>>(d: D) -> Result<usize, D::Error> {
    written(d).map(|TableMemory(bytes)| bytes)
}

/// A budget of memory for symbols.
pub(super) fn symbol_memory<'de, D: Deserializer<'de>>(d: D) -> Result<usize, D::Error> {
    written(d).map(|SymbolMemory(bytes)| bytes)
}

/// An amount of memory.
struct Memory(usize);

impl FromStr for Memory {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        bytes(text)?
            .map(Self)
            .ok_or_else(|| "that is more memory than there can be".to_owned())
    }
}

/// An amount of memory.
pub(super) fn memory<'de, D: Deserializer<'de>>(d: D) -> Result<usize, D::Error> {
    written(d).map(|Memory(bytes)| bytes)
}

/// A length of time, or `off`.
struct Span(Option<Duration>);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self(None));
        }
        text.parse().map(|Seconds(duration)| Self(Some(duration)))
    }
}

/// A length of time, or `off`.
pub(super) fn span<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
    written(d).map(|Span(span)| span)
}

impl FromStr for AuditTo {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "log" => Ok(Self::Log),
            "off" => Ok(Self::Nowhere),
            path if path.contains('/') => Ok(Self::File(path.into())),
            _ => Err("it is \"log\", \"off\", or the path of a file".to_owned()),
        }
    }
}

/// Where a line for each request goes.
pub(super) fn audit<'de, D: Deserializer<'de>>(d: D) -> Result<AuditTo, D::Error> {
    written(d)
}

/// The rights of a file, in octal.
struct Mode(u32);

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match u32::from_str_radix(text, 8) {
            Ok(mode @ 0..=0o777) if text.bytes().all(|digit| digit.is_ascii_digit()) => {
                Ok(Self(mode))
            }
            _ => Err("rights are a text in octal, as in \"0660\"".to_owned()),
        }
    }
}

/// The rights of a file.
pub(super) fn mode<'de, D: Deserializer<'de>>(d: D) -> Result<u32, D::Error> {
    // A number would be a decimal one.
    let text = String::deserialize(d)?;
    text.parse()
        .map(|Mode(mode)| mode)
        .map_err(de::Error::custom)
}

/// A list of what is written as texts.
pub(super) fn list<'de, D: Deserializer<'de>, T: FromStr<Err: fmt::Display>>(
    d: D,
) -> Result<Vec<T>, D::Error> {
    let texts = Vec::<String>::deserialize(d)?;
    let parsed = texts.iter().map(|text| text.parse());
    parsed.collect::<Result<_, _>>().map_err(de::Error::custom)
}
