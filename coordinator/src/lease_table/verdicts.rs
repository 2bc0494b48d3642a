//! The effect of a report: which party a failure is attributed to, and which worker retries the
//! class.

use std::time::Duration;

use shared::{
    backoff::Backoff,
    ids::SessionId,
    outcome::{Failure, Outcome, Suspect},
};
use tokio::time::Instant;

use super::{
    AttemptEvent, Lease, LeaseNotice, LeaseTable, ReportVerdict, Session, State,
    breaker::FailureCause,
    trouble::{OFFERS, TRIES},
};

/// Delay before another worker tries a class.
const BACKOFF: Backoff = Backoff {
    base: Duration::from_secs(2),
    cap: Duration::from_mins(5),
};

impl LeaseTable {
    /// Settles a class, or schedules another attempt. Idempotent: a repeated report changes
    /// nothing. Tokens can be guessed, so a failure also needs the session. The caller draws
    /// `random` uniformly from 0.0..=1.0.
    pub fn report(
        &mut self,
        id: SessionId,
        lease: Lease,
        outcome: &Outcome,
        now: Instant,
        random: f64,
    ) -> ReportVerdict {
        let Some(position) = self.index.get(&lease.wnid).copied() else {
            return ReportVerdict::NotInList;
        };
        let settled = State::of(outcome);
        if settled != State::Failed {
            self.is_there(position);
        }
        let class = &self.classes[position];
        let holds = class.state == State::Leased(id) && class.token == Some(lease.token);
        let makes_attempt = self.attempts.has(position, id, lease.token);
        let verdict = match (class.state, settled) {
            (State::Success | State::Skipped, _) | (State::Failed, State::Failed) => {
                return ReportVerdict::AlreadySettled;
            }
            (State::Leased(_), State::Failed) if makes_attempt => {
                return self.attempt_failed(id, position, outcome, now);
            }
            (_, State::Failed) if !holds => return ReportVerdict::Stale,
            (State::Failed, _) => ReportVerdict::Corrected,
            _ => ReportVerdict::Settled,
        };
        if let Outcome::Failed(failure) = outcome {
            let verdict = self.failed(id, position, failure, now, random);
            if verdict == ReportVerdict::Settled {
                self.settle(id, position, settled);
            }
            if failure.suspect == Suspect::Class && self.breaker.is_answer(lease.token) {
                // Any report about a response proves that the origin is available. This must come
                // last, because otherwise a doubt about this class would settle it too.
                self.origin_answered(now);
            }
            self.check_sample(now);
            self.settle_lonely_doubts();
            return verdict;
        }
        self.lengths.note(outcome);
        let is_holders = holds || makes_attempt;
        self.completed(id, position, lease, outcome, is_holders, now);
        self.settle(id, position, settled);
        // A success without a lease does not prove a response of the origin.
        if settled == State::Success && is_holders {
            self.sessions.succeeded(id, now);
            self.end_first_answers();
            self.later_answer(Some(lease.token));
            if self.breaker.is_answer(lease.token) {
                self.origin_answered(now);
            }
        }
        self.check_sample(now);
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

    /// A class is complete. If two workers tried it, one was first.
    fn completed(
        &mut self,
        id: SessionId,
        position: usize,
        lease: Lease,
        outcome: &Outcome,
        is_holders: bool,
        now: Instant,
    ) {
        let bytes = match outcome {
            Outcome::Success(published) if is_holders => published.bytes,
            _ => 0,
        };
        let attempt = self.attempts.get_mut(position, id, lease.token).copied();
        let first = self
            .sessions
            .by_id
            .get(&id)
            .and_then(|session| session.leases.get(&position))
            .copied();
        let holding = attempt.or(first).filter(|_| is_holders);
        if let Some(granted) = holding.and_then(|holding| holding.granted) {
            self.attempts.speeds.note(bytes, now - granted);
        }
        if let Some(attempt) = self.attempts.settled(position, bytes) {
            let news = if attempt.token == lease.token {
                AttemptEvent::Won
            } else {
                AttemptEvent::Late
            };
            self.tell_of_attempt(position, attempt.session, news);
        }
    }

    /// A failed speculative attempt is no evidence about its class, whose holder continues; it may
    /// be evidence about the worker.
    fn attempt_failed(
        &mut self,
        id: SessionId,
        position: usize,
        outcome: &Outcome,
        now: Instant,
    ) -> ReportVerdict {
        if let Outcome::Failed(failure) = outcome
            && failure.suspect != Suspect::Class
            && !failure.lacks_space
        {
            self.worker_failed(id, failure, now);
        }
        self.end_attempt(position);
        ReportVerdict::AttemptFailed
    }

    /// A worker has failed a class that others may complete.
    fn worker_failed(&mut self, id: SessionId, failure: &Failure, now: Instant) {
        if self.sessions.failed(id, now) {
            let worker = self.sessions.by_id[&id].hello.worker.clone();
            self.notices.push(LeaseNotice::Quarantined {
                worker,
                failure: failure.clone(),
            });
        }
    }

    /// The effect of a failure reported by the holder of the lease. Every verdict but `Settled` has
    /// been carried out.
    fn failed(
        &mut self,
        id: SessionId,
        position: usize,
        failure: &Failure,
        now: Instant,
        random: f64,
    ) -> ReportVerdict {
        if failure.suspect == Suspect::Class && self.hand_over(position) {
            return ReportVerdict::Retried;
        }
        let session = &self.sessions.by_id[&id];
        let key = match failure.suspect {
            Suspect::Class if !self.may_be_wrong(position, id, now) => {
                return self.class_failed(id, position, failure, now);
            }
            Suspect::Class | Suspect::Origin => session.name_key(),
            Suspect::WorkerHost => session.host_key(),
        };
        let tried = self.troubles.note(position, key, failure.lacks_space, now);
        if failure.lacks_space {
            return self.declined(id, position, tried, now);
        }
        self.worker_failed(id, failure, now);
        let was_away = self.breaker.is_open();
        let meaning = match failure.suspect {
            Suspect::Origin => {
                self.breaker.note(position, id, self.last_token, now);
                let is_common = self.breaker.is_long() && self.origin_fails_workers(now);
                self.breaker.judge(is_common, now)
            }
            _ => FailureCause::Class,
        };
        if meaning == FailureCause::Origin {
            if !was_away {
                let waits = self.breaker.patience();
                self.notices.push(LeaseNotice::OriginUnavailable {
                    failure: failure.clone(),
                    waits,
                });
            }
            self.excuse(position);
            return ReportVerdict::Excused;
        }
        if self.hand_over(position) {
            return ReportVerdict::Retried;
        }
        let has_failed =
            |session: &Session| self.troubles.has_failed(position, now, || session.keys());
        if tried < TRIES
            && self
                .sessions
                .is_there_another(id, now, |other| !has_failed(other))
        {
            self.classes[position].token = None;
            let retry = u32::try_from(tried - 1).unwrap_or(u32::MAX);
            self.set(position, State::Delayed(now + BACKOFF.delay(retry, random)));
            return ReportVerdict::Retried;
        }
        if meaning == FailureCause::Class {
            return ReportVerdict::Settled;
        }
        self.classes[position].token = None;
        self.set(position, State::Doubted);
        self.breaker.doubt(position, failure.clone());
        ReportVerdict::Doubted
    }

    /// A worker has no space for a class, which is not the worker's fault. Another worker is
    /// granted the class at once, if there is one.
    fn declined(
        &mut self,
        id: SessionId,
        position: usize,
        offers: usize,
        now: Instant,
    ) -> ReportVerdict {
        if self.hand_over(position) {
            return ReportVerdict::Retried;
        }
        let has_failed =
            |session: &Session| self.troubles.has_failed(position, now, || session.keys());
        if offers >= OFFERS
            || !self
                .sessions
                .is_there_another(id, now, |other| !has_failed(other))
        {
            return ReportVerdict::Settled;
        }
        self.give_back(position);
        ReportVerdict::Retried
    }

    /// The origin caused the failure: this class, and those that failed consecutively before it,
    /// return to their earlier state.
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

    /// Whether the origin fails for the workers that send it requests, and not only for one worker
    /// under many names: for most of the workers that have completed a class, or for all of them if
    /// no active worker has. A worker that holds a class and has received nothing for a whole time
    /// to live counts as one that the origin fails for.
    fn origin_fails_workers(&self, now: Instant) -> bool {
        let Some(since) = self.breaker.failing_since() else {
            return false;
        };
        let mut proven = Vec::new();
        let mut unproven = Vec::new();
        for (id, session) in &self.sessions.by_id {
            let has_failed = self.breaker.has_failed(*id);
            if has_failed || !session.leases.is_empty() {
                let receives_nothing = session.last_received < since && now - since >= self.ttl;
                let group = if session.last_success.is_some() {
                    &mut proven
                } else {
                    &mut unproven
                };
                group.push(has_failed || receives_nothing);
            }
        }
        let failed = |group: &[bool]| group.iter().filter(|is_failed| **is_failed).count();
        match proven.len() {
            0 => failed(&unproven) == unproven.len(),
            at_work => 2 * failed(&proven) > at_work,
        }
    }

    /// The origin has responded: classes that failed before have failed for their own reasons, and
    /// all workers may continue.
    pub(super) fn origin_answered(&mut self, now: Instant) {
        let (doubts, was_away) = self.breaker.answered();
        for (position, failure) in doubts {
            // At the time of the failure there may have been no other worker.
            if self.troubles.times(position) < TRIES && self.may_be_tried_by_another(position, now)
            {
                self.give_back(position);
            } else {
                self.give_up(position, failure);
            }
        }
        if was_away {
            self.notices.push(LeaseNotice::OriginAvailable);
            self.wake_ups += 1;
        }
    }

    fn may_be_tried_by_another(&self, position: usize, now: Instant) -> bool {
        let has_not_failed =
            |session: &Session| !self.troubles.has_failed(position, now, || session.keys());
        self.sessions
            .by_id
            .values()
            .any(|session| session.is_healthy(now) && has_not_failed(session))
    }

    /// If no class is left that could show whether the origin is available, the doubtful classes
    /// have failed.
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
