//! Whether what a profile has for return addresses are ones: in the object's file, a call stands
//! before each.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::Read,
    path::Path,
};

use ebpfprof::export::proto;
use flate2::read::GzDecoder;
use profiler_common::code::{CALL_BYTES, follows_call};
use prost::Message;

/// What a signal handler returns into: `mov $15, %rax; syscall`.
const SIGNAL_RETURN: [u8; 9] = [0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05];

/// What a signal handler of the Go runtime has a goroutine go on in, to give way.
const PREEMPTS: &str = "runtime.asyncPreempt";

/// The callers of a pprof file that could be looked at.
#[derive(Clone, Debug, Default)]
pub(crate) struct CallSites {
    /// Samples with at least one caller that does not follow a call.
    pub(crate) wrong_samples: u64,
    /// Callers that follow a call, each as often as it was sampled.
    pub(crate) right: u64,
    /// Those that do not: `FILE+OFFSET`.
    pub(crate) wrong: Vec<String>,
}

/// What stands at a location of user code.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Site {
    AfterCall,
    /// What a signal interrupted comes next, and made no call.
    Interrupts,
    Elsewhere(String),
    /// Its code is in no file.
    NoFile,
}

impl CallSites {
    /// Looks at every caller in the user part of every stack, but not at the outermost one: a thread
    /// of Go and a coroutine begin at an address that nothing called.
    #[track_caller]
    pub(crate) fn of_file(pprof: &Path) -> Self {
        let mut raw = Vec::new();
        let file = File::open(pprof).unwrap();
        GzDecoder::new(file).read_to_end(&mut raw).unwrap();
        let profile = proto::Profile::decode(raw.as_slice()).unwrap();
        let sites = sites(&profile);
        let mut found = Self::default();
        for sample in &profile.sample {
            let count = u64::try_from(sample.value[0]).unwrap();
            let user: Vec<&Site> = sample
                .location_id
                .iter()
                .filter_map(|id| sites.get(id))
                .collect();
            found.add(&user, count);
        }
        found
    }

    /// Counts the callers of one stack, innermost first.
    fn add(&mut self, user: &[&Site], count: u64) {
        let mut is_wrong = false;
        for pair in user[..user.len().saturating_sub(1)].windows(2) {
            match pair {
                [Site::Interrupts, _] => {}
                [_, Site::AfterCall] => self.right += count,
                [_, Site::Elsewhere(place)] => {
                    is_wrong = true;
                    if !self.wrong.contains(place) {
                        self.wrong.push(place.clone());
                    }
                }
                _ => {}
            }
        }
        self.wrong_samples += if is_wrong { count } else { 0 };
    }
}

/// The sites of a profile's user locations, by the locations' numbers.
#[track_caller]
fn sites(profile: &proto::Profile) -> BTreeMap<u64, Site> {
    let text = |index: i64| profile.string_table[usize::try_from(index).unwrap()].as_str();
    let mappings: BTreeMap<u64, &proto::Mapping> = profile
        .mapping
        .iter()
        .map(|mapping| (mapping.id, mapping))
        .collect();
    let functions = profile.function.iter();
    let interrupting: BTreeSet<u64> = functions
        .filter(|function| text(function.name).starts_with(PREEMPTS))
        .map(|function| function.id)
        .collect();
    let mut files: BTreeMap<&str, Option<Vec<u8>>> = BTreeMap::new();
    let mut sites = BTreeMap::new();
    for location in &profile.location {
        // Markers have no mapping.
        let Some(mapping) = mappings.get(&location.mapping_id) else {
            continue;
        };
        let path = text(mapping.filename);
        if path.starts_with("[kernel") || path.ends_with(".ko") {
            continue;
        }
        let bytes = files.entry(path).or_insert_with(|| fs::read(path).ok());
        let offset = location.address - mapping.memory_start + mapping.file_offset;
        let mut lines = location.line.iter();
        let site = match bytes {
            _ if lines.any(|line| interrupting.contains(&line.function_id)) => Site::Interrupts,
            None => Site::NoFile,
            Some(bytes) => site(bytes, usize::try_from(offset).unwrap(), path),
        };
        sites.insert(location.id, site);
    }
    sites
}

/// What stands at an offset in a file, which is the return address less one.
fn site(bytes: &[u8], offset: usize, path: &str) -> Site {
    let returns_at = offset + 1;
    let at = |start: usize| bytes.get(start..).unwrap_or_default();
    // At its start, where the handler returns to; at its end, in the system call.
    let ends_at = returns_at.saturating_sub(SIGNAL_RETURN.len());
    if [offset, returns_at, ends_at]
        .into_iter()
        .any(|start| at(start).starts_with(&SIGNAL_RETURN))
    {
        return Site::Interrupts;
    }
    let before = returns_at
        .checked_sub(CALL_BYTES)
        .and_then(|start| at(start).first_chunk());
    if before.is_some_and(follows_call) {
        Site::AfterCall
    } else {
        Site::Elsewhere(format!("{path}+{returns_at:#x}"))
    }
}

#[test]
fn a_call_before_the_return_address_is_seen() {
    let mut bytes = vec![0x90; 64];
    bytes[20] = 0xe8;
    bytes[40..49].copy_from_slice(&SIGNAL_RETURN);
    assert_eq!(site(&bytes, 24, "f"), Site::AfterCall);
    assert_eq!(site(&bytes, 39, "f"), Site::Interrupts);
    assert_eq!(site(&bytes, 40, "f"), Site::Interrupts);
    assert_eq!(site(&bytes, 48, "f"), Site::Interrupts);
    let elsewhere = Site::Elsewhere("f+0x10".to_owned());
    assert_eq!(site(&bytes, 15, "f"), elsewhere);
    let mut found = CallSites::default();
    let (call, signal) = (Site::AfterCall, Site::Interrupts);
    found.add(
        &[&elsewhere, &call, &signal, &elsewhere, &call, &elsewhere],
        3,
    );
    assert_eq!((found.right, found.wrong_samples), (6, 0));
    found.add(&[&call, &elsewhere, &call], 2);
    assert_eq!((found.wrong_samples, found.wrong.len()), (2, 1));
}
