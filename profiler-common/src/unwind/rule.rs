//! What a rule is, and how it is a word.

use crate::mapping::sign_mask;

/// Most rules that rows can point at.
pub const MAX_RULES: usize = 1 << 16;

/// The number of the rule [`Rule::NoInformation`], in every set of rules.
pub const NO_INFORMATION: u16 = 0;

/// Most words that [`Cfa::Loaded`] adds, and the highest number of a register.
pub const MAX_PARAMETER: u8 = 63;

/// The codes of rules, in bits 0 to 7 of the word. Published: a code is never reused.
mod kind {
    /// No rule is known: another way to the caller is needed.
    pub(super) const NO_INFORMATION: u8 = 0;
    /// `DW_CFA_def_cfa` with rsp. DWARF 5, section 6.4.2.2.
    pub(super) const STACK_POINTER: u8 = 1;
    /// `DW_CFA_def_cfa` with rbp.
    pub(super) const FRAME_POINTER: u8 = 2;
    /// `DW_CFA_def_cfa` with another register: prologues that align the stack, hand-written code.
    pub(super) const REGISTER: u8 = 3;
    /// The expression that linkers write for the `.plt` section: see `Cfa::Plt`.
    pub(super) const PLT: u8 = 4;
    /// `DW_CFA_def_cfa_expression`: `DW_OP_breg7 n; DW_OP_deref; DW_OP_plus_uconst m`.
    pub(super) const LOADED_BY_STACK_POINTER: u8 = 5;
    /// The same with `DW_OP_breg6`: what gcc writes for functions that align their stack.
    pub(super) const LOADED_BY_FRAME_POINTER: u8 = 6;
    /// The frame that the kernel builds for a signal handler (augmentation `S`).
    pub(super) const SIGNAL_FRAME: u8 = 7;
    /// The return address is undefined: the outermost frame. DWARF 5, section 6.4.4.
    pub(super) const END: u8 = 8;
    /// `DW_CFA_register` for the return address, with a CFA by rsp: glibc's `__vfork`.
    pub(super) const RETURN_IN_REGISTER: u8 = 9;
    /// `STACK_POINTER` in an object that needs to know where rbx is: see `SavedRbx`.
    pub(super) const STACK_POINTER_AND_RBX: u8 = STACK_POINTER | AND_RBX;
    /// `FRAME_POINTER` in such an object.
    pub(super) const FRAME_POINTER_AND_RBX: u8 = FRAME_POINTER | AND_RBX;
    /// What makes one code of the other.
    pub(super) const AND_RBX: u8 = 12;
    /// `STACK_POINTER` where the return address is what was interrupted: see `Rule::Injected`.
    pub(super) const INJECTED_BY_STACK_POINTER: u8 = STACK_POINTER + INJECTED;
    /// The same with `FRAME_POINTER`.
    pub(super) const INJECTED_BY_FRAME_POINTER: u8 = FRAME_POINTER + INJECTED;
    /// What makes one code of the other.
    pub(super) const INJECTED: u8 = 9;
    // 12 and 15 are kept for rules of this machine, 16 to 31 for aarch64, whose return address is
    // in a register until it is stored.
}

/// Where the caller's rbp is, in bits 8 and 9 of the word. Published as well.
mod saved {
    pub(super) const SAME: u8 = 0;
    pub(super) const AT_CFA: u8 = 1;
    pub(super) const AT_FRAME_POINTER: u8 = 2;
    pub(super) const WHERE_FRAMED: u8 = 3;
}

/// How the CFA is computed. Registers are those of the frame itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cfa {
    /// The stack pointer plus bytes.
    StackPointer(i32),
    /// The frame pointer plus bytes.
    FramePointer(i32),
    /// Another register, by its DWARF number, plus bytes.
    Register(u8, i32),
    /// In a PLT entry: rsp + 8 before the entry has pushed its number, rsp + 16 after. The
    /// entries have 16 bytes; the push is done from byte `pushed_from` on.
    Plt {
        /// 11, or 10 where the entries are made for indirect branch tracking.
        pushed_from: u8,
    },
    /// The word in memory at a register plus bytes, plus words.
    Loaded(Base, i32, u8),
}

/// The register of [`Cfa::Loaded`], [`Rule::FrameAndRbx`] and [`Rule::Injected`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Base {
    /// rsp.
    StackPointer,
    /// rbp.
    FramePointer,
}

/// Where the caller's frame pointer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SavedFp {
    /// In rbp still.
    Same,
    /// In memory, this far from the CFA, in bytes.
    AtCfa(i16),
    /// In memory, this far from where rbp points, in bytes.
    AtFp(i16),
    /// Below the return address, once the function has made its frame: what the Go assembler does
    /// and does not describe. Until then rbp still has the caller's, which points above the CFA;
    /// afterwards it points below, or is in use for something else.
    WhereFramed,
}

/// Where the caller's rbx is. That matters in an object whose functions have a CFA by rbx and call
/// others of the object: the lazy resolver of the dynamic linker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SavedRbx {
    /// In rbx still.
    Same,
    /// In memory, so many words below the CFA: 1 to [`MAX_PARAMETER`].
    BelowCfa(u8),
}

/// The DWARF number of rbx. Source: System V ABI for x86-64, figure 3.36.
pub const RBX: u8 = 3;

/// How the caller is found while the program counter lies in a row's range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// The table knows nothing of this address.
    NoInformation,
    /// The return address lies below the CFA.
    Frame(Cfa, SavedFp),
    /// The return address lies below the CFA, which is a register plus bytes, and it is known where
    /// the caller's rbx is.
    FrameAndRbx(Base, i32, SavedFp, SavedRbx),
    /// The CFA is the stack pointer plus bytes, the return address in the register of this DWARF
    /// number, the frame pointer where it was.
    ReturnInRegister(u8, i32),
    /// The kernel's frame below a signal handler: the caller is what the signal interrupted.
    SignalFrame,
    /// A function that its caller did not call: a signal handler pushed the address of the next
    /// instruction to run, and had the thread go on here. The CFA is a register plus bytes, the return
    /// address lies below it and follows no call.
    Injected(Base, i32, SavedFp),
    /// The outermost frame.
    End,
}

/// A word that is no rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownRule(pub u64);

impl Rule {
    /// The rule as a word: kind in bits 0 to 7, how rbp is saved in bits 8 and 9, a register
    /// number, word count or byte in bits 10 to 15, the place of rbp in bits 16 to 31, the CFA's
    /// offset in bits 32 to 63. What a kind does not use is 0, so equal rules are equal words.
    #[must_use]
    pub const fn encode(self) -> u64 {
        let (cfa, fp) = match self {
            Self::NoInformation => return kind::NO_INFORMATION as u64,
            Self::SignalFrame => return kind::SIGNAL_FRAME as u64,
            Self::End => return kind::END as u64,
            Self::ReturnInRegister(register, offset) => {
                return word(kind::RETURN_IN_REGISTER, register, SavedFp::Same, offset);
            }
            Self::FrameAndRbx(base, offset, fp, rbx) => {
                let kind = match base {
                    Base::StackPointer => kind::STACK_POINTER_AND_RBX,
                    Base::FramePointer => kind::FRAME_POINTER_AND_RBX,
                };
                let words = match rbx {
                    SavedRbx::Same => 0,
                    SavedRbx::BelowCfa(words) => words,
                };
                return word(kind, words, fp, offset);
            }
            Self::Injected(base, offset, fp) => {
                let kind = match base {
                    Base::StackPointer => kind::INJECTED_BY_STACK_POINTER,
                    Base::FramePointer => kind::INJECTED_BY_FRAME_POINTER,
                };
                return word(kind, 0, fp, offset);
            }
            Self::Frame(cfa, fp) => (cfa, fp),
        };
        match cfa {
            Cfa::StackPointer(offset) => word(kind::STACK_POINTER, 0, fp, offset),
            Cfa::FramePointer(offset) => word(kind::FRAME_POINTER, 0, fp, offset),
            Cfa::Register(number, offset) => word(kind::REGISTER, number, fp, offset),
            Cfa::Plt { pushed_from } => word(kind::PLT, pushed_from, fp, 0),
            Cfa::Loaded(Base::StackPointer, offset, words) => {
                word(kind::LOADED_BY_STACK_POINTER, words, fp, offset)
            }
            Cfa::Loaded(Base::FramePointer, offset, words) => {
                word(kind::LOADED_BY_FRAME_POINTER, words, fp, offset)
            }
        }
    }

    /// The rule that a word stands for.
    ///
    /// # Errors
    /// When the word has a code that this version does not know.
    #[inline(always)]
    pub fn decode(word: u64) -> Result<Self, UnknownRule> {
        let base = match word as u8 {
            kind::STACK_POINTER_AND_RBX | kind::INJECTED_BY_STACK_POINTER => Base::StackPointer,
            kind::FRAME_POINTER_AND_RBX | kind::INJECTED_BY_FRAME_POINTER => Base::FramePointer,
            _ => return Self::decode_registers(word),
        };
        let (word, told) = Told::split(word);
        match Self::decode_registers(word) {
            Ok(Self::Frame(Cfa::StackPointer(offset) | Cfa::FramePointer(offset), fp)) => {
                if told.is_injected != 0 {
                    return Ok(Self::Injected(base, offset, fp));
                }
                let rbx = match told.rbx_words {
                    0 => SavedRbx::Same,
                    words => SavedRbx::BelowCfa(words as u8),
                };
                Ok(Self::FrameAndRbx(base, offset, fp, rbx))
            }
            _ => Err(UnknownRule(word)),
        }
    }

    /// The rule that a word stands for once [`Told::split`] took from it what it tells beside.
    ///
    /// # Errors
    /// When the word has a code that this version does not know.
    #[inline(always)]
    pub const fn decode_registers(word: u64) -> Result<Self, UnknownRule> {
        let parameter = ((word >> 10) & MAX_PARAMETER as u64) as u8;
        let fp_offset = (word >> 16) as i16;
        let offset = (word >> 32) as i32;
        let fp = match ((word >> 8) & 3) as u8 {
            saved::SAME => SavedFp::Same,
            saved::AT_CFA => SavedFp::AtCfa(fp_offset),
            saved::AT_FRAME_POINTER => SavedFp::AtFp(fp_offset),
            _ => SavedFp::WhereFramed,
        };
        let cfa = match word as u8 {
            kind::NO_INFORMATION => return Ok(Self::NoInformation),
            kind::SIGNAL_FRAME => return Ok(Self::SignalFrame),
            kind::END => return Ok(Self::End),
            kind::RETURN_IN_REGISTER => return Ok(Self::ReturnInRegister(parameter, offset)),
            kind::STACK_POINTER => Cfa::StackPointer(offset),
            kind::FRAME_POINTER => Cfa::FramePointer(offset),
            kind::REGISTER => Cfa::Register(parameter, offset),
            kind::PLT => Cfa::Plt {
                pushed_from: parameter,
            },
            kind::LOADED_BY_STACK_POINTER => Cfa::Loaded(Base::StackPointer, offset, parameter),
            kind::LOADED_BY_FRAME_POINTER => Cfa::Loaded(Base::FramePointer, offset, parameter),
            _ => return Err(UnknownRule(word)),
        };
        Ok(Self::Frame(cfa, fp))
    }
}

const fn word(kind: u8, parameter: u8, fp: SavedFp, cfa_offset: i32) -> u64 {
    let (saved, fp_offset) = match fp {
        SavedFp::Same => (saved::SAME, 0),
        SavedFp::AtCfa(offset) => (saved::AT_CFA, offset),
        SavedFp::AtFp(offset) => (saved::AT_FRAME_POINTER, offset),
        SavedFp::WhereFramed => (saved::WHERE_FRAMED, 0),
    };
    kind as u64
        | (saved as u64) << 8
        | ((parameter & MAX_PARAMETER) as u64) << 10
        | (fp_offset as u16 as u64) << 16
        | (cfa_offset as u32 as u64) << 32
}

/// The bits of a word that tell of rbx.
const AND_RBX: u64 = kind::AND_RBX as u64 | (MAX_PARAMETER as u64) << 10;

/// What a rule's word tells beside the way to the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// All ones if it tells of rbx, else 0.
    pub is_rbx_told: u64,
    /// [`SavedRbx`] as a word has it: words below the CFA, or 0 for the same; 0 if it is not told.
    pub rbx_words: u64,
    /// All ones if the caller was interrupted ([`Rule::Injected`]), else 0.
    pub is_injected: u64,
}

impl Told {
    /// Takes from a word what it tells beside the way to the caller.
    // Verifier: no branch, as it reads each way through a step once more for each way before it.
    #[inline(always)]
    #[must_use]
    pub fn split(word: u64) -> (u64, Self) {
        // Bits 2 and 3 of the code are set, and one of the bits 0 and 1.
        let is_rbx_told = (word << 60) & (word << 61) & ((word << 62) ^ (word << 63));
        let is_rbx_told = sign_mask(is_rbx_told as i64) as u64;
        // Bits 1 and 3 are set, and bit 2 is not.
        let is_injected = (word << 60) & !(word << 61) & (word << 62);
        let is_injected = sign_mask(is_injected as i64) as u64;
        let told = Self {
            is_rbx_told,
            rbx_words: (word >> 10) & u64::from(MAX_PARAMETER) & is_rbx_told,
            is_injected,
        };
        let rest = word & !(AND_RBX & is_rbx_told);
        (
            rest.wrapping_sub(u64::from(kind::INJECTED) & is_injected),
            told,
        )
    }
}

#[cfg(test)]
pub(super) mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;

    fn any_fp() -> impl Strategy<Value = SavedFp> {
        prop_oneof![
            Just(SavedFp::Same),
            any::<i16>().prop_map(SavedFp::AtCfa),
            any::<i16>().prop_map(SavedFp::AtFp),
            Just(SavedFp::WhereFramed),
        ]
    }

    fn base() -> impl Strategy<Value = Base> {
        prop_oneof![Just(Base::StackPointer), Just(Base::FramePointer)]
    }

    fn any_cfa() -> impl Strategy<Value = Cfa> {
        prop_oneof![
            any::<i32>().prop_map(Cfa::StackPointer),
            any::<i32>().prop_map(Cfa::FramePointer),
            (0..=MAX_PARAMETER, any::<i32>()).prop_map(|(n, offset)| Cfa::Register(n, offset)),
            (0..16u8).prop_map(|pushed_from| Cfa::Plt { pushed_from }),
            (base(), any::<i32>(), 0..=MAX_PARAMETER)
                .prop_map(|(base, offset, words)| Cfa::Loaded(base, offset, words)),
        ]
    }

    fn any_with_rbx() -> impl Strategy<Value = Rule> {
        let rbx = prop_oneof![
            Just(SavedRbx::Same),
            (1..=MAX_PARAMETER).prop_map(SavedRbx::BelowCfa)
        ];
        (base(), any::<i32>(), any_fp(), rbx)
            .prop_map(|(base, offset, fp, rbx)| Rule::FrameAndRbx(base, offset, fp, rbx))
    }

    pub(crate) fn any_rule() -> impl Strategy<Value = Rule> {
        prop_oneof![
            any_with_rbx(),
            Just(Rule::NoInformation),
            Just(Rule::SignalFrame),
            Just(Rule::End),
            (base(), any::<i32>(), any_fp()).prop_map(|(b, o, fp)| Rule::Injected(b, o, fp)),
            (0..=MAX_PARAMETER, any::<i32>()).prop_map(|(n, o)| Rule::ReturnInRegister(n, o)),
            (any_cfa(), any_fp()).prop_map(|(cfa, fp)| Rule::Frame(cfa, fp)),
        ]
    }

    proptest! {
        #[test]
        fn a_rule_reads_back_from_its_word(rule in any_rule()) {
            prop_assert_eq!(Rule::decode(rule.encode()), Ok(rule));
        }

        #[test]
        fn what_a_word_tells_beside_is_taken_from_it(rule in any_rule()) {
            let (word, told) = Told::split(rule.encode());
            let frame = |base, offset, fp| match base {
                Base::StackPointer => Rule::Frame(Cfa::StackPointer(offset), fp),
                Base::FramePointer => Rule::Frame(Cfa::FramePointer(offset), fp),
            };
            let nothing = Told { is_rbx_told: 0, rbx_words: 0, is_injected: 0 };
            let (rest, expected) = match rule {
                Rule::FrameAndRbx(base, offset, fp, rbx) => {
                    let rbx_words = match rbx {
                        SavedRbx::Same => 0,
                        SavedRbx::BelowCfa(words) => u64::from(words),
                    };
                    let told = Told { is_rbx_told: u64::MAX, rbx_words, ..nothing };
                    (frame(base, offset, fp), told)
                }
                Rule::Injected(base, offset, fp) => {
                    (frame(base, offset, fp), Told { is_injected: u64::MAX, ..nothing })
                }
                other => (other, nothing),
            };
            prop_assert_eq!(Rule::decode_registers(word), Ok(rest));
            prop_assert_eq!(told, expected);
        }

        #[test]
        fn any_word_decodes_or_is_refused(word: u64) {
            if let Ok(rule) = Rule::decode(word) {
                prop_assert_eq!(Rule::decode(rule.encode()), Ok(rule));
            }
        }
    }

    #[test]
    fn the_codes_stay_what_they_are() {
        let frame = |cfa| Rule::Frame(cfa, SavedFp::AtCfa(-16));
        let words = [
            (Rule::NoInformation, 0),
            (frame(Cfa::StackPointer(24)), 0x0000_0018_fff0_0101),
            (frame(Cfa::FramePointer(-1)), 0xffff_ffff_fff0_0102),
            (frame(Cfa::Register(10, 0)), 0x0000_0000_fff0_2903),
            (frame(Cfa::Plt { pushed_from: 11 }), 0x0000_0000_fff0_2d04),
            (
                frame(Cfa::Loaded(Base::StackPointer, 8, 1)),
                0x0000_0008_fff0_0505,
            ),
            (
                Rule::Frame(Cfa::Loaded(Base::FramePointer, -8, 0), SavedFp::AtFp(0)),
                0xffff_fff8_0000_0206,
            ),
            (Rule::SignalFrame, 7),
            (Rule::End, 8),
            (Rule::ReturnInRegister(5, 0), 0x1409),
            (
                Rule::Injected(Base::FramePointer, 16, SavedFp::AtCfa(-16)),
                0x0000_0010_fff0_010b,
            ),
        ];
        for (rule, word) in words {
            assert_eq!(rule.encode(), word, "{rule:?}");
        }
        assert_eq!(Rule::decode(12), Err(UnknownRule(12)));
        let go = Rule::Frame(Cfa::StackPointer(8), SavedFp::WhereFramed);
        assert_eq!(go.encode(), 0x0000_0008_0000_0301);
    }
}
