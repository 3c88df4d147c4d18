//! From a frame to its caller, as a pure function of registers, memory and code.

use crate::{
    code::{
        CALL_BYTES, LEAF_BYTES, PLT_BYTES, SIGNAL_RETURN, SIGNAL_RETURN_BYTES, call_target,
        follows_call, leaf_return_slot, plt_slot, same,
    },
    stop::StopReason,
};

/// Reads the memory of the task whose stack is walked.
pub trait UserMemory {
    /// The `N` bytes at `address`, or `None` when any of them cannot be read.
    fn read<const N: usize>(&self, address: u64) -> Option<[u8; N]>;
}

/// The registers a walk needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// Program counter.
    pub pc: u64,
    /// Stack pointer.
    pub sp: u64,
    /// Frame pointer, if the code keeps one.
    pub fp: u64,
}

/// How many registers there are by DWARF numbers: the general ones and the program counter.
pub const ALL_REGISTERS: usize = 17;

/// General registers and the program counter by their DWARF numbers.
/// Source: System V ABI for x86-64, figure 3.36.
pub type AllRegisters = [u64; ALL_REGISTERS];

impl Registers {
    /// The three among all.
    #[inline(always)]
    #[must_use]
    pub const fn of(all: &AllRegisters) -> Self {
        Self {
            pc: all[16],
            sp: all[7],
            fp: all[6],
        }
    }
}

/// Which frame a step starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// The interrupted frame: it may not have set up its frame yet.
    Innermost,
    /// A frame that has called another.
    Caller,
}

/// How frames may follow each other on the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Growth {
    /// A caller's frame lies above its callee's. A frame pointer below the stack pointer is stale.
    Strict,
    /// The code may have switched stacks (Go).
    MaySwitch,
}

/// Whether a return address is known to follow a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallCheck {
    /// It does.
    Passed,
    /// The code is not in memory: a process that was forked need not have touched what its parent
    /// ran. If the address lies in an object, its file tells.
    CodeUnreadable,
}

/// A caller, and how sure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Its registers.
    pub registers: Registers,
    /// Whether its return address was checked.
    pub check: CallCheck,
}

/// Finds the caller by the frame pointer.
///
/// The caller's frame pointer and the return address stand where the frame pointer points
/// (System V ABI for x86-64, section 3.2.2). A return address counts only if it follows a call.
///
/// # Errors
/// The reason the walk ends, [`StopReason::Root`] at the outermost frame.
#[inline(always)]
pub fn caller_by_frame_pointer(
    callee: Registers,
    depth: Depth,
    growth: Growth,
    memory: &impl UserMemory,
) -> Result<Caller, StopReason> {
    if depth == Depth::Innermost
        && let Some(registers) = caller_of_leaf(callee, memory)
    {
        return Ok(Caller {
            registers,
            check: CallCheck::Passed,
        });
    }
    if callee.fp == 0 {
        // The ABI has 0 mark the outermost frame. In an innermost frame it may be any value.
        return Err(if depth == Depth::Caller {
            StopReason::Root
        } else {
            StopReason::NoFramePointer
        });
    }
    let stale = growth == Growth::Strict && callee.fp < callee.sp;
    if callee.fp & 7 != 0 || stale {
        return Err(StopReason::NoFramePointer);
    }
    let Some(pair) = memory.read::<16>(callee.fp) else {
        return Err(StopReason::StackUnreadable);
    };
    let (fp, pc) = (word_at(&pair, 0), word_at(&pair, 8));
    if pc == 0 {
        return Err(StopReason::Root);
    }
    let check = match check_return_address(pc, memory) {
        Ok(check) => check,
        // The runtime lets a goroutine's first function return into the middle of `goexit`, which
        // nobody called, and gives it a null frame pointer.
        Err(StopReason::NotACall) if growth == Growth::MaySwitch && fp == 0 => {
            return Err(StopReason::Root);
        }
        // The kernel has a signal handler return into what nobody called.
        Err(reason) => match memory.read::<SIGNAL_RETURN_BYTES>(pc) {
            Some(code) if same(&code, &SIGNAL_RETURN) => CallCheck::Passed,
            _ => return Err(reason),
        },
    };
    if fp == callee.fp {
        return Err(StopReason::NoFramePointer);
    }
    let sp = callee.fp.wrapping_add(16);
    Ok(Caller {
        registers: Registers { pc, sp, fp },
        check,
    })
}

/// The caller of a function that has no frame yet, or no longer.
#[inline(always)]
fn caller_of_leaf(callee: Registers, memory: &impl UserMemory) -> Option<Registers> {
    let code = memory.read::<LEAF_BYTES>(callee.pc.wrapping_sub(1))?;
    let slot = callee.sp.wrapping_add(leaf_return_slot(&code)?);
    let pc = u64::from_ne_bytes(memory.read::<8>(slot)?);
    // It is but one of two readings of the stack, so it must be beyond doubt.
    if check_return_address(pc, memory) != Ok(CallCheck::Passed) {
        return None;
    }
    Some(Registers {
        pc,
        sp: slot.wrapping_add(8),
        fp: callee.fp,
    })
}

/// How far the code of a function may lie behind its start, in bytes, to be taken for the target of
/// the call that [`caller_by_return_on_top`] found.
const MOST_FUNCTION_BYTES: u64 = 64 << 10;

/// The caller of a function that has pushed nothing: its return address is on top of the stack. It is
/// believed if the call before it leads to this very function, directly or through a PLT entry.
#[inline(always)]
pub(crate) fn caller_by_return_on_top(
    callee: Registers,
    memory: &impl UserMemory,
) -> Option<Registers> {
    let pc = u64::from_ne_bytes(memory.read::<8>(callee.sp)?);
    if !is_of_user(pc) {
        return None;
    }
    let target = call_target(pc, &memory.read::<5>(pc.wrapping_sub(5))?)?;
    let holds = |start: u64| callee.pc.wrapping_sub(start) < MOST_FUNCTION_BYTES;
    if !holds(target) {
        let slot = plt_slot(target, &memory.read::<PLT_BYTES>(target)?)?;
        if !holds(u64::from_ne_bytes(memory.read::<8>(slot)?)) {
            return None;
        }
    }
    Some(Registers {
        pc,
        sp: callee.sp.wrapping_add(8),
        fp: callee.fp,
    })
}

/// Whether code may lie at an address. User space ends below 2^56: no address of the kernel is read,
/// none is taken for user code.
#[inline(always)]
pub(crate) const fn is_of_user(pc: u64) -> bool {
    pc >= 4096 && pc >> 56 == 0
}

#[inline(always)]
pub(crate) fn check_return_address(
    pc: u64,
    memory: &impl UserMemory,
) -> Result<CallCheck, StopReason> {
    if !is_of_user(pc) {
        return Err(StopReason::NotACall);
    }
    match memory.read::<CALL_BYTES>(pc.wrapping_sub(CALL_BYTES as u64)) {
        Some(before) if follows_call(&before) => Ok(CallCheck::Passed),
        Some(_) => Err(StopReason::NotACall),
        None => Ok(CallCheck::CodeUnreadable),
    }
}

/// The word at a byte of a buffer.
#[inline(always)]
pub(crate) fn word_at<const N: usize>(bytes: &[u8; N], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_ne_bytes(word)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::test_memory::Memory;

    const CALLEE: Registers = Registers {
        pc: 0x40_1000,
        sp: 0x7000,
        fp: 0x7010,
    };

    #[track_caller]
    fn check(
        callee: Registers,
        depth: Depth,
        memory: &Memory,
        expected: Result<Registers, StopReason>,
    ) {
        let expected = expected.map(|registers| Caller {
            registers,
            check: CallCheck::Passed,
        });
        assert_eq!(
            caller_by_frame_pointer(callee, depth, Growth::Strict, memory),
            expected
        );
    }

    #[test]
    fn the_caller_stands_where_the_frame_pointer_points() {
        let memory = Memory::default()
            .word(0x7010, 0x7080)
            .word(0x7018, 0x40_2000)
            .call_before(0x40_2000);
        let caller = Registers {
            pc: 0x40_2000,
            sp: 0x7020,
            fp: 0x7080,
        };
        check(CALLEE, Depth::Caller, &memory, Ok(caller));
        check(CALLEE, Depth::Innermost, &memory, Ok(caller));
    }

    #[test]
    fn a_null_return_address_is_the_root() {
        let memory = Memory::default().word(0x7010, 0).word(0x7018, 0);
        check(CALLEE, Depth::Caller, &memory, Err(StopReason::Root));
    }

    #[test]
    fn a_null_frame_pointer_is_the_root_of_a_caller_only() {
        let callee = Registers { fp: 0, ..CALLEE };
        check(
            callee,
            Depth::Caller,
            &Memory::default(),
            Err(StopReason::Root),
        );
        check(
            callee,
            Depth::Innermost,
            &Memory::default(),
            Err(StopReason::NoFramePointer),
        );
    }

    #[test]
    fn a_frame_pointer_below_the_stack_pointer_is_stale() {
        let callee = Registers {
            fp: 0x6ff0,
            ..CALLEE
        };
        let memory = Memory::default()
            .word(0x6ff0, 0x7080)
            .word(0x6ff8, 0x40_2000)
            .call_before(0x40_2000);
        check(
            callee,
            Depth::Caller,
            &memory,
            Err(StopReason::NoFramePointer),
        );
        let switched = caller_by_frame_pointer(callee, Depth::Caller, Growth::MaySwitch, &memory);
        assert_eq!(
            switched,
            Ok(Caller {
                registers: Registers {
                    pc: 0x40_2000,
                    sp: 0x7000,
                    fp: 0x7080
                },
                check: CallCheck::Passed,
            })
        );
    }

    #[test]
    fn a_value_that_follows_no_call_is_no_return_address() {
        let memory = Memory::default()
            .word(0x7010, 0x7080)
            .word(0x7018, 0x40_2000)
            .bytes(0x40_1ff8, &[0x90; 8]);
        check(CALLEE, Depth::Caller, &memory, Err(StopReason::NotACall));
        let kernel = Memory::default()
            .word(0x7010, 0x7080)
            .word(0x7018, 0xffff_ffff_8100_0000);
        check(CALLEE, Depth::Caller, &kernel, Err(StopReason::NotACall));
    }

    #[test]
    fn a_signal_handler_returns_into_what_nobody_called() {
        let memory = Memory::default()
            .word(0x7010, 0x7080)
            .word(0x7018, 0x40_2000)
            .bytes(0x40_1ff8, &[0x90; 8])
            .bytes(0x40_2000, &SIGNAL_RETURN);
        let caller = Registers {
            pc: 0x40_2000,
            sp: 0x7020,
            fp: 0x7080,
        };
        check(CALLEE, Depth::Caller, &memory, Ok(caller));
    }

    #[test]
    fn the_first_function_of_a_goroutine_is_the_root() {
        let memory = Memory::default()
            .word(0x7010, 0)
            .word(0x7018, 0x40_2001)
            .bytes(0x40_1ff9, &[0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0x90]);
        let caller = |growth| caller_by_frame_pointer(CALLEE, Depth::Caller, growth, &memory);
        assert_eq!(caller(Growth::MaySwitch), Err(StopReason::Root));
        assert_eq!(caller(Growth::Strict), Err(StopReason::NotACall));
    }

    #[test]
    fn memory_that_cannot_be_read_ends_the_walk() {
        check(
            CALLEE,
            Depth::Caller,
            &Memory::default(),
            Err(StopReason::StackUnreadable),
        );
    }

    #[test]
    fn code_that_is_not_in_memory_leaves_the_check_to_others() {
        let memory = Memory::default()
            .word(0x7010, 0x7080)
            .word(0x7018, 0x40_2000);
        let caller = caller_by_frame_pointer(CALLEE, Depth::Caller, Growth::Strict, &memory);
        assert_eq!(
            caller.map(|caller| caller.check),
            Ok(CallCheck::CodeUnreadable)
        );
    }

    #[test]
    fn a_function_that_has_no_frame_yet_returns_to_the_top_of_the_stack() {
        let memory = Memory::default()
            .bytes(0x40_0fff, &[0xcc, 0x55, 0x48, 0x89, 0xe5])
            .bytes(0x40_1004, &[0x90; 16])
            .word(0x7000, 0x40_2000)
            .call_before(0x40_2000);
        check(
            CALLEE,
            Depth::Innermost,
            &memory,
            Ok(Registers {
                pc: 0x40_2000,
                sp: 0x7008,
                fp: 0x7010,
            }),
        );
        let pushed = Registers {
            pc: 0x40_1001,
            sp: 0x6ff8,
            fp: 0x7010,
        };
        check(
            pushed,
            Depth::Innermost,
            &memory,
            Ok(Registers {
                pc: 0x40_2000,
                sp: 0x7008,
                fp: 0x7010,
            }),
        );
    }

    #[test]
    fn a_frame_that_points_at_itself_ends_the_walk() {
        let memory = Memory::default()
            .word(0x7010, 0x7010)
            .word(0x7018, 0x40_2000)
            .call_before(0x40_2000);
        check(
            CALLEE,
            Depth::Caller,
            &memory,
            Err(StopReason::NoFramePointer),
        );
    }
}
