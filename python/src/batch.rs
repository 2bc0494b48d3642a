//! One batch, as Python sees it.

use std::{mem, path::PathBuf, sync::OnceLock, time::Duration};

use pyo3::{PyResult, Python, pyclass, pymethods};
use shared::outcome::FailureKind;
use worker::{FailedClass, Stats};

use crate::{
    errors, exit,
    log::LogLevel,
    options::Arguments,
    process::Process,
    running::{BatchFailure, Running, Snapshot},
    wording::in_python,
};

/// Maximum wait for a terminal that accepts nothing, e.g. after Ctrl-S.
const HIDE_TIMEOUT: Duration = Duration::from_millis(50);

/// The result of a batch that has run to its end.
#[pyclass(frozen, get_all, module = "imagenet_downloader._native")]
pub(crate) struct Counts {
    success: u64,
    skipped: u64,
    failed: u64,
    duplicates: u64,
    files: u64,
    /// For each failure its id, kind, reason and attempts.
    failures: Vec<(String, String, String, u64)>,
}

/// A batch that runs on threads of its own. It is cancelled when it is dropped.
#[pyclass(frozen, module = "imagenet_downloader._native")]
#[derive(Default)]
pub(crate) struct Batch(OnceLock<Started>);

struct Started {
    process: Process,
    running: Running,
}

#[pymethods]
impl Batch {
    /// A batch that is not started, so that its caller has it before it runs.
    #[new]
    fn new() -> Self {
        Self::default()
    }

    /// Starts the batch. Can be called once.
    fn start(
        &self,
        part_ids: Vec<String>,
        target_path: PathBuf,
        options: Arguments,
    ) -> PyResult<()> {
        exit::check()?;
        options
            .check()
            .map_err(|message| errors::option(&message))?;
        let process = Process::begin()?;
        let twice = || errors::internal("a batch was started twice");
        if self.0.get().is_some() {
            return Err(twice());
        }
        let log_level = LogLevel::start(options.log_level);
        let screen = options.screen()?;
        let running = Running::start(part_ids, target_path, options, screen, log_level)
            .map_err(|error| errors::no_runtime(&error))?;
        self.0.set(Started { process, running }).map_err(|other| {
            other.running.cancel();
            twice()
        })
    }

    /// Waits for the end, at most for so many seconds; returns whether the batch has ended or was
    /// not started.
    fn wait(&self, py: Python<'_>, seconds: f64) -> PyResult<bool> {
        let Some(running) = self.running()? else {
            return Ok(true);
        };
        let limit = Duration::try_from_secs_f64(seconds).unwrap_or_default();
        exit::detach(py, || running.wait(limit))
    }

    /// The latest progress; `None` if there is none since the last call.
    fn state(&self) -> PyResult<Option<Snapshot>> {
        Ok(self.running()?.and_then(Running::take_progress))
    }

    /// Stops the batch at checkpoints. Returns at once.
    fn cancel(&self) -> PyResult<()> {
        self.running()?.map(Running::cancel);
        Ok(())
    }

    /// Removes the drawn lines until `show`, so that Python can write to the terminal.
    fn hide(&self, py: Python<'_>) -> PyResult<()> {
        if let Some(running) = self.running()? {
            exit::detach(py, || running.screen().hide_within(HIDE_TIMEOUT))?;
        }
        Ok(())
    }

    /// Draws the lines again.
    fn show(&self, py: Python<'_>) -> PyResult<()> {
        if let Some(running) = self.running()? {
            exit::detach(py, || running.screen().show())?;
        }
        Ok(())
    }

    /// The result of a batch that has ended. Can be called once.
    fn result(&self) -> PyResult<Counts> {
        exit::check()?;
        match self.running()?.and_then(Running::take_result) {
            Some(Ok(stats)) => Ok(counts(stats)),
            Some(Err(BatchFailure::Batch(error))) => Err(errors::batch(&error)),
            Some(Err(BatchFailure::Option(message))) => Err(errors::option(&message)),
            Some(Err(BatchFailure::NoThread(error))) => Err(errors::no_thread(&error)),
            Some(Err(BatchFailure::Runtime(error))) => Err(errors::no_runtime(&error)),
            Some(Err(BatchFailure::Panic(message))) => Err(errors::internal(&message)),
            None => Err(errors::internal(
                "the result was asked for too early or twice",
            )),
        }
    }
}

impl Batch {
    /// The batch, if it was started.
    ///
    /// # Errors
    /// In a process that was forked from that of the batch.
    fn running(&self) -> PyResult<Option<&Running>> {
        let started = self.0.get();
        started.map_or(Ok(None), |started| {
            started.process.check()?;
            Ok(Some(&started.running))
        })
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        let Some(started) = self.0.take() else {
            return;
        };
        if started.process.is_this() {
            started.running.cancel();
        } else {
            // In a forked child another thread may hold the locks of its fields for ever.
            mem::forget(started);
        }
    }
}

fn counts(stats: Stats) -> Counts {
    let failure = |failed: FailedClass| {
        let failure = failed.failure;
        let kind = failure.kind.to_string();
        let reason = match failure.kind {
            // These reasons are sentences that may name flags; the others may quote the origin.
            FailureKind::Conflict | FailureKind::ConnectionError => in_python(&failure.message),
            _ => failure.message,
        };
        (failed.part_id, kind, reason, failed.attempts)
    };
    let failures = stats.failures.into_iter().map(failure);
    Counts {
        success: stats.success,
        skipped: stats.skipped,
        failed: stats.failed,
        duplicates: stats.duplicates,
        files: stats.files,
        failures: failures.collect(),
    }
}
