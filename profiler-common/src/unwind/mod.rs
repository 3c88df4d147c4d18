//! Unwind tables: how the caller of a frame is found from the rules that compilers emit.
//!
//! Owns the form of a [`Rule`] (8 bytes), of a [`Row`] (4 bytes) and of an [`IndexWord`] (one for
//! each 256 bytes of text), the search for an address, and what a rule means. The user side
//! compiles an object's `.eh_frame` into rows and rules and lays them out in chunks; whoever walks
//! a stack searches those. The rows of an object point at rules by number, and rule 0 is always
//! [`Rule::NoInformation`].
//!
//! Sources: DWARF 5, section 6.4; System V ABI for x86-64, sections 3.4.1, 3.6 and 4.2.

mod by_rule;
mod rule;
mod table;

pub use by_rule::{
    NoOthers, OtherRegisters, SIGNAL_REGISTERS, caller_by_rule, interrupted, signal_register,
};
pub use rule::{
    Base, Cfa, MAX_PARAMETER, MAX_RULES, NO_INFORMATION, RBX, Rule, SavedFp, SavedRbx, Told,
    UnknownRule,
};
pub use table::{
    BUCKET_BYTES, Chunks, Fold, Found, IndexWord, MAX_BUCKET_ROWS, MAX_ROWS, MOST_FOLD_BYTES,
    Moves, NO_SLOT, Row, TABLE_ABSENT, TABLE_ENTRY_WORDS, TABLE_PENDING, TABLE_REFUSED,
    TABLE_RESIDENT, TABLE_UNREADABLE, TableEntry, TablePlace, find_rule,
};
