//! pprof files, read back and checked for what readers rely on.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read,
};

use ebpfprof::export::proto;
use flate2::read::GzDecoder;
use prost::Message;

/// A pprof file whose references all lead somewhere.
#[derive(Clone, Debug)]
pub(crate) struct Pprof {
    message: proto::Profile,
    /// Functions of each location, the innermost first.
    names: BTreeMap<u64, Vec<String>>,
    /// Path of each location's mapping.
    paths: BTreeMap<u64, String>,
}

/// One sample.
#[derive(Clone, Debug, Default)]
pub(crate) struct PprofSample {
    /// Functions, innermost first.
    pub(crate) functions: Vec<String>,
    /// Paths of the mappings of the locations, innermost first; empty for none.
    pub(crate) paths: Vec<String>,
    pub(crate) count: u64,
    pub(crate) texts: BTreeMap<String, String>,
    pub(crate) numbers: BTreeMap<String, i64>,
}

impl Pprof {
    #[track_caller]
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let mut raw = Vec::new();
        GzDecoder::new(bytes).read_to_end(&mut raw).unwrap();
        let message = proto::Profile::decode(raw.as_slice()).unwrap();
        assert_eq!(message.string_table.first().map(String::as_str), Some(""));
        assert_eq!(message.sample_type.len(), 2);
        let text = |index: i64| message.string_table[usize::try_from(index).unwrap()].clone();
        let functions: BTreeMap<u64, String> = message
            .function
            .iter()
            .map(|function| (function.id, text(function.name)))
            .collect();
        let mappings: BTreeMap<u64, String> = message
            .mapping
            .iter()
            .map(|mapping| (mapping.id, text(mapping.filename)))
            .collect();
        let (mut names, mut paths) = (BTreeMap::new(), BTreeMap::new());
        for location in &message.location {
            let lines = location.line.iter();
            let name = |line: &proto::Line| functions[&line.function_id].clone();
            let is_raw = |mapping: &proto::Mapping| {
                mapping.id == location.mapping_id && !mapping.has_functions
            };
            assert!(
                !location.line.is_empty() || message.mapping.iter().any(is_raw),
                "each location has a function"
            );
            names.insert(location.id, lines.map(name).collect());
            let path = mappings.get(&location.mapping_id).cloned();
            assert!(
                path.is_some() || location.mapping_id == 0,
                "each mapping is there"
            );
            paths.insert(location.id, path.unwrap_or_default());
        }
        Self {
            message,
            names,
            paths,
        }
    }

    fn text(&self, index: i64) -> String {
        self.message.string_table[usize::try_from(index).unwrap()].clone()
    }

    /// Every sample.
    pub(crate) fn samples(&self) -> Vec<PprofSample> {
        self.message
            .sample
            .iter()
            .map(|sample| self.sample(sample))
            .collect()
    }

    fn sample(&self, sample: &proto::Sample) -> PprofSample {
        assert_eq!(sample.value.len(), 2);
        assert_eq!(sample.value[1], sample.value[0] * self.message.period);
        let mut read = PprofSample {
            count: u64::try_from(sample.value[0]).unwrap(),
            ..PprofSample::default()
        };
        for id in &sample.location_id {
            read.functions.extend(self.names[id].iter().cloned());
            read.paths.push(self.paths[id].clone());
        }
        for label in &sample.label {
            if label.str == 0 {
                read.numbers.insert(self.text(label.key), label.num);
            } else {
                read.texts
                    .insert(self.text(label.key), self.text(label.str));
            }
        }
        read
    }

    pub(crate) fn total(&self) -> u64 {
        self.samples().iter().map(|sample| sample.count).sum()
    }

    /// Every comment.
    pub(crate) fn comments(&self) -> Vec<String> {
        let comments = self.message.comment.iter();
        comments.map(|comment| self.text(*comment)).collect()
    }

    /// File and first line of each function of this name.
    pub(crate) fn sources_of(&self, name: &str) -> BTreeSet<(String, i64)> {
        let functions = self.message.function.iter();
        functions
            .filter(|function| self.text(function.name) == name)
            .map(|function| (self.text(function.filename), function.start_line))
            .collect()
    }

    /// Length of the recording.
    #[expect(clippy::cast_precision_loss, reason = "nanoseconds of a short run")]
    pub(crate) fn seconds(&self) -> f64 {
        self.message.duration_nanos as f64 / 1e9
    }

    /// When the recording began, in seconds of the wall clock.
    #[allow(dead_code, reason = "the kernel tests use it")]
    pub(crate) fn began_s(&self) -> i64 {
        self.message.time_nanos / 1_000_000_000
    }

    /// Path of the first mapping: the main executable.
    pub(crate) fn main_path(&self) -> String {
        let main = self.message.mapping.first();
        self.text(main.expect("a profile has a mapping").filename)
    }

    /// Runtime address at which the first mapping starts.
    #[allow(dead_code, reason = "the tests of readers use it")]
    pub(crate) fn main_start(&self) -> u64 {
        let main = self.message.mapping.first();
        main.expect("a profile has a mapping").memory_start
    }

    /// The values of a label with numbers.
    pub(crate) fn label_numbers(&self, key: &str) -> BTreeSet<i64> {
        let samples = self.samples();
        let numbers = samples.iter().filter_map(|sample| sample.numbers.get(key));
        numbers.copied().collect()
    }
}

impl PprofSample {
    pub(crate) fn has(&self, function: &str) -> bool {
        self.functions.iter().any(|name| name == function)
    }
}
