//! The kinds of profiles, in one place: what is registered here has an address, and is listed.

use std::{pin::Pin, sync::Arc};

use axum::{body::Body, http::Response};

use super::{
    asked::Asked,
    capture::Cpu,
    cmdline::Cmdline,
    goroutine::{Goroutine, Trace},
    problem::Problem,
    snapshot::Snapshots,
    symbol::Symbol,
    threads::Threads,
};
use crate::captures::Target;

/// An answer on its way.
pub(super) type Answering = Pin<Box<dyn Future<Output = Result<Response<Body>, Problem>> + Send>>;

/// One kind of profile, or of what readers of profiles ask for beside.
pub(super) trait Kind: Send + Sync + 'static {
    /// The last part of its address.
    fn name(&self) -> &'static str;

    /// What it is, in a sentence for the index.
    fn description(&self) -> &'static str;

    /// How many there are of a target at the moment, 0 where nothing is counted. `None` if such a
    /// target has none. It may read from `/proc`.
    fn count(&self, _target: &Target) -> Option<u64> {
        Some(0)
    }

    /// Whether it reads a request's body.
    fn takes_posts(&self) -> bool {
        false
    }

    /// Answers a request that is allowed.
    fn answer(self: Arc<Self>, asked: Asked) -> Answering;
}

/// The kinds there are.
pub(super) struct Kinds(Vec<Arc<dyn Kind>>);

impl Kinds {
    /// Those of this version.
    pub(super) fn all() -> Self {
        Self::of(vec![
            Arc::new(Cpu),
            Arc::new(Snapshots::of(Threads)),
            Arc::new(Cmdline),
            Arc::new(Symbol),
            Arc::new(Goroutine),
            Arc::new(Trace),
        ])
    }

    /// These, in the order of their names.
    pub(super) fn of(mut kinds: Vec<Arc<dyn Kind>>) -> Self {
        kinds.sort_by_key(|kind| kind.name());
        Self(kinds)
    }

    /// The kind with this name.
    pub(super) fn find(&self, name: &str) -> Option<Arc<dyn Kind>> {
        self.0.iter().find(|kind| kind.name() == name).cloned()
    }

    /// Every kind, by name.
    pub(super) fn every(&self) -> Vec<Arc<dyn Kind>> {
        self.0.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::{
        Extension,
        body::to_bytes,
        http::{Request, StatusCode},
    };
    use tower::ServiceExt;

    use super::*;
    use crate::{
        captures::{CaptureError, Captured, Captures, Pending, Recent, State, Wanted},
        profile::{Profile, SAMPLES_COUNT},
        server::{
            App,
            policy::{Limits, Policy, Refusal, Who},
            router,
            snapshot::Snapshot,
        },
    };

    /// Nobody captures here.
    struct Nobody;

    impl Captures for Nobody {
        fn capture(&self, _: Wanted) -> Pending<Captured> {
            Box::pin(async { Err(CaptureError::Ended) })
        }

        fn recent(&self, _: Recent) -> Pending<Captured> {
            Box::pin(async { Err(CaptureError::Ended) })
        }

        fn state(&self) -> State {
            State::default()
        }
    }

    impl Policy for Nobody {
        fn may(&self, _: &Who, _: &Target, _: &str) -> Result<(), Refusal> {
            Ok(())
        }

        fn limits(&self) -> Limits {
            Limits {
                duration: Duration::from_secs(5),
                ..Limits::default()
            }
        }
    }

    /// A kind that no other file knows of.
    struct Apples;

    impl Snapshot for Apples {
        fn name(&self) -> &'static str {
            "apples"
        }

        fn description(&self) -> &'static str {
            "Apples & pears."
        }

        fn count(&self, _: &Target) -> Option<u64> {
            Some(1234)
        }

        fn has_difference(&self) -> bool {
            false
        }

        fn take(&self, _: &Target) -> Result<Profile, Problem> {
            Ok(Profile::counting(SAMPLES_COUNT))
        }

        fn text(&self, _: &Target, debug: i64) -> Result<String, Problem> {
            Ok(format!("apples {debug}\n"))
        }
    }

    fn get(path: &str) -> (StatusCode, String) {
        let nobody = Arc::new(Nobody);
        let kinds = Kinds::of(vec![Arc::new(Cpu), Arc::new(Snapshots::of(Apples))]);
        let app = Arc::new(App::with_kinds(nobody.clone(), nobody, kinds));
        let routes = router(app).layer(Extension(Who::Anyone));
        let request = Request::get(path).body(Body::empty()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let answer = routes.oneshot(request).await.unwrap();
            let status = answer.status();
            let body = to_bytes(answer.into_body(), 1 << 20).await.unwrap();
            (status, String::from_utf8_lossy(&body).into_owned())
        })
    }

    #[test]
    fn what_is_registered_has_an_address_and_is_listed() {
        let (status, page) = get("/debug/pprof/");
        assert_eq!(status, StatusCode::OK);
        let row = "1234</td><td class=\"name\"><a href='apples?debug=1'>apples</a>";
        let at = page.find(row).unwrap();
        assert!(page.contains("Apples &amp; pears."));
        assert!(at < page.find("<a href='profile?debug=1'>").unwrap());
        assert_eq!(
            get("/debug/pprof/apples?debug=2"),
            (StatusCode::OK, "apples 2\n".to_owned())
        );
        assert_eq!(get("/debug/pprof/apples").0, StatusCode::OK);
    }

    #[test]
    fn a_kind_without_differences_says_so_before_anything_else_but_junk() {
        let bad = |words: &str| (StatusCode::BAD_REQUEST, format!("{words}\n"));
        let unsupported = "\"seconds\" parameter is not supported for this profile type";
        let junk = "invalid value for \"seconds\" - must be a positive integer";
        assert_eq!(get("/debug/pprof/apples?seconds=1"), bad(unsupported));
        assert_eq!(
            get("/debug/pprof/apples?seconds=1&debug=1"),
            bad(unsupported)
        );
        assert_eq!(get("/debug/pprof/apples?seconds=x"), bad(junk));
    }

    #[test]
    fn a_request_without_a_sender_is_a_bug_and_not_everybodys() {
        let nobody = Arc::new(Nobody);
        let routes = router(Arc::new(App::new(nobody.clone(), nobody)));
        let request = Request::get("/debug/pprof/").body(Body::empty()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let answer = runtime.block_on(routes.oneshot(request)).unwrap();
        assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }
}
