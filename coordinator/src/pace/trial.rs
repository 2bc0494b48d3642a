//! The trial of a wait that one session alone reports: another session, which the origin has asked
//! for no wait, sends a request. If it is refused as well, the wait is for all; else it is for the
//! session that reported it.
//!
//! `Retry-After` asks the client that was refused (RFC 9110 §10.2.3). Workers have addresses of
//! their own, so an origin may mean one of them; and one of them may be wrong, or hostile.

use std::{collections::BTreeMap, time::Duration};

use shared::ids::SessionId;
use tokio::time::Instant;

use super::{Observation, Pace, notice::Notice, shares::Share};

/// A request that is not refused within so long is taken for one that the origin serves.
const LONGEST: Duration = Duration::from_secs(30);

/// A trial that is under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Trial {
    /// The session that reports the wait.
    reporter: SessionId,
    /// The session that may send a request.
    pub(super) witness: SessionId,
    /// What it had done before.
    before: Observation,
    began: Instant,
}

impl Trial {
    /// Lets the first session ask that has a request to send, if there is a connection for it beside
    /// those that the others have open. Ids are drawn at random. What shares say is not asked: the
    /// reporter may keep the last one from the others.
    fn begin(shares: &BTreeMap<SessionId, Share>, reporter: SessionId, limit: u32, now: Instant) -> Option<Self> {
        let others = || shares.iter().filter(|(id, _)| **id != reporter);
        let open = others().map(|(_, share)| share.last().open).fold(0, u32::saturating_add);
        let (witness, share) = others().find(|(_, share)| share.last().open < share.last().wanted)?;
        (open < limit).then(|| Self { reporter, witness: *witness, before: share.last(), began: now })
    }

    /// Whether the witness's request was answered, or for too long not refused.
    fn is_served(&self, seen: &Observation, now: Instant) -> bool {
        let is_answered = seen.requests > self.before.requests
            && seen.cuts == self.before.cuts
            && seen.refusals == self.before.refusals
            && seen.open <= seen.flowing;
        is_answered || now - self.began >= LONGEST
    }
}

impl Pace {
    /// Begins and ends trials.
    pub(super) fn try_wait(&mut self, now: Instant) {
        self.waits.count(self.shares.len() > 1, now);
        let reporter = self.waits.too_long_alone(now);
        let running = self.trial.filter(|trial| Some(trial.reporter) == reporter);
        let served = running.and_then(|trial| {
            let witness = self.shares.get(&trial.witness)?;
            Some(trial.is_served(&witness.last(), now))
        });
        match (reporter, served) {
            (Some(reporter), Some(true)) => {
                self.trial = None;
                self.waits.is_its_own(reporter);
                self.notices.push(Notice::Own);
                self.shorten(now);
                self.tell_everybody();
            }
            (Some(_), Some(false)) => {}
            (Some(reporter), None) => {
                self.trial = Trial::begin(&self.shares, reporter, self.climb.limit(), now);
                if self.trial.is_some() {
                    self.tell_everybody();
                }
            }
            (None, _) => {
                if self.trial.take().is_some() {
                    self.tell_everybody();
                }
            }
        }
    }

    /// Until when a session asks the origin for nothing.
    pub(super) fn quiet_until(&self, id: SessionId) -> Instant {
        let is_witness = self.trial.is_some_and(|trial| trial.witness == id);
        if is_witness { self.rest_until } else { self.quiet_until }
    }

    /// How many connections a session may have; a witness has one for its request.
    pub(super) fn connections(&self, id: SessionId, share: &Share) -> u32 {
        let is_witness = self.trial.is_some_and(|trial| trial.witness == id);
        if is_witness { share.last().open.saturating_add(1) } else { share.connections }
    }
}
