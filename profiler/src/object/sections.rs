//! Which section of an object's code an address lies in, and which function an entry of its
//! procedure linkage table (PLT) leads to.
//!
//! In: a file with section headers. Out: names such as `read@plt`, as disassemblers and debuggers
//! write them. Only what is asked for is read: the entries, and of the relocations and symbols
//! those that belong to them. Every size is the file's claim and is bounded.
//!
//! Source: System V ABI for x86-64, sections 4.4 and 5.2.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    os::unix::fs::FileExt,
};

use object::{
    LittleEndian as Little,
    elf::{self, FileHeader64, SectionHeader64},
    read::{
        ReadCache, ReadRef,
        elf::{FileHeader, SectionHeader},
    },
};

/// The sections whose code is entries of linkage.
const LINKAGE: [&[u8]; 3] = [b".plt", b".plt.sec", b".plt.got"];
/// The sections that tell whose addresses the entries jump by, in the order that they are read in.
const RELOCATIONS: [&[u8]; 2] = [b".rela.plt", b".rela.dyn"];
/// Bytes of an entry where its section does not tell.
const USUAL_ENTRY_BYTES: u64 = 16;
/// The most bytes of an entry.
const MOST_ENTRY_BYTES: u64 = 32;
/// Bytes of `jmp *slot(%rip)`.
const JUMP_BYTES: usize = 6;
/// Bytes of an `Elf64_Rela`.
const RELOCATION_BYTES: usize = 24;
/// Relocations read at a time.
const RELOCATIONS_AT_ONCE: usize = 4096;
/// Most bytes of relocations looked through of one object. A browser has 10 MB of them.
const MOST_RELOCATION_BYTES: u64 = 16 << 20;
/// Bytes of an `Elf64_Sym`.
const SYMBOL_BYTES: u64 = 24;
/// The longest name of a symbol, in bytes.
const MOST_NAME_BYTES: u64 = 4096;

/// Bytes of a section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    address: u64,
    file_offset: u64,
    bytes: u64,
}

impl Place {
    fn of(section: &SectionHeader64<Little>) -> Self {
        Self {
            address: section.sh_addr(Little),
            file_offset: section.sh_offset(Little),
            bytes: section.sh_size(Little),
        }
    }

    fn holds(&self, address: u64) -> bool {
        address
            .checked_sub(self.address)
            .is_some_and(|into| into < self.bytes)
    }
}

/// A section of code.
#[derive(Clone, Copy, Debug)]
struct CodeSection {
    place: Place,
    /// Bytes of its entries, if it has entries of linkage.
    entry_bytes: Option<u64>,
}

/// The sections of an object's code.
#[derive(Debug, Default)]
pub struct CodeSections {
    code: Vec<CodeSection>,
    /// The first section of each name in [`RELOCATIONS`].
    relocations: [Option<Place>; RELOCATIONS.len()],
    /// `.dynsym` and its names.
    symbols: Option<(Place, Place)>,
}

impl CodeSections {
    /// Reads the section headers of a file. None where it has none, or is no ELF file.
    #[must_use]
    pub fn read(file: &File) -> Self {
        Self::of_data(&ReadCache::new(file)).unwrap_or_default()
    }

    fn of_data<'a, R: ReadRef<'a>>(data: R) -> Option<Self> {
        let header = FileHeader64::<Little>::parse(data).ok()?;
        if !header.is_little_endian() || header.e_machine(Little) != elf::EM_X86_64 {
            return None;
        }
        let sections = header.section_headers(Little, data).ok()?;
        // More than this many are numbered in another way, which no linker does for a program.
        let sections = &sections[..sections.len().min(usize::from(u16::MAX))];
        let strings = header.section_strings(Little, data, sections).ok()?;
        let mut found = Self::default();
        for section in sections {
            let name = section.name(Little, strings).unwrap_or_default();
            let flags = section.sh_flags(Little).0;
            if flags & elf::SHF_ALLOC.0 != 0 && flags & elf::SHF_EXECINSTR.0 != 0 {
                found.code.push(CodeSection {
                    place: Place::of(section),
                    entry_bytes: LINKAGE.contains(&name).then(|| entry_bytes(section)),
                });
            }
            let wanted = RELOCATIONS.iter().position(|wanted| *wanted == name);
            if let Some(wanted) = wanted.filter(|_| section.sh_type(Little) == elf::SHT_RELA) {
                found.relocations[wanted].get_or_insert_with(|| Place::of(section));
            }
            if section.sh_type(Little) == elf::SHT_DYNSYM {
                let names = sections.get(section.sh_link(Little) as usize);
                found.symbols = names.map(|names| (Place::of(section), Place::of(names)));
            }
        }
        Some(found)
    }

    /// The section that holds an address.
    fn section_of(&self, address: u64) -> Option<&CodeSection> {
        let mut sections = self.code.iter();
        sections.find(|section| section.place.holds(address))
    }

    /// Whether two addresses lie in one section.
    #[must_use]
    pub fn are_together(&self, one: u64, other: u64) -> bool {
        self.section_of(one)
            .is_some_and(|section| section.place.holds(other))
    }

    /// The names of those addresses that lie in an entry of linkage, as far as the file tells which
    /// function an entry leads to.
    #[must_use]
    pub fn linkage_names(&self, file: &File, addresses: &[u64]) -> HashMap<u64, String> {
        let entries: Vec<(u64, Vec<u64>)> = addresses
            .iter()
            .filter_map(|address| Some((*address, self.slots(file, *address)?)))
            .collect();
        let wanted = entries.iter().flat_map(|(_, slots)| slots).copied();
        let symbols = self.symbols_of_slots(file, &wanted.collect());
        let mut names = HashMap::new();
        for (address, slots) in entries {
            let mut found = slots.iter().filter_map(|slot| symbols.get(slot));
            // Two would mean that entries are shorter than they are said to be.
            if let (Some(symbol), None) = (found.next(), found.next())
                && let Some(name) = self.symbol_name(file, *symbol)
            {
                names.insert(address, format!("{name}@plt"));
            }
        }
        names
    }

    /// The slots that the entry at an address may jump by: wherever the bytes of such a jump are.
    /// Only one that a relocation fills counts.
    fn slots(&self, file: &File, address: u64) -> Option<Vec<u64>> {
        let section = self.section_of(address)?;
        let entry_bytes = section.entry_bytes?;
        let into = address - section.place.address;
        let into = into - into % entry_bytes;
        let length = entry_bytes.min(section.place.bytes - into);
        let mut code = [0; MOST_ENTRY_BYTES as usize];
        let code = &mut code[..length as usize];
        let offset = section.place.file_offset.checked_add(into)?;
        file.read_exact_at(code, offset).ok()?;
        let entry = section.place.address.wrapping_add(into);
        let jumps = code.windows(JUMP_BYTES).enumerate();
        let slots = jumps.filter_map(|(at, jump)| match *jump {
            [0xff, 0x25, a, b, c, d] => {
                let end = entry.wrapping_add((at + JUMP_BYTES) as u64);
                let distance = i32::from_le_bytes([a, b, c, d]);
                Some(end.wrapping_add_signed(i64::from(distance)))
            }
            _ => None,
        });
        Some(slots.collect())
    }

    /// The numbers of the symbols whose addresses are put into slots.
    fn symbols_of_slots(&self, file: &File, slots: &HashSet<u64>) -> HashMap<u64, u32> {
        let mut symbols = HashMap::new();
        let mut block = vec![0; RELOCATION_BYTES * RELOCATIONS_AT_ONCE];
        let mut left = MOST_RELOCATION_BYTES;
        for place in self.relocations.iter().flatten() {
            let mut at = 0;
            let bytes = place.bytes.min(left);
            left -= bytes;
            while at < bytes && symbols.len() < slots.len() {
                let length = (bytes - at).min(block.len() as u64) as usize;
                let offset = place.file_offset.saturating_add(at);
                if file.read_exact_at(&mut block[..length], offset).is_err() {
                    break;
                }
                let (relocations, _) = block[..length].as_chunks::<RELOCATION_BYTES>();
                for relocation in relocations {
                    let slot = word(relocation, 0);
                    let info = word(relocation, 8);
                    let (symbol, kind) = ((info >> 32) as u32, info as u32);
                    let fills =
                        kind == elf::R_X86_64_JUMP_SLOT.0 || kind == elf::R_X86_64_GLOB_DAT.0;
                    if fills && symbol != 0 && slots.contains(&slot) {
                        symbols.insert(slot, symbol);
                    }
                }
                at += length as u64;
            }
        }
        symbols
    }

    /// The name of a dynamic symbol.
    fn symbol_name(&self, file: &File, symbol: u32) -> Option<String> {
        let (symbols, names) = self.symbols?;
        let at = u64::from(symbol) * SYMBOL_BYTES;
        if at >= symbols.bytes {
            return None;
        }
        let mut name = [0; 4];
        let offset = symbols.file_offset.checked_add(at)?;
        file.read_exact_at(&mut name, offset).ok()?;
        let at = u64::from(u32::from_le_bytes(name));
        let length = names.bytes.checked_sub(at)?.min(MOST_NAME_BYTES);
        let mut text = vec![0; length as usize];
        let offset = names.file_offset.checked_add(at)?;
        file.read_exact_at(&mut text, offset).ok()?;
        let end = text.iter().position(|byte| *byte == 0)?;
        text.truncate(end);
        let text = String::from_utf8(text).ok()?;
        (!text.is_empty()).then_some(text)
    }
}

fn entry_bytes(section: &SectionHeader64<Little>) -> u64 {
    match section.sh_entsize(Little) {
        told @ (8 | 16 | MOST_ENTRY_BYTES) => told,
        _ => USUAL_ENTRY_BYTES,
    }
}

fn word(relocation: &[u8; RELOCATION_BYTES], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| relocation[at + i]))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const PLT: u64 = 0x1020;
    const GOT_ENTRIES: u64 = 0x2000;
    const INIT: u64 = 0x1000;
    const HEADER_BYTES: u64 = 64;

    /// `jmp *slot(%rip)` at an address.
    fn jump(address: u64, slot: u64) -> Vec<u8> {
        let distance = slot.wrapping_sub(address + JUMP_BYTES as u64) as u32;
        [&[0xff, 0x25][..], &distance.to_le_bytes()].concat()
    }

    fn words(words: &[u64]) -> Vec<u8> {
        words.iter().copied().flat_map(u64::to_le_bytes).collect()
    }

    /// A relocation that puts the address of a symbol into a slot.
    fn relocation(slot: u64, symbol: u64, kind: u32) -> Vec<u8> {
        words(&[slot, symbol << 32 | u64::from(kind), 0])
    }

    /// Symbols that are elsewhere, and their names.
    fn symbols(names: &[&str]) -> [Vec<u8>; 2] {
        let (mut symbols, mut strings) = (vec![0; SYMBOL_BYTES as usize], vec![0]);
        for name in names {
            symbols.extend((strings.len() as u32).to_le_bytes());
            symbols.resize(symbols.len() + SYMBOL_BYTES as usize - 4, 0);
            strings.extend(name.as_bytes());
            strings.push(0);
        }
        [symbols, strings]
    }

    struct Section {
        name: &'static str,
        kind: u32,
        address: u64,
        entry_bytes: u64,
        bytes: Vec<u8>,
    }

    fn section(name: &'static str, kind: u32, address: u64, bytes: Vec<u8>) -> Section {
        let entry_bytes = match name {
            ".plt" => 16,
            ".plt.got" => 8,
            _ => 0,
        };
        Section {
            name,
            kind,
            address,
            entry_bytes,
            bytes,
        }
    }

    /// A file with these sections, of which `.dynstr` is the first.
    fn file(mut sections: Vec<Section>) -> File {
        sections.insert(0, section("", 0, 0, Vec::new()));
        sections.push(section(".shstrtab", 3, 0, Vec::new()));
        let names: Vec<u8> = sections
            .iter()
            .flat_map(|section| [section.name.as_bytes(), &[0]].concat())
            .collect();
        let last = sections.len() - 1;
        sections[last].bytes = names;
        let (mut body, mut headers, mut name) = (Vec::<u8>::new(), Vec::<u8>::new(), 0u32);
        for section in &sections {
            let offset = HEADER_BYTES + body.len() as u64;
            let flags = if section.address == 0 { 2 } else { 6 };
            let link = u64::from(section.kind == 11);
            headers.extend(name.to_le_bytes());
            headers.extend(section.kind.to_le_bytes());
            let size = section.bytes.len() as u64;
            headers.extend(words(&[flags, section.address, offset, size, link, 1]));
            headers.extend(words(&[section.entry_bytes]));
            body.extend(&section.bytes);
            name += section.name.len() as u32 + 1;
        }
        // ELF, 64 bits, little-endian; a library for x86-64.
        let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
        bytes.resize(16, 0);
        bytes.extend([3, 0, 62, 0, 1, 0, 0, 0]);
        bytes.extend(words(&[0, 0, HEADER_BYTES + body.len() as u64]));
        let shorts = [0, 0, 64, 56, 0, 64, sections.len() as u16, last as u16];
        bytes.extend(shorts.into_iter().flat_map(u16::to_le_bytes));
        bytes.extend(body);
        bytes.extend(headers);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        file
    }

    /// An object with a head of linkage and entries of several linkers.
    fn library() -> File {
        let (jump_slot, address_of) = (elf::R_X86_64_JUMP_SLOT.0, elf::R_X86_64_GLOB_DAT.0);
        let mut plt = vec![0xff, 0x35, 0, 0, 0, 0];
        plt.extend(jump(PLT + 6, 0x4010));
        plt.resize(16, 0x90);
        // As GNU ld and lld write them.
        plt.extend(jump(PLT + 16, 0x4018));
        plt.resize(32, 0x90);
        // With indirect branch tracking.
        plt.extend([0xf3, 0x0f, 0x1e, 0xfa, 0xf2]);
        plt.extend(jump(PLT + 37, 0x4020));
        plt.resize(48, 0x90);
        // As mold writes them: endbr64; mov $1, %r11d; jmp.
        plt.extend([0xf3, 0x0f, 0x1e, 0xfa, 0x41, 0xbb, 1, 0, 0, 0]);
        plt.extend(jump(PLT + 58, 0x4028));
        // Its slot has a relocation without a symbol.
        plt.extend(jump(PLT + 64, 0x4030));
        plt.resize(80, 0x90);
        let mut got = jump(GOT_ENTRIES, 0x4038);
        got.extend([0x66, 0x90]);
        got.extend(jump(GOT_ENTRIES + 8, 0x4040));
        got.extend([0x66, 0x90]);
        let [symbols, names] = symbols(&["read", "write", "close"]);
        let lazy = [(0x4018, 1), (0x4020, 2), (0x4028, 3)]
            .map(|(slot, symbol)| relocation(slot, symbol, jump_slot));
        let eager = [(0x4030, 0), (0x4038, 1), (0x4040, 9)]
            .map(|(slot, symbol)| relocation(slot, symbol, address_of));
        file(vec![
            section(".dynstr", 3, 0, names),
            section(".dynsym", 11, 0, symbols),
            section(".rela.plt", 4, 0, lazy.concat()),
            section(".rela.dyn", 4, 0, eager.concat()),
            section(".init", 1, INIT, vec![0x90; 0x17]),
            section(".plt", 1, PLT, plt),
            section(".plt.got", 1, GOT_ENTRIES, got),
        ])
    }

    #[track_caller]
    fn check(address: u64, expected: Option<&str>) {
        let file = library();
        let names = CodeSections::read(&file).linkage_names(&file, &[address]);
        assert_eq!(names.get(&address).map(String::as_str), expected);
    }

    #[test]
    fn an_entry_has_the_name_of_the_function_that_it_leads_to() {
        check(PLT + 16, Some("read@plt"));
        check(PLT + 31, Some("read@plt"));
        check(PLT + 32, Some("write@plt"));
        check(PLT + 58, Some("close@plt"));
        check(GOT_ENTRIES, Some("read@plt"));
        check(GOT_ENTRIES + 7, Some("read@plt"));
    }

    #[test]
    fn what_leads_to_no_function_that_is_known_has_no_name() {
        // The head, whose slot is the resolver's.
        check(PLT + 6, None);
        // A relocation without a symbol, and with a symbol that is not there.
        check(PLT + 64, None);
        check(GOT_ENTRIES + 8, None);
        // No entry at all.
        check(INIT, None);
        check(PLT - 1, None);
        check(u64::MAX, None);
    }

    #[test]
    fn many_addresses_are_named_at_once() {
        let file = library();
        let wanted = [PLT + 16, PLT + 20, PLT + 33, GOT_ENTRIES + 2, PLT + 6];
        let names = CodeSections::read(&file).linkage_names(&file, &wanted);
        assert_eq!(names.len(), 4);
        assert_eq!(names[&(PLT + 33)], "write@plt");
    }

    /// The name of an entry that has a relocation in one of these sections.
    #[track_caller]
    fn check_relocations(sections: Vec<Section>, expected: Option<&str>) {
        let [symbols, names] = symbols(&["read"]);
        let mut all = vec![
            section(".dynstr", 3, 0, names),
            section(".dynsym", 11, 0, symbols),
            section(".plt", 1, PLT, jump(PLT, 0x4018)),
        ];
        all.extend(sections);
        let file = file(all);
        let names = CodeSections::read(&file).linkage_names(&file, &[PLT]);
        assert_eq!(names.get(&PLT).map(String::as_str), expected);
    }

    #[test]
    fn relocations_are_read_of_the_first_section_of_a_name() {
        let of = |name, relocations| section(name, 4, 0, relocations);
        let it = || relocation(0x4018, 1, elf::R_X86_64_JUMP_SLOT.0);
        let other = || relocation(0x4020, 1, elf::R_X86_64_JUMP_SLOT.0);
        for name in [".rela.plt", ".rela.dyn"] {
            check_relocations(vec![of(name, it()), of(name, other())], Some("read@plt"));
            check_relocations(vec![of(name, other()), of(name, it())], None);
        }
        let both = vec![of(".rela.dyn", other()), of(".rela.plt", it())];
        check_relocations(both, Some("read@plt"));
    }

    #[test]
    fn the_relocations_read_of_one_object_are_bounded() {
        // Three relocations in the section that is read first, and this many before the one.
        let check_behind = |count: u64, expected| {
            let mut late = vec![0; RELOCATION_BYTES * count as usize];
            late.extend(relocation(0x4018, 1, elf::R_X86_64_GLOB_DAT.0));
            let early = vec![0; 3 * RELOCATION_BYTES];
            let sections = [(".rela.dyn", late), (".rela.plt", early)];
            let sections = sections.map(|(name, bytes)| section(name, 4, 0, bytes));
            check_relocations(sections.into(), expected);
        };
        let most = MOST_RELOCATION_BYTES / RELOCATION_BYTES as u64;
        check_behind(most - 4, Some("read@plt"));
        check_behind(most - 3, None);
    }

    #[test]
    fn addresses_of_two_sections_are_not_together() {
        let sections = CodeSections::read(&library());
        assert!(sections.are_together(INIT, INIT + 0x16));
        assert!(!sections.are_together(INIT, INIT + 0x17));
        assert!(!sections.are_together(INIT, PLT));
        assert!(!sections.are_together(0, 1));
    }

    #[test]
    fn a_file_that_is_no_elf_has_no_sections() {
        let sections = CodeSections::read(&File::open("/proc/self/cmdline").unwrap());
        assert!(!sections.are_together(INIT, INIT));
    }
}
