//! Packages of Debian and Ubuntu: which are needed, and their installation.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process::{find, is_root, output, run};

/// A program that the checks and tests call.
struct Needed {
    /// The program that proves the package.
    program: &'static str,
    /// The packages that bring it, of which the first that the distribution has is taken.
    packages: &'static [&'static str],
    /// What calls it.
    reason: &'static str,
}

const NEEDED: [Needed; 20] = [
    Needed {
        program: "cc",
        packages: &["build-essential"],
        reason: "C fixtures",
    },
    Needed {
        program: "c++",
        packages: &["g++"],
        reason: "C++ fixtures, and bpf-linker, which links LLVM",
    },
    Needed {
        program: "musl-gcc",
        packages: &["musl-tools"],
        reason: "fixtures with another C library",
    },
    Needed {
        program: "go",
        packages: &["golang-go"],
        reason: "Go fixtures and go tool pprof",
    },
    Needed {
        program: "dot",
        packages: &["graphviz"],
        reason: "go tool pprof -svg",
    },
    Needed {
        program: "bpftool",
        packages: &["bpftool", "linux-tools-common"],
        reason: "what a killed run leaves in the kernel",
    },
    Needed {
        program: "setcap",
        packages: &["libcap2-bin"],
        reason: "runs without root",
    },
    Needed {
        program: "llvm-symbolizer",
        packages: &["llvm"],
        reason: "the lines and inlined calls that ours are compared with",
    },
    Needed {
        program: "gdb",
        packages: &["gdb"],
        reason: "the stacks that ours are compared with",
    },
    Needed {
        program: "python3",
        packages: &["python3"],
        reason: "an interpreter to walk",
    },
    Needed {
        program: "node",
        packages: &["nodejs"],
        reason: "code that V8 makes at run time",
    },
    Needed {
        program: "javac",
        packages: &["openjdk-17-jdk-headless", "default-jdk-headless"],
        reason: "code that a JVM makes at run time",
    },
    Needed {
        program: "chromium",
        packages: &["chromium", "chromium-browser"],
        reason: "pages, as a browser shows them",
    },
    Needed {
        program: "promtool",
        packages: &["prometheus"],
        reason: "metrics, as Prometheus reads them",
    },
    Needed {
        program: "curl",
        packages: &["curl"],
        reason: "the other side of the server's sockets",
    },
    Needed {
        program: "openssl",
        packages: &["openssl"],
        reason: "certificates",
    },
    Needed {
        program: "setpriv",
        packages: &["util-linux"],
        reason: "requests of other users",
    },
    Needed {
        program: "wrk",
        packages: &["wrk"],
        reason: "load on the web service of the examples",
    },
    Needed {
        // The server's own programs are not on PATH; this one comes with them.
        program: "pg_ctlcluster",
        packages: &["postgresql"],
        reason: "the database of the examples",
    },
    Needed {
        program: "git",
        packages: &["git"],
        reason: "cargo, and the tests of a clone",
    },
];

/// What runs other kernels.
const MACHINES: [Needed; 6] = [
    Needed {
        program: "qemu-system-x86_64",
        packages: &["qemu-system-x86"],
        reason: "machines that run other kernels",
    },
    Needed {
        program: "virtiofsd",
        // Debian 12 has it with QEMU.
        packages: &["virtiofsd", "qemu-system-common"],
        reason: "what shows such a machine the files of this one",
    },
    Needed {
        program: "busybox",
        packages: &["busybox-static"],
        reason: "the first process of such a machine",
    },
    Needed {
        program: "modprobe",
        packages: &["kmod"],
        reason: "the modules that such a machine needs",
    },
    Needed {
        program: "unshare",
        packages: &["util-linux"],
        reason: "what such a machine sees of this one's files",
    },
    Needed {
        program: "dpkg-deb",
        packages: &["dpkg"],
        reason: "unpacking kernels",
    },
];

/// What makes the load that a recording is measured under.
const LOADS: [Needed; 2] = [
    Needed {
        program: "stress-ng",
        packages: &["stress-ng"],
        reason: "load that forks, switches and maps",
    },
    Needed {
        program: "perf",
        packages: &["linux-perf"],
        reason: "clocks that take no stacks, to compare with",
    },
];

/// Makes sure that every program the tests call is there.
pub(crate) fn ensure_for_tests() -> Result<()> {
    ensure(&NEEDED)
}

/// Makes sure that everything is there that runs other kernels.
pub(crate) fn ensure_for_machines() -> Result<()> {
    ensure(&MACHINES)
}

/// Makes sure that everything is there that makes load.
pub(crate) fn ensure_for_load() -> Result<()> {
    ensure(&LOADS)
}

fn ensure(programs: &'static [Needed]) -> Result<()> {
    let missing: Vec<&Needed> = programs
        .iter()
        .filter(|needed| find(needed.program).is_none())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    for needed in &missing {
        println!(
            "missing program: {} (for {})",
            needed.program, needed.reason
        );
    }
    if has_apt() && is_root() {
        update()?;
    }
    let packages: Vec<&str> = missing
        .iter()
        .map(|needed| first_offered(needed.packages))
        .collect();
    install(&packages)?;
    let absent: Vec<&str> = missing
        .iter()
        .map(|needed| needed.program)
        .filter(|program| find(program).is_none())
        .collect();
    if !absent.is_empty() {
        bail!(
            "still missing after the installation: {}",
            absent.join(", ")
        );
    }
    Ok(())
}

/// Whether this host has Debian's package tools.
pub(crate) fn has_apt() -> bool {
    find("apt-get").is_some() && find("apt-cache").is_some()
}

/// The version that the distribution offers of a package, if it has it.
pub(crate) fn offered(package: &str) -> Option<String> {
    let policy = output(Command::new("apt-cache").args(["policy", package])).ok()?;
    candidate(&policy)
}

/// Fetches the lists of packages. The lists of a fresh image are empty.
pub(crate) fn update() -> Result<()> {
    run(Command::new("apt-get").args(["-q", "update"]))
        .context("cannot fetch the lists of packages")
}

/// Installs packages; where we may not, fails with the command to type.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    if !has_apt() {
        bail!(
            "this host has no apt-get; install by its own package manager what Debian calls: {list}"
        );
    }
    if !is_root() {
        bail!("packages are missing; type: sudo apt-get install -y {list}");
    }
    println!("installing: {list}");
    run(Command::new("apt-get")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["-q", "install", "-y", "--no-install-recommends"])
        .args(packages))
}

/// The first of these packages that the distribution has, else the first.
fn first_offered(packages: &'static [&'static str]) -> &'static str {
    packages
        .iter()
        .find(|package| offered(package).is_some())
        .unwrap_or(&packages[0])
}

/// The version in the output of `apt-cache policy`.
fn candidate(policy: &str) -> Option<String> {
    let line = policy
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (line != "(none)").then(|| line.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_without_a_candidate_is_not_offered() {
        let known = "rustc-web:\n  Installed: (none)\n  Candidate: 1.96.0+dfsg1-1\n";
        assert_eq!(candidate(known).as_deref(), Some("1.96.0+dfsg1-1"));
        assert_eq!(
            candidate("bpftool:\n  Installed: (none)\n  Candidate: (none)\n"),
            None
        );
        assert_eq!(candidate(""), None);
    }
}
