//! The terminal for the progress bars: frames are composed in memory and queued as a whole, and no
//! call fails.
//!
//! The library of the progress bars panics if the terminal fails, e.g. with EIO after it was
//! closed.

use std::{
    fmt, io,
    sync::{Mutex, MutexGuard, PoisonError},
};

use indicatif::TermLike;

use crate::output::Output;

/// Columns and rows of a terminal that does not report its size.
const DEFAULT_SIZE: (u16, u16) = (80, 24);

/// Standard error, for the progress bars.
pub(crate) struct Terminal {
    output: Output,
    frame: Mutex<String>,
}

impl Terminal {
    pub(crate) fn new(output: Output) -> Self {
        Self {
            output,
            frame: Mutex::default(),
        }
    }

    fn frame(&self) -> MutexGuard<'_, String> {
        self.frame.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, text: &str) {
        self.frame().push_str(text);
    }

    fn move_cursor(&self, cells: usize, direction: char) {
        if cells > 0 {
            self.add(&format!("\u{1b}[{cells}{direction}"));
        }
    }
}

/// Columns and rows of the terminal.
fn size() -> (u16, u16) {
    let reported = rustix::termios::tcgetwinsize(io::stderr()).ok();
    let size = reported.map(|size| (size.ws_col, size.ws_row));
    size.filter(|(columns, rows)| *columns > 0 && *rows > 0)
        .unwrap_or(DEFAULT_SIZE)
}

impl TermLike for Terminal {
    fn width(&self) -> u16 {
        size().0
    }

    fn height(&self) -> u16 {
        size().1
    }

    fn move_cursor_up(&self, lines: usize) -> io::Result<()> {
        self.move_cursor(lines, 'A');
        Ok(())
    }

    fn move_cursor_down(&self, lines: usize) -> io::Result<()> {
        self.move_cursor(lines, 'B');
        Ok(())
    }

    fn move_cursor_right(&self, columns: usize) -> io::Result<()> {
        self.move_cursor(columns, 'C');
        Ok(())
    }

    fn move_cursor_left(&self, columns: usize) -> io::Result<()> {
        self.move_cursor(columns, 'D');
        Ok(())
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.add(text);
        self.add("\n");
        Ok(())
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.add(text);
        Ok(())
    }

    fn clear_line(&self) -> io::Result<()> {
        self.add("\r\u{1b}[2K");
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.output
            .write_frame(std::mem::take(&mut *self.frame()).as_bytes());
        Ok(())
    }
}

impl fmt::Debug for Terminal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Terminal").finish_non_exhaustive()
    }
}
