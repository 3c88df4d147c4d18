//! An answer on its way that costs itself alone if it panics.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use crate::bug;

/// A future whose panic is a bug of ours that is told where bugs are, and gives nothing.
pub(super) struct Contained<T>(Pin<Box<dyn Future<Output = T> + Send>>);

impl<T> Contained<T> {
    pub(super) fn new(future: impl Future<Output = T> + Send + 'static) -> Self {
        Self(Box::pin(future))
    }
}

impl<T> Future for Contained<T> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        match bug::contain(|| self.0.as_mut().poll(context)) {
            Some(polled) => polled.map(Some),
            None => Poll::Ready(None),
        }
    }
}
