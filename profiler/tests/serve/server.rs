//! A server on a port of its own, for one test.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::Extension;
use ebpfprof::server::{App, policy::Who, router};
use tokio::{net::TcpListener, runtime::Runtime};

use crate::fake::{Fake, Rules};

/// A server that runs until it is dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) captures: Arc<Fake>,
    runtime: Option<Runtime>,
}

impl Server {
    /// With captures that are there at once, and everything allowed.
    pub(crate) fn start() -> Self {
        Self::with(Fake::default(), Rules::default())
    }

    pub(crate) fn with(captures: Fake, rules: Rules) -> Self {
        let captures = Arc::new(captures);
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let app = Arc::new(App::new(Arc::clone(&captures) as _, Arc::new(rules)));
        let routes = router(app).layer(Extension(Who::User(1000)));
        runtime.spawn(async { axum::serve(listener, routes).await });
        Self {
            address,
            captures,
            runtime: Some(runtime),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Some requests are never answered.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Waits for something that is about to happen.
#[track_caller]
pub(crate) fn wait_until(mut is_so: impl FnMut() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(
            since.elapsed() < Duration::from_secs(20),
            "it does not happen"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}
