//! Opens the ledger with `SQLite`, in a way that depends on the file system.
//!
//! Invariant: the file format is the same on all file systems, a database with a write-ahead log. A
//! ledger can therefore be copied to another file system, and the log of a killed coordinator is
//! recovered on any of them.

use std::{
    fs::File,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OpenFlags, config::DbConfig};
use shared::own_file::{self, Access};

use super::{
    error::Problem,
    file_lock::{MODE, Sharing},
    schema::VERSION,
};

/// Suffixes of the files that `SQLite` keeps beside a database.
const SIDE_FILE_SUFFIXES: [&str; 3] = ["-wal", "-shm", "-journal"];
const NO_FILE_NAME: &str = "a path that ends in ..";

/// Facts that are read from a database before it is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Format {
    /// `PRAGMA user_version`.
    pub(super) version: i64,
    /// Whether it has tables or other objects.
    has_tables: bool,
}

impl Format {
    pub(super) fn of(connection: &Connection) -> rusqlite::Result<Self> {
        let number = |select| connection.query_row(select, [], |row| row.get::<_, i64>(0));
        Ok(Self {
            version: number("PRAGMA user_version")?,
            has_tables: number("SELECT count(*) FROM sqlite_schema")? > 0,
        })
    }

    /// Reads the format without changing the file. The caller holds the ledger's lock. An ordinary
    /// connection would recover the write-ahead log of a killed coordinator and remove it at its
    /// end; this connection reads the log into its own memory. Returns `None` if the format cannot
    /// be read this way, e.g. if a transaction has to be rolled back first.
    pub(super) fn without_change(path: &Path) -> Option<Self> {
        let log = side_file(path, "-wal").metadata();
        let connection = if log.is_ok_and(|log| log.len() > 0) {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NOFOLLOW;
            let connection = Connection::open_with_flags_and_vfs(path, flags, c"unix-none").ok()?;
            connection
                .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
                .ok()?;
            connection
                .execute_batch("PRAGMA locking_mode=EXCLUSIVE;")
                .ok()?;
            connection
        } else {
            open_immutable(path)?
        };
        Self::of(&connection).ok()
    }

    /// Whether this version can use the file, or create its tables in it.
    pub(super) fn check(self) -> Result<(), Problem> {
        match self.version {
            0 if self.has_tables => Err(Problem::Foreign),
            0..=VERSION => Ok(()),
            found => Err(Problem::TooNew { found }),
        }
    }
}

/// The absolute path without symbolic links in its folders: `SQLite` is opened with `NOFOLLOW`.
pub(super) fn resolved(path: &Path) -> io::Result<PathBuf> {
    let absolute = std::path::absolute(path)?;
    let name = absolute
        .file_name()
        .ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, NO_FILE_NAME))?;
    Ok(absolute
        .parent()
        .unwrap_or(Path::new("/"))
        .canonicalize()?
        .join(name))
}

/// Rejects files beside the ledger that this program has not created, before `SQLite` reads them.
pub(super) fn check_beside(path: &Path) -> io::Result<()> {
    for_each_beside(path, own_file::check_alone)
}

/// Removes permissions of other users from the files beside a ledger of an earlier version.
pub(super) fn restrict_beside(path: &Path) -> io::Result<()> {
    let mode = own_file::mode_in_folder_of(path, MODE)?;
    for_each_beside(path, |file| own_file::restrict(file, mode))
}

fn for_each_beside(path: &Path, each: impl Fn(&File) -> io::Result<()>) -> io::Result<()> {
    for suffix in SIDE_FILE_SUFFIXES {
        let file = side_file(path, suffix);
        match own_file::open(&file, Access::Read).and_then(|file| each(&file)) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            done => done.map_err(|error| about(&file, &error))?,
        }
    }
    Ok(())
}

fn about(file: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", file.display()))
}

fn side_file(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// A connection that takes no locks and does not read the write-ahead log.
fn open_immutable(path: &Path) -> Option<Connection> {
    let mut uri = url::Url::from_file_path(path).ok()?;
    uri.set_query(Some("immutable=1"));
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    Connection::open_with_flags(uri.as_str(), flags).ok()
}

/// Opens the file, whose path is [`resolved`]. Does not read it.
pub(super) fn connect(path: &Path, sharing: Sharing) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let connection = match sharing {
        Sharing::Readers | Sharing::Alone => Connection::open_with_flags(path, flags)?,
        Sharing::Unlocked => Connection::open_with_flags_and_vfs(path, flags, c"unix-none")?,
    };
    // Sorting many results uses memory instead of a temporary file: a container may have no
    // writable folder for one.
    connection.execute_batch("PRAGMA busy_timeout=5000; PRAGMA temp_store=MEMORY;")?;
    if sharing != Sharing::Readers {
        // Set before the first access, this keeps the index of the write-ahead log out of shared
        // memory.
        connection.execute_batch("PRAGMA locking_mode=EXCLUSIVE;")?;
    }
    Ok(connection)
}

/// The process that last wrote its name into the ledger. Reads without locks, because a coordinator
/// on a network file system excludes readers; therefore it sees only what is no longer in the
/// write-ahead log.
pub(super) fn owner(path: &Path) -> Option<String> {
    let connection = open_immutable(&std::path::absolute(path).ok()?)?;
    let select = "SELECT owner FROM coordinator WHERE owner <> ''";
    connection.query_row(select, [], |row| row.get(0)).ok()
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use rusqlite::ErrorCode;
    use shared::outcome::{Outcome, Published};

    use super::*;
    use crate::ledger::{Entry, Ledger, Record, Run, schema};

    const TTL: Duration = Duration::from_secs(30);

    fn records(from: u32) -> Vec<Record> {
        let record = |number| Record {
            wnid: format!("n{number:08}").parse().unwrap(),
            outcome: Outcome::Success(Published {
                files: 3,
                bytes: 10_240,
            }),
            worker: None,
        };
        (from..from + 100).map(record).collect()
    }

    fn write(ledger: &mut Ledger, run: &Run, from: u32) {
        ledger
            .write(
                run,
                TTL,
                &[Entry {
                    records: records(from),
                    ..Entry::default()
                }],
            )
            .unwrap();
    }

    fn settled(ledger: &Ledger, run: &Run) -> Vec<Record> {
        let mut records = Vec::new();
        ledger.settled(run, |record| records.push(record)).unwrap();
        records
    }

    /// The files that SIGKILL would leave of an open database, copied to another folder.
    fn killed(path: &Path, folder: &Path) -> PathBuf {
        let left = folder.join("left");
        for suffix in ["", "-wal", "-shm", "-journal"] {
            if side_file(path, suffix).exists() {
                fs::copy(side_file(path, suffix), side_file(&left, suffix)).unwrap();
            }
        }
        left
    }

    #[test]
    fn the_log_of_a_killed_coordinator_is_recovered_on_any_file_system() {
        for earlier in Sharing::ALL {
            for next in Sharing::ALL {
                let folder = tempfile::tempdir().unwrap();
                let path = folder.path().join("ledger");
                let mut ledger = Ledger::open_as(&path, earlier).unwrap();
                let run = ledger.run("list", "url", false).unwrap();
                ledger.next_epoch().unwrap();
                write(&mut ledger, &run, 0);
                let left = killed(&path, folder.path());
                assert!(side_file(&left, "-wal").metadata().unwrap().len() > 0);

                let mut ledger = Ledger::open_as(&left, next).unwrap();
                assert_eq!(ledger.next_epoch().unwrap(), 2, "{earlier:?}, {next:?}");
                assert!(ledger.run("list", "url", false).unwrap().resumed);
                write(&mut ledger, &run, 100);
                drop(ledger);
                assert!(
                    !side_file(&left, "-wal").exists(),
                    "the write-ahead log was not removed: {earlier:?}, {next:?}"
                );
                let ledger = Ledger::open_as(&left, earlier).unwrap();
                assert_eq!(
                    settled(&ledger, &run),
                    [records(0), records(100)].concat(),
                    "{earlier:?}, {next:?}"
                );
            }
        }
    }

    /// The content of all files of a folder.
    fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
        let files = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let mut files: Vec<_> = files
            .map(|path| (path.clone(), fs::read(&path).unwrap()))
            .collect();
        files.sort();
        files
    }

    #[test]
    fn a_newer_or_foreign_ledger_is_refused_without_a_change() {
        for mode in ["DELETE", "WAL"] {
            for (what, tables) in [
                ("newer", "PRAGMA user_version = 6"),
                ("foreign", "PRAGMA user_version = 0"),
            ] {
                let folder = tempfile::tempdir().unwrap();
                let path = folder.path().join("ledger");
                let earlier = Connection::open(&path).unwrap();
                schema::create(&earlier).unwrap();
                earlier
                    .execute_batch(&format!("PRAGMA journal_mode={mode}; {tables};"))
                    .unwrap();
                let place = tempfile::tempdir().unwrap();
                let left = killed(&path, place.path());
                drop(earlier);
                for (state, path) in [("killed", left), ("closed", path)] {
                    let has_log = side_file(&path, "-wal")
                        .metadata()
                        .is_ok_and(|log| log.len() > 0);
                    assert_eq!(
                        has_log,
                        (mode, state) == ("WAL", "killed"),
                        "{mode}, {state}"
                    );
                    let before = contents(path.parent().unwrap());
                    let refused = Ledger::open(&path).unwrap_err();
                    let expected = match what {
                        "newer" => matches!(refused.problem, Problem::TooNew { found: 6 }),
                        _ => matches!(refused.problem, Problem::Foreign),
                    };
                    assert!(expected, "{what}, {mode}, {state}: {refused}");
                    assert!(
                        contents(path.parent().unwrap()) == before,
                        "{what}, {mode}, {state}: changed"
                    );
                }
            }
        }
    }

    #[test]
    fn an_interrupted_transaction_of_a_database_without_a_write_ahead_log_is_rolled_back() {
        for sharing in Sharing::ALL {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("ledger");
            let earlier = Connection::open(&path).unwrap();
            schema::create(&earlier).unwrap();
            let changes = "PRAGMA cache_size=1; BEGIN; UPDATE coordinator SET epoch = 7;
                           CREATE TABLE filler (x); INSERT INTO filler VALUES (zeroblob(1000000));";
            earlier.execute_batch(changes).unwrap();
            let left = killed(&path, folder.path());
            assert!(side_file(&left, "-journal").metadata().unwrap().len() > 0);
            assert_eq!(
                Ledger::open_as(&left, sharing)
                    .unwrap()
                    .next_epoch()
                    .unwrap(),
                1,
                "{sharing:?}"
            );
        }
    }

    #[test]
    fn only_a_local_file_system_allows_readers_and_shared_memory() {
        for sharing in Sharing::ALL {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("led%20?ger#");
            let mut ledger = Ledger::open_as(&path, sharing).unwrap();
            let run = ledger.run("list", "url", false).unwrap();
            ledger.next_epoch().unwrap();
            write(&mut ledger, &run, 0);
            assert_eq!(
                side_file(&path, "-shm").exists(),
                sharing == Sharing::Readers,
                "{sharing:?}"
            );
            let process = format!("process {} on ", std::process::id());
            assert!(
                owner(&path).is_some_and(|owner| owner.starts_with(&process)),
                "{sharing:?}"
            );
            if sharing == Sharing::Unlocked {
                continue;
            }
            let reader =
                Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
            reader.busy_timeout(Duration::ZERO).unwrap();
            let count = reader.query_row("SELECT count(*) FROM result", [], |row| {
                row.get::<_, i64>(0)
            });
            match count {
                Ok(count) => assert_eq!((sharing, count), (Sharing::Readers, 100)),
                Err(error) => {
                    let refused = (Sharing::Alone, Some(ErrorCode::DatabaseBusy));
                    assert_eq!((sharing, error.sqlite_error_code()), refused);
                }
            }
        }
    }
}
