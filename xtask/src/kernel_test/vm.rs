//! One command under another kernel: a machine of QEMU whose root is this host's root.
//!
//! The host's files are read by virtiofs; what is written goes to memory and is gone at the end. The
//! machine has two processors, which QEMU translates (TCG), so it runs anywhere and about 17 times
//! slower than the host, no network but loopback, and cgroups of version 2. `init.sh` and `main.sh`
//! are what runs in it, `host.sh` what shows it the host's files.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::process::{find, output};

use super::{fetch::Unpacked, initramfs::Archive};

/// What makes the host's files reachable.
const MODULES: [&str; 3] = ["virtio_pci", "virtiofs", "overlay"];

/// Memory of a machine, in MiB.
const MEMORY_MIB: u32 = 2048;
const PROCESSORS: u32 = 2;

/// How often a kernel may die before it runs the command. One that changes its own code while QEMU
/// runs it on another processor dies of it once in some hundred boots.
const BOOTS: u32 = 3;

/// Between two looks at whether something has ended.
const GLANCE: Duration = Duration::from_millis(50);
/// Until the files are served.
const SERVER_LIMIT: Duration = Duration::from_secs(20);

/// A command for a machine.
#[derive(Debug)]
pub(super) struct Task<'a> {
    pub(super) kernel: &'a Unpacked,
    /// The folder that the command starts in, which is seen there wherever it lies.
    pub(super) folder: &'a Path,
    /// The command as a line of the shell.
    pub(super) command: &'a str,
    /// After this the machine is ended.
    pub(super) limit: Duration,
}

/// What a command left.
#[derive(Debug)]
pub(super) struct Ended {
    /// Its standard output and error.
    pub(super) output: String,
    pub(super) code: i32,
}

/// A process that ends with us.
struct Helper(Child);

impl Drop for Helper {
    fn drop(&mut self) {
        // Both fail when it has ended and was waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The folder with all that a boot is made of.
struct Boot<'a> {
    task: &'a Task<'a>,
    work: tempfile::TempDir,
}

/// Runs a command in a machine of its own.
pub(super) fn run(task: &Task<'_>) -> Result<Ended> {
    let boot = Boot::prepare(task)?;
    for _ in 0..BOOTS {
        boot.run()?;
        if let Some(ended) = boot.ended()? {
            return Ok(ended);
        }
        if boot.in_run("started").exists() {
            break;
        }
        println!("the kernel died before it ran the command");
    }
    bail!(
        "the machine ended before its command; the end of its console:\n{}",
        boot.console()
    )
}

impl<'a> Boot<'a> {
    fn prepare(task: &'a Task<'a>) -> Result<Self> {
        let work = tempfile::tempdir()?;
        let boot = Self { task, work };
        fs::create_dir(boot.path("tree"))?;
        fs::create_dir(boot.path("run"))?;
        fs::write(boot.path("initramfs"), initramfs(task.kernel)?)?;
        let path = env::var("PATH").unwrap_or_default();
        let settings = format!(
            "folder={}\nexport PATH={} HOME=/tmp\n",
            quoted(&task.folder.display().to_string()),
            quoted(&path)
        );
        fs::write(boot.in_run("settings"), settings)?;
        fs::write(boot.in_run("command"), format!("{}\n", task.command))?;
        fs::write(boot.in_run("main"), include_str!("main.sh"))?;
        Ok(boot)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.work.path().join(name)
    }

    fn in_run(&self, name: &str) -> PathBuf {
        self.path("run").join(name)
    }

    /// Boots once and waits for the end of the machine.
    fn run(&self) -> Result<()> {
        let server = self.serve_files()?;
        let mut machine = Helper(self.start_machine()?);
        let mut shown = 0;
        let started = Instant::now();
        while machine.0.try_wait()?.is_none() {
            self.show_results(&mut shown);
            if started.elapsed() > self.task.limit {
                let printed = fs::read_to_string(self.in_run("output")).unwrap_or_default();
                bail!(
                    "not done after {} s; the end of what it printed:\n{}\n{}",
                    self.task.limit.as_secs(),
                    last_lines(&printed),
                    self.console()
                );
            }
            thread::sleep(GLANCE);
        }
        drop(server);
        // The next boot makes it anew; there is none if the server took it away.
        let _ = fs::remove_file(self.path("socket"));
        Ok(())
    }

    /// Prints the tests that have ended since the last look.
    fn show_results(&self, shown: &mut usize) {
        let printed = fs::read_to_string(self.in_run("output")).unwrap_or_default();
        let results = printed.lines().filter(|line| is_result(line));
        for line in results.skip(*shown) {
            println!("{line}");
            *shown += 1;
        }
    }

    fn ended(&self) -> Result<Option<Ended>> {
        let status = fs::read_to_string(self.in_run("status")).unwrap_or_default();
        let Ok(code) = status.trim().parse() else {
            return Ok(None);
        };
        let output = fs::read(self.in_run("output"))?;
        let output = String::from_utf8_lossy(&output).into_owned();
        Ok(Some(Ended { output, code }))
    }

    fn serve_files(&self) -> Result<Helper> {
        let server = find("virtiofsd").context("virtiofsd is missing")?;
        let log = fs::File::create(self.path("server"))?;
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-euc", include_str!("host.sh"), "sh"])
            .arg(self.work.path())
            .arg(self.task.kernel.modules())
            .arg(self.task.folder)
            .arg(server)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let mut child = Helper(command.spawn().context("cannot run unshare")?);
        let started = Instant::now();
        while !self.path("socket").exists() {
            let ended = child.0.try_wait()?.is_some();
            if ended || started.elapsed() > SERVER_LIMIT {
                let log = fs::read_to_string(self.path("server")).unwrap_or_default();
                bail!("the machine's files are not served: {}", last_lines(&log));
            }
            thread::sleep(GLANCE);
        }
        Ok(child)
    }

    fn start_machine(&self) -> Result<Child> {
        let log = fs::File::create(self.path("machine"))?;
        let memory = format!("memory-backend-memfd,id=memory,size={MEMORY_MIB}M,share=on");
        let console = format!("file,id=console,path={}", self.path("console").display());
        let files = format!("socket,id=files,path={}", self.path("socket").display());
        // The machine ends with us, however we end.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "qemu-system-x86_64"])
            .args(["-machine", "q35,memory-backend=memory", "-accel", "tcg"])
            // Without cmpxchg16b, of which QEMU 7.2 now and then spoils the flags: the kernel dies.
            .args(["-cpu", "max,-cx16", "-smp", &PROCESSORS.to_string()])
            .args(["-m", &MEMORY_MIB.to_string(), "-object", &memory])
            .args(["-nodefaults", "-no-user-config", "-display", "none"])
            .args(["-no-reboot", "-nic", "none", "-kernel"])
            .arg(self.task.kernel.image())
            .arg("-initrd")
            .arg(self.path("initramfs"))
            .args(["-append", "console=ttyS0 quiet panic=-1 rdinit=/init"])
            .args(["-chardev", &console, "-serial", "chardev:console"])
            .args(["-chardev", &files, "-device"])
            .arg("vhost-user-fs-pci,chardev=files,tag=host")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        command.spawn().context("cannot run qemu-system-x86_64")
    }

    /// What the kernel and QEMU said last.
    fn console(&self) -> String {
        let read = |name| fs::read(self.path(name)).unwrap_or_default();
        let text = [read("console"), read("machine")].concat();
        last_lines(&String::from_utf8_lossy(&text))
    }
}

/// The first process, its tools, and the modules by the order to load them.
fn initramfs(kernel: &Unpacked) -> Result<Vec<u8>> {
    let busybox = find("busybox").context("busybox is missing")?;
    let program = fs::read(&busybox)?;
    let loader = b"/ld-linux-x86-64.so.2";
    if program.windows(loader.len()).any(|part| part == loader) {
        bail!(
            "{} needs libraries; type: sudo apt-get install busybox-static",
            busybox.display()
        );
    }
    let mut archive = Archive::default();
    for name in ["bin", "modules", "dev", "proc", "sys", "vm", "upper", "new"] {
        archive.folder(name);
    }
    archive.program("bin/busybox", &program);
    archive.program("init", include_bytes!("init.sh"));
    for (number, path) in (100..).zip(kernel.module_files(&MODULES)?) {
        archive.program(&format!("modules/{number}.ko"), &module(&busybox, &path)?);
    }
    Ok(archive.finish())
}

/// A module as the kernel takes it.
fn module(busybox: &Path, path: &Path) -> Result<Vec<u8>> {
    let mut unpack = match path.extension().and_then(|end| end.to_str()) {
        Some("xz") => Command::new(busybox),
        Some("zst") => Command::new("zstd"),
        _ => return fs::read(path).with_context(|| format!("cannot read {}", path.display())),
    };
    if unpack.get_program() == busybox {
        unpack.arg("xzcat");
    } else {
        unpack.args(["--decompress", "--stdout", "--quiet"]);
    }
    let unpacked = unpack.arg(path).output()?;
    if !unpacked.status.success() {
        bail!("cannot unpack {}: {}", path.display(), unpacked.status);
    }
    Ok(unpacked.stdout)
}

/// Whether a line is the end of one test.
fn is_result(line: &str) -> bool {
    let is_end = |end| line.ends_with(end);
    line.starts_with("test ") && [" ... ok", " ... FAILED"].into_iter().any(is_end)
}

/// One word of the shell.
pub(super) fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The release of the kernel that runs us.
pub(super) fn host_release() -> Result<String> {
    output(Command::new("uname").arg("-r"))
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_with_a_quote_stays_one_word() {
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
