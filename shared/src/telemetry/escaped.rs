//! Escapes log lines: each line reaches the log and the screen as one line of printable characters,
//! even if it quotes text from elsewhere.

use std::io::{self, Write};

use tracing_subscriber::fmt::MakeWriter;

use crate::outcome::printable;

/// A writer that escapes unprintable characters and passes the text to another writer.
#[derive(Debug, Clone)]
pub(super) struct Escaped<W>(pub(super) W);

impl<'writer, W: MakeWriter<'writer>> MakeWriter<'writer> for Escaped<W> {
    type Writer = Escaped<W::Writer>;

    fn make_writer(&'writer self) -> Self::Writer {
        Escaped(self.0.make_writer())
    }
}

impl<W: Write> Write for Escaped<W> {
    /// Accepts one line, as the formatter of log lines writes it.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let (text, end) = text
            .strip_suffix('\n')
            .map_or((&*text, ""), |text| (text, "\n"));
        self.0.write_all((printable(text) + end).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_stays_one_line_of_printable_characters() {
        let mut written = Escaped(Vec::new());
        written
            .write_all("INFO worker \u{1b}[2J\u{202e}\nERROR forged\u{9b}31m\r\n".as_bytes())
            .unwrap();
        written.write_all("Grüße ✓\n".as_bytes()).unwrap();
        let text = String::from_utf8(written.0).unwrap();
        assert_eq!(
            text,
            "INFO worker \\u{1b}[2J\\u{202e}\\nERROR forged\\u{9b}31m\\r\nGrüße ✓\n"
        );
    }
}
