//! The lock on a target folder: one job or one call of the library at a time writes into it.
//!
//! It is on the detailed log, which stays in the folder, so every process locks the same file.

use std::{
    fs::{File, TryLockError},
    io,
    path::Path,
};

use crate::own_file;

/// The detailed log.
pub const LOG_NAME: &str = "imagenet_downloader.log";

/// The lock. It is released when the last clone of its file is closed.
#[derive(Debug)]
pub struct TargetLock {
    log: File,
    unlocked: Option<io::Error>,
}

impl TargetLock {
    /// Takes the lock; `None` if another process, or another call in this process, has it. Creates
    /// the log if it is missing.
    ///
    /// # Errors
    /// If the log cannot be opened.
    pub fn take(target: &Path) -> io::Result<Option<Self>> {
        let log = own_file::open_log(&target.join(LOG_NAME))?;
        let unlocked = match log.try_lock() {
            Ok(()) => None,
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => Some(error),
        };
        Ok(Some(Self { log, unlocked }))
    }

    /// The detailed log. A clone of its file also holds the lock.
    pub fn log(&self) -> &File {
        &self.log
    }

    /// Releases the lock at once, also if a child process has inherited the open file.
    pub fn release(&self) {
        // Closing the file does the same, as far as no other process has it.
        self.log.unlock().unwrap_or_default();
    }

    /// Why there is no lock, if the file system has none.
    pub fn unlocked(&self) -> Option<&io::Error> {
        self.unlocked.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_has_the_lock() {
        let folder = tempfile::tempdir().unwrap();
        let first = TargetLock::take(folder.path()).unwrap().unwrap();
        assert!(first.unlocked().is_none());
        assert!(TargetLock::take(folder.path()).unwrap().is_none());
        // As in a child process that was forked.
        let inherited = first.log().try_clone().unwrap();
        first.release();
        assert!(TargetLock::take(folder.path()).unwrap().is_some());
        drop((first, inherited));
    }
}
