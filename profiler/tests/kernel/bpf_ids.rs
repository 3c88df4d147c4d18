//! What a process holds in the kernel, and whether the kernel still has it.
//!
//! Source: the `fdinfo` of BPF descriptors, `bpf_prog_show_fdinfo` and `bpf_map_show_fdinfo` in
//! the kernel's `kernel/bpf/syscall.c`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
};

/// A program or map, as bpftool names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BpfId {
    /// `prog` or `map`.
    pub(crate) kind: &'static str,
    /// Its number, never given twice.
    pub(crate) number: u64,
}

/// The programs and maps that a process holds.
pub(crate) fn held_by(pid: u32) -> BTreeSet<BpfId> {
    let mut found = BTreeSet::new();
    for info in infos(pid) {
        for (kind, field) in [("prog", "prog_id:"), ("map", "map_id:")] {
            found.extend(numbers(&info, field).map(|number| BpfId { kind, number }));
        }
    }
    found
}

/// How many programs this process has attached to tracepoints.
pub(crate) fn links() -> usize {
    let infos = infos(std::process::id());
    let links: BTreeSet<u64> = infos
        .iter()
        .flat_map(|info| numbers(info, "link_id:").collect::<Vec<u64>>())
        .collect();
    links.len()
}

/// `BPF_PROG_TYPE_PERF_EVENT`. Source: `include/uapi/linux/bpf.h`.
const PERF_EVENT: u64 = 7;

/// How often the programs that clocks run, of those that a process holds, have run: others run
/// whenever somebody forks or maps. Counted while somebody has the kernel measure run times, as a
/// recording does.
pub(crate) fn runs_of(pid: u32) -> u64 {
    let infos = infos(pid);
    // Two descriptors may be of one program.
    let runs: BTreeMap<u64, u64> = infos
        .iter()
        .filter(|info| numbers(info, "prog_type:").next() == Some(PERF_EVENT))
        .filter_map(|info| {
            numbers(info, "prog_id:")
                .zip(numbers(info, "run_cnt:"))
                .next()
        })
        .collect();
    runs.values().sum()
}

/// Whether the kernel still has it.
pub(crate) fn exists(id: &BpfId) -> bool {
    let shown = Command::new("bpftool")
        .args([id.kind, "show", "id", &id.number.to_string()])
        .output();
    shown
        .expect("bpftool is installed: apt-get install bpftool")
        .status
        .success()
}

fn infos(pid: u32) -> Vec<String> {
    // The process, or a descriptor of it, may go while we look.
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fdinfo")) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path()).ok())
        .collect()
}

fn numbers<'a>(info: &'a str, field: &'a str) -> impl Iterator<Item = u64> + 'a {
    info.lines()
        .filter_map(move |line| line.strip_prefix(field)?.trim().parse().ok())
}
