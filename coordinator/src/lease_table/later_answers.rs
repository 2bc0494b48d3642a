//! The answers after the first: whether the origin refuses every class from some time on, because a
//! login has expired. Pure.
//!
//! A class that is missing at the origin is told apart by its status: 404 and 410 never count here.
//! A class that is refused in another way stays pending until a class is served that was granted
//! after the first refusal; then it has failed. If [`ROW`] classes are refused alike before that,
//! [`SAMPLE`] classes are asked for that are spread over the rest of the list, and no others: some
//! origins answer 403 for what is missing, and such classes can be neighbours in the list. When
//! these are refused alike too, the job ends and none of them has failed. There is no such check
//! where nine times as many classes are complete as are left, as at the start.
//!
//! What was granted before the first refusal says nothing: a download goes on after its login has
//! expired. Only workers that have done a class in their session count, if there are any, and one of
//! several cannot speak for all ([`MOST_WITNESSES`]).

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    time::Duration,
};

use shared::{
    ids::{LeaseToken, SessionId},
    outcome::Failure,
    refusal::Refusal,
    refused_sample::{OriginRefuses, SAMPLE, spread},
};
use tokio::time::Instant;

use super::{
    LeaseTable, ReportVerdict, State,
    first_answers::{FirstAnswers, MOSTLY_THERE, NextOfSample},
    sessions::Session,
};

/// Classes in a row that are refused alike before a sample is asked for. With a smaller number
/// grants would wait for answers wherever single classes are refused.
pub(super) const ROW: usize = 5;
/// The row is twice as long after each sample that was served, but not more than so many times.
const DOUBLINGS: u32 = 6;
/// The sample is refused to more than half of the workers, or to so many of them.
const MOST_WITNESSES: usize = 5;
/// A sample that is not decided by then ends without a result.
pub(super) const LONGEST_SAMPLE: Duration = Duration::from_mins(1);
/// More bytes than this between two renewals are those of a tar.
const BYTES_OF_A_TAR: u64 = 64 << 10;

/// The refusals since the last class that was served.
#[derive(Debug, Default)]
pub(super) struct LaterAnswers {
    /// Classes whose refusals do not count.
    failed_before: HashSet<usize>,
    /// Samples that were not refused.
    served: u32,
    row: Option<Row>,
}

/// Classes that were refused alike, in a row.
#[derive(Debug)]
struct Row {
    /// The last grant before the first of them was refused.
    refused_after: LeaseToken,
    refused: BTreeMap<usize, Failure>,
    sample: Option<Sample>,
}

/// Classes from all over the rest of the list.
#[derive(Debug)]
struct Sample {
    /// The last grant before it.
    begun_after: LeaseToken,
    until: Instant,
    /// Classes that were not granted yet.
    rest: VecDeque<usize>,
    /// Classes that were granted since and refused, and to which worker.
    refused: BTreeMap<usize, SessionId>,
    /// How many classes one worker may ask for.
    share: usize,
}

impl LaterAnswers {
    /// `failed_before`: classes whose refusals do not count.
    pub(super) fn without(failed_before: HashSet<usize>) -> Self {
        Self { failed_before, ..Self::default() }
    }

    /// How many classes are pending because they were refused.
    pub(super) fn undecided(&self) -> u64 {
        self.row.as_ref().map_or(0, |row| row.refused.len() as u64)
    }

    /// These classes.
    #[cfg(test)]
    pub(super) fn refused(&self) -> Vec<usize> {
        self.row.iter().flat_map(|row| row.refused.keys().copied()).collect()
    }

    fn sample(&self) -> Option<&Sample> {
        self.row.as_ref()?.sample.as_ref()
    }
}

impl LeaseTable {
    /// A class was refused after the first answers.
    pub(super) fn later_refusal(
        &mut self,
        id: SessionId,
        position: usize,
        (refusal, failure): (Refusal, &Failure),
        now: Instant,
    ) -> ReportVerdict {
        let (token, last_token) = (self.classes[position].token, self.last_token);
        let (may_speak, may_begin) = (self.may_speak(id), self.is_enough_left());
        let FirstAnswers::Over(later) = &mut self.first_answers else { return ReportVerdict::Settled };
        if refusal.is_missing() || later.failed_before.contains(&position) || (later.row.is_none() && !may_begin) {
            return ReportVerdict::Settled;
        }
        let first = later.row.as_ref().and_then(|row| row.refused.values().find_map(|failure| failure.refusal));
        if first.is_some_and(|first| !first.may_have_the_cause_of(refusal)) {
            self.end_row();
            return ReportVerdict::Settled;
        }
        let needed = ROW << later.served.min(DOUBLINGS);
        let row =
            later.row.get_or_insert_with(|| Row { refused_after: last_token, refused: BTreeMap::new(), sample: None });
        row.refused.insert(position, failure.clone());
        let is_long = row.refused.len() >= needed;
        let verdict = match &mut row.sample {
            Some(sample) if may_speak && token.is_some_and(|token| token > sample.begun_after) => {
                sample.refused.insert(position, id);
                if sample.refused.len() >= SAMPLE {
                    let refuses = OriginRefuses::of(row.refused.values(), true);
                    self.first_answers = refuses.map_or_else(FirstAnswers::default, FirstAnswers::Refused);
                }
                ReportVerdict::Doubted
            }
            None if is_long => self.begin_sample(now),
            _ => ReportVerdict::Doubted,
        };
        if verdict == ReportVerdict::Doubted { self.keep_pending(position) } else { verdict }
    }

    /// Whether a worker's refusals count: it has done a class in its session, or none has.
    fn may_speak(&self, id: SessionId) -> bool {
        let has_done_one = |session: &Session| session.last_success.is_some();
        let sessions = &self.sessions.by_id;
        sessions.get(&id).is_some_and(has_done_one) || !sessions.values().any(has_done_one)
    }

    /// Whether missing classes can be told apart from an origin that refuses all that is left.
    fn is_enough_left(&self) -> bool {
        let there = self.status.success + self.status.skipped;
        let left = self.status.pending;
        left >= SAMPLE as u64 && there / (MOSTLY_THERE as u64) < left
    }

    /// Begins a sample of the rest of the list. Where that is too short the row has failed.
    fn begin_sample(&mut self, now: Instant) -> ReportVerdict {
        let FirstAnswers::Over(later) = &self.first_answers else { return ReportVerdict::Settled };
        let is_fresh = |position: &usize| {
            self.classes[*position].state == State::Fresh
                && !later.failed_before.contains(position)
                && !self.is_held_back(*position)
        };
        let candidates: Vec<usize> = (0..self.classes.len()).filter(is_fresh).collect();
        if candidates.len() < SAMPLE {
            self.end_row();
            return ReportVerdict::Settled;
        }
        let able = self.sessions.by_id.keys().filter(|id| self.may_speak(**id)).count();
        let witnesses = (able / 2 + 1).min(MOST_WITNESSES);
        let rest: VecDeque<usize> = spread(candidates.len()).map(|position| candidates[position]).collect();
        self.high_water.sample(rest.iter().copied());
        let sample = Sample {
            begun_after: self.last_token,
            until: now + LONGEST_SAMPLE,
            rest,
            refused: BTreeMap::new(),
            share: SAMPLE.div_ceil(witnesses),
        };
        if let FirstAnswers::Over(LaterAnswers { row: Some(row), .. }) = &mut self.first_answers {
            row.sample = Some(sample);
        }
        ReportVerdict::Doubted
    }

    /// How many classes of a sample a worker may be granted; as many as it likes while there is none.
    pub(super) fn room_in_later_sample(&self, later: &LaterAnswers, id: SessionId) -> usize {
        let Some(sample) = later.sample() else { return usize::MAX };
        if !self.may_speak(id) {
            return 0;
        }
        let granted = |session: &Session| {
            let is_of_sample = |position: &&usize| self.classes[**position].token > Some(sample.begun_after);
            session.leases.keys().filter(is_of_sample).count()
        };
        let all: usize = self.sessions.by_id.values().map(granted).sum();
        let refused = sample.refused.values().filter(|session| **session == id).count();
        let used = refused + self.sessions.by_id.get(&id).map_or(0, granted);
        SAMPLE.saturating_sub(all + sample.refused.len()).min(sample.share.saturating_sub(used))
    }

    /// The next class of a sample.
    pub(super) fn next_of_later_sample(&mut self) -> NextOfSample {
        let FirstAnswers::Over(LaterAnswers { row: Some(Row { sample: Some(sample), .. }), .. }) =
            &mut self.first_answers
        else {
            return NextOfSample::NoMore;
        };
        sample.rest.retain(|position| self.classes[*position].state == State::Fresh);
        match sample.rest.front().copied() {
            None => NextOfSample::NoMore,
            Some(position) if !self.high_water.permits(position) => NextOfSample::NotYet,
            Some(position) => {
                sample.rest.pop_front();
                NextOfSample::Class(position)
            }
        }
    }

    /// A class was served under this token. If it was granted after the first refusal, the origin
    /// refuses only some classes.
    pub(super) fn later_answer(&mut self, token: Option<LeaseToken>) {
        if let FirstAnswers::Over(LaterAnswers { row: Some(row), .. }) = &self.first_answers
            && token > Some(row.refused_after)
        {
            self.end_row();
        }
    }

    /// A worker has named what it has.
    pub(super) fn later_bytes(&mut self, id: SessionId) {
        if !matches!(&self.first_answers, FirstAnswers::Over(later) if later.row.is_some()) {
            return;
        }
        let Some(session) = self.sessions.by_id.get(&id) else { return };
        let grows = session.leases.iter().filter(|(_, held)| {
            // A class can begin at a checkpoint.
            let first = held.first.map(|(_, bytes)| bytes.saturating_add(BYTES_OF_A_TAR));
            !held.is_local && first.is_some_and(|least| held.bytes >= least)
        });
        let newest = grows.filter_map(|(position, _)| self.classes[*position].token).max();
        self.later_answer(newest);
    }

    /// A sample that takes too long ends without a result.
    pub(super) fn check_later_sample(&mut self, now: Instant) {
        let FirstAnswers::Over(later) = &self.first_answers else { return };
        if later.sample().is_some_and(|sample| now >= sample.until) {
            self.end_row();
        }
    }

    /// The origin refuses only some classes: these have failed.
    pub(super) fn end_row(&mut self) {
        let FirstAnswers::Over(later) = &mut self.first_answers else { return };
        let Some(row) = later.row.take() else { return };
        if row.sample.is_some() {
            later.served = later.served.saturating_add(1);
            self.turn += 1;
        }
        for (position, failure) in row.refused {
            if self.classes[position].state == State::Doubted {
                self.give_up(position, failure);
            }
        }
    }
}
