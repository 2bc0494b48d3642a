//! Lists of classes. Held classes come from the lease table, failed ones with their reasons from
//! the ledger.

use shared::{Wnid, outcome::Outcome};

use super::{Dispatcher, Reply};
use crate::{
    fleet::{ClassPage, ClassView, ListedState},
    ledger::{Entry, Ledger, LedgerError, Record, Run},
};

/// Number of classes in a page.
const PAGE: u32 = 1000;

impl Dispatcher {
    /// Answers with a page of a list. The failed classes are read on the ledger's thread.
    pub(super) fn list(
        &mut self,
        state: ListedState,
        after: Option<Wnid>,
        reply: Reply<ClassPage>,
    ) -> Entry {
        if state == ListedState::Leased {
            let page = self.table.under_way(after, PAGE as usize);
            self.send(reply, page);
            return Entry::default();
        }
        let read = move |ledger: &Ledger, run: &Run| match failed(ledger, run, after) {
            Ok(page) => reply.send(page).unwrap_or_default(),
            Err(error) => tracing::warn!("failed to {error}"),
        };
        Entry {
            read: Some(Box::new(read)),
            ..Entry::default()
        }
    }
}

fn failed(ledger: &Ledger, run: &Run, after: Option<Wnid>) -> Result<ClassPage, LedgerError> {
    let records = ledger.failed_after(run, after, PAGE)?;
    let more = records.len() == PAGE as usize;
    let view = |Record {
                    wnid,
                    outcome,
                    worker,
                }| match outcome {
        Outcome::Failed(failure) => {
            let worker = worker.unwrap_or_default();
            Some(ClassView {
                wnid,
                worker,
                bytes: 0,
                length: 0,
                failure: Some(failure),
            })
        }
        Outcome::Success(_) | Outcome::Skipped(_) => None,
    };
    Ok(ClassPage {
        classes: records.into_iter().filter_map(view).collect(),
        more,
    })
}
