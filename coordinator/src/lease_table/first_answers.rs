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
    collections::{BTreeMap, VecDeque},
    mem,
    ops::ControlFlow,
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

use super::{LeaseTable, ReportVerdict, State, class::Class, high_water::HighWater, to_usize};

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
#[derive(Debug, Default)]
pub(super) enum FirstAnswers {
    /// No class was granted yet.
    Waiting,
    Checking(Sample),
    Refused(OriginRefuses),
    /// The origin has sent a tar, or the list is too short.
    #[default]
    Over,
}

/// The classes that are requested during the check, and their results so far.
#[derive(Debug, Default)]
pub(super) struct Sample {
    /// Classes that were left, and that were complete, at the start of the check.
    left: usize,
    there: usize,
    /// Classes of the sample that were not granted yet.
    rest: VecDeque<usize>,
    /// Bytes that each worker's process had received at its first report.
    received: BTreeMap<SessionId, u64>,
    /// Refused classes, each with the session and the failure.
    pub(super) refused: BTreeMap<usize, (SessionId, Failure)>,
    /// Requests that the only worker has sent to the origin; 0 if there are several workers.
    requests: usize,
    /// When each worker may be granted the whole sample; `None` once workers were woken for it.
    shared_until: Option<Instant>,
}

impl Sample {
    /// Whether a refusal is evidence: it may have the same cause as the earlier ones, and a cause
    /// in the job instead of the class. If at least half of the list is complete, a class that the
    /// origin reports as not found is missing.
    fn counts(&self, refusal: Refusal) -> bool {
        let first = self.refused.values().next();
        let first = first.and_then(|(_, failure)| failure.refusal);
        let is_alike = first.is_none_or(|first| first.may_have_the_cause_of(refusal));
        is_alike && !(refusal.is_missing() && self.there >= self.left)
    }

    /// Whether enough classes were refused. `under_way`: classes without a response yet. The number
    /// of requests decides only if it exceeds one for each class, as behind redirects; otherwise
    /// requests of the classes under way would count as refused.
    fn is_full(&self, under_way: usize) -> bool {
        let refused = self.refused.len();
        let is_redirected = self.requests >= SAMPLE && refused + under_way < SAMPLE;
        refused >= SAMPLE || (refused >= SMALLEST_SAMPLE && is_redirected)
    }

    /// Number of classes of the sample that were refused to a worker.
    fn refused_to(&self, id: SessionId) -> usize {
        let sessions = self.refused.values().map(|(session, _)| *session);
        sessions.filter(|session| *session == id).count()
    }
}

/// Takes the next class of a sample: [`ControlFlow::Break`] with the class to grant next, or with
/// none before the ledger has stored the sample. It continues where the sample has no more.
pub(super) fn next_of(
    rest: &mut VecDeque<usize>,
    classes: &[Class],
    high_water: &HighWater,
) -> ControlFlow<Option<usize>> {
    rest.retain(|position| classes[*position].state == State::Fresh);
    match rest.front() {
        None => ControlFlow::Continue(()),
        Some(position) if !high_water.permits(*position) => ControlFlow::Break(None),
        Some(_) => ControlFlow::Break(rest.pop_front()),
    }
}

impl LeaseTable {
    /// Ends the job if its first classes are all refused alike. `failed_before`: classes that the
    /// last run of this URL left failed.
    #[must_use]
    pub fn checking_first_answers(self, failed_before: impl IntoIterator<Item = Wnid>) -> Self {
        let failed_before = failed_before.into_iter();
        Self {
            failed_before: failed_before
                .filter_map(|wnid| self.position(wnid))
                .collect(),
            first_answers: FirstAnswers::Waiting,
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
        if matches!(self.first_answers, FirstAnswers::Waiting) {
            self.begin_first_sample(now);
        }
        let sample = match &self.first_answers {
            FirstAnswers::Checking(sample) => sample,
            FirstAnswers::Refused(_) => return 0,
            FirstAnswers::Over | FirstAnswers::Waiting => return self.room_in_later_sample(id),
        };
        let refused = sample.refused.len();
        // Requests of classes under way are counted too, so this may be too many for each class;
        // then the rest of the sample waits for more answers.
        let per_class = sample.requests.div_ceil(refused.max(1)).max(1);
        let classes = (SAMPLE / per_class).max(SMALLEST_SAMPLE);
        let room = classes.saturating_sub(refused.saturating_add(to_usize(self.status.leased)));
        if sample.shared_until.is_none_or(|until| now >= until) {
            return room;
        }
        let used = sample.refused_to(id) + self.leases_of(id);
        let part = SAMPLE.div_ceil(self.sessions.by_id.len().max(1));
        room.min(part.saturating_sub(used))
    }

    fn leases_of(&self, id: SessionId) -> usize {
        let session = self.sessions.by_id.get(&id);
        session.map_or(0, |session| session.leases.len())
    }

    fn begin_first_sample(&mut self, now: Instant) {
        let candidates = self.candidates(|state| matches!(state, State::Fresh | State::Queued(_)));
        let there = to_usize(self.status.success + self.status.skipped);
        let left = candidates.len();
        self.first_answers = if left < SAMPLE || there / MOSTLY_COMPLETE >= left {
            FirstAnswers::Over
        } else {
            FirstAnswers::Checking(Sample {
                left,
                there,
                rest: self.draw_sample(&candidates),
                shared_until: Some(now + SHARED_FOR),
                ..Sample::default()
            })
        };
    }

    /// The classes that a sample can be drawn from: in such a state, and neither failed in the last
    /// run nor held back.
    pub(super) fn candidates(&self, is_in_state: impl Fn(State) -> bool) -> Vec<usize> {
        let is_candidate = |position: &usize| {
            is_in_state(self.classes[*position].state)
                && !self.failed_before.contains(position)
                && !self.is_held_back(*position)
        };
        (0..self.classes.len()).filter(is_candidate).collect()
    }

    /// A sample that is spread over these classes. It can be granted once the ledger has it.
    pub(super) fn draw_sample(&mut self, candidates: &[usize]) -> VecDeque<usize> {
        let sample = spread(candidates.len()).map(|at| candidates[at]);
        let sample: VecDeque<usize> = sample.collect();
        self.high_water.sample(sample.iter().copied());
        sample
    }

    /// The next class of the sample.
    pub(super) fn next_of_first_sample(&mut self) -> ControlFlow<Option<usize>> {
        let FirstAnswers::Checking(sample) = &mut self.first_answers else {
            return ControlFlow::Continue(());
        };
        next_of(&mut sample.rest, &self.classes, &self.high_water)
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
        let sample = match (&mut self.first_answers, failure.refusal) {
            (FirstAnswers::Checking(sample), _) => sample,
            (FirstAnswers::Over, Some(refusal)) => {
                return self.later_refusal(id, position, (refusal, failure), now);
            }
            // The job ends because of its first classes.
            (FirstAnswers::Refused(_), Some(_)) => return self.keep_pending(position),
            _ => {
                self.later_answer(self.classes[position].token);
                return ReportVerdict::Settled;
            }
        };
        let refusal = failure.refusal;
        if refusal.is_none_or(|refusal| !sample.counts(refusal)) {
            self.end_first_answers();
            return ReportVerdict::Settled;
        }
        if self.failed_before.contains(&position) {
            return ReportVerdict::Settled;
        }
        sample.refused.insert(position, (id, failure.clone()));
        let is_leased = matches!(self.classes[position].state, State::Leased(_));
        let under_way = self.status.leased - u64::from(is_leased);
        if sample.is_full(to_usize(under_way)) {
            let failures = sample.refused.values().map(|(_, failure)| failure);
            if let Some(refuses) = OriginRefuses::of(failures, false) {
                self.first_answers = FirstAnswers::Refused(refuses);
            }
        }
        self.keep_pending(position)
    }

    /// Keeps a class pending that has failed, until it is clear whether the origin caused that.
    pub(super) fn keep_pending(&mut self, position: usize) -> ReportVerdict {
        self.set(position, State::Doubted);
        ReportVerdict::Doubted
    }

    /// The origin has sent a tar, or its responses differ: the refused classes have failed.
    pub(super) fn end_first_answers(&mut self) {
        match mem::take(&mut self.first_answers) {
            FirstAnswers::Checking(sample) => {
                let refused = sample.refused.into_iter();
                self.give_up_doubted(refused.map(|(position, (_, failure))| (position, failure)));
                self.wake_ups += 1;
            }
            refused @ FirstAnswers::Refused(_) => self.first_answers = refused,
            FirstAnswers::Waiting | FirstAnswers::Over => {}
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
    pub fn record_received(&mut self, id: SessionId, bytes: u64) {
        let leased = self.leases_of(id);
        let FirstAnswers::Checking(sample) = &mut self.first_answers else {
            return;
        };
        let classes = leased + sample.refused_to(id);
        let before = *sample.received.entry(id).or_insert(bytes);
        if bytes.saturating_sub(before) >= LONGEST_PAGE * classes.max(1) as u64 {
            self.end_first_answers();
        }
    }

    /// Handles the number of requests that a worker has sent to the origin in its session,
    /// including those that followed redirects. It counts only while there is one worker, because
    /// one of several could report any number.
    pub fn record_sent_requests(&mut self, id: SessionId, requests: u64) {
        let is_alone = self.sessions.by_id.keys().eq([&id]);
        if let FirstAnswers::Checking(sample) = &mut self.first_answers {
            sample.requests = if is_alone { to_usize(requests) } else { 0 };
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
                sample.refused.len()
            }
            FirstAnswers::Over => self.later_answers.refused().count(),
            FirstAnswers::Waiting | FirstAnswers::Refused(_) => return,
        };
        self.check_later_sample(now);
        let doubts = self.breaker.doubts.len();
        if self.status.leased == 0 && to_usize(self.status.pending) <= refused + doubts {
            self.end_first_answers();
            self.end_streak();
        }
    }
}
