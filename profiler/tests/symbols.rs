//! Names, lines and inlined calls, compared with what llvm-symbolizer says of the same programs,
//! in every version of DWARF and every way that compilers and linkers put it away.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use ebpfprof::{
    object::{ElfAddr, Object},
    symbolize::{Inlines, Named, Settings, functions_at},
};
use tempfile::TempDir;

/// Calls inlined two deep, twice in one function.
const SOURCE: &str = r"
#define INLINE static inline __attribute__((always_inline))
INLINE int deep(int x) {
    volatile int y = x;
    for (int i = 0; i < 10; i++)
        y += i * x;
    return y;
}
INLINE int mid(int x) {
    return deep(x) * 3 + deep(x + 1);
}
__attribute__((noinline)) int outer(int x) {
    return mid(x) + mid(x * 2);
}
int other(int);
int main(int argc, char **argv) {
    (void)argv;
    return outer(argc) + other(argc);
}
";

/// A function whose rare part is put elsewhere, so that it has several ranges.
const OTHER: &str = r"
void abort(void);
__attribute__((cold, noinline)) static int rare(int x) {
    return x > 3 ? x : -x;
}
int other(int x) {
    int sum = 0;
    for (int i = 0; i < x; i++) {
        if (__builtin_expect(i == 12345, 0)) {
            sum += rare(i);
            if (sum < 0)
                abort();
        }
        sum += i * i;
    }
    return sum;
}
";

const CPP: &str = r"
namespace {
template <typename T, int N> struct Mixer {
    T value;
    __attribute__((noinline)) T mix(T by) {
        return inner(by) + N;
    }
    T inner(T by) {
        volatile T sum = by;
        for (int i = 0; i < N; i++)
            sum = sum * value;
        return sum;
    }
};
}
int main(int argc, char **) {
    Mixer<long, 3> mixer{argc};
    return static_cast<int>(mixer.mix(argc));
}
";

/// A program that was compiled for a test.
struct Built {
    folder: TempDir,
    program: PathBuf,
}

#[track_caller]
fn run(program: &str, arguments: &[&str], folder: &Path) -> String {
    let mut command = Command::new(program);
    let output = command
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn build(compiler: &str, sources: &[(&str, &str)], flags: &[&str]) -> Built {
    let folder = TempDir::new().unwrap();
    for (name, text) in sources {
        fs::write(folder.path().join(name), text).unwrap();
        run(
            compiler,
            &[&["-c", "-O2"], flags, &[name]].concat(),
            folder.path(),
        );
    }
    let objects: Vec<String> = sources
        .iter()
        .map(|(name, _)| format!("{}.o", name.rsplit_once('.').unwrap().0))
        .collect();
    let mut link = flags.to_vec();
    link.extend(objects.iter().map(String::as_str));
    link.extend(["-o", "program"]);
    run(compiler, &link, folder.path());
    Built {
        program: folder.path().join("program"),
        folder,
    }
}

#[track_caller]
fn build_c(flags: &[&str]) -> Built {
    build("gcc", &[("main.c", SOURCE), ("other.c", OTHER)], flags)
}

impl Built {
    /// The addresses of the functions of its own, each byte.
    #[track_caller]
    fn addresses(&self) -> Vec<ElfAddr> {
        let symbols = run(
            "nm",
            &["-S", "--defined-only", "program"],
            self.folder.path(),
        );
        let mut addresses: Vec<ElfAddr> = symbols
            .lines()
            .filter_map(|line| {
                let mut fields = line.split_whitespace();
                let [start, bytes, kind] = [fields.next()?, fields.next()?, fields.next()?];
                let is_code = kind.eq_ignore_ascii_case("t");
                let is_own = !fields.next()?.starts_with('_') || line.contains("Mixer");
                let start = u64::from_str_radix(start, 16).ok()?;
                let bytes = u64::from_str_radix(bytes, 16).ok()?;
                (is_code && is_own).then_some(start..start + bytes)
            })
            .flatten()
            .map(ElfAddr)
            .collect();
        addresses.sort_unstable();
        assert!(addresses.len() > 50, "{symbols}");
        addresses
    }

    fn ours(&self, addresses: &[ElfAddr], inlines: Inlines) -> Vec<Vec<Named>> {
        let settings = Settings {
            inlines,
            ..Settings::default()
        };
        self.ours_with(addresses, settings)
    }

    fn ours_with(&self, addresses: &[ElfAddr], settings: Settings) -> Vec<Vec<Named>> {
        let file = File::open(&self.program).unwrap();
        let object = Object::of_file(self.program.to_str().unwrap(), file);
        functions_at(&object, addresses, settings)
    }

    /// What llvm-symbolizer says: for each address its functions and places, the innermost first.
    #[track_caller]
    fn theirs(&self, addresses: &[ElfAddr]) -> Vec<Vec<(String, String)>> {
        let mut reader = Command::new("llvm-symbolizer")
            .args([
                "--output-style=GNU",
                "--addresses",
                "--inlines",
                "--no-demangle",
            ])
            .arg(format!("--obj={}", self.program.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = reader.stdin.take().unwrap();
        let asked: String = addresses.iter().map(|a| format!("{:#x}\n", a.0)).collect();
        let asking = std::thread::spawn(move || stdin.write_all(asked.as_bytes()).unwrap());
        let said = reader.wait_with_output().unwrap();
        asking.join().unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        let mut all: Vec<Vec<(String, String)>> = Vec::new();
        let mut lines = said.lines();
        while let Some(line) = lines.next() {
            if line.starts_with("0x") {
                all.push(Vec::new());
                continue;
            }
            let place = lines.next().unwrap();
            let place = place.split(" (discriminator").next().unwrap();
            let frames = all.last_mut().unwrap();
            // Parts of functions that are put elsewhere are symbols of their own: `f.cold`.
            let name = line.split('.').next().unwrap();
            frames.push((name.to_owned(), place.to_owned()));
        }
        assert_eq!(all.len(), addresses.len(), "{said}");
        all
    }

    /// Compares each address with what llvm-symbolizer says.
    #[track_caller]
    fn check(&self) {
        let addresses = self.addresses();
        let ours = self.ours(&addresses, Inlines::Resolve);
        let deepest = ours.iter().map(Vec::len).max();
        assert!(deepest >= Some(2), "nothing was inlined: {deepest:?}");
        for ((address, ours), theirs) in addresses.iter().zip(&ours).zip(self.theirs(&addresses)) {
            let mut ours: Vec<(String, String)> = ours.iter().map(told).collect();
            // The names of C++ are ours to make readable.
            for ((name, _), (linker_name, _)) in ours.iter_mut().zip(&theirs) {
                if linker_name.starts_with("_Z") && name.contains("Mixer<long, 3>::") {
                    name.clone_from(linker_name);
                }
            }
            assert_eq!(ours, theirs, "{:#x}", address.0);
        }
    }
}

/// A function as llvm-symbolizer writes it.
fn told(named: &Named) -> (String, String) {
    let line = match named.line {
        0 => "0".to_owned(),
        line => line.to_string(),
    };
    (named.name.clone(), format!("{}:{line}", named.file))
}

#[test]
fn every_version_of_dwarf_is_read_as_llvm_reads_it() {
    for version in ["-gdwarf-2", "-gdwarf-3", "-gdwarf-4", "-gdwarf-5"] {
        build_c(&["-g", version]).check();
        build("g++", &[("main.cpp", CPP)], &["-g", version]).check();
    }
}

#[test]
fn link_time_optimization_and_the_large_format_are_read() {
    build_c(&["-g", "-flto"]).check();
    build_c(&["-g", "-gdwarf64"]).check();
    build_c(&["-g", "-no-pie"]).check();
}

#[test]
fn compressed_sections_are_read() {
    for packing in ["-gz=zlib", "-gz=zlib-gnu"] {
        build_c(&["-g", packing]).check();
    }
}

#[test]
fn what_was_split_off_is_found_beside_the_program() {
    for version in ["-gdwarf-4", "-gdwarf-5"] {
        let whole = build_c(&["-g", version]);
        let split = build_c(&["-g", version, "-gsplit-dwarf"]);
        let addresses = split.addresses();
        assert_eq!(addresses, whole.addresses());
        let places = |built: &Built| -> Vec<Vec<(String, u32, u32)>> {
            let ours = built.ours(&addresses, Inlines::Resolve);
            let place = |named: &Named| (named.name.clone(), named.line, named.start_line);
            ours.iter()
                .map(|all| all.iter().map(place).collect())
                .collect()
        };
        let expected = places(&whole);
        assert_eq!(places(&split), expected, "{version}");
        for name in ["main.dwo", "other.dwo"] {
            fs::remove_file(split.folder.path().join(name)).unwrap();
        }
        let alone = places(&split);
        let is_plain = |all: &Vec<(String, u32, u32)>| all.len() == 1 && !all[0].0.is_empty();
        assert!(
            alone.iter().all(is_plain),
            "names are in the program itself"
        );
    }
}

#[test]
fn a_stripped_program_is_read_by_its_debug_file() {
    let built = build_c(&["-g"]);
    let addresses = built.addresses();
    let expected = built.ours(&addresses, Inlines::Resolve);
    let folder = built.folder.path();
    run(
        "objcopy",
        &["--only-keep-debug", "program", "program.debug"],
        folder,
    );
    let link = "--add-gnu-debuglink=program.debug";
    run("objcopy", &["--strip-all", link, "program"], folder);
    assert_eq!(built.ours(&addresses, Inlines::Resolve), expected);
    fs::remove_file(folder.join("program.debug")).unwrap();
    let main = addresses
        .iter()
        .zip(built.ours(&addresses, Inlines::Resolve))
        .filter(|(_, named)| !named.is_empty())
        .count();
    assert_eq!(main, 0, "a neighbour's name is no name");
}

#[test]
fn functions_say_where_they_start() {
    let built = build_c(&["-g"]);
    let addresses = built.addresses();
    let line_of = |text: &str| 1 + SOURCE.lines().position(|line| line.contains(text)).unwrap();
    let starts = [
        ("deep", line_of("INLINE int deep")),
        ("mid", line_of("INLINE int mid")),
        ("outer", line_of("int outer")),
        ("main", line_of("int main")),
    ];
    let ours = built.ours(&addresses, Inlines::Resolve);
    for (name, start) in starts {
        let mut met = ours
            .iter()
            .flatten()
            .filter(|named| named.name == name)
            .peekable();
        assert!(met.peek().is_some(), "{name}");
        assert!(
            met.all(|named| named.start_line as usize == start),
            "{name}"
        );
    }
    // Without lines there are only functions.
    let plain = built.ours(&addresses, Inlines::Skip);
    assert!(plain.iter().all(|all| all.len() == 1 && all[0].line == 0));
}

#[test]
fn when_the_time_is_up_there_are_names_and_no_lines() {
    let built = build_c(&["-g"]);
    let settings = Settings {
        deadline: Some(Instant::now()),
        ..Settings::default()
    };
    let addresses = built.addresses();
    let ours = built.ours_with(&addresses, settings);
    assert_eq!(ours, built.ours(&addresses, Inlines::Skip));
}
