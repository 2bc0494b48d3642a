//! Results of the last run, for a job with `--retry-failed`. Only reads.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

use rusqlite::params;
use shared::{
    Wnid,
    outcome::{Outcome, Published},
};

use super::{Ledger, LedgerError, Run, error::Problem};

/// The classes of the last run. Classes that it did not settle are in neither map.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct LastRun {
    /// Complete classes.
    pub there: HashMap<Wnid, Published>,
    /// Classes to retry.
    pub failed: HashSet<Wnid>,
    /// The workers that have the complete classes.
    pub workers: HashMap<Wnid, String>,
}

impl Ledger {
    /// As [`Ledger::open`], for a job that needs an earlier run: creates no ledger.
    ///
    /// # Errors
    /// [`LedgerError`], also if there is no file under the path.
    pub fn open_existing(path: &Path) -> Result<Self, LedgerError> {
        if path.symlink_metadata().is_err() {
            return Err(LedgerError::new(path, Problem::NoLastRun));
        }
        Self::open(path)
    }

    /// Classes that failed in the last run of `url` other than `run`.
    ///
    /// # Errors
    /// [`LedgerError`] of a read.
    pub fn failed_before(&self, run: &Run, url: &str) -> Result<Vec<Wnid>, LedgerError> {
        let select = "SELECT wnid FROM result WHERE outcome = 'failed' AND run = (
                          SELECT max(id) FROM run WHERE url = ?1 AND id <> ?2
                          AND EXISTS (SELECT 1 FROM result WHERE result.run = run.id))";
        let failed = self.rows(select, params![url, run.row], |row| row.get::<_, String>(0))?;
        Ok(failed.iter().filter_map(|wnid| wnid.parse().ok()).collect())
    }

    /// The run that `--retry-failed` refers to. A run that settled nothing, e.g. because its URL
    /// was wrong, is skipped. An unfinished run of this list and origin, or a finished one that is
    /// only shown, is also skipped: it is the retry that is being resumed, and refers to the run
    /// before it.
    ///
    /// # Errors
    /// [`LedgerError`] of a read, also if there is no such run.
    pub fn last_run(
        &self,
        list_digest: &str,
        url: &str,
        or_finished: bool,
    ) -> Result<LastRun, LedgerError> {
        let select = "SELECT max(id) FROM run WHERE NOT (id = (SELECT max(id) FROM run)
                      AND (finished_at IS NULL OR ?3) AND list_digest = ?1 AND url = ?2)
                      AND (finished_at IS NOT NULL OR EXISTS (SELECT 1 FROM result WHERE result.run = run.id))";
        let about = params![list_digest, url, or_finished];
        let found = self.rows(select, about, |row| row.get(0))?;
        let found = found.into_iter().next().flatten();
        let row = found.ok_or_else(|| LedgerError::new(&self.path, Problem::NoLastRun))?;
        let mut last = LastRun::default();
        let run = Run {
            row,
            run_id: String::new(),
            resumed: false,
        };
        self.settled(&run, |record| match record.outcome {
            Outcome::Success(published) | Outcome::Skipped(published) => {
                last.there.insert(record.wnid, published);
                let worker = record.worker.map(|worker| (record.wnid, worker));
                last.workers.extend(worker);
            }
            Outcome::Failed(_) => drop(last.failed.insert(record.wnid)),
        })?;
        Ok(last)
    }

    /// Calls `each` with every class that an earlier run completed, and the worker that has it.
    /// Classes that `--existing trust` accepted unread are excluded.
    ///
    /// # Errors
    /// [`LedgerError`] of a read.
    pub fn complete_before(
        &self,
        run: &Run,
        mut each: impl FnMut(Wnid, &str),
    ) -> Result<(), LedgerError> {
        let select =
            "SELECT wnid, worker FROM result WHERE run < ?1 AND outcome <> 'failed' AND files > 0
                      AND worker IS NOT NULL ORDER BY run DESC";
        self.each_row(select, [run.row], |row| {
            if let Ok(wnid) = row.get_ref(0)?.as_str()?.parse() {
                each(wnid, row.get_ref(1)?.as_str()?);
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use shared::outcome::{Failure, FailureKind};

    use super::*;
    use crate::ledger::{Entry, Record};

    fn wnid(number: u32) -> Wnid {
        format!("n{number:08}").parse().unwrap()
    }

    fn write(ledger: &mut Ledger, run: &Run, outcomes: &[(u32, Outcome)], finished: bool) {
        let record = |(number, outcome): &(u32, Outcome)| Record {
            wnid: wnid(*number),
            outcome: outcome.clone(),
            worker: None,
        };
        let records = outcomes.iter().map(record).collect();
        ledger
            .write(
                run,
                std::time::Duration::from_secs(30),
                &[Entry {
                    records,
                    finished,
                    ..Entry::default()
                }],
            )
            .unwrap();
    }

    fn failed() -> Outcome {
        Outcome::Failed(Failure::new(FailureKind::Timeout, "why"))
    }

    #[test]
    fn earlier_failures_come_from_the_last_run_of_the_url_with_results() {
        let folder = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(&folder.path().join("ledger")).unwrap();
        let first = ledger.run("list", "url", false).unwrap();
        assert_eq!(ledger.failed_before(&first, "url").unwrap(), []);
        let published = Outcome::Success(Published::default());
        write(
            &mut ledger,
            &first,
            &[(1, published), (2, failed()), (3, failed())],
            true,
        );
        assert_eq!(
            ledger.failed_before(&first, "url").unwrap(),
            [],
            "failures of the run itself are not of an earlier run"
        );
        // The URL was wrong, so this run settled nothing and is not the last run.
        let wrong = ledger.run("list", "wrong", false).unwrap();
        assert_eq!(ledger.failed_before(&wrong, "wrong").unwrap(), []);
        let left = ledger.last_run("retry", "url", false).unwrap();
        assert_eq!(left.failed, [2, 3].map(wnid).into());
        let next = ledger.run("another list", "url", false).unwrap();
        assert_eq!(
            ledger.failed_before(&next, "url").unwrap(),
            [2, 3].map(wnid)
        );
    }

    #[test]
    fn a_resumed_retry_refers_to_the_run_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(&folder.path().join("ledger")).unwrap();
        let said = ledger
            .last_run("retry", "url", false)
            .unwrap_err()
            .to_string();
        assert!(
            said.contains("/ledger: there is none; run the same command without --retry-failed"),
            "{said}"
        );

        let published = Published {
            files: 3,
            bytes: 10_240,
        };
        let there = [
            (1, Outcome::Success(published)),
            (2, Outcome::Skipped(published)),
        ];
        let first = ledger.run("list", "url", false).unwrap();
        write(
            &mut ledger,
            &first,
            &[
                there[0].clone(),
                there[1].clone(),
                (3, failed()),
                (4, failed()),
            ],
            true,
        );
        let left = LastRun {
            there: [1, 2].map(|number| (wnid(number), published)).into(),
            failed: [3, 4].map(wnid).into(),
            ..LastRun::default()
        };
        assert_eq!(ledger.last_run("retry", "url", false).unwrap(), left);

        let retry = ledger.run("retry", "url", false).unwrap();
        write(
            &mut ledger,
            &retry,
            &[(3, Outcome::Success(published))],
            false,
        );
        assert_eq!(
            ledger.last_run("retry", "url", false).unwrap(),
            left,
            "the retry was killed and is resumed"
        );
        assert!(ledger.run("retry", "url", false).unwrap().resumed);

        write(&mut ledger, &retry, &[(4, failed())], true);
        let left = LastRun {
            there: [(wnid(3), published)].into(),
            failed: [wnid(4)].into(),
            ..LastRun::default()
        };
        assert_eq!(
            ledger.last_run("retry", "url", false).unwrap(),
            left,
            "the next retry refers to this one"
        );
    }

    #[test]
    fn a_missing_ledger_is_not_created() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        assert!(Ledger::open_existing(&path).is_err() && !path.exists());
        drop(Ledger::open(&path).unwrap());
        assert!(Ledger::open_existing(&path).is_ok());
    }
}
