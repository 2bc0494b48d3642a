//! Limits of the process: open files, the size of a file, and memory.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

mod memory;

pub use memory::memory;

/// Raises the soft limit on open files to `needed`, or to the hard limit if `needed` is `None`.
/// Returns the resulting limit; `None` if there is none.
pub fn raise_open_files(needed: Option<u64>) -> Option<u64> {
    let mut limit = getrlimit(Resource::Nofile);
    let before = limit.current?;
    let goal = needed.or(limit.maximum);
    if goal.is_some_and(|goal| goal <= before) {
        return Some(before);
    }
    let hard = limit.maximum.unwrap_or(u64::MAX);
    limit.current = goal.map(|goal| goal.min(hard));
    match setrlimit(Resource::Nofile, limit) {
        Ok(()) => {
            tracing::debug!(before, now = ?limit.current, "raised the limit on open files");
            limit.current
        }
        Err(error) => {
            tracing::info!(
                limit = before,
                "the limit on open files could not be raised: {error}"
            );
            Some(before)
        }
    }
}

/// Prevents core dumps of this process, which would contain tokens and keys. The hard limit is
/// unchanged, so `prlimit --core=unlimited --pid PID` permits a dump if one is needed.
pub fn forbid_core_dumps() {
    let limit = Rlimit {
        current: Some(0),
        ..getrlimit(Resource::Core)
    };
    // Lowering a soft limit is always permitted.
    setrlimit(Resource::Core, limit).ok();
}

/// The limit on the size of a file (`ulimit -f`), in bytes; `None` if there is none.
pub fn file_size() -> Option<u64> {
    getrlimit(Resource::Fsize).current
}
