//! `failed_downloads.log`: one line for each class that failed in this run, and nothing else.
//!
//! [`FailureLog::catch_up`] writes the noted lines, once for each commit of the ledger and in one
//! piece, so that a reader that follows the file sees whole lines. It opens the file by its name
//! each time, so the log can be moved or removed meanwhile. The ledger is the source, the log a
//! view of it. Lines that could not be written are kept in memory, at most one for each class, and
//! are written with the next commit or when the log is dropped.
//!
//! The lines of the previous run stay until this run has an outcome ([`FailureLog::begin`]): a run
//! that ends earlier, because the origin refuses every class, does not remove them.

use std::{
    collections::HashSet,
    fs::File,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use shared::{
    Wnid,
    class_list::InvalidRow,
    outcome::Failure,
    own_file::{open_log, read_log},
    owner::explained,
};

/// The log's name in the target.
pub const NAME: &str = "failed_downloads.log";

/// Bytes of noted lines beyond which they are written at once.
const WRITE_THRESHOLD: usize = 1 << 20;

/// The failure log of a run.
#[derive(Debug)]
pub struct FailureLog {
    path: PathBuf,
    /// The run has an outcome, so the file belongs to this run.
    is_begun: bool,
    /// The lines of the previous run are removed.
    is_cleared: bool,
    /// Lines that are not in the file, or only in part.
    missing: Vec<String>,
    /// Bytes of the lines noted since the last attempt to write.
    noted: usize,
    /// Classes whose lines must be removed from the file.
    withdrawn: HashSet<String>,
    /// The last attempt to write failed and was reported. The file may end in the middle of a line.
    is_behind: bool,
}

/// The log could not be written.
#[derive(Debug, thiserror::Error)]
#[error("write {}: {source}; what is missing in it is added as soon as it can be written", path.display())]
pub struct FailureLogError {
    path: PathBuf,
    source: io::Error,
}

impl FailureLog {
    /// Opens the log, or creates it. The lines of a previous run stay until [`FailureLog::begin`].
    ///
    /// # Errors
    /// The file system's error.
    pub fn open(target: &Path) -> Result<Self, FailureLogError> {
        let path = target.join(NAME);
        if let Err(source) = open_log(&path) {
            let source = explained(source, [&path]);
            return Err(FailureLogError { path, source });
        }
        Ok(Self {
            path,
            is_begun: false,
            is_cleared: false,
            missing: Vec::new(),
            noted: 0,
            withdrawn: HashSet::new(),
            is_behind: false,
        })
    }

    /// The run has an outcome: from now on the log is written, without the lines of the previous
    /// run.
    pub fn begin(&mut self) {
        self.is_begun = true;
    }

    /// Notes a class. Noted lines are written at once beyond 1 MiB.
    ///
    /// # Errors
    /// If writing fails. Reported once, and again only after writing has succeeded in between.
    pub fn note(&mut self, wnid: Wnid, failure: &Failure) -> Result<(), FailureLogError> {
        self.add(format!("{wnid} - {failure}\n"))
    }

    /// Notes a row without a class id.
    ///
    /// # Errors
    /// As [`FailureLog::note`].
    pub fn note_invalid(
        &mut self,
        row: &InvalidRow,
        failure: &Failure,
    ) -> Result<(), FailureLogError> {
        self.add(format!("{} - {failure}\n", shown(row)))
    }

    /// Removes classes from the log: they are complete, or are retried. The file is then read and
    /// rewritten, once for each commit.
    pub fn withdraw(&mut self, wnids: &[Wnid]) {
        self.withdrawn.extend(wnids.iter().map(Wnid::to_string));
        let withdrawn = &self.withdrawn;
        self.missing
            .retain(|line| !withdrawn.contains(class_of(line)));
    }

    /// Writes the missing lines, if there are any and the run has an outcome.
    ///
    /// # Errors
    /// As [`FailureLog::note`].
    pub fn catch_up(&mut self) -> Result<(), FailureLogError> {
        self.noted = 0;
        if !self.is_begun {
            return Ok(());
        }
        let written = self.write();
        let was_behind = std::mem::replace(&mut self.is_behind, written.is_err());
        match written {
            Ok(()) => {
                self.missing.clear();
                self.withdrawn.clear();
                if was_behind {
                    tracing::warn!("{} is complete again", self.path.display());
                }
                Ok(())
            }
            // The failure was reported before.
            Err(_) if was_behind => Ok(()),
            Err(source) => Err(FailureLogError {
                path: self.path.clone(),
                source,
            }),
        }
    }

    fn add(&mut self, line: String) -> Result<(), FailureLogError> {
        self.noted += line.len();
        self.missing.push(line);
        if self.noted > WRITE_THRESHOLD {
            self.catch_up()
        } else {
            Ok(())
        }
    }

    /// Appends the missing lines. Rewrites the file if it has lines of the previous run, of
    /// withdrawn classes, or in part.
    fn write(&mut self) -> io::Result<()> {
        let is_wrong = self.is_behind || !self.withdrawn.is_empty();
        if self.is_cleared && is_wrong {
            let valid = self.valid_lines()?;
            // From here on the file may lose lines that it had.
            self.missing.splice(..0, valid);
        } else if self.is_cleared && self.missing.is_empty() {
            return Ok(());
        }
        let mut file = open_log(&self.path)?;
        if is_wrong || !self.is_cleared {
            clear(&file)?;
            self.is_cleared = true;
        }
        file.write_all(self.missing.concat().as_bytes())
    }

    /// The lines of the file that are whole and not withdrawn, without the missing ones.
    fn valid_lines(&self) -> io::Result<Vec<String>> {
        let text = match read_log(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            // A partial line may end in the middle of a character.
            text => String::from_utf8_lossy(&text?).into_owned(),
        };
        let missing: HashSet<&str> = self.missing.iter().map(String::as_str).collect();
        let lines = text.split_inclusive('\n').filter(|line| {
            line.ends_with('\n')
                && !missing.contains(line)
                && !self.withdrawn.contains(class_of(line))
        });
        Ok(lines.map(str::to_owned).collect())
    }
}

impl Drop for FailureLog {
    /// Last attempt to write the missing lines.
    fn drop(&mut self) {
        if self.is_behind {
            drop(self.catch_up());
        }
        if self.is_behind {
            let lines = self.missing.len();
            let path = self.path.display();
            tracing::warn!(
                "{lines} lines are missing in {path}: the detailed log beside it has each class that failed"
            );
        }
    }
}

/// Logs that the failure log could not be written.
pub(crate) fn warn_if_failed(logged: Result<(), FailureLogError>) {
    if let Err(error) = logged {
        tracing::warn!("failed to {error}");
    }
}

/// Empties the file. A pipe or a device, which a link may lead to, has no content to remove.
fn clear(file: &File) -> io::Result<()> {
    if file.metadata()?.is_file() {
        file.set_len(0)
    } else {
        Ok(())
    }
}

fn class_of(line: &str) -> &str {
    line.split_once(" - ").map_or(line, |(class, _)| class)
}

/// The row's value, or a placeholder if it is empty.
pub fn shown(row: &InvalidRow) -> &str {
    if row.value.is_empty() {
        "(empty)"
    } else {
        &row.value
    }
}

#[cfg(test)]
mod tests {
    use shared::{InvalidWnid, outcome::FailureKind};

    use super::*;

    fn written(log: &mut FailureLog, wnid: Wnid, failure: &Failure) -> Result<(), FailureLogError> {
        log.begin();
        log.note(wnid, failure)?;
        log.catch_up()
    }

    #[test]
    fn each_failed_class_has_one_line_and_the_previous_run_has_none() {
        let folder = tempfile::tempdir().unwrap();
        let read = || std::fs::read_to_string(folder.path().join(NAME)).unwrap();
        std::fs::write(folder.path().join(NAME), "n00000001 - of the last run\n").unwrap();
        let mut log = FailureLog::open(folder.path()).unwrap();
        log.catch_up().unwrap();
        assert_eq!(
            read(),
            "n00000001 - of the last run\n",
            "this run has no outcome yet"
        );
        log.begin();
        log.catch_up().unwrap();
        assert_eq!(read(), "");
        let missing = Failure::new(FailureKind::HttpError, "404 Client Error: Not Found");
        written(&mut log, "n02124075".parse().unwrap(), &missing).unwrap();
        for (line, value) in [(7, "cat"), (9, "")] {
            let row = InvalidRow {
                line,
                value: value.to_owned(),
                after: 0,
            };
            let failure = Failure::new(
                FailureKind::InvalidWnid,
                format!("line {line}: {InvalidWnid}"),
            );
            log.note_invalid(&row, &failure).unwrap();
        }
        log.catch_up().unwrap();
        let rest = "cat - InvalidWnid: line 7: not a WordNet id (n and eight digits, like n02124075)\n\
                    (empty) - InvalidWnid: line 9: not a WordNet id (n and eight digits, like n02124075)\n";
        assert_eq!(
            read(),
            format!("n02124075 - HTTPError: 404 Client Error: Not Found\n{rest}")
        );
        log.withdraw(&["n02124075".parse().unwrap()]);
        log.catch_up().unwrap();
        assert_eq!(read(), rest);
        written(&mut log, "n00000002".parse().unwrap(), &missing).unwrap();
        assert_eq!(
            read(),
            format!("{rest}n00000002 - HTTPError: 404 Client Error: Not Found\n")
        );
    }

    #[test]
    fn a_log_that_is_moved_or_removed_meanwhile_is_created_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        let mut log = FailureLog::open(folder.path()).unwrap();
        let missing = Failure::new(FailureKind::HttpError, "404 Client Error: Not Found");
        written(&mut log, "n00000001".parse().unwrap(), &missing).unwrap();
        std::fs::rename(&path, folder.path().join("rotated")).unwrap();
        written(&mut log, "n00000002".parse().unwrap(), &missing).unwrap();
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "n00000002 - HTTPError: 404 Client Error: Not Found\n"
        );
        std::fs::remove_file(&path).unwrap();
        log.withdraw(&["n00000002".parse().unwrap()]);
        log.catch_up().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
    }

    fn missing() -> Failure {
        Failure::new(FailureKind::HttpError, "404 Client Error: Not Found")
    }

    fn wnid(number: u32) -> Wnid {
        format!("n{number:08}").parse().unwrap()
    }

    fn line(number: u32) -> String {
        format!("n{number:08} - HTTPError: 404 Client Error: Not Found\n")
    }

    #[test]
    fn a_log_that_cannot_be_written_is_reported_once_and_completed_with_the_next_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        let mut log = FailureLog::open(folder.path()).unwrap();
        written(&mut log, wnid(1), &missing()).unwrap();
        // A folder of the same name prevents writing, also for root.
        std::fs::rename(&path, folder.path().join("aside")).unwrap();
        std::fs::create_dir(&path).unwrap();
        written(&mut log, wnid(2), &missing()).unwrap_err();
        written(&mut log, wnid(3), &missing()).expect("it was reported");
        log.withdraw(&[wnid(1), wnid(2)]);
        log.catch_up().expect("it was reported");
        std::fs::remove_dir(&path).unwrap();
        // The state after a full disk: a partial line, and a line that was assumed to be missing.
        std::fs::write(&path, format!("{}{}n0000", line(1), line(3))).unwrap();
        let mut half = File::options().append(true).open(&path).unwrap();
        half.write_all(&"é".as_bytes()[..1]).unwrap();
        written(&mut log, wnid(4), &missing()).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), line(3) + &line(4));
        written(&mut log, wnid(2), &missing()).unwrap();
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            line(3) + &line(4) + &line(2)
        );
    }

    #[test]
    fn missing_lines_are_written_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        let mut log = FailureLog::open(folder.path()).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        written(&mut log, wnid(1), &missing()).unwrap_err();
        std::fs::remove_dir(&path).unwrap();
        drop(log);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), line(1));
    }
}
