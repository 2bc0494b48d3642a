//! `Rows`: the rows of a CSV file without the blank ones, each with the line in which it starts.

use std::{
    collections::HashSet,
    fs::File,
    io::{BufRead as _, BufReader},
    path::Path,
};

use csv::ByteRecord;

use super::{
    BARE_PREFIX, COLUMN, ClassList, InvalidRow, Unusable,
    lines::{END, Lines},
    shown,
};
use crate::wnid::Wnid;

/// The rows of a file; methods about a row mean the current one.
pub(super) struct Rows {
    csv: csv::Reader<Lines<BufReader<File>>>,
    row: ByteRecord,
}

impl Rows {
    /// Opens a regular file of text, and reads as far as its header.
    pub(super) fn open(path: &Path) -> Result<Self, Unusable> {
        // Opening a pipe can block forever, so the kind is checked first.
        let kind = std::fs::metadata(path)?.file_type();
        if kind.is_dir() {
            return Err(Unusable::Directory);
        }
        if !kind.is_file() {
            return Err(Unusable::NotAFile);
        }
        let mut file = BufReader::new(File::open(path)?);
        match file.fill_buf()? {
            [0x1f, 0x8b, ..] => return Err(Unusable::Gzip),
            [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => return Err(Unusable::Utf16),
            [0xef, 0xbb, 0xbf, ..] => file.consume(3),
            _ => {}
        }
        let csv = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .from_reader(Lines::new(file));
        let mut rows = Self {
            csv,
            row: ByteRecord::new(),
        };
        while rows.next()?.is_some() {
            if !rows.is_marked() || rows.cells().any(|cell| cell == COLUMN) {
                return Ok(rows);
            }
        }
        Err(Unusable::Empty)
    }

    /// Reads all rows after the header.
    pub(super) fn collect(mut self, column: usize) -> Result<ClassList, Unusable> {
        let marks_are_data = self.is_marked();
        let mut list = ClassList::default();
        let mut seen = HashSet::new();
        let mut first_invalid = None;
        while let Some(line) = self.next()? {
            let value = value(self.row.get(column).unwrap_or_default());
            match value.parse::<Wnid>() {
                Ok(wnid) if seen.insert(wnid) => list.wnids.push(wnid),
                Ok(_) => list.duplicates += 1,
                Err(_) if !marks_are_data && self.is_marked() => {}
                Err(_) => {
                    let row = InvalidRow {
                        line,
                        value: shown(&value),
                        after: list.wnids.len(),
                    };
                    first_invalid.get_or_insert_with(|| row.clone());
                    if value == BARE_PREFIX {
                        list.bare_prefixes += 1;
                    } else {
                        list.invalid.push(row);
                    }
                }
            }
        }
        match first_invalid {
            _ if !list.wnids.is_empty() => Ok(list),
            None => Err(Unusable::NoRows),
            Some(InvalidRow { line, value, .. }) => Err(Unusable::NoValidRow {
                bad: list.invalid.len() as u64 + list.bare_prefixes,
                line,
                value,
            }),
        }
    }

    /// The values of the row.
    pub(super) fn cells(&self) -> impl Iterator<Item = String> {
        self.row.iter().map(value)
    }

    /// Whether the row is a single line that begins with an unquoted `#`.
    fn is_marked(&self) -> bool {
        let first = self.row.get(0).unwrap_or_default();
        first.starts_with(b"#") && self.csv.get_ref().first_of_line == b'#' && self.breaks() == 0
    }

    /// Reads the next row that is not blank, and returns the line in which it starts.
    fn next(&mut self) -> Result<Option<u64>, Unusable> {
        loop {
            self.csv.get_mut().in_row = 0;
            let read = self.csv.read_byte_record(&mut self.row);
            let lines = self.csv.get_mut();
            let more = read.map_err(|error| {
                let refused = lines.refused.take();
                refused.unwrap_or_else(|| Unusable::Io(error.into()))
            })?;
            let lines = self.csv.get_ref();
            // The csv crate reports the line after the previous row, without skipping blank lines.
            // `Lines` returns one line at a time, so its count is the line in which the row ends.
            let line = lines.line_number - self.breaks();
            if lines.ended && self.row == [END][..] {
                return Ok(None);
            }
            // If the end is not a row of its own, it is inside quotes that were not closed.
            if !more || lines.ended || self.holds_rows() {
                return Err(Unusable::OpenQuote { line });
            }
            if !self.row.iter().all(|field| field.trim_ascii().is_empty()) {
                return Ok(Some(line));
            }
        }
    }

    fn breaks(&self) -> u64 {
        let bytes = self.row.iter().flatten();
        bytes.filter(|byte| **byte == b'\n').count() as u64
    }

    /// Whether a field of several lines probably contains rows because of an open quote: without
    /// its quotes, one of its cells after the first would be a class id.
    fn holds_rows(&self) -> bool {
        let is_break = |byte: &u8| matches!(byte, b'\n' | b'\r');
        let is_class = |cell: &[u8]| {
            let text = String::from_utf8_lossy(cell);
            text.trim_matches(|character: char| character == '"' || character.is_whitespace())
                .parse::<Wnid>()
                .is_ok()
        };
        self.row.iter().any(|field| {
            field.iter().any(is_break)
                && field
                    .split(|byte| is_break(byte) || *byte == b',')
                    .skip(1)
                    .any(is_class)
        })
    }
}

/// A field without the surrounding spaces, and without quotes that follow a space.
fn value(field: &[u8]) -> String {
    let text = String::from_utf8_lossy(field);
    let text = text.trim();
    let unquoted = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'));
    unquoted.unwrap_or(text).trim().to_owned()
}
