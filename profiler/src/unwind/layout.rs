//! A table in the form that is searched: rows and index words in chunks.

use profiler_common::{
    limits::CHUNK_WORDS,
    mapping::Chunk,
    unwind::{
        BUCKET_BYTES, Chunks, IndexWord, MAX_BUCKET_ROWS, MAX_ROWS, NO_INFORMATION, Row, Rule,
        TablePlace, find_rule,
    },
};

use super::Table;

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
}

impl Layout {
    /// Lays a table out, its rows to start at word `first_word` of a chunk. `rule_number` gives
    /// the number that one of the table's rules has where it is searched.
    ///
    /// The rows of one bucket, with the row in force at its start, lie in one chunk.
    #[must_use]
    pub fn of(table: &Table, first_word: u32, mut rule_number: impl FnMut(u16) -> u16) -> Self {
        let mut layout = Self {
            first_bucket: (table.base() / BUCKET_BYTES) as u32,
            ..Self::default()
        };
        let mut rest = table.rows();
        let mut carried = NO_INFORMATION;
        layout.rows.push(Row::new(0, carried).0);
        let bucket_of = |offset: u32| u64::from(offset) / BUCKET_BYTES;
        let bucket_count = rest.last().map_or(0, |row| bucket_of(row.offset) + 1);
        for bucket in 0..bucket_count {
            let end = rest.partition_point(|row| bucket_of(row.offset) <= bucket);
            let (own, others) = rest.split_at(end);
            rest = others;
            let count = own.len() as u32;
            let used = first_word + layout.rows.len() as u32;
            if count > MAX_BUCKET_ROWS || used + count >= MAX_ROWS - CHUNK_WORDS as u32 {
                layout.overfull_buckets += 1;
                layout.index.push(IndexWord::new(first_word, 0).0);
                carried = own.last().map_or(carried, |row| rule_number(row.rule));
                layout.rows.push(Row::new(0, carried).0);
                continue;
            }
            // The carried row is the last one, unless a new chunk begins.
            let room = CHUNK_WORDS as u32 - used % CHUNK_WORDS as u32;
            if used.is_multiple_of(CHUNK_WORDS as u32) || room < count {
                let filler = if room == CHUNK_WORDS as u32 { 0 } else { room };
                let length = layout.rows.len() + filler as usize;
                layout.rows.resize(length, Row::new(0, NO_INFORMATION).0);
                layout.rows.push(Row::new(0, carried).0);
            }
            let at = first_word + layout.rows.len() as u32 - 1;
            layout.index.push(IndexWord::new(at, count).0);
            for row in own {
                carried = rule_number(row.rule);
                layout.rows.push(Row::new(u64::from(row.offset), carried).0);
            }
        }
        layout
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
        let layout = Layout::of(table, 0, |rule| rule);
        let row_chunks = layout.rows.len().div_ceil(CHUNK_WORDS);
        let mut chunks = chunks_of(&layout.rows);
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
