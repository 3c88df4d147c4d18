//! Seats for connections: so many, and no more.
//!
//! When all are taken, the connection that has been waiting for a request for longest gives its seat
//! up: whoever opens thousands and sends nothing keeps nobody out. One that is being answered never
//! does.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

/// How soon those that wait by now are looked at again.
const AGAIN: Duration = Duration::from_millis(50);

/// All of them.
#[derive(Debug)]
pub(super) struct Seats {
    free: Arc<Semaphore>,
    count: u32,
    waiting: Mutex<Waiting>,
}

/// Connections without a request, in the order in which they began to wait.
#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    seats: BTreeMap<u64, Arc<Notify>>,
}

/// One of them, taken.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Arc<Seats>,
    /// Tells the connection to go.
    claimed: Arc<Notify>,
    /// Its place among those that wait.
    place: Mutex<Option<u64>>,
    /// Whether all of an answer was handed over, and some of it may still be on its way.
    answered: AtomicBool,
    _permit: OwnedSemaphorePermit,
}

impl Seats {
    pub(super) fn new(count: usize) -> Self {
        let count = u32::try_from(count.min(Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX >> 4);
        Self {
            free: Arc::new(Semaphore::new(count as usize)),
            count,
            waiting: Mutex::default(),
        }
    }

    /// Takes one, of a connection that waits if need be. It waits for a request at first.
    pub(super) async fn take(self: &Arc<Self>) -> Arc<Seat> {
        let permit = loop {
            if let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() {
                break permit;
            }
            self.claim_oldest();
            // Nobody closes it. In time, those that wait may be others.
            let freed = timeout(AGAIN, Arc::clone(&self.free).acquire_owned()).await;
            if let Ok(Ok(permit)) = freed {
                break permit;
            }
        };
        let seat = Arc::new(Seat {
            seats: Arc::clone(self),
            claimed: Arc::new(Notify::new()),
            place: Mutex::new(None),
            answered: AtomicBool::new(false),
            _permit: permit,
        });
        seat.wait();
        seat
    }

    /// Waits until nobody has one.
    pub(super) async fn are_free(&self) {
        // Nobody closes it.
        let _ = self.free.acquire_many(self.count).await;
    }

    fn claim_oldest(&self) {
        if let Some((_, claimed)) = lock(&self.waiting).seats.pop_first() {
            claimed.notify_one();
        }
    }
}

impl Seat {
    /// All of an answer was handed over.
    pub(super) fn answered(&self) {
        self.answered.store(true, Ordering::Release);
    }

    /// All that was handed over has left. After an answer it waits for a request.
    pub(super) fn flushed(&self) {
        if self.answered.swap(false, Ordering::AcqRel) {
            self.wait();
        }
    }

    /// It waits for a request from now on.
    fn wait(&self) {
        let mut place = lock(&self.place);
        let mut waiting = lock(&self.seats.waiting);
        if place.is_none() {
            waiting.next += 1;
            let next = waiting.next;
            waiting.seats.insert(next, Arc::clone(&self.claimed));
            *place = Some(next);
        }
    }

    /// It has a request.
    pub(super) fn work(&self) {
        self.answered.store(false, Ordering::Release);
        if let Some(place) = lock(&self.place).take() {
            lock(&self.seats.waiting).seats.remove(&place);
        }
    }

    /// Whether it waits for a request.
    pub(super) fn is_waiting(&self) -> bool {
        lock(&self.place).is_some()
    }

    /// Waits until somebody else needs it.
    pub(super) async fn is_claimed(&self) {
        self.claimed.notified().await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.work();
    }
}

/// A panic leaves places that are right.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_longest_waiting_connection_gives_its_seat_up() {
        let seats = Arc::new(Seats::new(2));
        let busy = seats.take().await;
        busy.work();
        let idle = seats.take().await;
        let leaves = tokio::spawn(async move {
            idle.is_claimed().await;
            drop(idle);
        });
        let new = seats.take().await;
        leaves.await.unwrap();
        assert!(new.is_waiting() && !busy.is_waiting());
        // Those that work keep theirs.
        new.work();
        let none = timeout(2 * AGAIN, seats.take()).await;
        assert!(none.is_err());
        drop((busy, new));
        timeout(AGAIN, seats.are_free()).await.unwrap();
    }

    #[tokio::test]
    async fn whoever_waits_anew_waits_behind_the_others() {
        let seats = Arc::new(Seats::new(2));
        let (first, second) = (seats.take().await, seats.take().await);
        first.work();
        first.flushed();
        assert!(!first.is_waiting());
        first.answered();
        first.flushed();
        seats.claim_oldest();
        timeout(AGAIN, second.is_claimed()).await.unwrap();
        assert!(timeout(AGAIN, first.is_claimed()).await.is_err());
    }
}
