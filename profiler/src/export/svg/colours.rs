//! The colour of each frame, by what it is: the page of `export::html` has the same.
//!
//! The palettes of `inferno` guess from names what a function is, and take what begins in upper
//! case for code made at run time. We know what it is.

use std::collections::BTreeMap;

use inferno::flamegraph::color::{Color, PaletteMap};

use crate::{
    export::{folded, frames::Shown, names},
    profile::Profile,
};

/// For what no function is: the whole, comms, and why a stack was cut or is empty. Hue in degrees, the
/// rest in percent.
const GREY: Shade = Shade {
    hue: 215.0,
    saturation: 6.0,
};

/// Lightness in percent.
const LIGHT: f64 = 76.0;

/// How much a name may shift the hue in degrees and the lightness in percent, to both sides.
const HUE_SHIFT: f64 = 6.5;
const LIGHT_SHIFT: f64 = 4.5;

#[derive(Clone, Copy)]
struct Shade {
    hue: f64,
    saturation: f64,
}

/// The colours of all frames as they stand in folded stacks.
pub(super) fn of(profile: &Profile) -> PaletteMap {
    let mut colours = PaletteMap::default();
    for nothing in ["", names::UNKNOWN] {
        colours.insert(nothing, colour(GREY, nothing));
    }
    // A function may be called like a thread or a mark: then it is the function that is shown.
    for comm in folded::comms(profile) {
        colours.insert(&comm, colour(GREY, &comm));
    }
    // Two functions may read alike, as one's name may end like the mark of another's kind: in whatever
    // order they came, one of them counts.
    let rank = |shown: Shown| (shown == Shown::Marker, shown);
    let mut frames: BTreeMap<String, Shown> = BTreeMap::new();
    for (frame, shown) in folded::shown_frames(profile) {
        let known = frames.entry(frame).or_insert(shown);
        if rank(shown) < rank(*known) {
            *known = shown;
        }
    }
    for (frame, shown) in frames {
        let name = frame.strip_suffix(folded::suffix(shown)).unwrap_or(&frame);
        let colour = colour(shade(shown), name);
        colours.insert(frame, colour);
    }
    colours
}

/// Orange for the kernel and yellow for users' code, as both are warm; cold for what a compiler
/// made of it.
const fn shade(shown: Shown) -> Shade {
    let (hue, saturation) = match shown {
        Shown::User => (43.0, 82.0),
        Shown::Kernel => (16.0, 72.0),
        Shown::Jit => (130.0, 42.0),
        Shown::Inlined => (186.0, 46.0),
        Shown::Marker => return GREY,
    };
    Shade { hue, saturation }
}

/// The shade, shifted a little by the name: neighbours are told apart, and a function looks alike
/// in every graph.
fn colour(shade: Shade, name: &str) -> Color {
    // FNV-1a of 32 bits, over UTF-16 as the page has it.
    let hash = name.encode_utf16().fold(2_166_136_261_u32, |hash, unit| {
        (hash ^ u32::from(unit)).wrapping_mul(16_777_619)
    });
    let shift = f64::from((hash >> 8) % 1000) / 500.0 - 1.0;
    let light = (LIGHT + shift * LIGHT_SHIFT) / 100.0;
    rgb(
        shade.hue + shift * HUE_SHIFT,
        shade.saturation / 100.0,
        light,
    )
}

/// Source: CSS Color Module Level 4, section 7.1.
fn rgb(hue: f64, saturation: f64, light: f64) -> Color {
    let channel = |number: f64| {
        let turn = (number + hue / 30.0) % 12.0;
        let reach = saturation * light.min(1.0 - light);
        let value = light - reach * (turn - 3.0).min(9.0 - turn).clamp(-1.0, 1.0);
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "from 0 to 255"
        )]
        let byte = (value * 255.0).round() as u8;
        byte
    };
    Color {
        r: channel(0.0),
        g: channel(8.0),
        b: channel(4.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{FrameKind, Function, LabelKey, LabelValue, Line, LocationId, StringId};

    fn location(profile: &mut Profile, kind: FrameKind, names: &[&str]) -> LocationId {
        let lines = names.iter().map(|name| {
            let name = profile.string(name);
            let function = profile.function(Function {
                name,
                system_name: StringId::EMPTY,
                file: StringId::EMPTY,
                start_line: 0,
            });
            Line {
                function,
                line: 0,
                column: 0,
            }
        });
        let lines: Vec<Line> = lines.collect();
        let address = 0x1000 + profile.locations().len() as u64;
        let location = profile.location(kind, None, address);
        profile.set_lines(location, lines);
        location
    }

    #[derive(Debug, PartialEq)]
    enum Hue {
        Grey,
        Orange,
        Yellow,
        Green,
        Aqua,
    }

    fn hue(colour: Color) -> Hue {
        let Color { r, g, b } = colour;
        match () {
            () if r.abs_diff(b) < 20 && r.abs_diff(g) < 20 => Hue::Grey,
            () if r > g && g > b && g - b > 50 => Hue::Yellow,
            () if r > g && r > b => Hue::Orange,
            () if g > r && g.saturating_sub(b) > 20 => Hue::Green,
            () => Hue::Aqua,
        }
    }

    #[test]
    fn colours_say_what_a_frame_is_and_not_what_it_is_called() {
        let mut profile = Profile::cpu(1);
        let mark = profile.marker("[cut: no unwind row]");
        let stack = [
            location(&mut profile, FrameKind::Kernel, &["vfs_read"]),
            location(&mut profile, FrameKind::Jit, &["same"]),
            location(&mut profile, FrameKind::User, &["same", "Builtins_Call"]),
            location(&mut profile, FrameKind::User, &["a.b/c", "std::f"]),
            location(&mut profile, FrameKind::User, &["both"]),
            mark,
        ];
        profile.add(&[], &[], 1);
        for comm in ["Thread.1", "both"] {
            let comm = LabelValue::Text(profile.string(comm));
            profile.add(&stack, &[(LabelKey::Comm, comm)], 1);
        }
        let colours = of(&profile);
        for (frame, expected) in [
            ("", Hue::Grey),
            ("[unknown]", Hue::Grey),
            ("Thread.1", Hue::Grey),
            ("[cut: no unwind row]", Hue::Grey),
            ("vfs_read_[k]", Hue::Orange),
            ("same_[j]", Hue::Green),
            ("same_[i]", Hue::Aqua),
            ("a.b/c_[i]", Hue::Aqua),
            ("Builtins_Call", Hue::Yellow),
            ("std::f", Hue::Yellow),
            ("both", Hue::Yellow),
        ] {
            assert_eq!(colours.get(frame).map(hue), Some(expected), "{frame}");
        }
    }

    #[test]
    fn every_name_of_a_kind_keeps_its_hue() {
        for number in 0..2000 {
            let name = format!("f{number}");
            let of = |shown| hue(colour(shade(shown), &name));
            assert_eq!(of(Shown::User), Hue::Yellow, "{name}");
            assert_eq!(of(Shown::Kernel), Hue::Orange, "{name}");
            assert_eq!(of(Shown::Jit), Hue::Green, "{name}");
            assert_eq!(of(Shown::Inlined), Hue::Aqua, "{name}");
            assert_eq!(of(Shown::Marker), Hue::Grey, "{name}");
        }
    }

    #[test]
    fn a_colour_is_what_css_makes_of_it() {
        let expected = |r, g, b| Color { r, g, b };
        assert_eq!(rgb(0.0, 1.0, 0.5), expected(255, 0, 0));
        assert_eq!(rgb(120.0, 1.0, 0.25), expected(0, 128, 0));
        assert_eq!(rgb(240.0, 1.0, 0.5), expected(0, 0, 255));
        assert_eq!(rgb(30.0, 0.0, 1.0), expected(255, 255, 255));
    }
}
