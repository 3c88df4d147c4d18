//! What an object said of addresses before: a server asks it for the same ones again and again.
//!
//! In: what was told. Out: the same, for as long as there is room and the object's file is as it was.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use foldhash::HashMap;

use super::{
    Inlines, Settings,
    dwarf::Frame,
    object::{Told, ToldLines},
};
use crate::unnamed::{NoLines, Reason};

/// Addresses that are remembered of all objects, some 300 bytes each: an object that comes with more
/// starts anew.
const MOST_ADDRESSES: usize = 200_000;

/// How many there are.
static ADDRESSES: AtomicUsize = AtomicUsize::new(0);

/// What one object said.
#[derive(Debug, Default)]
pub(crate) struct Warm(Mutex<Option<Answers>>);

#[derive(Debug)]
struct Answers {
    /// The frames of each address, and whether its lines would take too much memory.
    frames: HashMap<u64, (Vec<Frame>, bool)>,
    unnamed: Reason,
    lineless: NoLines,
    is_bare: bool,
}

impl Answers {
    fn told(&self, addresses: &[u64]) -> Told {
        let known = |address: &u64| self.frames.get(address);
        let frames = |address| known(address).map(|(frames, _)| frames.clone());
        let is_too_long = |address: &&u64| known(address).is_some_and(|(_, too_long)| *too_long);
        Told {
            frames: addresses
                .iter()
                .map(|address| frames(address).unwrap_or_default())
                .collect(),
            unnamed: self.unnamed,
            lines: ToldLines {
                lineless: self.lineless,
                too_long: addresses.iter().filter(is_too_long).copied().collect(),
                too_late: Vec::new(),
            },
            is_bare: self.is_bare,
        }
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        ADDRESSES.fetch_sub(self.frames.len(), Ordering::Relaxed);
    }
}

impl Warm {
    /// What is told of these addresses, which are sorted: by `ask`, for those that were not asked for
    /// before. What is asked for in haste, so without lines, is not remembered.
    pub(super) fn ask(
        &self,
        addresses: &[u64],
        settings: Settings,
        ask: impl Fn(&[u64]) -> Result<Told, Reason>,
    ) -> Result<Told, Reason> {
        let is_hasty = settings.inlines == Inlines::Skip;
        let mut too_late = Vec::new();
        if !is_hasty {
            let wanted = self.wanted(addresses);
            if !wanted.is_empty() {
                too_late = self.keep(&wanted, ask(&wanted)?);
            }
        }
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_there = |kept: &Answers, address: &u64| {
            let is_late = || {
                too_late
                    .binary_search_by_key(address, |(one, _)| *one)
                    .is_ok()
            };
            kept.frames.contains_key(address) || is_late()
        };
        let has_all = |kept: &&Answers| addresses.iter().all(|one| is_there(kept, one));
        let Some(mut told) = kept
            .as_ref()
            .filter(has_all)
            .map(|kept| kept.told(addresses))
        else {
            // In haste, or another thread made room meanwhile.
            drop(kept);
            return ask(addresses);
        };
        for (address, frames) in too_late {
            if let Ok(at) = addresses.binary_search(&address) {
                told.frames[at] = frames;
                told.lines.too_late.push(address);
            }
        }
        Ok(told)
    }

    /// Those that are to be asked for. Makes room for them.
    fn wanted(&self, addresses: &[u64]) -> Vec<u64> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = |address: &&u64| {
            let kept = kept.as_ref();
            kept.is_some_and(|kept| kept.frames.contains_key(address))
        };
        let new = addresses.iter().filter(|address| !is_known(address));
        let new: Vec<u64> = new.copied().collect();
        if ADDRESSES.load(Ordering::Relaxed) + new.len() <= MOST_ADDRESSES {
            return new;
        }
        *kept = None;
        addresses.to_vec()
    }

    /// Remembers what was told, and gives back what was told in haste.
    fn keep(&self, addresses: &[u64], told: Told) -> Vec<(u64, Vec<Frame>)> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Told {
            frames,
            unnamed,
            lines,
            is_bare,
        } = told;
        let answers = kept.get_or_insert_with(|| Answers {
            frames: HashMap::default(),
            unnamed,
            lineless: lines.lineless,
            is_bare,
        });
        let mut too_late = Vec::new();
        for (address, frames) in addresses.iter().zip(frames) {
            if lines.too_late.binary_search(address).is_ok() {
                too_late.push((*address, frames));
                continue;
            }
            let is_too_long = lines.too_long.binary_search(address).is_ok();
            let old = answers.frames.insert(*address, (frames, is_too_long));
            ADDRESSES.fetch_add(usize::from(old.is_none()), Ordering::Relaxed);
        }
        too_late
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn told(addresses: &[u64]) -> Told {
        let frame = |address: &u64| Frame {
            name: Some(format!("f{address}")),
            ..Frame::default()
        };
        Told {
            frames: addresses
                .iter()
                .map(|address| vec![frame(address)])
                .collect(),
            unnamed: Reason::NoSymbol,
            lines: ToldLines {
                lineless: NoLines::NoDebugInfo,
                too_long: addresses.iter().copied().filter(|one| *one == 7).collect(),
                too_late: addresses.iter().copied().filter(|one| *one == 9).collect(),
            },
            is_bare: true,
        }
    }

    #[test]
    fn an_address_is_asked_for_once() {
        let (warm, asked) = (Warm::default(), RefCell::new(Vec::new()));
        let ask = |addresses: &[u64]| {
            asked.borrow_mut().push(addresses.to_vec());
            Ok(told(addresses))
        };
        for addresses in [&[1, 2][..], &[1, 2], &[2, 7], &[1, 2, 7]] {
            let answer = warm.ask(addresses, Settings::default(), ask).unwrap();
            let expected = told(addresses);
            assert_eq!(answer.frames, expected.frames);
            assert_eq!(answer.lines.too_long, expected.lines.too_long);
            assert!(answer.is_bare);
        }
        assert_eq!(*asked.borrow(), [vec![1, 2], vec![7]]);
    }

    #[test]
    fn names_in_haste_are_not_remembered() {
        let (warm, asked) = (Warm::default(), RefCell::new(0));
        let hasty = Settings {
            inlines: Inlines::Skip,
            ..Settings::default()
        };
        for _ in 0..2 {
            let ask = |addresses: &[u64]| {
                *asked.borrow_mut() += 1;
                Ok(told(addresses))
            };
            assert_eq!(warm.ask(&[1], hasty, ask).unwrap().frames.len(), 1);
        }
        assert_eq!(*asked.borrow(), 2);
    }

    #[test]
    fn what_there_was_no_time_for_is_asked_again_and_what_is_known_is_told_in_haste() {
        let (warm, asked) = (Warm::default(), RefCell::new(Vec::new()));
        let ask = |addresses: &[u64]| {
            asked.borrow_mut().push(addresses.to_vec());
            Ok(told(addresses))
        };
        for _ in 0..2 {
            let answer = warm.ask(&[1, 9], Settings::default(), ask).unwrap();
            assert_eq!(answer.frames, told(&[1, 9]).frames);
            assert_eq!(answer.lines.too_late, [9]);
        }
        assert_eq!(*asked.borrow(), [vec![1, 9], vec![9]]);
        let hasty = Settings {
            inlines: Inlines::Skip,
            ..Settings::default()
        };
        assert_eq!(warm.ask(&[1], hasty, ask).unwrap().frames.len(), 1);
        assert_eq!(asked.borrow().len(), 2);
    }

    #[test]
    fn an_object_that_says_nothing_is_asked_again() {
        let warm = Warm::default();
        let refused = warm.ask(&[1], Settings::default(), |_| Err(Reason::NotElf));
        assert_eq!(refused.unwrap_err(), Reason::NotElf);
        assert!(
            warm.ask(&[1], Settings::default(), |one| Ok(told(one)))
                .is_ok()
        );
    }
}
