//! A lane: what a slot works with, a runtime and the connections that live on it.
//!
//! A class stays on one thread from the socket to the disk. Nothing is handed over, the bytes are still in the core's cache
//! when they are hashed and written, and their buffer is used again at once. A disk that is slow keeps the connection of its
//! own class waiting, and nothing else: leases and renewals have other threads.

use tokio::{
    runtime::{Builder, Runtime},
    task::yield_now,
};

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
        // First what may fail: a runtime that is dropped where others run panics.
        let origin = origin.with_own_connections()?;
        let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(LOOKUPS).build();
        Ok(Self { origin, runtime: Some(runtime.map_err(SiteError::Lane)?) })
    }

    /// Works on this thread until the story ends. Idle connections stay for the next one.
    pub(crate) fn run<T>(&self, story: impl AsyncFnOnce(&Origin) -> T) -> T {
        let runtime = self.runtime.as_ref().expect("it is there until the end");
        runtime.block_on(async {
            let told = story(&self.origin).await;
            // A connection that was given up closes now: until the next story nobody drives it.
            yield_now().await;
            told
        })
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

#[cfg(test)]
mod tests {
    use std::{
        io::{ErrorKind, Read as _, Write as _},
        net::TcpListener,
        sync::Arc,
        thread,
        time::Duration,
    };

    use prometheus_client::metrics::counter::Counter;

    use super::*;
    use crate::{
        fixture::job,
        pace::{Gate, Priority},
    };

    #[test]
    fn a_transfer_that_is_dropped_closes_its_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/x.tar", listener.local_addr().unwrap()).parse().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").unwrap();
            stream.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
            loop {
                if let Err(error) = stream.write_all(&[0; 8192]) {
                    break error.kind();
                }
            }
        });
        let origin = Origin::new(&job(), Gate::open(1, Arc::default()), Counter::default()).unwrap();
        let lane = Lane::open(&origin).unwrap();
        lane.run(async |origin: &Origin| {
            let mut opened = origin.open(&url, None, None, Priority::New).await.unwrap();
            opened.transfer.chunk().await.unwrap();
        });
        // The lane is still there, and has nothing to do.
        let kind = server.join().unwrap();
        assert!(matches!(kind, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "still open: {kind:?}");
        drop(lane);
    }
}
