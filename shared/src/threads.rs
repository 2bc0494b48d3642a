//! Threads that live as long as a job.
//!
//! They are not tasks of a runtime's blocking pool: the pool panics when the system has no thread
//! left for its first task, and queues later tasks behind those that run, which for ever is too
//! long. Here a thread that cannot be started is an error.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{Condvar, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::{runtime::Handle, sync::oneshot, task::JoinSet};

/// The system has no thread left.
#[derive(Debug, thiserror::Error)]
#[error(
    "start the thread {name}: {source}; allow the process more threads (ulimit -u, or the limit on tasks of its container or unit)"
)]
pub struct NoThread {
    pub(crate) name: String,
    pub(crate) source: io::Error,
}

/// Threads of [`start`] that run.
static RUNNING: Mutex<usize> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();

/// Starts a thread; the set hears its end, as it would of a task. To drop the set does not end the
/// thread. Call it in a runtime's context, which the thread has as well.
///
/// # Errors
/// [`NoThread`].
pub fn start<T: Send + 'static>(
    threads: &mut JoinSet<T>,
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<(), NoThread> {
    let (ended, end) = oneshot::channel();
    let runtime = Handle::current();
    let running = Running::new();
    let thread = move || {
        let _running = running;
        let _context = runtime.enter();
        // Dropped by a set that was dropped.
        ended.send(catch_unwind(AssertUnwindSafe(work))).ok();
    };
    spawn(name, thread)?;
    threads.spawn(async {
        // The panic was reported when it began.
        end.await.expect("the thread sends its result").unwrap_or_else(|panic| resume_unwind(panic))
    });
    Ok(())
}

/// Finds out whether the system has a thread left, for what panics without one.
///
/// # Errors
/// [`NoThread`].
pub fn probe(name: &str) -> Result<(), NoThread> {
    // It does nothing that could panic.
    spawn(name, || {})?.join().unwrap_or_default();
    Ok(())
}

/// Starts a thread outside of any runtime.
pub(crate) fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, NoThread> {
    let started = thread::Builder::new().name(name.to_owned()).spawn(work);
    started.map_err(|source| NoThread { name: name.to_owned(), source })
}

/// Waits until all threads have ended, or so long.
pub(crate) fn wait(limit: Duration) {
    let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    drop(ENDED.wait_timeout_while(running, limit, |running| *running > 0));
}

struct Running;

impl Running {
    fn new() -> Self {
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Self
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        ENDED.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_thread_is_heard_of_in_its_set_and_so_is_its_panic() {
        let mut threads = JoinSet::new();
        start(&mut threads, "ends", || Handle::try_current().is_ok()).unwrap();
        assert!(threads.join_next().await.unwrap().unwrap(), "it has the runtime's context");
        start(&mut threads, "panics", || panic!("part of the test")).unwrap();
        assert!(threads.join_next().await.unwrap().unwrap_err().is_panic());
    }
}
