//! The first responses of the origin: detects whether it refuses every class alike, because of a
//! wrong URL or a missing login. Pure.
//!
//! Before the origin has sent a tar, at most [`SAMPLE`] classes are requested. They are spread over
//! the whole list, because the first rows of a list may be missing at the origin while others are
//! not. A class that the origin refuses meanwhile stays pending. If [`SAMPLE`] classes are refused
//! alike, the job ends and none of them has failed. With the first tar, or the first response of
//! another kind, the refused classes have failed and the check is over.
//!
//! After the check, `later_answers` detects consecutive refusals.
//!
//! Refusals of classes that the last run of this URL left failed are no evidence: these classes are
//! likely to be missing permanently. They are neither part of the sample nor counted.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    mem,
    time::Duration,
};

use shared::{
    Wnid,
    ids::SessionId,
    outcome::Failure,
    refusal::Refusal,
    refused_sample::{BYTES_OF_A_TAR, LONGEST_PAGE, OriginRefuses, SAMPLE, spread},
};
use tokio::time::Instant;

use super::{LeaseTable, ReportVerdict, State, later_answers::LaterAnswers};

/// If each refusal takes several requests, because the origin redirects, this many classes suffice
/// once [`SAMPLE`] requests were sent.
pub(super) const SMALLEST_SAMPLE: usize = 10;
/// With several workers, each gets an equal part of the sample for this long: one worker that
/// reports falsely, or cannot reach the origin, must not decide for all.
pub(super) const SHARED_FOR: Duration = Duration::from_secs(3);
/// If this many times more classes are complete than are left, the rest may well be missing at the
/// origin.
pub(super) const MOSTLY_COMPLETE: usize = 9;

/// State of the check.
#[derive(Debug)]
pub(super) enum FirstAnswers {
    /// No class was granted yet.
    Waiting {
        failed_before: HashSet<usize>,
    },
    Checking(Sample),
    Refused(OriginRefuses),
    /// The origin has sent a tar, or the list is too short.
    Over(LaterAnswers),
}

impl Default for FirstAnswers {
    fn default() -> Self {
        Self::Over(LaterAnswers::default())
    }
}

/// The next class of the sample for a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NextOfSample {
    /// The class at this position of the list.
    Class(usize),
    /// No class before the ledger has stored the sample.
    NotYet,
    NoMore,
}

/// The classes that are requested during the check, and their results so far.
#[derive(Debug)]
pub(super) struct Sample {
    failed_before: HashSet<usize>,
    /// Classes that were left, and that were complete, at the start of the check.
    left: usize,
    there: usize,
    /// Classes of the sample that were not granted yet.
    rest: VecDeque<usize>,
    /// Bytes that each worker's process had received at its first report.
    received: BTreeMap<SessionId, u64>,
    /// Refused classes, each with the session and the failure.
    refused: BTreeMap<usize, (SessionId, Failure)>,
    /// Requests that the only worker has sent to the origin; 0 if there are several workers.
    requests: usize,
    /// When each worker may be granted the whole sample; `None` once workers were woken for it.
    shared_until: Option<Instant>,
}

impl Sample {
    /// A sample of these classes, which are in the order of the list.
    fn of(candidates: &[usize], there: usize, failed_before: HashSet<usize>, now: Instant) -> Self {
        let left = candidates.len();
        let rest = spread(left).map(|position| candidates[position]).collect();
        let shared_until = Some(now + SHARED_FOR);
        let received = BTreeMap::new();
        Self {
            failed_before,
            left,
            there,
            rest,
            received,
            refused: BTreeMap::new(),
            requests: 0,
            shared_until,
        }
    }

    /// Whether a refusal is evidence: it may have the same cause as the earlier ones, and a cause
    /// in the job instead of the class. If at least half of the list is complete, a class that the
    /// origin reports as not found is missing.
    fn counts(&self, refusal: Refusal) -> bool {
        let is_alike = self
            .refusal()
            .is_none_or(|first| first.may_have_the_cause_of(refusal));
        is_alike && !(refusal.is_missing() && self.there >= self.left)
    }

    /// The result, if the sample is refused.
    fn refuses(&self) -> Option<OriginRefuses> {
        OriginRefuses::of(self.refused.values().map(|(_, failure)| failure), false)
    }

    /// Whether enough classes were refused. `under_way`: classes without a response yet. The number
    /// of requests decides only if it exceeds one for each class, as behind redirects; otherwise
    /// requests of the classes under way would count as refused.
    fn is_full(&self, under_way: usize) -> bool {
        let refused = self.refused.len();
        let is_redirected = self.requests >= SAMPLE && refused + under_way < SAMPLE;
        refused >= SAMPLE || (refused >= SMALLEST_SAMPLE && is_redirected)
    }

    fn refusal(&self) -> Option<Refusal> {
        self.refused
            .values()
            .next()
            .and_then(|(_, failure)| failure.refusal)
    }
}

impl LeaseTable {
    /// Ends the job if its first classes are all refused alike. `failed_before`: classes that the
    /// last run of this URL left failed.
    #[must_use]
    pub fn checking_first_answers(self, failed_before: impl IntoIterator<Item = Wnid>) -> Self {
        let failed_before = failed_before
            .into_iter()
            .filter_map(|wnid| self.index.get(&wnid).copied());
        let first_answers = FirstAnswers::Waiting {
            failed_before: failed_before.collect(),
        };
        Self {
            first_answers,
            ..self
        }
    }

    /// The result, once it is known that the origin refuses every class alike.
    pub fn origin_refuses(&self) -> Option<&OriginRefuses> {
        match &self.first_answers {
            FirstAnswers::Refused(refuses) => Some(refuses),
            _ => None,
        }
    }

    /// The number of classes that a worker may be granted before the origin has sent a tar.
    pub(super) fn room_in_sample(&mut self, id: SessionId, now: Instant) -> usize {
        if let FirstAnswers::Waiting { failed_before } = &mut self.first_answers {
            let failed_before = mem::take(failed_before);
            self.first_answers = self.first_check(failed_before, now);
            if let FirstAnswers::Checking(sample) = &self.first_answers {
                self.high_water.sample(sample.rest.iter().copied());
            }
        }
        let sample = match &self.first_answers {
            FirstAnswers::Checking(sample) => sample,
            FirstAnswers::Refused(_) => return 0,
            FirstAnswers::Over(later) => return self.room_in_later_sample(later, id),
            FirstAnswers::Waiting { .. } => return usize::MAX,
        };
        let leased = usize::try_from(self.status.leased).unwrap_or(usize::MAX);
        let refused = sample.refused.len();
        // Requests of classes under way are counted too, so this may be too many for each class; then
        // the rest of the sample waits for more answers.
        let per_class = sample.requests.div_ceil(refused.max(1)).max(1);
        let classes = (SAMPLE / per_class).max(SMALLEST_SAMPLE);
        let room = classes.saturating_sub(refused.saturating_add(leased));
        if sample.shared_until.is_none_or(|until| now >= until) {
            return room;
        }
        let refused = sample
            .refused
            .values()
            .filter(|(session, _)| *session == id)
            .count();
        let used = refused
            + self
                .sessions
                .by_id
                .get(&id)
                .map_or(0, |session| session.leases.len());
        room.min(
            SAMPLE
                .div_ceil(self.sessions.by_id.len().max(1))
                .saturating_sub(used),
        )
    }

    fn first_check(&self, failed_before: HashSet<usize>, now: Instant) -> FirstAnswers {
        let is_candidate = |position: &usize| {
            matches!(
                self.classes[*position].state,
                State::Fresh | State::Queued(_)
            ) && !failed_before.contains(position)
                && !self.is_held_back(*position)
        };
        let candidates: Vec<usize> = (0..self.classes.len()).filter(is_candidate).collect();
        let there =
            usize::try_from(self.status.success + self.status.skipped).unwrap_or(usize::MAX);
        if candidates.len() < SAMPLE || there / MOSTLY_COMPLETE >= candidates.len() {
            return FirstAnswers::Over(LaterAnswers::without(failed_before));
        }
        FirstAnswers::Checking(Sample::of(&candidates, there, failed_before, now))
    }

    /// The next class of the sample.
    pub(super) fn next_of_sample(&mut self) -> NextOfSample {
        let FirstAnswers::Checking(sample) = &mut self.first_answers else {
            return NextOfSample::NoMore;
        };
        while let Some(position) = sample.rest.front().copied() {
            let is_fresh = self.classes[position].state == State::Fresh;
            if is_fresh && !self.high_water.permits(position) {
                return NextOfSample::NotYet;
            }
            sample.rest.pop_front();
            if is_fresh {
                return NextOfSample::Class(position);
            }
        }
        NextOfSample::NoMore
    }

    /// A class failed because of its own refusal. It stays pending while all classes may be
    /// refused.
    pub(super) fn class_failed(
        &mut self,
        id: SessionId,
        position: usize,
        failure: &Failure,
        now: Instant,
    ) -> ReportVerdict {
        let FirstAnswers::Checking(sample) = &mut self.first_answers else {
            return match (failure.refusal, &self.first_answers) {
                (Some(refusal), FirstAnswers::Over(_)) => {
                    self.later_refusal(id, position, (refusal, failure), now)
                }
                // The job ends because of its first classes.
                (Some(_), FirstAnswers::Refused(_)) => self.keep_pending(position),
                _ => {
                    self.later_answer(self.classes[position].token);
                    ReportVerdict::Settled
                }
            };
        };
        if !failure
            .refusal
            .is_some_and(|refusal| sample.counts(refusal))
        {
            self.end_first_answers();
            return ReportVerdict::Settled;
        }
        if sample.failed_before.contains(&position) {
            return ReportVerdict::Settled;
        }
        sample.refused.insert(position, (id, failure.clone()));
        let is_leased = matches!(self.classes[position].state, State::Leased { .. });
        let under_way = self.status.leased - u64::from(is_leased);
        if sample.is_full(usize::try_from(under_way).unwrap_or(usize::MAX))
            && let Some(refuses) = sample.refuses()
        {
            self.first_answers = FirstAnswers::Refused(refuses);
        }
        self.keep_pending(position)
    }

    pub(super) fn keep_pending(&mut self, position: usize) -> ReportVerdict {
        self.classes[position].token = None;
        self.set(position, State::Doubted);
        ReportVerdict::Doubted
    }

    /// The origin has sent a tar, or its responses differ: the refused classes have failed.
    pub(super) fn end_first_answers(&mut self) {
        if let FirstAnswers::Waiting { failed_before } = &mut self.first_answers {
            let later = LaterAnswers::without(mem::take(failed_before));
            self.first_answers = FirstAnswers::Over(later);
        }
        if !matches!(self.first_answers, FirstAnswers::Checking(_)) {
            return;
        }
        if let FirstAnswers::Checking(sample) = mem::take(&mut self.first_answers) {
            self.first_answers = FirstAnswers::Over(LaterAnswers::without(sample.failed_before));
            for (position, (_, failure)) in sample.refused {
                if self.classes[position].state == State::Doubted {
                    self.give_up(position, failure);
                }
            }
            self.wake_ups += 1;
        }
    }

    /// Handles the positions in a heartbeat: `most` bytes of a class, and whether the worker has
    /// received any since its last message. If no class was refused, all bytes are those of tars.
    pub(super) fn first_bytes(&mut self, most: u64, has_received: bool) {
        let FirstAnswers::Checking(sample) = &self.first_answers else {
            return;
        };
        if most >= BYTES_OF_A_TAR || (has_received && sample.refused.is_empty()) {
            self.end_first_answers();
        }
    }

    /// Handles the number of bytes that a worker's process has received. Workers send it several
    /// times a second, whereas the positions of classes come with heartbeats only.
    pub fn has_received(&mut self, id: SessionId, bytes: u64) {
        let leased = self
            .sessions
            .by_id
            .get(&id)
            .map_or(0, |session| session.leases.len());
        let FirstAnswers::Checking(sample) = &mut self.first_answers else {
            return;
        };
        let refused = sample
            .refused
            .values()
            .filter(|(session, _)| *session == id)
            .count();
        let before = *sample.received.entry(id).or_insert(bytes);
        if bytes.saturating_sub(before) >= LONGEST_PAGE * (leased + refused).max(1) as u64 {
            self.end_first_answers();
        }
    }

    /// Handles the number of requests that a worker has sent to the origin in its session,
    /// including those that followed redirects. It counts only while there is one worker, because
    /// one of several could report any number.
    pub fn has_sent_requests(&mut self, id: SessionId, requests: u64) {
        let is_alone = self.sessions.by_id.len() == 1 && self.sessions.by_id.contains_key(&id);
        if let FirstAnswers::Checking(sample) = &mut self.first_answers {
            sample.requests = if is_alone {
                usize::try_from(requests).unwrap_or(usize::MAX)
            } else {
                0
            };
        }
    }

    /// If no other class is left to request, the refused classes have failed. After [`SHARED_FOR`]
    /// each worker may be granted the whole sample.
    pub(super) fn check_sample(&mut self, now: Instant) {
        let refused = match &mut self.first_answers {
            FirstAnswers::Checking(sample) => {
                if sample.shared_until.is_some_and(|until| now >= until) {
                    sample.shared_until = None;
                    self.wake_ups += 1;
                }
                sample.refused.len() as u64
            }
            FirstAnswers::Over(later) => later.undecided(),
            FirstAnswers::Waiting { .. } | FirstAnswers::Refused(_) => return,
        };
        self.check_later_sample(now);
        if self.status.leased == 0 && self.status.pending <= refused + self.breaker.doubts() {
            self.end_first_answers();
            self.end_streak();
        }
    }

    /// Classes that are pending because the origin refused them.
    #[cfg(test)]
    pub(super) fn refused(&self) -> Vec<usize> {
        let refused: Vec<usize> = match &self.first_answers {
            FirstAnswers::Checking(sample) => sample.refused.keys().copied().collect(),
            FirstAnswers::Over(later) => later.refused(),
            FirstAnswers::Waiting { .. } | FirstAnswers::Refused(_) => Vec::new(),
        };
        refused
            .into_iter()
            .filter(|position| self.classes[*position].state == State::Doubted)
            .collect()
    }
}
