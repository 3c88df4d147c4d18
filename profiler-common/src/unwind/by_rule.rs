//! What a rule means: from a frame's registers to its caller's.

use super::rule::{Base, Cfa, Rule, SavedFp};
use crate::{
    step::{Depth, Registers, UserMemory, is_of_user, word_at},
    stop::StopReason,
};

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
        Rule::FrameAndRbx(base, offset, fp, _) | Rule::Injected(base, offset, fp) => match base {
            Base::StackPointer => (Cfa::StackPointer(offset), fp),
            Base::FramePointer => (Cfa::FramePointer(offset), fp),
        },
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
    if !is_of_user(caller.pc) {
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
    use super::{super::rule::tests::any_rule, *};
    use crate::test_memory::Memory;
    use proptest::prelude::*;

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

    proptest! {
        #[test]
        fn no_rule_and_no_memory_make_a_walk_fail_otherwise_than_by_a_reason(
            rule in any_rule(), pc: u64, sp: u64, fp: u64, other: u64,
        ) {
            let callee = Registers { pc, sp, fp };
            for depth in [Depth::Innermost, Depth::Caller] {
                let _ = caller_by_rule(rule, callee, depth, &Others(other), &Memory::default());
            }
        }
    }
}
