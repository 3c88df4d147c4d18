//! The sampler's thread, as whoever answers requests wants it.

use tokio::{sync::oneshot, task::spawn_blocking};

use crate::{
    captures::{CaptureError, Captured, Captures, Pending, Recent, State, Wanted},
    record::live::Live,
};

impl Captures for Live {
    fn capture(&self, wanted: Wanted) -> Pending<Captured> {
        let asker = self.asker();
        Box::pin(async move {
            let (sender, answer) = oneshot::channel();
            // Nobody may wait any more.
            let reply = Box::new(move |captured| drop(sender.send(captured)));
            // Finding out what the target is may read all of `/proc`.
            let begun = spawn_blocking(move || asker.begin(wanted, reply)).await;
            let waiting = begun.map_err(|_| CaptureError::Ended)??;
            let answer = answer.await;
            drop(waiting);
            answer.unwrap_or(Err(CaptureError::Ended))
        })
    }

    fn recent(&self, recent: Recent) -> Pending<Captured> {
        let asker = self.asker();
        Box::pin(async move {
            let (sender, answer) = oneshot::channel();
            let reply = Box::new(move |captured| drop(sender.send(captured)));
            let waiting = asker.recent(recent, reply)?;
            let answer = answer.await;
            drop(waiting);
            answer.unwrap_or(Err(CaptureError::Ended))
        })
    }

    fn state(&self) -> State {
        Self::state(self)
    }
}
