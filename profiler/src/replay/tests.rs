//! Core files made by hand, in the form that the kernel gives them.

use std::io::Write;

use object::{Object, ObjectSegment};
use profiler_common::unwind::{Cfa, SavedFp};

use super::*;

const BASE: u64 = 0x5550_0000_0000;
/// Bytes of this program's file that are mapped.
const MAPPED_BYTES: u64 = 1 << 20;
const GENERATED: u64 = 0x5560_0000_0000;
const STACK: u64 = 0x7ff0_0000_0000;

/// A segment of a core file: kind, flags, address, bytes in memory, bytes in the file.
type Segment = (u32, u32, u64, u64, Vec<u8>);

const LOAD: u32 = 1;
const NOTE: u32 = 4;
const READ_WRITE: u32 = 6;
const READ_EXECUTE: u32 = 5;

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// A core file with these segments. Source: `elf(5)`.
fn core_of(segments: &[Segment]) -> tempfile::NamedTempFile {
    const HEADER: usize = 64;
    const SEGMENT: usize = 56;
    let mut head = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0];
    head.resize(16, 0);
    head.extend([4, 0, 62, 0, 1, 0, 0, 0]); // ET_CORE, EM_X86_64
    head.extend(words(&[0, HEADER as u64, 0]));
    head.extend([
        0,
        0,
        0,
        0,
        HEADER as u8,
        0,
        SEGMENT as u8,
        0,
        segments.len() as u8,
        0,
    ]);
    head.resize(HEADER, 0);
    let mut body = Vec::new();
    let first = HEADER + SEGMENT * segments.len();
    for (kind, flags, address, memory_bytes, bytes) in segments {
        head.extend(kind.to_le_bytes());
        head.extend(flags.to_le_bytes());
        let offset = (first + body.len()) as u64;
        let sizes = [bytes.len() as u64, *memory_bytes];
        head.extend(words(&[offset, *address, 0, sizes[0], sizes[1], 4]));
        body.extend(bytes);
    }
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&[head, body].concat()).unwrap();
    file
}

fn note(kind: u32, content: &[u8]) -> Vec<u8> {
    let mut note = Vec::new();
    for number in [5, content.len() as u32, kind] {
        note.extend(number.to_le_bytes());
    }
    note.extend(b"CORE\0\0\0\0");
    note.extend(content);
    note.resize(note.len().next_multiple_of(4), 0);
    note
}

/// The notes of one thread that runs at `pc`, and has this program's own file mapped from an
/// offset on.
fn notes(pc: u64, offset: u64) -> Segment {
    let mut status = vec![0; 112];
    let mut registers = [0; 27];
    (registers[15], registers[16], registers[19]) = (u64::MAX, pc, STACK);
    status.extend(words(&registers));
    let path = fs::read_link("/proc/self/exe").unwrap();
    let mut files = words(&[1, 1, BASE, BASE + MAPPED_BYTES, offset]);
    files.extend(path.to_str().unwrap().as_bytes());
    files.push(0);
    let notes = [note(1, &status), note(0x4649_4c45, &files)].concat();
    (NOTE, 0, 0, 0, notes)
}

fn stack(words: &[u64]) -> Segment {
    (
        LOAD,
        READ_WRITE,
        STACK,
        PAGE_BYTES as u64,
        self::words(words),
    )
}

#[track_caller]
fn check(segments: &[Segment], pcs: &[u64], stop: StopReason) -> Replay {
    let core = core_of(segments);
    let replay = Replay::open(core.path(), &mut Library::default()).unwrap();
    let [thread] = replay.threads() else {
        panic!("{:?}", replay.threads());
    };
    let walked = replay.walk(thread);
    let found: Vec<u64> = walked.frames.iter().map(|frame| frame.pc).collect();
    assert_eq!((found.as_slice(), walked.stop), (pcs, stop));
    replay
}

/// A function of this program whose return address is on top of the stack.
struct Function {
    /// Of its first instruction in the file.
    offset: u64,
    code: [u8; 16],
    /// Of the first page of its segment in the file.
    first_page: u64,
}

fn function() -> Function {
    let table = Table::of_file(&File::open("/proc/self/exe").unwrap()).unwrap();
    let at_entry = Rule::Frame(Cfa::StackPointer(8), SavedFp::Same);
    let mut ranges = table.ranges();
    let (start, _, _) = ranges.find(|(_, _, rule)| *rule == at_entry).unwrap();
    let image = fs::read("/proc/self/exe").unwrap();
    let object = object::File::parse(image.as_slice()).unwrap();
    let mut segments = object.segments();
    let holds = |segment: &object::Segment<'_, '_>| {
        (segment.address()..segment.address() + segment.size()).contains(&start)
    };
    let segment = segments.find(holds).unwrap();
    let (first, _) = segment.file_range();
    let offset = first + start - segment.address();
    Function {
        offset,
        code: image[offset as usize..][..16].try_into().unwrap(),
        first_page: first & !(PAGE_BYTES as u64 - 1),
    }
}

#[test]
fn code_that_the_core_file_lacks_is_read_from_the_mapped_file() {
    let function = function();
    let pc = BASE + function.offset - function.first_page;
    assert!(pc < BASE + MAPPED_BYTES);
    let notes = notes(pc, function.first_page);
    // The kernel describes the mapping without its bytes; gdb leaves it out.
    let mapping = (LOAD, READ_EXECUTE, BASE, MAPPED_BYTES, Vec::new());
    let of_kernel = [notes.clone(), mapping, stack(&[0])];
    for segments in [&of_kernel[..], &[notes, stack(&[0])]] {
        let replay = check(segments, &[pc], StopReason::Root);
        assert_eq!(replay.read::<16>(pc), Some(function.code));
        assert_eq!(replay.read::<8>(STACK + 8), None);
    }
}

#[test]
fn code_without_a_file_has_no_description() {
    let page = PAGE_BYTES as u64;
    // mov %rsp, %rbp: the frame is set up, and its frame pointer is null.
    let generated = (LOAD, READ_EXECUTE, GENERATED, page, vec![0x48, 0x89, 0xe5]);
    let segments = [notes(GENERATED, 0), generated, stack(&[0])];
    let replay = check(&segments, &[GENERATED], StopReason::NoFramePointer);
    let found = replay.look_up(GENERATED);
    assert_eq!(found, Ok((Knowledge::Generated, Growth::Strict)));
}

#[test]
fn an_address_in_no_mapping_ends_the_walk_at_its_frame() {
    check(&[notes(8, 0), stack(&[0])], &[8], StopReason::UnknownCode);
}
