//! `cargo xtask fuzz`: runs fuzz targets, and makes their corpus from sources.
//!
//! A smoke run is a test of the product, built for release and given more time than the test takes
//! by itself. A long run is libFuzzer's: the target is built with the coverage that it steers by,
//! which any compiler can, and without a sanitizer, which needs a nightly one. `cargo fuzz` finds its
//! usual layout in `fuzz/`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use object::{Object, ObjectSection};

use crate::{
    process::{cargo, run as run_command},
    workspace::Workspace,
};

/// Tells the smoke test for how many seconds to run.
const SECONDS_VARIABLE: &str = "EBPFPROF_FUZZ_SECONDS";

/// The machine that is built for. Named, so that build scripts are built without [`COVERAGE`].
const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// What libFuzzer steers by. Source: LLVM's documentation, "SanitizerCoverage".
const COVERAGE: [&str; 5] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "--cfg fuzzing",
];

/// Targets that take whole objects, and the target that takes the section in them.
const OBJECT_TARGETS: [&str; 2] = ["object_head", "unwind_file"];
const SECTION_TARGET: &str = "unwind_sections";

/// How the objects are linked: small, and with what loaders look for; those without `.eh_frame` also
/// with code from address 0 on; for the bare section, at the addresses that its target says.
const LINK: [&str; 7] = [
    "-shared",
    "--eh-frame-hdr",
    "--build-id=sha1",
    "-znoseparate-code",
    "-znorelro",
    "--hash-style=gnu",
    "--strip-debug",
];
const LINK_WITH_DEBUG_FRAME: [&str; 4] = [
    "-shared",
    "--build-id=sha1",
    "-znoseparate-code",
    "-znorelro",
];
const LINK_AT_ZERO: [&str; 4] = ["-static", "--entry=0", "--build-id=none", "-Ttext=0"];
const LINK_AT_PLACES: [&str; 6] = [
    "-static",
    "--entry=0",
    "--no-eh-frame-hdr",
    "--build-id=none",
    "--section-start=.eh_frame=0",
    "-Ttext=0x100000",
];

/// The target that takes Go's tables, the forms of the table, and how programs with one are linked: at
/// a fixed address or at any.
const GO_TARGET: &str = "go_table";
const GO_FORMS: [&str; 3] = ["116", "118", "120"];
const LINK_GO: [(&str, &[&str]); 2] = [
    ("fixed", &["-static", "--entry=0"]),
    ("pie", &["-shared", "-znorelro", "--hash-style=gnu"]),
];

/// Offset of `e_shoff` in the head of an ELF file. Source: System V ABI, chapter 4.
const SECTION_HEADERS: std::ops::Range<usize> = 40..48;

/// Runs every target on its corpus and on mutations of it.
pub(crate) fn smoke(workspace: &Workspace, seconds: u32) -> Result<()> {
    let mut command = cargo();
    command
        .args(["test", "--quiet", "--release", "--locked", "-p", "ebpfprof"])
        .args(["--test", "fuzz_smoke"])
        .env(SECONDS_VARIABLE, seconds.to_string())
        .current_dir(workspace.root());
    run_command(&mut command)
}

/// Runs one target under libFuzzer. A debug build: it checks arithmetic.
pub(crate) fn long(workspace: &Workspace, target: &str, seconds: u32) -> Result<()> {
    let folder = workspace.target("fuzz")?;
    // What libFuzzer finds goes into the first folder, so the seeds stay as they are.
    let found = folder.join("corpus").join(target);
    fs::create_dir_all(&found).with_context(|| format!("cannot create {}", found.display()))?;
    let seeds = workspace.root().join("fuzz/corpus").join(target);
    if !seeds.is_dir() {
        bail!("there is no target {target}: the targets are the folders in fuzz/corpus");
    }
    let mut command = cargo();
    command
        .args(["run", "--quiet", "--locked", "--bin", target])
        .args(["--target", TRIPLE, "--manifest-path", "fuzz/Cargo.toml"])
        .arg("--")
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/{target}-", folder.display()))
        .args([found, seeds])
        .env("RUSTFLAGS", COVERAGE.join(" "))
        .current_dir(workspace.root());
    run_command(&mut command)
}

/// Makes the corpus from the assembler sources in `fuzz/seeds`.
pub(crate) fn seeds(workspace: &Workspace) -> Result<()> {
    let [seeds, corpus] = ["seeds", "corpus"].map(|name| workspace.root().join("fuzz").join(name));
    let scratch = tempfile::tempdir().context("cannot make a temporary folder")?;
    for source in sources(&seeds.join("objects"))? {
        objects(&source, scratch.path(), &corpus)?;
    }
    for source in sources(&seeds.join(GO_TARGET))? {
        for form in GO_FORMS {
            go_programs(&source, form, scratch.path(), &corpus)?;
        }
    }
    for target in ["ring_record", "rule_word"] {
        for source in sources(&seeds.join(target))? {
            let object = assemble(&source, scratch.path(), &[])?;
            write(
                &corpus.join(target),
                &source,
                "bin",
                &section(&object, ".data")?,
            )?;
        }
    }
    Ok(())
}

/// One source as whole objects and as a bare section.
fn objects(source: &Path, scratch: &Path, corpus: &Path) -> Result<()> {
    let object = assemble(source, scratch, &[])?;
    let has_eh_frame = section(&object, ".eh_frame").is_ok();
    let flags: &[&str] = match has_eh_frame {
        true => &LINK,
        false => &LINK_WITH_DEBUG_FRAME,
    };
    let whole = link(&object, &scratch.join("whole.so"), flags)?;
    let mut images = vec![("so", whole.clone())];
    if has_eh_frame {
        let mut headless = whole;
        if let Some(offset) = headless.get_mut(SECTION_HEADERS) {
            offset.fill(0);
        }
        images.push(("headless.so", headless));
        let placed = scratch.join("placed.so");
        link(&object, &placed, &LINK_AT_PLACES)?;
        let bytes = section(&placed, ".eh_frame")?;
        write(&corpus.join(SECTION_TARGET), source, "bin", &bytes)?;
    } else {
        let packed = scratch.join("packed.so");
        let mut objcopy = Command::new("objcopy");
        objcopy.arg("--compress-debug-sections=zlib");
        run_command(objcopy.arg(scratch.join("whole.so")).arg(&packed))?;
        images.push(("compressed.so", read(&packed)?));
        let zero = link(&object, &scratch.join("zero.so"), &LINK_AT_ZERO)?;
        images.push(("zero.so", zero));
        let bytes = section(&scratch.join("whole.so"), ".debug_frame")?;
        write(&corpus.join(SECTION_TARGET), source, "bin", &bytes)?;
    }
    for target in OBJECT_TARGETS {
        for (extension, image) in &images {
            write(&corpus.join(target), source, extension, image)?;
        }
    }
    Ok(())
}

/// Programs with a table of functions of one form. At any address there are two: with words where the
/// loader puts them, and without, as it needs none there.
fn go_programs(source: &Path, form: &str, scratch: &Path, corpus: &Path) -> Result<()> {
    let defined = format!("FORM={form}");
    let object = assemble(source, scratch, &["--defsym", &defined])?;
    let folder = corpus.join(GO_TARGET);
    for (way, flags) in LINK_GO {
        let both = ["-s", "-znoseparate-code", "--build-id=none"];
        let flags: Vec<&str> = flags.iter().copied().chain(both).collect();
        let linked = scratch.join("program");
        let program = link(&object, &linked, &flags)?;
        write(&folder, source, &format!("{form}.{way}.bin"), &program)?;
        if way == "pie" {
            let blank = without_relocated(program)?;
            write(&folder, source, &format!("{form}.blank.bin"), &blank)?;
        }
    }
    Ok(())
}

/// The program with zeros wherever the loader puts words.
fn without_relocated(mut program: Vec<u8>) -> Result<Vec<u8>> {
    let data = program.clone();
    let file = object::File::parse(&data[..])?;
    let relocations = file.dynamic_relocations().into_iter().flatten();
    for (address, _) in relocations {
        let place = file.sections().find_map(|section| {
            let into = address.checked_sub(section.address())?;
            let (offset, bytes) = section.file_range()?;
            (section.address() > 0 && into < bytes).then_some(offset + into)
        });
        let place = place.context("a relocation outside of the file")? as usize;
        program[place..place + 8].fill(0);
    }
    Ok(program)
}

fn assemble(source: &Path, scratch: &Path, flags: &[&str]) -> Result<PathBuf> {
    let object = scratch.join("assembled.o");
    let mut assembler = Command::new("as");
    assembler.args(["--64", "-o"]).arg(&object).args(flags);
    run_command(assembler.arg(source))?;
    Ok(object)
}

fn link(object: &Path, linked: &Path, flags: &[&str]) -> Result<Vec<u8>> {
    run_command(
        Command::new("ld")
            .args(flags)
            .arg("-o")
            .arg(linked)
            .arg(object),
    )?;
    read(linked)
}

/// The bytes of a section that is not empty.
fn section(object: &Path, name: &str) -> Result<Vec<u8>> {
    let data = read(object)?;
    let file = object::File::parse(&data[..])?;
    let section = file
        .section_by_name(name)
        .filter(|section| section.size() > 0);
    let section = section.with_context(|| format!("{} has no {name}", object.display()))?;
    Ok(section.data()?.to_vec())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn write(folder: &Path, source: &Path, extension: &str, data: &[u8]) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let name = source.file_name().unwrap_or_default();
    let path = folder.join(name).with_extension(extension);
    fs::write(&path, data).with_context(|| format!("cannot write {}", path.display()))?;
    println!("{}: {} bytes", path.display(), data.len());
    Ok(())
}

/// The assembler sources in a folder, by name.
fn sources(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut sources = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<PathBuf>>>()?;
    sources.retain(|path| path.extension().is_some_and(|extension| extension == "s"));
    sources.sort();
    Ok(sources)
}
