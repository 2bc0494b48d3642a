//! `--stay`: after its end the job is still there to be asked. Workers that come late hear that it is done, people see how it
//! went, and a manager that starts again whatever ends has no reason to.

use shared::{job_line::Screen, shutdown::Shutdown};

use super::{End, Job};
use crate::job::CoordinatorError;
use crate::ledger::Entry;

impl Job {
    /// Keeps that the job is finished, and goes on answering until told to stop, or until something breaks.
    pub(super) async fn stay(&mut self, screen: &Screen, shutdown: &Shutdown) -> Result<End, CoordinatorError> {
        // Now, because whoever stays may be killed.
        self.writer.write(Entry { finished: true, ..Entry::default() }).await;
        screen.say("the job is done; this stays to tell, until it is told to stop");
        let mut status = self.handle.watch();
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
