//! The log: lines of this program in a bounded queue, which Python passes to its `logging`.
//!
//! The threads of a batch never wait for a reader: what does not fit is counted and dropped.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Mutex, Once,
        atomic::{AtomicU8, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use pyo3::pyfunction;
use shared::lock::lock;
use tracing::{Level, Metadata, callsite::rebuild_interest_cache, level_filters::LevelFilter};
use tracing_subscriber::{
    Layer,
    filter::{FilterExt as _, dynamic_filter_fn, filter_fn},
    fmt::MakeWriter,
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use crate::process;

/// Maximum number of queued lines. Each class writes a few.
const QUEUE_LIMIT: usize = 10_000;
/// Lines of these crates are logged; those of libraries may quote what must not be seen.
const OWN_CRATES: [&str; 3] = ["_native", "worker", "shared"];
/// Spans for a collector, which are no log.
const TRACES: &str = shared::telemetry::trace::TARGET;

/// The least important level that is logged, as in Python: 10 debug, 20 info, 30 warning, 40 error.
static LEVEL: AtomicU8 = AtomicU8::new(u8::MAX);
/// The levels of the batches that run.
static LEVELS: Mutex<Vec<u8>> = Mutex::new(Vec::new());
static QUEUE: Mutex<Queue> = Mutex::new(Queue {
    lines: VecDeque::new(),
    dropped: 0,
});
static STARTED: Once = Once::new();

/// A line: level as in Python, seconds since 1970, text.
type LogLine = (u8, f64, String);

struct Queue {
    lines: VecDeque<LogLine>,
    /// Number of lines that did not fit.
    dropped: u64,
}

/// The level of one batch, which lasts until this is dropped.
#[derive(Debug)]
pub(crate) struct LogLevel(u8);

impl LogLevel {
    /// Queues lines from this level on.
    pub(crate) fn start(level: u8) -> Self {
        subscribe();
        change(|levels| levels.push(level));
        Self(level)
    }
}

impl Drop for LogLevel {
    fn drop(&mut self) {
        change(|levels| {
            if let Some(at) = levels.iter().position(|level| *level == self.0) {
                levels.swap_remove(at);
            }
        });
    }
}

/// Changes the levels of the batches that run; the least important one is that of the log.
fn change(how: impl FnOnce(&mut Vec<u8>)) {
    let mut levels = lock(&LEVELS);
    how(&mut levels);
    let level = levels.iter().copied().min().unwrap_or(u8::MAX);
    let former = LEVEL.swap(level, Ordering::Relaxed);
    if former != level {
        rebuild_interest_cache();
    }
}

fn subscribe() {
    STARTED.call_once(|| {
        let own = filter_fn(|metadata| {
            let target = metadata.target();
            let origin = target.split("::").next().unwrap_or(target);
            target != TRACES && OWN_CRATES.contains(&origin)
        });
        let wanted = dynamic_filter_fn(|metadata, _| *metadata.level() <= wanted());
        let lines = tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .without_time()
            .with_level(false)
            .with_target(false)
            .log_internal_errors(false)
            .with_writer(Lines)
            .with_filter(own.and(wanted));
        // Another subscriber can only be one of this module.
        tracing_subscriber::registry().with(lines).try_init().ok();
    });
}

fn wanted() -> LevelFilter {
    match LEVEL.load(Ordering::Relaxed) {
        ..10 => LevelFilter::TRACE,
        10..20 => LevelFilter::DEBUG,
        20..30 => LevelFilter::INFO,
        30..40 => LevelFilter::WARN,
        40..=50 => LevelFilter::ERROR,
        51.. => LevelFilter::OFF,
    }
}

/// Takes the queued lines, and the number of those that were dropped since the last call.
#[pyfunction]
pub(crate) fn take_log() -> (Vec<LogLine>, u64) {
    if !process::is_whole() {
        return (Vec::new(), 0);
    }
    let mut queue = lock(&QUEUE);
    let lines = std::mem::take(&mut queue.lines);
    (lines.into(), std::mem::take(&mut queue.dropped))
}

/// Makes a writer for each line.
struct Lines;

/// Queues one line, which the formatter writes at once.
struct OneLine(u8);

impl<'line> MakeWriter<'line> for Lines {
    type Writer = OneLine;

    fn make_writer(&'line self) -> OneLine {
        OneLine(number(Level::INFO))
    }

    fn make_writer_for(&'line self, metadata: &Metadata<'_>) -> OneLine {
        OneLine(number(*metadata.level()))
    }
}

/// The level as Python numbers it.
fn number(level: Level) -> u8 {
    match level {
        Level::ERROR => 40,
        Level::WARN => 30,
        Level::INFO => 20,
        Level::DEBUG => 10,
        Level::TRACE => 5,
    }
}

impl io::Write for OneLine {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if process::is_whole() {
            let text = String::from_utf8_lossy(line);
            let text = shared::outcome::printable(text.trim_end());
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            let seconds = now.unwrap_or_default().as_secs_f64();
            let mut queue = lock(&QUEUE);
            if queue.lines.len() < QUEUE_LIMIT {
                queue.lines.push_back((self.0, seconds, text));
            } else {
                queue.dropped += 1;
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
