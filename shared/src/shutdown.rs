//! Stopping in phases: the first signal asks for an orderly end, a second one ends the process within a second.

use std::{
    io,
    sync::{Arc, OnceLock, mpsc},
    thread,
    time::Duration,
};

use nix::sys::signal::SigSet;
use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{Signal, SignalKind, signal},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use crate::exit_code::Exit;

/// So long after the second signal the process ends, if it has not ended by itself. Half of the second that is promised is
/// left for a busy machine.
const GRACE: Duration = Duration::from_millis(500);

/// A handle on both phases; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Take nothing new, checkpoint what runs, hand back, leave.
    pub drain: CancellationToken,
    /// Stop now; what is on disk is enough to go on from.
    pub abort: CancellationToken,
}

/// The exit code that the first signal asked for, once it has come.
pub type FirstSignal = Arc<OnceLock<Exit>>;

impl Shutdown {
    /// Listens for SIGINT and SIGTERM from now on, for the rest of the process's life. The first one starts the drain, the
    /// second one the abort, and half a second later the process exits with the code of the first signal.
    ///
    /// Only a program calls this, a library must not. The signals have a thread and a runtime to themselves: threads of the
    /// program that are blocked in a system call (a disk that hangs) do not delay them, and the exit does not wait for such
    /// threads either. The only other exit is that of a program which cannot start, in `shared::program`.
    ///
    /// # Errors
    /// When the process may not install signal handlers, or has no thread left.
    pub fn on_signals(&self) -> io::Result<FirstSignal> {
        let first = FirstSignal::default();
        let shutdown = self.clone();
        let noted = Arc::clone(&first);
        let (begun, has_begun) = mpsc::channel();
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            // A runtime may not be dropped by a task of another one, so this thread makes it.
            let listening = Signals::listen().and_then(|listening| {
                signals().thread_unblock()?;
                Ok(listening)
            });
            let (runtime, mut signals) = match listening {
                Ok(listening) => listening,
                Err(error) => return begun.send(Err(error)).unwrap_or_default(),
            };
            begun.send(Ok(())).unwrap_or_default();
            runtime.block_on(async {
                let exit = signals.next().await;
                noted.get_or_init(|| exit);
                shutdown.drain.cancel();
                signals.next().await;
                shutdown.abort.cancel();
                sleep(GRACE).await;
                end(exit);
            });
        })?;
        has_begun.recv().map_err(io::Error::other)??;
        Ok(first)
    }
}

/// Leaves SIGINT and SIGTERM to the thread of [`Shutdown::on_signals`], for a main thread that has
/// no others yet. The kernel gives a signal to any thread that does not block it, and one that
/// waits for a disk that hangs does not take it.
///
/// # Errors
/// As the system says.
pub(crate) fn leave_signals_to_their_thread() -> io::Result<()> {
    Ok(signals().thread_block()?)
}

fn signals() -> SigSet {
    [nix::sys::signal::Signal::SIGINT, nix::sys::signal::Signal::SIGTERM].into_iter().collect()
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Installs the handlers, on a runtime of their own.
    fn listen() -> io::Result<(Runtime, Self)> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let signals = {
            let _inside = runtime.enter();
            Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? }
        };
        Ok((runtime, signals))
    }

    async fn next(&mut self) -> Exit {
        tokio::select! {
            _ = self.interrupt.recv() => Exit::Interrupted,
            _ = self.terminate.recv() => Exit::Terminated,
        }
    }
}

#[expect(clippy::exit, reason = "whatever still runs is blocked, and must not keep the process alive")]
fn end(exit: Exit) {
    std::process::exit(exit.code().into());
}
