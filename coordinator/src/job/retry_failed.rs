//! `--retry-failed`: a job of the classes that failed in the last run. Classes that the last run
//! left complete count as skipped, unless they are missing at the worker in this process or at one
//! that joins.
//!
//! Invariant: if there is nothing to retry, no run begins, so the last run and its log stay. With
//! `--stay` a run begins nevertheless, because a run is needed for display.

use std::{borrow::Cow, path::PathBuf};

use shared::{
    Wnid,
    class_list::{ClassList, InvalidRow},
    job::{Existing, JobStatus},
    job_line::Screen,
    outcome::Outcome,
};

use super::CoordinatorError;
use crate::{
    config::Plan,
    failure_log::shown,
    lease_table::LeaseTable,
    ledger::{Entry, LastRun, Ledger, Record, Writer},
    wording::counted,
};

/// Records are queued in batches of this size.
const BATCH: usize = 10_000;

/// Why the results of the last run are not enough for a retry.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NothingToRetry {
    /// The last run knows none of the classes.
    #[error(
        "try again what failed: the last run in the ledger {} was of another list, for it came to no class of this one; \
         run the same command without --retry-failed", ledger.display()
    )]
    OtherList {
        /// The ledger of the last run.
        ledger: PathBuf,
    },
    /// No class has failed, but the last run did not settle the whole list.
    #[error(
        "try again what failed: nothing has, but the last run did not come to {} of the list; the same command without \
         --retry-failed downloads {}", classes(*.never), if *.never == 1 { "it" } else { "them" }
    )]
    NotComeTo {
        /// Number of classes of the list that the last run did not settle.
        never: usize,
    },
}

fn classes(count: usize) -> String {
    counted(count as u64, "class", "classes")
}

/// The classes of the list that the job is about, and their known outcomes.
pub(super) struct JobClasses<'list> {
    pub(super) wnids: Cow<'list, [Wnid]>,
    /// Complete classes. They are also written to the ledger for the next retry.
    pub(super) there: Vec<Record>,
}

/// Opens the ledger. Does not create one for a job that needs the results of an earlier run.
pub(super) fn open_ledger(plan: &Plan) -> Result<Ledger, CoordinatorError> {
    let open = if plan.retry_failed {
        Ledger::open_existing
    } else {
        Ledger::open
    };
    Ok(open(&plan.ledger)?)
}

impl<'list> JobClasses<'list> {
    /// All classes of the list, or a part of it with `--retry-failed`, which is logged. `None` if
    /// every class is complete, which is logged too. The digest identifies the job.
    pub(super) async fn of(
        plan: &Plan,
        classes: &'list ClassList,
        ledger: &Ledger,
        digest: &str,
        screen: &Screen,
    ) -> Result<Option<Self>, CoordinatorError> {
        if !plan.retry_failed {
            return Ok(Some(Self {
                wnids: Cow::Borrowed(&classes.wnids),
                there: Vec::new(),
            }));
        }
        let mut last = ledger.last_run(digest, &plan.job.url.to_string(), plan.stay)?;
        let missing = if plan.single_host.is_some() {
            check_target(plan, &mut last).await
        } else {
            0
        };
        let job_classes = Self::of_last_run(classes, &last);
        let never = classes.wnids.len() - job_classes.wnids.len();
        if job_classes.wnids.is_empty() && never > 0 {
            return Err(NothingToRetry::OtherList {
                ledger: plan.ledger.clone(),
            }
            .into());
        }
        let say = |line: String| {
            tracing::info!("{line}");
            screen.write_line(&line);
        };
        match job_classes.wnids.len() - job_classes.there.len() {
            0 if never > 0 => return Err(NothingToRetry::NotComeTo { never }.into()),
            0 => {
                all_there(&classes.invalid, plan.single_host.is_some()).for_each(say);
                if !plan.stay {
                    return Ok(None);
                }
            }
            failed => {
                trying_again(failed - missing.min(failed), never).for_each(say);
                if missing > 0 {
                    tracing::warn!("{}", not_there(missing));
                }
            }
        }
        Ok(Some(job_classes))
    }

    /// The classes that the last run has settled, in the order of the list.
    fn of_last_run(classes: &ClassList, last: &LastRun) -> Self {
        let settled = |wnid: &&Wnid| last.there.contains_key(wnid) || last.failed.contains(wnid);
        let wnids: Vec<Wnid> = classes.wnids.iter().filter(settled).copied().collect();
        let there = wnids.iter().filter_map(|wnid| {
            let published = last.there.get(wnid)?;
            let worker = last.workers.get(wnid).cloned();
            Some(Record {
                wnid: *wnid,
                outcome: Outcome::Skipped(*published),
                worker,
            })
        });
        Self {
            there: there.collect(),
            wnids: wnids.into(),
        }
    }

    /// Drops classes that an earlier process of this run has settled differently.
    pub(super) fn still_skipped(mut self, table: &LeaseTable) -> Self {
        self.there.retain(|record| table.is_skipped(record.wnid));
        self
    }

    /// Stores the complete classes for the next retry.
    pub(super) async fn keep(self, writer: &Writer) {
        let mut there = self.there.into_iter().peekable();
        while there.peek().is_some() {
            let entry = Entry {
                records: there.by_ref().take(BATCH).collect(),
                ..Entry::default()
            };
            writer.write(entry).await;
        }
    }
}

/// Checks the target of the worker in this process: classes that are missing there, or differ from
/// their manifest, become part of the job. Returns their number.
async fn check_target(plan: &Plan, last: &mut LastRun) -> usize {
    let target = plan.target.clone();
    let trusts = plan.job.existing == Existing::Trust;
    let there: Vec<Wnid> = last.there.keys().copied().collect();
    let check = move || {
        let is_missing = |wnid: &Wnid| !worker::verify::is_there(&target, *wnid, trusts);
        there.into_iter().filter(is_missing).collect::<Vec<Wnid>>()
    };
    // Without a thread for the check, the worker finds the missing classes.
    let missing = tokio::task::spawn_blocking(check).await.unwrap_or_default();
    for wnid in &missing {
        last.there.remove(wnid);
        last.failed.insert(*wnid);
    }
    missing.len()
}

fn not_there(missing: usize) -> String {
    let are = if missing == 1 { "is" } else { "are" };
    format!(
        "{} that the last run has left complete {are} not there any more or damaged, and {are} part of this job",
        classes(missing)
    )
}

/// The messages about what is retried, and what is not part of the job.
fn trying_again(failed: usize, never: usize) -> impl Iterator<Item = String> {
    let rest = "not part of this job; the same command without --retry-failed downloads";
    let (are, them) = if never == 1 {
        ("is", "it")
    } else {
        ("are", "them")
    };
    let of = classes(never);
    let never = (never > 0).then(|| {
        format!("{of} of the list, which the last run did not come to, {are} {rest} {them}")
    });
    let failed = classes(failed);
    let again = format!("trying again the {failed} that the last run has left failed");
    std::iter::once(again).chain(never)
}

/// The messages that there is nothing to do. Rows without a class id still count as failed.
/// `has_looked`: the folders were compared with their manifests. Only workers can compare folders
/// of their own, and this job waits for no worker.
fn all_there(invalid: &[InvalidRow], has_looked: bool) -> impl Iterator<Item = String> {
    let nothing = "nothing to try again: the last run has left every class of the list complete";
    let unseen = "whether the folders are still complete was not checked; the same command without --retry-failed \
                  has each worker look";
    let unseen = (!has_looked).then(|| unseen.to_owned());
    let rows = invalid.first().map(|first| {
        let line = first.line;
        let value = shown(first);
        match invalid.len() {
            1 => format!("1 row of the list holds no class id: line {line}: {value}"),
            rows => format!(
                "{rows} rows of the list hold no class id; the first is line {line}: {value}"
            ),
        }
    });
    std::iter::once(nothing.to_owned())
        .chain(unseen)
        .chain(rows)
}

/// The counts of a job that has nothing to do.
pub(super) fn nothing_to_do(classes: &ClassList) -> JobStatus {
    let skipped = classes.wnids.len() as u64;
    let failed = classes.invalid.len() as u64;
    JobStatus {
        total: skipped + failed,
        skipped,
        failed,
        ..JobStatus::default()
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
        ClassList {
            wnids: numbers.iter().copied().map(wnid).collect(),
            ..ClassList::default()
        }
    }

    #[test]
    fn the_job_consists_of_the_classes_of_both_the_list_and_the_last_run() {
        let published = Published {
            files: 3,
            bytes: 10_240,
        };
        let last = LastRun {
            there: [1, 2, 9].map(|number| (wnid(number), published)).into(),
            failed: [3, 8].map(wnid).into(),
            workers: [(wnid(2), "host".to_owned())].into(),
        };
        let classes = list(&[3, 4, 1, 5, 2]);
        let job_classes = JobClasses::of_last_run(&classes, &last);
        assert_eq!(*job_classes.wnids, [3, 1, 2].map(wnid));
        let there = [(1, None), (2, Some("host".to_owned()))].map(|(number, worker)| Record {
            wnid: wnid(number),
            outcome: Outcome::Skipped(published),
            worker,
        });
        assert_eq!(job_classes.there, there);
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
    fn rows_without_a_class_id_are_reported_also_if_there_is_nothing_to_do() {
        let row = |line| InvalidRow {
            line,
            value: String::new(),
            after: 0,
        };
        let nothing =
            "nothing to try again: the last run has left every class of the list complete";
        assert_eq!(all_there(&[], true).collect::<Vec<_>>(), [nothing]);
        let unseen: Vec<String> = all_there(&[], false).collect();
        assert!(
            unseen.len() == 2 && unseen[1].contains("without --retry-failed has each worker look"),
            "{unseen:?}"
        );
        let said: Vec<String> = all_there(&[row(3), row(5)], true).collect();
        assert_eq!(
            said,
            [
                nothing,
                "2 rows of the list hold no class id; the first is line 3: (empty)"
            ]
        );
        let classes = ClassList {
            invalid: vec![row(3)],
            ..list(&[1, 2])
        };
        let counts = JobStatus {
            total: 3,
            skipped: 2,
            failed: 1,
            ..JobStatus::default()
        };
        assert_eq!(nothing_to_do(&classes), counts);
    }
}
