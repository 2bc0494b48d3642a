//! The dispatcher: one task that owns the lease table and the concurrency controller. Other tasks
//! send it commands and wait for the answers. It does no file I/O: the ledger's thread writes the
//! ledger and the failure log.
//!
//! Invariants: the published status is the table's, and it is published before the answer to the
//! command that changed it. Leases expire by the time in which this task was running; time in which
//! the process was suspended does not count.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use shared::{ids::SessionId, refused_sample::OriginRefuses};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior},
};

use crate::{
    concurrency::ConcurrencyController,
    counters::JobCounters,
    fleet::LimitChanges,
    lease_table::{Granted, LeaseTable, Mark, ReportedLease, UnknownSession},
    ledger::{Entry, Record, Writer},
    running_time::{RunningTime, TimeOfDay},
    time_left::TimeLeft,
};

mod classes;
mod concurrency;
mod handle;
mod live_view;
mod log;
mod published;
mod refusals;
mod report;
mod sessions;

pub use classes::{NotInList, Retried};
use handle::{Command, Reply};
pub use handle::{DispatchError, DispatcherHandle};
use log::DispatcherLog;
use published::Published;
pub use report::{Receipt, Reported, Reporter};
pub use sessions::{Renewal, WorkerStopped};

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
    time_of_day: TimeOfDay,
    controller: ConcurrencyController,
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
    limit_changes: watch::Sender<LimitChanges>,
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
        let (mark, marks) = watch::channel(Mark::default());
        let now = Instant::now();
        let dispatcher = Self {
            published: Published::from_table(&table, &controller),
            table,
            time: RunningTime::starting_at(now),
            time_of_day: TimeOfDay::starting_at(now, SystemTime::now()),
            controller,
            time_left: TimeLeft::new(now),
            ledger,
            commands,
            stopped: watch::Sender::new(None),
            own_worker: None,
            mark,
            marks,
            refuses: watch::Sender::new(None),
            limit_changes: watch::Sender::default(),
            log: DispatcherLog::default(),
            counters: Arc::default(),
        };
        let handle = DispatcherHandle::of(&dispatcher, sender);
        (dispatcher, handle)
    }

    /// Sets the origin's address for messages, and the name of the worker in this process. If there
    /// is none, the dispatcher logs why workers have received no response from the origin yet; a
    /// worker in this process logs that itself.
    #[must_use]
    pub fn with_origin(self, origin: String, own_worker: Option<String>) -> Self {
        Self {
            log: DispatcherLog::of(origin, own_worker.is_none()),
            own_worker,
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
                command = self.commands.recv() => {
                    let Some(command) = command else { return };
                    self.update_mark();
                    // The clock is read at each event, whatever the command needs.
                    self.lease_now();
                    command(&mut self)
                }
                _ = ticks.tick() => self.tick(),
            };
            entry.records.extend(self.take_given_up());
            if let Some(mark) = self.table.take_mark() {
                entry = self.raise_mark(entry, mark);
            }
            entry.forgotten.extend(self.table.take_unsettled());
            if self.table.status().is_done() && !self.published.is_done() {
                self.log.log_rest(Instant::now());
                entry = self.publish_done_when_recorded(entry);
            }
            self.log_notices();
            self.publish();
            if !entry.is_empty() {
                self.ledger.write(entry).await;
            }
        }
    }

    /// The current time on the clock of the leases.
    fn lease_now(&mut self) -> Instant {
        let before = self.time.absent();
        let lease_now = self.time.at(Instant::now());
        let absent = self.time.absent().saturating_sub(before);
        if absent >= LOGGED_SUSPENSION {
            let seconds = absent.as_secs();
            tracing::warn!(
                "the coordinator stood still for {seconds} s; this does not count as silence of its workers"
            );
        }
        lease_now
    }

    fn tick(&mut self) -> Entry {
        let lease_now = self.lease_now();
        let now = Instant::now();
        let ended = self.table.tick(lease_now);
        self.counters.expired_sessions.inc_by(ended.len() as u64);
        let mut entry = Entry::default();
        for ended in ended {
            self.session_ended(&ended, "was silent for too long");
            entry.closed.push(ended.worker);
        }
        self.log.tick(now);
        self.controller.tick(now);
        let left = self.time_left.tick(self.table.remaining_bytes(), now);
        self.table.set_time_left(left);
        self.table
            .look_for_stragglers(!self.concurrency_status().pause.is_zero(), lease_now);
        entry
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
    fn publish_done_when_recorded(&mut self, entry: Entry) -> Entry {
        entry.confirming_first(self.published.publish_done_later(&self.table))
    }

    /// Classes before the mark may be granted once the ledger has stored the mark.
    fn raise_mark(&self, entry: Entry, mark: Mark) -> Entry {
        let durable = self.mark.clone();
        let granted = Some(mark.clone());
        let entry = entry.confirming_first(move || {
            durable.send_replace(mark);
        });
        Entry { granted, ..entry }
    }

    /// Leases classes. They are pending again if the receiver of the answer is gone.
    fn acquire(
        &mut self,
        session: SessionId,
        max: usize,
        held: &[ReportedLease],
        reply: Reply<Result<Granted, UnknownSession>>,
    ) -> Entry {
        let lease_now = self.lease_now();
        self.table.learn_lengths(session, held);
        let granted = self.table.acquire(session, max, lease_now);
        if let Some(Ok(granted)) = self.send(reply, granted) {
            self.table.take_back(session, &granted.leases);
        }
        Entry::default()
    }

    fn update_mark(&mut self) {
        let mark = self.marks.borrow_and_update().clone();
        self.table.mark_is_durable(mark);
    }

    fn publish(&mut self) {
        self.published.publish_counts(&self.table);
        self.published.publish_concurrency(&self.controller);
    }

    /// Publishes the counts, then sends the answer. Returns the answer if the receiver is gone.
    fn send<T>(&mut self, reply: Reply<T>, answer: T) -> Option<T> {
        self.publish();
        reply.send(answer).err()
    }
}

#[cfg(test)]
mod tests;
