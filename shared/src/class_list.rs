//! `ClassList`: the rows of the CSV file, parsed once at startup.
//!
//! Accepts the variants that spreadsheets and scripts write around the ids. A row without a valid
//! id is kept with its line number, so that no row is lost silently. The one exception are rows
//! that hold only `n`, which are counted: a common recipe for a list of failed classes,
//! `grep -o 'n[0-9]*' failed_downloads.log`, also prints the letter of other words. The list takes
//! four bytes for each valid row, and no line longer than [`LINE_LIMIT`] is read into memory.

use std::path::{Path, PathBuf};

use crate::{outcome::printable, wnid::Wnid};

mod lines;
mod rows;
mod unusable;

pub use unusable::Unusable;

use rows::Rows;

/// Maximum length of a line of the CSV, in bytes.
pub const LINE_LIMIT: u64 = 64 * 1024;
/// Maximum length of a row with its quoted line breaks, in bytes, so that a quote that is never
/// closed does not read the whole file into memory.
const ROW_LIMIT: u64 = 1024 * 1024;
/// Name of the column with the ids.
const COLUMN: &str = "wnid";
/// The value of rows that are left out: a class id without its digits.
const BARE_PREFIX: &str = "n";
/// Maximum number of characters that are kept of an invalid value.
const MAX_SHOWN: usize = 64;

/// The classes of a CSV file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClassList {
    /// The valid ids, each once, in the order of the file.
    pub wnids: Vec<Wnid>,
    /// The rows without a valid id.
    pub invalid: Vec<InvalidRow>,
    /// Rows that repeat an id.
    pub duplicates: u64,
    /// Rows that hold only `n`, which are left out.
    pub bare_prefixes: u64,
}

/// A row whose value is not a WordNet id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidRow {
    /// Line in which the row starts, counted from 1.
    pub line: u64,
    /// The value, escaped and truncated for logs; empty if the row has none.
    pub value: String,
    /// Number of valid ids before this row.
    pub after: usize,
}

/// Reasons for which a class list cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ClassListError {
    /// The header lacks the column. Other programs may depend on the wording.
    #[error("CSV file must contain '{COLUMN}' column (found: {found})")]
    MissingColumn {
        /// The columns of the header.
        found: String,
    },
    /// The file cannot be used.
    #[error("read {}: {why}", path.display())]
    Unusable {
        /// The path as given.
        path: PathBuf,
        /// The reason.
        #[source]
        why: Unusable,
    },
}

impl ClassList {
    /// Reads the `wnid` column of a CSV file.
    ///
    /// Accepts a byte order mark, any line ends, quotes, blank lines, spaces around values, any
    /// column order and rows of differing length. A line whose first character is `#` is a comment,
    /// with three exceptions that may be data: it is the header if it has a `wnid` cell, it is a
    /// row if that column holds a class id, and every line is a row if the header itself begins
    /// with `#`.
    ///
    /// # Errors
    /// [`ClassListError`]; its message is one sentence that names the remedy.
    pub fn read(path: &Path) -> Result<Self, ClassListError> {
        let unusable = |why| ClassListError::Unusable {
            path: path.to_owned(),
            why,
        };
        let rows = Rows::open(path).map_err(unusable)?;
        let Some(column) = rows.cells().position(|cell| cell == COLUMN) else {
            let columns: Vec<String> = rows.cells().collect();
            return Err(ClassListError::MissingColumn {
                found: shown(&columns.join(", ")),
            });
        };
        rows.collect(column).map_err(unusable)
    }

    /// The warning about rows that are left out, if there are any.
    pub fn warning(&self) -> Option<String> {
        let rows = match self.bare_prefixes {
            0 => return None,
            1 => "1 row that holds".to_owned(),
            rows => format!("{rows} rows that hold"),
        };
        Some(format!(
            "the class list has {rows} only \"{BARE_PREFIX}\", left out: \
             `grep -o '{BARE_PREFIX}[0-9]*'` also finds this letter in words; \
             `grep -oE '{BARE_PREFIX}[0-9]{{8}}'` finds only class ids"
        ))
    }

    /// All values, valid or not, in the order of the file. Without the rows that are left out.
    pub fn part_ids(&self) -> impl Iterator<Item = String> {
        let mut invalid = self.invalid.iter().peekable();
        let mut valid = self.wnids.iter().enumerate().peekable();
        std::iter::from_fn(move || {
            let position = valid.peek().map_or(usize::MAX, |(position, _)| *position);
            match invalid.next_if(|row| row.after <= position) {
                Some(row) => Some(row.value.clone()),
                None => valid.next().map(|(_, wnid)| wnid.to_string()),
            }
        })
    }
}

/// The value, escaped and truncated for logs.
fn shown(value: &str) -> String {
    // Escaping only lengthens a text. Truncating before it limits the work, truncating after it
    // limits the length.
    printable(&value.chars().take(MAX_SHOWN).collect::<String>())
        .chars()
        .take(MAX_SHOWN)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    fn read(csv: impl AsRef<[u8]>) -> Result<ClassList, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data.csv");
        std::fs::write(&path, csv).unwrap();
        ClassList::read(&path).map_err(|error| {
            error
                .to_string()
                .replace(&path.display().to_string(), "data.csv")
        })
    }

    fn ids(csv: impl AsRef<[u8]>) -> Vec<String> {
        let list = read(csv).unwrap();
        assert!(list.invalid.is_empty(), "{:?}", list.invalid);
        list.part_ids().collect()
    }

    fn bad(csv: &str) -> Vec<(u64, String)> {
        read(csv)
            .unwrap()
            .invalid
            .into_iter()
            .map(|row| (row.line, row.value))
            .collect()
    }

    #[test]
    fn all_variants_of_a_csv_have_the_same_ids() {
        for csv in [
            "wnid\nn02124075\nn00000001\n",
            "wnid\nn02124075\nn00000001",
            "\u{feff}wnid\r\nn02124075\r\nn00000001\r\n",
            "\u{feff}\"wnid\",\"name\"\n\"n02124075\",\"cat, Egyptian\"\n\"n00000001\",\"line\nbreak\"\n",
            "\n  \n,,\n wnid , name \n\n n02124075 , cat \n   \n,\n\tn00000001\t,\n\n",
            "# from a script\nwnid,name\n# cats\nn02124075,cat\n#n00000009,no\nn00000001,x\n",
            "#,wnid\n#1,n02124075\n#2,n00000001\n",
            "id,wnid\n# cats\n#1,n02124075\n# and, the rest\n2,n00000001\n#",
            "wnid,name\rn02124075,cat\rn00000001,x\r",
            "wnid,name\nn02124075,\"see\nalso n00000009, or\nn0\"\nn00000001,\"\n\"",
            "name,wnid,more\ncat,n02124075,1,2,3\nx,n00000001\n",
            "id, \"wnid\"\n1, \"n02124075\"\n2, \" n00000001 \"\n",
            "wnid\nn02124075\nn00000001\nn02124075\n",
        ] {
            assert_eq!(ids(csv), ["n02124075", "n00000001"], "{csv:?}");
        }
        assert_eq!(ids(b"wnid,name\nn02124075,caf\xe9\n"), ["n02124075"]);
    }

    #[test]
    fn a_repeated_id_is_one_class_and_is_counted() {
        assert_eq!(
            read("wnid\nn00000001\nn00000002\nn00000001\nn00000001\n")
                .unwrap()
                .duplicates,
            2
        );
    }

    #[test]
    fn rows_that_hold_only_the_prefix_are_left_out_and_counted() {
        for (csv, count) in [
            ("wnid\nn02124075\nn\nn\nn00000001\n", 2),
            ("wnid\nn\nn02124075\nn00000001\nn", 2),
            (
                "wnid,name\r\n n ,x\r\nn02124075,\r\n\"n\"\r\nn00000001\r\n",
                2,
            ),
            ("name,wnid\n#1,n02124075\n# n,n\nx,n\nx,n00000001\n", 1),
            ("name,wnid\nn,n02124075\nn,n00000001\n", 0),
        ] {
            assert_eq!(ids(csv), ["n02124075", "n00000001"], "{csv:?}");
            assert_eq!(read(csv).unwrap().bare_prefixes, count, "{csv:?}");
        }
        assert_eq!(
            bad("wnid\nn\nN\nnn\nn1\nn00000001\n"),
            [(3, "N"), (4, "nn"), (5, "n1")].map(|(line, value)| (line, value.to_owned()))
        );
    }

    #[test]
    fn the_warning_counts_the_rows_that_are_left_out() {
        let warning = |csv| read(csv).unwrap().warning();
        assert_eq!(warning("wnid\nn00000001\nN\n"), None);
        let said = warning("wnid\nn\nn00000001\n").unwrap();
        assert!(
            said.contains("1 row that holds only \"n\", left out"),
            "{said}"
        );
        let said = warning("wnid\nn\nn00000001\nn\n").unwrap();
        assert!(
            said.contains("2 rows that hold only \"n\", left out"),
            "{said}"
        );
    }

    #[test]
    fn an_invalid_row_is_kept_with_its_line_and_position() {
        let csv = "wnid,name\n\n# c\nN02124075,x\r\nn00000001,\"a\nb\nc\"\n\"../etc\",\"x\ny\"\n,only a name\n\nn00000002\n-rf";
        let found = [(4, "N02124075"), (8, "../etc"), (10, ""), (13, "-rf")];
        assert_eq!(
            bad(csv),
            found.map(|(line, value)| (line, value.to_owned()))
        );
        let order: Vec<_> = read(csv).unwrap().part_ids().collect();
        assert_eq!(
            order,
            ["N02124075", "n00000001", "../etc", "", "n00000002", "-rf"]
        );
        assert_eq!(bad("a,wnid\n1,n00000001\nshort\n"), [(3, String::new())]);
        for last in ["end", "end\n", "\"end\"", "end\n\n"] {
            assert_eq!(
                bad(&format!("wnid\nn00000001\n{last}")),
                [(3, "end".to_owned())],
                "{last:?}"
            );
        }
    }

    #[test]
    fn data_that_begins_with_a_comment_mark_is_kept() {
        assert_eq!(
            bad("#,wnid\n#1,n00000001\n#2,cat\n# x\n"),
            [(3, "cat".to_owned()), (4, String::new())]
        );
        assert_eq!(
            bad("id,wnid\n\"#1\",cat\n2,n00000001\n"),
            [(2, "cat".to_owned())]
        );
        assert_eq!(
            bad("wnid,id\n \"#\"x\nn00000001\n#n00000002\n"),
            [(2, "\"#\"x".to_owned())]
        );
        assert_eq!(
            bad("wnid,id\n#x,\"a\nb\"\nn00000001\n"),
            [(2, "#x".to_owned())],
            "more than a line is no comment"
        );
    }

    #[test]
    fn an_invalid_value_is_escaped_and_truncated() {
        let csv = format!("wnid\nn00000001\n\u{1b}[2J\0\n{}\n", "ü".repeat(300));
        assert_eq!(
            bad(&csv),
            [(3, "\\u{1b}[2J\\u{0}".to_owned()), (4, "ü".repeat(64))]
        );
    }

    #[test]
    fn the_error_for_a_missing_column_lists_the_columns() {
        assert_eq!(
            read("id,name\n1,x\n").unwrap_err(),
            "CSV file must contain 'wnid' column (found: id, name)"
        );
        assert_eq!(
            read("n02124075\n").unwrap_err(),
            "CSV file must contain 'wnid' column (found: n02124075)"
        );
    }

    #[test]
    fn a_file_without_a_valid_row_is_refused() {
        let empty = "read data.csv: it is empty; it needs a header with a 'wnid' column and one row per class";
        for csv in ["", "\u{feff}", "\n\n", " \n,\n# c\n"] {
            assert_eq!(read(csv).unwrap_err(), empty);
        }
        assert_eq!(
            read("wnid\n\n").unwrap_err(),
            "read data.csv: it has a header and no rows; add one row per class"
        );
        assert_eq!(
            read("wnid\n\nx\ny\n").unwrap_err(),
            "read data.csv: none of its 2 rows holds a class id like n02124075; the first is line 3: \"x\""
        );
        assert_eq!(
            read("wnid\n\nx\n").unwrap_err(),
            "read data.csv: its only row does not hold a class id like n02124075; it is line 3: \"x\""
        );
        for (csv, first) in [
            ("wnid\nn\nx\n", "line 2: \"n\""),
            ("wnid\nx\nn\n", "line 2: \"x\""),
            ("wnid\n\nn\nn\n", "line 3: \"n\""),
        ] {
            assert_eq!(
                read(csv).unwrap_err(),
                format!(
                    "read data.csv: none of its 2 rows holds a class id like n02124075; the first is {first}"
                )
            );
        }
    }

    #[test]
    fn a_path_that_is_no_text_file_is_refused_without_blocking() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        assert!(matches!(
            ClassList::read(&path),
            Err(ClassListError::Unusable {
                why: Unusable::Missing,
                ..
            })
        ));
        assert!(matches!(
            ClassList::read(folder.path()),
            Err(ClassListError::Unusable {
                why: Unusable::Directory,
                ..
            })
        ));
        let socket = folder.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert!(matches!(
            ClassList::read(&socket),
            Err(ClassListError::Unusable {
                why: Unusable::NotAFile,
                ..
            })
        ));
        let fifo = folder.path().join("fifo");
        assert!(
            std::process::Command::new("mkfifo")
                .arg(&fifo)
                .status()
                .unwrap()
                .success()
        );
        assert!(matches!(
            ClassList::read(&fifo),
            Err(ClassListError::Unusable {
                why: Unusable::NotAFile,
                ..
            })
        ));
        assert_eq!(
            read([0x1f, 0x8b, 8, 0]).unwrap_err(),
            "read data.csv: it is gzip-compressed: unpack it first"
        );
        assert_eq!(
            read(b"\xff\xfew\0n\0").unwrap_err(),
            "read data.csv: it is UTF-16 text: save it as UTF-8"
        );
    }

    #[test]
    fn a_line_beyond_the_limit_is_refused_with_its_number() {
        let fits = format!("wnid,x\nn00000001,{}\n", "x".repeat(65_525));
        assert_eq!(fits.lines().nth(1).unwrap().len(), 65_535);
        assert_eq!(ids(&fits), ["n00000001"]);
        let long = format!("wnid,x\n\nn00000001,{}\n", "x".repeat(70_000));
        assert_eq!(
            read(long).unwrap_err(),
            "read data.csv: line 3 is longer than 65536 bytes; is this the right file?"
        );
    }

    #[test]
    fn an_open_quote_is_reported_with_its_line() {
        let mut csv = "wnid,x\nn00000001,\"oops\n".to_owned();
        for number in 2..150_000 {
            writeln!(csv, "n{number:08}").unwrap();
        }
        assert!(read(csv).unwrap_err().ends_with("is a quote left open?"));
        for (csv, line) in [
            ("wnid,x\nn00000001,\"oops\nn00000002,b\n", 2),
            (
                "wnid,x\n\nn00000001,\"oops\nn00000002,b\nn00000003,\"c\nn00000004",
                3,
            ),
            ("wnid,x\nn00000001,a\nn00000002,\"oops", 3),
            ("wnid,x\nn00000001,a\nn00000002,\"oops\n", 3),
            (
                "wnid,x\r\nn00000001,\"oops\r\nn00000002,\"b\r\nn00000003,c\r\n",
                2,
            ),
            ("x,wnid\n1,n00000001\n2,\"n00000002\n3,\"n00000003\n", 3),
            ("wnid,x\n# not \"so\",\"bad\nn00000001,\"b\n", 2),
            ("\"wnid\nn00000001\n", 1),
            ("x,wnid\n\"1,n00000001\n2\",n00000002\n", 2),
            ("wnid,x\rn00000001,\"oops\rn00000002,\"b\r", 1),
            ("wnid\nn00000001\n\"n00000002\n\"\"n00000003\n\"", 3),
        ] {
            let said = format!(
                "read data.csv: the row in line {line} opens a quote (\") and does not close it there, so that it swallows \
                 the rows below; mend that line"
            );
            assert_eq!(read(csv).unwrap_err(), said, "{csv:?}");
        }
    }
}
