//! Another unwinder's answer: framehop, on the same core file and the same files.

use std::{collections::BTreeMap, fs, ops::Range};

use ebpfprof::replay::{Replay, Thread};
use framehop::{
    ExplicitModuleSectionInfo, Module, Unwinder,
    x86_64::{CacheX86_64, Reg, UnwindRegsX86_64, UnwinderX86_64},
};
use object::{Object, ObjectSection};
use profiler_common::limits::MAX_USER_FRAMES;

/// The registers by their DWARF numbers.
const REGISTERS: [Reg; 16] = [
    Reg::RAX,
    Reg::RDX,
    Reg::RCX,
    Reg::RBX,
    Reg::RSI,
    Reg::RDI,
    Reg::RBP,
    Reg::RSP,
    Reg::R8,
    Reg::R9,
    Reg::R10,
    Reg::R11,
    Reg::R12,
    Reg::R13,
    Reg::R14,
    Reg::R15,
];

/// An object as framehop wants it, kept from core file to core file.
type Sections = ExplicitModuleSectionInfo<Vec<u8>>;

/// The objects read so far, by path.
#[derive(Default)]
pub(crate) struct Objects(BTreeMap<String, Option<Sections>>);

impl Objects {
    /// An unwinder for the process of a core file.
    pub(crate) fn unwinder(&mut self, replay: &Replay) -> UnwinderX86_64<Vec<u8>> {
        let mut unwinder = UnwinderX86_64::new();
        for code in replay.code() {
            let Some(bias) = code.bias else {
                continue;
            };
            let sections = if code.path == "[vdso]" {
                let mut image = vec![0; (code.end - code.start) as usize];
                assert!(replay.read_into(code.start, &mut image));
                sections_of(&image)
            } else {
                let read = || sections_of(&fs::read(&code.path).ok()?);
                let known = self.0.entry(code.path.clone());
                known.or_insert_with(read).clone()
            };
            if let Some(sections) = sections {
                let range = code.start..code.end;
                // Its base is 0 in every ELF file.
                let module = Module::new(code.path.clone(), range, bias.0, sections);
                unwinder.add_module(module);
            }
        }
        unwinder
    }
}

fn sections_of(image: &[u8]) -> Option<Sections> {
    let file = object::File::parse(image).ok()?;
    let range = |name| -> Option<Range<u64>> {
        let section = file.section_by_name(name)?;
        Some(section.address()..section.address() + section.size())
    };
    let data = |name| {
        let section = file.section_by_name(name)?;
        section.uncompressed_data().ok().map(Into::into)
    };
    Some(ExplicitModuleSectionInfo {
        base_svma: 0,
        text_svma: range(".text"),
        got_svma: range(".got"),
        eh_frame_svma: range(".eh_frame"),
        eh_frame: data(".eh_frame"),
        eh_frame_hdr_svma: range(".eh_frame_hdr"),
        eh_frame_hdr: data(".eh_frame_hdr"),
        debug_frame: data(".debug_frame"),
        ..Default::default()
    })
}

/// The program counters of a thread's frames.
pub(crate) fn walk(
    unwinder: &UnwinderX86_64<Vec<u8>>,
    replay: &Replay,
    thread: &Thread,
) -> Vec<u64> {
    let [.., pc] = thread.registers;
    let mut registers = UnwindRegsX86_64::new(pc, 0, 0);
    for (register, value) in REGISTERS.into_iter().zip(thread.registers) {
        registers.set(register, value);
    }
    let mut read = |address: u64| {
        let mut word = [0; 8];
        match replay.read_into(address, &mut word) {
            true => Ok(u64::from_le_bytes(word)),
            false => Err(()),
        }
    };
    let mut cache = CacheX86_64::<_>::new();
    let mut frames = unwinder.iter_frames(pc, registers, &mut cache, &mut read);
    let mut pcs = Vec::new();
    while let Ok(Some(frame)) = frames.next() {
        pcs.push(frame.address());
        if pcs.len() == MAX_USER_FRAMES {
            break;
        }
    }
    pcs
}
