//! Unpacking while the bytes arrive: framing says what they are, the unpacker writes them, on a thread of its own.

mod extension;
mod framing;
mod framing_error;
mod header;
mod unpack;

use bytes::Bytes;
use tokio::{sync::mpsc, task::JoinHandle};

pub(crate) use unpack::{Start, UnpackError, Unpacker};

use crate::off_thread::{off_thread, result_of};

/// Pieces that may wait for the disk. A piece is at most some 400 KiB (what the HTTP client reads at once).
const QUEUE: usize = 4;

/// An unpacker at work.
#[derive(Debug)]
pub(crate) struct Extraction {
    pieces: mpsc::Sender<Bytes>,
    thread: JoinHandle<Result<Unpacker, UnpackError>>,
}

/// The unpacker has stopped taking pieces; [`Extraction::finish`] says why.
#[derive(Debug)]
pub(crate) struct Stopped;

impl Extraction {
    /// Opens an unpacker on a thread of its own and feeds it there.
    pub(crate) fn start(open: impl FnOnce() -> Result<Unpacker, UnpackError> + Send + 'static) -> Self {
        let (pieces, mut queue) = mpsc::channel::<Bytes>(QUEUE);
        let thread = tokio::task::spawn_blocking(move || {
            let mut unpacker = open()?;
            while let Some(piece) = queue.blocking_recv() {
                if let Err(error) = unpacker.push(&piece) {
                    // What is done may serve the next attempt; that it cannot be kept changes nothing.
                    unpacker.checkpoint().ok();
                    return Err(error);
                }
            }
            Ok(unpacker)
        });
        Self { pieces, thread }
    }

    /// Hands over the next bytes of the tar; waits while the disk is behind.
    pub(crate) async fn push(&self, piece: Bytes) -> Result<(), Stopped> {
        self.pieces.send(piece).await.map_err(|_| Stopped)
    }

    /// Ends the thread with a checkpoint of what is done; gives how far into the tar that is.
    pub(crate) async fn stop(self) -> Result<u64, UnpackError> {
        self.end(|mut unpacker| unpacker.checkpoint()).await
    }

    /// Ends the thread and proves that the tar was complete; gives the number of its files.
    pub(crate) async fn finish(self) -> Result<u64, UnpackError> {
        self.end(Unpacker::finish).await
    }

    async fn end<T: Send + 'static>(
        self,
        last: impl FnOnce(Unpacker) -> Result<T, UnpackError> + Send + 'static,
    ) -> Result<T, UnpackError> {
        drop(self.pieces);
        let unpacker = result_of(self.thread).await?;
        off_thread(move || last(unpacker)).await
    }
}
