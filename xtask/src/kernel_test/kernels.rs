//! The kernels that the product is tested under, and where Debian has them.

use crate::kernel_test::suite::Walker;

/// An archive of Debian's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Archive {
    Main,
    Security,
}

/// A kernel that a virtual machine runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kernel {
    /// What it is called here.
    pub(super) name: &'static str,
    /// Its versions begin so; `None` for the newest that the suite has.
    pub(super) series: Option<&'static str>,
    pub(super) suite: &'static str,
    pub(super) archive: Archive,
    /// The walker that the product has to choose there.
    pub(super) walker: Walker,
}

/// Oldest first.
pub(super) const KERNELS: [Kernel; 5] = [
    Kernel {
        name: "5.10",
        series: Some("5.10"),
        suite: "bullseye-security",
        archive: Archive::Security,
        walker: Walker::TailCalls,
    },
    Kernel {
        name: "6.1",
        series: Some("6.1"),
        suite: "bookworm-security",
        archive: Archive::Security,
        walker: Walker::Loop,
    },
    Kernel {
        name: "6.12",
        series: Some("6.12"),
        suite: "trixie-security",
        archive: Archive::Security,
        walker: Walker::Loop,
    },
    Kernel {
        name: "6.18",
        series: Some("6.18"),
        suite: "trixie-backports",
        archive: Archive::Main,
        walker: Walker::Loop,
    },
    Kernel {
        name: "newest",
        series: None,
        suite: "trixie-backports",
        archive: Archive::Main,
        walker: Walker::Loop,
    },
];

/// The kernel of the host itself, under the name that it has here.
pub(super) const HOST: &str = "host";

/// The oldest and the newest.
pub(super) fn ends() -> [Kernel; 2] {
    [KERNELS[0], KERNELS[KERNELS.len() - 1]]
}

/// A kernel by its name.
pub(super) fn named(name: &str) -> Option<Kernel> {
    KERNELS.into_iter().find(|kernel| kernel.name == name)
}

/// Every name that may be asked for.
pub(crate) fn names() -> Vec<&'static str> {
    let names = KERNELS.iter().map(|kernel| kernel.name);
    std::iter::once(HOST).chain(names).collect()
}
