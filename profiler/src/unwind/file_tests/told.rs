//! What the code itself tells, where nothing describes it.

use profiler_common::unwind::Base;

use super::*;

/// What the Go runtime has: a frame, the flags, room, and the way back. 16 bytes.
const PREEMPTS: [u8; 16] = [
    0x55, 0x48, 0x89, 0xe5, 0x9c, 0x48, 0x83, 0xec, 0x70, 0x48, 0x83, 0xc4, 0x70, 0x9d, 0x5d, 0xc3,
];

/// The flag of sections that are loaded.
const LOADED: u64 = 2;

/// Code that has these bytes at a place, and does nothing elsewhere.
fn code_with(place: usize, bytes: &[u8]) -> Vec<u8> {
    let mut code = vec![0x90; CODE_BYTES as usize];
    code[place..place + bytes.len()].copy_from_slice(bytes);
    code
}

#[test]
fn where_go_makes_a_goroutine_give_way_is_known_by_its_code() {
    let go = |code: Vec<u8>| {
        let program = Elf::program().with_code(code);
        program.with_note(b"Go\0\0", 4, b"id")
    };
    let unframed = Rule::Injected(Base::StackPointer, 8, SavedFp::Same);
    let saved = SavedFp::AtCfa(-16);
    let rules = [
        (0x40, 0x41, unframed),
        (0x41, 0x44, Rule::Injected(Base::StackPointer, 16, saved)),
        (0x44, 0x4f, Rule::Injected(Base::FramePointer, 16, saved)),
        (0x4f, 0x50, unframed),
    ]
    .map(|(start, end, rule)| (CODE + start, CODE + end, rule));
    let is_known = |(.., rule): &(u64, u64, Rule)| *rule != Rule::NoInformation;
    let found = |elf: Elf| {
        let table = Table::of_file(&elf.file()).unwrap();
        table.ranges().filter(is_known).collect::<Vec<_>>()
    };
    // A stripped one has nothing else.
    assert_eq!(found(go(code_with(0x40, &PREEMPTS))), rules);
    // It counts more than the description, which knows nothing of it.
    let described = go(code_with(0x40, &PREEMPTS));
    let described = described.with(".debug_frame", 0, debug_frame(0x80, 16));
    let framed = Rule::Frame(Cfa::StackPointer(16), SavedFp::WhereFramed);
    let before = (CODE, CODE + 0x40, framed);
    let after = (CODE + 0x50, CODE + 0x80, framed);
    let expected = [&[before], &rules[..], &[after]].concat();
    assert_eq!(found(described), expected);
    // What is not quite it, or no Go.
    let others = [
        go(code_with(0x40, &PREEMPTS[..15])),
        go(code_with(0x40, &PREEMPTS[1..])),
        Elf::program().with_code(code_with(0x40, &PREEMPTS)),
    ];
    for other in others {
        let made = Table::of_file(&other.file());
        assert!(matches!(made, Err(CompileError::NoFrames)), "{made:?}");
    }
}

/// The Go runtime's table of functions, sorted by where they are, and where the code ends. Numbers and
/// offsets have 8 bytes in the older form.
fn go_functions(is_wide: bool, functions: &[(u64, &str)], end: u64) -> Vec<u8> {
    // The form, the smallest instruction and pointers, in bytes.
    let start: u64 = if is_wide { 0xffff_fffa } else { 0xffff_fff1 } | 1 << 48 | 8 << 56;
    let number = |value: u64| match is_wide {
        true => value.to_le_bytes().to_vec(),
        false => (value as u32).to_le_bytes().to_vec(),
    };
    let (mut names, mut entries, mut rows) = (vec![0], Vec::new(), Vec::new());
    let width = number(0).len();
    let rows_bytes = (2 * functions.len() + 1) * width;
    for (start, name) in functions {
        rows.extend(number(*start));
        rows.extend(number((rows_bytes + entries.len()) as u64));
        entries.extend(number(*start));
        entries.extend((names.len() as u32).to_le_bytes());
        names.extend(name.as_bytes());
        names.push(0);
    }
    rows.extend(number(end));
    const NAMES_AT: u64 = 0x48;
    let table_at = NAMES_AT + names.len() as u64;
    let count = functions.len() as u64;
    let mut head = match is_wide {
        true => vec![start, count, 0],
        false => vec![start, count, 0, 0],
    };
    // Units, files and steps are empty.
    head.extend([NAMES_AT, table_at, table_at, table_at, table_at]);
    head.resize(9, 0);
    [words(&head), names, rows, entries].concat()
}

#[test]
fn what_go_does_not_describe_is_found_by_its_table_of_functions() {
    const MSTART: [u8; 6] = [0xe8, 1, 2, 3, 0, 0xc3];
    const CALL_FIRST: [u8; 3] = [0x41, 0xff, 0xd4];
    let mut code = code_with(0x40, &PREEMPTS);
    code[0x60..0x66].copy_from_slice(&MSTART);
    code[0x78..0x7b].copy_from_slice(&CALL_FIRST);
    code[0xb2..0xb6].copy_from_slice(&[0x49, 0x8b, 0x66, 0x38]);
    // The table counts from somewhere else.
    let at = |place: u64| place + 0x1230;
    let functions = [
        (at(0x40), "runtime.asyncPreempt"),
        (at(0x50), "runtime.mstart0"),
        (at(0x60), "runtime.mstart"),
        (at(0x70), "runtime.clone"),
        (at(0x80), "runtime.goexit"),
        (at(0x90), "main.runtime.goexit"),
        (at(0xa0), "runtime.rt0_go"),
        (at(0xb0), "runtime.mcall"),
    ];
    let found = |code: &[u8], table: Vec<u8>| {
        let program = Elf::program().with_code(code.to_vec());
        let go = program.with(".gopclntab", LOADED, table);
        let go = go.with_note(b"Go\0\0", 4, b"id");
        let table = Table::of_file(&go.file()).unwrap();
        let rules = table
            .ranges()
            .filter(|(start, _, rule)| *start >= CODE + 0x50 && *rule != Rule::NoInformation);
        rules
            .map(|(start, end, rule)| (start - CODE, end - CODE, rule))
            .collect::<Vec<_>>()
    };
    let mstart = Rule::Frame(Cfa::StackPointer(8), SavedFp::Same);
    let expected = [
        (0x60, 0x70, mstart),
        (0x78, 0x7b, Rule::End),
        (0x80, 0x90, Rule::End),
        (0xa0, 0xb0, Rule::End),
        (0xb6, 0xc0, Rule::End),
    ];
    for is_wide in [false, true] {
        let table = go_functions(is_wide, &functions, at(0xc0));
        assert_eq!(found(&code, table.clone()), expected, "{is_wide}");
        // A table that is cut tells less, and nothing else.
        for length in 0..table.len() {
            let cut = found(&code, table[..length].to_vec());
            assert!(
                cut.iter().all(|rule| expected.contains(rule)),
                "{length} {cut:x?}"
            );
        }
    }
    // Before Go 1.17 it had a frame.
    code[0x65] = 0x90;
    let table = go_functions(false, &functions, at(0xc0));
    assert_eq!(found(&code, table), expected[1..]);
}

#[test]
fn where_a_process_begins_is_known_by_its_code() {
    const GLIBC: [u8; 12] = [0x48, 0x89, 0xe7, 0xe8, 1, 2, 3, 0, 0x90, 0x41, 0xff, 0xe4];
    const MUSL: [u8; 22] = [
        0x48, 0x31, 0xed, 0x48, 0x89, 0xe7, 0x48, 0x8d, 0x35, 1, 2, 3, 0, 0x48, 0x83, 0xe4, 0xf0,
        0xe8, 1, 2, 3, 0,
    ];
    let check = |place: usize, code: &[u8], described: u64, expected: &[(u64, u64)]| {
        let program = Elf::program().with_code(code_with(place, code));
        let program = program.with(".debug_frame", 0, debug_frame(described, 16));
        let table = Table::of_file(&program.file()).unwrap();
        let ends = table.ranges().filter(|(.., rule)| *rule == Rule::End);
        let ends: Vec<_> = ends
            .map(|(start, end, _)| (start - CODE, end - CODE))
            .collect();
        assert_eq!(ends, expected, "{code:02x?}");
    };
    check(0, &GLIBC, 0, &[(0, 12)]);
    check(0, &MUSL, 0, &[(0, 22)]);
    // What is described is left alone; so is the same code elsewhere, and what goes on otherwise.
    check(0, &GLIBC, 8, &[(8, 12)]);
    check(0, &GLIBC, 16, &[]);
    check(16, &GLIBC, 0, &[]);
    check(0, &GLIBC[..11], 0, &[]);
    check(0, &MUSL[..17], 0, &[]);
}
