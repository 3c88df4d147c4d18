//! `cargo xtask ebpf`: builds the BPF object, and checks that the one in git is what its source and
//! the pinned toolchain give, byte by byte, whatever the folder.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    object_file::{difference, strip},
    pin::Pin,
    process::{self, path_with},
    remap, test,
    toolchain::{self, Toolchain},
    workspace::Workspace,
};

/// The target: BPF of this machine's byte order. All architectures we run on are little-endian.
const TARGET: &str = "bpfel-unknown-none";

/// The flags of the target's compiler. bpf-linker makes BTF from debug info. It is found by `PATH`:
/// cargo hashes the flags into symbol names, so no folder may stand here.
const FLAGS: [&str; 3] = ["-Cdebuginfo=2", "-Clink-arg=--btf", "-Clinker=bpf-linker"];

/// Variables of cargo and rustup that may pass on to the build. Any other could change the result.
const KEPT_VARIABLES: [&str; 5] = [
    "CARGO_HOME",
    "CARGO_HTTP_",
    "CARGO_NET_",
    "CARGO_REGISTR",
    "RUSTUP_HOME",
];

/// What to do with the object that was built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// Put it where the product embeds it from.
    Write,
    /// Compare it with the one there.
    Check,
}

/// Builds the object and writes or checks it.
pub(crate) fn run(workspace: &Workspace, goal: Goal) -> Result<()> {
    let pin = Pin::read(&workspace.pin())?;
    let toolchain = toolchain::find_toolchain(workspace, &pin)?;
    println!("building the BPF object with {}", toolchain.pin());
    match goal {
        Goal::Write => write(workspace, &pin, &toolchain),
        Goal::Check => check(workspace, &pin, &toolchain),
    }
}

fn write(workspace: &Workspace, pin: &Pin, toolchain: &Toolchain) -> Result<()> {
    let folder = build_folder(workspace, toolchain)?;
    let object = build(workspace, toolchain, &folder)?;
    let path = workspace.prebuilt();
    let old = fs::read(&path).unwrap_or_default();
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
    }
    fs::write(&path, &object).with_context(|| format!("cannot write {}", path.display()))?;
    toolchain.pin().write(&workspace.pin())?;
    let name = workspace.relative(&path).display();
    if old == object {
        println!("{name}: {} bytes, as before", object.len());
    } else {
        println!("{name}: {} bytes, was {}", object.len(), old.len());
    }
    if toolchain.pin() != *pin {
        println!(
            "the pinned toolchain is now this one; it was {pin}\n\
             commit profiler-ebpf/toolchain.toml with the object"
        );
    }
    Ok(())
}

fn check(workspace: &Workspace, pin: &Pin, toolchain: &Toolchain) -> Result<()> {
    let scratch =
        tempfile::tempdir_in(workspace.target("")?).context("cannot create a temporary folder")?;
    let object = build(workspace, toolchain, scratch.path())?;
    let rebuilt = workspace.target("ebpf")?.join("rebuilt.bpf.o");
    fs::write(&rebuilt, &object).with_context(|| format!("cannot write {}", rebuilt.display()))?;
    if toolchain.pin() != *pin {
        println!(
            "the object in git was made by another toolchain: {pin}\n\
             that one is not to be had here, so equal bytes cannot be asked for; running the kernel \
             tests on the fresh object instead"
        );
        test::kernel_tests(workspace, &rebuilt)?;
        println!(
            "the kernel tests pass on an object built with {}",
            toolchain.pin()
        );
        return Ok(());
    }
    let path = workspace.prebuilt();
    let old = fs::read(&path)
        .with_context(|| format!("cannot read {}; run: cargo xtask ebpf", path.display()))?;
    match difference(&old, &object) {
        None => println!(
            "{}: {} bytes, identical to a rebuild with the pinned toolchain",
            workspace.relative(&path).display(),
            old.len()
        ),
        Some(difference) => bail!(
            "{} is not what its source gives: {difference}\n\
             the rebuilt object is {}\n\
             if the source has changed, run: cargo xtask ebpf (and commit profiler-ebpf/prebuilt)",
            workspace.relative(&path).display(),
            workspace.relative(&rebuilt).display()
        ),
    }
    Ok(())
}

/// The folder that a build may go on in: what was built by another toolchain, or by another `xtask`,
/// is thrown away, because cargo would not notice.
fn build_folder(workspace: &Workspace, toolchain: &Toolchain) -> Result<PathBuf> {
    let own_path = env::current_exe().context("cannot find this program's own file")?;
    let built = fs::metadata(&own_path)?.modified()?;
    let root = workspace.root().display();
    let makers = format!("{}\n{root}\n{built:?}\n", toolchain.pin());
    let folder = workspace.target("ebpf")?;
    let record = folder.join("makers");
    if !fs::read_to_string(&record).is_ok_and(|old| old == makers) {
        fs::remove_dir_all(&folder)
            .with_context(|| format!("cannot empty {}", folder.display()))?;
        workspace.target("ebpf")?;
        fs::write(&record, makers).with_context(|| format!("cannot write {}", record.display()))?;
    }
    Ok(folder)
}

/// Builds the object in a folder and gives its bytes, without debug info.
fn build(workspace: &Workspace, toolchain: &Toolchain, target: &Path) -> Result<Vec<u8>> {
    // The folders of packages must be there when their names are remapped.
    process::run(cargo(workspace, toolchain)?.args(["fetch", "--locked", "--quiet"]))?;
    let mut command = cargo(workspace, toolchain)?;
    remap::wrap(&mut command, workspace, &toolchain.compiler.source, target)?;
    command
        .args(["build", "--locked", "--release", "--quiet"])
        .args(["-Zbuild-std=core", "--target", TARGET, "--target-dir"])
        .arg(target);
    process::run(&mut command)?;
    let built = PathBuf::from_iter([target, Path::new(TARGET), Path::new("release/ebpfprof-bpf")]);
    let data = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    strip(&data)
}

/// The toolchain's cargo, in the package of the kernel side, free of this shell's settings.
fn cargo(workspace: &Workspace, toolchain: &Toolchain) -> Result<Command> {
    let mut command = Command::new(&toolchain.compiler.cargo);
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let decides = text.starts_with("CARGO") || text.starts_with("RUST");
        if decides && !KEPT_VARIABLES.iter().any(|kept| text.starts_with(kept)) {
            command.env_remove(&name);
        }
    }
    // `cargo run` lets the loader find its own compiler's libraries: not ours.
    command
        .env_remove("LD_LIBRARY_PATH")
        .current_dir(workspace.ebpf())
        .env("RUSTC", &toolchain.compiler.rustc)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\u{1f}"))
        .env("PATH", path_with(&toolchain.linker.folder)?);
    Ok(command)
}
