//! One function of a Go program: what the table says of each address of its code.

use std::{ops::Range, rc::Rc};

use super::{GoFrame, GoTable, Request};
use crate::object::{
    go_functions::{
        Form, GoFunctions, LISTED_STEPS, NAME, START_LINE, STEPS_OF_FILE, STEPS_OF_FRAME,
        STEPS_OF_LINE, UNIT,
    },
    go_steps::Steps,
    parts::Part,
};

/// The most calls inlined into each other at one address.
const MOST_INLINED: usize = 200;
/// What numbers of inlined calls begin with in the lists of a function's further tables.
/// Source: Go's `src/internal/abi/symtab.go`; the same since Go 1.16.
const STEPS_OF_CALLS: u32 = 2;
const CALLS: u8 = 3;

/// One function. Offsets of code are from where the function begins.
pub(super) struct Function {
    /// What the table says of where it begins and where the next one does.
    range: Range<u64>,
    /// Bytes of its code, without the padding behind it.
    code_bytes: u64,
    name: Rc<str>,
    kind: u8,
    start_line: u32,
    /// Its first file among all.
    unit: u32,
    lines: Option<Steps>,
    files: Option<Steps>,
    inlined: Inlined,
    calls: Option<Part>,
}

/// Which calls were inlined where.
enum Inlined {
    Nowhere,
    /// The number of the innermost at each offset of code; negative if there is none.
    Known(Steps),
    /// The table does not say what it should.
    Unknown,
}

/// A call that was inlined.
struct Call {
    name: Rc<str>,
    kind: u8,
    start_line: u32,
    /// An offset of code that is where the call was.
    caller: u64,
}

/// What kind of function one is: 0 for the usual.
pub(super) fn kind_of(functions: &GoFunctions<'_>, place: u64) -> Option<u8> {
    let (_, known) = functions.function(place)?;
    let [kind, ..] = functions.word(known, functions.form.lists())?.to_le_bytes();
    Some(kind)
}

impl Function {
    /// The function that may hold an address or offset, as the table has them. `None` if the table
    /// contradicts itself.
    pub(super) fn read(table: &GoTable<'_>, into: u64, request: &mut Request<'_>) -> Option<Self> {
        let functions = &table.functions;
        let place = functions.place_of(into)?;
        let (start, known) = functions.function(place)?;
        let range = start..functions.start(place + 1)?;
        // Where there is a gap in the text, the table leads to what begins elsewhere.
        if functions.number(known, 0)? != start {
            return None;
        }
        let width = functions.form.width();
        let number = |place: u64| functions.word(known, place);
        let start_line = match functions.form {
            Form::Go116 | Form::Go118 => 0,
            Form::Go120 => number(START_LINE)?,
        };
        let lists = functions.form.lists();
        let [kind, _, _, list_count] = number(lists)?.to_le_bytes();
        let most_code = range.end - range.start;
        let mut steps = |at: u32| {
            let budget = &mut request.budget;
            Steps::read(&functions.parts, functions.steps, at, most_code, budget)
        };
        let lines = steps(number(STEPS_OF_LINE)?);
        let told = match &lines {
            Some(lines) => Some(lines.code_bytes()),
            None => steps(number(STEPS_OF_FRAME)?).map(|steps| steps.code_bytes()),
        };
        let files = steps(number(STEPS_OF_FILE)?);
        let listed_steps = number(LISTED_STEPS)?;
        let inlined = match STEPS_OF_CALLS < listed_steps {
            true => number(lists + 1 + u64::from(STEPS_OF_CALLS))?,
            false => 0,
        };
        let inlined = match (inlined, steps(inlined)) {
            (0, _) => Inlined::Nowhere,
            (_, Some(steps)) => Inlined::Known(steps),
            (_, None) => Inlined::Unknown,
        };
        let behind = known.from(width + 4 * (lists + 1 + u64::from(listed_steps)));
        let calls = match CALLS < list_count {
            true => behind.and_then(|list| calls(table, list)),
            false => None,
        };
        Some(Self {
            range,
            code_bytes: told.unwrap_or(most_code),
            name: request.names.at(number(NAME)?)?,
            kind,
            start_line: line_number(start_line),
            unit: number(UNIT)?,
            lines,
            files,
            inlined,
            calls,
        })
    }

    /// Whether the table says of an address or offset that it is no other function's.
    pub(super) fn holds(&self, into: u64) -> bool {
        self.range.contains(&into)
    }

    /// What an address or offset stands for. `None` in the padding behind the function.
    pub(super) fn frames(
        &self,
        table: &GoTable<'_>,
        into: u64,
        request: &mut Request<'_>,
    ) -> Option<Vec<GoFrame>> {
        let offset = into - self.range.start;
        if offset >= self.code_bytes {
            return None;
        }
        let mut frames = Vec::new();
        let Some(own) = self.unfold(table, offset, &mut frames, request) else {
            // The line is one of the inlined function, and which that is remains unknown.
            let (file, _) = self.place(table, 0, request);
            return Some(vec![self.frame((file, 0))]);
        };
        let (file, line) = self.place(table, own, request);
        if frames.is_empty() || !table.is_wrapper(self.kind) {
            frames.push(self.frame((file, line)));
        }
        Some(frames)
    }

    fn frame(&self, (file, line): (Rc<str>, u32)) -> GoFrame {
        GoFrame {
            name: self.name.clone(),
            file,
            line,
            start_line: self.start_line,
        }
    }

    /// Adds a frame for each call inlined at an offset of code, and tells where the function itself
    /// made the outermost. `None` if the table does not say which calls there are.
    fn unfold(
        &self,
        table: &GoTable<'_>,
        mut offset: u64,
        frames: &mut Vec<GoFrame>,
        request: &mut Request<'_>,
    ) -> Option<u64> {
        let steps = match &self.inlined {
            Inlined::Nowhere => return Some(offset),
            Inlined::Known(steps) => steps,
            Inlined::Unknown => return None,
        };
        for _ in 0..MOST_INLINED {
            let Some(Ok(call)) = steps.at(offset).map(u32::try_from) else {
                return Some(offset);
            };
            let call = self.call(table, call, request)?;
            let (file, line) = self.place(table, offset, request);
            if frames.is_empty() || !table.is_wrapper(call.kind) {
                frames.push(GoFrame {
                    name: call.name,
                    file,
                    line,
                    start_line: call.start_line,
                });
            }
            offset = call.caller;
        }
        None
    }

    /// One of the calls that were inlined into the function.
    fn call(&self, table: &GoTable<'_>, call: u32, request: &mut Request<'_>) -> Option<Call> {
        let form = table.functions.form;
        // Before Go 1.20 file and line were there too.
        let (bytes, kind, name, caller) = match form {
            Form::Go116 | Form::Go118 => (20, 2, 12, 16),
            Form::Go120 => (16, 0, 4, 8),
        };
        let call = self.calls?.from(u64::from(call) * bytes)?;
        let number = |at: u64| table.functions.parts.u32(call, at);
        let caller = u64::from(number(caller)?);
        let [kind] = table.functions.parts.read(call, kind)?;
        Some(Call {
            kind,
            name: request.names.at(number(name)?)?,
            start_line: match form {
                Form::Go116 | Form::Go118 => 0,
                Form::Go120 => line_number(number(12)?),
            },
            caller: Some(caller).filter(|caller| *caller < self.code_bytes)?,
        })
    }

    /// The file and line of an offset of code.
    fn place(&self, table: &GoTable<'_>, offset: u64, request: &mut Request<'_>) -> (Rc<str>, u32) {
        let number = |steps: &Option<Steps>| steps.as_ref()?.at(offset)?.try_into().ok();
        let mut find = || {
            let file: u32 = number(&self.files)?;
            let line: u32 = number(&self.lines)?;
            let at = u64::from(self.unit.checked_add(file)?) * 4;
            let name = table.functions.parts.u32(table.functions.units, at)?;
            Some((request.files.at(name)?, line))
        };
        find().unwrap_or_default()
    }
}

/// Where the calls inlined into a function are; `list` is the list of its further tables.
fn calls(table: &GoTable<'_>, list: Part) -> Option<Part> {
    let functions = &table.functions;
    match functions.form {
        Form::Go116 => {
            // Addresses, at a multiple of their size.
            let into = list.offset - functions.whole.part.offset;
            let aligned = list.from(into.next_multiple_of(8) - into)?;
            let address = functions.parts.u64(aligned, 8 * u64::from(CALLS))?;
            functions.sections.at(address)
        }
        Form::Go118 | Form::Go120 => {
            let into = functions.parts.u32(list, 4 * u64::from(CALLS))?;
            table.calls?.from(into.into()).filter(|_| into != u32::MAX)
        }
    }
}

/// Lines are of 31 bits.
fn line_number(line: u32) -> u32 {
    match i32::try_from(line) {
        Ok(_) => line,
        Err(_) => 0,
    }
}
