//! Quantities as people write them: lengths of time, amounts of memory, frequencies.
//!
//! In: a text of the command line or of a configuration. Out: a number in its unit, or one sentence
//! that says how such a quantity is written.

use std::{str::FromStr, time::Duration};

/// A length of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seconds(pub(crate) Duration);

impl FromStr for Seconds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const SYNTAX: &str = "a length of time is a number of seconds, or has a unit, as in 30, 0.5, 30s, 500ms, 2m or 1h";
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let seconds = match &text[digits.len()..] {
            "" | "s" => 1.0,
            "ms" => 0.001,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(SYNTAX.to_owned()),
        };
        let number: f64 = digits.parse().map_err(|_| SYNTAX.to_owned())?;
        let duration =
            Duration::try_from_secs_f64(number * seconds).map_err(|_| SYNTAX.to_owned())?;
        if duration < Duration::from_millis(1) {
            return Err("a recording takes a millisecond or more".to_owned());
        }
        Ok(Self(duration))
    }
}

/// Samples per second and CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frequency(pub(crate) u32);

impl FromStr for Frequency {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.strip_suffix("Hz").unwrap_or(text);
        match number.parse() {
            Ok(0) => Err("a frequency is 1 Hz or more; 99 is usual".to_owned()),
            Ok(hz) => Ok(Self(hz)),
            Err(_) => Err(
                "a frequency is a whole number of samples per second, as in 99 or 99Hz".to_owned(),
            ),
        }
    }
}

/// A budget of table memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TableMemory(pub(crate) usize);

impl FromStr for TableMemory {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match bytes(text)? {
            Some(bytes) if (4 << 20..=1 << 30).contains(&bytes) => Ok(Self(bytes)),
            _ => Err("table memory is between 4MiB and 1GiB; 64MiB is usual".to_owned()),
        }
    }
}

/// A budget of memory for symbols, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SymbolMemory(pub(crate) usize);

impl FromStr for SymbolMemory {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match bytes(text)? {
            Some(bytes) if (4 << 20..=64 << 30).contains(&bytes) => Ok(Self(bytes)),
            _ => Err("symbol memory is between 4MiB and 64GiB; 256MiB is usual".to_owned()),
        }
    }
}

/// An amount of memory, in bytes; `None` if it is more than a number holds.
///
/// # Errors
/// When it has no unit.
pub(crate) fn bytes(text: &str) -> Result<Option<usize>, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &text[digits.len()..] {
        "KiB" | "K" => 10,
        "MiB" | "M" => 20,
        "GiB" | "G" => 30,
        _ => return Err("an amount of memory has a unit, as in 64MiB or 1GiB".to_owned()),
    };
    let number = digits.parse().ok();
    Ok(number.and_then(|number: usize| number.checked_mul(1 << shift)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_seconds(text: &str, expected: Option<u64>) {
        let parsed = text
            .parse::<Seconds>()
            .ok()
            .map(|seconds| seconds.0.as_millis());
        assert_eq!(parsed, expected.map(u128::from), "{text}");
    }

    #[test]
    fn lengths_of_time_have_fractions_and_units() {
        check_seconds("30", Some(30_000));
        check_seconds("0.66", Some(660));
        check_seconds("30s", Some(30_000));
        check_seconds("500ms", Some(500));
        check_seconds("2m", Some(120_000));
        check_seconds("1h", Some(3_600_000));
        for text in ["0", "-1", "", "s", "3x", "1e400", "nan", "0.0001"] {
            check_seconds(text, None);
        }
    }

    #[test]
    fn frequencies_are_whole_and_positive() {
        assert_eq!("99".parse(), Ok(Frequency(99)));
        assert_eq!("999Hz".parse(), Ok(Frequency(999)));
        for text in ["0", "-1", "1.5", "x", ""] {
            assert!(text.parse::<Frequency>().is_err(), "{text}");
        }
    }

    #[test]
    fn memory_has_a_unit() {
        assert_eq!(bytes("64MiB"), Ok(Some(64 << 20)));
        assert_eq!(bytes("1K"), Ok(Some(1024)));
        assert_eq!(bytes("99999999999999GiB"), Ok(None));
        assert!(bytes("64").is_err());
        assert!("3MiB".parse::<TableMemory>().is_err());
        assert!("4MiB".parse::<SymbolMemory>().is_ok());
    }
}
