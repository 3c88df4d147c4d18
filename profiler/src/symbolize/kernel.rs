//! The kernel's own names: `/proc/kallsyms` for symbols, `/proc/modules` for what lies where.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
};

use blazesym::{
    MaybeDefault,
    symbolize::{
        Input, Symbolized, Symbolizer,
        source::{Kernel, Source},
    },
};

use super::line;
use crate::profile::{LocationId, Mapping, MappingId, MappingKind, Profile, StringId};

/// What pprof calls the kernel's mapping.
pub(super) const KERNEL_NAME: &str = "[kernel.kallsyms]";

/// Where the kernel's code and that of its modules lies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct KernelLayout {
    text: Option<(u64, u64)>,
    modules: Vec<(u64, u64, String)>,
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

    /// The running kernel's. Empty where the kernel does not tell (kptr_restrict, no CAP_SYSLOG).
    fn of_kernel() -> Self {
        let text = File::open("/proc/kallsyms")
            .ok()
            .and_then(|file| find_text(BufReader::new(file)));
        let modules = fs::read_to_string("/proc/modules")
            .map(|text| parse_modules(&text))
            .unwrap_or_default();
        Self { text, modules }
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

/// The range from `_text` (or `_stext`) to `_etext`.
fn find_text(symbols: impl BufRead) -> Option<(u64, u64)> {
    let mut start = None;
    for symbol in symbols.lines() {
        let symbol = symbol.ok()?;
        let mut fields = symbol.split_ascii_whitespace();
        let (address, _, name) = (fields.next()?, fields.next()?, fields.next()?);
        let address = || {
            u64::from_str_radix(address, 16)
                .ok()
                .filter(|address| *address != 0)
        };
        match name {
            "_text" => start = Some(address()?),
            "_stext" if start.is_none() => start = Some(address()?),
            "_etext" => return Some((start?, address()?)),
            _ => {}
        }
    }
    None
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
    let layout = KernelLayout::of_kernel();
    for (id, address) in addresses {
        if let Some(mapping) = layout.mapping(*address, profile) {
            profile.set_mapping(*id, mapping);
        }
    }
    if !layout.is_known() {
        return KernelNames::Hidden;
    }
    let kernel = Kernel {
        vmlinux: MaybeDefault::None,
        debug_syms: false,
        ..Kernel::default()
    };
    let symbolizer = Symbolizer::builder()
        .enable_demangling(false)
        .enable_code_info(false)
        .enable_inlined_fns(false)
        .build();
    let numbers: Vec<u64> = addresses.iter().map(|(_, address)| *address).collect();
    let symbols = match symbolizer.symbolize(&Source::Kernel(kernel), Input::AbsAddr(&numbers)) {
        Ok(symbols) => symbols,
        Err(error) => {
            log::debug!("no kernel symbols: {error}");
            return KernelNames::Hidden;
        }
    };
    for ((id, _), symbol) in addresses.iter().zip(&symbols) {
        if let Symbolized::Sym(symbol) = symbol
            && (profile.location_at(*id).mapping.is_some() || is_made_at_run_time(&symbol.name))
        {
            let line = line(profile, &symbol.name, None);
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

    #[test]
    fn the_text_lies_between_its_symbols() {
        let symbols = "ffffffff81000000 T _stext\nffffffff81000000 T _text\nffffffff81000100 t x\nffffffff82000000 T _etext\n";
        assert_eq!(
            find_text(symbols.as_bytes()),
            Some((0xffff_ffff_8100_0000, 0xffff_ffff_8200_0000))
        );
        let hidden = "0000000000000000 T _text\n0000000000000000 T _etext\n";
        assert_eq!(find_text(hidden.as_bytes()), None);
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
