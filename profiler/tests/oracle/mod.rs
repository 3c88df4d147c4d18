//! Direct evaluation of call frame information, and the comparison of a compiled table with it.
//!
//! Shares nothing with the compiler but gimli: it finds the description of an address with gimli,
//! evaluates it with gimli on made-up registers and memory, and compares the caller with what the
//! table's rule gives on the same registers and memory.
//!
//! In: ELF files of this machine. Out: a [`Comparison`] for each. Used by the tests of unwind tables
//! and by the audit of every file (`examples/unwind_audit.rs`).

mod evaluate;
mod files;
mod numbers;

use std::{error::Error, fs, path::Path};

use ebpfprof::unwind::{FrameFormat, Lookup, Table};
use gimli::{
    BaseAddresses, CieOrFde, DebugFrame, EhFrame, EndianSlice, FrameDescriptionEntry, LittleEndian,
    UnwindContext, UnwindSection,
};
use object::{Object, ObjectSection, ObjectSegment};
use profiler_common::{
    step::{Depth, Registers},
    unwind::{Rule, caller_by_rule},
};

use evaluate::{Expected, Form, General, Memory, caller};
pub(crate) use files::elf_files;
pub(crate) use numbers::Numbers;

/// Addresses tried at random in each file.
pub(crate) const RANDOM_ADDRESSES: u64 = 300;

type Result<T> = std::result::Result<T, Box<dyn Error>>;
type Slice<'a> = EndianSlice<'a, LittleEndian>;

/// What the comparison of one file came to.
pub(crate) struct Comparison {
    /// Addresses.
    pub(crate) counts: Counts,
    /// Where table and evaluation differ: the first few, in words.
    pub(crate) differences: Vec<String>,
}

/// Addresses, by what came of their comparison.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// The rule gives the caller that the evaluation gives.
    pub(crate) agree: u64,
    /// The evaluation says that there is no rule to be had, and there is none.
    pub(crate) without_rule: u64,
    /// A description of an unusual form that has no rule.
    pub(crate) unusual_lost: u64,
    /// A description that our registers do not suffice for.
    pub(crate) beyond: u64,
    /// Two functions describe the address: which one counts is the compiler's choice.
    pub(crate) doubtful: u64,
    /// The rule is another one, or gives another caller.
    pub(crate) differ: u64,
}

impl Counts {
    /// Adds what another file came to.
    pub(crate) fn add(&mut self, other: Self) {
        self.agree += other.agree;
        self.without_rule += other.without_rule;
        self.unusual_lost += other.unusual_lost;
        self.beyond += other.beyond;
        self.doubtful += other.doubtful;
        self.differ += other.differ;
    }
}

/// Most differences of one file that are kept in words.
const MOST_DIFFERENCES: usize = 20;

/// Which addresses are compared, next to some at random.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Those alone.
    Random,
    /// The first and the last address of each row of each function, and of each gap between them.
    EveryRow,
}

/// Compares a file's table with direct evaluation.
///
/// # Errors
/// When the file cannot be read.
pub(crate) fn compare(path: &Path, table: &Table, extent: Extent) -> Result<Comparison> {
    let data = fs::read(path)?;
    let object = object::File::parse(&data[..])?;
    let mut run = Run {
        lookup: Lookup::new(table),
        numbers: Numbers(data.len() as u64),
        counts: Counts::default(),
        differences: Vec::new(),
    };
    // Where one section fills the gaps of the other, neither alone tells what is right.
    let is_merged = table.format() == FrameFormat::EhFrame && table.coverage().debug_functions > 0;
    let section = object.section_by_name(table.format().name());
    if let Some(section) = section.filter(|_| !is_merged) {
        let (bytes, address) = (section.data()?, section.address());
        match table.format() {
            FrameFormat::EhFrame => {
                let frames = EhFrame::new(bytes, LittleEndian);
                run.against(&Oracle::new(&object, frames, address), extent);
            }
            FrameFormat::DebugFrame => {
                let frames = DebugFrame::new(bytes, LittleEndian);
                run.against(&Oracle::new(&object, frames, address), extent);
            }
        }
    }
    Ok(Comparison {
        counts: run.counts,
        differences: run.differences,
    })
}

/// The comparison of one file.
struct Run {
    lookup: Lookup,
    numbers: Numbers,
    counts: Counts,
    differences: Vec<String>,
}

impl Run {
    fn against<'a, S: UnwindSection<Slice<'a>>>(&mut self, oracle: &Oracle<'a, S>, extent: Extent) {
        if oracle.code.is_empty() {
            return;
        }
        for _ in 0..RANDOM_ADDRESSES {
            let address = oracle.address(&mut self.numbers);
            let general = General::random(&mut self.numbers, address);
            let expected = oracle.expect(address, &general);
            self.check(address, &general, &expected);
        }
        if extent == Extent::EveryRow {
            let mut context = UnwindContext::new();
            for function in &oracle.functions {
                self.check_rows(oracle, function, &mut context);
            }
            for (start, end) in oracle.gaps() {
                for address in [start, end - 1] {
                    let general = General::random(&mut self.numbers, address);
                    self.check(address, &general, &Expected::Rule(Rule::NoInformation));
                }
            }
        }
    }

    /// Compares at both ends of each row of a function.
    fn check_rows<'a, S: UnwindSection<Slice<'a>>>(
        &mut self,
        oracle: &Oracle<'a, S>,
        function: &Function<'a>,
        context: &mut UnwindContext<usize>,
    ) {
        let (mut at, end) = (function.start, function.end);
        if function.is_shared {
            self.counts.doubtful += 1;
            return;
        }
        if oracle.is_trampoline(&function.fde) {
            return self.check_ends(oracle, (at, end), |_| Expected::Rule(Rule::SignalFrame));
        }
        let encoding = function.fde.cie().encoding();
        let rows = function.fde.rows(&oracle.section, &oracle.bases, context);
        if let Ok(mut rows) = rows {
            while let Ok(Some(row)) = rows.next_row() {
                let row_end = row.end_address().min(end);
                if row.start_address() != at || row_end < at {
                    break;
                }
                if row_end > at {
                    self.check_ends(oracle, (at, row_end), |general| {
                        caller(row, &oracle.section, encoding, general)
                    });
                }
                at = row_end;
            }
        }
        if at < end {
            // The description breaks off.
            self.check_ends(oracle, (at, end), |_| Expected::Rule(Rule::NoInformation));
        }
    }

    /// Compares at the first and the last address of a range.
    fn check_ends<'a, S: UnwindSection<Slice<'a>>>(
        &mut self,
        oracle: &Oracle<'a, S>,
        (start, end): (u64, u64),
        expect: impl Fn(&General) -> Expected,
    ) {
        let ends = [start, end - 1];
        for address in &ends[usize::from(end - start == 1)..] {
            if oracle.is_code(*address) {
                let general = General::random(&mut self.numbers, *address);
                self.check(*address, &general, &expect(&general));
            }
        }
    }

    fn check(&mut self, address: u64, general: &General, expected: &Expected) {
        let rule = self.lookup.rule(address);
        let slot = match expected {
            Expected::Rule(expected) if rule != *expected => &mut self.counts.differ,
            Expected::Rule(Rule::NoInformation) => &mut self.counts.without_rule,
            Expected::Rule(_) => &mut self.counts.agree,
            Expected::Caller(_, Form::Unusual) if rule == Rule::NoInformation => {
                &mut self.counts.unusual_lost
            }
            Expected::Caller(expected, _) => {
                let callee = Registers {
                    pc: address,
                    sp: general.0[7],
                    fp: general.0[6],
                };
                match caller_by_rule(rule, callee, Depth::Innermost, general, &Memory) {
                    Ok(caller) if caller == *expected => &mut self.counts.agree,
                    _ => &mut self.counts.differ,
                }
            }
            Expected::Beyond if rule == Rule::NoInformation => &mut self.counts.beyond,
            Expected::Beyond => &mut self.counts.differ,
            Expected::Doubtful => &mut self.counts.doubtful,
        };
        *slot += 1;
        let found = usize::try_from(self.counts.differ).unwrap_or(usize::MAX);
        if found > self.differences.len() && found <= MOST_DIFFERENCES {
            self.differences
                .push(format!("{address:#x}: {rule:?}, expected {expected:?}"));
        }
    }
}

/// The description of one function.
struct Function<'a> {
    start: u64,
    end: u64,
    /// The end of all functions up to this one.
    reach: u64,
    /// Whether another function has a part of its range.
    is_shared: bool,
    fde: FrameDescriptionEntry<Slice<'a>>,
}

/// The descriptions of one object, for any address.
struct Oracle<'a, S> {
    section: S,
    bases: BaseAddresses,
    /// By address; only those that begin in code.
    functions: Vec<Function<'a>>,
    code: Vec<(u64, &'a [u8])>,
}

impl<'a, S: UnwindSection<Slice<'a>>> Oracle<'a, S> {
    fn new(object: &object::File<'a>, section: S, address: u64) -> Self {
        let mut bases = BaseAddresses::default().set_eh_frame(address);
        if let Some(text) = object.section_by_name(".text") {
            bases = bases.set_text(text.address());
        }
        let is_code = |segment: &object::read::Segment<'_, '_>| matches!(segment.flags(), object::SegmentFlags::Elf { p_flags, .. } if p_flags.0 & 1 != 0);
        let code = object
            .segments()
            .filter(is_code)
            .filter_map(|segment| Some((segment.address(), segment.data().ok()?)))
            .collect();
        let mut oracle = Self {
            section,
            bases,
            functions: Vec::new(),
            code,
        };
        oracle.functions = oracle.described();
        oracle
    }

    fn described(&self) -> Vec<Function<'a>> {
        let mut functions = Vec::new();
        let mut entries = self.section.entries(&self.bases);
        while let Ok(Some(entry)) = entries.next() {
            if let CieOrFde::Fde(fde) = entry
                && let Ok(fde) = fde.parse(|section, bases, at| section.cie_from_offset(bases, at))
                && fde.len() > 0
                && self.is_code(fde.initial_address())
            {
                functions.push(Function {
                    start: fde.initial_address(),
                    end: fde.initial_address().saturating_add(fde.len()),
                    reach: 0,
                    is_shared: false,
                    fde,
                });
            }
        }
        functions.sort_by_key(|function| function.start);
        let mut reach = 0;
        let mut farthest = 0;
        for number in 0..functions.len() {
            if functions[number].start < reach {
                functions[number].is_shared = true;
                functions[farthest].is_shared = true;
            }
            if functions[number].end > reach {
                (reach, farthest) = (functions[number].end, number);
            }
            functions[number].reach = reach;
        }
        functions
    }

    /// An address of code.
    fn address(&self, numbers: &mut Numbers) -> u64 {
        let inside = numbers.below(4) > 0;
        if inside && !self.functions.is_empty() {
            let function = &self.functions[numbers.index(self.functions.len())];
            return function.start + numbers.below(function.end - function.start);
        }
        let (start, code) = self.code[numbers.index(self.code.len())];
        start + numbers.below((code.len() as u64).max(1))
    }

    /// The ranges between functions, from the first to the last.
    fn gaps(&self) -> Vec<(u64, u64)> {
        let pairs = self.functions.windows(2);
        let gaps = pairs.map(|pair| (pair[0].reach, pair[1].start));
        gaps.filter(|(start, end)| start < end).collect()
    }

    fn is_code(&self, address: u64) -> bool {
        let holds =
            |(start, code): &(u64, &[u8])| (*start..start + code.len() as u64).contains(&address);
        self.code.iter().any(holds)
    }

    fn is_trampoline(&self, fde: &FrameDescriptionEntry<Slice<'_>>) -> bool {
        let bytes = self.code.iter().find_map(|(start, code)| {
            code.get(fde.initial_address().checked_sub(*start)? as usize..)
        });
        let sigreturn = [0x48, 0xc7, 0xc0, 15, 0, 0, 0, 0x0f, 0x05];
        fde.is_signal_trampoline()
            || (fde.len() <= 16 && bytes.is_some_and(|bytes| bytes.starts_with(&sigreturn)))
    }

    /// The functions that hold an address.
    fn holding(&self, address: u64) -> impl Iterator<Item = &Function<'a>> {
        let after = self
            .functions
            .partition_point(|function| function.start <= address);
        let before = self.functions[..after].iter().rev();
        before
            .take_while(move |function| function.reach > address)
            .filter(move |function| address < function.end)
    }

    /// What is to be expected of the rule for an address.
    fn expect(&self, address: u64, general: &General) -> Expected {
        let mut holding = self.holding(address);
        let Some(function) = holding.next().filter(|_| self.is_code(address)) else {
            return Expected::Rule(Rule::NoInformation);
        };
        if holding.next().is_some() {
            return Expected::Doubtful;
        }
        let fde = &function.fde;
        if self.is_trampoline(fde) {
            return Expected::Rule(Rule::SignalFrame);
        }
        let mut context = UnwindContext::<usize>::new();
        let row = fde.unwind_info_for_address(&self.section, &self.bases, &mut context, address);
        match row {
            Ok(row) => caller(row, &self.section, fde.cie().encoding(), general),
            Err(_) => Expected::Rule(Rule::NoInformation),
        }
    }
}
