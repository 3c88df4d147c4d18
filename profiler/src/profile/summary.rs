//! What the end of a run says of a profile: its hottest functions.

use std::collections::{HashMap, HashSet};

use super::{FunctionId, Profile};

/// One function's part in a profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hot {
    /// Its name.
    pub name: String,
    /// Events in the function itself.
    pub flat: u64,
    /// Events in the function or what it called.
    pub cumulative: u64,
}

/// The `most` functions with the most events of their own, hottest first.
#[must_use]
pub fn hottest(profile: &Profile, most: usize) -> Vec<Hot> {
    let mut flat: HashMap<&str, u64> = HashMap::new();
    let mut cumulative: HashMap<&str, u64> = HashMap::new();
    let name = |id: FunctionId| profile.text(profile.function_at(id).name);
    for sample in profile.samples() {
        let mut seen = HashSet::new();
        for (depth, location) in sample.stack.iter().enumerate() {
            for (inlined, line) in profile.location_at(*location).lines.iter().enumerate() {
                let name = name(line.function);
                if depth == 0 && inlined == 0 {
                    *flat.entry(name).or_insert(0) += sample.count;
                }
                if seen.insert(name) {
                    *cumulative.entry(name).or_insert(0) += sample.count;
                }
            }
        }
    }
    let mut hot: Vec<Hot> = flat
        .into_iter()
        .map(|(name, flat)| Hot {
            name: name.to_owned(),
            flat,
            cumulative: cumulative[name],
        })
        .collect();
    hot.sort_unstable_by(|a, b| b.flat.cmp(&a.flat).then_with(|| a.name.cmp(&b.name)));
    hot.truncate(most);
    hot
}
