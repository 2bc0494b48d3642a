//! `Lines`: a reader that counts lines and enforces length limits for the CSV parser, which does
//! neither.

use std::io::{self, BufRead, Read};

use super::{LINE_LIMIT, ROW_LIMIT, Unusable};

/// Content of an artificial row after the last row of the file. The CSV parser also accepts a file
/// that ends inside quotes. If this text is returned as a row of its own, no quotes are open.
pub(super) const END: &str = "end";

/// Returns at most one line per read, and [`END`] after the last one. Counts lines, and fails at a
/// line or row that is too long. The buffer of each read has room for [`END`]: the CSV parser's has
/// several KiB.
pub(super) struct Lines<R> {
    inner: R,
    /// Number of the current line, from 1; 0 before the first one. The artificial lines of
    /// [`Lines::end`] count too.
    pub(super) line_number: u64,
    /// First byte of the current line.
    pub(super) first_of_line: u8,
    /// Whether the line end that completes the last line was returned.
    sent_final_line_end: bool,
    /// Whether [`END`] was returned.
    pub(super) ended: bool,
    /// Bytes of the current line that were returned.
    in_line: u64,
    /// Bytes that were returned since the caller has set this to 0, which it does before each row.
    pub(super) in_row: u64,
    /// Why the last read failed, if a line or row was too long.
    pub(super) refused: Option<Unusable>,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(inner: R) -> Self {
        Self {
            inner,
            line_number: 0,
            first_of_line: 0,
            sent_final_line_end: false,
            ended: false,
            in_line: 0,
            in_row: 0,
            refused: None,
        }
    }

    /// Ends the input in two calls. The first returns a line end, which completes the last row
    /// unless quotes are open. The second returns [`END`], which is a row of its own unless quotes
    /// are open. Later calls return nothing.
    fn end(&mut self, buffer: &mut [u8]) -> usize {
        if self.ended {
            return 0;
        }
        let end = if self.sent_final_line_end { END } else { "\n" };
        self.line_number += u64::from(self.in_line == 0);
        self.in_line = 0;
        self.ended = self.sent_final_line_end;
        self.sent_final_line_end = true;
        buffer[..end.len()].copy_from_slice(end.as_bytes());
        end.len()
    }
}

impl<R: BufRead> Read for Lines<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.inner.fill_buf()?;
        if available.is_empty() {
            return Ok(self.end(buffer));
        }
        let available = &available[..available.len().min(buffer.len())];
        let end = available
            .iter()
            .position(|byte| *byte == b'\n')
            .map(|position| position + 1);
        let length = end.unwrap_or(available.len());
        buffer[..length].copy_from_slice(&available[..length]);
        self.inner.consume(length);
        if self.in_line == 0 {
            self.line_number += 1;
            self.first_of_line = buffer[0];
        }
        self.in_line += length as u64;
        self.in_row += length as u64;
        if self.in_line > LINE_LIMIT {
            self.refused = Some(Unusable::LongLine {
                line: self.line_number,
            });
        } else if self.in_row > ROW_LIMIT {
            self.refused = Some(Unusable::LongRow {
                line: self.line_number,
            });
        }
        if self.refused.is_some() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if end.is_some() {
            self.in_line = 0;
        }
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    #[test]
    fn a_gigabyte_without_a_line_end_is_not_read() {
        // The source generates its bytes and holds none of them in memory.
        let endless = BufReader::new(io::repeat(b'x').take(1 << 30));
        let mut lines = Lines::new(endless);
        let read = io::copy(&mut lines, &mut io::sink());
        assert!(read.is_err() && lines.in_line <= LINE_LIMIT + 8192);
    }
}
