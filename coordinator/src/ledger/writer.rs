//! The ledger's only writer: a thread behind a bounded queue, with group commit. It keeps the failure log too, which is a view
//! of the same entries: no file is touched by the task that answers workers.

use std::{sync::Arc, time::Duration};

use shared::{
    Wnid,
    metrics::Durations,
    outcome::Outcome,
    threads::{self, NoThread},
};
use tokio::{sync::mpsc, task::JoinSet, time::Instant};

use super::{Ledger, LedgerError, Record, Run};
use crate::{
    failure_log::{FailureLog, FailureLogError},
    lease_table::Renamed,
};

/// Entries that may wait; more senders wait in turn.
const QUEUE: usize = 1024;
/// A transaction takes at most so many entries.
const LARGEST_COMMIT: usize = 1000;

/// What is to be written, and who hears when it is on the disk.
#[derive(Default)]
pub struct Entry {
    /// Classes that are settled.
    pub records: Vec<Record>,
    /// Classes of the records that had failed before, and are there after all.
    pub corrected: Vec<Wnid>,
    /// Classes that were settled and are pending again.
    pub forgotten: Vec<Wnid>,
    /// Workers that have a session from now on.
    pub opened: Vec<String>,
    /// Workers that have none any more.
    pub closed: Vec<String>,
    /// Workers' names that belong to another credential from now on, or to none.
    pub renamed: Vec<Renamed>,
    /// The run is at its end.
    pub finished: bool,
    /// Called after the commit; not at all when it fails.
    pub durable: Option<Box<dyn FnOnce() + Send>>,
}

impl Entry {
    /// Nothing yet, to be confirmed after all that was queued before.
    pub(crate) fn confirmed(confirm: impl FnOnce() + Send + 'static) -> Self {
        Self { durable: Some(Box::new(confirm)), ..Self::default() }
    }

    /// The same, to be confirmed.
    pub(crate) fn confirming(self, confirm: impl FnOnce() + Send + 'static) -> Self {
        Self { durable: Some(Box::new(confirm)), ..self }
    }

    /// Whether there is nothing to write and no caller to answer. Corrections come with records only.
    pub(crate) fn is_empty(&self) -> bool {
        let Self { records, corrected: _, forgotten, opened, closed, renamed, finished, durable } = self;
        let is_silent = durable.is_none() && !finished && renamed.iter().all(Renamed::is_nothing);
        is_silent && records.is_empty() && forgotten.is_empty() && opened.is_empty() && closed.is_empty()
    }

    /// Brings the failure log to where this leads.
    fn log_failures(&self, log: &mut FailureLog) {
        for Record { wnid, outcome, .. } in &self.records {
            if let Outcome::Failed(failure) = outcome {
                complain(log.write(*wnid, failure));
            }
        }
        for withdrawn in [&self.corrected, &self.forgotten] {
            if !withdrawn.is_empty() {
                complain(log.withdraw(withdrawn));
            }
        }
    }
}

/// How long commits take.
pub type Commits = Arc<Durations>;

/// The way to the writer.
#[derive(Debug, Clone)]
pub struct Writer {
    queue: mpsc::Sender<Entry>,
    commits: Commits,
}

impl Ledger {
    /// Starts the writer on a thread of the given set. It ends when the last [`Writer`] is gone, or at once when a write
    /// fails: what could not be kept must not be confirmed. `lease_ttl` is what workers are told by this process.
    ///
    /// # Errors
    /// [`NoThread`].
    pub fn start_writer(
        mut self,
        run: Run,
        lease_ttl: Duration,
        mut log: FailureLog,
        threads: &mut JoinSet<Result<(), LedgerError>>,
    ) -> Result<Writer, NoThread> {
        let (writer, mut queue) = Writer::channel();
        let commits = writer.commits();
        threads::start(threads, "ledger", move || {
            let mut entries = Vec::new();
            while queue.blocking_recv_many(&mut entries, LARGEST_COMMIT) > 0 {
                let began = Instant::now();
                self.write(&run, lease_ttl, &entries).map_err(|source| self.not_written(source))?;
                commits.record(began.elapsed());
                for entry in &entries {
                    entry.log_failures(&mut log);
                }
                complain(log.catch_up());
                entries.drain(..).filter_map(|entry| entry.durable).for_each(|durable| durable());
            }
            Ok(())
        })?;
        Ok(writer)
    }
}

impl Writer {
    /// A writer, and where its entries come out.
    pub(crate) fn channel() -> (Self, mpsc::Receiver<Entry>) {
        let (queue, entries) = mpsc::channel(QUEUE);
        (Self { queue, commits: Commits::default() }, entries)
    }

    /// A writer that confirms everything at once and keeps nothing but the failure log.
    #[cfg(test)]
    pub(crate) fn to_log(mut log: FailureLog, tasks: &mut JoinSet<()>) -> Self {
        let (writer, mut entries) = Self::channel();
        tasks.spawn(async move {
            while let Some(entry) = entries.recv().await {
                entry.log_failures(&mut log);
                entry.durable.into_iter().for_each(|durable| durable());
            }
        });
        writer
    }

    /// A writer that confirms everything at once and keeps nothing.
    #[cfg(test)]
    pub(crate) fn to_nowhere(tasks: &mut JoinSet<()>) -> Self {
        let (writer, mut entries) = Self::channel();
        tasks.spawn(async move {
            while let Some(entry) = entries.recv().await {
                entry.durable.into_iter().for_each(|durable| durable());
            }
        });
        writer
    }

    /// How long commits take.
    pub(crate) fn commits(&self) -> Commits {
        Arc::clone(&self.commits)
    }

    /// Queues an entry. One that comes after a failed write is dropped, and never confirmed.
    pub(crate) async fn write(&self, entry: Entry) {
        if self.queue.send(entry).await.is_err() {
            tracing::debug!("the ledger is closed");
        }
    }
}

fn complain(written: Result<(), FailureLogError>) {
    if let Err(error) = written {
        tracing::warn!("failed to {error}");
    }
}
