//! What observers ask of the dispatcher: the state of the fleet, the view of the live page, and
//! lists of held classes. The description of a large fleet consists of several answers, so that
//! calls of workers do not wait for all of it; the page's task asks for a view at most once a
//! second.

use std::{mem, sync::Arc, time::SystemTime};

use shared::ids::SessionId;
use tokio::time::Instant;

use super::{DispatchError, Dispatcher, DispatcherHandle};
use crate::{
    concurrency::ConcurrencyNotice,
    fleet::{
        Fleet, HeldClass, JobList, LimitChange, LimitChanges, LiveView, Transfers, WorkerView,
    },
    ledger::{Entry, Ledger, LedgerError, Run},
};

/// Number of transfers in a view.
const TRANSFERS: usize = 40;
/// Number of workers that one answer describes.
const WORKERS_AT_ONCE: usize = 64;

impl Dispatcher {
    /// The fleet without the workers that have a session.
    fn fleet_without_sessions(&mut self) -> Fleet {
        let lease_now = self.lease_now();
        Fleet {
            job: self.table.status(),
            phase: self.table.phase(),
            origin: self.concurrency_status(),
            workers: self
                .table
                .lost_workers(lease_now, |moment| self.time_of_day.of(moment)),
        }
    }

    fn update_worker_states(&mut self) {
        let lease_now = self.lease_now();
        self.time_of_day.follow(lease_now, SystemTime::now());
        self.table.update_states(lease_now);
    }

    fn workers_after(&mut self, after: Option<SessionId>) -> Vec<(SessionId, WorkerView)> {
        let now = Instant::now();
        let lease_now = self.lease_now();
        self.table.workers_after(
            after,
            WORKERS_AT_ONCE,
            lease_now,
            |moment| self.time_of_day.of(moment),
            |session| self.controller.waits_for(session, now),
        )
    }

    /// A view without the transfers and the workers that have a session.
    fn live_view_without_sessions(&mut self) -> LiveView {
        let lease_now = self.lease_now();
        LiveView {
            fleet: self.fleet_without_sessions(),
            letters: self.table.class_letters(),
            transfers: Transfers::default(),
            recovery: self.table.missing_workers(lease_now),
            first_failure: self.first_failure_of_origin(),
            outage: self.log.outage.clone(),
            ceiling: self.controller.ceiling(),
        }
    }

    /// Publishes the notices of the controller as changes of the limit.
    pub(super) fn publish_limit_changes(&mut self, notices: &[ConcurrencyNotice]) {
        if notices.is_empty() {
            return;
        }
        let limit = self.concurrency_status().limit;
        let first = self.controller.ceiling().unwrap_or(1);
        self.limit_changes.send_modify(|changes| {
            for notice in notices {
                changes.push(LimitChange {
                    at: SystemTime::now(),
                    before: changes.limit().unwrap_or(first),
                    limit,
                    notice: notice.clone(),
                });
            }
        });
    }
}

impl DispatcherHandle {
    /// The current state for the live page.
    ///
    /// # Errors
    /// [`DispatchError::Stopped`].
    pub async fn live_view(&self) -> Result<LiveView, DispatchError> {
        let workers = self.workers_with_sessions().await?;
        let transfers = self
            .ask(|dispatcher| dispatcher.table.transfers(TRANSFERS))
            .await?;
        let mut view = self.ask(Dispatcher::live_view_without_sessions).await?;
        view.transfers = transfers;
        view.fleet.workers = with_sessions(view.fleet.workers, workers);
        Ok(view)
    }

    /// The current state of the fleet. The counts are not older than the descriptions of workers.
    ///
    /// # Errors
    /// [`DispatchError::Stopped`].
    pub async fn fleet(&self) -> Result<Fleet, DispatchError> {
        let workers = self.workers_with_sessions().await?;
        let mut fleet = self.ask(Dispatcher::fleet_without_sessions).await?;
        fleet.workers = with_sessions(fleet.workers, workers);
        Ok(fleet)
    }

    async fn workers_with_sessions(&self) -> Result<Vec<WorkerView>, DispatchError> {
        let mut workers = Vec::new();
        let mut after = None;
        self.ask(Dispatcher::update_worker_states).await?;
        loop {
            let next = self
                .ask(move |dispatcher| dispatcher.workers_after(after))
                .await?;
            let Some((last, _)) = next.last() else {
                return Ok(workers);
            };
            after = Some(*last);
            workers.extend(next.into_iter().map(|(_, worker)| worker));
        }
    }

    /// The list of the job, which does not change.
    ///
    /// # Errors
    /// [`DispatchError::Stopped`].
    pub async fn list(&self) -> Result<JobList, DispatchError> {
        self.ask(|dispatcher| dispatcher.table.list()).await
    }

    /// The holders of these rows of the list; rows that no worker holds are left out.
    ///
    /// # Errors
    /// [`DispatchError::Stopped`].
    pub async fn held_rows(&self, rows: Vec<usize>) -> Result<Vec<HeldClass>, DispatchError> {
        self.ask(move |dispatcher| dispatcher.table.held_rows(&rows))
            .await
    }

    /// How many attempts at each of these rows ended without a result since the coordinator started;
    /// rows without one are left out.
    ///
    /// # Errors
    /// [`DispatchError::Stopped`].
    pub async fn ended_attempts(
        &self,
        rows: Vec<usize>,
    ) -> Result<Vec<(usize, u32)>, DispatchError> {
        self.ask(move |dispatcher| dispatcher.table.ended_attempts(&rows))
            .await
    }

    /// The classes that a worker holds, in the order of the list.
    ///
    /// # Errors
    /// [`DispatchError::Stopped`].
    pub async fn held_by(&self, worker: String) -> Result<Vec<HeldClass>, DispatchError> {
        self.ask(move |dispatcher| dispatcher.table.held_by(&worker))
            .await
    }

    /// Reads the ledger on its thread, after everything that the dispatcher has settled so far. One
    /// read at a time is queued or running, even if its caller is gone: while a disk hangs, viewers
    /// must not fill the ledger's queue, for which the dispatcher would wait.
    ///
    /// # Errors
    /// [`DispatchError::Stopped`], also when the ledger cannot be read, which is logged.
    pub async fn read_ledger<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Ledger, &Run) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, DispatchError> {
        let permit = Arc::clone(&self.ledger_reads).acquire_owned().await;
        let permit = permit.expect("the semaphore is never closed");
        let read = move |ledger: &Ledger, run: &Run| {
            let _permit = permit;
            read(ledger, run)
        };
        self.command(|_, reply| Entry::reading(read, reply)).await
    }

    /// The last changes of the limit of connections.
    pub fn limit_changes(&self) -> LimitChanges {
        self.limit_changes.borrow().clone()
    }
}

/// Adds the workers that had a session a moment before `lost` was listed, and sorts by name. Of two
/// descriptions of a worker the later one counts.
fn with_sessions(lost: Vec<WorkerView>, sessions: Vec<WorkerView>) -> Vec<WorkerView> {
    let mut workers = sessions;
    workers.extend(lost);
    workers.sort_by(|one, other| one.name.cmp(&other.name));
    workers.dedup_by(|later, earlier| {
        let is_same = later.name == earlier.name;
        if is_same {
            mem::swap(later, earlier);
        }
        is_same
    });
    workers
}

#[cfg(test)]
mod tests {
    use shared::Wnid;
    use tokio::{
        task::JoinSet,
        time::{Duration, Instant, timeout},
    };

    use super::*;
    use crate::{
        concurrency::{Ceilings, ConcurrencyController, Observation},
        fleet::WorkerState,
        lease_table::{LeaseTable, LiveReport, WorkerInfo},
        ledger::Writer,
    };

    const CLASSES: usize = 21_843;
    const WORKERS: usize = 1_000;
    const SLOTS: u32 = 10;

    fn name(place: usize) -> String {
        format!("node-{place:04}.cluster.example")
    }

    fn large_dispatcher() -> (Dispatcher, DispatcherHandle) {
        let wnids: Vec<Wnid> = (1..=CLASSES)
            .map(|number| format!("n{number:08}").parse().unwrap())
            .collect();
        let now = Instant::now();
        let table = LeaseTable::new(&wnids, 0, 1, Duration::from_secs(30));
        let controller = ConcurrencyController::new(Ceilings::default(), now);
        let (mut dispatcher, handle) = Dispatcher::new(table, controller, Writer::channel().0);
        let table = &mut dispatcher.table;
        let mark = table.take_mark();
        for place in 0..WORKERS {
            let worker_info = WorkerInfo {
                worker: name(place),
                instance: place.to_be_bytes().to_vec(),
                slots: SLOTS,
                ..WorkerInfo::default()
            };
            let session = table.register(&worker_info, &[], now).unwrap().session;
            dispatcher
                .controller
                .record_observation(session, &Observation::default(), now);
            let live = LiveReport::default();
            table.record_live(session, &live, now).unwrap();
            if let Some(mark) = table.take_mark().or(mark.clone()) {
                table.mark_is_durable(mark);
            }
            table.acquire(session, SLOTS as usize, now).unwrap();
        }
        (dispatcher, handle)
    }

    #[tokio::test]
    async fn a_view_of_a_large_fleet_is_whole_and_other_commands_do_not_wait_for_all_of_it() {
        let (dispatcher, handle) = large_dispatcher();
        let mut task = JoinSet::new();
        task.spawn(dispatcher.run());
        let view = handle.live_view().await.unwrap();
        let names = view.fleet.workers.iter().map(|worker| worker.name.clone());
        assert!(names.eq((0..WORKERS).map(name)), "each once, by name");
        assert_eq!(view.letters.len(), CLASSES);
        let transfers = (view.transfers.first.len(), view.transfers.total);
        assert_eq!(transfers, (TRANSFERS, WORKERS as u64 * u64::from(SLOTS)));
        let calls = async {
            for _ in 0..WORKERS / WORKERS_AT_ONCE / 2 {
                handle.budget(SessionId(1)).await.unwrap_err();
            }
        };
        tokio::select! {
            biased;
            _ = handle.live_view() => panic!("a view of so many workers is made in one piece"),
            () = calls => {}
        }
    }

    #[test]
    fn of_two_descriptions_of_a_worker_the_later_one_counts() {
        let described = |(name, success): (&str, u64)| WorkerView {
            name: name.to_owned(),
            state: WorkerState::Active,
            slots: 1,
            leased: 0,
            success,
            skipped: 0,
            failed: 0,
            received_bytes: 0,
            silent: Duration::ZERO,
            storage: String::new(),
            build: String::new(),
            since: SystemTime::UNIX_EPOCH,
            bytes_per_second: 0,
            disk_free: None,
            waits_for: None,
            host: String::new(),
        };
        let lost = vec![described(("b", 2))];
        let sessions = [("c", 1), ("a", 1), ("b", 1), ("c", 2)].map(described);
        let workers = with_sessions(lost, sessions.to_vec());
        let workers: Vec<_> = workers
            .iter()
            .map(|worker| (worker.name.as_str(), worker.success))
            .collect();
        assert_eq!(workers, [("a", 1), ("b", 2), ("c", 2)]);
    }

    /// The ledger's disk hangs: nothing is taken from its queue, which has 1024 entries.
    #[tokio::test(start_paused = true)]
    async fn viewers_of_a_ledger_that_hangs_do_not_stop_the_dispatcher() {
        let table = LeaseTable::new(&[], 0, 1, Duration::from_secs(30));
        let controller = ConcurrencyController::new(Ceilings::default(), Instant::now());
        let (writer, _hanging) = Writer::channel();
        let (dispatcher, handle) = Dispatcher::new(table, controller, writer);
        let mut task = JoinSet::new();
        task.spawn(dispatcher.run());
        for _ in 0..1100 {
            let read = handle.read_ledger(Ledger::past);
            timeout(Duration::from_millis(1), read).await.unwrap_err();
        }
        let answers = timeout(Duration::from_secs(10), handle.answers());
        assert_eq!(answers.await, Ok(true));
    }
}
