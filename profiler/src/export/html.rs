//! The interactive flame graph: one HTML file that works from a disk, with its data, style and
//! script inside. It loads nothing and asks nothing of the network; its policy forbids it to.
//!
//! The page is plain HTML, CSS and JavaScript in the folder `html`. Names come from files that we
//! do not trust: they stand in a block of JSON in which nothing can end it, the page shows them as
//! text, and the policy lets no script run but ours.

mod tree;

use std::{
    borrow::Cow,
    collections::BTreeMap,
    io::{self, Write},
};

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

use super::{
    about,
    flame::{Flame, Growth, Root},
    frames::Frames,
    names,
};
use crate::profile::{Profile, Values};
use tree::Group;

const PAGE: &str = include_str!("html/page.html");
const STYLE: &str = include_str!("html/style.css");
const SCRIPT: [&str; 4] = [
    include_str!("html/model.js"),
    include_str!("html/names.js"),
    include_str!("html/graph.js"),
    include_str!("html/app.js"),
];

/// SHA-256 of the style and of the script, in base64. A test tells what they should be.
const STYLE_HASH: &str = "VZW7EX7rWs7QqaPhV2MSsfIPkUqmWxPLMKMlQU3RQ44=";
const SCRIPT_HASH: &str = "JIMdwQkQtB+bJRfQGtLjnxmWEFz6++PJ/VOJUNbzttE=";

/// All that the page knows.
#[derive(Serialize)]
struct Data<'a> {
    about: About<'a>,
    strings: Vec<&'a str>,
    /// Name, file and object as positions in `strings`, and first line, of each function.
    functions: Vec<usize>,
    /// Function, kind and line of each frame.
    frames: Vec<usize>,
    labels: Vec<Cow<'a, str>>,
    groups: Vec<Group<'a>>,
}

/// What the page says of the profile as a whole.
#[derive(Serialize)]
struct About<'a> {
    title: &'a str,
    /// What is counted, what that stands for, and in which unit.
    event: Cow<'a, str>,
    kind: Cow<'a, str>,
    unit: Cow<'a, str>,
    /// 0 where what is counted stands for nothing but itself.
    period: u64,
    total: u64,
    time_ns: u64,
    duration_ns: u64,
    comments: Vec<String>,
    flame: Toggles,
}

/// What is pressed at first.
#[derive(Serialize)]
struct Toggles {
    icicle: bool,
    reversed: bool,
}

/// Writes the profile as a page.
///
/// # Errors
/// What `out` refused.
pub fn write(profile: &Profile, flame: Flame, out: &mut dyn Write) -> io::Result<()> {
    let title = about::title(profile);
    let mut parts = PAGE.split("{{");
    out.write_all(parts.next().unwrap_or_default().as_bytes())?;
    // What is put in is not looked at again.
    for part in parts {
        let (place, rest) = part.split_once("}}").unwrap_or((part, ""));
        match place {
            "policy" => write_policy(out)?,
            "exporter" => out.write_all(about::EXPORTER.as_bytes())?,
            "title" => out.write_all(escaped(&title).as_bytes())?,
            "style" => out.write_all(STYLE.as_bytes())?,
            "data" => write_data(profile, &title, flame, out)?,
            "script" => SCRIPT
                .iter()
                .try_for_each(|part| out.write_all(part.as_bytes()))?,
            _ => {}
        }
        out.write_all(rest.as_bytes())?;
    }
    Ok(())
}

/// Nothing may be loaded, and nothing run but what was written here.
fn write_policy(out: &mut dyn Write) -> io::Result<()> {
    write!(
        out,
        "default-src 'none'; style-src 'sha256-{STYLE_HASH}'; script-src 'sha256-{SCRIPT_HASH}'; base-uri 'none'; form-action 'none'"
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

fn write_data(profile: &Profile, title: &str, flame: Flame, out: &mut dyn Write) -> io::Result<()> {
    let frames = Frames::of(profile);
    let (frame_columns, numbers) = frame_columns(&frames);
    let mut strings = Strings::default();
    let mut functions = Vec::with_capacity(4 * frames.functions.len());
    for function in &frames.functions {
        for text in [&function.name, &function.file, &function.object] {
            functions.push(strings.number(text));
        }
        functions.push(function.start_line as usize);
    }
    let (labels, groups) = tree::of(profile, &frames, &numbers);
    let data = Data {
        about: About {
            title,
            event: names::clean(&profile.event_type.kind),
            kind: names::clean(&profile.weight_type().kind),
            unit: names::clean(&profile.weight_type().unit),
            period: match profile.values {
                Values::CountAndPeriod => profile.period,
                Values::CountAlone | Values::EventsAndWeight => 0,
            },
            total: profile.total(),
            time_ns: profile.time_ns,
            duration_ns: profile.duration_ns,
            comments: about::comments(profile).collect(),
            flame: Toggles {
                icicle: flame.growth == Growth::Down,
                reversed: flame.root == Root::Innermost,
            },
        },
        strings: strings.items,
        functions,
        frames: frame_columns,
        labels,
        groups,
    };
    data.serialize(&mut Serializer::with_formatter(out, InPage))?;
    Ok(())
}

/// Frames as the page has them, without columns, and the number of each there.
fn frame_columns(frames: &Frames<'_>) -> (Vec<usize>, Vec<usize>) {
    let told = frames
        .frames
        .iter()
        .map(|frame| (frame.function, frame.shown.number(), frame.line as usize));
    let told: Vec<(usize, usize, usize)> = told.collect();
    let mut distinct: BTreeMap<(usize, usize, usize), usize> =
        told.iter().map(|frame| (*frame, 0)).collect();
    for (number, (_, at)) in distinct.iter_mut().enumerate() {
        *at = number;
    }
    let columns = distinct
        .keys()
        .flat_map(|(function, shown, line)| [*function, *shown, *line])
        .collect();
    let numbers = told.iter().map(|frame| distinct[frame]).collect();
    (columns, numbers)
}

/// Texts, each once, in the order in which they are asked for.
#[derive(Default)]
struct Strings<'a> {
    items: Vec<&'a str>,
    numbers: BTreeMap<&'a str, usize>,
}

impl<'a> Strings<'a> {
    fn number(&mut self, text: &'a str) -> usize {
        *self.numbers.entry(text).or_insert_with(|| {
            self.items.push(text);
            self.items.len() - 1
        })
    }
}

/// JSON in which no text can end the block it stands in, or a line of it.
struct InPage;

impl Formatter for InPage {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let is_special = |c| matches!(c, '<' | '>' | '&' | '\u{2028}' | '\u{2029}');
        let mut rest = fragment;
        while let Some(at) = rest.find(is_special) {
            let (before, from) = rest.split_at(at);
            let special = from.chars().next().expect("found one there");
            writer.write_all(before.as_bytes())?;
            write!(writer, "\\u{:04x}", u32::from(special))?;
            rest = &from[special.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    /// Source: RFC 4648, section 4.
    fn base64(bytes: &[u8]) -> String {
        const LETTERS: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = String::new();
        for chunk in bytes.chunks(3) {
            let word = chunk
                .iter()
                .fold(0_u32, |word, byte| word << 8 | u32::from(*byte))
                << (8 * (3 - chunk.len()));
            for at in 0..4 {
                let letter = LETTERS[(word >> (18 - 6 * at)) as usize & 63];
                text.push(if at <= chunk.len() {
                    char::from(letter)
                } else {
                    '='
                });
            }
        }
        text
    }

    #[track_caller]
    fn check_hash(text: &str, expected: &str) {
        assert_eq!(base64(&Sha256::digest(text)), expected);
    }

    #[test]
    fn the_policy_lets_our_style_and_script_in() {
        check_hash("", "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
        check_hash(STYLE, STYLE_HASH);
        check_hash(&SCRIPT.concat(), SCRIPT_HASH);
    }

    #[test]
    fn the_page_has_a_place_for_everything_and_nothing_that_ends_it_early() {
        for place in ["policy", "exporter", "title", "style", "data", "script"] {
            assert_eq!(PAGE.matches(&format!("{{{{{place}}}}}")).count(), 1);
        }
        assert_eq!(PAGE.matches("{{").count(), 6);
        assert!(!SCRIPT.concat().contains("</script") && !STYLE.contains("</style"));
        for word in ["http:", "https:", "javascript:", " onload", " onclick"] {
            assert!(!PAGE.contains(word), "{word}");
        }
        for word in ["innerHTML", "eval(", "Function(", "fetch(", "import("] {
            assert!(!SCRIPT.concat().contains(word), "{word}");
        }
    }

    fn page(name: &str) -> String {
        let mut profile = Profile::cpu(1);
        profile.comments = vec![format!("#target: {name}"), name.to_owned()];
        let comm = profile.string(name);
        let marker = profile.marker(name);
        let label = crate::profile::LabelValue::Text(comm);
        profile.add(&[marker], &[(crate::profile::LabelKey::Comm, label)], 1);
        let mut page = Vec::new();
        write(&profile, Flame::default(), &mut page).unwrap();
        String::from_utf8(page).unwrap()
    }

    #[track_caller]
    fn check_hostile(name: &str) {
        let page = page(name);
        let harmless = self::page("x");
        for word in ["<", ">", "</script", "<!--", "{{"] {
            assert_eq!(
                page.matches(word).count(),
                harmless.matches(word).count(),
                "{word} in {name:?}"
            );
        }
        let (_, data) = page.split_once("id=\"data\">").unwrap();
        let (data, _) = data.split_once("</script>").unwrap();
        assert!(!data.contains(['\u{2028}', '\u{2029}', '\n']));
        let data: serde_json::Value = serde_json::from_str(data).unwrap();
        assert_eq!(data["strings"][0], name);
        assert_eq!(data["groups"][0]["labels"][0], name);
    }

    #[test]
    fn a_name_cannot_break_the_page() {
        check_hostile("</script><script>alert(1)</script>");
        check_hostile("<!--<script>");
        check_hostile("a\u{2028}b\u{2029}c");
        check_hostile("\"]}'`${1}\\u003c\\");
        check_hostile("&lt;img src=x onerror=alert(1)&gt;");
        check_hostile("data}}");
    }
}
