//! All connections from outside: pending ones, on which no valid credential has arrived, and
//! admitted ones.
//!
//! Invariants: when a connection is accepted, there are fewer than [`Limits::pending`] other
//! pending connections. Each is pending for at most [`AUTH_TIMEOUT`] and sends at most [`MAX_COST`]
//! in that time; all of them together send at most [`MAX_PENDING_COST`] (see [`super::frame_cost`]
//! for the unit). Connections of observers and of workers have separate limits, so that neither
//! observers nor pending connections displace workers. All limits together stay below the limit on
//! open files.
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

/// Limit of pending connections. Each takes up to 70 KiB with half a message of a TLS handshake, so
/// all of them together take less than 64 MiB.
const MAX_PENDING: u64 = 500;
/// Limit of connections with a viewer's or admin's token: `coordinator status` and other tools.
const MAX_OBSERVERS: u64 = 128;
/// Concurrent calls on one observer's connection; a command makes one. The response to `GetFleet`
/// for 10,000 workers has more than 1 MiB and stays in memory until the observer has read it.
const MAX_OBSERVER_CALLS: usize = 4;
/// Open files reserved for everything else: the ledger, logs, the class list, and connections of
/// health and metrics endpoints.
const RESERVED_FILES: u64 = 128;
/// Assumed if there is no limit on open files.
const MANY_FILES: u64 = 1 << 20;
/// Time from the accept to the first call with a valid credential.
const AUTH_TIMEOUT: Duration = Duration::from_secs(10);
/// A pending connection is not closed in favour of another one before this time.
const MIN_PENDING: Duration = Duration::from_secs(1);
/// Interval at which a full set of pending connections is checked.
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// Limit of what one connection may send before it is authenticated, and afterwards while it reads
/// no response. The first request of a correct client may reach the server up to the flow-control
/// window, 1 MiB, before its header is checked; the frames of [`MAX_STREAMS`](super::MAX_STREAMS)
/// calls are added to that.
pub(super) const MAX_COST: u64 = 2 << 20;
/// Limit of what all pending connections together may send.
const MAX_PENDING_COST: u64 = 16 << 20;

/// The maximum number of connections of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    pending: usize,
    observers: usize,
    workers: usize,
}

impl Limits {
    /// Divides the number of files that this process may open; `None`: no limit.
    pub(super) fn within(open_files: Option<u64>) -> Self {
        let files = open_files
            .unwrap_or(MANY_FILES)
            .saturating_sub(RESERVED_FILES)
            .max(16);
        let pending = (files / 8).min(MAX_PENDING);
        let observers = (files / 16).min(MAX_OBSERVERS);
        let count = |number| usize::try_from(number).unwrap_or(usize::MAX);
        Self {
            pending: count(pending),
            observers: count(observers),
            workers: count(files - pending - observers),
        }
    }

    fn of(self, role: Role) -> usize {
        if role == Role::Worker {
            self.workers
        } else {
            self.observers
        }
    }
}

/// The connections and their limits.
#[derive(Debug)]
pub(super) struct Connections {
    limits: Limits,
    state: Mutex<Entries>,
    freed: Notify,
}

/// The entries of all connections, by number.
#[derive(Debug, Default)]
struct Entries {
    /// By number, in the order of their arrival.
    pending: BTreeMap<u64, Pending>,
    /// Sum over the pending connections that were not cut.
    pending_cost: u64,
    admitted: BTreeMap<u64, Admitted>,
    next: u64,
}

/// A connection without a valid credential.
#[derive(Debug)]
struct Pending {
    since: Instant,
    cost: u64,
    signals: Arc<Signals>,
}

/// Flags that the table and a connection share without the lock.
#[derive(Debug)]
struct Signals {
    /// Cancelled when the connection has to be closed.
    cut: CancellationToken,
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
    pub(super) async fn room(&self) {
        while !self.makes_room(Instant::now()) {
            // Each pending connection is removed within [`AUTH_TIMEOUT`], whether or not it is cut
            // here.
            drop(timeout(POLL_INTERVAL, self.freed.notified()).await);
        }
    }

    /// Whether a connection may be accepted. If not, cuts the oldest one that has been pending for
    /// [`MIN_PENDING`]. It may cut one more than necessary.
    fn makes_room(&self, now: Instant) -> bool {
        let mut state = self.lock();
        if state.pending.len() < self.limits.pending {
            return true;
        }
        let oldest = state.oldest_above(None);
        if let Some((number, _)) = oldest.filter(|(_, since)| now - *since >= MIN_PENDING) {
            state.cut(number);
        }
        false
    }

    /// Registers an accepted connection as pending.
    pub(super) fn enter(self: &Arc<Self>, now: Instant) -> ConnectionEntry {
        let signals = Arc::new(Signals {
            cut: CancellationToken::new(),
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

    /// Cuts connections that have been pending for too long. Connections whose credential was
    /// revoked become pending again.
    pub(super) fn sweep(&self, now: Instant) {
        let mut state = self.lock();
        let is_late = |pending: &Pending| now - pending.since >= AUTH_TIMEOUT;
        let late = state.pending.iter().filter(|(_, pending)| is_late(pending));
        for number in late.map(|(number, _)| *number).collect::<Vec<_>>() {
            state.cut(number);
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

    /// The oldest pending connection that was not cut and has sent more than `cost`.
    fn oldest_above(&self, cost: Option<u64>) -> Option<(u64, Instant)> {
        let is_above = |pending: &Pending| {
            !pending.signals.cut.is_cancelled() && cost.is_none_or(|cost| pending.cost > cost)
        };
        let above = self.pending.iter().filter(|(_, pending)| is_above(pending));
        let since = above.map(|(number, pending)| (*number, pending.since));
        since.min_by_key(|(_, since)| *since)
    }

    /// Cuts a pending connection. What it has sent is no longer counted.
    fn cut(&mut self, number: u64) {
        if let Some(pending) = self.pending.get_mut(&number)
            && !pending.signals.cut.is_cancelled()
        {
            pending.signals.cut.cancel();
            self.pending_cost -= pending.cost;
        }
    }

    fn charge(&mut self, number: u64, cost: u64) {
        let Some(pending) = self.pending.get_mut(&number) else {
            return;
        };
        if pending.signals.cut.is_cancelled() {
            return;
        }
        pending.cost += cost;
        self.pending_cost += cost;
        if pending.cost > MAX_COST {
            self.cut(number);
        }
        while self.pending_cost > MAX_PENDING_COST {
            let share = MAX_PENDING_COST / (self.pending.len() as u64).max(1);
            let Some((oldest, _)) = self.oldest_above(Some(share)) else {
                return;
            };
            self.cut(oldest);
        }
    }

    /// Returns whether the connection was pending.
    fn remove_pending(&mut self, number: u64) -> bool {
        let Some(pending) = self.pending.remove(&number) else {
            return false;
        };
        if !pending.signals.cut.is_cancelled() {
            self.pending_cost -= pending.cost;
        }
        true
    }

    /// Cuts connections of this kind, the longest idle first, until one more is allowed.
    fn make_room_for(&mut self, role: Role, limits: Limits) {
        let is_worker = role == Role::Worker;
        if self.admitted.len() < limits.of(role) {
            return;
        }
        let same = |admitted: &&Admitted| {
            (admitted.role == Role::Worker) == is_worker && !admitted.signals.cut.is_cancelled()
        };
        let count = self.admitted.values().filter(same).count();
        for _ in limits.of(role)..=count {
            let admitted = self.admitted.values().filter(same);
            let idlest = admitted.min_by_key(|admitted| admitted.order());
            idlest.inspect(|admitted| admitted.signals.cut.cancel());
        }
    }
}

impl ConnectionEntry {
    /// The connection has shown a valid credential for this role; `revoked` is cancelled when it is
    /// revoked.
    pub(super) fn admit(&self, role: Role, revoked: &CancellationToken, now: Instant) {
        let limits = self.connections.limits;
        let mut state = self.connections.lock();
        if state.remove_pending(self.number) {
            state.make_room_for(role, limits);
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

    /// Adds to what the pending connection has sent. If that is too much, cuts this connection or
    /// another one.
    pub(super) fn charge(&self, cost: u64) {
        self.connections.lock().charge(self.number, cost);
    }

    pub(super) fn is_pending(&self) -> bool {
        self.signals.is_pending.load(Ordering::Acquire)
    }

    /// Cancelled when the connection has to be closed.
    pub(super) fn cut(&self) -> &CancellationToken {
        &self.signals.cut
    }

    /// Counts a call that begins. An admitted connection with a call is not idle. Returns whether
    /// the call was counted, which it is only on an admitted connection.
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

    /// A counted call has ended.
    pub(super) fn end_call(&self, now: Instant) {
        if let Some(admitted) = self.connections.lock().admitted.get_mut(&self.number) {
            admitted.calls = admitted.calls.saturating_sub(1);
            admitted.used = now;
        }
    }

    /// The connection is closed.
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
