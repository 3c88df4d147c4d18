//! The Go runtime's description of the program it is in: `runtime.firstmoduledata`.
//!
//! In: a table of functions. Out: where the text is, and what the table's numbers for inlined calls
//! are relative to. No symbol is needed: the description begins with the address of the table, and is
//! believed only if the words behind it are those that the table's own head leads to. Where the
//! program is position-independent and a C linker put it together, the words are not in the section
//! but in the relocations that fill it.
//!
//! Source: `moduledata` in Go's `src/runtime/symtab.go`, of Go 1.18, 1.19, 1.21, 1.23, 1.25, 1.26 and
//! 1.27; `symtab` in `src/cmd/link/internal/ld/symtab.go`.

use std::ops::Range;

use object::elf;

use super::{
    go_functions::{Form, GoFunctions},
    go_sections::Placed,
    parts::Part,
};

/// Words read of a description: up to where its form does not change.
const WORDS: usize = 50;
/// Most bytes of data, and of relocations, that are looked through.
const MOST_DATA_BYTES: u64 = 64 << 20;
const MOST_RELOCATION_BYTES: u64 = 64 << 20;
/// Most places looked at that have the address of the table.
const MOST_PLACES: usize = 16;
/// Bytes of an `Elf64_Rela`.
const RELOCATION_BYTES: usize = 24;

/// Places of words in the description, the same in every version.
const TABLE: usize = 0;
/// Of each slice the address; its length and capacity follow.
const NAMES: usize = 1;
const UNITS: usize = 4;
const FILES: usize = 7;
const STEPS: usize = 10;
const FUNCTIONS: usize = 13;
const PLACES: usize = 16;
const FIRST_PC: usize = 20;
const TEXT: usize = 22;
/// Where the slice of sections of text may be: how many words are before it depends on the version.
const SECTIONS: Range<usize> = 36..48;
/// The section may end this many bytes behind the last function: one, since some version after 1.19.
const MOST_BEHIND_TEXT: u64 = 16;

type Words = [u64; WORDS];

/// What the description says.
#[derive(Debug)]
pub(crate) struct Module {
    /// Where the text begins: what the numbers of functions are relative to since Go 1.18.
    pub(crate) base: u64,
    /// What the numbers of inlined calls are relative to, which older tables do not need.
    pub(crate) calls: Option<Part>,
}

impl Module {
    /// Finds the description that belongs to a table.
    pub(crate) fn find(functions: &GoFunctions<'_>) -> Option<Self> {
        let in_data = || {
            let data = functions.sections.data.iter();
            data.flat_map(|section| places_in(functions, *section))
                .take(MOST_PLACES)
                .find_map(|place| {
                    let part = functions.sections.at(place)?;
                    let words = std::array::from_fn(|word| {
                        functions.parts.u64(part, 8 * word as u64).unwrap_or(0)
                    });
                    Self::of_words(functions, &words)
                })
        };
        in_data().or_else(|| {
            let relocated = relocated(functions);
            relocated
                .iter()
                .find_map(|words| Self::of_words(functions, words))
        })
    }

    /// `None` if the words are not the description of this table's program.
    fn of_words(functions: &GoFunctions<'_>, words: &Words) -> Option<Self> {
        let address = |part: Part| {
            let into = part.offset - functions.whole.part.offset;
            functions.whole.address.wrapping_add(into)
        };
        let told = [
            (TABLE, functions.whole.address),
            (NAMES, address(functions.names)),
            (UNITS, address(functions.units)),
            (FILES, address(functions.files)),
            (STEPS, address(functions.steps)),
            (FUNCTIONS, address(functions.functions)),
            (PLACES, address(functions.functions)),
            // The last place is where the text ends.
            (PLACES + 1, functions.count + 1),
        ];
        let text = words[TEXT]..words[TEXT + 1];
        let base = match functions.form {
            Form::Go116 => 0,
            Form::Go118 | Form::Go120 => text.start,
        };
        let first = base.checked_add(functions.start(0)?)?;
        let last = base.checked_add(functions.start(functions.count)?)?;
        let is_it = told.iter().all(|(place, word)| words[*place] == *word)
            && words[FIRST_PC..TEXT] == [first, last]
            && text.start <= first
            && first < last
            && last <= text.end;
        is_it.then(|| Self {
            base: text.start,
            calls: calls(functions, words, &text),
        })
    }
}

/// What the table's numbers for functions are relative to. `None` where that does not become clear.
pub(crate) fn text_base(functions: &GoFunctions<'_>, module: Option<&Module>) -> Option<u64> {
    match (functions.form, module) {
        (Form::Go116, _) => Some(0),
        (_, Some(module)) => Some(module.base),
        (_, None) => functions.text,
    }
}

/// The word before the slice of sections of text, whose only one is all text; since Go 1.26 there is
/// the address of the table's end between them, and the calls are in the table.
fn calls(functions: &GoFunctions<'_>, words: &Words, text: &Range<u64>) -> Option<Part> {
    let is_all_text = |place: &usize| {
        let section = functions.sections.at(words[*place]);
        let word = |word: u64| functions.parts.u64(section?, 8 * word);
        let bytes = word(1).and_then(|end| end.checked_sub(text.end - text.start));
        words[place + 1..place + 3] == [1, 1]
            && word(0) == Some(0)
            && bytes.is_some_and(|behind| behind <= MOST_BEHIND_TEXT)
    };
    let sections = SECTIONS.into_iter().find(is_all_text)?;
    let whole = functions.whole;
    let is_in_table = |address: u64| {
        let into = address.checked_sub(whole.address);
        into.is_some_and(|into| into > 0 && into < whole.part.bytes)
    };
    let before = match is_in_table(words[sections - 2]) {
        true => words[sections - 2],
        false => words[sections - 1],
    };
    functions.sections.at(before)
}

/// The addresses of words in a section that are the address of the table.
fn places_in(functions: &GoFunctions<'_>, section: Placed) -> impl Iterator<Item = u64> {
    let bytes = section.part.bytes.min(MOST_DATA_BYTES);
    let blocks = (0..bytes).step_by(BLOCK);
    // The linker aligns what has words in it.
    let blocks = blocks.take_while(move |_| section.address.is_multiple_of(8));
    blocks.flat_map(move |at| {
        let mut block = [0; BLOCK];
        let read = functions.parts.copy(section.part, at, &mut block);
        let (words, _) = block[..read.unwrap_or(0)].as_chunks::<8>();
        let addresses = (section.address.wrapping_add(at)..).step_by(8);
        let found = words.iter().zip(addresses);
        let found = found.filter(|(word, _)| u64::from_le_bytes(**word) == functions.whole.address);
        found.map(|(_, address)| address).collect::<Vec<u64>>()
    })
}

/// Bytes of data, and of relocations, that are looked through at a time.
const BLOCK: usize = 1 << 12;
const RELOCATIONS: usize = RELOCATION_BYTES << 8;

/// The words that relocations make, wherever the first one is the address of the table. What has no
/// relocation is as the file has it.
fn relocated(functions: &GoFunctions<'_>) -> Vec<Words> {
    let mut places = Vec::new();
    each_relocation(functions, |address, word| {
        if word == functions.whole.address && places.len() < MOST_PLACES {
            places.push(address);
        }
    });
    let mut all: Vec<(u64, Words)> = places
        .into_iter()
        .filter_map(|place| {
            let part = functions.sections.at(place)?;
            let word = |word: usize| functions.parts.u64(part, 8 * word as u64);
            let words = std::array::from_fn(|place| word(place).unwrap_or(0));
            Some((place, words))
        })
        .collect();
    if !all.is_empty() {
        each_relocation(functions, |address, word| {
            for (place, words) in &mut all {
                let into = address.checked_sub(*place).filter(|into| into % 8 == 0);
                let slot = into.and_then(|into| words.get_mut(usize::try_from(into / 8).ok()?));
                if let Some(slot) = slot {
                    *slot = word;
                }
            }
        });
    }
    all.into_iter().map(|(_, words)| words).collect()
}

/// Calls `use_it` for each word that the loader fills by its bias alone: its address, and what it is
/// before the bias. Source: System V ABI for x86-64, section 4.4.1.
fn each_relocation(functions: &GoFunctions<'_>, mut use_it: impl FnMut(u64, u64)) {
    let mut left = MOST_RELOCATION_BYTES;
    let mut block = [0; RELOCATIONS];
    for section in &functions.sections.relocations {
        let section = section.first(left);
        left -= section.bytes;
        for at in (0..section.bytes).step_by(RELOCATIONS) {
            let read = functions.parts.copy(section, at, &mut block).unwrap_or(0);
            let (relocations, _) = block[..read].as_chunks::<RELOCATION_BYTES>();
            for relocation in relocations {
                let (words, _) = relocation.as_chunks::<8>();
                let [address, info, addend] =
                    std::array::from_fn(|word| u64::from_le_bytes(words[word]));
                if info == u64::from(elf::R_X86_64_RELATIVE.0) {
                    use_it(address, addend);
                }
            }
        }
    }
}
