//! The command line: parsed straight into the types that the rest works with.

use std::{ffi::OsString, path::PathBuf, str::FromStr};

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::debuginfod::Servers;
use crate::{
    bpf::Flavour,
    export::{
        Format,
        flame::{Flame, Growth, Root},
    },
    import::{READABLE, SampleIndex},
    profile::LabelKey,
    quantity::{Frequency, Seconds, SymbolMemory, TableMemory},
    record::{Addresses, Budget},
    server::listen,
    target::{Pid, Tid},
};

const EXAMPLES: &str = "\
Examples:
  sudo ebpfprof --pid 1234 --seconds 30         profile one process, write a pprof file
  sudo ebpfprof --seconds 10                    profile the whole host
  sudo ebpfprof -o cpu.svg -- ./server --port 80   start a command and profile it until it ends
  sudo ebpfprof --comm postgres -s 10 -o db.pb.gz -o db.html
  sudo ebpfprof -p 1234 -s 10 -o - --format folded | inferno-flamegraph > cpu.svg
  sudo ebpfprof serve                           answer `go tool pprof http://…` for every process
  sudo ebpfprof doctor                          see what this host allows, and mend the rest
  sudo ebpfprof selftest                        see that it works on this machine
  ebpfprof convert cpu.pb.gz cpu.svg            write a profile in another format
  ebpfprof explain profile.pb.gz                see why frames have no name, and what mends it
  ebpfprof unwind /usr/sbin/nginx               see what its unwind table covers
";

const CONVERT_EXAMPLES: &str = "\
Examples:
  ebpfprof convert cpu.pb.gz cpu.html           a page from a pprof file, whoever wrote it
  ebpfprof convert --sample-index alloc_space heap.pb.gz allocated.svg
  curl -s localhost:6060/debug/pprof/heap | ebpfprof convert - heap.speedscope.json
  perf script | stackcollapse-perf.pl | ebpfprof convert --from folded - cpu.pb.gz
";

const DOCTOR_EXAMPLES: &str = "\
Examples:
  sudo ebpfprof doctor                          what this host allows, and what mends the rest
  sudo ebpfprof doctor --pid 1234               and what is known of a process's code
  ebpfprof doctor --json | jq .verdict
";

const EXPLAIN_EXAMPLES: &str = "\
Examples:
  ebpfprof explain profile.pb.gz                why frames have no name, and what to do about it
  ebpfprof explain --json profile.pb.gz | jq '.unnamed[0]'
";

const SERVE_EXAMPLES: &str = "\
Examples:
  sudo ebpfprof serve                           /debug/pprof for every process, on 127.0.0.1:6060
  go tool pprof http://127.0.0.1:6060/pid/1234/debug/pprof/profile?seconds=10
  sudo ebpfprof serve --listen unix:/run/ebpfprof.sock
  sudo ebpfprof serve --listen 0.0.0.0:6060 --config /etc/ebpfprof.toml
";

const SYMBOLS_EXAMPLES: &str = "\
Examples:
  ebpfprof symbols /usr/sbin/nginx 0x1f2c0      the function there, and what was inlined into it
  ebpfprof symbols /usr/sbin/nginx < addresses.txt
";

const UNWIND_EXAMPLES: &str = "\
Examples:
  ebpfprof unwind /usr/sbin/nginx               its rules, and what they cover
  ebpfprof unwind /usr/sbin/nginx 0x1f2c0       the rule for one address
  ebpfprof unwind --rows /usr/sbin/nginx        every row
";

/// Profiles any process, or the whole host, without touching it.
#[derive(Debug, Parser)]
#[command(
    name = "ebpfprof",
    version,
    about,
    after_help = EXAMPLES,
    args_conflicts_with_subcommands = true,
    override_usage = "ebpfprof [OPTIONS]\n       ebpfprof [OPTIONS] -- CMD [ARG]...\n       ebpfprof convert IN OUT\n       ebpfprof doctor [--pid PID]\n       ebpfprof explain FILE\n       ebpfprof selftest\n       ebpfprof serve [--listen ADDR]\n       ebpfprof symbols FILE [ADDR]...\n       ebpfprof unwind FILE [ADDR]"
)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) verb: Option<Verb>,
    #[command(flatten)]
    pub(super) record: RecordArgs,
}

/// What else there is to do than to record.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Write a profile in another format
    Convert(ConvertArgs),
    /// Show what this host allows, what that means for profiles, and what mends it
    Doctor(DoctorArgs),
    /// Tell why frames of a profile have no name or no line, and what would mend it
    Explain(ExplainArgs),
    /// Profile a built-in workload with known shares, and compare
    Selftest(SelftestArgs),
    /// Answer /debug/pprof over HTTP, for every process of this host
    Serve(ServeArgs),
    /// Show the functions and lines of addresses of a program or a library: why a frame has no name
    Symbols(SymbolsArgs),
    /// Show the unwind table of a program or a library: why a stack is cut
    Unwind(UnwindArgs),
}

/// What to examine, and how to show it.
#[derive(Debug, Args)]
#[command(after_help = DOCTOR_EXAMPLES)]
pub(super) struct DoctorArgs {
    /// Examine the code of these processes too: names, lines, unwinding
    #[arg(short, long, value_name = "PID", value_delimiter = ',')]
    pub(super) pid: Vec<Pid>,
    /// Write JSON
    #[arg(long)]
    pub(super) json: bool,
    /// Log what happens inside
    #[arg(short, long)]
    pub(super) verbose: bool,
}

/// What to read, and what to write it as.
#[derive(Debug, Args)]
#[command(after_help = CONVERT_EXAMPLES)]
pub(super) struct ConvertArgs {
    /// The profile: a pprof file or folded stacks; `-` is stdin
    #[arg(value_name = "IN")]
    pub(super) input: PathBuf,
    /// Where to write it, in the format of the extension (.pb.gz .pprof .folded .svg .html .speedscope.json .firefox.json.gz .txt); `-` is stdout
    #[arg(value_name = "OUT")]
    pub(super) output: PathBuf,
    /// Format of an input whose name does not tell it: pprof or folded
    #[arg(long, value_name = "F", value_parser = readable_format)]
    pub(super) from: Option<Format>,
    /// Format of an output whose name does not tell it
    #[arg(long, value_name = "F")]
    pub(super) format: Option<Format>,
    /// Take this value of the profile, by name or position, as in inuse_space or 0. Default: the one that pprof shows
    #[arg(long, value_name = "VALUE")]
    pub(super) sample_index: Option<SampleIndex>,
    /// Draw flame graphs (svg, html) with callers on top (icicle), merged from the innermost function to its callers (reversed), or both
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(super) flame: Vec<FlameStyle>,
    /// Overwrite a file that exists
    #[arg(long)]
    pub(super) force: bool,
}

/// A format that can be read.
fn readable_format(text: &str) -> Result<Format, String> {
    let found = READABLE.into_iter().find(|format| format.name() == text);
    found.ok_or_else(|| {
        format!(
            "what can be read is {}",
            READABLE.map(Format::name).join(", ")
        )
    })
}

/// Which profile to explain.
#[derive(Debug, Args)]
#[command(after_help = EXPLAIN_EXAMPLES)]
pub(super) struct ExplainArgs {
    /// The profile, in pprof's format
    #[arg(value_name = "FILE")]
    pub(super) file: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
    /// Log what happens inside
    #[arg(short, long)]
    pub(super) verbose: bool,
}

/// Which addresses of an object to name.
#[derive(Debug, Args)]
#[command(after_help = SYMBOLS_EXAMPLES)]
pub(super) struct SymbolsArgs {
    /// The program or library
    #[arg(value_name = "FILE")]
    pub(super) file: PathBuf,
    /// ELF addresses, in hex; without any, one a line from stdin
    #[arg(value_name = "ADDR")]
    pub(super) addresses: Vec<Address>,
    /// Look up function names alone, no lines and no inlined calls
    #[arg(long)]
    pub(super) no_inlines: bool,
    /// Fetch debug information of stripped objects by build id, from these debuginfod servers or, without any, those in DEBUGINFOD_URLS
    #[arg(
        long,
        value_name = "URL[,URL]",
        num_args = 0..=1,
        require_equals = true
    )]
    pub(super) debuginfod: Option<Option<Servers>>,
    /// Log what happens inside
    #[arg(short, long)]
    pub(super) verbose: bool,
}

/// What to show of an object's unwind table.
#[derive(Debug, Args)]
#[command(after_help = UNWIND_EXAMPLES)]
pub(super) struct UnwindArgs {
    /// The program or library
    #[arg(value_name = "FILE")]
    pub(super) file: PathBuf,
    /// Show the row of this ELF address, in hex, as a cut stack names it
    #[arg(value_name = "ADDR")]
    pub(super) address: Option<Address>,
    /// Show every row
    #[arg(long, conflicts_with = "address")]
    pub(super) rows: bool,
    /// Log what happens inside
    #[arg(short, long)]
    pub(super) verbose: bool,
}

/// An ELF address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address(pub(super) u64);

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.strip_prefix("0x").unwrap_or(text);
        let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        match u64::from_str_radix(digits, 16) {
            Ok(address) if is_hex => Ok(Self(address)),
            _ => Err("an address is a number in hex, as in 0x1f2c0 or 1f2c0".to_owned()),
        }
    }
}

/// How to test.
#[derive(Debug, Args)]
pub(super) struct SelftestArgs {
    /// Samples per second and CPU
    #[arg(
        short = 'F',
        long,
        value_name = "HZ",
        default_value = "997",
        allow_negative_numbers = true
    )]
    pub(super) frequency: Frequency,
    /// How long to sample
    #[arg(
        short,
        long,
        value_name = "N",
        default_value = "4",
        allow_negative_numbers = true
    )]
    pub(super) seconds: Seconds,
    /// Log what happens inside
    #[arg(short, long)]
    pub(super) verbose: bool,
    /// Walk user stacks with bpf_loop or with tail calls instead of the best that the kernel has
    #[arg(long, value_name = "HOW")]
    pub(super) walker: Option<Walker>,
    /// Be the workload
    #[arg(long, hide = true)]
    pub(super) be_the_workload: bool,
}

/// Where to serve, and whom.
#[derive(Debug, Args)]
#[command(after_help = SERVE_EXAMPLES)]
pub(super) struct ServeArgs {
    /// Listen here: IP:PORT, [IPv6]:PORT, localhost:PORT or unix:PATH. May be given several times. Default: what the configuration says, else 127.0.0.1:6060
    #[arg(short, long, value_name = "ADDR")]
    pub(super) listen: Vec<listen::Address>,
    /// Read this configuration: who may have what, encryption, limits. SIGHUP reads it again
    #[arg(short, long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Listen without encryption where other hosts can connect, as when a proxy encrypts. It still takes a password or a token
    #[arg(long)]
    pub(super) insecure: bool,
    /// Log what happens inside
    #[arg(short, long)]
    pub(super) verbose: bool,
}

/// What to record, how, and where to.
#[derive(Debug, Args)]
pub(super) struct RecordArgs {
    /// Profile these processes
    #[arg(
        short,
        long,
        value_name = "PID",
        value_delimiter = ',',
        help_heading = "Targets (none: the whole host)"
    )]
    pub(super) pid: Vec<Pid>,
    /// Profile these threads
    #[arg(
        long,
        value_name = "TID",
        value_delimiter = ',',
        help_heading = "Targets (none: the whole host)"
    )]
    pub(super) tid: Vec<Tid>,
    /// Profile every process and thread of this name
    #[arg(
        long,
        value_name = "NAME",
        help_heading = "Targets (none: the whole host)"
    )]
    pub(super) comm: Vec<String>,
    /// Profile a cgroup and all below it
    #[arg(
        long,
        value_name = "PATH",
        help_heading = "Targets (none: the whole host)"
    )]
    pub(super) cgroup: Vec<PathBuf>,
    /// Profile a container, by its ID or the start of it
    #[arg(
        long,
        value_name = "ID",
        help_heading = "Targets (none: the whole host)"
    )]
    pub(super) container: Vec<String>,
    /// Profile the whole host
    #[arg(short, long, conflicts_with_all = ["pid", "tid", "comm", "cgroup", "container", "command"], help_heading = "Targets (none: the whole host)")]
    pub(super) all: bool,
    /// Profile the children of the targets too (always so for `-- CMD`)
    #[arg(long, help_heading = "Targets (none: the whole host)")]
    pub(super) follow: bool,
    /// Start a command and profile it until it ends
    #[arg(last = true, value_name = "CMD", conflicts_with_all = ["pid", "tid", "comm", "cgroup", "container"], help_heading = "Targets (none: the whole host)")]
    pub(super) command: Vec<OsString>,

    /// How long: seconds, or with a unit, as in 500ms or 2m. Without it until Ctrl-C or the target's end
    #[arg(
        short,
        long,
        value_name = "N",
        allow_negative_numbers = true,
        help_heading = "Sampling"
    )]
    pub(super) seconds: Option<Seconds>,
    /// Samples per second and CPU
    #[arg(
        short = 'F',
        long,
        value_name = "HZ",
        default_value = "99",
        allow_negative_numbers = true,
        help_heading = "Sampling"
    )]
    pub(super) frequency: Frequency,
    /// Halve the frequency whenever a second costs more than this, as in 1%: our own CPU time, in the kernel and out of it, in percent of one CPU, as the receipt tells it
    #[arg(
        long,
        value_name = "PERCENT",
        allow_negative_numbers = true,
        help_heading = "Sampling"
    )]
    pub(super) max_overhead: Option<MaxOverhead>,
    /// What to sample
    #[arg(
        short,
        long,
        value_name = "EVENT",
        default_value = "cpu",
        help_heading = "Sampling"
    )]
    pub(super) event: Event,
    /// Leave out kernel frames
    #[arg(long, help_heading = "Sampling")]
    pub(super) no_kernel: bool,
    /// Leave out user frames
    #[arg(long, help_heading = "Sampling")]
    pub(super) no_user: bool,
    /// Walk user stacks with bpf_loop or with tail calls instead of the best that the kernel has
    #[arg(long, value_name = "HOW", help_heading = "Sampling")]
    pub(super) walker: Option<Walker>,
    /// Keep at most this much kernel memory in mapping and unwind tables, 4MiB to 1GiB
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "64MiB",
        help_heading = "Sampling"
    )]
    pub(super) max_table_memory: TableMemory,

    /// Write the profile here, in the format of the extension (.pb.gz .pprof .folded .svg .html .speedscope.json .firefox.json.gz .txt); `-` is stdout. May be given several times
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    pub(super) output: Vec<PathBuf>,
    /// Format of outputs whose name does not tell it
    #[arg(long, value_name = "F", help_heading = "Output")]
    pub(super) format: Option<Format>,
    /// Draw flame graphs (svg, html) with callers on top (icicle), merged from the innermost function to its callers (reversed), or both
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        help_heading = "Output"
    )]
    pub(super) flame: Vec<FlameStyle>,
    /// Overwrite files that exist
    #[arg(long, help_heading = "Output")]
    pub(super) force: bool,
    /// Label samples with these: comm, pid, tid, cpu, cgroup, container, thread. Default: none for one process or a command, else comm,pid
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        help_heading = "Output"
    )]
    pub(super) labels: Option<Vec<LabelKey>>,
    /// Which addresses the executable's code has: where it lay, or where it was linked to lie (elf), by which pprof before Go 1.20 disassembles
    #[arg(
        long,
        value_name = "WHICH",
        default_value = "runtime",
        help_heading = "Output"
    )]
    pub(super) addresses: WhichAddresses,
    /// Leave the names of programs and libraries to whoever reads the pprof file where those are
    #[arg(long, help_heading = "Output")]
    pub(super) raw_addresses: bool,
    /// Look up function names alone, no lines and no inlined calls
    #[arg(long, help_heading = "Output")]
    pub(super) no_inlines: bool,
    /// Look up lines in at most this much memory at one time, 4MiB to 64GiB. What needs more has names and no lines
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "256MiB",
        help_heading = "Output"
    )]
    pub(super) max_symbol_memory: SymbolMemory,
    /// Fetch debug information of stripped objects by build id, from these debuginfod servers or, without any, those in DEBUGINFOD_URLS
    #[arg(
        long,
        value_name = "URL[,URL]",
        num_args = 0..=1,
        require_equals = true,
        help_heading = "Output"
    )]
    pub(super) debuginfod: Option<Option<Servers>>,
    /// Exit with 1 when any sample was lost
    #[arg(long, help_heading = "Output")]
    pub(super) strict: bool,
    /// Log what happens inside
    #[arg(short, long, help_heading = "Output")]
    pub(super) verbose: bool,
}

/// The probes there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Event {
    /// Time on a CPU, by a clock
    Cpu,
}

/// A way to walk user stacks in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Walker {
    /// With bpf_loop (Linux 5.17 and later)
    Loop,
    /// With tail calls
    TailCalls,
}

impl From<Walker> for Flavour {
    fn from(walker: Walker) -> Self {
        match walker {
            Walker::Loop => Self::Loop,
            Walker::TailCalls => Self::TailCalls,
        }
    }
}

/// Which addresses code has in a profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum WhichAddresses {
    /// Where it lay
    Runtime,
    /// Where it was linked to lie
    Elf,
}

impl From<WhichAddresses> for Addresses {
    fn from(which: WhichAddresses) -> Self {
        match which {
            WhichAddresses::Runtime => Self::Runtime,
            WhichAddresses::Elf => Self::Elf,
        }
    }
}

/// How a flame graph differs from the usual one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum FlameStyle {
    /// Callers on top
    Icicle,
    /// From the innermost function to its callers
    Reversed,
}

/// The flame graph of these styles.
pub(super) fn flame(styles: &[FlameStyle]) -> Flame {
    let mut flame = Flame::default();
    for style in styles {
        match style {
            FlameStyle::Icicle => flame.growth = Growth::Down,
            FlameStyle::Reversed => flame.root = Root::Innermost,
        }
    }
    flame
}

/// What a recording may cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct MaxOverhead(pub(super) Budget);

impl FromStr for MaxOverhead {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text
            .strip_suffix('%')
            .and_then(|number| number.parse().ok());
        let budget = number.and_then(Budget::of_percent);
        budget.map(Self).ok_or_else(|| {
            "an overhead is a share of one CPU above 0%, as in 1% or 0.5%".to_owned()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn addresses_are_hex() {
        assert_eq!("0x1f2C0".parse(), Ok(Address(0x1f2c0)));
        assert_eq!("ffffffffffffffff".parse(), Ok(Address(u64::MAX)));
        for text in ["", "0x", "+1", "-1", "main", "10000000000000000"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    #[test]
    fn overheads_are_in_percent_and_above_nothing() {
        let parse = |text: &str| text.parse::<MaxOverhead>().ok().map(|max| max.0);
        assert_eq!(parse("1%"), Budget::of_percent(1.0));
        assert_eq!(parse("0.01%"), Budget::of_percent(0.01));
        for text in ["0%", "-1%", "1", "%", "nan%", "inf%", ""] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
