//! What stands behind the `?` of a request.
//!
//! Numbers that `net/http/pprof` takes for junk are junk here too, and mean what they mean there;
//! what is ours alone is refused with the reason.

use std::time::Duration;

use super::{policy::Limits, problem::Problem, route};
use crate::{export::Format, profile::LabelKey};

/// Longest query, in bytes.
const MOST_BYTES: usize = 4096;
/// Most parameters.
const MOST_PARAMETERS: usize = 32;

/// Seconds of a profile for which none are asked. Source: `Profile` in `net/http/pprof`.
const DEFAULT_SECONDS: u64 = 30;
/// Samples per second and CPU for which none are asked.
const DEFAULT_HZ: u32 = 99;
/// The longest that a flight recorder is asked to go back.
const MOST_LAST: Duration = Duration::from_secs(24 * 3600);

/// The parameters of a request, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a query as it stands in a request.
    pub(super) fn read(raw: &str) -> Result<Self, Problem> {
        // Addresses that are asked for the old way are no parameters: see `symbol`.
        if !raw.contains('=') {
            return Ok(Self::default());
        }
        if raw.len() > MOST_BYTES {
            return Err(Problem::bad(format!(
                "the query is longer than {MOST_BYTES} bytes"
            )));
        }
        let mut parameters: Vec<(String, String)> = Vec::new();
        for pair in raw.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (text(name), text(value));
            if parameters.iter().any(|(other, _)| *other == name) {
                return Err(Problem::bad(format!(
                    "the parameter '{name}' is given twice: which of the two is meant?"
                )));
            }
            parameters.push((name, value));
        }
        if parameters.len() > MOST_PARAMETERS {
            return Err(Problem::bad(format!(
                "more than {MOST_PARAMETERS} parameters"
            )));
        }
        Ok(Self(parameters))
    }

    /// A parameter. An empty one is none.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(other, _)| other == name);
        found
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    /// How long a profile takes: what is no whole number of seconds above nothing is 30.
    pub(super) fn seconds(&self, limits: Limits) -> Result<Duration, Problem> {
        let asked = self.get("seconds").and_then(positive);
        within(asked.unwrap_or(DEFAULT_SECONDS), limits)
    }

    /// How long the difference of two profiles takes; `None` if one of now is asked for.
    pub(super) fn delta(&self, limits: Limits) -> Result<Option<Duration>, Problem> {
        let Some(asked) = self.get("seconds") else {
            return Ok(None);
        };
        let seconds = positive(asked).ok_or_else(|| {
            Problem::bad("invalid value for \"seconds\" - must be a positive integer")
        })?;
        within(seconds, limits).map(Some)
    }

    /// How much text is wanted in place of a profile: 0 for none, also where no number stands.
    pub(super) fn debug(&self) -> i64 {
        let debug = self.get("debug").and_then(|text| text.parse().ok());
        debug.unwrap_or(0)
    }

    /// Samples per second and CPU.
    pub(super) fn hz(&self, limits: Limits) -> Result<u32, Problem> {
        let Some(text) = self.get("hz") else {
            return Ok(DEFAULT_HZ.min(limits.frequency_hz));
        };
        let digits = text.strip_suffix("Hz").unwrap_or(text);
        let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
        match digits.parse::<u32>() {
            Ok(hz) if is_number && (1..=limits.frequency_hz).contains(&hz) => Ok(hz),
            _ => Err(Problem::bad(format!(
                "invalid value for \"hz\" - a whole number of samples per second from 1 to {}, which is the most this server allows; {DEFAULT_HZ} is usual",
                limits.frequency_hz
            ))),
        }
    }

    /// The labels that samples get; `None` for the usual ones.
    pub(super) fn labels(&self) -> Result<Option<Vec<LabelKey>>, Problem> {
        let Some(list) = self.get("labels") else {
            return Ok(None);
        };
        let keys: Result<Vec<LabelKey>, _> = list.split(',').map(str::parse).collect();
        let keys =
            keys.map_err(|error| Problem::bad(format!("invalid value for \"labels\" - {error}")))?;
        Ok(Some(keys))
    }

    /// What the profile is written as.
    pub(super) fn format(&self) -> Result<Format, Problem> {
        let Some(name) = self.get("format") else {
            return Ok(Format::Pprof);
        };
        let mut all = Format::ALL.into_iter();
        all.find(|format| format.name() == name).ok_or_else(|| {
            let names = Format::ALL.map(Format::name).join(", ");
            Problem::bad(format!(
                "invalid value for \"format\" - it is one of {names}"
            ))
        })
    }

    /// How far back the past is asked for; `None` if what comes is.
    pub(super) fn last(&self) -> Result<Option<Duration>, Problem> {
        let Some(text) = self.get("last") else {
            return Ok(None);
        };
        let words = || {
            Problem::bad(
                "invalid value for \"last\" - a whole number of seconds, or with a unit, as in 60s, 5m or 1h; a day at most",
            )
        };
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit_seconds = match &text[digits.len()..] {
            "" | "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return Err(words()),
        };
        let number = positive(digits).and_then(|number| number.checked_mul(unit_seconds));
        let last = number.map(Duration::from_secs);
        last.filter(|last| *last <= MOST_LAST)
            .ok_or_else(words)
            .map(Some)
    }
}

/// A number as Go's `strconv.ParseInt` reads it, if it is above nothing.
fn positive(text: &str) -> Option<u64> {
    let number = text.parse::<i64>().ok()?;
    u64::try_from(number).ok().filter(|number| *number > 0)
}

fn within(seconds: u64, limits: Limits) -> Result<Duration, Problem> {
    let asked = Duration::from_secs(seconds);
    if asked > limits.duration {
        return Err(Problem::bad(
            "profile duration exceeds server's WriteTimeout",
        ));
    }
    Ok(asked)
}

/// A decoded text; one that cannot be decoded stays as it is, and is junk to whoever reads it.
fn text(raw: &str) -> String {
    let spaced = raw.replace('+', " ");
    let bytes = route::decoded(&spaced).and_then(|bytes| String::from_utf8(bytes).ok());
    bytes.unwrap_or(spaced)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(raw: &str) -> Query {
        Query::read(raw).unwrap()
    }

    #[track_caller]
    fn check_seconds(raw: &str, expected: Option<u64>) {
        let seconds = of(raw).seconds(Limits::default());
        assert_eq!(seconds.ok().map(|time| time.as_secs()), expected, "{raw}");
    }

    #[test]
    fn seconds_are_read_as_go_reads_them() {
        check_seconds("", Some(30));
        check_seconds("seconds=5", Some(5));
        check_seconds("seconds=%35", Some(5));
        check_seconds("seconds=300", Some(300));
        check_seconds("seconds=301", None);
        check_seconds("seconds=9223372036854775807", None);
        for junk in [
            "0",
            "-1",
            "1.5",
            "x",
            "",
            "1e9",
            "%zz",
            "5s",
            "9223372036854775808",
        ] {
            check_seconds(&format!("seconds={junk}"), Some(30));
        }
    }

    #[test]
    fn seconds_of_a_difference_are_never_made_up() {
        let delta = |raw: &str| of(raw).delta(Limits::default());
        assert_eq!(delta("debug=1").unwrap(), None);
        assert_eq!(delta("seconds=2").unwrap(), Some(Duration::from_secs(2)));
        for junk in ["0", "-1", "1.5", "x", "1000000"] {
            assert!(delta(&format!("seconds={junk}")).is_err(), "{junk}");
        }
    }

    #[test]
    fn what_is_ours_alone_is_refused_when_it_is_junk() {
        let limits = Limits::default();
        assert_eq!(of("").hz(limits).unwrap(), 99);
        assert_eq!(of("hz=999").hz(limits).unwrap(), 999);
        for junk in ["0", "-1", "+5", "5000", "1e9", "x", "1.5", "99999999999999"] {
            assert!(of(&format!("hz={junk}")).hz(limits).is_err(), "{junk}");
        }
        let labels = of("labels=comm,pid").labels().unwrap().unwrap();
        assert_eq!(labels, [LabelKey::Comm, LabelKey::Pid]);
        assert_eq!(of("x=1").labels().unwrap(), None);
        assert!(of("labels=comm,nobody").labels().is_err());
        assert_eq!(of("format=svg").format().unwrap(), Format::FlameGraph);
        assert!(of("format=pdf").format().is_err());
    }

    #[test]
    fn the_past_has_a_length() {
        let last = |raw: &str| of(raw).last().unwrap().map(|last| last.as_secs());
        assert_eq!(last("last=60s"), Some(60));
        assert_eq!(last("last=5m"), Some(300));
        assert_eq!(last("last=7"), Some(7));
        assert_eq!(last("seconds=5"), None);
        for junk in ["0", "x", "-5s", "1.5s", "25h", "99999999999999999h"] {
            assert!(of(&format!("last={junk}")).last().is_err(), "{junk}");
        }
    }

    #[test]
    fn a_parameter_is_given_once() {
        assert!(Query::read("seconds=1&seconds=2").is_err());
        assert!(Query::read("seconds=1&%73econds=2").is_err());
        assert!(Query::read(&format!("x={}", "y".repeat(5000))).is_err());
        let many: Vec<String> = (0..40).map(|n| format!("p{n}=1")).collect();
        assert!(Query::read(&many.join("&")).is_err());
        assert_eq!(of("gc=1&debug=abc").debug(), 0);
        assert_eq!(of("debug=2").debug(), 2);
    }
}
