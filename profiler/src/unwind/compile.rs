//! Compiles call frame information into rows and rules.
//!
//! Each function's description is evaluated once, in the order of the section. Its rows go into one
//! vector; then the functions are sorted by address and their rows joined: what two functions
//! describe belongs to the first, what none describes has no rule, equal neighbours become one row.
//! A second section counts where the first has no rule.

use std::{
    collections::HashMap,
    ops::{Range, RangeInclusive},
};

use gimli::{
    CieOrFde, CommonInformationEntry, DebugFrame, EhFrame, EndianSlice, FrameDescriptionEntry,
    LittleEndian, Register, RegisterRule, UnwindContext, UnwindContextStorage, UnwindOffset,
    UnwindSection, UnwindTableRow, X86_64,
};
use profiler_common::{
    code::{SIGNAL_RETURN, SIGNAL_RETURN_BYTES},
    unwind::{BUCKET_BYTES, MAX_RULES, NO_INFORMATION, Rule, SavedFp},
};

use super::{
    Coverage, Extent, Table, TableRow,
    rule::{Cause, is_by_rbx, rule_of, with_rbx},
    section::{FrameFormat, Sections, code_at},
};

/// Most rows compiled of one object.
pub const MOST_ROWS: usize = 1 << 23;
/// Most functions in the code looked at in one section, whether they are compiled or not.
pub(super) const MOST_FUNCTIONS: usize = 1 << 21;
/// Most bytes from the first address of code to the last; what lies beyond has no rules.
const MOST_SPAN: u64 = 1 << 30;
/// Rules whose numbers are kept at hand.
const RECENT: usize = 256;
/// Most entries that functions share: compilers write one or two for each source file.
const MOST_SHARED_ENTRIES: usize = 1 << 16;
/// Most instructions in an entry that functions share: they are run again for each.
const MOST_SHARED_INSTRUCTIONS: usize = 64;

/// The lengths of functions that are compared with [`SIGNAL_RETURN`], in bytes.
const TRAMPOLINE_BYTES: RangeInclusive<u64> = SIGNAL_RETURN_BYTES as u64..=16;

type Slice<'a> = EndianSlice<'a, LittleEndian>;
type Fde<'a> = FrameDescriptionEntry<Slice<'a>>;

/// Reads the bytes at a file offset.
type ReadCode<'a> = dyn Fn(u64) -> Option<[u8; SIGNAL_RETURN_BYTES]> + 'a;

/// Room for evaluating a description: all general registers and some vector registers, and the
/// states that it may keep at one time.
struct Storage;

impl UnwindContextStorage<usize> for Storage {
    type Rules = [(Register, RegisterRule<usize>); 40];
    type Stack = Box<[UnwindTableRow<usize, Self>; 8]>;
}

/// What the code itself tells, by ELF addresses.
#[derive(Debug, Default)]
pub(super) struct ByCode {
    /// Rules that count more than what the sections say, sorted and disjoint.
    pub(super) rules: Vec<(Range<u64>, Rule)>,
    /// The code of outermost frames, sorted and disjoint, where the sections say nothing of it.
    pub(super) outermost: Vec<Range<u64>>,
}

/// Compiles a table. `read_code` reads the code of small functions.
pub(super) fn compile(sections: &Sections, read_code: &ReadCode<'_>, told: &ByCode) -> Table {
    let table = compile_with(Rbx::Untold, sections, read_code, told);
    if table.rules.iter().any(is_by_rbx) {
        return compile_with(Rbx::Told, sections, read_code, told);
    }
    table
}

/// Whether rules tell where rbx is. There are more of them then, so few objects have such: those
/// with a CFA by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rbx {
    Untold,
    Told,
}

fn compile_with(rbx: Rbx, sections: &Sections, read_code: &ReadCode<'_>, told: &ByCode) -> Table {
    let mut compiler = Compiler::new(sections, rbx);
    let data = &sections.frames[..];
    match sections.format {
        FrameFormat::EhFrame => {
            run(&EhFrame::new(data, LittleEndian), &mut compiler, read_code);
            compiler.join();
            if !sections.debug_frames.is_empty() {
                let before = compiler.coverage.functions;
                compiler.debug_frames(&sections.debug_frames, read_code);
                compiler.coverage.debug_functions = compiler.coverage.functions - before;
            }
        }
        FrameFormat::DebugFrame => compiler.debug_frames(data, read_code),
    }
    compiler.tell(told);
    compiler.finish()
}

/// Compiles a section. Its rows are joined later.
fn run<'a, S: UnwindSection<Slice<'a>>>(
    section: &S,
    compiler: &mut Compiler<'_>,
    read_code: &ReadCode<'_>,
) {
    let sections = compiler.sections;
    let cies = shared_entries(section, sections);
    let mut context = UnwindContext::<usize, Storage>::new_in();
    let mut entries = section.entries(&sections.bases);
    loop {
        let fde = match entries.next() {
            Ok(None) => break,
            // The length of an entry is wrong, so nothing behind it can be found.
            Err(_) => {
                compiler.fail(Cause::Broken, 0);
                break;
            }
            Ok(Some(CieOrFde::Cie(_))) => continue,
            Ok(Some(CieOrFde::Fde(fde))) => fde,
        };
        let parsed = fde.parse(|_, _, offset| {
            let offset: usize = UnwindOffset::into(offset);
            let cie = cies.get(&offset).cloned();
            cie.ok_or(gimli::Error::NotCieId(offset as u64))
        });
        match parsed {
            Ok(fde) => compiler.function(section, &fde, &mut context, read_code),
            Err(_) => compiler.fail(Cause::Broken, 0),
        }
    }
}

/// The entries that functions share, by offset. Those that do not parse, or that would take long to
/// run for each function, are left out.
fn shared_entries<'a, S: UnwindSection<Slice<'a>>>(
    section: &S,
    sections: &Sections,
) -> HashMap<usize, CommonInformationEntry<Slice<'a>>> {
    let mut cies = HashMap::new();
    let mut entries = section.entries(&sections.bases);
    while let Ok(Some(entry)) = entries.next() {
        let CieOrFde::Cie(cie) = entry else {
            continue;
        };
        let mut instructions = cie.instructions(section, &sections.bases);
        let mut count = 0;
        while count <= MOST_SHARED_INSTRUCTIONS && matches!(instructions.next(), Ok(Some(_))) {
            count += 1;
        }
        if count <= MOST_SHARED_INSTRUCTIONS && cies.len() < MOST_SHARED_ENTRIES {
            cies.insert(cie.offset(), cie);
        }
    }
    cies
}

/// The rows of one function.
struct Function {
    start: u32,
    end: u32,
    first_row: u32,
    row_count: u32,
}

struct Compiler<'s> {
    sections: &'s Sections,
    rbx: Rbx,
    base: u64,
    functions: Vec<Function>,
    /// Functions looked at in the section.
    seen: usize,
    /// Rows of the section's functions, in its order.
    rows: Vec<TableRow>,
    /// The rows of the sections before, joined.
    joined: Vec<TableRow>,
    /// The places of those among them that have no rule.
    unruled: Vec<u32>,
    /// Where the frame pointer is if the section does not say.
    unsaid: SavedFp,
    rules: Vec<Rule>,
    /// The number of each rule, by its word.
    numbers: HashMap<u64, u16>,
    /// Words found lately and their numbers: most rows have one of a few rules.
    recent: [(u64, u16); RECENT],
    coverage: Coverage,
}

impl<'s> Compiler<'s> {
    fn new(sections: &'s Sections, rbx: Rbx) -> Self {
        let first = sections.code.first().map_or(0, |code| code.start);
        let code_bytes = sections.code.iter().map(|code| code.end - code.start).sum();
        Self {
            sections,
            rbx,
            base: first - first % BUCKET_BYTES,
            functions: Vec::new(),
            seen: 0,
            rows: Vec::new(),
            joined: Vec::new(),
            unruled: Vec::new(),
            unsaid: SavedFp::Same,
            rules: vec![Rule::NoInformation],
            numbers: HashMap::from([(Rule::NoInformation.encode(), NO_INFORMATION)]),
            recent: [(Rule::NoInformation.encode(), NO_INFORMATION); RECENT],
            coverage: Coverage {
                code_bytes,
                ..Coverage::default()
            },
        }
    }

    fn fail(&mut self, cause: Cause, bytes: u64) {
        self.coverage.inexpressible[cause as usize].add(bytes);
    }

    /// Compiles a `.debug_frame`, for what has no rule yet.
    fn debug_frames(&mut self, data: &[u8], read_code: &ReadCode<'_>) {
        if self.sections.is_go {
            self.unsaid = SavedFp::WhereFramed;
        }
        run(&DebugFrame::new(data, LittleEndian), self, read_code);
        self.join();
    }

    /// Whether the sections before have rules for all of a range. It is asked for each function, so
    /// it takes two searches and does not depend on how many rows the range has.
    fn is_ruled(&self, start: u64, end: u64) -> bool {
        let offset = |row: &TableRow| self.base + u64::from(row.offset);
        let after = self.joined.partition_point(|row| offset(row) <= start);
        let Some(first) = after.checked_sub(1) else {
            return false;
        };
        let gap = self.unruled.partition_point(|row| (*row as usize) < first);
        let gap = self.unruled.get(gap).map(|row| self.joined[*row as usize]);
        gap.is_none_or(|row| offset(&row) >= end)
    }

    /// Compiles one function. One outside of the code (the linker dropped it) is none.
    fn function<'a, S: UnwindSection<Slice<'a>>>(
        &mut self,
        section: &S,
        fde: &Fde<'a>,
        context: &mut UnwindContext<usize, Storage>,
        read_code: &ReadCode<'_>,
    ) {
        let start = fde.initial_address();
        let code = code_at(&self.sections.code, start);
        let Some(code) = code.filter(|_| fde.len() > 0) else {
            return;
        };
        let end = start.saturating_add(fde.len()).min(code.end);
        self.seen += 1;
        let too_many = self.seen > MOST_FUNCTIONS;
        if !too_many && self.is_ruled(start, end) {
            return;
        }
        self.coverage.functions += 1;
        if too_many || self.is_full() || end - self.base > MOST_SPAN {
            return self.fail(Cause::TooLarge, end - start);
        }
        let first_row = self.rows.len();
        let is_signal = fde.is_signal_trampoline()
            || (TRAMPOLINE_BYTES.contains(&fde.len())
                && read_code(code.file_offset.saturating_add(start - code.start))
                    == Some(SIGNAL_RETURN));
        if is_signal {
            self.push(first_row, start, Ok(Rule::SignalFrame), end - start);
        } else {
            self.evaluate(section, fde, context, (start, end));
        }
        self.functions.push(Function {
            start: (start - self.base) as u32,
            end: (end - self.base) as u32,
            first_row: first_row as u32,
            row_count: (self.rows.len() - first_row) as u32,
        });
    }

    /// Runs the description of a function that is no signal trampoline.
    fn evaluate<'a, S: UnwindSection<Slice<'a>>>(
        &mut self,
        section: &S,
        fde: &Fde<'a>,
        context: &mut UnwindContext<usize, Storage>,
        (mut at, end): (u64, u64),
    ) {
        let first_row = self.rows.len();
        let cie = fde.cie();
        let is_usual = cie.return_address_register() == X86_64::RA;
        let encoding = cie.encoding();
        let bases = &self.sections.bases;
        if let Ok(mut table) = fde.rows(section, bases, context) {
            while let Ok(Some(row)) = table.next_row() {
                let row_end = row.end_address().min(end);
                if row.start_address() != at || row_end < at {
                    break;
                }
                if row_end == at {
                    continue;
                }
                if self.is_full() {
                    self.push(first_row, at, Err(Cause::TooLarge), end - at);
                    return;
                }
                let rule = if is_usual {
                    rule_of(row, section, encoding, self.unsaid)
                } else {
                    Err(Cause::ReturnAddress)
                };
                let rule = match self.rbx {
                    Rbx::Untold => rule,
                    Rbx::Told => rule.map(|rule| with_rbx(rule, row)),
                };
                self.push(first_row, at, rule, row_end - at);
                at = row_end;
                if at == end {
                    return;
                }
            }
        }
        self.push(first_row, at, Err(Cause::Broken), end - at);
    }

    fn is_full(&self) -> bool {
        self.rows.len() + self.joined.len() >= MOST_ROWS
    }

    /// Adds a row to the function whose rows begin at `first_row`, unless it repeats the last.
    fn push(&mut self, first_row: usize, start: u64, rule: Result<Rule, Cause>, bytes: u64) {
        let number = match rule.and_then(|rule| self.number(rule)) {
            Ok(number) => number,
            Err(cause) => {
                self.fail(cause, bytes);
                NO_INFORMATION
            }
        };
        let repeats = self.rows[first_row..]
            .last()
            .is_some_and(|last| last.rule == number);
        if !repeats {
            self.rows.push(TableRow {
                offset: (start - self.base) as u32,
                rule: number,
            });
        }
    }

    /// The number of a rule.
    fn number(&mut self, rule: Rule) -> Result<u16, Cause> {
        let word = rule.encode();
        // Fibonacci hashing: the high bits of the product depend on all bits of the word.
        let slot = (word.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize % RECENT;
        if self.recent[slot].0 == word {
            return Ok(self.recent[slot].1);
        }
        let known = self.numbers.get(&word).copied();
        let number = match known {
            Some(number) => number,
            None if self.rules.len() == MAX_RULES => return Err(Cause::TooLarge),
            None => {
                let number = self.rules.len() as u16;
                self.rules.push(rule);
                self.numbers.insert(word, number);
                number
            }
        };
        self.recent[slot] = (word, number);
        Ok(number)
    }

    /// Joins the rows of the section's functions, and them with those of the sections before.
    fn join(&mut self) {
        // Stable: of two functions with one start the first in the section counts.
        self.functions.sort_by_key(|function| function.start);
        let mut joined = Joined(Vec::with_capacity(self.rows.len() + self.functions.len()));
        let mut covered = 0;
        for function in &self.functions {
            if function.start > covered {
                joined.push(covered, NO_INFORMATION);
            }
            let first = function.first_row as usize;
            let rows = &self.rows[first..first + function.row_count as usize];
            let ends = rows.iter().skip(1).map(|row| row.offset);
            for (row, end) in rows.iter().zip(ends.chain([function.end])) {
                if end > covered {
                    joined.push(row.offset.max(covered), row.rule);
                    covered = end;
                }
            }
        }
        joined.push(covered, NO_INFORMATION);
        self.functions = Vec::new();
        self.seen = 0;
        self.rows = Vec::new();
        self.joined = if self.joined.is_empty() {
            joined.0
        } else {
            overlaid(&self.joined, &joined.0)
        };
        let rows = (0..).zip(&self.joined);
        self.unruled = rows
            .filter(|(_, row)| row.rule == NO_INFORMATION)
            .map(|(place, _)| place)
            .collect();
    }

    /// Adds what the code tells.
    fn tell(&mut self, told: &ByCode) {
        let undescribed = told.outermost.iter();
        let undescribed = undescribed.filter(|range| !self.is_ruled(range.start, range.end));
        let ends: Vec<(Range<u64>, Rule)> = undescribed
            .map(|range| (range.clone(), Rule::End))
            .collect();
        // Few objects have either, and some have a million rows.
        if !ends.is_empty() {
            let ends = self.rows_of(&ends);
            self.joined = overlaid(&self.joined, &ends);
        }
        if !told.rules.is_empty() {
            let rules = self.rows_of(&told.rules);
            self.joined = overlaid(&rules, &self.joined);
        }
    }

    /// The rows of rules for ranges of code.
    fn rows_of(&mut self, rules: &[(Range<u64>, Rule)]) -> Vec<TableRow> {
        let mut rows = Joined(Vec::new());
        for (range, rule) in rules {
            let offsets = range
                .start
                .checked_sub(self.base)
                .zip(range.end.checked_sub(self.base));
            let Some((start, end)) = offsets.filter(|(_, end)| *end < MOST_SPAN) else {
                continue;
            };
            if let Ok(number) = self.number(*rule) {
                rows.push(start as u32, number);
                rows.push(end as u32, NO_INFORMATION);
            }
        }
        rows.0
    }

    fn finish(mut self) -> Table {
        self.joined.shrink_to_fit();
        self.coverage.rules = extents(&self.joined, self.rules.len());
        Table {
            format: self.sections.format,
            base: self.base,
            rows: self.joined,
            rules: self.rules,
            coverage: self.coverage,
        }
    }
}

/// The first rows, and the others where those have no rule.
fn overlaid(first: &[TableRow], others: &[TableRow]) -> Vec<TableRow> {
    let mut joined = Joined(Vec::with_capacity(first.len() + others.len()));
    let mut sources = [first, others];
    let mut in_force = [NO_INFORMATION; 2];
    while let Some(at) = sources
        .iter()
        .filter_map(|rows| rows.first())
        .map(|row| row.offset)
        .min()
    {
        for (rows, rule) in sources.iter_mut().zip(&mut in_force) {
            if let [row, rest @ ..] = *rows
                && row.offset == at
            {
                (*rows, *rule) = (rest, row.rule);
            }
        }
        let [rule, other] = in_force;
        joined.push(at, if rule == NO_INFORMATION { other } else { rule });
    }
    joined.0
}

/// Rows in the order of addresses, equal neighbours as one.
struct Joined(Vec<TableRow>);

impl Joined {
    fn push(&mut self, offset: u32, rule: u16) {
        // One that would end where it begins is none.
        if self.0.last().is_some_and(|last| last.offset == offset) {
            self.0.pop();
        }
        if self.0.last().is_none_or(|last| last.rule != rule) {
            self.0.push(TableRow { offset, rule });
        }
    }
}

fn extents(rows: &[TableRow], rule_count: usize) -> Vec<Extent> {
    let mut extents = vec![Extent::default(); rule_count];
    for (row, next) in rows.iter().zip(rows.iter().skip(1)) {
        extents[usize::from(row.rule)].add(u64::from(next.offset - row.offset));
    }
    extents
}
