//! The state of workers that a restarted coordinator reads: which had a session, which credential
//! owns their names, which processes are being drained, and which classes may have been granted.

use std::time::Duration;

use rusqlite::{Transaction, params};
use shared::ids::CredentialId;

use super::{Ledger, LedgerError, Run, execute};
use crate::lease_table::{Drain, Mark, Renamed};

impl Ledger {
    /// Workers that had a session when the last coordinator of the run ended, and the TTL of their
    /// leases.
    ///
    /// # Errors
    /// [`LedgerError`] of a read.
    pub fn workers(&self) -> Result<Vec<(String, Duration)>, LedgerError> {
        let ttl = |ms: i64| Duration::from_millis(ms.try_into().unwrap_or_default());
        self.rows("SELECT worker, ttl_ms FROM session", [], |row| {
            Ok((row.get(0)?, ttl(row.get(1)?)))
        })
    }

    /// The names that workers have used in the run, and the credential that owns each.
    ///
    /// # Errors
    /// [`LedgerError`] of a read.
    pub fn names(&self) -> Result<Vec<(String, CredentialId)>, LedgerError> {
        let credential = |id: i64| CredentialId(id.cast_unsigned());
        self.rows("SELECT worker, credential FROM name", [], |row| {
            Ok((row.get(0)?, credential(row.get(1)?)))
        })
    }

    /// The worker processes that are being drained, by their nonces.
    ///
    /// # Errors
    /// [`LedgerError`] of a read.
    pub fn drains(&self) -> Result<Vec<(String, Vec<u8>)>, LedgerError> {
        self.rows("SELECT worker, instance FROM drain", [], |row| {
            row.try_into()
        })
    }

    /// The positions of the list that may have been granted in the run; `None` if unknown, because
    /// an earlier version started the run.
    ///
    /// # Errors
    /// [`LedgerError`] of a read.
    pub fn granted(&self, run: &Run) -> Result<Option<Mark>, LedgerError> {
        let select = "SELECT granted, beyond FROM run WHERE id = ?1";
        let marks = self.rows(select, [run.row], |row| {
            Ok((row.get::<_, Option<i64>>(0)?, row.get::<_, String>(1)?))
        })?;
        // A value that cannot be parsed counts as unknown.
        Ok(marks.into_iter().next().and_then(|(granted, beyond)| {
            Some(Mark {
                position: granted?.try_into().ok()?,
                beyond: positions(&beyond)?,
            })
        }))
    }
}

/// Parses positions separated by commas.
fn positions(text: &str) -> Option<Vec<usize>> {
    text.split(',')
        .filter(|part| !part.is_empty())
        .map(|part| part.parse().ok())
        .collect()
}

pub(super) fn write_name(
    transaction: &Transaction<'_>,
    Renamed { bound, freed }: &Renamed,
) -> rusqlite::Result<()> {
    if let Some(name) = freed {
        execute(transaction, "DELETE FROM name WHERE worker = ?1", [name])?;
    }
    if let Some((name, credential)) = bound {
        let bind = "INSERT OR REPLACE INTO name (worker, credential) VALUES (?1, ?2)";
        execute(transaction, bind, params![name, credential.0.cast_signed()])?;
    }
    Ok(())
}

pub(super) fn write_drain(transaction: &Transaction<'_>, drain: &Drain) -> rusqlite::Result<()> {
    match drain {
        Drain::Requested { worker, instance } => {
            let tell = "INSERT OR REPLACE INTO drain (worker, instance) VALUES (?1, ?2)";
            execute(transaction, tell, params![worker, instance])
        }
        Drain::Over { worker } => {
            execute(transaction, "DELETE FROM drain WHERE worker = ?1", [worker])
        }
    }
}

pub(super) fn write_mark(
    transaction: &Transaction<'_>,
    run: i64,
    mark: &Mark,
) -> rusqlite::Result<()> {
    let position = i64::try_from(mark.position).unwrap_or(i64::MAX);
    let beyond: Vec<String> = mark.beyond.iter().map(usize::to_string).collect();
    let raise = "UPDATE run SET granted = max(granted, ?2), beyond = ?3 WHERE id = ?1";
    execute(transaction, raise, params![run, position, beyond.join(",")])
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;
    use crate::ledger::{Entry, schema};

    const TTL: Duration = Duration::from_secs(30);

    fn drained(worker: &str, instance: &[u8]) -> Drain {
        Drain::Requested {
            worker: worker.to_owned(),
            instance: instance.to_owned(),
        }
    }

    #[test]
    fn drains_and_marks_persist_and_the_mark_never_decreases() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let mut ledger = Ledger::open(&path).unwrap();
        let run = ledger.run("list", "url", false).unwrap();
        assert_eq!(ledger.granted(&run).unwrap(), Some(Mark::from(0)));
        let sample = |position| Mark {
            position,
            beyond: vec![300, 999],
        };
        let drains = vec![
            drained("one", b"1"),
            drained("other", b"2"),
            Drain::Over {
                worker: "one".to_owned(),
            },
        ];
        let entries = [256, 40].map(|position| Entry {
            granted: Some(sample(position)),
            ..Entry::default()
        });
        ledger.write(&run, TTL, &entries).unwrap();
        ledger
            .write(
                &run,
                TTL,
                &[Entry {
                    drains,
                    granted: Some(sample(41)),
                    ..Entry::default()
                }],
            )
            .unwrap();
        drop(ledger);
        let mut ledger = Ledger::open(&path).unwrap();
        let again = ledger.run("list", "url", false).unwrap();
        assert!(again.resumed);
        assert_eq!(ledger.granted(&again).unwrap(), Some(sample(256)));
        let next = ledger.run("another list", "url", false).unwrap();
        assert_eq!(
            ledger.granted(&next).unwrap(),
            Some(Mark::from(0)),
            "each run has its own mark"
        );
        assert_eq!(
            ledger.drains().unwrap(),
            [("other".to_owned(), b"2".to_vec())]
        );
    }

    #[test]
    fn in_a_run_of_version_4_any_class_may_have_been_granted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let mut ledger = Ledger::open(&path).unwrap();
        let run = ledger.run("list", "url", false).unwrap();
        drop(ledger);
        let before = Connection::open(&path).unwrap();
        let as_4 = "ALTER TABLE run DROP COLUMN granted; ALTER TABLE run DROP COLUMN beyond; DROP TABLE drain; PRAGMA user_version = 4;";
        before.execute_batch(as_4).unwrap();
        drop(before);
        let mut ledger = Ledger::open(&path).unwrap();
        let again = ledger.run("list", "url", false).unwrap();
        assert!(again.resumed && schema::backup_of(&path, 4).exists());
        let entry = Entry {
            granted: Some(Mark::from(7)),
            drains: vec![drained("one", b"1")],
            ..Entry::default()
        };
        ledger.write(&run, TTL, &[entry]).unwrap();
        assert_eq!(
            ledger.granted(&again).unwrap(),
            None,
            "grants before the migration are unknown"
        );
        assert_eq!(ledger.drains().unwrap().len(), 1);
        let next = ledger.run("another list", "url", false).unwrap();
        assert_eq!(ledger.granted(&next).unwrap(), Some(Mark::from(0)));
    }
}
