//! Where debug information of stripped objects is fetched from: the flag, and the environment that
//! elfutils reads too.

use std::{
    env,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use super::trouble::Trouble;
use crate::{
    debuginfod::{
        DEFAULT_MOST_BYTES, DEFAULT_PATIENCE, DEFAULT_STALL, Debuginfod, Server, Settings,
    },
    symbolize::Inlines,
};

/// The variable that names servers.
const URLS: &str = "DEBUGINFOD_URLS";

/// Servers on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Servers(Vec<Server>);

impl FromStr for Servers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let servers = text.split(',').map(str::parse);
        let servers = servers.collect::<Result<_, _>>();
        servers.map(Self).map_err(|error| error.to_string())
    }
}

/// What was asked for; nothing if it was not.
pub(super) fn open(
    asked: Option<&Option<Servers>>,
    inlines: Inlines,
) -> Result<Option<Debuginfod>, Trouble> {
    let servers = match asked {
        None => return Ok(None),
        Some(Some(servers)) => servers.0.clone(),
        Some(None) => servers_of_environment(),
    };
    if servers.is_empty() {
        return Err(Trouble::misuse(
            "no debuginfod server to ask",
            format!("--debuginfod names none, and neither does {URLS}"),
            format!(
                "ebpfprof --debuginfod=https://debuginfod.elfutils.org, or sudo --preserve-env={URLS} ebpfprof --debuginfod"
            ),
        ));
    }
    let stall = number("DEBUGINFOD_TIMEOUT").map(Duration::from_secs);
    let patience = number("DEBUGINFOD_MAXTIME").map(Duration::from_secs);
    Ok(Some(Debuginfod::new(Settings {
        servers,
        cache: cache(),
        patience: patience.unwrap_or(DEFAULT_PATIENCE),
        stall: stall.unwrap_or(DEFAULT_STALL),
        most_bytes: number("DEBUGINFOD_MAXSIZE").unwrap_or(DEFAULT_MOST_BYTES),
        inlines,
    })))
}

/// What to say of objects without debug information to one who has servers and did not ask them.
pub(super) fn hint(asked: Option<&Option<Servers>>, bare_objects: usize) -> Option<String> {
    let could_help = asked.is_none() && bare_objects > 0 && !servers_of_environment().is_empty();
    could_help.then(|| format!("{bare_objects} objects have no debug information, and debuginfod may have it; try: ebpfprof --debuginfod"))
}

/// Servers that elfutils would ask. It knows words that are none, and kinds that we do not ask.
fn servers_of_environment() -> Vec<Server> {
    let urls = env::var(URLS).unwrap_or_default();
    let servers = urls.split_whitespace().filter_map(|url| {
        let server = url.parse();
        if let Err(error) = &server {
            log::debug!("{URLS}: {error}");
        }
        server.ok()
    });
    servers.collect()
}

/// A number above zero: zero means no limit to elfutils, and there is always one here.
fn number(name: &str) -> Option<u64> {
    let number = env::var(name).ok()?.trim().parse().ok()?;
    (number > 0).then_some(number)
}

/// Where elfutils keeps files, if that is the user's own.
fn cache() -> Option<PathBuf> {
    let path = |name| env::var_os(name).map(PathBuf::from);
    let absolute = |path: &PathBuf| path.is_absolute();
    if let Some(chosen) = path("DEBUGINFOD_CACHE_PATH").filter(absolute) {
        return Some(chosen);
    }
    let caches = path("XDG_CACHE_HOME").filter(absolute).or_else(|| {
        let home = path("HOME").filter(absolute)?;
        Some(home.join(".cache"))
    })?;
    // Under `sudo` it may be another user's, who could not use what we put there.
    is_own(&caches).then(|| caches.join("debuginfod_client"))
}

/// Whether a folder, or the one that it would be made in, is this user's.
fn is_own(folder: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let there = folder.ancestors().find_map(|path| path.metadata().ok());
    there.is_some_and(|meta| meta.uid() == rustix::process::geteuid().as_raw())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_separated_by_commas() {
        let servers: Servers = "http://a,https://b:8002/x".parse().unwrap();
        let shown: Vec<String> = servers.0.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["http://a", "https://b:8002/x"]);
        for text in ["", "http://a,", "a", "file:///srv"] {
            assert!(text.parse::<Servers>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_folder_that_is_not_there_belongs_to_whom_it_would_be_made_by() {
        let folder = tempfile::tempdir().unwrap();
        assert!(is_own(&folder.path().join("a/b")));
    }
}
