//! What became of a batch.

use std::collections::HashSet;

use shared::{
    Wnid,
    outcome::{Failure, FailureKind, Outcome},
};

/// What became of a batch. `success + skipped + failed` is the number of different ids.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Completed by this call.
    pub success: u64,
    /// Complete before it.
    pub skipped: u64,
    /// Not there; `failures` says why.
    pub failed: u64,
    /// Ids that were given more than once: each one after the first, counted in none of the above.
    pub duplicates: u64,
    /// Images in the classes that were completed or skipped.
    pub files: u64,
    /// Each failed id with its reason, in the order in which they failed.
    pub failures: Vec<(String, Failure)>,
}

impl Stats {
    /// Different ids that have ended.
    pub fn total(&self) -> u64 {
        self.success + self.skipped + self.failed
    }

    /// The valid ids, each once; the others are counted as failed.
    pub(super) fn sort<Id: AsRef<str>>(&mut self, part_ids: impl IntoIterator<Item = Id>) -> Vec<Wnid> {
        let mut known = HashSet::new();
        let mut valid: Vec<Wnid> = Vec::new();
        for id in part_ids {
            match id.as_ref().trim().parse() {
                Ok(wnid) if known.insert(wnid) => valid.push(wnid),
                Ok(_) => self.duplicates += 1,
                Err(error) => {
                    self.count(id.as_ref(), Outcome::Failed(Failure::new(FailureKind::InvalidWnid, error)));
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
