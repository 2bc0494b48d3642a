//! What a report means: who is to blame for bad news, and who tries again.

use std::time::Duration;

use shared::{
    backoff::Backoff,
    ids::SessionId,
    outcome::{Failure, Outcome, Suspect},
};
use tokio::time::Instant;

use super::{CopyNews, Lease, LeaseTable, Notice, State, Verdict, breaker::Meaning, trouble::TRIES};

/// Before another worker tries a class.
const BACKOFF: Backoff = Backoff { base: Duration::from_secs(2), cap: Duration::from_mins(5) };

impl LeaseTable {
    /// Settles a class, or has it tried again. Idempotent: the same report again changes nothing. `random` is drawn by the
    /// caller, uniformly from 0.0..=1.0.
    pub fn report(&mut self, id: SessionId, lease: Lease, outcome: &Outcome, now: Instant, random: f64) -> Verdict {
        let Some(position) = self.index.get(&lease.wnid).copied() else { return Verdict::NotInList };
        let class = &self.classes[position];
        let settled = State::of(outcome);
        let verdict = match (class.state, settled) {
            (State::Success | State::Skipped, _) | (State::Failed, State::Failed) => return Verdict::AlreadySettled,
            (State::Leased(_), State::Failed) if self.copies.has(position, lease.token) => {
                return self.copy_failed(id, position, outcome, now);
            }
            (_, State::Failed) if class.token != Some(lease.token) => return Verdict::Stale,
            (State::Failed, _) => Verdict::Corrected,
            _ => Verdict::Settled,
        };
        if let Outcome::Failed(failure) = outcome {
            let verdict = self.failed(id, position, failure, now, random);
            if verdict == Verdict::Settled {
                self.settle(id, position, settled);
            }
            if failure.suspect == Suspect::Class && self.breaker.is_answer(lease.token) {
                // Whatever it said: somebody is there. Only now, or a doubt about this very class would settle it, too.
                self.origin_answered();
            }
            self.settle_lonely_doubts();
            return verdict;
        }
        self.came(id, position, lease, outcome, now);
        self.settle(id, position, settled);
        if settled == State::Success {
            self.sessions.succeeded(id, now);
            if self.breaker.is_answer(lease.token) {
                self.origin_answered();
            }
        }
        self.settle_lonely_doubts();
        verdict
    }

    fn settle(&mut self, id: SessionId, position: usize, state: State) {
        self.set(position, state);
        self.troubles.forget(position);
        self.begun_on.remove(&position);
        if let Some(session) = self.sessions.by_id.get_mut(&id) {
            let count = match state {
                State::Success => &mut session.settled[0],
                State::Skipped => &mut session.settled[1],
                _ => &mut session.settled[2],
            };
            *count += 1;
        }
    }

    /// A class is there: of two that tried it one was first.
    fn came(&mut self, id: SessionId, position: usize, lease: Lease, outcome: &Outcome, now: Instant) {
        let bytes = if let Outcome::Success(published) = outcome { published.bytes } else { 0 };
        let holds = self.classes[position].token == Some(lease.token);
        let first = self.sessions.by_id.get(&id).filter(|_| holds).and_then(|session| session.leases.get(&position));
        let holding = first.copied().or_else(|| self.copies.get_mut(position, id, lease.token).copied());
        if let Some(granted) = holding.and_then(|holding| holding.granted) {
            self.copies.speeds.note(bytes, now - granted);
        }
        if let Some(copy) = self.copies.settled(position, bytes) {
            let news = if copy.token == lease.token { CopyNews::Won } else { CopyNews::Late };
            self.tell_of_copy(position, copy.session, news);
        }
    }

    /// Bad news of a copy says nothing of its class, whose holder goes on; but perhaps of the worker.
    fn copy_failed(&mut self, id: SessionId, position: usize, outcome: &Outcome, now: Instant) -> Verdict {
        if let Outcome::Failed(failure) = outcome
            && failure.suspect != Suspect::Class
        {
            self.worker_failed(id, failure, now);
        }
        self.end_copy(position);
        Verdict::CopyFailed
    }

    /// A worker has failed what others may do.
    fn worker_failed(&mut self, id: SessionId, failure: &Failure, now: Instant) {
        if self.sessions.failed(id, now) {
            let worker = self.sessions.by_id[&id].hello.worker.clone();
            self.notices.push(Notice::Quarantined { worker, failure: failure.clone() });
        }
    }

    /// What bad news from the holder of the lease means; every verdict but `Settled` has been carried out.
    fn failed(&mut self, id: SessionId, position: usize, failure: &Failure, now: Instant, random: f64) -> Verdict {
        if failure.suspect == Suspect::Class && self.hand_over(position) {
            return Verdict::Retried;
        }
        let session = self.sessions.by_id.get(&id);
        let key = match failure.suspect {
            Suspect::Class => return Verdict::Settled,
            Suspect::Origin => session.map(super::Session::name_key),
            Suspect::Host => session.map(super::Session::host_key),
        };
        // Of a worker whose session has ended nobody knows the name any more.
        let tried = self.troubles.note(position, key.unwrap_or_default(), now);
        self.worker_failed(id, failure, now);
        let was_away = self.breaker.is_open();
        let meaning = match failure.suspect {
            Suspect::Origin => self.breaker.failed(position, self.last_token, now),
            _ => Meaning::Class,
        };
        if meaning == Meaning::Origin {
            if !was_away {
                self.notices.push(Notice::OriginAway(failure.clone()));
            }
            self.excuse(position);
            return Verdict::Excused;
        }
        if self.hand_over(position) {
            return Verdict::Retried;
        }
        let has_failed = |session: &super::Session| self.troubles.has_failed(position, now, || session.keys());
        if tried < TRIES && self.sessions.is_there_another(id, now, |other| !has_failed(other)) {
            self.classes[position].token = None;
            let retry = u32::try_from(tried - 1).unwrap_or(u32::MAX);
            self.set(position, State::Delayed(now + BACKOFF.delay(retry, random)));
            return Verdict::Retried;
        }
        if meaning == Meaning::Class {
            return Verdict::Settled;
        }
        self.classes[position].token = None;
        self.set(position, State::Doubted);
        self.breaker.doubt(position, failure.clone());
        Verdict::Doubted
    }

    /// It was the origin: this class, and those that failed in a row before it, are as they were.
    fn excuse(&mut self, position: usize) {
        for failed in self.breaker.take_row() {
            self.troubles.forget(failed);
        }
        self.troubles.forget(position);
        self.give_back(position);
        for doubted in self.breaker.take_doubts().into_keys() {
            self.queue(doubted);
        }
    }

    /// Somebody has heard from the origin: what failed before has failed by itself, and everybody may go on.
    pub(super) fn origin_answered(&mut self) {
        let (doubts, was_away) = self.breaker.answered();
        for (position, failure) in doubts {
            self.give_up(position, failure);
        }
        if was_away {
            self.notices.push(Notice::OriginBack);
            self.turn += 1;
        }
    }

    /// When nothing is left that could show whether the origin is well, the doubtful classes have failed.
    pub(super) fn settle_lonely_doubts(&mut self) {
        let doubts = self.breaker.doubts();
        if doubts == 0 || self.status.leased > 0 || self.status.pending > doubts {
            return;
        }
        for (position, failure) in self.breaker.take_doubts() {
            self.give_up(position, failure);
        }
    }
}
