//! What is given up on the way: a recording reads files that others wrote, and should by then be
//! able to do little more than that.
//!
//! Capabilities are a thread's own. So each thread gives up for itself, and what it starts later
//! starts with what is left.

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs,
};

use super::Capability;

/// What sampling takes once everything is attached: clocks for CPUs that come, tables, the
/// processes that come, and what naming takes.
pub const SAMPLING: &[Capability] = &[
    Capability::Bpf,
    Capability::Perfmon,
    Capability::IpcLock,
    Capability::SysPtrace,
    Capability::CheckpointRestore,
    Capability::Syslog,
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
];

/// What naming and writing take once the programs are gone: files of others, below the roots of
/// processes, kallsyms, and profiles in the folders of whoever called us.
pub const NAMING: &[Capability] = &[
    Capability::SysPtrace,
    Capability::Syslog,
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
];

/// What fetching files for others takes: theirs are read, and a cache is written.
pub const FETCHING: &[Capability] = &[
    Capability::SysPtrace,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
];

/// What opening files of others takes: those behind mappings, and those below the roots of processes.
pub const OPENING: &[Capability] = &[
    Capability::SysPtrace,
    Capability::CheckpointRestore,
    Capability::DacReadSearch,
];

/// What answering requests takes: who processes are, files of others, and the kernel's addresses. What
/// captures take is their own threads' business.
pub const SERVING: &[Capability] = &[
    Capability::SysPtrace,
    Capability::CheckpointRestore,
    Capability::DacReadSearch,
    Capability::Syslog,
];

/// What reading files of others takes, also below the roots of their processes.
pub const READING: &[Capability] = &[Capability::SysPtrace, Capability::DacReadSearch];

/// Has this thread keep these capabilities, of those that it has, and no others. What it executes
/// gets none that it has not.
///
/// CAP_SYS_ADMIN stays where it stands for one of them that is not there.
pub fn keep_only(needed: &[Capability]) {
    let given_up = capabilities(None).and_then(|held| {
        let kept = kept(held.permitted, needed);
        set_no_new_privs(true)?;
        // What is in the ambient set is in these two, or goes with them.
        set_capabilities(
            None,
            CapabilitySets {
                effective: held.effective & kept,
                permitted: held.permitted & kept,
                inheritable: held.inheritable & kept,
            },
        )
    });
    // Nobody needs a right to have less of it: only a filter of system calls refuses this.
    if let Err(error) = given_up {
        log::warn!("capabilities cannot be given up: {error}");
    }
}

fn kept(held: CapabilitySet, needed: &[Capability]) -> CapabilitySet {
    let mut kept = CapabilitySet::empty();
    for capability in needed {
        if held.contains(capability.set()) {
            kept |= capability.set();
        } else if capability.is_of_admin() {
            kept |= held & Capability::SysAdmin.set();
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set_of(capabilities: &[Capability]) -> CapabilitySet {
        let sets = capabilities.iter().map(|capability| capability.set());
        sets.fold(CapabilitySet::empty(), CapabilitySet::union)
    }

    #[test]
    fn nothing_is_kept_that_is_not_needed_or_was_not_there() {
        let all = CapabilitySet::from_bits_retain(u64::MAX);
        assert_eq!(kept(all, SAMPLING), set_of(SAMPLING));
        assert_eq!(kept(all, &[]), CapabilitySet::empty());
        let four = [
            Capability::Bpf,
            Capability::Perfmon,
            Capability::SysPtrace,
            Capability::CheckpointRestore,
        ];
        assert_eq!(kept(set_of(&four), SAMPLING), set_of(&four));
        let reading = set_of(&[Capability::SysPtrace]);
        assert_eq!(kept(set_of(&four), NAMING), reading);
        assert_eq!(kept(set_of(&four), READING), reading);
    }

    #[test]
    fn the_administrator_stays_where_it_stands_for_another() {
        let held = [Capability::SysAdmin, Capability::SysPtrace];
        assert_eq!(kept(set_of(&held), SAMPLING), set_of(&held));
        let reading = set_of(&[Capability::SysPtrace]);
        assert_eq!(kept(set_of(&held), NAMING), reading);
    }

    #[test]
    fn a_thread_gives_up_for_itself_alone() {
        let before = capabilities(None).unwrap();
        let after = std::thread::spawn(|| {
            keep_only(&[]);
            capabilities(None).unwrap()
        });
        let after = after.join().unwrap();
        assert_eq!(after.permitted | after.effective, CapabilitySet::empty());
        assert_eq!(capabilities(None).unwrap(), before);
    }
}
