//! One step of a walk: which way leads from a frame to its caller.
//!
//! In: a [`Cursor`] at a frame, and what is known of the frame's code. Out: a cursor at its caller,
//! or why the walk ends. Rules come first, then the frame pointer, and each is believed only as far
//! as the code bears it out. The kernel side, the user side, the tests and the fuzzers all walk by
//! this.

use crate::{
    code::{
        SIGNAL_RETURN, SIGNAL_RETURN_BYTES, START_CONTEXT, THREAD_BYTES, ends_thread,
        follows_clone, same,
    },
    frame::{Position, Source},
    mapping::sign_mask,
    step::{
        AllRegisters, CallCheck, Depth, Growth, Registers, UserMemory, caller_by_frame_pointer,
        caller_by_return_on_top, check_return_address,
    },
    stop::StopReason,
    unwind::{
        Cfa, OtherRegisters, RBX, Rule, SIGNAL_REGISTERS, SavedFp, Told, caller_by_rule,
        interrupted, signal_register,
    },
};

/// What is known of the code that a frame runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Knowledge {
    /// The word of the rule in force.
    Rule(u64),
    /// The object describes its code, but not this.
    NoRow,
    /// The object does not describe its code.
    NoTable,
    /// There is no object: the code was made while the program ran.
    Generated,
}

/// The frame that a walk has come to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// Its registers.
    pub registers: Registers,
    /// Where a signal saved its registers. Of a frame that no signal interrupted and whose rbx is
    /// known, a place from which rbx is as far as from that. 0 if they are the sample's; a place that
    /// cannot be read if they are unknown.
    pub saved_at: u64,
    /// Bits of what it is.
    flags: u64,
}

/// The frame may be anywhere in its function: it was interrupted.
const INTERRUPTED: u64 = 1;
/// Its program counter is the address after a call, or after a system call.
const RETURNS: u64 = 2;
/// It was found by the frame pointer.
const BY_FRAME_POINTER: u64 = 4;
/// Its return address still has to be compared with the code before it.
const UNCHECKED: u64 = 8;
/// It was not interrupted, and its rbx is known.
const HAS_RBX: u64 = 16;

/// An address that nothing lies at, for registers that are saved where we do not know.
const NOWHERE: u64 = 1 << 63;
/// The DWARF number of rax, where a system call leaves its result.
const RAX: u8 = 0;

impl Cursor {
    /// The frame that a sample was taken in. In a system call the program counter is the address
    /// after the instruction that made it.
    #[inline(always)]
    #[must_use]
    pub const fn innermost(registers: Registers, position: Position) -> Self {
        let returns = match position {
            Position::Exact => 0,
            Position::ReturnAddress => RETURNS,
        };
        Self {
            registers,
            saved_at: 0,
            flags: INTERRUPTED | returns,
        }
    }

    /// What its program counter means.
    #[inline(always)]
    #[must_use]
    pub const fn position(&self) -> Position {
        if self.flags & RETURNS == 0 {
            Position::Exact
        } else {
            Position::ReturnAddress
        }
    }

    /// How it was found.
    #[inline(always)]
    #[must_use]
    pub const fn source(&self) -> Source {
        if self.flags & BY_FRAME_POINTER == 0 {
            Source::Exact
        } else if self.flags & UNCHECKED == 0 {
            Source::FramePointer
        } else {
            Source::UncheckedFramePointer
        }
    }

    /// The address to look its code up with: a return address belongs to the call before it, which
    /// may be the last instruction of its function.
    #[inline(always)]
    #[must_use]
    pub const fn lookup(&self) -> u64 {
        self.registers.pc.wrapping_sub((self.flags & RETURNS) >> 1)
    }

    /// Whether it is any frame or one that has called another.
    #[inline(always)]
    #[must_use]
    pub const fn depth(&self) -> Depth {
        if self.flags & INTERRUPTED == 0 {
            Depth::Caller
        } else {
            Depth::Innermost
        }
    }

    /// Which registers a rule finds: an interrupted frame has all of them.
    #[inline(always)]
    const fn registers_for(&self, rule: &Rule) -> Depth {
        match rule {
            Rule::Frame(Cfa::Register(RBX, _), _) if self.flags & HAS_RBX != 0 => Depth::Innermost,
            _ => self.depth(),
        }
    }

    /// The caller by a rule that tells this, given its registers.
    #[inline(always)]
    fn called_by(&self, told: Told, registers: Registers) -> Self {
        // Verifier: no branch.
        let is_saved = sign_mask((told.rbx_words as i64).wrapping_neg()) as u64;
        let known = self.flags & (INTERRUPTED | HAS_RBX);
        let is_known = sign_mask((known as i64).wrapping_neg()) as u64;
        // The stack pointer is the CFA.
        let saved = registers
            .sp
            .wrapping_sub(8 * told.rbx_words + signal_register(RBX));
        let saved_at = (saved & is_saved) | (self.saved_at & is_known & !is_saved);
        let returns = (RETURNS & !told.is_injected) | (INTERRUPTED & told.is_injected);
        Self {
            registers,
            saved_at: (saved_at & told.is_rbx_told) | (NOWHERE & told.is_injected),
            flags: returns | (HAS_RBX & told.is_rbx_told & (is_saved | is_known)),
        }
    }

    /// Whether the frame is one. Where rules vouch for nothing, a return address must follow a call,
    /// or lead into the code that returns from a signal handler.
    ///
    /// # Errors
    /// [`StopReason::NotACall`] when it is none, [`StopReason::Root`] when it is where a context
    /// would go on that has no caller: the walk ends before it.
    #[inline(always)]
    pub fn confirm(&mut self, code: Knowledge, memory: &impl UserMemory) -> Result<(), StopReason> {
        let is_ruled = matches!(code, Knowledge::Rule(_));
        if is_ruled || self.flags & (INTERRUPTED | BY_FRAME_POINTER) != 0 {
            return Ok(());
        }
        match check_return_address(self.registers.pc, memory) {
            Ok(CallCheck::Passed) => Ok(()),
            Ok(CallCheck::CodeUnreadable) => {
                self.flags |= BY_FRAME_POINTER | UNCHECKED;
                Ok(())
            }
            Err(reason) => match memory.read::<SIGNAL_RETURN_BYTES>(self.registers.pc) {
                Some(code) if same(&code, &SIGNAL_RETURN) => Ok(()),
                Some(code) if same(&code, &START_CONTEXT) => Err(StopReason::Root),
                _ => Err(reason),
            },
        }
    }

    /// Whether the code is `mov $15, %rax; syscall` and has got this far.
    #[inline(always)]
    fn returns_from_signal(&self, memory: &impl UserMemory) -> bool {
        // In the system call itself the program counter is past the end.
        let made = INTERRUPTED | RETURNS;
        let past_end = self.flags & made == made;
        let start = self.registers.pc.wrapping_sub(if past_end {
            SIGNAL_RETURN_BYTES as u64
        } else {
            0
        });
        match memory.read::<SIGNAL_RETURN_BYTES>(start) {
            Some(code) => same(&code, &SIGNAL_RETURN),
            None => false,
        }
    }
}

/// All registers of an interrupted frame: the sample's own, or those that a signal saved.
#[derive(Clone, Copy, Debug)]
pub struct Interrupted<'a, M> {
    /// The sample's.
    pub registers: &'a AllRegisters,
    /// [`Cursor::saved_at`].
    pub saved_at: u64,
    /// The task's memory.
    pub memory: &'a M,
}

impl<M: UserMemory> OtherRegisters for Interrupted<'_, M> {
    #[inline(always)]
    fn read(&self, number: u8) -> Option<u64> {
        // Verifier: the mask bounds the index.
        let number = number & 15;
        if self.saved_at == 0 {
            return Some(self.registers[usize::from(number)]);
        }
        let at = self.saved_at.wrapping_add(signal_register(number));
        self.memory.read::<8>(at).map(u64::from_ne_bytes)
    }
}

/// Finds the caller. `others` are the registers of an interrupted frame.
///
/// # Errors
/// The reason the walk ends, [`StopReason::Root`] at the outermost frame.
#[inline(always)]
pub fn caller(
    callee: &Cursor,
    code: Knowledge,
    growth: Growth,
    others: &impl OtherRegisters,
    memory: &impl UserMemory,
) -> Result<Cursor, StopReason> {
    let (word, told) = match code {
        Knowledge::Rule(word) => Told::split(word),
        _ => Told::split(Rule::NoInformation.encode()),
    };
    let rule = Rule::decode_registers(word).unwrap_or(Rule::NoInformation);
    let depth = callee.depth();
    let by_frame_pointer = match rule {
        Rule::NoInformation => true,
        // The Go runtime changes stacks in the middle of functions, and says nothing of it. Its
        // frame pointers lead across.
        Rule::Frame(_, SavedFp::WhereFramed) => depth == Depth::Caller,
        _ => false,
    };
    if !by_frame_pointer {
        let known = callee.registers_for(&rule);
        let registers = caller_by_rule(rule, callee.registers, known, others, memory)?;
        return Ok(match rule {
            Rule::SignalFrame => after_signal(callee, registers),
            _ => callee.called_by(told, registers),
        });
    }
    if callee.returns_from_signal(memory) {
        let registers = interrupted(callee.registers.sp, memory)?;
        return Ok(after_signal(callee, registers));
    }
    without_rule(callee, code, growth, others, memory)
}

#[inline(always)]
fn after_signal(callee: &Cursor, registers: Registers) -> Cursor {
    Cursor {
        registers,
        saved_at: callee.registers.sp.wrapping_add(SIGNAL_REGISTERS),
        flags: INTERRUPTED,
    }
}

/// The caller of code that no rule describes.
#[inline(always)]
fn without_rule(
    callee: &Cursor,
    code: Knowledge,
    growth: Growth,
    others: &impl OtherRegisters,
    memory: &impl UserMemory,
) -> Result<Cursor, StopReason> {
    let (registers, depth) = (callee.registers, callee.depth());
    if depth == Depth::Innermost
        && code == Knowledge::NoRow
        && others.read(RAX) == Some(0)
        && is_at(registers.pc, memory, follows_clone)
    {
        return Err(StopReason::Root);
    }
    if depth == Depth::Innermost
        && code != Knowledge::Generated
        && let Some(registers) = caller_by_return_on_top(registers, memory)
    {
        return Ok(Cursor {
            registers,
            saved_at: 0,
            flags: RETURNS | BY_FRAME_POINTER,
        });
    }
    let wants_row = code == Knowledge::NoRow && growth == Growth::Strict;
    if registers.fp == 0 && depth == Depth::Caller && wants_row {
        return Err(
            match is_at(registers.pc, memory, |_, after| ends_thread(after)) {
                true => StopReason::Root,
                false => StopReason::NoUnwindRow,
            },
        );
    }
    let found = match caller_by_frame_pointer(registers, depth, growth, memory) {
        Ok(found) => found,
        Err(reason) => return Err(why_cut(reason, code)),
    };
    let unchecked = match found.check {
        CallCheck::Passed => 0,
        CallCheck::CodeUnreadable => UNCHECKED,
    };
    Ok(Cursor {
        registers: found.registers,
        saved_at: 0,
        flags: RETURNS | BY_FRAME_POINTER | unchecked,
    })
}

/// Whether the code around an address is one that a function knows by its bytes.
#[inline(always)]
fn is_at(
    pc: u64,
    memory: &impl UserMemory,
    is_known: impl Fn(&[u8; THREAD_BYTES], &[u8; THREAD_BYTES]) -> bool,
) -> bool {
    // Verifier: one read after the other, or what the first was to bring is used where it failed.
    let Some(before) = memory.read::<THREAD_BYTES>(pc.wrapping_sub(THREAD_BYTES as u64)) else {
        return false;
    };
    match memory.read::<THREAD_BYTES>(pc) {
        Some(after) => is_known(&before, &after),
        None => false,
    }
}

/// Where a description was to be expected, its absence is the reason.
#[inline(always)]
fn why_cut(reason: StopReason, code: Knowledge) -> StopReason {
    match (reason, code) {
        (StopReason::Root, Knowledge::Generated) => StopReason::NoFramePointer,
        (StopReason::Root, _) => StopReason::Root,
        (_, Knowledge::NoRow) => StopReason::NoUnwindRow,
        (_, Knowledge::NoTable) => StopReason::NoCallFrameInfo,
        (reason, _) => reason,
    }
}
