//! What a sample is labelled with: which thread of whom it was, and where it ran.
//!
//! In: samples, soon after they were taken. Out: their labels, as a profile keeps them.

use foldhash::HashMap;

use crate::{
    bpf::{Comm, Sample},
    profile::{Label, LabelKey, LabelValue, Profile, StringId, Thread},
    target::{Memberships, Pid, Tid},
};

/// What samples are sorted by, beyond their stacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelSettings {
    /// The labels that formats write, and so the ones that keep samples apart. The comm always is.
    pub shown: Vec<LabelKey>,
}

/// Makes labels, and remembers the texts in them.
#[derive(Debug)]
pub(super) struct Labeller {
    /// Sorted: as a profile keeps them, so that it need not sort those of each sample.
    shown: Vec<LabelKey>,
    comms: HashMap<Comm, StringId>,
    threads: HashMap<(Comm, Tid), StringId>,
    /// The names of processes, where threads are kept apart.
    processes: HashMap<Pid, StringId>,
    memberships: Memberships,
}

impl Labeller {
    pub(super) fn new(settings: LabelSettings) -> Self {
        let LabelSettings { mut shown } = settings;
        shown.sort_unstable();
        shown.dedup();
        Self {
            shown,
            comms: HashMap::default(),
            threads: HashMap::default(),
            processes: HashMap::default(),
            memberships: Memberships::of_host(),
        }
    }

    /// The labels of a sample, in the order of their keys.
    pub(super) fn labels(&mut self, profile: &mut Profile, sample: &Sample) -> Vec<Label> {
        let comm = self.comm(profile, sample);
        let mut labels = Vec::with_capacity(1 + self.shown.len());
        labels.push((LabelKey::Comm, LabelValue::Text(comm)));
        for i in 0..self.shown.len() {
            let key = self.shown[i];
            let number = |profile: &mut Profile, value: u32| {
                let unit = key.own_name().unwrap_or_default();
                LabelValue::Number(i64::from(value), profile.string(unit))
            };
            let value = match key {
                // The comm stands there already, and no recording knows the keys of others.
                LabelKey::Comm | LabelKey::Foreign(_) => continue,
                LabelKey::Pid => number(profile, sample.pid.0),
                LabelKey::Tid => number(profile, sample.tid.0),
                LabelKey::Cpu => number(profile, sample.cpu),
                LabelKey::Cgroup => LabelValue::Text(self.cgroup(profile, sample)),
                LabelKey::Container => LabelValue::Text(self.container(profile, sample)),
                LabelKey::Thread => LabelValue::Text(self.thread(profile, sample)),
            };
            labels.push((key, value));
        }
        labels
    }

    fn comm(&mut self, profile: &mut Profile, sample: &Sample) -> StringId {
        *self
            .comms
            .entry(sample.comm)
            .or_insert_with(|| profile.string(&sample.comm.text()))
    }

    /// The thread that a sample is of.
    pub(super) fn thread_of(&mut self, profile: &mut Profile, sample: &Sample) -> Thread {
        let Sample { pid, tid, .. } = *sample;
        let name = self.comm(profile, sample);
        let process = if pid.0 == tid.0 {
            self.processes.insert(pid, name);
            name
        } else {
            *self
                .processes
                .entry(pid)
                .or_insert_with(|| profile.string(&name_of(pid).unwrap_or_default()))
        };
        Thread {
            pid: pid.0,
            tid: tid.0,
            name,
            process,
        }
    }

    fn cgroup(&mut self, profile: &mut Profile, sample: &Sample) -> StringId {
        match self.memberships.cgroup(sample.pid, sample.cgroup_id) {
            Some(path) => profile.string(&path.to_string_lossy()),
            None => profile.string(&format!("cgroup id {}", sample.cgroup_id)),
        }
    }

    /// Empty outside of containers: formats leave it out.
    fn container(&mut self, profile: &mut Profile, sample: &Sample) -> StringId {
        let Sample {
            pid,
            cgroup_id,
            time_ns,
            ..
        } = *sample;
        match self.memberships.container(pid, cgroup_id, time_ns) {
            Some(id) => profile.string(&id),
            None => StringId::EMPTY,
        }
    }

    fn thread(&mut self, profile: &mut Profile, sample: &Sample) -> StringId {
        *self
            .threads
            .entry((sample.comm, sample.tid))
            .or_insert_with(|| profile.string(&format!("{} {}", sample.comm.text(), sample.tid)))
    }
}

/// The name of a process's first thread, if the process is still there.
fn name_of(pid: Pid) -> Option<String> {
    let name = std::fs::read(format!("/proc/{pid}/comm")).ok()?;
    let name = name.strip_suffix(b"\n").unwrap_or(&name);
    Some(String::from_utf8_lossy(name).into_owned())
}
