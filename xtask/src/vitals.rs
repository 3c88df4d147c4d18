//! What a process has of the host at one moment: memory, descriptors, threads, and what its BPF
//! programs and maps are.
//!
//! Source: `proc_pid_status(5)`, and the `fdinfo` of BPF descriptors, `bpf_prog_show_fdinfo` and
//! `bpf_map_show_fdinfo` in the kernel's `kernel/bpf/syscall.c`.

use std::{fs, path::Path};

use anyhow::{Context, Result};

/// `BPF_PROG_TYPE_PERF_EVENT`. Source: `include/uapi/linux/bpf.h`.
const PERF_EVENT: u64 = 7;
/// Where the links to descriptors of BPF maps and programs lead.
const MAP: &str = "anon_inode:bpf-map";
const PROGRAM: &str = "anon_inode:bpf-prog";

/// One reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Vitals {
    /// Resident memory, in bytes.
    pub(crate) resident_bytes: u64,
    /// Part of it that no file is behind: heap and stacks.
    pub(crate) anonymous_bytes: u64,
    /// Kernel memory of its BPF maps, in bytes.
    pub(crate) map_bytes: u64,
    /// Open descriptors.
    pub(crate) descriptors: u64,
    pub(crate) threads: u64,
}

impl Vitals {
    /// Reads those of a process. Fails when it has ended.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/status");
        let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let field = |name| {
            number_of(&status, name).with_context(|| format!("{path} has no {name} any more"))
        };
        Ok(Self {
            resident_bytes: field("VmRSS:")? << 10,
            anonymous_bytes: field("RssAnon:")? << 10,
            map_bytes: sum_of_maps(&infos(pid, MAP)),
            descriptors: descriptors(pid)?,
            threads: field("Threads:")?,
        })
    }
}

/// How often the programs that clocks run have run, of those that a process holds. It is counted
/// while somebody has the kernel measure run times, as a recording does.
pub(crate) fn clock_runs(pid: u32) -> u64 {
    let infos = infos(pid, PROGRAM);
    let of_clocks = infos
        .iter()
        .filter(|info| number_of(info, "prog_type:") == Some(PERF_EVENT));
    of_clocks
        .filter_map(|info| number_of(info, "run_cnt:"))
        .max()
        .unwrap_or(0)
}

fn descriptors(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/fd");
    let entries = fs::read_dir(&path).with_context(|| format!("cannot read {path}"))?;
    Ok(entries.flatten().count() as u64)
}

/// What the kernel tells of a process's descriptors of one kind.
fn infos(pid: u32, kind: &str) -> Vec<String> {
    // The process, or a descriptor of it, may go while we look.
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return Vec::new();
    };
    let of_kind = entries.flatten().filter(|entry| {
        fs::read_link(entry.path()).is_ok_and(|target| target.as_path() == Path::new(kind))
    });
    let number = of_kind.map(|entry| entry.file_name());
    number
        .filter_map(|number| {
            let path = format!("/proc/{pid}/fdinfo/{}", number.to_string_lossy());
            fs::read_to_string(path).ok()
        })
        .collect()
}

/// The memory of all maps. Several descriptors may be of one.
fn sum_of_maps(infos: &[String]) -> u64 {
    let mut maps: Vec<(u64, u64)> = infos
        .iter()
        .filter_map(|info| Some((number_of(info, "map_id:")?, number_of(info, "memlock:")?)))
        .collect();
    maps.sort_unstable();
    maps.dedup_by_key(|(id, _)| *id);
    maps.iter().map(|(_, bytes)| bytes).sum()
}

/// The number behind a name that a line begins with.
fn number_of(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_counts_once_however_many_descriptors_it_has() {
        let map = |id: u64, bytes: u64| format!("pos:\t0\nmemlock:\t{bytes}\nmap_id:\t{id}\n");
        let infos = [
            map(7, 4096),
            map(8, 100),
            map(7, 4096),
            "pos:\t0\n".to_owned(),
        ];
        assert_eq!(sum_of_maps(&infos), 4196);
    }

    #[test]
    fn a_field_is_found_by_its_name_and_has_a_unit_or_none() {
        let status = "VmRSS:\t  2048 kB\nRssAnon:\t   12 kB\nThreads:\t3\n";
        assert_eq!(number_of(status, "VmRSS:"), Some(2048));
        assert_eq!(number_of(status, "Threads:"), Some(3));
        assert_eq!(number_of(status, "VmSwap:"), None);
    }

    #[test]
    fn a_process_that_runs_has_vitals() {
        let vitals = Vitals::of(std::process::id()).unwrap();
        assert!(vitals.resident_bytes > vitals.anonymous_bytes, "{vitals:?}");
        assert!(vitals.descriptors > 2 && vitals.threads > 0, "{vitals:?}");
        assert_eq!(clock_runs(std::process::id()), 0);
    }
}
