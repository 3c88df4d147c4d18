//! The flame graph: one SVG file that a browser opens, with search and zoom.
//!
//! Drawn by the crate `inferno`, whose only way in is folded lines.

mod colours;

use std::io::{self, Write};

use inferno::flamegraph::{
    self, Direction, Options, TextTruncateDirection, color::BackgroundColor,
};

use super::{
    about,
    flame::{Flame, Growth, Root},
    folded, names,
};
use crate::profile::Profile;

/// The narrowest box that is drawn, in percent of the whole: about a pixel. Most boxes of a
/// profile of a host are narrower, and they were most of the file.
const LEAST_PERCENT: f64 = 0.1;

/// Writes the profile as a flame graph.
///
/// # Errors
/// What `out` refused.
pub fn write(profile: &Profile, flame: Flame, out: &mut dyn Write) -> io::Result<()> {
    let stacks = folded::stacks(profile);
    let title = about::named(profile, "flame graph");
    if stacks.is_empty() {
        return write_empty(&title, out);
    }
    let mut stacks: Vec<(String, u64)> = stacks.into_iter().collect();
    if flame.root == Root::Innermost {
        for (stack, _) in &mut stacks {
            *stack = stack.rsplit(';').collect::<Vec<_>>().join(";");
        }
    }
    // By frame, not by byte: by byte, `f(int)` lies between `f` and `f;g`, and would cut the box
    // of `f` in two.
    stacks.sort_unstable_by(|(a, _), (b, _)| a.split(';').cmp(b.split(';')));
    let lines: Vec<String> = stacks
        .iter()
        .rev()
        .map(|(stack, count)| format!("{stack} {count}"))
        .collect();
    let mut colours = colours::of(profile);
    let mut options = options(profile, flame, title);
    options.palette_map = Some(&mut colours);
    flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), out)
}

fn options(profile: &Profile, flame: Flame, title: String) -> Options<'static> {
    let mut options = Options::default();
    options.title = title;
    options.count_name = names::clean(about::counted(&profile.event_type)).into_owned();
    // Warm boxes would drown in the usual yellow.
    options.bgcolors = Some(BackgroundColor::Grey);
    options.min_width = LEAST_PERCENT;
    if profile.total() as f64 * LEAST_PERCENT > 100.0 {
        options.subtitle = Some(format!("boxes below {LEAST_PERCENT}% are left out"));
    }
    options.text_truncate_direction = TextTruncateDirection::Right;
    // Colours have a map of their own; by no means would they follow from chance.
    options.deterministic = true;
    // Keeps the order that it is given, the last line first.
    options.flame_chart = true;
    options.direction = match flame.growth {
        Growth::Up => Direction::Straight,
        Growth::Down => Direction::Inverted,
    };
    options
}

/// A picture that says that there is nothing to draw.
fn write_empty(title: &str, out: &mut dyn Write) -> io::Result<()> {
    let title = title
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    write!(
        out,
        r##"<?xml version="1.0" standalone="no"?>
<svg version="1.1" width="1200" height="90" viewBox="0 0 1200 90" xmlns="http://www.w3.org/2000/svg">
<rect x="0" y="0" width="100%" height="100%" fill="#f8f8f8"/>
<text x="50%" y="30" text-anchor="middle" font-family="monospace" font-size="17">{title}</text>
<text x="50%" y="62" text-anchor="middle" font-family="monospace" font-size="12">no samples</text>
</svg>
"##
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{FrameKind, Function, Line, LocationId, StringId};

    fn drawn(profile: &Profile) -> String {
        let mut svg = Vec::new();
        write(profile, Flame::default(), &mut svg).unwrap();
        String::from_utf8(svg).unwrap()
    }

    fn add(profile: &mut Profile, names: &[&str], count: u64) {
        let stack: Vec<LocationId> = names
            .iter()
            .map(|name| {
                let text = profile.string(name);
                let function = profile.function(Function {
                    name: text,
                    system_name: StringId::EMPTY,
                    file: StringId::EMPTY,
                    start_line: 0,
                });
                let address = 0x1000 + function.index() as u64;
                let location = profile.location(FrameKind::User, None, address);
                let line = Line {
                    function,
                    line: 0,
                    column: 0,
                };
                profile.set_lines(location, vec![line]);
                location
            })
            .collect();
        profile.add(&stack, &[], count);
    }

    #[test]
    fn an_empty_profile_is_a_picture_that_says_so() {
        let mut profile = Profile::cpu(1);
        assert!(drawn(&profile).contains(">no samples<"));
        profile.comments.push("# target: a<b>&c".to_owned());
        profile.add(&[], &[], 0);
        let svg = drawn(&profile);
        assert!(svg.contains("CPU flame graph: a&lt;b&gt;&amp;c"));
        assert!(svg.contains(">no samples<") && svg.trim_end().ends_with("</svg>"));
    }

    #[test]
    fn a_comment_names_the_target_in_the_title() {
        let mut profile = Profile::cpu(1);
        add(&mut profile, &["main"], 1);
        assert!(drawn(&profile).contains(">CPU flame graph</text>"));
        profile.comments.push("target: server (pid 7)".to_owned());
        assert!(drawn(&profile).contains(">CPU flame graph: server (pid 7)</text>"));
    }

    #[test]
    fn a_function_is_one_box_whatever_its_siblings_are_called() {
        let mut profile = Profile::cpu(1);
        add(&mut profile, &["f"], 1);
        add(&mut profile, &["f(int)"], 1);
        add(&mut profile, &["f [clone .cold]"], 1);
        add(&mut profile, &["g", "f"], 1);
        let svg = drawn(&profile);
        assert!(
            svg.contains("<title>f (2 samples, 50.00%)</title>"),
            "{svg}"
        );
        assert_eq!(svg.matches("<title>f (").count(), 1);
        assert!(svg.contains("<title>f(int) (1 samples, 25.00%)</title>"));
    }

    #[test]
    fn a_name_cannot_break_the_picture() {
        let mut profile = Profile::cpu(1);
        add(&mut profile, &["a\u{1b}[31m<&>\u{0}\u{ffff}"], 1);
        let svg = drawn(&profile);
        assert!(svg.contains("<title>a [31m&lt;&amp;&gt; (1 samples, 100.00%)</title>"));
        assert!(!svg.contains(['\u{1b}', '\u{0}', '\u{ffff}']));
        let mut profile = Profile::counting(crate::profile::ValueType {
            kind: "a<b>\0".into(),
            unit: "c<d>\u{1b}".into(),
        });
        add(&mut profile, &["main"], 7);
        let svg = drawn(&profile);
        assert!(
            svg.contains("<title>main (7 c&lt;d&gt;, 100.00%)</title>"),
            "{svg}"
        );
        assert!(svg.contains(">a&lt;b&gt; flame graph</text>"), "{svg}");
    }
}
