//! What this CPU's walks have found out of callers, so that the next walk need not search.
//!
//! Most callers on a stack were on the one before it too, and a search costs more in lines that are
//! in no cache than in arithmetic. What is kept stays true for as long as its mapping table is in
//! use: that table is never changed in place, and an object's rules never change.

use profiler_common::{frame::PlaceWord, limits::KEPT_CALLERS};

use crate::maps::CALLERS;

/// A caller's code.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Caller {
    /// The address that it was looked up with.
    pub lookup: u64,
    /// The mapping table that it was found by.
    pub generation: u32,
    /// The flags of its mapping.
    pub flags: u32,
    /// Where it lies.
    pub place: PlaceWord,
    /// The word of its rule.
    pub rule: u64,
}

/// The callers kept, each in the one place that its address gives it.
pub type Callers = [Caller; KEPT_CALLERS];

/// Tells numbers that are near each other apart in the bits that an index has: an odd number near
/// [`KEPT_CALLERS`] over the golden ratio.
const SPREAD: u32 = 633;

/// The one place where an address may be kept.
#[inline(always)]
pub fn place_of(lookup: u64, generation: u32) -> Option<&'static mut Caller> {
    let callers = CALLERS.get_ptr_mut(0)?;
    // Neighbouring calls are some bytes apart; functions are aligned, so higher bits tell them apart.
    // Processes that one has forked have the same addresses.
    let at = lookup ^ (lookup >> 12) ^ u64::from(generation.wrapping_mul(SPREAD));
    // SAFETY: a per-CPU value, used by perf event programs alone, which do not nest; its user has no
    // other reference to it at that time.
    Some(unsafe { &mut (*callers)[at as usize & (KEPT_CALLERS - 1)] })
}
