//! The worker processes that are drained. A drain belongs to the process, not to the worker's name:
//! a restarted worker takes classes again. The drain outlives the session and, through the ledger,
//! the coordinator; it ends with the process.

use super::LeaseTable;

/// A change of the drained processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Drain {
    /// The process with this nonce is drained.
    Requested {
        /// The worker's name.
        worker: String,
        /// The nonce of its process.
        instance: Vec<u8>,
    },
    /// The worker's drained process has ended, or its drain was evicted.
    Over {
        /// The worker's name.
        worker: String,
    },
}

impl LeaseTable {
    /// Restores the drained processes from the ledger.
    pub fn restore_drains(&mut self, drains: impl IntoIterator<Item = (String, Vec<u8>)>) {
        for (worker, instance) in drains {
            self.record_drain(worker, instance);
        }
    }

    /// Drains a worker: it finishes its classes and ends. Returns the changes that the ledger must
    /// write; `None` if there is no worker of that name.
    pub fn drain(&mut self, worker: &str) -> Option<Vec<Drain>> {
        let session = self.sessions.of_worker(worker)?;
        session.draining = true;
        let instance = session.worker_info.instance.clone();
        self.wake_ups += 1;
        Some(self.record_drain(worker.to_owned(), instance))
    }

    fn record_drain(&mut self, worker: String, instance: Vec<u8>) -> Vec<Drain> {
        let evicted = self.drains.touch(&worker);
        let evicted = evicted.map(|worker| Drain::Over { worker });
        self.drains.entry(&worker).clone_from(&instance);
        let drained = Drain::Requested { worker, instance };
        evicted.into_iter().chain([drained]).collect()
    }

    /// Called when a process has registered. It drains if it was drained before or if it reports
    /// that it drains. Another process of the same worker ends the drain.
    pub(super) fn drain_again(&mut self, worker: &str) -> Option<Drain> {
        let session = self.sessions.of_worker(worker)?;
        let was_drained = self.drains.get(worker) == Some(&session.worker_info.instance);
        session.draining |= was_drained || session.worker_info.draining;
        if was_drained {
            return None;
        }
        self.end_drain(worker)
    }

    /// Called when a worker's process has left. Ends its drain, if there is one.
    pub fn end_drain(&mut self, worker: &str) -> Option<Drain> {
        let worker = worker.to_owned();
        self.drains.remove(&worker)?;
        Some(Drain::Over { worker })
    }
}
