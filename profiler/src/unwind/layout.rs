//! A table in the form that is searched: rows and index words in chunks.

use profiler_common::{
    limits::CHUNK_WORDS,
    mapping::Chunk,
    unwind::{
        BUCKET_BYTES, Base, Cfa, Chunks, Fold, IndexWord, MAX_BUCKET_ROWS, MAX_ROWS,
        MOST_FOLD_BYTES, Moves, NO_INFORMATION, Row, Rule, TablePlace, find_rule,
    },
};

use super::{Table, TableRow};

/// The words of a table, to be written into chunks.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// One [`IndexWord`] for each bucket. Their rows count from the start of the first row chunk.
    pub index: Vec<u32>,
    /// One [`Row`] after the other, the first at the word that the layout was made for.
    pub rows: Vec<u32>,
    /// The number of the first bucket.
    pub first_bucket: u32,
    /// Buckets with more rows than an index word can count: their code has no rules.
    pub overfull_buckets: u32,
    /// Rows of the table whose rule was given no number: their code has no rules.
    pub unnumbered_rows: u32,
}

impl Layout {
    /// Lays a table out, its rows to start at word `first_word` of a chunk. `rule_number` gives
    /// the number that one of the table's rules has where it is searched, or `None` when there is
    /// no more room among those rules. It is asked once for each rule that is needed: those that
    /// only ever are the second half of a row are not, nor is [`NO_INFORMATION`].
    ///
    /// The rows of one bucket, with the row in force at its start, lie in one chunk.
    #[must_use]
    pub fn of(table: &Table, first_word: u32, rule_number: impl FnMut(u16) -> Option<u16>) -> Self {
        let mut layout = Self {
            first_bucket: (table.base() / BUCKET_BYTES) as u32,
            ..Self::default()
        };
        let mut folder = Folder::new(table.rules(), rule_number);
        let mut rest = table.rows();
        let mut own = Vec::new();
        let mut carried = Row::new(0, NO_INFORMATION);
        layout.rows.push(carried.0);
        let bucket_of = |row: &TableRow| u64::from(row.offset) / BUCKET_BYTES;
        let bucket_count = rest.last().map_or(0, |row| bucket_of(row) + 1);
        for bucket in 0..bucket_count {
            let end = rest.iter().position(|row| bucket_of(row) > bucket);
            let (unfolded, others) = rest.split_at(end.unwrap_or(rest.len()));
            rest = others;
            own.clear();
            folder.fold(unfolded, &mut own);
            layout.add_bucket(first_word, carried, &own);
            carried = own.last().copied().unwrap_or(carried);
        }
        layout.unnumbered_rows = folder.unnumbered_rows;
        layout
    }

    /// Adds a bucket's rows and its word in the index.
    fn add_bucket(&mut self, first_word: u32, carried: Row, own: &[Row]) {
        let count = own.len() as u32;
        let used = first_word + self.rows.len() as u32;
        if count > MAX_BUCKET_ROWS || used + count >= MAX_ROWS - CHUNK_WORDS as u32 {
            self.overfull_buckets += 1;
            self.index.push(IndexWord::new(first_word, 0).0);
            self.rows.push(own.last().copied().unwrap_or(carried).0);
            return;
        }
        // The carried row is the last one, unless a new chunk begins.
        let room = CHUNK_WORDS as u32 - used % CHUNK_WORDS as u32;
        if used.is_multiple_of(CHUNK_WORDS as u32) || room < count {
            let filler = if room == CHUNK_WORDS as u32 { 0 } else { room };
            let length = self.rows.len() + filler as usize;
            self.rows.resize(length, Row::new(0, NO_INFORMATION).0);
            self.rows.push(carried.0);
        }
        let at = first_word + self.rows.len() as u32 - 1;
        self.index.push(IndexWord::new(at, count).0);
        self.rows.extend(own.iter().map(|row| row.0));
    }
}

/// Joins rows in pairs, and numbers the rules that are needed for it.
struct Folder<'t, F> {
    rules: &'t [Rule],
    rule_number: F,
    /// The answers of `rule_number`, by the table's number of the rule.
    numbers: Vec<Option<Option<u16>>>,
    unnumbered_rows: u32,
}

impl<'t, F: FnMut(u16) -> Option<u16>> Folder<'t, F> {
    fn new(rules: &'t [Rule], rule_number: F) -> Self {
        let mut numbers = vec![None; rules.len()];
        numbers[usize::from(NO_INFORMATION)] = Some(Some(NO_INFORMATION));
        Self {
            rules,
            rule_number,
            numbers,
            unnumbered_rows: 0,
        }
    }

    /// Folds the rows of one bucket. Neighbours pair from the left, which makes the most pairs.
    fn fold(&mut self, mut rows: &[TableRow], folded: &mut Vec<Row>) {
        while let [first, others @ ..] = rows {
            rows = others;
            let address = u64::from(first.offset);
            let Some(number) = self.number(first.rule) else {
                self.unnumbered_rows += 1;
                folded.push(Row::new(address, NO_INFORMATION));
                continue;
            };
            let row = Row::new(address, number);
            let fold = others.first().and_then(|next| self.fold_of(first, next));
            folded.push(fold.map_or(row, |fold| row.folded(fold)));
            rows = &others[usize::from(fold.is_some())..];
        }
    }

    fn number(&mut self, rule: u16) -> Option<u16> {
        let known = &mut self.numbers[usize::from(rule)];
        *known.get_or_insert_with(|| (self.rule_number)(rule))
    }

    /// What makes the second row of the first one, if it is a push or a pop.
    fn fold_of(&self, first: &TableRow, second: &TableRow) -> Option<Fold> {
        let after = u8::try_from(second.offset - first.offset).ok()?;
        // The offset of the CFA by the stack pointer, and the rest of the rule.
        let parts = |row: &TableRow| {
            let rule = self.rules[usize::from(row.rule)];
            match rule {
                Rule::Frame(Cfa::StackPointer(offset), _)
                | Rule::FrameAndRbx(Base::StackPointer, offset, ..) => {
                    Some((offset, rule.encode() as u32))
                }
                _ => None,
            }
        };
        let ((from, rest), (to, rest_then)) = (parts(first)?, parts(second)?);
        let moves = match to.checked_sub(from)? {
            8 => Moves::Pushes,
            -8 => Moves::Pops,
            _ => return None,
        };
        let fits = rest == rest_then && (1..=MOST_FOLD_BYTES).contains(&after);
        fits.then_some(Fold { after, moves })
    }
}

/// A table laid out in memory of our own, and searched there by the code that the kernel runs.
pub struct Lookup {
    chunks: Vec<Box<Chunk>>,
    place: TablePlace,
    rules: Vec<Rule>,
}

impl Lookup {
    /// Lays a table out.
    #[must_use]
    pub fn new(table: &Table) -> Self {
        Self::starting_at(table, 0)
    }

    /// Lays a table out, its rows to start at word `first_word` of the first chunk.
    pub(super) fn starting_at(table: &Table, first_word: u32) -> Self {
        let layout = Layout::of(table, first_word, Some);
        let mut rows = vec![0; first_word as usize];
        rows.extend(&layout.rows);
        let row_chunks = rows.len().div_ceil(CHUNK_WORDS);
        let mut chunks = chunks_of(&rows);
        chunks.extend(chunks_of(&layout.index));
        Self {
            chunks,
            place: TablePlace {
                first_bucket: layout.first_bucket,
                bucket_count: layout.index.len() as u32,
                index_word: (row_chunks * CHUNK_WORDS) as u32,
                row_chunk: 0,
            },
            rules: table.rules().to_vec(),
        }
    }

    /// The rule for an ELF address.
    #[must_use]
    pub fn rule(&self, address: u64) -> Rule {
        let found = find_rule(self, &self.place, address);
        let rule = self.rules.get(usize::from(found.rule));
        let word = rule.map_or(0, |rule| found.word(rule.encode()));
        Rule::decode(word).unwrap_or(Rule::NoInformation)
    }
}

impl Chunks for Lookup {
    fn chunk(&self, number: u32) -> Option<&Chunk> {
        self.chunks.get(number as usize).map(AsRef::as_ref)
    }
}

fn chunks_of(words: &[u32]) -> Vec<Box<Chunk>> {
    let whole = words.chunks(CHUNK_WORDS).map(|words| {
        let mut chunk = vec![0; CHUNK_WORDS];
        chunk[..words.len()].copy_from_slice(words);
        let chunk: Box<Chunk> = chunk
            .into_boxed_slice()
            .try_into()
            .expect("the vector has the length of a chunk");
        chunk
    });
    whole.collect()
}
