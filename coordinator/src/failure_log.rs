//! `failed_downloads.log`: one line for each class that failed in this run, and nothing else.
//!
//! Each line is written at once, in one piece, so that whoever follows the file sees whole lines. The table is the truth, the
//! log a view of it: a disk that refuses a line costs the line, not the job.

use std::{
    collections::HashSet,
    fs::File,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use shared::{Wnid, class_list::InvalidRow, outcome::Failure};

/// The log's name in the target.
pub const NAME: &str = "failed_downloads.log";

/// The open log.
#[derive(Debug)]
pub struct FailureLog {
    path: PathBuf,
    file: File,
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
            Ok(file) => Ok(Self { path, file }),
            Err(source) => Err(FailureLogError { path, source }),
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
        let rewrite = || -> io::Result<File> {
            let text = std::fs::read_to_string(&self.path)?;
            let kept: String = text.split_inclusive('\n').filter(is_kept).collect();
            let mut file = File::create(&self.path)?;
            file.write_all(kept.as_bytes())?;
            Ok(file)
        };
        self.file = rewrite().map_err(|source| FailureLogError { path: self.path.clone(), source })?;
        Ok(())
    }

    fn write_line(&mut self, line: &str) -> Result<(), FailureLogError> {
        let written = self.file.write_all(line.as_bytes()).and_then(|()| self.file.flush());
        written.map_err(|source| FailureLogError { path: self.path.clone(), source })
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
}
