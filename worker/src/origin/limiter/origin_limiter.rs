//! `OriginLimiter`: delays requests to the origin until the budget, the rate and the pauses permit
//! them, and counts their results.

use std::{
    mem::{replace, take},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use shared::{
    job_line::{approximate, short},
    lock::lock,
    protocol::MAX_RETRY_AFTER,
};
use tokio::{
    sync::{Notify, oneshot, watch},
    time::{Instant, sleep, sleep_until},
};

use super::{
    Budget, Observation, Priority,
    bucket::{Place, TokenBucket},
    first_failure::FirstFailures,
    permits::{Permits, Ticket},
    whole_seconds,
};

use crate::{observe::counters::WorkerCounters, origin::download_error::DownloadError};

/// How often a request that waits for the rate checks whether the rate has changed.
const RATE_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Time between a `Retry-After` and the end of the coordinator's pause because of it.
const PAUSE_TOLERANCE: Duration = Duration::from_secs(1);
/// The first bytes of a job, up to this number, are reported to the coordinator at each
/// [`EARLY_STEP`]. At the start of a short job these reports make the coordinator allow a second
/// connection, and then all others.
const EARLY: u64 = 8 * EARLY_STEP;
/// Slightly more bytes than the coordinator waits for, so one step is enough even if the
/// coordinator counts from another offset.
const EARLY_STEP: u64 = 9 << 17;

/// Limits the connections, the rate and the timing of this process's requests to the origin. Its
/// locks are held only for short computations.
#[derive(Debug)]
pub(crate) struct OriginLimiter {
    state: Mutex<State>,
    /// No request is sent to the origin before this instant.
    paused_until: watch::Sender<Instant>,
    bucket: Mutex<TokenBucket>,
    /// Bytes received, counted up to slightly above [`EARLY`].
    early: AtomicU64,
    /// Notified when a change must be reported to the coordinator at once.
    report_due: Notify,
    /// Maximum number of concurrent downloads; each has connections of its own.
    slots: u32,
    pub(crate) counters: Arc<WorkerCounters>,
    pub(crate) first_failures: FirstFailures,
}

/// The part of the limiter that is behind one lock.
#[derive(Debug, Default)]
struct State {
    permits: Permits<oneshot::Sender<()>>,
    /// Version of the current budget.
    budget_version: u64,
    /// The end of the wait that the origin's own `Retry-After` has set for this process.
    retry_after_until: Option<Instant>,
    /// The longest of those `Retry-After`, as the origin sent it.
    retry_after: Duration,
    /// The value of `resumed` in the last budget: how often the coordinator has ended waits.
    resumed: u64,
    /// A wait was set that was not reported to the coordinator yet.
    has_unreported_wait: bool,
}

/// Permission for one request on one connection, or a place in the queue for it. Dropping it
/// returns the permission, or withdraws the request.
#[derive(Debug)]
pub(crate) struct Permit {
    pub(super) limiter: Arc<OriginLimiter>,
    ticket: Ticket,
    flowing: bool,
}

impl OriginLimiter {
    /// A limiter that admits no request before it has a budget.
    pub(crate) fn new(slots: usize, counters: Arc<WorkerCounters>) -> Arc<Self> {
        let slots = u32::try_from(slots).unwrap_or(u32::MAX);
        let now = Instant::now();
        Arc::new(Self {
            state: Mutex::default(),
            paused_until: watch::Sender::new(now),
            bucket: Mutex::new(TokenBucket::new(now)),
            early: AtomicU64::new(0),
            report_due: Notify::new(),
            slots,
            counters,
            first_failures: FirstFailures::default(),
        })
    }

    /// A limiter without a budget: as many connections as there are slots.
    pub(crate) fn without_budget(slots: usize, counters: Arc<WorkerCounters>) -> Arc<Self> {
        let limiter = Self::new(slots, counters);
        limiter.allow_all_slots();
        limiter
    }

    /// Waits until a request may be sent. Cancel safe: a dropped wait loses its place in the queue.
    pub(crate) async fn permit(self: &Arc<Self>, priority: Priority) -> Permit {
        loop {
            let permit = self.wait_for_admission(priority).await;
            // Another body may begin when the rate has allowed all bytes received so far.
            let all = lock(&self.bucket).end();
            self.room_after(all).await;
            // A pause may have begun in the meantime.
            if *self.paused_until.borrow() <= Instant::now() {
                self.counters.origin_requests.inc();
                return permit;
            }
        }
    }

    /// Waits for the admission of a connection, and for the end of a pause.
    async fn wait_for_admission(self: &Arc<Self>, priority: Priority) -> Permit {
        let mut paused_until = self.paused_until.subscribe();
        let (admit, mut admission) = oneshot::channel();
        let permit = Permit {
            ticket: self.change(|state| state.permits.ask(priority, admit)),
            limiter: Arc::clone(self),
            flowing: false,
        };
        loop {
            let until = *paused_until.borrow_and_update();
            let is_paused = until > Instant::now();
            if !is_paused {
                // The first request that sees the end of a pause admits all requests that may go.
                self.change(|_| ());
            }
            tokio::select! {
                biased;
                admitted = &mut admission => {
                    admitted.expect("a request stays in the queue until it is admitted");
                    return permit;
                }
                () = sleep_until(until), if is_paused => {}
                changed = paused_until.changed() => changed.expect("the limiter owns the sender"),
            }
        }
    }

    /// Why no request is sent to the origin now, as a phrase; `None` if there is no pause. A pause
    /// that the coordinator sets because of this process's own `Retry-After` ends slightly later.
    pub(crate) fn reason_of_pause(&self, now: Instant) -> Option<String> {
        let state = lock(&self.state);
        let until = *self.paused_until.borrow();
        let left = until.checked_duration_since(now).map(whole_seconds);
        let left = left.filter(|left| *left > 0)?;
        let own = state.retry_after_until.filter(|own| *own > now);
        Some(match own {
            Some(own) if until <= own + PAUSE_TOLERANCE => {
                let asked = whole_seconds(state.retry_after);
                format!("origin asked for {asked} s, {left} s left")
            }
            _ => format!("pause of all workers, {left} s left"),
        })
    }

    /// Why a request waits now, as a phrase.
    pub(crate) fn reason_to_wait(&self, now: Instant) -> String {
        if let Some(pause) = self.reason_of_pause(now) {
            return pause;
        }
        let state = lock(&self.state);
        let limit = state.permits.limit;
        match (limit, state.permits.open) {
            (0, _) if state.budget_version == 0 => "the coordinator's budget".to_owned(),
            (0, _) => "no connection is free for this worker".to_owned(),
            (1, 1..) => "limit of 1 connection".to_owned(),
            (_, open) if open >= limit => format!("limit of {limit} connections"),
            _ => match lock(&self.bucket).rate() {
                Some(rate) => format!("limit of {}B/s", short(approximate(rate))),
                None => "its turn".to_owned(),
            },
        }
    }

    /// Counts a failed request, and starts a wait of every request of this process if the origin
    /// sent a `Retry-After`.
    pub(crate) fn failed(&self, error: &DownloadError) {
        let wait = match error {
            DownloadError::Status {
                code: 429 | 503,
                retry_after,
                ..
            } => retry_after.unwrap_or_default(),
            error if error.is_interruption() => {
                self.counters.origin_cuts.inc();
                return self.change(|state| state.permits.request_report());
            }
            _ => return,
        };
        let until = Instant::now() + wait.min(MAX_RETRY_AFTER);
        let is_longer = self.change(|state| {
            // Under one lock with the wait: the coordinator counts a refusal that is reported
            // without a wait as a cut.
            self.counters.origin_refusals.inc();
            state.permits.request_report();
            state.has_unreported_wait |= !wait.is_zero();
            if state.retry_after_until < Some(until) {
                state.retry_after_until = Some(until);
                state.retry_after = wait.min(MAX_RETRY_AFTER);
            }
            self.paused_until.send_if_modified(|end| {
                let is_longer = until > *end;
                *end = until.max(*end);
                is_longer
            })
        });
        if is_longer {
            tracing::info!(seconds = wait.as_secs(), "the origin asks us to wait");
        }
    }

    /// Counts received bytes. With a rate limit, returns the position that the transfer has to wait
    /// for.
    pub(super) fn came(&self, bytes: usize) -> Option<Place> {
        let bytes = bytes as u64;
        if self.early.load(Ordering::Relaxed) < EARLY {
            let before = self.early.fetch_add(bytes, Ordering::Relaxed);
            if before / EARLY_STEP < (before + bytes) / EARLY_STEP {
                self.change(|state| state.permits.request_report());
            }
        }
        let mut bucket = lock(&self.bucket);
        bucket
            .has_rate()
            .then(|| bucket.spend(bytes, Instant::now()))
    }

    /// Whether a rate limit applies.
    pub(crate) fn has_rate(&self) -> bool {
        lock(&self.bucket).has_rate()
    }

    /// Whether connections may stay open after their requests. If there are fewer connections than
    /// slots, an idle connection would take the place of another slot's connection, because the
    /// origin counts all of them.
    pub(crate) fn keeps_connections(&self) -> bool {
        lock(&self.state).permits.limit >= self.slots
    }

    /// Waits until the rate allows more bytes after that position.
    pub(super) async fn room_after(&self, place: Place) {
        loop {
            let wait = lock(&self.bucket).wait(place, Instant::now());
            if wait.is_zero() {
                return;
            }
            sleep(wait.min(RATE_CHECK_INTERVAL)).await;
        }
    }

    /// Begins another session: no request is admitted before that session has a budget.
    pub(crate) fn close(&self) {
        self.change(|state| {
            state.permits.set_limit(0);
            state.budget_version = 0;
        });
    }

    /// Applies when no coordinator sends a budget: admits one connection for each slot.
    pub(crate) fn allow_all_slots(&self) {
        self.change(|state| state.permits.set_limit(self.slots));
    }

    /// Applies another budget.
    pub(crate) fn apply_budget(&self, budget: &Budget) {
        let now = Instant::now();
        lock(&self.bucket).set_rate(budget.bytes_per_second, now);
        self.change(|state| {
            state.permits.set_limit(budget.connections);
            state.budget_version = budget.version;
            if replace(&mut state.resumed, budget.resumed) < budget.resumed {
                state.retry_after_until = None;
            }
            let budget_until = now + budget.pause.min(MAX_RETRY_AFTER);
            let retry_after_until = state.retry_after_until.unwrap_or(now);
            self.paused_until
                .send_replace(budget_until.max(retry_after_until));
        });
    }

    /// The current state of this process's requests to the origin.
    pub(crate) fn observation(&self) -> Observation {
        self.observe(&lock(&self.state))
    }

    fn observe(&self, state: &State) -> Observation {
        let retry_after = state
            .retry_after_until
            .map(|until| until.saturating_duration_since(Instant::now()));
        Observation {
            budget_version: state.budget_version,
            open: state.permits.open,
            flowing: state.permits.flowing,
            wanted: state.permits.wanted(),
            received: self.counters.received.get(),
            requests: self.counters.origin_requests.get(),
            cuts: self.counters.origin_cuts.get(),
            refusals: self.counters.origin_refusals.get(),
            retry_after: retry_after.unwrap_or_default(),
        }
    }

    /// The observation for a report to the coordinator; marks its changes as reported.
    pub(crate) fn take_report(&self) -> Observation {
        let mut state = lock(&self.state);
        state.permits.mark_reported();
        let mut observation = self.observe(&state);
        if take(&mut state.has_unreported_wait) {
            // Applies to a wait that has already ended too: without it the coordinator would count
            // the refusal as a cut.
            observation.retry_after = observation.retry_after.max(Duration::from_millis(1));
        }
        observation
    }

    /// Waits until a change must be reported to the coordinator at once. Cancel safe.
    pub(crate) async fn report_due(&self) {
        while !lock(&self.state).permits.needs_report() {
            self.report_due.notified().await;
        }
    }

    /// Changes the state, then admits the requests that may go.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = lock(&self.state);
        let changed = change(&mut state);
        if *self.paused_until.borrow() <= Instant::now() {
            while let Some(call) = state.permits.admit() {
                // The receiver is gone only if the request is about to withdraw.
                call.send(()).ok();
            }
        }
        self.counters.origin_open.set(state.permits.open.into());
        self.counters
            .origin_waiting
            .set(state.permits.waiting().into());
        self.counters.origin_limit.set(state.permits.limit.into());
        if state.permits.needs_report() {
            self.report_due.notify_one();
        }
        changed
    }
}

impl Permit {
    /// Records that the response has begun and its body arrives; called once.
    pub(super) fn flows(&mut self) {
        self.flowing = true;
        self.limiter.change(|state| state.permits.flows());
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limiter
            .change(|state| state.permits.remove(self.ticket, self.flowing));
    }
}

#[cfg(test)]
mod tests;
