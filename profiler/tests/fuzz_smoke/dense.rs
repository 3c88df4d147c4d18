//! Inputs that make a reader keep as much as they can for each of their bytes.

/// Bytes of each input.
const BYTES: usize = 512 << 10;

/// Bytes of each input that is read and written twice.
const FEWER_BYTES: usize = BYTES / 8;

/// The costly inputs of one target.
pub(crate) fn inputs(target: &str) -> Vec<Vec<u8>> {
    match target {
        "unwind_file" => vec![library()],
        "go_table" => vec![go_program()],
        "unwind_sections" => vec![common_entries(), functions(), rows()],
        "proc_maps" => vec![
            b"0-1 --x 0 0:0 1\n".repeat(BYTES / 16),
            vec![0xff; BYTES],
            b"\n".repeat(BYTES),
        ],
        "perf_map" => vec![
            perf_map_lines(),
            b"1 f a\n".repeat(BYTES / 6),
            vec![b'1'; BYTES],
        ],
        "jitdump" => vec![jitdump_loads(), jitdump_moves()],
        "pprof_file" => vec![
            pprof_places(),
            pprof_samples(),
            [pprof_head(), [0x32, 0].repeat(FEWER_BYTES / 2)].concat(),
        ],
        "folded_text" => vec![
            folded_lines(),
            [b"a;".repeat(FEWER_BYTES / 2), b"a 1\n".to_vec()].concat(),
            [
                b"a;".to_vec(),
                b"a_[i];".repeat(FEWER_BYTES / 6),
                b"a 1\n".to_vec(),
            ]
            .concat(),
        ],
        "rule_word" => vec![1_u64.to_le_bytes().repeat(BYTES / 64)],
        _ => Vec::new(),
    }
}

/// An entry of `.eh_frame`: its length, then what it holds.
/// Source: Linux Standard Base, section 10.6.1.
fn entry(section: &mut Vec<u8>, id: u32, rest: &[u8]) {
    section.extend((4 + rest.len() as u32).to_le_bytes());
    section.extend(id.to_le_bytes());
    section.extend(rest);
}

/// Version 1; augmentation; code and data alignment 1 and -8; the return address in register 16; a
/// CFA of rsp + 8, where the augmentation is empty.
const PLAIN: &[u8] = &[1, 0, 1, 0x78, 16];
/// The same with pointers of 2 bytes (`DW_EH_PE_udata2`), and rules for the CFA and the return
/// address.
const SHORT: &[u8] = &[1, b'z', b'R', 0, 1, 0x78, 16, 1, 2, 0x0c, 7, 8, 0x90, 1];

/// The smallest common entries.
fn common_entries() -> Vec<u8> {
    let mut section = Vec::new();
    while section.len() < BYTES {
        entry(&mut section, 0, PLAIN);
    }
    section
}

/// The smallest functions, one byte of code each.
fn functions() -> Vec<u8> {
    let mut section = Vec::new();
    entry(&mut section, 0, SHORT);
    for number in 0.. {
        if section.len() >= BYTES {
            break;
        }
        let start = 0x1000 + number % 0x3000;
        let [low, high] = (start as u16).to_le_bytes();
        let to_common = section.len() as u32 + 4;
        entry(&mut section, to_common, &[low, high, 1, 0, 0]);
    }
    section
}

/// Functions of the longest range, a row for each of their bytes.
fn rows() -> Vec<u8> {
    let mut section = Vec::new();
    entry(&mut section, 0, SHORT);
    let mut number = 0;
    while section.len() < BYTES {
        // Address 0x1000, 0x3000 bytes; advance by 1, then another CFA, again and again.
        let mut function = vec![0, 0x10, 0, 0x30, 0];
        for row in 0..0x2000_u32 {
            number += 1;
            function.extend([0x41, 0x0e, 8 + (row % 2 + number % 3) as u8]);
        }
        let to_common = section.len() as u32 + 4;
        entry(&mut section, to_common, &function);
    }
    section
}

/// A C library that exports as many functions as fit, all of one name, and whose code is the first
/// byte of a direct call again and again.
fn library() -> Vec<u8> {
    const CODE: u64 = 0x1000;
    let names = b"\0exit\0__libc_start_main\0";
    let code = vec![0xe8; BYTES / 2];
    let mut symbols = vec![0; 24];
    for number in 0..(BYTES / 2 / 24) as u64 {
        let name: u32 = if number == 0 { 6 } else { 1 };
        symbols.extend(name.to_le_bytes());
        // A global function of section 1.
        symbols.extend([0x12, 0, 1, 0]);
        symbols.extend(words(&[CODE + number, 1]));
    }
    // ELF, 64 bits, little-endian; a library for x86-64; one segment, then four sections.
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([3, 0, 62, 0, 1, 0, 0, 0]);
    file.extend(words(&[0, 64, 64 + 56]));
    file.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 64, 0, 4, 0, 3, 0]);
    let mut offset = 64 + 56 + 4 * 64;
    let code_bytes = code.len() as u64;
    file.extend(words(&[1 | 5 << 32, offset, CODE, CODE]));
    file.extend(words(&[code_bytes, code_bytes, 1]));
    // Of each section its kind, flags, address, the one that it links to, and bytes.
    let sections = [
        (0, 0, 0, 0, &[][..]),
        (1, 6, CODE, 0, &code),
        (11, 2, 0, 3, &symbols),
        (3, 0, 0, 0, names),
    ];
    for (kind, flags, address, link, bytes) in sections {
        let length = bytes.len() as u64;
        file.extend(words(&[kind << 32, flags, address, offset]));
        file.extend(words(&[length, link, 1, 0]));
        offset += length;
    }
    file.extend([code, symbols, names.to_vec()].concat());
    file
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().copied().flat_map(u64::to_le_bytes).collect()
}

/// A Go program of one function that has steps of lines, files and inlined calls wherever it can.
/// Source: `pcHeader` and `_func` in Go's `src/runtime/symtab.go` and `src/runtime/runtime2.go`.
fn go_program() -> Vec<u8> {
    const HEAD: u64 = 64 + 3 * 64;
    const TEXT: u64 = 0x80;
    const STEPS_AT: u64 = 72;
    // Up by one and down by one, for a byte of code each; the first byte is of no sequence.
    let mut steps = vec![0];
    steps.extend([2, 1, 1, 1].repeat(BYTES / 4));
    steps.resize(steps.len().next_multiple_of(8), 0);
    let table_at = STEPS_AT + steps.len() as u64;
    let start = 0xffff_fff0 | 1 << 48 | 8 << 56;
    let mut table = words(&[start, 1, 1, TEXT]);
    table.extend(words(&[STEPS_AT, STEPS_AT, STEPS_AT, STEPS_AT, table_at]));
    table.extend(steps);
    let function = [0, 0, 0, 0, 1, 1, 1, 3, 0, 0, 0, 0, 1];
    let numbers = [&[0, 12, BYTES as u32][..], &function].concat();
    table.extend(numbers.into_iter().flat_map(u32::to_le_bytes));
    let names = b"\0.gopclntab\0";
    // ELF, 64 bits, little-endian, for x86-64; no segment, three sections.
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    file.extend(words(&[0, 0, 64]));
    file.extend([0, 0, 0, 0, 64, 0, 56, 0, 0, 0, 64, 0, 3, 0, 2, 0]);
    file.extend([0; 64]);
    let length = table.len() as u64;
    file.extend(words(&[1 | 1 << 32, 2, 0x1000, HEAD, length, 0, 8, 0]));
    file.extend(words(&[3 << 32, 0, 0, HEAD + length, names.len() as u64]));
    file.extend(words(&[0, 1, 0]));
    file.extend([&table[..], names].concat());
    file
}

/// The shortest lines, each of code of its own.
fn perf_map_lines() -> Vec<u8> {
    let mut text = String::new();
    for number in 0.. {
        if text.len() >= BYTES {
            break;
        }
        text.push_str(&format!("{number:x} 1 a\n"));
    }
    text.into_bytes()
}

/// The head of a jitdump of process 7.
/// Source: `tools/perf/Documentation/jitdump-specification.txt` of the kernel.
fn jitdump_head() -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [0x4A69_5444_u32, 1, 40, 62, 0, 7, 0, 0, 0, 0] {
        bytes.extend(word.to_le_bytes());
    }
    bytes
}

/// A record: its kind, then what it holds.
fn jitdump_record(bytes: &mut Vec<u8>, kind: u32, body: &[u8]) {
    bytes.extend(kind.to_le_bytes());
    bytes.extend((16 + body.len() as u32).to_le_bytes());
    bytes.extend(1_u64.to_le_bytes());
    bytes.extend(body);
}

/// The shortest records of code, each elsewhere.
fn jitdump_loads() -> Vec<u8> {
    let mut bytes = jitdump_head();
    for at in 0_u64.. {
        if bytes.len() >= BYTES {
            break;
        }
        let longs = [7, at, at, 1, 0].map(u64::to_le_bytes).concat();
        jitdump_record(&mut bytes, 0, &[&longs[..], b"a\0"].concat());
    }
    bytes
}

/// Code with as many lines as a record of half the input has, which moves on and on.
fn jitdump_moves() -> Vec<u8> {
    let mut bytes = jitdump_head();
    let count = (BYTES / 2 / 17) as u64;
    let mut lines = [0, count].map(u64::to_le_bytes).concat();
    for at in 0..count {
        lines.extend(at.to_le_bytes());
        lines.extend(1_u64.to_le_bytes());
        lines.push(0);
    }
    jitdump_record(&mut bytes, 2, &lines);
    let load = [7, 0, 0, 1, 0].map(u64::to_le_bytes).concat();
    jitdump_record(&mut bytes, 0, &[&load[..], b"a\0"].concat());
    for at in 0_u64.. {
        if bytes.len() >= BYTES {
            break;
        }
        let longs = [7, at + 1, at, at + 1, 1, 0].map(u64::to_le_bytes);
        jitdump_record(&mut bytes, 1, &longs.concat());
    }
    bytes
}

/// A field of a pprof message, shorter than 128 bytes.
fn pprof_field(message: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    message.extend([tag << 3 | 2, bytes.len() as u8]);
    message.extend(bytes);
}

/// A number as three bytes of seven bits.
fn three_bytes(number: usize) -> [u8; 3] {
    [number | 0x80, number >> 7 | 0x80, number >> 14 & 0x7f].map(|byte| byte as u8)
}

/// The empty text, and one type of values.
fn pprof_head() -> Vec<u8> {
    let mut message = Vec::new();
    pprof_field(&mut message, 6, b"");
    pprof_field(&mut message, 1, &[]);
    message
}

/// Places that differ in their address alone, and a sample at each.
fn pprof_places() -> Vec<u8> {
    let mut message = pprof_head();
    for number in 1.. {
        if message.len() >= FEWER_BYTES {
            break;
        }
        let id = three_bytes(number);
        pprof_field(&mut message, 4, &[&[8], &id[..], &[24], &id[..]].concat());
        pprof_field(&mut message, 2, &[&[8], &id[..], &[16, 1]].concat());
    }
    message
}

/// Samples that differ in a label.
fn pprof_samples() -> Vec<u8> {
    let mut message = pprof_head();
    for number in 1.. {
        if message.len() >= FEWER_BYTES {
            break;
        }
        let label = [&[26, 4, 24], &three_bytes(number)[..], &[16, 1]].concat();
        pprof_field(&mut message, 2, &label);
    }
    message
}

/// The shortest lines that differ, each with a frame of its own.
fn folded_lines() -> Vec<u8> {
    let mut text = Vec::new();
    for number in 0.. {
        if text.len() >= FEWER_BYTES {
            break;
        }
        text.extend(format!("{number:x} 1\n").into_bytes());
    }
    text
}
