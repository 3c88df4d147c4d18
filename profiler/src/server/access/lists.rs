//! Which processes may be profiled, by lists.
//!
//! A target of many processes is looked at as it is now, and refused if one of them is. One that comes
//! later is not looked at: lists by user and by cgroup hold because nobody else gets in there.

use super::super::{config::List, policy::Refusal};
use crate::{
    captures::Target,
    target::{CgroupFilter, Identity, Pid, UserStacks, identity, resolve},
};

/// The lists of a configuration.
#[derive(Debug)]
pub(super) struct Lists {
    allow: List,
    deny: List,
}

impl Lists {
    pub(super) fn new(allow: &List, deny: &List) -> Self {
        Self {
            allow: allow.clone(),
            deny: deny.clone(),
        }
    }

    /// Whether all that a target is now may be profiled.
    pub(super) fn check(&self, target: &Target) -> Result<(), Refusal> {
        if self.allow.is_empty() && self.deny.is_empty() {
            return Ok(());
        }
        let spec = match target {
            Target::Host => {
                return Err(Refusal(
                    "the whole host shows processes that may not be profiled here".to_owned(),
                ));
            }
            Target::Process(pid) => return self.check_process(*pid),
            Target::Comm(_) | Target::Cgroup(_) | Target::Container(_) => target.spec(),
        };
        // What is not there is told by whoever looks for it.
        let Ok(found) = resolve(&spec, UserStacks::No, CgroupFilter::Processes) else {
            return Ok(());
        };
        found
            .pids
            .iter()
            .try_for_each(|pid| self.check_process(*pid))
    }

    fn check_process(&self, pid: Pid) -> Result<(), Refusal> {
        match identity(pid) {
            Some(identity) => self.check_identity(pid, &identity),
            None => Ok(()),
        }
    }

    fn check_identity(&self, pid: Pid, identity: &Identity) -> Result<(), Refusal> {
        if has(&self.deny, identity) {
            return Err(Refusal(format!("pid {pid} may not be profiled here")));
        }
        if !self.allow.is_empty() && !has(&self.allow, identity) {
            return Err(Refusal(format!(
                "pid {pid} is none of those that may be profiled here"
            )));
        }
        Ok(())
    }
}

/// Whether a list names a process, one way or another.
fn has(list: &List, identity: &Identity) -> bool {
    let is_below = |cgroup| identity.cgroups.iter().any(|own| own.starts_with(cgroup));
    list.uids.contains(&identity.uids[0])
        || list.cgroups.iter().any(is_below)
        || list
            .comms
            .iter()
            .any(|comm| comm.as_bytes() == identity.comm)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process() -> Identity {
        Identity {
            uids: [1000, 0, 0],
            comm: b"api".to_vec(),
            cgroups: vec!["/".into(), "/shop.slice/api.service".into()],
        }
    }

    fn uids(uids: &[u32]) -> List {
        List {
            uids: uids.to_vec(),
            ..List::default()
        }
    }

    fn cgroup(path: &str) -> List {
        List {
            cgroups: vec![path.into()],
            ..List::default()
        }
    }

    fn comm(name: &str) -> List {
        List {
            comms: vec![name.to_owned()],
            ..List::default()
        }
    }

    #[track_caller]
    fn check(allow: &List, deny: &List, expected: Option<&str>) {
        let lists = Lists::new(allow, deny);
        let refused = lists.check_identity(Pid(7), &process()).err();
        assert_eq!(refused.map(|refusal| refusal.0).as_deref(), expected);
    }

    #[test]
    fn a_process_is_listed_by_its_user_its_cgroup_or_its_name() {
        let none = List::default();
        let denied = Some("pid 7 may not be profiled here");
        let other = Some("pid 7 is none of those that may be profiled here");
        check(&none, &none, None);
        check(&none, &uids(&[1000]), denied);
        check(&none, &uids(&[0, 1001]), None);
        check(&none, &cgroup("/shop.slice"), denied);
        check(&none, &cgroup("/shop"), None);
        check(&none, &comm("api"), denied);
        check(&comm("api"), &none, None);
        check(&comm("apis"), &none, other);
        check(&cgroup("/shop.slice/api.service"), &none, None);
    }

    #[test]
    fn what_is_denied_stays_denied_when_it_is_allowed_too() {
        let denied = Some("pid 7 may not be profiled here");
        check(&uids(&[1000]), &comm("api"), denied);
    }

    #[test]
    fn lists_refuse_the_whole_host() {
        let lists = Lists::new(&List::default(), &uids(&[33]));
        assert!(lists.check(&Target::Host).is_err());
        let nothing = Lists::new(&List::default(), &List::default());
        assert_eq!(nothing.check(&Target::Host), Ok(()));
    }

    #[test]
    fn a_target_of_many_is_refused_for_one_of_them() {
        let own = identity(Pid(std::process::id())).unwrap();
        let name = String::from_utf8(own.comm).unwrap();
        let lists = Lists::new(&List::default(), &uids(&[own.uids[0]]));
        assert!(lists.check(&Target::Comm(name)).is_err());
        let nobody = Target::Comm("nobody-has-this".to_owned());
        assert_eq!(lists.check(&nobody), Ok(()));
    }
}
