//! Limits of the process on open files and memory, checked for all slots before a job starts and
//! never in the middle of it.

use shared::{http::MAX_CONNECTIONS, limits};

/// Open files of a slot: a connection, the class folder, an image, the journal and the tar; one for
/// a class that is being published; and four of its runtime.
const FILES_PER_SLOT: u64 = 10;
/// Open files besides the slots: logs, the ledger, the control connections, the runtime, and what
/// the standard library opens for a short time.
const OTHER_FILES: u64 = 64;

/// Bytes of memory for a slot: its HTTP read buffer, journal, runtime and TLS. 0.5 to 0.7 MiB of
/// anonymous memory were measured with 100 and 300 slots. The system reclaims the page cache and
/// the buffers of sockets before it kills a process, so they do not count.
const MEMORY_PER_SLOT: u64 = 1 << 20;
/// Bytes of memory besides the slots; 3 MiB were measured with one slot and an idle dashboard.
const OTHER_MEMORY: u64 = 16 << 20;

/// The limit on open files is too low for this number of concurrent downloads.
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

/// Raises the soft limit on open files as far as necessary, including all connections of the HTTP
/// port. Returns an error if the hard limit is too low for the downloads.
pub(crate) fn raise_open_files_limit(slots: usize) -> Result<(), TooFewDescriptors> {
    let needed = needed(slots);
    match limits::raise_open_files(Some(needed + MAX_CONNECTIONS as u64)) {
        Some(limit) if limit < needed => Err(TooFewDescriptors {
            slots,
            needed,
            limit,
        }),
        _ => Ok(()),
    }
}

/// The number of slots for which the memory is sufficient, at least 1 and at most `slots`; logs a
/// reduction. The system kills a process that exceeds its limit without any message.
pub(crate) fn slots_in_memory(slots: usize) -> usize {
    let Some(limit) = limits::memory() else {
        return slots;
    };
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
    let fitting = limit.saturating_sub(OTHER_MEMORY) / MEMORY_PER_SLOT;
    slots
        .min(usize::try_from(fitting).unwrap_or(usize::MAX))
        .max(1)
}

fn needed(slots: usize) -> u64 {
    OTHER_FILES + FILES_PER_SLOT * slots as u64
}

fn slots_within(limit: u64) -> u64 {
    (limit.saturating_sub(OTHER_FILES) / FILES_PER_SLOT).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advised_number_of_workers_is_the_largest_that_fits() {
        let advised = usize::try_from(slots_within(256)).unwrap();
        assert!(needed(advised) <= 256 && needed(advised + 1) > 256);
        let refused = TooFewDescriptors {
            slots: 350,
            needed: needed(350),
            limit: 256,
        };
        assert!(
            refused
                .to_string()
                .contains("use --workers 19, or raise it with ulimit -n"),
            "{refused}"
        );
    }

    #[test]
    fn a_limit_on_memory_allows_as_many_slots_as_fit_and_always_one() {
        assert_eq!(fitting(10, 64 << 20), 10);
        assert_eq!(fitting(100, 64 << 20), 48);
        assert_eq!(fitting(100, 1 << 20), 1);
    }

    #[test]
    fn the_limits_always_permit_ten_downloads() {
        assert!(raise_open_files_limit(10).is_ok());
    }
}
