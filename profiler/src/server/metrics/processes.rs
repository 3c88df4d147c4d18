//! CPU seconds of processes, by name and service: those that used the CPUs most of late.
//!
//! In: `/proc/PID/stat` of every process, once a scrape. Out: counters. A counter is the sum over all
//! processes that ever had the name, so it grows when one of them ends too; what a process used
//! between the last scrape and its end is missing.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// How many names are remembered. Beyond it the quietest that no process has are forgotten; one that
/// comes back starts at zero, which is how a counter restarts.
const MOST_NAMES: usize = 4096;

/// After this time half of what was used counts when names are chosen.
const HALF_LIFE: Duration = Duration::from_secs(300);

/// How soon after another a scrape reads nothing.
const PAUSE: Duration = Duration::from_millis(500);

/// What processes are summed up by.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Name {
    pub(super) comm: String,
    /// The unit of systemd that it runs in, without its ending; empty without one.
    pub(super) service: String,
}

/// CPU time of everything with a name.
#[derive(Clone, Copy, Debug, Default)]
struct Used {
    ticks: u64,
    /// Ticks of late.
    recent: f64,
    processes: usize,
}

/// A process that was seen.
#[derive(Clone, Debug)]
struct Seen {
    start_time: u64,
    ticks: u64,
    name: Name,
    /// The scan that it was seen by last.
    scan: u64,
}

/// All that was seen.
#[derive(Debug)]
pub(super) struct Processes {
    root: PathBuf,
    ticks_per_second: u64,
    seen: HashMap<u32, Seen>,
    used: HashMap<Name, Used>,
    scan: u64,
    last: Option<Instant>,
}

impl Processes {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            ticks_per_second: rustix::param::clock_ticks_per_second(),
            seen: HashMap::new(),
            used: HashMap::new(),
            scan: 0,
            last: None,
        }
    }

    /// The busiest names and their CPU seconds, in order of names.
    pub(super) fn busiest(&mut self, count: usize, now: Instant) -> Vec<(Name, f64)> {
        if count > 0 && self.last.is_none_or(|last| now - last >= PAUSE) {
            self.scan(now);
        }
        let mut names: Vec<(&Name, &Used)> = self.used.iter().collect();
        names.sort_by(|(a, used_a), (b, used_b)| {
            let by_use = used_b.recent.total_cmp(&used_a.recent);
            by_use.then_with(|| a.cmp(b))
        });
        names.truncate(count);
        names.sort_by_key(|(name, _)| *name);
        let seconds = names.into_iter().map(|(name, used)| {
            #[expect(clippy::cast_precision_loss, reason = "of years in ticks")]
            let seconds = used.ticks as f64 / self.ticks_per_second as f64;
            (name.clone(), seconds)
        });
        seconds.collect()
    }

    fn scan(&mut self, now: Instant) {
        let passed = self.last.map_or(Duration::ZERO, |last| now - last);
        let kept = (-passed.as_secs_f64() / HALF_LIFE.as_secs_f64()).exp2();
        for used in self.used.values_mut() {
            used.recent *= kept;
            used.processes = 0;
        }
        self.last = Some(now);
        self.scan += 1;
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        for pid in pids.collect::<Vec<u32>>() {
            self.look_at(pid);
        }
        self.seen.retain(|_, seen| seen.scan == self.scan);
        self.forget();
    }

    fn look_at(&mut self, pid: u32) {
        let folder = self.root.join(pid.to_string());
        let stat = fs::read(folder.join("stat")).ok();
        let Some(stat) = stat.as_deref().and_then(Stat::parse) else {
            return;
        };
        let known = self.seen.get(&pid);
        let known = known.filter(|seen| seen.start_time == stat.start_time);
        let (service, before) = match known {
            Some(seen) => (seen.name.service.clone(), seen.ticks),
            None => (service_of(&folder), 0),
        };
        let name = Name {
            comm: String::from_utf8_lossy(stat.comm).into_owned(),
            service,
        };
        let used = self.used.entry(name.clone()).or_default();
        // The kernel corrects its sums downwards at times.
        let more = stat.ticks.saturating_sub(before);
        used.ticks += more;
        #[expect(clippy::cast_precision_loss, reason = "a weight")]
        let recent = more as f64;
        used.recent += recent;
        used.processes += 1;
        let seen = Seen {
            start_time: stat.start_time,
            ticks: stat.ticks.max(before),
            name,
            scan: self.scan,
        };
        self.seen.insert(pid, seen);
    }

    fn forget(&mut self) {
        let surplus = self.used.len().saturating_sub(MOST_NAMES);
        if surplus == 0 {
            return;
        }
        let ended = self.used.iter().filter(|(_, used)| used.processes == 0);
        let mut quiet: Vec<(f64, Name)> = ended
            .map(|(name, used)| (used.recent, name.clone()))
            .collect();
        quiet.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        for (_, name) in quiet.into_iter().take(surplus) {
            self.used.remove(&name);
        }
    }
}

/// What is read of `/proc/PID/stat`. Source: proc_pid_stat(5).
#[derive(Debug, PartialEq, Eq)]
struct Stat<'a> {
    comm: &'a [u8],
    /// Fields 14 and 15, in clock ticks: threads that ended count.
    ticks: u64,
    /// Field 22.
    start_time: u64,
}

impl<'a> Stat<'a> {
    /// The last `)` closes the name, which may hold anything.
    fn parse(text: &'a [u8]) -> Option<Self> {
        let open = text.iter().position(|byte| *byte == b'(')?;
        let close = text.iter().rposition(|byte| *byte == b')')?;
        let comm = text.get(open + 1..close)?;
        let rest = std::str::from_utf8(&text[close + 1..]).ok()?;
        // The first of these is field 3.
        let mut fields = rest.split_ascii_whitespace();
        let user: u64 = fields.nth(14 - 3)?.parse().ok()?;
        let system: u64 = fields.next()?.parse().ok()?;
        let start_time = fields.nth(22 - 16)?.parse().ok()?;
        Some(Self {
            comm,
            ticks: user + system,
            start_time,
        })
    }
}

/// The service whose cgroup a process is in.
fn service_of(folder: &Path) -> String {
    let rows = fs::read_to_string(folder.join("cgroup")).unwrap_or_default();
    rows.lines()
        .find_map(service_in)
        .unwrap_or_default()
        .to_owned()
}

/// The innermost service in a row `number:controllers:path`.
fn service_in(row: &str) -> Option<&str> {
    let path = row.splitn(3, ':').nth(2)?;
    let mut parts = path.rsplit('/');
    parts.find_map(|part| part.strip_suffix(".service"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A made-up `/proc`.
    struct Proc {
        folder: tempfile::TempDir,
        processes: Processes,
        now: Instant,
    }

    impl Proc {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let mut processes = Processes::new(folder.path());
            processes.ticks_per_second = 100;
            Self {
                folder,
                processes,
                now: Instant::now(),
            }
        }

        fn set(&self, pid: u32, comm: &str, ticks: u64, start_time: u64) {
            let folder = self.folder.path().join(pid.to_string());
            fs::create_dir_all(&folder).unwrap();
            let stat = format!(
                "{pid} ({comm}) S 1 7 7 0 -1 0 1 2 3 4 {ticks} 0 9 9 20 0 1 0 {start_time} 1 2\n"
            );
            fs::write(folder.join("stat"), stat).unwrap();
            let cgroup = format!("1:name=systemd:/\n0::/system.slice/{comm}.service/x\n");
            fs::write(folder.join("cgroup"), cgroup).unwrap();
        }

        fn end(&self, pid: u32) {
            fs::remove_dir_all(self.folder.path().join(pid.to_string())).unwrap();
        }

        #[track_caller]
        fn check(&mut self, count: usize, expected: &[(&str, f64)]) {
            self.now += Duration::from_secs(10);
            let busiest = self.processes.busiest(count, self.now);
            let found: Vec<(&str, f64)> = busiest
                .iter()
                .map(|(name, seconds)| (&*name.comm, *seconds))
                .collect();
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_counter_grows_when_processes_end_and_ids_are_used_again() {
        let mut proc = Proc::new();
        proc.set(1, "api", 500, 10);
        proc.set(2, "api", 100, 11);
        proc.check(5, &[("api", 6.0)]);
        proc.end(2);
        proc.check(5, &[("api", 6.0)]);
        // The same id, another process.
        proc.set(2, "api", 50, 99);
        proc.set(1, "api", 700, 10);
        proc.check(5, &[("api", 8.5)]);
        proc.end(1);
        proc.end(2);
        proc.check(5, &[("api", 8.5)]);
    }

    #[test]
    fn a_process_that_runs_another_program_counts_for_its_new_name_from_then_on() {
        let mut proc = Proc::new();
        proc.set(1, "sh", 100, 10);
        proc.check(5, &[("sh", 1.0)]);
        proc.set(1, "api", 300, 10);
        proc.check(5, &[("api", 2.0), ("sh", 1.0)]);
    }

    #[test]
    fn those_that_were_busy_of_late_come_first() {
        let mut proc = Proc::new();
        proc.set(1, "old", 10_000, 10);
        proc.set(2, "new", 0, 11);
        proc.check(1, &[("old", 100.0)]);
        proc.now += Duration::from_secs(7200);
        proc.set(2, "new", 1000, 11);
        proc.check(1, &[("new", 10.0)]);
        proc.check(2, &[("new", 10.0), ("old", 100.0)]);
        proc.check(0, &[]);
    }

    #[test]
    fn names_are_forgotten_when_there_are_too_many_and_no_process_has_them() {
        let mut proc = Proc::new();
        proc.set(1, "alive", 0, 1);
        for number in 0..MOST_NAMES {
            let name = Name {
                comm: format!("gone-{number}"),
                service: String::new(),
            };
            proc.processes.used.insert(name, Used::default());
        }
        proc.check(0, &[]);
        proc.processes.scan(proc.now);
        assert_eq!(proc.processes.used.len(), MOST_NAMES);
        assert!(proc.processes.used.keys().any(|name| name.comm == "alive"));
    }

    #[test]
    fn services_are_known_by_their_cgroup() {
        assert_eq!(service_in("0::/system.slice/db.service"), Some("db"));
        assert_eq!(
            service_in("0::/a.slice/user@1.service/app.slice/x.service"),
            Some("x")
        );
        assert_eq!(service_in("0::/user.slice/session-3.scope"), None);
        assert_eq!(service_in("odd"), None);
    }

    #[test]
    fn names_may_hold_anything() {
        let text = b"7 (a) R (b) S 1 7 7 0 -1 0 1 2 3 4 30 12 9 9 20 0 1 0 4242 1 2\n";
        let stat = Stat::parse(text).unwrap();
        assert_eq!(stat.comm, b"a) R (b");
        assert_eq!((stat.ticks, stat.start_time), (42, 4242));
        assert_eq!(Stat::parse(b"7 (x) S 1"), None);
        assert_eq!(Stat::parse(b")("), None);
    }
}
