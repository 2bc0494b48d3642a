//! The live page's data: snapshots of the job and updates, as the HTTP API of version 1 sends them
//! (`deploy/http-api.md`).
//!
//! Invariants: observers never slow the dispatcher. One task, the publisher, asks it for a view at
//! most once a second and only while it is watched; each message is serialized once for all
//! viewers and sent to one after the other. At most [`MAX_VIEWERS`] streams are open, each with a
//! bounded queue; a viewer that does not read in time gets a whole snapshot in the place of the
//! updates that it missed.

use std::{mem, sync::Arc, time::Duration};

use bytes::Bytes;
use shared::{
    Wnid,
    http::{MAX_STREAMS, TOO_MANY_STREAMS},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

mod classes;
mod composing;
mod difference;
mod end_range;
mod failures;
mod history;
mod list;
mod publisher;
mod ranking;
mod runs;
mod sentence;
mod snapshot;
mod viewers;
mod wnids;

pub use classes::{ClassFailure, ClassRow, ClassesPage, ClassesQuery};
use list::List;
use publisher::{Current, Publisher, Request};
pub use ranking::{WorkersPage, WorkersQuery};
pub use snapshot::Worker;
use viewers::QUEUE;

use crate::dispatcher::{DispatchError, DispatcherHandle};

/// Maximum number of open streams.
pub const MAX_VIEWERS: usize = MAX_STREAMS;
/// Maximum number of rows in a page of workers or classes.
pub const PAGE: usize = 200;
/// Capacity of the publisher's queue of requests. When it is full, callers wait.
const REQUESTS: usize = 2 * MAX_VIEWERS;
/// Time for the last message to be made, and for the viewers to receive it, at the end of the job.
const FINISH_LIMIT: Duration = Duration::from_secs(1);

/// Time between the sending of an update to one stream and to the next one, so that calls of
/// workers need not wait for the writes to all of them.
const DELAY_STEP: Duration = Duration::from_millis(10);

/// Why a question about the job has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// A parameter of the question is wrong.
    #[error("{parameter}={value} is unknown; use {expected}")]
    Parameter {
        /// Name of the parameter.
        parameter: &'static str,
        /// Its value.
        value: String,
        /// What is known.
        expected: &'static str,
    },
    /// [`MAX_VIEWERS`] streams are open.
    #[error("{TOO_MANY_STREAMS}")]
    TooManyViewers,
    /// The job ends, or the ledger cannot be read.
    #[error("the coordinator cannot answer now; ask again")]
    Unavailable,
}

impl QueryError {
    /// Whether the caller has to change the question. Otherwise the same question may be answered
    /// later.
    pub fn is_bad_request(&self) -> bool {
        matches!(self, Self::Parameter { .. })
    }
}

impl From<DispatchError> for QueryError {
    fn from(_: DispatchError) -> Self {
        Self::Unavailable
    }
}

/// What the page shows of the job besides the dispatcher's view; it does not change.
#[derive(Debug, Clone)]
pub struct JobFacts {
    /// Id of the run.
    pub run_id: Arc<str>,
    /// Number of the coordinator's start.
    pub epoch: u32,
    /// The command that retries failed classes, up to their ids.
    pub retry_command: Arc<str>,
    /// Cancelled when a shutdown is requested.
    pub stopping: CancellationToken,
}

/// A handle to the publisher. Clones refer to the same one.
#[derive(Debug, Clone)]
pub struct Dashboard {
    handle: DispatcherHandle,
    list: Arc<List>,
    requests: mpsc::Sender<Request>,
    /// The last snapshot as JSON, for the time after the publisher has ended.
    last_snapshot: watch::Receiver<Option<Bytes>>,
    viewers: Arc<Semaphore>,
}

impl Dashboard {
    /// Starts the publisher of a job as a task of the given set. It ends with the dispatcher.
    ///
    /// # Errors
    /// [`DispatchError::Stopped`].
    pub async fn start(
        handle: DispatcherHandle,
        facts: JobFacts,
        tasks: &mut JoinSet<()>,
    ) -> Result<Self, DispatchError> {
        let list = Arc::new(List::of(handle.list().await?));
        let (requests, queue) = mpsc::channel(REQUESTS);
        let (publisher, last_snapshot) = Publisher::new(handle.clone(), facts, Arc::clone(&list));
        tasks.spawn(publisher.run(queue));
        Ok(Self {
            handle,
            list,
            requests,
            last_snapshot,
            viewers: Arc::new(Semaphore::new(MAX_VIEWERS)),
        })
    }

    /// The whole snapshot as JSON, at most a second old; after the end of the job the last one.
    ///
    /// # Errors
    /// [`QueryError::Unavailable`].
    pub async fn snapshot(&self) -> Result<Bytes, QueryError> {
        match self.current().await {
            Ok(current) => Ok(current.json()),
            Err(error) => self.last_snapshot.borrow().clone().ok_or(error),
        }
    }

    /// Opens a stream.
    ///
    /// # Errors
    /// [`QueryError::TooManyViewers`], or [`QueryError::Unavailable`].
    pub fn subscribe(&self) -> Result<Subscription, QueryError> {
        // At the end of the job `finish` holds the permits.
        if self.requests.is_closed() {
            return Err(QueryError::Unavailable);
        }
        let permit = Arc::clone(&self.viewers).try_acquire_owned();
        let permit = permit.map_err(|_| QueryError::TooManyViewers)?;
        let (queue, events) = mpsc::channel(QUEUE);
        let sent = self.requests.try_send(Request::Subscribe(queue));
        sent.map_err(|_| QueryError::Unavailable)?;
        let others = MAX_VIEWERS - 1 - self.viewers.available_permits();
        Ok(Subscription {
            events,
            delay: Duration::ZERO,
            next_delay: DELAY_STEP * u32::try_from(others).unwrap_or(0),
            last_snapshot: self.last_snapshot.clone(),
            _permit: permit,
        })
    }

    /// A page of the workers.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn workers(&self, query: WorkersQuery) -> Result<WorkersPage, QueryError> {
        let query = query.parsed()?;
        let current = self.current().await?;
        Ok(query.page(&current.view.fleet.workers))
    }

    /// A page of the classes, ordered by id.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn classes(&self, query: ClassesQuery) -> Result<ClassesPage, QueryError> {
        let filter = query.parsed()?;
        let current = self.current().await?;
        filter.page(&self.handle, &self.list, &current.view).await
    }

    /// One class; `None` if it is not in the list.
    ///
    /// # Errors
    /// [`QueryError::Unavailable`].
    pub async fn class(&self, wnid: Wnid) -> Result<Option<ClassRow>, QueryError> {
        let Some(row) = self.list.row(wnid) else {
            return Ok(None);
        };
        let current = self.current().await?;
        let rows = classes::described(&self.handle, &self.list, &current.view, vec![row]).await?;
        Ok(rows.into_iter().next())
    }

    /// Sends the last state to all viewers and ends their streams. Returns when they have received
    /// it, or after `FINISH_LIMIT` twice. The caller calls it while the dispatcher still runs.
    pub async fn finish(&self) {
        let (done, finished) = oneshot::channel();
        let request = async {
            let sent = self.requests.send(Request::Finish(done)).await;
            sent.is_ok() && finished.await.is_ok()
        };
        if timeout(FINISH_LIMIT, request).await != Ok(true) {
            tracing::debug!("the viewers did not get the last state");
            return;
        }
        let all = u32::try_from(MAX_VIEWERS).expect("the number of viewers is small");
        let left = timeout(FINISH_LIMIT, self.viewers.acquire_many(all)).await;
        if left.is_err() {
            tracing::debug!("viewers did not read the last state in time");
        }
    }

    /// The current state, at most a second old.
    async fn current(&self) -> Result<Arc<Current>, QueryError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.requests.send(Request::Current(reply)).await;
        sent.map_err(|_| QueryError::Unavailable)?;
        answer.await.map_err(|_| QueryError::Unavailable)
    }
}

/// An open stream of events.
#[derive(Debug)]
pub struct Subscription {
    events: mpsc::Receiver<Bytes>,
    /// Delay of the next event: none for the first one.
    delay: Duration,
    /// Delay of each later one.
    next_delay: Duration,
    /// Changes at the end of the job.
    last_snapshot: watch::Receiver<Option<Bytes>>,
    _permit: OwnedSemaphorePermit,
}

impl Subscription {
    /// The next whole server-sent event, with its final blank line. `None` at the end of the job.
    pub async fn next(&mut self) -> Option<Bytes> {
        let event = self.events.recv().await?;
        let delay = mem::replace(&mut self.delay, self.next_delay);
        // At the end of the job there is no delay: the program is about to exit.
        drop(timeout(delay, self.last_snapshot.changed()).await);
        Some(event)
    }
}

#[cfg(test)]
mod tests;
