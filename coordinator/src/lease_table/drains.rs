//! Which worker processes were told to end. A drain belongs to the process, not to the name: a
//! worker that is started again takes classes. It outlives the session and the coordinator (the
//! ledger has it), and ends with the process.

use super::{LeaseTable, recent::Recent, sessions::MOST_SESSIONS};

/// How the drained processes have changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Drain {
    /// The worker's process of this nonce is to end.
    Told {
        /// The worker's name.
        worker: String,
        /// The nonce of its process.
        instance: Vec<u8>,
    },
    /// The worker's drained process has ended.
    Over {
        /// The worker's name.
        worker: String,
    },
}

/// The drained process of each worker, by the worker's name.
#[derive(Debug)]
pub(super) struct Drains(Recent<String, Vec<u8>>);

impl Default for Drains {
    fn default() -> Self {
        Self(Recent::of_at_most(MOST_SESSIONS))
    }
}

impl Drains {
    fn is_told(&self, worker: &str, instance: &[u8]) -> bool {
        self.0.get(worker).is_some_and(|told| told == instance)
    }

    /// Notes a drain; the drains that the ledger is to write for it.
    fn tell(&mut self, worker: &str, instance: &[u8]) -> Vec<Drain> {
        let worker = worker.to_owned();
        let evicted = self.0.touch(&worker);
        instance.clone_into(self.0.entry(&worker));
        let told = Drain::Told { worker, instance: instance.to_owned() };
        evicted.map(|worker| Drain::Over { worker }).into_iter().chain([told]).collect()
    }

    fn end(&mut self, worker: &str) -> Option<Drain> {
        self.0.get(worker)?;
        self.0.remove(&worker.to_owned());
        Some(Drain::Over { worker: worker.to_owned() })
    }
}

impl LeaseTable {
    /// Processes that a former coordinator has told to end.
    pub fn restore_drains(&mut self, drains: impl IntoIterator<Item = (String, Vec<u8>)>) {
        for (worker, instance) in drains {
            self.drains.tell(&worker, &instance);
        }
    }

    /// Tells a worker to finish what it holds and end. Gives what the ledger has to keep; `None`
    /// when there is no worker of that name.
    pub fn drain(&mut self, worker: &str) -> Option<Vec<Drain>> {
        let id = self.sessions.by_worker.get(worker)?;
        let session = self.sessions.by_id.get_mut(id).expect("names lead to known sessions");
        session.draining = true;
        self.turn += 1;
        Some(self.drains.tell(worker, &session.hello.instance))
    }

    /// A process has registered: it drains if it was told to, or if it says so. Another process of
    /// the same worker ends the drain.
    pub(super) fn drain_again(&mut self, worker: &str) -> Option<Drain> {
        let id = self.sessions.by_worker.get(worker)?;
        let session = self.sessions.by_id.get_mut(id).expect("names lead to known sessions");
        let was_told = self.drains.is_told(worker, &session.hello.instance);
        session.draining |= was_told || session.hello.draining;
        if was_told { None } else { self.drains.end(worker) }
    }

    /// A worker's process has left, and with it the drain if there was one.
    pub fn end_drain(&mut self, worker: &str) -> Option<Drain> {
        self.drains.end(worker)
    }
}
