//! Where connections wait until they have proved who they are: a bounded number, each for a bounded time.
//!
//! When all seats are taken, the one that has waited longest must go as soon as it has had its second; until then newcomers
//! stay outside. So a crowd of workers that all come at once gets in, and a crowd that only sits there keeps nobody out for
//! long.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Connections that wait.
const SEATS: usize = 1000;
/// For so long at the most, from the accept to the first call with a valid credential.
const PATIENCE: Duration = Duration::from_secs(10);
/// For so long in any case.
const UNDISTURBED: Duration = Duration::from_secs(1);

/// The seats.
#[derive(Debug, Default)]
pub(super) struct Lobby {
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// In the order of their coming.
    guests: BTreeMap<u64, (Instant, CancellationToken)>,
    next: u64,
}

/// One seat; free again when dropped.
#[derive(Debug)]
pub(super) struct Seat {
    lobby: Arc<Lobby>,
    number: u64,
    has_left: AtomicBool,
    /// The connection has to go.
    pub(super) cut: CancellationToken,
}

impl Lobby {
    /// Whether a newcomer can be seated.
    pub(super) fn has_room(&self, now: Instant) -> bool {
        let waiting = self.lock();
        let oldest = waiting.guests.first_key_value().map(|(_, (since, _))| *since);
        waiting.guests.len() < SEATS || oldest.is_some_and(|since| now - since >= UNDISTURBED)
    }

    /// Seats a newcomer, if there is room or can be made.
    pub(super) fn enter(self: &Arc<Self>, now: Instant) -> Option<Seat> {
        let mut waiting = self.lock();
        if waiting.guests.len() >= SEATS {
            let oldest = waiting.guests.first_entry().filter(|guest| now - guest.get().0 >= UNDISTURBED)?;
            oldest.remove().1.cancel();
        }
        let (number, cut) = (waiting.next, CancellationToken::new());
        waiting.next += 1;
        waiting.guests.insert(number, (now, cut.clone()));
        drop(waiting);
        Some(Seat { lobby: Arc::clone(self), number, has_left: AtomicBool::new(false), cut })
    }

    /// Cuts off those that have waited for too long.
    pub(super) fn sweep(&self, now: Instant) {
        let mut waiting = self.lock();
        while let Some(guest) = waiting.guests.first_entry().filter(|guest| now - guest.get().0 >= PATIENCE) {
            guest.remove().1.cancel();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // No step in between leaves the seats in disorder.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// The connection has proved who it is: it is no longer counted, and never cut.
    pub(super) fn leave(&self) {
        if !self.has_left.swap(true, Ordering::AcqRel) {
            self.lobby.lock().guests.remove(&self.number);
        }
    }

    /// Whether it has proved who it is.
    pub(super) fn has_left(&self) -> bool {
        self.has_left.load(Ordering::Acquire)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_lobby_has_no_room_until_the_oldest_has_had_its_second() {
        let (lobby, now) = (Arc::new(Lobby::default()), Instant::now());
        let seats: Vec<Seat> = (0..SEATS).map(|_| lobby.enter(now).unwrap()).collect();
        assert!(!lobby.has_room(now) && lobby.enter(now).is_none());
        let later = now + UNDISTURBED;
        assert!(lobby.has_room(later));
        let newcomer = lobby.enter(later).unwrap();
        assert!(seats[0].cut.is_cancelled() && !seats[1].cut.is_cancelled() && !newcomer.cut.is_cancelled());
    }

    #[test]
    fn whoever_proves_who_it_is_or_goes_makes_room() {
        let (lobby, now) = (Arc::new(Lobby::default()), Instant::now());
        let mut seats: Vec<Seat> = (0..SEATS).map(|_| lobby.enter(now).unwrap()).collect();
        seats[5].leave();
        seats.truncate(SEATS - 1);
        let more = [lobby.enter(now), lobby.enter(now)];
        assert!(more.iter().all(Option::is_some) && lobby.enter(now).is_none());
        lobby.sweep(now + PATIENCE);
        assert!(seats[0].cut.is_cancelled() && !seats[5].cut.is_cancelled());
        assert!(lobby.enter(now).is_some());
    }

    #[test]
    fn nobody_waits_for_ever() {
        let (lobby, now) = (Arc::new(Lobby::default()), Instant::now());
        let (early, late) = (lobby.enter(now).unwrap(), lobby.enter(now + Duration::from_secs(1)).unwrap());
        lobby.sweep(now + PATIENCE);
        assert!(early.cut.is_cancelled() && !late.cut.is_cancelled());
    }
}
