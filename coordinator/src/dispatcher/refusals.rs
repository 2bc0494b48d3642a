//! How the origin refused the classes that have failed in this process. Decides whether all
//! refusals have one cause, for advice at the end of a job whose list is too short for an early
//! end. Pure.

use std::collections::HashMap;

use shared::{job::JobStatus, refusal::Refusal};

/// Counts of refused classes by kind of refusal.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    refused: HashMap<Refusal, u64>,
    /// Classes that have failed for another reason.
    otherwise: u64,
}

impl Refusals {
    /// Counts a failed class.
    pub(super) fn note(&mut self, refusal: Option<Refusal>) {
        match refusal {
            Some(refusal) => *self.refused.entry(refusal).or_default() += 1,
            None => self.otherwise += 1,
        }
    }

    /// A remedy for the user, if the origin refused all `rows` classes of the list alike. Classes
    /// that were complete before do not prevent it, unless the failed classes are missing at the
    /// origin.
    pub(super) fn advice(&self, status: &JobStatus, rows: u64) -> Option<&'static str> {
        let (refusal, _) = self.refused.iter().max_by_key(|(_, count)| **count)?;
        let are_alike = self
            .refused
            .keys()
            .all(|other| refusal.may_have_the_cause_of(*other));
        let refused: u64 = self.refused.values().sum();
        let are_missing = self.refused.keys().any(|refusal| refusal.is_missing());
        let others_tell = status.success > 0 || (status.skipped > 0 && are_missing);
        let is_all = self.otherwise == 0 && refused + status.skipped >= rows;
        if are_alike && is_all && !others_tell {
            refusal.advice()
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_is_given_if_all_classes_were_refused_alike() {
        let forbidden = Some(Refusal::Status(403));
        let missing = Some(Refusal::Status(404));
        for (failed, success, skipped, flag) in [
            (&[missing; 3][..], 0, 0, Some("--url")),
            (&[forbidden; 3], 0, 0, Some("--header-file")),
            (
                &[forbidden, forbidden, missing],
                0,
                0,
                Some("--header-file"),
            ),
            // A login that has expired since the last run.
            (&[forbidden; 3], 0, 5, Some("--header-file")),
            // Some classes are missing at the origin.
            (&[missing; 3], 0, 5, None),
            (&[missing; 3], 5, 0, None),
            (&[forbidden; 3], 5, 0, None),
            (&[forbidden, None, forbidden], 0, 0, None),
            (&[Some(Refusal::Certificate), forbidden], 0, 0, None),
            // The failure's own message contains the remedy.
            (&[Some(Refusal::Scheme); 3], 0, 0, None),
            (&[], 0, 0, None),
        ] {
            let mut refusals = Refusals::default();
            for refusal in failed {
                refusals.note(*refusal);
            }
            let failures = failed.len() as u64;
            let status = JobStatus {
                failed: failures,
                success,
                skipped,
                ..JobStatus::default()
            };
            let advice = refusals.advice(&status, failures + success + skipped);
            assert_eq!(advice.is_some(), flag.is_some(), "{failed:?} {advice:?}");
            assert!(
                advice
                    .unwrap_or_default()
                    .contains(flag.unwrap_or_default()),
                "{failed:?} {advice:?}"
            );
        }
    }

    #[test]
    fn failures_of_an_earlier_process_are_not_known_to_be_alike() {
        let mut refusals = Refusals::default();
        refusals.note(Some(Refusal::Status(403)));
        assert_eq!(
            refusals.advice(
                &JobStatus {
                    failed: 2,
                    ..JobStatus::default()
                },
                2
            ),
            None
        );
    }
}
