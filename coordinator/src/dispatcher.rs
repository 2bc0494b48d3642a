//! The dispatcher: one task that owns the lease table and the failure log. Everybody else sends it a command and waits for
//! the answer.
//!
//! Invariant: the published status is that of the table, and it is published before the answer that made it so.

use std::{sync::Arc, time::Duration};

use shared::{
    InvalidWnid, Wnid,
    class_list::InvalidRow,
    ids::SessionId,
    job::JobStatus,
    outcome::{Failure, FailureKind, Outcome},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, MissedTickBehavior},
};

use crate::{
    failure_log::{self, FailureLog, FailureLogError},
    lease_table::{Ended, Lease, LeaseTable, MAX_LOSSES, NameTaken, Registered, UnknownSession, Verdict},
    ledger::{Entry, Record, Writer},
    tally::Tally,
};

/// Commands that may wait; more senders than that wait in turn.
const QUEUE: usize = 256;
/// How often sessions are looked at for expiry.
const TICK: Duration = Duration::from_secs(1);

/// A worker that left because it could not go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerStopped {
    /// The worker's name.
    pub name: String,
    /// One sentence for people.
    pub reason: String,
}

/// Why a command has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DispatchError {
    /// The worker must register again.
    #[error(transparent)]
    UnknownSession(#[from] UnknownSession),
    /// Another worker has the name.
    #[error(transparent)]
    NameTaken(#[from] NameTaken),
    /// The coordinator is at its end.
    #[error("reach the dispatcher: it has stopped")]
    Stopped,
}

/// A class's outcome, as a worker reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reported {
    /// What it was leased under.
    pub lease: Lease,
    /// How it ended.
    pub outcome: Outcome,
}

type Reply<T> = oneshot::Sender<T>;

enum Command {
    Register { worker: String, instance: Vec<u8>, held: Vec<Lease>, reply: Reply<Result<Registered, NameTaken>> },
    Renew { session: SessionId, held: Vec<Lease>, received: u64, reply: Reply<Result<Vec<Wnid>, UnknownSession>> },
    Acquire { session: SessionId, max: usize, reply: Reply<Result<Vec<Lease>, UnknownSession>> },
    Report { session: SessionId, results: Vec<Reported>, reply: Reply<Result<(), UnknownSession>> },
    Leave { session: SessionId, reason: Option<String>, reply: Reply<()> },
    HeardOf { span: Duration, reply: Reply<usize> },
}

/// The way to the dispatcher. Clones lead to the same one.
#[derive(Debug, Clone)]
pub struct DispatcherHandle {
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<JobStatus>,
    stopped: watch::Receiver<Option<WorkerStopped>>,
    tally: Arc<Tally>,
}

impl DispatcherHandle {
    /// Opens a session, or finds it; says what to give up.
    ///
    /// # Errors
    /// [`DispatchError`].
    pub async fn register(
        &self,
        worker: String,
        instance: Vec<u8>,
        held: Vec<Lease>,
    ) -> Result<(SessionId, Vec<Wnid>), DispatchError> {
        let registered = self.ask(|reply| Command::Register { worker, instance, held, reply }).await??;
        Ok((registered.session, registered.drop))
    }

    /// Keeps a session alive; says what to give up.
    ///
    /// # Errors
    /// [`DispatchError`].
    pub async fn renew(&self, session: SessionId, held: Vec<Lease>, received: u64) -> Result<Vec<Wnid>, DispatchError> {
        Ok(self.ask(|reply| Command::Renew { session, held, received, reply }).await??)
    }

    /// Leases up to `max` classes; does not wait for any to turn up. If the caller goes away before it has the answer, the
    /// leases go back at once.
    ///
    /// # Errors
    /// [`DispatchError`].
    pub async fn acquire(&self, session: SessionId, max: usize) -> Result<Vec<Lease>, DispatchError> {
        Ok(self.ask(|reply| Command::Acquire { session, max, reply }).await??)
    }

    /// Settles classes. All results are dealt with when this returns, also for a session that is not known: good news is
    /// believed from anyone.
    ///
    /// # Errors
    /// [`DispatchError`].
    pub async fn report(&self, session: SessionId, results: Vec<Reported>) -> Result<(), DispatchError> {
        Ok(self.ask(|reply| Command::Report { session, results, reply }).await??)
    }

    /// Ends a session; what it had is pending again. A reason says that the worker could not go on.
    ///
    /// # Errors
    /// [`DispatchError::Stopped`].
    pub async fn leave(&self, session: SessionId, reason: Option<String>) -> Result<(), DispatchError> {
        self.ask(|reply| Command::Leave { session, reason, reply }).await
    }

    /// How many of the workers that have not left were heard of within the last `span`.
    ///
    /// # Errors
    /// [`DispatchError::Stopped`].
    pub async fn heard_of(&self, span: Duration) -> Result<usize, DispatchError> {
        self.ask(|reply| Command::HeardOf { span, reply }).await
    }

    /// The job's counts now.
    pub fn status(&self) -> JobStatus {
        *self.status.borrow()
    }

    /// The job's counts, whenever they change.
    pub fn watch(&self) -> watch::Receiver<JobStatus> {
        self.status.clone()
    }

    /// What has happened since the start.
    pub fn tally(&self) -> &Arc<Tally> {
        &self.tally
    }

    /// Whether the dispatcher answers at all.
    pub async fn answers(&self) -> bool {
        self.heard_of(Duration::ZERO).await.is_ok()
    }

    /// The last worker that could not go on.
    pub fn watch_stopped(&self) -> watch::Receiver<Option<WorkerStopped>> {
        self.stopped.clone()
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, DispatchError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| DispatchError::Stopped)?;
        answer.await.map_err(|_| DispatchError::Stopped)
    }
}

/// See the module.
#[derive(Debug)]
pub struct Dispatcher {
    table: LeaseTable,
    log: FailureLog,
    ledger: Writer,
    commands: mpsc::Receiver<Command>,
    status: watch::Sender<JobStatus>,
    stopped: watch::Sender<Option<WorkerStopped>>,
    tally: Arc<Tally>,
}

impl Dispatcher {
    /// A dispatcher that waits to be run, and the way to it. The invalid rows, which the table counts as failed, go to the
    /// log. Results are answered when the ledger has them.
    pub fn new(table: LeaseTable, log: FailureLog, ledger: Writer, invalid: &[InvalidRow]) -> (Self, DispatcherHandle) {
        let (sender, commands) = mpsc::channel(QUEUE);
        let (status, status_receiver) = watch::channel(table.status());
        let (stopped, stopped_receiver) = watch::channel(None);
        let tally = Arc::<Tally>::default();
        let mut dispatcher = Self { table, log, ledger, commands, status, stopped, tally: Arc::clone(&tally) };
        for row in invalid {
            let failure = Failure::new(FailureKind::InvalidWnid, format!("line {}: {InvalidWnid}", row.line));
            tracing::warn!("{} failed: {failure}", failure_log::shown(row));
            complain(dispatcher.log.write_invalid(row, &failure));
        }
        (dispatcher, DispatcherHandle { commands: sender, status: status_receiver, stopped: stopped_receiver, tally })
    }

    /// Answers commands until the last handle is gone.
    pub async fn run(mut self) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let entry = tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => self.answer(command),
                    None => return,
                },
                now = ticks.tick() => {
                    let ended = self.table.expire(now);
                    self.tally.expired_sessions.inc_by(ended.len() as u64);
                    let given_up = ended.iter().flat_map(|ended| self.session_ended(ended, "was silent for too long"));
                    Entry::unconfirmed(given_up.collect())
                }
            };
            self.publish();
            if let Some(entry) = entry {
                self.ledger.write(entry).await;
            }
        }
    }

    /// Deals with a command; what it has settled is for the ledger, which confirms it.
    fn answer(&mut self, command: Command) -> Option<Entry> {
        let now = Instant::now();
        match command {
            Command::Register { worker, instance, held, reply } => {
                let registered = self.table.register(&worker, &instance, &held, now);
                let given_up = self.registered(&worker, held.len(), &registered);
                self.send(reply, registered);
                return Entry::unconfirmed(given_up);
            }
            Command::Renew { session, held, received, reply } => {
                let drop = self.table.renew(session, &held, received, now);
                self.send(reply, drop);
            }
            Command::Acquire { session, max, reply } => {
                let leases = self.table.acquire(session, max, now);
                if let Some(Ok(leases)) = self.send(reply, leases) {
                    self.table.take_back(session, &leases);
                }
            }
            Command::Report { session, results, reply } => {
                let records = results.into_iter().filter_map(|reported| self.settle(reported)).collect();
                let answer = self.table.known(session);
                // A worker that is gone by then will hear it when it asks again.
                let confirm = move || reply.send(answer).unwrap_or_default();
                return Some(Entry { records, finished: false, durable: Some(Box::new(confirm)) });
            }
            Command::Leave { session, reason, reply } => {
                if let Ok(ended) = self.table.leave(session) {
                    self.worker_left(ended, reason);
                } else {
                    tracing::debug!(session = session.0, "a session left that had ended");
                }
                self.send(reply, ());
            }
            Command::HeardOf { span, reply } => {
                let heard_of = self.table.heard_of(span, now);
                self.send(reply, heard_of);
            }
        }
        None
    }

    /// Tells of a registration; gives the classes that are settled as failed by it.
    fn registered(&mut self, worker: &str, held: usize, registered: &Result<Registered, NameTaken>) -> Vec<Record> {
        match registered {
            Ok(Registered { session, replaced, .. }) => {
                tracing::info!(worker, session = session.0, held, "registered");
                replaced.as_ref().map(|ended| self.session_ended(ended, "was started again")).unwrap_or_default()
            }
            Err(taken) => {
                tracing::warn!("a worker was refused: {taken}");
                Vec::new()
            }
        }
    }

    /// Settles a class; gives the record if that is news.
    fn settle(&mut self, Reported { lease, outcome }: Reported) -> Option<Record> {
        let wnid = lease.wnid;
        let verdict = self.table.report(lease, &outcome);
        match (verdict, &outcome) {
            (Verdict::Settled, Outcome::Failed(failure)) => self.log_failure(wnid, failure),
            (Verdict::Settled | Verdict::Corrected, Outcome::Success(published)) => {
                tracing::info!(files = published.files, bytes = published.bytes, "{wnid} success");
            }
            (Verdict::Settled | Verdict::Corrected, Outcome::Skipped(published)) => {
                tracing::info!(files = published.files, bytes = published.bytes, "{wnid} skipped");
            }
            _ => tracing::debug!(token = %lease.token, ?verdict, "{wnid} reported, and nothing changed"),
        }
        if verdict == Verdict::Corrected {
            complain(self.log.withdraw(wnid));
        }
        matches!(verdict, Verdict::Settled | Verdict::Corrected).then_some(Record { wnid, outcome })
    }

    /// Tells of a session that ended; gives the classes that are settled as failed by that.
    fn session_ended(&mut self, ended: &Ended, why: &str) -> Vec<Record> {
        if ended.returned > 0 || !ended.given_up.is_empty() {
            tracing::warn!("worker {} {why}: {} of its classes go to others", ended.worker, ended.returned);
        } else {
            tracing::info!("worker {} {why}", ended.worker);
        }
        let given_up = ended.given_up.iter().map(|wnid| {
            let message = format!("the lease was lost {MAX_LOSSES} times or more; its workers crashed or were cut off");
            let failure = Failure::new(FailureKind::LeaseLost, message);
            self.log_failure(*wnid, &failure);
            Record { wnid: *wnid, outcome: Outcome::Failed(failure) }
        });
        given_up.collect()
    }

    fn worker_left(&mut self, ended: Ended, reason: Option<String>) {
        if let Some(reason) = reason {
            // Whoever watches tells people; of the worker in this process they hear from itself.
            tracing::info!("worker {} stopped: {reason}", ended.worker);
            self.stopped.send_replace(Some(WorkerStopped { name: ended.worker, reason }));
        } else {
            tracing::info!(returned = ended.returned, "worker {} left", ended.worker);
        }
    }

    fn log_failure(&mut self, wnid: Wnid, failure: &Failure) {
        tracing::warn!("{wnid} failed: {failure}");
        complain(self.log.write(wnid, failure));
    }

    /// Publishes and answers, in this order; gives the answer back if nobody waits for it any more.
    fn send<T>(&self, reply: Reply<T>, answer: T) -> Option<T> {
        self.publish();
        reply.send(answer).err()
    }

    fn publish(&self) {
        let status = self.table.status();
        self.status.send_if_modified(|published| std::mem::replace(published, status) != status);
    }
}

fn complain(written: Result<(), FailureLogError>) {
    if let Err(error) = written {
        tracing::warn!("failed to {error}");
    }
}

#[cfg(test)]
mod tests {
    use shared::outcome::Published;
    use tokio::task::JoinSet;

    use super::*;

    const TTL: Duration = Duration::from_secs(30);

    struct Running {
        handle: DispatcherHandle,
        folder: tempfile::TempDir,
        _task: JoinSet<()>,
    }

    impl Running {
        fn start(count: u32, invalid: &[InvalidRow]) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let wnids: Vec<Wnid> = (1..=count).map(|number| format!("n{number:08}").parse().unwrap()).collect();
            let table = LeaseTable::new(&wnids, invalid.len() as u64, 1, TTL);
            let mut task = JoinSet::new();
            let log = FailureLog::create(folder.path()).unwrap();
            let (dispatcher, handle) = Dispatcher::new(table, log, Writer::to_nowhere(&mut task), invalid);
            task.spawn(dispatcher.run());
            Self { handle, folder, _task: task }
        }

        async fn session(&self, name: &str) -> SessionId {
            self.handle.register(name.to_owned(), name.into(), vec![]).await.unwrap().0
        }

        fn log(&self) -> String {
            std::fs::read_to_string(self.folder.path().join(failure_log::NAME)).unwrap()
        }
    }

    fn failed(lease: Lease) -> Reported {
        Reported { lease, outcome: Outcome::Failed(Failure::new(FailureKind::Timeout, "Request timeout after 120s")) }
    }

    fn success(lease: Lease) -> Reported {
        Reported { lease, outcome: Outcome::Success(Published { files: 2, bytes: 10_240 }) }
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_runs_to_its_end_and_the_log_names_what_failed() {
        let invalid = [InvalidRow { line: 4, value: "cat".to_owned(), after: 2 }];
        let running = Running::start(2, &invalid);
        let session = running.session("host").await;
        let leases = running.handle.acquire(session, 5).await.unwrap();
        running.handle.renew(session, leases.clone(), 77).await.unwrap();
        running.handle.report(session, vec![success(leases[0]), failed(leases[1])]).await.unwrap();
        running.handle.report(session, vec![failed(leases[1])]).await.unwrap();
        running.handle.leave(session, None).await.unwrap();
        let expected = JobStatus { total: 3, success: 1, failed: 2, received_bytes: 77, ..JobStatus::default() };
        assert_eq!(running.handle.status(), expected);
        assert_eq!(
            running.log(),
            "cat - InvalidWnid: line 4: not a WordNet id (n and eight digits, like n02124075)\n\
             n00000002 - Timeout: Request timeout after 120s\n"
        );
        let late = running.handle.report(session, vec![success(leases[1])]).await;
        assert_eq!(late, Err(UnknownSession.into()));
        assert_eq!(running.log().lines().count(), 1, "late good news takes the line out again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_worker_loses_its_leases_and_the_watchers_hear_of_it() {
        let running = Running::start(1, &[]);
        let session = running.session("host").await;
        let leases = running.handle.acquire(session, 1).await.unwrap();
        let start = Instant::now();
        running.handle.watch().wait_for(|status| status.pending == 1).await.unwrap();
        let waited = start.elapsed();
        assert!(waited >= TTL + Duration::from_secs(10) && waited <= TTL + Duration::from_secs(12), "{waited:?}");
        assert_eq!(running.handle.renew(session, leases, 0).await, Err(UnknownSession.into()));
    }

    #[tokio::test(start_paused = true)]
    async fn leases_whose_receiver_went_away_are_pending_at_once() {
        let running = Running::start(1, &[]);
        let session = running.session("host").await;
        let (reply, answer) = oneshot::channel();
        drop(answer);
        running.handle.commands.send(Command::Acquire { session, max: 1, reply }).await.unwrap();
        running.handle.leave(SessionId(0), None).await.unwrap();
        assert_eq!((running.handle.status().leased, running.handle.status().pending), (0, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_cannot_go_on_says_why() {
        let running = Running::start(1, &[]);
        let session = running.session("host").await;
        running.handle.leave(session, Some("the disk is full".to_owned())).await.unwrap();
        let stopped = WorkerStopped { name: "host".to_owned(), reason: "the disk is full".to_owned() };
        assert_eq!(*running.handle.watch_stopped().borrow(), Some(stopped));
        assert_eq!(running.handle.status().workers, 0);
    }
}
