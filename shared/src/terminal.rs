//! The terminal: a block of lines at the bottom that changes in place, and log lines above it.
//!
//! Each change is queued as one text, so no log line appears inside the block. If the queue refuses
//! a text, the state stays as it was. The cursor rests below the block, and no mode of the terminal
//! is changed: a program that is killed leaves nothing to repair.

use std::{
    fmt::Write as _,
    io,
    sync::{Mutex, MutexGuard, TryLockError},
};

use unicode_width::UnicodeWidthChar as _;

use crate::{lock::lock, outcome::printable, output::Output};

/// Size of a terminal that does not report it.
const DEFAULT_SIZE: Size = Size {
    columns: 80,
    rows: 24,
};
/// Erases from the cursor to the end of the screen.
const ERASE_BELOW: &str = "\u{1b}[J";
/// Erases from the cursor to the end of the row.
const ERASE_REST: &str = "\u{1b}[K";

/// Columns and rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Cells of a row.
    pub columns: usize,
    /// Rows.
    pub rows: usize,
}

/// How a line is emphasized on a terminal with colours.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Emphasis {
    /// In the terminal's own colour.
    #[default]
    None,
    /// Not important.
    Faint,
    /// Something is slow or waits for an operator.
    Attention,
    /// Something is lost.
    Trouble,
}

/// A line of the block. Unprintable characters are escaped, and what is wider than the terminal is
/// cut off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The text.
    pub text: String,
    /// Its colour.
    pub emphasis: Emphasis,
}

/// Standard error on a terminal.
#[derive(Debug)]
pub struct Terminal {
    output: Output,
    has_colors: bool,
    block: Mutex<Block>,
}

/// The block on the screen.
#[derive(Debug, Default)]
struct Block {
    lines: Vec<DrawnLine>,
    /// Columns of the terminal when it was drawn.
    columns: usize,
    /// Nothing is drawn.
    is_hidden: bool,
}

/// A line as it was written.
#[derive(Debug, PartialEq, Eq)]
struct DrawnLine {
    /// With escape codes of its colour.
    text: String,
    /// Number of cells.
    width: usize,
}

impl Line {
    /// A line without emphasis.
    pub fn plain(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            emphasis: Emphasis::None,
        }
    }

    /// A line with emphasis.
    pub fn emphasized(text: impl Into<String>, emphasis: Emphasis) -> Self {
        Self {
            text: text.into(),
            emphasis,
        }
    }

    /// The line for a terminal of so many columns. The last cell stays empty: a terminal wraps a
    /// row that is full.
    fn drawn(&self, columns: usize, has_colors: bool) -> DrawnLine {
        let text = fitted(&printable(&self.text), columns.saturating_sub(1));
        let code = match self.emphasis {
            Emphasis::Faint => "2",
            Emphasis::Attention => "33",
            Emphasis::Trouble => "31",
            Emphasis::None => "",
        };
        let width = width(&text);
        let text = if has_colors && !code.is_empty() {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text
        };
        DrawnLine { text, width }
    }
}

impl Terminal {
    pub(crate) fn new(output: Output, has_colors: bool) -> Self {
        Self {
            output,
            has_colors,
            block: Mutex::default(),
        }
    }

    /// The output below the block.
    pub(crate) fn output(&self) -> &Output {
        &self.output
    }

    /// Shows these lines in the place of the block; none: removes it. A terminal that accepts
    /// nothing keeps the lines that it has.
    pub(crate) fn draw(&self, lines: &[Line], size: Size) {
        let mut block = lock(&self.block);
        if !block.is_hidden {
            let new = Block::of(lines, size.columns, self.has_colors);
            self.replace(&mut block, new);
        }
    }

    /// Removes the block until [`Terminal::show`], so that other code can write to the terminal.
    pub(crate) fn hide(&self) {
        let mut block = lock(&self.block);
        self.replace(&mut block, Block::of(&[], size_of_stderr().columns, false));
        block.is_hidden = true;
    }

    /// The next frame is drawn again.
    pub(crate) fn show(&self) {
        lock(&self.block).is_hidden = false;
    }

    fn replace(&self, block: &mut Block, new: Block) {
        let is_same_size = block.columns == new.columns || block.lines.is_empty();
        if block.lines == new.lines && is_same_size {
            return;
        }
        let is_last = new.lines.is_empty();
        if self
            .output
            .write_frame(block.update(&new).as_bytes(), is_last)
        {
            *block = new;
        }
    }

    /// Writes whole lines above the block.
    pub(crate) fn write_above(&self, text: &[u8]) {
        self.write_above_locked(&lock(&self.block), text);
    }

    /// As [`Terminal::write_above`], without waiting for the lock. If another thread has it, the
    /// text is written where the cursor is.
    pub(crate) fn write_at_once(&self, text: &[u8]) {
        match self.block.try_lock() {
            Ok(block) => self.write_above_locked(&block, text),
            Err(TryLockError::Poisoned(poisoned)) => {
                self.write_above_locked(&poisoned.into_inner(), text);
            }
            Err(TryLockError::WouldBlock) => self.output.write(text),
        }
    }

    fn write_above_locked(&self, block: &MutexGuard<'_, Block>, text: &[u8]) {
        let columns = size_of_stderr().columns;
        let whole = [
            block.erase(columns).as_bytes(),
            text,
            block.again().as_bytes(),
        ]
        .concat();
        self.output.write_or_count(&whole, text);
    }
}

/// The size of the terminal on standard error.
pub(crate) fn size_of_stderr() -> Size {
    let reported = rustix::termios::tcgetwinsize(io::stderr()).ok();
    let size = reported.map(|size| Size {
        columns: size.ws_col.into(),
        rows: size.ws_row.into(),
    });
    size.filter(|size| size.columns > 0 && size.rows > 0)
        .unwrap_or(DEFAULT_SIZE)
}

impl Block {
    fn of(lines: &[Line], columns: usize, has_colors: bool) -> Self {
        Self {
            lines: lines
                .iter()
                .map(|line| line.drawn(columns, has_colors))
                .collect(),
            columns,
            is_hidden: false,
        }
    }

    /// The codes that turn this block into `new` and leave the cursor below it. Lines that are the
    /// same are not written again.
    fn update(&self, new: &Self) -> String {
        let is_resized = self.columns != new.columns && !self.lines.is_empty();
        let mut text = self.move_to_start(new.columns);
        if is_resized {
            text += ERASE_BELOW;
        }
        for (at, line) in new.lines.iter().enumerate() {
            if is_resized || self.lines.get(at) != Some(line) {
                text += &line.text;
                text += ERASE_REST;
            }
            text.push('\n');
        }
        if self.lines.len() > new.lines.len() {
            text += ERASE_BELOW;
        }
        text
    }

    /// The codes that remove the block; the cursor is where it began.
    fn erase(&self, columns: usize) -> String {
        if self.lines.is_empty() {
            return String::new();
        }
        self.move_to_start(columns) + ERASE_BELOW
    }

    /// The block from the cursor on.
    fn again(&self) -> String {
        let lines = self.lines.iter();
        lines.fold(String::new(), |text, line| text + &line.text + "\n")
    }

    /// Moves the cursor from below the block to its first row. A terminal that was made narrower
    /// has wrapped the lines that were wider, so they have more rows than when they were drawn.
    fn move_to_start(&self, columns: usize) -> String {
        let rows_of = |line: &DrawnLine| line.width.div_ceil(columns.max(1)).max(1);
        let rows: usize = self.lines.iter().map(rows_of).sum();
        let mut text = String::new();
        if rows > 0 {
            write!(text, "\r\u{1b}[{rows}A").expect("a string can be written");
        }
        text
    }
}

/// Number of cells of a text on a terminal.
pub fn width(text: &str) -> usize {
    text.chars().map(|one| one.width().unwrap_or(0)).sum()
}

/// The text, or as much of its beginning as so many cells hold, with an ellipsis.
pub fn fitted(text: &str, cells: usize) -> String {
    if width(text) <= cells {
        return text.to_owned();
    }
    let mut left = cells.saturating_sub(1);
    let mut kept: String = text
        .chars()
        .take_while(|one| {
            let fits = one.width().unwrap_or(0) <= left;
            left = left.saturating_sub(one.width().unwrap_or(0));
            fits
        })
        .collect();
    if cells > 0 {
        kept.push('…');
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Applies texts to an emulated terminal, as a tty does: a line feed also returns the carriage.
    fn shown(screen: &mut vt100::Parser, text: &str) -> Vec<String> {
        screen.process(text.replace('\n', "\r\n").as_bytes());
        let rows = screen.screen().contents();
        rows.lines().map(str::to_owned).collect()
    }

    fn block(lines: &[&str], columns: usize) -> Block {
        let lines: Vec<Line> = lines.iter().copied().map(Line::plain).collect();
        Block::of(&lines, columns, false)
    }

    #[test]
    fn a_block_changes_in_place_and_log_lines_stay_above_it() {
        let mut screen = vt100::Parser::new(10, 20, 0);
        let first = block(&["one", "two", "job"], 20);
        shown(
            &mut screen,
            &format!("$ run\n{}", Block::default().update(&first)),
        );
        let second = block(&["one", "2", "job"], 20);
        let update = first.update(&second);
        assert!(
            !update.contains("one"),
            "an equal line is not written again: {update:?}"
        );
        assert_eq!(shown(&mut screen, &update), ["$ run", "one", "2", "job"]);
        let logged = format!("{}WARN a\nWARN b\n{}", second.erase(20), second.again());
        assert_eq!(
            shown(&mut screen, &logged),
            ["$ run", "WARN a", "WARN b", "one", "2", "job"]
        );
        let third = block(&["job"], 20);
        assert_eq!(
            shown(&mut screen, &second.update(&third)),
            ["$ run", "WARN a", "WARN b", "job"]
        );
        let end = third.update(&Block::of(&[], 20, false));
        assert_eq!(shown(&mut screen, &end), ["$ run", "WARN a", "WARN b"]);
        assert_eq!(screen.screen().cursor_position(), (3, 0));
        assert!(!screen.screen().hide_cursor());
    }

    #[test]
    fn more_log_lines_than_the_screen_has_rows_scroll_and_leave_one_block() {
        let mut screen = vt100::Parser::new(5, 20, 100);
        let shown_block = block(&["worker", "job"], 20);
        shown(&mut screen, &Block::default().update(&shown_block));
        let mut last = Vec::new();
        for number in 0..30 {
            let text = format!(
                "{}line {number}\n{}",
                shown_block.erase(20),
                shown_block.again()
            );
            last = shown(&mut screen, &text);
        }
        assert_eq!(last, ["line 28", "line 29", "worker", "job"]);
    }

    #[test]
    fn a_narrower_terminal_that_wraps_again_keeps_no_rest_of_the_block() {
        let wide = block(&["123456789 123456789", "job"], 40);
        let narrow = block(&["123456789 123456789", "job"], 12);
        // What a terminal of 12 columns has made of the wide block.
        let mut screen = vt100::Parser::new(10, 12, 0);
        shown(&mut screen, "$ run\n123456789 123456789\njob\n");
        assert_eq!(
            shown(&mut screen, &wide.update(&narrow)),
            ["$ run", "123456789 …", "job"]
        );
    }

    #[test]
    fn no_line_is_as_wide_as_the_terminal_and_none_has_control_characters() {
        for columns in [0, 1, 2, 10, 80] {
            for text in [
                "",
                "short",
                "a worker of 会社 with a long name",
                "\u{1b}[2J\rx",
            ] {
                let line = Line::plain(text).drawn(columns, true);
                assert!(
                    line.width <= columns.saturating_sub(1),
                    "{columns} {line:?}"
                );
                assert!(!line.text.contains(char::is_control), "{line:?}");
            }
        }
        let wide = Line::plain("会社会社").drawn(6, false);
        assert_eq!((wide.text.as_str(), wide.width), ("会社…", 5));
    }

    #[test]
    fn a_colour_is_reset_at_the_end_of_its_line_and_absent_without_colours() {
        let line = Line::emphasized("lost", Emphasis::Trouble);
        assert_eq!(line.drawn(80, true).text, "\u{1b}[31mlost\u{1b}[0m");
        assert_eq!(line.drawn(80, false).text, "lost");
    }
}
