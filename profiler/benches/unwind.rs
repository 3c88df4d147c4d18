//! Unwind tables: how fast they are compiled, searched, and how fast a rule leads to a caller.
//!
//! All three run on the C library that this program itself runs with.

use std::{
    fs::{self, File},
    hint::black_box,
    path::PathBuf,
};

use divan::{Bencher, counter::ItemsCount};
use ebpfprof::unwind::{Lookup, Table};
use profiler_common::{
    step::{Depth, Registers, UserMemory},
    unwind::{NoOthers, Rule, caller_by_rule},
};

/// Addresses searched, and steps made, in one go.
const BATCH: usize = 4096;

fn main() {
    divan::main();
}

/// The C library's file.
fn libc() -> File {
    let maps = fs::read_to_string("/proc/self/maps").expect("every process has maps");
    let path = maps
        .lines()
        .filter_map(|line| line.find('/').map(|at| PathBuf::from(&line[at..])))
        .find(|path| path.ends_with("libc.so.6"))
        .expect("this program is linked with the C library");
    File::open(path).expect("what is mapped can be opened")
}

fn libc_table() -> Table {
    Table::of_file(&libc()).expect("the C library has call frame information")
}

/// Addresses of code, far from each other (a Weyl sequence).
fn addresses(table: &Table) -> Vec<u64> {
    let span = table.rows().last().map_or(1, |row| u64::from(row.offset));
    let address = |number: u64| table.base() + number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % span;
    (0..BATCH as u64).map(address).collect()
}

/// A stack whose words are addresses in it, so that every step can be made.
struct Stack;

impl UserMemory for Stack {
    fn read<const N: usize>(&self, address: u64) -> Option<[u8; N]> {
        let word = (address | 1 << 40).to_ne_bytes();
        Some(std::array::from_fn(|byte| word[byte % 8]))
    }
}

/// Compiles the table; items are rows.
#[divan::bench]
fn compile(bencher: Bencher<'_, '_>) {
    let file = libc();
    let rows = libc_table().rows().len();
    bencher
        .counter(ItemsCount::new(rows))
        .bench_local(|| Table::of_file(black_box(&file)).is_ok());
}

/// Finds the rule for addresses all over the code; items are addresses.
#[divan::bench]
fn search(bencher: Bencher<'_, '_>) {
    let table = libc_table();
    let (lookup, addresses) = (Lookup::new(&table), addresses(&table));
    bencher.counter(ItemsCount::new(BATCH)).bench_local(|| {
        let rules = addresses.iter().map(|address| lookup.rule(*address));
        rules.filter(|rule| *rule != Rule::NoInformation).count()
    });
}

/// From a frame to its caller, by the rule that was found; items are steps.
#[divan::bench]
fn step(bencher: Bencher<'_, '_>) {
    let table = libc_table();
    let lookup = Lookup::new(&table);
    let found = |address: &u64| (*address, lookup.rule(*address));
    let rules: Vec<(u64, Rule)> = addresses(&table).iter().map(found).collect();
    bencher.counter(ItemsCount::new(BATCH)).bench_local(|| {
        let steps = rules.iter().map(|(pc, rule)| {
            let callee = black_box(Registers {
                pc: *pc,
                sp: 1 << 40,
                fp: (1 << 40) + 64,
            });
            caller_by_rule(*rule, callee, Depth::Caller, &NoOthers, &Stack)
        });
        steps.filter(Result::is_ok).count()
    });
}
