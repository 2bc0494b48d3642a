//! An independent count of granted and settled classes, to verify the coordinator's.

use std::{
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use crate::{
    dial::Dial,
    worker::{self, LoadError},
};

const FREE: u8 = 0;
const HELD: u8 = 1;
const SETTLED: u8 = 2;
/// Deadline for the counts to match: they are published with a short delay.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(5);

/// The state of each class, by its number. At most one worker holds a class; a settled class has no
/// holder.
pub(crate) struct Grants(Vec<AtomicU8>);

impl Grants {
    /// All classes free.
    pub(crate) fn new(classes: u32) -> Self {
        Self((0..classes).map(|_| AtomicU8::new(FREE)).collect())
    }

    /// Records a granted lease.
    pub(crate) fn granted(&self, wnid: &str) -> Result<(), LoadError> {
        self.change(wnid, FREE, HELD, "was granted although it was")
    }

    /// Records a released lease.
    pub(crate) fn given_back(&self, wnid: &str) -> Result<(), LoadError> {
        self.change(wnid, HELD, FREE, "was given up although it was")
    }

    /// Records an acknowledged result of the holder.
    pub(crate) fn settled(&self, wnid: &str) -> Result<(), LoadError> {
        self.change(wnid, HELD, SETTLED, "was acknowledged although it was")
    }

    /// Takes all free classes except the last, and returns them.
    pub(crate) fn take_all_but_one(&self) -> Vec<String> {
        let free = self
            .0
            .iter()
            .enumerate()
            .filter(|(_, state)| state.load(Ordering::Relaxed) == FREE);
        let mut numbers: Vec<usize> = free.map(|(position, _)| position).collect();
        numbers.pop();
        for position in &numbers {
            self.0[*position].store(HELD, Ordering::Relaxed);
        }
        numbers
            .into_iter()
            .map(|position| format!("n{:08}", position + 1))
            .collect()
    }

    /// The numbers of pending, leased and settled classes.
    pub(crate) fn counts(&self) -> (u64, u64, u64) {
        let count = |wanted| {
            self.0
                .iter()
                .filter(|state| state.load(Ordering::Relaxed) == wanted)
                .count() as u64
        };
        (count(FREE), count(HELD), count(SETTLED))
    }

    /// Polls the coordinator through `Watch` until its counts match.
    pub(crate) async fn check(&self, dial: &Dial) -> Result<(), LoadError> {
        let ours = self.counts();
        let end = Instant::now() + PUBLISH_TIMEOUT;
        loop {
            let status = worker::status(dial).await?;
            let settled = status.success + status.skipped + status.failed;
            if settled + status.leased + status.pending != status.total {
                return Err(LoadError::Misbehaved(format!(
                    "the counts do not add up: {status:?}"
                )));
            }
            if (status.pending, status.leased, settled) == ours {
                return Ok(());
            }
            if Instant::now() >= end {
                let message = format!(
                    "(pending, leased, settled) must be {ours:?}, and the counts are {status:?}"
                );
                return Err(LoadError::Misbehaved(message));
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    fn change(&self, wnid: &str, from: u8, to: u8, what: &str) -> Result<(), LoadError> {
        let number = wnid
            .strip_prefix('n')
            .and_then(|digits| digits.parse::<usize>().ok());
        let state = number.and_then(|number| self.0.get(number.checked_sub(1)?));
        let Some(state) = state else {
            return Err(LoadError::Misbehaved(format!(
                "{wnid} is no class of the list"
            )));
        };
        match state.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => Ok(()),
            Err(found) => {
                let found = ["free", "held", "settled"][usize::from(found)];
                Err(LoadError::Misbehaved(format!("{wnid} {what} {found}")))
            }
        }
    }
}
