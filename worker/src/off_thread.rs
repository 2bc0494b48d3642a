//! File work on a thread where it may block.

use std::panic::resume_unwind;

use tokio::task::{JoinHandle, spawn_blocking};

/// Runs file work off the threads that serve the network.
pub(crate) async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    result_of(spawn_blocking(work)).await
}

/// Waits for file work that was begun earlier.
pub(crate) async fn result_of<T>(thread: JoinHandle<T>) -> T {
    match thread.await {
        Ok(result) => result,
        Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
        // Cancelled: the program is at its end, and whoever waits here ends with it.
        Err(_) => std::future::pending().await,
    }
}
