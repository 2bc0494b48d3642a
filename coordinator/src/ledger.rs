//! The ledger: which classes are settled, and how, in a file that survives restarts and crashes. It
//! is an `SQLite` database, so other tools can read it.
//!
//! Invariant: everything that the [`Writer`] has confirmed is on the disk. One thread writes:
//! queued entries go into one transaction and are confirmed after the commit (`synchronous=FULL`).
//! Pending classes have no row: the CSV holds the list, and a class without a row is pending.

use std::{
    fs::TryLockError,
    path::{Path, PathBuf},
    time::Duration,
};

use connection::{Format, check_beside, connect, owner, resolved, restrict_beside};
use error::Problem;
use file_lock::FileLock;
use rusqlite::{Connection, OptionalExtension as _, Params, Row, Transaction, params};
use schema::VERSION;

mod connection;
mod continuation;
mod error;
mod failure_groups;
mod failures;
mod file_lock;
mod last_run;
mod past;
mod record;
mod schema;
mod settled_classes;
mod writer;

pub use error::LedgerError;
pub use failure_groups::FailureGroup;
pub use failures::Cause;
pub use last_run::LastRun;
pub use past::{Past, PastSpan, SPAN};
pub use record::Record;
pub use settled_classes::{Outcomes, SettledClass};
pub use writer::{Commits, Entry, Reading, Writer};

/// An open ledger, locked for this process.
#[derive(Debug)]
pub struct Ledger {
    // Dropped first: closing any descriptor of the file releases SQLite's own locks.
    connection: Connection,
    path: PathBuf,
    _lock: FileLock,
}

/// A run: one list from one origin, processed by one or more coordinator processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    row: i64,
    /// Written into each manifest of the run.
    pub run_id: String,
    /// Whether an earlier process has begun the run.
    pub resumed: bool,
}

impl Ledger {
    /// Opens the ledger, creates it if it is missing, and locks it for this process.
    ///
    /// # Errors
    /// [`LedgerError`], one sentence with the remedy.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        let lock = locked(path).map_err(|problem| LedgerError::new(path, problem))?;
        Self::open_locked(path, lock)
    }

    fn open_locked(path: &Path, lock: FileLock) -> Result<Self, LedgerError> {
        let connection =
            prepared(path, &lock).map_err(|problem| LedgerError::new(path, problem))?;
        Ok(Self {
            connection,
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// The epoch of this start: higher than every earlier one, and durable before it is used.
    ///
    /// # Errors
    /// [`LedgerError`] of a write.
    pub fn next_epoch(&self) -> Result<u32, LedgerError> {
        let owner = format!(
            "process {} on {}",
            std::process::id(),
            shared::worker_name::host_name()
        );
        let update = "UPDATE coordinator SET epoch = epoch + 1, owner = ?1 RETURNING epoch";
        let epoch = self.connection.query_row(update, [owner], |row| row.get(0));
        let epoch = epoch.map_err(|source| self.not_written(source))?;
        // Moves the name out of the write-ahead log, which `owner` does not read.
        let checkpoint =
            self.connection
                .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
        if let Err(error) = checkpoint {
            tracing::debug!(%error, "the ledger's name of its process stays in the write-ahead log");
        }
        Ok(epoch)
    }

    /// The run to work on: the last one, if it has the same list and origin and is not finished
    /// (with `or_finished` also a finished one), otherwise a new one. Results of runs before the
    /// last one are removed.
    ///
    /// # Errors
    /// [`LedgerError`] of a write.
    pub fn run(
        &mut self,
        list_digest: &str,
        url: &str,
        or_finished: bool,
    ) -> Result<Run, LedgerError> {
        self.run_or_begin(list_digest, url, or_finished)
            .map_err(|source| self.not_written(source))
    }

    fn run_or_begin(
        &mut self,
        list_digest: &str,
        url: &str,
        or_finished: bool,
    ) -> rusqlite::Result<Run> {
        let transaction = self.connection.transaction()?;
        let last = "SELECT id, run_id FROM run WHERE id = (SELECT max(id) FROM run)
                    AND (finished_at IS NULL OR ?3) AND list_digest = ?1 AND url = ?2";
        let found = |row: &Row<'_>| {
            Ok(Run {
                row: row.get(0)?,
                run_id: row.get(1)?,
                resumed: true,
            })
        };
        if let Some(run) = transaction
            .query_row(last, params![list_digest, url, or_finished], found)
            .optional()?
        {
            return Ok(run);
        }
        let run_id = format!("{:032x}", rand::random::<u128>());
        let begin = "INSERT INTO run (run_id, list_digest, url, granted) VALUES (?1, ?2, ?3, 0)";
        transaction.execute(begin, [&run_id, list_digest, url])?;
        let row = transaction.last_insert_rowid();
        // The last run that settled a class is kept: a run with a wrong URL settles none.
        transaction.execute(
            "DELETE FROM result WHERE run < (SELECT max(run) FROM result WHERE run < ?1)",
            [row],
        )?;
        // Sessions and names of an earlier run do not apply to a new one.
        transaction.execute_batch("DELETE FROM session; DELETE FROM name;")?;
        transaction.commit()?;
        Ok(Run {
            row,
            run_id,
            resumed: false,
        })
    }

    /// Calls `each` with every row of a query.
    fn each_row(
        &self,
        select: &str,
        about: impl Params,
        mut each: impl FnMut(&Row<'_>) -> rusqlite::Result<()>,
    ) -> Result<(), LedgerError> {
        let read = || {
            let mut statement = self.connection.prepare(select)?;
            let mut rows = statement.query(about)?;
            while let Some(row) = rows.next()? {
                each(row)?;
            }
            Ok(())
        };
        read().map_err(|source| LedgerError::new(&self.path, Problem::Read { source }))
    }

    /// The rows of a query.
    fn rows<T>(
        &self,
        select: &str,
        about: impl Params,
        mut row: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, LedgerError> {
        let mut rows = Vec::new();
        self.each_row(select, about, |found| {
            rows.push(row(found)?);
            Ok(())
        })?;
        Ok(rows)
    }

    fn not_written(&self, source: rusqlite::Error) -> LedgerError {
        LedgerError::new(&self.path, Problem::Write { source })
    }

    fn write(&mut self, run: &Run, lease_ttl: Duration, entries: &[Entry]) -> rusqlite::Result<()> {
        let ttl = i64::try_from(lease_ttl.as_millis()).unwrap_or(i64::MAX);
        let transaction = self.connection.transaction()?;
        // In the order of the entries: a class can be settled, removed and settled again in one
        // commit.
        for entry in entries {
            for record in &entry.records {
                record.insert(&transaction, run.row)?;
            }
            for wnid in &entry.forgotten {
                let forget = "DELETE FROM result WHERE run = ?1 AND wnid = ?2";
                execute(&transaction, forget, params![run.row, wnid.to_string()])?;
            }
            for worker in &entry.opened {
                // Also replaces the session of an earlier coordinator: the new time to live applies
                // to this worker now.
                let open = "INSERT OR REPLACE INTO session (worker, ttl_ms) VALUES (?1, ?2)";
                execute(&transaction, open, params![worker, ttl])?;
            }
            for renamed in &entry.renamed {
                continuation::write_name(&transaction, renamed)?;
            }
            for drain in &entry.drains {
                continuation::write_drain(&transaction, drain)?;
            }
            for worker in &entry.closed {
                execute(
                    &transaction,
                    "DELETE FROM session WHERE worker = ?1",
                    [worker],
                )?;
            }
        }
        if let Some(mark) = entries
            .iter()
            .filter_map(|entry| entry.granted.as_ref())
            .max()
        {
            continuation::write_mark(&transaction, run.row, mark)?;
        }
        if entries.iter().any(|entry| entry.finished) {
            transaction.execute(
                "UPDATE run SET finished_at = CURRENT_TIMESTAMP WHERE id = ?1 AND finished_at IS NULL",
                [run.row],
            )?;
        }
        transaction.commit()
    }
}

/// Locks the file, and creates it if it is missing.
fn locked(path: &Path) -> Result<FileLock, Problem> {
    match std::fs::symlink_metadata(path).map(|metadata| metadata.file_type()) {
        Ok(kind) if kind.is_dir() => return Err(Problem::Directory),
        Ok(kind) if !kind.is_file() && !kind.is_symlink() => return Err(Problem::NotAFile),
        _ => {}
    }
    FileLock::take(path).map_err(|error| match error {
        TryLockError::WouldBlock => Problem::Busy {
            owner: owner(path).unwrap_or_else(|| "another coordinator".to_owned()),
        },
        TryLockError::Error(source) => source.into(),
    })
}

/// Connects to the file, and brings its tables up to date.
fn prepared(path: &Path, lock: &FileLock) -> Result<Connection, Problem> {
    let read = |source| Problem::Read { source };
    // An absolute path is a file for `SQLite` too, whatever its name: the names `:memory:` and
    // `file:x?mode=memory` would store nothing.
    let absolute = resolved(path)?;
    check_beside(&absolute)?;
    // The format is checked before anything changes: the tables of this program and their
    // version are created in one transaction.
    if let Some(format) = Format::without_change(&absolute) {
        format.check()?;
    }
    lock.restrict(&absolute)?;
    restrict_beside(&absolute)?;
    let connection = connect(&absolute, lock.sharing).map_err(read)?;
    let format = Format::of(&connection).map_err(read)?;
    format.check()?;
    connection
        .execute_batch("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;")
        .map_err(read)?;
    match format.version {
        0 => schema::create(&connection),
        VERSION => Ok(()),
        found => schema::migrate(&connection, &absolute, found),
    }
    .map_err(|source| Problem::Write { source })?;
    Ok(connection)
}

/// Executes a statement that is prepared once for each connection.
fn execute(
    transaction: &Transaction<'_>,
    statement: &str,
    about: impl Params,
) -> rusqlite::Result<()> {
    transaction.prepare_cached(statement)?.execute(about)?;
    Ok(())
}

/// The digest that identifies a list of classes.
pub fn list_digest(part_ids: impl Iterator<Item = String>) -> String {
    let mut hasher = blake3::Hasher::new();
    for id in part_ids {
        hasher.update(id.as_bytes()).update(b"\n");
    }
    hasher.finalize().to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use file_lock::Sharing;
    use shared::{
        ids::CredentialId,
        outcome::{Failure, FailureKind, Outcome, Published},
    };
    use tokio::task::JoinSet;

    use super::*;
    use crate::{failure_log::FailureLog, lease_table::Renamed};

    const TTL: Duration = Duration::from_secs(30);

    impl Sharing {
        pub(super) const ALL: [Self; 3] = [Self::Readers, Self::Alone, Self::Unlocked];
    }

    impl Ledger {
        /// Opens a ledger as on a file system with this kind of locking.
        pub(super) fn open_as(path: &Path, sharing: Sharing) -> Result<Self, LedgerError> {
            let mut lock = FileLock::take(path).unwrap();
            lock.sharing = sharing;
            Self::open_locked(path, lock)
        }
    }

    fn record(number: u32, outcome: Outcome) -> Record {
        let worker = number.is_multiple_of(2).then(|| "host".to_owned());
        Record {
            wnid: format!("n{number:08}").parse().unwrap(),
            outcome,
            worker,
        }
    }

    fn settled(ledger: &Ledger, run: &Run) -> Vec<Record> {
        let mut records = Vec::new();
        ledger.settled(run, |record| records.push(record)).unwrap();
        records
    }

    fn entry(records: Vec<Record>, finished: bool) -> Entry {
        Entry {
            records,
            finished,
            ..Entry::default()
        }
    }

    fn results() -> [Record; 3] {
        [
            record(
                1,
                Outcome::Success(Published {
                    files: 3,
                    bytes: 10_240,
                }),
            ),
            record(
                2,
                Outcome::Skipped(Published {
                    files: 1,
                    bytes: u64::MAX,
                }),
            ),
            record(
                3,
                Outcome::Failed(Failure::new(FailureKind::Conflict, "it's \"there\"")),
            ),
        ]
    }

    #[test]
    fn a_database_of_another_program_is_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("photos.db");
        Connection::open(&path)
            .unwrap()
            .execute_batch("CREATE TABLE photo (name TEXT);")
            .unwrap();
        let before = std::fs::read(&path).unwrap();
        let said = Ledger::open(&path).unwrap_err().to_string();
        assert!(
            said.ends_with(
                "it is a database of something else and no ledger; give another file with --ledger"
            ),
            "{said}"
        );
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    #[test]
    fn an_unfinished_run_is_resumed_with_its_results() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let mut ledger = Ledger::open(&path).unwrap();
        assert_eq!(ledger.next_epoch().unwrap(), 1);
        let begun = ledger.run("list", "url", false).unwrap();
        assert!(!begun.resumed);
        ledger
            .write(&begun, TTL, &[entry(results().into(), false)])
            .unwrap();
        drop(ledger);
        let mut ledger = Ledger::open(&path).unwrap();
        assert_eq!(ledger.next_epoch().unwrap(), 2);
        let resumed = ledger.run("list", "url", false).unwrap();
        assert_eq!((resumed.resumed, &resumed.run_id), (true, &begun.run_id));
        assert_eq!(settled(&ledger, &resumed), results());
    }

    #[test]
    fn another_list_another_origin_or_a_finished_run_begins_a_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(&folder.path().join("ledger")).unwrap();
        let first = ledger.run("list", "url", false).unwrap();
        ledger
            .write(&first, TTL, &[entry(results().into(), false)])
            .unwrap();
        let second = ledger.run("other list", "url", false).unwrap();
        let third = ledger.run("other list", "other url", false).unwrap();
        assert!(!second.resumed && !third.resumed);
        assert_eq!(
            settled(&ledger, &first),
            results(),
            "the second one has settled nothing"
        );
        ledger
            .write(&third, TTL, &[entry(results().into(), true)])
            .unwrap();
        let shown = ledger.run("other list", "other url", true).unwrap();
        assert_eq!(
            (shown.resumed, &shown.run_id),
            (true, &third.run_id),
            "unless it was asked for"
        );
        let fourth = ledger.run("other list", "other url", false).unwrap();
        assert!(!fourth.resumed && settled(&ledger, &fourth).is_empty());
        assert!(
            settled(&ledger, &first).is_empty(),
            "results of runs before the last that settled anything are removed"
        );
    }

    #[test]
    fn a_later_success_replaces_a_failure() {
        let folder = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(&folder.path().join("ledger")).unwrap();
        let run = ledger.run("list", "url", false).unwrap();
        let good = record(3, Outcome::Success(Published::default()));
        ledger
            .write(
                &run,
                TTL,
                &[
                    entry(results().into(), false),
                    entry(vec![good.clone()], false),
                ],
            )
            .unwrap();
        assert_eq!(settled(&ledger, &run).len(), 3);
        assert!(settled(&ledger, &run).contains(&good));
    }

    #[test]
    fn a_retried_class_is_not_settled_and_workers_are_known_until_they_leave() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let mut ledger = Ledger::open(&path).unwrap();
        let run = ledger.run("list", "url", false).unwrap();
        let opened = ["one", "other", "one"].map(str::to_owned).into();
        let forgotten = vec![results()[2].wnid];
        let entries = [
            Entry {
                opened,
                ..entry(results().into(), false)
            },
            Entry {
                forgotten,
                closed: vec!["other".to_owned()],
                ..Entry::default()
            },
        ];
        ledger.write(&run, TTL, &entries).unwrap();
        assert_eq!(settled(&ledger, &run), results()[..2]);
        assert_eq!(ledger.workers().unwrap(), [("one".to_owned(), TTL)]);
        drop(ledger);
        let mut ledger = Ledger::open(&path).unwrap();
        assert!(ledger.run("list", "url", false).unwrap().resumed);
        assert_eq!(ledger.workers().unwrap(), [("one".to_owned(), TTL)]);
        ledger.run("another list", "url", false).unwrap();
        assert!(
            ledger.workers().unwrap().is_empty(),
            "a new run has no workers"
        );
    }

    #[test]
    fn a_name_belongs_to_its_credential_until_the_run_ends() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let mut ledger = Ledger::open(&path).unwrap();
        let run = ledger.run("list", "url", false).unwrap();
        let bound = |name: &str, id| Renamed {
            bound: Some((name.to_owned(), CredentialId(id))),
            freed: None,
        };
        let freed = Renamed {
            bound: None,
            freed: Some("left".to_owned()),
        };
        let renamed = vec![
            bound("one", 1),
            bound("other", u64::MAX),
            bound("left", 1),
            bound("one", 2),
            freed,
        ];
        ledger
            .write(
                &run,
                TTL,
                &[Entry {
                    renamed,
                    ..Entry::default()
                }],
            )
            .unwrap();
        drop(ledger);
        let mut ledger = Ledger::open(&path).unwrap();
        ledger.run("list", "url", false).unwrap();
        let expected = [
            ("one".to_owned(), CredentialId(2)),
            ("other".to_owned(), CredentialId(u64::MAX)),
        ];
        assert_eq!(ledger.names().unwrap(), expected);
        ledger.run("another list", "url", false).unwrap();
        assert_eq!(ledger.names().unwrap(), []);
    }

    /// The tables of version 1 of the format.
    const VERSION_1: &str = "
        CREATE TABLE coordinator (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), epoch INTEGER NOT NULL,
                                  owner TEXT NOT NULL);
        INSERT INTO coordinator VALUES (1, 7, '');
        CREATE TABLE run (id INTEGER PRIMARY KEY, run_id TEXT NOT NULL UNIQUE, list_digest TEXT NOT NULL,
                          url TEXT NOT NULL, started_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP, finished_at TEXT);
        INSERT INTO run (run_id, list_digest, url) VALUES ('old', 'list', 'url');
        CREATE TABLE result (run INTEGER NOT NULL REFERENCES run (id), wnid TEXT NOT NULL,
                             outcome TEXT NOT NULL CHECK (outcome IN ('success', 'skipped', 'failed')),
                             kind TEXT, message TEXT, files INTEGER, bytes INTEGER,
                             settled_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP, PRIMARY KEY (run, wnid)) WITHOUT ROWID;
        INSERT INTO result (run, wnid, outcome, files, bytes) VALUES (1, 'n00000001', 'success', 3, 10240);
        PRAGMA user_version = 1;";

    #[test]
    fn a_ledger_of_version_1_is_converted_and_a_backup_stays_beside_it() {
        for sharing in Sharing::ALL {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("ledger");
            Connection::open(&path)
                .unwrap()
                .execute_batch(VERSION_1)
                .unwrap();
            let mut ledger = Ledger::open_as(&path, sharing).unwrap();
            assert_eq!(ledger.next_epoch().unwrap(), 8);
            let run = ledger.run("list", "url", false).unwrap();
            assert_eq!((run.resumed, run.run_id.as_str()), (true, "old"));
            assert_eq!(settled(&ledger, &run), results()[..1]);
            ledger
                .write(&run, TTL, &[entry(results()[1..].into(), false)])
                .unwrap();
            drop(ledger);
            let before = Connection::open(schema::backup_of(&path, 1)).unwrap();
            let version: i64 = before
                .query_row("PRAGMA user_version", [], |row| row.get(0))
                .unwrap();
            let kept: i64 = before
                .query_row("SELECT count(*) FROM result", [], |row| row.get(0))
                .unwrap();
            assert_eq!((version, kept), (1, 1));
            assert_eq!(
                settled(&Ledger::open(&path).unwrap(), &run).len(),
                3,
                "the next start finds it up to date"
            );
        }
    }

    #[test]
    fn a_ledger_of_version_2_is_converted_and_its_workers_get_the_default_time_to_live() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let before = Connection::open(&path).unwrap();
        before.execute_batch(VERSION_1).unwrap();
        before
            .execute_batch(
                "ALTER TABLE result ADD COLUMN worker TEXT;
                 CREATE TABLE session (worker TEXT PRIMARY KEY, opened_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP)
                     WITHOUT ROWID;
                 INSERT INTO session (worker) VALUES ('one');
                 PRAGMA user_version = 2;",
            )
            .unwrap();
        drop(before);
        let mut ledger = Ledger::open(&path).unwrap();
        let run = ledger.run("list", "url", false).unwrap();
        assert_eq!(settled(&ledger, &run), results()[..1]);
        assert_eq!(
            ledger.workers().unwrap(),
            [("one".to_owned(), Duration::from_secs(30))]
        );
        let opened = vec!["one".to_owned()];
        let lease_ttl = Duration::from_mins(5);
        ledger
            .write(
                &run,
                lease_ttl,
                &[Entry {
                    opened,
                    ..Entry::default()
                }],
            )
            .unwrap();
        assert_eq!(
            ledger.workers().unwrap(),
            [("one".to_owned(), lease_ttl)],
            "it has registered again"
        );
        assert!(schema::backup_of(&path, 2).exists());
    }

    /// On a read-only root file system there is no other writable place.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_ledger_of_many_results_is_read_without_a_file_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(&folder.path().join("ledger")).unwrap();
        let run = ledger.run("list", "url", false).unwrap();
        let many = (0..100_000)
            .map(|number| record(number, Outcome::Success(Published::default())))
            .collect();
        ledger.write(&run, TTL, &[entry(many, false)]).unwrap();
        let temporary_files = || {
            let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
            let paths = open.filter_map(|entry| std::fs::read_link(entry.path()).ok());
            // Files without a name, or with one of SQLite's temporary names.
            paths
                .filter(|path| {
                    ["/#", "/etilqs"]
                        .iter()
                        .any(|name| path.to_string_lossy().contains(name))
                })
                .count()
        };
        let mut rows = 0;
        let mut most = 0;
        let look = |_| {
            if rows % 10_000 == 0 {
                most = most.max(temporary_files());
            }
            rows += 1;
        };
        ledger.settled(&run, look).unwrap();
        assert_eq!((rows, most), (100_000, 0));
    }

    #[test]
    fn a_second_coordinator_is_refused_with_the_name_of_the_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let ledger = Ledger::open(&path).unwrap();
        ledger.next_epoch().unwrap();
        let refused = Ledger::open(&path).unwrap_err().to_string();
        assert!(
            refused.contains(&format!("in use by process {}", std::process::id())),
            "{refused}"
        );
        drop(ledger);
        assert!(Ledger::open(&path).is_ok());
    }

    #[test]
    fn a_newer_format_and_a_file_that_is_no_ledger_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        Ledger::open(&path)
            .unwrap()
            .connection
            .execute_batch("PRAGMA user_version = 6")
            .unwrap();
        assert!(matches!(
            Ledger::open(&path),
            Err(LedgerError {
                problem: Problem::TooNew { found: 6 },
                ..
            })
        ));
        std::fs::write(&path, [b'x'; 4096]).unwrap();
        let refused = Ledger::open(&path).unwrap_err().to_string();
        assert!(refused.contains("move it away"), "{refused}");
        // A database of another program.
        std::fs::remove_file(&path).unwrap();
        Connection::open(&path)
            .unwrap()
            .execute_batch("CREATE TABLE run (x); PRAGMA user_version = 2")
            .unwrap();
        let refused = Ledger::open(&path)
            .and_then(|ledger| ledger.next_epoch())
            .unwrap_err()
            .to_string();
        assert!(refused.contains("no ledger: move it away"), "{refused}");
    }

    #[test]
    fn a_path_that_is_no_regular_file_is_refused_without_waiting() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(
            Ledger::open(folder.path()),
            Err(LedgerError {
                problem: Problem::Directory,
                ..
            })
        ));
        let fifo = folder.path().join("fifo");
        // Created by a system call: a child process would for a moment hold the locks of every
        // other test.
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RUSR).unwrap();
        for path in [&fifo, Path::new("/dev/null")] {
            assert!(
                matches!(
                    Ledger::open(path),
                    Err(LedgerError {
                        problem: Problem::NotAFile,
                        ..
                    })
                ),
                "{}",
                path.display()
            );
        }
        let nowhere = Ledger::open(&folder.path().join("nowhere/ledger"))
            .unwrap_err()
            .to_string();
        assert!(
            nowhere.contains(
                "No such file or directory (os error 2); give another file with --ledger"
            ),
            "{nowhere}"
        );
    }

    #[test]
    fn names_with_a_special_meaning_for_sqlite_are_file_names_here() {
        let folder = tempfile::tempdir().unwrap();
        for name in [":memory:", "file:x?mode=memory"] {
            let path = folder.path().join(name);
            Ledger::open(&path).unwrap().next_epoch().unwrap();
            assert_eq!(
                Ledger::open(&path).unwrap().next_epoch().unwrap(),
                2,
                "{name}"
            );
        }
    }

    #[test]
    fn a_full_disk_is_reported_with_a_remedy_and_nothing_is_confirmed() {
        let folder = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(&folder.path().join("ledger")).unwrap();
        let run = ledger.run("list", "url", false).unwrap();
        ledger
            .connection
            .execute_batch("PRAGMA max_page_count = 1")
            .unwrap();
        let many = (0..10_000)
            .map(|number| record(number, Outcome::Success(Published::default())))
            .collect();
        let durable = || panic!("confirmed what was not kept");
        let mut threads = JoinSet::new();
        let ended = tokio::runtime::Runtime::new().unwrap().block_on(async {
            let log = FailureLog::open(folder.path()).unwrap();
            let writer = ledger.start_writer(run, TTL, log, &mut threads).unwrap();
            writer.write(entry(many, false).confirming(durable)).await;
            threads.join_next().await.unwrap().unwrap()
        });
        let said = ended.unwrap_err().to_string();
        assert!(
            said.contains("/ledger: database or disk is full (free some space and run"),
            "{said}"
        );
    }

    #[test]
    fn damage_at_any_place_results_in_one_error_or_has_no_effect() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let mut ledger = Ledger::open(&path).unwrap();
        let run = ledger.run("list", "url", false).unwrap();
        let records = |from: u32| {
            (from..from + 500).map(|number| record(number, Outcome::Skipped(Published::default())))
        };
        ledger
            .write(&run, TTL, &[entry(records(0).collect(), false)])
            .unwrap();
        drop(ledger);
        let whole = std::fs::read(&path).unwrap();
        assert_eq!(whole.len() % 512, 0);
        let mut refused = 0;
        for start in (0..whole.len()).step_by(512) {
            let mut damaged = whole.clone();
            damaged[start..start + 512].fill(0xa5);
            std::fs::write(&path, &damaged).unwrap();
            let use_it = || {
                let mut ledger = Ledger::open(&path)?;
                ledger.next_epoch()?;
                let run = ledger.run("list", "url", false)?;
                ledger.settled(&run, |_| ())?;
                let written = ledger.write(&run, TTL, &[entry(records(500).collect(), true)]);
                written.map_err(|source| ledger.not_written(source))
            };
            if let Err(error) = use_it() {
                let said = error.to_string();
                assert!(
                    said.contains(&path.display().to_string()) && !said.contains('\n'),
                    "{said}"
                );
                assert!(
                    said.contains("move it away")
                        || matches!(error.problem, Problem::TooNew { .. }),
                    "{start}: {said}"
                );
                refused += 1;
            }
            for left in ["-wal", "-shm"] {
                std::fs::remove_file(format!("{}{left}", path.display())).ok();
            }
        }
        assert!(refused > 4, "{refused}");
    }
}
