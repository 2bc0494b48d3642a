//! The table at the end, and the exit code that goes with it.

use std::io::{self, Write};

use shared::{exit_code::Exit, job::JobStatus};

const WIDTH: usize = 80;

/// Writes the closing table. Its form is a contract.
///
/// # Errors
/// When `out` is closed.
pub fn write(mut out: impl Write, status: &JobStatus) -> io::Result<()> {
    let JobStatus { total, success, skipped, failed, .. } = status;
    let rule = "=".repeat(WIDTH);
    let counts = format!("✓ Success: {success}\n⊘ Skipped: {skipped}\n✗ Failed:  {failed}\nTotal:     {total}");
    out.write_all(format!("{rule}\n{counts}\n{rule}\n").as_bytes())?;
    out.flush()
}

/// The exit of a finished job.
pub fn exit(status: &JobStatus) -> Exit {
    if status.failed == 0 { Exit::Done } else { Exit::SomeFailed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_the_promised_form() {
        let status = JobStatus { total: 100, success: 95, skipped: 3, failed: 2, ..JobStatus::default() };
        let mut out = Vec::new();
        write(&mut out, &status).unwrap();
        let rule = "=".repeat(80);
        let table = format!("{rule}\n✓ Success: 95\n⊘ Skipped: 3\n✗ Failed:  2\nTotal:     100\n{rule}\n");
        assert_eq!(String::from_utf8(out).unwrap(), table);
    }

    #[test]
    fn one_failed_class_changes_the_exit_code() {
        let mut status = JobStatus { total: 2, success: 1, skipped: 1, ..JobStatus::default() };
        assert_eq!(exit(&status), Exit::Done);
        status.failed = 1;
        assert_eq!(exit(&status), Exit::SomeFailed);
    }
}
