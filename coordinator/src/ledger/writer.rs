//! The ledger's only writer: a thread behind a bounded queue, with group commit.

use std::sync::Arc;

use shared::{Wnid, metrics::Durations};
use tokio::{sync::mpsc, task::JoinSet, time::Instant};

use super::{Ledger, LedgerError, Record, Run};

/// Entries that may wait; more senders wait in turn.
const QUEUE: usize = 1024;
/// A transaction takes at most so many entries.
const LARGEST_COMMIT: usize = 1000;

/// What is to be written, and who hears when it is on the disk.
#[derive(Default)]
pub struct Entry {
    /// Classes that are settled.
    pub records: Vec<Record>,
    /// Classes that were settled and are pending again.
    pub forgotten: Vec<Wnid>,
    /// Workers that have a session from now on.
    pub opened: Vec<String>,
    /// Workers that have none any more.
    pub closed: Vec<String>,
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

    /// Nothing to write, and nobody waits.
    pub(crate) fn is_empty(&self) -> bool {
        let Self { records, forgotten, opened, closed, finished, durable } = self;
        let is_silent = durable.is_none() && !finished;
        is_silent && records.is_empty() && forgotten.is_empty() && opened.is_empty() && closed.is_empty()
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
    /// fails: what could not be kept must not be confirmed.
    pub fn start_writer(mut self, run: Run, threads: &mut JoinSet<Result<(), LedgerError>>) -> Writer {
        let (writer, mut queue) = Writer::channel();
        let commits = writer.commits();
        threads.spawn_blocking(move || {
            let mut entries = Vec::new();
            while queue.blocking_recv_many(&mut entries, LARGEST_COMMIT) > 0 {
                let began = Instant::now();
                self.write(&run, &entries).map_err(|source| self.not_written(source))?;
                commits.record(began.elapsed());
                entries.drain(..).filter_map(|entry| entry.durable).for_each(|durable| durable());
            }
            Ok(())
        });
        writer
    }
}

impl Writer {
    /// A writer, and where its entries come out.
    pub(crate) fn channel() -> (Self, mpsc::Receiver<Entry>) {
        let (queue, entries) = mpsc::channel(QUEUE);
        (Self { queue, commits: Commits::default() }, entries)
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
