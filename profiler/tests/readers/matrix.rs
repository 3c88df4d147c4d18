//! Every subject by every command of every reader.

use std::{path::Path, thread};

use crate::{
    pages,
    program::Finished,
    reader::{Age, Reader, spoken},
    subject::{
        self, C_NO_PIE, C_PIE, CPP, Code, GO, GO_STRIPPED, JAVA, KERNEL, NODE, PYTHON, RUST,
        Subject,
    },
};

/// What a command's output begins with, or has in it.
#[derive(Clone, Copy, Debug)]
enum Shows {
    /// The hot function.
    Hot,
    /// These bytes first.
    Magic(&'static [u8]),
    /// This text somewhere.
    Text(&'static str),
    /// Nothing in particular.
    Anything,
}

/// Commands that read the profile alone.
const COMMANDS: [(&[&str], Shows); 13] = [
    (&["-top", "-cum"], Shows::Hot),
    (&["-tree"], Shows::Hot),
    (&["-traces"], Shows::Hot),
    // One process has no labels.
    (&["-tags"], Shows::Anything),
    (&["-raw"], Shows::Hot),
    (&["-dot"], Shows::Hot),
    (&["-svg"], Shows::Hot),
    (&["-png"], Shows::Magic(b"\x89PNG\r\n")),
    (&["-pdf"], Shows::Magic(b"%PDF-")),
    (&["-callgrind"], Shows::Hot),
    (&["-proto"], Shows::Magic(b"\x1f\x8b")),
    (&["-comments"], Shows::Text("ebpfprof ")),
    (&["-top", "-addresses"], Shows::Hot),
];

/// How a subject is taken by all readers.
#[track_caller]
fn check(subject: &Subject) {
    let recorded = subject.record(&[]);
    let file = subject::file(&recorded);
    let readers = Reader::all();
    thread::scope(|scope| {
        for reader in &readers {
            scope.spawn(|| {
                for (arguments, shows) in COMMANDS {
                    let output = reader.write(arguments, &file);
                    check_output(subject, &output, shows, &format!("{arguments:?}"));
                }
                check_names(reader, subject, &file);
                check_about_hot(reader, subject, &file);
                pages::check(reader, subject, &file);
            });
        }
    });
    let stacks = &recorded.receipt;
    // Others may be busy on this machine.
    assert!(stacks.kept > 20, "{stacks:?}");
}

#[track_caller]
fn check_output(subject: &Subject, output: &[u8], shows: Shows, what: &str) {
    // As SVG writes it.
    let text = String::from_utf8_lossy(output).replace("&#45;", "-");
    let is_right = match shows {
        Shows::Hot => text.contains(&subject.hot_name()),
        Shows::Text(expected) => text.contains(expected),
        Shows::Magic(magic) => output.starts_with(magic),
        Shows::Anything => true,
    };
    assert!(
        is_right,
        "{}, {what} does not show {shows:?}:\n{}",
        subject.name,
        text.chars().take(4000).collect::<String>()
    );
}

/// Names are shown as they are: none is cut, simplified or demangled once more.
#[track_caller]
fn check_names(reader: &Reader, subject: &Subject, file: &Path) {
    let top = reader.show(&["-top", "-nodecount=10000", "-nodefraction=0"], &[file]);
    for name in subject.names {
        let is_shown = top.lines().any(|line| is_row_of(line, name));
        assert!(
            is_shown,
            "{:?} pprof shows no {name:?} of {}:\n{top}",
            reader.age, subject.name
        );
    }
}

/// The own time and the name in a line of `-top`, if it is about a function.
pub(crate) fn row_of(line: &str) -> Option<(&str, &str)> {
    // flat flat% sum% cum cum% name
    let mut rest = line.trim_start();
    let mut numbers = [""; 5];
    for number in &mut numbers {
        let (word, behind) = rest.split_once(' ')?;
        (*number, rest) = (word, behind.trim_start());
    }
    let is_percent = |at: usize| numbers[at].ends_with('%');
    (is_percent(1) && is_percent(2) && is_percent(4)).then_some((numbers[0], rest))
}

/// Whether a line of `-top` is about this function. What the compiler says of a copy that it made
/// may follow the name.
fn is_row_of(line: &str, name: &str) -> bool {
    row_of(line).is_some_and(|(_, shown)| {
        let rest = shown.strip_prefix(name);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(" [clone ."))
    })
}

/// Commands about the hot function.
#[track_caller]
fn check_about_hot(reader: &Reader, subject: &Subject, file: &Path) {
    let about = |command: &str| format!("-{command}={}", subject.hot);
    let peek = reader.show(&[&about("peek")], &[file]);
    assert!(peek.contains(&subject.hot_name()), "{peek}");
    let list = reader.show(&[&about("list")], &[file]);
    match subject.source {
        Some((_, hot_line)) => {
            assert!(list.contains("ROUTINE ="), "{list}");
            assert!(list.contains(hot_line), "{list}");
        }
        // Said on stdout: neither the kernel's nor the distribution's sources are here, nor lines
        // that lead to them.
        None => assert!(
            list.contains("No source information for ") || list.contains("ROUTINE ="),
            "{list}"
        ),
    }
    let weblist = reader.write(&[&about("weblist")], file);
    let weblist = String::from_utf8(weblist).unwrap();
    let is_wanted = subject.source_view.contains(&reader.age);
    assert!(
        weblist.contains("<!DOCTYPE html>")
            && (!is_wanted || weblist.contains(&subject.hot_name())),
        "{:?} pprof, {}:\n{weblist}",
        reader.age,
        subject.name
    );
    check_disasm(reader, subject, file);
}

#[track_caller]
fn check_disasm(reader: &Reader, subject: &Subject, file: &Path) {
    let argument = format!("-disasm={}", subject.hot);
    let finished = reader.read(&[&argument], &[file]);
    let is_found = match (subject.code, reader.age) {
        (Code::None, _) => false,
        (Code::Fixed, _) | (Code::Relocated, Age::New) => true,
        // Whether it is old enough not to find it differs between distributions.
        (Code::Relocated, Age::Old) => finished.code == Some(0),
    };
    if is_found {
        reader.check_silent(&finished, &[&argument]);
        let shown = String::from_utf8(finished.stdout).unwrap();
        let instructions = shown.lines().filter(|line| line.contains(": ")).count();
        assert!(
            shown.contains("ROUTINE =") && instructions > 5,
            "{}:\n{shown}",
            subject.name
        );
    } else {
        check_no_matches(&finished, subject);
    }
}

/// A function whose code is not found is an error to pprof; it says so in one line.
#[track_caller]
fn check_no_matches(finished: &Finished, subject: &Subject) {
    let Finished { code, stderr, .. } = finished;
    let said: Vec<String> = spoken(stderr)
        .into_iter()
        .map(|line| line.replace("regexp:", "regexp"))
        .collect();
    let expected = format!("no matches found for regexp {}", subject.hot);
    assert!(
        *code == Some(2) && said == [expected],
        "{}: {code:?} {said:?}",
        subject.name
    );
}

impl Subject {
    /// The hot function's name without what is around it in each language.
    pub(crate) fn hot_name(&self) -> String {
        let name = self.hot.rsplit('.').next().unwrap_or(self.hot);
        name.replace('\\', "")
    }
}

#[test]
fn a_relocated_c_program_is_read() {
    check(&C_PIE);
}

#[test]
fn by_elf_addresses_every_reader_finds_the_code_of_a_relocated_program() {
    let recorded = C_PIE.record(&["--addresses", "elf"]);
    // Linkers have relocated programs start at 0.
    assert_eq!(recorded.pprof.main_start() >> 28, 0);
    let found_by_all = Subject {
        code: Code::Fixed,
        source_view: &[Age::Old, Age::New],
        ..C_PIE
    };
    for reader in Reader::all() {
        check_about_hot(&reader, &found_by_all, &subject::file(&recorded));
    }
}

#[test]
fn raw_addresses_are_named_by_the_reader() {
    let recorded = C_NO_PIE.record(&["--raw-addresses"]);
    let file = subject::file(&recorded);
    for reader in Reader::all() {
        let raw = reader.show(&["-raw", "-symbolize=none"], &[&file]);
        assert!(!raw.contains("hot_divide"), "{raw}");
        let top = reader.show(&["-top", "-nodecount=10000"], &[&file]);
        let is_hot = |line: &str| is_row_of(line, "hot_divide");
        assert!(top.lines().any(is_hot), "{top}");
    }
}

#[test]
fn a_c_program_at_fixed_addresses_is_read() {
    check(&C_NO_PIE);
}

#[test]
fn cpp_with_templates_and_an_anonymous_namespace_is_read() {
    check(&CPP);
}

#[test]
fn rust_with_trait_methods_linked_by_lld_is_read() {
    check(&RUST);
}

#[test]
fn go_is_read() {
    check(&GO);
}

#[test]
fn go_without_symbols_is_read() {
    check(&GO_STRIPPED);
}

#[test]
fn python_is_read() {
    check(&PYTHON);
}

#[test]
fn a_jvm_is_read() {
    check(&JAVA);
}

#[test]
fn node_is_read() {
    check(&NODE);
}

#[test]
fn the_kernel_is_read() {
    check(&KERNEL);
}
