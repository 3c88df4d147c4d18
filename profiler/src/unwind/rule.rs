//! From one row of call frame information to one of our rules, or to why there is none.

use gimli::{
    CfaRule, Encoding, EndianSlice, Expression, LittleEndian, Operation, Register, RegisterRule,
    UnitOffset, UnwindContextStorage, UnwindExpression, UnwindSection, UnwindTableRow, X86_64,
};
use profiler_common::unwind::{Base, Cfa, MAX_PARAMETER, RBX, Rule, SavedFp, SavedRbx};

/// The highest number of a general register. Source: System V ABI for x86-64, figure 3.36.
const LAST_GENERAL: u16 = 15;
/// Operations of the longest expression that we know.
const MOST_OPERATIONS: usize = 9;

/// Why a range of code has no rule although the object describes it. None of them is "other".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// The CFA is an expression of a form we do not know.
    CfaExpression,
    /// The CFA is based on a register that no sample has.
    CfaRegister,
    /// The CFA is further from its register than 2 GiB.
    CfaTooFar,
    /// The frame pointer is kept in a way we do not know, or further than 32 KiB from the CFA.
    FramePointer,
    /// The caller's stack pointer is not the CFA.
    StackPointer,
    /// The return address is not below the CFA.
    ReturnAddress,
    /// The description itself is broken, or has a form we do not know.
    Broken,
    /// There are more rows, functions or rules than we keep, or the text is too long.
    TooLarge,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Self; 8] = [
        Self::CfaExpression,
        Self::CfaRegister,
        Self::CfaTooFar,
        Self::FramePointer,
        Self::StackPointer,
        Self::ReturnAddress,
        Self::Broken,
        Self::TooLarge,
    ];

    /// The cause in words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::CfaExpression => "the CFA is another expression",
            Self::CfaRegister => "the CFA is based on another kind of register",
            Self::CfaTooFar => "the CFA is beyond 2 GiB of its register",
            Self::FramePointer => "the frame pointer is kept in another way",
            Self::StackPointer => "the stack pointer is kept in another way",
            Self::ReturnAddress => "the return address is kept in another way",
            Self::Broken => "the description is broken",
            Self::TooLarge => "the table is full",
        }
    }
}

/// The rule that a row of call frame information stands for. `unsaid` is where the frame pointer is
/// if the row does not say.
pub(super) fn rule_of<'a, S, Storage>(
    row: &UnwindTableRow<usize, Storage>,
    section: &S,
    encoding: Encoding,
    unsaid: SavedFp,
) -> Result<Rule, Cause>
where
    S: UnwindSection<EndianSlice<'a, LittleEndian>>,
    Storage: UnwindContextStorage<usize>,
{
    let cfa = |row: &UnwindTableRow<usize, Storage>| match row.cfa() {
        CfaRule::RegisterAndOffset { register, offset } => by_register(*register, *offset),
        CfaRule::Expression(expression) => by_expression(expression, section, encoding),
    };
    let ra = row.register(X86_64::RA);
    if ra == Some(RegisterRule::Undefined) {
        return Ok(Rule::End);
    }
    match row.register(X86_64::RSP) {
        None | Some(RegisterRule::SameValue | RegisterRule::Undefined) => {}
        Some(RegisterRule::ValOffset(0)) => {}
        Some(_) => return Err(Cause::StackPointer),
    }
    match ra {
        Some(RegisterRule::Offset(-8)) => {}
        Some(RegisterRule::Register(register)) => {
            let same = saved_fp(row, section, encoding)?.is_none_or(|fp| fp == SavedFp::Same);
            let Cfa::StackPointer(offset) = cfa(row)? else {
                return Err(Cause::ReturnAddress);
            };
            if register.0 > LAST_GENERAL || !same {
                return Err(Cause::ReturnAddress);
            }
            return Ok(Rule::ReturnInRegister(register.0 as u8, offset));
        }
        _ => return Err(Cause::ReturnAddress),
    }
    let fp = saved_fp(row, section, encoding)?.unwrap_or(unsaid);
    Ok(Rule::Frame(cfa(row)?, fp))
}

/// Whether a function may have its CFA by rbx, so that whoever it calls should tell where that is.
pub(super) fn is_by_rbx(rule: &Rule) -> bool {
    matches!(rule, Rule::Frame(Cfa::Register(RBX, _), _))
}

/// The rule of a row with where rbx is, if the row says that in a way that we know.
pub(super) fn with_rbx<Storage: UnwindContextStorage<usize>>(
    rule: Rule,
    row: &UnwindTableRow<usize, Storage>,
) -> Rule {
    let (base, offset, fp) = match rule {
        Rule::Frame(Cfa::StackPointer(offset), fp) => (Base::StackPointer, offset, fp),
        Rule::Frame(Cfa::FramePointer(offset), fp) => (Base::FramePointer, offset, fp),
        _ => return rule,
    };
    let rbx = match row.register(X86_64::RBX) {
        // The ABI has callees preserve it.
        None | Some(RegisterRule::SameValue) => SavedRbx::Same,
        Some(RegisterRule::Offset(at)) if at % 8 == 0 => match u8::try_from(-(at / 8)) {
            Ok(words @ 1..=MAX_PARAMETER) => SavedRbx::BelowCfa(words),
            _ => return rule,
        },
        Some(_) => return rule,
    };
    Rule::FrameAndRbx(base, offset, fp, rbx)
}

fn by_register(register: Register, offset: i64) -> Result<Cfa, Cause> {
    let offset = i32::try_from(offset).map_err(|_| Cause::CfaTooFar)?;
    match register {
        X86_64::RSP => Ok(Cfa::StackPointer(offset)),
        X86_64::RBP => Ok(Cfa::FramePointer(offset)),
        Register(number) if number <= LAST_GENERAL => Ok(Cfa::Register(number as u8, offset)),
        _ => Err(Cause::CfaRegister),
    }
}

type Slice<'a> = EndianSlice<'a, LittleEndian>;

/// The operations of an expression, if they are few.
fn operations<'a, S: UnwindSection<Slice<'a>>>(
    expression: &UnwindExpression<usize>,
    section: &S,
    encoding: Encoding,
) -> Option<Vec<Operation<Slice<'a>>>> {
    let expression: Expression<Slice<'a>> = expression.get(section).ok()?;
    let mut operations = Vec::with_capacity(MOST_OPERATIONS);
    let mut rest = expression.operations(encoding);
    while let Some(operation) = rest.next().ok()? {
        if operations.len() == MOST_OPERATIONS {
            return None;
        }
        operations.push(operation);
    }
    Some(operations)
}

fn by_expression<'a, S: UnwindSection<Slice<'a>>>(
    expression: &UnwindExpression<usize>,
    section: &S,
    encoding: Encoding,
) -> Result<Cfa, Cause> {
    let operations = operations(expression, section, encoding).ok_or(Cause::CfaExpression)?;
    let (loaded, added) = match &operations[..] {
        [base, LOAD] => (base, 0),
        [base, LOAD, Operation::PlusConstant { value }] => (base, *value),
        operations => return plt(operations),
    };
    let (register, offset) = based(loaded).ok_or(Cause::CfaExpression)?;
    let base = match register {
        X86_64::RSP => Base::StackPointer,
        X86_64::RBP => Base::FramePointer,
        _ => return Err(Cause::CfaExpression),
    };
    if added % 8 != 0 || added / 8 > u64::from(MAX_PARAMETER) {
        return Err(Cause::CfaExpression);
    }
    let offset = i32::try_from(offset).map_err(|_| Cause::CfaTooFar)?;
    Ok(Cfa::Loaded(base, offset, (added / 8) as u8))
}

const LOAD: Operation<Slice<'static>> = Operation::Deref {
    base_type: UnitOffset(0),
    size: 8,
    space: false,
};

fn based(operation: &Operation<Slice<'_>>) -> Option<(Register, i64)> {
    match operation {
        Operation::RegisterOffset {
            register,
            offset,
            base_type: UnitOffset(0),
        } => Some((*register, *offset)),
        _ => None,
    }
}

/// The expression that linkers write for `.plt`: `rsp + 8 + ((rip & 15) >= n) * 8`.
/// Source: `elf_x86_64_eh_frame_plt` in binutils' `bfd/elf64-x86-64.c`.
fn plt(operations: &[Operation<Slice<'_>>]) -> Result<Cfa, Cause> {
    let [
        stack,
        pc,
        Operation::UnsignedConstant { value: 15 },
        Operation::And,
        Operation::UnsignedConstant { value: pushed_from },
        Operation::Ge,
        Operation::UnsignedConstant { value: 3 },
        Operation::Shl,
        Operation::Plus,
    ] = operations
    else {
        return Err(Cause::CfaExpression);
    };
    let is_ours = based(stack) == Some((X86_64::RSP, 8)) && based(pc) == Some((X86_64::RA, 0));
    match u8::try_from(*pushed_from) {
        Ok(pushed_from @ 0..=15) if is_ours => Ok(Cfa::Plt { pushed_from }),
        _ => Err(Cause::CfaExpression),
    }
}

/// Where the caller's frame pointer is, if the row says so.
fn saved_fp<'a, S, Storage>(
    row: &UnwindTableRow<usize, Storage>,
    section: &S,
    encoding: Encoding,
) -> Result<Option<SavedFp>, Cause>
where
    S: UnwindSection<Slice<'a>>,
    Storage: UnwindContextStorage<usize>,
{
    let near = |offset: i64| i16::try_from(offset).map_err(|_| Cause::FramePointer);
    match row.register(X86_64::RBP) {
        None => Ok(None),
        // Undefined: the callers of such code do not use it. The ABI has callees preserve it.
        Some(RegisterRule::SameValue | RegisterRule::Undefined) => Ok(Some(SavedFp::Same)),
        Some(RegisterRule::Offset(offset)) => Ok(Some(SavedFp::AtCfa(near(offset)?))),
        // What gcc writes for functions that align their stack.
        Some(RegisterRule::Expression(expression)) => {
            let operations =
                operations(&expression, section, encoding).ok_or(Cause::FramePointer)?;
            match operations.first().and_then(based) {
                Some((X86_64::RBP, offset)) if operations.len() == 1 => {
                    Ok(Some(SavedFp::AtFp(near(offset)?)))
                }
                _ => Err(Cause::FramePointer),
            }
        }
        Some(_) => Err(Cause::FramePointer),
    }
}
