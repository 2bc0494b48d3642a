//! When received bytes have to be in a checkpoint, so that a kill costs the bytes of a fraction of a second, however slowly they
//! come.

use std::{future::pending, time::Duration};

use tokio::time::{Instant, sleep_until};

/// From the first byte that no checkpoint has to the next checkpoint. A second is what is promised. A quarter of it bounds what
/// five kills of a worker with eight connections at 700 KB/s cost on average to 3.5 MB, and is four short lines of a journal a
/// second.
const INTERVAL: Duration = Duration::from_millis(250);

/// Runs from the first byte that no checkpoint has.
#[derive(Debug, Default)]
pub(crate) struct CheckpointTimer {
    /// `None` while a checkpoint has all that came.
    due: Option<Instant>,
}

impl CheckpointTimer {
    /// Bytes have come. Says whether a checkpoint is due.
    pub(crate) fn received(&mut self) -> bool {
        let now = Instant::now();
        *self.due.get_or_insert(now + INTERVAL) <= now
    }

    /// A checkpoint has all that came.
    pub(crate) fn restart(&mut self) {
        self.due = None;
    }

    /// Waits until a checkpoint is due although nothing more comes. Cancel safe.
    pub(crate) fn due(&self) -> impl Future<Output = ()> + use<> {
        let due = self.due;
        async move {
            match due {
                Some(due) => sleep_until(due).await,
                None => pending().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_runs_from_the_first_byte_that_no_checkpoint_has() {
        let mut timer = CheckpointTimer::default();
        assert!(timeout(Duration::from_hours(1), timer.due()).await.is_err(), "nothing has come");
        assert!(!timer.received());
        advance(INTERVAL / 2).await;
        assert!(!timer.received());
        advance(INTERVAL / 2).await;
        assert!(timer.received());
        timer.restart();
        let came = Instant::now();
        assert!(!timer.received());
        timer.due().await;
        assert!(came.elapsed() >= INTERVAL && came.elapsed() < INTERVAL + Duration::from_millis(2));
    }
}
