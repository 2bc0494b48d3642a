//! The end of the interpreter. From then on, Python before 3.14 ends a thread that wants the
//! interpreter's lock by unwinding its stack, which Rust's functions do not survive. So no thread
//! may wait for the lock in this module when the end comes.

use std::{
    sync::{
        LazyLock, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread::{self, ThreadId},
    time::Duration,
};

use pyo3::{PyResult, Python, exceptions::PySystemExit, marker::Ungil, pyfunction};
use worker::CancellationToken;

use crate::process;

/// How often it is looked whether the calls in other threads have returned: for about a second.
const POLLS: u32 = 1000;
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// The thread that ends the interpreter: from then on other threads can make no call any more.
static ENDING: OnceLock<ThreadId> = OnceLock::new();
/// Whether the wait for calls is over: a call that returns later must not touch the interpreter.
static IS_OVER: AtomicBool = AtomicBool::new(false);
/// Number of calls without the interpreter's lock, until they have it again.
static INSIDE: AtomicUsize = AtomicUsize::new(0);
/// Number of calls that are about to take the lock again.
static RETURNING: AtomicUsize = AtomicUsize::new(0);
/// Cancels all batches.
static ALL: LazyLock<CancellationToken> = LazyLock::new(CancellationToken::new);

/// A cancellation for one batch, which the end of the interpreter cancels, too.
pub(crate) fn cancellation() -> CancellationToken {
    // A batch of the thread that ends the interpreter, by another hook, may run to its end.
    if ENDING.get().is_some() {
        CancellationToken::new()
    } else {
        ALL.child_token()
    }
}

/// Runs something without the interpreter's lock: the only way to do so in this module.
///
/// # Errors
/// `SystemExit`, which ends a thread silently, once the interpreter ends.
pub(crate) fn detach<T, F>(py: Python<'_>, work: F) -> PyResult<T>
where
    F: Ungil + Send + FnOnce() -> T,
    T: Ungil + Send,
{
    check()?;
    INSIDE.fetch_add(1, SeqCst);
    let result = py.detach(|| {
        let result = work();
        RETURNING.fetch_add(1, SeqCst);
        if IS_OVER.load(SeqCst) && is_ended() {
            RETURNING.fetch_sub(1, SeqCst);
            // The process ends meanwhile.
            loop {
                thread::park();
            }
        }
        result
    });
    RETURNING.fetch_sub(1, SeqCst);
    INSIDE.fetch_sub(1, SeqCst);
    Ok(result)
}

/// Whether the interpreter ends in another thread.
fn is_ended() -> bool {
    let ending = ENDING.get();
    ending.is_some_and(|ending| *ending != thread::current().id())
}

/// Whether calls are possible.
///
/// # Errors
/// As [`detach`].
pub(crate) fn check() -> PyResult<()> {
    if is_ended() {
        return Err(PySystemExit::new_err("the interpreter ends"));
    }
    Ok(())
}

/// Stops all batches, and waits until no thread is in a call, for `atexit`.
#[pyfunction]
pub(crate) fn end(py: Python<'_>) {
    // A forked child has none of the threads, and their counts for ever.
    if !process::is_whole() {
        return;
    }
    ENDING.get_or_init(|| thread::current().id());
    ALL.cancel();
    py.detach(|| {
        for _ in 0..POLLS {
            if INSIDE.load(SeqCst) == 0 {
                break;
            }
            thread::sleep(POLL_INTERVAL);
        }
        IS_OVER.store(true, SeqCst);
        while RETURNING.load(SeqCst) > 0 {
            thread::sleep(POLL_INTERVAL);
        }
    });
}
