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
    pub failures: Vec<(String, Failure)>,
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
                    );
                }
            }
        }
        valid
    }

    pub(super) fn count(&mut self, id: &str, outcome: Outcome) {
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
                self.failures.push((id.to_owned(), failure));
            }
        }
    }
}
