//! Every format of a profile that has a bit of everything, byte for byte.
//!
//! The expected files lie in `testdata/golden`. `BLESS=1` rewrites them; read the difference.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "common/golden_file.rs"]
mod golden_file;

use std::{fmt::Write as _, fs, io::Read, path::Path};

use ebpfprof::{
    export::{
        self, Format, Settings,
        flame::{Flame, Growth, Root},
        output::{Destination, Output, Overwrite},
        proto,
    },
    import,
    profile::{
        FrameKind, Function, LabelKey, LabelValue, Line, LocationId, Mapping, MappingId,
        MappingKind, Moment, Profile, Thread,
    },
};
use flate2::read::GzDecoder;
use prost::Message;

/// A profile with shorthands for what tests put into it.
struct Maker {
    profile: Profile,
}

impl Maker {
    fn mapping(
        &mut self,
        kind: MappingKind,
        path: &str,
        [start, limit, file_offset]: [u64; 3],
        build_id: &str,
    ) -> MappingId {
        let path = self.profile.string(path);
        let build_id = self.profile.string(build_id);
        self.profile.mapping(Mapping {
            kind,
            start,
            limit,
            file_offset,
            path,
            build_id,
        })
    }

    /// A line: name, linker's name, file, start line, line, column.
    fn line(&mut self, [name, system_name, file]: [&str; 3], numbers: [u32; 3]) -> Line {
        let function = Function {
            name: self.profile.string(name),
            system_name: self.profile.string(system_name),
            file: self.profile.string(file),
            start_line: numbers[0],
        };
        Line {
            function: self.profile.function(function),
            line: numbers[1],
            column: numbers[2],
        }
    }

    fn place(
        &mut self,
        kind: FrameKind,
        mapping: Option<MappingId>,
        address: u64,
        lines: Vec<Line>,
    ) -> LocationId {
        let id = self.profile.location(kind, mapping, address);
        self.profile.set_lines(id, lines);
        id
    }

    /// A place with one function of which only the name is known.
    fn named(
        &mut self,
        kind: FrameKind,
        mapping: Option<MappingId>,
        address: u64,
        name: &str,
    ) -> LocationId {
        let line = self.line([name, "", ""], [0; 3]);
        self.place(kind, mapping, address, vec![line])
    }

    fn add(&mut self, stack: &[LocationId], comm: &str, pid: i64, count: u64) {
        let comm = LabelValue::Text(self.profile.string(comm));
        let pid = LabelValue::Number(pid, self.profile.string("pid"));
        let labels = vec![(LabelKey::Comm, comm), (LabelKey::Pid, pid)];
        self.profile.add(stack, &labels, count);
    }
}

fn base() -> Profile {
    let mut profile = Profile::cpu(10_101_010);
    profile.time_ns = 1_700_000_000_000_000_000;
    profile.duration_ns = 2_000_000_000;
    profile
}

/// User code of a C++ and Rust program: main, a call through two inlined ones, and a trait.
fn add_user_code(make: &mut Maker) -> [LocationId; 4] {
    let server = make.mapping(
        MappingKind::Main,
        "/usr/bin/server",
        [0x5555_5555_4000, 0x5555_5560_0000, 0x1_3000],
        "0123456789abcdef0123456789abcdef01234567",
    );
    let file = "/src/server/main.cc";
    let main = make.line(["main", "", file], [10, 14, 3]);
    let main = make.place(FrameKind::User, Some(server), 0x5555_5555_5123, vec![main]);
    let inlined = vec![
        make.line(
            [
                "std::array<int, 4ul>::operator[](unsigned long)",
                "_ZNSt5arrayIiLm4EEixEm",
                "/usr/include/c++/12/array",
            ],
            [209, 210, 0],
        ),
        make.line(["sum(int const*)", "_Z3sumPKi", file], [30, 32, 9]),
        make.line(
            [
                "(anonymous namespace)::handle(std::string const&)",
                "_ZN12_GLOBAL__N_16handleERKSs",
                file,
            ],
            [50, 61, 5],
        ),
    ];
    let handle = make.place(FrameKind::User, Some(server), 0x5555_5555_6234, inlined);
    let rust = make.line(
        [
            "<server::Pool<[u8; 4]> as core::iter::Iterator>::next",
            "_RNvXs_NtCs1_6server4PoolINtB4_4PoolAhj4_ENtNtCs2_4core4iter8Iterator4next",
            "/src/pool.rs",
        ],
        [7, 9, 0],
    );
    let next = make.place(FrameKind::User, Some(server), 0x5555_5555_7345, vec![rust]);
    let stripped = make.mapping(
        MappingKind::Object,
        "/usr/lib/libstripped.so.1 (deleted)",
        [0x7f00_0010_0000, 0x7f00_0018_0000, 0],
        "",
    );
    let stripped = make.place(
        FrameKind::User,
        Some(stripped),
        0x7f00_0010_0042,
        Vec::new(),
    );
    [main, handle, next, stripped]
}

/// A system call: its wrapper in the C library, the kernel below it, and a module.
fn add_system_call(make: &mut Maker) -> [LocationId; 5] {
    let libc = make.mapping(
        MappingKind::Object,
        "/usr/lib/x86_64-linux-gnu/libc.so.6",
        [0x7f00_0002_6000, 0x7f00_0017_b000, 0x2_6000],
        "93ac61ec00000000000000000000000000000000",
    );
    let kernel = make.mapping(
        MappingKind::Kernel,
        "[kernel.kallsyms]",
        [0xffff_ffff_8100_0000, 0xffff_ffff_8220_0000, 0],
        "",
    );
    let module = make.mapping(
        MappingKind::Kernel,
        "[nf_conntrack]",
        [0xffff_ffff_c060_0000, 0xffff_ffff_c062_0000, 0],
        "",
    );
    let send = make.line(["__send", "send", ""], [0; 3]);
    [
        make.place(FrameKind::User, Some(libc), 0x7f00_0011_0a0e, vec![send]),
        make.named(
            FrameKind::Kernel,
            Some(kernel),
            0xffff_ffff_8200_00e5,
            "entry_SYSCALL_64_after_hwframe",
        ),
        make.named(
            FrameKind::Kernel,
            Some(kernel),
            0xffff_ffff_8190_0123,
            "__sys_sendto",
        ),
        make.named(
            FrameKind::Kernel,
            Some(module),
            0xffff_ffff_c060_1234,
            "nf_conntrack_in",
        ),
        make.place(
            FrameKind::Kernel,
            Some(kernel),
            0xffff_ffff_8190_0fff,
            Vec::new(),
        ),
    ]
}

fn mixed() -> Profile {
    let mut make = Maker { profile: base() };
    make.profile.comments = vec![
        "ebpfprof 0.1.0 host=example kernel=6.1.0 hz=99 lost=0".to_owned(),
        "# target: server (pids 100, 200)".to_owned(),
    ];
    let [main, handle, next, stripped] = add_user_code(&mut make);
    let [send, entry, sendto, module, nameless] = add_system_call(&mut make);
    let jit = make.named(FrameKind::Jit, None, 0x7f12_3400_0010, "Interpreter;run");
    let unnamed_jit = make.place(FrameKind::Jit, None, 0x7f12_3400_0500, Vec::new());
    let cut = make.profile.marker("[no frame pointer]");
    make.add(&[handle, main], "server", 100, 5);
    make.add(&[handle, main], "server", 200, 2);
    make.add(&[next, handle, main], "my worker", 100, 7);
    let in_kernel = [sendto, entry, send, main];
    make.add(&in_kernel, "server", 100, 3);
    make.add(&[&[module][..], &in_kernel].concat(), "server", 200, 4);
    make.add(&[&[nameless][..], &in_kernel].concat(), "server", 200, 1);
    make.add(&[stripped, cut], "server", 200, 6);
    make.add(&[unnamed_jit, jit, main], "server", 100, 8);
    make.add(&[entry], "kworker/0:1", 0, 1);
    make.add(&[], "server", 100, 2);
    make.add(&[main], "never", 100, 0);
    make.profile
}

/// A whole host: two programs that know nothing of each other.
fn host() -> Profile {
    let mut make = Maker { profile: base() };
    make.profile.shown_labels = vec![LabelKey::Pid, LabelKey::Comm];
    let one = make.mapping(
        MappingKind::Object,
        "/usr/bin/one",
        [0x40_0000, 0x41_0000, 0],
        "",
    );
    make.mapping(MappingKind::Host, "system-wide on example", [0; 3], "");
    let two = make.mapping(
        MappingKind::Object,
        "/usr/bin/two",
        [0x40_0000, 0x48_0000, 0],
        "",
    );
    for (mapping, comm, pid) in [(two, "two", 2), (one, "one", 1)] {
        let work = make.named(FrameKind::User, Some(mapping), 0x40_1000, "work");
        make.add(&[work], comm, pid, 3);
    }
    make.profile
}

/// Two processes with threads, in the order of time.
fn threads() -> Profile {
    let mut make = Maker { profile: base() };
    make.profile.keep_times();
    make.profile.comments = vec![
        "ebpfprof 0.1.0 host=example kernel=6.1.0 hz=99 lost=0".to_owned(),
        "#target: server, sh".to_owned(),
        "#due 6 = kept 6 + lost 0".to_owned(),
    ];
    let [main, handle, next, stripped] = add_user_code(&mut make);
    let [send, entry, sendto, ..] = add_system_call(&mut make);
    let cut = make.profile.marker("[cut: no unwind row]");
    let stacks = [
        vec![handle, main],
        vec![sendto, entry, send, main],
        vec![next, main],
        vec![stripped, cut],
    ];
    // Time, process, thread, its name, its process's name, and the stack.
    let moments = [
        (30_303_030, 100, 101, "worker", "server", 0),
        (10_101_010, 100, 101, "server", "server", 0),
        (20_202_020, 100, 100, "server", "server", 1),
        (40_404_040, 100, 101, "worker", "server", 2),
        (50_505_050, 100, 101, "worker", "server", 2),
        (10_101_011, 200, 200, "sh", "sh", 3),
    ];
    for (time_ns, pid, tid, name, process, stack) in moments {
        let stack = &stacks[stack];
        make.add(stack, name, i64::from(pid), 1);
        let thread = Thread {
            pid,
            tid,
            name: make.profile.string(name),
            process: make.profile.string(process),
        };
        make.profile.note_moment(Moment {
            time_ns,
            thread,
            stack,
            count: 1,
        });
    }
    make.profile
}

fn written(format: Format, profile: &Profile) -> Vec<u8> {
    let mut bytes = Vec::new();
    export::write(format, profile, &mut bytes).unwrap();
    bytes
}

fn decoded(bytes: &[u8]) -> proto::Profile {
    let mut message = Vec::new();
    GzDecoder::new(bytes).read_to_end(&mut message).unwrap();
    proto::Profile::decode(message.as_slice()).unwrap()
}

/// A pprof message as text: one line for each thing, with every field that is not 0.
fn rendered(profile: &proto::Profile) -> String {
    let text = |at: i64| profile.string_table[at as usize].as_str();
    let value_type = |v: &proto::ValueType| format!("{}/{}", text(v.r#type), text(v.unit));
    let mut out = String::new();
    let types: Vec<String> = profile.sample_type.iter().map(value_type).collect();
    writeln!(out, "sample types: {}", types.join(" ")).unwrap();
    let period_type = profile.period_type.as_ref().map(value_type);
    writeln!(out, "period: {} {}", profile.period, period_type.unwrap()).unwrap();
    writeln!(
        out,
        "time: {} duration: {}",
        profile.time_nanos, profile.duration_nanos
    )
    .unwrap();
    for comment in &profile.comment {
        writeln!(out, "comment: {}", text(*comment)).unwrap();
    }
    render_mappings(profile, &mut out);
    for location in &profile.location {
        let (id, mapping, address) = (location.id, location.mapping_id, location.address);
        write!(out, "location {id}: mapping {mapping} {address:#x}").unwrap();
        for line in &location.line {
            let (id, line, column) = (line.function_id, line.line, line.column);
            write!(out, " | function {id} {line}:{column}").unwrap();
        }
        out.push('\n');
    }
    for function in &profile.function {
        let [name, system_name, file] =
            [function.name, function.system_name, function.filename].map(text);
        let (id, start) = (function.id, function.start_line);
        writeln!(
            out,
            "function {id}: {name:?} {system_name:?} {file:?}:{start}"
        )
        .unwrap();
    }
    for sample in &profile.sample {
        write!(
            out,
            "sample: {:?} at {:?}",
            sample.value, sample.location_id
        )
        .unwrap();
        for label in &sample.label {
            let value = match label.str {
                0 => format!("{} {}", label.num, text(label.num_unit)),
                at => format!("{:?}", text(at)),
            };
            write!(out, " {}={value}", text(label.key)).unwrap();
        }
        out.push('\n');
    }
    out
}

fn render_mappings(profile: &proto::Profile, out: &mut String) {
    let text = |at: i64| profile.string_table[at as usize].as_str();
    for mapping in &profile.mapping {
        let (id, offset) = (mapping.id, mapping.file_offset);
        let (start, limit) = (mapping.memory_start, mapping.memory_limit);
        let (path, build_id) = (text(mapping.filename), text(mapping.build_id));
        write!(
            out,
            "mapping {id}: {start:#x}-{limit:#x} @{offset:#x} {path:?} {build_id:?}"
        )
        .unwrap();
        for (flag, word) in [
            (mapping.has_functions, "FN"),
            (mapping.has_filenames, "FL"),
            (mapping.has_line_numbers, "LN"),
            (mapping.has_inline_frames, "IN"),
        ] {
            if flag {
                write!(out, " [{word}]").unwrap();
            }
        }
        out.push('\n');
    }
}

/// A flame graph without the drawing library's own style and script.
fn without_script(svg: &str) -> String {
    let mut out = String::new();
    let mut rest = svg;
    for (start, end) in [("<style", "</style>"), ("<script", "</script>")] {
        let Some((before, after)) = rest.split_once(start) else {
            continue;
        };
        out.push_str(before);
        rest = after.split_once(end).unwrap().1;
    }
    out.push_str(rest);
    // One element a line, so that a difference can be read.
    out.replace("><", ">\n<") + "\n"
}

#[track_caller]
fn check_formats(name: &str, profile: &Profile) {
    let message = decoded(&written(Format::Pprof, profile));
    golden_file::check(&format!("{name}.pprof.txt"), &rendered(&message));
    let folded = String::from_utf8(written(Format::Folded, profile)).unwrap();
    golden_file::check(&format!("{name}.folded"), &folded);
    let svg = String::from_utf8(written(Format::FlameGraph, profile)).unwrap();
    golden_file::check(&format!("{name}.svg"), &without_script(&svg));
    let data = page_data(profile, &Settings::default());
    golden_file::check(&format!("{name}.html.json"), &data);
    check_timed_formats(name, profile);
}

/// The formats that show times, if there are any, and the table.
#[track_caller]
fn check_timed_formats(name: &str, profile: &Profile) {
    let speedscope = String::from_utf8(written(Format::Speedscope, profile)).unwrap();
    golden_file::check(&format!("{name}.speedscope.json"), &readable(&speedscope));
    let mut firefox = String::new();
    GzDecoder::new(written(Format::Firefox, profile).as_slice())
        .read_to_string(&mut firefox)
        .unwrap();
    golden_file::check(&format!("{name}.firefox.json"), &readable(&firefox));
    let top = String::from_utf8(written(Format::Top, profile)).unwrap();
    golden_file::check(&format!("{name}.txt"), &top);
}

/// The data of a page.
fn page_data(profile: &Profile, settings: &Settings) -> String {
    let mut page = Vec::new();
    export::write_with(Format::Html, settings, profile, &mut page).unwrap();
    let page = String::from_utf8(page).unwrap();
    let (_, data) = page.split_once("id=\"data\">").unwrap();
    let (data, _) = data.split_once("</script>").unwrap();
    readable(data)
}

/// JSON with each member of the outer objects on a line of its own, and without our version.
fn readable(json: &str) -> String {
    let value: serde_json::Value = serde_json::from_str(json).unwrap();
    let mut out = String::new();
    write_json(&value, 0, &mut out);
    let version = concat!("ebpfprof@", env!("CARGO_PKG_VERSION"));
    out.replace(version, "ebpfprof@VERSION") + "\n"
}

fn write_json(value: &serde_json::Value, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth + 1);
    let is_long = value.to_string().len() > 80;
    match value {
        serde_json::Value::Object(members) if is_long => {
            out.push_str("{\n");
            for (at, (key, member)) in members.iter().enumerate() {
                let comma = if at == 0 { "" } else { ",\n" };
                write!(out, "{comma}{indent}{key:?}: ").unwrap();
                write_json(member, depth + 1, out);
            }
            write!(out, "\n{}}}", "  ".repeat(depth)).unwrap();
        }
        serde_json::Value::Array(items)
            if is_long && !items[0].is_number() && !items[0].is_null() =>
        {
            out.push_str("[\n");
            for (at, item) in items.iter().enumerate() {
                let comma = if at == 0 { "" } else { ",\n" };
                write!(out, "{comma}{indent}").unwrap();
                write_json(item, depth + 1, out);
            }
            write!(out, "\n{}]", "  ".repeat(depth)).unwrap();
        }
        other => write!(out, "{other}").unwrap(),
    }
}

#[test]
fn a_profile_with_a_bit_of_everything() {
    check_formats("mixed", &mixed());
}

#[test]
fn labels_are_written_when_asked_for() {
    let mut profile = mixed();
    profile.shown_labels = vec![LabelKey::Pid, LabelKey::Comm];
    let message = decoded(&written(Format::Pprof, &profile));
    golden_file::check("mixed.labels.pprof.txt", &rendered(&message));
    let data = page_data(&profile, &Settings::default());
    golden_file::check("mixed.labels.html.json", &data);
    // Text formats have no labels.
    assert_eq!(
        written(Format::Folded, &profile),
        written(Format::Folded, &mixed())
    );
}

#[test]
fn a_whole_host() {
    check_formats("host", &host());
}

#[test]
fn a_flame_graph_may_hang_and_start_with_the_innermost() {
    let flame = Flame {
        growth: Growth::Down,
        root: Root::Innermost,
    };
    let settings = Settings { flame };
    let mut svg = Vec::new();
    export::write_with(Format::FlameGraph, &settings, &mixed(), &mut svg).unwrap();
    let svg = String::from_utf8(svg).unwrap();
    golden_file::check("mixed.icicle,reversed.svg", &without_script(&svg));
    let data = page_data(&mixed(), &settings);
    assert!(
        data.contains(r#"{"icicle":true,"reversed":true}"#),
        "{data}"
    );
}

#[test]
fn threads_over_time() {
    check_timed_formats("threads", &threads());
}

#[test]
fn a_profile_without_samples() {
    check_formats("empty", &base());
}

/// What Go's runtime wrote of a program's heap.
const GO_HEAP: &[u8] = include_bytes!("../../testdata/golden/go-heap.pb.gz");

/// The heap with one of its values.
fn go_heap(value: &str) -> Profile {
    let settings = import::Settings {
        sample_index: Some(value.parse().unwrap()),
        ..import::Settings::default()
    };
    import::read(Format::Pprof, &settings, &mut &GO_HEAP[..]).unwrap()
}

#[test]
fn a_heap_is_told_in_its_own_units() {
    check_formats("go-heap", &go_heap("inuse_space"));
    let objects = go_heap("alloc_objects");
    let top = String::from_utf8(written(Format::Top, &objects)).unwrap();
    golden_file::check("go-heap.alloc_objects.txt", &top);
    // Unless told, the value is the one that pprof shows.
    let usual = import::read(
        Format::Pprof,
        &import::Settings::default(),
        &mut &GO_HEAP[..],
    );
    let usual = written(Format::Pprof, &usual.unwrap());
    assert_eq!(usual, written(Format::Pprof, &go_heap("inuse_space")));
}

#[test]
fn an_output_holds_what_was_written() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    for (name, profile) in [("mixed", mixed()), ("host", host()), ("empty", base())] {
        for format in Format::ALL {
            let path = folder.join(format!("{name}.{}", format.extension()));
            let destination = Destination::File(path.clone());
            let output = Output::open(destination, Overwrite::Replace).unwrap();
            let bytes = output.finish(|out| export::write(format, &profile, out));
            let content = fs::read(&path).unwrap();
            assert_eq!(content.len() as u64, bytes.unwrap());
            assert_eq!(content, written(format, &profile));
        }
    }
}

#[test]
fn the_compressed_file_tells_no_time() {
    let bytes = written(Format::Pprof, &base());
    // RFC 1952: magic, deflate, no flags, and a time of 0.
    assert_eq!(bytes[..8], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0]);
}
