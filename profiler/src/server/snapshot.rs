//! Profiles of one moment, and what changes between two: the same for every kind that has them.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::{Response, StatusCode},
};

use super::{
    answer::{self, Kept},
    asked::{Asked, Want},
    capture::TARGET_ENDED,
    kinds::{Answering, Kind},
    problem::Problem,
};
use crate::{
    captures::Target,
    export::{self, Format, pprof},
    profile::Profile,
};

/// A kind of profile that tells how things are at one moment.
pub(super) trait Snapshot: Send + Sync + 'static {
    /// The last part of its address.
    fn name(&self) -> &'static str;

    /// What it is, in a sentence for the index.
    fn description(&self) -> &'static str;

    /// How many there are at the moment; `None` if such a target has none.
    fn count(&self, target: &Target) -> Option<u64>;

    /// Whether the difference of two means something.
    fn has_difference(&self) -> bool {
        true
    }

    /// Takes one. It may wait for the system.
    fn take(&self, target: &Target) -> Result<Profile, Problem>;

    /// What is so, as text: the more, the higher `debug` is.
    fn text(&self, target: &Target, debug: i64) -> Result<String, Problem>;
}

/// The kind that a [`Snapshot`] is.
pub(super) struct Snapshots<S>(Arc<S>);

impl<S: Snapshot> Snapshots<S> {
    pub(super) fn of(snapshot: S) -> Self {
        Self(Arc::new(snapshot))
    }
}

impl<S: Snapshot> Kind for Snapshots<S> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn description(&self) -> &'static str {
        self.0.description()
    }

    fn count(&self, target: &Target) -> Option<u64> {
        self.0.count(target)
    }

    fn answer(self: Arc<Self>, asked: Asked) -> Answering {
        Box::pin(snapshot(Arc::clone(&self.0), asked))
    }
}

/// Source of the order of checks: `handler` in `net/http/pprof`.
async fn snapshot<S: Snapshot>(kind: Arc<S>, asked: Asked) -> Result<Response<Body>, Problem> {
    if let Some(seconds) = asked.query.delta(asked.app.policy.limits())? {
        return difference(kind, asked, seconds).await;
    }
    let (debug, format) = (asked.query.debug(), asked.query.format()?);
    let kept = match debug {
        0 => Kept::profile(format, kind.name()),
        _ => Kept::text(),
    };
    if asked.want == Want::Head {
        asked.check_target().await?;
        return Ok(kept.head());
    }
    let most_bytes = asked.app.policy.limits().answer_bytes;
    let target = asked.target.clone();
    let made = move || match debug {
        0 => {
            let profile = kind.take(&target)?;
            answer::written(most_bytes, |out| export::write(format, &profile, out))
        }
        debug => {
            let text = kind.text(&target, debug)?;
            answer::written(most_bytes, |out| out.write_all(text.as_bytes()))
        }
    };
    Ok(kept.with(asked.app.work(made).await?))
}

/// What became more and what became less in some seconds.
async fn difference<S: Snapshot>(
    kind: Arc<S>,
    asked: Asked,
    seconds: Duration,
) -> Result<Response<Body>, Problem> {
    if !kind.has_difference() {
        return Err(Problem::bad(
            "\"seconds\" parameter is not supported for this profile type",
        ));
    }
    if asked.query.debug() != 0 {
        return Err(Problem::bad("seconds and debug params are incompatible"));
    }
    if asked.query.format()? != Format::Pprof {
        return Err(Problem::bad(
            "seconds and format params are incompatible: no other format shows what became less; try: format=pprof",
        ));
    }
    let kept = Kept::profile(Format::Pprof, &format!("{}-delta", kind.name()));
    if asked.want == Want::Head {
        asked.check_target().await?;
        return Ok(kept.head());
    }
    let _running = asked.app.begin()?;
    let (first, target) = (Arc::clone(&kind), asked.target.clone());
    let before = asked.app.work(move || first.take(&target)).await?;
    tokio::time::sleep(seconds).await;
    let most_bytes = asked.app.policy.limits().answer_bytes;
    let target = asked.target.clone();
    let made = move || -> Result<Bytes, Problem> {
        let after = match kind.take(&target) {
            // It was there: all of it is less now.
            Err(problem) if problem.status == StatusCode::NOT_FOUND => nothing_like(&before),
            taken => taken?,
        };
        let write = |out: &mut dyn std::io::Write| pprof::write_difference(&before, &after, out);
        answer::written(most_bytes, write)
    };
    Ok(kept.with(asked.app.work(made).await?))
}

fn nothing_like(before: &Profile) -> Profile {
    let mut nothing = Profile::counting(before.event_type.clone());
    nothing.period_type = before.period_type.clone();
    nothing.period = before.period;
    nothing.values = before.values;
    nothing.time_ns = now_ns();
    nothing.comments = vec![TARGET_ENDED.to_owned()];
    nothing
}

/// Nanoseconds since the epoch.
pub(super) fn now_ns() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let since = since.unwrap_or_default().as_nanos();
    u64::try_from(since).unwrap_or(u64::MAX)
}
