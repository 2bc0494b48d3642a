//! Escapes log lines: each line reaches the log and the screen as one line of printable characters,
//! even if it quotes text from elsewhere.

use std::io::{self, Write};

use crate::outcome::printable;

/// Passes each line to a function, with its unprintable characters escaped.
pub(super) struct Escaped<F>(F);

/// Writers of a layer that pass their lines to `write`.
pub(super) fn escaped<F: Fn(&[u8]) + Clone>(write: F) -> impl Fn() -> Escaped<F> {
    move || Escaped(write.clone())
}

impl<F: Fn(&[u8])> Write for Escaped<F> {
    /// Accepts one line, as the formatter of log lines writes it.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let escaped = match text.strip_suffix('\n') {
            Some(text) => printable(text) + "\n",
            None => printable(&text),
        };
        (self.0)(escaped.as_bytes());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn a_line_stays_one_line_of_printable_characters() {
        let written = RefCell::new(Vec::new());
        let mut writer = escaped(|line: &[u8]| written.borrow_mut().extend_from_slice(line))();
        writer
            .write_all("INFO worker \u{1b}[2J\u{202e}\nERROR forged\u{9b}31m\r\n".as_bytes())
            .unwrap();
        writer.write_all("Grüße ✓\n".as_bytes()).unwrap();
        let text = String::from_utf8(written.take()).unwrap();
        assert_eq!(
            text,
            "INFO worker \\u{1b}[2J\\u{202e}\\nERROR forged\\u{9b}31m\\r\nGrüße ✓\n"
        );
    }
}
