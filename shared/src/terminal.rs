//! The terminal for the progress bars: frames are composed in memory and queued as a whole, and no
//! call fails.
//!
//! The library of the progress bars panics if the terminal fails, e.g. with EIO after it was
//! closed.

use std::{
    io::{self, Write as _},
    mem,
    sync::{Mutex, MutexGuard},
};

use indicatif::TermLike;

use crate::{lock::lock, output::Output};

/// Columns and rows of a terminal that does not report its size.
const DEFAULT_SIZE: (u16, u16) = (80, 24);

/// Standard error, for the progress bars.
#[derive(Debug)]
pub(crate) struct Terminal {
    output: Output,
    frame: Mutex<Vec<u8>>,
}

impl Terminal {
    pub(crate) fn new(output: Output) -> Self {
        Self {
            output,
            frame: Mutex::default(),
        }
    }

    fn frame(&self) -> MutexGuard<'_, Vec<u8>> {
        lock(&self.frame)
    }

    fn add(&self, text: &str) -> io::Result<()> {
        self.frame().write_all(text.as_bytes())
    }

    fn move_cursor(&self, cells: usize, direction: char) -> io::Result<()> {
        if cells == 0 {
            return Ok(());
        }
        write!(self.frame(), "\u{1b}[{cells}{direction}")
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
        self.move_cursor(lines, 'A')
    }

    fn move_cursor_down(&self, lines: usize) -> io::Result<()> {
        self.move_cursor(lines, 'B')
    }

    fn move_cursor_right(&self, columns: usize) -> io::Result<()> {
        self.move_cursor(columns, 'C')
    }

    fn move_cursor_left(&self, columns: usize) -> io::Result<()> {
        self.move_cursor(columns, 'D')
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.add(text)?;
        self.add("\n")
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.add(text)
    }

    fn clear_line(&self) -> io::Result<()> {
        self.add("\r\u{1b}[2K")
    }

    fn flush(&self) -> io::Result<()> {
        let frame = mem::take(&mut *self.frame());
        self.output.write_frame(&frame);
        Ok(())
    }
}
