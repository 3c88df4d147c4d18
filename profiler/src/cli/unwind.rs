//! `ebpfprof unwind`: what an object's unwind table holds, for those who ask why a stack is cut.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::Path,
    process::ExitCode,
    time::Instant,
};

use profiler_common::unwind::{Base, Cfa, RBX, Rule, SavedFp, SavedRbx};

use super::{args::UnwindArgs, start_log, trouble::Trouble};
use crate::unwind::{Cause, Extent, Layout, Lookup, Table};

/// Names of the general registers, by their DWARF number.
/// Source: System V ABI for x86-64, figure 3.36.
const REGISTERS: [&str; 16] = [
    "rax", "rdx", "rcx", "rbx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15",
];

/// Shows a table. What it shows is its result and goes to stdout.
pub(super) fn run(args: &UnwindArgs) -> Result<ExitCode, Trouble> {
    start_log(args.verbose);
    let table = compile(&args.file)?;
    let mut out = BufWriter::new(io::stdout().lock());
    let written = match args.address {
        Some(address) => write_address(&table, address.0, &mut out),
        None if args.rows => write_rows(&table, &mut out),
        None => write_summary(&table, &mut out),
    };
    match written.and_then(|()| out.flush()) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        // Whoever read it has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        Err(error) => Err(Trouble::failure(
            "cannot write to stdout",
            error.to_string(),
            "ebpfprof unwind FILE > table.txt, where there is room",
        )),
    }
}

fn compile(path: &Path) -> Result<Table, Trouble> {
    let what = || format!("cannot show the unwind table of {}", path.display());
    let advice = "ebpfprof unwind FILE, with a file that is there and that you can read";
    let is_file = fs::metadata(path).map(|meta| meta.is_file());
    let file = match is_file {
        Ok(false) => return Err(Trouble::failure(what(), "it is no regular file", advice)),
        Ok(true) => File::open(path),
        Err(error) => Err(error),
    };
    let file = file.map_err(|error| Trouble::failure(what(), error.to_string(), advice))?;
    let started = Instant::now();
    let table = Table::of_object(&file, Some(path))
        .map_err(|error| Trouble::failure(what(), error.to_string(), error.advice()))?;
    let seconds = started.elapsed().as_secs_f64();
    let rows = table.rows().len();
    log::debug!(
        "compiled {rows} rows in {:.1} ms, {:.1} million a second",
        seconds * 1e3,
        rows as f64 / seconds / 1e6
    );
    Ok(table)
}

fn write_address(table: &Table, address: u64, out: &mut dyn Write) -> io::Result<()> {
    let rule = Lookup::new(table).rule(address);
    let range = table
        .ranges()
        .find(|(start, end, _)| (*start..*end).contains(&address));
    match range {
        Some((start, end, _)) => writeln!(out, "row   {start:#x}-{end:#x}")?,
        None => writeln!(out, "row   none: the address is outside of the table")?,
    }
    writeln!(out, "rule  {}", rule_words(rule))?;
    writeln!(out, "so    {}", meaning(rule))
}

fn write_rows(table: &Table, out: &mut dyn Write) -> io::Result<()> {
    for (start, end, rule) in table.ranges() {
        writeln!(out, "{start:#012x}-{end:#012x}  {}", rule_words(rule))?;
    }
    Ok(())
}

fn write_summary(table: &Table, out: &mut dyn Write) -> io::Result<()> {
    let coverage = table.coverage();
    let mut rules = 0;
    let layout = Layout::of(table, 0, |rule| {
        rules += 1;
        Some(rule)
    });
    let rows = table.rows().len();
    let kept = layout.rows.len();
    let bytes = 4 * (kept + layout.index.len()) + 8 * rules;
    let own = coverage.functions - coverage.debug_functions;
    write!(out, "from   {own} functions in {}", table.format().name())?;
    match coverage.debug_functions {
        0 => writeln!(out)?,
        more => writeln!(out, ", {more} more in .debug_frame")?,
    }
    writeln!(
        out,
        "rows   {rows} with {} distinct rules",
        table.rules().len()
    )?;
    let code = coverage.code_bytes as f64;
    writeln!(
        out,
        "code   {} bytes, {:.2}% of them with a rule, {:.1} a row",
        coverage.code_bytes,
        100.0 * coverage.covered().bytes as f64 / code,
        code / rows as f64
    )?;
    writeln!(
        out,
        "memory {kept} rows with {rules} rules: pushes and pops are joined to the row before"
    )?;
    writeln!(
        out,
        "table  {bytes} bytes: {:.1} a row, {:.1}% of the code",
        bytes as f64 / rows as f64,
        100.0 * bytes as f64 / code
    )?;
    write_extents(table, out)?;
    if layout.overfull_buckets > 0 {
        writeln!(
            out,
            "\nleft out, with more rows than can be counted: {} ranges of 256 bytes",
            layout.overfull_buckets
        )?;
    }
    Ok(())
}

/// The rules by what they cover, and what is not covered by cause.
fn write_extents(table: &Table, out: &mut dyn Write) -> io::Result<()> {
    let coverage = table.coverage();
    let mut extents: Vec<(Extent, Rule)> = coverage
        .rules
        .iter()
        .copied()
        .zip(table.rules().iter().copied())
        .filter(|(extent, _)| extent.rows > 0)
        .collect();
    extents.sort_by_key(|(extent, rule)| (std::cmp::Reverse(extent.bytes), rule.encode()));
    writeln!(out, "\n{:>9} {:>11}  rule", "rows", "bytes")?;
    for (extent, rule) in extents {
        let (rows, bytes) = (extent.rows, extent.bytes);
        writeln!(out, "{rows:>9} {bytes:>11}  {}", rule_words(rule))?;
    }
    let causes: Vec<(Cause, Extent)> = Cause::ALL
        .into_iter()
        .map(|cause| (cause, coverage.inexpressible(cause)))
        .filter(|(_, extent)| extent.rows > 0)
        .collect();
    if causes.is_empty() {
        return writeln!(out, "\nnot expressed: nothing that the object describes");
    }
    writeln!(
        out,
        "\n{:>9} {:>11}  not expressed, because",
        "rows", "bytes"
    )?;
    for (cause, extent) in causes {
        let (rows, bytes) = (extent.rows, extent.bytes);
        writeln!(out, "{rows:>9} {bytes:>11}  {}", cause.words())?;
    }
    Ok(())
}

/// A rule in the short form of debuggers.
fn rule_words(rule: Rule) -> String {
    let mut rbx = String::new();
    let (cfa, fp) = match rule {
        Rule::NoInformation => return "no information".to_owned(),
        Rule::SignalFrame => return "signal frame".to_owned(),
        Rule::End => return "outermost frame".to_owned(),
        Rule::ReturnInRegister(register, offset) => {
            let cfa = cfa_words(Cfa::StackPointer(offset));
            return format!("CFA {cfa}, return address in {}", register_name(register));
        }
        Rule::Frame(cfa, fp) => (cfa, fp),
        Rule::Injected(base, offset, fp) => (cfa_of(base, offset), fp),
        Rule::FrameAndRbx(base, offset, fp, place) => {
            if let SavedRbx::BelowCfa(words) = place {
                rbx = format!(", rbx at CFA-{}", 8 * u32::from(words));
            }
            (cfa_of(base, offset), fp)
        }
    };
    let fp = match fp {
        SavedFp::Same => String::new(),
        SavedFp::AtCfa(offset) => format!(", rbp at CFA{offset:+}"),
        SavedFp::AtFp(offset) => format!(", rbp at rbp{offset:+}"),
        SavedFp::WhereFramed => ", rbp at CFA-16 once framed".to_owned(),
    };
    format!("CFA {}{fp}{rbx}", cfa_words(cfa))
}

fn cfa_of(base: Base, offset: i32) -> Cfa {
    match base {
        Base::StackPointer => Cfa::StackPointer(offset),
        Base::FramePointer => Cfa::FramePointer(offset),
    }
}

fn cfa_words(cfa: Cfa) -> String {
    match cfa {
        Cfa::StackPointer(offset) => format!("rsp{offset:+}"),
        Cfa::FramePointer(offset) => format!("rbp{offset:+}"),
        Cfa::Register(number, offset) => format!("{}{offset:+}", register_name(number)),
        Cfa::Plt { pushed_from } => format!("rsp+8, +16 from byte {pushed_from} of a PLT entry"),
        Cfa::Loaded(base, offset, words) => {
            let base = match base {
                Base::StackPointer => "rsp",
                Base::FramePointer => "rbp",
            };
            format!("*({base}{offset:+}){:+}", 8 * i32::from(words))
        }
    }
}

fn register_name(number: u8) -> &'static str {
    REGISTERS.get(usize::from(number)).copied().unwrap_or("?")
}

/// What a walk does with a rule.
fn meaning(rule: Rule) -> &'static str {
    match rule {
        Rule::NoInformation => "the object does not say where the caller is: the frame pointer may",
        Rule::SignalFrame => "the kernel saved the registers of what a signal interrupted",
        Rule::End => "the stack is complete here: there is no caller",
        Rule::Frame(Cfa::Register(RBX, _), _) => {
            "rbx has it: of use in the innermost frame, and where this object's own code was called"
        }
        Rule::ReturnInRegister(..) | Rule::Frame(Cfa::Register(..), _) => {
            "a register has it that only the interrupted function knows: of use in the innermost frame"
        }
        Rule::Injected(..) => {
            "nothing called it: a signal handler put it between its caller and the next instruction"
        }
        Rule::Frame(..) | Rule::FrameAndRbx(..) => {
            "the return address is at CFA-8, the caller's stack pointer is the CFA"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(rule: Rule, expected: &str) {
        assert_eq!(rule_words(rule), expected);
    }

    #[test]
    fn rules_read_as_in_a_debugger() {
        let frame = |cfa| Rule::Frame(cfa, SavedFp::Same);
        check(frame(Cfa::StackPointer(8)), "CFA rsp+8");
        check(
            Rule::Frame(Cfa::FramePointer(16), SavedFp::AtCfa(-16)),
            "CFA rbp+16, rbp at CFA-16",
        );
        check(
            Rule::Frame(Cfa::Loaded(Base::FramePointer, -8, 0), SavedFp::AtFp(0)),
            "CFA *(rbp-8)+0, rbp at rbp+0",
        );
        check(frame(Cfa::Register(10, 0)), "CFA r10+0");
        check(
            Rule::FrameAndRbx(
                Base::StackPointer,
                64,
                SavedFp::AtCfa(-48),
                SavedRbx::BelowCfa(7),
            ),
            "CFA rsp+64, rbp at CFA-48, rbx at CFA-56",
        );
        check(
            Rule::ReturnInRegister(5, 0),
            "CFA rsp+0, return address in rdi",
        );
        check(
            Rule::Injected(Base::FramePointer, 16, SavedFp::AtCfa(-16)),
            "CFA rbp+16, rbp at CFA-16",
        );
        check(Rule::NoInformation, "no information");
    }

    #[test]
    fn our_own_table_is_shown() {
        let table = compile(Path::new("/proc/self/exe")).unwrap();
        let mut text = Vec::new();
        write_summary(&table, &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(
            text.contains("functions in .eh_frame") && text.contains("CFA rsp+8\n"),
            "{text}"
        );
        let (start, _, rule) = table.ranges().nth(1).unwrap();
        let mut shown = Vec::new();
        write_address(&table, start, &mut shown).unwrap();
        let shown = String::from_utf8(shown).unwrap();
        assert!(shown.contains(&rule_words(rule)), "{shown}");
    }
}
