//! What pages tell of processes: who they are, and which of them were busy.
//!
//! CPU time is what the kernel counted, in its ticks: two looks at all of `/proc` some time apart
//! tell who used how much of it between them. Nothing is sampled for it.

use std::{
    collections::HashMap,
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use super::problem::Problem;
use crate::target::{Pid, Procfs, Stat};

/// The shortest time between two looks.
pub(super) const LEAST_APART: Duration = Duration::from_millis(500);
/// The longest: what was so long ago says nothing of now.
const MOST_APART: Duration = Duration::from_secs(10);

/// Every process that has not ended.
pub(super) fn every() -> Result<HashMap<Pid, Stat>, Problem> {
    let processes = Procfs::system().processes();
    processes.map_err(|error| Problem::of_process(Pid(1), &error))
}

/// A look at every process.
pub(super) struct Reading {
    at: Instant,
    processes: HashMap<Pid, Stat>,
}

impl Reading {
    /// Looks now.
    pub(super) fn now() -> Result<Self, Problem> {
        Ok(Self {
            at: Instant::now(),
            processes: every()?,
        })
    }

    /// How long ago it was.
    pub(super) fn age(&self) -> Duration {
        self.at.elapsed()
    }

    /// Whether it is too old to compare anything with.
    pub(super) fn is_stale(&self) -> bool {
        self.age() > MOST_APART
    }

    /// What processes did since an earlier look.
    pub(super) fn since(self, earlier: &Self) -> Busy {
        let apart = self.at.duration_since(earlier.at);
        let seconds = apart.as_secs_f64();
        let mut processes: Vec<Used> = self
            .processes
            .iter()
            .map(|(pid, stat)| {
                let before = earlier.processes.get(pid);
                // A later process may have the same pid. What is new has used all it has since.
                let before = before.filter(|before| before.start_time == stat.start_time);
                let before = before.map_or(0, |before| before.cpu_ticks);
                let used = ticks(stat.cpu_ticks.saturating_sub(before));
                Used {
                    pid: *pid,
                    cpus: if seconds > 0.0 {
                        used.as_secs_f64() / seconds
                    } else {
                        0.0
                    },
                    stat: stat.clone(),
                }
            })
            .collect();
        processes.sort_by(|one, other| {
            let by_use = other.cpus.total_cmp(&one.cpus);
            // Of those that did nothing, programs are looked for rather than the kernel's threads.
            let is_kernel = |used: &Used| used.stat.is_kernel_thread();
            let by_kind = is_kernel(one).cmp(&is_kernel(other));
            let by_total = other.stat.cpu_ticks.cmp(&one.stat.cpu_ticks);
            by_use
                .then(by_kind)
                .then(by_total)
                .then(one.pid.cmp(&other.pid))
        });
        Busy {
            reading: self,
            apart,
            processes,
        }
    }
}

/// What processes did for some time, the busiest first.
pub(super) struct Busy {
    /// The later look.
    pub(super) reading: Reading,
    /// How long.
    pub(super) apart: Duration,
    pub(super) processes: Vec<Used>,
}

/// What a process did.
#[derive(Clone)]
pub(super) struct Used {
    pub(super) pid: Pid,
    /// CPUs that it kept busy.
    pub(super) cpus: f64,
    pub(super) stat: Stat,
}

fn ticks(ticks: u64) -> Duration {
    let second = rustix::param::clock_ticks_per_second().max(1);
    Duration::from_nanos(ticks.saturating_mul(1_000_000_000 / second))
}

/// Time on a CPU so far.
pub(super) fn cpu_time(stat: &Stat) -> Duration {
    ticks(stat.cpu_ticks)
}

/// Memory of a process that is in memory, in bytes.
pub(super) fn resident_bytes(stat: &Stat) -> u64 {
    stat.resident_pages * rustix::param::page_size() as u64
}

/// What a letter in `/proc/PID/stat` means. Source: proc_pid_stat(5).
pub(super) fn state_words(state: u8) -> &'static str {
    match state {
        b'R' => "running",
        b'S' => "sleeping",
        b'D' => "waiting for I/O",
        b'T' => "stopped",
        b't' => "traced",
        b'I' => "idle",
        b'P' => "parked",
        b'Z' | b'X' | b'x' => "ended",
        _ => "unknown",
    }
}

/// Names of users, as `/etc/passwd` has them.
pub(super) struct Users(HashMap<u32, String>);

impl Users {
    /// Of this host.
    pub(super) fn of_host() -> Self {
        let text = fs::read("/etc/passwd").unwrap_or_default();
        Self::of_text(&String::from_utf8_lossy(&text))
    }

    /// Rows of `passwd(5)`: name, password, uid, and more. The first of equals counts.
    fn of_text(text: &str) -> Self {
        let mut names = HashMap::new();
        for row in text.lines() {
            let mut fields = row.split(':');
            let (name, uid) = (fields.next(), fields.nth(1));
            if let (Some(name), Some(Ok(uid))) = (name, uid.map(str::parse)) {
                names.entry(uid).or_insert_with(|| name.to_owned());
            }
        }
        Self(names)
    }

    /// The user that a process runs as.
    pub(super) fn of_process(&self, pid: Pid) -> String {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
        // Real, effective, saved, of file accesses.
        let effective = uids.and_then(|uids| uids.split_ascii_whitespace().nth(1)?.parse().ok());
        match effective {
            Some(uid) => self
                .0
                .get(&uid)
                .cloned()
                .unwrap_or_else(|| format!("uid {uid}")),
            None => "?".to_owned(),
        }
    }
}

/// The cgroup of a process: in the tree of version 2, else in one of version 1.
pub(super) fn cgroup_of(pid: Pid) -> Option<String> {
    let rows = Procfs::system().cgroups(pid)?;
    let of_v2 = rows.lines().find_map(|row| row.strip_prefix("0::"));
    let path = of_v2.filter(|path| *path != "/").or_else(|| {
        let paths = rows.lines().filter_map(|row| row.splitn(3, ':').nth(2));
        paths.max_by_key(|path| path.len())
    });
    path.map(str::to_owned)
}

/// The executable of a process.
pub(super) fn executable_of(pid: Pid) -> Option<PathBuf> {
    Procfs::system().executable(pid)
}

/// What is known of a process.
pub(super) fn stat_of(pid: Pid) -> Option<Stat> {
    Procfs::system().stat(pid.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_have_the_first_name_of_their_uid() {
        let users = Users::of_text("root:x:0:0::/:/bin/sh\ntoor:x:0:0::/:\nbroken\nweb:x:33:33\n");
        assert_eq!(users.0[&0], "root");
        assert_eq!(users.0[&33], "web");
        assert_eq!(users.0.len(), 2);
    }

    #[test]
    fn who_worked_between_two_looks_is_the_busiest() {
        let us = Pid(std::process::id());
        let before = Reading::now().unwrap();
        let since = Instant::now();
        while since.elapsed() < Duration::from_millis(300) {
            std::hint::black_box(since);
        }
        let busy = Reading::now().unwrap().since(&before);
        assert!(busy.apart >= Duration::from_millis(300));
        let ours = busy.processes.iter().find(|used| used.pid == us).unwrap();
        assert!(ours.cpus > 0.0 && ours.cpus < 64.0);
        let shares: Vec<f64> = busy.processes.iter().map(|used| used.cpus).collect();
        assert!(shares.is_sorted_by(|one, other| one >= other));
    }
}
