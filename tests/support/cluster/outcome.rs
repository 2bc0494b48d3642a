//! Checks how a program of the job has ended.

use super::{Job, Table};
use crate::{
    folders,
    running::{Finished, tail},
};

impl Job {
    /// Panics with the program's output unless it ended with this exit code and exactly this table
    /// on stdout.
    #[track_caller]
    pub fn assert_ended(&self, finished: &Finished, code: i32, table: Table) {
        let found = finished.code;
        let signal = finished.signal;
        let stdout = &finished.stdout;
        let output = || {
            format!(
                "{:#?}\n--- stderr\n{}",
                self.failures(),
                tail(&finished.stderr)
            )
        };
        assert!(
            found == Some(code) && *stdout == table.text(),
            "code {found:?}, signal {signal:?}\n{stdout}\n--- failures\n{}",
            output()
        );
        folders::assert_no_partial(&self.target);
        for text in [stdout, &finished.stderr] {
            assert!(
                !text.contains('\u{1b}'),
                "an escape code without a terminal: {text:?}"
            );
        }
    }

    /// Panics unless every class is complete; returns the table, which tells how many of them an
    /// earlier process completed.
    #[track_caller]
    pub fn assert_all_there(&self, finished: &Finished, classes: u64) -> Table {
        let output = tail(&finished.stderr);
        assert_eq!(
            finished.code,
            Some(0),
            "{}\n--- stderr\n{output}",
            finished.stdout
        );
        let table = Table::read(&finished.stdout);
        self.assert_ended(
            finished,
            0,
            Table::of(table.success, classes - table.success.min(classes), 0),
        );
        table
    }

    /// Panics unless the program could not run: exit code 2, nothing on stdout, and an error
    /// message that contains all these words.
    #[track_caller]
    pub fn assert_could_not_run(&self, finished: &Finished, words: &[&str]) {
        let Finished {
            code,
            stdout,
            stderr,
            ..
        } = finished;
        assert!(
            *code == Some(2) && stdout.is_empty(),
            "{code:?}\n{stdout}\n--- stderr\n{}",
            tail(stderr)
        );
        for word in words {
            assert!(stderr.contains(word), "no {word:?} in:\n{stderr}");
        }
        assert!(!stderr.contains("panicked"), "{stderr}");
    }
}
