//! The ledger's only writer: a thread behind a bounded queue, with group commit. It also keeps the
//! failure log, which is a view of the same entries, so the dispatcher does no file I/O.

use std::time::Duration;

use shared::{
    Wnid,
    metrics::Durations,
    outcome::Outcome,
    threads::{self, NoThread},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::Instant,
};

use super::{Ledger, LedgerError, Record, Run};
use crate::{
    failure_log::{FailureLog, warn_if_failed},
    lease_table::{Drain, Mark, Renamed},
};

/// Capacity of the queue of entries. When it is full, senders wait.
const QUEUE: usize = 1024;
/// Maximum number of entries in a transaction.
const LARGEST_COMMIT: usize = 1000;

/// A function that reads the ledger on the writer's thread.
pub type Reading = Box<dyn FnOnce(&Ledger, &Run) + Send>;

/// Changes for the ledger, and the callbacks after their commit.
#[derive(Default)]
pub struct Entry {
    /// Classes that are settled.
    pub records: Vec<Record>,
    /// Classes of the records that had failed before and are complete now.
    pub corrected: Vec<Wnid>,
    /// Classes that were settled and are pending again.
    pub forgotten: Vec<Wnid>,
    /// Workers that have a session from now on.
    pub opened: Vec<String>,
    /// Workers whose session has ended.
    pub closed: Vec<String>,
    /// Names of workers that belong to another credential from now on, or to none.
    pub renamed: Vec<Renamed>,
    /// Worker processes that are drained, or have ended.
    pub drains: Vec<Drain>,
    /// Positions of the list that may be granted.
    pub granted: Option<Mark>,
    /// Whether the run is finished.
    pub finished: bool,
    /// Called with the ledger after the commit. Not called if the commit fails.
    pub read: Option<Reading>,
    /// Called after the commit. Not called if the commit fails.
    pub durable: Option<Box<dyn FnOnce() + Send>>,
}

impl Entry {
    /// An entry without changes. Sends what is read after all entries that were queued before. If
    /// the ledger cannot be read, that is logged.
    pub(crate) fn reading<T: Send + 'static>(
        read: impl FnOnce(&Ledger, &Run) -> Result<T, LedgerError> + Send + 'static,
        answer: oneshot::Sender<T>,
    ) -> Self {
        let read: Reading = Box::new(move |ledger, run| match read(ledger, run) {
            Ok(found) => drop(answer.send(found)),
            Err(error) => tracing::warn!("failed to {error}"),
        });
        Self {
            read: Some(read),
            ..Self::default()
        }
    }

    /// Sets the function that confirms the entry.
    pub(crate) fn confirming(self, confirm: impl FnOnce() + Send + 'static) -> Self {
        Self {
            durable: Some(Box::new(confirm)),
            ..self
        }
    }

    /// Sends the answer once the entry is stored. A caller that is gone by then gets none.
    pub(crate) fn answering<T: Send + 'static>(self, reply: oneshot::Sender<T>, answer: T) -> Self {
        self.confirming(move || drop(reply.send(answer)))
    }

    /// Adds a function that confirms the entry before the existing one.
    pub(crate) fn confirming_first(mut self, confirm: impl FnOnce() + Send + 'static) -> Self {
        let earlier = self.durable.take();
        self.confirming(move || {
            confirm();
            if let Some(earlier) = earlier {
                earlier();
            }
        })
    }

    /// Whether there is nothing to write and no caller to answer. Corrections exist only together
    /// with records.
    pub(crate) fn is_empty(&self) -> bool {
        let Self {
            records,
            corrected: _,
            forgotten,
            opened,
            closed,
            renamed,
            drains,
            granted,
            finished,
            read,
            durable,
        } = self;
        records.is_empty()
            && forgotten.is_empty()
            && opened.is_empty()
            && closed.is_empty()
            && renamed.iter().all(Renamed::is_nothing)
            && drains.is_empty()
            && granted.is_none()
            && !finished
            && read.is_none()
            && durable.is_none()
    }

    /// Notes this entry's changes in the failure log.
    fn log_failures(&self, log: &mut FailureLog) {
        for Record { wnid, outcome, .. } in &self.records {
            if let Outcome::Failed(failure) = outcome {
                warn_if_failed(log.note(*wnid, failure));
            }
        }
        for withdrawn in [&self.corrected, &self.forgotten] {
            if !withdrawn.is_empty() {
                log.withdraw(withdrawn);
            }
        }
    }
}

/// Applies all entries to the failure log in their order. The file is written once, or earlier if
/// many bytes are noted.
fn log_failures(entries: &[Entry], log: &mut FailureLog) {
    for entry in entries {
        entry.log_failures(log);
    }
    if entries
        .iter()
        .any(|entry| entry.finished || !entry.records.is_empty())
    {
        log.begin();
    }
    warn_if_failed(log.catch_up());
}

/// The durations of commits.
pub type Commits = Durations;

/// A handle to the ledger's thread.
#[derive(Debug, Clone)]
pub struct Writer {
    queue: mpsc::Sender<Entry>,
    commits: Commits,
}

impl Ledger {
    /// Starts the writer on a thread of the given set. It ends when the last [`Writer`] is dropped,
    /// or at once when a write fails, because results that could not be stored must not be
    /// confirmed. `lease_ttl` is the time to live that workers receive from this process.
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
                self.write(&run, lease_ttl, &entries)
                    .map_err(|source| self.not_written(source))?;
                commits.record(began.elapsed());
                log_failures(&entries, &mut log);
                for Entry { read, durable, .. } in entries.drain(..) {
                    if let Some(read) = read {
                        read(&self, &run);
                    }
                    if let Some(durable) = durable {
                        durable();
                    }
                }
            }
            Ok(())
        })?;
        Ok(writer)
    }
}

impl Writer {
    /// A writer and the receiver of its entries.
    pub(crate) fn channel() -> (Self, mpsc::Receiver<Entry>) {
        let (queue, entries) = mpsc::channel(QUEUE);
        let commits = Commits::default();
        (Self { queue, commits }, entries)
    }

    /// The durations of commits.
    pub(crate) fn commits(&self) -> Commits {
        self.commits.clone()
    }

    /// Reads the ledger after all entries that were queued before. `None` if the thread has ended,
    /// or if the ledger cannot be read, which is logged.
    pub(crate) async fn read<T, F>(&self, read: F) -> Option<T>
    where
        T: Send + 'static,
        F: FnOnce(&Ledger, &Run) -> Result<T, LedgerError> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        self.write(Entry::reading(read, answer)).await;
        answered.await.ok()
    }

    /// Queues an entry. After a failed write entries are dropped and never confirmed.
    pub(crate) async fn write(&self, entry: Entry) {
        if self.queue.send(entry).await.is_err() {
            tracing::debug!("the ledger is closed");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{mem::MaybeUninit, os::fd::OwnedFd, path::Path};

    use rustix::fs::inotify;
    use shared::outcome::{Failure, FailureKind, Published};

    use super::*;
    use crate::failure_log::NAME;

    impl Writer {
        /// A writer that confirms everything at once and writes only the failure log.
        pub(crate) fn to_log(mut log: FailureLog, tasks: &mut JoinSet<()>) -> Self {
            let (writer, mut entries) = Self::channel();
            tasks.spawn(async move {
                while let Some(entry) = entries.recv().await {
                    log_failures(std::slice::from_ref(&entry), &mut log);
                    entry.durable.into_iter().for_each(|durable| durable());
                }
            });
            writer
        }

        /// A writer that confirms everything at once and stores nothing.
        pub(crate) fn to_nowhere(tasks: &mut JoinSet<()>) -> Self {
            let (writer, mut entries) = Self::channel();
            tasks.spawn(async move {
                while let Some(entry) = entries.recv().await {
                    entry.durable.into_iter().for_each(|durable| durable());
                }
            });
            writer
        }
    }

    fn wnid(number: u32) -> Wnid {
        format!("n{number:08}").parse().unwrap()
    }

    fn failed(numbers: std::ops::Range<u32>) -> Entry {
        let failure = Failure::new(FailureKind::HttpError, "404 Client Error: Not Found");
        let record = |number| Record {
            wnid: wnid(number),
            outcome: Outcome::Failed(failure.clone()),
            worker: None,
        };
        Entry {
            records: numbers.map(record).collect(),
            ..Entry::default()
        }
    }

    fn corrected_to_success(numbers: std::ops::Range<u32>) -> Entry {
        let there = Outcome::Skipped(Published::default());
        let record = |number| Record {
            wnid: wnid(number),
            outcome: there.clone(),
            worker: None,
        };
        let corrected = numbers.clone().map(wnid).collect();
        Entry {
            records: numbers.map(record).collect(),
            corrected,
            ..Entry::default()
        }
    }

    /// Counts the writes to the failure log in a folder, with inotify.
    struct Writes {
        events: OwnedFd,
        counted: usize,
    }

    impl Writes {
        fn of(folder: &Path) -> Self {
            let events = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
            // The system merges equal consecutive events, so openings are watched as well.
            let wanted = inotify::WatchFlags::OPEN | inotify::WatchFlags::CLOSE_WRITE;
            inotify::add_watch(&events, folder.join(NAME), wanted).unwrap();
            Self { events, counted: 0 }
        }

        fn count(&mut self) -> usize {
            let mut buffer = [MaybeUninit::uninit(); 4096];
            let mut reader = inotify::Reader::new(&self.events, &mut buffer);
            while let Ok(event) = reader.next() {
                self.counted +=
                    usize::from(event.events().contains(inotify::ReadFlags::CLOSE_WRITE));
            }
            self.counted
        }
    }

    /// As one report, and as thousands of reports of one class each in one commit.
    #[test]
    fn the_failure_log_is_written_once_for_each_commit_however_many_classes_are_corrected() {
        for entries in [
            vec![corrected_to_success(0..4096)],
            (0..1000)
                .map(|one| corrected_to_success(one..one + 1))
                .collect(),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let mut log = FailureLog::open(folder.path()).unwrap();
            let mut writes = Writes::of(folder.path());
            log_failures(&[failed(0..20_400)], &mut log);
            assert_eq!(writes.count(), 1);
            log_failures(&entries, &mut log);
            assert_eq!(writes.count(), 2);
            let corrected: u32 = entries
                .iter()
                .map(|entry| u32::try_from(entry.corrected.len()).unwrap())
                .sum();
            let text = std::fs::read_to_string(folder.path().join(NAME)).unwrap();
            assert!(
                text.starts_with(&format!("{} - HTTPError", wnid(corrected))),
                "{}",
                &text[..100]
            );
            assert_eq!(text.lines().count(), 20_400 - corrected as usize);
        }
    }

    #[test]
    fn the_last_outcome_of_a_class_in_one_commit_is_logged() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = FailureLog::open(folder.path()).unwrap();
        let mut writes = Writes::of(folder.path());
        let forgotten = Entry {
            forgotten: vec![wnid(1)],
            ..Entry::default()
        };
        log_failures(
            &[
                failed(1..4),
                corrected_to_success(2..3),
                forgotten,
                failed(1..2),
            ],
            &mut log,
        );
        let classes = |text: String| {
            text.lines()
                .map(|line| line[8..9].to_owned())
                .collect::<Vec<_>>()
        };
        let read = || classes(std::fs::read_to_string(folder.path().join(NAME)).unwrap());
        assert_eq!(
            (read(), writes.count()),
            (vec!["3".to_owned(), "1".to_owned()], 1)
        );
    }
}
