//! Inputs that make a reader keep as much as they can for each of their bytes.

/// Bytes of each input.
const BYTES: usize = 512 << 10;

/// The costly inputs of one target.
pub(crate) fn inputs(target: &str) -> Vec<Vec<u8>> {
    match target {
        "unwind_sections" => vec![common_entries(), functions(), rows()],
        "proc_maps" => vec![
            b"0-1 --x 0 0:0 1\n".repeat(BYTES / 16),
            vec![0xff; BYTES],
            b"\n".repeat(BYTES),
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
