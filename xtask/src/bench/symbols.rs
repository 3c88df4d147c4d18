//! `cargo xtask bench symbols`: what naming costs, side by side with other symbolizers, on the same
//! addresses of one large program. Prints the report and writes it to `docs/symbols.md`.

use std::{
    env,
    fmt::Write as _,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use object::{
    Object, ObjectSegment, ObjectSymbol, SegmentFlags, SymbolKind,
    elf::PF_X,
    read::{ReadCache, ReadRef},
};

use super::{
    child::{Bpf, Spent, run as run_child},
    perf_data::{self, Code},
    release_build,
    report::{Markdown, mebibytes},
};
use crate::{
    process::{cargo, find, output, run as run_command},
    workspace::Workspace,
};

/// Where the report is kept, below the top folder.
const REPORT: &str = "docs/symbols.md";
/// Below the target folder: a build of ours with all the debug information there is.
const LARGE: &str = "bench-symbols";
/// Each tool runs this often, and its best run counts: others may be busy on this machine.
const RUNS: usize = 3;
/// A tool that takes longer runs once.
const PATIENCE_S: f64 = 30.0;
/// Where the program lies, as the kernel would put it.
const LOAD_ADDRESS: u64 = 0x5555_5555_0000;
const PAGE: u64 = 4096;

const HEAD: &str = "\
# What names and lines cost

Made by `sudo -E cargo xtask bench symbols`, in one run on one host; figures of other hosts differ.

Every tool gets the same addresses, which lie evenly spread over the functions of one program, and
tells their functions, or functions, lines and inlined calls. CPU time is user and system time, and
MiB the largest resident memory, of the whole tool, its start and its output included: the best of
three runs, or the only one of a tool that takes more than 30 s. \"Frames\" counts functions with the
inlined ones. `perf script` reads a file made for the purpose, with one sample for each address. For
lines it asks `addr2line`, for minutes, and does not wait for it: that time is in no figure of its own,
so it stands with names alone.
";

/// What is asked of a tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    Names,
    Lines,
}

/// What a tool said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Answers {
    named: usize,
    with_line: usize,
    frames: usize,
}

/// A tool, how it is called with its input on stdin, and how its output is read.
struct Tool {
    name: &'static str,
    program: &'static str,
    ask: Ask,
    /// Arguments; `FILE` stands for the program, `PERF` for the perf.data file.
    arguments: &'static [&'static str],
    count: fn(&str) -> Answers,
}

const TOOLS: [Tool; 6] = [
    Tool {
        name: "ebpfprof symbols --no-inlines",
        program: "ebpfprof",
        ask: Ask::Names,
        arguments: &["symbols", "--no-inlines", "FILE"],
        count: count_ours,
    },
    Tool {
        name: "perf script --no-inline",
        program: "perf",
        ask: Ask::Names,
        arguments: &["script", "-i", "PERF", "--no-inline", "-F", "ip,sym"],
        count: count_perf,
    },
    Tool {
        name: "llvm-symbolizer --no-inlines",
        program: "llvm-symbolizer",
        ask: Ask::Names,
        arguments: &["--no-inlines", "--obj=FILE"],
        count: count_pairs,
    },
    Tool {
        name: "ebpfprof symbols",
        program: "ebpfprof",
        ask: Ask::Lines,
        arguments: &["symbols", "FILE"],
        count: count_ours,
    },
    Tool {
        name: "llvm-symbolizer",
        program: "llvm-symbolizer",
        ask: Ask::Lines,
        arguments: &["--inlines", "--obj=FILE"],
        count: count_pairs,
    },
    Tool {
        name: "addr2line -f -i -C",
        program: "addr2line",
        ask: Ask::Lines,
        arguments: &["-a", "-f", "-i", "-C", "-e", "FILE"],
        count: count_addr2line,
    },
];

/// Where everything is.
struct Bench {
    ebpfprof: PathBuf,
    program: PathBuf,
    folder: tempfile::TempDir,
}

/// Runs the bench on a program, or on a build of ours.
pub(crate) fn run(workspace: &Workspace, file: Option<PathBuf>, count: usize) -> Result<()> {
    let is_usual = file.is_none();
    let program = match file {
        Some(file) => {
            fs::canonicalize(&file).with_context(|| format!("cannot find {}", file.display()))?
        }
        None => large_build(workspace)?,
    };
    let bench = Bench {
        ebpfprof: release_build(workspace)?,
        program,
        folder: tempfile::tempdir().context("cannot make a temporary folder")?,
    };
    let addresses = bench.write_inputs(count)?;
    let mut report = HEAD.to_owned();
    let name = bench.program.file_name().unwrap_or_default();
    let bytes = fs::metadata(&bench.program)?.len();
    let mib = mebibytes(bytes);
    write!(
        report,
        "\nThe program is {}, {mib:.0} MiB, and {addresses} of its addresses.\n",
        match is_usual {
            true => "ebpfprof with full debug information".to_owned(),
            false => name.to_string_lossy().into_owned(),
        }
    )?;
    for (title, ask) in [
        ("Names", Ask::Names),
        ("Lines and inlined calls", Ask::Lines),
    ] {
        write!(report, "\n## {title}\n\n{}", bench.table(ask)?)?;
    }
    write!(report, "\n## Versions\n\n{}", versions(&bench.ebpfprof)?)?;
    println!("{report}");
    if is_usual {
        let path = workspace.root().join(REPORT);
        fs::write(&path, report).with_context(|| format!("cannot write {}", path.display()))?;
        println!("wrote {REPORT}");
    }
    Ok(())
}

/// Ours with full debug information: large, and there wherever this runs.
fn large_build(workspace: &Workspace) -> Result<PathBuf> {
    let target = env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = target.unwrap_or_else(|| workspace.root().join("target"));
    let folder = workspace.root().join(target).join(LARGE);
    let mut build = cargo();
    build
        .args(["build", "--release", "--locked", "-p", "ebpfprof"])
        .arg("--target-dir")
        .arg(&folder)
        .env("CARGO_PROFILE_RELEASE_DEBUG", "full")
        .current_dir(workspace.root());
    run_command(&mut build)?;
    Ok(folder.join("release/ebpfprof"))
}

impl Bench {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes the addresses for each tool. Tells how many there are.
    fn write_inputs(&self, count: usize) -> Result<usize> {
        // By need: what a tool starts from counts as its memory.
        let data = ReadCache::new(File::open(&self.program)?);
        let elf = object::File::parse(&data).context("the program is no ELF file")?;
        let addresses = spread(&functions(&elf), count);
        if addresses.len() < count {
            bail!(
                "{} has fewer than {count} bytes of functions",
                self.program.display()
            );
        }
        let lines: String = addresses.iter().fold(String::new(), |mut lines, address| {
            let _ = writeln!(lines, "{address:#x}");
            lines
        });
        fs::write(self.path("addresses"), lines)?;
        let bias = match elf.kind() {
            object::ObjectKind::Executable => 0,
            _ => LOAD_ADDRESS,
        };
        let code = elf.segments().filter(
            |segment| matches!(segment.flags(), SegmentFlags::Elf { p_flags, .. } if p_flags.contains(PF_X)),
        );
        let mappings: Vec<Code<'_>> = code
            .map(|segment| {
                let lead = segment.address() % PAGE;
                let (offset, bytes) = segment.file_range();
                Code {
                    file: self.program.as_os_str(),
                    start: bias + segment.address() - lead,
                    bytes: (bytes + lead).next_multiple_of(PAGE),
                    file_offset: offset - lead,
                }
            })
            .collect();
        let runtime = addresses.iter().map(|address| bias + address);
        fs::write(self.path("perf.data"), perf_data::file(&mappings, runtime))?;
        Ok(addresses.len())
    }

    fn table(&self, ask: Ask) -> Result<String> {
        let mut table = Markdown::with_columns(&[
            "tool",
            "CPU s",
            "times ours",
            "MiB",
            "named",
            "with line",
            "frames",
        ]);
        let mut failures = String::new();
        let mut ours = None;
        for tool in TOOLS.iter().filter(|tool| tool.ask == ask) {
            eprintln!("bench: {}", tool.name);
            match self.measure(tool) {
                Ok((spent, answers)) => {
                    let cpu = spent.cpu.as_secs_f64();
                    let ours = *ours.get_or_insert(cpu);
                    table.push(vec![
                        format!("`{}`", tool.name),
                        format!("{cpu:.2}"),
                        format!("{:.1}", cpu / ours),
                        format!("{:.0}", mebibytes(spent.resident_bytes)),
                        answers.named.to_string(),
                        match ask {
                            Ask::Names => "–".to_owned(),
                            Ask::Lines => answers.with_line.to_string(),
                        },
                        answers.frames.to_string(),
                    ]);
                }
                Err(error) => {
                    table.push(vec![format!("`{}`", tool.name), "failed".to_owned()]);
                    writeln!(failures, "- {}: {error:#}", tool.name)?;
                }
            }
        }
        Ok(match failures.is_empty() {
            true => table.to_string(),
            false => format!("{table}\nWhy there are no figures:\n\n{failures}"),
        })
    }

    fn measure(&self, tool: &Tool) -> Result<(Spent, Answers)> {
        let program = match tool.program {
            "ebpfprof" => self.ebpfprof.clone(),
            other => find(other).context("not installed")?,
        };
        let [out, err] = ["out", "err"].map(|name| self.path(name));
        let mut best: Option<Spent> = None;
        for _ in 0..RUNS {
            // The shell becomes the tool: what is measured is the tool's alone.
            let mut command = Command::new("sh");
            command.args(["-c", "exec \"$@\" < \"$0\""]);
            command.arg(self.path("addresses")).arg(&program);
            command.args(
                tool.arguments
                    .iter()
                    .map(|argument| self.argument(argument)),
            );
            let spent = run_child(&mut command, Bpf::Ignored, [&out, &err])?;
            let is_better = best.is_none_or(|best| spent.cpu < best.cpu);
            best = if is_better { Some(spent) } else { best };
            if spent.cpu.as_secs_f64() > PATIENCE_S {
                break;
            }
        }
        let answers = (tool.count)(&fs::read_to_string(&out)?);
        Ok((best.context("each tool runs once at least")?, answers))
    }

    fn argument(&self, argument: &str) -> String {
        let path = |path: &Path| path.to_string_lossy().into_owned();
        argument
            .replace("FILE", &path(&self.program))
            .replace("PERF", &path(&self.path("perf.data")))
    }
}

/// Address and size of each function, in order.
fn functions<'data, R: ReadRef<'data>>(elf: &object::File<'data, R>) -> Vec<(u64, u64)> {
    let symbols = elf.symbols().filter(|symbol| {
        symbol.kind() == SymbolKind::Text && symbol.size() > 0 && symbol.is_definition()
    });
    let mut functions: Vec<(u64, u64)> = symbols
        .map(|symbol| (symbol.address(), symbol.size()))
        .collect();
    functions.sort_unstable();
    let mut end = 0;
    functions.retain(|(start, bytes)| {
        let is_apart = *start >= end;
        end = end.max(start + bytes);
        is_apart
    });
    functions
}

/// Addresses at even distances, as if the functions followed each other without a gap.
fn spread(functions: &[(u64, u64)], count: usize) -> Vec<u64> {
    let all: u64 = functions.iter().map(|(_, bytes)| bytes).sum();
    let count = u64::try_from(count).unwrap_or(u64::MAX).min(all);
    let mut functions = functions.iter();
    let (mut before, mut current) = (0, functions.next());
    let mut addresses = Vec::new();
    for number in 0..count {
        let at = u64::try_from(u128::from(all) * u128::from(number) / u128::from(count))
            .unwrap_or(u64::MAX);
        while let Some((start, bytes)) = current {
            if at < before + bytes {
                addresses.push(start + at - before);
                break;
            }
            before += bytes;
            current = functions.next();
        }
    }
    addresses
}

fn count_ours(text: &str) -> Answers {
    let mut answers = Answers::default();
    for line in text.lines() {
        let is_first = line.starts_with("0x");
        let is_named = !line.ends_with(" ?");
        answers.named += usize::from(is_first && is_named);
        let (place, _) = line.split_once(" (starts at line ").unwrap_or((line, ""));
        answers.with_line += usize::from(is_first && place.contains(" at "));
        answers.frames += usize::from(is_named);
    }
    answers
}

/// Blocks with a line for the function and one for the place, and so on; an empty line between.
fn count_pairs(text: &str) -> Answers {
    let mut answers = Answers::default();
    for block in text.split("\n\n").filter(|block| !block.trim().is_empty()) {
        count_block(&mut answers, block.trim_matches('\n').lines());
    }
    answers
}

/// The same, and each block begins with its address.
fn count_addr2line(text: &str) -> Answers {
    let mut answers = Answers::default();
    let mut lines = text.lines().peekable();
    while lines.next().is_some() {
        let mut block = Vec::new();
        while let Some(line) = lines.next_if(|line| !line.starts_with("0x")) {
            block.push(line);
        }
        count_block(&mut answers, block.into_iter());
    }
    answers
}

fn count_block<'a>(answers: &mut Answers, lines: impl Iterator<Item = &'a str>) {
    let lines: Vec<&str> = lines.collect();
    for (depth, pair) in lines.chunks(2).enumerate() {
        let is_named = !pair[0].starts_with("??");
        let has_line = pair.get(1).is_some_and(|place| {
            let is_place = |part: &str| !part.is_empty() && part != "0" && part != "?";
            !place.starts_with("??") && place.split(':').nth(1).is_some_and(is_place)
        });
        answers.frames += usize::from(is_named);
        answers.named += usize::from(depth == 0 && is_named);
        answers.with_line += usize::from(depth == 0 && has_line);
    }
}

/// Blocks of an address with its function, and lines with places; an empty line between.
fn count_perf(text: &str) -> Answers {
    let mut answers = Answers::default();
    for block in text.split("\n\n") {
        let is_frame = |line: &&str| line.starts_with([' ', '\t']) && !is_place(line);
        let named = block.lines().filter(is_frame);
        let named = named.filter(|line| !line.contains("[unknown]")).count();
        answers.frames += named;
        answers.named += usize::from(named > 0);
        answers.with_line += usize::from(block.lines().any(is_place));
    }
    answers
}

/// Whether a line of `perf script` is a file with a line number.
fn is_place(line: &str) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [word] = words[..] else { return false };
    let number = word.rsplit_once(':').map(|(_, number)| number);
    number.is_some_and(|number| number.parse::<u32>().is_ok())
}

fn versions(ebpfprof: &Path) -> Result<String> {
    let mut lines = String::new();
    for (program, argument) in [
        (ebpfprof, "--version"),
        (Path::new("perf"), "--version"),
        (Path::new("llvm-symbolizer"), "--version"),
        (Path::new("addr2line"), "--version"),
    ] {
        let text = output(Command::new(program).arg(argument)).unwrap_or_default();
        let line = text
            .lines()
            .find(|line| line.chars().any(|c| c.is_ascii_digit()));
        writeln!(lines, "- {}", line.unwrap_or("not installed").trim())?;
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lie_evenly_in_functions_alone() {
        let functions = [(100, 4), (200, 4)];
        assert_eq!(spread(&functions, 4), [100, 102, 200, 202]);
        assert_eq!(spread(&functions, 2), [100, 200]);
        assert_eq!(spread(&functions, 99).len(), 8);
        assert!(spread(&[], 4).is_empty());
    }

    #[track_caller]
    fn check(answers: Answers, [named, with_line, frames]: [usize; 3]) {
        let expected = Answers {
            named,
            with_line,
            frames,
        };
        assert_eq!(answers, expected);
    }

    #[test]
    fn answers_are_counted_as_each_tool_gives_them() {
        let ours = "0x1 inner at /a.c:3:1\n  inlined into outer at /a.c:9\n0x2 f (starts at line 7)\n0x3 ?\n";
        check(count_ours(ours), [2, 1, 3]);
        let llvm = "inner\n/a.c:3:1\nouter\n/a.c:9:0\n\nf\n??:0:0\n\n??\n??:0:0\n\n";
        check(count_pairs(llvm), [2, 1, 3]);
        let gnu =
            "0x1\ninner\n/a.c:3\nouter\n/a.c:9 (discriminator 2)\n0x2\nf\n??:?\n0x3\n??\n??:0\n";
        check(count_addr2line(gnu), [2, 1, 3]);
        let perf =
            "\n\t1 inner (inlined)\n  a.c:3\n\t1 outer\n  a.c:9\n\n\t2 f\n\n\t3 [unknown]\n\n";
        check(count_perf(perf), [2, 1, 3]);
    }
}
