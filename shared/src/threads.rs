//! Threads that live as long as a job.
//!
//! They are not tasks of a runtime's blocking pool. The pool panics if the system has no thread
//! left for its first task, and if none is left later, a task waits until another one ends, which
//! here may be the end of the job. With these threads, a failure to start is an error.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{Arc, Condvar, Mutex, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::{runtime::Handle, sync::oneshot, task::JoinSet};

use crate::lock::lock;

/// The system has no thread left.
#[derive(Debug, thiserror::Error)]
#[error(
    "start the thread {name}: {source}; allow the process more threads (ulimit -u, or the limit \
     on tasks of its container or unit)"
)]
pub struct NoThread {
    pub(crate) name: String,
    pub(crate) source: io::Error,
}

/// Number of threads of [`start`] that run.
static RUNNING: Mutex<usize> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();

/// Starts a thread. The set gets its result like that of a task; dropping the set does not end the
/// thread. Must be called in the context of a runtime, which the thread enters as well.
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
        // The receiver is gone if the set was dropped.
        ended.send(catch_unwind(AssertUnwindSafe(work))).ok();
    };
    spawn(name, thread)?;
    threads.spawn(async {
        // The panic hook has reported the panic.
        end.await
            .expect("the thread sends its result")
            .unwrap_or_else(|panic| resume_unwind(panic))
    });
    Ok(())
}

/// Checks whether the system has a thread left, before a call that panics without one.
///
/// # Errors
/// [`NoThread`].
pub fn probe(name: &str) -> Result<(), NoThread> {
    // The thread does nothing that could panic.
    spawn(name, || {})?.join().unwrap_or_default();
    Ok(())
}

/// As [`probe`], for so many threads at the same time: a runtime that gets its first worker and not
/// its second one waits for the first one for ever.
///
/// # Errors
/// [`NoThread`].
pub fn probe_at_once(name: &str, count: usize) -> Result<(), NoThread> {
    let (held, release) = mpsc::channel::<()>();
    let release = Arc::new(Mutex::new(release));
    let mut started = Vec::new();
    let mut result = Ok(());
    for _ in 0..count {
        let release = Arc::clone(&release);
        // All of them end when `held` is dropped.
        match spawn(name, move || lock(&release).recv().unwrap_or_default()) {
            Ok(thread) => started.push(thread),
            Err(error) => {
                result = Err(error);
                break;
            }
        }
    }
    drop(held);
    for thread in started {
        thread.join().unwrap_or_default();
    }
    result
}

/// Starts a thread outside of any runtime.
pub(crate) fn spawn(
    name: &str,
    work: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, NoThread> {
    let started = thread::Builder::new().name(name.to_owned()).spawn(work);
    started.map_err(|source| NoThread {
        name: name.to_owned(),
        source,
    })
}

/// Waits until all threads have ended, at most for this time.
pub(crate) fn wait(limit: Duration) {
    let running = lock(&RUNNING);
    drop(ENDED.wait_timeout_while(running, limit, |running| *running > 0));
}

/// Counts a running thread until it is dropped.
struct Running;

impl Running {
    fn new() -> Self {
        *lock(&RUNNING) += 1;
        Self
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        *lock(&RUNNING) -= 1;
        ENDED.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_join_set_gets_the_result_and_the_panic_of_a_thread() {
        let mut threads = JoinSet::new();
        start(&mut threads, "ends", || Handle::try_current().is_ok()).unwrap();
        assert!(
            threads.join_next().await.unwrap().unwrap(),
            "it has the runtime's context"
        );
        start(&mut threads, "panics", || panic!("part of the test")).unwrap();
        assert!(threads.join_next().await.unwrap().unwrap_err().is_panic());
    }
}
