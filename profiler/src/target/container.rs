//! Containers: which cgroup a container's ID or name means.
//!
//! In: the mounted cgroup trees and an ID, whole or its start. Out: the container's cgroup. It asks
//! no container engine; the engines name the cgroups they make after their containers.

use std::{collections::BTreeMap, path::Path};

use super::{
    cgroup::{self, Cgroup, Mount},
    error::TargetError,
};

/// Fewest digits of an ID that we take for one.
pub(super) const MIN_ID_PREFIX: usize = 6;
/// Digits of an ID that are shown, as docker does.
pub(super) const SHORT_ID_CHARS: usize = 12;
/// Fewest digits that whole IDs have: docker, podman, containerd and CRI-O write 64, others 32.
const MIN_ID: usize = 32;

/// The cgroup of the container with this ID (whole, or at least six digits of its start) or name.
/// Kubernetes writes IDs as `containerd://ID`; that is understood too.
pub(super) fn find(mounts: &[Mount], wanted: &str) -> Result<Cgroup, TargetError> {
    let wanted = wanted.split_once("://").map_or(wanted, |(_, id)| id);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    if wanted.is_empty() || !wanted.bytes().all(plain) {
        return Err(TargetError::ImpossibleContainer {
            id: wanted.to_owned(),
        });
    }
    let mut found: BTreeMap<String, Vec<Cgroup>> = BTreeMap::new();
    for cgroup in mounts.iter().flat_map(Mount::walk) {
        if let Some(id) = container_of(&cgroup.directory)
            && matches(id, wanted)
        {
            found.entry(id.to_owned()).or_default().push(cgroup);
        }
    }
    let exact = found.remove(wanted);
    let candidates = match exact {
        Some(cgroups) => cgroups,
        None if found.len() > 1 => {
            return Err(TargetError::AmbiguousContainer {
                id: wanted.to_owned(),
                candidates: found.into_keys().collect(),
            });
        }
        None => found.into_values().next().unwrap_or_default(),
    };
    cgroup::preferred(candidates).ok_or_else(|| TargetError::NoSuchContainer {
        id: wanted.to_owned(),
        mounts: mounts.iter().map(|mount| mount.point.clone()).collect(),
    })
}

/// The ID or name of the container whose cgroup lies here.
pub(super) fn container_of(directory: &Path) -> Option<&str> {
    let name = directory.file_name()?.to_str()?;
    let parent = directory
        .parent()?
        .file_name()
        .and_then(|name| name.to_str());
    // LXC: `lxc.payload.NAME`, before 4.0 `lxc/NAME`.
    if let Some(name) = name.strip_prefix("lxc.payload.") {
        return Some(name);
    }
    if matches!(parent, Some("lxc" | "lxc.payload")) {
        return Some(name);
    }
    let scope = name.strip_suffix(".scope").unwrap_or(name);
    // Docker `docker-ID.scope`, podman `libpod-ID.scope`, CRI-O `crio-ID.scope`, containerd
    // `cri-containerd-ID.scope` or `POD:cri-containerd:ID`, and `ID` alone with each of them.
    let (engine, id) = match scope.rfind(['-', ':']) {
        Some(at) => (&scope[..at], &scope[at + 1..]),
        None => ("", scope),
    };
    if id.len() >= MIN_ID && is_hex(id) {
        // Next to a container's cgroup lies that of its monitor.
        return (!engine.ends_with("conmon")).then_some(id);
    }
    // systemd-nspawn.
    scope.strip_prefix("machine-").filter(|_| scope != name)
}

fn matches(id: &str, wanted: &str) -> bool {
    let prefix = || wanted.len() >= MIN_ID_PREFIX && is_hex(wanted) && is_hex(id);
    let starts = || {
        id.get(..wanted.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(wanted))
    };
    id == wanted || (prefix() && starts())
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::{super::cgroup::tests::Trees, *};

    const A: &str = "c83094317aa162b1c9025de42ec64120c83094317aa162b1c9025de42ec64120";
    const B: &str = "c830943fffa162b1c9025de42ec64120c83094317aa162b1c9025de42ec64120";

    #[track_caller]
    fn check(directory: &str, expected: Option<&str>) {
        let directory = directory.replace("ID", A);
        let found = container_of(Path::new(&directory));
        assert_eq!(found, expected, "{directory}");
    }

    #[test]
    fn every_engine_names_the_cgroup_after_the_container() {
        check("/docker/ID", Some(A));
        check("/system.slice/docker-ID.scope", Some(A));
        check("/machine.slice/libpod-ID.scope", Some(A));
        check("/libpod_parent/libpod-ID", Some(A));
        check("/kubepods/besteffort/pod0f9c-11/ID", Some(A));
        check(
            "/kubepods-besteffort-podx.slice/cri-containerd-ID.scope",
            Some(A),
        );
        check("/kubepods.slice/crio-ID.scope", Some(A));
        check(
            "/kubepods-burstable-pod0f9c.slice:cri-containerd:ID",
            Some(A),
        );
        check("/lxc/web", Some("web"));
        check("/lxc.payload.web-1", Some("web-1"));
        check("/machine.slice/machine-debian.scope", Some("debian"));
    }

    #[test]
    fn other_cgroups_belong_to_no_container() {
        check("/machine.slice/libpod-conmon-ID.scope", None);
        check("/kubepods.slice/crio-conmon-ID.scope", None);
        check("/lxc.monitor.web", None);
        check("/system.slice/nginx.service", None);
        check("/user.slice/user-1000.slice/session-3.scope", None);
        check("/machine.slice", None);
        check("/", None);
    }

    fn trees() -> Trees {
        Trees::hybrid()
            .with(&format!("unified/docker-{A}.scope"), &[7])
            .with(&format!("unified/docker-{A}.scope/{A}"), &[])
            .with(&format!("memory/docker/{A}"), &[7])
            .with(&format!("memory/docker/{B}"), &[8])
            .with("unified/lxc.payload.abcdef", &[9])
    }

    #[track_caller]
    fn check_find(wanted: &str, directory: &str) {
        let trees = trees();
        let found = find(&trees.mounts, wanted).unwrap();
        assert_eq!(found.directory, trees.path(directory));
    }

    #[test]
    fn a_container_is_found_by_its_id_or_the_start_of_it() {
        let in_v2 = format!("unified/docker-{A}.scope");
        check_find(A, &in_v2);
        check_find("c83094317a", &in_v2);
        check_find("C83094317A", &in_v2);
        check_find(&format!("docker://{A}"), &in_v2);
        check_find("c830943ff", &format!("memory/docker/{B}"));
        check_find("abcdef", "unified/lxc.payload.abcdef");
    }

    #[test]
    fn a_start_that_several_ids_share_is_ambiguous() {
        let error = find(&trees().mounts, "c83094").unwrap_err();
        let TargetError::AmbiguousContainer { candidates, .. } = error else {
            panic!("{error}");
        };
        assert_eq!(candidates, [A, B]);
    }

    #[test]
    fn what_no_cgroup_is_named_after_is_no_container() {
        let mounts = &trees().mounts;
        for wanted in ["c8309", "ffffff", "abcde", "nginx"] {
            let error = find(mounts, wanted).unwrap_err();
            assert!(
                matches!(error, TargetError::NoSuchContainer { .. }),
                "{wanted}: {error}"
            );
        }
        for wanted in ["", "a b", "../x", "docker://"] {
            let error = find(mounts, wanted).unwrap_err();
            assert!(
                matches!(error, TargetError::ImpossibleContainer { .. }),
                "{wanted}: {error}"
            );
        }
    }
}
