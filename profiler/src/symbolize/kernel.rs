//! The kernel's own names: what it prints of its addresses, else `/proc/kallsyms`; and what lies
//! where.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader},
    sync::OnceLock,
};

use super::{Known, named_line};
use crate::{
    bpf::KernelSymbols,
    profile::{LocationId, Mapping, MappingId, MappingKind, Profile, StringId},
    unnamed::Reason,
};

/// What pprof calls the kernel's mapping.
pub const KERNEL_NAME: &str = "[kernel.kallsyms]";

/// Where the kernel's code and that of its modules lies, and the names of some addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct KernelLayout {
    text: Option<(u64, u64)>,
    modules: Vec<(u64, u64, String)>,
    /// The symbol that kallsyms has at or before each of the addresses asked for, if it was read.
    names: Vec<Option<String>>,
}

/// Whether the kernel tells the names of its code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelNames {
    /// It does, or there was nothing to name.
    Told,
    /// It prints them, and shows to the privileged alone where its code lies.
    Unplaced,
    /// It shows addresses to the privileged alone (kptr_restrict).
    Hidden,
}

impl KernelLayout {
    fn is_known(&self) -> bool {
        self.text.is_some()
    }

    /// The running kernel's, with the names of addresses in ascending order as far as the kernel did
    /// not print them. Empty where it does not tell (kptr_restrict, no CAP_SYSLOG).
    fn of_kernel(addresses: &[u64], printed: Option<&KernelSymbols>) -> Self {
        let mut layout = Self {
            text: None,
            modules: fs::read_to_string("/proc/modules")
                .map(|text| parse_modules(&text))
                .unwrap_or_default(),
            names: vec![None; addresses.len()],
        };
        if let Some(printed) = printed {
            let start = symbols().and_then(text_start).unwrap_or_default();
            layout.text = start
                .zip(text_bytes())
                .map(|(start, bytes)| (start, start + bytes));
            let is_told =
                |address: &u64| printed.contains_key(address) || layout.place(*address).is_some();
            // Without a start the kernel hides its addresses: there is nothing more to read.
            if start.is_none() || (layout.is_known() && addresses.iter().all(is_told)) {
                return layout;
            }
        }
        // The kernel writes its 200,000 lines anew for each reader: they are read once, by need.
        match symbols().and_then(|rows| Self::of_symbols(rows, addresses)) {
            Ok(read) => Self {
                modules: layout.modules,
                ..read
            },
            Err(_) => layout,
        }
    }

    /// Reads rows of `/proc/kallsyms`: address, type, name, module. They need not be in order.
    fn of_symbols(mut symbols: impl BufRead, addresses: &[u64]) -> io::Result<Self> {
        let (mut start, mut end) = (None, None);
        // For each address the last symbol at or before it, among those behind the address before.
        let mut last: Vec<(u64, Vec<u8>)> = vec![(0, Vec::new()); addresses.len()];
        let mut row = Vec::new();
        while symbols.read_until(b'\n', &mut row)? != 0 {
            if let Some((symbol, kind, name)) = parse_symbol(row.trim_ascii_end()) {
                match name {
                    b"_text" => start = Some(symbol),
                    b"_stext" => start = start.or(Some(symbol)),
                    b"_etext" => end = Some(symbol),
                    _ => {}
                }
                let first = addresses.partition_point(|address| *address < symbol);
                let is_code = matches!(kind, b'T' | b't' | b'W' | b'w');
                if let Some((old, old_name)) = last.get_mut(first).filter(|_| is_code)
                    && *old < symbol
                {
                    *old = symbol;
                    old_name.clear();
                    old_name.extend_from_slice(name);
                }
            }
            row.clear();
        }
        let mut carried = (0, Vec::new());
        let names = last.into_iter().map(|own| {
            if own.0 > carried.0 {
                carried = own;
            }
            let (symbol, name) = &carried;
            (*symbol != 0).then(|| String::from_utf8_lossy(name).into_owned())
        });
        Ok(Self {
            names: names.collect(),
            text: start.zip(end),
            modules: Vec::new(),
        })
    }

    /// The part of the kernel that an address lies in: its range and name.
    fn place(&self, address: u64) -> Option<(u64, u64, String)> {
        let covers = |start: u64, end: u64| (start..end).contains(&address);
        match self.text {
            Some((start, end)) if covers(start, end) => Some((start, end, KERNEL_NAME.to_owned())),
            _ => {
                let (start, end, name) = self
                    .modules
                    .iter()
                    .find(|(start, end, _)| covers(*start, *end))?;
                Some((*start, *end, format!("[{name}]")))
            }
        }
    }

    /// The mapping of the profile that a kernel address lies in.
    fn mapping(&self, address: u64, profile: &mut Profile) -> Option<MappingId> {
        let (start, limit, name) = self.place(address)?;
        let path = profile.string(&name);
        Some(profile.mapping(Mapping {
            kind: MappingKind::Kernel,
            start,
            limit,
            file_offset: 0,
            path,
            build_id: StringId::EMPTY,
        }))
    }
}

/// Bytes of the running kernel's text, read once: showing them takes CAP_SYS_ADMIN, which goes before
/// names are looked up.
pub(crate) fn text_bytes() -> Option<u64> {
    static BYTES: OnceLock<Option<u64>> = OnceLock::new();
    let read = || code_bytes(&fs::read_to_string("/proc/iomem").ok()?);
    *BYTES.get_or_init(read)
}

/// The functions of kernel addresses by `/proc/kallsyms`, where it tells; none that would be the
/// neighbour's.
#[must_use]
pub fn kernel_functions_at(addresses: &[u64]) -> Vec<Option<String>> {
    let mut sorted = addresses.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let layout = KernelLayout::of_kernel(&sorted, None);
    let named = |address: &u64| {
        let at = sorted.binary_search(address).ok()?;
        let name = layout.names.get(at)?.as_ref()?;
        let is_own = layout.place(*address).is_some() || is_made_at_run_time(name);
        is_own.then(|| name.clone())
    };
    addresses.iter().map(named).collect()
}

fn symbols() -> io::Result<BufReader<File>> {
    Ok(BufReader::new(File::open("/proc/kallsyms")?))
}

/// Where the kernel's text starts, by rows of `/proc/kallsyms`. They are in the order of addresses,
/// so it is among the first.
fn text_start(mut symbols: impl BufRead) -> io::Result<Option<u64>> {
    let mut row = Vec::new();
    while symbols.read_until(b'\n', &mut row)? != 0 {
        let fields = row.trim_ascii_end();
        if fields.ends_with(b" _text") {
            return Ok(parse_symbol(fields).map(|(address, ..)| address));
        }
        row.clear();
    }
    Ok(None)
}

/// Bytes of the kernel's text, by rows of `/proc/iomem`. `None` where the kernel hides them.
/// Source: `code_resource` in `arch/x86/kernel/setup.c` lies from `_text` up to `_etext`.
fn code_bytes(rows: &str) -> Option<u64> {
    let range = rows
        .lines()
        .find_map(|row| row.trim_start().strip_suffix(" : Kernel code"))?;
    let (first, last) = range.split_once('-')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    let (first, last) = (number(first)?, number(last)?);
    (first < last).then(|| last - first + 1)
}

/// A row's address, type and name. `None` for addresses that the kernel hides.
fn parse_symbol(row: &[u8]) -> Option<(u64, u8, &[u8])> {
    let mut fields = row.split(|byte| matches!(byte, b' ' | b'\t'));
    let (address, kind, name) = (fields.next()?, fields.next()?, fields.next()?);
    let address = u64::from_str_radix(str::from_utf8(address).ok()?, 16).ok()?;
    (address != 0).then_some((address, *kind.first()?, name))
}

/// Rows of `/proc/modules`: name, size, references, users, state, address.
fn parse_modules(text: &str) -> Vec<(u64, u64, String)> {
    text.lines()
        .filter_map(|row| {
            let fields: Vec<&str> = row.split_ascii_whitespace().collect();
            let size: u64 = fields.get(1)?.parse().ok()?;
            let start = u64::from_str_radix(fields.get(5)?.strip_prefix("0x")?, 16).ok()?;
            (start != 0).then(|| (start, start + size, (*fields[0]).to_owned()))
        })
        .collect()
}

/// Names kernel addresses, and tells where they lie.
pub(super) fn symbolize(
    profile: &mut Profile,
    addresses: &[(LocationId, u64)],
    printed: Option<&KernelSymbols>,
    known: &mut [Known],
) -> KernelNames {
    if addresses.is_empty() {
        return KernelNames::Told;
    }
    let mut addresses = addresses.to_vec();
    addresses.sort_unstable_by_key(|(_, address)| *address);
    let numbers: Vec<u64> = addresses.iter().map(|(_, address)| *address).collect();
    let layout = KernelLayout::of_kernel(&numbers, printed);
    for (id, address) in &addresses {
        if let Some(mapping) = layout.mapping(*address, profile) {
            profile.set_mapping(*id, mapping);
        }
    }
    if printed.is_none() && !layout.is_known() {
        for (id, _) in &addresses {
            known[id.index()] = Known::Unnamed(Reason::KernelHidden);
        }
        return KernelNames::Hidden;
    }
    for ((id, address), listed) in addresses.iter().zip(&layout.names) {
        let listed = listed.as_ref().filter(|name| match printed {
            Some(_) => is_listed_only(name),
            None => profile.location_at(*id).mapping.is_some() || is_made_at_run_time(name),
        });
        if let Some(name) = printed.and_then(|names| names.get(address)).or(listed) {
            let line = named_line(profile, name);
            profile.set_lines(*id, vec![line]);
            known[id.index()] = Known::Named;
        } else if is_in_module(profile, *id) {
            known[id.index()] = Known::Unnamed(Reason::KernelModule);
        }
    }
    if layout.is_known() {
        KernelNames::Told
    } else {
        KernelNames::Unplaced
    }
}

fn is_in_module(profile: &Profile, id: LocationId) -> bool {
    let mapping = profile.location_at(id).mapping;
    mapping.is_some_and(|mapping| profile.text(profile.mapping_at(mapping).path) != KERNEL_NAME)
}

/// Whether a symbol is of code that the kernel makes at run time, outside of its text and modules.
/// kallsyms has no sizes: any other symbol would be the neighbour's.
fn is_made_at_run_time(name: &str) -> bool {
    ["bpf_", "ftrace_", "kprobe_", "__static_call"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

/// Whether a symbol is of code that kallsyms lists and the kernel does not find by an address.
/// Source: `ftrace_get_trampoline_kallsym` in `kernel/trace/ftrace.c`, `kprobe_get_kallsym` in
/// `kernel/kprobes.c`.
fn is_listed_only(name: &str) -> bool {
    ["ftrace_", "kprobe_"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(symbols: &[u8], addresses: &[u64]) -> KernelLayout {
        KernelLayout::of_symbols(symbols, addresses).unwrap()
    }

    #[test]
    fn the_text_lies_between_its_symbols() {
        let text = |symbols: &str| of(symbols.as_bytes(), &[]).text;
        let symbols = "ffffffff81000000 T _stext\nffffffff81000000 T _text\nffffffff81000100 t x\nffffffff82000000 T _etext\n";
        assert_eq!(
            text(symbols),
            Some((0xffff_ffff_8100_0000, 0xffff_ffff_8200_0000))
        );
        let hidden = "0000000000000000 T _text\n0000000000000000 T _etext\n";
        assert_eq!(text(hidden), None);
    }

    #[test]
    fn the_text_starts_at_its_symbol_and_is_as_long_as_its_code() {
        let start = |symbols: &str| text_start(symbols.as_bytes()).unwrap();
        let symbols = "0000000000000000 A __per_cpu_start\nffffffff81000000 T _stext\nffffffff81000000 T __pi__text\nffffffff81000000 T _text\nnever read";
        assert_eq!(start(symbols), Some(0xffff_ffff_8100_0000));
        assert_eq!(start("0000000000000000 T _text\n"), None);
        assert_eq!(start("ffffffff81000000 T _stext\n"), None);
        let shown = "00001000-0009fbff : System RAM\n00100000-3fffffff : System RAM\n  01000000-0220bb07 : Kernel code\n  03000000-0327c13f : Kernel data\n";
        assert_eq!(code_bytes(shown), Some(0x120_bb08));
        let hidden = "00000000-00000000 : System RAM\n  00000000-00000000 : Kernel code\n";
        assert_eq!(code_bytes(hidden), None);
        assert_eq!(code_bytes(""), None);
    }

    #[test]
    fn an_address_has_the_name_of_the_last_function_before_it() {
        let symbols = b"1000 T one\n3000 t three\n3000 t alias\n3008 d data\n2000 t two\t[module]\nnonsense\n";
        let names = of(symbols, &[0x500, 0x1000, 0x1fff, 0x2500, 0x9000]);
        let names: Vec<Option<&str>> = names.names.iter().map(Option::as_deref).collect();
        let expected = [None, Some("one"), Some("one"), Some("two"), Some("three")];
        assert_eq!(names, expected);
    }

    #[test]
    fn modules_have_ranges() {
        let rows = "nf_tables 311296 10 - Live 0xffffffffc0a00000\nhidden 100 0 - Live 0x0000000000000000\n";
        assert_eq!(
            parse_modules(rows),
            [(
                0xffff_ffff_c0a0_0000,
                0xffff_ffff_c0a0_0000 + 311_296,
                "nf_tables".to_owned()
            )]
        );
    }
}
