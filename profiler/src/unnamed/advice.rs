//! What would mend it: for each cause what to type or to do. Whatever it is, it counts for the next
//! recording.

use super::{DebugLink, Entry, NoLines, Place, Reason};
use crate::{
    jit::{JitReason, Refusal, Runtime},
    object::Unopened,
    target::Pid,
};

/// What has the kernel tell its names.
pub const KERNEL_NAMES: &str = "sudo sysctl kernel.kptr_restrict=0 kernel.perf_event_paranoid=1";

impl Entry<Reason> {
    /// What would give these frames a name: one way or another, the likeliest first.
    #[must_use]
    pub fn advice(&self) -> Vec<String> {
        let path = self.argument();
        let one = match self.cause {
            Reason::Stripped(_, link) => return self.symbols_file(link),
            Reason::NoSymbol => format!(
                "objdump -d {path}, to see what is there: nothing is broken, as assembly written by hand and entries of linkage may have no symbol"
            ),
            Reason::BrokenSymbols => {
                format!("readelf -sW {path}, for what is wrong with it; then install it anew")
            }
            Reason::BrokenDebugdata => {
                let look = format!(
                    "objcopy --dump-section .gnu_debugdata=symbols.xz {path} /dev/null && xz -t symbols.xz, for what is wrong with it"
                );
                return [self.symbols_file(DebugLink::Absent), vec![look]].concat();
            }
            Reason::NotElf | Reason::OtherMachine => {
                "nothing helps: what maps such files as code (.NET, Wine, emulators) tells no names in them".to_owned()
            }
            Reason::LeftToReader => {
                "go tool pprof FILE, where the programs and libraries are; or ebpfprof without --raw-addresses".to_owned()
            }
            Reason::WrittenOver => {
                "restart the program; install files by mv, as cp writes over the one that runs".to_owned()
            }
            Reason::Unopened(why) => opened(why, &path),
            Reason::Made(runtime, why) => return made(runtime, why, self.pid()),
            Reason::KernelHidden => KERNEL_NAMES.to_owned(),
            Reason::KernelModule | Reason::KernelNoSymbol => {
                "sudo less /proc/kallsyms, to see that the kernel lists no symbol there".to_owned()
            }
            Reason::NoMapping => {
                "record for longer: it happens in the milliseconds in which a process comes, goes or changes its mappings".to_owned()
            }
        };
        vec![one]
    }

    /// Where the symbols of a stripped object may come from.
    fn symbols_file(&self, link: DebugLink) -> Vec<String> {
        let path = self.argument();
        let mut ways = self.debug_file("that is not stripped (no strip, no -s)");
        if self.build_id.is_none() && link == DebugLink::Named {
            let beside = format!(
                "put the file beside it that this names: readelf --string-dump=.gnu_debuglink {path}"
            );
            ways.insert(0, beside);
        }
        ways
    }

    fn pid(&self) -> Pid {
        match self.place {
            Place::Process(pid, _) => pid,
            Place::Object(_) | Place::Threads(_) => Pid(0),
        }
    }
}

impl Entry<NoLines> {
    /// What would give these frames lines: one way or another, the likeliest first.
    #[must_use]
    pub fn advice(&self) -> Vec<String> {
        let path = self.argument();
        let one = match self.cause {
            NoLines::NoDebugInfo | NoLines::Broken => {
                return self.debug_file("with debug information (-g)");
            }
            NoLines::NotDescribed => format!(
                "objdump -dl {path}, to see what is there: assembly and entries of linkage have no lines, nor has what was compiled without -g"
            ),
            NoLines::TooLarge => "ebpfprof --max-symbol-memory 1GiB, or more".to_owned(),
            NoLines::NotAsked => "ebpfprof without --no-inlines".to_owned(),
        };
        vec![one]
    }
}

impl<C> Entry<C> {
    /// Where the debug file of an object comes from, and where it is looked for: for those of the
    /// distribution its packages, for others another build.
    fn debug_file(&self, build: &str) -> Vec<String> {
        if self.is_in_kernel() {
            return vec![
                "install the debug package of this kernel: the code is part of it".to_owned(),
            ];
        }
        let path = self.argument();
        let mut ways = vec![if self.is_of_distribution() {
            format!(
                "find-dbgsym-packages {path} (on Debian), and install the package that it names"
            )
        } else {
            format!("run a build of {path} {build}")
        }];
        if let Some(build_id) = &self.build_id {
            let (first, rest) = build_id.split_at(build_id.len().min(2));
            ways.push(format!(
                "ebpfprof --debuginfod=https://debuginfod.elfutils.org, which asks the servers of many distributions for it; or put it at /usr/lib/debug/.build-id/{first}/{rest}.debug"
            ));
        }
        ways
    }

    /// Whether an object is none of a file: the vDSO.
    fn is_in_kernel(&self) -> bool {
        matches!(&self.place, Place::Object(path) if path.starts_with('['))
    }

    /// Whether packages put files where this one is.
    fn is_of_distribution(&self) -> bool {
        let Place::Object(path) = &self.place else {
            return false;
        };
        let folders = ["/usr/", "/lib", "/bin/", "/sbin/"];
        folders.iter().any(|folder| path.starts_with(folder)) && !path.starts_with("/usr/local/")
    }

    /// The place as an argument of a command, in a shell. A path may hold anything.
    fn argument(&self) -> String {
        let path = match &self.place {
            Place::Object(path) => path,
            Place::Process(..) | Place::Threads(_) => return "FILE".to_owned(),
        };
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@%=".contains(c);
        if !path.is_empty() && path.chars().all(is_plain) {
            path.clone()
        } else {
            format!("'{}'", path.replace('\'', "'\\''"))
        }
    }
}

fn opened(why: Unopened, path: &str) -> String {
    match why {
        Unopened::Gone | Unopened::Replaced => {
            "record while it runs: ebpfprof --pid PID, or ebpfprof -- CMD".to_owned()
        }
        Unopened::NoPermission => format!(
            "sudo ebpfprof, or with CAP_SYS_PTRACE, CAP_CHECKPOINT_RESTORE and CAP_DAC_READ_SEARCH, for {path}"
        ),
        Unopened::NotAFile => "nothing helps: a device has no symbols".to_owned(),
        Unopened::TooLarge => format!(
            "copy {path} to a disk of this host, and run it from there; or record again, as what was read once is read faster"
        ),
        Unopened::Silent => format!(
            "findmnt --target {path}, for the file system; see that its server or its FUSE process answers, then record again"
        ),
        Unopened::TooManyFiles => "ulimit -n 1048576".to_owned(),
        Unopened::Unreadable { errno } => {
            format!("sudo head -c 64 {path}, for what errno {errno} is about")
        }
    }
}

fn made(runtime: Runtime, why: JitReason, pid: Pid) -> Vec<String> {
    let map = format!("/proc/{pid}/root/tmp/perf-{pid}.map");
    let tell = runtime.advice(pid.0);
    match why {
        JitReason::NoMap => vec![tell],
        JitReason::Gone => vec![format!("ebpfprof -- CMD, from its start on; with {tell}")],
        JitReason::Refused(
            Refusal::SymbolicLink | Refusal::NotAFile | Refusal::Owner { .. } | Refusal::Stale,
        ) => vec![format!("sudo rm {map}, and have the process write its own: {tell}")],
        JitReason::Refused(Refusal::NoPermission) => {
            vec!["sudo ebpfprof, or with CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH".to_owned()]
        }
        JitReason::Refused(Refusal::Silent) => vec![format!(
            "grep -E ' (nfs|cifs|fuse)' /proc/{pid}/mounts, for the file systems whose server or FUSE process may not answer; then record again"
        )],
        JitReason::Refused(Refusal::Unreadable { errno }) => {
            vec![format!("sudo head -c 64 {map}, for what errno {errno} is about")]
        }
        JitReason::NotInMap => vec![format!(
            "have the map written late in the recording, as it lists what is there at that time: {tell}"
        )],
        JitReason::Replaced => vec![
            "a jitdump in place of the perf map, as it tells when code was made: node --perf-prof, or perf's agent for Java".to_owned(),
        ],
        JitReason::LeftOut => vec!["ebpfprof --seconds 10: a shorter recording has less to read".to_owned()],
    }
}
