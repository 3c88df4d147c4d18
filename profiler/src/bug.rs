//! What a panic may cost: it is a bug of ours, and must not take along what was recorded.
//!
//! In: parts of the work that others can do without. Out: what they gave, or nothing. What happened
//! is told by the panic hook of `cli`; nothing is printed here.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Names a place where debug builds panic, for tests of what becomes of the recording: a
/// [`Place`] in lower case.
#[cfg(debug_assertions)]
const VARIABLE: &str = "EBPFPROF_TEST_PANIC";

/// Where a test may want a panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the loop that owns all state.
    Loop,
    /// While a sample is taken, so that it and others that came with it are lost.
    Sample,
    /// In a thread that compiles unwind tables.
    Residency,
    /// Where an object's addresses get their names.
    Symbolize,
    /// In the writer of a format.
    Export,
}

/// Does a part of the work. `None` if it panicked: what it was changing is as far as it came.
pub(crate) fn contain<T>(part: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(part)).ok()
}

/// Panics if a test wants it here.
#[cfg(debug_assertions)]
pub(crate) fn provoke(place: Place) {
    let wanted = std::env::var(VARIABLE).unwrap_or_default();
    let name = format!("{place:?}").to_lowercase();
    assert!(wanted != name, "{VARIABLE} is {wanted}");
}

/// No test is made of this build.
#[cfg(not(debug_assertions))]
pub(crate) fn provoke(_: Place) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_costs_one_part_alone() {
        let numbers = [3, 0, 5].map(|number| contain(|| 15_u32.checked_div(number).unwrap()));
        assert_eq!(numbers, [Some(5), None, Some(3)]);
    }
}
