//! `ebpfprof serve`: `/debug/pprof` for every process of this host, over HTTP.

use std::{
    process::ExitCode,
    sync::{Arc, atomic::Ordering},
};

use super::{args::ServeArgs, tell, trouble::Trouble};
use crate::{
    captures::Captures,
    object::opener,
    privilege,
    record::{
        live::{Live, LiveSettings, RecorderSettings},
        raise_descriptor_limit,
    },
    server::{
        self, App, audit,
        config::Config,
        daemon::{Setup, prepare},
        listen::{Address, Secrecy},
    },
    symbolize,
};

/// Serves until a signal ends it.
pub(super) fn run(args: &ServeArgs) -> Result<ExitCode, Trouble> {
    start_log(args.verbose);
    let prepared = prepare(Setup {
        file: args.config.clone(),
        listen: args.listen.clone(),
        secrecy: match args.insecure {
            true => Secrecy::Waived,
            false => Secrecy::Needed,
        },
    })?;
    privilege::check()?;
    opener::enable();
    // Each connection is a file.
    raise_descriptor_limit();
    // Before any thread gives up its rights.
    let live = Live::start(live_settings(prepared.config()))?;
    let addresses = prepared.addresses();
    for address in &addresses {
        tell(&format!(
            "listening on {}",
            shown(address, prepared.config())
        ));
    }
    if let Some(note) = open_to_this_host(&addresses, prepared.config()) {
        tell(note);
    }
    let failed = live.failure();
    let captures: Arc<dyn Captures> = Arc::new(live);
    let shared = Arc::clone(&captures);
    prepared.run(captures, |policy| {
        server::router(Arc::new(App::new(shared, policy)))
    })?;
    if failed.load(Ordering::Relaxed) {
        return Err(Trouble::failure(
            "the sampler has failed",
            "a bug of ours, told above, ended its thread",
            "the same command again; and report it with the output of: uname -r; ebpfprof --version",
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// What the configuration says of the sampler.
fn live_settings(config: &Config) -> LiveSettings {
    LiveSettings {
        table_bytes: config.max_table_memory,
        symbols: symbolize::Settings {
            most_bytes: config.max_symbol_memory as u64,
            memory: symbolize::Memory::Kept,
            ..symbolize::Settings::default()
        },
        most_captures: config.limits.captures,
        most_frequency_hz: config.limits.hz,
        recorder: config.recorder.map(|span| RecorderSettings {
            span,
            frequency_hz: config.recorder_hz,
        }),
    }
}

/// Lines of the audit are always logged; of the rest what a server has to tell.
fn start_log(verbose: bool) {
    let level = match verbose {
        true => log::LevelFilter::Debug,
        false => log::LevelFilter::Warn,
    };
    let mut log = env_logger::Builder::new();
    log.filter_level(log::LevelFilter::Error);
    log.filter_module("ebpfprof", level);
    log.filter_module("ebpfprof::server", level.max(log::LevelFilter::Info));
    log.filter_module(audit::LOG_TARGET, log::LevelFilter::Info);
    log.parse_default_env().init();
}

/// An address as it is typed into a browser or a client.
fn shown(address: &Address, config: &Config) -> String {
    match address {
        Address::Tcp(at) if config.tls.is_on() => format!("https://{at}"),
        Address::Tcp(at) => format!("http://{at}"),
        unix @ Address::Unix(_) => unix.to_string(),
    }
}

/// What one who set passwords may not expect.
fn open_to_this_host(addresses: &[Address], config: &Config) -> Option<&'static str> {
    let by_tcp = addresses.iter().any(|at| matches!(at, Address::Tcp(_)));
    let open = by_tcp && config.knows_anybody() && config.auth.anonymous_loopback;
    open.then_some(
        "users of this host need no password; to have them need one: anonymous_loopback = false in [auth]",
    )
}
