//! The traces of the classes that are not complete. A class that is granted again, or for a
//! speculative attempt, continues the trace that its first grant began.
//!
//! Without a collector there are no traces, so nothing is kept.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use shared::{
    Wnid,
    ids::LeaseToken,
    lock::lock,
    outcome::Outcome,
    telemetry::trace::{self, TraceParent},
};

/// The first span of each class that was granted and is not complete: at most one for each row of
/// the list. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct ClassTraces(Arc<Mutex<HashMap<Wnid, TraceParent>>>);

impl ClassTraces {
    /// Records the span of a grant. Returns its position, for the lease.
    pub(super) fn granted(&self, wnid: Wnid, token: LeaseToken) -> TraceParent {
        let mut roots = lock(&self.0);
        let root = roots.get(&wnid).copied().unwrap_or_default();
        let position = trace::leased(wnid, token, root);
        if position.is_somewhere() {
            roots.entry(wnid).or_insert(position);
        }
        position
    }

    /// Forgets a class that is complete. A failed one may be granted again.
    pub(super) fn reported(&self, wnid: Wnid, outcome: &Outcome) {
        match outcome {
            Outcome::Success(_) | Outcome::Skipped(_) => {
                lock(&self.0).remove(&wnid);
            }
            Outcome::Failed(_) => {}
        }
    }
}
