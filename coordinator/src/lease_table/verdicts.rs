//! The effect of a report: which party a failure is attributed to, and which worker retries the
//! class.

use std::{mem, time::Duration};

use shared::{
    backoff::Backoff,
    ids::{LeaseToken, SessionId},
    outcome::{Failure, Outcome, Suspect},
};
use tokio::time::Instant;

use super::{
    AttemptEvent, Lease, LeaseNotice, LeaseTable, ReportVerdict, State,
    breaker::FailureCause,
    class_failures::{OFFERS, TRIES},
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
        let Some(position) = self.position(lease.wnid) else {
            return ReportVerdict::NotInList;
        };
        let settled = State::of(outcome);
        if settled != State::Failed {
            self.elsewhere.unconfirmed.remove(&position);
        }
        let attempt = self.attempts.get_mut(position, id, lease.token);
        let makes_attempt = attempt.is_some();
        let class = &self.classes[position];
        let holds = class.state == State::Leased(id) && class.token == Some(lease.token);
        let mut verdict = match (class.state, settled) {
            (State::Success | State::Skipped, _) | (State::Failed, State::Failed) => {
                return ReportVerdict::AlreadySettled;
            }
            (_, State::Failed) if !holds && !makes_attempt => return ReportVerdict::Stale,
            (State::Failed, _) => ReportVerdict::Corrected,
            _ => ReportVerdict::Settled,
        };
        match outcome {
            Outcome::Failed(failure) if makes_attempt => {
                return self.attempt_failed(id, position, failure, now);
            }
            Outcome::Failed(failure) => {
                self.classes[position].count_attempt();
                verdict = self.failed(id, position, failure, now, random);
                if verdict == ReportVerdict::Settled {
                    self.settle(id, position, settled);
                }
                if failure.suspect == Suspect::Class && self.breaker.is_answer(lease.token) {
                    // Any report about a response proves that the origin is available. This must
                    // come last, because otherwise a doubt about this class would settle it too.
                    self.origin_answered(now);
                }
            }
            Outcome::Success(published) | Outcome::Skipped(published) => {
                self.lengths.note(outcome);
                let is_holders = holds || makes_attempt;
                let is_success = settled == State::Success && is_holders;
                let bytes = if is_success { published.bytes } else { 0 };
                self.completed(id, position, lease.token, bytes, now);
                self.settle(id, position, settled);
                // A success without a lease does not prove a response of the origin.
                if is_success {
                    self.sessions.succeeded(id, now);
                    self.end_first_answers();
                    self.later_answer(Some(lease.token));
                    if self.breaker.is_answer(lease.token) {
                        self.origin_answered(now);
                    }
                }
            }
        }
        self.check_sample(now);
        self.settle_lonely_doubts();
        verdict
    }

    fn settle(&mut self, id: SessionId, position: usize, state: State) {
        self.set(position, state);
        self.class_failures.forget(position);
        self.begun_on.remove(&position);
        if let Ok(session) = self.sessions.get_mut(id) {
            *state.counter(&mut session.settled) += 1;
        }
    }

    /// A class is complete. If two workers tried it, one was first. `bytes`: the length of its tar
    /// if it was received under this token.
    fn completed(
        &mut self,
        id: SessionId,
        position: usize,
        token: LeaseToken,
        bytes: u64,
        now: Instant,
    ) {
        if let Some(progress) = self.progress(position, id, token)
            && let Some(granted) = progress.granted
        {
            self.attempts.speeds.note(bytes, now - granted);
        }
        if let Some(attempt) = self.attempts.settled(position, bytes) {
            let news = if attempt.token == token {
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
        failure: &Failure,
        now: Instant,
    ) -> ReportVerdict {
        if failure.suspect != Suspect::Class && !failure.lacks_space {
            self.worker_failed(id, failure, now);
        }
        self.end_attempt(position, AttemptEvent::Failed);
        ReportVerdict::AttemptFailed
    }

    /// A worker has failed a class that others may complete.
    fn worker_failed(&mut self, id: SessionId, failure: &Failure, now: Instant) {
        if self.sessions.failed(id, now) {
            self.notices.push(LeaseNotice::Quarantined {
                worker: self.worker(id).unwrap_or_default().to_owned(),
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
        let tried = self
            .class_failures
            .note(position, key, failure.lacks_space, now);
        if failure.lacks_space {
            return self.declined(position, tried, now);
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
                self.notices.push(LeaseNotice::OriginUnavailable {
                    failure: failure.clone(),
                    waits: self.breaker.patience(),
                });
            }
            self.excuse(position);
            return ReportVerdict::Excused;
        }
        if self.hand_over(position) {
            return ReportVerdict::Retried;
        }
        if tried < TRIES && self.is_there_one_to_try(position, now) {
            let retry = u32::try_from(tried - 1).unwrap_or(u32::MAX);
            self.set(position, State::Delayed(now + BACKOFF.delay(retry, random)));
            return ReportVerdict::Retried;
        }
        if meaning == FailureCause::Class {
            return ReportVerdict::Settled;
        }
        self.breaker.doubts.insert(position, failure.clone());
        self.keep_pending(position)
    }

    /// A worker has no space for a class, which is not the worker's fault. Another worker is
    /// granted the class at once, if there is one.
    fn declined(&mut self, position: usize, offers: usize, now: Instant) -> ReportVerdict {
        if !self.hand_over(position) {
            if offers >= OFFERS || !self.is_there_one_to_try(position, now) {
                return ReportVerdict::Settled;
            }
            self.give_back(position);
        }
        ReportVerdict::Retried
    }

    /// The origin caused the failure: this class, and those that failed consecutively before it,
    /// return to their earlier state.
    fn excuse(&mut self, position: usize) {
        for failed in self.breaker.take_row() {
            self.class_failures.forget(failed);
        }
        self.class_failures.forget(position);
        self.give_back(position);
        for doubted in mem::take(&mut self.breaker.doubts).into_keys() {
            self.queue(doubted);
        }
    }

    /// Whether the origin fails for the workers that send it requests, and not only for one worker
    /// under many names: for most of the workers that have completed a class, or for all of them if
    /// no active worker has. A worker that holds a class and has received nothing for a whole time
    /// to live counts as one that the origin fails for.
    fn origin_fails_workers(&self, now: Instant) -> bool {
        let Some(since) = self.breaker.failing_since else {
            return false;
        };
        // Number of workers that have, and have not, completed a class, and of those of them that
        // the origin fails for.
        let mut proven = (0, 0);
        let mut unproven = (0, 0);
        for session in self.sessions.by_id.values() {
            let has_failed = self.breaker.failed_by.contains(&session.id);
            if has_failed || !session.leases.is_empty() {
                let receives_nothing = session.last_received < since && now - since >= self.ttl;
                let (workers, failed) = match session.last_success {
                    Some(_) => &mut proven,
                    None => &mut unproven,
                };
                *workers += 1;
                *failed += u32::from(has_failed || receives_nothing);
            }
        }
        match proven {
            (0, _) => unproven.0 == unproven.1,
            (workers, failed) => 2 * failed > workers,
        }
    }

    /// The origin has responded: classes that failed before have failed for their own reasons, and
    /// all workers may continue.
    pub(super) fn origin_answered(&mut self, now: Instant) {
        let (doubts, was_away) = self.breaker.answered();
        for (position, failure) in doubts {
            // At the time of the failure there may have been no other worker.
            let tried = self.class_failures.times(position);
            if tried < TRIES && self.is_there_one_to_try(position, now) {
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

    /// If no class is left that could show whether the origin is available, the doubtful classes
    /// have failed.
    pub(super) fn settle_lonely_doubts(&mut self) {
        let doubts = self.breaker.doubts.len() as u64;
        if doubts > 0 && self.status.leased == 0 && self.status.pending <= doubts {
            let doubts = mem::take(&mut self.breaker.doubts);
            self.give_up_doubted(doubts);
        }
    }

    /// Settles those of these classes as failed that still wait for an answer of the origin.
    pub(super) fn give_up_doubted(&mut self, failures: impl IntoIterator<Item = (usize, Failure)>) {
        for (position, failure) in failures {
            if self.classes[position].state == State::Doubted {
                self.give_up(position, failure);
            }
        }
    }
}
