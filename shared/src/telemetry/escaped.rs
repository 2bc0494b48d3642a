//! Escapes log lines: each line reaches the log and the screen as one line of printable characters,
//! even if it quotes text from elsewhere.

use std::{
    fmt::Write as _,
    io::{self, Write},
};

use crate::outcome::{is_printable, printable};

/// How an unprintable character is escaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Escape {
    /// As in Rust, e.g. `\u{202e}`.
    Text,
    /// As JSON demands (RFC 8259 §7), e.g. `\u202e`. The line is a JSON object, which has such
    /// characters only inside strings.
    Json,
}

/// Passes each line to a function, with its unprintable characters escaped.
pub(super) struct Escaped<F>(Escape, F);

/// Writers of a layer that pass their lines to `write`.
pub(super) fn escaped<F: Fn(&[u8]) + Clone>(escape: Escape, write: F) -> impl Fn() -> Escaped<F> {
    move || Escaped(escape, write.clone())
}

impl<F: Fn(&[u8])> Write for Escaped<F> {
    /// Accepts one line, as the formatter of log lines writes it.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let escape = match self.0 {
            Escape::Text => printable,
            Escape::Json => json,
        };
        let escaped = match text.strip_suffix('\n') {
            Some(text) => escape(text) + "\n",
            None => escape(&text),
        };
        (self.1)(escaped.as_bytes());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Escapes unprintable characters as JSON does, beyond the 16-bit range as two surrogates.
fn json(line: &str) -> String {
    let mut escaped = String::with_capacity(line.len());
    for one in line.chars() {
        if is_printable(one) {
            escaped.push(one);
        } else {
            for unit in one.encode_utf16(&mut [0; 2]) {
                write!(escaped, "\\u{unit:04x}").expect("a string can be written");
            }
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn a_line_stays_one_line_of_printable_characters() {
        let written = RefCell::new(Vec::new());
        let mut writer = escaped(Escape::Text, |line: &[u8]| {
            written.borrow_mut().extend_from_slice(line);
        })();
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

    #[test]
    fn a_json_line_stays_json_and_has_the_same_text() {
        let text = "rtl \u{202e} tag \u{e0041} c1 \u{9b} Grüße ✓";
        let line = serde_json::json!({ "message": text }).to_string();
        let written = RefCell::new(Vec::new());
        let mut writer = escaped(Escape::Json, |line: &[u8]| {
            written.borrow_mut().extend_from_slice(line);
        })();
        writer.write_all(format!("{line}\n").as_bytes()).unwrap();
        let written = String::from_utf8(written.take()).unwrap();
        assert!(
            written.contains("\\u202e tag \\udb40\\udc41 c1 \\u009b Grüße ✓"),
            "{written}"
        );
        let parsed: serde_json::Value = serde_json::from_str(&written).unwrap();
        assert_eq!(parsed["message"], text);
    }
}
