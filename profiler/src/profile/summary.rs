//! What the end of a run says of a profile: its hottest functions.

use super::{Profile, StringId};

/// One function's part in a profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hot {
    /// Its name.
    pub name: String,
    /// Events in the function itself, or what they weigh where that is counted.
    pub flat: u64,
    /// The same for the function or what it called.
    pub cumulative: u64,
}

/// What a function, by its name, was seen in.
#[derive(Clone, Copy, Default)]
struct Counted {
    flat: u64,
    cumulative: u64,
    /// The number of the last sample that it was in.
    last_seen: usize,
}

/// The `most` functions with the most events of their own, hottest first.
#[must_use]
pub fn hottest(profile: &Profile, most: usize) -> Vec<Hot> {
    let mut functions = vec![Counted::default(); profile.strings().len()];
    for (number, sample) in (1..).zip(profile.samples()) {
        for (depth, location) in sample.stack.iter().enumerate() {
            for (inlined, line) in profile.location_at(*location).lines.iter().enumerate() {
                let StringId(name) = profile.function_at(line.function).name;
                let function = &mut functions[name as usize];
                if depth == 0 && inlined == 0 {
                    function.flat += sample.count;
                }
                if std::mem::replace(&mut function.last_seen, number) != number {
                    function.cumulative += sample.count;
                }
            }
        }
    }
    let mut hot: Vec<Hot> = profile
        .strings()
        .iter()
        .zip(functions)
        .filter(|(_, function)| function.flat > 0)
        .map(|(name, function)| Hot {
            name: name.clone(),
            flat: function.flat,
            cumulative: function.cumulative,
        })
        .collect();
    hot.sort_unstable_by(|a, b| b.flat.cmp(&a.flat).then_with(|| a.name.cmp(&b.name)));
    hot.truncate(most);
    hot
}
