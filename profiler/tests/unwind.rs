//! The unwind tables of this machine's own programs and libraries, against direct evaluation.
//!
//! The oracle shares nothing with the compiler but gimli: it finds the description of an address
//! with gimli, evaluates it with gimli on made-up registers and memory, and compares the caller
//! with what the rule gives on the same registers and memory.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    collections::HashMap,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use ebpfprof::unwind::{FrameFormat, Lookup, Sections, Table};
use gimli::{
    BaseAddresses, CfaRule, CieOrFde, EhFrame, Encoding, EndianSlice, EvaluationResult, Expression,
    FrameDescriptionEntry, LittleEndian, Location, RegisterRule, UnwindContext, UnwindExpression,
    UnwindSection, UnwindTableRow, Value, X86_64,
};
use object::{Object, ObjectSection, ObjectSegment};
use profiler_common::{
    step::{Depth, Registers, UserMemory},
    unwind::{OtherRegisters, Rule, caller_by_rule},
};

/// Where programs and libraries are.
const FOLDERS: [&str; 2] = ["/usr/bin", "/usr/lib/x86_64-linux-gnu"];
/// The largest file of the sample, in bytes.
const MOST_BYTES: u64 = 6 << 20;
/// Files in the sample, and the fewest that make a test of it.
const SAMPLE: usize = 60;
const FEWEST: usize = 20;
/// Addresses tried in each file.
const ADDRESSES: usize = 300;

type Slice<'a> = EndianSlice<'a, LittleEndian>;

/// Numbers that look random, the same in every run (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Memory whose words are a function of their address, and could be addresses of user space.
struct Memory;

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

/// General registers, by their DWARF number.
struct General([u64; 17]);

impl OtherRegisters for General {
    fn read(&self, number: u8) -> Option<u64> {
        self.0.get(usize::from(number)).copied()
    }
}

/// Every ELF file with this machine's code, each once, in the order of the names.
fn elf_files(most_bytes: u64) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for folder in FOLDERS {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(path) = entry.path().canonicalize() else {
                continue;
            };
            let is_wanted = path
                .metadata()
                .is_ok_and(|meta| meta.is_file() && meta.len() <= most_bytes);
            if is_wanted && is_elf(&path) {
                files.push(path);
            }
        }
    }
    files.sort();
    files.dedup();
    files
}

fn is_elf(path: &Path) -> bool {
    use std::io::Read;
    let mut head = [0; 20];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut head));
    // 64 bits; a program or a shared object; x86-64.
    read.is_ok() && head.starts_with(b"\x7fELF\x02") && matches!(head[16], 2 | 3) && head[18] == 62
}

/// The descriptions of one object, for any address.
struct Oracle<'a> {
    section: EhFrame<Slice<'a>>,
    bases: BaseAddresses,
    functions: Vec<FrameDescriptionEntry<Slice<'a>>>,
    code: Vec<(u64, &'a [u8])>,
    context: UnwindContext<usize>,
}

impl<'a> Oracle<'a> {
    fn new(object: &object::File<'a>) -> Option<Self> {
        let eh_frame = object.section_by_name(".eh_frame")?;
        let data = eh_frame.data().ok()?;
        let section = EhFrame::new(data, LittleEndian);
        let mut bases = BaseAddresses::default().set_eh_frame(eh_frame.address());
        if let Some(text) = object.section_by_name(".text") {
            bases = bases.set_text(text.address());
        }
        let mut functions = Vec::new();
        let mut entries = section.entries(&bases);
        while let Ok(Some(entry)) = entries.next() {
            if let CieOrFde::Fde(fde) = entry
                && let Ok(fde) = fde.parse(|section, bases, at| section.cie_from_offset(bases, at))
                && fde.len() > 0
            {
                functions.push(fde);
            }
        }
        let is_code = |segment: &object::read::Segment<'_, '_>| matches!(segment.flags(), object::SegmentFlags::Elf { p_flags, .. } if p_flags.0 & 1 != 0);
        let code = object
            .segments()
            .filter(is_code)
            .filter_map(|segment| Some((segment.address(), segment.data().ok()?)))
            .collect();
        Some(Self {
            section,
            bases,
            functions,
            code,
            context: UnwindContext::new(),
        })
    }

    /// An address of code.
    fn address(&self, numbers: &mut Numbers) -> u64 {
        let inside = numbers.below(4) > 0;
        if inside && !self.functions.is_empty() {
            let at = numbers.below(self.functions.len() as u64) as usize;
            let fde = &self.functions[at];
            return fde.initial_address() + numbers.below(fde.len());
        }
        let at = numbers.below(self.code.len() as u64) as usize;
        let (start, code) = self.code[at];
        start + numbers.below(code.len() as u64)
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

    /// What is to be expected of the rule for an address.
    fn expect(&mut self, address: u64, general: &General) -> Expected {
        let mut holds = self
            .functions
            .iter()
            .filter(|fde| fde.contains(address) && self.is_code(fde.initial_address()));
        let Some(fde) = holds.next().filter(|_| self.is_code(address)) else {
            return Expected::Rule(Rule::NoInformation);
        };
        if holds.next().is_some() {
            return Expected::Doubtful;
        }
        if self.is_trampoline(fde) {
            return Expected::Rule(Rule::SignalFrame);
        }
        let encoding = fde.cie().encoding();
        let row =
            fde.unwind_info_for_address(&self.section, &self.bases, &mut self.context, address);
        let Ok(row) = row else {
            return Expected::Rule(Rule::NoInformation);
        };
        caller(row, &self.section, encoding, general)
    }
}

/// What the oracle says.
#[derive(Debug, PartialEq)]
enum Expected {
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
enum Form {
    Usual,
    Unusual,
}

/// Evaluates a row.
fn caller(
    row: &UnwindTableRow<usize>,
    section: &EhFrame<Slice<'_>>,
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

/// What one file, or all, came to.
#[derive(Debug, Default)]
struct Tally {
    files: usize,
    compared: usize,
    without_rule: usize,
    unusual_lost: usize,
    beyond: usize,
}

/// Compares a file's table with the oracle at random addresses.
#[track_caller]
fn compare(path: &Path, tally: &mut Tally) {
    let Ok(table) = Table::of_file(&File::open(path).unwrap()) else {
        return;
    };
    // The oracle reads `.eh_frame` alone.
    if table.format() != FrameFormat::EhFrame || table.coverage().debug_functions > 0 {
        return;
    }
    let data = fs::read(path).unwrap();
    let object = object::File::parse(&data[..]).unwrap();
    let Some(mut oracle) = Oracle::new(&object) else {
        return;
    };
    check_shape(&table);
    let lookup = Lookup::new(&table);
    tally.files += 1;
    let mut numbers = Numbers(data.len() as u64);
    for _ in 0..ADDRESSES {
        let address = oracle.address(&mut numbers);
        let mut general = General(std::array::from_fn(|_| word_at(numbers.next())));
        general.0[16] = address;
        let callee = Registers {
            pc: address,
            sp: general.0[7],
            fp: general.0[6],
        };
        let rule = lookup.rule(address);
        let at = format!("{} at {address:#x}: {rule:?}", path.display());
        match oracle.expect(address, &general) {
            Expected::Rule(expected) => {
                assert_eq!(rule, expected, "{at}");
                tally.without_rule += usize::from(rule == Rule::NoInformation);
            }
            Expected::Caller(_, Form::Unusual) if rule == Rule::NoInformation => {
                tally.unusual_lost += 1;
            }
            Expected::Caller(expected, _) => {
                let caller = caller_by_rule(rule, callee, Depth::Innermost, &general, &Memory);
                assert_eq!(caller, Ok(expected), "{at}");
                tally.compared += 1;
            }
            Expected::Beyond => {
                assert_eq!(rule, Rule::NoInformation, "{at}");
                tally.beyond += 1;
            }
            Expected::Doubtful => {}
        }
    }
}

/// Rows are sorted, neighbours differ, and every rule is used.
#[track_caller]
fn check_shape(table: &Table) {
    for pair in table.rows().windows(2) {
        assert!(pair[0].offset < pair[1].offset && pair[0].rule != pair[1].rule);
    }
    let rules = table.rules().len();
    assert!(table.rows().iter().all(|row| usize::from(row.rule) < rules));
    let extents = &table.coverage().rules;
    assert_eq!(extents.len(), rules);
    assert!(table.coverage().covered().bytes <= table.coverage().code_bytes);
}

#[track_caller]
fn check_tally(tally: &Tally) {
    assert!(tally.files >= FEWEST, "too few files: {tally:?}");
    assert!(tally.compared > tally.files * ADDRESSES / 2, "{tally:?}");
    let lost = tally.unusual_lost + tally.beyond;
    assert!(
        lost * 200 < tally.compared,
        "too much not expressed: {tally:?}"
    );
}

#[test]
fn a_table_agrees_with_direct_evaluation_at_any_address() {
    let files = elf_files(MOST_BYTES);
    let step = files.len().div_ceil(SAMPLE).max(1);
    let mut tally = Tally::default();
    for path in files.iter().step_by(step) {
        compare(path, &mut tally);
    }
    check_tally(&tally);
}

#[test]
#[ignore = "takes minutes: every object of the machine, for an audit"]
fn every_table_agrees_with_direct_evaluation() {
    let mut tally = Tally::default();
    for path in elf_files(u64::MAX) {
        compare(&path, &mut tally);
    }
    println!("{tally:?}");
    check_tally(&tally);
}

/// A small real object.
fn small_object() -> PathBuf {
    let files = elf_files(100 << 10);
    let described = |path: &PathBuf| {
        let sections = Sections::of_file(&File::open(path).unwrap()).ok()?;
        (sections.frames.len() > 2000).then_some(sections.frames.len())
    };
    let sized = files
        .iter()
        .filter_map(|path| Some((described(path)?, path)));
    sized.min().unwrap().1.clone()
}

/// Ends fast, and in a sound table.
#[track_caller]
fn check_hostile(sections: &Sections) {
    let started = Instant::now();
    let table = Table::of_sections(sections);
    check_shape(&table);
    let lookup = Lookup::new(&table);
    for (start, end, rule) in table.ranges().take(3) {
        let bucket_is_full = lookup.rule(start) == Rule::NoInformation;
        assert!(bucket_is_full || lookup.rule(end - 1) == rule);
    }
    let took = started.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn truncated_sections_make_sound_tables() {
    let sections = Sections::of_file(&File::open(small_object()).unwrap()).unwrap();
    for length in 0..sections.frames.len() {
        check_hostile(&Sections {
            frames: sections.frames[..length].to_vec(),
            ..sections.clone()
        });
    }
}

#[test]
fn sections_with_flipped_bits_make_sound_tables() {
    let mut sections = Sections::of_file(&File::open(small_object()).unwrap()).unwrap();
    let mut numbers = Numbers(7);
    for round in 0..3000u64 {
        let whole = sections.frames.clone();
        for _ in 0..=numbers.below(1 + round % 16) {
            let at = numbers.below(whole.len() as u64) as usize;
            sections.frames[at] ^= 1 << numbers.below(8);
        }
        sections.format = match round % 2 {
            0 => FrameFormat::EhFrame,
            _ => FrameFormat::DebugFrame,
        };
        check_hostile(&sections);
        sections.frames = whole;
    }
}

#[test]
fn files_with_broken_heads_make_sound_tables_or_errors() {
    let whole = fs::read(small_object()).unwrap();
    let mut numbers = Numbers(9);
    let headers = u64::from_le_bytes(whole[40..48].try_into().unwrap()) as usize;
    let mut kinds = HashMap::new();
    for round in 0..1500 {
        let mut data = whole.clone();
        for _ in 0..=numbers.below(3) {
            // The head with the segments, or the headers of sections.
            let at = match numbers.below(2) {
                0 => numbers.below(1024) as usize,
                _ => headers + numbers.below((whole.len() - headers) as u64) as usize,
            };
            data[at] ^= 1 << numbers.below(8);
        }
        if round % 10 == 0 {
            data.truncate(numbers.below(whole.len() as u64) as usize);
        }
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&data).unwrap();
        let made = Table::of_file(&file);
        if let Ok(table) = &made {
            check_shape(table);
        }
        *kinds.entry(made.is_ok()).or_insert(0) += 1;
    }
    assert!(kinds.len() == 2, "{kinds:?}");
}
