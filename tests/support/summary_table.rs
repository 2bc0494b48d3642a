//! The summary table that the coordinator prints at its end.

/// The counts of the summary table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table {
    /// Classes that this run completed.
    pub success: u64,
    /// Classes that were complete before this run.
    pub skipped: u64,
    /// Classes that are not complete after this run.
    pub failed: u64,
    /// All classes in the list, without duplicates.
    pub total: u64,
    /// Rows that repeat a class.
    pub duplicates: u64,
}

impl Table {
    /// A table with consistent counts.
    pub fn of(success: u64, skipped: u64, failed: u64) -> Self {
        Self {
            success,
            skipped,
            failed,
            total: success + skipped + failed,
            duplicates: 0,
        }
    }

    /// The same table for a list with `duplicates` duplicate rows.
    #[must_use]
    pub fn with_duplicates(self, duplicates: u64) -> Self {
        Self { duplicates, ..self }
    }

    /// Parses the table from standard output; panics if standard output holds anything else.
    #[track_caller]
    pub fn read(stdout: &str) -> Self {
        let number = |word: &str| {
            let rest = stdout.lines().find_map(|line| line.split_once(word));
            rest.and_then(|(_, number)| number.trim().parse().ok())
                .unwrap_or_else(|| panic!("no {word} in:\n{stdout}"))
        };
        let [success, skipped, failed] = ["Success:", "Skipped:", "Failed:"].map(number);
        let table = Self {
            total: number("Total:"),
            ..Self::of(success, skipped, failed)
        };
        assert_eq!(table.text(), stdout);
        table
    }

    /// The exact text that the program prints for this table.
    pub fn text(&self) -> String {
        let line = "=".repeat(80);
        let Self {
            success,
            skipped,
            failed,
            total,
            duplicates,
        } = self;
        let duplicates = match duplicates {
            0 => String::new(),
            1 => "1 duplicate row\n".to_owned(),
            rows => format!("{rows} duplicate rows\n"),
        };
        let counts = format!(
            "✓ Success: {success}\n⊘ Skipped: {skipped}\n✗ Failed:  {failed}\nTotal:     {total}"
        );
        format!("{line}\n{counts}\n{duplicates}{line}\n")
    }
}
