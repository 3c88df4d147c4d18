//! Why a stack ends where it ends. The codes are published: never reuse one.

/// Room for stop reasons in the counters.
pub const STOP_REASONS: usize = 32;

/// Why the walk of a stack ended.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StopReason {
    /// The outermost frame was reached: the stack is complete.
    Root = 0,
    /// The task has no such stack (a kernel thread, or a sample that fell in user code), or it
    /// was not asked for: the stack is complete.
    Absent = 1,
    /// The frame pointer leads nowhere: this code, or its caller, keeps none.
    NoFramePointer = 2,
    /// The stack memory could not be read.
    StackUnreadable = 3,
    /// What stood in the return address's place does not follow a call instruction.
    NotACall = 4,
    /// The code before a return address could not be read, so it could not be checked.
    CodeUnreadable = 5,
    /// The stack is deeper than we keep.
    TooDeep = 6,
    /// A tail call was refused, so the walk could not go on.
    TailCallRefused = 7,
    /// The task's user registers could not be read.
    RegistersUnreadable = 8,
    /// The kernel could not walk its own stack.
    KernelUnreadable = 9,
    /// No unwind row covers the address.
    NoUnwindRow = 10,
    /// The process has no unwind tables yet.
    NoProcessTable = 11,
    /// The task runs 32-bit code, whose stack has another form.
    Code32Bit = 12,
    /// The object's unwind table found no room in the table memory.
    TableMemoryFull = 13,
    /// The object's unwind table is not there yet.
    NoTableYet = 14,
    /// The process had mapped other code there since its table was made.
    StaleMapping = 15,
    /// The walk left the part of the stack that came with the sample.
    StackCopyTooShort = 16,
    /// The object has no call frame information, and its code keeps no frame pointer.
    NoCallFrameInfo = 17,
    /// The code lies in no mapping that is known of.
    UnknownCode = 18,
    /// The object's file could not be read, so its code is not known.
    ObjectUnreadable = 19,
}

impl StopReason {
    /// Every reason, in the order of the codes.
    pub const ALL: [Self; 20] = [
        Self::Root,
        Self::Absent,
        Self::NoFramePointer,
        Self::StackUnreadable,
        Self::NotACall,
        Self::CodeUnreadable,
        Self::TooDeep,
        Self::TailCallRefused,
        Self::RegistersUnreadable,
        Self::KernelUnreadable,
        Self::NoUnwindRow,
        Self::NoProcessTable,
        Self::Code32Bit,
        Self::TableMemoryFull,
        Self::NoTableYet,
        Self::StaleMapping,
        Self::StackCopyTooShort,
        Self::NoCallFrameInfo,
        Self::UnknownCode,
        Self::ObjectUnreadable,
    ];

    /// Whether nothing is missing from a stack that ends so.
    #[must_use]
    pub const fn is_complete(self) -> bool {
        matches!(self, Self::Root | Self::Absent)
    }

    /// The reason in words, as the receipt and the closing frame of a cut stack have it.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Absent => "absent",
            Self::NoFramePointer => "no frame pointer",
            Self::StackUnreadable => "stack unreadable",
            Self::NotACall => "no call before return address",
            Self::CodeUnreadable => "code unreadable",
            Self::TooDeep => "too deep",
            Self::TailCallRefused => "tail call refused",
            Self::RegistersUnreadable => "registers unreadable",
            Self::KernelUnreadable => "kernel stack unreadable",
            Self::NoUnwindRow => "no unwind row",
            Self::NoProcessTable => "no process table",
            Self::Code32Bit => "32-bit code",
            Self::TableMemoryFull => "table memory full",
            Self::NoTableYet => "no unwind table yet",
            Self::StaleMapping => "mapping changed",
            Self::StackCopyTooShort => "deeper than the stack copy",
            Self::NoCallFrameInfo => "no call frame information",
            Self::UnknownCode => "code in no mapping",
            Self::ObjectUnreadable => "object unreadable",
        }
    }
}

impl TryFrom<u8> for StopReason {
    type Error = u8;

    fn try_from(code: u8) -> Result<Self, u8> {
        Self::ALL.get(usize::from(code)).copied().ok_or(code)
    }
}

const _: () = assert!(StopReason::ALL.len() <= STOP_REASONS);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_reads_back_as_its_reason() {
        for (code, reason) in StopReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, code);
            assert_eq!(StopReason::try_from(code as u8), Ok(reason));
        }
        assert_eq!(StopReason::try_from(200), Err(200));
    }
}
