//! Room for all slots, in open files and in memory: looked at before anything begins, never in the
//! middle of a job.

use shared::{http::MAX_CONNECTIONS, limits};

/// A slot has a connection, the class folder, an image, the journal and the tar; one is being
/// published; and its runtime has four.
const EACH_SLOT: u64 = 10;
/// Logs, the ledger, the control connections, the runtime, what the standard library opens in
/// passing.
const BESIDE: u64 = 64;

/// Bytes of a slot: its HTTP read buffer, journal, runtime and TLS. 0.5 to 0.7 MiB of anonymous
/// memory were measured with 100 and 300 slots; the page cache and the buffers of sockets are the
/// system's, which takes them back before it kills.
const MEMORY_OF_A_SLOT: u64 = 1 << 20;
/// Bytes of all else; 3 MiB were measured with one slot and an idle dashboard.
const MEMORY_BESIDE: u64 = 16 << 20;

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

/// Raises the soft limit on open files as far as it must be, for all connections of the HTTP port
/// too, and says so if the hard limit is too low for the downloads.
pub(crate) fn make_room(slots: usize) -> Result<(), TooFewDescriptors> {
    let needed = needed(slots);
    match limits::raise_open_files(Some(needed + MAX_CONNECTIONS as u64)) {
        Some(limit) if limit < needed => Err(TooFewDescriptors { slots, needed, limit }),
        _ => Ok(()),
    }
}

/// How many slots the memory is enough for, at least 1 and at most so many; what is missing is
/// told. Beyond its limit the system kills the process without a word.
pub(crate) fn slots_in_memory(slots: usize) -> usize {
    let Some(limit) = limits::memory() else { return slots };
    let fitting = fitting(slots, limit);
    if fitting < slots {
        let mebibytes = limit >> 20;
        tracing::warn!(
            "only {fitting} downloads at once instead of {slots}: the limit on memory of this container or unit is \
             {mebibytes} MiB; raise it for more"
        );
    }
    fitting
}

fn fitting(slots: usize, limit: u64) -> usize {
    let fitting = limit.saturating_sub(MEMORY_BESIDE) / MEMORY_OF_A_SLOT;
    slots.min(usize::try_from(fitting).unwrap_or(usize::MAX)).max(1)
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
    fn a_limit_on_memory_allows_as_many_slots_as_fit_and_always_one() {
        assert_eq!(fitting(10, 64 << 20), 10);
        assert_eq!(fitting(100, 64 << 20), 48);
        assert_eq!(fitting(100, 1 << 20), 1);
    }

    #[test]
    fn ten_downloads_always_find_room() {
        assert!(make_room(10).is_ok());
    }
}
