//! The CPU profile: samples from now on, or those of the recent past.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::Response,
};

use super::{
    answer::{self, Kept},
    asked::{Asked, Want, words},
    audit::Cost,
    kinds::{Answering, Kind},
    policy::{Refusal, Who},
    problem::Problem,
};
use crate::{
    bug,
    captures::{Captured, Program, Recent, Target, Wanted},
    export::{self, Format, Recorded},
    record::{End, Times},
};

/// How long names may take, beside half of the time that was sampled for. `go tool pprof` waits for an
/// answer for one and a half times as long as it samples, and 5 s: the last one is for writing.
const LEAST_PATIENCE: Duration = Duration::from_secs(4);

/// CPU time by samples.
pub(super) struct Cpu;

impl Kind for Cpu {
    fn name(&self) -> &'static str {
        "profile"
    }

    fn description(&self) -> &'static str {
        "CPU profile. Give the duration in the seconds parameter (30 by default); hz, labels, format and last are there too."
    }

    fn answer(self: Arc<Self>, asked: Asked) -> Answering {
        Box::pin(capture(asked))
    }
}

/// What is captured.
enum What {
    Next(Wanted),
    Past(Recent),
}

impl What {
    fn read(asked: &Asked, format: Format) -> Result<Self, Problem> {
        let (query, limits) = (&asked.query, asked.app.policy.limits());
        let (target, labels) = (asked.target.clone(), query.labels()?);
        if let Some(last) = query.last()? {
            if query.get("hz").is_some() {
                return Err(Problem::bad(
                    "hz and last params are incompatible: what is past was sampled at the recorder's frequency",
                ));
            }
            return Ok(Self::Past(Recent {
                target,
                last,
                patience: LEAST_PATIENCE,
                labels,
            }));
        }
        let duration = query.seconds(limits)?;
        Ok(Self::Next(Wanted {
            target,
            frequency_hz: query.hz(limits)?,
            duration,
            patience: duration / 2 + LEAST_PATIENCE,
            labels,
            program: match asked.who {
                Who::User(uid) if uid != 0 => Program::First,
                _ => Program::Any,
            },
            times: match format.needs_times() {
                true => Times::Kept,
                false => Times::LeftOut,
            },
        }))
    }

    /// What was asked for, for those who find the file later.
    fn comment(&self) -> String {
        let (target, how) = match self {
            Self::Next(wanted) => {
                let (seconds, hz) = (wanted.duration.as_secs(), wanted.frequency_hz);
                (&wanted.target, format!("{seconds} s at {hz} Hz"))
            }
            Self::Past(recent) => {
                let how = format!("the last {} s", recent.last.as_secs());
                (&recent.target, how)
            }
        };
        format!("#request: {}, {how}", words(target))
    }
}

async fn capture(asked: Asked) -> Result<Response<Body>, Problem> {
    let format = asked.query.format()?;
    let what = What::read(&asked, format)?;
    if let What::Past(_) = what {
        // Who a sample of the past was of is told by its labels alone, and pids are given out again.
        let refused = |refusal: Refusal| Problem::forbidden(&refusal.0);
        let may = asked.app.policy.may(&asked.who, &Target::Host, "profile");
        may.map_err(refused)?;
    }
    let kept = Kept::profile(format, "profile");
    // Who asks for a pid that is nobody's is told at once. In the past it may have been somebody's.
    let is_of_pid = matches!((&what, &asked.target), (What::Next(_), Target::Process(_)));
    if asked.want == Want::Head || is_of_pid {
        asked.check_target().await?;
    }
    if asked.want == Want::Head {
        return Ok(kept.head());
    }
    let _running = asked.app.begin()?;
    let request = what.comment();
    let captured = match what {
        What::Next(wanted) => asked.app.captures.capture(wanted).await,
        What::Past(recent) => asked.app.captures.recent(recent).await,
    };
    let captured = captured.map_err(|error| Problem::of_capture(&error))?;
    let cost = Cost {
        cpu: captured.cost.cpu + captured.cost.afterwards,
    };
    let most_bytes = asked.app.policy.limits().answer_bytes;
    let written = move || written(captured, request, (format, most_bytes));
    let bytes = asked.app.work(written).await?;
    let mut answer = kept.with(bytes);
    answer.extensions_mut().insert(cost);
    Ok(answer)
}

/// The profile with its comments, in its format.
fn written(
    captured: Captured,
    request: String,
    (format, most_bytes): (Format, usize),
) -> Result<Bytes, Problem> {
    let comments = comments(&captured, request);
    let mut profile = captured.profile;
    profile.comments.extend(comments);
    bug::provoke(bug::Place::Export);
    answer::written(most_bytes, |out| export::write(format, &profile, out))
}

fn comments(captured: &Captured, request: String) -> Vec<String> {
    let mut comments = export::comments_of(&Recorded {
        label: &captured.label,
        frequencies_hz: captured.frequencies_hz,
        lowered: &[],
        account: &captured.account,
        cost: &captured.cost,
        gaps: &captured.gaps,
    });
    comments.push(request);
    match captured.end {
        End::TargetEnded => comments.push(TARGET_ENDED.to_owned()),
        End::Bug => comments.push("#a bug ended the sampling early".to_owned()),
        End::TimeIsOver | End::Stopped => {}
    }
    let notes = captured.notes.iter();
    comments.extend(notes.map(|note| format!("#note: {note}")));
    comments
}

/// Why a profile covers less than was asked for.
pub(super) const TARGET_ENDED: &str = "#the target ended before the time was over";
