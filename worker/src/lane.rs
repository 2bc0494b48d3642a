//! A lane: what a slot works with, a runtime and the connections that live on it.
//!
//! A class stays on one thread from the socket to the disk. Nothing is handed over, the bytes are still in the core's cache
//! when they are hashed and written, and their buffer is used again at once. A disk that is slow keeps the connection of its
//! own class waiting, and nothing else: leases and renewals have other threads.

use tokio::runtime::{Builder, Runtime};

use crate::{origin::Origin, site::SiteError};

/// Threads that look up names.
const LOOKUPS: usize = 1;

/// See the module.
#[derive(Debug)]
pub(crate) struct Lane {
    origin: Origin,
    /// Until the end.
    runtime: Option<Runtime>,
}

impl Lane {
    /// Opens a lane to an origin, with connections of its own.
    pub(crate) fn open(origin: &Origin) -> Result<Self, SiteError> {
        let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(LOOKUPS).build();
        Ok(Self { origin: origin.with_own_connections()?, runtime: Some(runtime.map_err(SiteError::Lane)?) })
    }

    /// Works on this thread until the story ends. Idle connections stay for the next one.
    pub(crate) fn run<T>(&self, story: impl AsyncFnOnce(&Origin) -> T) -> T {
        let runtime = self.runtime.as_ref().expect("it is there until the end");
        runtime.block_on(story(&self.origin))
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // A name that is still being looked up is not waited for.
            runtime.shutdown_background();
        }
    }
}
