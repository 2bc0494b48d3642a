//! The list of the job with an index by class id.

use std::sync::Arc;

use shared::Wnid;

use super::wnids::encoded;
use crate::fleet::JobList;

/// The rows of the list: first those with a class id, then those without one.
#[derive(Debug)]
pub(super) struct List {
    pub(super) wnids: Vec<Wnid>,
    pub(super) invalid_rows: u64,
    /// The ids as text, for snapshots.
    pub(super) encoded: Arc<str>,
    /// The rows with a class id, in the order of their ids.
    pub(super) by_id: Vec<usize>,
}

impl List {
    pub(super) fn of(list: JobList) -> Self {
        let JobList {
            wnids,
            invalid_rows,
        } = list;
        let mut by_id: Vec<usize> = (0..wnids.len()).collect();
        by_id.sort_unstable_by_key(|row| wnids[*row]);
        Self {
            encoded: encoded(&wnids, invalid_rows),
            wnids,
            invalid_rows,
            by_id,
        }
    }

    /// The letters of all rows, from those of the rows with a class id.
    pub(super) fn with_invalid_rows(&self, letters: &str) -> String {
        let invalid = (0..self.invalid_rows).map(|_| 'i');
        letters.chars().chain(invalid).collect()
    }

    /// The row of a class.
    pub(super) fn row(&self, wnid: Wnid) -> Option<usize> {
        let place = self
            .by_id
            .binary_search_by_key(&wnid, |row| self.wnids[*row]);
        place.ok().map(|place| self.by_id[place])
    }
}
