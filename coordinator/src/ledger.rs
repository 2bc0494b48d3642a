//! The ledger: which classes are settled, and how, in a file that survives everything. `SQLite`, so that anyone can read it.
//!
//! Invariant: what the [`Writer`] has confirmed is on the disk. One thread writes; what is queued goes into one transaction,
//! and the confirmation comes after the commit (`synchronous=FULL`). Pending classes have no row: the list is the CSV's, and
//! a class without a row is pending.

use std::{
    fs::{File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use rusqlite::{Connection, ErrorCode, OptionalExtension as _, params};
use shared::{
    Wnid,
    outcome::{Failure, FailureKind, Outcome, Published},
};

mod writer;

pub use writer::{Entry, Writer};

/// Version of the schema, in `PRAGMA user_version`.
const VERSION: i64 = 1;

const SCHEMA: &str = "
BEGIN;
CREATE TABLE coordinator (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), epoch INTEGER NOT NULL, owner TEXT NOT NULL);
INSERT INTO coordinator VALUES (1, 0, '');
CREATE TABLE run (
    id INTEGER PRIMARY KEY,
    run_id TEXT NOT NULL UNIQUE,
    list_digest TEXT NOT NULL,
    url TEXT NOT NULL,
    started_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
    finished_at TEXT
);
CREATE TABLE result (
    run INTEGER NOT NULL REFERENCES run (id),
    wnid TEXT NOT NULL,
    outcome TEXT NOT NULL CHECK (outcome IN ('success', 'skipped', 'failed')),
    kind TEXT,
    message TEXT,
    files INTEGER,
    bytes INTEGER,
    settled_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (run, wnid)
) WITHOUT ROWID;
PRAGMA user_version = 1;
COMMIT;";

/// An open ledger that nobody else writes.
#[derive(Debug)]
pub struct Ledger {
    // Closed first: closing any descriptor of the file ends SQLite's own locks.
    connection: Connection,
    _lock: File,
}

/// A run: one list from one origin, over as many processes as it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    row: i64,
    /// Written into each manifest of the run.
    pub run_id: String,
    /// An earlier process has begun it.
    pub resumed: bool,
}

/// A class that is settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The class.
    pub wnid: Wnid,
    /// How it ended.
    pub outcome: Outcome,
}

/// Why the ledger is of no use.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Another coordinator has it.
    #[error("open the ledger {}: it is in use by {owner}; wait for it, or give another file with --ledger", path.display())]
    Busy {
        /// The ledger.
        path: PathBuf,
        /// Who said to have it.
        owner: String,
    },
    /// The file itself.
    #[error("open the ledger {}: {source}; give another file with --ledger", path.display())]
    File {
        /// The ledger.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Written by a later version.
    #[error(
        "open the ledger {}: its format is {found}, and this version knows {VERSION}; use a newer coordinator, or give another file with --ledger",
        path.display()
    )]
    TooNew {
        /// The ledger.
        path: PathBuf,
        /// Its format.
        found: i64,
    },
    /// What is in it.
    #[error("read the ledger {}: {source}{}", path.display(), advice(source))]
    Read {
        /// The ledger.
        path: PathBuf,
        /// What `SQLite` said.
        source: rusqlite::Error,
    },
    /// A result that could not be kept; it was not confirmed to anybody.
    #[error("write the ledger: {source}{}", advice(source))]
    Write {
        /// What `SQLite` said.
        #[from]
        source: rusqlite::Error,
    },
}

fn advice(error: &rusqlite::Error) -> &'static str {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull | ErrorCode::SystemIoFailure) => {
            " (free some space and run the same command again: it goes on where it stopped)"
        }
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            " (it is damaged: move it away, and the next run finds again what is in the target)"
        }
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen) => " (give a file in a writable folder with --ledger)",
        _ => "",
    }
}

impl Ledger {
    /// Opens the ledger, makes it if it is missing, and takes it for this process.
    ///
    /// # Errors
    /// [`LedgerError`], one sentence that says what to do.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        let file = |source| LedgerError::File { path: path.to_owned(), source };
        let read = |source| LedgerError::Read { path: path.to_owned(), source };
        let lock = File::options().create(true).append(true).open(path).map_err(file)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let owner = owner(path).unwrap_or_else(|| "another coordinator".to_owned());
                return Err(LedgerError::Busy { path: path.to_owned(), owner });
            }
            // The target's lock or nothing: some file systems know no locks, and say so there.
            Err(TryLockError::Error(error)) => tracing::warn!("the ledger cannot be locked ({error})"),
        }
        let connection = Connection::open(path).map_err(read)?;
        connection
            .execute_batch("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA busy_timeout=5000;")
            .map_err(read)?;
        let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(read)?;
        match found {
            0 => connection.execute_batch(SCHEMA).map_err(read)?,
            VERSION => {}
            _ => return Err(LedgerError::TooNew { path: path.to_owned(), found }),
        }
        Ok(Self { connection, _lock: lock })
    }

    /// The epoch of this start: higher than any before, and durable before it is used.
    ///
    /// # Errors
    /// [`LedgerError::Write`].
    pub fn next_epoch(&self) -> Result<u32, LedgerError> {
        let owner = format!("process {} on {}", std::process::id(), worker::config::host_name());
        let update = "UPDATE coordinator SET epoch = epoch + 1, owner = ?1 RETURNING epoch";
        Ok(self.connection.query_row(update, [owner], |row| row.get(0))?)
    }

    /// The run to work on: the last one, if it is not finished and has the same list and origin, else a new one. Results of
    /// runs before the last are removed.
    ///
    /// # Errors
    /// [`LedgerError::Write`].
    pub fn run(&mut self, list_digest: &str, url: &str) -> Result<Run, LedgerError> {
        Ok(self.run_or_begin(list_digest, url)?)
    }

    fn run_or_begin(&mut self, list_digest: &str, url: &str) -> rusqlite::Result<Run> {
        let transaction = self.connection.transaction()?;
        let last = "SELECT id, run_id FROM run WHERE id = (SELECT max(id) FROM run)
                    AND finished_at IS NULL AND list_digest = ?1 AND url = ?2";
        let unfinished = transaction
            .query_row(last, [list_digest, url], |row| Ok(Run { row: row.get(0)?, run_id: row.get(1)?, resumed: true }))
            .optional()?;
        if let Some(run) = unfinished {
            return Ok(run);
        }
        let run_id = format!("{:032x}", rand::random::<u128>());
        let begin = "INSERT INTO run (run_id, list_digest, url) VALUES (?1, ?2, ?3)";
        transaction.execute(begin, [&run_id, list_digest, url])?;
        let row = transaction.last_insert_rowid();
        transaction.execute("DELETE FROM result WHERE run < (SELECT max(id) FROM run WHERE id < ?1)", [row])?;
        transaction.commit()?;
        Ok(Run { row, run_id, resumed: false })
    }

    /// Calls `each` with every settled class of a run, in the order in which they were settled.
    ///
    /// # Errors
    /// [`LedgerError::Write`], for a row that cannot be read as well.
    pub fn settled(&self, run: &Run, mut each: impl FnMut(Record)) -> Result<(), LedgerError> {
        let select = "SELECT wnid, outcome, kind, message, files, bytes FROM result WHERE run = ?1 ORDER BY settled_at";
        let mut statement = self.connection.prepare(select)?;
        let mut rows = statement.query([run.row])?;
        while let Some(row) = rows.next()? {
            if let Some(record) = record(row)? {
                each(record);
            } else {
                tracing::warn!("passed over a row of the ledger that this version does not understand");
            }
        }
        Ok(())
    }

    fn write(&mut self, run: &Run, entries: &[Entry]) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        {
            let insert = "INSERT OR REPLACE INTO result (run, wnid, outcome, kind, message, files, bytes)
                          VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
            let mut insert = transaction.prepare_cached(insert)?;
            for Record { wnid, outcome } in entries.iter().flat_map(|entry| &entry.records) {
                let (outcome, published, failure) = match outcome {
                    Outcome::Success(published) => ("success", Some(published), None),
                    Outcome::Skipped(published) => ("skipped", Some(published), None),
                    Outcome::Failed(failure) => ("failed", None, Some(failure)),
                };
                insert.execute(params![
                    run.row,
                    wnid.to_string(),
                    outcome,
                    failure.map(|failure| failure.kind.to_string()),
                    failure.map(|failure| &failure.message),
                    published.map(|published| published.files.cast_signed()),
                    published.map(|published| published.bytes.cast_signed()),
                ])?;
            }
        }
        if entries.iter().any(|entry| entry.finished) {
            transaction.execute("UPDATE run SET finished_at = CURRENT_TIMESTAMP WHERE id = ?1", [run.row])?;
        }
        transaction.commit()
    }
}

/// What tells one list of classes from another.
pub fn list_digest(part_ids: impl Iterator<Item = String>) -> String {
    let mut hasher = blake3::Hasher::new();
    for id in part_ids {
        hasher.update(id.as_bytes()).update(b"\n");
    }
    hasher.finalize().to_hex().to_string()
}

/// Who has said to have the ledger.
fn owner(path: &Path) -> Option<String> {
    let connection = Connection::open_with_flags(path, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).ok()?;
    let owner: String = connection.query_row("SELECT owner FROM coordinator", [], |row| row.get(0)).ok()?;
    Some(owner).filter(|owner| !owner.is_empty())
}

/// A row as a record; `None` for what a later version wrote.
fn record(row: &rusqlite::Row<'_>) -> rusqlite::Result<Option<Record>> {
    let (wnid, outcome): (String, String) = (row.get(0)?, row.get(1)?);
    let Ok(wnid) = wnid.parse() else { return Ok(None) };
    let count = |column| row.get::<_, Option<i64>>(column).map(|count| count.unwrap_or_default().cast_unsigned());
    let published = Published { files: count(4)?, bytes: count(5)? };
    let outcome = match outcome.as_str() {
        "success" => Outcome::Success(published),
        "skipped" => Outcome::Skipped(published),
        _ => {
            let Ok(kind) = row.get::<_, String>(2)?.parse::<FailureKind>() else { return Ok(None) };
            Outcome::Failed(Failure::new(kind, row.get::<_, String>(3)?))
        }
    };
    Ok(Some(Record { wnid, outcome }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(number: u32, outcome: Outcome) -> Record {
        Record { wnid: format!("n{number:08}").parse().unwrap(), outcome }
    }

    fn settled(ledger: &Ledger, run: &Run) -> Vec<Record> {
        let mut records = Vec::new();
        ledger.settled(run, |record| records.push(record)).unwrap();
        records
    }

    fn entry(records: Vec<Record>, finished: bool) -> Entry {
        Entry { records, finished, durable: None }
    }

    fn results() -> [Record; 3] {
        [
            record(1, Outcome::Success(Published { files: 3, bytes: 10_240 })),
            record(2, Outcome::Skipped(Published { files: 1, bytes: u64::MAX })),
            record(3, Outcome::Failed(Failure::new(FailureKind::Conflict, "it's \"there\""))),
        ]
    }

    #[test]
    fn an_unfinished_run_goes_on_with_its_results() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let mut ledger = Ledger::open(&path).unwrap();
        assert_eq!(ledger.next_epoch().unwrap(), 1);
        let begun = ledger.run("list", "url").unwrap();
        assert!(!begun.resumed);
        ledger.write(&begun, &[entry(results().into(), false)]).unwrap();
        drop(ledger);
        let mut ledger = Ledger::open(&path).unwrap();
        assert_eq!(ledger.next_epoch().unwrap(), 2);
        let resumed = ledger.run("list", "url").unwrap();
        assert_eq!((resumed.resumed, &resumed.run_id), (true, &begun.run_id));
        assert_eq!(settled(&ledger, &resumed), results());
    }

    #[test]
    fn another_list_another_origin_or_a_finished_run_begins_a_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(&folder.path().join("ledger")).unwrap();
        let first = ledger.run("list", "url").unwrap();
        ledger.write(&first, &[entry(results().into(), false)]).unwrap();
        let second = ledger.run("other list", "url").unwrap();
        let third = ledger.run("other list", "other url").unwrap();
        assert!(!second.resumed && !third.resumed);
        ledger.write(&third, &[entry(vec![], true)]).unwrap();
        let fourth = ledger.run("other list", "other url").unwrap();
        assert!(!fourth.resumed && settled(&ledger, &fourth).is_empty());
        assert!(settled(&ledger, &first).is_empty(), "results of runs before the last are removed");
    }

    #[test]
    fn late_good_news_replaces_a_failure() {
        let folder = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(&folder.path().join("ledger")).unwrap();
        let run = ledger.run("list", "url").unwrap();
        let good = record(3, Outcome::Success(Published::default()));
        ledger.write(&run, &[entry(results().into(), false), entry(vec![good.clone()], false)]).unwrap();
        assert_eq!(settled(&ledger, &run).len(), 3);
        assert!(settled(&ledger, &run).contains(&good));
    }

    #[test]
    fn a_second_coordinator_is_refused_and_told_who_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let ledger = Ledger::open(&path).unwrap();
        ledger.next_epoch().unwrap();
        let refused = Ledger::open(&path).unwrap_err().to_string();
        assert!(refused.contains(&format!("in use by process {}", std::process::id())), "{refused}");
        drop(ledger);
        assert!(Ledger::open(&path).is_ok());
    }

    #[test]
    fn a_newer_format_and_a_file_that_is_no_ledger_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        Ledger::open(&path).unwrap().connection.execute_batch("PRAGMA user_version = 2").unwrap();
        assert!(matches!(Ledger::open(&path), Err(LedgerError::TooNew { found: 2, .. })));
        std::fs::write(&path, [b'x'; 4096]).unwrap();
        let refused = Ledger::open(&path).unwrap_err().to_string();
        assert!(refused.contains("move it away"), "{refused}");
    }
}
