//! The stacks of each group of samples as a tree of frames, in the fewest numbers.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use serde::Serialize;

use crate::{
    export::{frames::Frames, names},
    profile::{LabelKey, LabelValue, Profile, Sample},
};

/// The samples whose labels say the same.
#[derive(Serialize)]
pub(super) struct Group<'a> {
    /// One for each label of the page.
    labels: Vec<Value<'a>>,
    /// Three numbers for each node, each parent before its children: how many nodes to go up from
    /// the one before, to find the parent; the frame; and the events that end there.
    tree: Vec<u64>,
}

/// What a label says.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(untagged)]
enum Value<'a> {
    Text(Cow<'a, str>),
    Number(i64),
}

/// The names of the labels, and the groups. `numbers` are those of the page's frames.
pub(super) fn of<'a>(
    profile: &'a Profile,
    frames: &Frames<'_>,
    numbers: &[usize],
) -> (Vec<Cow<'a, str>>, Vec<Group<'a>>) {
    let keys = keys(profile);
    let mut groups: BTreeMap<Vec<Value<'a>>, BTreeMap<Vec<usize>, u64>> = BTreeMap::new();
    for sample in profile.samples().filter(|sample| sample.count > 0) {
        let labels = keys
            .iter()
            .map(|(_, key)| value(profile, &sample, *key))
            .collect();
        let stack = frames.of_stack(sample.stack);
        let stack = stack.into_iter().map(|frame| numbers[frame]).collect();
        let count = groups.entry(labels).or_default().entry(stack).or_default();
        *count = count.saturating_add(sample.count);
    }
    let groups = groups.into_iter().map(|(labels, stacks)| Group {
        labels,
        tree: tree(&stacks),
    });
    (
        keys.iter().map(|(name, _)| name.clone()).collect(),
        groups.collect(),
    )
}

/// The labels to choose by, with their names. The comm is known whether shown or not, and other
/// formats start each stack with it. Numbers of others tell sizes, not who it was.
fn keys(profile: &Profile) -> Vec<(Cow<'_, str>, LabelKey)> {
    let own = LabelKey::ALL
        .into_iter()
        .filter(|key| *key == LabelKey::Comm || profile.shows(*key))
        .map(|key| (Cow::Borrowed(profile.key_name(key)), key));
    let labels = profile.samples().flat_map(|sample| sample.labels);
    let foreign: BTreeSet<(Cow<'_, str>, LabelKey)> = labels
        .filter_map(|label| match label {
            (LabelKey::Foreign(name), LabelValue::Text(_)) => {
                Some((names::clean(profile.text(*name)), label.0))
            }
            _ => None,
        })
        .collect();
    own.chain(foreign).collect()
}

fn value<'a>(profile: &'a Profile, sample: &Sample<'_>, wanted: LabelKey) -> Value<'a> {
    let found = sample.labels.iter().find(|(key, _)| *key == wanted);
    match found.map(|(_, value)| *value) {
        Some(LabelValue::Text(text)) => Value::Text(names::clean(profile.text(text))),
        Some(LabelValue::Number(number, _)) => Value::Number(number),
        None => Value::Text(Cow::Borrowed("")),
    }
}

/// Stacks are sorted, so each adds nodes behind what it shares with the one before.
fn tree(stacks: &BTreeMap<Vec<usize>, u64>) -> Vec<u64> {
    let mut tree = Vec::new();
    let mut last: &[usize] = &[];
    for (stack, count) in stacks {
        let shared = last.iter().zip(stack).take_while(|(a, b)| a == b).count();
        let mut up = last.len() - shared;
        for (depth, frame) in stack.iter().enumerate().skip(shared) {
            let own = if depth + 1 == stack.len() { *count } else { 0 };
            tree.extend([up as u64, *frame as u64, own]);
            up = 0;
        }
        last = stack;
    }
    tree
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(stacks: &[(&[usize], u64)], expected: &[[u64; 3]]) {
        let stacks = stacks
            .iter()
            .map(|(stack, count)| (stack.to_vec(), *count))
            .collect();
        assert_eq!(tree(&stacks), expected.concat());
    }

    #[test]
    fn each_stack_goes_on_where_it_leaves_the_one_before() {
        check(&[], &[]);
        check(&[(&[7], 2)], &[[0, 7, 2]]);
        check(
            &[
                (&[1], 5),
                (&[1, 2, 3], 4),
                (&[1, 2, 4], 3),
                (&[1, 9], 2),
                (&[8], 1),
            ],
            &[
                [0, 1, 5],
                [0, 2, 0],
                [0, 3, 4],
                [1, 4, 3],
                [2, 9, 2],
                [2, 8, 1],
            ],
        );
    }
}
