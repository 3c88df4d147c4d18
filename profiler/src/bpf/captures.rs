//! Which captures there are, and what each is of: the kernel side's target set and scope.

use std::collections::HashMap;

use aya::{
    Ebpf,
    maps::{self, Array, MapData, PerCpuArray},
};
use profiler_common::{
    config::{CaptureBits, Scope, TargetKey},
    limits::MAX_CAPTURES,
};

use super::{BpfError, take};
use crate::target::Follow;

/// A capture, by the number of its bit. Numbers are given out again once their captures are closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CaptureNumber(u8);

impl CaptureNumber {
    /// The first that is given out.
    pub const FIRST: Self = Self(0);

    /// Whether it is among these.
    #[must_use]
    pub fn is_in(self, captures: CaptureBits) -> bool {
        captures & self.bit() != 0
    }

    fn bit(self) -> CaptureBits {
        1 << self.0
    }
}

/// What a capture is of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CaptureTargets {
    /// The keys of its targets; without filters everybody is one.
    pub keys: Vec<TargetKey>,
    /// The [`profiler_common::config::TargetKind`] bits to filter by; 0 for everybody.
    pub filters: u32,
    /// Bit `n`: look for cgroups at level `n` of the tree.
    pub cgroup_levels: u32,
    /// Whether children of target processes become targets.
    pub follow: Follow,
}

/// How far a capture is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// No tick falls on it yet.
    Reserved,
    /// Ticks fall on it.
    Open,
    /// Its samples may still be on their way.
    Ended,
}

#[derive(Clone, Copy, Debug)]
struct Capture {
    stage: Stage,
    filters: u32,
    cgroup_levels: u32,
    follow: Follow,
}

/// The captures of a sampler.
pub(super) struct CaptureSet {
    captures: HashMap<CaptureNumber, Capture>,
    /// What the kernel side has, but for children that it made targets itself.
    keys: HashMap<TargetKey, CaptureBits>,
    targets: maps::HashMap<MapData, TargetKey, CaptureBits>,
    scope: Array<MapData, Scope>,
    due: PerCpuArray<MapData, u64>,
}

impl CaptureSet {
    /// None yet.
    pub(super) fn open(bpf: &mut Ebpf) -> Result<Self, BpfError> {
        let error = |name| move |error| BpfError::map(name, error);
        Ok(Self {
            captures: HashMap::new(),
            keys: HashMap::new(),
            targets: maps::HashMap::try_from(take(bpf, "TARGETS")?).map_err(error("TARGETS"))?,
            scope: Array::try_from(take(bpf, "SCOPE")?).map_err(error("SCOPE"))?,
            due: PerCpuArray::try_from(take(bpf, "CAPTURED")?).map_err(error("CAPTURED"))?,
        })
    }

    /// A number for a capture that is to begin. `None` if there are as many captures as can be.
    pub(super) fn reserve(&mut self) -> Option<CaptureNumber> {
        let most = u8::try_from(MAX_CAPTURES).expect("28");
        let mut numbers = (0..most).map(CaptureNumber);
        let number = numbers.find(|number| !self.captures.contains_key(number))?;
        let capture = Capture {
            stage: Stage::Reserved,
            filters: 0,
            cgroup_levels: 0,
            follow: Follow::No,
        };
        self.captures.insert(number, capture);
        Some(number)
    }

    /// Begins a capture: from now on ticks fall on it.
    pub(super) fn begin(
        &mut self,
        number: CaptureNumber,
        targets: &CaptureTargets,
    ) -> Result<(), BpfError> {
        let capture = Capture {
            stage: Stage::Open,
            filters: targets.filters,
            cgroup_levels: targets.cgroup_levels,
            follow: targets.follow,
        };
        self.captures.insert(number, capture);
        let begun = targets
            .keys
            .iter()
            .try_for_each(|key| self.add(number, *key))
            .and_then(|()| self.write_scope());
        if let Err(error) = begun {
            self.end(number);
            self.close(number);
            return Err(error);
        }
        Ok(())
    }

    /// Makes something a target of a capture.
    pub(super) fn add(&mut self, number: CaptureNumber, key: TargetKey) -> Result<(), BpfError> {
        let known = self.bits(&key);
        let bits = known | number.bit();
        self.targets
            .insert(key, bits, 0)
            .map_err(|error| BpfError::map("TARGETS", error))?;
        self.keys.insert(key, bits);
        Ok(())
    }

    /// Makes something a target of a capture no longer. Not being one is fine.
    pub(super) fn remove(&mut self, number: CaptureNumber, key: TargetKey) {
        let left = self.bits(&key) & !number.bit();
        if left == 0 {
            self.forget(key);
        } else if self.targets.insert(key, left, 0).is_ok() {
            self.keys.insert(key, left);
        }
    }

    /// Makes something no target of any capture.
    pub(super) fn forget(&mut self, key: TargetKey) {
        let _ = self.targets.remove(&key);
        self.keys.remove(&key);
    }

    /// The captures that something is a target of. The kernel side may have made it one.
    fn bits(&self, key: &TargetKey) -> CaptureBits {
        let is_followed = |capture: &Capture| capture.follow == Follow::Yes;
        let known = self.keys.get(key).copied();
        if known.is_none() && !self.captures.values().any(is_followed) {
            return 0;
        }
        let told = self.targets.get(key, 0).ok();
        told.or(known).unwrap_or(0)
    }

    /// Has no further tick fall on a capture. What fell on it before may still be on its way.
    pub(super) fn end(&mut self, number: CaptureNumber) {
        let Some(capture) = self.captures.get_mut(&number) else {
            return;
        };
        capture.stage = Stage::Ended;
        let keys: Vec<TargetKey> = match capture.follow {
            Follow::No => self.keys.keys().copied().collect(),
            Follow::Yes => self.targets.keys().filter_map(Result::ok).collect(),
        };
        for key in keys {
            if number.is_in(self.bits(&key)) {
                self.remove(number, key);
            }
        }
        if let Err(error) = self.write_scope() {
            // Its samples go on arriving, and nobody takes them.
            log::debug!("a capture that has ended is still looked for: {error}");
        }
    }

    /// Lets go of a capture that has ended, and whose samples have all arrived.
    pub(super) fn close(&mut self, number: CaptureNumber) {
        self.captures.remove(&number);
    }

    fn write_scope(&mut self) -> Result<(), BpfError> {
        let mut scope = Scope::default();
        let is_open = |capture: &Capture| capture.stage == Stage::Open;
        for (number, capture) in &self.captures {
            if !is_open(capture) {
                continue;
            }
            if capture.filters == 0 {
                scope.everybody |= number.bit();
            }
            if capture.follow == Follow::Yes {
                scope.following |= number.bit();
            }
            scope.filters |= capture.filters;
            scope.cgroup_levels |= capture.cgroup_levels;
        }
        self.scope
            .set(0, scope, 0)
            .map_err(|error| BpfError::map("SCOPE", error))
    }

    /// Ticks that fell on targets of this number so far, also for earlier captures that had it.
    pub(super) fn due(&self, number: CaptureNumber) -> Result<u64, BpfError> {
        let values = self
            .due
            .get(&u32::from(number.0), 0)
            .map_err(|error| BpfError::map("CAPTURED", error))?;
        Ok(values.iter().sum())
    }
}
