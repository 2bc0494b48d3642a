//! Reasons for which a file is no usable class list.

use std::io;

use super::{COLUMN, LINE_LIMIT, ROW_LIMIT};

/// Why a file cannot be used. Each message names the remedy.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// The path does not exist.
    #[error("there is no such file; name the CSV file with the class ids")]
    Missing,
    /// This user may not read the file.
    #[error("permission denied; make it readable for the user that this program runs as")]
    Forbidden,
    /// The operating system reports another error.
    #[error(transparent)]
    Io(io::Error),
    /// The path is a folder.
    #[error("it is a folder; name the CSV file in it")]
    Directory,
    /// The path is a pipe, socket or device, which might never end.
    #[error("it is no regular file; save the list to a file first")]
    NotAFile,
    /// The file starts with gzip's magic number.
    #[error("it is gzip-compressed: unpack it first")]
    Gzip,
    /// The file starts with the byte order mark of UTF-16.
    #[error("it is UTF-16 text: save it as UTF-8")]
    Utf16,
    /// The file has no header.
    #[error("it is empty; it needs a header with a '{COLUMN}' column and one row per class")]
    Empty,
    /// A line exceeds [`LINE_LIMIT`].
    #[error("line {line} is longer than {LINE_LIMIT} bytes; is this the right file?")]
    LongLine {
        /// Line number, counted from 1.
        line: u64,
    },
    /// A row with its quoted line breaks exceeds 1 MiB.
    #[error(
        "the row that ends in line {line} is longer than {ROW_LIMIT} bytes; is a quote left open?"
    )]
    LongRow {
        /// Line in which the limit was exceeded, counted from 1.
        line: u64,
    },
    /// A quoted field extends to the end of the file, or contains rows of the list.
    #[error(
        "the row in line {line} opens a quote (\") and does not close it there, so that it \
         swallows the rows below; mend that line"
    )]
    OpenQuote {
        /// Line in which the row starts, counted from 1.
        line: u64,
    },
    /// The file has a header and no rows.
    #[error("it has a header and no rows; add one row per class")]
    NoRows,
    /// The file has rows, but none with a valid id.
    #[error(
        "{} a class id like n02124075; {} line {line}: \"{value}\"",
        if *.bad == 1 { "its only row does not hold".to_owned() } else { format!("none of its {bad} rows holds") },
        if *.bad == 1 { "it is" } else { "the first is" },
    )]
    NoValidRow {
        /// Number of rows.
        bad: u64,
        /// Line of the first row.
        line: u64,
        /// Value of the first row.
        value: String,
    },
}

impl From<io::Error> for Unusable {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Missing,
            io::ErrorKind::PermissionDenied => Self::Forbidden,
            _ => Self::Io(error),
        }
    }
}
