//! `failed_downloads.log`: one line for each class that failed in this run, and nothing else.
//!
//! Each line is written at once, in one piece, so that whoever follows the file sees whole lines; and into whatever bears the
//! name then, so that the file can be moved or removed meanwhile. The table is the truth, the log a view of it: a disk that
//! refuses a line costs the line, not the job.

use std::{
    collections::HashSet,
    fs::File,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use shared::{Wnid, class_list::InvalidRow, outcome::Failure, owner::explained};

/// The log's name in the target.
pub const NAME: &str = "failed_downloads.log";

/// The log.
#[derive(Debug)]
pub struct FailureLog {
    path: PathBuf,
}

/// The log could not be written.
#[derive(Debug, thiserror::Error)]
#[error("write {}: {source}", path.display())]
pub struct FailureLogError {
    path: PathBuf,
    source: io::Error,
}

impl FailureLog {
    /// Makes an empty log; what an earlier run wrote is gone.
    ///
    /// # Errors
    /// As the file system says.
    pub fn create(target: &Path) -> Result<Self, FailureLogError> {
        let path = target.join(NAME);
        match File::create(&path) {
            Ok(_) => Ok(Self { path }),
            Err(source) => Err(FailureLogError { source: explained(source, [&path]), path }),
        }
    }

    /// Adds a class.
    ///
    /// # Errors
    /// As the file system says.
    pub fn write(&mut self, wnid: Wnid, failure: &Failure) -> Result<(), FailureLogError> {
        self.write_line(&format!("{wnid} - {failure}\n"))
    }

    /// Adds a row that holds no class id.
    ///
    /// # Errors
    /// As the file system says.
    pub fn write_invalid(&mut self, row: &InvalidRow, failure: &Failure) -> Result<(), FailureLogError> {
        self.write_line(&format!("{} - {failure}\n", shown(row)))
    }

    /// Takes classes out again: their folder turned out to be there after all, or they are tried again. Rare, so the file is
    /// read and written anew.
    ///
    /// # Errors
    /// As the file system says.
    pub fn withdraw(&mut self, wnids: &[Wnid]) -> Result<(), FailureLogError> {
        let withdrawn: HashSet<String> = wnids.iter().map(Wnid::to_string).collect();
        let is_kept = |line: &&str| line.split_once(" - ").is_none_or(|(wnid, _)| !withdrawn.contains(wnid));
        let rewrite = || -> io::Result<()> {
            let text = match std::fs::read_to_string(&self.path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
                text => text?,
            };
            let kept: String = text.split_inclusive('\n').filter(is_kept).collect();
            std::fs::write(&self.path, kept)
        };
        rewrite().map_err(|source| FailureLogError { path: self.path.clone(), source })
    }

    fn write_line(&mut self, line: &str) -> Result<(), FailureLogError> {
        let file = File::options().append(true).create(true).open(&self.path);
        file.and_then(|mut file| file.write_all(line.as_bytes()))
            .map_err(|source| FailureLogError { path: self.path.clone(), source })
    }
}

/// The row's value, or a word where it has none.
pub fn shown(row: &InvalidRow) -> &str {
    if row.value.is_empty() { "(empty)" } else { &row.value }
}

#[cfg(test)]
mod tests {
    use shared::{InvalidWnid, outcome::FailureKind};

    use super::*;

    #[test]
    fn each_failed_class_has_one_line_and_the_last_run_has_none() {
        let folder = tempfile::tempdir().unwrap();
        let read = || std::fs::read_to_string(folder.path().join(NAME)).unwrap();
        std::fs::write(folder.path().join(NAME), "n00000001 - of the last run\n").unwrap();
        let mut log = FailureLog::create(folder.path()).unwrap();
        assert_eq!(read(), "");
        let missing = Failure::new(FailureKind::HttpError, "404 Client Error: Not Found");
        log.write("n02124075".parse().unwrap(), &missing).unwrap();
        for (line, value) in [(7, "cat"), (9, "")] {
            let row = InvalidRow { line, value: value.to_owned(), after: 0 };
            let failure = Failure::new(FailureKind::InvalidWnid, format!("line {line}: {InvalidWnid}"));
            log.write_invalid(&row, &failure).unwrap();
        }
        let rest = "cat - InvalidWnid: line 7: not a WordNet id (n and eight digits, like n02124075)\n\
                    (empty) - InvalidWnid: line 9: not a WordNet id (n and eight digits, like n02124075)\n";
        assert_eq!(read(), format!("n02124075 - HTTPError: 404 Client Error: Not Found\n{rest}"));
        log.withdraw(&["n02124075".parse().unwrap()]).unwrap();
        assert_eq!(read(), rest);
        log.write("n00000002".parse().unwrap(), &missing).unwrap();
        assert_eq!(read(), format!("{rest}n00000002 - HTTPError: 404 Client Error: Not Found\n"));
    }

    #[test]
    fn what_is_moved_or_removed_meanwhile_is_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        let mut log = FailureLog::create(folder.path()).unwrap();
        let missing = Failure::new(FailureKind::HttpError, "404 Client Error: Not Found");
        log.write("n00000001".parse().unwrap(), &missing).unwrap();
        std::fs::rename(&path, folder.path().join("rotated")).unwrap();
        log.write("n00000002".parse().unwrap(), &missing).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "n00000002 - HTTPError: 404 Client Error: Not Found\n");
        std::fs::remove_file(&path).unwrap();
        log.withdraw(&["n00000002".parse().unwrap()]).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
    }
}
