//! The screen: on a terminal a block of lines that changes in place, otherwise a plain line every
//! few seconds; and the line of the whole job, which is the last of the block.
//!
//! Without a terminal no escape code is ever written.

use std::{
    collections::VecDeque,
    env,
    io::{self, IsTerminal},
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use crate::{
    job::JobStatus,
    output::Output,
    output_args::{LogFormat, OutputArgs},
    terminal::{Line, Size, Terminal, size_of_stderr},
    threads::NoThread,
};

/// How often a plain line is written if there is no terminal.
const PLAIN_INTERVAL: Duration = Duration::from_secs(5);
/// A rate that is not given is the mean over this time.
const RATE_WINDOW: Duration = Duration::from_secs(10);
/// Rows of a terminal that the job's line and the cursor below it take.
const OWN_ROWS: usize = 2;

/// Where progress and log lines for people are written: standard error. Clones share it. Writing
/// never waits for the terminal and returns no error of the terminal.
#[derive(Debug, Clone)]
pub enum Screen {
    /// A terminal: a block of lines, with log lines above it.
    Terminal(Arc<Terminal>),
    /// Lines only.
    Lines {
        /// Standard error.
        output: Output,
        /// Which lines, in which form.
        arguments: OutputArgs,
    },
    /// No output: the program that uses this library has its own.
    Silent,
}

/// How important a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    Info,
    Warn,
    Error,
}

impl Screen {
    /// A block if standard error is a terminal that can move its cursor, else plain lines; also
    /// with `--quiet`, and with `--log-format json`. `NO_COLOR` (<https://no-color.org>), if it is
    /// set and not empty, turns colours off.
    ///
    /// # Errors
    /// [`NoThread`].
    pub fn for_stderr(arguments: OutputArgs) -> Result<Self, NoThread> {
        let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
        let output = Output::start("stderr", io::stderr())?;
        let wants_lines = arguments.quiet || arguments.log_format == LogFormat::Json;
        if wants_lines || dumb || !io::stderr().is_terminal() {
            return Ok(Self::Lines { output, arguments });
        }
        let has_colors = env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Ok(Self::Terminal(Arc::new(Terminal::new(output, has_colors))))
    }

    /// Writes a line above the block. `--quiet` drops it.
    pub fn write_line(&self, line: &str) {
        self.write(Level::Info, line);
    }

    /// As [`Screen::write_line`], for a warning. `--quiet` keeps it.
    pub fn write_warning(&self, line: &str) {
        self.write(Level::Warn, line);
    }

    /// As [`Screen::write_line`], for an error or the failures of the job. `--quiet` keeps it.
    pub fn write_error(&self, line: &str) {
        self.write(Level::Error, line);
    }

    fn write(&self, level: Level, line: &str) {
        match self {
            Self::Lines { arguments, .. } if arguments.quiet && level == Level::Info => {}
            Self::Lines { arguments, .. } if arguments.log_format == LogFormat::Json => {
                self.write_formatted(json_line(level, line).as_bytes());
            }
            _ => self.write_formatted(format!("{line}\n").as_bytes()),
        }
    }

    /// Writes whole lines that have their final form above the block; a silent screen drops them.
    pub(crate) fn write_formatted(&self, text: &[u8]) {
        match self {
            Self::Terminal(terminal) => terminal.write_above(text),
            Self::Lines { output, .. } => output.write(text),
            Self::Silent => {}
        }
    }

    /// As [`Screen::write_formatted`], without waiting for a lock, and waits until it is written.
    pub(crate) fn write_at_once(&self, text: &[u8]) {
        match self {
            Self::Terminal(terminal) => terminal.write_at_once(text),
            Self::Lines { output, .. } => output.write(text),
            Self::Silent => {}
        }
        self.flush();
    }

    /// Whether there is a block to draw.
    pub fn has_block(&self) -> bool {
        matches!(self, Self::Terminal(_))
    }

    /// Removes the block.
    pub fn clear(&self) {
        if let Self::Terminal(terminal) = self {
            terminal.draw(&[], size_of_stderr());
        }
    }

    /// Removes the block and draws none until [`Screen::show`], so that other code can write to the
    /// terminal. Returns when that is written.
    pub fn hide(&self) {
        if let Self::Terminal(terminal) = self {
            terminal.hide();
            self.flush();
        }
    }

    /// As [`Screen::hide`], but waits at most this long for a terminal that accepts nothing.
    pub fn hide_within(&self, limit: Duration) {
        if let Self::Terminal(terminal) = self {
            terminal.hide();
            // A terminal that accepts nothing shows the rest later.
            terminal.output().flush_within(limit).ok();
        }
    }

    /// Ends [`Screen::hide`]; the block comes back with the next frame.
    pub fn show(&self) {
        if let Self::Terminal(terminal) = self {
            terminal.show();
        }
    }

    /// Waits until everything is written, but only for some seconds if the terminal accepts
    /// nothing.
    pub fn flush(&self) {
        let output = match self {
            Self::Terminal(terminal) => terminal.output(),
            Self::Lines { output, .. } => output,
            Self::Silent => return,
        };
        // An error is ignored: there is no other place to report it.
        output.flush().ok();
    }

    /// The form of log lines.
    pub(crate) fn log_format(&self) -> LogFormat {
        match self {
            Self::Lines { arguments, .. } => arguments.log_format,
            Self::Terminal(_) | Self::Silent => LogFormat::Text,
        }
    }
}

/// A line as the JSON object that the formatter of log lines writes: `timestamp` (RFC 3339),
/// `level`, `message`.
pub(crate) fn json_line(level: Level, line: &str) -> String {
    let level = match level {
        Level::Info => "INFO",
        Level::Warn => "WARN",
        Level::Error => "ERROR",
    };
    let timestamp = humantime::format_rfc3339_micros(SystemTime::now()).to_string();
    let line = serde_json::json!({"timestamp": timestamp, "level": level, "message": line});
    format!("{line}\n")
}

/// One line for the whole job: classes, bytes, rate and time left.
#[derive(Debug)]
pub struct JobLine {
    screen: Screen,
    /// When the last plain line was written, or else when the job began.
    last_plain: Instant,
    received: VecDeque<(Instant, u64)>,
    /// The last estimate of the time left, and when it was first seen.
    estimate: Option<(Duration, Instant)>,
}

impl JobLine {
    /// Starts the clock for the rate.
    pub fn new(screen: &Screen) -> Self {
        Self {
            screen: screen.clone(),
            last_plain: Instant::now(),
            received: VecDeque::new(),
            estimate: None,
        }
    }

    /// Shows the counts; called a few times a second. Without a terminal most calls write nothing.
    /// `bytes_per_second` is the rate of the whole job; without it the line shows the mean over the
    /// last seconds of `status.received_bytes`. On a terminal `above` returns the lines above the
    /// job's, at most as many as the size has rows.
    pub fn update(
        &mut self,
        status: &JobStatus,
        bytes_per_second: Option<u64>,
        above: impl FnOnce(Size) -> Vec<Line>,
    ) {
        let now = Instant::now();
        self.received.push_back((now, status.received_bytes));
        self.received.retain(|(then, _)| now - *then <= RATE_WINDOW);
        let known = self.estimate.map(|(left, _)| left);
        if known != status.time_left {
            self.estimate = status.time_left.map(|left| (left, now));
        }
        match &self.screen {
            Screen::Terminal(terminal) => {
                let size = size_of_stderr();
                let room = Size {
                    rows: size.rows.saturating_sub(OWN_ROWS),
                    ..size
                };
                let mut lines = above(room);
                lines.truncate(room.rows);
                lines.push(Line::plain(self.text(status, bytes_per_second, now)));
                terminal.draw(&lines, size);
            }
            Screen::Lines { .. } if now - self.last_plain >= PLAIN_INTERVAL => {
                self.last_plain = now;
                let text = self.text(status, bytes_per_second, now);
                self.screen.write_line(&text);
            }
            Screen::Lines { .. } | Screen::Silent => {}
        }
    }

    /// Removes the block from the terminal.
    pub fn finish(&self) {
        self.screen.clear();
    }

    fn text(&self, status: &JobStatus, bytes_per_second: Option<u64>, now: Instant) -> String {
        let rate = bytes_per_second.map_or_else(|| self.mean_rate(status, now), approximate);
        // A worker receives the estimate every few seconds, so the time since then is subtracted.
        let left = self
            .estimate
            .map(|(left, since)| left.saturating_sub(now - since));
        describe(status, rate, left)
    }

    /// Bytes per second over the last [`RATE_WINDOW`].
    fn mean_rate(&self, status: &JobStatus, now: Instant) -> f64 {
        self.received.front().map_or(0.0, |(then, bytes)| {
            let seconds = (now - *then).as_secs_f64();
            if seconds > 0.0 {
                approximate(status.received_bytes.saturating_sub(*bytes)) / seconds
            } else {
                0.0
            }
        })
    }
}

/// The job's line, e.g. `8 done, 3 skipped, 1 failed, of 100 classes, 1.20GB, 25.3MB/s, 02:10
/// left`.
fn describe(status: &JobStatus, bytes_per_second: f64, left: Option<Duration>) -> String {
    let mut parts = vec![format!("{} done", status.success)];
    for (count, word) in [(status.skipped, "skipped"), (status.failed, "failed")] {
        if count > 0 {
            parts.push(format!("{count} {word}"));
        }
    }
    let left = left.map_or_else(|| "--:--".to_owned(), clock);
    parts.extend([
        format!("of {} classes", status.total),
        format!("{}B", short(approximate(status.received_bytes))),
        format!("{}B/s", short(bytes_per_second)),
        format!("{left} left"),
    ]);
    parts.join(", ")
}

/// A number for [`short`].
#[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
pub fn approximate(number: u64) -> f64 {
    number as f64
}

/// Three significant digits and a decimal prefix, as tqdm writes numbers: `950`, `45.2M`, `1.95k`.
pub fn short(number: f64) -> String {
    let mut number = number;
    for prefix in ["", "k", "M", "G", "T"] {
        if number < 999.5 {
            return match number {
                _ if prefix.is_empty() && number.fract() == 0.0 => format!("{number:.0}"),
                _ if number < 9.995 => format!("{number:.2}{prefix}"),
                _ if number < 99.95 => format!("{number:.1}{prefix}"),
                _ => format!("{number:.0}{prefix}"),
            };
        }
        number /= 1000.0;
    }
    format!("{number:.1}P")
}

/// `mm:ss`, and `h:mm:ss` from an hour on, to the nearest second.
pub fn clock(duration: Duration) -> String {
    let seconds = duration
        .saturating_add(Duration::from_millis(500))
        .as_secs();
    let hours = seconds / 3600;
    let minutes = seconds / 60 % 60;
    let seconds = seconds % 60;
    if hours > 0 {
        format!("{hours}:{minutes:02}:{seconds:02}")
    } else {
        format!("{minutes:02}:{seconds:02}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_shown_for_counts_of_any_size() {
        let most = u64::MAX;
        for (total, success, failed) in
            [(most, 1, 0), (most, most, most), (0, most, 1), (most, 0, 0)]
        {
            let status = JobStatus {
                total,
                success,
                failed,
                received_bytes: most,
                ..JobStatus::default()
            };
            assert!(
                describe(&status, 0.0, Some(Duration::MAX)).contains("classes"),
                "{status:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_estimate_decreases_with_time_until_the_next_one_and_is_dropped_in_a_stall() {
        let mut line = JobLine::new(&Screen::Silent);
        let mut shown = |time_left| {
            let status = JobStatus {
                total: 2,
                time_left,
                ..JobStatus::default()
            };
            line.update(&status, None, |_| Vec::new());
            line.text(&status, None, Instant::now())
        };
        assert!(shown(Some(Duration::from_mins(1))).ends_with(", 01:00 left"));
        tokio::time::advance(Duration::from_secs(7)).await;
        assert!(shown(Some(Duration::from_mins(1))).ends_with(", 00:53 left"));
        assert!(shown(Some(Duration::from_secs(70))).ends_with(", 01:10 left"));
        assert!(shown(None).ends_with(", --:-- left"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_given_rate_is_shown_and_otherwise_the_mean_of_the_last_seconds() {
        let mut line = JobLine::new(&Screen::Silent);
        let mut shown = |received_bytes, rate| {
            let status = JobStatus {
                received_bytes,
                ..JobStatus::default()
            };
            line.update(&status, rate, |_| Vec::new());
            line.text(&status, rate, Instant::now())
        };
        shown(0, None);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(shown(2_000_000, None).contains(", 1.00MB/s, "));
        assert!(shown(2_000_000, Some(12_300_000)).contains(", 12.3MB/s, "));
        assert!(shown(2_000_000, Some(0)).contains(", 0B/s, "));
    }

    #[test]
    fn numbers_have_three_digits_and_a_prefix() {
        for (number, text) in [
            (0.0, "0"),
            (950.0, "950"),
            (1950.0, "1.95k"),
            (45_200_000.0, "45.2M"),
            (999_600.0, "1.00M"),
            (2.5e15, "2.5P"),
        ] {
            assert_eq!(short(number), text);
        }
        assert_eq!(clock(Duration::from_secs(23)), "00:23");
        assert_eq!(clock(Duration::from_secs(3723)), "1:02:03");
        assert_eq!(
            [4400, 4500, 59_700].map(|ms| clock(Duration::from_millis(ms))),
            ["00:04", "00:05", "01:00"]
        );
        assert_eq!(clock(Duration::MAX), "5124095576030431:00:15");
    }

    #[test]
    fn the_line_names_counts_rate_and_time_left() {
        let status = JobStatus {
            total: 100,
            success: 20,
            skipped: 30,
            failed: 5,
            received_bytes: 1_200_000_000,
            ..JobStatus::default()
        };
        assert_eq!(
            describe(&status, 25.3e6, Some(Duration::from_secs(90))),
            "20 done, 30 skipped, 5 failed, of 100 classes, 1.20GB, 25.3MB/s, 01:30 left"
        );
        let fresh = JobStatus {
            total: 2,
            pending: 2,
            ..JobStatus::default()
        };
        assert_eq!(
            describe(&fresh, 0.0, None),
            "0 done, of 2 classes, 0B, 0B/s, --:-- left"
        );
    }
}
