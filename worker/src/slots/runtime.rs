//! The runtime of a slot: a thread with a single-threaded runtime and its own HTTP connections.
//!
//! A class stays on one thread from the socket to the disk. No bytes move between threads: they are
//! still in the core's cache when they are hashed and written, and their buffer is reused at once.
//! A slow disk delays only the connection of its own class, because leases and renewals have other
//! threads.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::mpsc::{SyncSender, sync_channel},
};

use shared::threads::{self, NoThread};
use tokio::{
    runtime::{Builder, Runtime},
    sync::oneshot,
    task::{JoinSet, yield_now},
};

use crate::{fetch::context::JobContextError, origin::Origin};

/// A function that the slot's thread runs.
type Work = Box<dyn FnOnce(&Runtime, &Origin) + Send>;

/// The handle of a slot's thread. The thread ends after the handle is dropped.
#[derive(Debug)]
pub(crate) struct SlotRuntime {
    work: SyncSender<Work>,
}

/// Starts a thread of the given set that does `work` on a single-threaded runtime of its own. The
/// inner error: the runtime cannot be created.
///
/// # Errors
/// [`NoThread`].
pub(crate) fn start(
    set: &mut JoinSet<()>,
    name: &str,
    work: impl FnOnce(Runtime) + Send + 'static,
) -> Result<io::Result<()>, NoThread> {
    let (ready, started) = sync_channel(1);
    threads::start(set, name, move || {
        let mut builder = Builder::new_current_thread();
        // These runtimes need no blocking pool; without the limit, one could grow to 512 threads.
        match builder.max_blocking_threads(1).enable_all().build() {
            Ok(runtime) => {
                ready.send(Ok(())).unwrap_or_default();
                work(runtime);
            }
            Err(error) => ready.send(Err(error)).unwrap_or_default(),
        }
    })?;
    Ok(started
        .recv()
        .expect("the thread sends whether its runtime exists"))
}

impl SlotRuntime {
    /// Starts the runtime on a thread of the given set, with its own connections to the origin.
    pub(crate) fn open(origin: &Origin, set: &mut JoinSet<()>) -> Result<Self, JobContextError> {
        let origin = origin.with_own_connections()?;
        // A slot runs one class at a time.
        let (work, asked) = sync_channel::<Work>(1);
        let started = start(set, "slot", move |runtime| {
            for work in asked {
                work(&runtime, &origin);
            }
        })?;
        started.map_err(JobContextError::Runtime)?;
        Ok(Self { work })
    }

    /// Runs `job` on the slot's thread until it ends. Idle connections stay open for the next job.
    ///
    /// # Panics
    /// If the job panics. The runtime stays usable.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        job: impl AsyncFnOnce(&Origin) -> T + Send + 'static,
    ) -> T {
        let (ended, end) = oneshot::channel();
        let work = move |runtime: &Runtime, origin: &Origin| {
            let result = catch_unwind(AssertUnwindSafe(|| {
                runtime.block_on(async {
                    let result = job(origin).await;
                    // Nothing drives this runtime until the next job, so yield: connections that
                    // the job abandoned close now.
                    yield_now().await;
                    result
                })
            }));
            // The receiver is gone if its task was aborted.
            ended.send(result).ok();
        };
        self.work
            .send(Box::new(work))
            .expect("the thread lives as long as its handle");
        end.await
            .expect("the thread sends what came of it")
            .unwrap_or_else(|panic| resume_unwind(panic))
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

    use url::Url;

    use super::*;
    use crate::origin::allowed_addresses::PrivateOrigin;
    use crate::{
        fixture::job,
        origin::limiter::{OriginLimiter, Priority},
    };

    #[tokio::test]
    async fn a_transfer_that_is_dropped_closes_its_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url: Url = format!("http://{}/x.tar", listener.local_addr().unwrap())
            .parse()
            .unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
                .unwrap();
            stream
                .set_write_timeout(Some(Duration::from_secs(5)))
                .unwrap();
            loop {
                if let Err(error) = stream.write_all(&[0; 8192]) {
                    break error.kind();
                }
            }
        });
        let origin = Origin::new(
            &job(),
            PrivateOrigin::Allowed,
            OriginLimiter::without_budget(1, Arc::default()),
        )
        .unwrap();
        let mut set = JoinSet::new();
        let slot = SlotRuntime::open(&origin, &mut set).unwrap();
        let job = async move |origin: &Origin| {
            let mut opened = origin.open(&url, None, None, Priority::New).await.unwrap();
            opened.transfer.chunk().await.unwrap();
        };
        slot.run(job).await;
        // The runtime still exists and is idle.
        let kind = tokio::task::spawn_blocking(move || server.join().unwrap())
            .await
            .unwrap();
        assert!(
            matches!(kind, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
            "still open: {kind:?}"
        );
        drop(slot);
        set.join_next()
            .await
            .unwrap()
            .expect("the thread ends with the handle");
    }
}
