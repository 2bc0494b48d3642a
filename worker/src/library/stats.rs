//! The result of a batch.

use std::collections::HashSet;

use shared::{
    Wnid,
    outcome::{Failure, FailureKind, Outcome},
};

/// The result of a batch. `success + skipped + failed` is the number of distinct ids.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Classes that this call completed.
    pub success: u64,
    /// Classes that were complete before this call.
    pub skipped: u64,
    /// Ids without a complete class; `failures` contains the reasons.
    pub failed: u64,
    /// Repetitions of an id: each one after the first. They are not counted in the fields above.
    pub duplicates: u64,
    /// Images in the classes that were completed or skipped.
    pub files: u64,
    /// Each failed id with its reason, in the order of the failures.
    pub failures: Vec<FailedClass>,
}

/// An id without a complete class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedClass {
    /// The id as it was given, or the valid id in it.
    pub part_id: String,
    /// Why it failed.
    pub failure: Failure,
    /// Number of requests for the bytes of its tar that this call has sent: the first one, those
    /// after errors, and those for the rest of the tar or for parts of it.
    pub attempts: u64,
}

impl Stats {
    /// Number of distinct ids that have ended.
    pub fn total(&self) -> u64 {
        self.success + self.skipped + self.failed
    }

    /// The valid ids without repetitions. Counts invalid ids as failed.
    pub(super) fn sort<Id: AsRef<str>>(
        &mut self,
        part_ids: impl IntoIterator<Item = Id>,
    ) -> Vec<Wnid> {
        let mut known = HashSet::new();
        let mut valid: Vec<Wnid> = Vec::new();
        for id in part_ids {
            match id.as_ref().trim().parse() {
                Ok(wnid) if known.insert(wnid) => valid.push(wnid),
                Ok(_) => self.duplicates += 1,
                Err(error) => {
                    self.count(
                        id.as_ref(),
                        Outcome::Failed(Failure::new(FailureKind::InvalidWnid, error)),
                        0,
                    );
                }
            }
        }
        valid
    }

    /// Counts an id that has ended; `attempts` is of interest if it has failed.
    pub(super) fn count(&mut self, id: &str, outcome: Outcome, attempts: u64) {
        match outcome {
            Outcome::Success(published) => {
                self.success += 1;
                self.files += published.files;
            }
            Outcome::Skipped(published) => {
                self.skipped += 1;
                self.files += published.files;
            }
            Outcome::Failed(failure) => {
                self.failed += 1;
                self.failures.push(FailedClass {
                    part_id: id.to_owned(),
                    failure,
                    attempts,
                });
            }
        }
    }
}
