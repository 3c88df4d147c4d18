//! The command line of a target, as `net/http/pprof` gives it: arguments with NULs between them.

use std::{fs, sync::Arc};

use super::{
    answer,
    asked::{Asked, main_process, words},
    kinds::{Answering, Kind},
    policy::Policy,
    problem::Problem,
};
use crate::{captures::Target, target::Pid};

/// The command line.
pub(super) struct Cmdline;

impl Kind for Cmdline {
    fn name(&self) -> &'static str {
        "cmdline"
    }

    fn description(&self) -> &'static str {
        "The command line of the process, its arguments separated by NUL bytes; of the whole host, that of the kernel."
    }

    fn answer(self: Arc<Self>, asked: Asked) -> Answering {
        Box::pin(async move {
            let (target, policy) = (asked.target.clone(), Arc::clone(&asked.app.policy));
            let bytes = asked.app.look(move || of(&target, &*policy)).await?;
            Ok(answer::text(bytes))
        })
    }
}

fn of(target: &Target, policy: &dyn Policy) -> Result<Vec<u8>, Problem> {
    let arguments = match target {
        Target::Host => {
            let line = fs::read("/proc/cmdline").unwrap_or_default();
            let parts = line.trim_ascii().split(u8::is_ascii_whitespace);
            parts.map(<[u8]>::to_vec).collect()
        }
        target => {
            let main = main_process(target)?;
            let none = || format!("{}: no such process at the moment; try: /", words(target));
            arguments_of(main.ok_or_else(|| Problem::absent(none()))?)?
        }
    };
    Ok(policy.shown_cmdline(arguments).join(&0))
}

/// The arguments of a process; of a kernel thread none.
pub(super) fn arguments_of(pid: Pid) -> Result<Vec<Vec<u8>>, Problem> {
    let line = fs::read(format!("/proc/{pid}/cmdline"));
    let line = line.map_err(|error| Problem::of_process(pid, &error))?;
    // The last one ends in a NUL too.
    let line = line.strip_suffix(&[0]).unwrap_or(&line);
    if line.is_empty() {
        return Ok(Vec::new());
    }
    Ok(line.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect())
}
