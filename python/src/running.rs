//! A batch on its own thread and runtime, with the slots in which it leaves its progress and its
//! result.

use std::{
    any::Any,
    io,
    num::NonZeroUsize,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::Duration,
};

use pyo3::pyclass;
use shared::{
    job_line::Screen,
    lock::lock,
    shutdown::block_signals,
    threads::{self, NoThread},
};
use tokio::runtime::{Builder, Runtime};
use worker::{BatchError, BatchProgress, CancellationToken, Options, ProgressCallback, Stats};

use crate::{exit, log::LogLevel, options::Arguments};

/// Name of the threads, which tools show.
const THREAD: &str = "imagenet_batch";
/// Time in which the runtime's threads end after the batch.
const THREAD_TIMEOUT: Duration = Duration::from_secs(1);

/// The progress of a batch.
#[pyclass(frozen, get_all, module = "imagenet_downloader._native")]
#[derive(Debug)]
pub(crate) struct Snapshot {
    total: u64,
    success: u64,
    skipped: u64,
    failed: u64,
    received_bytes: u64,
    /// The classes under way, each with its id, position and length in bytes.
    classes: Vec<(String, u64, Option<u64>)>,
}

/// Why a batch has no result.
#[derive(Debug)]
pub(crate) enum BatchFailure {
    /// An error of the library.
    Batch(BatchError),
    /// An option that cannot be used.
    Option(String),
    /// The system has no thread left.
    NoThread(NoThread),
    /// The runtime could not be started.
    Runtime(io::Error),
    /// A panic, with its message.
    Panic(String),
}

/// A batch that was started.
#[derive(Debug)]
pub(crate) struct Running {
    slots: Arc<Slots>,
    cancellation: CancellationToken,
    screen: Screen,
}

/// What the batch leaves for its reader. It never waits for the reader: a newer state replaces one
/// that was not read.
#[derive(Debug, Default)]
struct Slots {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    latest: Option<Snapshot>,
    has_ended: bool,
    result: Option<Result<Stats, BatchFailure>>,
}

impl Running {
    /// Starts a batch. Its thread reads the files that the options name, because a named pipe or a
    /// network disk may not answer. The log has lines of its level until the batch has ended.
    pub(crate) fn start(
        part_ids: Vec<String>,
        target: PathBuf,
        arguments: Arguments,
        screen: Screen,
        log_level: LogLevel,
    ) -> io::Result<Self> {
        let slots = Arc::<Slots>::default();
        let started = Self {
            slots: Arc::clone(&slots),
            cancellation: exit::cancellation(),
            screen: screen.clone(),
        };
        let cancellation = started.cancellation.clone();
        let work = move || {
            let _log_level = log_level;
            let mut runtime = None;
            let run = || {
                let options = Options {
                    on_progress: Some(publisher(&slots)),
                    cancellation,
                    screen,
                    ..arguments.options().map_err(BatchFailure::Option)?
                };
                let runtime = runtime.insert(start_runtime()?);
                let batch = worker::download_batch(part_ids, target, &options);
                runtime.block_on(batch).map_err(BatchFailure::Batch)
            };
            let result = catch_unwind(AssertUnwindSafe(run));
            slots.end(result.unwrap_or_else(|panic| Err(BatchFailure::Panic(message(&*panic)))));
            if let Some(runtime) = runtime {
                runtime.shutdown_timeout(THREAD_TIMEOUT);
            }
        };
        thread::Builder::new().name(THREAD.to_owned()).spawn(work)?;
        Ok(started)
    }

    /// Waits for the end of the batch, at most for this time; returns whether it has ended.
    pub(crate) fn wait(&self, limit: Duration) -> bool {
        let state = lock(&self.slots.state);
        let is_running = |state: &mut State| !state.has_ended;
        let waited = self
            .slots
            .ended
            .wait_timeout_while(state, limit, is_running);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.has_ended
    }

    /// Takes the latest progress; `None` if there is none since the last call.
    pub(crate) fn take_progress(&self) -> Option<Snapshot> {
        lock(&self.slots.state).latest.take()
    }

    /// Takes the result; `None` before the end, and the second time.
    pub(crate) fn take_result(&self) -> Option<Result<Stats, BatchFailure>> {
        lock(&self.slots.state).result.take()
    }

    /// Where the downloads are drawn.
    pub(crate) fn screen(&self) -> &Screen {
        &self.screen
    }

    /// Stops the batch at checkpoints.
    pub(crate) fn cancel(&self) {
        self.cancellation.cancel();
    }
}

impl Slots {
    fn end(&self, result: Result<Stats, BatchFailure>) {
        let mut state = lock(&self.state);
        state.result = Some(result);
        state.has_ended = true;
        self.ended.notify_all();
    }
}

/// A runtime whose threads leave signals to those of the interpreter.
fn start_runtime() -> Result<Runtime, BatchFailure> {
    block_signals().map_err(BatchFailure::Runtime)?;
    let workers = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    // Without a thread for a worker, a runtime panics or hangs.
    threads::probe_at_once(THREAD, workers).map_err(BatchFailure::NoThread)?;
    Builder::new_multi_thread()
        .worker_threads(workers)
        .thread_name(THREAD)
        .enable_all()
        .build()
        .map_err(BatchFailure::Runtime)
}

/// Leaves each state in the slots.
fn publisher(slots: &Arc<Slots>) -> ProgressCallback {
    let slots = Arc::clone(slots);
    ProgressCallback::new(move |now| lock(&slots.state).latest = Some(snapshot(now)))
}

fn snapshot(progress: &BatchProgress<'_>) -> Snapshot {
    let classes = progress.classes.iter();
    let classes = classes.map(|class| (class.part_id.clone(), class.position, class.length));
    Snapshot {
        total: progress.total,
        success: progress.stats.success,
        skipped: progress.stats.skipped,
        failed: progress.stats.failed,
        received_bytes: progress.received_bytes,
        classes: classes.collect(),
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message").to_owned()
}
