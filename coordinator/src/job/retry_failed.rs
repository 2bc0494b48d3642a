//! `--retry-failed`: a job of what the last run has left failed. What that run has left complete counts as skipped, unless
//! the worker in this process, or one that joins, does not have it any more.
//!
//! Invariant: where nothing is to be tried again, no run begins, so that the last run stays the last one, with its log; except
//! with `--stay`, which has to have a run to show.

use std::{borrow::Cow, path::PathBuf};

use shared::{
    Wnid,
    class_list::{ClassList, InvalidRow},
    job::{Existing, JobStatus},
    job_line::Screen,
    outcome::Outcome,
};

use crate::job::CoordinatorError;
use crate::{
    config::Plan,
    failure_log::shown,
    lease_table::LeaseTable,
    ledger::{Entry, LastRun, Ledger, NoLastRun, Record, Writer},
};

/// Records are queued in pieces of so many.
const PIECE: usize = 10_000;

/// The list is not one that the last run could say enough about.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NothingToRetry {
    /// It knows none of the classes.
    #[error(
        "try again what failed: the last run in the ledger {} was of another list, for it came to no class of this one; \
         run the same command without --retry-failed", ledger.display()
    )]
    OtherList {
        /// Where the last run is kept.
        ledger: PathBuf,
    },
    /// What it came to is there, but that is not all.
    #[error(
        "try again what failed: nothing has, but the last run did not come to {} of the list; the same command without \
         --retry-failed downloads {}", classes(*.never), if *.never == 1 { "it" } else { "them" }
    )]
    NotComeTo {
        /// So many classes of the list.
        never: usize,
    },
}

fn classes(count: usize) -> String {
    if count == 1 { "1 class".to_owned() } else { format!("{count} classes") }
}

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
    /// All of the list, or with `--retry-failed` a part of it, which is told; `None` if every class is there already, which
    /// is told, too. The digest is that of the job.
    pub(super) async fn of(
        plan: &Plan,
        classes: &'list ClassList,
        ledger: &Ledger,
        digest: &str,
        screen: &Screen,
    ) -> Result<Option<Self>, CoordinatorError> {
        if !plan.retry_failed {
            return Ok(Some(Self { wnids: Cow::Borrowed(&classes.wnids), there: Vec::new() }));
        }
        let mut last = ledger.last_run(digest, &plan.job.url.to_string(), plan.stay)??;
        let missing = if plan.single_host.is_some() { look(plan, &mut last).await } else { 0 };
        let share = Self::of_last_run(classes, &last);
        let never = classes.wnids.len() - share.wnids.len();
        if share.wnids.is_empty() && never > 0 {
            return Err(NothingToRetry::OtherList { ledger: plan.ledger.clone() }.into());
        }
        let tell = |line: &str| {
            tracing::info!("{line}");
            screen.say(line);
        };
        match share.wnids.len() - share.there.len() {
            0 if never > 0 => return Err(NothingToRetry::NotComeTo { never }.into()),
            0 => {
                all_there(&classes.invalid, plan.single_host.is_some()).for_each(|line| tell(&line));
                if !plan.stay {
                    return Ok(None);
                }
            }
            failed => {
                trying_again(failed - missing.min(failed), never).for_each(|line| tell(&line));
                if missing > 0 {
                    tracing::warn!("{}", not_there(missing));
                }
            }
        }
        Ok(Some(share))
    }

    /// What the last run has settled, in the list's order.
    fn of_last_run(classes: &ClassList, last: &LastRun) -> Self {
        let settled = |wnid: &&Wnid| last.there.contains_key(wnid) || last.failed.contains(wnid);
        let wnids: Vec<Wnid> = classes.wnids.iter().filter(settled).copied().collect();
        let there = wnids.iter().filter_map(|wnid| {
            let published = last.there.get(wnid)?;
            let worker = last.workers.get(wnid).cloned();
            Some(Record { wnid: *wnid, outcome: Outcome::Skipped(*published), worker })
        });
        Self { there: there.collect(), wnids: wnids.into() }
    }

    /// Without what an earlier process of this run has settled in another way.
    pub(super) fn still_skipped(self, table: &LeaseTable) -> Self {
        let there = self.there.into_iter().filter(|record| table.is_skipped(record.wnid));
        Self { there: there.collect(), wnids: self.wnids }
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

/// Looks in the target of the worker in this process: what is missing there, or differs from its
/// manifest, is part of the job. Gives its number.
async fn look(plan: &Plan, last: &mut LastRun) -> usize {
    let (target, trusts) = (plan.target.clone(), plan.job.existing == Existing::Trust);
    let there: Vec<Wnid> = last.there.keys().copied().collect();
    let look = move || {
        let is_missing = |wnid: &Wnid| !worker::verify::is_there(&target, *wnid, trusts);
        there.into_iter().filter(is_missing).collect::<Vec<Wnid>>()
    };
    // Without a thread for it the worker finds out.
    let missing = tokio::task::spawn_blocking(look).await.unwrap_or_default();
    for wnid in &missing {
        last.there.remove(wnid);
        last.failed.insert(*wnid);
    }
    missing.len()
}

fn not_there(missing: usize) -> String {
    let (of, are) = (classes(missing), if missing == 1 { "is" } else { "are" });
    format!("{of} that the last run has left complete {are} not there any more or damaged, and {are} part of this job")
}

/// What is tried again, and what is not part of the job.
fn trying_again(failed: usize, never: usize) -> impl Iterator<Item = String> {
    let rest = "not part of this job; the same command without --retry-failed downloads";
    let never = match never {
        0 => None,
        1 => Some(format!("1 class of the list, which the last run did not come to, is {rest} it")),
        never => Some(format!("{never} classes of the list, which the last run did not come to, are {rest} them")),
    };
    std::iter::once(format!("trying again the {} that the last run has left failed", classes(failed))).chain(never)
}

/// That there is nothing to do; rows that hold no class id count as failed all the same.
/// `has_looked`: whether the folders were compared with their manifests. Only workers can do that
/// with folders of their own, and none is waited for here.
fn all_there(invalid: &[InvalidRow], has_looked: bool) -> impl Iterator<Item = String> {
    let nothing = "nothing to try again: the last run has left every class of the list complete".to_owned();
    let unseen = "whether the folders are still complete was not checked; the same command without --retry-failed \
                  has each worker look";
    let unseen = (!has_looked).then(|| unseen.to_owned());
    let rows = invalid.first().map(|first| {
        let (line, value) = (first.line, shown(first));
        match invalid.len() {
            1 => format!("1 row of the list holds no class id: line {line}: {value}"),
            rows => format!("{rows} rows of the list hold no class id; the first is line {line}: {value}"),
        }
    });
    std::iter::once(nothing).chain(unseen).chain(rows)
}

/// The counts of a job that has nothing to do.
pub(super) fn nothing_to_do(classes: &ClassList) -> JobStatus {
    let (skipped, failed) = (classes.wnids.len() as u64, classes.invalid.len() as u64);
    JobStatus { total: skipped + failed, skipped, failed, ..JobStatus::default() }
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
            workers: [(wnid(2), "host".to_owned())].into(),
        };
        let classes = list(&[3, 4, 1, 5, 2]);
        let share = Share::of_last_run(&classes, &last);
        assert_eq!(*share.wnids, [3, 1, 2].map(wnid));
        let there = [(1, None), (2, Some("host".to_owned()))].map(|(number, worker)| Record {
            wnid: wnid(number),
            outcome: Outcome::Skipped(published),
            worker,
        });
        assert_eq!(share.there, there);
        assert_eq!(
            trying_again(1, 2).collect::<Vec<_>>(),
            [
                "trying again the 1 class that the last run has left failed",
                "2 classes of the list, which the last run did not come to, are not part of this job; the same command \
                 without --retry-failed downloads them"
            ]
        );
    }

    #[test]
    fn rows_without_a_class_id_are_told_also_when_there_is_nothing_to_do() {
        let row = |line| InvalidRow { line, value: String::new(), after: 0 };
        let nothing = "nothing to try again: the last run has left every class of the list complete";
        assert_eq!(all_there(&[], true).collect::<Vec<_>>(), [nothing]);
        let unseen: Vec<String> = all_there(&[], false).collect();
        assert!(unseen.len() == 2 && unseen[1].contains("without --retry-failed has each worker look"), "{unseen:?}");
        let said: Vec<String> = all_there(&[row(3), row(5)], true).collect();
        assert_eq!(said, [nothing, "2 rows of the list hold no class id; the first is line 3: (empty)"]);
        let classes = ClassList { invalid: vec![row(3)], ..list(&[1, 2]) };
        let counts = JobStatus { total: 3, skipped: 2, failed: 1, ..JobStatus::default() };
        assert_eq!(nothing_to_do(&classes), counts);
    }
}
