//! How a number changes along the code of a function: lines, files, inlined calls.
//!
//! In: one of the table's sequences of steps. Out: the number at each offset of the function's code.
//! A step is two numbers of variable length: how much the number changes, and for how much code it
//! then stays. A change of nothing ends the sequence, but for the first.
//!
//! Source: `step` and `pcvalue` in Go's `src/runtime/symtab.go`.

use super::parts::{Part, Parts};

/// The longest sequence that is read, in bytes. One byte makes half a step, and a step is a few bytes
/// of code, so this is of functions of megabytes.
const MOST_BYTES: usize = 1 << 20;
/// Bytes read at first; then twice as many, and so on.
const FIRST_BYTES: usize = 256;
/// The most bytes of a number of 32 bits.
const MOST_NUMBER_BYTES: usize = 5;

/// The number before the first step.
const START: i32 = -1;

/// The steps of one function.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    /// Offsets of code at which a number ends to be, and the number.
    until: Vec<(u64, i32)>,
}

impl Steps {
    /// Reads the steps that begin at a place of the table, for so many bytes of code. `None` where
    /// there are none, or they cannot be right. Their length counts against `budget`, in bytes.
    pub(crate) fn read(
        parts: &Parts<'_>,
        steps: Part,
        at: u32,
        code_bytes: u64,
        budget: &mut u64,
    ) -> Option<Self> {
        if at == 0 {
            return None;
        }
        let mut length = FIRST_BYTES;
        while length <= MOST_BYTES {
            let mut bytes = vec![0; length];
            let read = parts.copy(steps, at.into(), &mut bytes)?;
            match Self::parse(&bytes[..read], code_bytes) {
                Parsed::Whole(made, length) => {
                    *budget = budget.checked_sub(length)?;
                    return Some(made);
                }
                Parsed::Cut if read == length => {
                    *budget = budget.checked_sub(length as u64)?;
                    length *= 4;
                }
                Parsed::Cut | Parsed::Wrong => return None,
            }
        }
        None
    }

    fn parse(mut bytes: &[u8], code_bytes: u64) -> Parsed {
        let length = bytes.len();
        let (mut until, mut end, mut value) = (Vec::new(), 0, START);
        loop {
            let change = match number(&mut bytes) {
                Number::Read(0) if end > 0 => break,
                Number::Read(change) => change,
                Number::Cut => return Parsed::Cut,
                Number::TooLong => return Parsed::Wrong,
            };
            // The lowest bit is the sign.
            value = i32::wrapping_add(value, (change >> 1) as i32 ^ -((change & 1) as i32));
            match number(&mut bytes) {
                Number::Read(0) => return Parsed::Wrong,
                Number::Read(code) => end += u64::from(code),
                Number::Cut => return Parsed::Cut,
                Number::TooLong => return Parsed::Wrong,
            }
            until.push((end.min(code_bytes), value));
            if end >= code_bytes {
                break;
            }
        }
        Parsed::Whole(Self { until }, (length - bytes.len()) as u64)
    }

    /// The number at an offset of code. `None` behind the last step, where the function has ended.
    pub(crate) fn at(&self, offset: u64) -> Option<i32> {
        let before = self.until.partition_point(|(end, _)| *end <= offset);
        self.until.get(before).map(|(_, value)| *value)
    }

    /// Each number, with the offset of code at which it ends to be.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, i32)> {
        self.until.iter().copied()
    }

    /// How much code it tells of, in bytes.
    pub(crate) fn code_bytes(&self) -> u64 {
        self.until.last().map_or(0, |(end, _)| *end)
    }
}

enum Parsed {
    /// And how many bytes they take.
    Whole(Steps, u64),
    /// The bytes end before the steps do.
    Cut,
    Wrong,
}

enum Number {
    Read(u32),
    Cut,
    TooLong,
}

/// Takes a number off the front: seven bits in each byte, the lowest first, and a bit that says
/// whether there are more.
fn number(bytes: &mut &[u8]) -> Number {
    let mut value = 0;
    for place in 0..MOST_NUMBER_BYTES {
        let Some((byte, rest)) = bytes.split_first() else {
            return Number::Cut;
        };
        *bytes = rest;
        value |= u32::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Number::Read(value);
        }
    }
    Number::TooLong
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: u64 = 1000;

    /// The numbers at offsets 0 to 3 and at the end.
    #[track_caller]
    fn check(bytes: &[u8], expected: Option<[Option<i32>; 4]>) {
        let steps = match Steps::parse(bytes, CODE) {
            Parsed::Whole(steps, _) => Some(steps),
            Parsed::Cut | Parsed::Wrong => None,
        };
        let found = steps.map(|steps| [0, 1, 2, 3].map(|offset| steps.at(offset)));
        assert_eq!(found, expected);
    }

    #[test]
    fn a_number_stays_until_the_next_step() {
        // Up by six from -1; down by two behind two bytes.
        let expected = [Some(5), Some(5), Some(3), None];
        check(&[12, 2, 3, 1, 0], Some(expected));
        // Numbers of two bytes, and steps past the function's end.
        let expected = [Some(99), Some(299), Some(299), Some(299)];
        check(&[0xc8, 1, 1, 0x90, 3, 0xff, 0xff, 3], Some(expected));
    }

    #[test]
    fn the_first_step_may_change_nothing() {
        check(&[0, 1, 2, 1, 0], Some([Some(-1), Some(0), None, None]));
    }

    #[test]
    fn steps_that_do_not_end_are_none() {
        check(&[], None);
        check(&[12], None);
        check(&[12, 2], None);
        check(&[12, 2, 0x80], None);
        check(&[12, 2, 3, 0x80, 0x80, 0x80, 0x80, 0x80, 0], None);
        // A step of no code.
        check(&[12, 0, 3, 1, 0], None);
    }
}
