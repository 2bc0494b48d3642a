//! Lists of classes, and the retry of failed ones. Held classes come from the lease table, failed
//! ones with their reasons from the ledger.

use shared::{Wnid, outcome::Outcome};

use super::{Dispatcher, Reply};
use crate::{
    fleet::{ClassPage, ClassView, ListedState},
    ledger::{Entry, Ledger, LedgerError, Record, Run},
};

/// Number of classes in a page.
const PAGE: u32 = 1000;

/// A class that is to be retried is not in the list of the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not in the list of this job")]
pub struct NotInList(pub Wnid);

/// The result of a request to retry failed classes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retried {
    /// Classes that are pending again.
    pub classes: u64,
    /// Rows of the list without a class id: they stay failed.
    pub invalid_rows: u64,
}

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
        Entry::reading(move |ledger, run| failed(ledger, run, after), reply)
    }

    /// Makes failed classes pending again, all of them if none is named.
    pub(super) fn retry_failed(
        &mut self,
        wnids: &[Wnid],
        reply: Reply<Result<Retried, NotInList>>,
    ) -> Entry {
        if let Some(wnid) = self.table.first_not_in_list(wnids) {
            self.send(reply, Err(NotInList(wnid)));
            return Entry::default();
        }
        let forgotten = self.table.retry_failed(wnids);
        tracing::info!(classes = forgotten.len(), "failed classes are tried again");
        let retried = Retried {
            classes: forgotten.len() as u64,
            invalid_rows: self.table.invalid_rows(),
        };
        let entry = Entry {
            forgotten,
            ..Entry::default()
        };
        entry.answering(reply, Ok(retried))
    }
}

fn failed(ledger: &Ledger, run: &Run, after: Option<Wnid>) -> Result<ClassPage, LedgerError> {
    let records = ledger.failed_after(run, after, PAGE)?;
    let more = records.len() == PAGE as usize;
    let view = |record: Record| match record.outcome {
        Outcome::Failed(failure) => Some(ClassView {
            wnid: record.wnid,
            worker: record.worker.unwrap_or_default(),
            bytes: 0,
            length: 0,
            failure: Some(failure),
        }),
        Outcome::Success(_) | Outcome::Skipped(_) => None,
    };
    Ok(ClassPage {
        classes: records.into_iter().filter_map(view).collect(),
        more,
    })
}
