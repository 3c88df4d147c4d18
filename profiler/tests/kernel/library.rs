//! What tests of the library, rather than of the program, ask of it.

use std::time::Duration;

use ebpfprof::{
    bpf::{Flavour, Settings, Stacks},
    record::{Addresses, DEFAULT_TABLE_BYTES, Request, Rights, Times},
    symbolize::{self, Inlines},
    target::{Pid, TargetSpec},
};

use crate::fixture::Fixture;

/// A sampler of the whole host, with this walker, or the best that the kernel has.
pub(crate) fn settings(flavour: Option<Flavour>) -> Settings {
    Settings {
        period_ns: 10_000_000,
        shortest_period_ns: 10_000_000,
        most_targets: 0,
        kernel_stacks: Stacks::Taken,
        user_stacks: Stacks::Taken,
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
