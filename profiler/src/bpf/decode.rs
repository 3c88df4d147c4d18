//! Records of the sample ring, decoded once into types that cannot be wrong.

use std::rc::Rc;

use profiler_common::{
    config::CaptureBits,
    frame::{Frame, Position},
    limits::{COMM_BYTES, MAX_KERNEL_FRAMES, MAX_USER_FRAMES, SCRATCH_WORDS},
    step::{ALL_REGISTERS, AllRegisters},
    stop::StopReason,
    wire::{HEADER_BYTES, KIND_STACK, KIND_UNWALKED, RAW_HEAD_WORDS, SampleHeader},
};

use crate::target::{Pid, Tid};

/// One tick that fell on a target, with the stacks it found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Process.
    pub pid: Pid,
    /// Thread.
    pub tid: Tid,
    /// The CPU that ticked.
    pub cpu: u32,
    /// Generation of the mapping table its frames were translated with; 0 for none.
    pub generation: u32,
    /// When, in nanoseconds of `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// Id of the cgroup in the cgroup v2 tree; 0 for none.
    pub cgroup_id: u64,
    /// The captures that it is for.
    pub captures: CaptureBits,
    /// Name of the thread.
    pub comm: Comm,
    /// Kernel addresses, innermost first. All but the first are return addresses.
    pub kernel: Vec<u64>,
    /// User frames, innermost first. None if the stack is still to be walked.
    pub user: Vec<Frame>,
    /// What is needed to walk the user stack, if the kernel side could not for want of a table.
    pub unwalked: Option<Rc<Unwalked>>,
    /// Why the kernel stack ends.
    pub kernel_stop: StopReason,
    /// Why the user stack ends.
    pub user_stop: StopReason,
}

/// A user stack that is still to be walked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unwalked {
    /// The task's registers in user code.
    pub registers: AllRegisters,
    /// What its program counter means: after a system call it is a return address.
    pub position: Position,
    /// The number of the object whose unwind table was lacking; 0 for none.
    pub lacking: u32,
    /// The memory from a little below the stack pointer on, as far as it came along.
    pub stack: StackPart,
    /// The memory from the frame pointer on by which the thread came from another stack, if it did.
    pub stack_before: StackPart,
}

/// Memory of a stack, as it was at the moment of the sample.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StackPart {
    /// The address of the first byte.
    pub start: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl StackPart {
    /// The bytes from an address on, if that lies in it.
    #[must_use]
    pub fn from(&self, address: u64) -> Option<&[u8]> {
        let offset = usize::try_from(address.checked_sub(self.start)?).ok()?;
        self.bytes.get(offset..).filter(|bytes| !bytes.is_empty())
    }
}

impl Sample {
    /// Reads one record of the ring, for those who try the reader on bytes of their own.
    #[doc(hidden)]
    #[must_use]
    pub fn of_record(record: &[u8]) -> Option<Self> {
        decode(record)
    }
}

/// The name of a thread, padded with NUL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Comm(pub [u8; COMM_BYTES]);

impl Comm {
    /// As text; what is not UTF-8 is replaced.
    #[must_use]
    pub fn text(&self) -> String {
        let end = self
            .0
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(COMM_BYTES);
        String::from_utf8_lossy(&self.0[..end]).into_owned()
    }
}

/// Reads one record. `None` when it is not one: the caller counts it as lost.
pub(super) fn decode(record: &[u8]) -> Option<Sample> {
    let header = read_header(record)?;
    let (kernel_count, user_count) = (
        usize::from(header.kernel_count),
        usize::from(header.user_count),
    );
    let most_user_words = match header.kind {
        KIND_STACK => MAX_USER_FRAMES,
        KIND_UNWALKED => SCRATCH_WORDS,
        _ => return None,
    };
    if kernel_count > MAX_KERNEL_FRAMES || user_count > most_user_words {
        return None;
    }
    // The ring pads records to 8 bytes; ours are a multiple of 8.
    let words = record.get(HEADER_BYTES..HEADER_BYTES + (kernel_count + user_count) * 8)?;
    let (kernel, user) = words.split_at(kernel_count * 8);
    let kernel = words_of(kernel).collect();
    let (user, unwalked) = if header.kind == KIND_UNWALKED {
        (Vec::new(), Some(Rc::new(read_unwalked(&header, user)?)))
    } else {
        (read_frames(user)?, None)
    };
    Some(Sample {
        pid: Pid(header.pid),
        tid: Tid(header.tid),
        cpu: header.cpu,
        generation: header.generation,
        time_ns: header.time_ns,
        cgroup_id: header.cgroup_id,
        captures: header.captures,
        comm: Comm(header.comm),
        kernel,
        user,
        unwalked,
        kernel_stop: StopReason::try_from(header.kernel_stop).ok()?,
        user_stop: StopReason::try_from(header.user_stop).ok()?,
    })
}

fn words_of(bytes: &[u8]) -> impl Iterator<Item = u64> {
    let words = bytes.chunks_exact(8);
    words.map(|word| u64::from_ne_bytes(word.try_into().expect("chunks of 8")))
}

fn read_frames(bytes: &[u8]) -> Option<Vec<Frame>> {
    // Collecting into an `Option` would not know how many there are.
    let mut frames = Vec::with_capacity(bytes.len() / 8);
    for word in words_of(bytes) {
        frames.push(Frame::decode(word).ok()?);
    }
    Some(frames)
}

fn read_unwalked(header: &SampleHeader, bytes: &[u8]) -> Option<Unwalked> {
    let (head, mut parts) = bytes.split_at_checked(RAW_HEAD_WORDS * 8)?;
    let mut words = words_of(head);
    let mut registers = [0; ALL_REGISTERS];
    for register in &mut registers {
        *register = words.next()?;
    }
    let lacking = u32::try_from(words.next()?).ok()?;
    let mut part = || {
        let start = words.next()?;
        let bytes = usize::try_from(words.next()?).ok()?.checked_mul(8)?;
        let (part, rest) = parts.split_at_checked(bytes)?;
        parts = rest;
        Some(StackPart {
            start,
            bytes: part.to_vec(),
        })
    };
    let (stack, stack_before) = (part()?, part()?);
    Some(Unwalked {
        registers,
        position: if header.in_syscall == 0 {
            Position::Exact
        } else {
            Position::ReturnAddress
        },
        lacking,
        stack,
        stack_before,
    })
}

fn read_header(record: &[u8]) -> Option<SampleHeader> {
    let bytes: &[u8; HEADER_BYTES] = record.first_chunk()?;
    // SAFETY: as many bytes as the header has, and every bit pattern of it is a valid value.
    Some(unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use profiler_common::frame::{Place, Source};

    fn record(header: SampleHeader, words: &[u64]) -> Vec<u8> {
        // SAFETY: as many bytes as the header has, all of them initialized: it has no padding.
        let bytes: [u8; HEADER_BYTES] = unsafe { std::mem::transmute(header) };
        bytes
            .into_iter()
            .chain(words.iter().flat_map(|word| word.to_ne_bytes()))
            .collect()
    }

    fn header() -> SampleHeader {
        SampleHeader {
            kind: KIND_STACK,
            kernel_count: 1,
            user_count: 1,
            pid: 7,
            tid: 8,
            ..SampleHeader::default()
        }
    }

    #[test]
    fn a_record_has_kernel_frames_then_user_frames() {
        let frame = Frame {
            place: Place::Address(0x1234),
            position: Position::Exact,
            source: Source::Exact,
        };
        let sample = decode(&record(header(), &[0xffff_ffff_8100_0000, frame.encode()])).unwrap();
        assert_eq!((sample.pid, sample.tid), (Pid(7), Tid(8)));
        assert_eq!(sample.kernel, [0xffff_ffff_8100_0000]);
        assert_eq!(sample.user, [frame]);
    }

    #[test]
    fn an_unwalked_record_has_registers_then_stack() {
        let header = SampleHeader {
            kind: KIND_UNWALKED,
            kernel_count: 1,
            user_count: 25,
            in_syscall: 1,
            ..header()
        };
        let mut words: Vec<u64> = (100..126).collect();
        (words[20], words[22]) = (2, 1);
        let sample = decode(&record(header, &words)).unwrap();
        assert_eq!((sample.kernel, sample.user), (vec![100], vec![]));
        let unwalked = sample.unwalked.unwrap();
        assert_eq!((unwalked.registers[0], unwalked.registers[16]), (101, 117));
        assert_eq!(unwalked.position, Position::ReturnAddress);
        assert_eq!(unwalked.lacking, 118);
        let part = |start, words: &[u64]| StackPart {
            start,
            bytes: words.iter().copied().flat_map(u64::to_ne_bytes).collect(),
        };
        assert_eq!(unwalked.stack, part(119, &[123, 124]));
        assert_eq!(unwalked.stack_before, part(121, &[125]));
        let rest = 124_u64.to_ne_bytes();
        assert_eq!(unwalked.stack.from(119 + 8), Some(&rest[..]));
        assert_eq!(unwalked.stack.from(118), None);
        assert_eq!(unwalked.stack.from(119 + 16), None);
        for user_count in [18, 24] {
            let short = SampleHeader {
                user_count,
                ..header
            };
            assert!(decode(&record(short, &words)).is_none());
        }
    }

    #[test]
    fn what_is_no_record_is_none() {
        let words = [1, 0x1000_0000_0000_0000];
        assert!(decode(&record(header(), &words)).is_some());
        let whole = record(header(), &words);
        for length in 0..whole.len() {
            assert!(decode(&whole[..length]).is_none());
        }
        assert!(
            decode(&record(
                SampleHeader {
                    kind: 9,
                    ..header()
                },
                &words
            ))
            .is_none()
        );
        assert!(
            decode(&record(
                SampleHeader {
                    user_stop: 99,
                    ..header()
                },
                &words
            ))
            .is_none()
        );
        assert!(decode(&record(header(), &[1, 0])).is_none());
    }
}
