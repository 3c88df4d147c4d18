//! What `net/http/pprof` has and we do not make: goroutines, and Go's execution traces. Who asks is
//! told what to ask for instead.

use std::sync::Arc;

use super::{
    asked::{Asked, main_process, words},
    kinds::{Answering, Kind},
    problem::Problem,
};
use crate::{captures::Target, object::Objects, process::mappings_of, target::Pid};

/// Where goroutines would be.
pub(super) struct Goroutine;

impl Kind for Goroutine {
    fn name(&self) -> &'static str {
        "goroutine"
    }

    fn description(&self) -> &'static str {
        "Not made: goroutines cannot be read from outside yet. Threads are those that run them."
    }

    fn count(&self, target: &Target) -> Option<u64> {
        is_go(target).ok()?.then_some(0)
    }

    fn answer(self: Arc<Self>, asked: Asked) -> Answering {
        Box::pin(async move {
            let target = asked.target.clone();
            match asked.app.look(move || is_go(&target)).await? {
                true => Err(Problem::not_made(format!(
                    "the goroutines of {} cannot be read from outside yet; try: threads?debug=1, the threads that run them, or profile, where they spend CPU time",
                    words(&asked.target)
                ))),
                false => Err(Problem::unknown_profile()),
            }
        })
    }
}

/// Whether a target is one program, and made by Go.
fn is_go(target: &Target) -> Result<bool, Problem> {
    match target {
        Target::Host => Ok(false),
        target => Ok(main_process(target)?.is_some_and(has_go_code)),
    }
}

fn has_go_code(pid: Pid) -> bool {
    let mut objects = Objects::default();
    let mappings = mappings_of(pid, &mut objects).unwrap_or_default();
    let mut mapped = mappings.iter().filter_map(|mapping| mapping.object);
    mapped.any(|object| objects.get(object).is_go)
}

/// Where execution traces would be.
pub(super) struct Trace;

impl Kind for Trace {
    fn name(&self) -> &'static str {
        "trace"
    }

    fn description(&self) -> &'static str {
        "Not made: Go's execution trace. profile?format=firefox shows what each thread did over time."
    }

    fn answer(self: Arc<Self>, asked: Asked) -> Answering {
        let words = format!(
            "no execution trace of {}: only the Go runtime itself can write one; try: profile?seconds=5&format=firefox, what each thread did over time, for profiler.firefox.com, or format=speedscope",
            words(&asked.target)
        );
        Box::pin(async { Err(Problem::not_made(words)) })
    }
}
