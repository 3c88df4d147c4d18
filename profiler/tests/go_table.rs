//! Names, lines and inlined calls of Go programs, against what Go itself says: the runtime of the
//! program that is asked about, and `go tool addr2line`. `cargo xtask fixtures` builds the program in
//! four ways, with the `go` on the path.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "common/fixture_path.rs"]
mod fixture_path;

use std::{
    fs::File,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use ebpfprof::{
    symbolize::go::{GoFrame, GoTable},
    unwind::{Lookup, Table},
};
use fixture_path::fixture_path;
use object::{Object, ObjectSection};
use profiler_common::unwind::Rule;

/// Bytes between addresses that are compared: odd, so that all places in instructions are met.
const STEP: usize = 13;

/// A frame in the words of Go: function, file, line.
type Told = (String, String, u32);

/// What Go says of one address.
#[derive(Debug)]
struct Answer {
    address: u64,
    frames: Vec<Told>,
}

/// What the program says.
struct Words {
    /// Whether its runtime tells of every call that was inlined at a lone address: since Go 1.23, or a
    /// bit before.
    tells_all: bool,
    answers: Vec<Answer>,
}

/// Some addresses of code. Those that a function may follow at once are not among them: the runtime
/// takes a return address there for that function's.
fn some(code: std::ops::Range<u64>) -> Vec<u64> {
    // The last of them are marks of the linker's, without lines.
    let code = code.start..code.end - 64;
    code.step_by(STEP)
        .filter(|address| address % 16 != 15)
        .collect()
}

/// The ELF addresses of the program's code.
fn code(program: &Path) -> std::ops::Range<u64> {
    let bytes = std::fs::read(program).unwrap();
    let file = object::File::parse(&bytes[..]).unwrap();
    let text = file.section_by_name(".text").unwrap();
    text.address()..text.address() + text.size()
}

/// Asks the program. It must have been loaded where its file says, or a number of pages from there.
fn ask(program: &Path, what: &str, main: u64, addresses: &[u64]) -> Words {
    let mut child = Command::new(program)
        .arg(what)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let text: String = [main]
        .iter()
        .chain(addresses)
        .map(|address| format!("{address:#x}\n"))
        .collect();
    let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let output = child.wait_with_output().unwrap();
    let _ = writer.join().unwrap();
    assert!(
        output.status.success(),
        "{}: {}",
        program.display(),
        output.status
    );
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines = text.lines();
    let (version, bias) = lines.next().unwrap().split_once('\t').unwrap();
    let is_fixed = !program.to_str().unwrap().contains("pie");
    let bias = number(bias);
    assert!(
        bias.is_multiple_of(4096) && (bias == 0 || !is_fixed),
        "loaded at {bias:#x}"
    );
    Words {
        tells_all: !["go1.18", "go1.19", "go1.20", "go1.21", "go1.22"]
            .iter()
            .any(|old| version.starts_with(old)),
        answers: lines.map(answer).collect(),
    }
}

fn number(text: &str) -> u64 {
    u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap()
}

fn answer(line: &str) -> Answer {
    let mut fields = line.split('\t');
    let address = number(fields.next().unwrap());
    let fields: Vec<&str> = fields.collect();
    let (frames, _) = fields.as_chunks::<3>();
    let frame = |[function, file, line]: &[&str; 3]| {
        // The runtime says that it does not know.
        let file = file.trim_start_matches('?').to_owned();
        ((*function).to_owned(), file, line.parse().unwrap())
    };
    let frames = frames.iter().map(frame).collect();
    Answer { address, frames }
}

/// A frame in the words of the runtime: newer tables have the types that a generic function is for.
fn in_words(frame: &GoFrame) -> Told {
    let name = match (frame.name.find('['), frame.name.rfind(']')) {
        (Some(start), Some(end)) => {
            format!("{}[...]{}", &frame.name[..start], &frame.name[end + 1..])
        }
        _ => frame.name.to_string(),
    };
    (name, frame.file.to_string(), frame.line)
}

/// What the table says, but for one function that the runtime takes for none: its name is the first,
/// and the number 0 is no name to it.
fn resolve(table: &GoTable<'_>, nameless: &str, addresses: &[u64]) -> Vec<Option<Vec<Told>>> {
    let told = |frames: Vec<GoFrame>| {
        let frames = frames.iter().filter(|frame| &*frame.name != nameless);
        frames.map(in_words).collect()
    };
    let resolved = table.resolve(addresses).into_iter();
    resolved.map(|frames| frames.map(told)).collect()
}

/// The name of the first function.
fn first_name(table: &GoTable<'_>, program: &Path) -> String {
    let addresses: Vec<u64> = code(program).take(4096).collect();
    let resolved = table.resolve(&addresses).into_iter();
    let mut names = resolved.filter_map(|frames| Some(frames?.last()?.name.to_string()));
    names.next().unwrap()
}

/// Where `main.main` begins: functions do at multiples of this.
fn main_of(table: &GoTable<'_>, program: &Path) -> u64 {
    let addresses: Vec<u64> = code(program).step_by(16).collect();
    let resolved = table.resolve(&addresses).into_iter();
    let mut resolved = resolved.map(|frames| frames?.last().map(|frame| frame.name.clone()));
    addresses[resolved
        .position(|name| name.as_deref() == Some("main.main"))
        .unwrap()]
}

/// The table says what the runtime says of addresses all over the program.
#[track_caller]
fn check_addresses(name: &str) {
    let program = fixture_path(name);
    let file = File::open(&program).unwrap();
    let table = GoTable::read(&file).unwrap();
    let addresses = some(code(&program));
    let words = ask(&program, "addresses", main_of(&table, &program), &addresses);
    assert_eq!(words.answers.len(), addresses.len());
    let (mut named, mut inlined) = (0, 0);
    let nameless = first_name(&table, &program);
    let resolved = resolve(&table, &nameless, &addresses);
    for (answer, found) in words.answers.iter().zip(resolved) {
        let address = answer.address;
        let mut expected = answer.frames.clone();
        // The runtime believes that padding belongs to the function before it, and knows no line.
        let Some(mut found) = found else {
            assert!(
                expected.iter().all(|(.., line)| *line == 0),
                "{address:#x}: {expected:?}"
            );
            continue;
        };
        inlined += usize::from(found.len() > 1);
        if !words.tells_all {
            expected.truncate(1);
            found.truncate(1);
        }
        assert_eq!(found, expected, "{address:#x} of {name}");
        named += 1;
    }
    // The rest is padding.
    assert!(
        named * 100 > addresses.len() * 80,
        "{named} of {}",
        addresses.len()
    );
    assert!(inlined * 100 > named * 5, "{inlined} of {named}");
}

/// The table says what the runtime says of stacks, each call that was inlined included.
#[track_caller]
fn check_stacks(name: &str) {
    let program = fixture_path(name);
    let file = File::open(&program).unwrap();
    let table = GoTable::read(&file).unwrap();
    let words = ask(&program, "stacks", main_of(&table, &program), &[]);
    let deepest = words.answers.iter().map(|answer| answer.frames.len()).max();
    assert!(deepest >= Some(3), "{deepest:?}");
    for answer in words.answers {
        let found = resolve(&table, "", &[answer.address]);
        assert_eq!(
            found,
            [Some(answer.frames)],
            "{:#x} of {name}",
            answer.address
        );
    }
}

/// The table says what Go's own tool says; the tool needs symbols and a fixed address.
#[track_caller]
fn check_with_addr2line(name: &str) {
    let program = fixture_path(name);
    let file = File::open(&program).unwrap();
    let table = GoTable::read(&file).unwrap();
    let addresses: Vec<u64> = code(&program).step_by(STEP * 7).collect();
    let mut child = Command::new("go")
        .args(["tool", "addr2line"])
        .arg(&program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let text: String = addresses
        .iter()
        .map(|address| format!("{address:#x}\n"))
        .collect();
    let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = output.lines().collect();
    let (answers, _) = lines.as_chunks::<2>();
    assert_eq!(answers.len(), addresses.len());
    let (mut compared, mut same) = (0, 0);
    for ((address, [function, place]), found) in
        addresses.iter().zip(answers).zip(table.resolve(&addresses))
    {
        let Some(found) = found else { continue };
        // The tool says where the innermost line is, and to which function the code belongs; the table
        // leaves that out where it is a wrapper.
        let GoFrame { file, line, .. } = &found[0];
        if *line != 0 {
            assert_eq!(format!("{file}:{line}"), *place, "{address:#x} of {name}");
        }
        same += usize::from(&*found[found.len() - 1].name == *function);
        compared += 1;
    }
    assert!(compared > 1000, "{compared}");
    assert!(same * 100 > compared * 99, "{same} of {compared}");
}

#[test]
fn a_plain_program() {
    check_addresses("go-words");
    check_stacks("go-words");
    check_with_addr2line("go-words");
}

#[test]
fn a_stripped_program() {
    check_addresses("go-words.stripped");
    check_stacks("go-words.stripped");
}

#[test]
fn a_position_independent_program() {
    check_addresses("go-words.pie");
    check_stacks("go-words.pie");
}

#[test]
fn a_stripped_position_independent_program() {
    check_addresses("go-words.pie.stripped");
    check_stacks("go-words.pie.stripped");
}

/// Compares the unwind table of a stripped program with that of the same one with its `.debug_frame`.
#[track_caller]
fn check_frames(whole: &str, stripped: &str) {
    let table = |name: &str| Table::of_file(&File::open(fixture_path(name)).unwrap()).unwrap();
    let (whole, stripped) = (table(whole), Lookup::new(&table(stripped)));
    let (mut bytes, mut same, mut absent, mut other) = (0, 0, 0, Vec::new());
    for (start, end, rule) in whole.ranges() {
        bytes += end - start;
        for address in start..end {
            match stripped.rule(address) {
                told if told == rule => same += 1,
                Rule::NoInformation => absent += 1,
                told => other.push((address, rule, told)),
            }
        }
    }
    other.truncate(10);
    assert!(other.is_empty(), "{other:?}");
    // What writes the stack pointer, and what is between functions.
    let percent = 100 * absent / bytes;
    assert!(
        percent < 2,
        "{absent} of {bytes} have no rule, {same} the same"
    );
}

#[test]
fn stripped_programs_have_the_same_unwind_tables() {
    check_frames("go-words", "go-words.stripped");
    check_frames("go-words.pie", "go-words.pie.stripped");
}
