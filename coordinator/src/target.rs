//! The target folder: made, tried out and locked before anything else happens.
//!
//! Invariant: while a [`Target`] lives, no other coordinator writes the logs of this folder.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use shared::{
    own_file::{self, PROBE},
    owner::explained,
    probe_files,
};

/// The detailed log, which is also what is locked.
pub const LOG_NAME: &str = "imagenet_downloader.log";

/// A folder that can be written and is ours alone.
#[derive(Debug)]
pub struct Target {
    log: File,
    unlocked: Option<io::Error>,
}

/// Why the folder is of no use.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// A file stands there.
    #[error("use the target {}: it is a file; name a folder with --target", path.display())]
    File {
        /// The path as given.
        path: PathBuf,
    },
    /// It cannot be made.
    #[error("create the target {}: {source}; name another folder with --target", path.display())]
    Create {
        /// The path as given.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// It cannot be written.
    #[error("write to the target {}: {source}; name another folder with --target", path.display())]
    ReadOnly {
        /// The path as given.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Its log cannot be written.
    #[error("write the log {}: {source}; or name another folder with --target", path.display())]
    Log {
        /// The log.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Another coordinator is at work there.
    #[error("use the target {}: another coordinator works in it; wait for it, or name another folder with --target", path.display())]
    Busy {
        /// The path as given.
        path: PathBuf,
    },
}

impl Target {
    /// Makes the folder if it is missing, writes a file to try it out, and takes the lock.
    ///
    /// # Errors
    /// [`TargetError`], one sentence that says what to do.
    pub fn prepare(path: &Path) -> Result<Self, TargetError> {
        let read_only = |source| TargetError::ReadOnly { path: path.to_owned(), source: explained(source, [path]) };
        if fs::metadata(path).is_ok_and(|metadata| !metadata.is_dir()) {
            return Err(TargetError::File { path: path.to_owned() });
        }
        fs::create_dir_all(path).map_err(|source| TargetError::Create { path: path.to_owned(), source })?;
        // Asking for permissions is not enough: quotas, full disks and network file systems say no only when it counts.
        let probe = path.join(format!("{PROBE}{:016x}", rand::random::<u64>()));
        let written = File::create_new(&probe).and_then(|mut file| file.write_all(b"?"));
        let removed = remove_probe(&probe);
        written.and(removed).map_err(read_only)?;
        let log_path = path.join(LOG_NAME);
        let log = own_file::open_log(&log_path).map_err(|source| {
            let source = explained(source, [&log_path]);
            TargetError::Log { path: log_path, source }
        })?;
        let unlocked = match log.try_lock() {
            Ok(()) => None,
            Err(TryLockError::WouldBlock) => return Err(TargetError::Busy { path: path.to_owned() }),
            Err(TryLockError::Error(error)) => Some(error),
        };
        // A folder that cannot be listed keeps them: nothing depends on it.
        probe_files::remove_left(path).unwrap_or_default();
        Ok(Self { log, unlocked })
    }

    /// The detailed log; writing to it holds the lock as well.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn log(&self) -> io::Result<File> {
        self.log.try_clone()
    }

    /// Says so where the file system knows no locks; call it when there is a log to say it in.
    pub fn warn_if_unlocked(&self) {
        if let Some(error) = &self.unlocked {
            tracing::warn!("the target cannot be locked ({error}): make sure that no other coordinator uses it");
        }
    }
}

/// Another coordinator that starts meanwhile may have removed it.
fn remove_probe(probe: &Path) -> io::Result<()> {
    match fs::remove_file(probe) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_the_log_is_left_also_of_a_coordinator_that_was_killed_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join(".probe-0123456789abcdef"), "?").unwrap();
        let target = Target::prepare(&path).unwrap();
        assert!(target.unlocked.is_none());
        let names: Vec<_> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, [LOG_NAME]);
    }

    #[test]
    fn a_missing_folder_is_made_and_what_is_no_probe_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        drop(Target::prepare(&path).unwrap());
        for name in [".probe-", ".probe-0123456789abcdeg", ".probe-0123456789abcdef0", "a.probe-0123456789abcdef"] {
            fs::write(path.join(name), "of another program").unwrap();
        }
        drop(Target::prepare(&path).unwrap());
        assert_eq!(fs::read_dir(&path).unwrap().count(), 5);
    }

    #[test]
    fn a_second_coordinator_is_refused_until_the_first_has_ended() {
        let folder = tempfile::tempdir().unwrap();
        let first = Target::prepare(folder.path()).unwrap();
        assert!(matches!(Target::prepare(folder.path()), Err(TargetError::Busy { .. })));
        drop(first);
        assert!(Target::prepare(folder.path()).is_ok());
    }

    #[test]
    fn what_is_no_folder_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(Target::prepare(file.path()), Err(TargetError::File { .. })));
        assert!(matches!(Target::prepare(&file.path().join("x")), Err(TargetError::Create { .. })));
        assert!(matches!(Target::prepare(Path::new("/proc")), Err(TargetError::ReadOnly { .. })));
    }
}
