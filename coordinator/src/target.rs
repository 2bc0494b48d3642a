//! The target folder: created, tested for writing, and locked before anything else happens.
//!
//! Invariant: while a [`Target`] lives, no other coordinator writes the logs of this folder.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use shared::{
    own_file::PROBE,
    owner::explained,
    probe_files,
    target_lock::{LOG_NAME, TargetLock},
};

/// A writable folder that is locked for this process.
#[derive(Debug)]
pub struct Target(TargetLock);

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The path is a file.
    #[error("use the target {}: it is a file; name a folder with --target", path.display())]
    File {
        /// The path as given.
        path: PathBuf,
    },
    /// The folder cannot be created.
    #[error("create the target {}: {source}; name another folder with --target", path.display())]
    Create {
        /// The path as given.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// The folder is not writable.
    #[error("write to the target {}: {source}; name another folder with --target", path.display())]
    ReadOnly {
        /// The path as given.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// The log is not writable.
    #[error("write the log {}: {source}; or name another folder with --target", path.display())]
    Log {
        /// The log.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// Another coordinator, or a program that downloads with the library, uses the folder.
    #[error("use the target {}: another coordinator works in it; wait for it, or name another folder with --target", path.display())]
    Busy {
        /// The path as given.
        path: PathBuf,
    },
}

impl Target {
    /// Creates the folder if it is missing, writes a probe file, and takes the lock.
    ///
    /// # Errors
    /// [`TargetError`], one sentence with the remedy.
    pub fn prepare(path: &Path) -> Result<Self, TargetError> {
        let given = || path.to_owned();
        if fs::metadata(path).is_ok_and(|metadata| !metadata.is_dir()) {
            return Err(TargetError::File { path: given() });
        }
        fs::create_dir_all(path).map_err(|source| TargetError::Create {
            path: given(),
            source,
        })?;
        // A check of permissions is not enough: quotas, full disks and network file systems refuse
        // only the write itself.
        let probe = path.join(format!("{PROBE}{:016x}", rand::random::<u64>()));
        let written = File::create_new(&probe).and_then(|mut file| file.write_all(b"?"));
        let removed = remove_probe(&probe);
        written
            .and(removed)
            .map_err(|source| TargetError::ReadOnly {
                path: given(),
                source: explained(source, [path]),
            })?;
        let lock = TargetLock::take(path).map_err(|source| {
            let path = path.join(LOG_NAME);
            TargetError::Log {
                source: explained(source, [&path]),
                path,
            }
        })?;
        let lock = lock.ok_or_else(|| TargetError::Busy { path: given() })?;
        // In a folder that cannot be listed the old probe files stay, which does no harm.
        probe_files::remove_left(path).unwrap_or_default();
        Ok(Self(lock))
    }

    /// The detailed log. A clone of its file also holds the lock.
    ///
    /// # Errors
    /// If the process has no free file descriptor.
    pub fn log(&self) -> io::Result<File> {
        self.0.log().try_clone()
    }

    /// Warns if the file system does not support locks. Call it once the log is open.
    pub fn warn_if_unlocked(&self) {
        if let Some(error) = self.0.unlocked() {
            tracing::warn!(
                "the target cannot be locked ({error}): make sure that no other coordinator uses it"
            );
        }
    }
}

/// Another coordinator that starts at the same time may have removed the file.
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
    fn only_the_log_is_left_also_of_a_coordinator_that_was_killed_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join(".probe-0123456789abcdef"), "?").unwrap();
        let target = Target::prepare(&path).unwrap();
        assert!(target.0.unlocked().is_none());
        let names: Vec<_> = fs::read_dir(&path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, [LOG_NAME]);
    }

    #[test]
    fn a_missing_folder_is_created_and_files_other_than_probes_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        drop(Target::prepare(&path).unwrap());
        for name in [
            ".probe-",
            ".probe-0123456789abcdeg",
            ".probe-0123456789abcdef0",
            "a.probe-0123456789abcdef",
        ] {
            fs::write(path.join(name), "of another program").unwrap();
        }
        drop(Target::prepare(&path).unwrap());
        assert_eq!(fs::read_dir(&path).unwrap().count(), 5);
    }

    #[test]
    fn a_second_coordinator_is_refused_until_the_first_has_ended() {
        let folder = tempfile::tempdir().unwrap();
        let first = Target::prepare(folder.path()).unwrap();
        assert!(matches!(
            Target::prepare(folder.path()),
            Err(TargetError::Busy { .. })
        ));
        drop(first);
        assert!(Target::prepare(folder.path()).is_ok());
    }

    #[test]
    fn a_path_that_is_no_folder_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(
            Target::prepare(file.path()),
            Err(TargetError::File { .. })
        ));
        assert!(matches!(
            Target::prepare(&file.path().join("x")),
            Err(TargetError::Create { .. })
        ));
        assert!(matches!(
            Target::prepare(Path::new("/proc")),
            Err(TargetError::ReadOnly { .. })
        ));
    }
}
