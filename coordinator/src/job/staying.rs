//! `--stay`: the job continues to answer after its end. Late workers learn that it is done, users
//! can read its result, and a service manager that restarts exited programs has no reason to.

use shared::{job_line::Screen, shutdown::Shutdown};

use super::{CoordinatorError, End, Job};
use crate::ledger::Entry;

impl Job {
    /// Records that the job is finished, and answers until a shutdown or an error.
    pub(super) async fn stay(
        &mut self,
        screen: &Screen,
        shutdown: &Shutdown,
    ) -> Result<End, CoordinatorError> {
        // Written now, because the process may be killed while it stays.
        self.writer
            .write(Entry {
                finished: true,
                ..Entry::default()
            })
            .await;
        screen.write_line("the job is done; this stays to tell, until it is told to stop");
        let mut status = self.service.dispatcher.watch();
        loop {
            tokio::select! {
                () = shutdown.drain.cancelled() => return Ok(End::Stayed),
                Some(Ok(ended)) = self.writers.join_next() => ended?,
                Some(Ok(ended)) = self.servers.join_next() => ended?,
                changed = status.changed() => changed.map_err(|_| CoordinatorError::DispatcherDied)?,
            }
        }
    }
}
