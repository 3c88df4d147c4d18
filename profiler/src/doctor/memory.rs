//! What memory there is for us: of the host, and of the cgroups that we are in.

use std::path::{Path, PathBuf};

use super::{Finding, Host};
use crate::target::{CgroupMount, CgroupVersion, cgroup_mounts};

/// What a recording of one process takes, in bytes: ours and the kernel's.
const ONE_PROCESS_BYTES: u64 = 60 << 20;
/// What a recording of a whole host takes, in bytes.
const HOST_BYTES: u64 = 150 << 20;
/// From this on a limit of version 1 is none. Source: `PAGE_COUNTER_MAX` in
/// `include/linux/page_counter.h`.
const NO_LIMIT: u64 = 1 << 60;

/// The memory of a cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Bound {
    limit_bytes: u64,
    used_bytes: u64,
    /// The file with the limit.
    file: PathBuf,
}

impl Bound {
    fn room(&self) -> u64 {
        self.limit_bytes.saturating_sub(self.used_bytes)
    }
}

/// Whether a recording has room.
pub(super) fn check(host: &Host<'_>) -> Finding {
    const CHECK: &str = "memory";
    let available = available_bytes(host);
    let tightest = bounds(host).into_iter().min_by_key(Bound::room);
    let bound = tightest.filter(|bound| available.is_none_or(|bytes| bound.room() <= bytes));
    let Some(room) = bound.as_ref().map(Bound::room).or(available) else {
        return Finding::ok(CHECK, "no limit is known");
    };
    let (what, fix) = match &bound {
        None => (
            format!("{} are available", mebibytes(room)),
            "ebpfprof --max-table-memory 16MiB --max-symbol-memory 16MiB, or end what uses it"
                .to_owned(),
        ),
        Some(bound) => (
            format!(
                "our cgroup may have {}, of which {} are free",
                mebibytes(bound.limit_bytes),
                mebibytes(room)
            ),
            format!(
                "echo {} | sudo tee {}",
                bound.used_bytes.next_multiple_of(1 << 20) + HOST_BYTES,
                bound.file.display()
            ),
        ),
    };
    if room < ONE_PROCESS_BYTES {
        let effect = format!(
            "a recording takes up to {} for one process: the kernel may kill it before it has written anything",
            mebibytes(ONE_PROCESS_BYTES)
        );
        Finding::broken(CHECK, what).so(effect, fix)
    } else if room < HOST_BYTES {
        let effect = format!(
            "there is room for one process, and not for a host of many programs, which takes up to {}",
            mebibytes(HOST_BYTES)
        );
        Finding::limited(CHECK, what).so(effect, fix)
    } else {
        Finding::ok(CHECK, what)
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

/// Source: `proc_meminfo(5)`.
fn available_bytes(host: &Host<'_>) -> Option<u64> {
    let text = host.text("/proc/meminfo")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes << 10)
}

/// The limits of our cgroup and of all above it. Source: `cgroups(7)`.
fn bounds(host: &Host<'_>) -> Vec<Bound> {
    let own = host.text("/proc/self/cgroup").unwrap_or_default();
    let mountinfo = host.text("/proc/self/mountinfo").unwrap_or_default();
    let mounts = cgroup_mounts(mountinfo.as_bytes());
    let mut bounds = Vec::new();
    for line in own.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
            continue;
        };
        let version = match controllers {
            "" => CgroupVersion::V2,
            _ if controllers.split(',').any(|name| name == "memory") => CgroupVersion::V1,
            _ => continue,
        };
        let of_version = mounts.iter().filter(|mount| mount.version == version);
        for mount in of_version {
            bounds.extend(bounds_in(host, mount, Path::new(path)));
        }
    }
    bounds
}

/// The limits from a cgroup up to where its tree is mounted.
fn bounds_in(host: &Host<'_>, mount: &CgroupMount, path: &Path) -> Vec<Bound> {
    let below = path
        .strip_prefix(&mount.root)
        .or_else(|_| path.strip_prefix("/"))
        .unwrap_or(path);
    let directory = mount.point.join(below);
    let up = directory.ancestors();
    let in_mount = up.take_while(|directory| directory.starts_with(&mount.point));
    in_mount
        .filter_map(|directory| bound_of(host, directory, mount.version))
        .collect()
}

fn bound_of(host: &Host<'_>, directory: &Path, version: CgroupVersion) -> Option<Bound> {
    let (file, used) = match version {
        CgroupVersion::V2 => ("memory.max", "anon"),
        CgroupVersion::V1 => ("memory.limit_in_bytes", "total_rss"),
    };
    let file = directory.join(file);
    // `max` is none.
    let limit_bytes: u64 = host.text(&file)?.parse().ok()?;
    if limit_bytes >= NO_LIMIT {
        return None;
    }
    // What the kernel can take back, such as files it has read, is no use.
    let stat = host.text(directory.join("memory.stat")).unwrap_or_default();
    let used_bytes = stat.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        (name == used).then(|| value.parse::<u64>().ok())?
    });
    Some(Bound {
        limit_bytes,
        used_bytes: used_bytes.unwrap_or(0),
        file,
    })
}
