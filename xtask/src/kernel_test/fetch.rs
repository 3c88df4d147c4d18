//! Kernels of Debian, fetched by apt and unpacked into `target/kernels/`, never installed.
//!
//! apt works with sources, lists and a cache of its own here, so the machine's stay as they are;
//! where Debian's archives are is what the machine's own sources say. The packages are those of the
//! "cloud" flavour, which are small and have what a virtual machine needs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    packages,
    process::{output, run},
    workspace::Workspace,
};

use super::kernels::{Archive, Kernel};

/// The keys of Debian's archives, from the package `debian-archive-keyring`.
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The flavour of the packages.
const FLAVOUR: &str = "-cloud-amd64";

/// A kernel's image and its modules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unpacked {
    folder: PathBuf,
    /// As `uname -r` tells it.
    pub(super) release: String,
    /// The version of Debian's package.
    pub(super) package: String,
}

impl Unpacked {
    /// The file that QEMU boots.
    pub(super) fn image(&self) -> PathBuf {
        let name = format!("vmlinuz-{}", self.release);
        let in_boot = self.folder.join("boot").join(name);
        if in_boot.is_file() {
            in_boot
        } else {
            // Newer packages have it beside the modules.
            self.modules().join(&self.release).join("vmlinuz")
        }
    }

    /// The folder that `/lib/modules` is on a machine of this kernel.
    pub(super) fn modules(&self) -> PathBuf {
        self.folder.join("lib/modules")
    }

    /// The files of these modules and of what they need, in the order to load them.
    pub(super) fn module_files(&self, names: &[&str]) -> Result<Vec<PathBuf>> {
        let mut command = Command::new("modprobe");
        command.arg("-d").arg(&self.folder);
        command.args(["-S", &self.release, "-a", "--show-depends"]);
        let listed = output(command.args(names))?;
        let mut files: Vec<PathBuf> = Vec::new();
        for line in listed.lines() {
            // The others are built in.
            let Some(path) = line.strip_prefix("insmod ") else {
                continue;
            };
            let path = PathBuf::from(path.trim());
            if !files.contains(&path) {
                files.push(path);
            }
        }
        Ok(files)
    }

    /// Reads what an earlier fetch left, if that was finished.
    fn find(folder: &Path) -> Option<Self> {
        let record = fs::read_to_string(folder.join("record")).ok()?;
        let mut lines = record.lines();
        Some(Self {
            folder: folder.to_owned(),
            release: lines.next()?.to_owned(),
            package: lines.next()?.to_owned(),
        })
    }
}

/// Makes sure that a kernel is there. One that was fetched once stays as it is.
pub(super) fn ensure(workspace: &Workspace, kernel: &Kernel) -> Result<Unpacked> {
    let folder = workspace.target("kernels")?.join(kernel.name);
    if let Some(found) = Unpacked::find(&folder) {
        return Ok(found);
    }
    println!(
        "fetching Linux {} from Debian's {}",
        kernel.name, kernel.suite
    );
    if !Path::new(KEYS).is_file() {
        bail!("{KEYS} is missing; type: sudo apt-get install debian-archive-keyring");
    }
    let work = tempfile::tempdir_in(workspace.target("kernels")?)?;
    let apt = Apt::of_suite(work.path(), kernel)?;
    let release = newest_whole(&apt.names()?, kernel.series).with_context(|| {
        format!(
            "{} has no whole Linux {} any more",
            kernel.suite, kernel.name
        )
    })?;
    let package = apt.unpack(&release)?;
    let unpacked = work.path().join("kernel");
    mend_folders(&unpacked)?;
    run(Command::new("depmod")
        .arg("-b")
        .arg(&unpacked)
        .arg(&release))?;
    fs::write(unpacked.join("record"), format!("{release}\n{package}\n"))?;
    if folder.exists() {
        // A fetch that was cut off.
        fs::remove_dir_all(&folder)?;
    }
    fs::rename(&unpacked, &folder)
        .with_context(|| format!("cannot create {}", folder.display()))?;
    Unpacked::find(&folder).with_context(|| format!("no kernel in {}", folder.display()))
}

/// Has the modules in `lib/modules`, where newer packages have them below `usr`.
fn mend_folders(unpacked: &Path) -> Result<()> {
    let (old, new) = (unpacked.join("lib"), unpacked.join("usr/lib"));
    if !old.join("modules").is_dir() {
        fs::create_dir_all(&old)?;
        fs::rename(new.join("modules"), old.join("modules"))
            .context("the package has no modules")?;
    }
    Ok(())
}

/// apt with a folder of its own and one suite.
struct Apt {
    folder: PathBuf,
}

impl Apt {
    fn of_suite(work: &Path, kernel: &Kernel) -> Result<Self> {
        let apt = Self {
            folder: work.join("apt"),
        };
        for part in ["lists/partial", "archives/partial", "parts"] {
            fs::create_dir_all(apt.folder.join(part))?;
        }
        let place = archive_place(kernel.archive)?;
        let source = format!(
            "deb [arch=amd64 signed-by={KEYS}] {place} {} main\n",
            kernel.suite
        );
        fs::write(apt.sources(), source)?;
        run(apt.command("apt-get").args(["-qq", "update"]))
            .with_context(|| format!("cannot fetch the lists of {}", kernel.suite))?;
        Ok(apt)
    }

    fn sources(&self) -> PathBuf {
        self.folder.join("sources.list")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let places = [
            ("Dir::Etc::SourceList", self.sources()),
            ("Dir::Etc::SourceParts", self.folder.join("parts")),
            ("Dir::State::Lists", self.folder.join("lists")),
            ("Dir::Cache", self.folder.clone()),
        ];
        for (option, path) in places {
            command
                .arg("-o")
                .arg(format!("{option}={}", path.display()));
        }
        command.args(["-o", "APT::Sandbox::User=root"]);
        command.args(["-o", "Acquire::Languages=none"]);
        command
    }

    /// The names of all packages that a kernel may be made of.
    fn names(&self) -> Result<Vec<String>> {
        let pattern = format!("^linux-(image|base|binary|modules)-[0-9].*{FLAVOUR}$");
        let found = output(
            self.command("apt-cache")
                .args(["search", "--names-only", &pattern]),
        )?;
        let names = found.lines().filter_map(|line| line.split(' ').next());
        Ok(names.map(str::to_owned).collect())
    }

    /// Fetches the packages of a release and unpacks them below `kernel`; tells their version.
    fn unpack(&self, release: &str) -> Result<String> {
        let of_release = |name: &String| is_of(name, release);
        let wanted: Vec<String> = self.names()?.into_iter().filter(of_release).collect();
        let downloads = self.folder.join("downloads");
        fs::create_dir_all(&downloads)?;
        let mut download = self.command("apt-get");
        download.args(["-qq", "download"]).args(&wanted);
        run(download.current_dir(&downloads))
            .with_context(|| format!("cannot fetch Linux {release}"))?;
        let target = self.folder.with_file_name("kernel");
        fs::create_dir_all(&target)?;
        let mut version = None;
        for entry in fs::read_dir(&downloads)? {
            let package = entry?.path();
            run(Command::new("dpkg-deb")
                .arg("-x")
                .arg(&package)
                .arg(&target))?;
            version = Some(output(
                Command::new("dpkg-deb")
                    .arg("-f")
                    .arg(&package)
                    .arg("Version"),
            )?);
        }
        version.with_context(|| format!("apt fetched nothing for Linux {release}"))
    }
}

/// Where the machine's own sources have one of Debian's archives.
fn archive_place(archive: Archive) -> Result<String> {
    let label = match archive {
        Archive::Main => "Debian",
        Archive::Security => "Debian-Security",
    };
    let find = || -> Result<Option<String>> {
        let mut command = Command::new("apt-get");
        command.args(["indextargets", "--format", "$(LABEL)|$(REPO_URI)"]);
        let listed = output(command.arg("Created-By: Packages"))?;
        let places = listed.lines().filter_map(|line| line.split_once('|'));
        let mut places = places.filter(|(found, _)| *found == label);
        Ok(places.next().map(|(_, place)| place.to_owned()))
    };
    if let Some(place) = find()? {
        return Ok(place);
    }
    // A fresh image has no lists, and so no labels.
    packages::update()?;
    find()?.with_context(|| {
        format!("apt's sources have no archive labelled {label}: kernels are taken from Debian's")
    })
}

/// The newest release of a series of which all packages are there; of any series without one. A
/// release is one package, or an image with its binary and its modules apart.
fn newest_whole(names: &[String], series: Option<&str>) -> Option<String> {
    let has = |part: &str, release: &str| names.contains(&format!("linux-{part}-{release}"));
    let of_series = |release: &&str| {
        series.is_none_or(|series| {
            let rest = release.strip_prefix(series);
            rest.is_some_and(|rest| rest.starts_with('.'))
        })
    };
    let releases = names
        .iter()
        .filter_map(|name| name.strip_prefix("linux-image-"))
        .filter(of_series)
        .filter(|release| !has("binary", release) || has("modules", release));
    let newest = releases.max_by_key(|release| numbers(release));
    newest.map(str::to_owned)
}

fn is_of(package: &str, release: &str) -> bool {
    let parts = ["image", "base", "binary", "modules"];
    parts
        .iter()
        .any(|part| package == format!("linux-{part}-{release}"))
}

/// The numbers in a version, by which versions are in order.
fn numbers(version: &str) -> Vec<u64> {
    let runs = version.split(|letter: char| !letter.is_ascii_digit());
    runs.filter_map(|digits| digits.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(names: &[&str], series: Option<&str>, expected: Option<&str>) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(newest_whole(&names, series).as_deref(), expected);
    }

    #[test]
    fn the_newest_release_is_the_one_with_the_greatest_numbers() {
        let names = [
            "linux-image-5.10.0-9-cloud-amd64",
            "linux-image-5.10.0-34-cloud-amd64",
            "linux-image-6.1.0-1-cloud-amd64",
        ];
        check(&names, Some("5.10"), Some("5.10.0-34-cloud-amd64"));
        check(&names, None, Some("6.1.0-1-cloud-amd64"));
        check(&names, Some("5.1"), None);
    }

    #[test]
    fn a_release_without_its_modules_is_not_whole() {
        let names = [
            "linux-image-7.1-cloud-amd64",
            "linux-binary-7.1-cloud-amd64",
            "linux-image-7.0-cloud-amd64",
            "linux-binary-7.0-cloud-amd64",
            "linux-modules-7.0-cloud-amd64",
        ];
        check(&names, None, Some("7.0-cloud-amd64"));
        check(&names[..2], None, None);
    }
}
