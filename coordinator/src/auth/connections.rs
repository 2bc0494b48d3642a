//! All connections from outside: pending ones, on which no valid credential has arrived, and
//! admitted ones.
//!
//! Invariants: when a connection is accepted, there are fewer than [`Limits::pending`] other
//! pending connections. Each is pending for at most [`AUTH_TIMEOUT`] and sends at most [`MAX_COST`]
//! in that time; all of them together send at most [`MAX_PENDING_COST`]. The unit of cost is a byte
//! of memory that a frame makes this process keep ([`super::frame_cost`]). Connections of observers
//! and of workers have separate limits, so that no worker's connection is closed because of
//! observers or pending connections. All limits together stay below the limit on open files.
//!
//! To close a connection means to cancel its token; its task then ends it. When it has ended, its
//! entry is removed. A pending connection counts for the limit until then.
//!
//! Which connection is closed: among the pending ones, the oldest, once it has been pending for
//! [`MIN_PENDING`]; if all together have sent too much, the oldest that has sent more than an equal
//! share. A correct client sends its credential with its first request, so its connection is never
//! the oldest for long. Among the admitted ones, the one that has been idle for longest.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use shared::lock::lock;
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::Role;

mod limits;

pub(super) use limits::Limits;

/// Concurrent calls on one observer's connection; a command makes one. The response to `GetFleet`
/// for 10,000 workers has more than 1 MiB and stays in memory until the observer has read it.
const MAX_OBSERVER_CALLS: usize = 4;
/// Time from the accept to the first call with a valid credential.
const AUTH_TIMEOUT: Duration = Duration::from_secs(10);
/// A pending connection is not closed in favour of another one before this time.
const MIN_PENDING: Duration = Duration::from_secs(1);
/// Interval at which a full set of pending connections is checked.
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// Limit on the cost of what a client sends on one connection before it is authenticated, and
/// afterwards since it has last read all responses. The first request of a correct client may reach
/// the server up to the flow-control window, 1 MiB, before its header is checked; the frames of
/// [`MAX_STREAMS`](super::MAX_STREAMS) calls are added to that.
pub(super) const MAX_COST: u64 = 2 << 20;
/// Limit on the cost of what all pending connections together have sent.
const MAX_PENDING_COST: u64 = 16 << 20;

/// The connections and their limits.
#[derive(Debug)]
pub(super) struct Connections {
    limits: Limits,
    state: Mutex<Entries>,
    /// Notified when a pending connection is admitted or removed.
    freed: Notify,
}

/// The entries of all connections, by number.
#[derive(Debug, Default)]
struct Entries {
    /// By number, in the order of their arrival.
    pending: BTreeMap<u64, Pending>,
    /// Sum over the pending connections that are not to be closed.
    pending_cost: u64,
    admitted: BTreeMap<u64, Admitted>,
    /// Number of the next connection.
    next: u64,
}

/// A connection without a valid credential.
#[derive(Debug)]
struct Pending {
    since: Instant,
    cost: u64,
    signals: Arc<Signals>,
}

/// Flags that [`Connections`] and the task of a connection share. The task reads them for each
/// piece of data, so they are outside of the lock of [`Entries`].
#[derive(Debug)]
struct Signals {
    /// Cancelled when the connection has to be closed.
    close: CancellationToken,
    is_pending: AtomicBool,
}

/// A connection with a valid credential.
#[derive(Debug)]
struct Admitted {
    role: Role,
    /// Calls whose response is not complete.
    calls: usize,
    /// Start or end of the last call.
    used: Instant,
    /// Cancelled when the last shown credential is revoked.
    revoked: CancellationToken,
    signals: Arc<Signals>,
}

impl Admitted {
    fn is_worker(&self) -> bool {
        self.role == Role::Worker
    }

    /// Sorts the connection that has been idle for longest first.
    fn order(&self) -> (bool, Instant) {
        (self.calls > 0, self.used)
    }
}

/// The entry of one connection. It is removed when dropped.
#[derive(Debug)]
pub(super) struct ConnectionEntry {
    connections: Arc<Connections>,
    number: u64,
    signals: Arc<Signals>,
}

/// An observer's connection has [`MAX_OBSERVER_CALLS`] calls already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooManyCalls;

impl Connections {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            state: Mutex::default(),
            freed: Notify::new(),
        }
    }

    /// Waits until a connection may be accepted.
    pub(super) async fn wait_for_slot(&self) {
        while !self.try_free_pending(Instant::now()) {
            // Each pending connection is closed within [`AUTH_TIMEOUT`], if not here.
            drop(timeout(POLL_INTERVAL, self.freed.notified()).await);
        }
    }

    /// Whether a connection may be accepted. If not, closes the oldest one that has been pending
    /// for [`MIN_PENDING`]. A connection counts until it is removed, so a second call may close one
    /// more than necessary; one that is slow to close therefore blocks no new connection.
    fn try_free_pending(&self, now: Instant) -> bool {
        let mut state = self.lock();
        if state.pending.len() < self.limits.pending {
            return true;
        }
        let oldest = state.oldest_above(None);
        if let Some((number, _)) = oldest.filter(|(_, since)| now - *since >= MIN_PENDING) {
            state.close_pending(number);
        }
        false
    }

    /// Registers an accepted connection as pending.
    pub(super) fn enter(self: &Arc<Self>, now: Instant) -> ConnectionEntry {
        let signals = Arc::new(Signals {
            close: CancellationToken::new(),
            is_pending: AtomicBool::new(true),
        });
        let mut state = self.lock();
        let number = state.next;
        state.next += 1;
        state.insert_pending(number, Arc::clone(&signals), now);
        drop(state);
        ConnectionEntry {
            connections: Arc::clone(self),
            number,
            signals,
        }
    }

    /// Closes connections that have been pending for too long. Connections whose credential was
    /// revoked become pending again.
    pub(super) fn sweep(&self, now: Instant) {
        let mut state = self.lock();
        let is_late = |pending: &Pending| now - pending.since >= AUTH_TIMEOUT;
        let late = state.pending.iter().filter(|(_, pending)| is_late(pending));
        for number in late.map(|(number, _)| *number).collect::<Vec<_>>() {
            state.close_pending(number);
        }
        let revoked: Vec<(u64, Admitted)> = state
            .admitted
            .extract_if(.., |_, admitted| admitted.revoked.is_cancelled())
            .collect();
        for (number, Admitted { signals, .. }) in revoked {
            signals.is_pending.store(true, Ordering::Release);
            state.insert_pending(number, signals, now);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        // The entries are consistent wherever a panic can occur.
        lock(&self.state)
    }
}

impl Entries {
    fn insert_pending(&mut self, number: u64, signals: Arc<Signals>, since: Instant) {
        let pending = Pending {
            since,
            cost: 0,
            signals,
        };
        self.pending.insert(number, pending);
    }

    /// The oldest pending connection that is not to be closed and has sent more than `cost`.
    fn oldest_above(&self, cost: Option<u64>) -> Option<(u64, Instant)> {
        let is_above = |pending: &Pending| {
            !pending.signals.close.is_cancelled() && cost.is_none_or(|cost| pending.cost > cost)
        };
        let above = self.pending.iter().filter(|(_, pending)| is_above(pending));
        let since = above.map(|(number, pending)| (*number, pending.since));
        since.min_by_key(|(_, since)| *since)
    }

    /// Closes a pending connection. What it has sent is no longer counted.
    fn close_pending(&mut self, number: u64) {
        if let Some(pending) = self.pending.get_mut(&number)
            && !pending.signals.close.is_cancelled()
        {
            pending.signals.close.cancel();
            self.pending_cost -= pending.cost;
        }
    }

    /// Adds to what a pending connection has sent. Closes it, or the oldest ones that have sent
    /// more than an equal share, if that is too much.
    fn charge(&mut self, number: u64, cost: u64) {
        let Some(pending) = self.pending.get_mut(&number) else {
            return;
        };
        if pending.signals.close.is_cancelled() {
            return;
        }
        pending.cost += cost;
        self.pending_cost += cost;
        if pending.cost > MAX_COST {
            self.close_pending(number);
        }
        while self.pending_cost > MAX_PENDING_COST {
            let share = MAX_PENDING_COST / (self.pending.len() as u64).max(1);
            let Some((oldest, _)) = self.oldest_above(Some(share)) else {
                return;
            };
            self.close_pending(oldest);
        }
    }

    /// Returns whether the connection was pending.
    fn remove_pending(&mut self, number: u64) -> bool {
        let Some(pending) = self.pending.remove(&number) else {
            return false;
        };
        if !pending.signals.close.is_cancelled() {
            self.pending_cost -= pending.cost;
        }
        true
    }

    /// Closes connections of this kind, the longest idle first, until one more is allowed.
    fn close_idle(&mut self, role: Role, limits: Limits) {
        // If all kinds together are below this limit, nothing has to be counted.
        if self.admitted.len() < limits.of(role) {
            return;
        }
        let counts = |admitted: &&Admitted| {
            admitted.is_worker() == (role == Role::Worker) && !admitted.signals.close.is_cancelled()
        };
        let count = self.admitted.values().filter(counts).count();
        let excess = (count + 1).saturating_sub(limits.of(role));
        for _ in 0..excess {
            let admitted = self.admitted.values().filter(counts);
            let longest_idle = admitted.min_by_key(|admitted| admitted.order());
            longest_idle.inspect(|admitted| admitted.signals.close.cancel());
        }
    }
}

impl ConnectionEntry {
    /// Admits the connection, which has shown a valid credential for this role. An admitted
    /// connection that shows a credential for another role counts for the limit of that role.
    /// `revoked` is cancelled when the credential is revoked.
    pub(super) fn admit(&self, role: Role, revoked: &CancellationToken, now: Instant) {
        let limits = self.connections.limits;
        let mut state = self.connections.lock();
        let admitted = state.admitted.get(&self.number);
        if admitted.is_some_and(|admitted| admitted.is_worker() != (role == Role::Worker)) {
            state.close_idle(role, limits);
        }
        if state.remove_pending(self.number) {
            state.close_idle(role, limits);
            self.signals.is_pending.store(false, Ordering::Release);
            self.connections.freed.notify_one();
            let signals = Arc::clone(&self.signals);
            let admitted = Admitted {
                role,
                calls: 0,
                used: now,
                revoked: revoked.clone(),
                signals,
            };
            state.admitted.insert(self.number, admitted);
        } else if let Some(admitted) = state.admitted.get_mut(&self.number) {
            admitted.role = role;
            admitted.revoked = revoked.clone();
        }
    }

    /// Adds to what the pending connection has sent. If that is too much, closes this connection or
    /// others.
    pub(super) fn charge(&self, cost: u64) {
        self.connections.lock().charge(self.number, cost);
    }

    pub(super) fn is_pending(&self) -> bool {
        self.signals.is_pending.load(Ordering::Acquire)
    }

    /// Cancelled when the connection has to be closed.
    pub(super) fn close_token(&self) -> &CancellationToken {
        &self.signals.close
    }

    /// Counts a call that begins. Calls are counted on admitted connections only. Returns whether
    /// this one was; then [`Self::end_call`] follows.
    pub(super) fn begin_call(&self, now: Instant) -> Result<bool, TooManyCalls> {
        let mut state = self.connections.lock();
        let Some(admitted) = state.admitted.get_mut(&self.number) else {
            return Ok(false);
        };
        if admitted.role != Role::Worker && admitted.calls >= MAX_OBSERVER_CALLS {
            return Err(TooManyCalls);
        }
        admitted.calls += 1;
        admitted.used = now;
        Ok(true)
    }

    /// Counts the end of a call that was counted. The connection may have become pending meanwhile.
    pub(super) fn end_call(&self, now: Instant) {
        if let Some(admitted) = self.connections.lock().admitted.get_mut(&self.number) {
            admitted.calls = admitted.calls.saturating_sub(1);
            admitted.used = now;
        }
    }

    /// Removes the entry, because the connection is closed. Repeated calls change nothing.
    pub(super) fn remove(&self) {
        let mut state = self.connections.lock();
        state.admitted.remove(&self.number);
        if state.remove_pending(self.number) {
            self.connections.freed.notify_one();
        }
    }
}

impl Drop for ConnectionEntry {
    fn drop(&mut self) {
        self.remove();
    }
}

#[cfg(test)]
mod tests;
