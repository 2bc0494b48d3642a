//! The dispatcher: one task that owns the lease table and the concurrency controller. Other tasks
//! send it commands and wait for the answers. It does no file I/O: the ledger's thread writes the
//! ledger and the failure log.
//!
//! Invariants: the published status is the table's, and it is published before the answer to the
//! command that changed it. Leases expire by the time in which this task was running; time in which
//! the process was suspended does not count.

use std::{sync::Arc, time::Duration};

use shared::{Wnid, outcome::Outcome, refused_sample::OriginRefuses};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior},
};

use crate::{
    concurrency::ConcurrencyController,
    counters::JobCounters,
    fleet::Fleet,
    lease_table::{LeaseTable, Mark, ReportVerdict},
    ledger::{Entry, Record, Writer},
    running_time::RunningTime,
    time_left::TimeLeft,
};

mod classes;
mod concurrency;
mod handle;
mod log;
mod published;
mod refusals;
mod sessions;

use concurrency::BudgetPublisher;
use handle::{Command, Reply};
pub use handle::{
    DispatchError, DispatcherHandle, NotInList, Receipt, Renewal, Reported, Reporter, Retried,
    WorkerStopped,
};
use log::DispatcherLog;
use published::Published;

/// Capacity of the command queue. When it is full, senders wait.
const QUEUE: usize = 256;
/// Interval at which sessions are checked for expiry and the concurrency controller is advanced.
const TICK: Duration = Duration::from_secs(1);
/// Shorter suspensions of the process are not logged.
const LOGGED_SUSPENSION: Duration = Duration::from_secs(3);

/// The task that owns all state of the job.
#[derive(Debug)]
pub struct Dispatcher {
    table: LeaseTable,
    /// The lease table's clock, which excludes suspensions. The concurrency controller uses real
    /// time, because transfers and the origin's waits continue during a suspension.
    time: RunningTime,
    pacing: BudgetPublisher,
    time_left: TimeLeft,
    ledger: Writer,
    commands: mpsc::Receiver<Command>,
    published: Published,
    stopped: watch::Sender<Option<WorkerStopped>>,
    /// The name of the worker in this process.
    own_worker: Option<String>,
    /// The high-water mark of grants that is durable in the ledger.
    mark: watch::Sender<Mark>,
    marks: watch::Receiver<Mark>,
    refuses: watch::Sender<Option<OriginRefuses>>,
    log: DispatcherLog,
    counters: Arc<JobCounters>,
}

impl Dispatcher {
    /// Creates a dispatcher and its handle. Results are answered once the ledger has stored them.
    pub fn new(
        table: LeaseTable,
        controller: ConcurrencyController,
        ledger: Writer,
    ) -> (Self, DispatcherHandle) {
        let (sender, commands) = mpsc::channel(QUEUE);
        let published = Published::of(&table);
        let (stopped, stopped_receiver) = watch::channel(None);
        let (refuses, refuses_receiver) = watch::channel(None);
        let (pacing, budgets, pace) = BudgetPublisher::new(controller);
        let counters = Arc::<JobCounters>::default();
        let handle = DispatcherHandle {
            commands: sender,
            status: published.watch_status(),
            phase: published.watch_phase(),
            turn: published.watch_turn(),
            stopped: stopped_receiver,
            refuses: refuses_receiver,
            budgets,
            pace,
            counters: Arc::clone(&counters),
            stop_reason: Arc::default(),
        };
        let now = Instant::now();
        let time = RunningTime::starting_at(now);
        let time_left = TimeLeft::new(now);
        let (mark, marks) = watch::channel(Mark::default());
        let dispatcher = Self {
            table,
            time,
            pacing,
            time_left,
            ledger,
            commands,
            published,
            stopped,
            own_worker: None,
            mark,
            marks,
            refuses,
            log: DispatcherLog::default(),
            counters,
        };
        (dispatcher, handle)
    }

    /// Sets the name of the worker in this process.
    #[must_use]
    pub fn with_own_worker(self, own_worker: Option<String>) -> Self {
        Self { own_worker, ..self }
    }

    /// Sets the origin's address for messages. `logs_first_failure`: log why workers have received
    /// no response from the origin yet. A worker in this process logs this itself.
    #[must_use]
    pub fn with_origin(self, origin: String, logs_first_failure: bool) -> Self {
        let pacing = self.pacing.telling_of(origin.clone());
        Self {
            log: DispatcherLog::of(origin, logs_first_failure),
            pacing,
            ..self
        }
    }

    /// Processes commands until the last handle is dropped.
    pub async fn run(mut self) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let mut entry = tokio::select! {
                Ok(()) = self.marks.changed() => {
                    self.update_mark();
                    Entry::default()
                }
                command = self.commands.recv() => match command {
                    Some(command) => self.answer(command),
                    None => return,
                },
                _ = ticks.tick() => self.tick(),
            };
            entry.records.extend(self.take_given_up());
            if let Some(mark) = self.table.take_mark() {
                entry = self.raising(entry, mark);
            }
            entry.forgotten.extend(self.table.take_unsettled());
            if self.table.status().is_done() && !self.published.is_done() {
                self.log.rest(Instant::now());
                entry = self.finishing(entry);
            }
            self.log_notices();
            self.published.counts(&self.table);
            if !entry.is_empty() {
                self.ledger.write(entry).await;
            }
        }
    }

    /// The current time on the clock of the leases.
    fn running(&mut self) -> Instant {
        let before = self.time.absent();
        let running = self.time.at(Instant::now());
        let absent = self.time.absent().saturating_sub(before);
        if absent >= LOGGED_SUSPENSION {
            let seconds = absent.as_secs();
            tracing::warn!(
                "the coordinator stood still for {seconds} s; this does not count as silence of its workers"
            );
        }
        running
    }

    fn tick(&mut self) -> Entry {
        let running = self.running();
        let now = Instant::now();
        let ended = self.table.tick(running);
        self.counters.expired_sessions.inc_by(ended.len() as u64);
        let mut entry = Entry::default();
        for ended in ended {
            entry
                .records
                .extend(self.session_ended(&ended, "was silent for too long"));
            entry.closed.push(ended.worker);
        }
        self.log.tick(now);
        self.pacing.tick(now);
        let left = self.time_left.tick(self.table.remaining_bytes(), now);
        self.table.set_time_left(left);
        self.table
            .look_for_stragglers(!self.pacing.status(now).quiet.is_zero(), running);
        entry
    }

    /// Processes a command. The entry holds what it has settled; the ledger stores it and then
    /// sends the answer.
    fn answer(&mut self, command: Command) -> Entry {
        self.update_mark();
        let running = self.running();
        let now = Instant::now();
        match command {
            Command::Register {
                worker_info,
                held,
                reply,
            } => {
                return self.register(&worker_info, &held, reply, running);
            }
            Command::Renew {
                renewal:
                    Renewal {
                        session,
                        credential,
                        held,
                        received,
                    },
                reply,
            } => {
                let renewed = self.table.renew(session, &held, received, running);
                if renewed.is_ok() {
                    self.time_left.renewed(session, received);
                }
                let renamed =
                    credential.map(|credential| self.table.bind_credential(session, credential));
                self.send(reply, renewed);
                return Entry {
                    renamed: renamed.into_iter().collect(),
                    ..Entry::default()
                };
            }
            Command::Acquire {
                session,
                max,
                held,
                reply,
            } => {
                self.table.learn_lengths(session, &held);
                let granted = self.table.acquire(session, max, running);
                if let Some(Ok(granted)) = self.send(reply, granted) {
                    self.table.take_back(session, &granted.leases);
                }
            }
            Command::Report {
                reporter,
                results,
                reply,
            } => return self.reported(&reporter, results, reply, running),
            Command::Leave {
                session,
                reason,
                reply,
            } => {
                let left = self.left(session, reason);
                self.send(reply, ());
                return left;
            }
            Command::Observe {
                session,
                observation,
                reply,
            } => {
                let known = self.table.known(session);
                let budget = known.map(|()| {
                    self.time_left.received(session, observation.received);
                    self.table.has_received(session, observation.received);
                    self.pacing.observed(session, &observation, now)
                });
                self.send(reply, budget);
            }
            Command::FirstFailure { session, failure } => {
                if let Some(worker) = self.table.worker(session) {
                    self.log
                        .first_failure(worker, failure, self.table.status().success > 0);
                }
            }
            Command::Budget { session, reply } => {
                let budget = self
                    .table
                    .known(session)
                    .map(|()| self.pacing.budget(session, now));
                self.send(reply, budget);
            }
            Command::HeardOf { span, reply } => {
                self.send(reply, self.table.heard_of(span, running));
            }
            Command::Fleet { reply } => {
                let origin = self.pacing.status(now);
                let workers = self.table.workers(running);
                self.send(
                    reply,
                    Fleet {
                        job: self.table.status(),
                        phase: self.table.phase(),
                        origin,
                        workers,
                    },
                );
            }
            Command::Classes {
                state,
                after,
                reply,
            } => return self.list(state, after, reply),
            Command::Advice { reply } => {
                let status = self.table.status();
                let rows = status.total - self.table.invalid_rows();
                self.send(reply, self.log.advice(&status, rows));
            }
            Command::RetryFailed { wnids, reply } => return self.retry_failed(&wnids, reply),
            Command::Resume { reply } => {
                let left = self.pacing.resume(now);
                self.send(reply, left);
            }
            Command::DrainWorker { name, reply } => return self.drain(&name, reply),
        }
        Entry::default()
    }

    fn reported(
        &mut self,
        reporter: &Reporter,
        results: Vec<Reported>,
        reply: Reply<Receipt>,
        running: Instant,
    ) -> Entry {
        let session = reporter.session;
        let is_known = self.table.known(session).is_ok();
        self.table.has_sent_requests(session, reporter.requests);
        let mut receipt = Receipt {
            acked: Vec::new(),
            is_known,
        };
        let mut entry = Entry::default();
        for reported in results {
            let wnid = reported.lease.wnid;
            let is_acked = if reported.needs_lease {
                // For an unknown session the worker sends it again after it has registered.
                self.table.needs_lease(session, wnid).is_ok()
            } else {
                // A failure from an unknown session may still be accepted, once the worker has
                // registered with the lease that it holds. It is therefore not acknowledged.
                self.settle(reporter, reported, running, &mut entry) != ReportVerdict::Stale
                    || is_known
            };
            receipt.acked.extend(is_acked.then_some(wnid));
        }
        // If the worker is gone by then, it gets the answer to its next request.
        entry.confirming(move || drop(reply.send(receipt)))
    }

    fn retry_failed(&mut self, wnids: &[Wnid], reply: Reply<Result<Retried, NotInList>>) -> Entry {
        if let Some(wnid) = self.table.first_not_in_list(wnids) {
            self.send(reply, Err(NotInList(wnid)));
            return Entry::default();
        }
        let forgotten = self.table.retry_failed(wnids);
        tracing::info!(classes = forgotten.len(), "failed classes are tried again");
        let retried = Retried {
            classes: forgotten.len() as u64,
            invalid_rows: self.table.invalid_rows(),
        };
        Entry {
            forgotten,
            ..Entry::confirmed(move || reply.send(Ok(retried)).unwrap_or_default())
        }
    }

    /// Settles a class and all classes whose state depends on it. The changes go into the entry in
    /// the order in which they happened.
    fn settle(
        &mut self,
        reporter: &Reporter,
        Reported { lease, outcome, .. }: Reported,
        running: Instant,
        entry: &mut Entry,
    ) -> ReportVerdict {
        let wnid = lease.wnid;
        let session = reporter.session;
        let position = self.table.position_in_tar(session, wnid);
        let verdict = self
            .table
            .report(session, lease, &outcome, running, rand::random());
        if let (ReportVerdict::Settled, Outcome::Success(published)) = (verdict, &outcome) {
            self.time_left
                .completed(session, published.bytes.saturating_sub(position));
        }
        // After a restart of the coordinator a result may arrive before its worker has registered
        // again.
        let worker = self
            .table
            .worker(session)
            .or(reporter.name.as_deref())
            .map(str::to_owned);
        match (verdict, &outcome) {
            (ReportVerdict::Settled, Outcome::Failed(failure)) => self.log.failed(wnid, failure),
            (ReportVerdict::Settled | ReportVerdict::Corrected, Outcome::Success(published)) => {
                tracing::info!(
                    worker,
                    files = published.files,
                    bytes = published.bytes,
                    "{wnid} success"
                );
            }
            (ReportVerdict::Settled | ReportVerdict::Corrected, Outcome::Skipped(published)) => {
                tracing::info!(
                    worker,
                    files = published.files,
                    bytes = published.bytes,
                    "{wnid} skipped"
                );
            }
            (ReportVerdict::Retried, Outcome::Failed(failure)) => {
                tracing::info!("{wnid} failed, and another worker will try it: {failure}");
            }
            (ReportVerdict::AttemptFailed, Outcome::Failed(failure)) => {
                tracing::info!("a copy of {wnid} failed: {failure}");
            }
            (ReportVerdict::Doubted | ReportVerdict::Excused, Outcome::Failed(failure)) => {
                tracing::info!("{wnid} failed, which may be the origin's fault: {failure}");
            }
            _ => {
                tracing::debug!(token = %lease.token, ?verdict, "{wnid} reported, and nothing changed");
            }
        }
        if verdict == ReportVerdict::Corrected {
            entry.corrected.push(wnid);
        }
        if matches!(verdict, ReportVerdict::Settled | ReportVerdict::Corrected) {
            entry.records.push(Record {
                wnid,
                outcome,
                worker,
            });
        }
        entry.records.extend(self.take_given_up());
        verdict
    }

    /// Classes that failed without a report about them.
    fn take_given_up(&mut self) -> Vec<Record> {
        let given_up = self.table.take_given_up();
        given_up
            .into_iter()
            .map(|(wnid, failure)| self.given_up_record(wnid, failure))
            .collect()
    }

    /// The end of the job is published once the ledger has stored it. Otherwise workers could
    /// leave, and a restarted coordinator would find pending classes that no worker is left for.
    fn finishing(&mut self, entry: Entry) -> Entry {
        entry.confirming_first(self.published.finishing(&self.table))
    }

    /// Classes before the mark may be granted once the ledger has stored the mark.
    fn raising(&self, entry: Entry, mark: Mark) -> Entry {
        let durable = self.mark.clone();
        let granted = Some(mark.clone());
        let entry = entry.confirming_first(move || {
            durable.send_replace(mark);
        });
        Entry { granted, ..entry }
    }

    fn update_mark(&mut self) {
        let mark = self.marks.borrow_and_update().clone();
        self.table.mark_is_durable(mark);
    }

    /// Publishes the counts, then sends the answer. Returns the answer if the receiver is gone.
    fn send<T>(&mut self, reply: Reply<T>, answer: T) -> Option<T> {
        self.published.counts(&self.table);
        reply.send(answer).err()
    }
}

#[cfg(test)]
mod tests;
