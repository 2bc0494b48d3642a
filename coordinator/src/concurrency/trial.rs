//! The trial of a wait that one session alone reports: another session, which the origin has asked
//! for no wait, sends a request. Only if that request is served is the wait the reporter's own. A
//! witness that is refused, cut, or has no answer shows nothing of the kind, so the wait stays, and
//! the next session is the witness after [`ALONE`].
//!
//! `Retry-After` asks the client that was refused (RFC 9110 §10.2.3). Workers have addresses of
//! their own, so an origin may mean one of them; and one of them may be wrong, or hostile.

use std::{collections::BTreeMap, time::Duration};

use shared::ids::SessionId;
use tokio::time::Instant;

use super::{Observation, Pace, notice::Notice, waits::ALONE};
use crate::concurrency::allocation::Share;

/// A request that has no answer within so long is not served.
const LONGEST: Duration = Duration::from_secs(30);

/// The trial that is under way, and what came of the last one.
#[derive(Debug, Default)]
pub(super) struct Trials {
    running: Option<Trial>,
    /// The next witness is the session that follows it, so that each has its turn.
    last_witness: Option<SessionId>,
    /// The reporter whose wait the last witness has confirmed, and when the next trial of it begins.
    confirmed: Option<(SessionId, Instant)>,
}

/// A trial that is under way.
#[derive(Debug, Clone, Copy)]
struct Trial {
    /// The session that reports the wait.
    reporter: SessionId,
    /// The session that may send a request.
    witness: SessionId,
    /// What it had done before.
    before: Observation,
    began: Instant,
}

/// What came of the witness's request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Served,
    /// It was refused, cut, or not answered in time.
    NotServed,
    /// The witness has sent none.
    NotAsked,
}

impl Trials {
    /// Lets the next session ask that has a request to send, if there is a connection for it beside
    /// those that the others have open. What shares say is not asked: the reporter may keep the
    /// last one from the others.
    fn begin(&mut self, shares: &BTreeMap<SessionId, Share>, reporter: SessionId, limit: u32, now: Instant) {
        let others = || shares.iter().filter(|(id, _)| **id != reporter);
        let open = others().map(|(_, share)| share.last().open).fold(0, u32::saturating_add);
        let mut free = others().filter(|(_, share)| share.last().open < share.last().wanted);
        let follows = |id: SessionId| self.last_witness.is_none_or(|last| id.0 > last.0);
        let next = free.clone().find(|(id, _)| follows(**id)).or_else(|| free.next());
        if let Some((witness, share)) = next.filter(|_| open < limit) {
            self.last_witness = Some(*witness);
            self.running = Some(Trial { reporter, witness: *witness, before: share.last(), began: now });
        }
    }

    fn is_witness(&self, id: SessionId) -> bool {
        self.running.is_some_and(|trial| trial.witness == id)
    }

    fn is_confirmed(&self, reporter: SessionId, now: Instant) -> bool {
        self.confirmed.is_some_and(|(confirmed, until)| confirmed == reporter && now < until)
    }
}

impl Trial {
    /// What came of the witness's request; `None` while that is open.
    fn answer(&self, seen: &Observation, now: Instant) -> Option<Answer> {
        let has_asked = seen.requests > self.before.requests;
        let is_over = now - self.began >= LONGEST;
        match () {
            () if seen.cuts > self.before.cuts || seen.refusals > self.before.refusals => Some(Answer::NotServed),
            () if has_asked && seen.open <= seen.flowing => Some(Answer::Served),
            () if is_over && has_asked => Some(Answer::NotServed),
            () if is_over => Some(Answer::NotAsked),
            () => None,
        }
    }
}

impl Pace {
    /// Begins and ends trials.
    pub(super) fn try_wait(&mut self, now: Instant) {
        self.waits.count(self.shares.len() > 1, now);
        let reporter = self.waits.too_long_alone(now);
        let before = self.trials.running;
        let running = before.filter(|trial| Some(trial.reporter) == reporter);
        let witness = running.and_then(|trial| Some((trial, self.shares.get(&trial.witness)?)));
        let answer = witness.map(|(trial, share)| trial.answer(&share.last(), now));
        match (reporter, answer) {
            (Some(_), Some(None)) => return,
            (Some(reporter), Some(Some(Answer::Served))) => {
                self.waits.is_its_own(reporter);
                self.notices.push(Notice::Own);
                self.shorten(now);
            }
            (Some(reporter), Some(Some(Answer::NotServed))) => {
                self.trials.confirmed = Some((reporter, now + ALONE));
            }
            _ => {}
        }
        self.trials.running = None;
        if let Some(reporter) = self.waits.too_long_alone(now).filter(|id| !self.trials.is_confirmed(*id, now)) {
            self.trials.begin(&self.shares, reporter, self.climb.limit(), now);
        }
        if before.is_some() || self.trials.running.is_some() {
            self.tell_everybody();
        }
    }

    /// Until when a session asks the origin for nothing.
    pub(super) fn quiet_until(&self, id: SessionId) -> Instant {
        if self.trials.is_witness(id) { self.rest_until } else { self.quiet_until }
    }

    /// How many connections a session may have; a witness has one for its request.
    pub(super) fn connections(&self, id: SessionId, share: &Share) -> u32 {
        let trial = self.trials.running.filter(|trial| trial.witness == id);
        trial.map_or(share.connections, |trial| trial.before.open.saturating_add(1))
    }
}
