//! The slots of one worker: a fixed number of classes at once, each under its lease, each ended by
//! an outcome or a checkpoint.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use shared::{
    Wnid,
    ids::LeaseToken,
    outcome::{Failure, FailureKind, Outcome, Suspect},
    telemetry::trace::TraceParent,
};
use tokio::{
    task::{Id, JoinError, JoinSet},
    time::{Instant, Interval, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::{
    fetch::{
        attempt::Attempt,
        context::{JobContext, JobContextError},
        fetch_class::fetch_class,
        unfinished::{self, Unfinished},
    },
    observe::progress::{ClassProgress, Progress},
    origin::Origin,
    parts::{Demand, ExtraConnections, Tar, shares},
    process_limits::slots_in_memory,
    slots::runtime::SlotRuntime,
};

pub(crate) mod runtime;

/// How often free slots are assigned anew to transfers that are under way.
const ASSIGN_INTERVAL: Duration = Duration::from_millis(100);
/// How long a slot is free before a transfer may use it, where nothing is left to lease. A class
/// that was granted before needs the slot.
const NOTHING_TO_LEASE: Duration = Duration::from_millis(50);
/// The same where classes were left to lease at the coordinator's last answer.
const WAIT_FOR_LEASES: Duration = Duration::from_millis(500);
/// Threads that a session starts when its slots are open: one lists the target, one looks up a
/// name, one reads the free disk space.
const SPARE_THREADS: usize = 3;

/// A class and the fencing token under which it is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) wnid: Wnid,
    pub(crate) token: LeaseToken,
    /// A probe: the origin may be down and this class finds out, with one attempt.
    pub(crate) probe: bool,
    /// The trace context in which the class continues.
    pub(crate) trace: TraceParent,
}

impl Lease {
    /// The lease of a class that no coordinator has granted: its token is never granted.
    pub(crate) fn not_granted(wnid: Wnid) -> Self {
        Self {
            wnid,
            token: LeaseToken(0),
            probe: false,
            trace: TraceParent::default(),
        }
    }
}

/// A class that this worker works on, or whose result is not acknowledged yet.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) lease: Lease,
    /// `None`: the class has a result.
    pub(crate) progress: Option<Arc<ClassProgress>>,
}

impl Held {
    /// The worker's offset in the tar.
    pub(crate) fn position(&self) -> u64 {
        let progress = self.progress.as_ref();
        progress.map_or(0, |progress| progress.position())
    }

    /// Length of the tar in bytes; 0 while it is unknown, and if there is a result.
    pub(crate) fn length(&self) -> u64 {
        let progress = self.progress.as_ref();
        progress.map_or(0, |progress| progress.length())
    }

    /// Whether the class needs no origin now. That is also true if it has a result.
    pub(crate) fn is_local(&self) -> bool {
        let progress = self.progress.as_ref();
        progress.is_none_or(|progress| progress.is_local())
    }
}

/// A class that has left its slot.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) lease: Lease,
    pub(crate) result: Result<Outcome, Unfinished>,
    /// Number of requests for bytes of its tar that were sent.
    pub(crate) requests: u64,
}

/// All slots of a worker.
#[derive(Debug)]
pub(crate) struct Slots {
    context: Arc<JobContext>,
    progress: Progress,
    runtimes: Vec<Arc<SlotRuntime>>,
    busy: Vec<Option<Busy>>,
    tasks: JoinSet<Result<Outcome, Unfinished>>,
    slot_of: BTreeMap<Id, usize>,
    /// The time at which the last slot was taken, or the first one became free.
    free_since: Instant,
    assign: Interval,
}

/// A slot with a class.
#[derive(Debug)]
struct Busy {
    lease: Lease,
    progress: Arc<ClassProgress>,
    /// The extra connections that its transfer may use.
    extra: Arc<ExtraConnections>,
    stop: CancellationToken,
    /// The class was granted again after the stop: it starts again when it has stopped.
    again: bool,
}

impl Slots {
    /// Opens `count` slots, or as many as memory and threads permit, on threads of the given set.
    pub(crate) fn open(
        context: Arc<JobContext>,
        progress: Progress,
        count: usize,
        set: &mut JoinSet<()>,
    ) -> Result<Self, JobContextError> {
        let runtimes = open_runtimes(&context, slots_in_memory(count), set)?;
        let count = runtimes.len();
        progress
            .counters
            .slots
            .set(i64::try_from(count).unwrap_or(i64::MAX));
        let busy = (0..count).map(|_| None).collect();
        let mut assign = interval(ASSIGN_INTERVAL);
        assign.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            context,
            progress,
            runtimes,
            busy,
            tasks: JoinSet::new(),
            slot_of: BTreeMap::new(),
            free_since: Instant::now(),
            assign,
        })
    }

    /// The job that the slots work on.
    pub(crate) fn context(&self) -> &Arc<JobContext> {
        &self.context
    }

    /// Number of free slots.
    pub(crate) fn free(&self) -> usize {
        self.busy.len() - self.tasks.len()
    }

    /// Bytes received from the origin since the process started.
    pub(crate) fn received_bytes(&self) -> u64 {
        self.progress.received_bytes()
    }

    /// Progress of the classes in the slots, in the order of the slots.
    pub(crate) fn under_way(&self) -> impl Iterator<Item = &ClassProgress> {
        self.busy.iter().flatten().map(|busy| &*busy.progress)
    }

    /// Whether all slots are free.
    pub(crate) fn are_idle(&self) -> bool {
        self.tasks.is_empty()
    }

    /// The leases of the classes in the slots.
    pub(crate) fn held(&self) -> Vec<Held> {
        let held = |busy: &Busy| Held {
            lease: busy.lease,
            progress: Some(Arc::clone(&busy.progress)),
        };
        self.busy.iter().flatten().map(held).collect()
    }

    /// Starts a class in a free slot. Returns the lease if no slot is free.
    pub(crate) fn start(&mut self, lease: Lease) -> Result<(), Lease> {
        if let Some(busy) = self.find(|held| held.wnid == lease.wnid) {
            // Granted again, because the first answer was lost: the class continues under the newer
            // token.
            busy.lease = Lease {
                trace: busy.lease.trace,
                ..lease
            };
            busy.again = busy.stop.is_cancelled();
            return Ok(());
        }
        let Some(slot) = self.busy.iter().position(Option::is_none) else {
            return Err(lease);
        };
        let progress = Arc::new(self.progress.class(slot, lease.wnid));
        let busy = Busy::new(lease, progress);
        let context = Arc::clone(&self.context);
        let tar = Tar {
            origin: context.origin.for_class(&busy.progress),
            runtime: context.runtime.clone(),
            url: context.job.url.for_class(lease.wnid),
            retries: if lease.probe { 0 } else { context.job.retries },
            progress: Arc::clone(&busy.progress),
            extra: Arc::clone(&busy.extra),
        };
        let stop = busy.stop.clone();
        let work = async move |origin: &Origin| {
            let attempt = Attempt {
                context: &context,
                origin: &origin.for_class(&tar.progress),
                wnid: lease.wnid,
                tar,
                stop,
            };
            fetch_class(&attempt).await
        };
        self.occupy(slot, busy, work);
        Ok(())
    }

    fn find(&mut self, is_it: impl Fn(&Lease) -> bool) -> Option<&mut Busy> {
        let mut busy = self.busy.iter_mut().flatten();
        busy.find(|busy| is_it(&busy.lease))
    }

    fn occupy(
        &mut self,
        slot: usize,
        mut busy: Busy,
        work: impl AsyncFnOnce(&Origin) -> Result<Outcome, Unfinished> + Send + 'static,
    ) {
        let Lease {
            wnid, token, trace, ..
        } = busy.lease;
        let span = tracing::info_span!("class", %wnid, %token);
        trace.adopt(&span);
        let here = TraceParent::of(&span);
        busy.lease.trace = if here.is_somewhere() { here } else { trace };
        let runtime = Arc::clone(&self.runtimes[slot]);
        let work = async move |origin: &Origin| work(origin).instrument(span).await;
        let task = self.tasks.spawn(async move { runtime.run(work).await });
        self.slot_of.insert(task.id(), slot);
        self.busy[slot] = Some(busy);
        self.progress.counters.busy.inc();
        // A transfer that used the slot gives it back at once.
        self.put_off_assignment();
        self.assign_free(WAIT_FOR_LEASES);
    }

    /// A class that is granted next may need the slots.
    fn put_off_assignment(&mut self) {
        self.free_since = Instant::now();
        self.assign.reset_after(NOTHING_TO_LEASE);
    }

    /// Assigns the free slots to the transfers under way, once slots have been free for long
    /// enough.
    fn assign_free(&self, wait: Duration) {
        let is_due = self.free_since.elapsed() >= wait;
        let free = if is_due { self.free() } else { 0 };
        let transfers: Vec<_> = self.busy.iter().flatten().map(|busy| &busy.extra).collect();
        let demands: Vec<Demand> = transfers.iter().map(|extra| extra.demand()).collect();
        for (extra, share) in transfers.iter().zip(shares(free, &demands)) {
            extra.grant(share);
        }
    }

    /// Stops the class that is held under exactly this lease at a checkpoint; it ends as
    /// [`Unfinished::Stopped`]. A class that was granted again in the meantime continues. Returns
    /// the class.
    pub(crate) fn stop(&mut self, token: LeaseToken) -> Option<Wnid> {
        let busy = self.find(|held| held.token == token)?;
        busy.stop();
        Some(busy.lease.wnid)
    }

    /// Stops every class at a checkpoint.
    pub(crate) fn stop_all(&mut self) {
        self.busy.iter_mut().flatten().for_each(Busy::stop);
    }

    /// The next class that ends; `None` when no slot is busy. `left_to_lease`: whether there were
    /// classes for the free slots at the coordinator's last answer. If not, the slots are soon
    /// assigned to the transfers under way. Cancel safe.
    pub(crate) async fn next(&mut self, left_to_lease: bool) -> Option<Ended> {
        let wait = if left_to_lease {
            WAIT_FOR_LEASES
        } else {
            NOTHING_TO_LEASE
        };
        loop {
            let joined = tokio::select! {
                joined = self.tasks.join_next_with_id() => joined?,
                _ = self.assign.tick() => {
                    self.assign_free(wait);
                    continue;
                }
            };
            let (task, result) = joined
                .unwrap_or_else(|error| (error.id(), Err(Unfinished::Failed(internal(&error)))));
            let slot = self.slot_of.remove(&task).expect("every task has a slot");
            let busy = self.busy[slot]
                .take()
                .expect("a slot is busy until its task ends");
            let lease = busy.lease;
            if self.free() == 1 {
                self.put_off_assignment();
            }
            let counters = &self.progress.counters;
            counters.busy.dec();
            unfinished::counter(&result, counters).inc();
            if busy.again && matches!(result, Err(Unfinished::Stopped)) {
                self.start(lease).expect("its slot is free");
                continue;
            }
            return Some(Ended {
                lease,
                result,
                requests: busy.progress.requests.get(),
            });
        }
    }
}

impl Drop for Slots {
    /// A slot's thread cannot be cancelled: each class stops at its checkpoint.
    fn drop(&mut self) {
        self.stop_all();
    }
}

impl Busy {
    fn new(lease: Lease, progress: Arc<ClassProgress>) -> Self {
        Self {
            lease,
            progress,
            extra: Arc::default(),
            stop: CancellationToken::new(),
            again: false,
        }
    }

    fn stop(&mut self) {
        self.stop.cancel();
        self.again = false;
    }
}

/// If the system cannot provide enough threads, opens fewer runtimes than requested, so that some
/// threads are left for later use.
fn open_runtimes(
    context: &JobContext,
    count: usize,
    set: &mut JoinSet<()>,
) -> Result<Vec<Arc<SlotRuntime>>, JobContextError> {
    let mut runtimes = Vec::with_capacity(count);
    while runtimes.len() < count {
        match SlotRuntime::open(&context.origin, set) {
            Ok(runtime) => runtimes.push(Arc::new(runtime)),
            Err(JobContextError::Thread(error)) if !runtimes.is_empty() => {
                runtimes.truncate(runtimes.len().saturating_sub(SPARE_THREADS).max(1));
                tracing::warn!(
                    "only {} downloads at once instead of {count}: failed to {error}",
                    runtimes.len()
                );
                break;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(runtimes)
}

/// A panic of one class's task fails that class only. The failure is attributed to the class and
/// not to this worker, because every worker has the same bug.
fn internal(error: &JoinError) -> Failure {
    let failure = Failure::new(
        FailureKind::StorageError,
        format!("internal error, please report it: {error}"),
    );
    failure.suspecting(Suspect::Class)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shared::{job::JobOptions, job_line::Screen, outcome::Published};
    use tokio::sync::oneshot;

    use super::*;
    use crate::origin::allowed_addresses::PrivateOrigin;
    use crate::{
        fixture, lease_clock::LeaseClock, origin::limiter::OriginLimiter, storage::target::Target,
    };

    fn job() -> JobOptions {
        JobOptions {
            timeout: Duration::from_secs(1),
            ..fixture::job()
        }
    }

    fn two_slots(
        folder: &std::path::Path,
        progress: &Progress,
        limiter: Arc<OriginLimiter>,
    ) -> Slots {
        let target = Arc::new(Target::open(&folder.join("target"), None).unwrap());
        let mut threads = JoinSet::new();
        let clock = Arc::new(LeaseClock::of_this_host());
        let context = Arc::new(
            JobContext::open(
                job(),
                PrivateOrigin::Allowed,
                limiter,
                target,
                clock,
                2,
                &mut threads,
            )
            .unwrap(),
        );
        Slots::open(context, progress.clone(), 2, &mut threads).unwrap()
    }

    fn lease(wnid: Wnid, token: u64) -> Lease {
        Lease {
            wnid,
            token: LeaseToken(token),
            probe: false,
            trace: TraceParent::default(),
        }
    }

    /// The grant may arrive while the class is still on its way to a checkpoint.
    #[tokio::test]
    async fn a_class_granted_again_while_it_stops_starts_again() {
        let folder = tempfile::tempdir().unwrap();
        let progress = Progress::new(Screen::Silent, Arc::default());
        // No class ends here before it is stopped.
        let limiter = OriginLimiter::new(2, Arc::default());
        let mut slots = two_slots(folder.path(), &progress, Arc::clone(&limiter));
        let wnid = "n00000001".parse().unwrap();
        slots.start(lease(wnid, 1)).unwrap();
        assert_eq!(slots.stop(LeaseToken(1)), Some(wnid));
        slots.start(lease(wnid, 2)).unwrap();
        assert_eq!(
            slots.stop(LeaseToken(1)),
            None,
            "the answer is about the former lease"
        );
        assert_eq!(slots.held().len(), 1);
        // No server listens at the URL, so an admitted request fails at once.
        limiter.allow_all_slots();
        let Ended {
            lease: ended,
            result,
            ..
        } = slots.next(true).await.unwrap();
        assert_eq!(ended.token, LeaseToken(2));
        assert!(
            matches!(result, Err(Unfinished::Failed(_))),
            "the class was started again: {result:?}"
        );

        limiter.close();
        slots.start(lease(wnid, 3)).unwrap();
        slots.stop(LeaseToken(3));
        slots.start(lease(wnid, 4)).unwrap();
        slots.stop_all();
        let Ended { result, .. } = slots.next(true).await.unwrap();
        assert!(
            matches!(result, Err(Unfinished::Stopped)),
            "the later stop counts: {result:?}"
        );
        assert!(slots.are_idle());
    }

    #[tokio::test]
    async fn a_panic_fails_its_own_class_only() {
        let folder = tempfile::tempdir().unwrap();
        let progress = Progress::new(Screen::Silent, Arc::default());
        let mut slots = two_slots(
            folder.path(),
            &progress,
            OriginLimiter::without_budget(2, Arc::default()),
        );
        let [bad, good] = ["n00000001", "n00000002"].map(|wnid| wnid.parse().unwrap());
        let busy = |slot, wnid| Busy::new(lease(wnid, 1), Arc::new(progress.class(slot, wnid)));
        slots.occupy(0, busy(0, bad), async |_: &Origin| panic!("on purpose"));
        slots.occupy(1, busy(1, good), async |_: &Origin| {
            Ok(Outcome::Success(Published::default()))
        });
        let mut ended = [
            slots.next(true).await.unwrap(),
            slots.next(true).await.unwrap(),
        ];
        ended.sort_by_key(|ended| ended.lease.wnid);
        let [failed, done] = ended.map(|ended| ended.result);
        assert!(matches!(done, Ok(Outcome::Success(_))), "{done:?}");
        let Err(Unfinished::Failed(failure)) = failed else {
            panic!("{failed:?}")
        };
        assert!(
            failure.message.starts_with("internal error") && failure.suspect == Suspect::Class,
            "{failure}"
        );
        assert_eq!(slots.free(), 2, "both slots are free again");
        slots.occupy(0, busy(0, bad), async |_: &Origin| {
            Ok(Outcome::Success(Published::default()))
        });
        let again = slots.next(true).await.unwrap().result;
        assert!(again.is_ok(), "its slot runtime still works: {again:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_slot_is_assigned_to_a_transfer_after_it_was_free_for_a_while() {
        let folder = tempfile::tempdir().unwrap();
        let progress = Progress::new(Screen::Silent, Arc::default());
        let mut slots = two_slots(
            folder.path(),
            &progress,
            OriginLimiter::without_budget(2, Arc::default()),
        );
        let mut ends = Vec::new();
        let mut occupy = |slots: &mut Slots, slot: usize| {
            let wnid = format!("n0000000{slot}").parse().unwrap();
            let busy = Busy::new(lease(wnid, 1), Arc::new(progress.class(slot, wnid)));
            let extra = Arc::clone(&busy.extra);
            let (end, ended) = oneshot::channel::<()>();
            slots.occupy(slot, busy, async |_: &Origin| {
                ended.await.ok();
                Err(Unfinished::Stopped)
            });
            ends.push(end);
            extra.want(Demand {
                left: 100,
                least: 10,
                at_work: 0,
            });
            extra.granted()
        };
        let passes = async |slots: &mut Slots, left_to_lease: bool, wait: Duration| {
            assert!(
                tokio::time::timeout(wait, slots.next(left_to_lease))
                    .await
                    .is_err(),
                "no class ends"
            );
        };
        let first = occupy(&mut slots, 0);
        passes(&mut slots, true, WAIT_FOR_LEASES.mul_f64(0.9)).await;
        assert_eq!(
            *first.borrow(),
            0,
            "classes are left to lease, so one may need the slot"
        );
        passes(&mut slots, true, ASSIGN_INTERVAL * 2).await;
        assert_eq!(*first.borrow(), 1);
        let second = occupy(&mut slots, 1);
        assert_eq!(*first.borrow(), 0, "the class takes the slot back at once");
        drop(ends.pop());
        let ended = slots.next(false).await.unwrap();
        assert!(ended.result.is_err());
        passes(&mut slots, false, ASSIGN_INTERVAL * 3).await;
        assert_eq!(
            (*first.borrow(), *second.borrow()),
            (1, 0),
            "nothing is left to lease"
        );
    }

    #[tokio::test]
    async fn dropping_the_slots_stops_their_classes() {
        let folder = tempfile::tempdir().unwrap();
        let progress = Progress::new(Screen::Silent, Arc::default());
        let mut slots = two_slots(
            folder.path(),
            &progress,
            OriginLimiter::without_budget(2, Arc::default()),
        );
        let wnid = "n00000001".parse().unwrap();
        let busy = Busy::new(lease(wnid, 1), Arc::new(progress.class(0, wnid)));
        let stopped = busy.stop.clone();
        let (begins, begun) = oneshot::channel();
        let (ends, ended) = oneshot::channel();
        slots.occupy(0, busy, async move |_: &Origin| {
            begins.send(()).unwrap();
            stopped.cancelled().await;
            ends.send(()).unwrap();
            Err(Unfinished::Stopped)
        });
        begun.await.unwrap();
        drop(slots);
        tokio::time::timeout(Duration::from_secs(10), ended)
            .await
            .expect("the class is stopped")
            .unwrap();
    }
}
