//! Where connections wait until they have proved who they are: a bounded number, each for a bounded time.
//!
//! When all seats are taken, the one that has waited longest must go as soon as it has had its second; until it has gone,
//! newcomers stay outside. So a crowd of workers that all come at once gets in, and a crowd that only sits there keeps nobody
//! out for long.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

/// Connections that wait.
const SEATS: usize = 1000;
/// For so long at the most, from the accept to the first call with a valid credential.
const PATIENCE: Duration = Duration::from_secs(10);
/// For so long in any case.
const UNDISTURBED: Duration = Duration::from_secs(1);
/// How often a full lobby is looked at.
const GLANCE: Duration = Duration::from_millis(10);

/// The seats.
#[derive(Debug, Default)]
pub(super) struct Lobby {
    waiting: Mutex<Waiting>,
    freed: Notify,
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
    /// Waits until a newcomer can be seated.
    pub(super) async fn room(&self) {
        while !self.makes_room(Instant::now()) {
            // Sooner or later one goes, told to or not.
            drop(timeout(GLANCE, self.freed.notified()).await);
        }
    }

    /// Whether a newcomer can be seated. If not, the next that has had its second is told to go; now and then one more than
    /// there are newcomers.
    fn makes_room(&self, now: Instant) -> bool {
        let waiting = self.lock();
        if waiting.guests.len() < SEATS {
            return true;
        }
        let oldest = waiting.guests.values().find(|(_, cut)| !cut.is_cancelled());
        if let Some((_, cut)) = oldest.filter(|(since, _)| now - *since >= UNDISTURBED) {
            cut.cancel();
        }
        false
    }

    /// Seats a newcomer, for whom there was room.
    pub(super) fn enter(self: &Arc<Self>, now: Instant) -> Seat {
        let mut waiting = self.lock();
        let (number, cut) = (waiting.next, CancellationToken::new());
        waiting.next += 1;
        waiting.guests.insert(number, (now, cut.clone()));
        drop(waiting);
        Seat { lobby: Arc::clone(self), number, has_left: AtomicBool::new(false), cut }
    }

    /// Cuts off those that have waited for too long.
    pub(super) fn sweep(&self, now: Instant) {
        for (_, cut) in self.lock().guests.values().take_while(|(since, _)| now - *since >= PATIENCE) {
            cut.cancel();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // No step in between leaves the seats in disorder.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// The connection has proved who it is, or is closed: it is no longer counted, and never cut.
    pub(super) fn leave(&self) {
        if !self.has_left.swap(true, Ordering::AcqRel) {
            self.lobby.lock().guests.remove(&self.number);
            self.lobby.freed.notify_one();
        }
    }

    /// Whether it is no longer counted.
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
    use tokio::task::JoinSet;

    use super::*;

    fn full(lobby: &Arc<Lobby>, now: Instant) -> Vec<Seat> {
        (0..SEATS).map(|_| lobby.enter(now)).collect()
    }

    #[test]
    fn a_full_lobby_has_no_room_until_the_oldest_has_had_its_second_and_is_gone() {
        let (lobby, now) = (Arc::new(Lobby::default()), Instant::now());
        let mut seats = full(&lobby, now);
        assert!(!lobby.makes_room(now) && !seats[0].cut.is_cancelled());
        let later = now + UNDISTURBED;
        assert!(!lobby.makes_room(later));
        assert!(seats[0].cut.is_cancelled() && !seats[1].cut.is_cancelled());
        drop(seats.remove(0));
        assert!(lobby.makes_room(later) && !seats[0].cut.is_cancelled());
    }

    #[test]
    fn one_that_does_not_go_when_told_to_is_not_waited_for() {
        let (lobby, now) = (Arc::new(Lobby::default()), Instant::now());
        let seats = full(&lobby, now);
        let later = now + UNDISTURBED;
        assert!(!lobby.makes_room(later) && !lobby.makes_room(later));
        assert!(seats[1].cut.is_cancelled() && !seats[2].cut.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_outside_gets_in_as_soon_as_a_seat_is_free() {
        let (lobby, now) = (Arc::new(Lobby::default()), Instant::now());
        let mut seats = full(&lobby, now);
        let mut outside = JoinSet::new();
        outside.spawn({
            let lobby = Arc::clone(&lobby);
            async move { lobby.room().await }
        });
        let between_two_glances = GLANCE * 5 / 2;
        tokio::time::sleep(between_two_glances).await;
        assert!(outside.try_join_next().is_none());
        drop(seats.pop());
        outside.join_next().await.unwrap().unwrap();
        assert_eq!(now.elapsed(), between_two_glances);
    }

    #[test]
    fn whoever_proves_who_it_is_or_goes_makes_room() {
        let (lobby, now) = (Arc::new(Lobby::default()), Instant::now());
        let mut seats = full(&lobby, now);
        seats[5].leave();
        seats.truncate(SEATS - 1);
        let _more = [lobby.enter(now), lobby.enter(now)];
        assert!(!lobby.makes_room(now));
        lobby.sweep(now + PATIENCE);
        assert!(seats[0].cut.is_cancelled() && !seats[5].cut.is_cancelled());
        drop(seats);
        assert!(lobby.makes_room(now));
    }

    #[test]
    fn nobody_waits_for_ever() {
        let (lobby, now) = (Arc::new(Lobby::default()), Instant::now());
        let (early, late) = (lobby.enter(now), lobby.enter(now + Duration::from_secs(1)));
        lobby.sweep(now + PATIENCE);
        assert!(early.cut.is_cancelled() && !late.cut.is_cancelled());
    }
}
