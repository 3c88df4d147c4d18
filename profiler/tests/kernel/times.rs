//! When samples were taken, and on which threads.

use std::collections::BTreeMap;

use ebpfprof::{
    record::{self, Request, Times, Unwatched},
    symbolize::Inlines,
};

use crate::{fixture::Fixture, library::request, turn};

#[test]
fn every_sample_has_its_time_and_its_thread() {
    let _turn = turn();
    let fixture = Fixture::start("threads");
    let request = Request {
        times: Times::Kept,
        ..request(&fixture, Inlines::Resolve)
    };
    let outcome = record::prepare(request)
        .unwrap()
        .record(&record::Stop::default(), &mut Unwatched)
        .unwrap();
    let profile = &outcome.profile;
    let timeline = profile.timeline().expect("times were asked for");
    assert_eq!(timeline.len() as u64, outcome.account.kept);
    let mut threads: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    let mut elsewhere = 0;
    for moment in timeline.moments() {
        assert_eq!(moment.thread.pid, fixture.pid());
        assert_eq!(profile.text(moment.thread.process), "threads");
        let name = profile.text(moment.thread.name);
        threads.entry(name).or_default().push(moment.time_ns);
        let number = name.strip_prefix("worker-").unwrap();
        let body = format!("thread_body_{number}");
        let lines = moment
            .stack
            .iter()
            .flat_map(|id| &profile.location_at(*id).lines);
        let names: Vec<&str> = lines.map(|line| profile.line_name(line)).collect();
        elsewhere += u64::from(!names.contains(&body.as_str()));
    }
    // A worker has functions of its own; a stack may be cut.
    assert!(elsewhere * 100 <= outcome.account.kept, "{elsewhere}");
    assert_eq!(threads.len(), 4, "{:?}", threads.keys());
    let ends = threads.values().flatten();
    let (first, last) = (ends.clone().min().unwrap(), ends.max().unwrap());
    // All four are always busy, so there is no long time without a sample.
    assert!(*first < 200_000_000, "{first}");
    assert!((800_000_000..1_200_000_000).contains(last), "{last}");
    assert!(*last <= profile.duration_ns + 10_000_000, "{last}");
}
