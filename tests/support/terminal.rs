//! A terminal: `one_host/on_terminal.py` runs a program on a real one, and an emulation shows what
//! is on its screen.

use std::path::Path;

use vt100::Parser;

/// Columns and rows at the start, and after SIGUSR1.
const SIZES: [(u16, u16); 2] = [(100, 24), (40, 8)];
/// The mark in the output where the size changes.
const RESIZED: &str = "\u{1b}]0;resized\u{7}";
const SCROLLBACK: usize = 10_000;

/// The words before a program's own that run it on a terminal.
pub fn on_terminal(mode: &str) -> [String; 3] {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("one_host/on_terminal.py");
    [
        "python3".to_owned(),
        script.display().to_string(),
        mode.to_owned(),
    ]
}

/// A screen after some output of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The rows from the top to the last one that is not empty.
    pub rows: Vec<String>,
    /// Row and column of the cursor, from 0.
    pub cursor: (usize, usize),
    /// Whether the program has hidden the cursor, or switched to the alternate screen.
    pub is_changed: bool,
}

impl Shown {
    /// The screen after the recorded output.
    pub fn after(recorded: &str) -> Self {
        let (columns, rows) = SIZES[0];
        let mut parser = Parser::new(rows, columns, SCROLLBACK);
        for (at, text) in recorded.split(RESIZED).enumerate() {
            if at > 0 {
                let (columns, rows) = SIZES[1];
                parser.screen_mut().set_size(rows, columns);
            }
            parser.process(text.as_bytes());
        }
        let screen = parser.screen();
        let (row, column) = screen.cursor_position();
        let rows = screen.rows(0, screen.size().1);
        let mut rows: Vec<String> = rows.map(|row| row.trim_end().to_owned()).collect();
        while rows.last().is_some_and(String::is_empty) {
            rows.pop();
        }
        Self {
            rows,
            cursor: (row.into(), column.into()),
            is_changed: screen.hide_cursor() || screen.alternate_screen(),
        }
    }

    /// The rows that contain all of these words.
    pub fn rows_with(&self, words: &[&str]) -> Vec<&str> {
        let rows = self.rows.iter().map(String::as_str);
        rows.filter(|row| words.iter().all(|word| row.contains(word)))
            .collect()
    }

    /// Panics if anything but whole lines remains, or if the cursor is not below the last one.
    #[track_caller]
    pub fn assert_left_clean(&self) {
        assert!(!self.is_changed, "{self:?}");
        assert_eq!(self.cursor, (self.rows.len(), 0), "{self:#?}");
        for remains in [" left", "waiting [", "B/s"] {
            assert_eq!(self.rows_with(&[remains]), [""; 0], "{self:#?}");
        }
    }
}
