//! The task that makes snapshots and updates: select, event, handle.
//!
//! Once a second it adds a point to the history, from values that the dispatcher publishes anyway.
//! Only while a stream is open does it also ask the dispatcher for a view, compare it with the one
//! before, and send the difference. A question about the current state is answered from a view that
//! is at most a second old.

use std::{
    mem,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use serde::Serialize;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use super::{
    JobFacts,
    composing::Facts,
    end_range::EndRange,
    failures::GroupedFailures,
    history::{Mark, Point, PointLevels, of_past},
    list::List,
    sentence::why_changed,
    snapshot::{Snapshot, Update},
    viewers::Viewers,
};
use crate::{
    dispatcher::{DispatchError, DispatcherHandle},
    fleet::{LiveView, Phase, unix_milliseconds},
    ledger::Ledger,
};

/// Interval of points of the history and of updates.
const TICK: Duration = Duration::from_secs(1);
/// Even if nothing changes, a stream gets an event this often.
const LONGEST_SILENCE: Duration = Duration::from_secs(5);
/// A view that is older than this is not used again.
const MAX_AGE: Duration = Duration::from_millis(950);
/// Maximum wait for the ledger, in case its disk hangs.
const READ_LIMIT: Duration = Duration::from_secs(5);
/// The same at the end of the job, within [`super::FINISH_LIMIT`].
const LAST_READ_LIMIT: Duration = Duration::from_millis(500);

/// A request to the publisher.
#[derive(Debug)]
pub(super) enum Request {
    /// A new stream.
    Subscribe(mpsc::Sender<Bytes>),
    /// The current state.
    Current(oneshot::Sender<Arc<Current>>),
    /// The last state is to be sent now; answered when it is.
    Finish(oneshot::Sender<()>),
}

/// The state at one moment.
#[derive(Debug)]
pub(super) struct Current {
    pub(super) view: LiveView,
    pub(super) snapshot: Snapshot,
    made: Instant,
    /// The snapshot as JSON and as an event, each made for the first viewer that needs it.
    json: OnceLock<Bytes>,
    event: OnceLock<Bytes>,
}

/// The state of the task.
#[derive(Debug)]
pub(super) struct Publisher {
    handle: DispatcherHandle,
    facts: JobFacts,
    list: Arc<List>,
    history: PointLevels,
    ends: EndRange,
    failures: GroupedFailures,
    started: SystemTime,
    ended: Option<SystemTime>,
    seq: u64,
    current: Option<Arc<Current>>,
    viewers: Viewers,
    sent: Instant,
    snapshots: watch::Sender<Option<Bytes>>,
}

impl Publisher {
    /// A publisher, and the receiver of the last snapshot as JSON.
    pub(super) fn new(
        handle: DispatcherHandle,
        facts: JobFacts,
        list: Arc<List>,
    ) -> (Self, watch::Receiver<Option<Bytes>>) {
        let (snapshots, last_snapshot) = watch::channel(None);
        let publisher = Self {
            handle,
            list,
            facts,
            history: PointLevels::default(),
            ends: EndRange::default(),
            failures: GroupedFailures::default(),
            started: SystemTime::now(),
            ended: None,
            seq: 0,
            current: None,
            viewers: Viewers::default(),
            sent: Instant::now(),
            snapshots,
        };
        (publisher, last_snapshot)
    }

    /// Serves requests until the dispatcher ends, or the last state was sent.
    pub(super) async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        self.restore().await;
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut phase = self.handle.watch_phase();
        loop {
            let handled = tokio::select! {
                request = requests.recv() => match request {
                    Some(Request::Finish(done)) => {
                        self.finish().await;
                        if done.send(()).is_err() {
                            tracing::debug!("the end of the job did not wait for the viewers");
                        }
                        return;
                    }
                    Some(request) => self.answer(request).await,
                    None => return,
                },
                _ = ticks.tick() => self.publish().await,
                Ok(()) = phase.changed() => {
                    let is_done = *phase.borrow_and_update() == Phase::Done;
                    if is_done { self.publish().await } else { Ok(()) }
                }
            };
            if let Err(DispatchError::Stopped) = handled {
                self.finish().await;
                return;
            }
        }
    }

    /// Restores the history from the ledger.
    async fn restore(&mut self) {
        let read = self.handle.read_ledger(Ledger::past);
        let Ok(Ok(past)) = timeout(READ_LIMIT, read).await else {
            tracing::debug!("the history of the run begins now: the ledger did not answer");
            return;
        };
        let time = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        self.started = past.started.map_or(self.started, time);
        self.ended = past.finished.map(time);
        self.history = PointLevels::restored(of_past(&past.spans));
    }

    /// Adds a second to the history. After the end of the job nothing is added.
    fn sample(&mut self) {
        let status = self.handle.status();
        if status.is_done() {
            self.ended.get_or_insert_with(SystemTime::now);
            return;
        }
        self.ends.add(status.time_left, Instant::now());
        let origin = self.handle.concurrency_status();
        self.history.add(Point {
            at: unix_milliseconds(SystemTime::now()) / 1000,
            bytes_per_second: origin.bytes_per_second,
            limit: Some(origin.limit),
            open: Some(origin.open),
            settled: status.settled(),
        });
    }

    async fn answer(&mut self, request: Request) -> Result<(), DispatchError> {
        match request {
            Request::Subscribe(queue) => {
                let current = self.current().await?;
                self.viewers.add(queue);
                self.viewers.send(None, || current.event());
            }
            Request::Current(reply) => {
                let current = self.current().await?;
                drop(reply.send(current));
            }
            Request::Finish(_) => {}
        }
        Ok(())
    }

    /// The current state. It is made anew if it is old; while streams are open, each tick makes it.
    async fn current(&mut self) -> Result<Arc<Current>, DispatchError> {
        let is_fresh =
            |current: &&Arc<Current>| current.made.elapsed() < MAX_AGE || !self.viewers.is_empty();
        if let Some(current) = self.current.as_ref().filter(is_fresh) {
            return Ok(Arc::clone(current));
        }
        self.make(READ_LIMIT).await
    }

    /// Adds to the history. If streams are open, makes a snapshot and sends the difference to the
    /// one before.
    async fn publish(&mut self) -> Result<(), DispatchError> {
        self.sample();
        self.viewers.remove_closed();
        if self.viewers.is_empty() {
            return Ok(());
        }
        let before = self.current.clone();
        let current = self.make(READ_LIMIT).await?;
        self.send(before.as_deref(), &current);
        Ok(())
    }

    fn send(&mut self, before: Option<&Current>, current: &Current) {
        let update = before.map(|before| Update::between(&before.snapshot, &current.snapshot));
        let is_due = self.sent.elapsed() >= LONGEST_SILENCE;
        let update = update.filter(|update| is_due || !update.is_empty());
        let Snapshot { epoch, seq, .. } = current.snapshot;
        let update = update.map(|update| event("update", epoch, seq, &json(&update)));
        if update.is_some() {
            self.sent = Instant::now();
        }
        self.viewers.send(update.as_ref(), || current.event());
    }

    /// Makes a snapshot of the dispatcher's current view. Waits for the ledger at most for the
    /// given time.
    async fn make(&mut self, read_limit: Duration) -> Result<Arc<Current>, DispatchError> {
        let view = self.handle.live_view().await?;
        let now = Instant::now();
        if self.failures.is_due(&view.letters, now) {
            let read = self.handle.read_ledger(Ledger::failure_groups);
            match timeout(read_limit, read).await {
                Ok(Ok(groups)) => self.failures.replace(groups, &view.letters, now),
                // The cause is logged; the groups as last read stay.
                _ => self.failures.not_read(now),
            }
        }
        Ok(self.made_of(view))
    }

    fn made_of(&mut self, view: LiveView) -> Arc<Current> {
        self.seq += 1;
        // The view is done a moment before the end is published, which waits for the ledger.
        if view.fleet.job.is_done() {
            self.ended.get_or_insert_with(SystemTime::now);
        } else {
            self.ended = None;
        }
        let changes = self.handle.limit_changes();
        let marks = changes.iter().map(|change| Mark {
            at_ms: unix_milliseconds(change.at),
            limit: change.limit,
            why: why_changed(change),
        });
        let time_left = view.fleet.job.time_left;
        let facts = Facts {
            run_id: &self.facts.run_id,
            epoch: self.facts.epoch,
            seq: self.seq,
            now: SystemTime::now(),
            started: self.started,
            ended: self.ended,
            time_left_range: time_left.map(|left| self.ends.around(left, Instant::now())),
            is_stopping: self.facts.stopping.is_cancelled(),
            groups: &self.failures.groups,
            changes: &changes,
            points: self.history.points(),
            marks: marks.collect(),
            list: &self.list,
            command: &self.facts.retry_command,
        };
        let snapshot = Snapshot::of(&view, facts);
        let current = Arc::new(Current {
            view,
            snapshot,
            made: Instant::now(),
            json: OnceLock::new(),
            event: OnceLock::new(),
        });
        self.current = Some(Arc::clone(&current));
        current
    }

    /// Sends the last state and ends all streams. If the dispatcher has ended, that is the last
    /// view with the counts and the phase at the end.
    async fn finish(&mut self) {
        self.sample();
        self.failures.end_interval();
        let before = self.current.clone();
        let current = match self.make(LAST_READ_LIMIT).await {
            Ok(current) => Some(current),
            Err(_) => before.as_ref().map(|before| {
                let mut view = before.view.clone();
                view.fleet.job = self.handle.status();
                view.fleet.phase = self.handle.phase();
                self.made_of(view)
            }),
        };
        if let Some(current) = current {
            self.send(before.as_deref(), &current);
            self.snapshots.send_replace(Some(current.json()));
        }
        drop(mem::take(&mut self.viewers));
    }
}

impl Current {
    /// The snapshot as JSON.
    pub(super) fn json(&self) -> Bytes {
        self.json.get_or_init(|| json(&self.snapshot)).clone()
    }

    fn event(&self) -> Bytes {
        let Snapshot { epoch, seq, .. } = self.snapshot;
        let make = || event("snapshot", epoch, seq, &self.json());
        self.event.get_or_init(make).clone()
    }
}

fn json(message: &impl Serialize) -> Bytes {
    let json = serde_json::to_vec(message);
    json.expect("messages have only text keys and finite numbers")
        .into()
}

/// A server-sent event. JSON has no line breaks, so the data is one line.
fn event(name: &str, epoch: u32, seq: u64, json: &[u8]) -> Bytes {
    let mut event = format!("event: {name}\nid: {epoch}.{seq}\ndata: ").into_bytes();
    event.extend_from_slice(json);
    event.extend_from_slice(b"\n\n");
    event.into()
}
