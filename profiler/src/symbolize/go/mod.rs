//! Names, lines and inlined calls of Go programs, from the table that their own runtime uses.
//!
//! In: an ELF file, stripped or not, of Go 1.16 or newer, and sorted ELF addresses. Out: for each
//! address that lies in a function of the table the frames that it stands for. Nothing is said of
//! other addresses: padding between functions, C code of cgo programs.
//!
//! What the table says is taken as it is: names of generic functions with `[...]` or with their
//! shapes, as the linker wrote them, and so has Go's own `runtime/pprof`. Wrappers, which the compiler
//! makes for methods, `defer` and `go`, keep their names; but one that another call was inlined into is
//! left out, as it is there (`tracebackPCs` and `elideWrapperCalling` in Go's
//! `src/runtime/traceback.go`). The runtime keeps it if it called a function that panics, but those
//! are never inlined.
//!
//! Source: `inlineUnwinder`, `funcline1` and `funcdata` in Go's `src/runtime/symtab.go` and
//! `src/runtime/symtabinl.go`, of Go 1.16 to 1.27.

mod function;
#[cfg(test)]
mod tests;

use std::{cell::OnceCell, collections::HashMap, fs::File, ops::Range, rc::Rc};

use crate::object::{
    go_functions::GoFunctions,
    go_module::{Module, text_base},
    parts::{Part, Parts},
};
use function::{Function, kind_of};

/// Bytes of steps read for one request, as a multiple of those that the table has: functions share
/// them, but not many the same long ones.
const MOST_READ_OF_STEPS: u64 = 4;
const FEWEST_READ_OF_STEPS: u64 = 1 << 20;

/// What one address stands for: one of the calls that were inlined there, or the function itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoFrame {
    /// As the table has it.
    pub name: Rc<str>,
    /// As the table has it; empty if it is not known.
    pub file: Rc<str>,
    /// In a caller the line of the call; 0 if it is not known.
    pub line: u32,
    /// The line of the function's beginning; 0 if it is not known, as before Go 1.20.
    pub start_line: u32,
}

/// The table of functions of a Go program.
#[derive(Debug)]
pub struct GoTable<'a> {
    functions: GoFunctions<'a>,
    /// Where the code of the table's functions is, ELF addresses.
    text: Range<u64>,
    /// What the numbers of functions are relative to.
    base: u64,
    /// What the numbers of inlined calls are relative to, if that was found.
    calls: Option<Part>,
    /// The kind of functions that wrappers are of.
    wrappers: OnceCell<u8>,
}

impl<'a> GoTable<'a> {
    /// Finds the table in a file. `None` where there is none, it is older than Go 1.16, or where it
    /// is of does not become clear.
    #[must_use]
    pub fn read(file: &'a File) -> Option<Self> {
        let functions = GoFunctions::read(file)?;
        let module = Module::find(&functions);
        let base = text_base(&functions, module.as_ref())?;
        let ends = [0, functions.count].map(|place| base.checked_add(functions.start(place)?));
        let [Some(start), Some(end)] = ends else {
            return None;
        };
        Some(Self {
            text: start..end,
            base,
            calls: module.and_then(|module| module.calls),
            wrappers: OnceCell::new(),
            functions,
        })
    }

    /// The frames of each address, the innermost inlined call first and the function last. Return
    /// addresses are given less one. Addresses are sorted, or it takes longer.
    #[must_use]
    pub fn resolve(&self, addresses: &[u64]) -> Vec<Option<Vec<GoFrame>>> {
        let parts = &self.functions.parts;
        let budget = self
            .functions
            .steps
            .bytes
            .saturating_mul(MOST_READ_OF_STEPS);
        let mut request = Request {
            names: Texts::new(parts, self.functions.names),
            files: Texts::new(parts, self.functions.files),
            budget: budget.max(FEWEST_READ_OF_STEPS),
        };
        let mut current: Option<Function> = None;
        let mut resolve = |address: &u64| {
            if !self.text.contains(address) {
                return None;
            }
            let into = address - self.base;
            if current
                .as_ref()
                .is_none_or(|function| !function.holds(into))
            {
                current = Function::read(self, into, &mut request);
            }
            current.as_ref()?.frames(self, into, &mut request)
        };
        addresses.iter().map(&mut resolve).collect()
    }

    /// Whether a kind of functions is that of wrappers: in each version the last of its list, though
    /// the lists differ, and every program has some.
    fn is_wrapper(&self, kind: u8) -> bool {
        let last = || {
            let kinds =
                (0..self.functions.count).map_while(|place| kind_of(&self.functions, place));
            kinds.max().unwrap_or_default()
        };
        kind != 0 && kind == *self.wrappers.get_or_init(last)
    }
}

/// What one request needs on its way.
struct Request<'a> {
    names: Texts<'a>,
    files: Texts<'a>,
    /// Bytes of steps that may still be read.
    budget: u64,
}

/// The texts of a part, each kept once. So all of them take no more than the part does.
struct Texts<'a> {
    parts: &'a Parts<'a>,
    part: Part,
    kept: HashMap<u32, Option<Rc<str>>>,
}

impl<'a> Texts<'a> {
    fn new(parts: &'a Parts<'a>, part: Part) -> Self {
        Self {
            parts,
            part,
            kept: HashMap::new(),
        }
    }

    /// The text at a place. `None` if it does not begin there, or is longer than any should be.
    fn at(&mut self, at: u32) -> Option<Rc<str>> {
        let Self { parts, part, kept } = self;
        let read = || {
            let is_begin = match at.checked_sub(1) {
                Some(before) => parts.read(*part, before.into()) == Some([0]),
                None => true,
            };
            let text = parts.text(*part, at.into()).filter(|_| is_begin)?;
            Some(Rc::from(String::from_utf8_lossy(&text)))
        };
        kept.entry(at).or_insert_with(read).clone()
    }
}
