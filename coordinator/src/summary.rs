//! The table at the end, the causes of the failures, and the exit code.

use std::{
    io::{self, Write},
    path::Path,
};

use shared::{exit_code::Exit, job::JobStatus};

use crate::ledger::Cause;

const WIDTH: usize = 80;
/// Maximum number of causes that are named. The rest is counted.
const NAMED_CAUSES: usize = 6;

/// Writes the closing table. Its format is stable, because other programs read it. Rows that repeat
/// a class have a separate line.
///
/// # Errors
/// If `out` is closed.
pub fn write(mut out: impl Write, status: &JobStatus, duplicates: u64) -> io::Result<()> {
    let JobStatus {
        total,
        success,
        skipped,
        failed,
        ..
    } = status;
    let rule = "=".repeat(WIDTH);
    let counts = format!(
        "✓ Success: {success}\n⊘ Skipped: {skipped}\n✗ Failed:  {failed}\nTotal:     {total}"
    );
    let duplicates = match duplicates {
        0 => String::new(),
        1 => "1 duplicate row\n".to_owned(),
        rows => format!("{rows} duplicate rows\n"),
    };
    out.write_all(format!("{rule}\n{counts}\n{duplicates}{rule}\n").as_bytes())?;
    out.flush()
}

/// The causes of the failures, the most frequent first, the path of the log that names each failed
/// class, and a remedy for the user.
pub fn failures_in_words(
    mut causes: Vec<Cause>,
    log: &Path,
    advice: Option<&str>,
) -> Option<String> {
    causes.sort_by(|one, other| (other.classes, &one.text).cmp(&(one.classes, &other.text)));
    let (named, others) = causes.split_at(causes.len().min(NAMED_CAUSES));
    let named = named
        .iter()
        .map(|cause| format!("{} {}", cause.classes, cause.text));
    let others: u64 = others.iter().map(|cause| cause.classes).sum();
    let others = (others > 0).then(|| format!("{others} for other causes"));
    let named = named.chain(others).collect::<Vec<_>>().join(", ");
    let advice = advice.map_or_else(String::new, |advice| format!(". {advice}"));
    (!causes.is_empty()).then(|| {
        format!(
            "failed: {named}; each is named in {}{advice}",
            log.display()
        )
    })
}

/// The exit code of a finished job.
pub fn exit(status: &JobStatus) -> Exit {
    if status.failed == 0 {
        Exit::Done
    } else {
        Exit::SomeFailed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(duplicates: u64) -> String {
        let status = JobStatus {
            total: 100,
            success: 95,
            skipped: 3,
            failed: 2,
            ..JobStatus::default()
        };
        let mut out = Vec::new();
        write(&mut out, &status, duplicates).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_table_has_the_promised_form() {
        let rule = "=".repeat(80);
        let counts = format!("{rule}\n✓ Success: 95\n⊘ Skipped: 3\n✗ Failed:  2\nTotal:     100\n");
        assert_eq!(table(0), format!("{counts}{rule}\n"));
        assert_eq!(table(1), format!("{counts}1 duplicate row\n{rule}\n"));
        assert_eq!(table(2), format!("{counts}2 duplicate rows\n{rule}\n"));
    }

    #[test]
    fn causes_are_counted_and_the_log_is_named() {
        let cause = |classes, text: &str| Cause {
            classes,
            text: text.to_owned(),
        };
        let log = Path::new("/t/failed_downloads.log");
        assert_eq!(failures_in_words(vec![], log, None), None);
        let two = vec![
            cause(1, "InvalidWnid"),
            cause(12, "HTTPError: 404 Client Error: Not Found"),
        ];
        assert_eq!(
            failures_in_words(two, log, Some("Check --url")).unwrap(),
            "failed: 12 HTTPError: 404 Client Error: Not Found, 1 InvalidWnid; each is named in /t/failed_downloads.log. Check --url"
        );
        let many = failures_in_words(
            (0..9)
                .map(|number| cause(5, &format!("K{number}")))
                .collect(),
            log,
            None,
        )
        .unwrap();
        assert_eq!(
            many,
            "failed: 5 K0, 5 K1, 5 K2, 5 K3, 5 K4, 5 K5, 15 for other causes; each is named in /t/failed_downloads.log"
        );
    }

    #[test]
    fn one_failed_class_changes_the_exit_code() {
        let mut status = JobStatus {
            total: 2,
            success: 1,
            skipped: 1,
            ..JobStatus::default()
        };
        assert_eq!(exit(&status), Exit::Done);
        status.failed = 1;
        assert_eq!(exit(&status), Exit::SomeFailed);
    }
}
