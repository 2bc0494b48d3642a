//! Room for the connections of a fleet: a worker has two, and many systems give a program only 1024 open files at first.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Raises the soft limit on open files to the hard one. Where that is refused connections wait, and nothing else.
pub(crate) fn make_room() {
    let mut limit = getrlimit(Resource::Nofile);
    let before = limit.current;
    limit.current = limit.maximum;
    match setrlimit(Resource::Nofile, limit) {
        Ok(()) => tracing::debug!(?before, now = ?limit.current, "raised the limit on open files"),
        Err(error) => tracing::info!(limit = ?before, "the limit on open files could not be raised: {error}"),
    }
}
