//! Unwind tables: how the caller of a frame is found from the rules that compilers emit.
//!
//! Owns the form of a [`Rule`] (8 bytes), of a [`Row`] (4 bytes) and of an [`IndexWord`] (one for
//! each 256 bytes of text), the search for an address, and what a rule means. The user side
//! compiles an object's `.eh_frame` into rows and rules and lays them out in chunks; whoever walks
//! a stack searches those. The rows of an object point at rules by number, and rule 0 is always
//! [`Rule::NoInformation`].
//!
//! Sources: DWARF 5, section 6.4; System V ABI for x86-64, sections 3.4.1, 3.6 and 4.2.

use crate::{
    limits::CHUNK_WORDS,
    mapping::{Chunk, below_next_power_of_two, sign_mask},
    step::{Depth, Registers, UserMemory, word_at},
    stop::StopReason,
};

/// Bytes of text that one [`IndexWord`] stands for.
pub const BUCKET_BYTES: u64 = 256;

/// Most rows that start in one bucket. Most seen in 1,667 objects: 87.
pub const MAX_BUCKET_ROWS: u32 = (1 << SEARCH_STEPS) - 1;

/// Most rows of one object.
pub const MAX_ROWS: u32 = 1 << 25;

/// Most rules that rows can point at.
pub const MAX_RULES: usize = 1 << 16;

/// The number of the rule [`Rule::NoInformation`], in every set of rules.
pub const NO_INFORMATION: u16 = 0;

/// Steps of the search in a bucket.
const SEARCH_STEPS: u32 = 7;

/// Most words that [`Cfa::Loaded`] adds, and the highest number of a register.
pub const MAX_PARAMETER: u8 = 63;

const _: () = assert!((MAX_ROWS as u64) << SEARCH_STEPS == 1 << 32);
const _: () = assert!(1 << (BUCKET_BYTES.trailing_zeros()) == BUCKET_BYTES);
const _: () = assert!(MAX_BUCKET_ROWS as usize + 1 < CHUNK_WORDS);

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
    // 10, 11, 12 and 15 are kept for rules of this machine, 16 to 31 for aarch64, whose return address is
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

/// The register of [`Cfa::Loaded`] and of [`Rule::FrameAndRbx`].
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
    pub const fn decode(word: u64) -> Result<Self, UnknownRule> {
        let base = match word as u8 {
            kind::STACK_POINTER_AND_RBX => Base::StackPointer,
            kind::FRAME_POINTER_AND_RBX => Base::FramePointer,
            _ => return Self::decode_registers(word),
        };
        let rbx = match ((word >> 10) & MAX_PARAMETER as u64) as u8 {
            0 => SavedRbx::Same,
            words => SavedRbx::BelowCfa(words),
        };
        match Self::decode_registers(word & !AND_RBX) {
            Ok(Self::Frame(Cfa::StackPointer(offset) | Cfa::FramePointer(offset), fp)) => {
                Ok(Self::FrameAndRbx(base, offset, fp, rbx))
            }
            _ => Err(UnknownRule(word)),
        }
    }

    /// The rule that a word stands for once [`ToldRbx::split`] took from it what it tells of rbx.
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

    /// Which frame the caller is: what a signal interrupted may be anywhere, and its program
    /// counter is no return address.
    #[inline(always)]
    #[must_use]
    pub const fn caller_depth(&self) -> Depth {
        match self {
            Self::SignalFrame => Depth::Innermost,
            _ => Depth::Caller,
        }
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

/// What a rule's word tells of rbx.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ToldRbx {
    /// All ones if it tells of it, else 0.
    pub is_told: u64,
    /// [`SavedRbx`] as a word has it: words below the CFA, or 0 for the same; 0 if it is not told.
    pub words: u64,
}

impl ToldRbx {
    /// Takes from a word what it tells of rbx.
    // Verifier: no branch, as it reads each way through a step once more for each way before it.
    #[inline(always)]
    #[must_use]
    pub fn split(word: u64) -> (u64, Self) {
        // Bits 2 and 3 of the code are set, and one of the bits 0 and 1.
        let is_told = (word << 60) & (word << 61) & ((word << 62) ^ (word << 63));
        let is_told = sign_mask(is_told as i64) as u64;
        let words = (word >> 10) & u64::from(MAX_PARAMETER) & is_told;
        (word & !(AND_RBX & is_told), Self { is_told, words })
    }
}

/// One row: from its address to the next row's, the rule. Bits 0 to 7 hold the low byte of the
/// address, bits 16 to 31 the rule's number. Bits 8 to 14 tell how many bytes on the code moves its
/// stack pointer by a word, 0 if it does not; bit 15 is set if it pops the word.
///
/// A row with such a [`Fold`] is two in one: most rows of optimized code differ from the one before
/// by a register that was pushed or popped. Both parts lie in one bucket.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row(pub u32);

/// The second half of a row: from some bytes on, the CFA is a word further from the stack pointer, or
/// nearer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fold {
    /// Bytes from the row's address, 1 to [`MOST_FOLD_BYTES`].
    pub after: u8,
    /// What happens there.
    pub moves: Moves,
}

/// What the code does with its stack pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moves {
    /// It pushes a word.
    Pushes,
    /// It pops a word.
    Pops,
}

/// Most bytes between the two halves of a row.
pub const MOST_FOLD_BYTES: u8 = 127;

const POPS: u32 = 1 << 15;

impl Row {
    /// The row of a rule from an address on.
    #[must_use]
    pub const fn new(address: u64, rule: u16) -> Self {
        Self((address as u8) as u32 | (rule as u32) << 16)
    }

    /// The row with a second half. Its rule is [`Cfa::StackPointer`].
    #[must_use]
    pub const fn folded(self, fold: Fold) -> Self {
        let pops = match fold.moves {
            Moves::Pushes => 0,
            Moves::Pops => POPS,
        };
        Self(self.0 | ((fold.after & MOST_FOLD_BYTES) as u32) << 8 | pops)
    }

    /// The number of its rule.
    #[inline(always)]
    #[must_use]
    pub const fn rule(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// The low byte of its address.
    #[inline(always)]
    #[must_use]
    pub const fn low_byte(self) -> u8 {
        self.0 as u8
    }

    /// Bytes to its second half; 0 without one.
    #[inline(always)]
    const fn fold_after(self) -> u32 {
        (self.0 >> 8) & MOST_FOLD_BYTES as u32
    }

    /// What the second half adds to the offset of the CFA, in bytes, as the high half of a word.
    #[inline(always)]
    const fn fold_step(self) -> u64 {
        // 8 or -8, by bit 15.
        let pops = (self.0 & POPS) as i64 >> 15;
        ((8 - 16 * pops) as u64) << 32
    }
}

/// Where the rows of one bucket are. Bits 7 to 31 hold the number of the row that is in force
/// where the bucket starts, bits 0 to 6 how many more rows follow it in the bucket. All of them lie
/// in one chunk.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexWord(pub u32);

impl IndexWord {
    /// The word for `count` rows behind row `row`, which is below [`MAX_ROWS`].
    #[must_use]
    pub const fn new(row: u32, count: u32) -> Self {
        Self(row << SEARCH_STEPS | (count & MAX_BUCKET_ROWS))
    }

    /// The number of the row in force at the bucket's start.
    #[inline(always)]
    #[must_use]
    pub const fn row(self) -> u32 {
        self.0 >> SEARCH_STEPS
    }

    /// Rows that start in the bucket.
    #[inline(always)]
    #[must_use]
    pub const fn count(self) -> u32 {
        self.0 & MAX_BUCKET_ROWS
    }
}

/// Reads table memory.
pub trait Chunks {
    /// The chunk of this number.
    fn chunk(&self, number: u32) -> Option<&Chunk>;
}

/// Where an object's table is.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TablePlace {
    /// The first address of the table, divided by [`BUCKET_BYTES`].
    pub first_bucket: u32,
    /// Buckets in the index.
    pub bucket_count: u32,
    /// First word of the index, counted over all chunks.
    pub index_word: u32,
    /// First chunk of the rows; the others follow it.
    pub row_chunk: u32,
}

/// [`TableEntry::state`]: the object has no call frame information.
pub const TABLE_ABSENT: u32 = 0;
/// [`TableEntry::state`]: the table is not there yet. Who needs it should say so.
pub const TABLE_PENDING: u32 = 1;
/// [`TableEntry::state`]: the place is that of the table.
pub const TABLE_RESIDENT: u32 = 2;
/// [`TableEntry::state`]: the table memory has no room for it.
pub const TABLE_REFUSED: u32 = 3;
/// [`TableEntry::state`]: the object's file could not be read.
pub const TABLE_UNREADABLE: u32 = 4;

/// The place in the map `TABLES` of memory without an object, and of objects that found no other.
pub const NO_SLOT: u32 = 0;

/// A value of the map `TABLES`: where an object's table is, if it is anywhere.
///
/// The user side writes the place before it says [`TABLE_RESIDENT`], and says something else well
/// before it uses the place for another table.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableEntry {
    /// Where the table is.
    pub place: TablePlace,
    /// One of the `TABLE_` states.
    pub state: u32,
    /// Always zero.
    pub _pad: u32,
}

/// Words of a [`TableEntry`].
pub const TABLE_ENTRY_WORDS: usize = 6;

const _: () = assert!(
    size_of::<TableEntry>() == TABLE_ENTRY_WORDS * 4,
    "no hidden padding"
);

// SAFETY: `repr(C)`, no hidden padding (asserted above), and every bit pattern is a valid value.
#[cfg(feature = "user")]
unsafe impl aya::Pod for TableEntry {}

/// What a table says of an address: a rule's number, and how much further the CFA is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The rule's number; [`NO_INFORMATION`] where nothing is known.
    pub rule: u16,
    /// What is added to the rule's word.
    step: u64,
}

impl Found {
    /// Nothing is known of the address.
    pub const NOTHING: Self = Self {
        rule: NO_INFORMATION,
        step: 0,
    };

    /// The word of the rule in force, given the word of the rule with this number.
    #[inline(always)]
    #[must_use]
    pub const fn word(self, rule: u64) -> u64 {
        rule.wrapping_add(self.step)
    }
}

/// Finds the rule for an ELF address; [`Found::NOTHING`] outside of the table.
///
/// A branch-free binary search for the last row of the bucket that starts at or before it.
#[inline(always)]
#[must_use]
pub fn find_rule(chunks: &impl Chunks, place: &TablePlace, address: u64) -> Found {
    // Verifier: compared as a whole, so that no address beyond 2^40 folds into the table.
    let bucket = (address / BUCKET_BYTES).wrapping_sub(u64::from(place.first_bucket));
    if bucket >= u64::from(place.bucket_count) {
        return Found::NOTHING;
    }
    let at = place.index_word.wrapping_add(bucket as u32);
    let Some(index) = chunks.chunk(at / CHUNK_WORDS as u32) else {
        return Found::NOTHING;
    };
    let index = IndexWord(index[at as usize & (CHUNK_WORDS - 1)]);
    let number = place
        .row_chunk
        .wrapping_add(index.row() / CHUNK_WORDS as u32);
    let Some(rows) = chunks.chunk(number) else {
        return Found::NOTHING;
    };
    let row = |i: i64| Row(rows[(index.row().wrapping_add(i as u32)) as usize & (CHUNK_WORDS - 1)]);
    let (count, low) = (i64::from(index.count()), (address % BUCKET_BYTES) as i64);
    let reach = below_next_power_of_two(index.count());
    let mut found: i64 = 0;
    let mut step: i64 = 1 << (SEARCH_STEPS - 1);
    let mut round = 0;
    while round < SEARCH_STEPS {
        let probe = found + (step & reach);
        let beyond = sign_mask((count - probe) | (low - i64::from(row(probe).low_byte())));
        found += step & reach & !beyond;
        step >>= 1;
        round += 1;
    }
    let row = row(found);
    // The row in force where the bucket starts has its second half before that.
    let is_carried = sign_mask(found - 1);
    let after = i64::from(row.fold_after());
    let into = low - i64::from(row.low_byte());
    let reached = is_carried | !sign_mask(into - after);
    // Without a second half `after` is 0.
    let applies = reached & sign_mask(-after);
    Found {
        rule: row.rule(),
        step: row.fold_step() & applies as u64,
    }
}

/// Reads registers beyond the three of [`Registers`]. A function keeps no promise about most of
/// them, so they are known in the interrupted frame only.
pub trait OtherRegisters {
    /// The register of a DWARF number (System V ABI for x86-64, figure 3.36), if it is known.
    fn read(&self, number: u8) -> Option<u64>;
}

/// No register but the three of [`Registers`] is known.
#[derive(Clone, Copy, Debug)]
pub struct NoOthers;

impl OtherRegisters for NoOthers {
    #[inline(always)]
    fn read(&self, _number: u8) -> Option<u64> {
        None
    }
}

/// Finds the caller by a rule. `others` counts only if the frame is the innermost one.
///
/// What a chain of rules can do wrong (a loop in memory that was written over) ends at the depth
/// that the walk keeps.
///
/// # Errors
/// The reason the walk ends, [`StopReason::Root`] at the outermost frame.
#[inline(always)]
pub fn caller_by_rule(
    rule: Rule,
    callee: Registers,
    depth: Depth,
    others: &impl OtherRegisters,
    memory: &impl UserMemory,
) -> Result<Registers, StopReason> {
    let other = |number| match depth {
        Depth::Innermost => others.read(number).ok_or(StopReason::NoUnwindRow),
        Depth::Caller => Err(StopReason::NoUnwindRow),
    };
    let (cfa, fp) = match rule {
        Rule::NoInformation => return Err(StopReason::NoUnwindRow),
        Rule::End => return Err(StopReason::Root),
        Rule::SignalFrame => return interrupted(callee.sp, memory),
        Rule::ReturnInRegister(register, offset) => {
            let sp = callee.sp.wrapping_add_signed(i64::from(offset));
            let pc = other(register)?;
            return returned(Registers { pc, sp, ..callee });
        }
        Rule::FrameAndRbx(Base::StackPointer, offset, fp, _) => (Cfa::StackPointer(offset), fp),
        Rule::FrameAndRbx(Base::FramePointer, offset, fp, _) => (Cfa::FramePointer(offset), fp),
        Rule::Frame(cfa, fp) => (cfa, fp),
    };
    let cfa = match cfa {
        Cfa::StackPointer(offset) => plus(callee.sp, offset),
        Cfa::FramePointer(offset) => plus(callee.fp, offset),
        Cfa::Register(number, offset) => plus(other(number)?, offset),
        Cfa::Plt { pushed_from } => {
            let pushed = callee.pc & 15 >= u64::from(pushed_from);
            callee.sp.wrapping_add(8 + 8 * u64::from(pushed))
        }
        Cfa::Loaded(base, offset, words) => {
            let base = match base {
                Base::StackPointer => callee.sp,
                Base::FramePointer => callee.fp,
            };
            load(plus(base, offset), memory)?.wrapping_add(8 * u64::from(words))
        }
    };
    // What `push %rbp` at a function's start leaves: both words in one read.
    let is_framed = callee.fp < cfa && callee.sp <= cfa.wrapping_sub(16);
    if fp == SavedFp::AtCfa(-16) || (fp == SavedFp::WhereFramed && is_framed) {
        let Some(pair) = memory.read::<16>(cfa.wrapping_sub(16)) else {
            return Err(StopReason::StackUnreadable);
        };
        return returned(Registers {
            pc: word_at(&pair, 8),
            sp: cfa,
            fp: word_at(&pair, 0),
        });
    }
    let fp = match fp {
        SavedFp::Same | SavedFp::WhereFramed => callee.fp,
        SavedFp::AtCfa(offset) => load(plus(cfa, i32::from(offset)), memory)?,
        SavedFp::AtFp(offset) => load(plus(callee.fp, i32::from(offset)), memory)?,
    };
    let pc = load(cfa.wrapping_sub(8), memory)?;
    returned(Registers { pc, sp: cfa, fp })
}

/// A caller with a return address in user space. A null one is the root by convention: thread
/// starts and coroutines push it where they have no CFI to say so.
#[inline(always)]
fn returned(caller: Registers) -> Result<Registers, StopReason> {
    if caller.pc == 0 {
        return Err(StopReason::Root);
    }
    if caller.pc < 4096 || caller.pc >> 56 != 0 {
        return Err(StopReason::NotACall);
    }
    Ok(caller)
}

/// Bytes from the stack pointer to the saved registers while a signal handler's return runs.
/// Source: `struct rt_sigframe` and `struct sigcontext` in `arch/x86/include/`: the handler has
/// popped the return address, so rsp is at `uc`; the general registers begin 40 bytes on, in the
/// order r8 to r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip.
pub const SIGNAL_REGISTERS: u64 = 40;
/// Bytes from the saved registers to rbp.
const SIGNAL_FP: u64 = 10 * 8;
/// Bytes from the saved rbp to the saved rsp and rip.
const SIGNAL_SP_AFTER_FP: usize = 5 * 8;
const SIGNAL_BYTES: usize = SIGNAL_SP_AFTER_FP + 16;

/// The places of the registers in that order by their DWARF numbers, four bits each, from number 0
/// up: rax, rdx, rcx, rbx, rsi, rdi, rbp, rsp, r8 to r15.
const SIGNAL_PLACES: u64 = 0x7654_3210_fa89_becd;

/// Bytes from the registers that a signal saved to the one with a DWARF number below 16.
#[inline(always)]
#[must_use]
pub const fn signal_register(number: u8) -> u64 {
    ((SIGNAL_PLACES >> ((number & 15) * 4)) & 15) * 8
}

/// What a signal interrupted, given the stack pointer of the frame that returns from it.
///
/// # Errors
/// When the stack cannot be read.
#[inline(always)]
pub fn interrupted(sp: u64, memory: &impl UserMemory) -> Result<Registers, StopReason> {
    let at = sp.wrapping_add(SIGNAL_REGISTERS + SIGNAL_FP);
    let Some(saved) = memory.read::<SIGNAL_BYTES>(at) else {
        return Err(StopReason::StackUnreadable);
    };
    // Its program counter may be any: a signal is also how a jump to nowhere ends.
    Ok(Registers {
        pc: word_at(&saved, SIGNAL_SP_AFTER_FP + 8),
        sp: word_at(&saved, SIGNAL_SP_AFTER_FP),
        fp: word_at(&saved, 0),
    })
}

#[inline(always)]
fn plus(base: u64, offset: i32) -> u64 {
    base.wrapping_add_signed(i64::from(offset))
}

#[inline(always)]
fn load(address: u64, memory: &impl UserMemory) -> Result<u64, StopReason> {
    match memory.read::<8>(address) {
        Some(bytes) => Ok(u64::from_ne_bytes(bytes)),
        None => Err(StopReason::StackUnreadable),
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;
    use std::{boxed::Box, collections::BTreeMap, vec, vec::Vec};

    /// Memory given word by word.
    #[derive(Default)]
    struct Memory(BTreeMap<u64, u8>);

    impl Memory {
        fn word(mut self, address: u64, value: u64) -> Self {
            self.0.extend((address..).zip(value.to_ne_bytes()));
            self
        }
    }

    impl UserMemory for Memory {
        fn read<const N: usize>(&self, address: u64) -> Option<[u8; N]> {
            let mut out = [0; N];
            for (byte, at) in out.iter_mut().zip(address..) {
                *byte = *self.0.get(&at)?;
            }
            Some(out)
        }
    }

    /// All other registers hold this.
    struct Others(u64);

    impl OtherRegisters for Others {
        fn read(&self, _number: u8) -> Option<u64> {
            Some(self.0)
        }
    }

    const CALLEE: Registers = Registers {
        pc: 0x40_1000,
        sp: 0x7000,
        fp: 0x7010,
    };

    #[track_caller]
    fn check(rule: Rule, memory: &Memory, expected: Result<Registers, StopReason>) {
        let caller = caller_by_rule(rule, CALLEE, Depth::Caller, &Others(0x7100), memory);
        assert_eq!(caller, expected);
    }

    #[track_caller]
    fn check_innermost(rule: Rule, callee: Registers, memory: &Memory, expected: (u64, u64, u64)) {
        let (pc, sp, fp) = expected;
        let caller = caller_by_rule(rule, callee, Depth::Innermost, &Others(0x7100), memory);
        assert_eq!(caller, Ok(Registers { pc, sp, fp }));
    }

    #[test]
    fn the_return_address_lies_below_the_cfa() {
        let memory = Memory::default().word(0x7028, 0x40_2000);
        let rule = Rule::Frame(Cfa::StackPointer(0x30), SavedFp::Same);
        check_innermost(rule, CALLEE, &memory, (0x40_2000, 0x7030, 0x7010));
        let rule = Rule::Frame(Cfa::FramePointer(0x20), SavedFp::Same);
        check_innermost(rule, CALLEE, &memory, (0x40_2000, 0x7030, 0x7010));
    }

    #[test]
    fn the_frame_pointer_comes_back_from_where_it_was_saved() {
        let memory = Memory::default()
            .word(0x7008, 0xaaaa)
            .word(0x7010, 0xcccc)
            .word(0x7020, 0xbbbb)
            .word(0x7028, 0x40_2000);
        let cfa = Cfa::StackPointer(0x30);
        let frame = |fp| Rule::Frame(cfa, fp);
        let callee = CALLEE;
        let check = |fp, value| {
            check_innermost(frame(fp), callee, &memory, (0x40_2000, 0x7030, value));
        };
        check(SavedFp::AtCfa(-16), 0xbbbb);
        check(SavedFp::AtCfa(-0x28), 0xaaaa);
        check(SavedFp::AtFp(0), 0xcccc);
    }

    #[test]
    fn a_plt_entry_has_pushed_its_number_from_some_byte_on() {
        let memory = Memory::default()
            .word(0x7000, 0x40_2000)
            .word(0x7008, 0x40_3000);
        let rule = Rule::Frame(Cfa::Plt { pushed_from: 11 }, SavedFp::Same);
        let at = |pc| Registers { pc, ..CALLEE };
        check_innermost(rule, at(0x40_100a), &memory, (0x40_2000, 0x7008, 0x7010));
        check_innermost(rule, at(0x40_100b), &memory, (0x40_3000, 0x7010, 0x7010));
    }

    #[test]
    fn an_aligned_frame_keeps_its_cfa_in_memory() {
        let memory = Memory::default()
            .word(0x7008, 0x7048)
            .word(0x7010, 0x7080)
            .word(0x7048, 0x40_2000);
        let rule = Rule::Frame(Cfa::Loaded(Base::FramePointer, -8, 1), SavedFp::AtFp(0));
        check_innermost(rule, CALLEE, &memory, (0x40_2000, 0x7050, 0x7080));
        let rule = Rule::Frame(Cfa::Loaded(Base::StackPointer, 8, 1), SavedFp::Same);
        check_innermost(rule, CALLEE, &memory, (0x40_2000, 0x7050, 0x7010));
    }

    #[test]
    fn other_registers_count_in_the_innermost_frame_only() {
        let memory = Memory::default().word(0x70f8, 0x40_2000);
        let rule = Rule::Frame(Cfa::Register(10, 0), SavedFp::Same);
        check_innermost(rule, CALLEE, &memory, (0x40_2000, 0x7100, 0x7010));
        check(rule, &memory, Err(StopReason::NoUnwindRow));
        let rule = Rule::ReturnInRegister(5, 0);
        check_innermost(rule, CALLEE, &memory, (0x7100, 0x7000, 0x7010));
        check(rule, &memory, Err(StopReason::NoUnwindRow));
        let unknown = caller_by_rule(rule, CALLEE, Depth::Innermost, &NoOthers, &memory);
        assert_eq!(unknown, Err(StopReason::NoUnwindRow));
    }

    #[test]
    fn a_signal_frame_leads_to_what_was_interrupted() {
        let memory = (0..17).fold(Memory::default(), |memory, i| {
            memory.word(0x7000 + 40 + 8 * i, 0x1000 + i)
        });
        let interrupted = Registers {
            pc: 0x1010,
            sp: 0x100f,
            fp: 0x100a,
        };
        check(Rule::SignalFrame, &memory, Ok(interrupted));
        assert_eq!(Rule::SignalFrame.caller_depth(), Depth::Innermost);
        assert_eq!(Rule::End.caller_depth(), Depth::Caller);
    }

    #[test]
    fn a_saved_register_is_found_by_its_dwarf_number() {
        let order = [13, 12, 14, 11, 9, 8, 10, 15, 0, 1, 2, 3, 4, 5, 6, 7];
        for (number, place) in (0..).zip(order) {
            assert_eq!(signal_register(number), place * 8, "register {number}");
        }
    }

    #[test]
    fn go_code_saves_the_frame_pointer_where_it_points() {
        let memory = Memory::default()
            .word(0x7020, 0xbbbb)
            .word(0x7028, 0x40_2000);
        let rule = Rule::Frame(Cfa::StackPointer(0x30), SavedFp::WhereFramed);
        let with_fp = |fp| Registers { fp, ..CALLEE };
        // In its frame, with rbp in use for something else, and before it has made its frame.
        check_innermost(rule, with_fp(0x7020), &memory, (0x40_2000, 0x7030, 0xbbbb));
        check_innermost(rule, with_fp(5), &memory, (0x40_2000, 0x7030, 0xbbbb));
        check_innermost(rule, with_fp(0x7040), &memory, (0x40_2000, 0x7030, 0x7040));
        // Without a frame.
        let memory = memory.word(0x7000, 0x40_2000);
        let rule = Rule::Frame(Cfa::StackPointer(8), SavedFp::WhereFramed);
        check_innermost(rule, with_fp(5), &memory, (0x40_2000, 0x7008, 5));
    }

    #[test]
    fn a_walk_ends_with_the_reason() {
        let memory = Memory::default()
            .word(0x7000, 0)
            .word(0x7008, 0xffff_ffff_8100_0000)
            .word(0x7010, 12);
        let frame = |offset| Rule::Frame(Cfa::StackPointer(offset), SavedFp::Same);
        check(Rule::NoInformation, &memory, Err(StopReason::NoUnwindRow));
        check(Rule::End, &memory, Err(StopReason::Root));
        check(frame(8), &memory, Err(StopReason::Root));
        check(frame(16), &memory, Err(StopReason::NotACall));
        check(frame(24), &memory, Err(StopReason::NotACall));
        check(frame(32), &memory, Err(StopReason::StackUnreadable));
        check(Rule::SignalFrame, &memory, Err(StopReason::StackUnreadable));
    }

    fn any_fp() -> impl Strategy<Value = SavedFp> {
        prop_oneof![
            Just(SavedFp::Same),
            any::<i16>().prop_map(SavedFp::AtCfa),
            any::<i16>().prop_map(SavedFp::AtFp),
            Just(SavedFp::WhereFramed),
        ]
    }

    fn any_cfa() -> impl Strategy<Value = Cfa> {
        let base = prop_oneof![Just(Base::StackPointer), Just(Base::FramePointer)];
        prop_oneof![
            any::<i32>().prop_map(Cfa::StackPointer),
            any::<i32>().prop_map(Cfa::FramePointer),
            (0..=MAX_PARAMETER, any::<i32>()).prop_map(|(n, offset)| Cfa::Register(n, offset)),
            (0..16u8).prop_map(|pushed_from| Cfa::Plt { pushed_from }),
            (base, any::<i32>(), 0..=MAX_PARAMETER)
                .prop_map(|(base, offset, words)| Cfa::Loaded(base, offset, words)),
        ]
    }

    fn any_with_rbx() -> impl Strategy<Value = Rule> {
        let base = prop_oneof![Just(Base::StackPointer), Just(Base::FramePointer)];
        let rbx = prop_oneof![
            Just(SavedRbx::Same),
            (1..=MAX_PARAMETER).prop_map(SavedRbx::BelowCfa)
        ];
        (base, any::<i32>(), any_fp(), rbx)
            .prop_map(|(base, offset, fp, rbx)| Rule::FrameAndRbx(base, offset, fp, rbx))
    }

    fn any_rule() -> impl Strategy<Value = Rule> {
        prop_oneof![
            any_with_rbx(),
            Just(Rule::NoInformation),
            Just(Rule::SignalFrame),
            Just(Rule::End),
            (0..=MAX_PARAMETER, any::<i32>()).prop_map(|(n, o)| Rule::ReturnInRegister(n, o)),
            (any_cfa(), any_fp()).prop_map(|(cfa, fp)| Rule::Frame(cfa, fp)),
        ]
    }

    fn any_fold() -> impl Strategy<Value = Option<Fold>> {
        let moves = prop_oneof![Just(Moves::Pushes), Just(Moves::Pops)];
        let fold = (1..=MOST_FOLD_BYTES, moves).prop_map(|(after, moves)| Fold { after, moves });
        prop::option::of(fold)
    }

    fn row(low: u8, (rule, fold): (u16, Option<Fold>)) -> Row {
        let row = Row::new(u64::from(low), rule);
        fold.map_or(row, |fold| row.folded(fold))
    }

    /// What is found some bytes into a row, of a rule whose word is its number and bit 40.
    fn word_after((rule, fold): (u16, Option<Fold>), bytes: u8) -> u64 {
        let word = u64::from(rule) | 1 << 40;
        match fold {
            Some(fold) if bytes >= fold.after => match fold.moves {
                Moves::Pushes => word + (8 << 32),
                Moves::Pops => word - (8 << 32),
            },
            _ => word,
        }
    }

    struct Held(Vec<Box<Chunk>>);

    impl Chunks for Held {
        fn chunk(&self, number: u32) -> Option<&Chunk> {
            self.0.get(number as usize).map(AsRef::as_ref)
        }
    }

    fn chunk() -> Box<Chunk> {
        vec![0xdead_beef_u32; CHUNK_WORDS]
            .into_boxed_slice()
            .try_into()
            .unwrap()
    }

    proptest! {
        #[test]
        fn a_rule_reads_back_from_its_word(rule in any_rule()) {
            prop_assert_eq!(Rule::decode(rule.encode()), Ok(rule));
        }

        #[test]
        fn what_a_word_tells_of_rbx_is_taken_from_it(rule in any_rule()) {
            let (word, told) = ToldRbx::split(rule.encode());
            let (rest, is_told, words) = match rule {
                Rule::FrameAndRbx(base, offset, fp, rbx) => {
                    let cfa = match base {
                        Base::StackPointer => Cfa::StackPointer(offset),
                        Base::FramePointer => Cfa::FramePointer(offset),
                    };
                    let words = match rbx {
                        SavedRbx::Same => 0,
                        SavedRbx::BelowCfa(words) => u64::from(words),
                    };
                    (Rule::Frame(cfa, fp), u64::MAX, words)
                }
                other => (other, 0, 0),
            };
            prop_assert_eq!(Rule::decode_registers(word), Ok(rest));
            prop_assert_eq!(told, ToldRbx { is_told, words });
        }

        #[test]
        fn any_word_decodes_or_is_refused(word: u64) {
            if let Ok(rule) = Rule::decode(word) {
                prop_assert_eq!(Rule::decode(rule.encode()), Ok(rule));
            }
        }

        #[test]
        fn no_rule_and_no_memory_make_a_walk_fail_otherwise_than_by_a_reason(
            rule in any_rule(), pc: u64, sp: u64, fp: u64, other: u64,
        ) {
            let callee = Registers { pc, sp, fp };
            for depth in [Depth::Innermost, Depth::Caller] {
                let _ = caller_by_rule(rule, callee, depth, &Others(other), &Memory::default());
            }
        }

        #[test]
        fn the_search_finds_what_a_scan_finds(
            carried in (0u16..9, any_fold()),
            rows in prop::collection::btree_map(any::<u8>(), (1u16..=u16::MAX, any_fold()), 0..=127),
            first in 0u32..1000,
        ) {
            let mut held = Held(vec![chunk(), chunk(), chunk()]);
            // Index in chunk 0, bucket 5 of an object that begins at bucket 3; rows from chunk 1.
            let place = TablePlace { first_bucket: 3, bucket_count: 4, index_word: 77, row_chunk: 1 };
            let at = CHUNK_WORDS as u32 + first;
            held.0[0][77 + 2] = IndexWord::new(at, rows.len() as u32).0;
            held.0[2][first as usize] = row(0x80, carried).0;
            for (i, (low, rule)) in rows.iter().enumerate() {
                held.0[2][first as usize + 1 + i] = row(*low, *rule).0;
            }
            for low in 0..=255u8 {
                let expected = match rows.range(..=low).next_back() {
                    None => word_after(carried, u8::MAX),
                    Some((start, rule)) => word_after(*rule, low - start),
                };
                let found = find_rule(&held, &place, 5 * 256 + u64::from(low));
                prop_assert_eq!(found.word(u64::from(found.rule) | 1 << 40), expected);
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
        ];
        for (rule, word) in words {
            assert_eq!(rule.encode(), word, "{rule:?}");
        }
        assert_eq!(Rule::decode(10), Err(UnknownRule(10)));
        let go = Rule::Frame(Cfa::StackPointer(8), SavedFp::WhereFramed);
        assert_eq!(go.encode(), 0x0000_0008_0000_0301);
    }

    #[test]
    fn addresses_outside_of_the_table_have_no_rule() {
        let held = Held(Vec::new());
        let place = TablePlace {
            first_bucket: 3,
            bucket_count: 4,
            ..TablePlace::default()
        };
        for address in [0, 2 * 256, 7 * 256, 1 << 40, u64::MAX, 4 * 256] {
            assert_eq!(find_rule(&held, &place, address), Found::NOTHING);
        }
    }
}
