//! A stream whose other end must take what is sent.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

use super::seats::Seat;

/// Bytes that a client takes within the time that it has, at least. A profile of a MiB may then take
/// minutes, and not hours.
const LEAST_BYTES: usize = 64 << 10;

/// A stream whose writes fail when the other end takes too little for too long.
#[derive(Debug)]
pub(super) struct Paced<S> {
    stream: S,
    /// Told when all that was written has left.
    seat: Arc<Seat>,
    limit: Duration,
    /// Runs from when the other end first took nothing until it has taken all, or enough.
    clock: Option<Pin<Box<Sleep>>>,
    taken: usize,
}

impl<S> Paced<S> {
    pub(super) fn new(stream: S, seat: &Arc<Seat>, limit: Duration) -> Self {
        Self {
            stream,
            seat: Arc::clone(seat),
            limit,
            clock: None,
            taken: 0,
        }
    }

    /// What a write came to, unless the time is over.
    fn judge(
        &mut self,
        written: Poll<io::Result<usize>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Ok(bytes)) => {
                self.taken += bytes;
                if self.taken >= LEAST_BYTES {
                    self.rest();
                }
                written
            }
            Poll::Ready(Err(_)) => written,
            Poll::Pending => {
                let limit = self.limit;
                let clock = self.clock.get_or_insert_with(|| Box::pin(sleep(limit)));
                ready!(clock.as_mut().poll(cx));
                // The end is once and for all, whoever asks again.
                clock.as_mut().reset(Instant::now());
                Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the client does not take its answer",
                )))
            }
        }
    }

    fn rest(&mut self) {
        self.clock = None;
        self.taken = 0;
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let paced = self.get_mut();
        let written = Pin::new(&mut paced.stream).poll_write(cx, bytes);
        paced.judge(written, cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let paced = self.get_mut();
        let written = Pin::new(&mut paced.stream).poll_write_vectored(cx, parts);
        paced.judge(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let paced = self.get_mut();
        let flushed = ready!(Pin::new(&mut paced.stream).poll_flush(cx));
        // Whoever flushes has written all there was.
        paced.rest();
        paced.seat.flushed();
        Poll::Ready(flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::{super::seats::Seats, *};

    const LIMIT: Duration = Duration::from_millis(100);

    async fn seat() -> Arc<Seat> {
        Arc::new(Seats::new(1)).take().await
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_is_cut_off() {
        let (ours, _theirs) = duplex(1024);
        let mut paced = Paced::new(ours, &seat().await, LIMIT);
        let error = paced.write_all(&[0; 4096]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        // It stays so.
        assert!(paced.write_all(&[0; 4096]).await.is_err());
    }

    #[tokio::test]
    async fn a_client_that_takes_little_by_little_is_cut_off() {
        let (ours, mut theirs) = duplex(1024);
        tokio::spawn(async move {
            while theirs.read_u8().await.is_ok() {
                sleep(LIMIT / 20).await;
            }
        });
        let mut paced = Paced::new(ours, &seat().await, LIMIT);
        assert!(paced.write_all(&vec![0; 1 << 20]).await.is_err());
    }

    #[tokio::test]
    async fn a_client_that_pauses_and_then_takes_all_is_not() {
        let (ours, mut theirs) = duplex(1024);
        let reader = tokio::spawn(async move {
            sleep(LIMIT / 4).await;
            let mut all = Vec::new();
            theirs.read_to_end(&mut all).await.unwrap();
            all.len()
        });
        let mut paced = Paced::new(ours, &seat().await, LIMIT * 10);
        paced.write_all(&vec![0; 1 << 20]).await.unwrap();
        paced.flush().await.unwrap();
        // Time in which there is nothing to take is not counted.
        sleep(LIMIT * 2).await;
        paced.write_all(&[0; 10]).await.unwrap();
        drop(paced);
        assert_eq!(reader.await.unwrap(), (1 << 20) + 10);
    }
}
