//! Stopping in phases: the first signal asks for an orderly end, a second one cuts it short.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::exit_code::Exit;

/// A handle on both phases; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Take nothing new, checkpoint what runs, hand back, leave.
    pub drain: CancellationToken,
    /// Stop now; what is on disk is enough to go on from.
    pub abort: CancellationToken,
}

impl Shutdown {
    /// Waits for SIGINT or SIGTERM, starts the drain and says which exit it makes; from then on a second signal aborts.
    ///
    /// Meant to run beside the work for the whole life of the program, in a task that is dropped at its end.
    ///
    /// # Errors
    /// When the process may not install signal handlers.
    pub async fn on_signals(self, first: tokio::sync::oneshot::Sender<Exit>) -> std::io::Result<()> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let exit = tokio::select! {
            _ = interrupt.recv() => Exit::Interrupted,
            _ = terminate.recv() => Exit::Terminated,
        };
        if first.send(exit).is_err() {
            return Ok(());
        }
        self.drain.cancel();
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        self.abort.cancel();
        Ok(())
    }
}
