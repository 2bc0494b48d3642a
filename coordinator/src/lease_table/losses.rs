//! Losses: sessions that end without a word, and what that says of the classes that they held.
//!
//! A class whose lease is lost ten times takes its workers down with it, or else its workers were
//! stopped for other reasons, or one worker does it on purpose, under names that it invents. So
//! beyond [`MAX_LOSSES`] the class is a suspect, and goes to a worker that has done a class in its
//! session, if there is one: a hostile worker would have to call one done. The class has failed if
//! such a worker loses it too, or if there is none.
//!
//! Invariant: a class that gets no further, and that every worker loses, fails.

use std::{
    collections::{HashMap, hash_map::Entry},
    mem,
    time::Duration,
};

use shared::ids::SessionId;
use tokio::time::Instant;

use super::{Ended, LeaseTable, Session, State};

/// A class whose lease was lost this often is a suspect.
pub const MAX_LOSSES: u8 = 10;
/// What a loss counts.
pub(super) const LOSS: u8 = 10;
/// What it counts when the worker, heard of a moment ago, is there again as a new process: it was started again, or its
/// supervisor is quick. A tenth, so that a crash at each start comes to an end too.
pub(super) const RESTART: u8 = 1;
/// For so long after its last loss a suspect is kept for workers that have done a class.
const RESERVED: Duration = Duration::from_mins(5);
/// A class that came further than ever before by so many bytes, or by a hundredth of its length,
/// makes progress. Downloads are judged by the same rule.
const LEAST_PROGRESS: u64 = 64 << 10;

/// A session has ended without a word.
#[derive(Debug, Clone, Copy)]
pub(super) struct Loss {
    /// [`LOSS`] or [`RESTART`].
    pub(super) weight: u8,
    pub(super) at: Instant,
}

/// The losses of one class since it last made progress.
#[derive(Debug)]
struct Lost {
    weight: u8,
    /// What losses by workers that had done a class have counted since it is a suspect.
    confirmed: u8,
    last: Instant,
    /// The furthest position at which it was lost.
    furthest: u64,
}

impl Lost {
    fn is_suspect(&self) -> bool {
        self.weight >= MAX_LOSSES * LOSS
    }
}

/// The classes that were lost and are not settled.
#[derive(Debug, Default)]
pub(super) struct Losses(HashMap<usize, Lost>);

impl Losses {
    /// Notes a loss of a class at a position in its tar. `is_proven`: its worker has done a class.
    fn note(&mut self, class: usize, Loss { weight, at }: Loss, (bytes, length): (u64, u64), is_proven: bool) {
        let lost = match self.0.entry(class) {
            Entry::Vacant(entry) => {
                entry.insert(Lost { weight, confirmed: 0, last: at, furthest: bytes });
                return;
            }
            Entry::Occupied(entry) => entry.into_mut(),
        };
        if bytes >= lost.furthest.saturating_add(LEAST_PROGRESS.max(length / 100)) {
            *lost = Lost { weight: 0, confirmed: 0, last: at, furthest: bytes };
        }
        if lost.is_suspect() && is_proven {
            lost.confirmed = lost.confirmed.saturating_add(weight);
        }
        lost.weight = lost.weight.saturating_add(weight);
        lost.last = at;
    }

    /// Whether a class takes its workers down with it. `is_proven`: the one that lost it last has
    /// done a class. `is_there_proven`: another one that has could show that the class does not.
    fn has_failed(&self, class: usize, is_proven: bool, is_there_proven: impl Fn() -> bool) -> bool {
        let lost = self.0.get(&class).filter(|lost| lost.is_suspect());
        lost.is_some_and(|lost| lost.confirmed >= LOSS || !(is_proven || is_there_proven()))
    }

    /// Whether a class is kept for workers that have done one.
    pub(super) fn is_reserved(&self, class: usize, now: Instant) -> bool {
        self.0.get(&class).is_some_and(|lost| lost.is_suspect() && now - lost.last < RESERVED)
    }

    /// The class is settled.
    pub(super) fn forget(&mut self, class: usize) {
        self.0.remove(&class);
    }
}

impl LeaseTable {
    /// Ends a session that was not renewed. Its worker may take up again what no other one has got.
    pub(super) fn expire_session(&mut self, id: SessionId, now: Instant) -> Ended {
        let tokens: Vec<_> =
            self.sessions.by_id[&id].leases.keys().map(|position| (*position, self.classes[*position].token)).collect();
        let (_, ended) = self.end(id, Some(Loss { weight: LOSS, at: now }));
        for (position, token) in tokens {
            // It may have gone to its copy.
            if matches!(self.classes[position].state, State::Queued(_)) {
                self.classes[position].token = token;
                self.lost_by.insert(position, ended.worker.clone());
            }
        }
        ended
    }

    /// Ends a session and gives back what it had; `loss`: it ended without a word.
    pub(super) fn end(&mut self, id: SessionId, loss: Option<Loss>) -> (Session, Ended) {
        for position in self.copied_by(id) {
            if loss.is_some() { self.end_copy(position) } else { self.take_back_copy(position) }
        }
        let mut session = self.sessions.remove(id);
        self.breaker.left(id);
        self.count_workers();
        let worker = session.hello.worker.clone();
        let mut ended = Ended { session: id, worker, returned: 0, given_up: Vec::new() };
        let is_proven = session.last_success.is_some();
        for (position, held) in mem::take(&mut session.leases) {
            if let Some(loss) = loss {
                self.losses.note(position, loss, (held.bytes, held.length), is_proven);
            }
            if self.hand_over(position) {
                ended.returned += 1;
            } else if let Some(Loss { at, .. }) = loss
                && self.losses.has_failed(position, is_proven, || self.sessions.is_there_proven(at))
            {
                self.set(position, State::Failed);
                ended.given_up.push(self.classes[position].wnid);
            } else {
                if !session.hello.storage.is_empty() {
                    self.begun_on.insert(position, session.hello.storage.clone());
                }
                self.give_back(position);
                ended.returned += 1;
            }
        }
        self.turn += 1;
        (session, ended)
    }
}
