//! The library for one program on one machine: from a list of classes and a folder to the final
//! counts.

use std::{
    collections::{HashMap, HashSet},
    panic::resume_unwind,
    path::Path,
    sync::Arc,
    time::Duration,
};

use shared::{
    Wnid,
    class_list::ClassList,
    job::JobOptions,
    outcome::{Failure, FailureKind, Outcome},
    threads,
};
use tokio::{
    task::{JoinError, JoinSet},
    time::{MissedTickBehavior, interval},
};

mod batch_log;
mod errors;
mod first_answers;
mod locked_target;
mod options;
mod screen;
mod stats;

pub use errors::{BatchError, ReadError};
pub use options::{BatchProgress, ClassUnderWay, DEFAULT_URL, Options, ProgressCallback};
pub use stats::{FailedClass, Stats};

use batch_log::BatchLog;
use first_answers::FirstAnswers;
use locked_target::LockedTarget;
use screen::BatchScreen;

use crate::{
    fetch::{
        context::{JobContext, JobContextError},
        unfinished::Unfinished,
    },
    lease_clock::LeaseClock,
    observe::progress::Progress,
    origin::{allowed_addresses::PrivateOrigin, limiter::OriginLimiter},
    slots::{Ended, Lease, Slots},
    storage::target::{Target, TargetError},
    verify,
};

/// The shortest time between two reports of the progress while no class ends.
const MIN_PROGRESS_INTERVAL: Duration = Duration::from_millis(1);

/// Reads the ids of a CSV file with a `wnid` column, each once, in their order. Rows without a
/// valid WordNet id are included, so that [`download_batch`] can report them. Rows that hold only
/// `n` are left out with a warning in the log: `grep -o 'n[0-9]*'` on the log of failures makes
/// them.
///
/// # Errors
/// If the file cannot be read, has no `wnid` column, or has no valid row.
pub fn load_part_ids_from_csv(path: impl AsRef<Path>) -> Result<Vec<String>, ReadError> {
    let classes = ClassList::read(path.as_ref())?;
    if let Some(warning) = classes.warning() {
        tracing::warn!("{warning}");
    }
    Ok(classes.part_ids().collect())
}

/// Downloads the classes into `<target_path>/<wnid>/`, each published as a whole or not at all, and
/// returns the results.
///
/// Runs on the tokio runtime of the caller (multi-threaded or not) and draws nothing unless
/// [`Options::screen`] is set; log lines go to `tracing`. A class that fails does not stop the
/// others. After an error, a cancellation or the drop of the future, the next call continues at the
/// checkpoints of this one.
///
/// One call or job at a time works in a target: a call waits until no other process, and no other
/// call in this process, does.
///
/// A list of at least 20 classes starts with 20 that are spread over it. If the origin refuses all
/// of these in the same way, for example because of a wrong URL or a missing login, no further
/// class is requested. If the target already has some class of the list, a class that the origin
/// does not have (404, 410) counts as failed.
///
/// # Errors
/// [`BatchError`] if an option is invalid, the target cannot be used, the origin refuses every
/// class, or [`Options::cancellation`] was cancelled.
pub async fn download_batch<Id: AsRef<str>>(
    part_ids: impl IntoIterator<Item = Id>,
    target_path: impl AsRef<Path>,
    options: &Options,
) -> Result<Stats, BatchError> {
    options.check()?;
    let job = options.job()?;
    let target_path = target_path.as_ref();
    let mut log = BatchLog::default();
    let mut stats = Stats::default();
    let mut waiting = stats.sort(part_ids);
    log.begins(&waiting, &stats, target_path, &job);
    let cancellation = &options.cancellation;
    let locked = cancellation.run_until_cancelled(LockedTarget::wait_for(target_path));
    let Some(_locked) = locked.await else {
        return Err(BatchError::Cancelled { stats });
    };
    let listed: HashSet<Wnid> = waiting.iter().copied().collect();
    let Opened {
        mut slots,
        threads,
        some_are_there,
    } = open(options, job, target_path, listed.clone()).await?;
    let first_answers = FirstAnswers::of(&mut waiting, some_are_there);
    let mut batch = Batch {
        options,
        total: waiting.len() as u64 + stats.failed,
        waiting: waiting.into_iter(),
        begun: 0,
        first_answers,
        requests: HashMap::new(),
        log,
        stats,
        fault: None,
        is_cancelled: false,
    };
    let checked = cancellation
        .run_until_cancelled(slots.context().check_origin())
        .await;
    let ran = if let Some(Err(refused)) = checked {
        Err(refused.into())
    } else {
        batch.is_cancelled = options.cancellation.is_cancelled();
        batch.run(&mut slots).await;
        Ok(())
    };
    let target = Arc::clone(&slots.context().target);
    drop(slots);
    threads.join_all().await;
    ran.and_then(|()| batch.ended())
        .inspect(|_| target.remove_staging_of(&listed))
}

/// A running batch.
struct Batch<'options> {
    options: &'options Options,
    total: u64,
    /// Classes that were not started.
    waiting: std::vec::IntoIter<Wnid>,
    begun: usize,
    /// Present until the origin has sent a tar.
    first_answers: Option<FirstAnswers>,
    /// Number of requests for the tar of each class that has failed or may have.
    requests: HashMap<Wnid, u64>,
    log: BatchLog,
    stats: Stats,
    /// Set if the target failed or the origin refuses every class. Running classes are then
    /// stopped, and no further class is started.
    fault: Option<BatchError>,
    is_cancelled: bool,
}

impl Batch<'_> {
    /// Runs until every class has ended, or until the running classes have stopped.
    async fn run(&mut self, slots: &mut Slots) {
        let mut ticks = interval(self.options.progress_interval.max(MIN_PROGRESS_INTERVAL));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut screen = BatchScreen::new(&self.options.screen);
        loop {
            self.begin_classes(slots);
            tokio::select! {
                biased;
                () = self.options.cancellation.cancelled(), if !self.is_cancelled => {
                    self.is_cancelled = true;
                    slots.stop_all();
                }
                ended = slots.next(!self.is_stopping() && self.waiting.len() > 0) => match ended {
                    None => break,
                    Some(Ended { lease, result, requests }) => {
                        self.requests.insert(lease.wnid, requests);
                        self.end(lease.wnid, result, slots);
                        self.report_progress(slots);
                    }
                },
                _ = ticks.tick(), if self.options.on_progress.is_some() || self.first_answers.is_some() => {
                    let are_tars = |check: &FirstAnswers| check.are_tars(slots.received_bytes(), self.begun);
                    if self.first_answers.as_ref().is_some_and(are_tars) {
                        self.end_first_answers();
                    }
                    self.report_progress(slots);
                }
                () = screen.is_due() => screen.draw(self.total, &self.stats, slots),
            }
        }
        screen.finish();
        if !self.is_stopping() && self.first_answers.is_some() {
            self.end_first_answers();
            self.report_progress(slots);
        }
    }

    fn is_stopping(&self) -> bool {
        self.fault.is_some() || self.is_cancelled
    }

    fn begin_classes(&mut self, slots: &mut Slots) {
        while !self.is_stopping()
            && slots.free() > 0
            && self
                .first_answers
                .as_ref()
                .is_none_or(|check| check.room(slots.held().len()) > 0)
            && let Some(wnid) = self.waiting.next()
        {
            self.begun += 1;
            // No other process leases these classes, so the value of the token does not matter.
            slots
                .start(Lease::not_granted(wnid))
                .expect("a slot is free");
        }
    }

    fn end(&mut self, wnid: Wnid, result: Result<Outcome, Unfinished>, slots: &mut Slots) {
        match result {
            Ok(Outcome::Failed(failure)) | Err(Unfinished::Failed(failure)) => {
                self.failed(wnid, failure, slots);
            }
            Ok(outcome) => {
                if matches!(outcome, Outcome::Success(_)) {
                    self.end_first_answers();
                }
                self.count(wnid, outcome);
            }
            Err(Unfinished::Stopped) if self.is_stopping() => {}
            Err(Unfinished::Stopped) => {
                let taken = Failure::new(
                    FailureKind::LeaseLost,
                    "another process took the class over",
                );
                self.count(wnid, Outcome::Failed(taken));
            }
            Err(Unfinished::Target(error)) => {
                slots.stop_all();
                self.fault.get_or_insert(error.into());
            }
        }
    }

    fn failed(&mut self, wnid: Wnid, failure: Failure, slots: &mut Slots) {
        let Some(check) = &mut self.first_answers else {
            return self.count(wnid, Outcome::Failed(failure));
        };
        if let Err(failure) = check.note(wnid, failure) {
            self.end_first_answers();
            self.count(wnid, Outcome::Failed(failure));
        } else if let Some(refuses) = check.refuses() {
            slots.stop_all();
            let origin = slots.context().job.url.address();
            self.fault.get_or_insert(BatchError::OriginRefuses {
                origin,
                refuses: Box::new(refuses),
            });
        }
    }

    /// Counts the refused classes as failed.
    fn end_first_answers(&mut self) {
        let check = self.first_answers.take();
        for (wnid, failure) in check.into_iter().flat_map(FirstAnswers::into_failed) {
            self.count(wnid, Outcome::Failed(failure));
        }
    }

    fn count(&mut self, wnid: Wnid, outcome: Outcome) {
        let requests = self.requests.remove(&wnid).unwrap_or_default();
        self.log.ended(&wnid.to_string(), &outcome);
        self.stats.count(&wnid.to_string(), outcome, requests);
    }

    fn report_progress(&self, slots: &Slots) {
        let Some(callback) = &self.options.on_progress else {
            return;
        };
        let under_way = slots.held().into_iter().map(|held| ClassUnderWay {
            part_id: held.lease.wnid.to_string(),
            position: held.position(),
            length: Some(held.length()).filter(|length| *length > 0),
        });
        callback.call(&BatchProgress {
            total: self.total,
            stats: &self.stats,
            received_bytes: slots.received_bytes(),
            classes: under_way.collect(),
        });
    }

    fn ended(mut self) -> Result<Stats, BatchError> {
        self.log.ends(&self.stats);
        match self.fault {
            Some(fault) => Err(fault),
            None if self.is_cancelled && self.stats.total() < self.total => {
                Err(BatchError::Cancelled { stats: self.stats })
            }
            None => Ok(self.stats),
        }
    }
}

/// What a batch needs to run.
struct Opened {
    slots: Slots,
    threads: JoinSet<()>,
    /// Whether the target has a folder of a listed class.
    some_are_there: bool,
}

/// Opens the target and the slots. Uses its own thread, because these are file operations.
async fn open(
    options: &Options,
    job: JobOptions,
    target: &Path,
    listed: HashSet<Wnid>,
) -> Result<Opened, BatchError> {
    let target = target.to_owned();
    let staging = options.staging.clone();
    let slots = options.workers;
    let budget = options.budget();
    let mut threads = JoinSet::new();
    let progress = Progress::new(options.screen.clone(), Arc::default());
    let open = move || {
        let target = Arc::new(Target::open(&target, staging.as_deref())?);
        let some_are_there = is_any_there(&target, &listed)?;
        let clock = Arc::new(LeaseClock::of_this_host());
        let limiter = OriginLimiter::new(slots, Arc::clone(&progress.counters));
        limiter.apply_budget(&budget);
        let context = Arc::new(JobContext::open(
            job,
            PrivateOrigin::Allowed,
            limiter,
            target,
            clock,
            slots,
            &mut threads,
        )?);
        let slots = Slots::open(context, progress, slots, &mut threads)?;
        Ok::<_, JobContextError>(Opened {
            slots,
            threads,
            some_are_there,
        })
    };
    let mut opening = JoinSet::new();
    threads::start(&mut opening, "open", open).map_err(JobContextError::from)?;
    let opened = opening.join_next().await.expect("it was started");
    match opened.map_err(JoinError::try_into_panic) {
        Ok(opened) => Ok(opened?),
        Err(Ok(panic)) => resume_unwind(panic),
        // The runtime ends, and this call with it.
        Err(Err(_)) => std::future::pending().await,
    }
}

/// Whether the target has a folder of a listed class.
fn is_any_there(target: &Target, listed: &HashSet<Wnid>) -> Result<bool, TargetError> {
    let there =
        verify::classes(target.root()).map_err(|error| target.error("list the folders", error))?;
    Ok(there.iter().any(|wnid| listed.contains(wnid)))
}
