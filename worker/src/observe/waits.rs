//! What a class waits for, in words for the terminal.
//!
//! A reason is a function that is called when it is shown: a limit or a remaining time may change
//! while the class waits.

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use shared::lock::lock;
use tokio::time::Instant;

/// Returns the reason as a phrase, e.g. `limit of 3 connections`.
type Reason = Box<dyn Fn(Instant) -> String + Send>;

/// The waits of one class, at most one for each of its connections. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Waits(Arc<Mutex<Entries>>);

/// The waits in the order in which they began.
#[derive(Default)]
struct Entries {
    last: u64,
    reasons: Vec<(u64, Reason)>,
}

/// A wait, until it is dropped.
#[must_use]
pub(crate) struct Wait {
    waits: Waits,
    id: u64,
}

impl Waits {
    /// Begins a wait.
    pub(crate) fn begin(&self, reason: impl Fn(Instant) -> String + Send + 'static) -> Wait {
        let mut entries = lock(&self.0);
        entries.last += 1;
        let id = entries.last;
        entries.reasons.push((id, Box::new(reason)));
        Wait {
            waits: self.clone(),
            id,
        }
    }

    /// As [`Waits::begin`], for a reason that does not change.
    pub(crate) fn begin_for(&self, reason: &'static str) -> Wait {
        self.begin(move |_| reason.to_owned())
    }

    /// The reason of the wait that began first; `None` if the class does not wait.
    pub(crate) fn reason(&self, now: Instant) -> Option<String> {
        let entries = lock(&self.0);
        let (_, reason) = entries.reasons.first()?;
        Some(reason(now))
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        lock(&self.waits.0).reasons.retain(|(id, _)| *id != self.id);
    }
}

impl fmt::Debug for Waits {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Waits").finish_non_exhaustive()
    }
}

impl fmt::Debug for Wait {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Wait").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_wait_that_has_not_ended_is_the_reason() {
        let waits = Waits::default();
        let now = Instant::now();
        assert_eq!(waits.reason(now), None);
        let first = waits.begin_for("space on the disk");
        let second = waits.begin_for("the origin's answer");
        assert_eq!(waits.reason(now).as_deref(), Some("space on the disk"));
        drop(first);
        assert_eq!(waits.reason(now).as_deref(), Some("the origin's answer"));
        drop(second);
        assert_eq!(waits.reason(now), None);
    }
}
