//! Names of kernel addresses: those that the kernel prints are those that `/proc/kallsyms` lists.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::Instant,
};

use ebpfprof::{
    bpf::{KernelSymbols, Sampler},
    object::Objects,
    profile::{FrameKind, Profile},
    record::{self, Unwatched},
    symbolize::{Inlines, KernelNames, Origin, Settings, symbolize},
};

use crate::{
    fixture::Fixture,
    library::{request, settings},
    turn,
};

/// Functions of the kernel's text that are looked up, each at its start and in its middle.
const FUNCTIONS: usize = 5_000;

/// The first kernel with `bpf_snprintf`.
const FIRST_THAT_PRINTS: [u32; 2] = [5, 13];

/// Code that kallsyms lists, as its address, name and module (empty for the kernel itself).
struct Listed(Vec<(u64, String, String)>);

impl Listed {
    fn read() -> Self {
        let text = fs::read_to_string("/proc/kallsyms").unwrap();
        let code = text.lines().filter_map(|row| {
            let fields: Vec<&str> = row.split_ascii_whitespace().collect();
            let address = u64::from_str_radix(fields[0], 16).unwrap();
            let module = fields.get(3).copied().unwrap_or_default();
            matches!(fields[1], "T" | "t" | "W" | "w").then(|| {
                assert_ne!(address, 0, "the kernel hides its symbols");
                (address, fields[2].to_owned(), module.to_owned())
            })
        });
        let mut rows: Vec<_> = code.collect();
        rows.sort();
        Self(rows)
    }

    fn address_of(&self, name: &str) -> u64 {
        self.0.iter().find(|row| row.1 == name).unwrap().0
    }

    /// Addresses all over the kernel's text, and in everything that lies outside of it.
    fn addresses(&self) -> BTreeSet<u64> {
        let text = self.address_of("_text")..self.address_of("_etext");
        let starts: BTreeSet<u64> = self.0.iter().map(|row| row.0).collect();
        let starts: Vec<u64> = starts
            .into_iter()
            .filter(|start| text.contains(start))
            .collect();
        let step = (starts.len() / FUNCTIONS).max(1);
        let chosen = starts.windows(2).step_by(step);
        let mut addresses: BTreeSet<u64> = chosen
            .flat_map(|pair| [pair[0], pair[0].midpoint(pair[1])])
            .collect();
        let outside = self.0.iter().filter(|row| !row.2.is_empty());
        addresses.extend(outside.map(|row| row.0));
        addresses
    }

    fn are_aliases(&self, one: &str, other: &str) -> bool {
        let places = |name: &str| -> BTreeSet<u64> {
            let rows = self.0.iter().filter(|row| row.1 == name);
            rows.map(|row| row.0).collect()
        };
        !places(one).is_disjoint(&places(other))
    }
}

/// What a profile says of an address: its name, and the mapping it lies in.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    name: String,
    mapping: Option<(u64, u64, String)>,
}

fn said_of(profile: &Profile) -> BTreeMap<u64, Said> {
    let ids = profile.location_ids();
    let kernel = ids.filter(|id| profile.location_at(*id).kind == FrameKind::Kernel);
    let said = kernel.map(|id| {
        let location = profile.location_at(id);
        let function = profile.function_at(location.lines[0].function);
        let mapping = location.mapping.map(|id| profile.mapping_at(id));
        let said = Said {
            name: profile.text(function.name).to_owned(),
            mapping: mapping.map(|mapping| {
                let path = profile.text(mapping.path).to_owned();
                (mapping.start, mapping.limit, path)
            }),
        };
        (location.address, said)
    });
    said.collect()
}

fn look_up(addresses: &BTreeSet<u64>, printed: Option<&KernelSymbols>) -> BTreeMap<u64, Said> {
    let mut profile = Profile::cpu(1);
    for address in addresses {
        profile.location(FrameKind::Kernel, None, *address);
    }
    let origins: Vec<Origin> = addresses.iter().copied().map(Origin::Kernel).collect();
    let objects = Objects::default();
    let settings = Settings::default();
    let names = symbolize(
        &mut profile,
        &origins,
        &objects.table(std::iter::empty()),
        settings,
        printed,
    )
    .kernel_names;
    assert_eq!(names, KernelNames::Told);
    said_of(&profile)
}

/// A profile of a program that is mostly in system calls.
fn recorded() -> Profile {
    let fixture = Fixture::start("syscalls");
    let ready = record::prepare(request(&fixture, Inlines::Skip)).unwrap();
    let stop = record::Stop::default();
    ready.record(&stop, &mut Unwatched).unwrap().profile
}

fn kernel_prints() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map_while(|part| part.parse().ok());
    let version: [u32; 2] = [numbers.next().unwrap(), numbers.next().unwrap()];
    version >= FIRST_THAT_PRINTS
}

/// Fails unless each address lies in the same mapping and has the same name, or another of the names
/// at the same place: tells how many have.
#[track_caller]
fn check(printed: &BTreeMap<u64, Said>, listed: &BTreeMap<u64, Said>, rows: &Listed) -> usize {
    let mut aliases = 0;
    for (address, said) in printed {
        let expected = &listed[address];
        assert_eq!(said.mapping, expected.mapping, "{address:#x} {said:?}");
        if said.name != expected.name {
            let are_aliases = rows.are_aliases(&said.name, &expected.name);
            assert!(are_aliases, "{address:#x}: {said:?}, {expected:?}");
            aliases += 1;
        }
    }
    aliases
}

#[test]
fn the_kernel_prints_the_names_that_it_lists() {
    let _turn = turn();
    let mut sampler = Sampler::load(&settings(None)).unwrap();
    let rows = Listed::read();
    let addresses = rows.addresses();
    assert!(addresses.len() > FUNCTIONS);
    let numbers: Vec<u64> = addresses.iter().copied().collect();
    let started = Instant::now();
    let Some(printed) = sampler.kernel_symbols(&numbers) else {
        assert!(!kernel_prints(), "the kernel prints no symbols");
        println!("none, as before Linux 5.13");
        return;
    };
    let took = started.elapsed();
    let by_print = look_up(&addresses, Some(&printed));
    let aliases = check(&by_print, &look_up(&addresses, None), &rows);
    println!(
        "{} addresses in {took:?}, {aliases} by an alias",
        addresses.len()
    );
}

#[test]
fn a_profile_has_the_kernels_names_as_it_lists_them() {
    let _turn = turn();
    let recorded = said_of(&recorded());
    assert!(recorded.len() > 20, "{recorded:?}");
    let addresses = recorded.keys().copied().collect();
    check(&recorded, &look_up(&addresses, None), &Listed::read());
}
