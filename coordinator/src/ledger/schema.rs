//! The ledger's tables, and the migration of older files.

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

/// The steps to each version from the one before.
const STEPS: [&str; 5] = [TO_1, TO_2, TO_3, TO_4, TO_5];

const TO_1: &str = "
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
";

/// Version 2 stores the worker that settled a class, and the workers of the run.
const TO_2: &str = "
ALTER TABLE result ADD COLUMN worker TEXT;
CREATE TABLE session (worker TEXT PRIMARY KEY, opened_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP) WITHOUT ROWID;
";

/// Version 3 stores the TTL of the workers' leases. For older files the flag's default is assumed.
const TO_3: &str = "ALTER TABLE session ADD COLUMN ttl_ms INTEGER NOT NULL DEFAULT 30000;";

/// Version 4 stores the credential that owns each worker's name in this run.
const TO_4: &str =
    "CREATE TABLE name (worker TEXT PRIMARY KEY, credential INTEGER NOT NULL) WITHOUT ROWID;";

/// Version 5 stores the worker processes that are being drained, and the positions of the list that
/// may have been granted: those before `granted`, and those in `beyond`, separated by commas. For a
/// run of an earlier version `granted` is unknown (NULL): any class may have been granted.
const TO_5: &str = "
ALTER TABLE run ADD COLUMN granted INTEGER;
ALTER TABLE run ADD COLUMN beyond TEXT NOT NULL DEFAULT '';
CREATE TABLE drain (worker TEXT PRIMARY KEY, instance BLOB NOT NULL) WITHOUT ROWID;
";

/// Creates the tables of a new file.
pub(super) fn create(connection: &Connection) -> rusqlite::Result<()> {
    upgrade(connection, 0)
}

/// Makes the changes since a version, in one transaction.
fn upgrade(connection: &Connection, found: usize) -> rusqlite::Result<()> {
    let steps = STEPS[found..].concat();
    connection.execute_batch(&format!(
        "BEGIN; {steps} PRAGMA user_version = {VERSION}; COMMIT;"
    ))
}

/// Migrates a file of an earlier version. A backup of it stays beside it.
pub(super) fn migrate(connection: &Connection, path: &Path, found: i64) -> rusqlite::Result<()> {
    let backup = backup_of(path, found);
    // An existing backup is from a start that was interrupted before it changed anything.
    if !backup.exists() {
        // The copy is written under another name first, so that a partial copy is never taken for a
        // backup.
        let half = backup.with_extension("half");
        let cannot = |error: io::Error| rusqlite::Error::ToSqlConversionFailure(error.into());
        match fs::remove_file(&half) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(cannot(error)),
            _ => {}
        }
        // The file is created here, because `SQLite` would create it with the umask's permissions.
        // `VACUUM INTO` accepts an empty file.
        File::options()
            .write(true)
            .create_new(true)
            .mode(MODE)
            .open(&half)
            .map_err(cannot)?;
        connection.execute("VACUUM INTO ?1", [half.to_string_lossy()])?;
        File::open(&half)
            .and_then(|copy| copy.sync_all())
            .map_err(cannot)?;
        fs::rename(&half, &backup).map_err(cannot)?;
    }
    upgrade(connection, usize::try_from(found).unwrap_or(0))
}

/// The path of the backup of an earlier version's file.
pub(super) fn backup_of(path: &Path, version: i64) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".format-{version}"));
    path.with_file_name(name)
}
