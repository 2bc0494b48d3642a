//! Shutdown in phases: the first signal requests an orderly end, a second one ends the process
//! within a second.

use std::{
    io,
    sync::{Arc, OnceLock},
    thread,
    time::Duration,
};

use nix::sys::signal::{SigSet, Signal};
use tokio_util::sync::CancellationToken;

use crate::exit_code::Exit;

/// Time from the second signal to the exit of the process, if it has not ended by itself. It is
/// half of the promised second; the other half is a reserve for a busy machine.
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
    /// Receives SIGINT and SIGTERM from now on, for the rest of the process's life. The first
    /// signal starts the drain. The second one starts the abort, and half a second later the
    /// process exits with the code of the first signal.
    ///
    /// Only a program may call this, not a library. The signals have a thread of their own: threads
    /// of the program that are blocked in a system call (e.g. by a hung disk) do not delay them,
    /// and the exit does not wait for such threads. The only other exit is that of a program that
    /// cannot start, in `shared::program`.
    ///
    /// # Errors
    /// If the process has no thread left.
    pub fn on_signals(&self) -> io::Result<FirstSignal> {
        let first = FirstSignal::default();
        let noted = Arc::clone(&first);
        let shutdown = self.clone();
        let receive = move || {
            let exit = next_signal();
            noted.get_or_init(|| exit);
            shutdown.drain.cancel();
            next_signal();
            shutdown.abort.cancel();
            thread::sleep(GRACE);
            exit_process(exit);
        };
        let name = "signals".to_owned();
        thread::Builder::new().name(name).spawn(receive)?;
        Ok(first)
    }
}

/// Blocks SIGINT and SIGTERM in this thread, before it has started other threads, which inherit
/// that. The kernel then keeps them for the thread of [`Shutdown::on_signals`] and does not deliver
/// them to a thread that waits for a hung disk. Blocks SIGXFSZ too, which would end the process: a
/// write beyond the limit on file sizes (`ulimit -f`) is then only an error.
///
/// # Errors
/// The error of the operating system.
pub fn block_signals() -> io::Result<()> {
    let mut blocked = stopping_signals();
    blocked.add(Signal::SIGXFSZ);
    Ok(blocked.thread_block()?)
}

fn stopping_signals() -> SigSet {
    [Signal::SIGINT, Signal::SIGTERM].into_iter().collect()
}

fn next_signal() -> Exit {
    match stopping_signals().wait() {
        Ok(Signal::SIGINT) => Exit::Interrupted,
        Ok(_) => Exit::Terminated,
        Err(error) => unreachable!("the signals of the set are valid: {error}"),
    }
}

#[expect(
    clippy::exit,
    reason = "whatever still runs is blocked, and must not keep the process alive"
)]
fn exit_process(exit: Exit) {
    std::process::exit(exit.code().into());
}
