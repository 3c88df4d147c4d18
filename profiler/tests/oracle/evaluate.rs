//! Evaluates one row of call frame information with gimli, on made-up registers and memory.

use gimli::{
    CfaRule, Encoding, EvaluationResult, Expression, Location, RegisterRule, UnwindExpression,
    UnwindSection, UnwindTableRow, Value, X86_64,
};
use profiler_common::{
    step::{Registers, UserMemory},
    unwind::{OtherRegisters, Rule},
};

use super::{
    Slice,
    numbers::{Numbers, mix},
};

/// Memory whose words are a function of their address, and could be addresses of user space.
pub(crate) struct Memory;

fn word_at(address: u64) -> u64 {
    (mix(address) >> 17) | (1 << 40)
}

impl UserMemory for Memory {
    fn read<const N: usize>(&self, address: u64) -> Option<[u8; N]> {
        let mut out = [0; N];
        for (word, at) in out.chunks_mut(8).zip((address..).step_by(8)) {
            word.copy_from_slice(&word_at(at).to_ne_bytes()[..word.len()]);
        }
        Some(out)
    }
}

/// General registers and the program counter, by their DWARF number.
pub(crate) struct General(pub(crate) [u64; 17]);

impl General {
    /// Registers of a frame at an address, as they could be in user space.
    pub(crate) fn random(numbers: &mut Numbers, address: u64) -> Self {
        let mut general = Self(std::array::from_fn(|_| word_at(numbers.next())));
        general.0[16] = address;
        general
    }
}

impl OtherRegisters for General {
    fn read(&self, number: u8) -> Option<u64> {
        self.0.get(usize::from(number)).copied()
    }
}

/// What the oracle says.
#[derive(Debug, PartialEq)]
pub(crate) enum Expected {
    /// This rule.
    Rule(Rule),
    /// A rule that gives this caller, or none: the description is not of a usual form.
    Caller(Registers, Form),
    /// Two functions describe the address.
    Doubtful,
    /// Our registers do not suffice.
    Beyond,
}

/// Whether there must be a rule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Form {
    Usual,
    Unusual,
}

/// Evaluates a row.
pub(crate) fn caller<'a, S: UnwindSection<Slice<'a>>>(
    row: &UnwindTableRow<usize>,
    section: &S,
    encoding: Encoding,
    general: &General,
) -> Expected {
    let mut form = Form::Usual;
    let evaluated = |expression: &UnwindExpression<usize>, cfa: Option<u64>| {
        evaluate(expression.get(section).ok()?, encoding, general, cfa)
    };
    let cfa = match row.cfa() {
        CfaRule::RegisterAndOffset { register, offset } => {
            if register.0 > 15 || i32::try_from(*offset).is_err() {
                form = Form::Unusual;
            }
            let base = general.0.get(usize::from(register.0));
            base.map(|base| base.wrapping_add_signed(*offset))
        }
        CfaRule::Expression(expression) => {
            form = Form::Unusual;
            evaluated(expression, None)
        }
    };
    let Some(cfa) = cfa else {
        return Expected::Beyond;
    };
    let recover = |register| match row.register(register) {
        None | Some(RegisterRule::SameValue | RegisterRule::Undefined) => {
            general.read(register.0 as u8)
        }
        Some(RegisterRule::Offset(offset)) => Some(word_at(cfa.wrapping_add_signed(offset))),
        Some(RegisterRule::ValOffset(offset)) => Some(cfa.wrapping_add_signed(offset)),
        Some(RegisterRule::Register(other)) => general.read(other.0 as u8),
        Some(RegisterRule::Expression(expression)) => {
            evaluated(&expression, Some(cfa)).map(word_at)
        }
        Some(RegisterRule::ValExpression(expression)) => evaluated(&expression, Some(cfa)),
        Some(_) => None,
    };
    let ra = row.register(X86_64::RA);
    if ra == Some(RegisterRule::Undefined) {
        return Expected::Rule(Rule::End);
    }
    let fp_is_usual = match row.register(X86_64::RBP) {
        None | Some(RegisterRule::SameValue | RegisterRule::Undefined) => true,
        Some(RegisterRule::Offset(offset)) => i16::try_from(offset).is_ok(),
        _ => false,
    };
    if ra != Some(RegisterRule::Offset(-8)) || !fp_is_usual {
        form = Form::Unusual;
    }
    let sp = match row.register(X86_64::RSP) {
        None | Some(RegisterRule::SameValue | RegisterRule::Undefined) => Some(cfa),
        Some(_) => {
            form = Form::Unusual;
            recover(X86_64::RSP)
        }
    };
    match (recover(X86_64::RA), sp, recover(X86_64::RBP)) {
        (Some(pc), Some(sp), Some(fp)) => Expected::Caller(Registers { pc, sp, fp }, form),
        _ => Expected::Beyond,
    }
}

fn evaluate(
    expression: Expression<Slice<'_>>,
    encoding: Encoding,
    general: &General,
    cfa: Option<u64>,
) -> Option<u64> {
    let mut evaluation = expression.evaluation(encoding);
    if let Some(cfa) = cfa {
        evaluation.set_initial_value(cfa);
    }
    let mut state = evaluation.evaluate().ok()?;
    loop {
        state = match state {
            EvaluationResult::Complete => break,
            EvaluationResult::RequiresRegister { register, .. } => {
                let value = general.read(register.0 as u8)?;
                evaluation
                    .resume_with_register(Value::Generic(value))
                    .ok()?
            }
            EvaluationResult::RequiresMemory {
                address, size: 8, ..
            } => {
                let value = Value::Generic(word_at(address));
                evaluation.resume_with_memory(value).ok()?
            }
            _ => return None,
        };
    }
    match evaluation.result().first()?.location {
        Location::Address { address } => Some(address),
        _ => None,
    }
}
