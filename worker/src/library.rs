//! The library for one program on one machine: a list of classes, a folder, and the counts at the
//! end.

use std::{collections::HashSet, panic::resume_unwind, path::Path, sync::Arc, time::Duration};

use shared::{
    Wnid,
    class_list::ClassList,
    ids::LeaseToken,
    job::JobOptions,
    job_line::Screen,
    listing,
    outcome::{Failure, FailureKind, Outcome},
    telemetry::trace::TraceParent,
    threads,
};
use tokio::{
    task::{JoinError, JoinSet},
    time::{MissedTickBehavior, interval},
};

mod errors;
mod first_answers;
mod options;
mod stats;

pub use errors::{BatchError, ReadError};
pub use options::{BatchProgress, ClassUnderWay, DEFAULT_URL, Options, ProgressCallback};
pub use stats::Stats;

use first_answers::FirstAnswers;

use crate::{
    fetch::{
        context::{JobContext, JobContextError},
        unfinished::Unfinished,
    },
    lease_clock::LeaseClock,
    observe::progress::Progress,
    origin::{Origin, allowed_addresses::PrivateOrigin, limiter::OriginLimiter},
    slots::{Lease, Slots},
    storage::target::{Target, TargetError},
};

/// How often the progress is told while no class ends.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);

/// Reads the ids of a CSV with a `wnid` column, each once, in their order; rows that hold no WordNet id are among them, so
/// that [`download_batch`] can report them.
///
/// # Errors
/// When the file cannot be read, has no `wnid` column, or no good row at all.
pub fn load_part_ids_from_csv(path: impl AsRef<Path>) -> Result<Vec<String>, ReadError> {
    Ok(ClassList::read(path.as_ref())?.part_ids().collect())
}

/// Downloads the classes into `<target_path>/<wnid>/`, each published whole or not at all, and
/// returns what became of them.
///
/// Runs on the tokio runtime of the caller (multi-threaded or not) and draws nothing; log lines go
/// to `tracing`. One class that fails does not stop the rest. After an error, a cancellation or the
/// drop of the future, the next call continues at the checkpoints of this one.
///
/// A list of 20 classes or more is begun with 20 that are spread over it. If the origin refuses all
/// of these alike, as with a wrong URL or without a login, nothing more is asked for. Where some
/// class of the list is there already, classes that the origin does not have (404, 410) have failed.
///
/// # Errors
/// [`BatchError`] when the options make no sense, the target cannot be used, the origin refuses every
/// class, or [`Options::cancellation`] was cancelled.
pub async fn download_batch<Id: AsRef<str>>(
    part_ids: impl IntoIterator<Item = Id>,
    target_path: impl AsRef<Path>,
    options: &Options,
) -> Result<Stats, BatchError> {
    options.check()?;
    let mut stats = Stats::default();
    let mut waiting = stats.sort(part_ids);
    let listed = waiting.iter().copied().collect();
    let Opened { mut slots, threads, some_are_there } = open(options, target_path.as_ref(), listed).await?;
    let first_answers = FirstAnswers::of(&mut waiting, some_are_there);
    let mut batch = Batch {
        options,
        total: waiting.len() as u64 + stats.failed,
        waiting: waiting.into_iter(),
        begun: 0,
        first_answers,
        stats,
        fault: None,
        is_cancelled: false,
    };
    let checked = options.cancellation.run_until_cancelled(slots.context().check_origin()).await;
    let ran = if let Some(Err(refused)) = checked {
        Err(refused.into())
    } else {
        batch.is_cancelled = options.cancellation.is_cancelled();
        batch.run(&mut slots).await;
        Ok(())
    };
    let target = Arc::clone(slots.context().target());
    drop(slots);
    threads.join_all().await;
    ran.and_then(|()| batch.ended()).inspect(|_| target.remove_staging())
}

/// A batch that runs.
struct Batch<'options> {
    options: &'options Options,
    total: u64,
    /// Not begun.
    waiting: std::vec::IntoIter<Wnid>,
    begun: usize,
    /// Until the origin has sent a tar.
    first_answers: Option<FirstAnswers>,
    stats: Stats,
    /// The target failed, or the origin refuses every class: what is under way is stopped, and
    /// nothing more is begun.
    fault: Option<BatchError>,
    is_cancelled: bool,
}

impl Batch<'_> {
    /// Until every class has ended, or what was under way has stopped.
    async fn run(&mut self, slots: &mut Slots) {
        let mut ticks = interval(PROGRESS_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
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
                    Some((lease, result)) => {
                        self.end(lease.wnid, result, slots);
                        self.tell(slots);
                    }
                },
                _ = ticks.tick(), if self.options.on_progress.is_some() || self.first_answers.is_some() => {
                    let are_tars = |check: &FirstAnswers| check.are_tars(slots.received_bytes(), self.begun);
                    if self.first_answers.as_ref().is_some_and(are_tars) {
                        self.end_first_answers();
                    }
                    self.tell(slots);
                }
            }
        }
        if !self.is_stopping() && self.first_answers.is_some() {
            self.end_first_answers();
            self.tell(slots);
        }
    }

    fn is_stopping(&self) -> bool {
        self.fault.is_some() || self.is_cancelled
    }

    fn begin_classes(&mut self, slots: &mut Slots) {
        while !self.is_stopping()
            && slots.free() > 0
            && self.first_answers.as_ref().is_none_or(|check| check.room(slots.held().len()) > 0)
            && let Some(wnid) = self.waiting.next()
        {
            self.begun += 1;
            // These classes are leased to no other process: the token is of no account.
            let lease = Lease { wnid, token: LeaseToken(0), probe: false, trace: TraceParent::default() };
            slots.start(lease).expect("a slot is free");
        }
    }

    fn end(&mut self, wnid: Wnid, result: Result<Outcome, Unfinished>, slots: &mut Slots) {
        match result {
            Ok(Outcome::Failed(failure)) | Err(Unfinished::Failed(failure)) => self.failed(wnid, failure, slots),
            Ok(outcome) => {
                if matches!(outcome, Outcome::Success(_)) {
                    self.end_first_answers();
                }
                self.stats.count(&wnid.to_string(), outcome);
            }
            Err(Unfinished::Stopped) if self.is_stopping() => {}
            Err(Unfinished::Stopped) => {
                let taken = Failure::new(FailureKind::LeaseLost, "another process took the class over");
                self.stats.count(&wnid.to_string(), Outcome::Failed(taken));
            }
            Err(Unfinished::Target(error)) => {
                slots.stop_all();
                self.fault.get_or_insert(error.into());
            }
        }
    }

    fn failed(&mut self, wnid: Wnid, failure: Failure, slots: &mut Slots) {
        let noted = match &mut self.first_answers {
            Some(check) => check.note(wnid, failure),
            None => Err(failure),
        };
        if let Err(failure) = noted {
            self.end_first_answers();
            return self.stats.count(&wnid.to_string(), Outcome::Failed(failure));
        }
        if let Some(refuses) = self.first_answers.as_ref().and_then(FirstAnswers::refuses) {
            slots.stop_all();
            let origin = slots.context().job.url.address();
            self.fault.get_or_insert(BatchError::OriginRefuses { origin, refuses: Box::new(refuses) });
        }
    }

    /// What was refused has failed.
    fn end_first_answers(&mut self) {
        for (wnid, failure) in self.first_answers.take().into_iter().flat_map(FirstAnswers::into_failed) {
            self.stats.count(&wnid.to_string(), Outcome::Failed(failure));
        }
    }

    fn tell(&self, slots: &Slots) {
        let Some(callback) = &self.options.on_progress else { return };
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

    fn ended(self) -> Result<Stats, BatchError> {
        match self.fault {
            Some(fault) => Err(fault),
            None if self.is_cancelled && self.stats.total() < self.total => {
                Err(BatchError::Cancelled { stats: self.stats })
            }
            None => Ok(self.stats),
        }
    }
}

/// What a batch works with.
struct Opened {
    slots: Slots,
    threads: JoinSet<()>,
    /// The target has a folder of a listed class.
    some_are_there: bool,
}

/// Opens the target and the slots, on a thread of its own: that is file work.
async fn open(options: &Options, target: &Path, listed: HashSet<Wnid>) -> Result<Opened, BatchError> {
    let job: JobOptions = options.job()?;
    let target = target.to_owned();
    let staging = options.staging.clone();
    let slots = options.workers;
    let budget = options.budget();
    let mut threads = JoinSet::new();
    let progress = Progress::new(Screen::Silent, Arc::default());
    let counters = Arc::clone(progress.counters());
    let open = move || {
        let target = Arc::new(Target::open(&target, staging.as_deref())?);
        let some_are_there = is_any_there(&target, &listed)?;
        let clock = Arc::new(LeaseClock::of_this_host());
        let gate = OriginLimiter::shut(slots, Arc::clone(&counters));
        gate.keep_to(&budget);
        let origin = Origin::new(&job, PrivateOrigin::Allowed, gate, counters.retries.clone())?;
        let context = Arc::new(JobContext::open(job, origin, target, clock, slots, counters, &mut threads)?);
        let slots = Slots::open(context, progress, slots, &mut threads)?;
        Ok::<_, JobContextError>(Opened { slots, threads, some_are_there })
    };
    let mut opening = JoinSet::new();
    threads::start(&mut opening, "open", open).map_err(JobContextError::from)?;
    match opening.join_next().await.expect("it was started").map_err(JoinError::try_into_panic) {
        Ok(opened) => Ok(opened?),
        Err(Ok(panic)) => resume_unwind(panic),
        // The runtime is at its end, and this call with it.
        Err(Err(_)) => std::future::pending().await,
    }
}

/// Whether the target has a folder of a listed class.
fn is_any_there(target: &Target, listed: &HashSet<Wnid>) -> Result<bool, TargetError> {
    let is_any_there = || {
        for entry in listing::list(target.root())? {
            let wnid = entry?.text().and_then(|name| name.parse().ok());
            if wnid.is_some_and(|wnid| listed.contains(&wnid)) {
                return Ok(true);
            }
        }
        Ok(false)
    };
    is_any_there().map_err(|error| target.error("list the folders", error))
}
