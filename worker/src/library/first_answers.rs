//! The first answers of the origin to a batch: whether it refuses every class in the same way.
//! Pure.
//!
//! Until a tar arrives, at most [`SAMPLE`] classes are requested, spread over the whole list. A
//! class that is refused in this time is undecided: it counts as failed when the check is over. If
//! [`SAMPLE`] classes are refused in the same way, none of them counts as failed and the batch
//! ends.

use std::collections::HashSet;

use shared::{
    Wnid,
    outcome::Failure,
    refused_sample::{BYTES_OF_A_TAR, LONGEST_PAGE, OriginRefuses, SAMPLE, spread},
};

/// A running check.
#[derive(Debug)]
pub(super) struct FirstAnswers {
    refused: Vec<(Wnid, Failure)>,
    /// The target already has some class of the list. So classes that the origin does not have may
    /// have been missing in the last call too.
    some_are_there: bool,
}

impl FirstAnswers {
    /// Moves a sample to the front of the list. `None` if the list is too short for one.
    pub(super) fn of(classes: &mut Vec<Wnid>, some_are_there: bool) -> Option<Self> {
        if classes.len() < SAMPLE {
            return None;
        }
        let sample: Vec<Wnid> = spread(classes.len())
            .map(|position| classes[position])
            .collect();
        let is_first: HashSet<Wnid> = sample.iter().copied().collect();
        let rest = classes
            .iter()
            .copied()
            .filter(|wnid| !is_first.contains(wnid));
        *classes = sample.iter().copied().chain(rest).collect();
        Some(Self {
            refused: Vec::new(),
            some_are_there,
        })
    }

    /// How many classes may be started while `under_way` classes run.
    pub(super) fn room(&self, under_way: usize) -> usize {
        SAMPLE.saturating_sub(self.refused.len() + under_way)
    }

    /// Records that a class has failed. Returns the failure if it differs from the earlier ones;
    /// the check is then over.
    pub(super) fn note(&mut self, wnid: Wnid, failure: Failure) -> Result<(), Failure> {
        let first = self
            .refused
            .first()
            .and_then(|(_, failure)| failure.refusal);
        let is_alike = failure.refusal.is_some_and(|refusal| {
            first.is_none_or(|first| first.may_have_the_cause_of(refusal))
                && !(refusal.is_missing() && self.some_are_there)
        });
        if !is_alike {
            return Err(failure);
        }
        self.refused.push((wnid, failure));
        Ok(())
    }

    /// Returns that the origin refuses every class, once the whole sample is refused.
    pub(super) fn refuses(&self) -> Option<OriginRefuses> {
        let failures = self.refused.iter().map(|(_, failure)| failure);
        OriginRefuses::of(failures, false).filter(|refuses| refuses.classes >= SAMPLE)
    }

    /// Whether `received` bytes from `begun` classes can only be tars and not pages.
    pub(super) fn are_tars(&self, received: u64, begun: usize) -> bool {
        let pages = if self.refused.is_empty() {
            BYTES_OF_A_TAR
        } else {
            LONGEST_PAGE
        };
        received >= pages.saturating_mul(begun.max(1) as u64)
    }

    /// The undecided classes, which count as failed after all.
    pub(super) fn into_failed(self) -> Vec<(Wnid, Failure)> {
        self.refused
    }
}

#[cfg(test)]
mod tests {
    use shared::{outcome::FailureKind, refusal::Refusal};

    use super::*;

    fn classes(count: u32) -> Vec<Wnid> {
        (1..=count)
            .map(|number| format!("n{number:08}").parse().unwrap())
            .collect()
    }

    fn refused(status: u16) -> Failure {
        Failure::new(FailureKind::HttpError, "no").refused(Refusal::Status(status))
    }

    #[test]
    fn the_sample_comes_first_and_no_class_is_lost() {
        let mut list = classes(100);
        assert!(FirstAnswers::of(&mut list, false).is_some());
        assert_eq!(
            (list[0], list[19], list[20]),
            (classes(1)[0], classes(100)[99], classes(2)[1])
        );
        list.sort_unstable();
        assert_eq!(list, classes(100));
        assert!(FirstAnswers::of(&mut classes(19), false).is_none());
    }

    #[test]
    fn twenty_equal_refusals_end_the_batch_and_another_answer_ends_the_check() {
        let mut list = classes(100);
        let mut check = FirstAnswers::of(&mut list, false).unwrap();
        for (number, wnid) in list.iter().take(19).enumerate() {
            assert_eq!(check.room(1), 19 - number);
            check
                .note(*wnid, refused(if number < 5 { 404 } else { 403 }))
                .unwrap();
        }
        assert_eq!(check.refuses(), None);
        check.note(list[19], refused(404)).unwrap();
        let refuses = check.refuses().unwrap();
        assert_eq!(
            (refuses.refusal, refuses.classes, refuses.otherwise),
            (Refusal::Status(403), 20, 6)
        );
        let other = Failure::new(FailureKind::Timeout, "late");
        assert_eq!(check.note(list[20], other.clone()), Err(other));
        assert_eq!(check.into_failed().len(), 20);
    }

    #[test]
    fn with_existing_classes_a_404_ends_the_check_and_a_401_does_not() {
        let mut list = classes(20);
        let mut check = FirstAnswers::of(&mut list, true).unwrap();
        assert!(check.note(list[0], refused(404)).is_err());
        assert!(check.note(list[0], refused(401)).is_ok());
    }

    #[test]
    fn a_page_for_each_class_does_not_count_as_a_tar() {
        let mut list = classes(20);
        let mut check = FirstAnswers::of(&mut list, false).unwrap();
        assert!(
            check.are_tars(8 * BYTES_OF_A_TAR, 8) && !check.are_tars(8 * BYTES_OF_A_TAR - 1, 8)
        );
        check.note(list[0], refused(403)).unwrap();
        assert!(!check.are_tars(8 * BYTES_OF_A_TAR, 8) && check.are_tars(8 * LONGEST_PAGE, 8));
    }
}
