//! Shutdown in phases: the first signal requests an orderly end, a second one ends the process
//! within a second.

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

/// Time from the second signal to the exit of the process, if it has not ended by itself. It is half
/// of the promised second; the other half is a reserve for a busy machine.
const GRACE: Duration = Duration::from_millis(500);

/// A handle on both phases; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Stop leasing, checkpoint running transfers, hand back leases, leave.
    pub drain: CancellationToken,
    /// Stop now; the files on disk suffice to resume.
    pub abort: CancellationToken,
}

/// The exit code for the first signal, once it was received.
pub type FirstSignal = Arc<OnceLock<Exit>>;

impl Shutdown {
    /// Handles SIGINT and SIGTERM from now on, for the rest of the process's life. The first signal
    /// starts the drain. The second one starts the abort, and half a second later the process exits
    /// with the code of the first signal.
    ///
    /// Only a program may call this, not a library. The signals have a thread and a runtime of
    /// their own: threads of the program that are blocked in a system call (e.g. by a hung disk) do
    /// not delay them, and the exit does not wait for such threads. The only other exit is that of
    /// a program that cannot start, in `shared::program`.
    ///
    /// # Errors
    /// If the process may not install signal handlers, or has no thread left.
    pub fn on_signals(&self) -> io::Result<FirstSignal> {
        let first = FirstSignal::default();
        let shutdown = self.clone();
        let noted = Arc::clone(&first);
        let (begun, has_begun) = mpsc::channel();
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                // A task of another runtime must not drop a runtime, so this thread creates it.
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
                    exit_process(exit);
                });
            })?;
        has_begun.recv().map_err(io::Error::other)??;
        Ok(first)
    }
}

/// Blocks SIGINT and SIGTERM in the main thread, before it has started other threads, so that only
/// the thread of [`Shutdown::on_signals`] receives them. The kernel delivers a signal to any thread
/// that does not block it, and a thread that waits for a hung disk would not handle it.
///
/// # Errors
/// The error of the operating system.
pub(crate) fn leave_signals_to_their_thread() -> io::Result<()> {
    Ok(signals().thread_block()?)
}

fn signals() -> SigSet {
    [
        nix::sys::signal::Signal::SIGINT,
        nix::sys::signal::Signal::SIGTERM,
    ]
    .into_iter()
    .collect()
}

/// The streams of both signals.
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
            Self {
                interrupt: signal(SignalKind::interrupt())?,
                terminate: signal(SignalKind::terminate())?,
            }
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

#[expect(
    clippy::exit,
    reason = "whatever still runs is blocked, and must not keep the process alive"
)]
fn exit_process(exit: Exit) {
    std::process::exit(exit.code().into());
}
