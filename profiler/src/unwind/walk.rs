//! Walks a stack on the user side, by the step that the kernel side takes.
//!
//! In: the innermost frame's registers, the task's memory, and what is known of its code. Out: the
//! frames, and why there are no more. Samples that arrive unwalked and core files are walked here;
//! what a step does is `profiler_common::walk`'s.

use profiler_common::{
    frame::{Position, Source},
    limits::MAX_USER_FRAMES,
    step::{AllRegisters, Growth, UserMemory},
    stop::StopReason,
    walk::{Cursor, Interrupted, Knowledge, caller},
};

/// What is known of code, by runtime address.
pub trait Code {
    /// What is known of the code at an address, and whether it may switch stacks.
    ///
    /// # Errors
    /// The reason why the walk ends at the frame that runs this code. The frame is kept.
    fn look_up(&self, address: u64) -> Result<(Knowledge, Growth), StopReason>;
}

/// A frame of a walked stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalkedFrame {
    /// Its program counter, a runtime address.
    pub pc: u64,
    /// What the program counter means.
    pub position: Position,
    /// How the frame was found.
    pub source: Source,
}

/// A walked stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walked {
    /// The frames, innermost first: at most [`MAX_USER_FRAMES`].
    pub frames: Vec<WalkedFrame>,
    /// Why there are no more.
    pub stop: StopReason,
}

/// Walks a stack from its innermost frame. `registers` are those of that frame.
#[must_use]
pub fn walk<M: UserMemory, C: Code>(
    innermost: Cursor,
    registers: &AllRegisters,
    memory: &M,
    code: &C,
) -> Walked {
    let mut frames = Vec::new();
    let mut cursor = innermost;
    let stop = loop {
        if frames.len() == MAX_USER_FRAMES {
            break StopReason::TooDeep;
        }
        let found = code.look_up(cursor.lookup());
        if let Ok((knowledge, _)) = found
            && let Err(reason) = cursor.confirm(knowledge, memory)
        {
            break reason;
        }
        frames.push(WalkedFrame {
            pc: cursor.registers.pc,
            position: cursor.position(),
            source: cursor.source(),
        });
        let next = found.and_then(|(knowledge, growth)| {
            let others = Interrupted {
                saved_at: cursor.saved_at,
                registers,
                memory,
            };
            caller(&cursor, knowledge, growth, &others, memory)
        });
        match next {
            Ok(caller) => cursor = caller,
            Err(reason) => break reason,
        }
    };
    Walked { frames, stop }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use profiler_common::{
        step::Registers,
        unwind::{Base, Cfa, RBX, Rule, SIGNAL_REGISTERS, SavedFp, SavedRbx, signal_register},
    };

    use super::*;

    /// Memory by words, and rules by the address that they begin at.
    #[derive(Default)]
    struct Task {
        words: BTreeMap<u64, u64>,
        rules: BTreeMap<u64, Result<Rule, StopReason>>,
    }

    impl Task {
        fn word(mut self, address: u64, value: u64) -> Self {
            self.words.insert(address, value);
            self
        }

        fn rule(mut self, from: u64, rule: Rule) -> Self {
            self.rules.insert(from, Ok(rule));
            self
        }

        fn refused(mut self, from: u64, reason: StopReason) -> Self {
            self.rules.insert(from, Err(reason));
            self
        }

        #[track_caller]
        fn check(&self, registers: AllRegisters, pcs: &[u64], stop: StopReason) {
            let innermost = Registers {
                pc: registers[16],
                sp: registers[7],
                fp: registers[6],
            };
            let cursor = Cursor::innermost(innermost, Position::Exact);
            let walked = walk(cursor, &registers, self, self);
            let found: Vec<u64> = walked.frames.iter().map(|frame| frame.pc).collect();
            assert_eq!((found.as_slice(), walked.stop), (pcs, stop));
        }
    }

    impl UserMemory for Task {
        fn read<const N: usize>(&self, address: u64) -> Option<[u8; N]> {
            let mut out = [0; N];
            for (i, byte) in (0..).zip(&mut out) {
                let at = address + i;
                *byte = self.words.get(&(at & !7))?.to_ne_bytes()[(at & 7) as usize];
            }
            Some(out)
        }
    }

    impl Code for Task {
        fn look_up(&self, address: u64) -> Result<(Knowledge, Growth), StopReason> {
            let last = self.rules.range(..=address).next_back();
            let (_, rule) = last.ok_or(StopReason::UnknownCode)?;
            let known = match (*rule)? {
                Rule::NoInformation => Knowledge::NoRow,
                rule => Knowledge::Rule(rule.encode()),
            };
            Ok((known, Growth::Strict))
        }
    }

    /// `sp + 16` is the CFA, and rbp is untouched.
    const PUSHED_ONE: Rule = Rule::Frame(Cfa::StackPointer(16), SavedFp::Same);
    const SP: u64 = 0x7000;

    fn registers(pc: u64) -> AllRegisters {
        let mut registers = [0; 17];
        registers[7] = SP;
        registers[16] = pc;
        registers
    }

    #[test]
    fn rules_lead_from_frame_to_frame_until_one_says_that_it_is_the_last() {
        Task::default()
            .rule(0x40_1000, PUSHED_ONE)
            .rule(0x40_2000, Rule::End)
            .word(SP + 8, 0x40_1010)
            .word(SP + 24, 0x40_2000)
            .word(SP + 40, 0x40_2001)
            .check(
                registers(0x40_1080),
                // The call before 0x40_2000 is the last instruction of the first function.
                &[0x40_1080, 0x40_1010, 0x40_2000, 0x40_2001],
                StopReason::Root,
            );
    }

    #[test]
    fn a_lookup_that_is_refused_keeps_the_frame() {
        Task::default()
            .rule(0x40_1000, PUSHED_ONE)
            .refused(0x40_2000, StopReason::NoTableYet)
            .word(SP + 8, 0x40_2010)
            .check(
                registers(0x40_1080),
                &[0x40_1080, 0x40_2010],
                StopReason::NoTableYet,
            );
    }

    #[test]
    fn what_a_signal_interrupted_has_the_registers_that_were_saved() {
        const R10: u8 = 10;
        let saved = SP + 16 + SIGNAL_REGISTERS;
        let by_r10 = Rule::Frame(Cfa::Register(R10, 8), SavedFp::Same);
        let mut innermost = registers(0x40_1000);
        // The handler's own r10 is of no use any more.
        innermost[usize::from(R10)] = 0xdead;
        let saved_registers = (0..17).map(|i| saved + i * 8);
        saved_registers
            .fold(Task::default(), |task, at| task.word(at, 0))
            .rule(0x40_1000, PUSHED_ONE)
            .rule(0x40_2000, Rule::SignalFrame)
            .rule(0x40_3000, by_r10)
            .rule(0x40_4000, Rule::End)
            .word(SP + 8, 0x40_2001)
            .word(saved + 15 * 8, 0x9000)
            .word(saved + 16 * 8, 0x40_3000)
            .word(saved + signal_register(R10), 0x9100)
            .word(0x9100, 0x40_4010)
            .check(
                innermost,
                &[0x40_1000, 0x40_2001, 0x40_3000, 0x40_4010],
                StopReason::Root,
            );
    }

    #[test]
    fn what_a_call_was_pushed_onto_is_where_it_was_interrupted() {
        let injected = Rule::Injected(Base::StackPointer, 16, SavedFp::Same);
        let by_r10 = Rule::Frame(Cfa::Register(10, 8), SavedFp::Same);
        let task = || {
            Task::default()
                .rule(0x40_1000, PUSHED_ONE)
                .rule(0x40_2000, injected)
                .rule(0x40_3000, PUSHED_ONE)
                .rule(0x40_4000, Rule::End)
                .rule(0x40_5000, by_r10)
                .word(SP + 8, 0x40_2001)
                .word(SP + 40, 0x40_4010)
        };
        // It may be a function's first instruction.
        let pcs = [0x40_1000, 0x40_2001, 0x40_3000, 0x40_4010];
        let at_start = task().word(SP + 24, 0x40_3000);
        at_start.check(registers(0x40_1000), &pcs, StopReason::Root);
        // Its other registers are not those of the sample.
        let mut innermost = registers(0x40_1000);
        innermost[10] = SP + 32;
        task().word(SP + 24, 0x40_5000).check(
            innermost,
            &[0x40_1000, 0x40_2001, 0x40_5000],
            StopReason::NoUnwindRow,
        );
    }

    #[test]
    fn a_new_thread_has_no_caller() {
        let clone = u64::from_ne_bytes([0x90, 0xb8, 0x38, 0, 0, 0, 0x0f, 0x05]);
        let task = || {
            Task::default()
                .rule(0x40_1000, Rule::NoInformation)
                .word(0x40_1000, clone)
                .word(0x40_1008, 0)
                .word(SP, 0x40_1000)
        };
        let mut innermost = registers(0x40_1008);
        task().check(innermost, &[0x40_1008], StopReason::Root);
        // Whoever made it has its number in rax.
        innermost[0] = 1234;
        task().check(innermost, &[0x40_1008], StopReason::NoUnwindRow);
    }

    const BY_RBX: Rule = Rule::Frame(Cfa::Register(RBX, 16), SavedFp::Same);

    /// Rules that tell where rbx is, and at 0x40_3000 the one that needs it: from rbx 0x9100 it leads
    /// to the outermost frame.
    fn resolver() -> Task {
        let with_rbx = |cfa, rbx| Rule::FrameAndRbx(Base::StackPointer, cfa, SavedFp::Same, rbx);
        Task::default()
            .rule(0x40_1000, with_rbx(24, SavedRbx::BelowCfa(2)))
            .rule(0x40_2000, with_rbx(8, SavedRbx::Same))
            .rule(0x40_3000, BY_RBX)
            .rule(0x40_4000, Rule::End)
            .rule(0x40_5000, PUSHED_ONE)
            .word(0x9108, 0x40_4010)
    }

    #[test]
    fn rbx_is_known_where_the_functions_that_were_called_tell_of_it() {
        // One saved it, and the other that called that one kept it.
        resolver()
            .word(SP + 8, 0x9100)
            .word(SP + 16, 0x40_2001)
            .word(SP + 24, 0x40_3001)
            .check(
                registers(0x40_1000),
                &[0x40_1000, 0x40_2001, 0x40_3001, 0x40_4010],
                StopReason::Root,
            );
        // The interrupted function kept it.
        let mut innermost = registers(0x40_2000);
        innermost[usize::from(RBX)] = 0x9100;
        let pcs = [0x40_2000, 0x40_3001, 0x40_4010];
        let task = resolver().word(SP, 0x40_3001);
        task.check(innermost, &pcs, StopReason::Root);
    }

    #[test]
    fn rbx_is_not_known_behind_a_function_that_does_not_tell_of_it() {
        let mut innermost = registers(0x40_5000);
        innermost[usize::from(RBX)] = 0x9100;
        resolver().word(SP + 8, 0x40_3001).check(
            innermost,
            &[0x40_5000, 0x40_3001],
            StopReason::NoUnwindRow,
        );
        // Nor does the next one that keeps it know it.
        resolver()
            .word(SP + 8, 0x40_2001)
            .word(SP + 16, 0x40_3001)
            .check(
                innermost,
                &[0x40_5000, 0x40_2001, 0x40_3001],
                StopReason::NoUnwindRow,
            );
    }

    #[test]
    fn a_stack_without_end_is_cut() {
        let mut task = Task::default().rule(0x40_1000, PUSHED_ONE);
        for frame in 0..=MAX_USER_FRAMES as u64 {
            task = task.word(SP + 8 + frame * 16, 0x40_1010);
        }
        let pcs = [0x40_1010; MAX_USER_FRAMES];
        task.check(registers(0x40_1010), &pcs, StopReason::TooDeep);
    }
}
