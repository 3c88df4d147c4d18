//! `cargo xtask tidy`: the rules of the house style that a program can check and clippy does not:
//! which module may name what, how long files are, and what no file may hold.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::{
    rust_view::{RustView, names},
    workspace::{OTHER_MANIFESTS, Workspace},
};

/// The longest a file may be, its tests apart.
const MAX_LINES: usize = 800;

/// `profiler/src/main.rs` is shorter than this.
const MAIN_LINES: usize = 30;

/// A name that only some modules of `profiler` may use.
struct Reserved {
    words: &'static [&'static str],
    /// Modules, as paths below `profiler/src` without `.rs`.
    modules: &'static [&'static str],
    rule: &'static str,
}

const RESERVED: [Reserved; 6] = [
    Reserved {
        words: &["aya", "aya_obj", "aya_log"],
        modules: &["bpf"],
        rule: "only bpf/ names aya",
    },
    Reserved {
        words: &[
            "process::exit",
            "println!",
            "eprintln!",
            "print!",
            "eprint!",
        ],
        modules: &["cli", "main"],
        rule: "only cli/ and main.rs print or exit",
    },
    Reserved {
        words: &["prost", "inferno"],
        modules: &["export", "import", "store", "push", "server"],
        rule: "only export/, import/, store/, push/ and server/ know a format",
    },
    Reserved {
        words: &["flate2"],
        // Sections of debug information are compressed too.
        modules: &["export", "import", "store", "push", "server", "symbolize"],
        rule: "only formats and debug information are compressed",
    },
    Reserved {
        words: &["anyhow"],
        modules: &["cli", "main"],
        rule: "only cli/ and main.rs use anyhow; a library module has its own error",
    },
    Reserved {
        words: &["async", "await"],
        modules: &["server", "push"],
        rule: "async lives in server/ and push/ only",
    },
];

/// Modules that `profile/` knows nothing of.
const ABOVE_PROFILE: [&str; 8] = [
    "bpf",
    "symbolize",
    "export",
    "import",
    "store",
    "push",
    "server",
    "cli",
];

/// Names that say nothing about what a file is.
const EMPTY_NAMES: [&str; 5] = ["util", "utils", "helpers", "misc", "legacy"];

/// Top folders of a machine. A path below one of them belongs to one machine. (The slash behind the
/// name is added where they are used, so that this file passes its own check.)
const MACHINE_FOLDERS: [&str; 3] = ["/work", "/root", "/home"];

/// Marks of open work. (Cut in two, so that this file passes its own check.)
const OPEN_WORK: [&str; 3] = [concat!("TO", "DO"), concat!("XX", "X"), concat!("HA", "CK")];

/// The mark of a known wrong result, which a test asserts.
const KNOWN_WRONG: &str = concat!("FIX", "ME");

/// Folders that hold no source of ours.
const SKIPPED_FOLDERS: [&str; 3] = ["target", ".git", "testdata"];

/// Ends of the names of files with text of ours.
const TEXT_FILES: [&str; 9] = [
    ".rs", ".toml", ".md", ".c", ".s", ".go", ".sh", ".yml", "/run",
];

/// A broken rule.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    line: usize,
    rule: String,
}

impl Finding {
    fn new(line: usize, rule: impl Into<String>) -> Self {
        Self {
            line,
            rule: rule.into(),
        }
    }
}

/// Checks every file of the workspace.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let mut files = Vec::new();
    collect(workspace.root(), &mut files)?;
    files.sort();
    let mut broken = 0;
    for path in &files {
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let text = String::from_utf8_lossy(&bytes);
        let name = workspace.relative(path).to_string_lossy().into_owned();
        for finding in check(&name, &text) {
            println!("{name}:{}: {}", finding.line, finding.rule);
            broken += 1;
        }
    }
    if broken > 0 {
        bail!("{broken} breaches of the house style");
    }
    println!("{} files keep to the house style", files.len());
    Ok(())
}

/// Every text file below a folder.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        let kind = entry.file_type()?;
        if kind.is_dir() && !SKIPPED_FOLDERS.contains(&&*name) {
            collect(&path, files)?;
        } else if kind.is_file()
            && TEXT_FILES
                .iter()
                .any(|end| format!("/{name}").ends_with(end))
        {
            files.push(path);
        }
    }
    Ok(())
}

/// The rules that one file breaks. `name` is its path from the top folder.
fn check(name: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let view = name.ends_with(".rs").then(|| RustView::of(text));
    let code_lines = match &view {
        Some(_) if is_test(name) => 0,
        Some(view) => view.lines_before_tests,
        None => text.lines().count(),
    };
    check_words(text, code_lines, &mut findings);
    if let Some(view) = &view {
        check_shape(name, text, view, &mut findings);
        check_reserved(name, view, &mut findings);
        check_profile_imports(name, view, &mut findings);
        check_maps(name, view, &mut findings);
    }
    if name.ends_with("/Cargo.toml") && !OTHER_MANIFESTS.contains(&name) {
        check_versions(text, &mut findings);
    }
    findings.sort_by_key(|finding| finding.line);
    findings
}

fn is_test(name: &str) -> bool {
    name.contains("/tests/") || name.contains("/benches/")
}

/// What no file may hold. Tests may hold sample paths and marks of known wrong results.
fn check_words(text: &str, code_lines: usize, findings: &mut Vec<Finding>) {
    for (number, line) in (1..).zip(text.lines()) {
        for mark in OPEN_WORK {
            if names(line, mark) {
                findings.push(Finding::new(number, format!("mark of open work: {mark}")));
            }
        }
        if number > code_lines {
            continue;
        }
        if names(line, KNOWN_WRONG) {
            let rule = format!("{KNOWN_WRONG} outside a test that asserts it");
            findings.push(Finding::new(number, rule));
        }
        if let Some(folder) = machine_path(line) {
            let rule = format!("path of one machine, below {folder}");
            findings.push(Finding::new(number, rule));
        }
    }
}

/// The machine's folder that a line holds an absolute path into.
fn machine_path(line: &str) -> Option<&'static str> {
    MACHINE_FOLDERS.into_iter().find(|folder| {
        line.match_indices(&format!("{folder}/")).any(|(at, _)| {
            // `/proc/PID/root/…` and `{folder}/work/…` begin elsewhere.
            let before = line[..at].chars().next_back();
            !before.is_some_and(|letter| letter.is_alphanumeric() || "_-.})>*".contains(letter))
        })
    })
}

/// How a Rust file is made.
fn check_shape(name: &str, text: &str, view: &RustView, findings: &mut Vec<Finding>) {
    if !text.starts_with("//!") {
        findings.push(Finding::new(1, "the file does not open with //!"));
    }
    let stem = Path::new(name).file_stem().unwrap_or_default();
    if EMPTY_NAMES.iter().any(|empty| stem == *empty) {
        findings.push(Finding::new(1, "the file's name says nothing"));
    }
    let lines = view.lines_before_tests;
    if lines > MAX_LINES {
        let rule = format!("{lines} lines before the tests, {MAX_LINES} at most");
        findings.push(Finding::new(MAX_LINES + 1, rule));
    }
    if name == "profiler/src/main.rs" && lines >= MAIN_LINES {
        let rule = format!("main.rs has {lines} lines, fewer than {MAIN_LINES} are allowed");
        findings.push(Finding::new(MAIN_LINES, rule));
    }
}

/// Names that are another module's business.
fn check_reserved(name: &str, view: &RustView, findings: &mut Vec<Finding>) {
    let Some(module) = module_of(name) else {
        return;
    };
    for (number, line) in (1..).zip(&view.code[..view.lines_before_tests]) {
        for reserved in &RESERVED {
            let named = reserved.words.iter().any(|word| names(line, word));
            if named && !reserved.modules.contains(&module) {
                findings.push(Finding::new(number, reserved.rule));
            }
        }
    }
}

/// The top module of a file of the library, `None` for other files.
fn module_of(name: &str) -> Option<&str> {
    let path = name.strip_prefix("profiler/src/")?;
    let module = path.split('/').next()?;
    Some(module.strip_suffix(".rs").unwrap_or(module))
}

fn check_profile_imports(name: &str, view: &RustView, findings: &mut Vec<Finding>) {
    if module_of(name) != Some("profile") {
        return;
    }
    for (line, module) in view.own_modules() {
        if ABOVE_PROFILE.contains(&module.as_str()) {
            findings.push(Finding::new(line, format!("profile/ imports {module}")));
        }
    }
}

/// The kernel side keeps all its maps in one file.
fn check_maps(name: &str, view: &RustView, findings: &mut Vec<Finding>) {
    if !name.starts_with("profiler-ebpf/src/") || name.ends_with("/maps.rs") {
        return;
    }
    for (number, line) in (1..).zip(&view.code) {
        if ["#[map", "#[btf_map"]
            .iter()
            .any(|map| line.trim().starts_with(map))
        {
            findings.push(Finding::new(number, "a map outside maps.rs"));
        }
    }
}

/// Versions of dependencies stand in the workspace's table.
fn check_versions(text: &str, findings: &mut Vec<Finding>) {
    let mut among_dependencies = false;
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.starts_with('[') {
            among_dependencies = line.ends_with("dependencies]");
        } else if among_dependencies
            && line.contains('=')
            && !line.starts_with('#')
            && !line.contains("workspace = true")
        {
            let rule = "a dependency whose version is not in the workspace table";
            findings.push(Finding::new(number, rule));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks the lines and rules that a file breaks; `expected` are parts of the rules.
    #[track_caller]
    fn check_file(name: &str, text: &str, expected: &[(usize, &str)]) {
        let findings = check(name, text);
        let matches = findings.len() == expected.len()
            && findings
                .iter()
                .zip(expected)
                .all(|(finding, (line, rule))| {
                    finding.line == *line && finding.rule.contains(rule)
                });
        assert!(matches, "{name}: {findings:?}, expected {expected:?}");
    }

    #[test]
    fn only_bpf_names_aya() {
        let text = "//! Doc.\nuse aya::Ebpf; // aya\n";
        check_file("profiler/src/bpf/load.rs", text, &[]);
        check_file("profiler/src/bpf.rs", text, &[]);
        check_file("profiler/src/symbolize/elf.rs", text, &[(2, "aya")]);
        check_file(
            "profiler/src/lib.rs",
            "//! Aya: aya.\n/* aya */ mod x;\n",
            &[],
        );
        check_file("profiler-common/src/lib.rs", text, &[]);
    }

    #[test]
    fn only_the_command_line_exits_or_prints() {
        let text = "//! Doc.\nfn f() { std::process::exit(1); }\nfn g() { println!(\"x\"); }\n";
        check_file("profiler/src/cli/mod.rs", text, &[]);
        check_file(
            "profiler/src/export/pprof.rs",
            text,
            &[(2, "exit"), (3, "print")],
        );
    }

    #[test]
    fn a_format_stays_at_the_rim() {
        let text = "//! Doc.\nuse prost::Message;\n";
        check_file("profiler/src/export/pprof.rs", text, &[]);
        check_file("profiler/src/profile/mod.rs", text, &[(2, "format")]);
    }

    #[test]
    fn a_test_module_may_name_anything() {
        let text = "//! Doc.\n#[cfg(test)]\nmod tests {\n    use prost::Message;\n}\n";
        check_file("profiler/src/profile/mod.rs", text, &[]);
    }

    #[test]
    fn the_profile_knows_nothing_above_it() {
        let text = "//! Doc.\nuse crate::{\n    error::Advice,\n    symbolize::Names,\n};\n";
        check_file("profiler/src/profile/mod.rs", text, &[(4, "symbolize")]);
        check_file("profiler/src/record/mod.rs", text, &[]);
    }

    #[test]
    fn a_file_opens_with_its_purpose_and_has_a_name() {
        check_file("xtask/src/x.rs", "use std::fs;\n", &[(1, "//!")]);
        check_file("xtask/src/util.rs", "//! Doc.\n", &[(1, "name")]);
    }

    #[test]
    fn length_counts_without_the_tests() {
        let long = format!("//! Doc.\n{}", "mod x;\n".repeat(MAX_LINES));
        check_file("xtask/src/x.rs", &long, &[(801, "801 lines")]);
        let tests = format!(
            "//! Doc.\n#[cfg(test)]\nmod tests {{\n{}}}\n",
            "\n".repeat(900)
        );
        check_file("xtask/src/x.rs", &tests, &[]);
        let main = format!("//! Doc.\n{}", "mod x;\n".repeat(MAIN_LINES));
        check_file("profiler/src/main.rs", &main, &[(30, "main.rs")]);
    }

    #[test]
    fn paths_of_a_machine_are_for_samples_in_tests() {
        let text = "//! Doc.\nconst A: &str = \"/home/me/x\";\n";
        check_file("profiler/src/lib.rs", text, &[(2, "/home")]);
        check_file("profiler/tests/kernel.rs", text, &[]);
        check_file("README.md", "see /work/x\n", &[(1, "/work")]);
        check_file("README.md", "see /proc/1/root/bin and {dir}/home/x\n", &[]);
    }

    #[test]
    fn open_work_is_marked_nowhere() {
        let [todo, ..] = OPEN_WORK;
        let text = format!("//! Doc.\n// {todo}: more\n// {KNOWN_WRONG}\n");
        let in_code: [(usize, &str); 2] = [(2, "open work"), (3, "outside a test")];
        check_file("profiler/src/lib.rs", &text, &in_code);
        check_file("profiler/tests/kernel.rs", &text, &in_code[..1]);
    }

    #[test]
    fn maps_lie_in_one_file() {
        let text = "//! Doc.\n#[btf_map]\nstatic A: u8 = 0;\n";
        check_file("profiler-ebpf/src/maps.rs", text, &[]);
        check_file("profiler-ebpf/src/walk/mod.rs", text, &[(2, "maps.rs")]);
    }

    #[test]
    fn versions_stand_in_the_workspace_table() {
        let text =
            "[package]\nname = \"x\"\n[dev-dependencies]\na = { workspace = true }\nb = \"1\"\n";
        check_file("profiler/Cargo.toml", text, &[(5, "workspace table")]);
        check_file("profiler-ebpf/Cargo.toml", text, &[]);
        check_file("fuzz/Cargo.toml", text, &[]);
    }
}
