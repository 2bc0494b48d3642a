//! The ledger's tables, and how an older file becomes one of today.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use rusqlite::Connection;

use super::file_lock::MODE;

/// Version of the schema, in `PRAGMA user_version`.
pub(super) const VERSION: i64 = 5;

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
    finished_at TEXT,
    granted INTEGER,
    beyond TEXT NOT NULL DEFAULT ''
);
CREATE TABLE result (
    run INTEGER NOT NULL REFERENCES run (id),
    wnid TEXT NOT NULL,
    outcome TEXT NOT NULL CHECK (outcome IN ('success', 'skipped', 'failed')),
    kind TEXT,
    message TEXT,
    files INTEGER,
    bytes INTEGER,
    worker TEXT,
    settled_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (run, wnid)
) WITHOUT ROWID;
CREATE TABLE session (
    worker TEXT PRIMARY KEY,
    opened_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
    ttl_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE name (worker TEXT PRIMARY KEY, credential INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE drain (worker TEXT PRIMARY KEY, instance BLOB NOT NULL) WITHOUT ROWID;
PRAGMA user_version = 5;
COMMIT;";

/// Version 2 knows who settled a class, and who works for the run.
const FROM_1: &str = "
BEGIN;
ALTER TABLE result ADD COLUMN worker TEXT;
CREATE TABLE session (worker TEXT PRIMARY KEY, opened_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP) WITHOUT ROWID;
PRAGMA user_version = 2;
COMMIT;";

/// Version 3 knows by which time to live the workers live; before, nearly all had the flag's default.
const FROM_2: &str = "
BEGIN;
ALTER TABLE session ADD COLUMN ttl_ms INTEGER NOT NULL DEFAULT 30000;
PRAGMA user_version = 3;
COMMIT;";

/// Version 4 knows whose the workers' names are in this run.
const FROM_3: &str = "
BEGIN;
CREATE TABLE name (worker TEXT PRIMARY KEY, credential INTEGER NOT NULL) WITHOUT ROWID;
PRAGMA user_version = 4;
COMMIT;";

/// Version 5 has the processes that were told to end, and the positions of the list that may have
/// been granted: those before `granted`, and those in `beyond`, separated by commas. For a run of an
/// earlier version `granted` is not known (NULL): any may have been.
const FROM_4: &str = "
BEGIN;
ALTER TABLE run ADD COLUMN granted INTEGER;
ALTER TABLE run ADD COLUMN beyond TEXT NOT NULL DEFAULT '';
CREATE TABLE drain (worker TEXT PRIMARY KEY, instance BLOB NOT NULL) WITHOUT ROWID;
PRAGMA user_version = 5;
COMMIT;";

/// Makes the tables of a new file.
pub(super) fn create(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(SCHEMA)
}

/// Brings a file of an earlier version up to date; what it was stays beside it.
pub(super) fn migrate(connection: &Connection, path: &Path, found: i64) -> rusqlite::Result<()> {
    let backup = backup_of(path, found);
    // One that is there is of a start that was cut off before it changed anything.
    if !backup.exists() {
        // Under another name first: half a copy must not be taken for one.
        let half = backup.with_extension("half");
        let cannot = |error: io::Error| rusqlite::Error::ToSqlConversionFailure(error.into());
        match fs::remove_file(&half) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(cannot(error)),
            _ => {}
        }
        // Made here, because `SQLite` would give it the rights of the umask. It writes to an empty
        // file.
        File::options().write(true).create_new(true).mode(MODE).open(&half).map_err(cannot)?;
        connection.execute("VACUUM INTO ?1", [half.to_string_lossy()])?;
        File::open(&half).and_then(|copy| copy.sync_all()).map_err(cannot)?;
        fs::rename(&half, &backup).map_err(cannot)?;
    }
    for (version, step) in [(1, FROM_1), (2, FROM_2), (3, FROM_3), (4, FROM_4)] {
        if found <= version {
            connection.execute_batch(step)?;
        }
    }
    Ok(())
}

/// Where the file is kept as an earlier version wrote it.
pub(super) fn backup_of(path: &Path, version: i64) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".format-{version}"));
    path.with_file_name(name)
}
