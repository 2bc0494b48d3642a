//! What the live page asks of the dispatcher: one view of the whole state, and lists of held
//! classes. Each answer costs the dispatcher at most a pass over the classes; the page's task asks
//! for a view at most once a second.

use std::{sync::Arc, time::SystemTime};

use super::{DispatchError, Dispatcher, DispatcherHandle};
use crate::{
    concurrency::ConcurrencyNotice,
    fleet::{HeldClass, JobList, LimitChange, LimitChanges, LiveView},
    ledger::{Entry, Ledger, LedgerError, Run},
};

/// Number of transfers in a view.
const TRANSFERS: usize = 40;

impl Dispatcher {
    fn live_view(&mut self) -> LiveView {
        let lease_now = self.lease_now();
        LiveView {
            fleet: self.fleet(),
            letters: self.table.class_letters(),
            transfers: self.table.transfers(TRANSFERS),
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
        self.ask(Dispatcher::live_view).await
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
        lease_table::{LeaseTable, LiveReport, WorkerInfo},
        ledger::Writer,
    };

    const CLASSES: usize = 21_843;
    const WORKERS: usize = 1_000;
    const SLOTS: u32 = 10;
    fn large_dispatcher() -> Dispatcher {
        let wnids: Vec<Wnid> = (1..=CLASSES)
            .map(|number| format!("n{number:08}").parse().unwrap())
            .collect();
        let now = Instant::now();
        let table = LeaseTable::new(&wnids, 0, 1, Duration::from_secs(30));
        let controller = ConcurrencyController::new(Ceilings::default(), now);
        let (mut dispatcher, _) = Dispatcher::new(table, controller, Writer::channel().0);
        let table = &mut dispatcher.table;
        let mark = table.take_mark();
        for place in 0..WORKERS {
            let worker_info = WorkerInfo {
                worker: format!("node-{place:04}.cluster.example"),
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
        dispatcher
    }

    /// All else in a view is in proportion to the classes or the workers. The time is printed: it
    /// depends on the machine.
    #[test]
    fn a_view_of_a_large_fleet_describes_few_of_its_transfers() {
        let mut dispatcher = large_dispatcher();
        let mut times = Vec::new();
        for _ in 0..21 {
            let began = Instant::now();
            let view = dispatcher.live_view();
            times.push(began.elapsed());
            assert_eq!(
                (view.letters.len(), view.fleet.workers.len()),
                (CLASSES, WORKERS)
            );
            let transfers = (view.transfers.first.len(), view.transfers.total);
            assert_eq!(transfers, (TRANSFERS, WORKERS as u64 * u64::from(SLOTS)));
        }
        times.sort_unstable();
        let median = times[times.len() / 2];
        println!(
            "a view takes {median:?}, between {:?}",
            (times[0], times[times.len() - 1])
        );
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
