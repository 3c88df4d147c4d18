//! The kernel's own names: `/proc/kallsyms` for symbols, `/proc/modules` for what lies where.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader},
};

use super::line;
use crate::profile::{LocationId, Mapping, MappingId, MappingKind, Profile, StringId};

/// What pprof calls the kernel's mapping.
pub(super) const KERNEL_NAME: &str = "[kernel.kallsyms]";

/// Where the kernel's code and that of its modules lies, and the names of some addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct KernelLayout {
    text: Option<(u64, u64)>,
    modules: Vec<(u64, u64, String)>,
    /// The symbol at or before each of the addresses asked for.
    names: Vec<Option<String>>,
}

/// Whether the kernel tells the names of its code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelNames {
    /// It does, or there was nothing to name.
    Told,
    /// It shows addresses to the privileged alone (kptr_restrict).
    Hidden,
}

impl KernelLayout {
    fn is_known(&self) -> bool {
        self.text.is_some()
    }

    /// The running kernel's, with the names of addresses in ascending order. Empty where the kernel
    /// does not tell (kptr_restrict, no CAP_SYSLOG).
    fn of_kernel(addresses: &[u64]) -> Self {
        // The kernel writes its 200,000 lines anew for each reader, so they are read once.
        let symbols = File::open("/proc/kallsyms")
            .and_then(|file| Self::of_symbols(BufReader::new(file), addresses))
            .unwrap_or_default();
        let modules = fs::read_to_string("/proc/modules")
            .map(|text| parse_modules(&text))
            .unwrap_or_default();
        Self { modules, ..symbols }
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

    /// The mapping of the profile that a kernel address lies in.
    fn mapping(&self, address: u64, profile: &mut Profile) -> Option<MappingId> {
        let covers = |start: u64, end: u64| (start..end).contains(&address);
        let (start, limit, name) = match self.text {
            Some((start, end)) if covers(start, end) => (start, end, KERNEL_NAME.to_owned()),
            _ => {
                let (start, end, name) = self
                    .modules
                    .iter()
                    .find(|(start, end, _)| covers(*start, *end))?;
                (*start, *end, format!("[{name}]"))
            }
        };
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
    named: &mut [bool],
) -> KernelNames {
    if addresses.is_empty() {
        return KernelNames::Told;
    }
    let mut addresses = addresses.to_vec();
    addresses.sort_unstable_by_key(|(_, address)| *address);
    let numbers: Vec<u64> = addresses.iter().map(|(_, address)| *address).collect();
    let layout = KernelLayout::of_kernel(&numbers);
    for (id, address) in &addresses {
        if let Some(mapping) = layout.mapping(*address, profile) {
            profile.set_mapping(*id, mapping);
        }
    }
    if !layout.is_known() {
        return KernelNames::Hidden;
    }
    for ((id, _), name) in addresses.iter().zip(&layout.names) {
        if let Some(name) = name
            && (profile.location_at(*id).mapping.is_some() || is_made_at_run_time(name))
        {
            let line = line(profile, name, None);
            profile.set_lines(*id, vec![line]);
            named[id.index()] = true;
        }
    }
    KernelNames::Told
}

/// Whether a symbol is of code that the kernel makes at run time, outside of its text and modules.
/// kallsyms has no sizes: any other symbol would be the neighbour's.
fn is_made_at_run_time(name: &str) -> bool {
    ["bpf_", "ftrace_", "kprobe_", "__static_call"]
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
