//! Names of addresses, for readers that look them up themselves. Source of the form: `Symbol` in
//! `net/http/pprof`.
//!
//! User addresses are those of one process; kernel addresses are the same for all.

use std::{
    collections::{BTreeMap, HashSet},
    io::{self, Write},
    sync::Arc,
};

use super::{
    answer,
    asked::{Asked, Want},
    kinds::{Answering, Kind},
    problem::Problem,
};
use crate::{
    captures::Target,
    object::{ElfAddr, ObjectId, Objects},
    process::mappings_of,
    symbolize::{Inlines, Settings, functions_at, kernel_functions_at},
    target::Pid,
};

/// The lowest address of the kernel's half.
const KERNEL_START: u64 = 1 << 63;

/// Most addresses of a request, and those of an object that are looked up at a time: a program may
/// have names as long as it likes.
const MOST_ADDRESSES: usize = 16_384;
const AT_ONCE: usize = 256;
/// Most characters of a name.
const MOST_CHARS: usize = 4096;

/// Names by address.
type Names = BTreeMap<u64, String>;

/// The names of addresses.
pub(super) struct Symbol;

impl Kind for Symbol {
    fn name(&self) -> &'static str {
        "symbol"
    }

    fn description(&self) -> &'static str {
        "The functions of addresses, given as 0x401000+0x402000 behind the question mark or in a POST."
    }

    fn takes_posts(&self) -> bool {
        true
    }

    fn answer(self: Arc<Self>, mut asked: Asked) -> Answering {
        Box::pin(async move {
            let body = match asked.want {
                Want::Whole => asked.body().await?,
                Want::Head => Default::default(),
            };
            let mut addresses = addresses(asked.raw_query.as_deref().unwrap_or_default());
            addresses.extend(self::addresses(&String::from_utf8_lossy(&body)));
            if addresses.len() > MOST_ADDRESSES {
                return Err(Problem::bad(format!(
                    "more than {MOST_ADDRESSES} addresses: ask for them in parts"
                )));
            }
            // Each is told once, so that no name is written out thousands of times.
            let mut told = HashSet::new();
            addresses.retain(|address| told.insert(*address));
            let most_bytes = asked.app.policy.limits().answer_bytes;
            let target = asked.target.clone();
            let named = move || {
                let names = names(&target, &addresses)?;
                answer::written(most_bytes, |out| write(&addresses, &names, out))
            };
            Ok(answer::text(asked.app.look(named).await?))
        })
    }
}

/// The numbers in a list with a plus between each two. What is none is passed over.
fn addresses(list: &str) -> Vec<u64> {
    let words = list.trim().split('+').map(str::trim);
    let number = |word: &str| match word.strip_prefix("0x").or(word.strip_prefix("0X")) {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => word.parse().ok(),
    };
    words
        .filter_map(number)
        .filter(|address| *address != 0)
        .collect()
}

/// The names of those that have one.
fn names(target: &Target, addresses: &[u64]) -> Result<Names, Problem> {
    let is_kernel = |address: &u64| *address >= KERNEL_START;
    let (kernel, user): (Vec<u64>, Vec<u64>) = addresses.iter().partition(|at| is_kernel(at));
    let mut names = match target {
        Target::Process(pid) => of_process(*pid, &user)?,
        _ => Names::new(),
    };
    if !kernel.is_empty() {
        let found = kernel.iter().zip(kernel_functions_at(&kernel));
        names.extend(found.filter_map(|(address, name)| Some((*address, name?))));
    }
    Ok(names)
}

/// A line for each address that has a name. How many symbols there are is not told: any number but 0
/// says that there are some.
fn write(addresses: &[u64], names: &Names, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "num_symbols: 1")?;
    for address in addresses {
        if let Some(name) = names.get(address) {
            writeln!(out, "{address:#x} {name}")?;
        }
    }
    Ok(())
}

fn of_process(pid: Pid, addresses: &[u64]) -> Result<Names, Problem> {
    let mut objects = Objects::default();
    let mappings = mappings_of(pid, &mut objects);
    let mappings = mappings.map_err(|error| Problem::of_process(pid, &error))?;
    let mut by_object: BTreeMap<ObjectId, Vec<(u64, ElfAddr)>> = BTreeMap::new();
    for address in addresses {
        let covers = |start: u64, end: u64| (start..end).contains(address);
        let mapping = mappings.iter().find(|m| covers(m.start, m.end));
        if let Some((mapping, object)) = mapping.and_then(|m| Some((m, m.object?))) {
            let place = (*address, mapping.bias.to_elf(*address));
            by_object.entry(object).or_default().push(place);
        }
    }
    // One name an address is all there is room for: that of the function, whatever was inlined.
    let settings = Settings {
        inlines: Inlines::Skip,
        ..Settings::default()
    };
    let mut names = Names::new();
    for (object, places) in by_object {
        for places in places.chunks(AT_ONCE) {
            let elf: Vec<ElfAddr> = places.iter().map(|(_, elf)| *elf).collect();
            let found = functions_at(objects.get(object), &elf, settings);
            for ((address, _), functions) in places.iter().zip(found) {
                let function = functions.into_iter().next_back();
                names.extend(function.map(|function| (*address, printed(&function.name))));
            }
        }
    }
    Ok(names)
}

/// A name on one line, as far as there is room.
fn printed(name: &str) -> String {
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    name.chars().take(MOST_CHARS).map(clean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_stand_in_a_list_with_pluses() {
        assert_eq!(addresses("0x10+0xfF+7"), [16, 255, 7]);
        assert_eq!(addresses(" 0x10\n"), [16]);
        for junk in ["", "+", "x", "0x", "0", "-1", "0xfffffffffffffffff", "a=b"] {
            assert!(addresses(junk).is_empty(), "{junk}");
        }
    }
}
