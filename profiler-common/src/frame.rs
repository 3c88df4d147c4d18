//! A user frame as it leaves the kernel: one 64-bit word, free of ASLR and of the process's life.
//!
//! ```text
//! object     kind:4 | flags:2 | object id:22 | ELF address:36
//! address    kind:4 | flags:2 | runtime address:58
//! ```
//!
//! Two more kinds have the same layouts: an object and an address whose [`Source`] is
//! [`Source::UncheckedFramePointer`].

/// Bits of an ELF address in a frame: code of up to 64 GiB.
const ELF_BITS: u32 = 36;
/// Bits of an object id in a frame: four million objects.
const OBJECT_BITS: u32 = 22;
/// Bits of a runtime address in a frame: five-level page tables give user space 56.
const ADDRESS_BITS: u32 = 58;
const KIND_SHIFT: u32 = 60;
const RETURN_ADDRESS: u64 = 1 << 59;
const BY_FRAME_POINTER: u64 = 1 << 58;
const KIND_OBJECT: u64 = 1;
const KIND_ADDRESS: u64 = 2;
/// Added to the kind of an unchecked frame.
const UNCHECKED: u64 = 2;

/// The largest object id that fits a frame.
pub const MAX_OBJECT_ID: u32 = (1 << OBJECT_BITS) - 1;

const _: () = assert!(4 + 2 + OBJECT_BITS + ELF_BITS == 64 && 4 + 2 + ADDRESS_BITS == 64);

/// Where a frame's code lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// In an object that the user side knows, at an ELF address (a link-time virtual address).
    Object {
        /// The user side's number for the object.
        object: u32,
        /// Address as in the object's program headers.
        elf_address: u64,
    },
    /// At a runtime address: JIT code, or code whose mapping was not in the tables.
    Address(u64),
}

/// Whether a frame's address is where the program was, or where it will return to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Position {
    /// The address of the instruction that was about to run: the innermost frame.
    Exact,
    /// The address after a call. The call itself is the instruction before it.
    ReturnAddress,
}

/// How a frame's registers were found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// From the sample's registers or an unwind row: exact.
    Exact,
    /// By following the frame pointer.
    FramePointer,
    /// By following the frame pointer, to a return address whose code is not in memory: the user
    /// side looks in the object's file whether it follows a call.
    UncheckedFramePointer,
}

impl Place {
    /// The place as a part of a frame's word.
    #[inline(always)]
    #[must_use]
    pub const fn encode(self) -> PlaceWord {
        PlaceWord(match self {
            Self::Object {
                object,
                elf_address,
            } => {
                (KIND_OBJECT << KIND_SHIFT)
                    | (((object & MAX_OBJECT_ID) as u64) << ELF_BITS)
                    | (elf_address & ((1 << ELF_BITS) - 1))
            }
            Self::Address(address) => {
                (KIND_ADDRESS << KIND_SHIFT) | (address & ((1 << ADDRESS_BITS) - 1))
            }
        })
    }
}

/// A [`Place`] as a part of a frame's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlaceWord(u64);

impl PlaceWord {
    /// The word of the frame.
    #[inline(always)]
    #[must_use]
    pub const fn with(self, position: Position, source: Source) -> u64 {
        let returns = match position {
            Position::Exact => 0,
            Position::ReturnAddress => RETURN_ADDRESS,
        };
        let found = match source {
            Source::Exact => 0,
            Source::FramePointer | Source::UncheckedFramePointer => BY_FRAME_POINTER,
        };
        let unchecked = match source {
            Source::Exact | Source::FramePointer => 0,
            Source::UncheckedFramePointer => UNCHECKED << KIND_SHIFT,
        };
        (self.0 + unchecked) | returns | found
    }
}

/// One user frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Frame {
    /// Where its code lies.
    pub place: Place,
    /// What its address means.
    pub position: Position,
    /// How it was found.
    pub source: Source,
}

impl Frame {
    /// The frame as one word. A place that does not fit its bits is no frame: the caller passes
    /// [`Place::Address`] for objects beyond [`MAX_OBJECT_ID`] (see [`object_place`]).
    #[inline(always)]
    #[must_use]
    pub const fn encode(self) -> u64 {
        self.place.encode().with(self.position, self.source)
    }

    /// Reads a frame back.
    ///
    /// # Errors
    /// Gives the word back when its kind is unknown.
    pub const fn decode(word: u64) -> Result<Self, u64> {
        let kind = word >> KIND_SHIFT;
        let is_unchecked = kind > UNCHECKED;
        let place = match if is_unchecked { kind - UNCHECKED } else { kind } {
            KIND_OBJECT => Place::Object {
                object: ((word >> ELF_BITS) as u32) & MAX_OBJECT_ID,
                elf_address: word & ((1 << ELF_BITS) - 1),
            },
            KIND_ADDRESS => Place::Address(word & ((1 << ADDRESS_BITS) - 1)),
            _ => return Err(word),
        };
        let position = if word & RETURN_ADDRESS == 0 {
            Position::Exact
        } else {
            Position::ReturnAddress
        };
        let source = if is_unchecked {
            Source::UncheckedFramePointer
        } else if word & BY_FRAME_POINTER == 0 {
            Source::Exact
        } else {
            Source::FramePointer
        };
        Ok(Self {
            place,
            position,
            source,
        })
    }
}

/// The place of `pc` in an object, or as an address when the ELF address does not fit a frame.
// Verifier: a word on each way. Of a `Place` that two ways lead to LLVM keeps parts that one of them
// never wrote.
#[inline(always)]
#[must_use]
pub const fn object_place(object: u32, bias: u64, pc: u64) -> PlaceWord {
    let elf_address = pc.wrapping_sub(bias);
    if elf_address >> ELF_BITS != 0 || object > MAX_OBJECT_ID {
        return Place::Address(pc).encode();
    }
    let place = Place::Object {
        object,
        elf_address,
    };
    place.encode()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn decode_after_encode_is_identity(object in 0..=MAX_OBJECT_ID, low in 0..1u64 << 36, address in 0..1u64 << 57, kind in 0..12u8) {
            let place = if kind & 1 == 0 { Place::Object { object, elf_address: low } } else { Place::Address(address) };
            let position = if kind & 2 == 0 { Position::Exact } else { Position::ReturnAddress };
            let source = match kind >> 2 {
                0 => Source::Exact,
                1 => Source::FramePointer,
                _ => Source::UncheckedFramePointer,
            };
            let frame = Frame { place, position, source };
            prop_assert_eq!(Frame::decode(frame.encode()), Ok(frame));
        }
    }

    #[test]
    fn an_unknown_kind_is_an_error() {
        assert_eq!(Frame::decode(0), Err(0));
        assert_eq!(Frame::decode(u64::MAX), Err(u64::MAX));
    }

    #[test]
    fn an_address_far_beyond_its_object_stays_an_address() {
        assert_eq!(
            object_place(1, 0, 1 << 40),
            Place::Address(1 << 40).encode()
        );
        assert_eq!(
            object_place(1, 0x1000, 0x1234),
            Place::Object {
                object: 1,
                elf_address: 0x234
            }
            .encode()
        );
    }
}
