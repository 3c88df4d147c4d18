//! What a report says of the host and the build that it is about.

use std::{fs, path::Path, process::Command, thread};

use anyhow::Result;

use crate::process::output;

/// The kernel and the CPUs.
pub(crate) fn machine() -> Result<String> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("an unknown CPU", |(_, model)| model);
    let kernel = output(Command::new("uname").arg("-sr"))?;
    Ok(format!("{kernel}, {} CPUs ({model})", cpus()?))
}

/// How many CPUs there are for us.
pub(crate) fn cpus() -> Result<usize> {
    Ok(thread::available_parallelism()?.get())
}

/// The name and version of a build of ebpfprof.
pub(crate) fn version(ebpfprof: &Path) -> Result<String> {
    output(Command::new(ebpfprof).arg("--version"))
}

/// How busy the host is before anything of ours runs.
pub(crate) fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("unknown");
    format!("{load} processes wanted a CPU before the run")
}
