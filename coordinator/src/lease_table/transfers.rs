//! The longest-held classes with their progress, for display.

use super::{LeaseTable, leases::LeaseProgress, live::ShownProgress, sessions::Session};
use crate::fleet::{TransferStep, TransferView, Transfers};

impl LeaseTable {
    /// The held classes, of which `most` are described: those that have been held for the longest
    /// time.
    pub fn transfers(&self, most: usize) -> Transfers {
        let attempts = self.attempts.of.iter().map(|(position, attempt)| {
            let session = &self.sessions.by_id[&attempt.session];
            (*position, session, &attempt.holding, 2)
        });
        let leases = self
            .leases()
            .map(|(position, session, held)| (position, session, held, 1));
        let mut held: Vec<_> = leases.chain(attempts).collect();
        let total = held.len() as u64;
        let age = |(position, _, held, attempt): &(usize, &Session, &LeaseProgress, u8)| {
            (held.held_since, *position, *attempt)
        };
        if held.len() > most {
            held.select_nth_unstable_by_key(most, age);
            held.truncate(most);
        }
        held.sort_unstable_by_key(age);
        let view = |(position, session, held, attempt): (usize, &Session, &LeaseProgress, u8)| {
            let wnid = self.classes[position].wnid;
            TransferView {
                wnid,
                worker: session.worker_info.worker.clone(),
                bytes: held.shown.bytes,
                length: held.shown.length,
                step: step(held.shown),
                attempt,
            }
        };
        Transfers {
            total,
            first: held.into_iter().map(view).collect(),
        }
    }
}

/// The step that follows from the reported progress.
fn step(shown: ShownProgress) -> TransferStep {
    match shown {
        ShownProgress {
            is_local: false, ..
        } => TransferStep::Download,
        ShownProgress { bytes, length, .. } if bytes > 0 && bytes >= length => {
            TransferStep::Publish
        }
        _ => TransferStep::Local,
    }
}
