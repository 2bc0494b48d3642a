//! Room for the open files of all slots, made or refused before anything begins: never in the middle of a job.

use rustix::process::{Resource, getrlimit, setrlimit};

/// A slot has a connection, the class folder, an image, the journal and the tar; one is being published; and its runtime has
/// four.
const EACH_SLOT: u64 = 10;
/// Logs, the ledger, the control connections, the runtime, what the standard library opens in passing.
const BESIDE: u64 = 64;

/// The limit on open files is too low for so many downloads at once.
#[derive(Debug, thiserror::Error)]
#[error(
    "run {slots} downloads at once: they need {needed} open files, and the limit is {limit}; use --workers {}, or raise it with ulimit -n",
    slots_within(*limit)
)]
pub struct TooFewDescriptors {
    slots: usize,
    needed: u64,
    limit: u64,
}

/// Raises the soft limit as far as it must be, and says so if the hard limit does not allow it.
pub(crate) fn make_room(slots: usize) -> Result<(), TooFewDescriptors> {
    let needed = needed(slots);
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    let hard = limit.maximum.unwrap_or(u64::MAX);
    limit.current = Some(needed);
    if hard < needed || setrlimit(Resource::Nofile, limit).is_err() {
        return Err(TooFewDescriptors { slots, needed, limit: hard });
    }
    tracing::debug!(needed, "raised the limit on open files");
    Ok(())
}

fn needed(slots: usize) -> u64 {
    BESIDE + EACH_SLOT * slots as u64
}

fn slots_within(limit: u64) -> u64 {
    (limit.saturating_sub(BESIDE) / EACH_SLOT).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advice_is_the_most_that_fits() {
        let advised = usize::try_from(slots_within(256)).unwrap();
        assert!(needed(advised) <= 256 && needed(advised + 1) > 256);
        let refused = TooFewDescriptors { slots: 350, needed: needed(350), limit: 256 };
        assert!(refused.to_string().contains("use --workers 19, or raise it with ulimit -n"), "{refused}");
    }

    #[test]
    fn ten_downloads_always_find_room() {
        assert!(make_room(10).is_ok());
    }
}
