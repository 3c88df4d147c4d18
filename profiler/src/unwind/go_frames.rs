//! Call frame information for Go programs that were stripped of it.
//!
//! The Go linker makes `.debug_frame` from the runtime's own table of how deep each function's frame
//! is at each of its addresses. Stripping drops the section; the table stays, as the runtime needs
//! it. So the same is made from it again.
//!
//! In: an ELF file that the Go linker wrote. Out: the bytes of a `.debug_frame`.
//!
//! Source: `writeframes` in Go's `src/cmd/link/internal/ld/dwarf.go`; `funcFlag` in
//! `src/internal/abi/symtab.go`; DWARF 5, section 6.4.1.

use std::fs::File;

use gimli::{
    constants::{DW_CFA_advance_loc4, DW_CFA_def_cfa, DW_CFA_def_cfa_offset, DW_CFA_offset},
    leb128::write::Leb128,
};

use super::section::MOST_FRAME_BYTES;
use crate::object::{
    go_functions::{GoFunctions, STEPS_OF_FRAME},
    go_module::{Module, text_base},
    go_steps::Steps,
};

/// The flag of functions that write the stack pointer: the table does not tell how deep they are.
const WRITES_SP: u8 = 2;
/// Bytes of steps read, as a multiple of those that the table has: functions share them.
const MOST_READ_OF_STEPS: u64 = 4;
const FEWEST_READ_OF_STEPS: u64 = 1 << 20;
/// Bytes of the return address.
const WORD: i32 = 8;
/// Numbers of registers. Source: System V ABI for x86-64, figure 3.36.
const RSP: u8 = 7;
const RETURN_ADDRESS: u8 = 16;

/// Makes the section. `None` if there is no table, or where its code is does not become clear.
pub(super) fn debug_frame(file: &File) -> Option<Vec<u8>> {
    let functions = GoFunctions::read(file)?;
    let base = text_base(&functions, Module::find(&functions).as_ref())?;
    let mut section = Vec::new();
    entry(&mut section, &common());
    let head_bytes = section.len();
    let budget = functions.steps.bytes.saturating_mul(MOST_READ_OF_STEPS);
    let mut budget = budget.max(FEWEST_READ_OF_STEPS);
    for place in 0..functions.count {
        if section.len() as u64 > MOST_FRAME_BYTES || budget == 0 {
            break;
        }
        if let Some(described) = function(&functions, place, base, &mut budget) {
            entry(&mut section, &described);
        }
    }
    (section.len() > head_bytes).then_some(section)
}

/// What all functions have in common: called, with the return address on top of the stack.
fn common() -> Vec<u8> {
    let mut common = u32::MAX.to_le_bytes().to_vec();
    // Version 3, no augmentation, units of 1 for code and of -8 for data.
    common.extend([3, 0, 1, 0x78, RETURN_ADDRESS]);
    common.extend([DW_CFA_def_cfa.0, RSP, 8]);
    common.extend([DW_CFA_offset.0 | RETURN_ADDRESS, 1]);
    common
}

/// One function: where it is, and how deep its frame is from where on.
fn function(
    functions: &GoFunctions<'_>,
    place: u64,
    base: u64,
    budget: &mut u64,
) -> Option<Vec<u8>> {
    let (start, known) = functions.function(place)?;
    let bytes = functions.start(place + 1)?.checked_sub(start)?;
    // Where there is a gap in the text, the table leads to what begins elsewhere.
    if functions.number(known, 0)? != start {
        return None;
    }
    let [_, flags, ..] = functions.word(known, functions.form.lists())?.to_le_bytes();
    if flags & WRITES_SP != 0 {
        return None;
    }
    let at = functions.word(known, STEPS_OF_FRAME)?;
    let steps = Steps::read(&functions.parts, functions.steps, at, bytes, budget)?;
    // The common entry is the first.
    let mut described = 0_u32.to_le_bytes().to_vec();
    described.extend(base.checked_add(start)?.to_le_bytes());
    described.extend(steps.code_bytes().to_le_bytes());
    let mut from = 0;
    for (until, depth) in steps.iter() {
        let cfa_offset = u32::try_from(depth.checked_add(WORD)?).ok()?;
        described.push(DW_CFA_def_cfa_offset.0);
        described.extend(Leb128::unsigned(cfa_offset.into()).bytes());
        if until < steps.code_bytes() {
            described.push(DW_CFA_advance_loc4.0);
            described.extend(u32::try_from(until - from).ok()?.to_le_bytes());
        }
        from = until;
    }
    Some(described)
}

/// An entry of the section: its length, and zeros (`DW_CFA_nop`) up to a multiple of eight.
fn entry(section: &mut Vec<u8>, body: &[u8]) {
    const LENGTH_BYTES: usize = 4;
    let padded = (LENGTH_BYTES + body.len()).next_multiple_of(8) - LENGTH_BYTES;
    section.extend(u32::try_from(padded).expect("one function").to_le_bytes());
    section.extend(body);
    section.resize(section.len() + padded - body.len(), 0);
}
