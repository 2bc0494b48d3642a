//! Results of the last run, for a job with `--retry-failed`. Only reads.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
};

use rusqlite::params;
use shared::{
    Wnid,
    outcome::{Outcome, Published},
};

use super::{Ledger, LedgerError, Record, Run};

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

/// The ledger contains no earlier run.
#[derive(Debug, thiserror::Error)]
#[error(
    "find the last run in the ledger {}: there is none; run the same command without --retry-failed, or give that run's \
     ledger with --ledger", path.display()
)]
pub struct NoLastRun {
    path: PathBuf,
}

impl NoLastRun {
    /// Checks that the ledger exists, so that opening it does not create one.
    ///
    /// # Errors
    /// If there is no file under the path.
    pub fn unless_there(path: &Path) -> Result<(), Self> {
        if path.symlink_metadata().is_ok() {
            Ok(())
        } else {
            Err(Self {
                path: path.to_owned(),
            })
        }
    }
}

impl Ledger {
    /// Classes that failed in the last run of `url` other than `run`.
    ///
    /// # Errors
    /// [`LedgerError::Read`].
    pub fn failed_before(&self, run: &Run, url: &str) -> Result<Vec<Wnid>, LedgerError> {
        let read = || -> rusqlite::Result<Vec<Wnid>> {
            let select = "SELECT wnid FROM result WHERE outcome = 'failed' AND run = (
                              SELECT max(id) FROM run WHERE url = ?1 AND id <> ?2
                              AND EXISTS (SELECT 1 FROM result WHERE result.run = run.id))";
            let mut statement = self.connection.prepare(select)?;
            let failed =
                statement.query_map(params![url, run.row], |row| row.get::<_, String>(0))?;
            failed
                .filter_map(|wnid| wnid.map(|wnid| wnid.parse().ok()).transpose())
                .collect()
        };
        read().map_err(|source| LedgerError::Read {
            path: self.path.clone(),
            source,
        })
    }

    /// The run that `--retry-failed` refers to. A run that settled nothing, e.g. because its URL
    /// was wrong, is skipped. An unfinished run of this list and origin, or a finished one that is
    /// only shown, is also skipped: it is the retry that is being resumed, and refers to the run
    /// before it.
    ///
    /// # Errors
    /// [`LedgerError::Read`].
    pub fn last_run(
        &self,
        list_digest: &str,
        url: &str,
        or_finished: bool,
    ) -> Result<Result<LastRun, NoLastRun>, LedgerError> {
        let select = "SELECT max(id) FROM run WHERE NOT (id = (SELECT max(id) FROM run)
                      AND (finished_at IS NULL OR ?3) AND list_digest = ?1 AND url = ?2)
                      AND (finished_at IS NOT NULL OR EXISTS (SELECT 1 FROM result WHERE result.run = run.id))";
        let about = params![list_digest, url, or_finished];
        let found = self
            .connection
            .query_row(select, about, |row| row.get::<_, Option<i64>>(0));
        let found = found.map_err(|source| LedgerError::Read {
            path: self.path.clone(),
            source,
        })?;
        let Some(row) = found else {
            return Ok(Err(NoLastRun {
                path: self.path.clone(),
            }));
        };
        let mut last = LastRun::default();
        let run = Run {
            row,
            run_id: String::new(),
            resumed: false,
        };
        self.settled(
            &run,
            |Record {
                 wnid,
                 outcome,
                 worker,
             }| match outcome {
                Outcome::Success(published) | Outcome::Skipped(published) => {
                    last.there.insert(wnid, published);
                    last.workers.extend(worker.map(|worker| (wnid, worker)));
                }
                Outcome::Failed(_) => drop(last.failed.insert(wnid)),
            },
        )?;
        Ok(Ok(last))
    }

    /// Calls `each` with every class that an earlier run completed, and the worker that has it.
    /// Classes that `--existing trust` accepted unread are excluded.
    ///
    /// # Errors
    /// [`LedgerError::Read`].
    pub fn complete_before(
        &self,
        run: &Run,
        mut each: impl FnMut(Wnid, &str),
    ) -> Result<(), LedgerError> {
        let mut read = || -> rusqlite::Result<()> {
            let select = "SELECT wnid, worker FROM result WHERE run < ?1 AND outcome <> 'failed' AND files > 0
                          AND worker IS NOT NULL ORDER BY run DESC";
            let mut statement = self.connection.prepare(select)?;
            let mut rows = statement.query([run.row])?;
            while let Some(row) = rows.next()? {
                let worker = row.get_ref(1)?.as_str()?;
                if let Ok(wnid) = row.get_ref(0)?.as_str()?.parse() {
                    each(wnid, worker);
                }
            }
            Ok(())
        };
        read().map_err(|source| LedgerError::Read {
            path: self.path.clone(),
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use shared::outcome::{Failure, FailureKind};

    use super::*;
    use crate::ledger::Entry;

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
        let left = ledger.last_run("retry", "url", false).unwrap().unwrap();
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
            .unwrap()
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
        assert_eq!(
            ledger.last_run("retry", "url", false).unwrap().unwrap(),
            left
        );

        let retry = ledger.run("retry", "url", false).unwrap();
        write(
            &mut ledger,
            &retry,
            &[(3, Outcome::Success(published))],
            false,
        );
        assert_eq!(
            ledger.last_run("retry", "url", false).unwrap().unwrap(),
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
            ledger.last_run("retry", "url", false).unwrap().unwrap(),
            left,
            "the next retry refers to this one"
        );
    }

    #[test]
    fn a_missing_ledger_is_not_created() {
        let folder = tempfile::tempdir().unwrap();
        assert!(NoLastRun::unless_there(&folder.path().join("ledger")).is_err());
        assert!(NoLastRun::unless_there(folder.path()).is_ok());
    }
}
