//! Go's table of functions, which the runtime itself needs and which stripping leaves in place.
//!
//! In: an ELF file that the Go linker wrote, since Go 1.16. Out: where functions are, and where the
//! table has more of them. The table is read by need and piece by piece: some have a hundred
//! megabytes. Every number in it is the file's claim.
//!
//! Source: `pcHeader`, `functab` and `_func` in Go's `src/runtime/symtab.go` and
//! `src/runtime/runtime2.go`; the first words in `src/internal/abi/symtab.go`.

use std::{fs::File, ops::Range};

use super::{
    go_sections::{GoSections, Placed, Table},
    parts::{Part, Parts},
};

/// Behind the first word: two zeros, bytes of the smallest instruction, bytes of a pointer.
const REST_OF_START: [u8; 4] = [0, 0, 1, 8];
/// Most bytes that are searched for the table where it has no section of its own.
const MOST_SEARCHED: u64 = 256 << 20;
/// The longest name that is looked for, and the NUL behind it.
const MOST_WANTED: usize = 32;

/// Places of the numbers of 32 bits behind where a function's code begins: where its name is; how
/// deep its frame is, and which file and line its code is of, as steps; how many further tables of
/// steps it has; its unit; since Go 1.20, the line it starts at.
pub(crate) const NAME: u64 = 0;
pub(crate) const STEPS_OF_FRAME: u64 = 3;
pub(crate) const STEPS_OF_FILE: u64 = 4;
pub(crate) const STEPS_OF_LINE: u64 = 5;
pub(crate) const LISTED_STEPS: u64 = 6;
pub(crate) const UNIT: u64 = 7;
pub(crate) const START_LINE: u64 = 8;

/// The forms of the table. Each has a first word of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Form {
    /// Go 1.16 and 1.17: addresses.
    Go116,
    /// Go 1.18 and 1.19: offsets from where the text begins.
    Go118,
    /// Since Go 1.20: functions tell in which line they begin.
    Go120,
}

impl Form {
    const ALL: [(u32, Self); 3] = [
        (0xffff_fffa, Self::Go116),
        (0xffff_fff0, Self::Go118),
        (0xffff_fff1, Self::Go120),
    ];

    fn of_start(start: [u8; 8]) -> Option<Self> {
        let (word, rest) = start.split_first_chunk()?;
        let word = u32::from_le_bytes(*word);
        let (_, form) = Self::ALL.into_iter().find(|(known, _)| *known == word)?;
        (rest == REST_OF_START).then_some(form)
    }

    /// The place of the number that tells the kind of a function, its flags and how many further
    /// tables it has. Those follow.
    pub(crate) fn lists(self) -> u64 {
        match self {
            Self::Go116 | Self::Go118 => START_LINE,
            Self::Go120 => START_LINE + 1,
        }
    }

    /// Bytes of the numbers that tell where functions are.
    pub(crate) fn width(self) -> u64 {
        match self {
            Self::Go116 => 8,
            Self::Go118 | Self::Go120 => 4,
        }
    }
}

/// The table of functions of one file.
#[derive(Debug)]
pub(crate) struct GoFunctions<'a> {
    pub(crate) parts: Parts<'a>,
    pub(crate) sections: GoSections,
    pub(crate) form: Form,
    /// Its ELF address, and the whole of it; some more where it has no section of its own.
    pub(crate) whole: Placed,
    /// How many functions it has.
    pub(crate) count: u64,
    /// Where the text begins, if the table says so.
    pub(crate) text: Option<u64>,
    /// Its parts, each from where it begins, in the order that they have in it.
    pub(crate) names: Part,
    /// For each file of each unit of compilation, where its name is in `files`.
    pub(crate) units: Part,
    pub(crate) files: Part,
    /// Tables of how numbers change along a function's code.
    pub(crate) steps: Part,
    /// Functions by address, and then what is known of each.
    pub(crate) functions: Part,
}

impl<'a> GoFunctions<'a> {
    /// Finds the table in a file. `None` where there is none, or one of a form that is not known.
    pub(crate) fn read(file: &'a File) -> Option<Self> {
        let sections = GoSections::read(file)?;
        let parts = Parts::new(file);
        match sections.table? {
            Table::At(whole) => Self::of_parts(parts, sections, whole),
            Table::In(place) => {
                let whole = search(&parts, place)?;
                Self::of_parts(parts, sections, whole)
            }
        }
    }

    fn of_parts(parts: Parts<'a>, sections: GoSections, whole: Placed) -> Option<Self> {
        let head = Head::read(&parts, whole.part)?;
        // In the order of the table, each to where the next one begins.
        let [names, units, files, steps, functions] = head.offsets;
        let part = |range: Range<u64>| {
            let part = whole.part.from(range.start)?;
            Some(part.first(range.end - range.start))
        };
        Some(Self {
            form: head.form,
            whole,
            count: head.count,
            text: head.text,
            names: part(names..units)?,
            units: part(units..files)?,
            files: part(files..steps)?,
            steps: part(steps..functions)?,
            functions: whole.part.from(functions)?,
            parts,
            sections,
        })
    }

    /// Where the code of functions of these names is: addresses, or offsets from where the text begins.
    pub(crate) fn find<const N: usize>(&self, names: &[&[u8]; N]) -> [Option<Range<u64>>; N] {
        let mut found = [const { None }; N];
        // Functions, what is known of them and their names have the same order, but for few.
        let most_reads = self.parts.reads() + 4 * Parts::reads_of(self.whole.part.bytes);
        for place in 0..self.count {
            let Some((start, known)) = self.function(place) else {
                break;
            };
            let mut bytes = [0; MOST_WANTED];
            let name = self.parts.u32(known, self.form.width());
            let name = name.and_then(|name| self.parts.copy(self.names, name.into(), &mut bytes));
            if name.is_none() || self.parts.reads() > most_reads {
                break;
            }
            let is_it =
                |wanted: &&[u8]| bytes.strip_prefix(*wanted).and_then(<[u8]>::first) == Some(&0);
            if let Some(which) = names.iter().position(is_it) {
                found[which] = self.start(place + 1).map(|end| start..end);
            }
        }
        found
    }

    /// The place in the table of the function whose code may hold an address or offset: it begins at
    /// it or before, and the next one behind it.
    pub(crate) fn place_of(&self, at: u64) -> Option<u64> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.start(middle)? <= at {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        let place = low.checked_sub(1)?;
        (at < self.start(place + 1)?).then_some(place)
    }

    /// Where the code of a function begins, and what else is known of it. `None` past the end.
    pub(crate) fn function(&self, place: u64) -> Option<(u64, Part)> {
        let width = self.form.width();
        let known = self.number(self.functions, (2 * place + 1) * width)?;
        Some((self.start(place)?, self.functions.from(known)?))
    }

    /// Where the code of a function begins; behind the last one, where all code ends.
    pub(crate) fn start(&self, place: u64) -> Option<u64> {
        self.number(self.functions, place.checked_mul(2 * self.form.width())?)
    }

    /// One of the numbers of 32 bits of what is known of a function.
    pub(crate) fn word(&self, known: Part, place: u64) -> Option<u32> {
        self.parts.u32(known, self.form.width() + 4 * place)
    }

    /// A number of the width that this form of the table has.
    pub(crate) fn number(&self, part: Part, at: u64) -> Option<u64> {
        match self.form {
            Form::Go116 => self.parts.u64(part, at),
            Form::Go118 | Form::Go120 => self.parts.u32(part, at).map(u64::from),
        }
    }
}

/// How a table begins.
struct Head {
    form: Form,
    count: u64,
    text: Option<u64>,
    /// Where names, units, files, steps and functions begin.
    offsets: [u64; 5],
}

impl Head {
    /// `None` where what it says cannot be.
    fn read(parts: &Parts<'_>, table: Part) -> Option<Self> {
        let form = Form::of_start(parts.read(table, 0)?)?;
        let word = |place: u64| parts.u64(table, 8 * place);
        // Behind the numbers of functions and files, newer tables tell where the text is, up to Go
        // 1.25.
        let (text, first) = match form {
            Form::Go116 => (None, 3),
            Form::Go118 | Form::Go120 => (Some(word(3)?).filter(|text| *text != 0), 4),
        };
        let mut offsets = [0; 5];
        for (place, offset) in (first..).zip(&mut offsets) {
            *offset = word(place)?;
        }
        let count = word(1)?;
        let is_behind = offsets[0] >= 8 * (first + 5) && offsets.is_sorted();
        let room = table.bytes.checked_sub(offsets[4])? / form.width();
        let fits = count > 0 && count.checked_mul(2)?.checked_add(1)? <= room;
        (is_behind && fits).then_some(Self {
            form,
            count,
            text,
            offsets,
        })
    }
}

/// The first table that begins in a part.
fn search(parts: &Parts<'_>, place: Placed) -> Option<Placed> {
    let mut block = [0; 4096];
    let mut at = 0;
    while at < place.part.bytes.min(MOST_SEARCHED) {
        let read = parts.copy(place.part, at, &mut block)?;
        let (words, _) = block[..read].as_chunks::<8>();
        let starts = words.iter().zip((at..).step_by(8));
        let mut starts = starts.filter(|(word, _)| Form::of_start(**word).is_some());
        let found = starts.find_map(|(_, start)| {
            let whole = place.from(place.address.checked_add(start)?)?;
            Head::read(parts, whole.part).map(|_| whole)
        });
        if found.is_some() {
            return found;
        }
        at += block.len() as u64;
    }
    None
}
