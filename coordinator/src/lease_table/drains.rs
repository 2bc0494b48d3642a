//! The worker processes that are drained. A drain belongs to the process, not to the worker's name:
//! a restarted worker takes classes again. The drain outlives the session and, through the ledger,
//! the coordinator; it ends with the process.

use super::{LeaseTable, recent::LruMap, sessions::MOST_SESSIONS};

/// A change of the drained processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Drain {
    /// The process with this nonce is drained.
    Told {
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

/// The drained process of each worker, by the worker's name.
#[derive(Debug)]
pub(super) struct Drains(LruMap<String, Vec<u8>>);

impl Default for Drains {
    fn default() -> Self {
        Self(LruMap::of_at_most(MOST_SESSIONS))
    }
}

impl Drains {
    /// Records a drain. Returns the changes that the ledger must write for it.
    fn record(&mut self, worker: &str, instance: &[u8]) -> Vec<Drain> {
        let worker = worker.to_owned();
        let evicted = self.0.touch(&worker);
        instance.clone_into(self.0.entry(&worker));
        let evicted = evicted.map(|worker| Drain::Over { worker });
        let drained = Drain::Told {
            worker,
            instance: instance.to_owned(),
        };
        evicted.into_iter().chain([drained]).collect()
    }

    fn end(&mut self, worker: &str) -> Option<Drain> {
        let worker = worker.to_owned();
        self.0.remove(&worker)?;
        Some(Drain::Over { worker })
    }
}

impl LeaseTable {
    /// Restores the drained processes from the ledger.
    pub fn restore_drains(&mut self, drains: impl IntoIterator<Item = (String, Vec<u8>)>) {
        for (worker, instance) in drains {
            self.drains.record(&worker, &instance);
        }
    }

    /// Drains a worker: it finishes its classes and ends. Returns the changes that the ledger must
    /// write; `None` if there is no worker of that name.
    pub fn drain(&mut self, worker: &str) -> Option<Vec<Drain>> {
        let session = self.sessions.of_worker(worker)?;
        session.draining = true;
        self.wake_ups += 1;
        Some(self.drains.record(worker, &session.hello.instance))
    }

    /// Called when a process has registered. It drains if it was drained before or if it reports
    /// that it drains. Another process of the same worker ends the drain.
    pub(super) fn drain_again(&mut self, worker: &str) -> Option<Drain> {
        let session = self.sessions.of_worker(worker)?;
        let was_drained = self.drains.0.get(worker) == Some(&session.hello.instance);
        session.draining |= was_drained || session.hello.draining;
        if was_drained {
            return None;
        }
        self.drains.end(worker)
    }

    /// Called when a worker's process has left. Ends its drain, if there is one.
    pub fn end_drain(&mut self, worker: &str) -> Option<Drain> {
        self.drains.end(worker)
    }
}
