//! `Lines`: a reader that counts lines and enforces length limits for the CSV parser, which does
//! neither.

use std::io::{self, BufRead, Read};

use super::{LINE_LIMIT, ROW_LIMIT, Unusable};

/// Text of an extra row that follows the last row; see [`Lines::end`].
pub(super) const END: &str = "end";

/// Returns at most one line per read, and [`END`] after the last one. Counts lines, and fails at a
/// line or row that is too long.
pub(super) struct Lines<R> {
    inner: R,
    /// Number of lines of which at least one byte was returned.
    pub(super) begun: u64,
    pub(super) first_of_line: u8,
    /// Whether the line end that completes the last line was returned.
    closed: bool,
    /// Whether [`END`] was returned.
    pub(super) ended: bool,
    in_line: u64,
    pub(super) in_row: u64,
    /// Why the last read failed, if a line or row was too long.
    pub(super) refused: Option<Unusable>,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(inner: R) -> Self {
        Self {
            inner,
            begun: 0,
            first_of_line: 0,
            closed: false,
            ended: false,
            in_line: 0,
            in_row: 0,
            refused: None,
        }
    }

    /// Returns a line end, which completes the last row unless it is inside quotes, and at the next
    /// call [`END`], which is a row of its own only outside quotes.
    fn end(&mut self, buffer: &mut [u8]) -> usize {
        if self.ended {
            return 0;
        }
        let end = if self.closed { END } else { "\n" };
        self.begun += u64::from(self.in_line == 0);
        self.in_line = 0;
        self.ended = self.closed;
        self.closed = true;
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
            self.begun += 1;
            self.first_of_line = buffer[0];
        }
        self.in_line += length as u64;
        self.in_row += length as u64;
        if self.in_line > LINE_LIMIT {
            self.refused = Some(Unusable::LongLine { line: self.begun });
        } else if self.in_row > ROW_LIMIT {
            self.refused = Some(Unusable::LongRow { line: self.begun });
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
