//! One progress bar per download on a terminal, and the byte counts for heartbeats and the job's
//! line.

use std::{
    fmt::Write,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use shared::{
    Wnid,
    job_line::{Screen, clock, short},
};

use crate::observe::counters::WorkerCounters;

/// The format of tqdm: `[00] n02124075: 100%|████████| 45.2M/45.2M [00:23<00:00, 1.95MB/s]`.
const TEMPLATE: &str =
    "[{prefix}] {msg}: {percent:>3}%|{wide_bar}| {position}/{length} [{so_far}<{left}, {rate}B/s]";
/// Before the first byte: the download usually waits for the origin limiter.
const TEMPLATE_WHILE_WAITING: &str = "[{prefix}] {msg}: waiting [{so_far}]";
/// While the length of the tar is unknown.
const TEMPLATE_WITHOUT_LENGTH: &str = "[{prefix}] {msg}: {position} [{so_far}, {rate}B/s]";

/// Byte counts of this process, and the screen for the bars.
#[derive(Debug, Clone)]
pub(crate) struct Progress {
    pub(crate) screen: Screen,
    pub(crate) counters: Arc<WorkerCounters>,
}

/// Progress of one class in one slot.
#[derive(Debug)]
pub(crate) struct ClassProgress {
    bar: Option<ProgressBar>,
    here: AtomicU64,
    /// Length of the whole tar; 0 while it is unknown.
    length: AtomicU64,
    /// The class needs no origin now; see [`ClassProgress::locally`].
    local: AtomicBool,
    counters: Arc<WorkerCounters>,
}

impl Progress {
    pub(crate) fn new(screen: Screen, counters: Arc<WorkerCounters>) -> Self {
        Self { screen, counters }
    }

    /// Bytes received from the origin since the process started.
    pub(crate) fn received_bytes(&self) -> u64 {
        self.counters.received.get()
    }

    /// Opens the bar of a slot.
    pub(crate) fn class(&self, slot: usize, wnid: Wnid) -> ClassProgress {
        let bar = match &self.screen {
            Screen::Bars { bars, .. } => {
                // Above the job's line, which was added first.
                let bar = bars.insert_from_back(1, ProgressBar::no_length());
                bar.set_style(style(TEMPLATE_WHILE_WAITING));
                bar.set_prefix(format!("{slot:02}"));
                bar.set_message(wnid.to_string());
                Some(bar)
            }
            Screen::Plain(_) | Screen::Silent => None,
        };
        ClassProgress {
            bar,
            here: AtomicU64::default(),
            length: AtomicU64::default(),
            local: AtomicBool::default(),
            counters: Arc::clone(&self.counters),
        }
    }
}

impl ClassProgress {
    /// Begins the tar, or continues it after `here` bytes.
    pub(crate) fn begin(&self, here: u64, length: Option<u64>) {
        self.here.store(here, Ordering::Relaxed);
        self.length.store(length.unwrap_or(0), Ordering::Relaxed);
        if let Some(bar) = &self.bar {
            if let Some(length) = length {
                bar.set_length(length);
            }
            bar.set_style(style(if length.is_some() {
                TEMPLATE
            } else {
                TEMPLATE_WITHOUT_LENGTH
            }));
            bar.set_position(here);
            bar.reset_eta();
        }
    }

    /// Counts bytes received from the origin.
    pub(crate) fn received(&self, bytes: u64) {
        self.counters.received.inc_by(bytes);
        self.here.fetch_add(bytes, Ordering::Relaxed);
        if let Some(bar) = &self.bar {
            bar.inc(bytes);
        }
    }

    /// Marks the class as not using the origin until the guard is dropped, so that the coordinator
    /// does not expect bytes of it.
    pub(crate) fn locally(&self) -> LocalWork<'_> {
        self.local.store(true, Ordering::Relaxed);
        LocalWork(self)
    }

    /// Whether the class does not use the origin at the moment.
    pub(crate) fn is_local(&self) -> bool {
        self.local.load(Ordering::Relaxed)
    }

    /// Number of bytes of the tar that were received.
    pub(crate) fn position(&self) -> u64 {
        self.here.load(Ordering::Relaxed)
    }

    /// Length of the tar; 0 while it is unknown.
    pub(crate) fn length(&self) -> u64 {
        self.length.load(Ordering::Relaxed)
    }
}

/// Marks work on a class that needs no origin, until it is dropped.
#[derive(Debug)]
#[must_use]
pub(crate) struct LocalWork<'class>(&'class ClassProgress);

impl Drop for LocalWork<'_> {
    fn drop(&mut self) {
        self.0.local.store(false, Ordering::Relaxed);
    }
}

impl Drop for ClassProgress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .expect("the template is a constant")
        .progress_chars("█▉▊▋▌▍▎▏ ")
        .with_key("position", key(|state| shortened(state.pos())))
        .with_key("length", key(|state| shortened(state.len().unwrap_or(0))))
        .with_key("so_far", key(|state| clock(state.elapsed())))
        .with_key("left", key(|state| clock(state.eta())))
        .with_key("rate", key(|state| short(state.per_sec())))
}

fn key(
    text: fn(&ProgressState) -> String,
) -> impl Fn(&ProgressState, &mut dyn Write) + Clone + Send + Sync {
    // An error while drawing a bar must not stop a download.
    move |state, out| out.write_str(&text(state)).unwrap_or_default()
}

#[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
fn shortened(bytes: u64) -> String {
    short(bytes as f64)
}

#[cfg(test)]
mod tests {
    use std::io;

    use shared::output::Output;

    use super::*;
    use indicatif::{InMemoryTerm, MultiProgress, ProgressDrawTarget, TermLike};

    #[test]
    fn the_bar_has_the_format_of_tqdm() {
        let terminal = InMemoryTerm::new(5, 100);
        let target = ProgressDrawTarget::term_like(Box::new(terminal.clone()) as Box<dyn TermLike>);
        let output = Output::start("test", io::sink()).unwrap();
        let screen = Screen::Bars {
            bars: MultiProgress::with_draw_target(target),
            output,
        };
        let progress = Progress::new(screen, Arc::default()).class(0, "n02124075".parse().unwrap());
        let shown = |progress: &ClassProgress| {
            progress.bar.as_ref().expect("there is a terminal").tick();
            terminal.contents()
        };
        assert_eq!(shown(&progress), "[00] n02124075: waiting [00:00]");
        progress.begin(0, None);
        assert_eq!(shown(&progress), "[00] n02124075: 0 [00:00, 0B/s]");
        progress.begin(0, Some(45_200_000));
        progress.received(45_200_000);
        let line = shown(&progress);
        assert!(line.starts_with("[00] n02124075: 100%|██"), "{line}");
        assert!(line.contains("█| 45.2M/45.2M [00:00<00:00, "), "{line}");
        assert!(line.ends_with("B/s]"), "{line}");
    }

    #[test]
    fn bytes_are_counted_without_a_terminal_too() {
        let progress = Progress::new(Screen::Silent, Arc::default());
        let class = progress.class(3, "n02124075".parse().unwrap());
        class.begin(100, Some(500));
        class.received(28);
        assert_eq!(
            (class.position(), class.length(), progress.received_bytes()),
            (128, 500, 28)
        );
        class.begin(0, None);
        assert_eq!(
            (class.position(), class.length()),
            (0, 0),
            "another version, of unknown length"
        );
    }
}
