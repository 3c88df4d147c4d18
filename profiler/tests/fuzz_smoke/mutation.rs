//! Makes inputs of other inputs, the same ones in every run.

use crate::numbers::Numbers;

/// The longest input, in bytes.
const MOST_BYTES: usize = 16 << 10;
/// Most changes of one input.
const MOST_CHANGES: u64 = 8;
/// Numbers at which readers go wrong.
const EDGES: [u64; 14] = [
    0,
    1,
    7,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    1 << 40,
    i64::MAX as u64,
    u64::MAX,
];

/// A changed copy of one of the inputs.
pub(crate) fn mutated(inputs: &[Vec<u8>], numbers: &mut Numbers) -> Vec<u8> {
    let mut data = inputs[numbers.index(inputs.len())].clone();
    for _ in 0..=numbers.below(MOST_CHANGES) {
        change(&mut data, inputs, numbers);
    }
    data.truncate(MOST_BYTES);
    data
}

fn change(data: &mut Vec<u8>, inputs: &[Vec<u8>], numbers: &mut Numbers) {
    if data.is_empty() {
        data.push(numbers.next() as u8);
        return;
    }
    let at = numbers.index(data.len());
    match numbers.below(9) {
        0 | 1 => data[at] ^= 1 << numbers.below(8),
        2 => data[at] = numbers.next() as u8,
        // A number of 1 to 8 bytes, often where one could be.
        3 | 4 => {
            let at = at & !7 | at & (7 * numbers.index(2));
            let edge = EDGES[numbers.index(EDGES.len())].to_le_bytes();
            let length = 1 << numbers.below(4);
            for (byte, edge) in data[at..].iter_mut().zip(edge).take(length) {
                *byte = edge;
            }
        }
        5 => data.truncate(at),
        // A part again, at another place.
        6 => {
            let part = part_of(data, numbers);
            data.splice(at..at, part);
        }
        7 => {
            let end = at + numbers.index(data.len() - at + 1);
            data.drain(at..end);
        }
        _ => {
            let part = part_of(&inputs[numbers.index(inputs.len())], numbers);
            let end = (at + part.len()).min(data.len());
            data.splice(at..end, part);
        }
    }
}

fn part_of(data: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let start = numbers.index(data.len() + 1);
    let end = start + numbers.index(data.len() - start + 1);
    data[start..end].to_vec()
}
