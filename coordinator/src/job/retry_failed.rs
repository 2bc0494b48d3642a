//! `--retry-failed`: a job of what the last run has left failed. What that run has left complete counts as skipped, and no
//! worker is asked about it.

use std::borrow::Cow;

use shared::{Wnid, class_list::ClassList, job_line::Screen, outcome::Outcome};

use super::say;
use crate::{
    CoordinatorError,
    config::Plan,
    ledger::{Entry, LastRun, Ledger, NoLastRun, Record, Writer},
};

/// Records are queued in pieces of so many.
const PIECE: usize = 10_000;

/// Which classes of the list the job is about, and what is known of them before it begins.
pub(super) struct Share<'list> {
    pub(super) wnids: Cow<'list, [Wnid]>,
    /// Complete; in the ledger, too, so that the next retry knows of them.
    pub(super) there: Vec<Record>,
}

/// Opens the ledger; makes none for a job that would have to find something in it.
pub(super) fn open_ledger(plan: &Plan) -> Result<Ledger, CoordinatorError> {
    if plan.retry_failed {
        NoLastRun::unless_there(&plan.ledger)?;
    }
    Ok(Ledger::open(&plan.ledger)?)
}

impl<'list> Share<'list> {
    /// All of the list, or with `--retry-failed` a part of it, which is told. The digest is that of the job.
    pub(super) fn of(
        plan: &Plan,
        classes: &'list ClassList,
        ledger: &Ledger,
        digest: &str,
        screen: &Screen,
    ) -> Result<Self, CoordinatorError> {
        if !plan.retry_failed {
            return Ok(Self { wnids: Cow::Borrowed(&classes.wnids), there: Vec::new() });
        }
        let share = Self::of_last_run(classes, &ledger.last_run(digest, &plan.job.url.to_string())??);
        for line in share.in_words(classes.wnids.len()) {
            tracing::info!("{line}");
            say(screen, &line);
        }
        Ok(share)
    }

    /// What the last run has settled, in the list's order.
    fn of_last_run(classes: &ClassList, last: &LastRun) -> Self {
        let settled = |wnid: &&Wnid| last.there.contains_key(wnid) || last.failed.contains(wnid);
        let wnids: Vec<Wnid> = classes.wnids.iter().filter(settled).copied().collect();
        let there = wnids.iter().filter_map(|wnid| {
            let published = last.there.get(wnid)?;
            Some(Record { wnid: *wnid, outcome: Outcome::Skipped(*published), worker: None })
        });
        Self { there: there.collect(), wnids: wnids.into() }
    }

    /// What is tried again, and what is not part of the job.
    fn in_words(&self, listed: usize) -> impl Iterator<Item = String> {
        let failed = match self.wnids.len() - self.there.len() {
            0 => "nothing to try again: the last run has left no class of the list failed".to_owned(),
            1 => "trying again the 1 class that the last run has left failed".to_owned(),
            failed => format!("trying again the {failed} classes that the last run has left failed"),
        };
        let rest = "not part of this job; the same command without --retry-failed downloads";
        let never = match listed - self.wnids.len() {
            0 => None,
            1 => Some(format!("1 class of the list, which the last run did not come to, is {rest} it")),
            never => Some(format!("{never} classes of the list, which the last run did not come to, are {rest} them")),
        };
        std::iter::once(failed).chain(never)
    }

    /// Keeps what is there for the next retry.
    pub(super) async fn keep(self, writer: &Writer) {
        let mut there = self.there.into_iter();
        loop {
            let records: Vec<Record> = there.by_ref().take(PIECE).collect();
            if records.is_empty() {
                return;
            }
            writer.write(Entry { records, ..Entry::default() }).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use shared::outcome::Published;

    use super::*;

    fn wnid(number: u32) -> Wnid {
        format!("n{number:08}").parse().unwrap()
    }

    fn list(numbers: &[u32]) -> ClassList {
        ClassList { wnids: numbers.iter().copied().map(wnid).collect(), ..ClassList::default() }
    }

    #[test]
    fn the_job_is_what_the_list_and_the_last_run_have_in_common() {
        let published = Published { files: 3, bytes: 10_240 };
        let last = LastRun {
            there: [1, 2, 9].map(|number| (wnid(number), published)).into(),
            failed: [3, 8].map(wnid).into(),
        };
        let classes = list(&[3, 4, 1, 5, 2]);
        let share = Share::of_last_run(&classes, &last);
        assert_eq!(*share.wnids, [3, 1, 2].map(wnid));
        let there =
            [1, 2].map(|number| Record { wnid: wnid(number), outcome: Outcome::Skipped(published), worker: None });
        assert_eq!(share.there, there);
        assert_eq!(
            share.in_words(5).collect::<Vec<_>>(),
            [
                "trying again the 1 class that the last run has left failed",
                "2 classes of the list, which the last run did not come to, are not part of this job; the same command \
                 without --retry-failed downloads them"
            ]
        );
        let nothing = Share::of_last_run(&list(&[1]), &last);
        let said: Vec<String> = nothing.in_words(1).collect();
        assert_eq!(said, ["nothing to try again: the last run has left no class of the list failed"]);
    }
}
