//! `OriginLimiter`: where requests wait until the origin may be asked, and where what becomes of them is counted.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use shared::protocol::MAX_RETRY_AFTER;
use tokio::{
    sync::{Notify, oneshot, watch},
    time::{Instant, sleep, sleep_until},
};

use super::{
    Budget, Observation, OverloadSignal, Priority,
    bucket::{Place, TokenBucket},
    first_trouble::FirstFailures,
    permits::{Permits, Ticket},
    trouble,
};
use crate::{observe::counters::WorkerCounters, origin::download_error::DownloadError};

/// The instants that two messages give for the end of one wait differ by less.
const JITTER: Duration = Duration::from_millis(50);
/// Who waits for its bytes to have had time to come looks so often whether the rate is another one.
const LOOK: Duration = Duration::from_secs(1);
/// Of so many bytes at first the coordinator hears at each [`EARLY_STEP`]: at the start of a short job that is when a second
/// connection and then all others come.
const EARLY: u64 = 8 * EARLY_STEP;
/// A little more than the coordinator waits for, so that a step is enough where it has counted from another one on.
const EARLY_STEP: u64 = 9 << 17;

/// See the module. Nothing waits in it longer than for a lock that is held for a moment.
#[derive(Debug)]
pub(crate) struct OriginLimiter {
    state: Mutex<State>,
    /// Until then the origin is asked for nothing.
    quiet_until: watch::Sender<Instant>,
    bucket: Mutex<TokenBucket>,
    has_rate: AtomicBool,
    /// Bytes that have come, up to [`EARLY`] and a little more.
    early: AtomicU64,
    /// There is something that the coordinator should hear at once.
    news: Notify,
    /// Downloads that may run at once; each has connections of its own.
    slots: u32,
    counters: Arc<WorkerCounters>,
    first_trouble: FirstFailures,
}

#[derive(Debug)]
struct State {
    permits: Permits<oneshot::Sender<()>>,
    /// Version of the budget.
    seen: u64,
    /// The origin itself has asked this process to wait until then.
    asked_until: Option<Instant>,
    /// How often waits were ended by the coordinator, as of its last budget.
    resumed: u64,
    /// The coordinator was not told of a wait yet.
    is_wait_untold: bool,
}

/// Leave to have one request on one connection, until it is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    gate: Arc<OriginLimiter>,
    flowing: bool,
}

/// A place in the queue, or what was admitted from there and not taken.
struct Waiting<'gate> {
    gate: &'gate OriginLimiter,
    ticket: Option<Ticket>,
}

impl OriginLimiter {
    /// A gate that is shut until there is a budget.
    pub(crate) fn shut(slots: usize, counters: Arc<WorkerCounters>) -> Arc<Self> {
        let slots = u32::try_from(slots).unwrap_or(u32::MAX);
        let permits = Permits::new(0);
        let now = Instant::now();
        let gate = Self {
            state: Mutex::new(State { permits, seen: 0, asked_until: None, resumed: 0, is_wait_untold: false }),
            quiet_until: watch::Sender::new(now),
            bucket: Mutex::new(TokenBucket::new(now)),
            has_rate: AtomicBool::new(false),
            early: AtomicU64::new(0),
            news: Notify::new(),
            slots,
            counters,
            first_trouble: FirstFailures::default(),
        };
        Arc::new(gate)
    }

    /// A gate without a budget: as many connections as there are slots.
    pub(crate) fn open(slots: usize, counters: Arc<WorkerCounters>) -> Arc<Self> {
        let gate = Self::shut(slots, counters);
        gate.open_to_all();
        gate
    }

    /// Waits for leave to make a request now. Cancel safe: who does not wait any more has lost its place.
    pub(crate) async fn permit(self: &Arc<Self>, priority: Priority) -> Permit {
        loop {
            let permit = self.admitted(priority).await;
            self.room().await;
            // Meanwhile the origin may have asked for quiet.
            if *self.quiet_until.borrow() <= Instant::now() {
                self.counters.origin_requests.inc();
                return permit;
            }
        }
    }

    /// Waits for one of the connections, while the origin is not left alone.
    async fn admitted(self: &Arc<Self>, priority: Priority) -> Permit {
        let mut quiet_until = self.quiet_until.subscribe();
        let (call, mut called) = oneshot::channel();
        let ticket = self.change(|state| state.permits.ask(priority, call));
        let mut waiting = Waiting { gate: self, ticket: Some(ticket) };
        loop {
            let until = *quiet_until.borrow_and_update();
            let is_quiet = until > Instant::now();
            if !is_quiet {
                // Whoever sees it first lets everybody in.
                self.change(|_| ());
            }
            tokio::select! {
                biased;
                called = &mut called => {
                    called.expect("whoever is not called stays in the queue");
                    waiting.ticket = None;
                    return Permit { gate: Arc::clone(self), flowing: false };
                }
                () = sleep_until(until), if is_quiet => {}
                changed = quiet_until.changed() => changed.expect("the gate is here"),
            }
        }
    }

    /// What failed is counted, and the origin is left alone if it asks for that.
    pub(crate) fn failed(&self, error: &DownloadError) {
        match trouble(error) {
            None => return,
            Some(OverloadSignal::Cut) => drop(self.counters.origin_cuts.inc()),
            Some(OverloadSignal::Refusal(wait)) => {
                // The wait comes first: a refusal that is told without one counts as a cut.
                self.asked_to_wait(wait.unwrap_or_default());
                self.counters.origin_refusals.inc();
            }
        }
        self.change(|state| state.permits.trouble());
    }

    /// Tells why the origin has not answered yet.
    pub(crate) fn tell_first_trouble(&self, error: &DownloadError, address: &str) {
        if let Some(sentence) = self.first_trouble.note(error, address) {
            tracing::warn!("{sentence}");
        }
    }

    /// A redirect is followed, under the permit of its request.
    pub(crate) fn redirected(&self) {
        self.counters.origin_redirects.inc();
    }

    /// The origin has answered a request.
    pub(crate) fn answered(&self) {
        self.first_trouble.answered();
    }

    /// Why the origin has not answered yet; empty if it has, or was not asked.
    pub(crate) fn first_trouble(&self) -> String {
        self.first_trouble.last()
    }

    /// Holds back every request of this process for a while, because the origin asked one of them to wait.
    fn asked_to_wait(&self, wait: Duration) {
        let until = Instant::now() + wait.min(MAX_RETRY_AFTER);
        // First, or a budget that comes now would end the wait.
        self.change(|state| {
            state.asked_until = state.asked_until.max(Some(until));
            state.is_wait_untold |= !wait.is_zero();
        });
        if self.be_quiet(until) {
            tracing::info!(seconds = wait.as_secs(), "the origin asks us to wait");
        }
    }

    /// Waits at least until then; says whether that is longer.
    fn be_quiet(&self, until: Instant) -> bool {
        self.quiet_until.send_if_modified(|quiet| {
            let is_longer = until > *quiet;
            *quiet = until.max(*quiet);
            is_longer
        })
    }

    /// Waits until then and no longer. What the origin has asked for is part of that.
    fn be_quiet_exactly(&self, until: Instant) {
        self.quiet_until.send_if_modified(|quiet| {
            let is_other = until > *quiet || until + JITTER < *quiet;
            *quiet = if is_other { until } else { *quiet };
            is_other
        });
    }

    /// Bytes have come; where they had to wait for it, that is their place.
    pub(super) fn came(&self, bytes: usize) -> Option<Place> {
        let bytes = bytes as u64;
        if self.early.load(Ordering::Relaxed) < EARLY {
            let before = self.early.fetch_add(bytes, Ordering::Relaxed);
            if before / EARLY_STEP < (before + bytes) / EARLY_STEP {
                self.change(|state| state.permits.plenty());
            }
        }
        self.has_rate().then(|| lock(&self.bucket).spend(bytes, Instant::now()))
    }

    /// Whether bytes may come only so fast.
    pub(crate) fn has_rate(&self) -> bool {
        self.has_rate.load(Ordering::Relaxed)
    }

    /// Waits until another body may begin, which is when those that have come had time to.
    async fn room(&self) {
        if self.has_rate() {
            let place = lock(&self.bucket).end();
            self.room_after(place).await;
        }
    }

    /// Waits until more bytes may come after those.
    pub(super) async fn room_after(&self, place: Place) {
        loop {
            let wait = lock(&self.bucket).wait(place, Instant::now());
            if wait.is_zero() {
                return;
            }
            sleep(wait.min(LOOK)).await;
        }
    }

    /// Another session: nothing more is asked for before it has a budget.
    pub(crate) fn close(&self) {
        self.change(|state| {
            state.permits.set_limit(0);
            state.seen = 0;
        });
    }

    /// Nobody gives a budget: every slot may ask.
    pub(crate) fn open_to_all(&self) {
        self.change(|state| state.permits.set_limit(self.slots));
    }

    /// Keeps to another budget from now on.
    pub(crate) fn keep_to(&self, budget: &Budget) {
        let now = Instant::now();
        lock(&self.bucket).set_rate(budget.bytes_per_second, now);
        self.has_rate.store(budget.bytes_per_second.is_some(), Ordering::Relaxed);
        self.change(|state| {
            state.permits.set_limit(budget.connections);
            state.seen = budget.version;
            if std::mem::replace(&mut state.resumed, budget.resumed) < budget.resumed {
                state.asked_until = None;
            }
            let told_until = now + budget.quiet.min(MAX_RETRY_AFTER);
            self.be_quiet_exactly(told_until.max(state.asked_until.unwrap_or(now)));
        });
    }

    /// What is done to the origin now.
    pub(crate) fn observation(&self) -> Observation {
        let state = lock(&self.state);
        let asked = state.asked_until.map(|until| until.saturating_duration_since(Instant::now()));
        Observation {
            seen: state.seen,
            open: state.permits.open(),
            flowing: state.permits.flowing(),
            wanted: state.permits.wanted(),
            received: self.counters.received.get(),
            requests: self.counters.origin_requests.get(),
            cuts: self.counters.origin_cuts.get(),
            refusals: self.counters.origin_refusals.get(),
            retry_after: asked.unwrap_or_default(),
        }
    }

    /// The same, for the coordinator, which then knows it.
    pub(crate) fn tell(&self) -> Observation {
        let is_wait_untold = {
            let mut state = lock(&self.state);
            state.permits.told();
            std::mem::take(&mut state.is_wait_untold)
        };
        let mut observation = self.observation();
        if is_wait_untold {
            // Also a wait that has ended by now: without it the refusal would count as a cut.
            observation.retry_after = observation.retry_after.max(Duration::from_millis(1));
        }
        observation
    }

    /// Waits until the coordinator should hear something at once. Cancel safe.
    pub(crate) async fn news(&self) {
        while !lock(&self.state).permits.has_news() {
            self.news.notified().await;
        }
    }

    /// Changes something, and lets in whoever may come in then.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = lock(&self.state);
        let changed = change(&mut state);
        if *self.quiet_until.borrow() <= Instant::now() {
            while let Some(call) = state.permits.admit() {
                // One that does not listen any more is about to withdraw.
                call.send(()).ok();
            }
        }
        self.counters.origin_open.set(state.permits.open().into());
        self.counters.origin_waiting.set(state.permits.waiting().into());
        self.counters.origin_limit.set(state.permits.limit().into());
        if state.permits.has_news() {
            self.news.notify_one();
        }
        changed
    }
}

impl Permit {
    /// Whether the connection may stay when the request is done. Where the slots have fewer connections than there are of them, one
    /// that is idle would be in the way of another slot's: the origin sees them all.
    pub(crate) fn keeps_connection(&self) -> bool {
        lock(&self.gate.state).permits.limit() >= self.gate.slots
    }

    /// The answer has begun, and a body comes.
    pub(super) fn flows(&mut self) {
        if !std::mem::replace(&mut self.flowing, true) {
            self.gate.change(|state| state.permits.flows());
        }
    }

    pub(super) fn gate(&self) -> &OriginLimiter {
        &self.gate
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.gate.change(|state| state.permits.release(self.flowing));
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.gate.change(|state| state.permits.withdraw(ticket));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
