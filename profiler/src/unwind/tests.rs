//! Tables of hand-written call frame information.

use std::{
    io::Write,
    time::{Duration, Instant},
};

use gimli::BaseAddresses;
use profiler_common::{
    code::SIGNAL_RETURN,
    unwind::{
        BUCKET_BYTES, Base, Cfa, IndexWord, MAX_BUCKET_ROWS, MOST_FOLD_BYTES, RBX, Rule, SavedFp,
        SavedRbx,
    },
};
use proptest::prelude::*;

use super::*;

/// Where the hand-written code lies.
const CODE: u64 = 0x40_1000;

const ADVANCE: u8 = 0x40;
const DEF_CFA: u8 = 0x0c;
const DEF_CFA_OFFSET: u8 = 0x0e;
const DEF_CFA_EXPRESSION: u8 = 0x0f;
const REGISTER: u8 = 0x09;
const EXPRESSION: u8 = 0x10;
const UNDEFINED: u8 = 0x07;
const REMEMBER: u8 = 0x0a;
const RESTORE: u8 = 0x0b;
const OFFSET_RBP: u8 = 0x86;
const BREG6: u8 = 0x76;
const BREG7: u8 = 0x77;
const RA: u8 = 16;
/// `-8`, as the one byte of a signed LEB128.
const MINUS_8: u8 = 0x78;

/// A section under construction: one CIE for all functions until the next one.
struct Frames {
    format: FrameFormat,
    bytes: Vec<u8>,
    cie: usize,
    is_augmented: bool,
}

impl Frames {
    fn new(format: FrameFormat) -> Self {
        let frames = Self {
            format,
            bytes: Vec::new(),
            cie: 0,
            is_augmented: false,
        };
        frames.shared(b"", &[DEF_CFA, 7, 8, 0x90, 1])
    }

    fn eh() -> Self {
        Self::new(FrameFormat::EhFrame)
    }

    fn entry(&mut self, mut body: Vec<u8>) {
        body.resize(body.len().next_multiple_of(8) + 4, 0);
        self.bytes.extend((body.len() as u32).to_le_bytes());
        self.bytes.extend(body);
    }

    /// Begins a CIE.
    fn shared(mut self, augmentation: &[u8], instructions: &[u8]) -> Self {
        self.cie = self.bytes.len();
        self.is_augmented = !augmentation.is_empty();
        let id: u32 = match self.format {
            FrameFormat::EhFrame => 0,
            FrameFormat::DebugFrame => u32::MAX,
        };
        let mut body = id.to_le_bytes().to_vec();
        body.push(1);
        body.extend(augmentation);
        body.extend([0, 1, MINUS_8, RA]);
        if self.is_augmented {
            body.push(0);
        }
        body.extend(instructions);
        self.entry(body);
        self
    }

    /// Adds a function, from `start` bytes into the code on.
    fn function(mut self, start: u64, length: u64, instructions: &[u8]) -> Self {
        let cie = match self.format {
            FrameFormat::EhFrame => self.bytes.len() + 4 - self.cie,
            FrameFormat::DebugFrame => self.cie,
        };
        let mut body = (cie as u32).to_le_bytes().to_vec();
        body.extend(CODE.wrapping_add(start).to_le_bytes());
        body.extend(length.to_le_bytes());
        if self.is_augmented {
            body.push(0);
        }
        body.extend(instructions);
        self.entry(body);
        self
    }

    fn sections(self) -> Sections {
        Sections {
            format: self.format,
            frames: self.bytes,
            debug_frames: Vec::new(),
            entry: 0,
            is_go: false,
            bases: BaseAddresses::default().set_eh_frame(0x50_0000),
            code: vec![CodeRange {
                start: CODE,
                end: CODE + 0x10_0000,
                file_offset: 0x1000,
            }],
        }
    }

    fn table(self) -> Table {
        Table::of_sections(&self.sections())
    }
}

fn frame(cfa: Cfa) -> Rule {
    Rule::Frame(cfa, SavedFp::Same)
}

fn sp(offset: i32) -> Rule {
    frame(Cfa::StackPointer(offset))
}

/// Checks the ranges of a table, by their bytes from the start of the code, and that the search
/// finds each at its ends.
#[track_caller]
fn check(table: &Table, expected: &[(u64, u64, Rule)]) {
    let ranges: Vec<(u64, u64, Rule)> = table
        .ranges()
        .map(|(start, end, rule)| (start - CODE, end - CODE, rule))
        .collect();
    assert_eq!(ranges, expected);
    let lookup = Lookup::new(table);
    for (start, end, rule) in expected {
        assert_eq!(lookup.rule(CODE + start), *rule);
        assert_eq!(lookup.rule(CODE + end - 1), *rule);
    }
    let end = expected.last().map_or(0, |(_, end, _)| *end);
    assert_eq!(lookup.rule(CODE + end), Rule::NoInformation);
    assert_eq!(lookup.rule(CODE - 1), Rule::NoInformation);
}

const PUSH_RBP: [u8; 5] = [ADVANCE | 1, DEF_CFA_OFFSET, 16, OFFSET_RBP, 2];

#[test]
fn a_prologue_has_a_row_for_each_step() {
    for format in [FrameFormat::EhFrame, FrameFormat::DebugFrame] {
        let table = Frames::new(format)
            .function(
                0,
                0x20,
                &[&PUSH_RBP[..], &[ADVANCE | 3, DEF_CFA, 6, 16]].concat(),
            )
            .table();
        let saved = SavedFp::AtCfa(-16);
        check(
            &table,
            &[
                (0, 1, sp(8)),
                (1, 4, Rule::Frame(Cfa::StackPointer(16), saved)),
                (4, 0x20, Rule::Frame(Cfa::FramePointer(16), saved)),
            ],
        );
        assert_eq!(table.coverage().functions, 1);
        assert_eq!(table.coverage().covered(), Extent { rows: 3, bytes: 32 });
    }
}

#[test]
fn what_no_function_describes_has_no_rule() {
    let table = Frames::eh()
        .function(0x40, 0x10, &[])
        .function(0x10, 0x10, &[])
        .function(0x50, 0x10, &[])
        .table();
    check(
        &table,
        &[
            (0, 0x10, Rule::NoInformation),
            (0x10, 0x20, sp(8)),
            (0x20, 0x40, Rule::NoInformation),
            (0x40, 0x60, sp(8)),
        ],
    );
}

#[test]
fn what_two_functions_describe_belongs_to_the_first() {
    let table = Frames::eh()
        .function(0, 0x20, &[])
        .function(
            0x10,
            0x30,
            &[DEF_CFA_OFFSET, 24, ADVANCE | 0x20, DEF_CFA_OFFSET, 32],
        )
        .function(0x18, 4, &[DEF_CFA_OFFSET, 64])
        .table();
    check(
        &table,
        &[(0, 0x20, sp(8)), (0x20, 0x30, sp(24)), (0x30, 0x40, sp(32))],
    );
}

#[test]
fn an_aligned_stack_keeps_the_cfa_and_the_frame_pointer_in_memory() {
    let loaded = [DEF_CFA_EXPRESSION, 3, BREG6, MINUS_8, 0x06];
    let fp = [EXPRESSION, 6, 2, BREG6, 0];
    let added = [DEF_CFA_EXPRESSION, 5, BREG7, 16, 0x06, 0x23, 8];
    let table = Frames::eh()
        .function(0, 0x10, &[&loaded[..], &fp].concat())
        .function(0x10, 0x10, &added)
        .function(0x20, 0x10, &[DEF_CFA, 10, 0])
        .table();
    check(
        &table,
        &[
            (
                0,
                0x10,
                Rule::Frame(Cfa::Loaded(Base::FramePointer, -8, 0), SavedFp::AtFp(0)),
            ),
            (0x10, 0x20, frame(Cfa::Loaded(Base::StackPointer, 16, 1))),
            (0x20, 0x30, frame(Cfa::Register(10, 0))),
        ],
    );
}

#[test]
fn the_plt_expression_of_linkers_is_known() {
    // breg7 8; breg16 0; lit15; and; lit11; ge; lit3; shl; plus
    let plt = [0x77, 8, 0x80, 0, 0x3f, 0x1a, 0x3b, 0x2a, 0x33, 0x24, 0x22];
    let with = |bytes: &[u8]| [&[DEF_CFA_EXPRESSION, bytes.len() as u8][..], bytes].concat();
    let mut other = plt;
    other[10] = 0x1c;
    let table = Frames::eh()
        .function(0, 0x10, &with(&plt))
        .function(0x10, 0x10, &with(&other))
        .function(0x20, 0x10, &[])
        .table();
    check(
        &table,
        &[
            (0, 0x10, frame(Cfa::Plt { pushed_from: 11 })),
            (0x10, 0x20, Rule::NoInformation),
            (0x20, 0x30, sp(8)),
        ],
    );
    let lost = table.coverage().inexpressible(Cause::CfaExpression);
    assert_eq!(lost, Extent { rows: 1, bytes: 16 });
}

#[test]
fn an_undefined_return_address_is_the_end_and_one_in_a_register_is_known() {
    let table = Frames::eh()
        .function(0, 0x10, &[UNDEFINED, RA])
        .function(0x10, 0x10, &[DEF_CFA_OFFSET, 0, REGISTER, RA, 5])
        .table();
    check(
        &table,
        &[
            (0, 0x10, Rule::End),
            (0x10, 0x20, Rule::ReturnInRegister(5, 0)),
        ],
    );
}

#[test]
fn a_signal_frame_is_known_by_its_mark_and_by_its_code() {
    let frames = Frames::eh()
        .function(0x20, 9, &[])
        .function(0x30, 9, &[])
        .shared(b"zS", &[DEF_CFA, 7, 8, 0x90, 1])
        .function(0, 0x10, &[]);
    let read_code = |offset| (offset == 0x1020).then_some(SIGNAL_RETURN);
    let table = compile::compile(&frames.sections(), &read_code, &ByCode::default());
    check(
        &table,
        &[
            (0, 0x10, Rule::SignalFrame),
            (0x10, 0x20, Rule::NoInformation),
            (0x20, 0x29, Rule::SignalFrame),
            (0x29, 0x30, Rule::NoInformation),
            (0x30, 0x39, sp(8)),
        ],
    );
}

#[test]
fn what_we_cannot_express_is_counted_by_its_cause() {
    let table = Frames::eh()
        .function(0, 8, &[DEF_CFA, 17, 0])
        .function(8, 8, &[DEF_CFA, 7, 0x80, 0x80, 0x80, 0x80, 0x10])
        .function(16, 8, &[REGISTER, 6, 3])
        .function(24, 8, &[0x90, 2])
        .function(32, 8, &[0x3f])
        .function(40, 8, &[RESTORE])
        .function(48, 8, &[REGISTER, 7, 8])
        .function(56, 8, &[])
        .table();
    check(&table, &[(0, 56, Rule::NoInformation), (56, 64, sp(8))]);
    let lost = |cause| table.coverage().inexpressible(cause);
    let one = Extent { rows: 1, bytes: 8 };
    assert_eq!(lost(Cause::CfaRegister), one);
    assert_eq!(lost(Cause::CfaTooFar), one);
    assert_eq!(lost(Cause::FramePointer), one);
    assert_eq!(lost(Cause::StackPointer), one);
    assert_eq!(lost(Cause::ReturnAddress), one);
    assert_eq!(lost(Cause::Broken), Extent { rows: 2, bytes: 16 });
}

#[test]
fn functions_outside_of_the_code_are_none() {
    let table = Frames::eh()
        .function(0u64.wrapping_sub(CODE), 0x10, &[])
        .function(0x10_0000, 0x10, &[])
        .function(0xf_fff0, 0x1000, &[])
        .table();
    assert_eq!(table.coverage().functions, 1);
    let last = table.ranges().last().unwrap();
    assert_eq!(last, (CODE + 0xf_fff0, CODE + 0x10_0000, sp(8)));
}

#[test]
fn code_at_address_0_has_its_rules_and_what_wraps_around_has_none() {
    let mut sections = Frames::eh()
        .function(0u64.wrapping_sub(CODE), 0x10, &[])
        .sections();
    sections.code[0] = CodeRange {
        start: 0,
        end: 0x1000,
        file_offset: 0x1000,
    };
    let table = Table::of_sections(&sections);
    assert_eq!(table.ranges().collect::<Vec<_>>(), [(0, 0x10, sp(8))]);
    let lookup = Lookup::new(&table);
    for address in [0, 0xf] {
        assert_eq!(lookup.rule(address), sp(8));
    }
    for address in [0x10, 0x100, 1 << 32, 1 << 40, u64::MAX] {
        assert_eq!(lookup.rule(address), Rule::NoInformation);
    }
}

/// Rows of alternating rules, one for each `step` bytes.
fn dense(step: u8, rows: u64) -> Table {
    let mut instructions = Vec::new();
    for row in 0..rows {
        instructions.extend([DEF_CFA_OFFSET, 8 + 8 * (row % 5) as u8, ADVANCE | step]);
    }
    Frames::eh()
        .function(0, rows * u64::from(step), &instructions)
        .table()
}

#[test]
fn a_table_of_several_chunks_is_searched_in_each() {
    let table = dense(3, 300_000);
    assert!(table.rows().len() > 3 * 65_536);
    let lookup = Lookup::new(&table);
    for (start, end, rule) in table.ranges() {
        assert_eq!(lookup.rule(start), rule);
        assert_eq!(lookup.rule(end - 1), rule);
    }
}

#[test]
fn a_table_may_start_anywhere_in_a_chunk() {
    let table = dense(4, 5000);
    let whole = Layout::of(&table, 0, Some);
    for first in [0, 1, 60_000, 65_535] {
        let layout = Layout::of(&table, first, |rule| Some(rule + 7));
        assert_eq!(layout.index.len(), whole.index.len());
        for (at, one) in layout.index.iter().zip(&whole.index) {
            let (at, one) = (IndexWord(*at), IndexWord(*one));
            assert_eq!(at.count(), one.count());
            assert_eq!(at.row() / 65_536, (at.row() + at.count()) / 65_536);
            let (here, there) = ((at.row() - first) as usize, one.row() as usize);
            for row in 0..=at.count() as usize {
                let (mine, other) = (layout.rows[here + row], whole.rows[there + row]);
                let number = match (other >> 16) as u16 {
                    NO_INFORMATION => NO_INFORMATION,
                    number => number + 7,
                };
                assert_eq!((mine >> 16) as u16, number);
                assert_eq!(mine as u16, other as u16);
            }
        }
    }
}

#[test]
fn a_bucket_with_too_many_rows_has_no_rules_and_the_next_one_has() {
    let table = dense(1, 600);
    // Of five rows one has no other to join, and three stay.
    const { assert!(256 * 3 / 5 > MAX_BUCKET_ROWS) };
    let lookup = Lookup::new(&table);
    assert_eq!(Layout::of(&table, 0, Some).overfull_buckets, 2);
    assert_eq!(lookup.rule(CODE), Rule::NoInformation);
    assert_eq!(lookup.rule(CODE + 511), Rule::NoInformation);
    for (start, _, rule) in table.ranges().filter(|(start, ..)| *start >= CODE + 512) {
        assert_eq!(lookup.rule(start), rule);
    }
}

/// A table of rows given by their lengths and rules, of which number 0 is no information.
fn table_of(rules: Vec<Rule>, lengths: &[(u32, u16)]) -> Table {
    let mut offset = 0;
    let mut rows = Vec::new();
    for (length, rule) in lengths {
        rows.push(TableRow {
            offset,
            rule: *rule,
        });
        offset += length;
    }
    rows.push(TableRow { offset, rule: 0 });
    Table {
        format: FrameFormat::EhFrame,
        base: CODE,
        rows,
        rules,
        coverage: Coverage::default(),
    }
}

/// No information, then what pushes and pops may lead from one to the other, then what they may not.
fn mixed_rules() -> Vec<Rule> {
    let saved = |offset| Rule::Frame(Cfa::StackPointer(offset), SavedFp::AtCfa(-16));
    let mut rules = vec![Rule::NoInformation];
    rules.extend((0..6).map(|words| sp(8 * words)));
    rules.extend((2..5).map(|words| saved(8 * words)));
    rules.extend([sp(12), sp(i32::MAX), sp(i32::MIN), Rule::End]);
    rules.push(frame(Cfa::FramePointer(16)));
    rules
}

#[test]
fn a_push_and_a_pop_join_the_row_before() {
    let far = u32::from(MOST_FOLD_BYTES);
    let lengths = [(far, 1), (9, 2), (far + 1, 3), (40, 2), (80, 2), (20, 7)];
    let table = table_of(mixed_rules(), &lengths);
    let mut needed = Vec::new();
    let layout = Layout::of(&table, 0, |rule| {
        needed.push(rule);
        Some(rule)
    });
    // A push after 127 bytes; a pop after 128, which is too far; 2 with 2 do not join, nor does
    // another place of the frame pointer; the last bucket ends the table.
    assert_eq!(needed, [1, 3, 2, 7]);
    let counts = layout.index.iter().map(|word| IndexWord(*word).count());
    assert_eq!(counts.collect::<Vec<_>>(), [2, 4]);
}

#[test]
fn rows_without_a_number_have_no_rule_and_are_counted() {
    // Rows of one bucket: 1 and 2 would be joined under the number of 1, 2 and 3 under that of 2.
    let table = table_of(mixed_rules(), &[(8, 1), (8, 2), (8, 3), (8, 14), (8, 14)]);
    let mut asked = 0;
    let layout = Layout::of(&table, 0, |rule| {
        asked += 1;
        (rule == 2).then_some(77)
    });
    assert_eq!((asked, layout.unnumbered_rows), (3, 3));
    let numbers = layout.rows.iter().map(|row| row >> 16);
    assert_eq!(numbers.collect::<Vec<_>>(), [0, 0, 77, 0, 0, 0]);
}

proptest! {
    #[test]
    fn the_search_finds_the_rule_of_the_row(
        lengths in prop::collection::vec((3..40u32, 0..15u16), 0..300),
        far in prop::collection::vec((3..700u32, 0..15u16), 0..20),
        first_word in prop_oneof![Just(0), 65_400..65_536u32],
    ) {
        let table = table_of(mixed_rules(), &[lengths, far].concat());
        let lookup = Lookup::starting_at(&table, first_word);
        for (start, end, rule) in table.ranges() {
            for address in start..end {
                prop_assert_eq!(lookup.rule(address), rule, "at {:#x}", address);
            }
        }
        let (_, end, _) = table.ranges().last().unwrap_or((0, CODE, Rule::End));
        for address in end..end + 2 * BUCKET_BYTES {
            prop_assert_eq!(lookup.rule(address), Rule::NoInformation);
        }
    }
}

/// `.eh_frame` and `.debug_frame` of one object.
fn both(eh: Frames, debug: Frames) -> Sections {
    Sections {
        debug_frames: debug.bytes,
        ..eh.sections()
    }
}

#[test]
fn debug_frame_counts_where_eh_frame_has_no_rule() {
    let inexpressible = [DEF_CFA, 17, 0];
    let eh = Frames::eh()
        .function(0x20, 0x20, &[])
        .function(0x60, 0x10, &inexpressible);
    let offset = |words: u8| [DEF_CFA_OFFSET, 8 * words];
    let debug = Frames::new(FrameFormat::DebugFrame)
        .function(0x20, 0x10, &offset(2))
        .function(0x30, 0x20, &offset(3))
        .function(0x60, 0x10, &offset(4))
        .function(0x80, 0x10, &offset(5));
    let table = Table::of_sections(&both(eh, debug));
    check(
        &table,
        &[
            (0, 0x20, Rule::NoInformation),
            (0x20, 0x40, sp(8)),
            (0x40, 0x50, sp(24)),
            (0x50, 0x60, Rule::NoInformation),
            (0x60, 0x70, sp(32)),
            (0x70, 0x80, Rule::NoInformation),
            (0x80, 0x90, sp(40)),
        ],
    );
    // The one that adds nothing is not counted.
    let coverage = table.coverage();
    assert_eq!((coverage.functions, coverage.debug_functions), (5, 3));
}

/// `.eh_frame` with many rows of one function, and `.debug_frame` with its description again and
/// again, which adds nothing.
fn described_again(rows: usize, functions: usize) -> Sections {
    let step = |row: usize| [DEF_CFA_OFFSET, 8 + 8 * (row % 2) as u8, ADVANCE | 1];
    let steps: Vec<u8> = (0..rows).flat_map(step).collect();
    let eh = Frames::eh().function(0, rows as u64, &steps);
    let mut debug = Frames::new(FrameFormat::DebugFrame);
    let shared = debug.bytes.len();
    debug = debug.function(0, rows as u64, &[]);
    let function = debug.bytes.split_off(shared);
    debug.bytes.extend(function.repeat(functions));
    both(eh, debug)
}

#[test]
fn a_function_that_is_ruled_takes_no_longer_for_having_many_rows() {
    let started = Instant::now();
    let table = Table::of_sections(&described_again(200_000, 20_000));
    assert_eq!(table.rows().len(), 200_001);
    assert_eq!(table.coverage().debug_functions, 0);
    // Without optimization; to look at each row would take minutes.
    let took = started.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[test]
fn functions_that_are_ruled_count_among_the_most_that_are_looked_at() {
    let sections = described_again(1, compile::MOST_FUNCTIONS + 3);
    let lost = Table::of_sections(&sections)
        .coverage()
        .inexpressible(Cause::TooLarge);
    assert_eq!(lost, Extent { rows: 3, bytes: 3 });
}

#[test]
fn go_code_has_its_frame_pointer_where_it_is_framed_and_c_code_in_it_has_not() {
    const SAME_RBP: [u8; 2] = [0x08, 6];
    let debug = || {
        Frames::new(FrameFormat::DebugFrame)
            .function(0x20, 0x10, &[])
            .function(0x30, 0x10, &SAME_RBP)
            .function(0x40, 0x10, &[OFFSET_RBP, 2])
            .function(0x50, 0x10, &[UNDEFINED, RA])
    };
    let framed = Rule::Frame(Cfa::StackPointer(8), SavedFp::WhereFramed);
    let saved = Rule::Frame(Cfa::StackPointer(8), SavedFp::AtCfa(-16));
    let go = Sections {
        is_go: true,
        ..both(Frames::eh().function(0, 0x20, &[]), debug())
    };
    let expected = [
        (0, 0x20, sp(8)),
        (0x20, 0x30, framed),
        (0x30, 0x40, sp(8)),
        (0x40, 0x50, saved),
        (0x50, 0x60, Rule::End),
    ];
    check(&Table::of_sections(&go), &expected);
    let other = Sections {
        is_go: false,
        ..debug().sections()
    };
    assert_eq!(
        Lookup::new(&Table::of_sections(&other)).rule(CODE + 0x20),
        sp(8)
    );
    let pure = Sections {
        is_go: true,
        ..debug().sections()
    };
    assert_eq!(
        Lookup::new(&Table::of_sections(&pure)).rule(CODE + 0x20),
        framed
    );
}

#[test]
#[ignore = "a measurement, of use in a release build: rows a second, and memory"]
fn three_million_rows_compile_within_bounds() {
    const FUNCTIONS: u64 = 375_000;
    let words = [1, 2, 3, 10, 3, 2, 1, 2];
    let step = |words: &u8| [DEF_CFA_OFFSET, 8 * words, ADVANCE | 5];
    let body: Vec<u8> = words.iter().flat_map(step).collect();
    let mut frames = Frames::eh();
    for number in 0..FUNCTIONS {
        frames = frames.function(40 * number, 40, &body);
    }
    let mut sections = frames.sections();
    sections.code[0].end = CODE + 40 * FUNCTIONS;
    let before = peak_kib();
    let started = Instant::now();
    let table = Table::of_sections(&sections);
    let compiled = started.elapsed();
    let started = Instant::now();
    let layout = Layout::of(&table, 0, Some);
    let laid_out = started.elapsed();
    let rows = table.rows().len();
    let (peak, kept) = (peak_kib() - before, layout.rows.len());
    writeln!(
        io::stderr(),
        "{rows} rows, {kept} in memory; compiled {:.1} M rows/s, laid out {:.1} M rows/s, {} MiB",
        rows as f64 / compiled.as_secs_f64() / 1e6,
        rows as f64 / laid_out.as_secs_f64() / 1e6,
        peak >> 10
    )
    .unwrap();
    assert_eq!(rows as u64, 8 * FUNCTIONS + 1);
    assert_eq!(layout.overfull_buckets + layout.unnumbered_rows, 0);
    assert!(peak < 128 << 10, "{peak} KiB");
}

/// The most memory that this process ever had, in KiB.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kib.unwrap().parse().unwrap()
}

#[test]
fn a_description_that_only_keeps_states_ends() {
    let busy = [REMEMBER, RESTORE].repeat(100_000);
    let table = Frames::eh().function(0, 0x10, &busy).table();
    check(&table, &[(0, 0x10, sp(8))]);
    let deep = [REMEMBER].repeat(100_000);
    let table = Frames::eh()
        .function(0, 0x10, &deep)
        .function(0x10, 1, &[])
        .table();
    check(
        &table,
        &[(0, 0x10, Rule::NoInformation), (0x10, 0x11, sp(8))],
    );
}

#[test]
fn a_shared_entry_that_takes_long_for_each_function_is_not_used() {
    let table = Frames::eh()
        .shared(b"", &[REMEMBER, RESTORE].repeat(1000))
        .function(0, 0x10, &[])
        .table();
    assert_eq!(table.coverage().inexpressible(Cause::Broken).rows, 1);
    assert_eq!(table.coverage().functions, 0);
}

#[test]
fn rules_tell_of_rbx_in_objects_with_a_cfa_by_it() {
    const RBX_AT: u8 = 0x83;
    let functions = |frames: Frames| {
        frames
            .function(0x20, 0x10, &[DEF_CFA_OFFSET, 16, RBX_AT, 2])
            .function(0x30, 0x10, &[DEF_CFA_OFFSET, 24])
            // Too far from the CFA, and in another register.
            .function(0x40, 0x10, &[DEF_CFA_OFFSET, 32, RBX_AT, 64])
            .function(0x50, 0x10, &[DEF_CFA_OFFSET, 40, REGISTER, RBX, 12])
    };
    let plain = functions(Frames::eh()).table();
    check(
        &plain,
        &[
            (0, 0x20, Rule::NoInformation),
            (0x20, 0x30, sp(16)),
            (0x30, 0x40, sp(24)),
            (0x40, 0x50, sp(32)),
            (0x50, 0x60, sp(40)),
        ],
    );
    let with_rbx = |cfa, rbx| Rule::FrameAndRbx(Base::StackPointer, cfa, SavedFp::Same, rbx);
    let table = functions(Frames::eh().function(0, 0x20, &[DEF_CFA, RBX, 32])).table();
    check(
        &table,
        &[
            (0, 0x20, frame(Cfa::Register(RBX, 32))),
            (0x20, 0x30, with_rbx(16, SavedRbx::BelowCfa(2))),
            (0x30, 0x40, with_rbx(24, SavedRbx::Same)),
            (0x40, 0x50, sp(32)),
            (0x50, 0x60, sp(40)),
        ],
    );
}
