//! The first answers of the origin: whether it refuses every class alike, because of a wrong URL or
//! a missing login. Pure.
//!
//! Before the origin has sent a tar, at most [`SAMPLE`] classes are asked for. They are spread over
//! the whole list, so a list whose first rows are missing at the origin is not taken for one that
//! is missing altogether. A class that the origin refuses meanwhile stays pending. If [`SAMPLE`]
//! classes are refused alike, the job ends and none of them has failed. With the first tar, or the
//! first answer of another kind, the refused classes have failed, and the check is over.
//!
//! After the check, `later_answers` looks for refusals in a row.
//!
//! Refusals of classes that the last run of this URL left failed say nothing: they are likely to be
//! missing for good. So they are not in the sample, and not counted.

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

/// Where refusals take several requests each, because the origin redirects, so many classes are
/// enough once [`SAMPLE`] requests were sent.
pub(super) const SMALLEST_SAMPLE: usize = 10;
/// While several workers are there, each gets an equal part of the sample for this long: one worker
/// that lies, or has no way to the origin, cannot speak for all.
pub(super) const SHARED_FOR: Duration = Duration::from_secs(3);
/// Where so many times more classes are complete than are left, the rest may well be missing at the
/// origin.
pub(super) const MOSTLY_THERE: usize = 9;

/// Whether the check goes on.
#[derive(Debug)]
pub(super) enum FirstAnswers {
    /// Nothing was granted yet.
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

/// What a worker may be granted of the sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NextOfSample {
    /// This position of the list.
    Class(usize),
    /// Nothing before the ledger has the sample.
    NotYet,
    NoMore,
}

#[derive(Debug)]
pub(super) struct Sample {
    failed_before: HashSet<usize>,
    /// Classes that were left to ask for, and that were complete, at the begin of the check.
    left: usize,
    there: usize,
    /// Classes of the sample that were not granted yet.
    rest: VecDeque<usize>,
    /// Bytes that each worker's process had received when it told of them first.
    received: BTreeMap<SessionId, u64>,
    /// Classes that were refused, by whom, and how.
    refused: BTreeMap<usize, (SessionId, Failure)>,
    /// Requests that the only worker has sent to the origin; 0 where there are several.
    requests: usize,
    /// When each worker may have the whole sample; `None` once that was told.
    shared_until: Option<Instant>,
}

impl Sample {
    /// Of these classes, in the order of the list.
    fn of(candidates: &[usize], there: usize, failed_before: HashSet<usize>, now: Instant) -> Self {
        let left = candidates.len();
        let rest = spread(left).map(|position| candidates[position]).collect();
        let shared_until = Some(now + SHARED_FOR);
        let received = BTreeMap::new();
        Self { failed_before, left, there, rest, received, refused: BTreeMap::new(), requests: 0, shared_until }
    }

    /// Whether this refusal may have the cause of the earlier ones, and that may be one of the job
    /// and not of the class. Where at least half of the list is complete, a class that the origin
    /// says it does not have is missing.
    fn counts(&self, refusal: Refusal) -> bool {
        let is_alike = self.refusal().is_none_or(|first| first.may_have_the_cause_of(refusal));
        is_alike && !(refusal.is_missing() && self.there >= self.left)
    }

    /// The sample is refused.
    fn refuses(&self) -> Option<OriginRefuses> {
        OriginRefuses::of(self.refused.values().map(|(_, failure)| failure), false)
    }

    /// Whether so many classes were refused as are asked for. `under_way`: classes of which the
    /// answer is still to come. Requests decide only where they are more than one for each class, as
    /// behind redirects; otherwise those of the classes under way would count as refused.
    fn is_full(&self, under_way: usize) -> bool {
        let refused = self.refused.len();
        let is_redirected = self.requests >= SAMPLE && refused + under_way < SAMPLE;
        refused >= SAMPLE || (refused >= SMALLEST_SAMPLE && is_redirected)
    }

    fn refusal(&self) -> Option<Refusal> {
        self.refused.values().next().and_then(|(_, failure)| failure.refusal)
    }
}

impl LeaseTable {
    /// Ends the job when its first classes are all refused alike. `failed_before`: classes that the
    /// last run of this URL left failed.
    #[must_use]
    pub fn checking_first_answers(self, failed_before: impl IntoIterator<Item = Wnid>) -> Self {
        let failed_before = failed_before.into_iter().filter_map(|wnid| self.index.get(&wnid).copied());
        let first_answers = FirstAnswers::Waiting { failed_before: failed_before.collect() };
        Self { first_answers, ..self }
    }

    /// That the origin refuses every class alike, once it is known.
    pub fn origin_refuses(&self) -> Option<&OriginRefuses> {
        match &self.first_answers {
            FirstAnswers::Refused(refuses) => Some(refuses),
            _ => None,
        }
    }

    /// How many classes a worker may be granted before the origin has answered well.
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
        let refused = sample.refused.values().filter(|(session, _)| *session == id).count();
        let used = refused + self.sessions.by_id.get(&id).map_or(0, |session| session.leases.len());
        room.min(SAMPLE.div_ceil(self.sessions.by_id.len().max(1)).saturating_sub(used))
    }

    fn first_check(&self, failed_before: HashSet<usize>, now: Instant) -> FirstAnswers {
        let is_candidate = |position: &usize| {
            matches!(self.classes[*position].state, State::Fresh | State::Queued(_))
                && !failed_before.contains(position)
                && !self.is_held_back(*position)
        };
        let candidates: Vec<usize> = (0..self.classes.len()).filter(is_candidate).collect();
        let there = usize::try_from(self.status.success + self.status.skipped).unwrap_or(usize::MAX);
        if candidates.len() < SAMPLE || there / MOSTLY_THERE >= candidates.len() {
            return FirstAnswers::Over(LaterAnswers::without(failed_before));
        }
        FirstAnswers::Checking(Sample::of(&candidates, there, failed_before, now))
    }

    /// The next class of the sample.
    pub(super) fn next_of_sample(&mut self) -> NextOfSample {
        let FirstAnswers::Checking(sample) = &mut self.first_answers else { return NextOfSample::NoMore };
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

    /// A class has failed by itself. It stays pending while it may be that all are refused.
    pub(super) fn class_failed(
        &mut self,
        id: SessionId,
        position: usize,
        failure: &Failure,
        now: Instant,
    ) -> ReportVerdict {
        let FirstAnswers::Checking(sample) = &mut self.first_answers else {
            return match (failure.refusal, &self.first_answers) {
                (Some(refusal), FirstAnswers::Over(_)) => self.later_refusal(id, position, (refusal, failure), now),
                // The job ends with what is known of its first classes.
                (Some(_), FirstAnswers::Refused(_)) => self.keep_pending(position),
                _ => {
                    self.later_answer(self.classes[position].token);
                    ReportVerdict::Settled
                }
            };
        };
        if !failure.refusal.is_some_and(|refusal| sample.counts(refusal)) {
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

    /// The origin has sent a tar, or answers in different ways: what it refused has failed.
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
            self.turn += 1;
        }
    }

    /// A worker names what it has: `most` bytes of a class, and whether it has received any since
    /// it was heard of last. Where no class was refused, any bytes are those of tars.
    pub(super) fn first_bytes(&mut self, most: u64, has_received: bool) {
        let FirstAnswers::Checking(sample) = &self.first_answers else { return };
        if most >= BYTES_OF_A_TAR || (has_received && sample.refused.is_empty()) {
            self.end_first_answers();
        }
    }

    /// A worker's process has received so many bytes. It tells this several times a second, and of
    /// its classes only when it renews.
    pub fn has_received(&mut self, id: SessionId, bytes: u64) {
        let leased = self.sessions.by_id.get(&id).map_or(0, |session| session.leases.len());
        let FirstAnswers::Checking(sample) = &mut self.first_answers else { return };
        let refused = sample.refused.values().filter(|(session, _)| *session == id).count();
        let before = *sample.received.entry(id).or_insert(bytes);
        if bytes.saturating_sub(before) >= LONGEST_PAGE * (leased + refused).max(1) as u64 {
            self.end_first_answers();
        }
    }

    /// A worker has sent so many requests to the origin in its session, those that followed redirects
    /// included. It counts while there is one worker: one of several could name any number.
    pub fn has_asked(&mut self, id: SessionId, requests: u64) {
        let is_alone = self.sessions.by_id.len() == 1 && self.sessions.by_id.contains_key(&id);
        if let FirstAnswers::Checking(sample) = &mut self.first_answers {
            sample.requests = if is_alone { usize::try_from(requests).unwrap_or(usize::MAX) } else { 0 };
        }
    }

    /// When nothing else is left to be asked for, the refused classes have failed; and each worker
    /// may have the whole sample after a time.
    pub(super) fn check_sample(&mut self, now: Instant) {
        let refused = match &mut self.first_answers {
            FirstAnswers::Checking(sample) => {
                if sample.shared_until.is_some_and(|until| now >= until) {
                    sample.shared_until = None;
                    self.turn += 1;
                }
                sample.refused.len() as u64
            }
            FirstAnswers::Over(later) => later.undecided(),
            FirstAnswers::Waiting { .. } | FirstAnswers::Refused(_) => return,
        };
        self.check_later_sample(now);
        if self.status.leased == 0 && self.status.pending <= refused + self.breaker.doubts() {
            self.end_first_answers();
            self.end_row();
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
        refused.into_iter().filter(|position| self.classes[*position].state == State::Doubted).collect()
    }
}
