//! `Watched`: a value that is made of files, and made again when they change. Until a new value is
//! made successfully, the last good one stays in use.
//!
//! Changes are detected by reading the files, which are small, instead of file system
//! notifications: a mounted secret changes by the replacement of a symbolic link two folders above.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
};

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{SHA256, digest};
use prometheus_client::metrics::counter::Counter;
use zeroize::Zeroizing;

use super::TlsError;
use crate::{
    lock::lock,
    private_file::{self, NotRead},
};

/// A file and its content.
pub struct SourceFile {
    /// Path of the file.
    pub path: PathBuf,
    /// Content of the file. It may be secret, and is erased from memory when it is dropped.
    pub bytes: Zeroizing<Vec<u8>>,
}

impl SourceFile {
    /// Reads the file.
    ///
    /// # Errors
    /// [`TlsError::Read`], and [`TlsError::Writable`] if every user of this machine can change it.
    pub fn read(path: PathBuf) -> Result<Self, TlsError> {
        match private_file::read(&path) {
            Ok(bytes) => Ok(Self { path, bytes }),
            Err(NotRead::Writable(why)) => Err(why.into()),
            Err(NotRead::File(source)) => Err(TlsError::Read { path, source }),
        }
    }

    /// The lines with their numbers, counted from 1, without blank lines and comments (`#`).
    pub fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        // Content that is not UTF-8 contains no token and no role.
        let text = std::str::from_utf8(&self.bytes).unwrap_or("\u{fffd}");
        let lines = text.trim_start_matches('\u{feff}').lines().map(str::trim);
        (1..)
            .zip(lines)
            .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
    }
}

type Make<T> = Box<dyn Fn(&[SourceFile]) -> Result<T, TlsError> + Send + Sync>;

/// A value that is made of files.
pub struct Watched<T> {
    paths: Vec<PathBuf>,
    make: Make<T>,
    current: ArcSwap<T>,
    seen: Mutex<Seen>,
    refused: Counter,
}

/// The content that was read last.
#[derive(Debug, Default)]
struct Seen {
    /// Digests of the files, whether or not they were usable; empty if one could not be read.
    digests: Vec<Vec<u8>>,
    /// Whether a file was empty at the last check, which may be because it was being written.
    was_empty: bool,
}

impl<T> Watched<T> {
    /// Reads the files and makes the first value.
    ///
    /// # Errors
    /// [`TlsError`] if a file cannot be read, or `make` fails.
    pub fn new(
        paths: Vec<PathBuf>,
        make: impl Fn(&[SourceFile]) -> Result<T, TlsError> + Send + Sync + 'static,
    ) -> Result<Self, TlsError> {
        let sources = read(&paths)?;
        let current = ArcSwap::from_pointee(make(&sources)?);
        Ok(Self {
            paths,
            make: Box::new(make),
            current,
            seen: Mutex::new(Seen {
                digests: digests(&sources),
                was_empty: false,
            }),
            refused: Counter::default(),
        })
    }

    /// The last good value.
    pub fn get(&self) -> Arc<T> {
        self.current.load_full()
    }

    /// Whether there are files to check.
    pub fn has_files(&self) -> bool {
        !self.paths.is_empty()
    }

    /// Number of changes from which no value could be made.
    pub fn refused(&self) -> u64 {
        self.refused.get()
    }

    /// Checks the files, and makes a new value if they have changed. A failure is logged once, and
    /// the last good value stays in use. An empty file is used only if it is still empty at the
    /// next check, because editors and some tools truncate a file before they write it. Does
    /// blocking I/O on small files.
    pub fn check_files(&self) {
        // A pipe provides its content once, and opening it again could block forever.
        let is_other = |path: &PathBuf| path.metadata().is_ok_and(|found| !found.is_file());
        if self.paths.iter().any(is_other) {
            return;
        }
        // After a panic of another thread the digests are valid, at worst outdated, so poisoning is
        // ignored.
        let mut seen = lock(&self.seen);
        let made = match read(&self.paths) {
            Ok(sources) => {
                let digests = digests(&sources);
                if seen.digests == digests {
                    seen.was_empty = false;
                    return;
                }
                let is_empty = sources.iter().any(|source| source.lines().next().is_none());
                if is_empty && !seen.was_empty {
                    seen.was_empty = true;
                    return;
                }
                *seen = Seen {
                    digests,
                    was_empty: false,
                };
                (self.make)(&sources)
            }
            // An unreadable file is reported once.
            Err(_) if seen.digests.is_empty() => return,
            Err(error) => {
                *seen = Seen::default();
                Err(error)
            }
        };
        match made {
            Ok(made) => {
                self.current.store(Arc::new(made));
                let first = self.paths[0].display();
                tracing::info!("{first} was replaced: the new content is in use");
            }
            Err(error) => {
                self.refused.inc();
                tracing::warn!("the old content stays in use: failed to {error}");
            }
        }
    }
}

impl<T> std::fmt::Debug for Watched<T> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Watched")
            .field("paths", &self.paths)
            .finish_non_exhaustive()
    }
}

fn read(paths: &[PathBuf]) -> Result<Vec<SourceFile>, TlsError> {
    paths.iter().cloned().map(SourceFile::read).collect()
}

fn digests(sources: &[SourceFile]) -> Vec<Vec<u8>> {
    sources
        .iter()
        .map(|source| digest(&SHA256, &source.bytes).as_ref().to_vec())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::{fs::Permissions, os::unix::fs::PermissionsExt as _};

    use super::*;

    fn length_of(sources: &[SourceFile]) -> Result<usize, TlsError> {
        let source = &sources[0];
        if source.bytes.is_empty() {
            return Err(TlsError::Certificate {
                path: source.path.clone(),
                why: crate::tls::InvalidBundle::Empty,
            });
        }
        Ok(source.bytes.len())
    }

    #[test]
    fn new_content_is_used_and_unusable_content_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "one").unwrap();
        let watched = Watched::new(vec![path.clone()], length_of).unwrap();
        assert_eq!(*watched.get(), 3);
        for (content, length) in [("four", 4), ("", 4), ("", 4), ("fives", 5)] {
            std::fs::write(&path, content).unwrap();
            watched.check_files();
            assert_eq!(*watched.get(), length, "{content}");
        }
        assert_eq!(watched.refused(), 1, "the same content is refused once");
        std::fs::remove_file(&path).unwrap();
        watched.check_files();
        watched.check_files();
        assert_eq!(*watched.get(), 5);
        std::fs::write(&path, "seven..").unwrap();
        watched.check_files();
        assert_eq!(*watched.get(), 7);
    }

    #[test]
    fn an_empty_file_is_used_at_the_second_check() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "one").unwrap();
        let watched = Watched::new(vec![path.clone()], length_of).unwrap();
        for (content, refused) in [("", 0), ("four", 0), ("", 0), ("four", 0), ("", 0), ("", 1)] {
            std::fs::write(&path, content).unwrap();
            watched.check_files();
            assert_eq!(watched.refused(), refused);
        }
        assert_eq!(*watched.get(), 4);
    }

    #[test]
    fn a_file_that_every_user_can_change_is_refused_at_the_start_and_later() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "one").unwrap();
        let allow = |mode| std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        allow(0o666);
        let refused = Watched::new(vec![path.clone()], length_of).unwrap_err();
        assert!(matches!(refused, TlsError::Writable(_)), "{refused}");
        allow(0o600);
        let watched = Watched::new(vec![path.clone()], length_of).unwrap();
        std::fs::write(&path, "four").unwrap();
        allow(0o602);
        watched.check_files();
        watched.check_files();
        assert_eq!((*watched.get(), watched.refused()), (3, 1));
        allow(0o600);
        watched.check_files();
        assert_eq!(*watched.get(), 4);
    }

    #[test]
    fn the_replacement_of_a_link_is_a_change() {
        let folder = tempfile::tempdir().unwrap();
        for (version, content) in [("v1", "one"), ("v2", "three")] {
            std::fs::create_dir(folder.path().join(version)).unwrap();
            std::fs::write(folder.path().join(version).join("file"), content).unwrap();
        }
        let link = folder.path().join("current");
        let next = folder.path().join("next");
        std::os::unix::fs::symlink("v1", &link).unwrap();
        let watched = Watched::new(vec![link.join("file")], length_of).unwrap();
        std::os::unix::fs::symlink("v2", &next).unwrap();
        std::fs::rename(&next, &link).unwrap();
        watched.check_files();
        assert_eq!(*watched.get(), 5);
    }

    #[test]
    fn a_pipe_is_read_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        assert!(
            std::process::Command::new("mkfifo")
                .arg(&path)
                .status()
                .unwrap()
                .success()
        );
        let writer = std::thread::spawn({
            let path = path.clone();
            move || std::fs::write(path, "one").unwrap()
        });
        let watched = Watched::new(vec![path], length_of).unwrap();
        writer.join().unwrap();
        watched.check_files();
        assert_eq!(*watched.get(), 3);
    }

    #[test]
    fn unusable_files_at_the_start_are_an_error() {
        assert!(matches!(
            Watched::new(vec!["/nowhere".into()], length_of),
            Err(TlsError::Read { .. })
        ));
        assert!(matches!(
            Watched::new(vec!["/dev/null".into()], length_of),
            Err(TlsError::Certificate { .. })
        ));
    }
}
