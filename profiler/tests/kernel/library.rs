//! What tests of the library, rather than of the program, ask of it.

use std::time::Duration;

use ebpfprof::{
    bpf::{Flavour, Settings, Stacks},
    record::{Addresses, DEFAULT_TABLE_BYTES, Request, Rights, Times},
    symbolize::{self, Inlines},
    target::{Follow, Pid, TargetSpec},
};

use crate::fixture::Fixture;

/// A sampler of the whole host, with this walker, or the best that the kernel has.
pub(crate) fn settings(flavour: Option<Flavour>) -> Settings {
    Settings {
        period_ns: 10_000_000,
        targets: Vec::new(),
        filters: 0,
        cgroup_levels: 0,
        kernel_stacks: Stacks::Taken,
        user_stacks: Stacks::Taken,
        follow: Follow::Yes,
        flavour,
        table_bytes: DEFAULT_TABLE_BYTES,
    }
}

/// A second of a fixture.
pub(crate) fn request(fixture: &Fixture, inlines: Inlines) -> Request {
    Request {
        spec: TargetSpec {
            pids: vec![Pid(fixture.pid())],
            ..TargetSpec::default()
        },
        command: None,
        frequency_hz: 499,
        budget: None,
        duration: Some(Duration::from_secs(1)),
        kernel_stacks: Stacks::Taken,
        user_stacks: Stacks::Taken,
        symbols: symbolize::Settings {
            inlines,
            ..symbolize::Settings::default()
        },
        labels: None,
        times: Times::LeftOut,
        addresses: Addresses::Runtime,
        flavour: None,
        table_bytes: DEFAULT_TABLE_BYTES,
        debuginfod: None,
        rights: Rights::Kept,
    }
}
