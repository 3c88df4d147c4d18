//! Unwind tables of heavy objects: how fast they are compiled, and how large they are.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::report::Markdown;
use crate::{
    audit::usual_folders,
    process::{cargo, output},
    workspace::Workspace,
};

/// How the names of the objects begin. Of each, the largest file is taken.
const OBJECTS: [&str; 12] = [
    "libc.so.6",
    "libstdc++.so.6",
    "libpython3",
    "python3",
    "postgres",
    "redis-server",
    "nginx",
    "node",
    "libjvm.so",
    "gdb",
    "cc1plus",
    "librustc_driver-",
];

/// Measures the objects that there are.
pub(super) fn measure(workspace: &Workspace) -> Result<Markdown> {
    let mut found = BTreeMap::new();
    for folder in usual_folders() {
        look_below(&folder, &mut found);
    }
    let files = OBJECTS.iter().filter_map(|name| found.get(name));
    let mut command = cargo();
    command
        .args(["run", "--quiet", "--release", "--locked", "-p", "ebpfprof"])
        .args(["--example", "unwind_speed", "--"])
        .args(files.map(|(_, path)| path))
        .current_dir(workspace.root());
    let mut table = Markdown::with_columns(&[
        "object",
        "MiB",
        "functions",
        "rows",
        "million rows a second",
        "bytes a row",
        "table KiB",
    ]);
    for line in output(&mut command)?.lines() {
        table.push(cells(line).with_context(|| format!("not a line of figures: {line}"))?);
    }
    Ok(table)
}

/// The cells of one line of the example's.
fn cells(line: &str) -> Option<Vec<String>> {
    let mut fields = line.split('\t');
    let mut number = || fields.next()?.parse::<f64>().ok();
    let [bytes, functions, rows, table_bytes, nanoseconds] =
        [number()?, number()?, number()?, number()?, number()?];
    let path = Path::new(fields.next()?);
    Some(vec![
        path.file_name()?.to_string_lossy().into_owned(),
        format!("{:.1}", bytes / f64::from(1 << 20)),
        format!("{functions}"),
        format!("{rows}"),
        format!("{:.2}", rows * 1e3 / nanoseconds),
        format!("{:.2}", table_bytes / rows),
        format!("{:.0}", table_bytes / 1024.0),
    ])
}

/// Finds the largest file for each name.
fn look_below(folder: &Path, found: &mut BTreeMap<&'static str, (u64, PathBuf)>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if kind.is_dir() {
            look_below(&entry.path(), found);
            continue;
        }
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let Some(object) = OBJECTS.iter().find(|object| is_named(&name, object)) else {
            continue;
        };
        let bytes = entry.metadata().map_or(0, |meta| meta.len());
        let known = found.get(object).map_or(0, |(bytes, _)| *bytes);
        if kind.is_file() && bytes > known && is_elf(&entry.path()) {
            found.insert(object, (bytes, entry.path()));
        }
    }
}

/// Whether a file is an object of this name, or a version of it.
fn is_named(file: &str, object: &str) -> bool {
    file.strip_prefix(object).is_some_and(|rest| {
        let is_version = |letter: char| letter.is_ascii_digit() || letter == '.';
        object.ends_with('-')
            || rest.trim_start_matches(is_version).is_empty()
            || rest.starts_with(".so")
            || rest.contains(".so.")
    })
}

/// Whether a file is a program or a shared object for x86-64.
fn is_elf(path: &Path) -> bool {
    use std::io::Read;
    let mut head = [0; 20];
    let read = fs::File::open(path).and_then(|mut file| file.read_exact(&mut head));
    read.is_ok() && head.starts_with(b"\x7fELF\x02") && matches!(head[16], 2 | 3) && head[18] == 62
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_known_by_its_name_and_version() {
        for (file, object, expected) in [
            ("libc.so.6", "libc.so.6", true),
            ("libstdc++.so.6.0.30", "libstdc++.so.6", true),
            ("python3.11", "python3", true),
            ("python3-config", "python3", false),
            ("libpython3.11.so.1.0", "libpython3", true),
            ("librustc_driver-0123abc.so", "librustc_driver-", true),
            ("nodejs-docs", "node", false),
        ] {
            assert_eq!(is_named(file, object), expected, "{file}");
        }
    }

    #[test]
    fn a_line_of_figures_becomes_cells() {
        let line = "2097152\t100\t1000\t4500\t500000\t/usr/lib/libx.so";
        let expected = ["libx.so", "2.0", "100", "1000", "2.00", "4.50", "4"];
        assert_eq!(cells(line).unwrap(), expected);
        assert_eq!(cells("1\t2\tx"), None);
    }
}
